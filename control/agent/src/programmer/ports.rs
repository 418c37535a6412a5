//! Sets of ports, as `net.ipv4.ip_local_reserved_ports` writes them: `1024,20000-29999`.

use std::fmt;
use std::ops::RangeInclusive;

/// A set of ports; the fewest ranges, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Reads one; what cannot be read is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let ranges = text.trim().split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        Self::of(ranges)
    }

    fn of(ranges: impl Iterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<(u16, u16)> = ranges.filter(|(first, last)| first <= last).collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Those of both.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    /// How many ports of `range` are not in the set.
    #[must_use]
    pub fn count_outside(&self, range: &RangeInclusive<u16>) -> usize {
        let is_inside = |port: &u16| self.0.iter().any(|(first, last)| (first..=last).contains(&port));
        range.clone().filter(|port| !is_inside(port)).count()
    }

    /// Those that are not in `range`, if all of `range` is in the set; else the set as it is.
    #[must_use]
    pub fn without(&self, range: &RangeInclusive<u16>) -> Self {
        let (from, to) = (*range.start(), *range.end());
        if !self.0.iter().any(|(first, last)| *first <= from && to <= *last) {
            return self.clone();
        }
        let below = self.0.iter().filter_map(|(first, last)| Some((*first, from.checked_sub(1)?.min(*last))));
        let above = self.0.iter().filter_map(|(first, last)| Some((to.checked_add(1)?.max(*first), *last)));
        Self::of(below.chain(above))
    }
}

impl From<&RangeInclusive<u16>> for PortSet {
    fn from(range: &RangeInclusive<u16>) -> Self {
        Self::of(std::iter::once((*range.start(), *range.end())))
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> PortSet {
        PortSet::parse(text)
    }

    #[test]
    fn a_set_is_written_as_the_kernel_writes_it() {
        for (text, written) in [
            ("\n", ""),
            ("8080,1024\n", "1024,8080"),
            ("10-20,15-30,31", "10-31"),
            ("65535,0-65534", "0-65535"),
            ("x,7-,-7,9-8,5", "5"),
        ] {
            assert_eq!(set(text).to_string(), written, "{text:?}");
        }
    }

    #[test]
    fn what_a_set_leaves_of_a_range_is_counted() {
        assert_eq!(set("20000-29999").count_outside(&(32_768..=60_999)), 28_232);
        assert_eq!(set("1000,32768-60990").count_outside(&(32_768..=60_999)), 9);
        assert_eq!(set("0-65535").count_outside(&(32_768..=60_999)), 0);
    }

    #[test]
    fn what_others_reserved_stays() {
        let ours = PortSet::from(&(20_000..=29_999));
        let all = set("8080,29990-30010").with(&ours);
        assert_eq!(all.to_string(), "8080,20000-30010");
        assert_eq!(all.without(&(20_000..=29_999)).to_string(), "8080,30000-30010");
        assert_eq!(set("8080,20001-30000").without(&(20_000..=29_999)), set("8080,20001-30000"), "not ours");
        assert_eq!(set("0-65535").without(&(0..=65_535)), set(""));
    }
}
