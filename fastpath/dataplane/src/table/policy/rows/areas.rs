//! What rules take of ports, as areas of source × destination ports, and painting with them: which judgement, or which
//! rule, is the first for each.

use std::collections::BTreeSet;

use super::super::RuleId;
use super::super::list::{FlatRule, List, Outcome};
use super::super::matching::Ports;
use super::table::NONE;
use super::{FLAT_FREE, InternLogs, Kind, PORT_MAX, PortRule, decide};

/// Ports up to the first number, from where the one before ends, and what is said of them.
pub(super) type Ranges = Vec<(u16, u32)>;

/// The ports that a rule takes of one protocol, or a part of them: source ports × destination ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub place: u32,
    pub source: (u16, u16),
    pub destination: (u16, u16),
}

const ALL: (u16, u16) = (0, PORT_MAX);

/// What `rules` take of a kind of protocols, in order. Of those without ports a source is the protocol's number.
pub(super) fn areas(kind: Kind, rules: &[PortRule<'_>]) -> Vec<Area> {
    let mut areas = Vec::new();
    for PortRule { place, rule, source, destination } in rules {
        let place = *place;
        let mut add = |source, destination| areas.push(Area { place, source, destination });
        let is_portless = || [source, destination].into_iter().flatten().all(|ports| ports.portless);
        match kind {
            Kind::Ports(protocol) if rule.takes_protocol(protocol) && rule.icmp.is_none() => {
                let all = || vec![ALL];
                let of =
                    |ports: &Option<&Ports>| ports.map_or_else(all, |ports| ports.of(protocol).collect());
                let destinations = of(destination);
                for source in of(source) {
                    destinations.iter().for_each(|destination| add(source, *destination));
                }
            }
            Kind::Messages(protocol) if rule.takes_protocol(protocol) && is_portless() => {
                messages(rule).for_each(|(kinds, codes)| add(kinds, codes));
            }
            Kind::Others if rule.icmp.is_none() && is_portless() => {
                let one = |protocol: u8| (u16::from(protocol), u16::from(protocol));
                match (rule.protocol, rule.not_protocol) {
                    (0, not) if not != 0 && Kind::of(not) == Kind::Others => {
                        outside(one(not)).for_each(|protocols| add(protocols, ALL));
                    }
                    (0, _) => add(ALL, ALL),
                    (only, not) if only != not && Kind::of(only) == Kind::Others => add(one(only), ALL),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    areas
}

/// The types × codes that a rule takes.
fn messages(rule: &FlatRule) -> impl Iterator<Item = ((u16, u16), (u16, u16))> {
    let one = |value: u8| (u16::from(value), u16::from(value));
    let (kinds, codes) = match rule.icmp {
        Some(of) => (one(of.kind), of.code.map_or(ALL, one)),
        None => (ALL, ALL),
    };
    let both = |a: (u16, u16), b: (u16, u16)| {
        Some((a.0.max(b.0), a.1.min(b.1))).filter(|(first, last)| first <= last)
    };
    let parts: Vec<_> = match rule.not_icmp {
        None => vec![(kinds, codes)],
        Some(not) => {
            let (kind, code) = (one(not.kind), not.code.map_or(ALL, one));
            let other_kinds = outside(kind).filter_map(move |part| Some((both(part, kinds)?, codes)));
            let other_codes =
                outside(code).filter_map(move |part| Some((both(kind, kinds)?, both(part, codes)?)));
            other_kinds.chain(other_codes).collect()
        }
    };
    parts.into_iter()
}

/// What is not in a range.
fn outside((first, last): (u16, u16)) -> impl Iterator<Item = (u16, u16)> {
    let before = first.checked_sub(1).map(|end| (0, end));
    before.into_iter().chain(last.checked_add(1).map(|start| (start, PORT_MAX)))
}

/// The ends of the pieces into which `ranges` cut all ports, in order.
pub(super) fn cuts(ranges: impl Iterator<Item = (u16, u16)>) -> Vec<u16> {
    let mut cuts: Vec<u16> =
        ranges.flat_map(|(first, last)| [first.checked_sub(1), Some(last)]).flatten().collect();
    cuts.push(PORT_MAX);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// The piece that holds a port.
#[inline]
pub(super) fn piece(cuts: &[u16], port: u16) -> usize {
    cuts.partition_point(|last| *last < port)
}

/// Gives every piece of the destination ports the first of the `areas` that takes it.
struct Painter {
    cuts: Vec<u16>,
    /// By piece.
    first: Vec<u32>,
    /// By piece, itself or a later one: where the next piece may be that none has taken yet.
    next: Vec<u32>,
}

impl Painter {
    fn new(cuts: Vec<u16>) -> Painter {
        let (first, next) = (vec![NONE; cuts.len()], (0..=cuts.len() as u32).collect());
        Painter { cuts, first, next }
    }

    fn take(&mut self, area: &Area) {
        let end = piece(&self.cuts, area.destination.1);
        let mut at = self.untaken(piece(&self.cuts, area.destination.0));
        while at <= end {
            self.first[at] = area.place;
            self.next[at] = at as u32 + 1;
            at = self.untaken(at + 1);
        }
    }

    fn untaken(&mut self, from: usize) -> usize {
        let mut at = from;
        while self.next[at] as usize != at {
            let skipped = self.next[self.next[at] as usize];
            self.next[at] = skipped;
            at = skipped as usize;
        }
        at
    }
}

/// What of one piece and the next is the same becomes one range.
fn merged(ranges: impl Iterator<Item = (u16, u32)>) -> Ranges {
    let mut merged: Ranges = Vec::new();
    for (last, value) in ranges {
        match merged.last_mut() {
            Some((end, former)) if *former == value => *end = last,
            _ => merged.push((last, value)),
        }
    }
    merged
}

/// Judges every destination port, section by section.
pub(super) fn judged(areas: &[Area], list: &List, intern: &mut InternLogs<'_>) -> Ranges {
    let cuts = cuts(areas.iter().map(|area| area.destination));
    // The first rule that takes a piece and is not a Log, by section.
    let mut first: Vec<(usize, Vec<u32>)> = Vec::new();
    let mut logs: Vec<&Area> = Vec::new();
    let mut rest = areas;
    while let Some(section) = rest.first().map(|area| list.rules[area.place as usize].section) {
        let end = rest.partition_point(|area| list.rules[area.place as usize].section == section);
        let (of_section, after) = rest.split_at(end);
        rest = after;
        let mut painter = Painter::new(cuts.clone());
        for area in of_section {
            match list.outcomes[area.place as usize] {
                Outcome::Log => logs.push(area),
                _ => painter.take(area),
            }
        }
        first.push((section, painter.first));
    }
    merged(cuts.into_iter().enumerate().map(|(piece, last)| {
        let place_in = |section: usize| {
            let of_section = first.iter().find(|(number, _)| *number == section);
            of_section.map_or(NONE, |(_, first)| first[piece])
        };
        let (mut judgement, decided_in) = decide(list, place_in);
        let passed = logs.iter().filter(|log| {
            let section = list.rules[log.place as usize].section;
            (log.destination.0..=log.destination.1).contains(&last)
                && section <= decided_in
                && log.place < place_in(section)
        });
        let mut passed: Vec<u32> = passed.map(|log| log.place).collect();
        passed.dedup();
        if !passed.is_empty() {
            let passed: Vec<RuleId> = passed.into_iter().map(|place| list.rules[place as usize].id).collect();
            judgement = intern(judgement, &passed);
        }
        (last, judgement.word())
    }))
}

/// The first rule of `areas` for every destination port.
pub(super) fn firsts(areas: &[Area]) -> Ranges {
    let mut painter = Painter::new(cuts(areas.iter().map(|area| area.destination)));
    areas.iter().for_each(|area| painter.take(area));
    merged(painter.cuts.into_iter().zip(painter.first))
}

/// Cuts source ports where any area does, and paints destination ports for each band. None: that would be too large.
pub(super) fn bands(
    areas: &[Area],
    factor: usize,
    paint: &mut impl FnMut(&[Area]) -> Ranges,
) -> Option<Vec<(u16, Ranges)>> {
    let cuts = cuts(areas.iter().map(|area| area.source));
    if cuts.len() == 1 {
        return Some(vec![(PORT_MAX, paint(areas))]);
    }
    let by = |bound: fn(&Area) -> u16| {
        let mut order: Vec<usize> = (0..areas.len()).collect();
        order.sort_by_key(|i| bound(&areas[*i]));
        order.into_iter().peekable()
    };
    let (mut beginning, mut ending) = (by(|area| area.source.0), by(|area| area.source.1));
    // The areas that take the band's source ports, in order.
    let mut active = BTreeSet::new();
    let mut painted = 0;
    let mut bands: Vec<(u16, Ranges)> = Vec::new();
    for last in cuts {
        while let Some(i) = beginning.next_if(|i| areas[*i].source.0 <= last) {
            active.insert(i);
        }
        painted += active.len();
        if painted > areas.len().saturating_mul(factor).saturating_add(FLAT_FREE) {
            return None;
        }
        let taking: Vec<Area> = active.iter().map(|i| areas[*i]).collect();
        let values = paint(&taking);
        match bands.last_mut() {
            Some((end, former)) if *former == values => *end = last,
            _ => bands.push((last, values)),
        }
        while let Some(i) = ending.next_if(|i| areas[*i].source.1 <= last) {
            active.remove(&i);
        }
    }
    Some(bands)
}
