//! Packets from one worker to another.
//!
//! Two rings for each ordered pair of workers, both single-producer single-consumer:
//!
//! ```text
//!   worker A ── packets (A's frames) ──► worker B      B copies them into frames of its own domain …
//!            ◄── A's frames, emptied ───               … and gives A's frames back
//! ```
//!
//! B's sockets can only send B's frames, so between domains a packet is copied once, by the receiver, whose ports are
//! going to read it. Both rings have room for every frame of A's domain, so giving back never fails.
//!
//! A sleeping receiver must be woken. Invariant of [`Doorbell`]: whoever pushes and then finds `asleep` rings; whoever
//! wants to sleep says so and then looks at its rings once more. One of the two sees the other.

use std::sync::Arc;

use caracal_xsk::{Frame, FramePool};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::batch::Step;
use crate::packet::Packet;
use crate::port::{Boxes, HEADROOM};

pub use doorbell::Doorbell;

/// A packet on its way, and where it goes on.
#[derive(Debug)]
pub struct Handed {
    /// The packet, in frames of the sender's domain.
    pub packet: Packet,
    /// Where the receiver goes on.
    pub step: Step,
}

/// One worker's ends of the rings to and from one other worker.
#[derive(Debug)]
pub struct Peer {
    send: Producer<Handed>,
    receive: Consumer<Handed>,
    give_back: Producer<Frame>,
    take_back: Consumer<Frame>,
    doorbell: Arc<Doorbell>,
    rung: bool,
}

/// Connects two workers. `frames` is how many the larger domain has, `a` and `b` are how they are woken.
#[must_use]
pub fn connect(frames: usize, a: Arc<Doorbell>, b: Arc<Doorbell>) -> (Peer, Peer) {
    let (send_ab, receive_ab) = RingBuffer::new(frames);
    let (send_ba, receive_ba) = RingBuffer::new(frames);
    let (give_ab, take_ab) = RingBuffer::new(frames);
    let (give_ba, take_ba) = RingBuffer::new(frames);
    let to_b = Peer {
        send: send_ab,
        receive: receive_ba,
        give_back: give_ab,
        take_back: take_ba,
        doorbell: b,
        rung: false,
    };
    let to_a = Peer {
        send: send_ba,
        receive: receive_ab,
        give_back: give_ba,
        take_back: take_ab,
        doorbell: a,
        rung: false,
    };
    (to_b, to_a)
}

impl Peer {
    /// Hands a packet over. [`ring`](Self::ring) once when the batch is done.
    ///
    /// # Errors
    /// Gives it back when the ring is full.
    pub fn send(&mut self, handed: Handed) -> Result<(), Packet> {
        self.send.push(handed).map_err(|rtrb::PushError::Full(handed)| handed.packet)?;
        self.rung = true;
        Ok(())
    }

    /// Wakes the peer if something has been sent since and it sleeps.
    pub fn ring(&mut self) {
        if std::mem::take(&mut self.rung) {
            self.doorbell.ring();
        }
    }

    /// Whether the peer has sent something.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        !self.receive.is_empty()
    }

    /// Takes the next packet over into frames of `pool`. `None`: nothing there; an error: no frame was free and the
    /// packet is lost.
    pub fn receive(
        &mut self,
        pool: &mut FramePool,
        boxes: &mut Boxes,
    ) -> Option<Result<(Packet, Step), NoFrames>> {
        let Handed { packet: Packet { head, rest, offload }, step } = self.receive.pop().ok()?;
        let mut copy = copy_frame(&head, pool).map(|head| Packet { offload, ..Packet::new(head) });
        give_back(head, &mut self.give_back);
        if let Some(mut rest) = rest {
            for frame in rest.drain(..) {
                copy = copy.and_then(|packet| extend(packet, &frame, pool, boxes));
                give_back(frame, &mut self.give_back);
            }
            boxes.push(rest);
        }
        Some(copy.map(|packet| (packet, step)).ok_or(NoFrames))
    }

    /// Takes back what the peer has emptied.
    pub fn take_back(&mut self, pool: &mut FramePool) {
        while let Ok(frame) = self.take_back.pop() {
            pool.put(frame);
        }
    }
}

/// There was no free frame to copy a packet into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoFrames;

fn copy_frame(frame: &Frame, pool: &mut FramePool) -> Option<Frame> {
    let mut copy = pool.take()?;
    copy.reset(HEADROOM.min(frame.headroom()));
    match copy.append(frame.len()) {
        Some(bytes) => {
            bytes.copy_from_slice(frame.data());
            Some(copy)
        }
        None => {
            pool.put(copy);
            None
        }
    }
}

/// The packet with a copy of one more segment; gives up what there is when there is no frame for it.
fn extend(mut packet: Packet, frame: &Frame, pool: &mut FramePool, boxes: &mut Boxes) -> Option<Packet> {
    match copy_frame(frame, pool) {
        Some(copy) => {
            packet.rest.get_or_insert_with(|| boxes.pop().unwrap_or_default()).push(copy);
            Some(packet)
        }
        None => {
            packet.release(pool, boxes);
            None
        }
    }
}

/// The ring has room for every frame there is, so this does not fail; were it to, the frame would count as lost.
fn give_back(frame: Frame, ring: &mut Producer<Frame>) {
    drop(ring.push(frame));
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

/// The part of a doorbell that threads agree by; checked by loom.
pub mod sleep_state {
    #[cfg(loom)]
    use loom::sync::atomic::{AtomicBool, Ordering, fence};
    #[cfg(not(loom))]
    use std::sync::atomic::{AtomicBool, Ordering, fence};

    /// Whether somebody sleeps, or is about to.
    #[derive(Debug)]
    pub struct SleepState {
        asleep: AtomicBool,
    }

    impl Default for SleepState {
        fn default() -> Self {
            Self::new()
        }
    }

    impl SleepState {
        /// Awake.
        #[must_use]
        pub fn new() -> Self {
            SleepState { asleep: AtomicBool::new(false) }
        }

        /// Announces sleep. What is looked at after this is at least as new as what anybody who did not see the
        /// announcement had pushed.
        pub fn falls_asleep(&self) {
            self.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }

        /// Takes the announcement back.
        pub fn wakes_up(&self) {
            self.asleep.store(false, Ordering::Relaxed);
        }

        /// Whether the sleeper must be woken for what has just been pushed. Only one of several callers is told so.
        pub fn must_wake(&self) -> bool {
            fence(Ordering::SeqCst);
            self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
        }
    }
}
