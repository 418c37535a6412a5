//! Tables of port ranges, as words: what is said of each range, found in a few steps that no processor has to guess.
//!
//! ```text
//!            ◄── items, from the last to the first ──┐ ┌── nodes of 16 keys, level by level ──►
//!   words  … │ item 2 │ item 1 │ item 0 │ root … │ its children … │ theirs …
//!                                       ▲
//!                                       table: this place, and how many levels there are
//! ```
//!
//! Keys are the last ports of all ranges but the last one, so a port's range is as many keys as lie below it. They are a
//! search tree of 16 keys a node, of which all are compared at once. Keys of a node that has fewer are the last port,
//! below which everything is. A single range takes no node. An item is two words: what is said, or another table.

use std::hint::select_unpredictable;

use caracal_xsk::count_below;

/// Keys in a node.
const KEYS: usize = caracal_xsk::KEYS;
/// A node's children.
const CHILDREN: usize = KEYS + 1;

/// Where each level's nodes begin, in nodes. 65,535 keys are 4,096 leaves.
const LEVELS: [usize; 4] = [0, 1, 1 + CHILDREN, 1 + CHILDREN + CHILDREN * CHILDREN];

/// Bits of a table's word that say how many levels it has.
const LEVEL_BITS: u32 = 3;

/// Stands for what no well-made words lead to.
pub(super) const NONE: u32 = u32::MAX;

/// What the table says of a port.
///
/// A table of a single range has no node: then what lies in its place is looked at for nothing, which costs less than a
/// wrong guess.
#[inline(always)]
pub(super) fn find(words: &[u16], table: u32, asked: u16) -> u32 {
    let (at, levels) = (nodes(table), table & ((1 << LEVEL_BITS) - 1));
    let Some(root) = words.get(at..).and_then(|rest| rest.first_chunk()) else { return NONE };
    let below = select_unpredictable(levels == 0, 0, count_below(root, asked));
    let range = if levels > 1 { descend(words, at, levels, asked) } else { below };
    long(words, at.wrapping_sub(2 * (range + 1)))
}

/// Where a table's nodes begin.
#[inline(always)]
pub(super) fn nodes(table: u32) -> usize {
    (table >> LEVEL_BITS) as usize
}

/// Which range a port is in, in a tree of several levels.
#[inline]
fn descend(words: &[u16], at: usize, levels: u32, asked: u16) -> usize {
    let (mut node, mut range) = (0, 0);
    for start in LEVELS.iter().take(levels as usize) {
        let keys = words.get(at + KEYS * (start + node)..).and_then(|rest| rest.first_chunk());
        let below = keys.map_or(0, |keys| count_below(keys, asked));
        // Which leaf, and how many keys are before it.
        range = KEYS * node + below;
        node = CHILDREN * node + below;
    }
    range
}

/// Ends words in which there are tables: their last node, or what is looked at in its place, is within them.
pub(super) fn finish(words: &mut Vec<u16>) {
    words.extend([u16::MAX; KEYS]);
}

/// The number in two words.
#[inline(always)]
pub(super) fn long(words: &[u16], at: usize) -> u32 {
    match words.get(at..).and_then(|rest| rest.first_chunk()) {
        Some([low, high]) => u32::from(*low) | u32::from(*high) << 16,
        None => NONE,
    }
}

/// A number as two words.
pub(super) fn halves(number: u32) -> [u16; 2] {
    [number as u16, (number >> 16) as u16]
}

/// Appends the table of `ranges`, each given by its last port and the last of them the last port of all, and gives its
/// word.
pub(super) fn write(words: &mut Vec<u16>, ranges: &[(u16, u32)]) -> u32 {
    words.extend(ranges.iter().rev().flat_map(|(_, item)| halves(*item)));
    let at = words.len();
    let keys: Vec<u16> = ranges.iter().rev().skip(1).rev().map(|(last, _)| *last).collect();
    // From the leaves up: how many nodes a level has.
    let mut nodes = Vec::new();
    let mut count = keys.len().div_ceil(KEYS);
    while count > 0 {
        nodes.push(count);
        count = if count == 1 { 0 } else { count.div_ceil(CHILDREN) };
    }
    for (level, count) in nodes.iter().rev().enumerate() {
        // Leaves below a node of this level.
        let children = CHILDREN.pow((nodes.len() - 1 - level) as u32);
        words.resize(at + KEYS * LEVELS.get(level).copied().unwrap_or_default(), u16::MAX);
        for node in 0..*count {
            words.extend((0..KEYS).map(|key| {
                if level + 1 == nodes.len() {
                    return keys.get(KEYS * node + key).copied().unwrap_or(u16::MAX);
                }
                // The last key below the child; the last child takes all that is above.
                let end = KEYS * (children / CHILDREN) * (CHILDREN * node + key + 1);
                if end < keys.len() { keys[end - 1] } else { u16::MAX }
            }));
        }
    }
    (at as u32) << LEVEL_BITS | nodes.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_of_every_port_what_was_written_however_many_ranges_there_are() {
        for count in (1..=40).chain([272, 273, 274, 289, 290, 4_624, 4_625, 4_626, 5_000, 30_000, 65_536]) {
            let last = |i: usize| (((i + 1) << 16) / count - 1) as u16;
            let ranges: Vec<(u16, u32)> = (0..count).map(|i| (last(i), 0x1_0001 * i as u32)).collect();
            let mut words = vec![7; 5];
            let table = write(&mut words, &ranges);
            finish(&mut words);
            for asked in 0..=u16::MAX {
                let expected = ranges[ranges.partition_point(|(last, _)| *last < asked)].1;
                assert_eq!(find(&words, table, asked), expected, "{asked} of {count} ranges");
            }
        }
    }

    #[test]
    fn words_that_lead_nowhere_say_nothing() {
        for table in [0, 1, 8, 9, 4 << LEVEL_BITS | 7, u32::MAX] {
            assert_eq!(find(&[], table, 80), NONE);
            assert_eq!(find(&[1], table, 80), NONE);
        }
    }
}
