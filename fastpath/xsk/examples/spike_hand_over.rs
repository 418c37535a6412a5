//! What does it cost to hand a packet to another worker? (docs/decisions/0002-hand-over.md; run it with `scripts/spike hand-over`)
//!
//! ```text
//!   worker 1 ── takes a frame, looks at its headers ──► forward ring ──► worker 2 rewrites its headers
//!      ▲                                                                    │
//!      └────────────────────────────── return ring ◄────────────────────────┘
//! ```
//!
//! * `move`: the frame itself goes to worker 2 and comes back through the return ring: what is possible within one domain.
//! * `copy by receiver`: worker 2 copies the bytes into a frame of its own domain and returns worker 1's frame at once.
//! * `copy by sender`: the return ring brings worker 1 empty frames of worker 2's domain; it copies into them, and
//!   keeps its own.
//! * `one worker`: both do their work on one thread, without a ring: what there would be without a hand-over.
//!
//! Hot: the packet's bytes have just been written by worker 1, in 256 frames that stay in its cache. Cold: frames come round
//! after 512 MiB of others, and only their headers were looked at. Prints a line of tab-separated values for each measurement.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a spike: it may stop where a program may not")]

use std::collections::VecDeque;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use caracal_xsk::{Frame, FramePool};
use crossbeam_queue::ArrayQueue;

const RING: usize = 1024;
const PACKETS: usize = 400_000;
const PINGS: usize = 20_000;
const HOT_FRAMES: u32 = 256;
const COLD_FRAMES: u32 = 262_144;

/// The end of a ring that gives.
trait Give: Send {
    /// Moves into the ring what has room, from the front.
    fn give(&mut self, frames: &mut Vec<Frame>);
}

/// The end of a ring that takes.
trait Take: Send {
    /// Moves at most `max` frames out of the ring.
    fn take(&mut self, frames: &mut Vec<Frame>, max: usize);
}

impl Give for rtrb::Producer<Frame> {
    fn give(&mut self, frames: &mut Vec<Frame>) {
        let room = frames.len().min(self.slots());
        if let Ok(chunk) = self.write_chunk_uninit(room) {
            chunk.fill_from_iter(frames.drain(..room));
        }
    }
}

impl Take for rtrb::Consumer<Frame> {
    fn take(&mut self, frames: &mut Vec<Frame>, max: usize) {
        let ready = max.min(self.slots());
        if let Ok(chunk) = self.read_chunk(ready) {
            frames.extend(chunk);
        }
    }
}

/// The same ring, publishing and reading one frame at a time.
struct OneByOne<T>(T);

impl Give for OneByOne<rtrb::Producer<Frame>> {
    fn give(&mut self, frames: &mut Vec<Frame>) {
        let room = frames.len().min(self.0.slots());
        for frame in frames.drain(..room) {
            self.0.push(frame).expect("one producer, and it saw the room");
        }
    }
}

impl Take for OneByOne<rtrb::Consumer<Frame>> {
    fn take(&mut self, frames: &mut Vec<Frame>, max: usize) {
        while frames.len() < max {
            let Ok(frame) = self.0.pop() else { break };
            frames.push(frame);
        }
    }
}

impl Give for Arc<ArrayQueue<Frame>> {
    fn give(&mut self, frames: &mut Vec<Frame>) {
        let room = frames.len().min(self.capacity() - self.len());
        for frame in frames.drain(..room) {
            self.push(frame).expect("one producer, and it saw the room");
        }
    }
}

impl Take for Arc<ArrayQueue<Frame>> {
    fn take(&mut self, frames: &mut Vec<Frame>, max: usize) {
        while frames.len() < max {
            let Some(frame) = self.pop() else { break };
            frames.push(frame);
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Move,
    CopyByReceiver,
    CopyBySender,
}

#[derive(Clone, Copy)]
struct Load {
    batch: usize,
    size: usize,
    hot: bool,
}

/// The frames of one worker's domain, in the order in which they come round.
type Stock = VecDeque<Frame>;

/// What worker 1 does with a packet before it hands it over.
fn receive(frame: &mut Frame, load: Load) {
    frame.truncate(0);
    frame.append(load.size).expect("a frame has room for a packet");
    if load.hot {
        frame.data_mut().fill(0x5a);
    }
    black_box(frame.data()[..64].iter().fold(0u8, |sum, byte| sum ^ byte));
}

/// What worker 2 does with a packet that it was handed.
fn rewrite(frame: &mut Frame) {
    black_box(frame.data()[..64].iter().fold(0u8, |sum, byte| sum ^ byte));
    frame.data_mut()[..12].fill(0xee);
}

fn copy(from: &Frame, to: &mut Frame) {
    to.truncate(0);
    to.append(from.len()).expect("frames are of one size").copy_from_slice(from.data());
}

/// The ends of the two rings that worker 1 has.
struct Ends1<'a> {
    forward: &'a mut dyn Give,
    back: &'a mut dyn Take,
}

/// The ends of the two rings that worker 2 has.
struct Ends2<'a> {
    forward: &'a mut dyn Take,
    back: &'a mut dyn Give,
}

/// Worker 1: hands over packets as fast as the rings take them, or, with `ping`, a batch at a time and waits for it.
/// Answers nanoseconds a packet (with `ping`: for half the way there and back), and the frames that worker 2 has lent.
fn worker_1(way: Way, load: Load, ping: bool, stock: &mut Stock, ends: Ends1<'_>) -> (f64, Vec<Frame>) {
    let total = if ping { PINGS * load.batch } else { PACKETS };
    let mut lent: Vec<Frame> = Vec::with_capacity(RING);
    let mut batch: Vec<Frame> = Vec::with_capacity(64);
    let mut returned: Vec<Frame> = Vec::with_capacity(RING);
    while way == Way::CopyBySender && lent.len() < RING / 2 {
        let missing = RING / 2 - lent.len();
        ends.back.take(&mut lent, missing);
    }
    let (mut sent, mut home) = (0, 0);
    let start = Instant::now();
    while home < total {
        ends.back.take(&mut returned, RING);
        home += returned.len();
        if way == Way::CopyBySender {
            lent.append(&mut returned);
        } else {
            stock.extend(returned.drain(..));
        }
        if batch.is_empty() && (!ping || home == sent) {
            for _ in 0..load.batch.min(total - sent) {
                let Some(mut frame) = stock.pop_front() else { break };
                receive(&mut frame, load);
                if way != Way::CopyBySender {
                    batch.push(frame);
                    continue;
                }
                let theirs = lent.pop();
                if let Some(mut theirs) = theirs {
                    copy(&frame, &mut theirs);
                    batch.push(theirs);
                }
                stock.push_back(frame);
            }
            sent += batch.len();
        }
        if batch.is_empty() {
            spin_loop();
        } else {
            ends.forward.give(&mut batch);
        }
    }
    let nanoseconds = start.elapsed().as_nanos() as f64;
    (if ping { nanoseconds / PINGS as f64 / 2.0 } else { nanoseconds / total as f64 }, lent)
}

/// Worker 2: rewrites what it is handed and returns frames, until told to stop, which is when all are home.
fn worker_2(way: Way, load: Load, stop: &AtomicBool, stock: &mut Stock, ends: Ends2<'_>) {
    let mut batch: Vec<Frame> = Vec::with_capacity(RING);
    let mut returned: Vec<Frame> = Vec::with_capacity(RING);
    if way == Way::CopyBySender {
        returned.extend(stock.drain(..RING / 2));
    }
    loop {
        while !returned.is_empty() {
            ends.back.give(&mut returned);
        }
        ends.forward.take(&mut batch, load.batch);
        if batch.is_empty() {
            if stop.load(Ordering::Acquire) {
                return;
            }
            spin_loop();
        }
        for mut frame in batch.drain(..) {
            if way == Way::CopyByReceiver {
                let mut ours = stock.pop_front().expect("a frame that is sent is back at once");
                copy(&frame, &mut ours);
                rewrite(&mut ours);
                stock.push_back(ours);
            } else {
                rewrite(&mut frame);
            }
            returned.push(frame);
        }
    }
}

/// A kind of ring, and how it is used.
#[derive(Clone, Copy)]
enum Kind {
    Rtrb,
    RtrbOneByOne,
    ArrayQueue,
}

/// A ring of one kind, as its two ends.
fn ring(kind: Kind) -> (Box<dyn Give>, Box<dyn Take>) {
    match kind {
        Kind::Rtrb => {
            let (producer, consumer) = rtrb::RingBuffer::new(RING);
            (Box::new(producer), Box::new(consumer))
        }
        Kind::RtrbOneByOne => {
            let (producer, consumer) = rtrb::RingBuffer::new(RING);
            (Box::new(OneByOne(producer)), Box::new(OneByOne(consumer)))
        }
        Kind::ArrayQueue => {
            let queue = Arc::new(ArrayQueue::new(RING));
            (Box::new(queue.clone()), Box::new(queue))
        }
    }
}

fn two_workers(
    kind: Kind,
    way: Way,
    load: Load,
    ping: bool,
    stocks: &mut [Stock; 2],
    cores: [usize; 2],
) -> f64 {
    let (mut forward, mut forward_end) = ring(kind);
    let (mut back_end, mut back) = ring(kind);
    let stop = AtomicBool::new(false);
    let [stock_1, stock_2] = stocks;
    let (nanoseconds, lent) = std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(cores[1]);
            let ends = Ends2 { forward: &mut *forward_end, back: &mut *back_end };
            worker_2(way, load, &stop, stock_2, ends);
        });
        pin(cores[0]);
        let ends = Ends1 { forward: &mut *forward, back: &mut *back };
        let result = worker_1(way, load, ping, stock_1, ends);
        stop.store(true, Ordering::Release);
        result
    });
    stocks[1].extend(lent);
    nanoseconds
}

fn one_worker(load: Load, stock: &mut Stock, core: usize) -> f64 {
    pin(core);
    let mut batch: Vec<Frame> = Vec::with_capacity(64);
    let start = Instant::now();
    for _ in 0..PACKETS / load.batch {
        for _ in 0..load.batch {
            let mut frame = stock.pop_front().expect("as many as were put back");
            receive(&mut frame, load);
            batch.push(frame);
        }
        for mut frame in batch.drain(..) {
            rewrite(&mut frame);
            stock.push_back(frame);
        }
    }
    start.elapsed().as_nanos() as f64 / PACKETS as f64
}

fn pin(core: usize) {
    assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }), "cannot pin to core {core}");
}

fn stock(pool: &mut FramePool) -> Stock {
    std::iter::from_fn(|| pool.take())
        .map(|mut frame| {
            frame.append(1500).expect("2048 bytes take 1500").fill(0xa5);
            frame
        })
        .collect()
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let [rounds, core_1, core_2] = arguments[..] else {
        eprintln!("usage: spike_hand_over ROUNDS CORE CORE");
        std::process::exit(2);
    };
    let ways = [
        ("move, rtrb", Kind::Rtrb, Way::Move),
        ("move, rtrb one by one", Kind::RtrbOneByOne, Way::Move),
        ("move, ArrayQueue", Kind::ArrayQueue, Way::Move),
        ("copy by receiver, rtrb", Kind::Rtrb, Way::CopyByReceiver),
        ("copy by receiver, rtrb one by one", Kind::RtrbOneByOne, Way::CopyByReceiver),
        ("copy by sender, rtrb", Kind::Rtrb, Way::CopyBySender),
    ];
    for (hot, frames) in [(true, HOT_FRAMES), (false, COLD_FRAMES)] {
        // Worker 2 lends RING / 2 frames and needs some of its own besides.
        let mut pools = [FramePool::heap(frames), FramePool::heap(frames.max(RING as u32))];
        let mut stocks = [stock(&mut pools[0]), stock(&mut pools[1])];
        let temperature = if hot { "hot" } else { "cold" };
        for _ in 0..rounds {
            for size in [64, 1500] {
                for batch in [1, 8, 32, 64] {
                    let load = Load { batch, size, hot };
                    let metric = |what: &str| format!("{what}, {size} B, {temperature}, batch {batch}");
                    let alone = one_worker(load, &mut stocks[0], core_1);
                    println!("hand-over\tone worker\t{}\tns/packet\t{alone:.1}", metric("throughput"));
                    for (subject, kind, way) in ways {
                        for (what, ping, unit) in
                            [("throughput", false, "ns/packet"), ("one way", true, "ns/batch")]
                        {
                            let value = two_workers(kind, way, load, ping, &mut stocks, [core_1, core_2]);
                            println!("hand-over\t{subject}\t{}\t{unit}\t{value:.1}", metric(what));
                        }
                    }
                }
            }
        }
        for (pool, stock) in pools.iter_mut().zip(stocks) {
            stock.into_iter().for_each(|frame| pool.put(frame));
        }
    }
}
