//! Trials that follow one another on one way: made, shown, and remembered.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounds::{Ask, Found, Trial};
use crate::account::Series;
use crate::machine::Machine;
use crate::pace::Rate;
use crate::report::{self, GENERATOR_LIMIT, Latency, LatencyPoint, Report};
use crate::run::{Open, Stop};

/// How often a trial is made that our own ends held up.
const ATTEMPTS: u32 = 3;

/// A trial, as reports have it.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialRow {
    /// What it was made for.
    pub purpose: String,
    /// Packets a second that were asked for; none: the utmost.
    pub asked_pps: Option<f64>,
    /// That were sent.
    pub sent_pps: f64,
    /// That came.
    pub received_pps: f64,
    /// Lost of sent.
    pub loss_percent: f64,
    /// From first to last packet.
    pub duration_s: f64,
    /// The whole machine's.
    pub machine_cpu_s: Option<f64>,
    /// One-way.
    pub latency_ns: Option<Latency>,
}

impl TrialRow {
    fn new(purpose: &str, asked_pps: Option<f64>, report: &Report) -> Self {
        TrialRow {
            purpose: purpose.into(),
            asked_pps,
            sent_pps: report.sent_pps,
            received_pps: report.received_pps,
            loss_percent: report.total.loss_percent(),
            duration_s: report.elapsed_s,
            machine_cpu_s: report.machine_cpu_s,
            latency_ns: report.latency_ns,
        }
    }
}

/// Under which circumstances trials were made.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Circumstances {
    /// When the first began.
    pub started: String,
    /// From where.
    pub from: String,
    /// To where.
    pub to: String,
    /// What was sent, but for rate and duration.
    pub profile: Value,
    /// The machine.
    pub machine: Machine,
}

impl Circumstances {
    /// Those of a run.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let mut profile = report.profile.clone();
        if let Value::Object(fields) = &mut profile {
            fields.remove("rate_pps");
            fields.remove("duration_s");
        }
        Circumstances {
            started: report.started.clone(),
            from: report.from.clone(),
            to: report.to.clone(),
            profile,
            machine: report.machine.clone(),
        }
    }
}

/// Latency at a load.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct LatencyAt {
    /// Of the rate that was found.
    pub percent: f64,
    /// Packets a second.
    pub load_pps: f64,
    /// Lost of sent.
    pub loss_percent: f64,
    /// One-way.
    pub latency_ns: Option<Latency>,
    /// In full.
    pub latency_points: Vec<LatencyPoint>,
    /// Over time.
    pub series: Series,
}

/// Makes trials.
pub struct Session<'a> {
    open: Open<'a>,
    stop: Stop,
    /// All that were made.
    pub made: Vec<TrialRow>,
    warnings: Vec<String>,
    /// Loads at which nothing was wrong but our own ends.
    fell_short: Vec<f64>,
}

impl<'a> Session<'a> {
    /// On this way.
    #[must_use]
    pub fn new(open: Open<'a>, stop: Stop) -> Self {
        Session { open, stop, made: Vec::new(), warnings: Vec::new(), fell_short: Vec::new() }
    }

    /// Makes a trial.
    ///
    /// # Errors
    /// It could not be made, or the user has had enough.
    pub fn trial(&mut self, purpose: &str, rate: Rate, duration: Duration) -> anyhow::Result<Report> {
        let asked = match rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(rate),
        };
        let number = self.made.len() + 1;
        let said = asked.map_or_else(|| "the utmost".into(), |rate| format!("{}/s", report::rate(rate)));
        self.open.follow.heading = format!("{purpose}, trial {number}: {said}  ");
        let report = self.open.trial(rate, duration, self.stop)?;
        if self.stop.is_set() {
            bail!("interrupted after {} trials; what they say is not enough", self.made.len());
        }
        let row = TrialRow::new(purpose, asked, &report);
        if std::io::stderr().is_terminal() && !self.open.follow.quiet {
            // A terminal that is gone does not stop a search.
            let _ = writeln!(
                std::io::stderr(),
                "{purpose}, trial {number}: {said} for {:.2} s: lost {:.4} %",
                duration.as_secs_f64(),
                row.loss_percent
            );
        }
        self.made.push(row);
        // Of these a search makes many; where one of them made a difference, its result says so.
        let kept = |warning: &&String| !warning.contains(GENERATOR_LIMIT);
        self.warnings.extend(report.warnings.iter().filter(kept).cloned());
        Ok(report)
    }

    /// Makes a trial that a search asks for. When it was held up by our own ends alone, it is made again; and when that does not help, the load
    /// counts as not carried.
    ///
    /// # Errors
    /// It could not be made, or the user has had enough.
    pub fn ask(&mut self, purpose: &str, ask: Ask) -> anyhow::Result<Trial> {
        for _ in 1..ATTEMPTS {
            let report = self.trial(purpose, Rate::PerSecond(ask.load), ask.duration)?;
            if !own_ends_were_the_limit(&report) {
                return Ok(counted(ask, &report));
            }
        }
        let report = self.trial(purpose, Rate::PerSecond(ask.load), ask.duration)?;
        if own_ends_were_the_limit(&report) {
            self.fell_short.push(ask.load);
        }
        Ok(counted(ask, &report))
    }

    /// Whether the generator or the sink, and not the subject, kept a search from finding more: its utmost was carried, or what was not carried it had
    /// not sent.
    #[must_use]
    pub fn was_limited_by_the_generator(&self, found: Option<Found>, generator_pps: f64) -> bool {
        match found {
            Some(Found::AtLeast(lower)) => lower >= generator_pps,
            Some(Found::Between(_, upper) | Found::Below(upper)) => self.fell_short.contains(&upper),
            None => false,
        }
    }

    /// Latency at a part of a rate.
    ///
    /// # Errors
    /// It could not be measured, or the user has had enough.
    pub fn latency_at(&mut self, percent: f64, of_pps: f64, duration: Duration) -> anyhow::Result<LatencyAt> {
        let load_pps = of_pps * percent / 100.0;
        let report = self.trial("latency", Rate::PerSecond(load_pps), duration)?;
        Ok(LatencyAt {
            percent,
            load_pps,
            loss_percent: report.total.loss_percent(),
            latency_ns: report.latency_ns,
            latency_points: report.latency_points,
            series: report.series,
        })
    }

    /// Ends it: the trials, and each warning once; how often the generator was the limit, in one line.
    #[must_use]
    pub fn end(mut self) -> (Vec<TrialRow>, Vec<String>) {
        self.warnings.sort();
        self.warnings.dedup();
        let short = self.fell_short.len();
        if short > 0 {
            let made = self.made.len();
            self.warnings.push(format!(
                "{GENERATOR_LIMIT}, or the sink, at {short} loads, which count as not carried ({made} trials)"
            ));
        }
        (self.made, self.warnings)
    }
}

/// The generator did not send it all, or the sink did not take it all, and the subject lost nothing.
fn own_ends_were_the_limit(report: &Report) -> bool {
    let lost_before_the_sink = report.total.lost.saturating_sub(report.ends.sink_overflow.unwrap_or(0));
    lost_before_the_sink == 0 && (report.ends.generator_was_the_limit || report.total.lost > 0)
}

fn counted(ask: Ask, report: &Report) -> Trial {
    let (mut sent, mut lost) = (report.total.sent, report.total.lost);
    if report.ends.generator_was_the_limit {
        sent += report.ends.missed;
        lost += report.ends.missed;
    }
    Trial { ask, sent, lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Counts, EndsReport};

    #[test]
    fn what_the_sink_threw_away_is_no_loss_of_the_subject() {
        let report = |lost, sink_overflow, generator_was_the_limit| Report {
            total: Counts { sent: 1_000, lost, ..Counts::default() },
            ends: EndsReport { sink_overflow, generator_was_the_limit, ..EndsReport::default() },
            ..Report::default()
        };
        assert!(own_ends_were_the_limit(&report(5, Some(5), false)));
        assert!(own_ends_were_the_limit(&report(0, None, true)));
        for subjects in [report(0, Some(0), false), report(5, Some(4), false), report(5, None, true)] {
            assert!(!own_ends_were_the_limit(&subjects), "{:?}", subjects.total);
        }
    }

    #[test]
    fn a_load_that_the_generator_did_not_reach_is_not_carried() {
        let ask = Ask { load: 1_000.0, duration: Duration::from_secs(1) };
        let total = Counts { sent: 900, received: 900, ..Counts::default() };
        let mut report = Report { total, ..Report::default() };
        report.ends = EndsReport { missed: 100, generator_was_the_limit: true, ..EndsReport::default() };
        assert!((counted(ask, &report).loss_ratio() - 0.1).abs() < 1e-9);
        report.ends.generator_was_the_limit = false;
        assert_eq!(counted(ask, &report).lost, 0, "a little that was held up is said, and not counted");
    }
}
