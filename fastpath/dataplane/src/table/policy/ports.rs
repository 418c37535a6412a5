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

/// Judgements of one class, by protocol and ports.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    by_protocol: Box<[(u8, Bands)]>,
    /// Protocols that no rule names and that have no ports.
    other: Packed,
}

/// Ranges of source ports, each up to `lasts`, and what destination ports say in it.
#[derive(Debug, PartialEq, Eq)]
struct Bands {
    lasts: Box<[u16]>,
    ranges: Box<[Ranges]>,
}

/// Ranges of destination ports, each up to `lasts`, and its judgement.
#[derive(Debug, PartialEq, Eq)]
struct Ranges {
    lasts: Box<[u16]>,
    judgements: Box<[Packed]>,
}

impl Row {
    /// Denies everything, as nothing matched.
    pub fn denied() -> Row {
        Row { by_protocol: Box::new([]), other: Packed::deny(RuleId::NO_PROFILE_MATCH) }
    }

    #[inline]
    pub fn judge(&self, protocol: u8, source_port: u16, destination_port: u16) -> Judgement {
        let bands = self.by_protocol.iter().find(|(listed, _)| *listed == protocol);
        let packed = bands.and_then(|(_, bands)| bands.find(source_port)?.find(destination_port));
        packed.unwrap_or(self.other).unpack()
    }
}

impl Bands {
    #[inline]
    fn find(&self, port: u16) -> Option<&Ranges> {
        if let [only] = &*self.ranges {
            return Some(only);
        }
        self.ranges.get(self.lasts.partition_point(|last| *last < port))
    }
}

impl Ranges {
    #[inline]
    fn find(&self, port: u16) -> Option<Packed> {
        self.judgements.get(self.lasts.partition_point(|last| *last < port)).copied()
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
    fn is_about(&self, protocol: u8) -> bool {
        self.protocol == 0 || self.protocol == protocol
    }

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
    let unnamed: Vec<PortRule<'_>> =
        rules.iter().filter(|rule| rule.protocol == 0 && !rule.asks_for_ports()).copied().collect();
    let other = without_ports(&unnamed, ends);
    let named = rules.iter().map(|rule| rule.protocol).filter(|protocol| *protocol != 0);
    // In the order of WITH_PORTS first: TCP is asked for most.
    let with_ports = WITH_PORTS.into_iter();
    let without_ports_named: BTreeSet<u8> = named.filter(|protocol| !WITH_PORTS.contains(protocol)).collect();
    let mut by_protocol = Vec::new();
    for protocol in with_ports.chain(without_ports_named) {
        let about: Vec<PortRule<'_>> = rules.iter().filter(|rule| rule.is_about(protocol)).copied().collect();
        let bands = if WITH_PORTS.contains(&protocol) {
            bands(protocol, &about, ends)
        } else {
            let about: Vec<_> = about.into_iter().filter(|rule| !rule.asks_for_ports()).collect();
            Bands::only(without_ports(&about, ends))
        };
        if bands != Bands::only(other) {
            by_protocol.push((protocol, bands));
        }
    }
    Row { by_protocol: by_protocol.into(), other }
}

impl Bands {
    fn only(judgement: Packed) -> Bands {
        let ranges = Ranges { lasts: Box::new([PORT_MAX]), judgements: Box::new([judgement]) };
        Bands { lasts: Box::new([PORT_MAX]), ranges: Box::new([ranges]) }
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
fn bands(protocol: u8, rules: &[PortRule<'_>], ends: &[Outcome]) -> Bands {
    let mut cuts = BTreeSet::from([PORT_MAX]);
    for (first, last) in rules.iter().filter_map(|rule| rule.source).flat_map(|s| of_protocol(s, protocol)) {
        cuts.extend(first.checked_sub(1));
        cuts.insert(last);
    }
    let mut lasts: Vec<u16> = Vec::new();
    let mut ranges: Vec<Ranges> = Vec::new();
    for last in cuts {
        // Within a band every source port matches the same rules: its last stands for it.
        let matches_source = |rule: &&PortRule<'_>| {
            rule.source
                .is_none_or(|s| of_protocol(s, protocol).any(|(first, end)| (first..=end).contains(&last)))
        };
        let painted = paint(protocol, rules.iter().filter(matches_source), ends);
        if ranges.last() == Some(&painted) {
            lasts.pop();
        } else {
            ranges.push(painted);
        }
        lasts.push(last);
    }
    Bands { lasts: lasts.into(), ranges: ranges.into() }
}

/// Gives every destination port the outcome of the first rule that takes it, section by section.
fn paint<'a>(protocol: u8, rules: impl Iterator<Item = &'a PortRule<'a>>, ends: &[Outcome]) -> Ranges {
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
    let mut lasts: Vec<u16> = Vec::new();
    let mut judgements: Vec<Packed> = Vec::new();
    for (last, judgement) in painted.into_values() {
        if judgements.last() == Some(&judgement) {
            lasts.pop();
        } else {
            judgements.push(judgement);
        }
        lasts.push(last);
    }
    Ranges { lasts: lasts.into(), judgements: judgements.into() }
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
