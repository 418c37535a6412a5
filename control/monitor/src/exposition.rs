//! Metrics in Prometheus' text format, version 0.0.4.
//!
//! The invariant: no series is in it twice, which would make Prometheus refuse the whole scrape. Two values of one series add up.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What kind of metric a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for restarts.
    Counter,
    /// May go down.
    Gauge,
    /// A sum and a count of observations.
    Summary,
    /// Observations in buckets.
    Histogram,
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole one.
    Whole(u64),
    /// Any.
    Real(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Number {
    fn from(is: bool) -> Self {
        Self::Whole(is.into())
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl From<Duration> for Number {
    fn from(duration: Duration) -> Self {
        Self::Real(duration.as_secs_f64())
    }
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Real(number) => number,
        }
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Self::Whole(one.saturating_add(other)),
            (one, other) => Self::Real(one.real() + other.real()),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(number) if *number == f64::INFINITY => f.write_str("+Inf"),
            Self::Real(number) if *number == f64::NEG_INFINITY => f.write_str("-Inf"),
            Self::Real(number) => write!(f, "{number}"),
        }
    }
}

/// Labels of a series: names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: String,
    /// By what is behind the family's name, which orders them.
    series: BTreeMap<String, Number>,
}

/// A scrape's answer. Families are ordered by name, each once, with HELP and TYPE.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

impl Exposition {
    /// Its content type.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A value that may go down.
    pub fn gauge(&mut self, name: &str, help: &str, labels: Labels, value: impl Into<Number>) {
        self.add(name, Kind::Gauge, help, "", labels, value.into());
    }

    /// A value that only grows while its process lives.
    pub fn counter(&mut self, name: &str, help: &str, labels: Labels, value: impl Into<Number>) {
        self.add(name, Kind::Counter, help, "", labels, value.into());
    }

    /// How often something was observed, and the sum of what was.
    pub fn summary(&mut self, name: &str, help: &str, labels: Labels, count: u64, sum: impl Into<Number>) {
        self.add(name, Kind::Summary, help, "_count", labels, count.into());
        self.add(name, Kind::Summary, help, "_sum", labels, sum.into());
    }

    /// Observations in buckets.
    pub fn histogram(&mut self, name: &str, help: &str, labels: Labels, histogram: &Histogram) {
        let mut below = 0;
        for (at, count) in histogram.counts.iter().enumerate() {
            below += count.load(Relaxed);
            let bound = histogram.bounds.get(at).copied().unwrap_or(f64::INFINITY);
            let bound = Number::Real(bound).to_string();
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.add(name, Kind::Histogram, help, "_bucket", &labels, below.into());
        }
        self.add(name, Kind::Histogram, help, "_count", labels, below.into());
        self.add(name, Kind::Histogram, help, "_sum", labels, histogram.sum().into());
    }

    /// The names of all families.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }

    /// How many series there are.
    #[must_use]
    pub fn series(&self) -> usize {
        self.families.values().map(|family| family.series.len()).sum()
    }

    fn add(&mut self, name: &str, kind: Kind, help: &str, suffix: &str, labels: Labels, value: Number) {
        let family = self.families.entry(name_of(name)).or_insert_with(|| Family {
            kind,
            help: escape(help, false),
            series: BTreeMap::new(),
        });
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{}=\"{}\"", name_of(label), escape(text, true)))
            .collect();
        let series = match labels.is_empty() {
            true => suffix.to_owned(),
            false => format!("{suffix}{{{}}}", labels.join(",")),
        };
        let so_far = family.series.entry(series).or_insert(Number::Whole(0));
        *so_far = so_far.plus(value);
    }
}

impl fmt::Display for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Family { kind, help, series }) in &self.families {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Summary => "summary",
                Kind::Histogram => "histogram",
            };
            writeln!(f, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
            for (labels, value) in series {
                writeln!(f, "{name}{labels} {value}")?;
            }
        }
        Ok(())
    }
}

/// A name as Prometheus allows it.
fn name_of(text: &str) -> String {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().map(|c| if is_fit(c) { c } else { '_' }).collect()
}

fn escape(text: &str, is_value: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if is_value => escaped.push_str("\\\""),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Observations in buckets; anybody may observe at any time.
#[derive(Debug)]
pub struct Histogram {
    /// Upper ends, ascending; above them is one bucket more.
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    /// Millionths.
    sum: AtomicU64,
}

impl Histogram {
    /// Upper ends of buckets for how long something takes, in seconds.
    pub const SECONDS: &[f64] =
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

    /// For durations, in seconds.
    #[must_use]
    pub fn of_seconds() -> Self {
        let counts = (0..=Self::SECONDS.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds: Self::SECONDS, counts, sum: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How many were observed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// The sum of what was observed, in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_come_once_each_with_what_they_mean() {
        let mut page = Exposition::new();
        page.gauge("b_things", "How many\nthings.", &[], 3_usize);
        page.counter("a_total", "All.", &[("worker", "1")], 9_u64);
        page.gauge("b_things", "How many\nthings.", &[("of", "x")], 0.5);
        page.counter("a_total", "All.", &[("worker", "0")], u64::MAX);
        let expected = "\
# HELP a_total All.
# TYPE a_total counter
a_total{worker=\"0\"} 18446744073709551615
a_total{worker=\"1\"} 9
# HELP b_things How many\\nthings.
# TYPE b_things gauge
b_things 3
b_things{of=\"x\"} 0.5
";
        assert_eq!(page.to_string(), expected);
    }

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let mut page = Exposition::new();
        page.gauge("x", "", &[("pod", "a\"} 1\nevil 2 \\"), ("é-", "ü")], 1_u64);
        assert!(page.to_string().ends_with("x{pod=\"a\\\"} 1\\nevil 2 \\\\\",__=\"ü\"} 1\n"), "{page}");
    }

    #[test]
    fn a_series_that_comes_twice_is_there_once_with_the_sum() {
        let mut page = Exposition::new();
        for queue in [3_u64, 4] {
            page.counter("x_total", "", &[("port", "eth0")], queue);
        }
        assert!(page.to_string().ends_with("x_total{port=\"eth0\"} 7\n"));
        assert_eq!(page.series(), 1);
    }

    #[test]
    fn buckets_hold_what_is_at_most_their_end() {
        let histogram = Histogram::of_seconds();
        for millis in [1, 2, 60_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Exposition::new();
        page.histogram("x_seconds", "", &[], &histogram);
        let page = page.to_string();
        for line in [
            "x_seconds_bucket{le=\"0.0005\"} 0\n",
            "x_seconds_bucket{le=\"0.001\"} 1\n",
            "x_seconds_bucket{le=\"10\"} 2\n",
            "x_seconds_bucket{le=\"+Inf\"} 3\n",
            "x_seconds_count 3\n",
            "x_seconds_sum 60.003\n",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }
}
