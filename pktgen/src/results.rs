//! `results.json` of the benchmarks: figures of several subjects, and what can be said of them.
//!
//! A difference counts only when the rounds of the two do not overlap, and it is a quarter at least (of instructions: half a percent): what
//! is less is noise on the machines we have. The same rule judges two subjects of a run, and two runs of a subject.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};

use crate::files;

/// Medians differ by this factor at least, or the difference is called noise.
const RESOLVED: f64 = 1.25;
/// Counts of instructions repeat on every machine, however busy.
const RESOLVED_INSTRUCTIONS: f64 = 1.005;
/// The subject that all this is about.
pub const OURS: &str = "caracal";
/// The subject that others are held against, where it was measured.
pub const KERNEL: &str = "kernel";
/// The metric that is above zero where the generator was the limit in some round.
pub const GENERATOR_LIMIT: &str = "generator: was the limit";
/// What every machine is measured by; no comparison of subjects.
pub const CALIBRATION: &str = "mem/calibration";

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What was measured: `veth/forward/64`.
    pub name: String,
    /// Of whom: `caracal`, `kernel`, `dpdk`.
    pub subject: String,
    /// What the figure is: `received`, `time`.
    pub metric: String,
    /// Its unit: `packets/s`, `ns/packet`.
    pub unit: String,
    /// Least of all rounds.
    pub min: f64,
    /// In the middle.
    pub median: f64,
    /// Greatest.
    pub max: f64,
    /// How many.
    pub rounds: u64,
}

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times, memory, losses, work.
    Lower,
}

impl Better {
    /// Of a unit: what is counted by time or by CPU-second is a rate, all else is a cost.
    #[must_use]
    pub fn of(unit: &str) -> Self {
        let rate = ["/s", "/CPU-s", "pps", "bps"].iter().any(|end| unit.ends_with(end));
        if rate || unit.starts_with('×') || unit == "ratio" { Better::Higher } else { Better::Lower }
    }
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Better than the other.
    Better,
    /// Worse.
    Worse,
    /// The rounds overlap, or the difference is too small.
    Noise,
}

impl Row {
    /// Which way it is better.
    #[must_use]
    pub fn better(&self) -> Better {
        Better::of(&self.unit)
    }

    /// How many times as good as the other: above one is better, whatever the unit.
    #[must_use]
    pub fn gain_over(&self, other: &Row) -> f64 {
        match self.better() {
            Better::Higher => self.median / other.median.max(f64::MIN_POSITIVE),
            Better::Lower => other.median / self.median.max(f64::MIN_POSITIVE),
        }
    }

    /// Whether it is better than the other.
    #[must_use]
    pub fn against(&self, other: &Row) -> Verdict {
        let gain = self.gain_over(other);
        let overlap = self.min <= other.max && other.min <= self.max;
        let counted = self.unit.starts_with("instructions");
        let resolved = if counted { RESOLVED_INSTRUCTIONS } else { RESOLVED };
        if overlap || (gain < resolved && gain > 1.0 / resolved) {
            Verdict::Noise
        } else if gain > 1.0 {
            Verdict::Better
        } else {
            Verdict::Worse
        }
    }

    fn key(&self) -> (&str, &str) {
        (&self.name, &self.metric)
    }

    /// Whether subjects are to be compared by it.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.name != CALIBRATION && !self.metric.starts_with("generator")
    }
}

/// A run of the benchmarks.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// The folder's name, or the file's.
    pub title: String,
    /// All figures, in the file's order.
    pub rows: Vec<Row>,
    /// `machine.txt`: the circumstances.
    pub machine: Option<String>,
    /// `command.txt`.
    pub command: Option<String>,
    /// `skipped.json`: what could not be measured.
    pub left_out: Vec<LeftOut>,
}

/// A subject that could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LeftOut {
    /// Whom.
    pub subject: String,
    /// At what.
    pub case: String,
    /// Why.
    pub reason: String,
}

impl Results {
    /// Reads a folder of bench-results, or a file.
    ///
    /// # Errors
    /// It is not there, or is not such a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = if path.is_dir() { path.join("results.json") } else { path.to_path_buf() };
        let text = files::read_text(&file)?;
        let mut results = Self::parse(&text).with_context(|| format!("{}", file.display()))?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside =
            |name: &str| fs::read_to_string(folder.join(name)).ok().map(|text| text.trim().to_owned());
        results.machine = beside("machine.txt");
        results.command = beside("command.txt");
        if let Some(text) = beside("skipped.json") {
            let name = || format!("{}", folder.join("skipped.json").display());
            results.left_out = serde_json::from_str(&text).with_context(name)?;
        }
        let named =
            if file.ends_with("results.json") { folder.canonicalize().ok() } else { Some(file.clone()) };
        let name = named.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        results.title = name.unwrap_or_else(|| path.display().to_string());
        Ok(results)
    }

    /// Reads the text of `results.json`.
    ///
    /// # Errors
    /// It is not an array of figures.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let rows: Vec<Row> = serde_json::from_str(text).map_err(|error| {
            anyhow!("not results of scripts/bench, an array of {{name, subject, metric, unit, min, median, max, rounds}}: {error}")
        })?;
        Ok(Results { rows, ..Results::default() })
    }

    /// Figures that answer one question, of each subject: by name and metric, in order of names.
    #[must_use]
    pub fn questions(&self) -> Vec<Vec<&Row>> {
        let mut found: BTreeMap<(Vec<NamePart<'_>>, &str), Vec<&Row>> = BTreeMap::new();
        for row in &self.rows {
            found.entry((name_parts(&row.name), &row.metric)).or_default().push(row);
        }
        let mut questions: Vec<Vec<&Row>> = found.into_values().collect();
        for rows in &mut questions {
            // Ours first, then from best to worst.
            rows.sort_by(|a, b| {
                let ours = (b.subject == OURS).cmp(&(a.subject == OURS));
                ours.then(b.gain_over(a).total_cmp(&1.0))
            });
        }
        questions
    }

    /// Ours against everyone, in every question that both answered.
    #[must_use]
    pub fn contests(&self) -> Vec<Contest<'_>> {
        let mut contests = Vec::new();
        for rows in self.questions() {
            let Some(ours) = rows.iter().find(|row| row.subject == OURS && row.is_compared()) else {
                continue;
            };
            for other in rows.iter().filter(|row| row.subject != OURS && row.unit == ours.unit) {
                contests.push(Contest {
                    ours,
                    other,
                    gain: ours.gain_over(other),
                    verdict: ours.against(other),
                });
            }
        }
        contests
    }

    /// Every figure that both runs have, this one's against the former's.
    #[must_use]
    pub fn changes<'a>(&'a self, former: &'a Results) -> Vec<Contest<'a>> {
        let known: BTreeMap<_, &Row> =
            former.rows.iter().map(|row| ((row.key(), &row.subject, &row.unit), row)).collect();
        self.rows
            .iter()
            .filter(|row| row.is_compared() || row.name == CALIBRATION)
            .filter_map(|row| {
                let other = *known.get(&(row.key(), &row.subject, &row.unit))?;
                Some(Contest { ours: row, other, gain: row.gain_over(other), verdict: row.against(other) })
            })
            .collect()
    }
}

/// One figure held against another.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Contest<'a> {
    /// Ours, or the later.
    pub ours: &'a Row,
    /// The other subject's, or the earlier.
    pub other: &'a Row,
    /// How many times as good ours is.
    pub gain: f64,
    /// What that is worth.
    pub verdict: Verdict,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NamePart<'a> {
    Number(u64),
    Text(&'a str),
}

/// A name in parts that sort as people would: 64 before 1400.
fn name_parts(name: &str) -> Vec<NamePart<'_>> {
    let mut parts = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let digits = first.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        parts.push(part.parse().map_or(NamePart::Text(part), NamePart::Number));
        rest = after;
    }
    parts
}

/// The figure at the end of a name, and what is before it: `("veth/forward/", 64)`, `("mem/fib/routes-", 900_000)`.
#[must_use]
pub fn family(name: &str) -> Option<(&str, f64)> {
    let at = name.rfind(|c: char| !c.is_ascii_digit())? + 1;
    let number = name.get(at..)?.parse().ok()?;
    name.get(..at).filter(|stem| stem.ends_with(['/', '-'])).map(|stem| (stem, number))
}

/// A figure with few digits, and an SI prefix where it is large.
#[must_use]
pub fn quantity(value: f64) -> String {
    let magnitude = value.abs();
    let (scaled, prefix) = match magnitude {
        m if m >= 1e9 => (value / 1e9, " G"),
        m if m >= 1e6 => (value / 1e6, " M"),
        m if m >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        s if s == 0.0 || s >= 100.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        _ => 3,
    };
    format!("{scaled:.digits$}{prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, subject: &str, unit: &str, [min, median, max]: [f64; 3]) -> Row {
        let (name, subject, unit) = (name.into(), subject.into(), unit.into());
        Row { name, subject, metric: "m".into(), unit, min, median, max, rounds: 3 }
    }

    #[test]
    fn units_say_which_way_is_better() {
        for unit in ["packets/s", "Gbit/s", "packets/CPU-s", "Gbit/CPU-s", "Mpps", "connections/s", "ratio"] {
            assert_eq!(Better::of(unit), Better::Higher, "{unit}");
        }
        for unit in ["ns/packet", "ns", "MiB", "bytes/route", "instructions/packet", "packets lost", "%", "s"]
        {
            assert_eq!(Better::of(unit), Better::Lower, "{unit}");
        }
    }

    #[test]
    fn a_win_needs_rounds_apart_and_a_quarter() {
        let ours = row("a", OURS, "packets/s", [130.0, 140.0, 150.0]);
        let slower = row("a", "x", "packets/s", [90.0, 100.0, 110.0]);
        assert_eq!((ours.against(&slower), slower.against(&ours)), (Verdict::Better, Verdict::Worse));
        let overlaps = row("a", "x", "packets/s", [90.0, 100.0, 131.0]);
        assert_eq!(ours.against(&overlaps), Verdict::Noise);
        let near = row("a", "x", "packets/s", [119.0, 120.0, 121.0]);
        assert_eq!(ours.against(&near), Verdict::Noise);
    }

    #[test]
    fn instructions_are_counted_and_have_no_noise() {
        let of = |count: f64| row("a", OURS, "instructions/packet", [count; 3]);
        assert_eq!(of(1_000.0).against(&of(1_010.0)), Verdict::Better);
        assert_eq!(of(1_010.0).against(&of(1_000.0)), Verdict::Worse);
        assert_eq!(of(1_001.0).against(&of(1_000.0)), Verdict::Noise);
    }

    #[test]
    fn of_times_less_is_better() {
        let ours = row("a", OURS, "ns/packet", [40.0, 50.0, 60.0]);
        let other = row("a", "vpp", "ns/packet", [90.0, 100.0, 110.0]);
        assert_eq!((ours.against(&other), ours.gain_over(&other)), (Verdict::Better, 2.0));
    }

    #[test]
    fn what_no_time_was_measured_for_is_noise_and_does_not_panic() {
        let nothing = row("a", OURS, "ns", [0.0; 3]);
        assert_eq!(nothing.against(&nothing), Verdict::Noise);
    }

    #[test]
    fn questions_are_in_the_order_of_their_numbers_with_ours_first() {
        let results = Results {
            rows: vec![
                row("veth/1400", "kernel", "packets/s", [1.0; 3]),
                row("veth/64", "kernel", "packets/s", [5.0; 3]),
                row("veth/64", "dpdk", "packets/s", [9.0; 3]),
                row("veth/64", OURS, "packets/s", [7.0; 3]),
            ],
            ..Results::default()
        };
        let questions = results.questions();
        let of = |at: usize| questions[at].iter().map(|row| row.subject.as_str()).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![OURS, "dpdk", "kernel"], vec!["kernel"]));
        let contests = results.contests();
        let said: Vec<_> = contests.iter().map(|c| (c.other.subject.as_str(), c.verdict)).collect();
        assert_eq!(said, [("dpdk", Verdict::Worse), ("kernel", Verdict::Better)]);
    }

    #[test]
    fn a_run_against_another_compares_what_both_have() {
        let before = Results { rows: vec![row("a", OURS, "ns", [100.0; 3])], ..Results::default() };
        let after = Results {
            rows: vec![row("a", OURS, "ns", [50.0; 3]), row("b", OURS, "ns", [1.0; 3])],
            ..Results::default()
        };
        let changes = after.changes(&before);
        assert_eq!((changes.len(), changes[0].verdict, changes[0].gain), (1, Verdict::Better, 2.0));
    }

    #[test]
    fn the_number_at_the_end_of_a_name_makes_a_family() {
        assert_eq!(family("veth/forward/64"), Some(("veth/forward/", 64.0)));
        assert_eq!(family("mem/fib/routes-900000"), Some(("mem/fib/routes-", 900_000.0)));
        for alone in ["tcp/vxlan", "64", "mem/ipv6", ""] {
            assert_eq!(family(alone), None, "{alone}");
        }
    }

    #[test]
    fn what_is_no_results_is_refused() {
        for text in ["", "{}", "[1]", "[{\"name\":\"a\"}]"] {
            assert!(Results::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_are_short() {
        let short = [0.0, 0.5, 47.25, 999.6, 9_999.0, 12_345.0, 1_240_000.0, 2.5e9].map(quantity);
        assert_eq!(short, ["0", "0.500", "47.2", "1000", "9999", "12.3 k", "1.24 M", "2.50 G"]);
    }
}
