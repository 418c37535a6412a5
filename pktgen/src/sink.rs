//! Receives, and keeps the account of what became of each flow. No I/O in the account: it is told of a packet and of the time.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use nix::sys::socket::{MsgFlags, MultiHeaders, SetSockOpt, recvmmsg, sockopt};

use crate::clock;
use crate::payload::{self, Mark};
use crate::place::Place;

/// Packets taken from the kernel in one call, at most.
const BATCH: usize = 64;
/// Bytes of a packet that are looked at; the rest of it is thrown away by the kernel.
const LOOK_BYTES: usize = 64;
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;
/// How often the sink looks whether it is to stop.
const TURN: Duration = Duration::from_millis(10);
/// How far behind the newest packet of its flow a packet is still recognised as one that came before.
const WINDOW: u64 = 4096;
/// Latencies are kept to three digits up to this; longer ones count as this long.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 3;

/// What became of one flow's packets.
#[derive(Debug, Clone)]
pub struct FlowAccount {
    /// Different packets that came.
    pub received: u64,
    /// Packets that had come before.
    pub duplicated: u64,
    /// Packets that came after one with a higher number (RFC 4737, 3).
    pub reordered: u64,
    /// Shortest latency, nanoseconds.
    pub latency_min_ns: u64,
    /// Longest.
    pub latency_max_ns: u64,
    /// Sum of all.
    pub latency_sum_ns: u64,
    /// Interarrival jitter (RFC 3550, 6.4.1), nanoseconds.
    pub jitter_ns: f64,
    /// The next number in order: one more than the highest seen.
    next: u64,
    /// Bit n % WINDOW: packet n has come, for the WINDOW numbers below `next`.
    seen: Vec<u64>,
    last_latency_ns: Option<u64>,
}

impl Default for FlowAccount {
    fn default() -> Self {
        FlowAccount {
            received: 0,
            duplicated: 0,
            reordered: 0,
            latency_min_ns: u64::MAX,
            latency_max_ns: 0,
            latency_sum_ns: 0,
            jitter_ns: 0.0,
            next: 0,
            seen: vec![0; (WINDOW / 64) as usize],
            last_latency_ns: None,
        }
    }
}

impl FlowAccount {
    /// Counts a packet. False: it had come before.
    fn count(&mut self, sequence: u64, latency_ns: u64) -> bool {
        if sequence >= self.next {
            let gap = sequence - self.next;
            if gap >= WINDOW {
                self.seen.fill(0);
            } else {
                for skipped in self.next..sequence {
                    self.mark(skipped, false);
                }
            }
            self.next = sequence + 1;
        } else if self.next - sequence <= WINDOW && self.has(sequence) {
            self.duplicated += 1;
            return false;
        } else {
            // One from before the window is taken for late, not for a duplicate.
            self.reordered += 1;
        }
        if self.next - sequence <= WINDOW {
            self.mark(sequence, true);
        }
        self.received += 1;
        self.latency_min_ns = self.latency_min_ns.min(latency_ns);
        self.latency_max_ns = self.latency_max_ns.max(latency_ns);
        self.latency_sum_ns += latency_ns;
        if let Some(last) = self.last_latency_ns.replace(latency_ns) {
            self.jitter_ns += (last.abs_diff(latency_ns) as f64 - self.jitter_ns) / 16.0;
        }
        true
    }

    fn has(&self, sequence: u64) -> bool {
        let bit = sequence % WINDOW;
        self.seen.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    fn mark(&mut self, sequence: u64, seen: bool) {
        let bit = sequence % WINDOW;
        if let Some(word) = self.seen.get_mut((bit / 64) as usize) {
            *word = *word & !(1 << (bit % 64)) | u64::from(seen) << (bit % 64);
        }
    }
}

/// What became of all.
#[derive(Debug)]
pub struct Account {
    run: u32,
    /// By flow.
    pub flows: Vec<FlowAccount>,
    /// One-way latency of every packet that came, nanoseconds.
    pub latency: Histogram<u64>,
    /// When the first counted packet came.
    pub first_ns: Option<u64>,
    /// When the last came.
    pub last_ns: u64,
    /// The longest time without any packet between two that came.
    pub longest_gap_ns: u64,
    /// Packets with another run's mark, or none.
    pub strange: u64,
}

impl Account {
    /// An empty account of a run.
    ///
    /// # Errors
    /// Never with these bounds; the histogram's constructor has the type.
    pub fn new(run: u32, flows: u32) -> anyhow::Result<Self> {
        Ok(Account {
            run,
            flows: vec![FlowAccount::default(); flows as usize],
            latency: Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS)
                .context("cannot count latencies")?,
            first_ns: None,
            last_ns: 0,
            longest_gap_ns: 0,
            strange: 0,
        })
    }

    /// Takes a packet's payload that came at `now_ns`.
    pub(crate) fn take(&mut self, payload: &[u8], now_ns: u64) -> Came {
        let run = self.run;
        let mark = Mark::read(payload).filter(|mark| mark.run == run);
        let flow = mark.and_then(|mark| Some((mark, self.flows.get_mut(mark.flow as usize)?)));
        let Some((mark, flow)) = flow else {
            self.strange += 1;
            return Came::Uncounted;
        };
        if mark.sequence == payload::SCOUT {
            return Came::Scout;
        }
        let latency_ns = now_ns.saturating_sub(mark.sent_ns);
        if !flow.count(mark.sequence, latency_ns) {
            return Came::Uncounted;
        }
        self.latency.saturating_record(latency_ns.max(1));
        if self.first_ns.is_none() {
            self.first_ns = Some(now_ns);
        } else {
            self.longest_gap_ns = self.longest_gap_ns.max(now_ns.saturating_sub(self.last_ns));
        }
        self.last_ns = now_ns;
        Came::Counted
    }
}

/// What a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// One of the run, for the first time.
    Counted,
    /// One that went ahead.
    Scout,
    /// A duplicate, or a stranger.
    Uncounted,
}

/// A socket that packets come to, made in the sink's place.
///
/// # Errors
/// The place cannot be entered, or the port is taken.
pub fn open(place: &Place, address: SocketAddr) -> anyhow::Result<UdpSocket> {
    place.within(|| {
        let socket = UdpSocket::bind(address)
            .with_context(|| format!("cannot receive at {address} in {place}; try another --port"))?;
        // Without root the default buffer has to do; what it loses is reported as the sink's loss.
        let _ = sockopt::RcvBufForce.set(&socket, &RECEIVE_BUFFER_BYTES);
        socket.set_read_timeout(Some(TURN))?;
        Ok(socket)
    })
}

/// Packets that the kernel had for the sink, and threw away because the sink was too slow.
#[must_use]
pub fn overflowed(place: &Place, socket: &UdpSocket) -> Option<u64> {
    let local = socket.local_addr().ok()?;
    let file = if local.is_ipv6() { "/proc/thread-self/net/udp6" } else { "/proc/thread-self/net/udp" };
    // Of the thread: /proc/net is the main thread's, which stays where it was.
    let table = place.within(|| Ok(fs::read_to_string(file)?)).ok()?;
    drops_of(&table, local.port())
}

/// The last column of the socket's line, as udp(7) describes /proc/net/udp.
fn drops_of(table: &str, port: u16) -> Option<u64> {
    let wanted = format!(":{port:04X}");
    let line = table
        .lines()
        .skip(1)
        .find(|line| line.split_whitespace().nth(1).is_some_and(|a| a.ends_with(&wanted)))?;
    line.split_whitespace().last()?.parse().ok()
}

/// What others may watch of a sink at work.
#[derive(Debug, Default)]
pub struct Progress {
    /// Different packets that came.
    pub received: AtomicU64,
    /// A scout has come: the way is open.
    pub scouted: AtomicBool,
}

/// Receives until told to stop.
///
/// # Errors
/// The kernel refuses.
pub fn receive(
    socket: &UdpSocket,
    account: &mut Account,
    progress: &Progress,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut buffers = [[0u8; LOOK_BYTES]; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut received = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut lengths = [0; BATCH];
        let mut slices = buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let result =
            recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None);
        let count = match result {
            Ok(messages) => {
                lengths.iter_mut().zip(messages).map(|(length, message)| *length = message.bytes).count()
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => continue,
            Err(errno) => {
                return Err(anyhow!(io::Error::from(errno)).context("the kernel refuses to receive"));
            }
        };
        let now = clock::now_ns();
        for (buffer, length) in buffers.iter().zip(lengths).take(count) {
            match account.take(&buffer[..length.min(LOOK_BYTES)], now) {
                Came::Counted => received += 1,
                Came::Scout => progress.scouted.store(true, Ordering::Relaxed),
                Came::Uncounted => {}
            }
        }
        progress.received.store(received, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account::new(1, 2).unwrap()
    }

    fn come(account: &mut Account, flow: u32, sequence: u64) -> Came {
        let mut bytes = [0; payload::LEN];
        Mark { run: 1, flow, sequence, sent_ns: 1_000 }.write(&mut bytes);
        account.take(&bytes, 3_000)
    }

    fn counts(account: &Account, flow: usize) -> (u64, u64, u64) {
        let flow = &account.flows[flow];
        (flow.received, flow.duplicated, flow.reordered)
    }

    #[test]
    fn packets_in_order_are_received() {
        let mut account = account();
        for n in 0..10_000 {
            assert_eq!(come(&mut account, 0, n), Came::Counted);
        }
        assert_eq!(counts(&account, 0), (10_000, 0, 0));
        assert_eq!(account.latency.len(), 10_000);
    }

    #[test]
    fn a_packet_that_came_before_is_a_duplicate_and_a_late_one_is_reordered() {
        let mut account = account();
        for n in [0, 1, 3, 3, 2, 2, 4] {
            come(&mut account, 0, n);
        }
        assert_eq!(counts(&account, 0), (5, 2, 1));
    }

    #[test]
    fn a_number_whose_bit_was_used_a_window_ago_is_not_a_duplicate() {
        let mut account = account();
        for n in 0..WINDOW {
            come(&mut account, 0, n);
        }
        come(&mut account, 0, WINDOW + 1);
        assert_eq!(come(&mut account, 0, WINDOW), Came::Counted);
        assert_eq!(come(&mut account, 0, WINDOW), Came::Uncounted);
        come(&mut account, 0, 10 * WINDOW);
        assert_eq!(come(&mut account, 0, 10 * WINDOW - 1), Came::Counted);
        assert_eq!(counts(&account, 0), (WINDOW + 4, 1, 2));
    }

    #[test]
    fn flows_do_not_mix_and_strangers_are_not_counted() {
        let mut account = account();
        come(&mut account, 0, 0);
        come(&mut account, 1, 0);
        assert_eq!((counts(&account, 0), counts(&account, 1)), ((1, 0, 0), (1, 0, 0)));
        assert_eq!(come(&mut account, 2, 0), Came::Uncounted);
        assert_eq!(account.take(b"hello", 1), Came::Uncounted);
        let mut other = [0; payload::LEN];
        Mark { run: 2, flow: 0, sequence: 1, sent_ns: 0 }.write(&mut other);
        assert_eq!(account.take(&other, 1), Came::Uncounted);
        assert_eq!(account.strange, 3);
    }

    #[test]
    fn scouts_open_the_way_and_are_not_counted() {
        let mut account = account();
        assert_eq!(come(&mut account, 0, payload::SCOUT), Came::Scout);
        assert_eq!(counts(&account, 0), (0, 0, 0));
    }

    #[test]
    fn the_longest_silence_is_between_two_packets() {
        let mut account = account();
        let mut bytes = [0; payload::LEN];
        for (sequence, at) in [(0, 5_000), (1, 5_100), (2, 9_100), (3, 9_200)] {
            Mark { run: 1, flow: 0, sequence, sent_ns: 0 }.write(&mut bytes);
            account.take(&bytes, at);
        }
        assert_eq!(account.longest_gap_ns, 4_000);
    }

    #[test]
    fn the_kernels_table_names_the_drops_of_a_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
                     103: 00000000:2328 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0 17\n";
        assert_eq!(drops_of(table, 9000), Some(17));
        assert_eq!(drops_of(table, 9001), None);
    }
}
