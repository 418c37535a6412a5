//! Segment trees over source ports: the form of a layer whose grid would be too large. [The words](super).

use super::{Area, NONE, PortRule, Question, areas, cuts, firsts, piece, protocols};

/// The first rule that matches, of what [`trees`] made.
pub(super) fn in_trees(trees: &[u32], question: Question) -> u32 {
    let [other, rest @ ..] = trees else { return NONE };
    let mut trees = rest;
    while let [protocol, length, rest @ ..] = trees {
        let Some((tree, after)) = rest.split_at_checked(*length as usize) else { break };
        if *protocol == u32::from(question.protocol) {
            return in_tree(tree, question).unwrap_or(NONE);
        }
        trees = after;
    }
    *other
}

/// Rules of one section as words: a tree for each protocol.
pub(super) fn trees(rules: &[PortRule<'_>]) -> Vec<u32> {
    let mut words = vec![areas(0, rules).first().map_or(NONE, |area| area.place)];
    for protocol in protocols(rules) {
        let tree = tree(&areas(protocol, rules));
        words.extend([protocol.into(), tree.len() as u32]);
        words.extend(tree);
    }
    words
}

/// A segment tree over source ports: the rules that match a source port are in the nodes on the way from its leaf to the
/// root. Node n's parent is n / 2, and leaf i is node `leaves + i`. Each node knows the first of its rules for every
/// destination port.
fn tree(areas: &[Area]) -> Vec<u32> {
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
    let (mut ends, mut values) = (Vec::with_capacity(2 * leaves), Vec::new());
    for areas in of_node {
        if !areas.is_empty() {
            values.extend(firsts(&areas));
        }
        ends.push(values.len() as u32);
    }
    let mut words = vec![leaves as u32];
    words.extend(cuts.into_iter().map(u32::from));
    words.extend(ends);
    words.extend(values.into_iter().flat_map(|(last, place)| [last.into(), place]));
    words
}

fn in_tree(tree: &[u32], question: Question) -> Option<u32> {
    let (leaves, rest) = tree.split_first()?;
    let (cuts, rest) = rest.split_at_checked(*leaves as usize)?;
    let (ends, rest) = rest.split_at_checked(2 * cuts.len())?;
    let (values, _) = rest.as_chunks::<2>();
    let mut node = cuts.len() + cuts.partition_point(|last| *last < question.source.into());
    let mut first = NONE;
    while node > 0 {
        let (start, end) = (*ends.get(node - 1)?, *ends.get(node)?);
        let values = values.get(start as usize..end as usize)?;
        first = first
            .min(values.get(find(values, question.destination.into())).map_or(NONE, |[_, place]| *place));
        node /= 2;
    }
    Some(first)
}

/// The first of the pairs whose first word is not below `key`: its place.
#[inline]
fn find(pairs: &[[u32; 2]], key: u32) -> usize {
    pairs.partition_point(|[last, _]| *last < key)
}
