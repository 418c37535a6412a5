//! What became of each flow's packets. No I/O and no clock: an account is told of a packet and of the time.
//!
//! ```text
//!   sink thread 0: Account ──┐ filled intervals      ┌─► rows of the time series, as it goes
//!   sink thread 1: Account ──┼────────────────► Collector
//!   …                        │ ◄──────────────       └─► one histogram of all latencies
//!                            │ empty ones
//!                            └── at the end ──► Totals: flows, latencies, series
//! ```
//!
//! Each sink thread keeps an account of its own, without locks; a flow should come to one of them (receive-side scaling sees to that), because
//! only there are its duplicates and its order known. Flows that came to several are counted, and said.
//!
//! A packet is one of four things:
//! * *in order*: its number is the flow's next or a higher one; numbers left out are missing, until they come;
//! * *reordered* (RFC 4737, 3.3): its number is lower than one that came before, and it is new;
//! * a *duplicate*: its number has come before;
//! * *uncounted*: a scout, or without a mark of this run.
//!
//! A window of the latest numbers tells the second from the third. Windows of all flows together keep within [`WINDOWS_BYTES`], so that a
//! million flows have 512 numbers each, and a few have 65,536.

mod collect;
mod window;

use std::sync::mpsc::{Receiver, SyncSender};

use anyhow::Context;
use hdrhistogram::Histogram;

use crate::payload::{self, Mark};
pub use collect::{Collector, Series, SeriesRow, Totals};
use window::Windows;

/// Memory for the windows of all flows of an account.
pub const WINDOWS_BYTES: usize = 64 << 20;
/// Latencies are kept to three digits up to this; longer ones count as this long.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
const LATENCY_DIGITS: u8 = 3;
/// Up to so many flows have a histogram each, of two digits (15 KiB).
const FLOWS_WITH_HISTOGRAMS: u32 = 256;
const FLOW_LATENCY_DIGITS: u8 = 2;

/// What became of one flow's packets.
#[derive(Debug, Clone)]
pub struct FlowAccount {
    /// Different packets that came.
    pub received: u64,
    /// Packets that had come before.
    pub duplicated: u64,
    /// Packets that came after one with a higher number (RFC 4737, 3.3).
    pub reordered: u64,
    /// By how many numbers the latest of them was behind.
    pub behind_max: u64,
    /// Shortest latency, nanoseconds.
    pub latency_min_ns: u64,
    /// Longest.
    pub latency_max_ns: u64,
    /// Sum of all.
    pub latency_sum_ns: u64,
    /// Interarrival jitter (RFC 3550, 6.4.1), nanoseconds.
    pub jitter_ns: f64,
    /// The longest time without a packet between two that came.
    pub longest_gap_ns: u64,
    /// The next number in order: one more than the highest seen.
    next: u64,
    last_ns: u64,
    last_latency_ns: u64,
}

impl Default for FlowAccount {
    fn default() -> Self {
        FlowAccount {
            received: 0,
            duplicated: 0,
            reordered: 0,
            behind_max: 0,
            latency_min_ns: u64::MAX,
            latency_max_ns: 0,
            latency_sum_ns: 0,
            jitter_ns: 0.0,
            longest_gap_ns: 0,
            next: 0,
            last_ns: 0,
            last_latency_ns: 0,
        }
    }
}

impl FlowAccount {
    fn time(&mut self, now_ns: u64, latency_ns: u64) {
        if self.received > 0 {
            let difference = self.last_latency_ns.abs_diff(latency_ns) as f64;
            self.jitter_ns += (difference - self.jitter_ns) / 16.0;
            self.longest_gap_ns = self.longest_gap_ns.max(now_ns.saturating_sub(self.last_ns));
        }
        self.received += 1;
        // Sinks that are told of packets later may be told of them out of their order in time.
        self.last_ns = self.last_ns.max(now_ns);
        self.last_latency_ns = latency_ns;
        self.latency_min_ns = self.latency_min_ns.min(latency_ns);
        self.latency_max_ns = self.latency_max_ns.max(latency_ns);
        self.latency_sum_ns += latency_ns;
    }

    /// Adds what another sink knows of the flow.
    fn add(&mut self, other: &FlowAccount) {
        let (mine, theirs) = (self.received as f64, other.received as f64);
        if mine == 0.0 {
            self.jitter_ns = other.jitter_ns;
        } else if theirs > 0.0 {
            self.jitter_ns = (self.jitter_ns * mine + other.jitter_ns * theirs) / (mine + theirs);
        }
        self.received += other.received;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.behind_max = self.behind_max.max(other.behind_max);
        self.latency_min_ns = self.latency_min_ns.min(other.latency_min_ns);
        self.latency_max_ns = self.latency_max_ns.max(other.latency_max_ns);
        self.latency_sum_ns += other.latency_sum_ns;
        self.longest_gap_ns = self.longest_gap_ns.max(other.longest_gap_ns);
        self.next = self.next.max(other.next);
        if other.last_ns > self.last_ns {
            (self.last_ns, self.last_latency_ns) = (other.last_ns, other.last_latency_ns);
        }
    }
}

/// A piece of time at one sink.
#[derive(Debug)]
pub struct Interval {
    /// Which: its number counted from the clock's zero, all of one length.
    slot: u64,
    /// Different packets that came.
    received: u64,
    /// Numbers that were left out, less those that came after all: what was lost, told when the next packet of its flow came.
    missing: i64,
    /// One-way latency of each packet, nanoseconds.
    latency: Histogram<u64>,
}

impl Interval {
    fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS)
            .context("cannot count latencies")?;
        Ok(Interval { slot: 0, received: 0, missing: 0, latency })
    }

    fn clear(&mut self) {
        self.received = 0;
        self.missing = 0;
        self.latency.reset();
    }
}

/// Where a sink puts the intervals that are over, and gets empty ones from. Neither waits: without an empty one at hand the interval goes
/// on, and is longer.
#[derive(Debug)]
pub struct Outlet {
    filled: SyncSender<Box<Interval>>,
    empty: Receiver<Box<Interval>>,
    every_ns: u64,
}

/// What became of all that came to one sink thread.
#[derive(Debug)]
pub struct Account {
    run: u32,
    flows: Vec<FlowAccount>,
    windows: Windows,
    /// Latencies by flow; of none, when there are many.
    flow_latency: Vec<Histogram<u32>>,
    interval: Box<Interval>,
    /// When the interval is over.
    roll_at_ns: u64,
    outlet: Option<Outlet>,
    bytes: u64,
    /// When the first counted packet came.
    first_ns: Option<u64>,
    last_ns: u64,
    longest_gap_ns: u64,
    /// Packets with another run's mark, or none.
    strange: u64,
    /// Packets that came so late that nobody knows whether they had come before; counted as reordered.
    beyond_window: u64,
}

impl Account {
    /// An empty account of a run, all of it one interval.
    ///
    /// # Errors
    /// Never with these bounds; the histogram's constructor has the type.
    pub fn new(run: u32, flows: u32) -> anyhow::Result<Self> {
        let with_histograms = if flows <= FLOWS_WITH_HISTOGRAMS { flows } else { 0 };
        let flow_latency = (0..with_histograms)
            .map(|_| Histogram::new_with_bounds(1, LATENCY_MAX_NS, FLOW_LATENCY_DIGITS))
            .collect::<Result<_, _>>()
            .context("cannot count latencies")?;
        Ok(Account {
            run,
            flows: vec![FlowAccount::default(); flows as usize],
            windows: Windows::new(flows as usize, WINDOWS_BYTES),
            flow_latency,
            interval: Box::new(Interval::new()?),
            roll_at_ns: u64::MAX,
            outlet: None,
            bytes: 0,
            first_ns: None,
            last_ns: 0,
            longest_gap_ns: 0,
            strange: 0,
            beyond_window: 0,
        })
    }

    /// Has intervals collected as they are over.
    #[must_use]
    pub fn with_outlet(mut self, outlet: Outlet) -> Self {
        self.outlet = Some(outlet);
        self
    }

    /// Takes a packet's payload that came at `now_ns`, in a frame of `frame_len` bytes (0: not known).
    pub fn take(&mut self, payload: &[u8], now_ns: u64, frame_len: usize) -> Came {
        match Mark::read(payload) {
            Some(mark) => self.count(mark, now_ns, frame_len),
            None => {
                self.strange += 1;
                Came::Uncounted
            }
        }
    }

    /// Takes a packet's mark.
    pub fn count(&mut self, mark: Mark, now_ns: u64, frame_len: usize) -> Came {
        let index = mark.flow as usize;
        let Some(flow) = self.flows.get_mut(index).filter(|_| mark.run == self.run) else {
            self.strange += 1;
            return Came::Uncounted;
        };
        let sequence = mark.sequence;
        if sequence == payload::SCOUT {
            return Came::Scout;
        }
        if now_ns >= self.roll_at_ns {
            roll(&mut self.interval, &mut self.roll_at_ns, self.outlet.as_ref(), now_ns);
        }
        if sequence >= flow.next {
            self.windows.advance(index, flow.next, sequence);
            self.interval.missing += i64::try_from(sequence - flow.next).unwrap_or(i64::MAX);
            flow.next = sequence + 1;
        } else {
            let behind = flow.next - 1 - sequence;
            match self.windows.has(index, behind, sequence) {
                Some(true) => {
                    flow.duplicated += 1;
                    return Came::Uncounted;
                }
                Some(false) => self.windows.mark(index, sequence),
                None => self.beyond_window += 1,
            }
            flow.reordered += 1;
            flow.behind_max = flow.behind_max.max(behind);
            self.interval.missing -= 1;
        }
        let latency_ns = now_ns.saturating_sub(mark.sent_ns);
        flow.time(now_ns, latency_ns);
        if let Some(histogram) = self.flow_latency.get_mut(index) {
            histogram.saturating_record(latency_ns.max(1));
        }
        self.interval.latency.saturating_record(latency_ns.max(1));
        self.interval.received += 1;
        self.bytes += frame_len as u64;
        if self.first_ns.is_none() {
            self.first_ns = Some(now_ns);
            if let Some(outlet) = &self.outlet {
                self.interval.slot = now_ns / outlet.every_ns;
                self.roll_at_ns = (self.interval.slot + 1) * outlet.every_ns;
            }
        } else {
            self.longest_gap_ns = self.longest_gap_ns.max(now_ns.saturating_sub(self.last_ns));
        }
        self.last_ns = self.last_ns.max(now_ns);
        Came::Counted
    }

    #[cfg(test)]
    fn flow(&self, flow: usize) -> &FlowAccount {
        &self.flows[flow]
    }
}

/// Hands the interval over, and begins another. Once an interval, and without waiting.
#[cold]
fn roll(interval: &mut Box<Interval>, roll_at_ns: &mut u64, outlet: Option<&Outlet>, now_ns: u64) {
    let Some(outlet) = outlet else {
        *roll_at_ns = u64::MAX;
        return;
    };
    let slot = now_ns / outlet.every_ns;
    *roll_at_ns = (slot + 1) * outlet.every_ns;
    let Ok(mut next) = outlet.empty.try_recv() else { return };
    next.slot = slot;
    // There is room for every interval that exists. A collector that is gone wants none.
    let _ = outlet.filled.try_send(std::mem::replace(interval, next));
}

/// What a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// One of the run, for the first time.
    Counted,
    /// One that went ahead.
    Scout,
    /// A duplicate, or a stranger.
    Uncounted,
}

#[cfg(test)]
mod tests;
