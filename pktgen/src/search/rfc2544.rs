//! `pktgen rfc2544`: the four tests that RFC 2544 describes in section 26, for each frame size.
//!
//! * *Throughput* (26.1): the highest rate of which nothing is lost.
//! * *Latency* (26.2): at that rate.
//! * *Frame loss rate* (26.3): at the greatest rate, and in steps of a tenth below it, until nothing is lost twice in a row.
//! * *Back-to-back frames* (26.4): the longest burst, as fast as the generator can, of which nothing is lost.
//!
//! The RFC's greatest rate is that of the medium. A virtual link has none: here it is what the generator sends at its utmost. The RFC's trials last
//! 60 s (latency: 120 s, 20 times; bursts: 50 times); ours as long and as often as is asked for, and the report says so.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::bounds::{Found, Goal, Plan, Search};
use super::session::{Circumstances, LatencyAt, Session, TrialRow};
use super::{NDR, RATE_MIN};
use crate::files::{self, check_writable, write};
use crate::html;
use crate::pace::Rate;
use crate::profile::{SIZE_MAX, SIZE_MIN, parse_duration};
use crate::report::rate;
use crate::run::{Output, Stop, Way};

/// The sizes of section 9.1 for Ethernet, without their FCS; the smallest raised to what a mark needs.
const SIZES: [u32; 7] = [64, 124, 252, 508, 1020, 1276, 1514];
/// A burst shorter than this is not tried.
const BURST_MIN: Duration = Duration::from_millis(1);
/// Section 26.4 wants trials of two seconds at least: a burst that long is called endless.
const BURST_MAX: Duration = Duration::from_secs(2);
/// How near the bounds of a burst's length come: (longer − shorter) / longer.
const BURST_WIDTH: f64 = 0.05;
/// Steps of the frame loss rate: tenths of the greatest rate.
const STEPS: u32 = 10;

const EXAMPLES: &str = "\
Examples:
  All sizes between two pods of a lab, as a page:
    pktgen rfc2544 --lab demo --from bench/client --to bench/near --html rfc2544.html
  As long as the RFC asks, two sizes:
    pktgen rfc2544 --from-netns a --to-netns b --sizes 64,1514 --duration 60s --latency-duration 120s --bursts 50

Exit status: 0 done; 1 for some size no rate without loss was found; 2 could not run.";

/// Measure throughput, latency, frame loss rate and back-to-back frames, for each frame size (RFC 2544)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    way: Way,
    /// Frame sizes, from Ethernet header to end of payload, without FCS
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_values_t = SIZES, value_parser = clap::value_parser!(u32).range(SIZE_MIN as i64..=SIZE_MAX as i64))]
    sizes: Vec<u32>,
    /// How long trials are; earlier ones of a search are shorter. The RFC asks for 60s
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = parse_duration)]
    duration: Duration,
    /// How long latency is measured. The RFC asks for 120s [default: --duration]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    latency_duration: Option<Duration>,
    /// How often the longest burst is searched, to take the mean. The RFC asks for 50
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    bursts: u32,
    /// How near the bounds of the throughput must come, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = super::parse_percent)]
    width: f64,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// Write the report as a page, too: with plots, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// A step of the frame loss rate.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// Of the greatest rate.
    pub percent: f64,
    /// Packets a second.
    pub load_pps: f64,
    /// Lost of what was sent.
    pub loss_percent: f64,
}

/// The longest bursts of which nothing was lost.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bursts {
    /// Packets, the mean of all searches.
    pub mean_packets: f64,
    /// Of each search; none: even the shortest lost.
    pub packets: Vec<Option<u64>>,
    /// Bursts as long as they get lost nothing: there is no limit.
    pub endless: bool,
}

/// What was found for a size.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct SizeRow {
    /// Bytes of a frame, without FCS.
    pub size: u32,
    /// What the generator sent at its utmost, packets a second.
    pub greatest_pps: f64,
    /// The highest rate without loss, packets a second.
    pub throughput_pps: Option<f64>,
    /// The same, gigabits a second of frames.
    pub throughput_gbps: Option<f64>,
    /// The subject may carry more than the generator sends.
    pub generator_was_the_limit: bool,
    /// At that rate.
    pub latency: Option<LatencyAt>,
    /// From the greatest rate down.
    pub frame_loss: Vec<Step>,
    /// The longest bursts.
    pub back_to_back: Bursts,
}

/// All sizes.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Rfc2544 {
    /// By size.
    pub sizes: Vec<SizeRow>,
    /// How long trials were, seconds; the RFC asks for 60.
    pub trial_s: f64,
    /// Every trial.
    pub trials: Vec<TrialRow>,
    /// What a reader must know before believing the figures.
    pub warnings: Vec<String>,
    /// Under which circumstances.
    pub about: Circumstances,
}

/// Runs `pktgen rfc2544`.
///
/// # Errors
/// It could not run, or was interrupted.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    check_writable(args.html.as_deref())?;
    let stop = Stop::on_signals()?;
    let mut found = Rfc2544 { trial_s: args.duration.as_secs_f64(), ..Rfc2544::default() };
    for &size in &args.sizes {
        let way = args.way.of_size(size);
        let open = match way.open() {
            Ok(open) => open,
            // The next may fit.
            Err(error) if args.sizes.len() > 1 => {
                found.warnings.push(format!("{size} bytes: {error:#}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut session = Session::new(open, stop);
        let (row, about) = of_size(args, size, &mut session)?;
        let (trials, warnings) = session.end();
        found.sizes.push(row);
        found.trials.extend(trials);
        found.warnings.extend(warnings.into_iter().map(|warning| format!("{size} bytes: {warning}")));
        found.about = about;
    }
    if found.sizes.is_empty() {
        bail!("no size could be measured: {}", found.warnings.join("; "));
    }
    if let Some(file) = &args.html {
        write(file, &html::rfc2544_page("rfc2544", &found))?;
    }
    print(&found, args.output)?;
    let all = found.sizes.iter().all(|row| row.throughput_pps.is_some());
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn of_size(args: &Args, size: u32, session: &mut Session<'_>) -> anyhow::Result<(SizeRow, Circumstances)> {
    let title = |what: &str| format!("{size} bytes, {what}");
    let utmost = session.trial(&title("greatest rate"), Rate::Max, args.duration)?;
    if !utmost.ends.way_was_open {
        bail!("nothing comes through; `pktgen run` with the same arguments says more");
    }
    let greatest = utmost.sent_pps;
    let goal = Goal { name: NDR.into(), loss_ratio: 0.0 };
    let plan = Plan {
        min: RATE_MIN.min(greatest),
        max: greatest,
        first_duration: args.duration / 8,
        last_duration: args.duration,
        phases: 3,
        width: (args.width / 100.0).clamp(0.000_1, 0.5),
        trials: 1,
        exceed_ratio: 0.5,
    };
    let mut search = Search::new(plan, vec![goal.clone()]);
    while let Some(ask) = search.next() {
        let trial = session.ask(&title("throughput"), ask)?;
        search.tell(trial);
    }
    let bounds = search.found(&goal);
    let throughput_pps = match bounds {
        Some(Found::Between(lower, _) | Found::AtLeast(lower)) => Some(lower),
        _ => None,
    };
    let latency = match throughput_pps {
        Some(pps) => Some(session.latency_at(100.0, pps, args.latency_duration.unwrap_or(args.duration))?),
        None => None,
    };
    let frame_loss = frame_loss(greatest, |load| {
        let report = session.trial(&title("frame loss"), Rate::PerSecond(load), args.duration)?;
        Ok(report.total.loss_percent())
    })?;
    let back_to_back = back_to_back(args.bursts, |duration| {
        let report = session.trial(&title("back-to-back"), Rate::Max, duration)?;
        Ok((report.total.sent, report.total.lost))
    })?;
    let row = SizeRow {
        size,
        greatest_pps: greatest,
        throughput_pps,
        throughput_gbps: throughput_pps.map(|pps| pps * f64::from(size) * 8.0 / 1e9),
        generator_was_the_limit: session.was_limited_by_the_generator(bounds, greatest),
        latency,
        frame_loss,
        back_to_back,
    };
    Ok((row, Circumstances::of(&utmost)))
}

/// From the greatest rate down in tenths of it, until two in a row lose nothing.
fn frame_loss(
    greatest: f64,
    mut loss_percent_at: impl FnMut(f64) -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for tenths in (1..=STEPS).rev() {
        let percent = f64::from(tenths) * 100.0 / f64::from(STEPS);
        let load_pps = greatest * percent / 100.0;
        let loss_percent = loss_percent_at(load_pps)?;
        steps.push(Step { percent, load_pps, loss_percent });
        if let [.., a, b] = steps.as_slice()
            && a.loss_percent == 0.0
            && b.loss_percent == 0.0
        {
            break;
        }
    }
    Ok(steps)
}

/// Searches so often for the longest burst without loss; a burst is asked for by its length in time, and says what was sent and lost.
fn back_to_back(
    searches: u32,
    mut burst: impl FnMut(Duration) -> anyhow::Result<(u64, u64)>,
) -> anyhow::Result<Bursts> {
    let mut packets = Vec::new();
    let mut endless = true;
    for _ in 0..searches {
        let (sent, lost) = burst(BURST_MAX)?;
        if lost == 0 {
            packets.push(Some(sent));
            continue;
        }
        endless = false;
        let (mut shorter, mut longer, mut best) = (None, BURST_MAX, None);
        let mut next = BURST_MIN;
        loop {
            let (sent, lost) = burst(next)?;
            if lost == 0 {
                (shorter, best) = (Some(next), Some(sent).max(best));
            } else {
                longer = next;
            }
            let Some(carried) = shorter else { break };
            let (a, b) = (carried.as_secs_f64(), longer.as_secs_f64());
            if (b - a) / b <= BURST_WIDTH {
                break;
            }
            next = Duration::from_secs_f64((a * b).sqrt());
        }
        packets.push(best);
    }
    let mean_packets =
        packets.iter().map(|burst| burst.unwrap_or(0) as f64).sum::<f64>() / packets.len().max(1) as f64;
    Ok(Bursts { mean_packets, packets, endless })
}

/// Prints what was found.
///
/// # Errors
/// It cannot be written.
pub fn print(found: &Rfc2544, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return files::print_json(found);
    }
    // Writing into a String cannot fail.
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:>6} {:>14} {:>9} {:>12} {:>12} {:>12} {:>14} {:>16}",
        "BYTES", "THROUGHPUT/s", "Gbit/s", "p50 µs", "p99 µs", "MAX µs", "LOSS AT MAX %", "BACK-TO-BACK"
    );
    for row in &found.sizes {
        let latency = row.latency.as_ref().and_then(|at| at.latency_ns);
        let micros = |ns: Option<u64>| ns.map_or("-".into(), crate::report::micros);
        let _ = writeln!(
            out,
            "{:>6} {:>14} {:>9} {:>12} {:>12} {:>12} {:>14} {:>16}{}",
            row.size,
            row.throughput_pps.map_or("none".into(), rate),
            row.throughput_gbps.map_or("-".into(), |gbps| format!("{gbps:.3}")),
            micros(latency.map(|l| l.p50)),
            micros(latency.map(|l| l.p99)),
            micros(latency.map(|l| l.max)),
            row.frame_loss.first().map_or("-".into(), |step| format!("{:.4}", step.loss_percent)),
            if row.back_to_back.endless {
                "endless".into()
            } else {
                format!("{:.0}", row.back_to_back.mean_packets)
            },
            if row.generator_was_the_limit { "   the generator was the limit" } else { "" }
        );
    }
    let _ =
        writeln!(out, "Trials of {:.1} s; RFC 2544 asks for 60 s. Sizes are without the FCS.", found.trial_s);
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
    fn frame_loss_goes_down_in_tenths_until_nothing_is_lost_twice() {
        // Carries 430 of 1000.
        let steps = frame_loss(1_000.0, |load| Ok(100.0 * (load - 430.0).max(0.0) / load)).unwrap();
        let percents: Vec<f64> = steps.iter().map(|step| step.percent).collect();
        assert_eq!(percents, [100.0, 90.0, 80.0, 70.0, 60.0, 50.0, 40.0, 30.0]);
        assert!((steps[0].loss_percent - 57.0).abs() < 1e-9 && steps[6].loss_percent == 0.0);
    }

    /// Sends a thousand packets a millisecond into a buffer of so many.
    fn buffer(room: u64) -> impl FnMut(Duration) -> anyhow::Result<(u64, u64)> {
        move |burst| {
            let sent = (burst.as_secs_f64() * 1e6) as u64;
            Ok((sent, sent.saturating_sub(room)))
        }
    }

    #[test]
    fn the_longest_burst_is_what_the_buffer_holds() {
        for room in [1_500, 20_000, 333_333, 1_900_000] {
            let bursts = back_to_back(2, buffer(room)).unwrap();
            assert!(!bursts.endless && bursts.packets.len() == 2);
            let near = room as f64 * (1.0 - 2.0 * BURST_WIDTH)..=room as f64;
            assert!(near.contains(&bursts.mean_packets), "{room}: {bursts:?}");
        }
    }

    #[test]
    fn bursts_that_never_or_always_lose_are_said_to() {
        assert!(back_to_back(3, buffer(u64::MAX)).unwrap().endless);
        let never = back_to_back(1, buffer(10)).unwrap();
        assert_eq!((never.endless, never.packets, never.mean_packets), (false, vec![None], 0.0));
    }

    #[test]
    fn a_search_that_is_interrupted_says_so() {
        assert!(back_to_back(1, |_| bail!("interrupted")).is_err());
        assert!(frame_loss(1.0, |_| bail!("interrupted")).is_err());
    }
}
