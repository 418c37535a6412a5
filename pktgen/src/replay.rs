//! `pktgen replay`: sends the packets of a capture out of an interface, as they were recorded, faster or slower, or at a rate.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::capture::Capture;
use crate::engine::wait;
use crate::engine::xsk::{FRAME_MAX, Port};
use crate::files;
use crate::pace::Rate;
use crate::place::Place;
use crate::profile::parse_duration;
use crate::reach;
use crate::report::rate;
use crate::run::{Output, Stop};

/// A file is read whole.
const FILE_MAX: u64 = 4 << 30;
const BATCH: usize = 64;
/// What Ethernet carries at least.
const FRAME_MIN: usize = 14;

const EXAMPLES: &str = "\
Examples:
  As it was recorded:
    pktgen replay capture.pcap --interface eth1
  A thousand times, 100,000 packets a second, out of a network namespace:
    pktgen replay capture.pcapng --netns a --interface e0 --rate 100k --loops 1000
  Ten times as fast as recorded, for a minute:
    pktgen replay capture.pcap --interface eth1 --rate x10 --loops 0 --duration 60s

Exit status: 0 done; 2 could not run.";

/// Send the packets of a capture (pcap or pcapng, Ethernet) out of an interface
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The capture
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The interface to send out of
    #[arg(long, value_name = "INTERFACE")]
    interface: String,
    /// The network namespace that it is in [default: this one]
    #[arg(long, value_name = "NETNS")]
    netns: Option<String>,
    /// How fast: recorded, x2 (twice as fast as recorded), packets a second (500, 10k, 1.5M), or max
    #[arg(long, value_name = "RATE", default_value = "recorded")]
    rate: Speed,
    /// How many times; 0: until --duration or Ctrl-C
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    loops: u64,
    /// At most for how long
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// How to print the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// How fast packets follow one another.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Speed {
    /// So many times as fast as recorded.
    Recorded(f64),
    /// Whatever the times in the capture are.
    At(Rate),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "recorded" {
            return Ok(Speed::Recorded(1.0));
        }
        match text.strip_prefix('x') {
            Some(factor) => match factor.parse::<f64>() {
                Ok(factor) if factor.is_finite() && (1e-6..=1e6).contains(&factor) => {
                    Ok(Speed::Recorded(factor))
                }
                _ => Err(format!("{text:?}: a factor from 0.000001 to 1000000 is needed, such as x2")),
            },
            None => text.parse().map(Speed::At),
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    interface: String,
    sent: u64,
    bytes: u64,
    loops: u64,
    elapsed_s: f64,
    sent_pps: f64,
    asked_pps: Option<f64>,
    generator_was_the_limit: bool,
    warnings: Vec<String>,
}

impl Report {
    fn table(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{} → {}", self.file, self.interface);
        let _ = writeln!(
            out,
            "sent        {:>12}   {} packets/s, {:.2} s",
            self.sent,
            rate(self.sent_pps),
            self.elapsed_s
        );
        let _ = writeln!(out, "bytes       {:>12}", self.bytes);
        let _ = writeln!(out, "loops       {:>12}", self.loops);
        out
    }
}

/// When each packet of a loop is due, and how long a loop takes.
struct Timetable {
    due: Vec<Duration>,
    length: Duration,
}

impl Timetable {
    /// `times_ns` as recorded, of the packets that are sent.
    fn new(times_ns: &[u64], speed: Speed) -> Self {
        let count = times_ns.len();
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4);
        match speed {
            Speed::At(Rate::Max) => Timetable { due: vec![Duration::ZERO; count], length: Duration::ZERO },
            Speed::At(Rate::PerSecond(pps)) => Timetable {
                due: (0..count).map(|n| seconds(n as f64 / pps)).collect(),
                length: seconds(count as f64 / pps),
            },
            Speed::Recorded(factor) => {
                let first = times_ns.first().copied().unwrap_or(0);
                // Clocks are set back now and then: no packet is due before the one ahead of it.
                let mut latest = 0;
                let due: Vec<Duration> = times_ns
                    .iter()
                    .map(|at| {
                        latest = latest.max(at.saturating_sub(first));
                        seconds(latest as f64 / 1e9 / factor)
                    })
                    .collect();
                let last = due.last().copied().unwrap_or_default();
                // The next loop begins as long after the last packet as packets are apart.
                let apart = last / u32::try_from(count.saturating_sub(1).max(1)).unwrap_or(u32::MAX);
                Timetable { due, length: last.saturating_add(apart) }
            }
        }
    }
}

/// Runs `pktgen replay`.
///
/// # Errors
/// It could not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let path = args.file.display();
    let file = files::read(&args.file, FILE_MAX)?;
    let capture = Capture::read(&file).with_context(|| path.to_string())?;
    let place = args.netns.clone().map_or(Place::Here, Place::Netns);
    let interface = reach::interface(&place, &args.interface)?;
    let longest = FRAME_MAX.min(usize::from(interface.mtu) + crate::profile::ETHERNET_LEN + VLAN);
    let mut warnings = Vec::new();
    if capture.truncated {
        warnings.push("the file ends within a packet".into());
    }
    let cut = capture.packets.iter().filter(|packet| packet.cut).count();
    if cut > 0 {
        warnings.push(format!("{cut} packets were captured in part, and are sent as far as they were"));
    }
    let fits = |len: usize| (FRAME_MIN..=longest).contains(&len);
    let packets: Vec<_> = capture.packets.iter().filter(|packet| fits(packet.bytes.len())).collect();
    let left_out = capture.packets.len() - packets.len();
    if left_out > 0 {
        warnings.push(format!(
            "{left_out} packets were left out: frames of {FRAME_MIN} to {longest} bytes can be sent out of {}",
            interface.name
        ));
    }
    if packets.is_empty() {
        bail!("there is no packet in {path} that could be sent");
    }
    let times: Vec<u64> = packets.iter().map(|packet| packet.at_ns).collect();
    let table = Timetable::new(&times, args.rate);
    let stop = Stop::on_signals()?;
    let mut port = place.within(|| Port::open(&interface, 0))?;
    let start = Instant::now();
    let (mut sent, mut bytes, mut loops) = (0u64, 0u64, 0u64);
    'loops: while args.loops == 0 || loops < args.loops {
        let begin = table.length.saturating_mul(u32::try_from(loops).unwrap_or(u32::MAX));
        for (packet, due) in packets.iter().zip(&table.due) {
            let due = begin.saturating_add(*due);
            loop {
                let now = start.elapsed();
                if stop.is_set() || args.duration.is_some_and(|duration| now >= duration) {
                    break 'loops;
                }
                if now >= due {
                    break;
                }
                port.flush();
                wait((due - now).min(TURN));
            }
            let data = file.get(packet.bytes.clone()).unwrap_or(&[]);
            while !port.send(data) {
                if stop.is_set() {
                    break 'loops;
                }
            }
            sent += 1;
            bytes += data.len() as u64;
            if sent % BATCH as u64 == 0 {
                port.flush();
            }
        }
        loops += 1;
    }
    port.finish();
    let elapsed = start.elapsed();
    let elapsed_s = elapsed.as_secs_f64();
    let sent_pps = if elapsed_s > 0.0 { sent as f64 / elapsed_s } else { 0.0 };
    let due_s = (table.length.as_secs_f64() * loops as f64).max(1e-9);
    let asked_pps =
        (table.length > Duration::ZERO).then(|| packets.len() as f64 / table.length.as_secs_f64());
    // A run of a moment says nothing of a rate.
    let late = loops > 0 && elapsed_s > due_s * 1.01 + 0.02;
    let generator_was_the_limit = late && asked_pps.is_some();
    if generator_was_the_limit {
        warnings.push(format!(
            "the generator was the limit: it took {elapsed_s:.2} s for what was to take {due_s:.2} s"
        ));
    }
    if stop.is_set() {
        warnings.push("it was ended before its time".into());
    }
    let report = Report {
        file: path.to_string(),
        interface: format!("{place} {}", interface.name),
        sent,
        bytes,
        loops,
        elapsed_s,
        sent_pps,
        asked_pps,
        generator_was_the_limit,
        warnings,
    };
    match args.output {
        Output::Json => files::print_json(&report)?,
        Output::Table => files::print(&report.table())?,
    }
    for warning in &report.warnings {
        files::say(warning);
    }
    Ok(ExitCode::SUCCESS)
}

/// A frame may be longer than the MTU by a VLAN tag.
const VLAN: usize = 4;
const TURN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn speeds_are_read() {
        assert_eq!("recorded".parse(), Ok(Speed::Recorded(1.0)));
        assert_eq!("x2.5".parse(), Ok(Speed::Recorded(2.5)));
        assert_eq!("10k".parse(), Ok(Speed::At(Rate::PerSecond(10_000.0))));
        for bad in ["", "x", "x0", "x-1", "xinf", "fast"] {
            assert!(bad.parse::<Speed>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn recorded_times_are_kept_or_scaled_and_never_go_back() {
        let times = [5_000_000_000, 5_010_000_000, 5_004_000_000, 5_030_000_000];
        let table = Timetable::new(&times, Speed::Recorded(1.0));
        assert_eq!(table.due, [Duration::ZERO, 10 * MS, 10 * MS, 30 * MS]);
        assert_eq!(table.length, 40 * MS);
        assert_eq!(Timetable::new(&times, Speed::Recorded(2.0)).due[3], 15 * MS);
        let paced = Timetable::new(&times, Speed::At(Rate::PerSecond(1000.0)));
        assert_eq!((paced.due[3], paced.length), (3 * MS, 4 * MS));
    }
}
