//! AF_XDP, at either end: works on any interface, and needs no address there.
//!
//! Sending: frames are written in user space ([`crate::frame`]) and given to the kernel by the ring of one queue. Receiving: the sink's program
//! ([`super::notes`]) gives the run's packets to the sockets of their queues, and all else to the kernel.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use caracal_xsk::live_frames::{Recorder, Taken};
use caracal_xsk::xdp::Preference;
use caracal_xsk::{BindError, Config, Domain, DomainConfig, Frame, FramePool, Socket, TxOptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Progress, Receive, Sent, Sequences, Transmit, cores, wait};
use crate::account::{Account, Came};
use crate::clock;
use crate::frame::{self, Packet};
use crate::pace::Pacer;
use crate::payload;
use crate::place::Place;
use crate::reach::Interface;
use crate::traffic::{Cursor, Part};

/// Frames moved at once.
const BATCH: usize = 64;
const RING: u32 = 4096;
const CHUNKS: u32 = 16_384;
/// The largest frame: what a chunk holds behind the room that AF_XDP keeps.
pub const FRAME_MAX: usize = 3_584;
const SCOUTS_MAX: usize = 1024;
/// How often the sink looks whether it is to stop.
const TURN: Duration = Duration::from_millis(5);

fn memory() -> anyhow::Result<(Domain, FramePool)> {
    let config =
        DomainConfig { chunks: CHUNKS, chunk_size: 4096, multi_buffer: false, ..DomainConfig::default() };
    Domain::new(config).context("cannot make memory for packets")
}

fn rings() -> Config {
    Config { rx: RING, tx: RING, fill: RING, completion: RING, tx_budget: RING, ..Config::default() }
}

/// One queue's sender.
pub struct XskSender {
    _domain: Domain,
    pool: FramePool,
    socket: Option<Socket>,
    core: Option<usize>,
    part: Part,
}

impl XskSender {
    /// Binds to a queue of an interface.
    ///
    /// # Errors
    /// Not root, or somebody has the queue.
    pub fn open(
        place: &Place,
        interface: &Interface,
        queue: u32,
        core: Option<usize>,
        part: Part,
    ) -> anyhow::Result<Self> {
        place.within(|| {
            let (domain, pool) = memory()?;
            let socket = Socket::bind(&domain, interface.index, queue, rings())
                .with_context(|| format!("cannot send by AF_XDP out of {}", interface.name))?;
            Ok(XskSender { _domain: domain, pool, socket: Some(socket), core, part })
        })
    }

    /// Gives frames to the kernel. Returns how many it took of `count`.
    fn transmit(
        &mut self,
        cursor: &mut Cursor<'_>,
        count: usize,
        run: u32,
        scout: bool,
        bytes: &mut u64,
    ) -> usize {
        let Some(socket) = &mut self.socket else { return 0 };
        let mut queued = 0;
        while queued < count {
            let Some(mut frame) = self.pool.take() else { break };
            let Some((flow, template, length)) = cursor.next() else {
                self.pool.put(frame);
                break;
            };
            frame.reset(0);
            let packet = Packet { template, length, run, now_ns: clock::now_ns(), scout };
            let written = frame.append(length).is_some_and(|room| {
                room.fill(0);
                frame::write(packet, flow, room)
            });
            let refused: Option<Frame> = match written {
                true => socket.transmit(frame, TxOptions::default()).err(),
                false => Some(frame),
            };
            if let Some(frame) = refused {
                self.pool.put(frame);
                break;
            }
            *bytes += length as u64;
            queued += 1;
        }
        socket.flush();
        socket.reclaim(&mut self.pool);
        queued
    }
}

impl Transmit for XskSender {
    fn scout(&mut self, run: u32) -> anyhow::Result<()> {
        let mut part = self.part.clone();
        let count = part.deck.len().min(SCOUTS_MAX);
        let mut cursor = part.cursor();
        let mut left = count;
        while left > 0 {
            let sent = self.transmit(&mut cursor, left.min(BATCH), run, true, &mut 0);
            if sent == 0 {
                break;
            }
            left -= sent;
        }
        Ok(())
    }

    fn send(
        &mut self,
        run: u32,
        mut pacer: Pacer,
        progress: &AtomicU64,
        stop: &AtomicBool,
    ) -> anyhow::Result<Sent> {
        cores::pin(self.core)?;
        let mut part = self.part.clone();
        let mut churn = part.churn();
        let mut bytes = 0;
        let start = Instant::now();
        let mut owed = 0;
        let mut packets = 0u64;
        while !stop.load(Ordering::Relaxed) {
            let elapsed = start.elapsed();
            churn.renew(elapsed, &mut part.flows, |_, _| {});
            if owed == 0 {
                match pacer.take(elapsed, BATCH as u64) {
                    Some(due) => owed = due as usize,
                    None => break,
                }
            }
            if owed == 0 {
                wait(pacer.next().saturating_sub(start.elapsed()));
                continue;
            }
            let mut cursor = part.cursor();
            let sent = self.transmit(&mut cursor, owed, run, false, &mut bytes);
            let at = cursor.at;
            part.at = at;
            // Tokens that the ring had no room for are spent later, or missed with the others.
            owed -= sent;
            packets += sent as u64;
            progress.fetch_add(sent as u64, Ordering::Relaxed);
            if pacer.is_over(start.elapsed()) {
                break;
            }
        }
        let elapsed = start.elapsed();
        // What is in the ring goes out; its frames come back.
        let limit = Instant::now() + Duration::from_secs(1);
        while let Some(socket) = &mut self.socket
            && socket.transmitting() > 0
            && Instant::now() < limit
        {
            socket.flush();
            socket.reclaim(&mut self.pool);
        }
        let mut sent = Sent { bytes, elapsed, missed: pacer.missed() + owed as u64, ..Sent::default() };
        Sequences(&part.flows).count(&mut sent);
        debug_assert_eq!(sent.packets() + sent.unmarked, packets);
        Ok(sent)
    }
}

impl Drop for XskSender {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.close(&mut self.pool);
        }
    }
}

/// All queues of the sink's interface.
pub struct XskSink {
    _domain: Domain,
    recorder: Recorder,
    pool: FramePool,
    sockets: Vec<Socket>,
    /// Chunks that each socket may have to receive into.
    chunks: usize,
}

impl XskSink {
    /// Attaches the program and binds to every queue.
    ///
    /// # Errors
    /// Not root, or another program or socket is there.
    pub fn open(place: &Place, interface: &Interface) -> anyhow::Result<Self> {
        place.within(|| {
            let (domain, mut pool) = memory()?;
            let mut recorder =
                Recorder::attach(interface.index, Preference::NativeFirst, Taken::BySockets, 1, 1)?;
            let mut sockets = Vec::new();
            let chunks = CHUNKS as usize / interface.queues.max(1) as usize;
            for queue in 0..interface.queues.max(1) {
                let mut socket = match Socket::bind(&domain, interface.index, queue, rings()) {
                    Ok(socket) => socket,
                    // The kernel counts queues that are not in use, too.
                    Err(BindError::NoQueue { .. }) if queue > 0 => break,
                    Err(error) => {
                        return Err(error)
                            .with_context(|| format!("cannot receive by AF_XDP from {}", interface.name));
                    }
                };
                recorder.set_socket(queue, &socket)?;
                socket.refill(&mut pool, chunks);
                sockets.push(socket);
            }
            Ok(XskSink { _domain: domain, recorder, pool, sockets, chunks })
        })
    }
}

impl Receive for XskSink {
    fn receive(
        &mut self,
        run: u32,
        account: &mut Account,
        progress: &Progress,
        close: &AtomicBool,
    ) -> anyhow::Result<()> {
        self.recorder.set_run(run);
        let mut frames: Vec<Frame> = Vec::with_capacity(BATCH);
        loop {
            let closing = close.load(Ordering::Relaxed);
            let (mut received, mut came) = (0, 0);
            for socket in &mut self.sockets {
                came += socket.receive(BATCH, |frame, _| frames.push(frame));
                let now = clock::now_ns();
                for frame in frames.drain(..) {
                    let length = frame.len();
                    if let Some(mark) = payload::mark_of(frame.data()) {
                        match account.count(mark, now, length) {
                            Came::Counted => received += 1,
                            Came::Scout => progress.scouted.store(true, Ordering::Relaxed),
                            Came::Uncounted => {}
                        }
                    }
                    self.pool.put(frame);
                }
                socket.refill(&mut self.pool, self.chunks);
            }
            progress.received.fetch_add(received, Ordering::Relaxed);
            if came > 0 {
                continue;
            }
            if closing {
                self.recorder.set_run(0);
                return Ok(());
            }
            let mut ready: Vec<PollFd<'_>> =
                self.sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            // Interrupted or not, it is looked again.
            let _ = poll(&mut ready, PollTimeout::try_from(TURN).unwrap_or(PollTimeout::ZERO));
        }
    }

    fn overflowed(&self) -> Option<u64> {
        let lost = |socket: &Socket| {
            let statistics = socket.statistics().ok()?;
            Some(statistics.rx_ring_full + statistics.rx_dropped + statistics.fill_ring_empty)
        };
        self.sockets.iter().map(lost).sum()
    }
}

impl Drop for XskSink {
    fn drop(&mut self) {
        for socket in self.sockets.drain(..) {
            socket.close(&mut self.pool);
        }
    }
}
