//! Whether a process is alive and ready, as its parts report.
//!
//! The rule: a part that has not reported within its timeout is not well, whatever it said last. Of a vital part that means that the
//! process is not alive, and somebody should restart it; of any part that the process is not ready. Time is monotonic, so a
//! clock that jumps makes nobody ill.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What a part's silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// The process is stuck: neither alive nor ready.
    Vital,
    /// The process is not ready; restarting it would not help.
    Readiness,
}

#[derive(Debug)]
struct Part {
    concern: Concern,
    timeout: Duration,
    reported: Instant,
    not_ready: Option<String>,
}

/// The parts and their last reports; shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    by_name: BTreeMap<&'static str, Part>,
    /// Timeouts that somebody has asked for, by the name of the part, in any case of its letters.
    overrides: BTreeMap<String, Duration>,
}

/// The end by which a part reports.
#[derive(Debug, Clone)]
pub struct Reporter {
    health: Health,
    name: &'static str,
}

/// A part of the process, as of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The part.
    pub name: &'static str,
    /// Whether it is alive; `None`: it has no say in that.
    pub live: Option<bool>,
    /// Whether it is ready.
    pub ready: bool,
    /// How long ago it last reported.
    pub ago: Duration,
    /// How long it may take for that.
    pub timeout: Duration,
    /// Why it is not well; empty when it is.
    pub why: String,
}

/// The whole process, as of a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State(pub Vec<Row>);

impl Health {
    /// Without parts: alive and ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part, which is not ready before it says so, and has until its timeout to say anything.
    #[must_use]
    pub fn part(&self, name: &'static str, concern: Concern, timeout: Duration, now: Instant) -> Reporter {
        let not_ready = Some("has not reported yet".to_owned());
        let part = Part { concern, timeout, reported: now, not_ready };
        self.lock().by_name.insert(name, part);
        Reporter { health: self.clone(), name }
    }

    /// Has parts use these timeouts instead of their own; a part that is not named uses its own again.
    pub fn set_timeouts(&self, overrides: impl IntoIterator<Item = (String, Duration)>) {
        let overrides = overrides.into_iter().map(|(name, timeout)| (name.to_lowercase(), timeout));
        self.lock().overrides = overrides.collect();
    }

    /// How all parts are.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        let parts = self.lock();
        let row = |(name, part): (&&'static str, &Part)| {
            let timeout = parts.overrides.get(&name.to_lowercase()).copied().unwrap_or(part.timeout);
            let ago = now.saturating_duration_since(part.reported);
            let is_silent = ago > timeout;
            let why = match (is_silent, &part.not_ready) {
                (true, _) => {
                    format!("has not reported for {}, and should every {}", Text(ago), Text(timeout))
                }
                (false, Some(why)) => why.clone(),
                (false, None) => String::new(),
            };
            Row {
                name,
                live: (part.concern == Concern::Vital).then_some(!is_silent),
                ready: !is_silent && part.not_ready.is_none(),
                ago,
                timeout,
                why,
            }
        };
        State(parts.by_name.iter().map(row).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// The part is well.
    pub fn ready(&self, now: Instant) {
        self.report(None, now);
    }

    /// The part lives, but does not do what it is for; why.
    pub fn not_ready(&self, why: impl Into<String>, now: Instant) {
        self.report(Some(why.into()), now);
    }

    /// The part lives, and is as ready as it said before.
    pub fn alive(&self, now: Instant) {
        if let Some(part) = self.health.lock().by_name.get_mut(self.name) {
            part.reported = now;
        }
    }

    fn report(&self, not_ready: Option<String>, now: Instant) {
        if let Some(part) = self.health.lock().by_name.get_mut(self.name) {
            part.reported = now;
            part.not_ready = not_ready;
        }
    }
}

impl State {
    /// Whether restarting the process would not help.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.0.iter().all(|row| row.live != Some(false))
    }

    /// Whether it does what it is for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(|row| row.ready)
    }

    /// For programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let parts = self.0.iter().map(|row| {
            json!({
                "name": row.name, "live": row.live, "ready": row.ready, "reason": row.why,
                "lastReportSeconds": row.ago.as_secs_f64(), "timeoutSeconds": row.timeout.as_secs_f64(),
            })
        });
        let parts: Vec<Value> = parts.collect();
        json!({ "live": self.is_live(), "ready": self.is_ready(), "reporters": parts })
    }
}

/// For people: what is wrong first, then every part.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |is: bool| if is { "yes" } else { "NO" };
        writeln!(f, "live: {}, ready: {}", yes(self.is_live()), yes(self.is_ready()))?;
        for row in self.0.iter().filter(|row| !row.why.is_empty()) {
            writeln!(f, "- {}: {}", row.name, row.why)?;
        }
        let width = self.0.iter().map(|row| row.name.len()).max().unwrap_or(0).max("REPORTER".len());
        writeln!(f, "\n{:<width$}  LIVE  READY  {:>11}  {:>7}", "REPORTER", "LAST REPORT", "TIMEOUT")?;
        for row in &self.0 {
            let (live, ready) = (row.live.map_or("-", yes), yes(row.ready));
            let ago = format!("{} ago", Text(row.ago));
            writeln!(
                f,
                "{:<width$}  {live:<4}  {ready:<5}  {ago:>11}  {:>7}",
                row.name,
                Text(row.timeout).to_string()
            )?;
        }
        Ok(())
    }
}

/// A duration as people read it: tenths of a second, and whole ones where that is enough.
struct Text(Duration);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() / 100 {
            0 => write!(f, "{} s", self.0.as_secs()),
            tenths => write!(f, "{}.{tenths} s", self.0.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_part_has_its_timeout_to_say_that_it_is_ready() {
        let (health, start) = (Health::new(), Instant::now());
        let part = health.part("Syncer", Concern::Vital, 30 * SECOND, start);
        let state = health.state(start + 30 * SECOND);
        assert!(state.is_live() && !state.is_ready());
        assert!(!health.state(start + 31 * SECOND).is_live());
        part.ready(start + 31 * SECOND);
        assert!(health.state(start + 40 * SECOND).is_ready());
        part.not_ready("lists are coming in", start + 40 * SECOND);
        let state = health.state(start + 41 * SECOND);
        assert!(state.is_live() && !state.is_ready());
        assert_eq!(state.0[0].why, "lists are coming in");
    }

    #[test]
    fn silence_of_a_vital_part_is_death_and_of_another_unreadiness() {
        let (health, start) = (Health::new(), Instant::now());
        let vital = health.part("Main", Concern::Vital, 10 * SECOND, start);
        let other = health.part("Fastpath", Concern::Readiness, 5 * SECOND, start);
        vital.ready(start);
        other.ready(start);
        let state = health.state(start + 6 * SECOND);
        assert!(state.is_live() && !state.is_ready());
        assert_eq!(state.0[0].why, "has not reported for 6 s, and should every 5 s");
        other.ready(start + 6 * SECOND);
        assert!(!health.state(start + 11 * SECOND).is_live());
        vital.alive(start + 11 * SECOND);
        assert!(health.state(start + 11 * SECOND).is_ready(), "alive is as ready as before");
    }

    #[test]
    fn a_timeout_that_somebody_asks_for_counts_until_he_no_longer_does() {
        let (health, start) = (Health::new(), Instant::now());
        let part = health.part("CalculationGraph", Concern::Vital, 30 * SECOND, start);
        part.ready(start);
        health.set_timeouts([("calculationgraph".to_owned(), SECOND), ("NobodyHere".to_owned(), SECOND)]);
        assert!(!health.state(start + 2 * SECOND).is_live());
        health.set_timeouts([]);
        assert!(health.state(start + 2 * SECOND).is_live());
    }

    #[test]
    fn a_tired_operator_reads_what_is_wrong_first() {
        let (health, start) = (Health::new(), Instant::now());
        health.part("CalculationGraph", Concern::Vital, 30 * SECOND, start).ready(start);
        let fastpath = health.part("Fastpath", Concern::Readiness, 10 * SECOND, start);
        fastpath.not_ready("cannot connect to /run/x.sock", start);
        let text = health.state(start + Duration::from_millis(1500)).to_string();
        let expected = "\
live: yes, ready: NO
- Fastpath: cannot connect to /run/x.sock

REPORTER          LIVE  READY  LAST REPORT  TIMEOUT
CalculationGraph  yes   yes      1.5 s ago     30 s
Fastpath          -     NO       1.5 s ago     10 s
";
        assert_eq!(text, expected);
    }
}
