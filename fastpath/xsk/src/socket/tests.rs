//! A socket whose kernel is a model in this file: the rings are in shared memory that both map, and the model kernel moves chunks
//! through them as the real one does. The real one is in tests/sockets.rs.

use super::*;
use crate::ring::kernel::{ConsumerRing, KernelRing, ProducerRing};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::os::fd::FromRawFd;

const RING: u32 = 8;
const CHUNKS: u32 = 40;

/// The other side of a socket's rings, and what it has taken from them and not given back.
struct Kernel {
    fill: ConsumerRing<u64>,
    rx: ProducerRing<libc::xdp_desc>,
    tx: ConsumerRing<libc::xdp_desc>,
    completion: ProducerRing<u64>,
    /// Chunks taken from the fill ring.
    empty: VecDeque<u64>,
    /// Chunks taken from the TX ring.
    sending: VecDeque<u64>,
}

impl Kernel {
    /// Receives a packet of so many frames, if there are chunks and room; each starts 256 bytes into its chunk.
    fn deliver(&mut self, frames: usize) {
        while let Some(address) = self.fill.pop() {
            self.empty.push_back(address);
        }
        self.fill.release();
        if self.empty.len() < frames || self.rx.free() < frames {
            return;
        }
        for number in 0..frames {
            let Some(address) = self.empty.pop_front() else { return };
            let options = if number + 1 < frames { libc::XDP_PKT_CONTD } else { 0 };
            self.rx.push(libc::xdp_desc { addr: address + 256, len: 60, options });
        }
        self.rx.commit();
        self.rx.publish();
    }

    /// Sends what is in the TX ring.
    fn send(&mut self) -> Vec<libc::xdp_desc> {
        let mut sent = Vec::new();
        while let Some(desc) = self.tx.pop() {
            self.sending.push_back(desc.addr & !2047);
            sent.push(desc);
        }
        self.tx.release();
        sent
    }

    /// Says of some chunks that they are sent.
    fn complete(&mut self, count: usize) {
        for _ in 0..count.min(self.completion.free()) {
            let Some(address) = self.sending.pop_front() else { break };
            self.completion.push(address);
        }
        self.completion.commit();
        self.completion.publish();
    }
}

/// Memory for a ring, mapped twice.
fn ring<T: Copy>() -> (KernelRing<T>, KernelRing<T>) {
    // SAFETY: a C string; the descriptor is nobody else's.
    let memory = unsafe {
        let fd = libc::memfd_create(c"ring".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0 && libc::ftruncate(fd, 4096) == 0);
        OwnedFd::from_raw_fd(fd)
    };
    let offsets = libc::xdp_ring_offset { producer: 0, consumer: 64, desc: 192, flags: 128 };
    let map = || KernelRing::map(memory.as_fd(), RING, &Placement { page_offset: 0, offsets }).unwrap();
    (map(), map())
}

fn world() -> (Socket, FramePool, Kernel) {
    let memory = Arc::new(Memory::heap(CHUNKS, 2048));
    let pool = FramePool::full(memory.clone());
    let (rx, kernel_rx) = ring();
    let (tx, kernel_tx) = ring();
    let (fill, kernel_fill) = ring();
    let (completion, kernel_completion) = ring();
    // SAFETY: no pointers.
    let fd = sys::owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }).unwrap();
    let socket = Socket {
        rx: ConsumerRing::new(rx),
        tx: ProducerRing::new(tx),
        fill: ProducerRing::new(fill),
        completion: ConsumerRing::new(completion),
        ledger: Ledger::new(CHUNKS),
        receiving: 0,
        always_kick: false,
        kicks: 0,
        foreign: 0,
        chunk_shift: 11,
        memory,
        fd: fd.into(),
        multi_buffer: true,
        zero_copy: false,
        checksum_offload: true,
        ifindex: 0,
        queue: 0,
    };
    let kernel = Kernel {
        fill: ConsumerRing::new(kernel_fill),
        rx: ProducerRing::new(kernel_rx),
        tx: ConsumerRing::new(kernel_tx),
        completion: ProducerRing::new(kernel_completion),
        empty: VecDeque::new(),
        sending: VecDeque::new(),
    };
    (socket, pool, kernel)
}

#[derive(Clone, Debug)]
enum Step {
    Refill(usize),
    Deliver(usize),
    Receive(usize),
    /// Sends a received frame, or a new one.
    Transmit {
        received: bool,
        more: bool,
    },
    Flush,
    Send,
    Complete(usize),
    Reclaim,
    PutBack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..12_usize).prop_map(Step::Refill),
        (1..4_usize).prop_map(Step::Deliver),
        (0..12_usize).prop_map(Step::Receive),
        (any::<bool>(), any::<bool>()).prop_map(|(received, more)| Step::Transmit { received, more }),
        Just(Step::Flush),
        Just(Step::Send),
        (0..12_usize).prop_map(Step::Complete),
        Just(Step::Reclaim),
        Just(Step::PutBack),
    ]
}

proptest! {
    #[test]
    fn frames_are_conserved_across_every_ring_walk(steps in prop::collection::vec(step(), 1..300)) {
        let (mut socket, mut pool, mut kernel) = world();
        let mut frames: Vec<Frame> = Vec::new();
        for step in steps {
            match step {
                Step::Refill(target) => {
                    socket.refill(&mut pool, target);
                }
                Step::Deliver(count) => kernel.deliver(count),
                Step::Receive(max) => {
                    let before = frames.len();
                    let count = socket.receive(max, |frame, _| frames.push(frame));
                    prop_assert_eq!(frames.len() - before, count);
                }
                Step::Transmit { received, more } => {
                    let frame = if received { frames.pop() } else { pool.take() };
                    if let Some(mut frame) = frame {
                        frame.append(1);
                        if let Err(frame) = socket.transmit(frame, TxOptions { more, checksum: None }) {
                            frames.push(frame);
                        }
                    }
                }
                Step::Flush => {
                    socket.flush();
                }
                Step::Send => {
                    kernel.send();
                }
                Step::Complete(count) => kernel.complete(count),
                Step::Reclaim => {
                    socket.reclaim(&mut pool);
                }
                Step::PutBack => frames.drain(..).for_each(|frame| pool.put(frame)),
            }
            let held = socket.receiving() + socket.transmitting();
            prop_assert_eq!(pool.free() + frames.len() + held, CHUNKS as usize);
        }
        frames.drain(..).for_each(|frame| pool.put(frame));
        socket.close(&mut pool);
        prop_assert_eq!(pool.free(), CHUNKS as usize);
        let mut indices: Vec<_> = std::iter::from_fn(|| pool.take().map(Frame::into_index)).collect();
        indices.sort_unstable();
        prop_assert_eq!(indices, (0..CHUNKS).collect::<Vec<_>>(), "each chunk came home once");
    }
}

#[test]
fn a_packet_is_never_split_by_the_limit_of_a_receive() {
    let (mut socket, mut pool, mut kernel) = world();
    socket.refill(&mut pool, 8);
    kernel.deliver(3);
    kernel.deliver(1);
    let mut seen = Vec::new();
    let mut frames = Vec::new();
    let mut sink = |frame: Frame, more| {
        seen.push((frame.len(), frame.headroom(), more));
        frames.push(frame);
    };
    assert_eq!(socket.receive(0, &mut sink), 0);
    assert_eq!(socket.receive(1, &mut sink), 3);
    assert_eq!(socket.receive(1, &mut sink), 1);
    let headroom = 256 - RESERVED_HEADROOM;
    assert_eq!(seen, [true, true, false, false].map(|more| (60, headroom, more)));
    frames.into_iter().for_each(|frame| pool.put(frame));
    socket.close(&mut pool);
}

#[test]
fn frames_of_a_packet_are_shown_to_the_kernel_only_when_it_is_whole() {
    let (mut socket, mut pool, mut kernel) = world();
    for more in [true, true, false] {
        assert!(kernel.send().is_empty());
        let mut frame = pool.take().unwrap();
        frame.append(60).unwrap();
        socket.transmit(frame, TxOptions { more, checksum: None }).unwrap();
        socket.flush();
    }
    let options: Vec<_> = kernel.send().iter().map(|desc| desc.options).collect();
    assert_eq!(options, [libc::XDP_PKT_CONTD, libc::XDP_PKT_CONTD, 0]);
    socket.close(&mut pool);
    assert_eq!(pool.free(), CHUNKS as usize);
}

#[test]
fn descriptors_that_the_kernel_has_no_right_to_are_refused() {
    let (mut socket, mut pool, mut kernel) = world();
    socket.refill(&mut pool, 1);
    kernel.deliver(0);
    let ours = kernel.empty[0];
    // A chunk that it was not given, one that does not exist, an address beyond all sense, and its own one twice.
    for addr in [ours ^ 2048, u64::from(CHUNKS) << 11, u64::MAX, ours + 256, ours + 256] {
        kernel.rx.push(libc::xdp_desc { addr, len: 60, options: 0 });
        kernel.completion.push(addr);
    }
    kernel.rx.commit();
    kernel.rx.publish();
    let mut frames = Vec::new();
    assert_eq!(socket.receive(64, |frame, _| frames.push(frame)), 1);
    assert_eq!(socket.foreign, 4);
    kernel.completion.commit();
    kernel.completion.publish();
    assert_eq!(socket.reclaim(&mut pool), 0);
    assert_eq!(socket.foreign, 9);
    frames.into_iter().for_each(|frame| pool.put(frame));
    assert_eq!(pool.free(), CHUNKS as usize);
}

#[test]
fn a_descriptor_that_leaves_its_chunk_makes_an_empty_frame() {
    let (mut socket, mut pool, mut kernel) = world();
    socket.refill(&mut pool, 2);
    kernel.deliver(0);
    for (start, len) in [(256, 2048), (0, 60)] {
        let addr = kernel.empty.pop_front().unwrap() + start;
        kernel.rx.push(libc::xdp_desc { addr, len, options: 0 });
    }
    kernel.rx.commit();
    kernel.rx.publish();
    let mut frames = Vec::new();
    assert_eq!(socket.receive(64, |frame, _| frames.push(frame)), 2);
    assert!(frames.iter().all(Frame::is_empty));
    frames.into_iter().for_each(|frame| pool.put(frame));
    socket.close(&mut pool);
}

#[test]
fn a_half_made_checksum_is_told_in_the_metadata_before_the_data() {
    let (mut socket, mut pool, mut kernel) = world();
    let mut frame = pool.take().unwrap();
    frame.reset(100);
    frame.append(60).unwrap();
    let start = frame.data().as_ptr();
    let checksum = Some(Checksum { start: 34, offset: 6 });
    socket.transmit(frame, TxOptions { more: false, checksum }).unwrap();
    socket.flush();
    let desc = kernel.send()[0];
    assert_eq!((desc.options, desc.addr % 2048, desc.len), (libc::XDP_TX_METADATA, 124, 60));
    // SAFETY: the model kernel has the chunk; the 24 bytes before the data are in it.
    let metadata = unsafe { std::slice::from_raw_parts(start.sub(24), 24) };
    let mut expected = [0; 24];
    expected[0] = 2;
    expected[8] = 34;
    expected[10] = 6;
    assert_eq!(metadata, if cfg!(target_endian = "little") { &expected[..] } else { metadata });
    socket.close(&mut pool);
}

#[test]
fn no_more_chunks_are_given_than_wanted_than_there_are_or_than_the_ring_holds() {
    let (mut socket, mut pool, mut kernel) = world();
    assert_eq!(socket.refill(&mut pool, 3), 3);
    assert_eq!(socket.refill(&mut pool, 3), 0);
    assert_eq!(socket.refill(&mut pool, 1000), RING as usize - 3);
    kernel.deliver(0);
    assert_eq!(kernel.empty.len(), RING as usize);
    let rest: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    assert_eq!(socket.refill(&mut pool, 1000), 0);
    rest.into_iter().for_each(|frame| pool.put(frame));
    assert_eq!(socket.refill(&mut pool, 1000), RING as usize);
    assert_eq!(socket.close(&mut pool), 2 * RING as usize);
    assert_eq!(pool.free(), CHUNKS as usize);
}

#[test]
fn an_empty_frame_is_not_sent() {
    let (mut socket, mut pool, _kernel) = world();
    let frame = pool.take().unwrap();
    let frame = socket.transmit(frame, TxOptions::default()).unwrap_err();
    pool.put(frame);
}
