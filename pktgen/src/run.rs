//! `pktgen run`: one generator, one sink, one profile.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use nix::sys::signal::{SigSet, Signal};

use crate::account::{Account, Collector, Totals};
use crate::clock;
use crate::connections;
use crate::cpu::{MachineTime, WorkerLoad, Workers};
use crate::engine::{Progress, Receive, Sent, Transmit};
use crate::files::{self, check_writable, write};
use crate::html::{self, Named};
use crate::live::{Follow, Live};
use crate::machine::Machine;
use crate::pace::{Pacer, Rate};
use crate::profile::file::Connections;
use crate::profile::{Profile, parse_duration};
use crate::reconfigure::Meanwhile;
use crate::report::{Circumstances, Report};
use crate::way::Asked;
pub use crate::way::Way;

/// How often scouts are sent until one comes through.
const SCOUT_EVERY: Duration = Duration::from_millis(20);
const TURN: Duration = Duration::from_millis(5);
/// How long the last packets of a run that was ended early are waited for, at most.
const LINGER_STOPPED: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  Between two pods of a lab, 10,000 packets a second; fail if one is lost:
    pktgen run --lab demo --from default/client --to default/server --rate 10k --expect-no-loss
  As fast as it goes between two network namespaces, 8 flows of simple IMIX:
    pktgen run --from-netns a --to-netns b --rate max --flows 8 --size imix --duration 30s
  To a service whose only backend is a pod that listens on 8080:
    pktgen run --lab demo --from default/client --to default/server --to-address 10.96.0.10 --port 80 --sink-port 8080
  The same from the kernel, five times as fast, on two processors (see --engine):
    pktgen run --engine live --from-netns a --to-netns b --rate max --flows 1000 --cores 2,3 --output json
  What is lost while policies change, every flow watched:
    pktgen run --lab demo --from default/client --to default/server --rate 100k --while './change-policies' --again
  Through the loopback of this machine:
    pktgen run --to-address 127.0.0.1 --rate 1k --duration 2s --output json

Exit status: 0 done; 1 --expect-no-loss, and a packet was lost; 2 could not run.";

/// Send flows of UDP from one place to another, and tell what was lost, late, doubled or out of order
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    way: Way,
    /// Packets a second, all flows together: 500, 10k, 1.5M; or max [default: 10k]
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// For how long [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    meanwhile: Meanwhile,
    /// Exit status 1 if a packet was lost, or none was sent
    #[arg(long)]
    expect_no_loss: bool,
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Write the report as a page, too: with plots, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs `pktgen run`.
///
/// # Errors
/// It could not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let asked = args.way.asked()?;
    if let Some((what, from, to)) = asked.connections()? {
        let stop = Stop::on_signals()?;
        let what = match args.rate {
            Some(Rate::PerSecond(per_second)) => Connections { per_second, ..what },
            Some(Rate::Max) => bail!("connections: how many a second? --rate max is for packets"),
            None => what,
        };
        let duration = args.duration.unwrap_or(asked.duration);
        return connections::run(&from, &to, what, duration, stop, args.output, args.expect_no_loss);
    }
    check_writable(args.html.as_deref())?;
    let open = args.way.open()?;
    let stop = Stop::on_signals()?;
    let rate = args.rate.unwrap_or(open.asked.rate);
    let duration = args.duration.unwrap_or(open.asked.duration);
    if (Profile { flows: open.flows, rate, duration }).is_empty() {
        bail!("nothing is due in {duration:?} at that rate: give it a longer --duration, or a higher --rate");
    }
    let report =
        args.meanwhile.during(duration, &open.began_ns, stop, || open.trial(rate, duration, stop))?;
    match args.output {
        Output::Json => files::print_json(&report)?,
        Output::Table => files::print(&report.table())?,
    }
    for warning in &report.warnings {
        files::say(warning);
    }
    let (lost, sent) = (report.total.lost, report.total.sent);
    if let Some(file) = &args.html {
        write(file, &html::runs_page(&[Named { name: "run".into(), report }]))?;
    }
    let failed = args.expect_no_loss && (lost > 0 || sent == 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A way whose ends are open: trials follow one another on it.
pub struct Open<'a> {
    pub(crate) way: &'a Way,
    /// What profile and flags say.
    pub(crate) asked: Asked,
    /// Sizes, as they were written.
    pub(crate) sizes: String,
    /// From where to where, for the report.
    pub(crate) from: String,
    pub(crate) to: String,
    /// Flows whose packets have marks.
    pub(crate) flows: u32,
    /// How much each core sends of all.
    pub(crate) weights: Vec<u64>,
    /// In trials, each is one thread's.
    pub(crate) ends: RefCell<Ends>,
    pub(crate) machine: Machine,
    /// When the first packet of the latest trial was due, by the monotonic clock; 0 before.
    pub(crate) began_ns: AtomicU64,
    /// What is shown of trials while they go on.
    pub follow: Follow,
}

/// Both ends of a way.
pub(crate) struct Ends {
    pub(crate) transmits: Vec<Box<dyn Transmit>>,
    pub(crate) receives: Vec<Box<dyn Receive>>,
}

impl Open<'_> {
    /// Sends at a rate for a while, and tells what became of it.
    ///
    /// # Errors
    /// The kernel refuses in a way that trying again will not mend.
    pub fn trial(&self, rate: Rate, duration: Duration, stop: Stop) -> anyhow::Result<Report> {
        let profile = Profile { flows: self.flows, rate, duration };
        let mut ends = self.ends.try_borrow_mut().context("one trial at a time")?;
        let measured = measure(&mut ends, &profile, self, stop)?;
        let about = Circumstances {
            started: measured.started,
            profile: serde_json::to_value(profile.row(&self.sizes))?,
            asked_pps: match rate {
                Rate::Max => None,
                Rate::PerSecond(rate) => Some(rate),
            },
            from: self.from.clone(),
            to: self.to.clone(),
            machine_time: measured.machine_time,
            workers: measured.workers,
            machine: self.machine.clone(),
            sink_overflow: measured.overflowed,
            way_was_open: measured.way_was_open,
            round_trip: self.way.reflect,
            interrupted: stop.is_set(),
        };
        let mut report = Report::new(&measured.sent, &measured.totals, about);
        if report.total.received == 0 {
            report.warnings.extend(self.asked.hint());
        }
        Ok(report)
    }
}

/// Ctrl-C or SIGTERM ends a run early; it is still reported.
#[derive(Debug, Clone, Copy)]
pub struct Stop(&'static AtomicBool);

impl Stop {
    /// Threads started from now on leave these signals to the one that waits for them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn on_signals() -> anyhow::Result<Self> {
        static STOP: AtomicBool = AtomicBool::new(false);
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        thread::spawn(move || {
            if signals.wait().is_ok() {
                STOP.store(true, Ordering::Relaxed);
            }
        });
        Ok(Stop(&STOP))
    }

    /// For what no signal is to end.
    #[cfg(test)]
    #[must_use]
    pub fn never() -> Self {
        static STOP: AtomicBool = AtomicBool::new(false);
        Stop(&STOP)
    }

    /// Whether one has come.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Measured {
    sent: Sent,
    totals: Totals,
    started: (String, u64),
    machine_time: Option<MachineTime>,
    workers: Vec<WorkerLoad>,
    overflowed: Option<u64>,
    way_was_open: bool,
}

fn measure(ends: &mut Ends, profile: &Profile, open: &Open<'_>, stop: Stop) -> anyhow::Result<Measured> {
    // Different in every run, so that what an earlier one left on the way is not taken for ours.
    let run = std::process::id() ^ (clock::now_ns() >> 8) as u32;
    let Ends { transmits, receives } = ends;
    let overflowed = |receives: &[Box<dyn Receive>]| -> Option<u64> {
        receives.iter().map(|receive| receive.overflowed()).sum()
    };
    let overflowed_before = overflowed(receives);
    let (mut collector, outlets) = Collector::new(receives.len(), clock::now_ns(), profile.duration)?;
    let mut accounts = Vec::new();
    for outlet in outlets {
        accounts.push(Account::new(run, open.flows)?.with_outlet(outlet));
    }
    let (progress, sent_so_far, close) = (Progress::default(), AtomicU64::new(0), AtomicBool::new(false));
    let workers = Workers::default();
    let result: anyhow::Result<_> = thread::scope(|scope| {
        let workers = &workers;
        let (progress, sent_so_far, close, collector) = (&progress, &sent_so_far, &close, &mut collector);
        let receivers: Vec<_> = receives
            .iter_mut()
            .zip(&mut accounts)
            .enumerate()
            .map(|(at, (receive, account))| {
                let work = move || receive.receive(run, account, progress, close);
                scope.spawn(move || workers.run(format!("sink {at}"), work))
            })
            .collect();
        let generate = || {
            let transmits = transmits;
            let way_was_open = open_the_way(transmits, run, progress, open.asked.wait, stop)?;
            let started = (clock::utc_now(), clock::now_ns());
            collector.begin(started.1);
            open.began_ns.store(started.1, Ordering::Relaxed);
            let busy = MachineTime::now();
            let senders: Vec<_> = transmits
                .iter_mut()
                .zip(Pacer::split(profile.rate, profile.duration, &open.weights))
                .enumerate()
                .map(|(at, (transmit, pacer))| {
                    let work = move || transmit.send(run, pacer, sent_so_far, stop.0);
                    scope.spawn(move || workers.run(format!("generator {at}"), work))
                })
                .collect();
            let mut live = Live::begin(&open.follow, profile.duration);
            while !senders.iter().all(|sender| sender.is_finished()) {
                thread::sleep(TURN);
                let sent = sent_so_far.load(Ordering::Relaxed);
                collector.collect(clock::now_ns(), sent)?;
                live.turn(sent, progress.received.load(Ordering::Relaxed), collector, workers);
            }
            live.end();
            let sent = Sent::merge(senders.into_iter().map(join).collect::<anyhow::Result<_>>()?);
            let machine_time = busy.zip(MachineTime::now()).map(|(before, after)| after.since(before));
            wait_for_the_last(sent.packets(), progress, open.asked.linger, stop);
            Ok((sent, started, machine_time, way_was_open))
        };
        let sent = generate();
        close.store(true, Ordering::Relaxed);
        receivers.into_iter().try_for_each(join)?;
        sent
    });
    let (sent, started, machine_time, way_was_open) = result?;
    let overflowed =
        overflowed_before.zip(overflowed(receives)).map(|(before, after)| after.saturating_sub(before));
    let totals = collector.finish(sent.packets(), accounts)?;
    Ok(Measured { sent, totals, started, machine_time, workers: workers.loads(), overflowed, way_was_open })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn open_the_way(
    transmits: &mut [Box<dyn Transmit>],
    run: u32,
    progress: &Progress,
    limit: Duration,
    stop: Stop,
) -> anyhow::Result<bool> {
    let start = Instant::now();
    loop {
        for transmit in &mut *transmits {
            transmit.scout(run)?;
        }
        let sent = Instant::now();
        while sent.elapsed() < SCOUT_EVERY {
            if progress.scouted.load(Ordering::Relaxed) {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(1));
        }
        if start.elapsed() > limit || stop.is_set() {
            return Ok(false);
        }
    }
}

fn wait_for_the_last(sent: u64, progress: &Progress, linger: Duration, stop: Stop) {
    let mut received = progress.received.load(Ordering::Relaxed);
    let mut since = Instant::now();
    // Ended early, it need not wait long.
    let linger = || if stop.is_set() { linger.min(LINGER_STOPPED) } else { linger };
    while received < sent && since.elapsed() < linger() {
        thread::sleep(TURN);
        let now = progress.received.load(Ordering::Relaxed);
        if now != received {
            (received, since) = (now, Instant::now());
        }
    }
}
