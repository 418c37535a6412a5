//! Longest match by multibit trie with leaf pushing: IPv4 in steps of 16, 8, 8 bits, IPv6 of 16 and fourteen times 8.
//!
//! ```text
//!   slots 0 ‥ 65535        slots 256·p ‥ 256·p+255
//!   (by bits 0‥15)         (page p, by the next 8 bits)         a slot:  0            nothing
//!   ┌──┬──┬──┬──┬──┐       ┌──┬──┬──┬──┐                                v + 1        value v
//!   │v │v │p─┼──┼──┼──────►│v │p─┼──┼──┼────► …                          PAGE | p     go on in page p
//!   └──┴──┴──┴──┴──┘       └──┴──┴──┴──┘
//! ```
//!
//! Leaf pushing: every slot that is not a page holds the value of the longest prefix that covers it, so a lookup ends at
//! the first slot that is none. The default route is not pushed but kept aside: it changes in one place.
//!
//! The slots lie in copy-on-write segments ([`super::paged`]), so a change copies the segments it touches (64 KiB each),
//! and a snapshot the array of segment pointers. [`Lpm`] is the reader's part and never changes; [`LpmBuilder`] also
//! knows the length of the prefix behind each slot and the prefixes themselves, to push leaves again on removal.

use std::collections::BTreeMap;
use std::hint::select_unpredictable;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::paged::{Paged, PagedBuilder};
use super::prefix::Prefix;

const SEGMENT: usize = 16384;
const ROOT_SLOTS: usize = 1 << 16;
const PAGE_SLOTS: usize = 256;
const PAGE: u32 = 1 << 31;
const NOTHING: u32 = 0;
/// In the answers to a batch: no prefix contains the address.
pub const NO_VALUE: u32 = u32::MAX;

/// The longest-match table that readers use: prefixes of both families to values below 2³¹ − 1.
#[derive(Debug, Clone, Default)]
pub struct Lpm {
    v4: Trie,
    v6: Trie,
}

#[derive(Debug, Clone, Default)]
struct Trie {
    slots: Paged<u32, SEGMENT>,
    default: u32,
}

impl Lpm {
    /// The value of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.lookup_v4(address),
            IpAddr::V6(address) => self.lookup_v6(address),
        }
    }

    /// The same for an IPv4 address: in three steps.
    #[inline]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> Option<u32> {
        self.v4.lookup(address.octets())
    }

    /// The same for an IPv6 address: in up to fifteen steps, which nobody wants in the place of those three.
    #[inline(never)]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> Option<u32> {
        self.v6.lookup(address.octets())
    }

    /// Brings near what a lookup of `address` begins with.
    #[inline]
    pub fn prefetch(&self, address: IpAddr) {
        let (trie, slot) = match address {
            IpAddr::V4(address) => (&self.v4, root_slot(&address.octets())),
            IpAddr::V6(address) => (&self.v6, root_slot(&address.octets())),
        };
        if let Some(slot) = trie.slots.get(slot) {
            caracal_xsk::prefetch(slot);
        }
    }

    /// The values for a batch of addresses, [`NO_VALUE`] for those that have none.
    pub fn lookup_batch_v4<const N: usize>(&self, addresses: &[Ipv4Addr; N], values: &mut [u32; N]) {
        for (value, address) in values.iter_mut().zip(addresses) {
            *value = self.lookup_v4(*address).unwrap_or(NO_VALUE);
        }
    }

    /// The same for IPv6.
    pub fn lookup_batch_v6<const N: usize>(&self, addresses: &[Ipv6Addr; N], values: &mut [u32; N]) {
        for (value, address) in values.iter_mut().zip(addresses) {
            *value = self.lookup_v6(*address).unwrap_or(NO_VALUE);
        }
    }

    /// Bytes that the tables take.
    pub fn bytes(&self) -> usize {
        self.v4.slots.bytes() + self.v6.slots.bytes()
    }
}

impl Trie {
    #[inline]
    fn lookup<const BYTES: usize>(&self, key: [u8; BYTES]) -> Option<u32> {
        descend(key, self.default, |index| self.slot(index))
    }

    #[inline]
    fn slot(&self, index: usize) -> u32 {
        self.slots.get(index).copied().unwrap_or(NOTHING)
    }
}

#[inline]
fn descend<const BYTES: usize>(
    key: [u8; BYTES],
    default: u32,
    slot_at: impl Fn(usize) -> u32,
) -> Option<u32> {
    let mut slot = slot_at(root_slot(&key));
    for byte in key.into_iter().skip(2) {
        let is_page = slot & PAGE != 0;
        // Of the two steps that IPv4 may take nobody can guess which end early: they are taken, by whoever is done to
        // the first slot.
        if BYTES > 4 && !is_page {
            break;
        }
        let below = slot_at(select_unpredictable(is_page, page_slot(slot, byte), 0));
        slot = select_unpredictable(is_page, below, slot);
    }
    // The deepest pages hold no pages, so `slot` is a value or nothing now.
    let found = if slot == NOTHING { default } else { slot };
    found.checked_sub(1)
}

fn root_slot(key: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([key[0], key[1]]))
}

fn page_slot(page: u32, byte: u8) -> usize {
    (page & !PAGE) as usize * PAGE_SLOTS + usize::from(byte)
}

/// The controller's part of an [`Lpm`].
#[derive(Debug, Default)]
pub struct LpmBuilder {
    v4: TrieBuilder,
    v6: TrieBuilder,
    prefixes: BTreeMap<Prefix, u32>,
}

/// Invariant: `lengths[i]` is the length of the prefix whose value slot `i` holds, 0 for none (and for pages).
#[derive(Debug, Default)]
struct TrieBuilder {
    slots: PagedBuilder<u32, SEGMENT>,
    lengths: Vec<u8>,
    default: u32,
    /// Pages that are in no slot.
    free: Vec<u32>,
    /// Pages ever made.
    pages: u32,
}

impl LpmBuilder {
    /// Adds `prefix`, or changes its value; gives the former one. `value` is below 2³¹ − 1.
    pub fn insert(&mut self, prefix: Prefix, value: u32) -> Option<u32> {
        debug_assert!(value < PAGE - 1, "values share their word with a flag");
        let former = self.prefixes.insert(prefix, value);
        if former != Some(value) {
            let leaf = Leaf { slot: value + 1, length: prefix.length() };
            self.trie(prefix).paint(prefix, Painting::Over(leaf));
        }
        former
    }

    /// Removes `prefix`; gives its value.
    pub fn remove(&mut self, prefix: Prefix) -> Option<u32> {
        let former = self.prefixes.remove(&prefix)?;
        let covering = (1..prefix.length()).rev().find_map(|length| {
            let value = self.prefixes.get(&prefix.shortened(length))?;
            Some(Leaf { slot: value + 1, length })
        });
        let covering = covering.unwrap_or(Leaf { slot: NOTHING, length: 0 });
        self.trie(prefix).paint(prefix, Painting::Uncover { length: prefix.length(), covering });
        Some(former)
    }

    /// The value of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.octets()),
            IpAddr::V6(address) => self.v6.lookup(address.octets()),
        }
    }

    /// The value of exactly this prefix.
    pub fn get(&self, prefix: Prefix) -> Option<u32> {
        self.prefixes.get(&prefix).copied()
    }

    /// Whether there is any prefix inside `prefix`, itself included.
    pub fn has_inside(&self, prefix: Prefix) -> bool {
        self.prefixes.range(prefix..).next().is_some_and(|(first, _)| prefix.covers(first))
    }

    /// The table as it is now, for readers.
    pub fn snapshot(&mut self) -> Lpm {
        Lpm { v4: self.v4.snapshot(), v6: self.v6.snapshot() }
    }

    fn trie(&mut self, prefix: Prefix) -> &mut TrieBuilder {
        if prefix.address().is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Leaf {
    slot: u32,
    length: u8,
}

/// What happens to the leaves inside a prefix.
#[derive(Debug, Clone, Copy)]
enum Painting {
    /// Those of shorter (or this) prefixes become this one's.
    Over(Leaf),
    /// Those of this prefix become the covering one's.
    Uncover { length: u8, covering: Leaf },
}

impl TrieBuilder {
    fn lookup<const BYTES: usize>(&self, key: [u8; BYTES]) -> Option<u32> {
        descend(key, self.default, |index| self.slot(index))
    }

    fn snapshot(&mut self) -> Trie {
        Trie { slots: self.slots.snapshot(), default: self.default }
    }

    fn paint(&mut self, prefix: Prefix, painting: Painting) {
        let length = usize::from(prefix.length());
        if length == 0 {
            self.default = match painting {
                Painting::Over(leaf) => leaf.slot,
                Painting::Uncover { .. } => NOTHING,
            };
            return;
        }
        if self.lengths.is_empty() {
            self.lengths.resize(ROOT_SLOTS, 0);
            self.pages = (ROOT_SLOTS / PAGE_SLOTS) as u32;
        }
        match prefix.address() {
            IpAddr::V4(address) => self.paint_from_root(&address.octets(), length, painting),
            IpAddr::V6(address) => self.paint_from_root(&address.octets(), length, painting),
        }
    }

    fn paint_from_root(&mut self, key: &[u8], length: usize, painting: Painting) {
        let first = root_slot(key);
        if length <= 16 {
            let count = 1 << (16 - length);
            // By page-sized pieces, none of which lies in two segments.
            for start in (first..first + count).step_by(PAGE_SLOTS) {
                self.paint_slots(start, count.min(PAGE_SLOTS), painting);
            }
        } else {
            self.paint_below(first, &key[2..], length - 16, 16, painting);
        }
    }

    /// Paints inside the page of slot `parent`, where `key` and `length` are what is left below it, and `depth` bits
    /// are above. Makes the page if there is none, and takes it away if nothing in it is longer than `depth`.
    fn paint_below(&mut self, parent: usize, key: &[u8], length: usize, depth: u8, painting: Painting) {
        let (Some((&byte, below)), page) = (key.split_first(), self.page_of(parent)) else { return };
        let slot = page_slot(page, byte);
        if length <= 8 {
            self.paint_slots(slot, 1 << (8 - length), painting);
        } else {
            self.paint_below(slot, below, length - 8, depth + 8, painting);
        }
        if matches!(painting, Painting::Uncover { .. }) {
            self.fold(parent, page, depth);
        }
    }

    /// The page of slot `parent`, made from its leaf if it is one.
    fn page_of(&mut self, parent: usize) -> u32 {
        let slot = self.slot(parent);
        if slot & PAGE != 0 {
            return slot & !PAGE;
        }
        let page = self.free.pop().unwrap_or_else(|| {
            self.pages += 1;
            self.pages - 1
        });
        let first = page_slot(page, 0);
        if self.lengths.len() < first + PAGE_SLOTS {
            self.lengths.resize(first + PAGE_SLOTS, 0);
        }
        let length = self.lengths[parent];
        self.lengths[first..first + PAGE_SLOTS].fill(length);
        self.lengths[parent] = 0;
        let segment = self.slots.page_mut(first);
        segment[first % SEGMENT..first % SEGMENT + PAGE_SLOTS].fill(slot);
        self.slots.set(parent, PAGE | page);
        page
    }

    /// Puts the leaf back in place of `page` if all of it is one leaf, of a prefix no longer than the page is deep.
    fn fold(&mut self, parent: usize, page: u32, depth: u8) {
        let first = page_slot(page, 0);
        let slots = first..first + PAGE_SLOTS;
        let is_leaf = |slot: usize| self.lengths[slot] <= depth && self.slot(slot) & PAGE == 0;
        if !slots.clone().all(is_leaf) {
            return;
        }
        let leaf = Leaf { slot: self.slot(first), length: self.lengths[first] };
        self.slots.set(parent, leaf.slot);
        self.lengths[parent] = leaf.length;
        self.free.push(page);
    }

    /// Paints `count` slots from `first`, which lie in one segment, and the pages below them.
    fn paint_slots(&mut self, first: usize, count: usize, painting: Painting) {
        for slot in first..first + count {
            let held = self.slot(slot);
            if held & PAGE != 0 {
                self.paint_slots(page_slot(held, 0), PAGE_SLOTS, painting);
                continue;
            }
            let leaf = match painting {
                Painting::Over(leaf) if self.lengths[slot] <= leaf.length => leaf,
                Painting::Uncover { length, covering } if self.lengths[slot] == length => covering,
                _ => continue,
            };
            self.slots.set(slot, leaf.slot);
            self.lengths[slot] = leaf.length;
        }
    }

    fn slot(&self, index: usize) -> u32 {
        self.slots.get(index).copied().unwrap_or(NOTHING)
    }
}

#[cfg(test)]
mod tests;
