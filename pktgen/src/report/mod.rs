//! What a run found out, for people and for programs.

pub mod command;
mod table;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::account::{Series, Totals};
use crate::cpu::{MachineTime, WorkerLoad};
use crate::engine::{Inside, Sent};
use crate::machine::Machine;

/// How a warning begins that figures say more of the generator than of the subject. Scripts look for these words.
pub const GENERATOR_LIMIT: &str = "the generator was the limit";
/// Flows that a report has, at most; the counts are always those of all.
const FLOWS_MAX: usize = 20_000;
/// Percentile points for each halving of what is left to the maximum.
const POINTS_PER_HALVING: u32 = 4;
/// Above this part of the machine's time, what the hypervisor took is worth a warning.
const STOLEN: f64 = 0.01;
/// Below this part of the rate that was asked for, the generator is called the limit.
const RATE_REACHED: f64 = 0.99;
/// Below this loss at the generator's greatest rate, the generator is called the limit.
const LOSS_OF_THE_UNLOADED_PERCENT: f64 = 0.1;

/// A run.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// When it began, UTC.
    pub started: String,
    /// What was asked for.
    pub profile: Value,
    /// From where.
    pub from: String,
    /// To where.
    pub to: String,
    /// All flows together.
    pub total: Counts,
    /// Seconds from first to last packet sent.
    pub elapsed_s: f64,
    /// Packets a second that were sent.
    pub sent_pps: f64,
    /// Packets a second that came, from the first to the last.
    pub received_pps: f64,
    /// Gigabits a second that were sent, of frames from Ethernet header to end of payload.
    pub sent_gbps: f64,
    /// Latencies are of round trips, and what was lost was so either way.
    pub round_trip: bool,
    /// One-way latency, or that of round trips; `None` when nothing came.
    pub latency_ns: Option<Latency>,
    /// The same, in full: more points the nearer to the maximum.
    pub latency_points: Vec<LatencyPoint>,
    /// Interarrival jitter (RFC 3550), mean of all flows.
    pub jitter_ns: f64,
    /// Longest time without a packet between two that came. Where several sinks shared the work, at most so long.
    pub longest_gap_ns: u64,
    /// Longest time without a packet between two of one flow.
    pub longest_flow_gap_ns: u64,
    /// By how many numbers the latest reordered packet was behind the highest of its flow.
    pub reordered_behind_max: u64,
    /// Seconds that all CPUs of the machine were busy meanwhile, whoever made them so.
    pub machine_cpu_s: Option<f64>,
    /// Malformed packets that were sent: what became of them is not counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmarked: u64,
    /// What is known of a subject within this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// Packets that came for each of these seconds.
    pub packets_per_cpu_s: Option<f64>,
    /// Seconds that the hypervisor took from this machine's CPUs.
    pub stolen_cpu_s: Option<f64>,
    /// The generator's threads, and the sink's.
    pub workers: Vec<WorkerLoad>,
    /// How the ends did.
    pub ends: EndsReport,
    /// What a command did that ran meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconfiguration: Option<Reconfiguration>,
    /// What a reader must know before believing the figures.
    pub warnings: Vec<String>,
    /// How it went over time.
    pub series: Series,
    /// Under which circumstances.
    pub machine: Machine,
    /// Flows that are left out below, because there are so many.
    pub flows_left_out: usize,
    /// Each flow.
    pub flows: Vec<FlowRow>,
    /// When the first packet was due, by the monotonic clock.
    #[serde(skip)]
    pub start_ns: u64,
}

/// What became of packets.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Taken by the sender's kernel.
    pub sent: u64,
    /// Different ones that came.
    pub received: u64,
    /// Sent and not received.
    pub lost: u64,
    /// Came again.
    pub duplicated: u64,
    /// Came after one with a higher number.
    pub reordered: u64,
}

impl Counts {
    /// Lost of sent.
    #[must_use]
    pub fn loss_percent(self) -> f64 {
        if self.sent == 0 { 0.0 } else { 100.0 * self.lost as f64 / self.sent as f64 }
    }
}

/// Latency in nanoseconds. Quantiles that fewer packets came than it takes to know are `None`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Least.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Half came no later.
    pub p50: u64,
    /// And so on.
    pub p90: u64,
    /// …
    pub p99: u64,
    /// …
    #[serde(rename = "p99.9")]
    pub p999: u64,
    /// …
    #[serde(rename = "p99.99", default)]
    pub p9999: Option<u64>,
    /// …
    #[serde(rename = "p99.999", default)]
    pub p99999: Option<u64>,
    /// …
    #[serde(rename = "p99.9999", default)]
    pub p999999: Option<u64>,
    /// Greatest.
    pub max: u64,
}

/// So many came within so long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyPoint {
    /// 0 to 1.
    pub quantile: f64,
    /// Nanoseconds.
    pub ns: u64,
}

/// What packets met while a command changed something.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reconfiguration {
    /// The command.
    pub command: String,
    /// When it ran, seconds from the run's start: from, to.
    pub ran_s: Vec<(f64, f64)>,
    /// How often it failed.
    pub failed: u64,
    /// Packets lost in the whole run.
    pub lost: u64,
    /// That loss as time: how long the way would have been shut altogether.
    pub lost_ms: f64,
    /// The longest that a flow was without a packet.
    pub longest_flow_gap_ms: f64,
    /// What lies between two of a flow's packets when nothing happens.
    pub usual_flow_gap_ms: f64,
}

/// How generator and sink did.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct EndsReport {
    /// Packets that were due while the generator was held up, and were left out.
    pub missed: u64,
    /// Packets that the sender's own kernel refused.
    pub refused: u64,
    /// Packets that came, and were thrown away because the sink was too slow; part of what was lost.
    pub sink_overflow: Option<u64>,
    /// The generator did not reach the rate that was asked for.
    pub generator_was_the_limit: bool,
    /// A packet that went ahead of the counted ones came through.
    pub way_was_open: bool,
}

/// A flow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowRow {
    /// Its number.
    pub flow: usize,
    /// What became of its packets.
    #[serde(flatten)]
    pub counts: Counts,
    /// Latencies of those that came.
    pub latency_min_ns: Option<u64>,
    /// …
    pub latency_mean_ns: Option<u64>,
    /// Known when there are few flows.
    #[serde(default)]
    pub latency_p50_ns: Option<u64>,
    /// The same.
    #[serde(default)]
    pub latency_p99_ns: Option<u64>,
    /// …
    pub latency_max_ns: Option<u64>,
    /// RFC 3550.
    pub jitter_ns: f64,
    /// Longest time without a packet of this flow.
    #[serde(default)]
    pub longest_gap_ns: u64,
}

/// What else a report is made of.
#[derive(Debug)]
pub struct Circumstances {
    /// When the run began: UTC, and by the monotonic clock.
    pub started: (String, u64),
    /// What was asked for.
    pub profile: Value,
    /// Packets a second that were asked for, if any number was.
    pub asked_pps: Option<f64>,
    /// From where.
    pub from: String,
    /// To where.
    pub to: String,
    /// What all CPUs of the machine did meanwhile.
    pub machine_time: Option<MachineTime>,
    /// The generator's threads, and the sink's.
    pub workers: Vec<WorkerLoad>,
    /// This machine.
    pub machine: Machine,
    /// What the sink's socket lost.
    pub sink_overflow: Option<u64>,
    /// Whether a scout came through.
    pub way_was_open: bool,
    /// Packets came back to where they were sent from.
    pub round_trip: bool,
    /// The run was ended early.
    pub interrupted: bool,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Report {
    /// Holds what was sent against what came.
    #[must_use]
    pub fn new(sent: &Sent, account: &Totals, about: Circumstances) -> Self {
        let flows = || sent.by_flow.iter().zip(&account.flows).enumerate();
        let total = flows().fold(Counts::default(), |sum, (_, (&sent, came))| Counts {
            sent: sum.sent + sent,
            received: sum.received + came.received,
            lost: sum.lost + sent.saturating_sub(came.received),
            duplicated: sum.duplicated + came.duplicated,
            reordered: sum.reordered + came.reordered,
        });
        let rows = flows().take(FLOWS_MAX).map(|(flow, (&sent, came))| {
            let some = |value: u64| (came.received > 0).then_some(value);
            let histogram = account.flow_latency.get(flow).filter(|histogram| !histogram.is_empty());
            FlowRow {
                flow,
                counts: Counts {
                    sent,
                    received: came.received,
                    lost: sent.saturating_sub(came.received),
                    duplicated: came.duplicated,
                    reordered: came.reordered,
                },
                latency_min_ns: some(came.latency_min_ns),
                latency_mean_ns: came.latency_sum_ns.checked_div(came.received),
                latency_p50_ns: histogram.map(|histogram| histogram.value_at_quantile(0.5)),
                latency_p99_ns: histogram.map(|histogram| histogram.value_at_quantile(0.99)),
                latency_max_ns: some(came.latency_max_ns),
                jitter_ns: came.jitter_ns,
                longest_gap_ns: came.longest_gap_ns,
            }
        });
        let elapsed_s = sent.elapsed.as_secs_f64();
        let per_second = |amount: f64| if elapsed_s > 0.0 { amount / elapsed_s } else { 0.0 };
        let arriving_s =
            account.first_ns.map_or(0.0, |first| account.last_ns.saturating_sub(first) as f64 / 1e9);
        // The first packet opens the interval, so it is not one of those that came within it.
        let received_pps =
            if arriving_s > 0.0 { total.received.saturating_sub(1) as f64 / arriving_s } else { 0.0 };
        let sent_pps = per_second(total.sent as f64);
        // What is not expected anywhere was made all the same.
        let made_pps = per_second((total.sent + sent.unmarked) as f64);
        let generator_was_the_limit = match about.asked_pps {
            Some(asked) => made_pps < asked * RATE_REACHED && !about.interrupted,
            // Who loses nothing of all that the generator has might carry more.
            // What the sink threw away had come through.
            None => {
                let lost = total.lost.saturating_sub(about.sink_overflow.unwrap_or(0));
                Counts { lost, ..total }.loss_percent() < LOSS_OF_THE_UNLOADED_PERCENT
            }
        };
        let heard: Vec<f64> = account.flows.iter().filter(|f| f.received > 0).map(|f| f.jitter_ns).collect();
        let ends = EndsReport {
            missed: sent.missed,
            refused: sent.refused,
            sink_overflow: about.sink_overflow,
            generator_was_the_limit,
            way_was_open: about.way_was_open,
        };
        let machine_cpu_s = about.machine_time.map(|time| time.busy_s);
        let mut report = Report {
            started: about.started.0,
            start_ns: about.started.1,
            profile: about.profile,
            from: about.from,
            to: about.to,
            total,
            elapsed_s,
            sent_pps,
            received_pps,
            sent_gbps: per_second(sent.bytes as f64 * 8.0 / 1e9),
            round_trip: about.round_trip,
            latency_ns: latency(account),
            jitter_ns: if heard.is_empty() { 0.0 } else { heard.iter().sum::<f64>() / heard.len() as f64 },
            latency_points: points(account),
            longest_gap_ns: account.longest_gap_ns,
            longest_flow_gap_ns: account.flows.iter().map(|flow| flow.longest_gap_ns).max().unwrap_or(0),
            reordered_behind_max: account.flows.iter().map(|flow| flow.behind_max).max().unwrap_or(0),
            machine_cpu_s,
            unmarked: sent.unmarked,
            inside: sent.inside.clone(),
            packets_per_cpu_s: machine_cpu_s.filter(|s| *s > 0.0).map(|s| total.received as f64 / s),
            stolen_cpu_s: about.machine_time.map(|time| time.stolen_s),
            workers: about.workers,
            ends,
            reconfiguration: None,
            warnings: Vec::new(),
            series: account.series.clone(),
            machine: about.machine,
            flows_left_out: sent.by_flow.len().saturating_sub(FLOWS_MAX),
            flows: rows.collect(),
        };
        report.warnings = report.warn(about.asked_pps, about.interrupted);
        report.warnings.extend(report.doubts(account));
        report.warnings.extend(report.machine.warnings());
        report
    }

    fn warn(&self, asked_pps: Option<f64>, interrupted: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if interrupted {
            warnings.push("the run was ended before its time".into());
        }
        if self.ends.generator_was_the_limit {
            let sent = rate(self.sent_pps);
            warnings.push(match asked_pps {
                Some(asked) => {
                    format!("{GENERATOR_LIMIT}: it sent {sent} packets/s of the {} asked for", rate(asked))
                }
                None => format!("{GENERATOR_LIMIT}: all of its {sent} packets/s came through"),
            });
        }
        if self.ends.refused > 0 {
            warnings.push(format!("the sender's own kernel refused {} packets", self.ends.refused));
        }
        if let Some(overflow @ 1..) = self.ends.sink_overflow {
            warnings
                .push(format!("the sink was too slow for {overflow} packets that came; they count as lost"));
        }
        if !self.ends.way_was_open {
            warnings.push("no packet came through before the counting began".into());
        }
        warnings
    }

    /// What the sinks cannot be sure of, and what the machine took from the run.
    fn doubts(&self, account: &Totals) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.ends.missed > 0 && !self.ends.generator_was_the_limit {
            doubts.push(format!(
                "the generator was held up, and left out {} packets that were due: latencies of that time were not seen",
                self.ends.missed
            ));
        }
        if account.split_flows > 0 {
            doubts.push(format!(
                "{} flows came to more than one sink: of these, duplicates and reordering are known only in part",
                account.split_flows
            ));
        }
        if account.beyond_window > 0 {
            doubts.push(format!(
                "{} packets were more than {} numbers late: some may be duplicates",
                account.beyond_window, account.window
            ));
        }
        let whole = self.elapsed_s * self.machine.cpus as f64;
        if let Some(stolen) = self.stolen_cpu_s.filter(|stolen| whole > 0.0 && stolen / whole > STOLEN) {
            doubts.push(format!(
                "the hypervisor took {:.1} % of this machine's CPUs meanwhile",
                100.0 * stolen / whole
            ));
        }
        if self.round_trip && self.total.lost > 0 {
            doubts.push("packets were lost on their way, or on their way back".into());
        }
        doubts
    }
}

fn latency(account: &Totals) -> Option<Latency> {
    let histogram = &account.latency;
    let at = |quantile| histogram.value_at_quantile(quantile);
    // Of a thousand packets none is the one in ten thousand.
    let known =
        |quantile: f64| (histogram.len() as f64 * (1.0 - quantile) >= 1.0 - 1e-6).then(|| at(quantile));
    (!histogram.is_empty()).then(|| Latency {
        min: histogram.min(),
        mean: histogram.mean(),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        p9999: known(0.9999),
        p99999: known(0.99999),
        p999999: known(0.999_999),
        max: histogram.max(),
    })
}

fn points(account: &Totals) -> Vec<LatencyPoint> {
    let mut points: Vec<LatencyPoint> = Vec::new();
    for value in account.latency.iter_quantiles(POINTS_PER_HALVING) {
        let point = LatencyPoint {
            quantile: value.quantile(),
            ns: value.value_iterated_to().min(account.latency.max()),
        };
        if points.last() != Some(&point) {
            points.push(point);
        }
    }
    points
}

/// Microseconds, short.
#[must_use]
pub fn micros(ns: u64) -> String {
    format!("{:.1}", ns as f64 / 1e3)
}

/// Packets a second, short.
#[must_use]
pub fn rate(pps: f64) -> String {
    match pps {
        p if p >= 1e6 => format!("{:.3} M", p / 1e6),
        p if p >= 1e4 => format!("{:.1} k", p / 1e3),
        p => format!("{p:.1}"),
    }
}

#[cfg(test)]
mod tests;
