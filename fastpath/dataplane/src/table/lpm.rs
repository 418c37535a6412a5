//! Longest match by multibit trie with leaf pushing: the first 24 bits of an address at once, then 8 at a time.
//!
//! ```text
//!   root: 2²⁴ slots               pages: 256 slots each
//!   (by bits 0‥23)                (by the next 8 bits)              a slot:  PAGE | p      go on in page p
//!   ┌──┬──┬──┬──┬──┐              ┌──┬──┬──┬──┐                              below PAGE    a value
//!   │v │v │p─┼──┼──┼─────────────►│v │p─┼──┼──┼────► … IPv6                   NOTHING       no prefix (but the default)
//!   └──┴──┴──┴──┴──┘              └──┴──┴──┴──┘
//! ```
//!
//! Leaf pushing: every slot that is not a page holds the value of the longest prefix that covers it, so a lookup ends at
//! the first slot that is none: for IPv4 the first or the second. The default route is not pushed but kept aside: it
//! changes in one place. Why so, and what it costs: docs/decisions/0023.
//!
//! The slots lie in copy-on-write segments of 64 KiB. Those of the root in which nothing is are one and the same empty
//! segment: readers need not ask whether there is one, and a small table is small. A change copies the segments it
//! touches, and a snapshot the segments' addresses. [`Lpm`] is the reader's part and never changes; [`LpmBuilder`] also
//! knows the length of the prefix behind each slot and the prefixes themselves, to push leaves again on removal.

use std::collections::BTreeMap;
use std::hint::select_unpredictable;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use super::prefix::Prefix;

const SEGMENT: usize = 1 << SEGMENT_BITS;
const SEGMENT_BITS: u32 = 14;
const ROOT_BITS: u8 = 24;
const ROOT_BYTES: usize = 3;
const ROOT_SLOTS: usize = 1 << ROOT_BITS;
const ROOT_SEGMENTS: usize = ROOT_SLOTS / SEGMENT;
const PAGE_SLOTS: usize = 256;
const PAGE: u32 = 1 << 31;
const NOTHING: u32 = PAGE - 1;
/// In the answers to a batch: no prefix contains the address.
pub const NO_VALUE: u32 = NOTHING;

type Segment = Arc<[u32; SEGMENT]>;
type Root = Arc<[Segment; ROOT_SEGMENTS]>;

static EMPTY_SEGMENT: LazyLock<Segment> = LazyLock::new(|| Arc::new([NOTHING; SEGMENT]));
static EMPTY_ROOT: LazyLock<Root> =
    LazyLock::new(|| Arc::new(std::array::from_fn(|_| EMPTY_SEGMENT.clone())));

/// The longest-match table that readers use: prefixes of both families to values below 2³¹ − 1.
#[derive(Debug, Clone, Default)]
pub struct Lpm {
    v4: Trie,
    v6: Trie,
}

#[derive(Debug, Clone)]
struct Trie {
    root: Root,
    pages: Arc<[Segment]>,
    /// Of the prefix without bits; a slot.
    default: u32,
}

impl Default for Trie {
    fn default() -> Self {
        Trie { root: EMPTY_ROOT.clone(), pages: Arc::new([]), default: NOTHING }
    }
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

    /// The same for an IPv4 address: in one step or two.
    #[inline]
    pub fn lookup_v4(&self, address: Ipv4Addr) -> Option<u32> {
        value_of(self.v4.find_v4(address.to_bits()))
    }

    /// The same for an IPv6 address: in up to fourteen steps, which nobody wants in the place of those two.
    #[inline]
    pub fn lookup_v6(&self, address: Ipv6Addr) -> Option<u32> {
        self.lookup_v6_bits(address.to_bits())
    }

    // A number travels in registers. An address would be put together on the stack from pieces, and reading it there would
    // wait until all before it is done.
    #[inline(never)]
    pub(super) fn lookup_v6_bits(&self, address: u128) -> Option<u32> {
        value_of(self.v6.find_v6(address))
    }

    /// Brings near what a lookup of `address` begins with.
    #[inline]
    pub fn prefetch(&self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => caracal_xsk::prefetch(self.v4.first(address.to_bits() >> 8)),
            IpAddr::V6(address) => caracal_xsk::prefetch(self.v6.first((address.to_bits() >> 104) as u32)),
        }
    }

    /// The values for a batch of IPv4 addresses, given as numbers; [`NO_VALUE`] for those that have none.
    // By itself: it needs every register.
    #[inline(never)]
    pub fn lookup_batch_v4<const N: usize>(&self, addresses: &[u32; N], values: &mut [u32; N]) {
        let (fours, rest) = addresses.as_chunks::<4>();
        let (values_of_fours, values_of_rest) = values.as_chunks_mut::<4>();
        for (values, four) in values_of_fours.iter_mut().zip(fours) {
            self.v4.find_four_v4(four, values);
        }
        for (value, address) in values_of_rest.iter_mut().zip(rest) {
            *value = self.v4.find_v4(*address);
        }
    }

    /// The same for IPv6. Sixteen addresses take each step together, so that they wait for memory together.
    pub fn lookup_batch_v6<const N: usize>(&self, addresses: &[u128; N], values: &mut [u32; N]) {
        let (sixteens, rest) = addresses.as_chunks::<16>();
        let (values_of_sixteens, values_of_rest) = values.as_chunks_mut::<16>();
        for (values, sixteen) in values_of_sixteens.iter_mut().zip(sixteens) {
            *values = self.v6.find_some_v6(sixteen);
        }
        for (value, address) in values_of_rest.iter_mut().zip(rest) {
            *value = self.v6.find_v6(*address);
        }
    }

    /// Bytes that the tables take; what lies side by side and is one, once.
    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }
}

#[inline]
fn value_of(slot: u32) -> Option<u32> {
    (slot != NOTHING).then_some(slot)
}

impl Trie {
    #[inline(always)]
    fn find_v4(&self, address: u32) -> u32 {
        let mut slot = *self.first(address >> 8);
        if slot & PAGE != 0 {
            slot = self.below(slot, address as u8);
        }
        select_unpredictable(slot == NOTHING, self.default, slot)
    }

    /// Four at once: where all go on to a page, as a pod's peers do, or none does, they are asked about it once.
    #[inline(always)]
    fn find_four_v4(&self, addresses: &[u32; 4], values: &mut [u32; 4]) {
        let &[a, b, c, d] = addresses;
        let [mut at_a, mut at_b, mut at_c, mut at_d] = [a, b, c, d].map(|address| *self.first(address >> 8));
        if at_a & at_b & at_c & at_d & PAGE != 0 {
            at_a = self.below(at_a, a as u8);
            at_b = self.below(at_b, b as u8);
            at_c = self.below(at_c, c as u8);
            at_d = self.below(at_d, d as u8);
        } else if (at_a | at_b | at_c | at_d) & PAGE != 0 {
            return self.find_each_v4(addresses, values);
        }
        let or_default = |slot| select_unpredictable(slot == NOTHING, self.default, slot);
        *values = [or_default(at_a), or_default(at_b), or_default(at_c), or_default(at_d)];
    }

    // Apart: what it needs in registers, the others need not.
    #[inline(never)]
    fn find_each_v4(&self, addresses: &[u32; 4], values: &mut [u32; 4]) {
        *values = addresses.map(|address| self.find_v4(address));
    }

    #[inline]
    fn find_v6(&self, address: u128) -> u32 {
        let mut slot = *self.first((address >> 104) as u32);
        let mut below = address << ROOT_BITS;
        while slot & PAGE != 0 {
            slot = self.below(slot, (below >> 120) as u8);
            below <<= 8;
        }
        if slot == NOTHING { self.default } else { slot }
    }

    #[inline]
    fn find_some_v6<const N: usize>(&self, addresses: &[u128; N]) -> [u32; N] {
        let mut slots = addresses.map(|address| *self.first((address >> 104) as u32));
        let keys = addresses.map(u128::to_be_bytes);
        for byte in ROOT_BYTES..16 {
            if slots.iter().fold(0, |all, slot| all | slot) & PAGE == 0 {
                break;
            }
            for (slot, key) in slots.iter_mut().zip(&keys) {
                if *slot & PAGE != 0 {
                    *slot = self.below(*slot, key[byte]);
                }
            }
        }
        slots.map(|slot| if slot == NOTHING { self.default } else { slot })
    }

    /// The slot in the root, by the address' first 24 bits.
    #[inline(always)]
    fn first(&self, bits: u32) -> &u32 {
        &self.root[(bits >> SEGMENT_BITS) as usize % ROOT_SEGMENTS][bits as usize % SEGMENT]
    }

    /// The slot in the page that a slot refers to, by the address' next byte. Slots refer to pages that there are.
    #[inline(always)]
    fn below(&self, page: u32, byte: u8) -> u32 {
        let slot = (page << 8 | u32::from(byte)) as usize;
        self.pages[slot >> SEGMENT_BITS][slot % SEGMENT]
    }

    fn bytes(&self) -> usize {
        let before = std::iter::once(&*EMPTY_SEGMENT).chain(self.root.iter());
        let of_root = self.root.iter().zip(before);
        let of_root = of_root.filter(|(segment, before)| {
            !Arc::ptr_eq(segment, before) && !Arc::ptr_eq(segment, &EMPTY_SEGMENT)
        });
        let addresses = size_of_val(&*self.root) + size_of_val(&*self.pages);
        (of_root.count() + self.pages.len()) * size_of::<[u32; SEGMENT]>() + addresses
    }
}

/// The controller's part of an [`Lpm`].
#[derive(Debug, Default)]
pub struct LpmBuilder {
    v4: TrieBuilder,
    v6: TrieBuilder,
    prefixes: BTreeMap<Prefix, u32>,
}

/// The slots of the root come first, those of page `p` from `ROOT_SLOTS + 256·p` on.
#[derive(Debug)]
struct TrieBuilder {
    /// Those of the root are there from the first prefix on.
    segments: Vec<Leaves>,
    default: u32,
    /// Pages that are in no slot.
    free: Vec<u32>,
    /// Pages ever made. Their slots' numbers fit in 32 bits: that is memory for 16 GiB of them.
    pages: u32,
    /// What readers were last given; None once something has changed since.
    root: Option<Root>,
    below: Option<Arc<[Segment]>>,
}

impl Default for TrieBuilder {
    fn default() -> Self {
        TrieBuilder {
            segments: Vec::new(),
            default: NOTHING,
            free: Vec::new(),
            pages: 0,
            root: Some(EMPTY_ROOT.clone()),
            below: Some(Arc::new([])),
        }
    }
}

/// A segment as the builder has it. Invariant: `lengths[i]` is the length of the prefix whose value slot `i` holds, 0 for
/// none (and for pages).
#[derive(Debug, Clone)]
struct Leaves {
    slots: Segment,
    lengths: Arc<[u8; SEGMENT]>,
}

static EMPTY_LEAVES: LazyLock<Leaves> =
    LazyLock::new(|| Leaves { slots: EMPTY_SEGMENT.clone(), lengths: Arc::new([0; SEGMENT]) });

impl LpmBuilder {
    /// Adds `prefix`, or changes its value; gives the former one. `value` is below 2³¹ − 1.
    pub fn insert(&mut self, prefix: Prefix, value: u32) -> Option<u32> {
        debug_assert!(value < NOTHING, "values share their word with a flag");
        let former = self.prefixes.insert(prefix, value);
        if former != Some(value) {
            let leaf = Leaf { slot: value, length: prefix.length() };
            self.trie(prefix).paint(prefix, Painting::Over(leaf));
        }
        former
    }

    /// Removes `prefix`; gives its value.
    pub fn remove(&mut self, prefix: Prefix) -> Option<u32> {
        let former = self.prefixes.remove(&prefix)?;
        let covering = (1..prefix.length()).rev().find_map(|length| {
            let value = self.prefixes.get(&prefix.shortened(length))?;
            Some(Leaf { slot: *value, length })
        });
        let covering = covering.unwrap_or(Leaf { slot: NOTHING, length: 0 });
        self.trie(prefix).paint(prefix, Painting::Uncover { length: prefix.length(), covering });
        Some(former)
    }

    /// The value of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<u32> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(&address.octets()),
            IpAddr::V6(address) => self.v6.lookup(&address.octets()),
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

impl Painting {
    fn leaf(self) -> Leaf {
        match self {
            Painting::Over(leaf) => leaf,
            Painting::Uncover { covering, .. } => covering,
        }
    }

    /// Whether it is for a slot with this in it.
    fn is_for(self, slot: u32, length: u8) -> bool {
        let is_for_length = match self {
            Painting::Over(leaf) => length <= leaf.length,
            Painting::Uncover { length: removed, .. } => length == removed,
        };
        is_for_length && slot & PAGE == 0
    }
}

fn root_slot(key: &[u8]) -> usize {
    key[..ROOT_BYTES].iter().fold(0, |slot, byte| slot << 8 | usize::from(*byte))
}

/// Where the slot of page `page` for `byte` is among all slots.
fn page_slot(page: u32, byte: u8) -> usize {
    ROOT_SLOTS + (page & !PAGE) as usize * PAGE_SLOTS + usize::from(byte)
}

impl Leaves {
    fn paint(&mut self, first: usize, count: usize, painting: Painting) {
        let leaf = painting.leaf();
        let range = first..first + count;
        let held = || self.slots[range.clone()].iter().zip(&self.lengths[range.clone()]);
        let changes = |slot: u32, length: u8| painting.is_for(slot, length) && slot != leaf.slot;
        let has_changes = held().any(|(slot, length)| changes(*slot, *length));
        let has_lengths = held().any(|(slot, length)| painting.is_for(*slot, *length));
        // What readers may hold is copied only if it changes for them.
        if has_changes {
            let slots = Arc::make_mut(&mut self.slots)[range.clone()].iter_mut();
            for (slot, length) in slots.zip(&self.lengths[range.clone()]) {
                if painting.is_for(*slot, *length) {
                    *slot = leaf.slot;
                }
            }
        }
        if has_lengths {
            let lengths = Arc::make_mut(&mut self.lengths)[range.clone()].iter_mut();
            for (length, slot) in lengths.zip(&self.slots[range]) {
                if painting.is_for(*slot, *length) {
                    *length = leaf.length;
                }
            }
        }
    }

    fn is_same(&self, other: &Leaves) -> bool {
        Arc::ptr_eq(&self.slots, &other.slots) && Arc::ptr_eq(&self.lengths, &other.lengths)
    }

    fn has_pages(&self, first: usize, count: usize) -> bool {
        self.slots[first..first + count].iter().any(|slot| slot & PAGE != 0)
    }
}

impl TrieBuilder {
    fn lookup(&self, key: &[u8]) -> Option<u32> {
        let mut slot = if self.segments.is_empty() { NOTHING } else { self.slot(root_slot(key)) };
        for byte in &key[ROOT_BYTES..] {
            if slot & PAGE == 0 {
                break;
            }
            slot = self.slot(page_slot(slot, *byte));
        }
        value_of(if slot == NOTHING { self.default } else { slot })
    }

    fn snapshot(&mut self) -> Trie {
        let (segments, slots) = (&self.segments, |leaves: &Leaves| leaves.slots.clone());
        let root = || Arc::new(std::array::from_fn(|number| slots(&segments[number])));
        let below = || segments[ROOT_SEGMENTS..].iter().map(slots).collect();
        let root = self.root.get_or_insert_with(root).clone();
        let pages = self.below.get_or_insert_with(below).clone();
        Trie { root, pages, default: self.default }
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
        if self.segments.is_empty() {
            self.segments.resize(ROOT_SEGMENTS, EMPTY_LEAVES.clone());
        }
        match prefix.address() {
            IpAddr::V4(address) => self.paint_from_root(&address.octets(), length, painting),
            IpAddr::V6(address) => self.paint_from_root(&address.octets(), length, painting),
        }
    }

    fn paint_from_root(&mut self, key: &[u8], length: usize, painting: Painting) {
        let first = root_slot(key);
        match usize::from(ROOT_BITS).checked_sub(length) {
            Some(bits) if 1 << bits > SEGMENT => self.paint_segments(first, 1 << bits, painting),
            Some(bits) => self.paint_slots(first, 1 << bits, painting),
            None => {
                self.paint_below(
                    first,
                    &key[ROOT_BYTES..],
                    length - usize::from(ROOT_BITS),
                    ROOT_BITS,
                    painting,
                );
            }
        }
    }

    /// Paints `count` slots from `first`, which are whole segments. Where one is the same as the one before it, what
    /// becomes of it is so, too: a short prefix over nothing takes one segment more.
    fn paint_segments(&mut self, first: usize, count: usize, painting: Painting) {
        let mut former: Option<(Leaves, Leaves)> = None;
        for slot in (first..first + count).step_by(SEGMENT) {
            let held = &self.segments[slot / SEGMENT];
            match &former {
                Some((before, after)) if before.is_same(held) => {
                    self.segments[slot / SEGMENT] = after.clone();
                    self.root = None;
                }
                _ => {
                    let before = held.clone();
                    self.paint_slots(slot, SEGMENT, painting);
                    let has_pages = before.has_pages(0, SEGMENT);
                    former = (!has_pages).then(|| (before, self.segments[slot / SEGMENT].clone()));
                }
            }
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
        if self.segments.len() <= first / SEGMENT {
            self.segments.push(EMPTY_LEAVES.clone());
        }
        let leaf = Leaf { slot, length: self.length(parent) };
        self.set(first, PAGE_SLOTS, leaf);
        self.set(parent, 1, Leaf { slot: PAGE | page, length: 0 });
        page
    }

    /// Puts the leaf back in place of `page` if all of it is one leaf, of a prefix no longer than the page is deep.
    fn fold(&mut self, parent: usize, page: u32, depth: u8) {
        let first = page_slot(page, 0);
        let is_leaf = |slot: usize| self.length(slot) <= depth && self.slot(slot) & PAGE == 0;
        if !(first..first + PAGE_SLOTS).all(is_leaf) {
            return;
        }
        let leaf = Leaf { slot: self.slot(first), length: self.length(first) };
        self.set(parent, 1, leaf);
        self.free.push(page);
    }

    /// Paints `count` slots from `first`, which lie in one segment, and the pages below them.
    fn paint_slots(&mut self, first: usize, count: usize, painting: Painting) {
        let leaves = &mut self.segments[first / SEGMENT];
        leaves.paint(first % SEGMENT, count, painting);
        let has_pages = leaves.has_pages(first % SEGMENT, count);
        self.changed(first);
        if !has_pages {
            return;
        }
        for slot in first..first + count {
            let held = self.slot(slot);
            if held & PAGE != 0 {
                self.paint_slots(page_slot(held, 0), PAGE_SLOTS, painting);
            }
        }
    }

    /// Sets `count` slots from `first`, which lie in one segment, whatever they hold.
    fn set(&mut self, first: usize, count: usize, leaf: Leaf) {
        let leaves = &mut self.segments[first / SEGMENT];
        let range = first % SEGMENT..first % SEGMENT + count;
        Arc::make_mut(&mut leaves.slots)[range.clone()].fill(leaf.slot);
        Arc::make_mut(&mut leaves.lengths)[range].fill(leaf.length);
        self.changed(first);
    }

    fn changed(&mut self, slot: usize) {
        if slot < ROOT_SLOTS {
            self.root = None;
        } else {
            self.below = None;
        }
    }

    fn slot(&self, index: usize) -> u32 {
        self.segments[index / SEGMENT].slots[index % SEGMENT]
    }

    fn length(&self, index: usize) -> u8 {
        self.segments[index / SEGMENT].lengths[index % SEGMENT]
    }
}

#[cfg(test)]
mod tests;
