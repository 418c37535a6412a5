//! Brings together what several sinks know: their intervals while the run goes on, their flows when it is over.
//!
//! Memory is bounded however long a run is: rows of the series are as long as it takes for no more than [`ROWS_MAX`] of them, and only the
//! latest have a histogram of their own.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Account, FlowAccount, Interval, LATENCY_DIGITS, LATENCY_MAX_NS, Outlet};

/// Rows that the series of a run has, at most.
pub const ROWS_MAX: u32 = 600;
/// Empty intervals that wait at each sink.
const SPARE: usize = 2;
/// How many rows are open: a sink's interval comes when the next one's first packet has.
const ROWS_OPEN: usize = 3;
/// Intervals are no shorter and no longer than this.
const EVERY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
const INTERVALS_WISHED: u32 = 200;

/// One piece of a run's time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SeriesRow {
    /// When it began, seconds from the run's start.
    pub at_s: f64,
    /// Packets a second that were sent in it.
    pub sent_pps: f64,
    /// Packets a second that came.
    pub received_pps: f64,
    /// Packets found missing in it, less those that came late; below zero when more of those came.
    pub missing: i64,
    /// Latencies of those that came; none when nothing came.
    pub p50_ns: Option<u64>,
    /// The same.
    pub p99_ns: Option<u64>,
    /// The same.
    pub max_ns: Option<u64>,
}

/// A run's time in pieces.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Series {
    /// How long each is.
    pub row_s: f64,
    /// The pieces.
    pub rows: Vec<SeriesRow>,
}

#[derive(Debug)]
struct Inlet {
    filled: Receiver<Box<Interval>>,
    empty: SyncSender<Box<Interval>>,
}

#[derive(Debug)]
struct OpenRow {
    sent: u64,
    received: u64,
    missing: i64,
    latency: Histogram<u64>,
}

/// Takes the intervals of all sinks.
#[derive(Debug)]
pub struct Collector {
    inlets: Vec<Inlet>,
    every_ns: u64,
    intervals_per_row: u64,
    /// The first row's number, counted from the clock's zero.
    first_row: u64,
    start_ns: u64,
    closed: Vec<SeriesRow>,
    /// Those after the closed ones.
    open: VecDeque<OpenRow>,
    /// Histograms of rows that were closed.
    spare: Vec<Histogram<u64>>,
    sent: u64,
    collected_ns: u64,
    latency: Histogram<u64>,
}

impl Collector {
    /// For a run of that length from `start_ns` on, with so many sinks: and what each of them needs.
    ///
    /// # Errors
    /// Never with these bounds; the histogram's constructor has the type.
    pub fn new(sinks: usize, start_ns: u64, duration: Duration) -> anyhow::Result<(Self, Vec<Outlet>)> {
        let every = (duration / INTERVALS_WISHED).clamp(EVERY[0], EVERY[1]);
        let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        let intervals = duration.as_nanos().div_ceil(u128::from(every_ns));
        let intervals_per_row = u64::try_from(intervals.div_ceil(u128::from(ROWS_MAX))).unwrap_or(1).max(1);
        let (mut inlets, mut outlets) = (Vec::new(), Vec::new());
        for _ in 0..sinks {
            let (filled, filled_end) = sync_channel(SPARE + 1);
            let (empty, empty_end) = sync_channel(SPARE + 1);
            for _ in 0..SPARE {
                // There is room for them.
                let _ = empty.try_send(Box::new(Interval::new()?));
            }
            inlets.push(Inlet { filled: filled_end, empty });
            outlets.push(Outlet { filled, empty: empty_end, every_ns });
        }
        let collector = Collector {
            inlets,
            every_ns,
            intervals_per_row,
            first_row: start_ns / every_ns / intervals_per_row,
            start_ns,
            closed: Vec::new(),
            open: VecDeque::new(),
            spare: Vec::new(),
            sent: 0,
            collected_ns: start_ns,
            latency: histogram()?,
        };
        Ok((collector, outlets))
    }

    /// The run begins only now: until here the way was opened.
    pub fn begin(&mut self, now_ns: u64) {
        self.start_ns = now_ns;
        self.collected_ns = now_ns;
        self.first_row = now_ns / self.every_ns / self.intervals_per_row;
    }

    /// Takes what there is. To be called several times an interval, with the number of packets sent until now.
    ///
    /// # Errors
    /// Never with these bounds.
    pub fn collect(&mut self, now_ns: u64, sent: u64) -> anyhow::Result<()> {
        for at in 0..self.inlets.len() {
            while let Some(mut interval) = self.inlets.get(at).and_then(|inlet| inlet.filled.try_recv().ok())
            {
                self.absorb(&interval)?;
                interval.clear();
                if let Some(inlet) = self.inlets.get(at) {
                    // There is room for every interval that exists; a sink that is gone wants none.
                    let _ = inlet.empty.try_send(interval);
                }
            }
        }
        self.collected_ns = now_ns;
        let row = self.row_of(now_ns / self.every_ns);
        let new = sent.saturating_sub(self.sent);
        self.sent = self.sent.max(sent);
        if let Some(open) = self.open_row(row)? {
            open.sent += new;
        }
        Ok(())
    }

    /// All latencies that intervals which are over have.
    #[must_use]
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// The latest row that is closed.
    #[must_use]
    pub fn latest(&self) -> Option<&SeriesRow> {
        self.closed.last()
    }

    /// Brings all together when the sinks have ended. What was sent and is not told yet counts for the time of the latest collection.
    ///
    /// # Errors
    /// Never with these bounds.
    pub fn finish(mut self, sent: u64, accounts: Vec<Account>) -> anyhow::Result<Totals> {
        self.collect(self.collected_ns, sent)?;
        for account in &accounts {
            self.absorb(&account.interval)?;
        }
        while !self.open.is_empty() {
            self.close();
        }
        // Lingering is no part of the run.
        while self.closed.last().is_some_and(|row| row.sent_pps + row.received_pps == 0.0) {
            self.closed.pop();
        }
        let row_s = self.row_s();
        Totals::merge(accounts, self.latency, Series { row_s, rows: self.closed })
    }

    fn row_s(&self) -> f64 {
        (self.every_ns * self.intervals_per_row) as f64 / 1e9
    }

    /// Counted from the run's first.
    fn row_of(&self, slot: u64) -> u64 {
        (slot / self.intervals_per_row).saturating_sub(self.first_row)
    }

    /// `None` when it is closed.
    fn open_row(&mut self, row: u64) -> anyhow::Result<Option<&mut OpenRow>> {
        loop {
            let Some(at) = row.checked_sub(self.closed.len() as u64) else { return Ok(None) };
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            if at < self.open.len() {
                return Ok(self.open.get_mut(at));
            }
            if self.open.len() > ROWS_OPEN {
                self.close();
                continue;
            }
            let latency = match self.spare.pop() {
                Some(histogram) => histogram,
                None => histogram()?,
            };
            self.open.push_back(OpenRow { sent: 0, received: 0, missing: 0, latency });
        }
    }

    fn close(&mut self) {
        let Some(mut row) = self.open.pop_front() else { return };
        let row_ns = self.every_ns * self.intervals_per_row;
        let from_ns = (self.first_row + self.closed.len() as u64) * row_ns;
        // The first begins with the run.
        let length_s = (row_ns - self.start_ns.saturating_sub(from_ns).min(row_ns - 1)) as f64 / 1e9;
        let quantile = |at| (!row.latency.is_empty()).then(|| row.latency.value_at_quantile(at));
        self.closed.push(SeriesRow {
            at_s: from_ns.saturating_sub(self.start_ns) as f64 / 1e9,
            sent_pps: row.sent as f64 / length_s,
            received_pps: row.received as f64 / length_s,
            missing: row.missing,
            p50_ns: quantile(0.5),
            p99_ns: quantile(0.99),
            max_ns: quantile(1.0),
        });
        row.latency.reset();
        self.spare.push(row.latency);
    }

    fn absorb(&mut self, interval: &Interval) -> anyhow::Result<()> {
        self.latency.add(&interval.latency).context("cannot add latencies")?;
        let (row, row_s) = (self.row_of(interval.slot), self.row_s());
        if let Some(open) = self.open_row(row)? {
            open.received += interval.received;
            open.missing += interval.missing;
            open.latency.add(&interval.latency).context("cannot add latencies")?;
            return Ok(());
        }
        // Of a sink that was silent since. The row's histogram is gone: its quantiles become those of who saw the longer ones.
        let Some(row) = usize::try_from(row).ok().and_then(|row| self.closed.get_mut(row)) else {
            return Ok(());
        };
        row.received_pps += interval.received as f64 / row_s;
        row.missing += interval.missing;
        if interval.received > 0 {
            let longer = |known: &mut Option<u64>, quantile| {
                *known = (*known).max(Some(interval.latency.value_at_quantile(quantile)));
            };
            longer(&mut row.p50_ns, 0.5);
            longer(&mut row.p99_ns, 0.99);
            longer(&mut row.max_ns, 1.0);
        }
        Ok(())
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, LATENCY_DIGITS).context("cannot count latencies")
}

/// What became of all.
#[derive(Debug)]
pub struct Totals {
    /// By flow.
    pub flows: Vec<FlowAccount>,
    /// Latencies by flow; of none, when there are many.
    pub flow_latency: Vec<Histogram<u32>>,
    /// One-way latency of every packet that came, nanoseconds.
    pub latency: Histogram<u64>,
    /// How it went.
    pub series: Series,
    /// Bytes of all frames that came; 0 when sinks were not told.
    pub bytes: u64,
    /// When the first counted packet came.
    pub first_ns: Option<u64>,
    /// When the last came.
    pub last_ns: u64,
    /// The longest time without any packet between two that came. Of several sinks: at most so long.
    pub longest_gap_ns: u64,
    /// Packets with another run's mark, or none.
    pub strange: u64,
    /// Packets that came so late that they may have been duplicates.
    pub beyond_window: u64,
    /// Numbers in a flow's window.
    pub window: u64,
    /// Flows that came to more than one sink: whether their packets were in order, or came twice, is known only of each.
    pub split_flows: u64,
}

impl Totals {
    fn merge(accounts: Vec<Account>, latency: Histogram<u64>, series: Series) -> anyhow::Result<Self> {
        let first_ns = accounts.iter().filter_map(|account| account.first_ns).min();
        let last_ns = accounts.iter().map(|account| account.last_ns).max().unwrap_or(0);
        // While all were silent each was: so no longer than the shortest of their longest silences, before their first and after their last
        // packet included.
        let silence = |account: &Account| {
            let before = account.first_ns? - first_ns?;
            Some(account.longest_gap_ns.max(before).max(last_ns - account.last_ns))
        };
        let longest_gap_ns = accounts.iter().filter_map(silence).min().unwrap_or(0);
        let mut accounts = accounts.into_iter();
        let first = accounts.next().context("a run without a sink")?;
        let mut totals = Totals {
            flows: first.flows,
            flow_latency: first.flow_latency,
            latency,
            series,
            bytes: first.bytes,
            first_ns,
            last_ns,
            longest_gap_ns,
            strange: first.strange,
            beyond_window: first.beyond_window,
            window: first.windows.numbers(),
            split_flows: 0,
        };
        for account in accounts {
            totals.bytes += account.bytes;
            totals.strange += account.strange;
            totals.beyond_window += account.beyond_window;
            for (mine, theirs) in totals.flows.iter_mut().zip(&account.flows) {
                totals.split_flows += u64::from(mine.received > 0 && theirs.received > 0);
                mine.add(theirs);
            }
            for (mine, theirs) in totals.flow_latency.iter_mut().zip(&account.flow_latency) {
                mine.add(theirs).context("cannot add latencies")?;
            }
        }
        Ok(totals)
    }
}
