//! A [`Socket`]: the four rings of one queue of one device. See [`crate::ring`] for what the rings are for.
//!
//! Everything here is for one thread at a time (`&mut self`), and nothing allocates after [`Socket::bind`].

mod config;

pub use config::{BindError, Config, Mode};

use crate::domain::{self, Domain, MultiBuffer};
use crate::frame::{DomainId, Frame, RESERVED_HEADROOM};
use crate::ledger::Ledger;
use crate::memory::Memory;
use crate::pool::FramePool;
use crate::ring::kernel::{ConsumerRing, KernelRing, Placement, ProducerRing};
use crate::sys;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Where a checksum is to be completed by whoever sends the packet out, counted from the start of the packet. The field at `start + offset`
/// holds the folded pseudo-header sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// From here to the end of the packet is summed.
    pub start: u16,
    /// Where the sum goes, counted from `start`.
    pub offset: u16,
}

/// How to transmit a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TxOptions {
    /// More frames of the same packet follow; only if [`Domain::multi_buffer`] is on.
    pub more: bool,
    /// Half-made checksum; on a packet's first frame only, and only if [`Domain::checksum_offload`].
    pub checksum: Option<Checksum>,
}

/// The kernel's counters of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Dropped for other reasons than a full ring.
    pub rx_dropped: u64,
    /// Descriptors in the fill ring that the kernel refused.
    pub rx_invalid_descriptors: u64,
    /// Descriptors in the TX ring that the kernel refused; their packets were not sent.
    pub tx_invalid_descriptors: u64,
    /// Dropped because we had not read the RX ring.
    pub rx_ring_full: u64,
    /// Dropped because the fill ring was empty.
    pub fill_ring_empty: u64,
    /// How often the kernel found the TX ring empty.
    pub tx_ring_empty: u64,
    /// Descriptors from the kernel that named a chunk it did not have. Always 0 with a sound kernel.
    pub foreign_descriptors: u64,
}

/// One queue of one device: what it receives comes in frames, and frames go out.
///
/// End it with [`close`](Self::close) or [`into_frames`](Self::into_frames): a socket that is merely dropped takes its frames with it.
pub struct Socket {
    // --- every batch ---
    rx: ConsumerRing<libc::xdp_desc>,
    tx: ProducerRing<libc::xdp_desc>,
    fill: ProducerRing<u64>,
    completion: ConsumerRing<u64>,
    ledger: Ledger,
    /// Chunks in the fill ring, in the kernel for receiving, or in the RX ring.
    receiving: u32,
    always_kick: bool,
    kicks: u64,
    foreign: u64,
    chunk_shift: u32,
    memory: Arc<Memory>,
    // --- now and then ---
    /// Shared only for the moment in which a [`StatisticsHandle`] reads.
    fd: Arc<OwnedFd>,
    zero_copy: bool,
    checksum_offload: bool,
    multi_buffer: bool,
    ifindex: u32,
    queue: u32,
}

/// Reads a socket's counters from another thread than the socket's, for as long as the socket is there. It does not keep the socket
/// open: a closed socket's queue and memory are free at once.
#[derive(Clone, Debug)]
pub struct StatisticsHandle {
    fd: Weak<OwnedFd>,
}

impl StatisticsHandle {
    /// The kernel's counters; none when the socket has been closed. [`Statistics::foreign_descriptors`] is the socket's own and 0 here.
    pub fn read(&self) -> Option<io::Result<Statistics>> {
        let fd = self.fd.upgrade()?;
        Some(statistics(fd.as_fd(), 0))
    }
}

fn statistics(fd: BorrowedFd<'_>, foreign_descriptors: u64) -> io::Result<Statistics> {
    let kernel = sys::statistics(fd)?;
    Ok(Statistics {
        rx_dropped: kernel.rx_dropped,
        rx_invalid_descriptors: kernel.rx_invalid_descs,
        tx_invalid_descriptors: kernel.tx_invalid_descs,
        rx_ring_full: kernel.rx_ring_full,
        fill_ring_empty: kernel.rx_fill_ring_empty_descs,
        tx_ring_empty: kernel.tx_ring_empty_descs,
        foreign_descriptors,
    })
}

/// `sendto` calls of one [`Socket::flush`], at most. One is enough unless the kernel's budget is smaller than what waits.
const KICKS_MAX: usize = 64;

/// How often, and after what pause, to try again for a queue that is taken.
const BUSY_RETRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

impl Socket {
    /// Binds to a queue of a device of the calling thread's network namespace. The socket stays in that namespace. Takes
    /// milliseconds, and a fifth of a second to find that the queue is taken: not for a worker.
    pub fn bind(domain: &Domain, ifindex: u32, queue: u32, config: Config) -> Result<Self, BindError> {
        let rings =
            [("RX", config.rx), ("TX", config.tx), ("fill", config.fill), ("completion", config.completion)];
        for (ring, entries) in rings {
            if !entries.is_power_of_two() || entries < 2 {
                return Err(BindError::RingSize { ring, entries });
            }
        }
        let target = Target { domain, ifindex, queue, config };
        match config.mode {
            Mode::Copy => target.bind(false),
            Mode::ZeroCopy => target.bind(true),
            Mode::CopyOrZeroCopy => target.bind(true).or_else(|_| target.bind(false)),
        }
    }

    /// Hands over received frames, in order, with whether more frames of the same packet follow. Stops at `max` frames, but never
    /// within a packet. Returns how many frames.
    #[inline]
    pub fn receive(&mut self, max: usize, mut sink: impl FnMut(Frame, bool)) -> usize {
        let mut frames = 0;
        let mut more = false;
        while frames < max || more {
            let Some(desc) = self.rx.pop() else { break };
            more = desc.options & libc::XDP_PKT_CONTD != 0;
            let start = (desc.addr & u64::from(self.memory.chunk_size() - 1)) as usize;
            match self.take_back(desc.addr) {
                Some(mut frame) => {
                    self.receiving -= 1;
                    if !frame.set_extent(start, desc.len as usize) {
                        self.foreign += 1;
                    }
                    frames += 1;
                    sink(frame, more);
                }
                None => self.foreign += 1,
            }
        }
        self.rx.release();
        frames
    }

    /// How many frames can be received, without receiving them.
    pub fn receivable(&mut self) -> usize {
        self.rx.available()
    }

    /// Has the kernel do the device's receive work now: for a socket with [`Config::busy_poll`].
    pub fn poll_device(&mut self) {
        // Nothing to do about an error: there is nothing, or the device is down.
        let _ = sys::kick_rx(self.fd.as_fd());
    }

    /// Gives the kernel chunks to receive into, until it has `target_in_flight` of them, the pool is empty or the fill ring full.
    /// Returns how many it gave.
    #[inline]
    pub fn refill(&mut self, pool: &mut FramePool, target_in_flight: usize) -> usize {
        if !self.is_of(pool.domain()) {
            return 0;
        }
        let mut given = 0;
        while (self.receiving as usize) < target_in_flight && self.fill.has_room() {
            let Some(index) = pool.take_index() else { break };
            self.ledger.enter(index);
            self.fill.push(u64::from(index) << self.chunk_shift);
            self.receiving += 1;
            given += 1;
        }
        if given > 0 {
            self.fill.commit();
            self.fill.publish();
            if self.fill.needs_wakeup() {
                // Nothing to do about an error: the kernel will ask again.
                let _ = sys::kick_rx(self.fd.as_fd());
            }
        }
        given
    }

    /// Queues a frame; [`flush`](Self::flush) sends it. A full ring (or a frame that cannot be sent from here: of another domain, or
    /// empty, or one of several without multi-buffer) gives the frame back.
    ///
    /// Frames of one packet are published together, once its last one (`more: false`) is queued.
    #[inline]
    pub fn transmit(&mut self, mut frame: Frame, options: TxOptions) -> Result<(), Frame> {
        let is_carried = !options.more || self.multi_buffer;
        if !self.is_of(frame.domain()) || frame.is_empty() || !is_carried || !self.tx.has_room() {
            return Err(frame);
        }
        let mut flags = if options.more { libc::XDP_PKT_CONTD } else { 0 };
        if let Some(checksum) = options.checksum.filter(|_| self.checksum_offload) {
            flags |= libc::XDP_TX_METADATA;
            frame.write_metadata(metadata(checksum));
        }
        let start = frame.start() as u64;
        let len = frame.len() as u32;
        let index = frame.into_index();
        self.ledger.enter(index);
        self.tx.push(libc::xdp_desc {
            addr: (u64::from(index) << self.chunk_shift) + start,
            len,
            options: flags,
        });
        if !options.more {
            self.tx.commit();
        }
        Ok(())
    }

    /// Whether [`transmit`](Self::transmit) has room for so many frames; asks the kernel only when there seems to be none.
    #[inline]
    pub fn has_transmit_room(&mut self, frames: usize) -> bool {
        self.tx.has_room_for(frames as u32)
    }

    /// How many frames [`transmit`](Self::transmit) has room for.
    pub fn transmit_room(&mut self) -> usize {
        self.tx.free()
    }

    /// How many frames are queued that the kernel has not taken.
    pub fn unsent(&mut self) -> usize {
        self.tx.pending()
    }

    /// Shows the kernel what was queued and makes it send. Returns how many frames it has not taken (its queue is full, it is out of
    /// memory, or the device is down): flush again later.
    pub fn flush(&mut self) -> usize {
        let mut pending = self.tx.pending();
        if pending == 0 {
            return 0;
        }
        self.tx.publish();
        for _ in 0..KICKS_MAX {
            if pending == 0 || !(self.always_kick || self.tx.needs_wakeup()) {
                break;
            }
            self.kicks += 1;
            let kicked = sys::kick_tx(self.fd.as_fd());
            let before = pending;
            pending = self.tx.pending();
            // EAGAIN: the budget or the send buffer is used up; the first is worth another kick, and shows in progress made.
            let again = match kicked {
                Ok(()) => pending < before,
                Err(error) => error.raw_os_error() == Some(libc::EAGAIN) && pending < before,
            };
            if !again {
                break;
            }
        }
        pending
    }

    /// Takes back into the pool what was sent. Returns how many chunks.
    #[inline]
    pub fn reclaim(&mut self, pool: &mut FramePool) -> usize {
        if !self.is_of(pool.domain()) {
            return 0;
        }
        let mut count = 0;
        while let Some(address) = self.completion.pop() {
            let index = (address >> self.chunk_shift) as u32;
            if self.ledger.strike(index) {
                // SAFETY: the ledger said that we held this chunk, and holds it no more; the kernel said that it is done with it.
                unsafe { pool.put_index(index) };
                count += 1;
            } else {
                self.foreign += 1;
            }
        }
        self.completion.release();
        count
    }

    /// How many frames are on their way out: queued, in the kernel, or sent and not yet reclaimed.
    #[inline]
    pub fn transmitting(&self) -> usize {
        self.ledger.held() - self.receiving as usize
    }

    /// How many chunks the kernel has to receive into, or has received into and not been read.
    #[inline]
    pub fn receiving(&self) -> usize {
        self.receiving as usize
    }

    /// System calls that [`flush`](Self::flush) has made so far.
    #[inline]
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// The kernel's counters.
    pub fn statistics(&self) -> io::Result<Statistics> {
        statistics(self.fd.as_fd(), self.foreign)
    }

    /// For whoever wants to read the kernel's counters from another thread.
    pub fn statistics_handle(&self) -> StatisticsHandle {
        StatisticsHandle { fd: Arc::downgrade(&self.fd) }
    }

    /// Whether a packet of several frames can be sent.
    #[inline]
    pub fn multi_buffer(&self) -> bool {
        self.multi_buffer
    }

    /// Whether the device uses our memory directly.
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Entries of its RX ring. In zero-copy mode a device that has no more frames than this receives nothing, neither for us nor for the
    /// host, once the ring is full and nobody reads it.
    pub fn receive_ring(&self) -> usize {
        self.rx.size() as usize
    }

    /// The device it is bound to.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The domain of its frames.
    pub fn domain(&self) -> DomainId {
        self.memory.domain()
    }

    /// The descriptor, for epoll and for an XDP program's map.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Closes the socket and gives every chunk that it held back to the pool; returns how many. Blocks until the kernel has let go of
    /// the device (an RCU grace period: milliseconds), so a worker had better leave it to another thread: see [`Socket::into_frames`].
    pub fn close(self, pool: &mut FramePool) -> usize {
        let frames = self.into_frames();
        let count = frames.len();
        frames.into_iter().for_each(|frame| pool.put(frame));
        count
    }

    /// Closes the socket and returns every chunk that it held, for whoever has the pool.
    pub fn into_frames(self) -> Vec<Frame> {
        let Self { rx, tx, fill, completion, mut ledger, memory, fd, .. } = self;
        // First the kernel: once the last descriptor is closed it neither reads nor writes our memory (copy mode: the socket is
        // taken off the device and the network stack is waited for; what it was sending it had copied).
        drop((rx, tx, fill, completion));
        let mut fd = fd;
        // Whoever is reading statistics has it for one system call; the last descriptor must be closed here.
        while let Err(shared) = Arc::try_unwrap(fd) {
            fd = shared;
            std::thread::yield_now();
        }
        let mut frames = Vec::with_capacity(ledger.held());
        ledger.clear(|index| {
            // SAFETY: the ledger held this chunk and is cleared of it; the kernel let go of it above.
            frames.extend(unsafe { memory.frame(index) });
        });
        frames
    }

    /// Takes a received chunk from the kernel: only if we gave it to the kernel.
    #[inline]
    fn take_back(&mut self, address: u64) -> Option<Frame> {
        let index = u32::try_from(address >> self.chunk_shift).ok()?;
        if !self.ledger.strike(index) {
            return None;
        }
        // SAFETY: the ledger said that we held this chunk, and holds it no more; the kernel published it (Acquire in `Consumer`).
        unsafe { self.memory.frame(index) }
    }

    fn is_of(&self, domain: DomainId) -> bool {
        let same = self.memory.domain() == domain;
        debug_assert!(same, "{self:?} was given something of {domain}");
        same
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AF_XDP socket of {} on queue {} of device {}", self.domain(), self.queue, self.ifindex)
    }
}

/// What a socket is to be bound to.
#[derive(Clone, Copy)]
struct Target<'a> {
    domain: &'a Domain,
    ifindex: u32,
    queue: u32,
    config: Config,
}

impl Target<'_> {
    fn bind(self, zero_copy: bool) -> Result<Socket, BindError> {
        let Self { domain, ifindex, queue, config } = self;
        let socket = sys::xdp_socket().map_err(|e| self.failed("open an AF_XDP socket", e))?;
        let fd = socket.as_fd();
        if zero_copy {
            domain::register(fd, domain.memory(), domain.config())
                .map_err(|e| self.failed("register packet memory for zero-copy", e))?;
        }
        let rings = [
            (libc::XDP_RX_RING, config.rx),
            (libc::XDP_TX_RING, config.tx),
            (libc::XDP_UMEM_FILL_RING, config.fill),
            (libc::XDP_UMEM_COMPLETION_RING, config.completion),
        ];
        for (option, entries) in rings {
            sys::set_ring(fd, option, entries).map_err(|e| self.failed("make a ring", e))?;
        }
        let offsets = sys::ring_offsets(fd).map_err(|e| self.failed("ask for the rings' layout", e))?;
        let place = |page_offset, offsets| Placement { page_offset, offsets };
        let map_failed = |e| self.failed("map a ring", e);
        let rx = KernelRing::map(fd, config.rx, &place(libc::XDP_PGOFF_RX_RING, offsets.rx))
            .map_err(map_failed)?;
        let tx = KernelRing::map(fd, config.tx, &place(libc::XDP_PGOFF_TX_RING, offsets.tx))
            .map_err(map_failed)?;
        let fill = place(libc::XDP_UMEM_PGOFF_FILL_RING as i64, offsets.fr);
        let fill = KernelRing::map(fd, config.fill, &fill).map_err(map_failed)?;
        let completion = place(libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64, offsets.cr);
        let completion = KernelRing::map(fd, config.completion, &completion).map_err(map_failed)?;

        let bind = || match zero_copy {
            true => sys::bind(
                fd,
                ifindex,
                queue,
                domain.bind_flags(config.multi_buffer) | libc::XDP_ZEROCOPY,
                None,
            ),
            false => sys::bind(fd, ifindex, queue, libc::XDP_SHARED_UMEM, Some(domain.anchor())),
        };
        let mut bound = bind();
        // The kernel gives up a closed socket's queue in the background: a moment later it may be free.
        for _ in 0..BUSY_RETRIES {
            match &bound {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(BUSY_PAUSE),
                _ => break,
            }
            bound = bind();
        }
        bound.map_err(|source| match source.raw_os_error() {
            Some(libc::EBUSY) => BindError::Busy { ifindex, queue },
            Some(libc::ENODEV) => BindError::NoDevice { ifindex },
            Some(libc::EOPNOTSUPP) if zero_copy => BindError::NoZeroCopy { ifindex, source },
            Some(libc::EINVAL) => BindError::NoQueue { ifindex, queue },
            _ => self.failed("bind an AF_XDP socket", source),
        })?;
        if !zero_copy {
            // Both only make larger batches possible; older kernels do not know the first, and both work at their defaults.
            let _ = sys::set_tx_budget(fd, config.tx_budget.clamp(32, config.tx));
            let _ =
                sys::set_send_buffer(fd, (config.tx + config.completion).saturating_mul(4096).min(1 << 30));
        }
        if let Some(packets) = config.busy_poll {
            sys::set_busy_poll(fd, packets).map_err(|e| self.failed("set busy polling", e))?;
        }
        let zero_copy = sys::is_zero_copy(fd).map_err(|e| self.failed("ask for the mode", e))?;
        Ok(Socket {
            rx: ConsumerRing::new(rx),
            tx: ProducerRing::new(tx),
            fill: ProducerRing::new(fill),
            completion: ConsumerRing::new(completion),
            ledger: Ledger::new(domain.memory().chunks()),
            receiving: 0,
            // In copy mode nothing is ever sent without a system call.
            always_kick: !zero_copy || !domain.config().need_wakeup,
            kicks: 0,
            foreign: 0,
            chunk_shift: domain.memory().chunk_size().trailing_zeros(),
            memory: domain.memory().clone(),
            fd: Arc::new(socket),
            zero_copy,
            checksum_offload: domain.checksum_offload(),
            // One that shares has it as the first bind to the UMEM has it, the anchor's.
            multi_buffer: domain.multi_buffer() == MultiBuffer::On && (config.multi_buffer || !zero_copy),
            ifindex,
            queue,
        })
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> BindError {
        BindError::Kernel { doing, ifindex: self.ifindex, queue: self.queue, source }
    }
}

/// `struct xsk_tx_metadata`: flags, then where to checksum.
fn metadata(checksum: Checksum) -> [u8; RESERVED_HEADROOM] {
    let mut bytes = [0; RESERVED_HEADROOM];
    let parts = [
        &u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes()[..],
        &checksum.start.to_ne_bytes(),
        &checksum.offset.to_ne_bytes(),
    ];
    for (target, source) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *target = *source;
    }
    bytes
}

#[cfg(test)]
mod tests;
