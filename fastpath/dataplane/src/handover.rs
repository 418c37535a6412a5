//! Packets from one worker to another.
//!
//! Workers do not share memory that sockets send from: worker B's sockets can only send frames of B's domain. So B lends
//! frames to A, and A copies a packet that B is to go on with into lent frames. The sender copies, because the bytes
//! are in its cache. Two rings for each ordered pair of workers, both single-producer single-consumer:
//!
//! ```text
//!   worker A ◄── empty frames of B ────── worker B     B tops up what it has lent, once a turn
//!            ─── the same, filled ──────►              written once a batch, with one ring of the bell
//! ```
//!
//! What A may queue at B is bounded by what B has lent; beyond that A drops, and its own frames never leave it. A frame
//! is always somebody's: B's pool's, lent (in a ring or in A's hands), or a packet of B's.
//!
//! A sleeping receiver must be woken. Invariant of [`Doorbell`]: whoever pushes and then finds `asleep` rings; whoever
//! wants to sleep says so and then looks at its rings once more. One of the two sees the other.

use std::sync::Arc;

use caracal_xsk::{Frame, FramePool};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::batch::{BATCH_MAX, Step};
use crate::packet::Packet;
use crate::port::Boxes;
use crate::segment::SEGMENT_HEADROOM;

pub use doorbell::Doorbell;

/// A packet on its way, in frames of the receiver's domain, and where the receiver goes on.
#[derive(Debug)]
struct Handed {
    packet: Packet,
    step: Step,
}

/// One worker's ends of the rings to and from one other worker.
#[derive(Debug)]
pub struct Peer {
    /// Packets of this batch, not written yet.
    outbox: Vec<Handed>,
    send: Producer<Handed>,
    receive: Consumer<Handed>,
    /// Their frames, for us to fill.
    borrowed: Consumer<Frame>,
    /// Our frames, for them to fill.
    lend: Producer<Frame>,
    lent: usize,
    lent_max: usize,
    doorbell: Arc<Doorbell>,
}

/// Connects two workers, each of which lends the other up to `frames`; `a` and `b` are how they are woken.
#[must_use]
pub fn connect(frames: usize, a: Arc<Doorbell>, b: Arc<Doorbell>) -> (Peer, Peer) {
    let (send_ab, receive_ab) = RingBuffer::new(frames);
    let (send_ba, receive_ba) = RingBuffer::new(frames);
    let (lend_ab, borrowed_ab) = RingBuffer::new(frames);
    let (lend_ba, borrowed_ba) = RingBuffer::new(frames);
    let peer = |send, receive, lend, borrowed, doorbell| Peer {
        outbox: Vec::with_capacity(2 * BATCH_MAX),
        send,
        receive,
        borrowed,
        lend,
        lent: 0,
        lent_max: frames,
        doorbell,
    };
    let to_b = peer(send_ab, receive_ba, lend_ab, borrowed_ba, b);
    let to_a = peer(send_ba, receive_ab, lend_ba, borrowed_ab, a);
    (to_b, to_a)
}

/// The receiver has lent too few frames: it is slower than this worker, or has none to spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NothingLent;

impl Peer {
    /// Copies a packet into frames of the peer's, to be sent by [`flush`](Self::flush). The packet itself stays the
    /// caller's.
    ///
    /// # Errors
    /// [`NothingLent`], and nothing has been queued.
    pub fn send(&mut self, packet: &Packet, step: Step, boxes: &mut Boxes) -> Result<(), NothingLent> {
        let segments = 1 + packet.rest.as_ref().map_or(0, |rest| rest.len());
        if self.borrowed.slots() < segments {
            return Err(NothingLent);
        }
        let Ok(mut head) = self.borrowed.pop() else { return Err(NothingLent) };
        copy(&packet.head, &mut head);
        let mut handed = Packet { offload: packet.offload, ..Packet::new(head) };
        for segment in packet.rest.iter().flat_map(|rest| rest.iter()) {
            let Ok(mut frame) = self.borrowed.pop() else { break };
            copy(segment, &mut frame);
            handed.rest.get_or_insert_with(|| boxes.pop().unwrap_or_default()).push(frame);
        }
        self.outbox.push(Handed { packet: handed, step });
        Ok(())
    }

    /// Sends what has been queued, in one write, and wakes the peer if it sleeps.
    pub fn flush(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        // A packet takes at least one lent frame, and the ring has room for as many as can be lent.
        if let Ok(chunk) = self.send.write_chunk_uninit(self.outbox.len()) {
            chunk.fill_from_iter(self.outbox.drain(..));
            self.doorbell.ring();
        }
    }

    /// Whether the peer has sent something.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        !self.receive.is_empty()
    }

    /// Takes what the peer has sent, up to `max` packets, which are in frames of our own domain. Returns how many.
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(Packet, Step)) -> usize {
        let count = self.receive.slots().min(max);
        let Ok(chunk) = self.receive.read_chunk(count) else { return 0 };
        for Handed { packet, step } in chunk {
            self.lent -= 1 + packet.rest.as_ref().map_or(0, |rest| rest.len());
            sink(packet, step);
        }
        count
    }

    /// Lends the peer as many frames as it may have, and the pool can spare: the last few stay for answers of our own.
    ///
    /// Were the reserve larger than what is left when all ports have their share, nothing would ever be lent again.
    pub fn top_up(&mut self, pool: &mut FramePool) {
        if self.lend.is_abandoned() {
            return;
        }
        let spare = pool.free().saturating_sub(pool.total() / 64);
        for _ in 0..(self.lent_max - self.lent).min(spare) {
            let Some(frame) = pool.take() else { return };
            match self.lend.push(frame) {
                Ok(()) => self.lent += 1,
                Err(rtrb::PushError::Full(frame)) => return pool.put(frame),
            }
        }
    }
}

/// A worker that ends has frames of others, and others have its own. They are part of memory that nobody sends from any
/// more, and go with it.
impl Drop for Peer {
    fn drop(&mut self) {
        let forget = |packet: Packet| {
            std::mem::forget(packet.head);
            packet.rest.into_iter().flat_map(|rest| *rest).for_each(std::mem::forget);
        };
        self.outbox.drain(..).for_each(|handed| forget(handed.packet));
        while let Ok(handed) = self.receive.pop() {
            forget(handed.packet);
        }
        while let Ok(frame) = self.borrowed.pop() {
            std::mem::forget(frame);
        }
    }
}

/// Frames of all domains have the same size, so what fits one fits another.
fn copy(from: &Frame, to: &mut Frame) {
    to.reset(SEGMENT_HEADROOM.min(from.headroom()));
    if let Some(bytes) = to.append(from.len()) {
        bytes.copy_from_slice(from.data());
    }
}

mod doorbell {
    use std::os::fd::{AsFd, BorrowedFd};

    use nix::sys::eventfd::{EfdFlags, EventFd};

    use super::sleep_state::SleepState;

    /// Wakes one worker.
    #[derive(Debug)]
    pub struct Doorbell {
        state: SleepState,
        event: EventFd,
    }

    impl Doorbell {
        /// A new one, silent.
        ///
        /// # Errors
        /// When the process has no descriptors left.
        pub fn new() -> nix::Result<Self> {
            let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
            Ok(Doorbell { state: SleepState::new(), event })
        }

        /// Wakes the worker if it sleeps or is about to. Call after what it shall see has been pushed.
        pub fn ring(&self) {
            if self.state.must_wake() {
                // Full means that it has been rung already.
                let _ = self.event.write(1);
            }
        }

        /// The worker is about to sleep: from now on it is woken. It must look at its rings once more before it does.
        pub fn falls_asleep(&self) {
            self.state.falls_asleep();
        }

        /// The worker is awake and will look at its rings anyway.
        pub fn wakes_up(&self) {
            self.state.wakes_up();
            let _ = self.event.read();
        }
    }

    impl AsFd for Doorbell {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.event.as_fd()
        }
    }
}

pub mod sleep_state;
