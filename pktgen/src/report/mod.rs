//! What a run found out, for people and for programs.

pub mod command;

use std::fmt::Write;

use serde::Serialize;

use crate::account::Totals;
use crate::engine::Sent;
use crate::profile::ProfileRow;

/// Quantiles of the latency histogram that are reported, by name.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
/// Flows that the table lists; JSON has them all.
const FLOWS_SHOWN: usize = 10;
/// Below this part of the rate that was asked for, the generator is called the limit.
const RATE_REACHED: f64 = 0.99;
/// Below this loss at the generator's greatest rate, the generator is called the limit.
const LOSS_OF_THE_UNLOADED_PERCENT: f64 = 0.1;

/// A run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub profile: ProfileRow,
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
    /// One-way latency; `None` when nothing came.
    pub latency_ns: Option<Latency>,
    /// Interarrival jitter (RFC 3550), mean of all flows.
    pub jitter_ns: f64,
    /// Longest time without a packet between two that came.
    pub longest_gap_ns: u64,
    /// Seconds that all CPUs of the machine were busy meanwhile, whoever made them so.
    pub machine_cpu_s: Option<f64>,
    /// Packets that came for each of these seconds.
    pub packets_per_cpu_s: Option<f64>,
    /// How the ends did.
    pub ends: EndsReport,
    /// What a reader must know before believing the figures.
    pub warnings: Vec<String>,
    /// Each flow.
    pub flows: Vec<FlowRow>,
}

/// What became of packets.
#[derive(Debug, Default, Clone, Copy, Serialize)]
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
    fn loss_percent(self) -> f64 {
        if self.sent == 0 { 0.0 } else { 100.0 * self.lost as f64 / self.sent as f64 }
    }
}

/// One-way latency in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    min: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    max: u64,
}

/// How generator and sink did.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
pub struct FlowRow {
    flow: usize,
    #[serde(flatten)]
    counts: Counts,
    latency_min_ns: Option<u64>,
    latency_mean_ns: Option<u64>,
    latency_max_ns: Option<u64>,
    jitter_ns: f64,
}

/// What else a report is made of.
#[derive(Debug)]
pub struct Circumstances {
    /// What was asked for.
    pub profile: ProfileRow,
    /// Packets a second that were asked for, if any number was.
    pub asked_pps: Option<f64>,
    /// From where.
    pub from: String,
    /// To where.
    pub to: String,
    /// CPU seconds of the whole machine.
    pub machine_cpu_s: Option<f64>,
    /// What the sink's socket lost.
    pub sink_overflow: Option<u64>,
    /// Whether a scout came through.
    pub way_was_open: bool,
    /// The run was ended early.
    pub interrupted: bool,
}

impl Report {
    /// Holds what was sent against what came.
    #[must_use]
    pub fn new(sent: &Sent, account: &Totals, about: Circumstances) -> Self {
        let flows: Vec<FlowRow> = sent
            .by_flow
            .iter()
            .zip(&account.flows)
            .enumerate()
            .map(|(flow, (&sent, came))| {
                let some = |value: u64| (came.received > 0).then_some(value);
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
                    latency_max_ns: some(came.latency_max_ns),
                    jitter_ns: came.jitter_ns,
                }
            })
            .collect();
        let total = flows.iter().fold(Counts::default(), |sum, row| Counts {
            sent: sum.sent + row.counts.sent,
            received: sum.received + row.counts.received,
            lost: sum.lost + row.counts.lost,
            duplicated: sum.duplicated + row.counts.duplicated,
            reordered: sum.reordered + row.counts.reordered,
        });
        let elapsed_s = sent.elapsed.as_secs_f64();
        let per_second = |amount: f64| if elapsed_s > 0.0 { amount / elapsed_s } else { 0.0 };
        let arriving_s =
            account.first_ns.map_or(0.0, |first| account.last_ns.saturating_sub(first) as f64 / 1e9);
        // The first packet opens the interval, so it is not one of those that came within it.
        let received_pps = if arriving_s > 0.0 { (total.received - 1) as f64 / arriving_s } else { 0.0 };
        let sent_pps = per_second(total.sent as f64);
        let generator_was_the_limit = match about.asked_pps {
            Some(asked) => sent_pps < asked * RATE_REACHED && !about.interrupted,
            // Who loses nothing of all that the generator has might carry more.
            None => total.loss_percent() < LOSS_OF_THE_UNLOADED_PERCENT,
        };
        let heard: Vec<f64> = account.flows.iter().filter(|f| f.received > 0).map(|f| f.jitter_ns).collect();
        let ends = EndsReport {
            missed: sent.missed,
            refused: sent.refused,
            sink_overflow: about.sink_overflow,
            generator_was_the_limit,
            way_was_open: about.way_was_open,
        };
        let mut report = Report {
            profile: about.profile,
            from: about.from,
            to: about.to,
            total,
            elapsed_s,
            sent_pps,
            received_pps,
            sent_gbps: per_second(sent.bytes as f64 * 8.0 / 1e9),
            latency_ns: latency(account),
            jitter_ns: if heard.is_empty() { 0.0 } else { heard.iter().sum::<f64>() / heard.len() as f64 },
            longest_gap_ns: account.longest_gap_ns,
            machine_cpu_s: about.machine_cpu_s,
            packets_per_cpu_s: about.machine_cpu_s.filter(|s| *s > 0.0).map(|s| total.received as f64 / s),
            ends,
            warnings: Vec::new(),
            flows,
        };
        report.warnings = report.warn(about.asked_pps, about.interrupted);
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
                    format!(
                        "the generator was the limit: it sent {sent} packets/s of the {} asked for",
                        rate(asked)
                    )
                }
                None => format!("the generator was the limit: all of its {sent} packets/s came through"),
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

    /// The report for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let Counts { sent, received, lost, duplicated, reordered } = self.total;
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{} → {}", self.from, self.to);
        let _ = writeln!(
            out,
            "sent        {sent:>12}   {} packets/s, {:.3} Gbit/s, {:.2} s",
            rate(self.sent_pps),
            self.sent_gbps,
            self.elapsed_s
        );
        let _ = writeln!(out, "received    {received:>12}   {} packets/s", rate(self.received_pps));
        let _ = writeln!(out, "lost        {lost:>12}   {:.4} %", self.total.loss_percent());
        let _ = writeln!(out, "duplicated  {duplicated:>12}");
        let _ = writeln!(out, "reordered   {reordered:>12}");
        if let Some(latency) = &self.latency_ns {
            let values = [latency.p50, latency.p90, latency.p99, latency.p999];
            let quantiles: Vec<String> = QUANTILES
                .iter()
                .zip(values)
                .map(|((name, _), value)| format!("{name} {}", micros(value)))
                .collect();
            let _ = writeln!(
                out,
                "latency     min {}   {}   max {}   µs, one way",
                micros(latency.min),
                quantiles.join("   "),
                micros(latency.max)
            );
            let _ = writeln!(
                out,
                "jitter      {:.1} µs; longest silence {:.1} ms",
                self.jitter_ns / 1e3,
                self.longest_gap_ns as f64 / 1e6
            );
        }
        if let (Some(seconds), Some(packets)) = (self.machine_cpu_s, self.packets_per_cpu_s) {
            let _ = writeln!(
                out,
                "machine     {seconds:.2} CPU seconds busy; {} packets for each",
                rate(packets)
            );
        }
        if self.flows.len() > 1 {
            let _ = writeln!(
                out,
                "\n{:>6} {:>12} {:>12} {:>9} {:>9} {:>9} {:>12}",
                "FLOW", "SENT", "RECEIVED", "LOST", "DUP", "REORDER", "MEAN µs"
            );
            for row in self.flows.iter().take(FLOWS_SHOWN) {
                let c = row.counts;
                let mean = row.latency_mean_ns.map_or("-".into(), micros);
                let _ = writeln!(
                    out,
                    "{:>6} {:>12} {:>12} {:>9} {:>9} {:>9} {mean:>12}",
                    row.flow, c.sent, c.received, c.lost, c.duplicated, c.reordered
                );
            }
            if let Some(more @ 1..) = self.flows.len().checked_sub(FLOWS_SHOWN) {
                let _ = writeln!(out, "       and {more} more; --output json has them all");
            }
        }
        out
    }
}

fn latency(account: &Totals) -> Option<Latency> {
    let histogram = &account.latency;
    let [p50, p90, p99, p999] = QUANTILES.map(|(_, quantile)| histogram.value_at_quantile(quantile));
    (!histogram.is_empty()).then(|| Latency {
        min: histogram.min(),
        mean: histogram.mean(),
        p50,
        p90,
        p99,
        p999,
        max: histogram.max(),
    })
}

fn micros(ns: u64) -> String {
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::account::{Account, Collector};
    use crate::pace::Rate;
    use crate::payload::Mark;
    use crate::profile::Profile;

    /// A run of one second that sent `sent` packets, of which the first `received` came.
    fn report(asked_pps: Option<f64>, sent: u64, received: u64, overflow: u64) -> Report {
        let mut account = Account::new(1, 1).unwrap();
        for sequence in 0..received {
            account.count(Mark { run: 1, flow: 0, sequence, sent_ns: 0 }, 1_000 + sequence, 0);
        }
        let (collector, _) = Collector::new(1, 0, Duration::from_secs(1)).unwrap();
        let totals = collector.finish(sent, vec![account]).unwrap();
        let rate = asked_pps.map_or(Rate::Max, Rate::PerSecond);
        let profile =
            Profile { flows: 1, sizes: "64".parse().unwrap(), rate, duration: Duration::from_secs(1) }
                .row("64");
        let sent = Sent { by_flow: vec![sent], elapsed: Duration::from_secs(1), ..Sent::default() };
        let about = Circumstances {
            profile,
            asked_pps,
            from: "a".into(),
            to: "b".into(),
            machine_cpu_s: Some(0.5),
            sink_overflow: Some(overflow),
            way_was_open: true,
            interrupted: false,
        };
        Report::new(&sent, &totals, about)
    }

    #[test]
    fn what_was_sent_and_did_not_come_is_lost() {
        let report = report(Some(1000.0), 1000, 990, 4);
        assert_eq!((report.total.lost, report.total.received), (10, 990));
        assert_eq!(report.packets_per_cpu_s, Some(1980.0));
        assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
        assert!(report.warnings[0].contains("too slow for 4 packets"));
        assert!(report.table().contains("1.0000 %"), "{}", report.table());
    }

    #[test]
    fn a_generator_that_does_not_keep_up_says_so() {
        assert!(!report(Some(1000.0), 1000, 1000, 0).ends.generator_was_the_limit);
        let slow = report(Some(1000.0), 900, 900, 0);
        assert!(
            slow.ends.generator_was_the_limit && slow.warnings[0].contains("900.0 packets/s of the 1000.0")
        );
    }

    #[test]
    fn a_generator_without_a_rate_is_the_limit_when_nothing_is_lost() {
        assert!(report(None, 10_000, 10_000, 0).ends.generator_was_the_limit);
        assert!(!report(None, 10_000, 9_000, 0).ends.generator_was_the_limit);
    }

    #[test]
    fn a_run_in_which_nothing_came_has_no_latency() {
        let report = report(Some(10.0), 10, 0, 0);
        assert!(report.latency_ns.is_none() && report.received_pps == 0.0);
        assert!(serde_json::to_string(&report).unwrap().contains("\"latency_ns\":null"));
    }
}
