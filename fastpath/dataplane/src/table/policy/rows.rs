//! Rows: what is left of a policy list once both sides' sets are known — protocols and ports.
//!
//! ```text
//!   rules, in order             flat row, TCP
//!   allow tcp 80                0 ─── 79 │ 80 │ 81 ─── 442 │ 443 │ 444 ─── 65535
//!   pass  tcp 443               deny     │ ok │ deny       │ ↓   │ deny            ↓ : what the next tier says
//!   (tier denies)
//! ```
//!
//! In a flat row every port range has one judgement, found by binary search. Rules that look at source ports cut it into
//! bands of source ports, each with its own ranges; without such rules there is one band. ICMP's types are bands, its
//! codes ranges.
//!
//! Where flat rows would become many and large, a row is made of *layers* ([`Layer`]), of which one belongs to it alone
//! and others are shared: all rules for one set, say. A layer says which of its rules is first; the earliest of all
//! layers decides. A layer keeps source ports in a segment tree, so it is never larger than its rules call for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::list::{FlatRule, List, Outcome, Packed};
use super::matching::message_of;
use super::matching::{Ports, WITH_MESSAGES, WITH_PORTS};
use super::{FlowDirection, FlowTuple, RuleId};

const PORT_MAX: u16 = u16::MAX;

/// Stands for "no rule" among places of rules.
const NONE: u32 = u32::MAX;

/// Where no type and code of a message are known: beyond all types.
const NO_MESSAGE: (u16, u16) = (PORT_MAX, PORT_MAX);

/// How much larger than its rules a flat row may become.
const FLAT_FACTOR: usize = 8;
const FLAT_FREE: usize = 4096;

/// Judgements of one class, by protocol and ports.
#[derive(Debug)]
pub(super) enum Row {
    Flat(Flat),
    /// The earliest of all layers decides.
    Layered {
        layers: Box<[Arc<Layer>]>,
        list: Arc<List>,
    },
}

/// What a row is asked: the protocol, and its ports, or a message's type and code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    protocol: u8,
    source: u16,
    destination: u16,
}

impl Question {
    #[inline]
    pub fn new(flow: &FlowTuple) -> Question {
        let (source, destination) = match flow.direction {
            _ if WITH_MESSAGES.contains(&flow.protocol) => {
                message_of(flow).map_or(NO_MESSAGE, |(kind, code)| (kind.into(), code.into()))
            }
            FlowDirection::Ingress => (flow.peer_port, flow.local_port),
            FlowDirection::Egress => (flow.local_port, flow.peer_port),
        };
        Question { protocol: flow.protocol, source, destination }
    }
}

impl Row {
    #[inline]
    pub fn judge(&self, question: Question) -> Packed {
        match self {
            Row::Flat(flat) => flat.judge(question),
            Row::Layered { layers, list } => layered(layers, list, question),
        }
    }

    /// The row of `rules`. With `shared` layers below, or where it would become too large, it is layered; of a list with
    /// Log rules never, since which of them are passed is found beforehand.
    pub fn new(
        rules: &[PortRule<'_>],
        list: &Arc<List>,
        shared: &[Arc<Layer>],
        intern: &mut InternLogs<'_>,
    ) -> Row {
        if shared.is_empty()
            && let Some(flat) = Flat::new(rules, list, intern)
        {
            return Row::Flat(flat);
        }
        let own = (!rules.is_empty()).then(|| Arc::new(Layer::new(rules, list)));
        let layers = shared.iter().cloned().chain(own).collect();
        Row::Layered { layers, list: Arc::clone(list) }
    }
}

/// Gives the id of a judgement with the Log rules that a flow passes on its way to it.
pub(super) type InternLogs<'a> = dyn FnMut(Packed, &[RuleId]) -> Packed + 'a;

/// A rule as far as protocols and ports go.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortRule<'a> {
    /// Its place in the list. Rules are sorted by it.
    pub place: u32,
    pub rule: &'a FlatRule,
    pub source: Option<&'a Ports>,
    pub destination: Option<&'a Ports>,
}

/// The ports that a rule takes of one protocol, or a part of them: source ports × destination ports.
#[derive(Debug, Clone, Copy)]
struct Area {
    place: u32,
    source: (u16, u16),
    destination: (u16, u16),
}

const ALL: (u16, u16) = (0, PORT_MAX);

/// What `rules` take of `protocol`, in order. Protocol 0 is all that no rule names.
fn areas(protocol: u8, rules: &[PortRule<'_>]) -> Vec<Area> {
    let mut areas = Vec::new();
    for PortRule { place, rule, source, destination } in rules {
        let place = *place;
        if !(rule.takes_protocol(protocol) || protocol == 0 && rule.protocol == 0) {
            continue;
        }
        let is_portless = [source, destination].into_iter().flatten().all(|ports| ports.portless);
        if WITH_PORTS.contains(&protocol) {
            if rule.icmp.is_some() {
                continue;
            }
            let all = || Some(ALL);
            let of = |ports: &Option<&Ports>| -> Vec<(u16, u16)> {
                ports.map_or_else(|| all().into_iter().collect(), |ports| ports.of(protocol).collect())
            };
            let destinations = of(destination);
            for source in of(source) {
                areas.extend(destinations.iter().map(|destination| Area {
                    place,
                    source,
                    destination: *destination,
                }));
            }
        } else if is_portless && WITH_MESSAGES.contains(&protocol) {
            areas.extend(messages(rule).map(|(source, destination)| Area { place, source, destination }));
        } else if is_portless && rule.icmp.is_none() {
            areas.push(Area { place, source: ALL, destination: ALL });
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

/// The protocols that rules can tell from others.
fn protocols(rules: &[PortRule<'_>]) -> BTreeSet<u8> {
    let named = rules.iter().flat_map(|rule| [rule.rule.protocol, rule.rule.not_protocol]);
    let messages = rules.iter().any(|rule| rule.rule.icmp.is_some() || rule.rule.not_icmp.is_some());
    let messages = WITH_MESSAGES.into_iter().filter(|_| messages);
    named.filter(|protocol| *protocol != 0).chain(WITH_PORTS).chain(messages).collect()
}

/// The ends of the pieces into which `ranges` cut all ports, in order.
fn cuts(ranges: impl Iterator<Item = (u16, u16)>) -> Vec<u16> {
    let mut cuts: Vec<u16> =
        ranges.flat_map(|(first, last)| [first.checked_sub(1), Some(last)]).flatten().collect();
    cuts.push(PORT_MAX);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// The piece that holds a port.
#[inline]
fn piece(cuts: &[u16], port: u16) -> usize {
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

// ---- flat ----

/// Two arrays, so that a lookup meets few cache lines.
#[derive(Debug)]
pub(super) struct Flat {
    /// Sorted by protocol and source ports.
    bands: Box<[Band]>,
    /// Of all bands, one after another; a band's last ends at port 65535.
    ranges: Box<[Range]>,
    /// Of protocols that have no band: no rule names them, and they have no ports or no rule asks for them.
    other: Packed,
}

/// The source ports of a protocol up to `last`, from where the band before it ends.
#[derive(Debug)]
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

impl Flat {
    #[inline]
    fn judge(&self, question: Question) -> Packed {
        self.listed(question).unwrap_or(self.other)
    }

    #[inline]
    fn listed(&self, Question { protocol, source, destination }: Question) -> Option<Packed> {
        let place = self.bands.partition_point(|band| (band.protocol, band.last) < (protocol, source));
        let band = self.bands.get(place).filter(|band| band.protocol == protocol)?;
        let ranges = self.ranges.get(band.start as usize..band.end as usize)?;
        let place = ranges.partition_point(|range| range.last < destination);
        ranges.get(place).map(|range| range.judgement)
    }

    /// None: it would be too large.
    fn new(rules: &[PortRule<'_>], list: &List, intern: &mut InternLogs<'_>) -> Option<Flat> {
        let others = paint(&areas(0, rules), list, intern);
        let other = others.first().map_or(Packed::deny(RuleId::NO_PROFILE_MATCH), |range| range.judgement);
        let (mut all_bands, mut all_ranges) = (Vec::new(), Vec::new());
        for protocol in protocols(rules) {
            let areas = areas(protocol, rules);
            for (last, ranges) in bands(&areas, list, intern)? {
                let start = all_ranges.len() as u32;
                all_ranges.extend(ranges);
                all_bands.push(Band { protocol, last, start, end: all_ranges.len() as u32 });
            }
            // A protocol of which only the same can be said as of all others needs no band.
            if let [.., band] = &all_bands[..]
                && all_ranges[band.start as usize..] == [Range { last: PORT_MAX, judgement: other }]
                && all_bands.iter().filter(|of| of.protocol == protocol).count() == 1
            {
                all_bands.pop();
                all_ranges.pop();
            }
        }
        Some(Flat { bands: all_bands.into(), ranges: all_ranges.into(), other })
    }
}

/// Cuts source ports where any area does, and paints destination ports for each band. None: that would be too large.
fn bands(areas: &[Area], list: &List, intern: &mut InternLogs<'_>) -> Option<Vec<(u16, Vec<Range>)>> {
    let cuts = cuts(areas.iter().map(|area| area.source));
    if cuts.len() == 1 {
        return Some(vec![(PORT_MAX, paint(areas, list, intern))]);
    }
    let mut beginning: Vec<usize> = (0..areas.len()).collect();
    beginning.sort_by_key(|i| areas[*i].source.0);
    let mut beginning = beginning.into_iter().peekable();
    let mut ending: Vec<usize> = (0..areas.len()).collect();
    ending.sort_by_key(|i| areas[*i].source.1);
    let mut ending = ending.into_iter().peekable();
    // The areas that take the band's source ports, in order.
    let mut active = BTreeSet::new();
    let mut painted_areas = 0;
    let mut bands: Vec<(u16, Vec<Range>)> = Vec::new();
    for last in cuts {
        while let Some(i) = beginning.next_if(|i| areas[*i].source.0 <= last) {
            active.insert(i);
        }
        painted_areas += active.len();
        if painted_areas > FLAT_FREE + FLAT_FACTOR * areas.len() && !list.has_logs {
            return None;
        }
        let taking: Vec<Area> = active.iter().map(|i| areas[*i]).collect();
        let painted = paint(&taking, list, intern);
        match bands.last_mut() {
            Some((end, former)) if *former == painted => *end = last,
            _ => bands.push((last, painted)),
        }
        while let Some(i) = ending.next_if(|i| areas[*i].source.1 <= last) {
            active.remove(&i);
        }
    }
    Some(bands)
}

/// Judges every destination port, section by section.
fn paint(areas: &[Area], list: &List, intern: &mut InternLogs<'_>) -> Vec<Range> {
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
            match list.rules[area.place as usize].outcome {
                Outcome::Log => logs.push(area),
                _ => painter.take(area),
            }
        }
        first.push((section, painter.first));
    }
    let mut ranges: Vec<Range> = Vec::new();
    for (piece, last) in cuts.into_iter().enumerate() {
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
        match ranges.last_mut() {
            Some(former) if former.judgement == judgement => former.last = last,
            _ => ranges.push(Range { last, judgement }),
        }
    }
    ranges
}

/// What is decided, and in which section, if these are the first rules of each section that match.
#[inline]
fn decide(list: &List, place_in: impl Fn(usize) -> u32) -> (Packed, usize) {
    for (number, section) in list.sections.iter().enumerate() {
        let rule = list.rules.get(place_in(number) as usize);
        if let Outcome::Decide(judgement) = rule.map_or(section.end, |rule| rule.outcome) {
            return (judgement, number);
        }
    }
    (Packed::deny(RuleId::NO_PROFILE_MATCH), list.sections.len())
}

// ---- layered ----

fn layered(layers: &[Arc<Layer>], list: &List, question: Question) -> Packed {
    let first = |section: usize| layers.iter().map(|layer| layer.first(section, question)).min();
    decide(list, |section| first(section).unwrap_or(NONE)).0
}

/// Which of some rules is the first to match, by section. Of lists without Log rules.
#[derive(Debug)]
pub(super) struct Layer {
    sections: Box<[Firsts]>,
}

/// Of one section.
#[derive(Debug, Default)]
struct Firsts {
    section: usize,
    protocols: Box<[Tree]>,
    other: u32,
}

/// Of one protocol: a segment tree over source ports. The rules that match a source port are in the nodes on the way
/// from its leaf to the root; each node knows the first of its rules for every destination port.
#[derive(Debug)]
struct Tree {
    protocol: u8,
    /// Ends of the pieces of source ports, one a leaf.
    cuts: Box<[u16]>,
    /// Where a node's firsts are; node n's parent is n / 2, and leaf i is node `cuts.len() + i`.
    nodes: Box<[(u32, u32)]>,
    /// Destination ports up to the first number, from where the one before ends, and the first rule.
    firsts: Box<[(u16, u32)]>,
}

impl Layer {
    pub fn new(rules: &[PortRule<'_>], list: &List) -> Layer {
        let sections: BTreeSet<usize> = rules.iter().map(|rule| rule.rule.section).collect();
        let sections = sections.into_iter().map(|section| {
            let of: Vec<PortRule<'_>> =
                rules.iter().filter(|rule| rule.rule.section == section).copied().collect();
            debug_assert!(!list.has_logs);
            let protocols =
                protocols(&of).into_iter().map(|protocol| Tree::new(protocol, &areas(protocol, &of)));
            let other = areas(0, &of).first().map_or(NONE, |area| area.place);
            Firsts { section, protocols: protocols.collect(), other }
        });
        Layer { sections: sections.collect() }
    }

    #[inline]
    fn first(&self, section: usize, question: Question) -> u32 {
        let Some(firsts) = self.sections.iter().find(|firsts| firsts.section == section) else { return NONE };
        match firsts.protocols.iter().find(|tree| tree.protocol == question.protocol) {
            Some(tree) => tree.first(question),
            None => firsts.other,
        }
    }
}

impl Tree {
    fn new(protocol: u8, areas: &[Area]) -> Tree {
        let cuts = cuts(areas.iter().map(|area| area.source));
        let leaves = cuts.len();
        let mut of_node: Vec<Vec<Area>> = vec![Vec::new(); 2 * leaves];
        for area in areas {
            // The nodes that together cover the area's source ports, and nothing else.
            let (mut from, mut to) =
                (leaves + piece(&cuts, area.source.0), leaves + piece(&cuts, area.source.1) + 1);
            while from < to {
                if from % 2 == 1 {
                    of_node[from].push(*area);
                    from += 1;
                }
                if to % 2 == 1 {
                    to -= 1;
                    of_node[to].push(*area);
                }
                (from, to) = (from / 2, to / 2);
            }
        }
        let mut firsts: Vec<(u16, u32)> = Vec::new();
        let nodes = of_node.into_iter().map(|areas| {
            let start = firsts.len();
            if !areas.is_empty() {
                let mut painter = Painter::new(self::cuts(areas.iter().map(|area| area.destination)));
                areas.iter().for_each(|area| painter.take(area));
                for (last, place) in painter.cuts.into_iter().zip(painter.first) {
                    match firsts[start..].last_mut() {
                        Some((end, former)) if *former == place => *end = last,
                        _ => firsts.push((last, place)),
                    }
                }
            }
            (start as u32, firsts.len() as u32)
        });
        let nodes = nodes.collect();
        Tree { protocol, cuts: cuts.into(), nodes, firsts: firsts.into() }
    }

    #[inline]
    fn first(&self, question: Question) -> u32 {
        let mut node = self.cuts.len() + piece(&self.cuts, question.source);
        let mut first = NONE;
        while let Some((start, end)) = self.nodes.get(node).filter(|_| node > 0) {
            let firsts = self.firsts.get(*start as usize..*end as usize).unwrap_or_default();
            let place = firsts.partition_point(|(last, _)| *last < question.destination);
            first = first.min(firsts.get(place).map_or(NONE, |(_, place)| *place));
            node /= 2;
        }
        first
    }
}
