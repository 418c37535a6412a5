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

fn with_room(socket: &mut Socket) -> Option<&mut Socket> {
    (socket.transmit_room() > 0).then_some(socket)
}

/// A queue to send by.
pub struct Port {
    _domain: Domain,
    pool: FramePool,
    /// There until it is dropped.
    socket: Option<Socket>,
}

impl Port {
    /// Binds to a queue of an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// Not root, or somebody has the queue.
    pub fn open(interface: &Interface, queue: u32) -> anyhow::Result<Self> {
        let (domain, pool) = memory()?;
        let socket = Socket::bind(&domain, interface.index, queue, rings())
            .with_context(|| format!("cannot send by AF_XDP out of {}", interface.name))?;
        Ok(Port { _domain: domain, pool, socket: Some(socket) })
    }

    /// Queues a frame of so many bytes, which `write` writes. False: there is no room now, or it was not written.
    #[inline]
    fn queue(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> bool) -> bool {
        // First, so that what was written is never given back.
        let Some(socket) = self.socket.as_mut().and_then(with_room) else { return false };
        let Some(mut frame) = self.pool.take() else { return false };
        frame.reset(0);
        let refused: Option<Frame> = match frame.append(length).is_some_and(write) {
            true => socket.transmit(frame, TxOptions::default()).err(),
            false => Some(frame),
        };
        let is_queued = refused.is_none();
        if let Some(frame) = refused {
            self.pool.put(frame);
        }
        is_queued
    }

    /// Queues a copy of a frame. False: there is no room, even after what is queued was sent.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let copy = |port: &mut Self| {
            port.queue(bytes.len(), |room| {
                room.copy_from_slice(bytes);
                true
            })
        };
        copy(self) || {
            self.flush();
            copy(self)
        }
    }

    /// Sends what is queued, and takes back what was sent.
    pub fn flush(&mut self) {
        if let Some(socket) = &mut self.socket {
            socket.flush();
            socket.reclaim(&mut self.pool);
        }
    }

    /// Waits until everything is sent, but not for ever.
    pub fn finish(&mut self) {
        let limit = Instant::now() + Duration::from_secs(1);
        while self.socket.as_ref().is_some_and(|socket| socket.transmitting() > 0) && Instant::now() < limit {
            self.flush();
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.close(&mut self.pool);
        }
    }
}

/// TCP of one port at an interface: its segments come to us, all else to the kernel.
pub struct TcpPort {
    port: Port,
    _program: Recorder,
}

impl TcpPort {
    /// Takes the port at an interface of the calling thread's network namespace, until it is dropped. Of several queues the first.
    ///
    /// # Errors
    /// Not root, or another program or socket is there.
    pub fn take(interface: &Interface, number: u16) -> anyhow::Result<Self> {
        let mut program =
            Recorder::attach(interface.index, Preference::NativeFirst, Taken::Tcp(number), 1, 1)?;
        let mut port = Port::open(interface, 0)?;
        if let Some(socket) = &mut port.socket {
            program.set_socket(0, socket)?;
            socket.refill(&mut port.pool, RING as usize);
        }
        Ok(TcpPort { port, _program: program })
    }

    /// Sends a copy of a frame, with the next flush. False: there is no room.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.port.send(bytes)
    }

    /// Sends what is queued; hands over what came. Returns how many that were.
    pub fn turn(&mut self, mut came: impl FnMut(&[u8])) -> usize {
        self.port.flush();
        let Port { socket: Some(socket), pool, .. } = &mut self.port else { return 0 };
        let count = socket.receive(BATCH, |frame, _| {
            came(frame.data());
            pool.put(frame);
        });
        socket.refill(pool, RING as usize);
        count
    }
}

/// One queue's sender.
pub struct XskSender {
    port: Port,
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
        let port = place.within(|| Port::open(interface, queue))?;
        Ok(XskSender { port, core, part })
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
        let mut queued = 0;
        while queued < count {
            let at = cursor.at;
            let Some((flow, template, length)) = cursor.next() else { break };
            let packet = Packet { template, length, run, now_ns: clock::now_ns(), scout };
            let is_queued = self.port.queue(length, |room| {
                room.fill(0);
                frame::write(packet, flow, room)
            });
            if !is_queued {
                cursor.at = at;
                break;
            }
            *bytes += length as u64;
            queued += 1;
        }
        self.port.flush();
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
        self.port.finish();
        let mut sent = Sent { bytes, elapsed, missed: pacer.missed() + owed as u64, ..Sent::default() };
        Sequences(&part.flows).count(&mut sent);
        debug_assert_eq!(sent.packets() + sent.unmarked, packets);
        Ok(sent)
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
