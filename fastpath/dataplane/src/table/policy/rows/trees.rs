//! Segment trees over source ports: the form of a layer whose grid would be too large. [The words](super).

use super::areas::{Area, areas, cuts, firsts, piece};
use super::table::{self, NONE, find, halves, long};
use super::{KINDS, PortRule, Question};

/// The first rule that matches, of what [`trees`] made.
///
/// The rules that match a source port are in the nodes on the way from its leaf to the root. Node n's parent is n / 2, and
/// leaf i is node `leaves + i`.
#[inline(never)]
pub(super) fn in_trees(trees: &[u16], question: Question) -> u32 {
    let (leaves, nodes) = (long(trees, 4 * question.kind()), long(trees, 4 * question.kind() + 2) as usize);
    // Words that are not well made lead no further than to the last node there may be.
    let mut node = find(trees, leaves, question.source) as usize;
    let mut first = NONE;
    while node > 0 {
        match long(trees, nodes.saturating_add(2 * node)) {
            0 => {}
            table => first = first.min(find(trees, table, question.destination)),
        }
        node /= 2;
    }
    first
}

/// Rules of one section as words: a tree for each kind of protocols.
pub(super) fn trees(rules: &[PortRule<'_>]) -> Vec<u16> {
    let mut words = vec![0; 4 * KINDS.len()];
    for (number, kind) in KINDS.into_iter().enumerate() {
        let [leaves, nodes] = tree(&mut words, &areas(kind, rules)).map(halves);
        words[4 * number..4 * number + 4].copy_from_slice(&[leaves, nodes].concat());
    }
    table::finish(&mut words);
    words
}

/// Appends a tree: gives the table of its leaves, and where its nodes begin. Each node knows the first of its rules for
/// every destination port, by a table, or 0 if it has none.
fn tree(words: &mut Vec<u16>, areas: &[Area]) -> [u32; 2] {
    let cuts = cuts(areas.iter().map(|area| area.source));
    let leaves = cuts.len();
    let mut of_node: Vec<Vec<Area>> = vec![Vec::new(); 2 * leaves];
    for area in areas {
        // The nodes that together cover the area's source ports, and nothing else.
        let mut from = leaves + piece(&cuts, area.source.0);
        let mut to = leaves + piece(&cuts, area.source.1) + 1;
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
    let tables: Vec<u32> = of_node
        .iter()
        .map(|areas| if areas.is_empty() { 0 } else { table::write(words, &firsts(areas)) })
        .collect();
    let nodes = words.len();
    words.extend(tables.into_iter().flat_map(halves));
    let numbered: Vec<(u16, u32)> = cuts.into_iter().zip(leaves as u32..).collect();
    [table::write(words, &numbered), nodes as u32]
}
