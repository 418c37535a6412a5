//! What is sent: flows, sizes, rate, for how long.

pub mod command;
pub mod file;

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::pace::Rate;
use crate::payload;

/// The port that packets go to.
pub const SINK_PORT: u16 = 9000;
/// An Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// The smallest frame: headers of IPv4 and a mark. A frame's size here counts from its Ethernet header to the end of its
/// payload, without the FCS.
pub const SIZE_MIN: usize = ETHERNET_LEN + 20 + 8 + payload::LEN;
/// How much longer an IPv6 header is than one of IPv4.
const IPV6_LONGER: usize = 20;
/// The largest frame: what a 64 KB IPv4 packet comes to.
pub const SIZE_MAX: usize = ETHERNET_LEN + 65_535;

/// Frame sizes in the order in which packets have them, round and round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes(Vec<usize>);

/// "Simple IMIX": seven packets of 40, four of 576, one of 1,500 bytes of IP. The smallest is raised to what a mark needs.
const IMIX: [(usize, usize); 3] = [(SIZE_MIN, 7), (590, 4), (1514, 1)];
const ROUND_MAX: usize = 10_000;

impl Sizes {
    fn weighted(weights: &[(usize, usize)]) -> Self {
        // Spread each size evenly over the round rather than in runs: sort all occurrences by where in the round they belong.
        let mut places: Vec<(f64, usize)> = weights
            .iter()
            .flat_map(|&(size, weight)| (0..weight).map(move |i| ((i as f64 + 0.5) / weight as f64, size)))
            .collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        Sizes(places.into_iter().map(|(_, size)| size).collect())
    }

    /// All of one size.
    #[must_use]
    pub fn one(bytes: usize) -> Self {
        Sizes(vec![bytes.clamp(SIZE_MIN, SIZE_MAX)])
    }

    /// The size of the `n`th packet.
    #[must_use]
    pub fn of(&self, n: u64) -> usize {
        let round = self.0.len() as u64;
        usize::try_from(n % round.max(1)).ok().and_then(|at| self.0.get(at)).copied().unwrap_or(SIZE_MIN)
    }

    /// After how many they begin again.
    #[must_use]
    pub fn round(&self) -> usize {
        self.0.len().max(1)
    }

    /// The largest.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(SIZE_MIN)
    }
}

/// The payload of a frame of `size` bytes to an IPv4 or IPv6 address; never shorter than a mark, so the smallest frames of IPv6 are
/// longer than those of IPv4.
#[must_use]
pub fn payload_len(size: usize, to: IpAddr) -> usize {
    size.saturating_sub(headers_len(to)).max(payload::LEN)
}

/// Ethernet, IP and UDP headers of a frame to this address.
#[must_use]
pub fn headers_len(to: IpAddr) -> usize {
    let longer = if to.is_ipv6() { IPV6_LONGER } else { 0 };
    SIZE_MIN - payload::LEN + longer
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::weighted(&IMIX));
        }
        let mut weights = Vec::new();
        for part in text.split(',') {
            let (size, weight) = part.split_once('x').unwrap_or((part, "1"));
            let number = |text: &str| {
                text.parse::<usize>().map_err(|_| format!("{part:?} is not SIZE or SIZExWEIGHT, in bytes"))
            };
            let (size, weight) = (number(size)?, number(weight)?);
            if !(SIZE_MIN..=SIZE_MAX).contains(&size) {
                return Err(format!("a frame of {size} bytes: from {SIZE_MIN} to {SIZE_MAX} are possible"));
            }
            if !(1..=ROUND_MAX).contains(&weight) {
                return Err(format!("a weight of {weight}: from 1 to {ROUND_MAX} are possible"));
            }
            weights.push((size, weight));
        }
        Ok(Self::weighted(&weights))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        let (number, factor) = match text.as_bytes().last() {
            Some(b'k') => (&text[..text.len() - 1], 1e3),
            Some(b'M') => (&text[..text.len() - 1], 1e6),
            _ => (text, 1.0),
        };
        match number.parse::<f64>() {
            Ok(rate) if rate.is_finite() && rate * factor >= 0.01 && rate * factor <= 1e9 => {
                Ok(Rate::PerSecond(rate * factor))
            }
            _ => Err(format!("{text:?} is not packets a second (such as 500, 10k, 1.5M), nor max")),
        }
    }
}

/// A duration with its unit: `10s`, `500ms`, `2m`.
///
/// # Errors
/// The text is not one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is not a duration such as 10s, 500ms, 2m")),
    };
    match number.parse::<f64>().ok().and_then(|n| Duration::try_from_secs_f64(n * factor).ok()) {
        Some(duration) if duration <= Duration::from_secs(7 * 24 * 3600) => Ok(duration),
        _ => Err(format!("{text:?} is not a duration of at most a week, such as 10s, 500ms, 2m")),
    }
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Profile {
    /// How many flows; each has a source port of its own.
    pub flows: u32,
    /// How fast, all flows together.
    pub rate: Rate,
    /// How long.
    pub duration: Duration,
}

/// A profile, for the report.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileRow {
    flows: u32,
    sizes: String,
    rate_pps: Option<f64>,
    duration_s: f64,
}

impl Profile {
    /// Not one packet is due.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self.rate {
            Rate::Max => self.duration.is_zero(),
            Rate::PerSecond(rate) => rate * self.duration.as_secs_f64() < 1.0,
        }
    }

    /// The profile as the report has it; `sizes` is what the user wrote.
    #[must_use]
    pub fn row(&self, sizes: &str) -> ProfileRow {
        let rate_pps = match self.rate {
            Rate::Max => None,
            Rate::PerSecond(rate) => Some(rate),
        };
        ProfileRow {
            flows: self.flows,
            sizes: sizes.into(),
            rate_pps,
            duration_s: self.duration.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_and_spread_over_the_round() {
        let sizes: Sizes = "64x3,1400x1".parse().unwrap();
        let round: Vec<usize> = (0..4).map(|n| sizes.of(n)).collect();
        assert_eq!(round, [64, 64, 1400, 64]);
        assert_eq!(sizes.of(4), round[0]);
        assert_eq!(sizes.largest(), 1400);
    }

    #[test]
    fn imix_has_seven_four_and_one() {
        let sizes: Sizes = "imix".parse().unwrap();
        let of = |size| (0..12).filter(|&n| sizes.of(n) == size).count();
        assert_eq!((of(64), of(590), of(1514)), (7, 4, 1));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for bad in ["", "63", "65550", "64x0", "64x", "x", "64,,64", "-1", "64x10001"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates_have_units() {
        assert_eq!("10k".parse(), Ok(Rate::PerSecond(10_000.0)));
        assert_eq!("1.5M".parse(), Ok(Rate::PerSecond(1_500_000.0)));
        assert_eq!("max".parse(), Ok(Rate::Max));
        for bad in ["", "0", "-5", "k", "inf", "NaN", "fast"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        for bad in ["", "5", "s", "-1s", "1e9h", "5x"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
