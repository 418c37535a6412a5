//! Rows: what is left of a policy list once both sides' sets are known — protocols and ports.
//!
//! ```text
//!   rules, in order             flat row, TCP
//!   allow tcp 80                0 ─── 79 │ 80 │ 81 ─── 442 │ 443 │ 444 ─── 65535
//!   pass  tcp 443               deny     │ ok │ deny       │ ↓   │ deny            ↓ : what the next tier says
//!   (tier denies)
//! ```
//!
//! A flat row is a *grid*: every port range has one judgement, found by binary search. Rules that look at source ports cut
//! it into bands of source ports, each with its own ranges; without such rules there is one band. ICMP's types are
//! bands, its codes ranges.
//!
//! Where flat rows would become many and large, a row is *layered*: its own rules are one layer, and others it shares,
//! with all rules for one set, say. A layer says for each section which of its rules is the first to match; the earliest
//! of all layers counts. A layer that would make a large grid keeps source ports in a segment tree, which is never
//! larger than its rules call for.
//!
//! Rows and layers are words in one allocation, so that a lookup meets few cache lines:
//!
//! ```text
//!   flat row      FLAT │ grid
//!   layered row   shared layers │ their numbers … │ layer
//!   layer         section │ length │ form │ grid or trees │ section │ …
//!   grid          bands │ words of last ports │ other │ protocol and last source port … │ ends of the bands' last ports … │
//!                 last ports, two to a word … │ values …
//!   trees         other │ protocol │ length │ tree │ protocol │ …
//!   tree          leaves │ last source ports … │ ends of the nodes' firsts … │ (last port, place of a rule) …
//! ```

mod trees;

use std::collections::BTreeSet;
use std::hint::select_unpredictable;
use std::sync::Arc;

use caracal_xsk::prefetch_slice;

use super::list::{FlatRule, List, Outcome, Packed};
use super::matching::{Ports, WITH_MESSAGES, WITH_PORTS, message_of};
use super::{FlowDirection, FlowTuple, RuleId};
use trees::{in_trees, trees};

const PORT_MAX: u16 = u16::MAX;

/// Ports up to the first number, from where the one before ends, and what is said of them.
type Ranges = Vec<(u16, u32)>;

/// Stands for "no rule" among places of rules.
const NONE: u32 = u32::MAX;

/// Words in a cache line.
const LINE: usize = 16;

/// Where no type and code of a message are known: beyond all types.
const NO_MESSAGE: (u16, u16) = (PORT_MAX, PORT_MAX);

/// How much larger than its rules a grid may become, and how large it may always be. Little in tests, so that trees are
/// made.
const FLAT_FACTOR: usize = if cfg!(test) { 1 } else { 8 };
const FLAT_FREE: usize = if cfg!(test) { 2 } else { 4096 };

/// Judgements of one class, by protocol and ports.
pub(super) type Row = [u32];

/// Which of some rules are the first to match.
pub(super) type Layer = [u32];

/// In the first word of a row: not how many layers it shares.
const FLAT: u32 = u32::MAX;

/// Forms of a layer's section.
const GRID: u32 = 0;
const TREES: u32 = 1;

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

/// What a row says. `shared` are the layers that rows of its variant share.
#[inline]
pub(super) fn judge(row: &Row, shared: &[Arc<Layer>], list: &List, question: Question) -> Packed {
    match row.split_first() {
        Some((&FLAT, grid)) => Packed::from_word(in_grid(grid, question)),
        Some((&count, rest)) => layered(count, rest, shared, list, question),
        None => Packed::deny(RuleId::NO_PROFILE_MATCH),
    }
}

/// A row of `rules` alone. Layered if it would become too large; of a list with Log rules never, since which of them are
/// passed is found beforehand.
pub(super) fn row(rules: &[PortRule<'_>], list: &List, intern: &mut InternLogs<'_>) -> Arc<Row> {
    let paint = |areas: &[Area]| judged(areas, list, intern);
    let limit = if list.has_logs { usize::MAX } else { FLAT_FACTOR };
    match grid(rules, limit, paint) {
        Some(grid) => [FLAT].into_iter().chain(grid).collect(),
        None => layered_row(rules, &[]),
    }
}

/// A row of `rules` and layers that it shares, by their numbers.
pub(super) fn layered_row(rules: &[PortRule<'_>], shared: &[u32]) -> Arc<Row> {
    let count = shared.len() as u32;
    [count].into_iter().chain(shared.iter().copied()).chain(layer_words(rules)).collect()
}

/// A layer of `rules`, to be shared.
pub(super) fn layer(rules: &[PortRule<'_>]) -> Arc<Layer> {
    layer_words(rules).into()
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
fn judged(areas: &[Area], list: &List, intern: &mut InternLogs<'_>) -> Ranges {
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

/// What is decided, and in which section, if these are the first rules of each section that match.
#[inline]
fn decide(list: &List, place_in: impl Fn(usize) -> u32) -> (Packed, usize) {
    for (number, section) in list.sections.iter().enumerate() {
        let outcome = list.outcomes.get(place_in(number) as usize);
        if let Outcome::Decide(judgement) = *outcome.unwrap_or(&section.end) {
            return (judgement, number);
        }
    }
    (Packed::deny(RuleId::NO_PROFILE_MATCH), list.sections.len())
}

/// The first rule of `areas` for every destination port.
fn firsts(areas: &[Area]) -> Ranges {
    let mut painter = Painter::new(cuts(areas.iter().map(|area| area.destination)));
    areas.iter().for_each(|area| painter.take(area));
    merged(painter.cuts.into_iter().zip(painter.first))
}

// ---- grids ----

#[inline]
fn key(protocol: u8, source: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(source)
}

/// How many of sorted words are below something. Few words take as many steps as fewer do, and none of them is a branch:
/// what is looked for is nothing that a processor could guess.
#[inline(always)]
fn count_below(words: &[u32], is_below: impl Fn(u32) -> bool) -> usize {
    let below = |place: usize| words.get(place).is_some_and(|word| is_below(*word));
    let (mut place, mut length) = (0, words.len());
    let halve = |place: &mut usize, length: &mut usize| {
        let half = *length / 2;
        *place = select_unpredictable(below(*place + half), *place + half, *place);
        *length -= half;
    };
    while length > 64 {
        halve(&mut place, &mut length);
    }
    if length > 8 {
        (0..3).for_each(|_| halve(&mut place, &mut length));
    }
    (0..3).for_each(|_| halve(&mut place, &mut length));
    place + usize::from(below(place))
}

/// A band's ranges of destination ports, apart: a search for one's place is in few cache lines.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cells<'a> {
    /// Last ports, two to a word, the greater one above. The last port of an odd number of ranges is there twice.
    pub keys: &'a [u32],
    pub values: &'a [u32],
}

impl Cells<'_> {
    /// The place of what is said of a destination port.
    #[inline]
    pub fn place_of(&self, question: Question) -> usize {
        let port = u32::from(question.destination);
        let word = count_below(self.keys, |pair| pair >> 16 < port);
        let is_above = self.keys.get(word).is_some_and(|pair| pair & 0xFFFF < port);
        2 * word + usize::from(is_above)
    }
}

/// The cells of a grid that hold the answer to a question. Err: there are none, and this is the answer.
#[inline(always)]
pub(super) fn cells(grid: &[u32], question: Question) -> Result<Cells<'_>, u32> {
    let [count, words, other, rest @ ..] = grid else { return Err(NONE) };
    let Some((bands, rest)) = rest.split_at_checked(*count as usize) else { return Err(*other) };
    let Some((ends, rest)) = rest.split_at_checked(*count as usize) else { return Err(*other) };
    let Some((keys, values)) = rest.split_at_checked(*words as usize) else { return Err(*other) };
    let asked = key(question.protocol, question.source);
    let band = count_below(bands, |last| last < asked);
    match (bands.get(band), ends.get(band)) {
        (Some(last), Some(end)) if last >> 16 == u32::from(question.protocol) => {
            let (start, end) = (band.checked_sub(1).map_or(0, |before| ends[before] as usize), *end as usize);
            let (keys, values) = (keys.get(start..end), values.get(2 * start..2 * end));
            Ok(Cells { keys: keys.unwrap_or_default(), values: values.unwrap_or_default() })
        }
        _ => Err(*other),
    }
}

/// The value of a grid for a question.
#[inline]
fn in_grid(grid: &[u32], question: Question) -> u32 {
    match cells(grid, question) {
        Ok(cells) => cells.values.get(cells.place_of(question)).copied().unwrap_or(NONE),
        Err(other) => other,
    }
}

/// The grid of `rules`, as words. `paint` gives the values of destination ports that areas of the same source ports make.
/// None: it would be larger than `factor` times its rules.
fn grid(rules: &[PortRule<'_>], factor: usize, mut paint: impl FnMut(&[Area]) -> Ranges) -> Option<Vec<u32>> {
    // Areas of other protocols have no ports.
    let other = paint(&areas(0, rules)).first().map_or(NONE, |(_, value)| *value);
    let (mut bands, mut ends, mut keys, mut cell_values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for protocol in protocols(rules) {
        let of = self::bands(&areas(protocol, rules), factor, &mut paint)?;
        // A protocol of which only the same can be said as of all others needs no band.
        if of == [(PORT_MAX, vec![(PORT_MAX, other)])] {
            continue;
        }
        for (last, ranges) in of {
            for pair in ranges.chunks(2) {
                let (one, two) = (pair[0], *pair.last().unwrap_or(&pair[0]));
                keys.push(u32::from(two.0) << 16 | u32::from(one.0));
                cell_values.extend([one.1, two.1]);
            }
            bands.push(key(protocol, last));
            ends.push(keys.len() as u32);
        }
    }
    let head = [bands.len() as u32, keys.len() as u32, other];
    Some([&head[..], &bands, &ends, &keys, &cell_values].concat())
}

/// Cuts source ports where any area does, and paints destination ports for each band. None: that would be too large.
fn bands(
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

// ---- layers ----

/// Asks memory for the beginning of a row.
#[inline]
pub(super) fn prefetch(row: &Row) {
    (0..3 * LINE).step_by(LINE).for_each(|line| prefetch_slice(row, line));
}

fn layered(count: u32, rest: &[u32], shared: &[Arc<Layer>], list: &List, question: Question) -> Packed {
    let (numbers, own) = rest.split_at_checked(count as usize).unwrap_or_default();
    let first = |section: usize| {
        let shared = numbers.iter().filter_map(|number| shared.get(*number as usize));
        let shared = shared.map(|layer| first_in(layer, section, question));
        shared.fold(first_in(own, section, question), u32::min)
    };
    decide(list, first).0
}

/// The first rule of a section that matches.
#[inline]
fn first_in(mut layer: &[u32], section: usize, question: Question) -> u32 {
    while let [number, length, form, rest @ ..] = layer {
        let Some((body, after)) = rest.split_at_checked(*length as usize) else { break };
        if *number as usize == section {
            return if *form == GRID { in_grid(body, question) } else { in_trees(body, question) };
        }
        layer = after;
    }
    NONE
}

fn layer_words(rules: &[PortRule<'_>]) -> Vec<u32> {
    let mut words = Vec::new();
    let mut rest = rules;
    while let Some(section) = rest.first().map(|rule| rule.rule.section) {
        let (of, after) = rest.split_at(rest.partition_point(|rule| rule.rule.section == section));
        rest = after;
        let (form, body) = match grid(of, FLAT_FACTOR, firsts) {
            Some(grid) => (GRID, grid),
            None => (TREES, trees(of)),
        };
        words.extend([section as u32, body.len() as u32, form]);
        words.extend(body);
    }
    words
}

#[cfg(test)]
mod tests;
