//! Rows: what is left of a policy list once both sides' sets are known — protocols and ports.
//!
//! ```text
//!   rules, in order             flat row, TCP
//!   allow tcp 80                0 ─── 79 │ 80 │ 81 ─── 442 │ 443 │ 444 ─── 65535
//!   pass  tcp 443               deny     │ ok │ deny       │ ↓   │ deny            ↓ : what the next tier says
//!   (tier denies)
//! ```
//!
//! A flat row is a *grid*: every port range has one judgement, found in a [table](table). Rules that look at source
//! ports cut it into bands of source ports, each with its own ranges; without such rules there is one band. ICMP's types
//! are bands, its codes ranges; protocols that have neither ports nor types are bands themselves.
//!
//! Where flat rows would become many and large, a row is *layered*: its own rules are one layer, and others it shares,
//! with all rules for one set, say. A layer says for each section of the list which of its rules is the first to match;
//! the earliest of all layers counts. A layer that would make a large grid keeps source ports in a segment tree, which is
//! never larger than its rules call for.
//!
//! Rows and layers are words of 16 bits in one allocation, so that a lookup meets few cache lines; *long* are two words:
//!
//! ```text
//!   flat row      FLAT │ grid
//!   layered row   shared layers │ their numbers, long … │ layer
//!   layer         section, long │ length, long │ form │ grid or trees │ section …
//!   grid          by protocol: table of its bands, long … │ tables: bands' items are tables of ranges
//!   trees         by protocol: table of the leaves, long; place of its nodes, long … │ tables, nodes
//! ```

mod areas;
mod table;
mod trees;

use std::sync::Arc;

use caracal_xsk::{prefetch_lines, prefetch_slice};
use rustc_hash::FxHashMap;

use super::list::{FlatRule, List, Outcome, Packed};
use super::matching::{Ports, WITH_MESSAGES, WITH_PORTS, message_of};
use super::{FlowDirection, FlowTuple, RuleId};
use areas::{Area, Ranges, areas, bands, firsts, judged};
use table::{NONE, find, halves, long};
use trees::{in_trees, trees};

const PORT_MAX: u16 = u16::MAX;

/// Where no type and code of a message are known: beyond all types.
const NO_MESSAGE: (u16, u16) = (PORT_MAX, PORT_MAX);

/// How much larger than its rules a grid may become, and how large it may always be. Little in tests, so that trees are
/// made.
const FLAT_FACTOR: usize = if cfg!(test) { 1 } else { 8 };
const FLAT_FREE: usize = if cfg!(test) { 2 } else { 4096 };

/// Judgements of one class, by protocol and ports.
pub(super) type Row = [u16];

/// Which of some rules are the first to match.
pub(super) type Layer = [u16];

/// In the first word of a row: not how many layers it shares.
const FLAT: u16 = u16::MAX;

/// Words before each section of a layer.
const LAYER_HEAD: usize = 5;

/// Forms of a layer's section.
const GRID: u16 = 0;
const TREES: u16 = 1;

/// Protocols that are told apart before all else: the first part of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With ports.
    Ports(u8),
    /// With types and codes of messages.
    Messages(u8),
    /// All others: their numbers are looked up as source ports are.
    Others,
}

const KINDS: [Kind; 6] = [
    Kind::Ports(WITH_PORTS[0]),
    Kind::Ports(WITH_PORTS[1]),
    Kind::Ports(WITH_PORTS[2]),
    Kind::Messages(WITH_MESSAGES[0]),
    Kind::Messages(WITH_MESSAGES[1]),
    Kind::Others,
];

/// The place of a protocol's kind among [`KINDS`].
const KIND_OF: [u8; 256] = {
    let mut kinds = [KINDS.len() as u8 - 1; 256];
    let mut kind = 0;
    while kind < KINDS.len() {
        if let Kind::Ports(protocol) | Kind::Messages(protocol) = KINDS[kind] {
            kinds[protocol as usize] = kind as u8;
        }
        kind += 1;
    }
    kinds
};

impl Kind {
    #[inline]
    fn of(protocol: u8) -> Kind {
        KINDS[usize::from(KIND_OF[usize::from(protocol)])]
    }
}

/// What a row is asked: the kind of protocol, and the ports, or a message's type and code, or the protocol.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Question {
    kind: u16,
    source: u16,
    destination: u16,
}

impl Question {
    #[inline]
    fn kind(self) -> usize {
        self.kind.into()
    }

    #[inline(always)]
    pub fn new(flow: &FlowTuple) -> Question {
        let kind = KIND_OF[usize::from(flow.protocol)].into();
        // Those with ports come first.
        if usize::from(kind) >= WITH_PORTS.len() {
            return Question::without_ports(flow, kind);
        }
        let is_in = flow.direction == FlowDirection::Ingress;
        let source = if is_in { flow.peer_port } else { flow.local_port };
        let destination = if is_in { flow.local_port } else { flow.peer_port };
        Question { kind, source, destination }
    }

    #[inline(never)]
    fn without_ports(flow: &FlowTuple, kind: u16) -> Question {
        let (source, destination) = if WITH_MESSAGES.contains(&flow.protocol) {
            message_of(flow).map_or(NO_MESSAGE, |(kind, code)| (kind.into(), code.into()))
        } else {
            (flow.protocol.into(), 0)
        };
        Question { kind, source, destination }
    }
}

/// What a row says. `shared` are the layers that rows of its variant share.
#[inline(always)]
pub(super) fn judge(row: &Row, shared: &[Arc<Layer>], list: &List, question: Question) -> Packed {
    match row.split_first() {
        Some((&FLAT, grid)) => Packed::from_word(in_grid(grid, question)),
        Some((&count, rest)) => layered(count, rest, shared, list, question),
        None => Packed::deny(RuleId::NO_PROFILE_MATCH),
    }
}

/// A flat row; None: it is not one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flat<'a>(&'a [u16]);

impl<'a> Flat<'a> {
    #[inline(always)]
    pub fn of(row: &'a Row) -> Option<Self> {
        row.split_first().filter(|(first, _)| **first == FLAT).map(|(_, grid)| Flat(grid))
    }

    /// The first half of a judgement: the table of the ranges that a question is about. Asks memory for it.
    #[inline(always)]
    pub fn ranges(self, question: Question) -> u32 {
        let ranges = ranges_in(self.0, question);
        prefetch_slice(self.0, table::nodes(ranges));
        ranges
    }

    /// The second half.
    #[inline(always)]
    pub fn judge(self, ranges: u32, question: Question) -> Packed {
        Packed::from_word(find(self.0, ranges, question.destination))
    }
}

/// A row of two layers, its own and one that it shares, whose rules of the list's first section make grids: what most
/// layered rows are; None: it is not one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a>([&'a [u16]; 2]);

impl<'a> Pair<'a> {
    #[inline(always)]
    pub fn of(row: &'a Row, shared: &'a [Arc<Layer>]) -> Option<Self> {
        let ([1, number @ ..], own) = row.split_first_chunk::<3>()? else { return None };
        let shared = shared.get(long(number, 0) as usize)?;
        Some(Pair([first_grid(own)?, first_grid(shared)?]))
    }

    /// The first half of a judgement: the tables of the ranges that a question is about. Asks memory for them.
    #[inline(always)]
    pub fn ranges(self, question: Question) -> [u32; 2] {
        self.0.map(|grid| {
            let ranges = ranges_in(grid, question);
            prefetch_slice(grid, table::nodes(ranges));
            ranges
        })
    }

    /// The second half; None: the first section does not decide.
    #[inline(always)]
    pub fn judge(self, [own, shared]: [u32; 2], list: &List, question: Question) -> Option<Packed> {
        let first =
            find(self.0[0], own, question.destination).min(find(self.0[1], shared, question.destination));
        let outcome = list.outcomes.get(first as usize).or(list.sections.first().map(|section| &section.end));
        match outcome {
            Some(Outcome::Decide(judgement)) => Some(*judgement),
            _ => None,
        }
    }
}

/// The grid of a layer whose rules are of the list's first section.
#[inline(always)]
fn first_grid(layer: &[u16]) -> Option<&[u16]> {
    let (head, grid) = layer.split_first_chunk::<LAYER_HEAD>()?;
    (long(head, 0) == 0 && head[4] == GRID).then_some(grid)
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

/// A row of `rules` and layers that it shares, by their numbers: fewer than [`FLAT`].
pub(super) fn layered_row(rules: &[PortRule<'_>], shared: &[u32]) -> Arc<Row> {
    let numbers = shared.iter().flat_map(|number| halves(*number));
    [shared.len() as u16].into_iter().chain(numbers).chain(layer_words(rules)).collect()
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

// ---- grids ----

/// The value of a grid for a question.
#[inline(always)]
fn in_grid(grid: &[u16], question: Question) -> u32 {
    find(grid, ranges_in(grid, question), question.destination)
}

/// The table of the ranges that a question is about.
#[inline(always)]
fn ranges_in(grid: &[u16], question: Question) -> u32 {
    find(grid, long(grid, 2 * question.kind()), question.source)
}

/// The grid of `rules`, as words. `paint` gives the values of destination ports that areas of the same source ports make.
/// None: it would be larger than `factor` times its rules.
fn grid(rules: &[PortRule<'_>], factor: usize, mut paint: impl FnMut(&[Area]) -> Ranges) -> Option<Vec<u16>> {
    let mut words = vec![0; 2 * KINDS.len()];
    // What is the same for several source ports, or protocols, is there once.
    let (mut tables, mut tables_of_bands) = (FxHashMap::default(), FxHashMap::default());
    for (number, kind) in KINDS.into_iter().enumerate() {
        let mut of: Vec<(u16, u32)> = Vec::new();
        for (last, ranges) in bands(&areas(kind, rules), factor, &mut paint)? {
            let table = *tables.entry(ranges).or_insert_with_key(|ranges| table::write(&mut words, ranges));
            of.push((last, table));
        }
        let bands = *tables_of_bands.entry(of).or_insert_with_key(|of| table::write(&mut words, of));
        words[2 * number..2 * number + 2].copy_from_slice(&halves(bands));
    }
    table::finish(&mut words);
    Some(words)
}

// ---- layers ----

/// Asks memory for the beginning of a row.
#[inline(always)]
pub(super) fn prefetch(row: &Row) {
    prefetch_lines::<3, _>(row);
}

/// Asks memory for the beginnings of the layers that a row shares.
#[inline]
pub(super) fn prefetch_shared(row: &Row, shared: &[Arc<Layer>]) {
    let Some((&count, numbers)) = row.split_first().filter(|(first, _)| **first != FLAT) else { return };
    for number in 0..usize::from(count) {
        if let Some(layer) = shared.get(long(numbers, 2 * number) as usize) {
            prefetch_lines::<2, _>(&**layer);
        }
    }
}

#[inline(never)]
fn layered(count: u16, rest: &[u16], shared: &[Arc<Layer>], list: &List, question: Question) -> Packed {
    let (numbers, own) = rest.split_at_checked(2 * usize::from(count)).unwrap_or_default();
    let first = |section: usize| {
        let mut first = first_in(own, section, question);
        for number in 0..usize::from(count) {
            if let Some(layer) = shared.get(long(numbers, 2 * number) as usize) {
                first = first.min(first_in(layer, section, question));
            }
        }
        first
    };
    decide(list, first).0
}

/// The first rule of a section that matches.
#[inline(always)]
fn first_in(mut layer: &[u16], section: usize, question: Question) -> u32 {
    while let Some((head, rest)) = layer.split_first_chunk::<LAYER_HEAD>() {
        let (number, length, form) = (long(head, 0), long(head, 2), head[4]);
        if number as usize == section {
            // Words beyond its own do no harm: no table leads there.
            return if form == GRID { in_grid(rest, question) } else { in_trees(rest, question) };
        }
        layer = rest.get(length as usize..).unwrap_or_default();
    }
    NONE
}

fn layer_words(rules: &[PortRule<'_>]) -> Vec<u16> {
    let mut words = Vec::new();
    let mut rest = rules;
    while let Some(section) = rest.first().map(|rule| rule.rule.section) {
        let (of, after) = rest.split_at(rest.partition_point(|rule| rule.rule.section == section));
        rest = after;
        let (form, body) = match grid(of, FLAT_FACTOR, firsts) {
            Some(grid) => (GRID, grid),
            None => (TREES, trees(of)),
        };
        words.extend(halves(section as u32).into_iter().chain(halves(body.len() as u32)).chain([form]));
        words.extend(body);
    }
    words
}

#[cfg(test)]
mod tests;
