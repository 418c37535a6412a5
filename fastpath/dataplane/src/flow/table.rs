//! The flow table: a fixed number of entries in buckets of eight, two candidate buckets a key.
//!
//! ```text
//!   tags:    [bucket 0: 8 × u16][bucket 1: …]          four buckets a cache line
//!   entries: [slot 0: 64 bytes][slot 1: …]             key, what the verdict rests on, state, what it has carried of late
//!   notes:   [slot 0: 40 bytes][slot 1: …]             sums and attribution; not touched by packets
//!   wheel:   [slot 0: 8 bytes][slot 1: …]              when it is looked at next; not touched by packets
//!   windows: [slot 0: 32 bytes][slot 1: …]             of TCP, where they are checked
//! ```
//!
//! A lookup reads the tags of both buckets and, on a match, one line of entry; each is prefetched a stage ahead. What a
//! packet of a known flow changes is in that line. Nothing moves once inserted, so an index stays valid until the flow is removed. Allocated once; a full pair of buckets makes room
//! in a defined order (see [`crate::flow`]) and never by force.
//!
//! The table counts connections: at any time, [`FlowTable::connections`] of an endpoint and a direction is the number of
//! its flows that [count](FlowEntry::counts), whatever has come, gone or changed. State and verdict of an entry are
//! therefore changed through the table.

use std::hint::select_unpredictable;

use crate::clock::Tick;
use crate::flow::entry::{FlowEntry, FlowFlags};
use crate::flow::key::{FlowKey, HashSecret};
use crate::flow::note::{Carried, FlowNote};
use crate::flow::tcp::{State, Way};
use crate::flow::timeout::Timeouts;
use crate::flow::wheel::Wheel;
use crate::flow::window::Window;
use crate::table::EndpointIndex;

const SLOTS: usize = 8;
const EMPTY: u16 = 0;
/// Beyond the bits of two buckets' slots: there is always a lowest bit.
const NO_MATCH: u32 = 1 << (2 * SLOTS);

/// Why there was no room: both buckets hold flows that may not make way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// A flow that is no longer in the table. What it has carried is to be accounted for, and what hangs on it to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Which flow it was.
    pub key: FlowKey,
    /// How it began, and what its answers needed.
    pub flags: FlowFlags,
    /// What it had carried.
    pub carried: Carried,
}

/// What an insertion did besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Took a free slot.
    Free,
    /// Took the slot of a flow that had timed out.
    Expired(Gone),
    /// Took the slot of a flow that made way.
    Evicted(Gone),
}

/// What became of a flow that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aged {
    /// It stays, and has carried this since it was last settled.
    Stays(Carried),
    /// It has timed out, or was not wanted.
    Went(Gone),
}

/// A worker's flows.
#[derive(Debug)]
pub struct FlowTable {
    tags: Vec<[u16; SLOTS]>,
    entries: Vec<FlowEntry>,
    notes: Vec<FlowNote>,
    wheel: Wheel,
    /// By slot; none where windows are not checked.
    windows: Vec<Window>,
    timeouts: Timeouts,
    /// By endpoint: connections that others have opened to it, and that it has opened.
    connections: Vec<[u32; 2]>,
    secret: HashSecret,
    used: usize,
}

impl FlowTable {
    /// A table for `flows` flows, rounded up to a power of two (at least 64). `secret` keys the hash.
    #[must_use]
    pub fn new(flows: usize, secret: u64) -> Self {
        let slots = flows.max(64).next_power_of_two();
        FlowTable {
            tags: vec![[EMPTY; SLOTS]; slots / SLOTS],
            entries: vec![FlowEntry::default(); slots],
            notes: vec![FlowNote::default(); slots],
            wheel: Wheel::new(slots),
            windows: Vec::new(),
            timeouts: Timeouts::default(),
            connections: Vec::new(),
            secret: HashSecret::new(secret),
            used: 0,
        }
    }

    /// From now on TCP segments are held to their windows: takes memory for every slot.
    pub fn check_windows(&mut self) {
        self.windows.resize(self.entries.len(), Window::default());
    }

    /// Whether they are.
    #[inline]
    #[must_use]
    pub fn checks_windows(&self) -> bool {
        !self.windows.is_empty()
    }

    /// The windows of the connection at an index; None where they are not checked.
    pub fn window_mut(&mut self, index: usize) -> Option<&mut Window> {
        self.windows.get_mut(index)
    }

    /// Says how long flows live. Those that are there are held to it when they are next looked at.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Flows that the table can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that the table takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.entries.len() * (size_of::<FlowEntry>() + size_of::<FlowNote>() + size_of::<u16>())
            + self.wheel.memory_bytes()
            + size_of_val(self.windows.as_slice())
    }

    /// The hash that the other methods take.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(&self.secret)
    }

    /// Brings the lines of tags for `hash` near.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        caracal_xsk::prefetch(&self.tags[self.bucket(hash)]);
        caracal_xsk::prefetch(&self.tags[self.other_bucket(hash)]);
    }

    /// Where the flow of `hash` probably is, by its tag; brings that entry near.
    #[inline(always)]
    #[must_use]
    pub fn guess(&self, hash: u64) -> Option<u32> {
        let matches = self.candidates(hash);
        let index = self.place(hash, (matches | NO_MATCH).trailing_zeros());
        // Nobody can predict whether there is one: where there is none, a line that is near is asked for once more.
        caracal_xsk::prefetch_slice(&self.entries, select_unpredictable(matches != 0, index, 0));
        (matches != 0).then_some(index as u32)
    }

    /// Where `key` is. `guess`: from [`guess`](Self::guess), looked at first.
    #[inline]
    #[must_use]
    pub fn find(&self, key: &FlowKey, hash: u64, guess: Option<u32>) -> Option<usize> {
        match guess.map(|index| index as usize) {
            // If the flow has gone since, so has its key.
            Some(index) if self.entries.get(index).is_some_and(|entry| entry.key == *key) => Some(index),
            _ => self.search(key, hash),
        }
    }

    /// Where `key` is, for who has one packet only and nothing prefetched. `hash`: from [`hash`](Self::hash).
    #[inline]
    #[must_use]
    pub fn get(&self, key: &FlowKey, hash: u64) -> Option<usize> {
        self.find(key, hash, None)
    }

    #[inline]
    fn search(&self, key: &FlowKey, hash: u64) -> Option<usize> {
        let mut matches = self.candidates(hash);
        while matches != 0 {
            let index = self.place(hash, matches.trailing_zeros());
            if self.entries[index].key == *key {
                return Some(index);
            }
            matches &= matches - 1;
        }
        None
    }

    /// One bit for each slot of the two buckets that has the tag of `hash`: the first bucket's eight, then the other's.
    #[inline(always)]
    fn candidates(&self, hash: u64) -> u32 {
        let (first, other) = (&self.tags[self.bucket(hash)], &self.tags[self.other_bucket(hash)]);
        caracal_xsk::equal_lanes(first, other, tag(hash))
    }

    /// The slot of such a bit.
    #[inline(always)]
    fn place(&self, hash: u64, bit: u32) -> usize {
        let slot = bit as usize;
        let bucket = select_unpredictable(slot < SLOTS, self.bucket(hash), self.other_bucket(hash));
        bucket * SLOTS + slot % SLOTS
    }

    /// The flow at an index from [`find`](Self::find).
    #[inline]
    #[must_use]
    pub fn entry(&self, index: usize) -> &FlowEntry {
        &self.entries[index]
    }

    /// The same, to change.
    #[inline]
    pub fn entry_mut(&mut self, index: usize) -> &mut FlowEntry {
        &mut self.entries[index]
    }

    /// Its note.
    #[inline]
    #[must_use]
    pub fn note(&self, index: usize) -> &FlowNote {
        &self.notes[index]
    }

    /// The same, to change.
    #[inline]
    pub fn note_mut(&mut self, index: usize) -> &mut FlowNote {
        &mut self.notes[index]
    }

    /// Notes a packet of a flow that may pass.
    #[inline]
    pub fn carry(&mut self, index: usize, bytes: usize, way: Way, now: Tick) {
        let entry = &mut self.entries[index];
        entry.last_seen = now;
        if way == Way::Reply {
            entry.mark_answered();
        }
        self.count_packet(index, bytes);
    }

    /// Counts a packet of a flow.
    #[inline]
    pub fn count_packet(&mut self, index: usize, bytes: usize) {
        let entry = &mut self.entries[index];
        // No packet has 4 GiB.
        let bytes = bytes as u32;
        match (entry.packets.checked_add(1), entry.bytes.checked_add(bytes)) {
            (Some(packets), Some(bytes)) => (entry.packets, entry.bytes) = (packets, bytes),
            _ => self.hand_over(index, bytes),
        }
    }

    /// Once in 65,535 packets, or in 4 GiB.
    #[cold]
    fn hand_over(&mut self, index: usize, bytes: u32) {
        let entry = &mut self.entries[index];
        self.notes[index].take_over(entry);
        (entry.packets, entry.bytes) = (1, bytes);
    }

    /// Whether so much time has gone by since the flow's last packet that a packet of it begins another.
    #[inline]
    #[must_use]
    pub fn has_expired(&self, entry: &FlowEntry, now: Tick) -> bool {
        let idle_ms = now.since(entry.last_seen);
        idle_ms > self.timeouts.shortest() && idle_ms > self.lives_ms(entry)
    }

    /// Milliseconds that a flow lives without a packet.
    #[must_use]
    pub fn lives_ms(&self, entry: &FlowEntry) -> u32 {
        self.timeouts.of(entry.key.protocol(), entry.state)
    }

    /// Changes how far a connection is.
    #[inline]
    pub fn set_state(&mut self, index: usize, state: State) {
        if self.entries[index].state != state {
            self.change(index, |entry| entry.state = state);
        }
    }

    /// Notes what policy says of a flow now.
    pub fn set_denied(&mut self, index: usize, denied: bool) {
        self.change(index, |entry| entry.flags.set_denied(denied));
    }

    #[inline(never)]
    fn change(&mut self, index: usize, change: impl FnOnce(&mut FlowEntry)) {
        let before = self.entries[index];
        change(&mut self.entries[index]);
        let after = self.entries[index];
        if before.counts() != after.counts() {
            self.count(&after, after.counts());
        }
        if self.lives_ms(&after) < self.lives_ms(&before) {
            self.wheel.take_out(index);
            self.wheel.put(index, after.last_seen, self.lives_ms(&after));
        }
    }

    /// Connections of an endpoint: those that it has opened (`out`), or others to it.
    #[must_use]
    pub fn connections(&self, endpoint: EndpointIndex, out: bool) -> u32 {
        self.connections.get(endpoint.0 as usize).map_or(0, |both| both[usize::from(out)])
    }

    fn count(&mut self, entry: &FlowEntry, more: bool) {
        let endpoint = entry.key.endpoint().0 as usize;
        if endpoint >= self.connections.len() {
            // Endpoints' numbers grow one by one: this happens seldom, and never while nothing changes.
            self.connections.resize(endpoint + 1, [0; 2]);
        }
        let connections = &mut self.connections[endpoint][usize::from(entry.flags.is_out())];
        *connections = if more { *connections + 1 } else { connections.saturating_sub(1) };
    }

    /// Adds a flow that is not in the table. Who makes way in full buckets: see [`crate::flow`].
    ///
    /// # Errors
    /// [`TableFull`] when all sixteen candidates are open flows.
    pub fn insert(
        &mut self,
        hash: u64,
        entry: FlowEntry,
        note: FlowNote,
    ) -> Result<(usize, Inserted), TableFull> {
        let candidates = [self.bucket(hash), self.other_bucket(hash)];
        // The emptier bucket: two choices keep the fullest bucket near the mean.
        let free = |b: &usize| self.tags[*b].iter().filter(|t| **t == EMPTY).count();
        let best = if free(&candidates[1]) > free(&candidates[0]) { candidates[1] } else { candidates[0] };
        let (index, how) = match self.tags[best].iter().position(|t| *t == EMPTY) {
            Some(slot) => (best * SLOTS + slot, Inserted::Free),
            None => {
                let (index, expired) = self.make_way(candidates, entry.last_seen).ok_or(TableFull)?;
                let gone = self.remove(index).ok_or(TableFull)?;
                (index, if expired { Inserted::Expired(gone) } else { Inserted::Evicted(gone) })
            }
        };
        self.used += 1;
        self.tags[index / SLOTS][index % SLOTS] = tag(hash);
        self.entries[index] = entry;
        self.notes[index] = note;
        self.wheel.put(index, entry.last_seen, self.lives_ms(&entry));
        if entry.counts() {
            self.count(&entry, true);
        }
        Ok((index, how))
    }

    /// Which of the flows in these buckets goes, and whether it had timed out.
    fn make_way(&self, candidates: [usize; 2], now: Tick) -> Option<(usize, bool)> {
        let mut evict: Option<(u32, usize)> = None;
        for index in candidates.into_iter().flat_map(|b| b * SLOTS..(b + 1) * SLOTS) {
            let entry = &self.entries[index];
            let idle_ms = now.since(entry.last_seen);
            if idle_ms > self.lives_ms(entry) {
                return Some((index, true));
            }
            let ended = entry.state.may_be_reused();
            if ended || entry.is_half_open() {
                // Ended flows go before half-open ones.
                let rank = if ended { u32::MAX } else { idle_ms };
                if evict.is_none_or(|(best, _)| rank > best) {
                    evict = Some((rank, index));
                }
            }
        }
        evict.map(|(_, index)| (index, false))
    }

    /// Forgets a flow, if there is one.
    #[must_use]
    pub fn remove(&mut self, index: usize) -> Option<Gone> {
        let tag = &mut self.tags[index / SLOTS][index % SLOTS];
        if *tag == EMPTY {
            return None;
        }
        *tag = EMPTY;
        self.used -= 1;
        self.wheel.take_out(index);
        let carried = self.settle(index);
        let entry = self.entries[index];
        self.entries[index].key = FlowKey::OF_NONE;
        if entry.counts() {
            self.count(&entry, false);
        }
        Some(Gone { key: entry.key, flags: entry.flags, carried })
    }

    /// What a flow has carried since it was last settled, which is now to be accounted for.
    #[must_use]
    pub fn settle(&mut self, index: usize) -> Carried {
        self.notes[index].settle(&mut self.entries[index])
    }

    /// Settles the flows in `buckets` buckets from `first`; returns the next bucket, `None` at the end.
    pub fn settle_some(
        &mut self,
        first: usize,
        buckets: usize,
        mut account: impl FnMut(Carried),
    ) -> Option<usize> {
        let end = (first + buckets).min(self.tags.len());
        for index in first * SLOTS..end * SLOTS {
            if self.tags[index / SLOTS][index % SLOTS] != EMPTY {
                account(self.settle(index));
            }
        }
        (end < self.tags.len()).then_some(end)
    }

    /// Looks at the next flow that the wheel has come to, if there is one: settles it, and forgets it when it has timed out
    /// or when `keep` does not want it. Called again and again it comes by every flow, at least once in a minute.
    pub fn age(&mut self, now: Tick, keep: impl Fn(&FlowEntry) -> bool) -> Option<Aged> {
        let index = self.wheel.next_due(now)?;
        let entry = &self.entries[index];
        let (idle_ms, lives_ms) = (now.since(entry.last_seen), self.lives_ms(entry));
        if idle_ms > lives_ms || !keep(entry) {
            return self.remove(index).map(Aged::Went);
        }
        self.wheel.put(index, now, lives_ms - idle_ms);
        Some(Aged::Stays(self.settle(index)))
    }

    /// Calls `see` with the flows in `buckets` buckets from `first`; returns the next bucket, `None` at the end. For
    /// dumps in bounded steps.
    pub fn visit(
        &self,
        first: usize,
        buckets: usize,
        mut see: impl FnMut(&FlowEntry, &FlowNote),
    ) -> Option<usize> {
        let end = (first + buckets).min(self.tags.len());
        for index in first * SLOTS..end * SLOTS {
            if self.tags[index / SLOTS][index % SLOTS] != EMPTY {
                see(&self.entries[index], &self.notes[index]);
            }
        }
        (end < self.tags.len()).then_some(end)
    }

    /// Buckets in the table, for the steps of [`visit`](Self::visit).
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.tags.len()
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "masked")]
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.tags.len() - 1)
    }

    #[inline]
    fn other_bucket(&self, hash: u64) -> usize {
        // By other bits of the hash, and never the first bucket: the lowest differs.
        (self.bucket(hash) ^ ((hash >> 32) as usize | 1)) & (self.tags.len() - 1)
    }
}

/// 15 bits of the hash that the bucket number does not use; never [`EMPTY`].
#[inline]
fn tag(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}
