//! `pktgen soak`: one long run, and a verdict.
//!
//! Memory does not grow with time: rows of the series become longer instead of more, and latencies are counted, not kept.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use crate::account::SeriesRow;
use crate::files::{self, check_writable, write};
use crate::html::{self, Named};
use crate::pace::Rate;
use crate::profile::parse_duration;
use crate::report::Report;
use crate::run::{Output, Stop, Way};

/// At the end the 99 % latency may be so many times that of the beginning.
const DRIFT: f64 = 2.0;
/// What is too small to be called a drift: half a millisecond.
const DRIFT_MIN_NS: u64 = 500_000;
/// Rows that beginning and end have at least, for drift to be told.
const ROWS: usize = 20;

const EXAMPLES: &str = "\
Examples:
  A night at 100,000 packets a second; a line every minute:
    pktgen soak --lab demo --from default/client --to default/server --rate 100k --duration 8h --html night.html
  An hour of which one packet in a million may be lost:
    pktgen soak --from-netns a --to-netns b --rate 200k --duration 1h --max-loss 0.0001

Exit status: 0 passed; 1 failed; 2 could not run. Ctrl-C ends it early, with a verdict on what was.";

/// Send steadily for hours, tell how it goes now and then, and give a verdict
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    way: Way,
    /// Packets a second, all flows together [default: what the profile says, or 10k]
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    duration: Duration,
    /// How often a line is written
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_duration)]
    every: Duration,
    /// How much may be lost, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = crate::search::parse_percent)]
    max_loss: f64,
    /// How long all may be silent
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    max_silence: Duration,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Write the report as a page, too: with plots, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// A soak: the run, and what was wrong with it.
#[derive(Debug, Serialize)]
struct Soaked {
    passed: bool,
    failures: Vec<String>,
    #[serde(flatten)]
    report: Report,
}

/// Runs `pktgen soak`.
///
/// # Errors
/// It could not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    check_writable(args.html.as_deref())?;
    let stop = Stop::on_signals()?;
    let mut open = args.way.open()?;
    open.follow.lines_every = Some(args.every);
    let mut report = open.trial(args.rate.unwrap_or(open.asked.rate), args.duration, stop)?;
    let failures = judge(&report, args.max_loss, args.max_silence);
    for warning in &report.warnings {
        files::say(warning);
    }
    let passed = failures.is_empty();
    report.warnings.splice(0..0, failures.iter().map(|failure| format!("failed: {failure}")));
    let page = args
        .html
        .as_deref()
        .map(|file| (file, html::runs_page(&[Named { name: "soak".into(), report: report.clone() }])));
    match args.output {
        Output::Json => {
            // One packet in so many flows says little in a report of hours.
            report.flows.truncate(1000);
            files::print_json(&Soaked { passed, failures, report })?;
        }
        Output::Table => {
            let failed: String = failures.iter().map(|failure| format!("failed      {failure}\n")).collect();
            let verdict = if passed { "passed" } else { "FAILED" };
            files::print(&format!("{}{failed}verdict     {verdict}\n", report.table()))?;
        }
    }
    if let Some((file, page)) = page {
        write(file, &page)?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was wrong.
fn judge(report: &Report, max_loss_percent: f64, max_silence: Duration) -> Vec<String> {
    let mut failures = Vec::new();
    let total = report.total;
    if total.received == 0 {
        return vec!["nothing came".into()];
    }
    if total.loss_percent() > max_loss_percent {
        failures.push(format!(
            "{} packets were lost: {:.6} %, of {max_loss_percent} % allowed",
            total.lost,
            total.loss_percent()
        ));
    }
    if total.duplicated > 0 {
        failures.push(format!("{} packets came twice", total.duplicated));
    }
    if u128::from(report.longest_gap_ns) > max_silence.as_nanos() {
        failures.push(format!(
            "nothing came for {:.3} s, of {:.3} s allowed",
            report.longest_gap_ns as f64 / 1e9,
            max_silence.as_secs_f64()
        ));
    }
    if report.ends.generator_was_the_limit {
        failures.push("the generator did not keep its rate: what was asked for was not tried".into());
    }
    failures.extend(drift(&report.series.rows));
    failures
}

/// Whether the last tenth of the time was much slower than the first, by the middle of its 99 % latencies.
fn drift(rows: &[SeriesRow]) -> Option<String> {
    let part = rows.len() / 10;
    if rows.len() < ROWS {
        return None;
    }
    let middle = |rows: &[SeriesRow]| {
        let mut latencies: Vec<u64> = rows.iter().filter_map(|row| row.p99_ns).collect();
        latencies.sort_unstable();
        latencies.get(latencies.len() / 2).copied()
    };
    let first = middle(rows.get(..part)?)?;
    let last = middle(rows.get(rows.len() - part..)?)?;
    let drifted = last as f64 > first as f64 * DRIFT && last > first + DRIFT_MIN_NS;
    drifted.then(|| {
        format!(
            "latency grew: 99 % within {:.1} µs at first, {:.1} µs in the end",
            first as f64 / 1e3,
            last as f64 / 1e3
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Series;
    use crate::report::Counts;

    fn report(p99: impl Fn(u64) -> u64) -> Report {
        let rows = (0..100).map(|at| SeriesRow { p99_ns: Some(p99(at)), ..SeriesRow::default() }).collect();
        Report {
            total: Counts { sent: 1_000_000, received: 1_000_000, ..Counts::default() },
            longest_gap_ns: 1_000_000,
            series: Series { row_s: 1.0, rows },
            ..Report::default()
        }
    }

    fn failures(report: &Report) -> String {
        judge(report, 0.0, Duration::from_secs(1)).join("; ")
    }

    #[test]
    fn a_run_without_loss_silence_or_drift_passes() {
        assert_eq!(failures(&report(|_| 50_000)), "");
        // Noise, and a single bad row at the end.
        assert_eq!(failures(&report(|at| if at == 99 { 90_000_000 } else { 50_000 + at % 7 * 5_000 })), "");
    }

    #[test]
    fn each_thing_that_is_wrong_fails_it() {
        let fine = || report(|_| 50_000);
        let mut lossy = fine();
        lossy.total.lost = 3;
        assert!(failures(&lossy).contains("3 packets were lost: 0.000300 %"));
        assert_eq!(judge(&lossy, 0.001, Duration::from_secs(1)), Vec::<String>::new());
        let mut doubled = fine();
        doubled.total.duplicated = 1;
        assert!(failures(&doubled).contains("1 packets came twice"));
        let mut silent = fine();
        silent.longest_gap_ns = 1_500_000_000;
        assert!(failures(&silent).contains("nothing came for 1.500 s"));
        let mut slow = fine();
        slow.ends.generator_was_the_limit = true;
        assert!(failures(&slow).contains("generator"));
        assert_eq!(failures(&Report::default()), "nothing came");
    }

    #[test]
    fn latency_that_grows_with_time_fails_it() {
        assert!(failures(&report(|at| 100_000 + at * 20_000)).contains("latency grew"));
        assert_eq!(failures(&report(|at| 10_000 + at * 1_000)), "", "a tenth of a millisecond is no matter");
        assert_eq!(failures(&report(|at| 10_000_000 + at * 50_000)), "", "nor is half as much again");
    }
}
