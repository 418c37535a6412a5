//! Reconfiguration loss: what packets meet while a command changes something, tables say.
//!
//! ```text
//!   trial  ├──────────┬───────────────────────────────┤
//!   quiet  │ 1/5      │ command, and again if asked   │
//! ```
//!
//! Packets lost count as time, too: at a steady rate, a way that is shut for t loses rate × t packets. A flow's longest silence is told beside
//! what usually lies between two of its packets.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::clock;
use crate::report::{Reconfiguration, Report};
use crate::run::Stop;

/// The part of a run that passes before the command.
const QUIET: u32 = 5;
const TURN: Duration = Duration::from_millis(5);
/// How often it is looked whether the command is over: its end is known as exactly.
const LOOK: Duration = Duration::from_millis(1);

/// A command that runs while packets flow.
#[derive(Debug, Clone, clap::Args)]
pub struct Meanwhile {
    /// Run this command (by sh) after a fifth of the time, and tell what packets met: how many were lost, and the longest silence of a flow
    #[arg(long = "while", value_name = "COMMAND")]
    command: Option<String>,
    /// Run it again and again until the time is over
    #[arg(long, requires = "command")]
    again: bool,
}

/// When the command ran, by the monotonic clock, and whether it did as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ran {
    from_ns: u64,
    to_ns: u64,
    failed: bool,
}

impl Meanwhile {
    /// Makes a run, with the command meanwhile; and tells what it met. `began_ns` becomes the time of the first packet.
    ///
    /// # Errors
    /// The run could not be made, or the command not begun.
    pub fn during(
        &self,
        duration: Duration,
        began_ns: &AtomicU64,
        stop: Stop,
        run: impl FnOnce() -> anyhow::Result<Report>,
    ) -> anyhow::Result<Report> {
        let Some(command) = &self.command else { return run() };
        let over = AtomicBool::new(false);
        let (report, ran) = thread::scope(|scope| {
            let runner = scope.spawn(|| self.repeat(command, duration / QUIET, began_ns, &over, stop));
            let report = run();
            over.store(true, Ordering::Relaxed);
            (report, runner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (mut report, ran) = (report?, ran?);
        told(&mut report, command, &ran);
        Ok(report)
    }

    fn repeat(
        &self,
        command: &str,
        after: Duration,
        began_ns: &AtomicU64,
        over: &AtomicBool,
        stop: Stop,
    ) -> anyhow::Result<Vec<Ran>> {
        let mut ran = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let began = began_ns.load(Ordering::Relaxed);
            let early = began == 0 || Duration::from_nanos(clock::now_ns().saturating_sub(began)) < after;
            if early || (!ran.is_empty() && !self.again) {
                thread::sleep(TURN);
                continue;
            }
            let from_ns = clock::now_ns();
            // What it says would be taken for the report.
            let mut child = Command::new("sh")
                .args(["-c", command])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                // A group, so that all of it can be ended.
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot run `{command}`"))?;
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break Some(status);
                }
                if stop.is_set() {
                    end(&child);
                    break None;
                }
                thread::sleep(LOOK);
            };
            let failed = !status.is_some_and(|status| status.success());
            ran.push(Ran { from_ns, to_ns: clock::now_ns(), failed });
        }
        Ok(ran)
    }
}

/// Who ends the run ends its command.
fn end(command: &Child) {
    if let Ok(group) = i32::try_from(command.id()) {
        // It may have ended just now.
        let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
    }
}

fn told(report: &mut Report, command: &str, ran: &[Ran]) {
    let seconds = |at: u64| (at as f64 - report.start_ns as f64) / 1e9;
    let per_flow = report.sent_pps / (report.flows.len() + report.flows_left_out).max(1) as f64;
    let lost_ms = if report.sent_pps > 0.0 { report.total.lost as f64 / report.sent_pps * 1e3 } else { 0.0 };
    let failed = ran.iter().filter(|ran| ran.failed).count() as u64;
    if ran.is_empty() {
        report.warnings.push("the command was not run: the run was too short".into());
    }
    if failed > 0 {
        report.warnings.push(format!("`{command}` failed {failed} times of {}", ran.len()));
    }
    if ran.first().is_some_and(|ran| seconds(ran.to_ns) > report.elapsed_s) {
        report.warnings.push("the command went on after the last packet: what it did then was not seen; give it a longer --duration".into());
    }
    report.reconfiguration = Some(Reconfiguration {
        command: command.into(),
        ran_s: ran.iter().map(|ran| (seconds(ran.from_ns), seconds(ran.to_ns))).collect(),
        failed,
        lost: report.total.lost,
        lost_ms,
        longest_flow_gap_ms: report.longest_flow_gap_ns as f64 / 1e6,
        usual_flow_gap_ms: if per_flow > 0.0 { 1e3 / per_flow } else { 0.0 },
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Counts;

    fn report() -> Report {
        Report {
            start_ns: 1_000_000_000,
            sent_pps: 1_000.0,
            elapsed_s: 10.0,
            total: Counts { sent: 10_000, lost: 25, ..Counts::default() },
            longest_flow_gap_ns: 27_000_000,
            flows_left_out: 2,
            ..Report::default()
        }
    }

    #[test]
    fn loss_is_told_as_time_and_gaps_beside_the_usual() {
        let mut report = report();
        told(&mut report, "true", &[Ran { from_ns: 3_000_000_000, to_ns: 3_500_000_000, failed: false }]);
        let change = report.reconfiguration.unwrap();
        assert_eq!(
            (change.lost, change.lost_ms, change.longest_flow_gap_ms, change.usual_flow_gap_ms),
            (25, 25.0, 27.0, 2.0)
        );
        assert_eq!(change.ran_s, [(2.0, 2.5)]);
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    }

    #[test]
    fn a_command_that_fails_or_outlives_the_run_is_warned_of() {
        let mut report = report();
        told(&mut report, "x", &[Ran { from_ns: 3_000_000_000, to_ns: 12_000_000_000, failed: true }]);
        assert!(
            report.warnings[0].contains("failed 1 times")
                && report.warnings[1].contains("after the last packet")
        );
        let mut early = report;
        early.warnings.clear();
        told(&mut early, "x", &[]);
        assert!(early.warnings[0].contains("not run"));
    }

    #[test]
    fn the_command_runs_while_the_run_does() {
        let meanwhile = |again| Meanwhile { command: Some("exit 3".into()), again };
        let run = || {
            let start_ns = clock::now_ns();
            // Until the command can have run twice.
            thread::sleep(Duration::from_millis(300));
            Ok(Report { start_ns, elapsed_s: 1e9, ..report() })
        };
        let ran = |again| {
            meanwhile(again)
                .during(Duration::ZERO, &AtomicU64::new(1), Stop::never(), run)
                .unwrap()
                .reconfiguration
                .unwrap()
        };
        let once = ran(false);
        assert_eq!((once.ran_s.len(), once.failed), (1, 1));
        assert!(ran(true).ran_s.len() > 1);
        assert!(
            Meanwhile { command: None, again: false }
                .during(Duration::ZERO, &AtomicU64::new(1), Stop::never(), run)
                .unwrap()
                .reconfiguration
                .is_none()
        );
    }
}
