//! Rows: what is left of a policy list once both sides' sets are known — protocols and ports.
//!
//! ```text
//!   rules, in order             row, TCP
//!   allow tcp 80                0 ─── 79 │ 80 │ 81 ─── 442 │ 443 │ 444 ─── 65535
//!   pass  tcp 443               deny     │ ok │ deny       │ ↓   │ deny            ↓ : what the next tier says
//!   (tier denies)
//! ```
//!
//! Every port range has one judgement, found by binary search. Rules that look at source ports cut the row into bands
//! of source ports, each with its own ranges; without such rules there is one band.

use std::collections::{BTreeMap, BTreeSet};

use super::{Judgement, RuleId};

const PORT_MAX: u16 = u16::MAX;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// The protocols whose ports rules can ask for.
pub(super) const WITH_PORTS: [u8; 3] = [TCP, UDP, SCTP];

/// A judgement in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Packed(u32);

impl Packed {
    const ALLOW: u32 = 1 << 31;

    pub fn allow(rule: RuleId) -> Packed {
        Packed(rule.0 | Self::ALLOW)
    }

    pub fn deny(rule: RuleId) -> Packed {
        Packed(rule.0 & !Self::ALLOW)
    }

    fn unpack(self) -> Judgement {
        Judgement { allow: self.0 & Self::ALLOW != 0, rule: RuleId(self.0 & !Self::ALLOW) }
    }
}

/// Judgements of one class, by protocol and ports. Two arrays, so that a lookup meets few cache lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Sorted by protocol and source ports.
    bands: Box<[Band]>,
    /// Of all bands, one after another; a band's last ends at port 65535.
    ranges: Box<[Range]>,
    /// Of protocols that have no band: no rule names them, and they have no ports or no rule asks for them.
    other: Packed,
}

/// The source ports of a protocol up to `last`, from where the band before it ends.
#[derive(Debug, PartialEq, Eq)]
struct Band {
    protocol: u8,
    last: u16,
    /// Where its ranges are.
    start: u32,
    end: u32,
}

/// The destination ports up to `last`, from where the range before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    last: u16,
    judgement: Packed,
}

impl Row {
    /// Denies everything, as nothing matched.
    pub fn denied() -> Row {
        let other = Packed::deny(RuleId::NO_PROFILE_MATCH);
        Row { bands: Box::new([]), ranges: Box::new([]), other }
    }

    #[inline]
    pub fn judge(&self, protocol: u8, source_port: u16, destination_port: u16) -> Judgement {
        self.listed(protocol, source_port, destination_port).unwrap_or(self.other).unpack()
    }

    #[inline]
    fn listed(&self, protocol: u8, source_port: u16, destination_port: u16) -> Option<Packed> {
        let place = self.bands.partition_point(|band| (band.protocol, band.last) < (protocol, source_port));
        let band = self.bands.get(place).filter(|band| band.protocol == protocol)?;
        let ranges = self.ranges.get(band.start as usize..band.end as usize)?;
        let place = ranges.partition_point(|range| range.last < destination_port);
        ranges.get(place).map(|range| range.judgement)
    }
}

/// What a rule with no sets left asks of ports; `None`: nothing. An entry's protocol 0 is any that has ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PortRange {
    pub protocol: u8,
    pub first: u16,
    pub last: u16,
}

/// What a matching rule leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Decide(Packed),
    NextSection,
}

/// A rule as far as protocols and ports go.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortRule<'a> {
    /// The tier, counted; profiles come last. Rules are sorted by it.
    pub section: usize,
    pub outcome: Outcome,
    /// 0: any.
    pub protocol: u8,
    pub source: Option<&'a [PortRange]>,
    pub destination: Option<&'a [PortRange]>,
}

impl PortRule<'_> {
    fn asks_for_ports(&self) -> bool {
        self.source.is_some() || self.destination.is_some()
    }
}

fn of_protocol(ranges: &[PortRange], protocol: u8) -> impl Iterator<Item = (u16, u16)> {
    let ranges = ranges.iter().filter(move |range| range.protocol == 0 || range.protocol == protocol);
    ranges.map(|range| (range.first, range.last))
}

/// The row that `rules` make; `ends` says for each section what happens when none of its rules matches.
pub(super) fn row(rules: &[PortRule<'_>], ends: &[Outcome]) -> Row {
    let about = |protocol: u8, ports: bool| -> Vec<PortRule<'_>> {
        let about = |rule: &&PortRule<'_>| {
            (rule.protocol == 0 || rule.protocol == protocol) && (ports || !rule.asks_for_ports())
        };
        rules.iter().filter(about).copied().collect()
    };
    let mut row = Row::denied();
    // No rule names protocol 0: it stands for those that none names.
    row.other = without_ports(&about(0, false), ends);
    let named = rules.iter().map(|rule| rule.protocol).filter(|protocol| *protocol != 0);
    let (mut all_bands, mut all_ranges) = (Vec::new(), Vec::new());
    for protocol in named.chain(WITH_PORTS).collect::<BTreeSet<u8>>() {
        let bands = if WITH_PORTS.contains(&protocol) {
            bands(protocol, &about(protocol, true), ends)
        } else {
            vec![(PORT_MAX, Range::all(without_ports(&about(protocol, false), ends)))]
        };
        if bands == [(PORT_MAX, Range::all(row.other))] {
            continue;
        }
        for (last, ranges) in bands {
            let start = all_ranges.len() as u32;
            all_ranges.extend(ranges);
            all_bands.push(Band { protocol, last, start, end: all_ranges.len() as u32 });
        }
    }
    row.bands = all_bands.into();
    row.ranges = all_ranges.into();
    row
}

impl Range {
    fn all(judgement: Packed) -> Vec<Range> {
        vec![Range { last: PORT_MAX, judgement }]
    }
}

/// The judgement of rules that do not look at ports.
fn without_ports(rules: &[PortRule<'_>], ends: &[Outcome]) -> Packed {
    let mut rules = rules.iter().peekable();
    for (section, end) in ends.iter().enumerate() {
        let first = rules.peek().filter(|rule| rule.section == section).map(|rule| rule.outcome);
        while rules.next_if(|rule| rule.section == section).is_some() {}
        if let Outcome::Decide(judgement) = first.unwrap_or(*end) {
            return judgement;
        }
    }
    Packed::deny(RuleId::NO_PROFILE_MATCH)
}

/// Cuts source ports where any rule does, and paints destination ports for each band.
fn bands(protocol: u8, rules: &[PortRule<'_>], ends: &[Outcome]) -> Vec<(u16, Vec<Range>)> {
    let mut cuts = BTreeSet::from([PORT_MAX]);
    for (first, last) in rules.iter().filter_map(|rule| rule.source).flat_map(|s| of_protocol(s, protocol)) {
        cuts.extend(first.checked_sub(1));
        cuts.insert(last);
    }
    let mut bands: Vec<(u16, Vec<Range>)> = Vec::new();
    for last in cuts {
        // Within a band every source port matches the same rules: its last stands for it.
        let matches_source = |rule: &&PortRule<'_>| {
            rule.source
                .is_none_or(|s| of_protocol(s, protocol).any(|(first, end)| (first..=end).contains(&last)))
        };
        let painted = paint(protocol, rules.iter().filter(matches_source), ends);
        match bands.last_mut() {
            Some((end, former)) if *former == painted => *end = last,
            _ => bands.push((last, painted)),
        }
    }
    bands
}

/// Gives every destination port the outcome of the first rule that takes it, section by section.
fn paint<'a>(protocol: u8, rules: impl Iterator<Item = &'a PortRule<'a>>, ends: &[Outcome]) -> Vec<Range> {
    let mut rules = rules.peekable();
    let mut painted: BTreeMap<u16, (u16, Packed)> = BTreeMap::new();
    let mut open = Open::all();
    for (section, end) in ends.iter().enumerate() {
        let mut passed = Open::default();
        let mut take = |open: &mut Open, first: u16, last: u16, outcome: Outcome| {
            open.take(first, last, |first, last| match outcome {
                Outcome::Decide(judgement) => {
                    painted.insert(first, (last, judgement));
                }
                Outcome::NextSection => passed.add(first, last),
            });
        };
        while let Some(rule) = rules.next_if(|rule| rule.section == section) {
            match rule.destination {
                _ if open.is_empty() => {}
                None => take(&mut open, 0, PORT_MAX, rule.outcome),
                Some(ranges) => {
                    for (first, last) in of_protocol(ranges, protocol) {
                        take(&mut open, first, last, rule.outcome);
                    }
                }
            }
        }
        take(&mut open, 0, PORT_MAX, *end);
        open = passed;
    }
    open.take(0, PORT_MAX, |first, last| {
        painted.insert(first, (last, Packed::deny(RuleId::NO_PROFILE_MATCH)));
    });
    let mut ranges: Vec<Range> = Vec::new();
    for (last, judgement) in painted.into_values() {
        match ranges.last_mut() {
            Some(former) if former.judgement == judgement => former.last = last,
            _ => ranges.push(Range { last, judgement }),
        }
    }
    ranges
}

/// Ports not yet decided: disjoint ranges, first → last.
#[derive(Debug, Default)]
struct Open {
    ranges: BTreeMap<u16, u16>,
}

impl Open {
    fn all() -> Open {
        Open { ranges: BTreeMap::from([(0, PORT_MAX)]) }
    }

    fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn add(&mut self, first: u16, last: u16) {
        self.ranges.insert(first, last);
    }

    /// Takes out what lies in `first..=last`, and tells `taken` of each piece.
    fn take(&mut self, first: u16, last: u16, mut taken: impl FnMut(u16, u16)) {
        // The last range that begins at or before the end, as long as it reaches the beginning.
        while let Some((&start, &end)) =
            self.ranges.range(..=last).next_back().filter(|(_, end)| **end >= first)
        {
            self.ranges.remove(&start);
            if end > last {
                self.ranges.insert(last + 1, end);
            }
            if start < first {
                self.ranges.insert(start, first - 1);
            }
            taken(start.max(first), end.min(last));
        }
    }
}
