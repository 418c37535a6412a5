//! How a run goes, while it goes: a screen that is drawn again and again where there is a terminal; or lines, now and then, for a log.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::account::Collector;
use crate::cpu::{MachineTime, WorkerLoad, Workers};
use crate::report::{micros, rate};

const DRAW_EVERY: Duration = Duration::from_millis(500);
/// Rates that the small curves show.
const HISTORY: usize = 40;
const BAR: usize = 30;
/// A line that is too long for the terminal ends at its edge: else there would be more lines to go over than we know.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
/// Nobody's terminal is wider than what we write.
const WIDTH_MAX: usize = 110;

/// What is shown of runs, and how.
#[derive(Debug, Clone, Default)]
pub struct Follow {
    /// Nothing.
    pub quiet: bool,
    /// What stands above: which trial this is.
    pub heading: String,
    /// A line every so often instead of a screen.
    pub lines_every: Option<Duration>,
}

/// Follows one run.
#[derive(Debug)]
pub struct Live {
    follow: Follow,
    terminal: bool,
    duration: Duration,
    start: Instant,
    drawn_at: Instant,
    lines: usize,
    last: Shot,
    sent: VecDeque<f64>,
    received: VecDeque<f64>,
}

/// Counters at a time.
#[derive(Debug, Clone, Default)]
struct Shot {
    sent: u64,
    received: u64,
    workers: Vec<WorkerLoad>,
    machine: Option<MachineTime>,
}

impl Live {
    /// Begins.
    #[must_use]
    pub fn begin(follow: &Follow, duration: Duration) -> Self {
        let now = Instant::now();
        Live {
            follow: follow.clone(),
            terminal: std::io::stderr().is_terminal(),
            duration,
            start: now,
            drawn_at: now,
            lines: 0,
            last: Shot { machine: MachineTime::now(), ..Shot::default() },
            sent: VecDeque::new(),
            received: VecDeque::new(),
        }
    }

    /// To be called often; draws when it is time to.
    pub fn turn(&mut self, sent: u64, received: u64, collector: &Collector, workers: &Workers) {
        let every = self.follow.lines_every.unwrap_or(DRAW_EVERY);
        let interval = self.drawn_at.elapsed();
        if interval < every || self.follow.quiet || (!self.terminal && self.follow.lines_every.is_none()) {
            return;
        }
        self.drawn_at = Instant::now();
        let now = Shot { sent, received, workers: workers.loads(), machine: MachineTime::now() };
        let text = if self.follow.lines_every.is_some() {
            self.line(&now, interval, collector) + "\n"
        } else {
            let screen = self.screen(&now, interval, collector);
            let back = back_over(self.lines);
            self.lines = screen.len();
            let lines: String = screen.iter().map(|line| format!("{}\n", cut(line))).collect();
            format!("{back}{NO_WRAP}{lines}{WRAP}")
        };
        self.last = now;
        // A terminal that is gone does not stop a run.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Takes away what was drawn.
    pub fn end(&mut self) {
        let _ = std::io::stderr().write_all(back_over(std::mem::take(&mut self.lines)).as_bytes());
    }

    fn rates(&self, now: &Shot, interval: Duration) -> (f64, f64) {
        let per_second =
            |now: u64, before: u64| now.saturating_sub(before) as f64 / interval.as_secs_f64().max(1e-9);
        (per_second(now.sent, self.last.sent), per_second(now.received, self.last.received))
    }

    fn line(&self, now: &Shot, interval: Duration, collector: &Collector) -> String {
        let (sent_pps, received_pps) = self.rates(now, interval);
        let latency = collector.latest().and_then(|row| {
            Some(format!(
                "p50 {}  p99 {}  max {} µs",
                micros(row.p50_ns?),
                micros(row.p99_ns?),
                micros(row.max_ns?)
            ))
        });
        format!(
            "{:>8.0} s  sent {}/s  received {}/s  missing {}  {}",
            self.start.elapsed().as_secs_f64(),
            rate(sent_pps),
            rate(received_pps),
            now.sent.saturating_sub(now.received),
            latency.unwrap_or_else(|| "nothing came".into())
        )
    }

    fn screen(&mut self, now: &Shot, interval: Duration, collector: &Collector) -> Vec<String> {
        let (sent_pps, received_pps) = self.rates(now, interval);
        for (history, rate) in [(&mut self.sent, sent_pps), (&mut self.received, received_pps)] {
            history.push_back(rate);
            if history.len() > HISTORY {
                history.pop_front();
            }
        }
        let missing = now.sent.saturating_sub(now.received);
        let elapsed = self.start.elapsed();
        let mut lines = vec![
            format!(
                "{}{}  {:.1} of {:.1} s",
                self.follow.heading,
                bar(elapsed.as_secs_f64() / self.duration.as_secs_f64().max(1e-9), BAR),
                elapsed.as_secs_f64(),
                self.duration.as_secs_f64()
            ),
            format!("sent      {:>11} packets/s  {}", rate(sent_pps), curve(&self.sent)),
            format!("received  {:>11} packets/s  {}", rate(received_pps), curve(&self.received)),
            format!(
                "missing   {missing:>11} packets    {:.4} %",
                100.0 * missing as f64 / now.sent.max(1) as f64
            ),
        ];
        let latency = collector.latency();
        if !latency.is_empty() {
            let quantiles = [
                ("p50", 0.5),
                ("p90", 0.9),
                ("p99", 0.99),
                ("p99.9", 0.999),
                ("p99.99", 0.9999),
                ("max", 1.0),
            ];
            let all = quantiles
                .map(|(name, at)| format!("{name} {}", micros(latency.value_at_quantile(at))))
                .join("  ");
            lines.push(format!("latency   {all} µs"));
        }
        if let Some(row) = collector.latest()
            && let (Some(p50), Some(p99), Some(max)) = (row.p50_ns, row.p99_ns, row.max_ns)
        {
            lines.push(format!("  lately  p50 {}  p99 {}  max {} µs", micros(p50), micros(p99), micros(max)));
        }
        let before =
            |name: &str| self.last.workers.iter().find(|worker| worker.name == name).map_or(0.0, |w| w.cpu_s);
        for worker in &now.workers {
            let load = ((worker.cpu_s - before(&worker.name)) / interval.as_secs_f64()).clamp(0.0, 1.0);
            lines.push(format!("{:<15} {:>3.0} %  {}", worker.name, load * 100.0, bar(load, BAR)));
        }
        if let (Some(after), Some(before)) = (now.machine, self.last.machine) {
            let busy = after.since(before).busy_s / interval.as_secs_f64();
            lines.push(format!("machine   {busy:.1} CPUs busy"));
        }
        lines
    }
}

/// Up to the first of so many lines, and nothing below.
fn back_over(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\r\x1b[{lines}A\x1b[J") }
}

fn cut(line: &str) -> String {
    line.chars().take(WIDTH_MAX).collect()
}

fn bar(part: f64, width: usize) -> String {
    let full = (part.clamp(0.0, 1.0) * width as f64).round();
    let full = (0..width).take_while(|at| (*at as f64) < full).count();
    format!("{}{}", "█".repeat(full), "░".repeat(width - full))
}

/// Rates as small columns, from zero to the highest.
fn curve(rates: &VecDeque<f64>) -> String {
    const COLUMNS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = rates.iter().copied().fold(1.0, f64::max);
    let column = |rate: &f64| {
        let level = rate / most * (COLUMNS.len() - 1) as f64;
        COLUMNS
            .into_iter()
            .enumerate()
            .take_while(|(at, _)| *at as f64 <= level + 0.5)
            .last()
            .map_or(' ', |(_, c)| c)
    };
    rates.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Account;
    use crate::payload::Mark;

    #[test]
    fn bars_and_curves_fill_with_their_values() {
        assert_eq!((bar(0.0, 4), bar(0.5, 4), bar(2.0, 4)), ("░░░░".into(), "██░░".into(), "████".into()));
        assert_eq!(curve(&VecDeque::from([0.0, 50.0, 100.0])), "▁▅█");
    }

    #[test]
    fn a_screen_has_rates_loss_percentiles_and_loads() {
        let (mut collector, outlets) = Collector::new(1, 0, Duration::from_secs(1)).unwrap();
        let mut account =
            outlets.into_iter().map(|o| Account::new(1, 1).unwrap().with_outlet(o)).next().unwrap();
        for sequence in 0..1_000 {
            account.count(
                Mark { run: 1, flow: 0, sequence, sent_ns: sequence * 1_000_000 },
                sequence * 1_000_000 + 12_000,
                0,
            );
            collector.collect(sequence * 1_000_000, sequence).unwrap();
        }
        let mut live =
            Live::begin(&Follow { heading: "trial 3 ".into(), ..Follow::default() }, Duration::from_secs(10));
        let workers = vec![WorkerLoad { name: "sink 0".into(), cpu_s: 0.25, load: 0.5 }];
        let now = Shot { sent: 1_010, received: 1_000, workers, machine: None };
        let screen = live.screen(&now, Duration::from_millis(500), &collector).join("\n");
        for said in [
            "trial 3",
            "2020.0 packets/s",
            "2000.0 packets/s",
            "0.9901 %",
            "p99.99 12.0",
            "sink 0           50 %",
        ] {
            assert!(screen.contains(said), "{said} is not in\n{screen}");
        }
        let line = live.line(&now, Duration::from_millis(500), &collector);
        assert!(line.contains("missing 10 ") && line.contains("p99 12.0"), "{line}");
    }

    #[test]
    fn what_was_drawn_is_gone_over() {
        assert_eq!((back_over(0), back_over(3)), (String::new(), "\r\x1b[3A\x1b[J".into()));
    }
}
