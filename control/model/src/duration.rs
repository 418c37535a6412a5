//! Durations as Calico's configuration writes them: `1m30s`, `1.5h`, `250ms`.

use std::time::Duration;

/// The units, and what they are in nanoseconds. Two-letter ones first: "ms" is not minutes.
const UNITS: [(&str, f64); 8] =
    [("ms", 1e6), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ns", 1.0), ("h", 3600e9), ("m", 60e9), ("s", 1e9)];

/// What a text without a sign says: numbers with units, or 0. One that is longer than can be is as long as can be.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let behind = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = rest.get(..rest.len() - behind.len())?.parse().ok()?;
        let (unit, after) = UNITS.iter().find_map(|(name, unit)| Some((unit, behind.strip_prefix(name)?)))?;
        nanoseconds += number * unit;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(nanoseconds / 1e9).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        let milliseconds = |text| parse(text).map(|duration| duration.as_millis());
        assert_eq!(milliseconds("1m30s"), Some(90_000));
        assert_eq!(milliseconds("1.5h"), Some(5_400_000));
        assert_eq!(milliseconds(".5s"), Some(500));
        assert_eq!(milliseconds("250ms"), Some(250));
        assert_eq!(milliseconds("0"), Some(0));
        assert_eq!(parse("99999999999999999999999h"), Some(Duration::MAX));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "1", "s", "1.2.3s", ".s", "1x", "1s2", "-1s", "+1s", "1 s", "inf", "NaNs", "1e3s"] {
            assert_eq!(parse(text), None, "{text:?} was taken");
        }
    }
}
