//! `pktgen search`: how much a subject carries, in the field's terms.
//!
//! * MRR, maximum receive rate: what comes through when the generator does its utmost.
//! * NDR, non-drop rate: the highest rate of which nothing is lost.
//! * PDR, partial drop rate: the highest rate of which no more than a given part is lost.

pub mod bounds;
pub mod rfc2544;
pub mod session;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::files::{self, check_writable, write};
use crate::html;
use crate::pace::Rate;
use crate::profile::parse_duration;
use crate::report;
use crate::run::{Output, Stop, Way};
use bounds::{Found, Goal, Plan, Search};
use session::{Circumstances, LatencyAt, Session, TrialRow};

/// Below this no rate is tried: one packet a millisecond says nothing of a forwarder.
const RATE_MIN: f64 = 1000.0;
/// The rate without loss.
const NDR: &str = "NDR";

const EXAMPLES: &str = "\
Examples:
  What a lab's data plane carries between two pods of one node, smallest frames:
    pktgen search --lab demo --from bench/client --to bench/near --flows 8
  Only the rate without loss, longer and more exactly:
    pktgen search --from-netns a --to-netns b --goal ndr --duration 30s --trials 3 --width 0.5
  With latencies at 10, 50 and 90 % of the NDR, as a page:
    pktgen search --from-netns a --to-netns b --latency-at 10,50,90 --html search.html

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
    /// How long the first trials are [default: an eighth of --duration]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    first_duration: Option<Duration>,
    /// How much of a rate's time may be lossy, percent: 50, the majority of trials counts
    #[arg(long, value_name = "PERCENT", default_value_t = 50.0, value_parser = parse_percent)]
    exceed: f64,
    /// Also measure latency at these parts of the NDR, percent
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = parse_percent)]
    latency_at: Vec<f64>,
    /// How many trials at a rate decide, if they are all needed
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
    /// Write the report as a page, too: with plots, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// A percentage.
///
/// # Errors
/// The text is none.
pub fn parse_percent(text: &str) -> Result<f64, String> {
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

/// What was found for a goal.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// `MRR`, `NDR`, `PDR 0.5 %`.
    pub name: String,
    /// The highest rate that was carried, packets a second.
    pub lower_pps: Option<f64>,
    /// The lowest that was not.
    pub upper_pps: Option<f64>,
    /// What came through at the lower: the conditional throughput.
    pub throughput_pps: Option<f64>,
    /// The generator's utmost was carried, or what was not carried it had not sent, or the sink not taken: the subject may carry more.
    pub generator_was_the_limit: bool,
}

/// What was found.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// By goal.
    pub results: Vec<Row>,
    /// What the generator sent at its utmost, packets a second.
    pub generator_pps: f64,
    /// At parts of the NDR.
    pub latency: Vec<LatencyAt>,
    /// Every trial.
    pub trials: Vec<TrialRow>,
    /// What a reader must know before believing the figures.
    pub warnings: Vec<String>,
    /// Under which circumstances.
    pub about: Circumstances,
}

/// Runs `pktgen search`.
///
/// # Errors
/// It could not run, or was interrupted.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    check_writable(args.html.as_deref())?;
    if !args.latency_at.is_empty() && !args.goal.contains(&Wanted::Ndr) {
        bail!("--latency-at is of the NDR: --goal must name it, too");
    }
    let stop = Stop::on_signals()?;
    let mut session = Session::new(args.way.open()?, stop);
    let utmost = session.trial("MRR", Rate::Max, args.duration)?;
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
            throughput_pps: Some(utmost.received_pps),
            generator_was_the_limit: utmost.ends.generator_was_the_limit,
        });
    }
    let goal = |wanted| match wanted {
        Wanted::Mrr => None,
        Wanted::Ndr => Some(Goal { name: NDR.into(), loss_ratio: 0.0 }),
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
        first_duration: args.first_duration.unwrap_or(args.duration / 8),
        last_duration: args.duration,
        phases: 3,
        width: (args.width / 100.0).clamp(0.000_1, 0.5),
        trials: args.trials,
        exceed_ratio: (args.exceed / 100.0).min(0.99),
    };
    let mut search = Search::new(plan, goals.clone());
    while let Some(ask) = search.next() {
        let trial = session.ask("search", ask)?;
        search.tell(trial);
    }
    for goal in &goals {
        let found = search.found(goal);
        let (lower_pps, upper_pps) = match found {
            Some(Found::Between(lower, upper)) => (Some(lower), Some(upper)),
            Some(Found::AtLeast(lower)) => (Some(lower), None),
            Some(Found::Below(upper)) => (None, Some(upper)),
            None => (None, None),
        };
        let generator_was_the_limit = session.was_limited_by_the_generator(found, generator_pps);
        let throughput_pps = search.conditional_throughput(goal);
        results.push(Row {
            name: goal.name.clone(),
            lower_pps,
            upper_pps,
            throughput_pps,
            generator_was_the_limit,
        });
    }
    let mut latency = Vec::new();
    if !args.latency_at.is_empty() {
        let ndr = results.iter().find(|row| row.name == NDR).and_then(|row| row.lower_pps);
        // Without an NDR the other results are worth having.
        for (percent, ndr) in
            args.latency_at.iter().filter(|percent| **percent > 0.0).zip(ndr.into_iter().cycle())
        {
            latency.push(session.latency_at(*percent, ndr, args.duration)?);
        }
    }
    let (trials, warnings) = session.end();
    let about = Circumstances::of(&utmost);
    let found = Outcome { results, generator_pps, latency, trials, warnings, about };
    if let Some(file) = &args.html {
        write(file, &html::search_page("search", &found))?;
    }
    print(&found, args.output)?;
    let all = found.results.iter().all(|result| result.lower_pps.is_some());
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what was found.
///
/// # Errors
/// It cannot be written.
pub fn print(found: &Outcome, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return files::print_json(found);
    }
    // Writing into a String cannot fail.
    let mut out = String::new();
    for result in &found.results {
        let limit = if result.generator_was_the_limit { "   the generator was the limit" } else { "" };
        let upper = result.upper_pps.map(report::rate);
        let said = match (result.lower_pps, upper) {
            (Some(lower), Some(upper)) => format!("{:>12} packets/s   not {upper}", report::rate(lower)),
            (Some(lower), None) => format!("{:>12} packets/s", report::rate(lower)),
            (None, Some(upper)) => format!("        none: not even {upper} packets/s"),
            (None, None) => "        none".into(),
        };
        let _ = writeln!(out, "{:<12} {said}{limit}", result.name);
    }
    for at in &found.latency {
        let _ = writeln!(
            out,
            "latency at {:>3} % of NDR, {} packets/s: {}   µs",
            at.percent,
            report::rate(at.load_pps),
            at.latency_ns.map_or_else(|| "nothing came".into(), |latency| latency.line())
        );
    }
    let _ = writeln!(
        out,
        "{} trials; the generator sends up to {} packets/s",
        found.trials.len(),
        report::rate(found.generator_pps)
    );
    files::print(&out)?;
    for warning in &found.warnings {
        files::say(warning);
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
