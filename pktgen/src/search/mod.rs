//! `pktgen search`: how much a subject carries, in the field's terms.
//!
//! * MRR, maximum receive rate: what comes through when the generator does its utmost.
//! * NDR, non-drop rate: the highest rate of which nothing is lost.
//! * PDR, partial drop rate: the highest rate of which no more than a given part is lost.

pub mod bounds;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use serde::Serialize;

use crate::pace::Rate;
use crate::profile::parse_duration;
use crate::report::{self, Report};
use crate::run::{Open, Output, Stop, Way};
use bounds::{Ask, Found, Goal, Plan, Search, Trial};

/// Below this no rate is tried: one packet a millisecond says nothing of a forwarder.
const RATE_MIN: f64 = 1000.0;

const EXAMPLES: &str = "\
Examples:
  What a lab's data plane carries between two pods of one node, smallest frames:
    pktgen search --lab demo --from bench/client --to bench/near --flows 8
  Only the rate without loss, longer and more exactly:
    pktgen search --from-netns a --to-netns b --goal ndr --duration 30s --trials 3 --width 0.5

Exit status: 0 found; 1 something was not found, because even the lowest rate was lost from; 2 could not run.";

/// Find the highest rates that a way carries: MRR, NDR and PDR
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    way: Way,
    /// What to search for
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Wanted::Mrr, Wanted::Ndr, Wanted::Pdr])]
    goal: Vec<Wanted>,
    /// How much may be lost at the PDR, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.5, value_parser = parse_percent)]
    pdr_loss: f64,
    /// How long the trials are that the result rests on; earlier ones are shorter
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse_duration)]
    duration: Duration,
    /// How many trials at a rate decide; the majority counts
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    trials: u32,
    /// How near the bounds must come, percent of the upper
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = parse_percent)]
    width: f64,
    /// No rate above this is tried, packets a second [default: what the generator can do]
    #[arg(long, value_name = "RATE")]
    max_rate: Option<Rate>,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| format!("{text:?} is not a percentage from 0 to 100, such as 0.5"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// What comes through of all that the generator can send
    Mrr,
    /// The highest rate without loss
    Ndr,
    /// The highest rate with a little loss
    Pdr,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Packets a second.
    lower_pps: Option<f64>,
    upper_pps: Option<f64>,
    /// The generator's utmost was carried: the subject may carry more.
    generator_was_the_limit: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    results: Vec<Row>,
    /// What the generator sent at its utmost, packets a second.
    generator_pps: f64,
    trials: Vec<TrialRow>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TrialRow {
    asked_pps: Option<f64>,
    sent_pps: f64,
    received_pps: f64,
    loss_percent: f64,
    duration_s: f64,
    machine_cpu_s: Option<f64>,
    latency_ns: Option<report::Latency>,
}

impl TrialRow {
    fn new(asked_pps: Option<f64>, report: &Report) -> Self {
        let total = report.total;
        TrialRow {
            asked_pps,
            sent_pps: report.sent_pps,
            received_pps: report.received_pps,
            loss_percent: if total.sent == 0 { 0.0 } else { 100.0 * total.lost as f64 / total.sent as f64 },
            duration_s: report.elapsed_s,
            machine_cpu_s: report.machine_cpu_s,
            latency_ns: report.latency_ns,
        }
    }
}

/// Runs `pktgen search`.
///
/// # Errors
/// It could not run, or was interrupted.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let open = args.way.open()?;
    let stop = Stop::on_signals()?;
    let mut made = Vec::new();
    let mut warnings = Vec::new();

    let utmost = trial(&open, Rate::Max, args.duration, stop, &mut made, &mut warnings)?;
    if !utmost.ends.way_was_open {
        bail!("nothing comes through; `pktgen run` with the same arguments says more");
    }
    let generator_pps = utmost.sent_pps;
    let mut results = Vec::new();
    if args.goal.contains(&Wanted::Mrr) {
        results.push(Row {
            name: "MRR".into(),
            lower_pps: Some(utmost.received_pps),
            upper_pps: None,
            generator_was_the_limit: utmost.total.lost == 0,
        });
    }
    let goal = |wanted| match wanted {
        Wanted::Mrr => None,
        Wanted::Ndr => Some(Goal { name: "NDR".into(), loss_ratio: 0.0 }),
        Wanted::Pdr => {
            Some(Goal { name: format!("PDR {} %", args.pdr_loss), loss_ratio: args.pdr_loss / 100.0 })
        }
    };
    let goals: Vec<Goal> = args.goal.iter().filter_map(|wanted| goal(*wanted)).collect();
    let max = match args.max_rate {
        Some(Rate::PerSecond(rate)) => rate.min(generator_pps),
        _ => generator_pps,
    };
    let plan = Plan {
        min: RATE_MIN.min(max),
        max,
        first_duration: args.duration / 8,
        last_duration: args.duration,
        phases: 3,
        width: (args.width / 100.0).clamp(0.000_1, 0.5),
        trials: args.trials,
        exceed_ratio: 0.5,
    };
    let mut search = Search::new(plan, goals.clone());
    while let Some(Ask { load, duration }) = search.next() {
        let report = trial(&open, Rate::PerSecond(load), duration, stop, &mut made, &mut warnings)?;
        let Report { total, .. } = report;
        search.tell(Trial { ask: Ask { load, duration }, sent: total.sent, lost: total.lost });
    }
    for goal in &goals {
        let found = search.found(goal);
        let (lower_pps, upper_pps) = match found {
            Some(Found::Between(lower, upper)) => (Some(lower), Some(upper)),
            Some(Found::AtLeast(lower)) => (Some(lower), None),
            Some(Found::Below(upper)) => (None, Some(upper)),
            None => (None, None),
        };
        let generator_was_the_limit = matches!(found, Some(Found::AtLeast(_))) && max >= generator_pps;
        results.push(Row { name: goal.name.clone(), lower_pps, upper_pps, generator_was_the_limit });
    }
    warnings.sort();
    warnings.dedup();
    let found = Outcome { results, generator_pps, trials: made, warnings };
    print(&found, args.output)?;
    let all = found.results.iter().all(|result| result.lower_pps.is_some());
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn trial(
    open: &Open<'_>,
    rate: Rate,
    duration: Duration,
    stop: Stop,
    made: &mut Vec<TrialRow>,
    warnings: &mut Vec<String>,
) -> anyhow::Result<Report> {
    let report = open.trial(rate, duration, stop)?;
    if stop.is_set() {
        bail!("interrupted after {} trials; what they say is not enough", made.len());
    }
    let asked = match rate {
        Rate::Max => None,
        Rate::PerSecond(rate) => Some(rate),
    };
    let row = TrialRow::new(asked, &report);
    if std::io::stderr().is_terminal() {
        let asked = asked.map_or_else(|| "the utmost".into(), report::rate);
        // A terminal that is gone does not stop a search.
        let _ = writeln!(
            std::io::stderr(),
            "trial {:>3}: {asked} for {:.1} s: lost {:.4} %",
            made.len() + 1,
            duration.as_secs_f64(),
            row.loss_percent
        );
    }
    made.push(row);
    warnings.extend(report.warnings.iter().cloned());
    Ok(report)
}

fn print(found: &Outcome, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        println!("{}", serde_json::to_string_pretty(found)?);
        return Ok(());
    }
    for result in &found.results {
        let lower = result.lower_pps.map_or_else(|| "none".into(), report::rate);
        let upper =
            result.upper_pps.map_or_else(String::new, |upper| format!("   not {}", report::rate(upper)));
        let limit = if result.generator_was_the_limit { "   the generator was the limit" } else { "" };
        println!("{:<12} {lower:>12} packets/s{upper}{limit}", result.name);
    }
    println!(
        "{} trials; the generator sends up to {} packets/s",
        found.trials.len(),
        report::rate(found.generator_pps)
    );
    for warning in &found.warnings {
        eprintln!("pktgen: {warning}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_percentage_is_refused() {
        assert_eq!(
            (parse_percent("0"), parse_percent("0.5"), parse_percent("100")),
            (Ok(0.0), Ok(0.5), Ok(100.0))
        );
        for text in ["NaN", "-1", "inf", "100.1", "1%", ""] {
            assert!(parse_percent(text).is_err(), "{text:?} was taken");
        }
    }
}
