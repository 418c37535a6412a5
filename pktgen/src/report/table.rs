//! A report for people.

use std::fmt::Write;

use super::{Counts, Latency, Report, micros, rate};

/// Flows that the table lists: those that lost most.
const FLOWS_SHOWN: usize = 10;

impl Report {
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
            let _ = writeln!(out, "latency     {}   µs, {}", latency.line(), self.trip());
            let _ = writeln!(
                out,
                "jitter      {:.1} µs; longest silence {:.1} ms, of one flow {:.1} ms",
                self.jitter_ns / 1e3,
                self.longest_gap_ns as f64 / 1e6,
                self.longest_flow_gap_ns as f64 / 1e6
            );
        }
        if let Some(change) = &self.reconfiguration {
            let _ = writeln!(
                out,
                "meanwhile   `{}` ran {} times: {} packets lost, as many as come in {:.2} ms; longest silence of a flow {:.2} ms, \
                 {:.2} ms when nothing happens",
                change.command,
                change.ran_s.len(),
                change.lost,
                change.lost_ms,
                change.longest_flow_gap_ms,
                change.usual_flow_gap_ms
            );
        }
        if let (Some(seconds), Some(packets)) = (self.machine_cpu_s, self.packets_per_cpu_s) {
            let _ = writeln!(
                out,
                "machine     {seconds:.2} CPU seconds busy; {} packets for each",
                rate(packets)
            );
        }
        if !self.workers.is_empty() {
            let loads: Vec<String> =
                self.workers.iter().map(|w| format!("{} {:.0} %", w.name, w.load * 100.0)).collect();
            let _ = writeln!(out, "workers     {}", loads.join(", "));
        }
        if self.unmarked > 0 {
            let _ =
                writeln!(out, "malformed   {:>12}   sent besides, and not expected anywhere", self.unmarked);
        }
        if let Some(inside) = &self.inside {
            let _ = writeln!(out, "pipeline    {:.1} ns a packet", inside.nanoseconds_a_packet);
            for (reason, count) in &inside.drops {
                let _ = writeln!(out, "dropped     {count:>12}   {reason}");
            }
        }
        let machine = &self.machine;
        let _ = writeln!(
            out,
            "on          {}, Linux {}, {} CPUs {}; pktgen {} ({}, {})",
            machine.host,
            machine.kernel,
            machine.cpus,
            machine.cpu_model,
            machine.version,
            machine.commit,
            machine.build
        );
        if self.flows.len() > 1 {
            let _ = writeln!(
                out,
                "\n{:>6} {:>12} {:>12} {:>9} {:>9} {:>9} {:>12}",
                "FLOW", "SENT", "RECEIVED", "LOST", "DUP", "REORDER", "MEAN µs"
            );
            let mut worst: Vec<_> = self.flows.iter().collect();
            worst.sort_by_key(|row| (std::cmp::Reverse(row.counts.lost), row.flow));
            for row in worst.into_iter().take(FLOWS_SHOWN) {
                let c = row.counts;
                let mean = row.latency_mean_ns.map_or("-".into(), micros);
                let _ = writeln!(
                    out,
                    "{:>6} {:>12} {:>12} {:>9} {:>9} {:>9} {mean:>12}",
                    row.flow, c.sent, c.received, c.lost, c.duplicated, c.reordered
                );
            }
            if let Some(more @ 1..) = (self.flows.len() + self.flows_left_out).checked_sub(FLOWS_SHOWN) {
                let _ = writeln!(
                    out,
                    "       and {more} more; --output json has up to {} of them",
                    super::FLOWS_MAX
                );
            }
        }
        out
    }
}

impl Report {
    /// Which latencies they are.
    #[must_use]
    pub fn trip(&self) -> &'static str {
        if self.round_trip { "round trip" } else { "one way" }
    }
}

impl Latency {
    /// On one line, in microseconds.
    #[must_use]
    pub fn line(&self) -> String {
        let mut parts = vec![format!("min {}", micros(self.min))];
        let known = [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p999)]
            .map(|(n, v)| (n, Some(v)));
        let rare = [("p99.99", self.p9999), ("p99.999", self.p99999), ("p99.9999", self.p999999)];
        parts.extend(
            known
                .iter()
                .chain(&rare)
                .filter_map(|(name, value)| Some(format!("{name} {}", micros((*value)?)))),
        );
        parts.push(format!("max {}", micros(self.max)));
        parts.join("   ")
    }
}
