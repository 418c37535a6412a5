//! Translations: each maps a connection as one side has it to the connection as the other side has it, and back.
//!
//! ```text
//!   who opened it                                                    who answers
//!   inside: local ─► remote     ── forward: source and destination ──►    wire: local ─► remote
//!   10.244.1.2:40000 ─► 10.96.0.10:53                                     10.244.1.2:40000 ─► 10.244.2.7:5353
//!           ◄── back: the remote's source becomes that of inside ──
//! ```
//!
//! Both sides of a translation are keys, found by one open-addressed index of two places an entry; an entry does not move.
//! No two translations share a key of the same side: so each packet has one meaning, whichever way it goes. A translation
//! is tracked as a flow is, by the packets that it translates, and lives as long. Allocated once; in a full table the
//! oldest of a few that have not been answered makes way, never one that has.

use crate::clock::Tick;
use crate::flow::key::HashSecret;
use crate::flow::timeout::Timeouts;
use crate::flow::{FlowKey, State, Way};
use crate::nat::Socket;
use crate::table::{Backend, EndpointIndex, FibEntry, ServiceIndex, Tables};
use caracal_wire::tcp::Flags;

/// Stands for an endpoint in keys of what the node itself translates. No endpoint gets this number.
pub const NODE: EndpointIndex = EndpointIndex(crate::flow::key::ENDPOINT_INDEX_MAX);

/// Where a translation is, while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationIndex(u32);

/// How whoever opened a connection of the node's is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// By the route to its address.
    #[default]
    Route,
    /// By `caracal0`.
    Host,
    /// By `caracal1`.
    Forward,
}

/// One connection, as its two sides have it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Translation {
    /// As whoever opened it has it.
    pub inside: FlowKey,
    /// As whoever answers has it.
    pub wire: FlowKey,
    /// When its last packet came.
    pub last_seen: Tick,
    /// The tables under which its backend was last known to be one (low half of the generation).
    pub generation: u32,
    /// 1 + the service that was asked; 0: none.
    service: u32,
    /// How far the connection is.
    pub state: State,
    /// Packets have gone both ways.
    pub answered: bool,
    /// How its opener is reached.
    pub origin: Origin,
    /// The side called wire has opened it: a pod is its own client (hairpin).
    pub answered_from_inside: bool,
    is_free: bool,
}

impl Translation {
    /// Of a connection of `endpoint`, or of the node ([`NODE`]), whose first packet comes now.
    #[must_use]
    pub fn new(inside: FlowKey, wire: FlowKey, flags: Flags, now: Tick) -> Self {
        let state = if inside.protocol() == 6 { State::first(flags) } else { State::Opening };
        Translation { inside, wire, last_seen: now, state, ..Translation::default() }
    }

    /// The service that was asked, if one was.
    #[must_use]
    pub fn service(&self) -> Option<ServiceIndex> {
        self.service.checked_sub(1).map(ServiceIndex)
    }

    /// With the service that was asked, under these tables.
    #[must_use]
    pub fn of_service(self, service: ServiceIndex, generation: u32) -> Self {
        Translation { service: service.0 + 1, generation, ..self }
    }

    /// Whose opener is reached so.
    #[must_use]
    pub fn from(self, origin: Origin) -> Self {
        Translation { origin, ..self }
    }

    /// Opened by the side called wire.
    #[must_use]
    pub fn opened_by_wire(self) -> Self {
        Translation { answered_from_inside: true, ..self }
    }

    /// Whether whoever opened it is still there, where that is one of this node's own.
    #[must_use]
    pub fn is_somebodys(&self, tables: &Tables) -> bool {
        let (opener, _) = self.inside.local();
        match self.inside.endpoint() {
            // A service's client is anybody; what left with an address of the node's was a pod's.
            NODE if self.service().is_some() || self.origin != Origin::Route => true,
            NODE => matches!(tables.fib.lookup(opener), Some(FibEntry::Endpoint(_))),
            endpoint => tables.endpoints.get(endpoint).is_some_and(|e| e.may_send_from(opener)),
        }
    }

    /// Who answers.
    #[must_use]
    pub fn backend(&self) -> Backend {
        let (address, port) = self.wire.remote();
        Backend { address, port }
    }
}

/// There is no room, and nothing that may make way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationsFull;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inside,
    Wire,
}

/// A worker's translations.
#[derive(Debug)]
pub struct Translations {
    entries: Vec<Translation>,
    /// Twice the place of an entry, and one more for its wire side, plus 1; 0: free.
    index: Vec<u32>,
    free: Vec<u32>,
    /// What keys the hash of either side.
    secrets: [HashSecret; 2],
    hand: usize,
    /// Of those that there are, those of no endpoint.
    of_node: usize,
    timeouts: Timeouts,
    last_aged: Tick,
}

/// Entries that are looked at to find one that may make way.
const LOOKED_AT: usize = 32;
/// Entries that are looked at in a millisecond to find those that have timed out.
const AGED_A_MS: usize = 32;

impl Translations {
    /// For so many. `secret` keys the hash.
    #[must_use]
    pub fn new(capacity: usize, secret: u64) -> Self {
        let capacity = capacity.max(64);
        let empty = Translation { is_free: true, ..Translation::default() };
        Translations {
            entries: vec![empty; capacity],
            // At most half full.
            index: vec![0; (capacity * 4).next_power_of_two()],
            free: (0..capacity as u32).rev().collect(),
            secrets: [HashSecret::new(secret), HashSecret::new(!secret)],
            hand: 0,
            of_node: 0,
            timeouts: Timeouts::default(),
            last_aged: Tick::default(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them are the node's own.
    #[must_use]
    pub fn of_node(&self) -> usize {
        self.of_node
    }

    /// How many there can be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that they take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.entries.len() * (size_of::<Translation>() + size_of::<u32>())
            + self.index.len() * size_of::<u32>()
    }

    /// Says how long they live.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Those that live, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Translation> {
        self.entries.iter().filter(|entry| !entry.is_free)
    }

    /// The one at a place.
    #[inline]
    #[must_use]
    pub fn get(&self, index: TranslationIndex) -> &Translation {
        &self.entries[index.0 as usize]
    }

    /// The same, to change what is no key.
    #[inline]
    pub fn get_mut(&mut self, index: TranslationIndex) -> &mut Translation {
        &mut self.entries[index.0 as usize]
    }

    /// The one that whoever opened it has as `key`.
    #[inline]
    pub fn by_inside(&mut self, key: &FlowKey, now: Tick) -> Option<TranslationIndex> {
        self.find(key, Side::Inside, now)
    }

    /// The one that whoever answers has as `key`.
    #[inline]
    pub fn by_wire(&mut self, key: &FlowKey, now: Tick) -> Option<TranslationIndex> {
        self.find(key, Side::Wire, now)
    }

    #[inline]
    fn find(&mut self, key: &FlowKey, side: Side, now: Tick) -> Option<TranslationIndex> {
        if self.is_empty() {
            return None;
        }
        let entry = self.search(key, side)?;
        if self.has_expired(entry, now) {
            self.remove(TranslationIndex(entry));
            return None;
        }
        Some(TranslationIndex(entry))
    }

    fn search(&self, key: &FlowKey, side: Side) -> Option<u32> {
        let mut at = self.place(key, side);
        loop {
            let held = self.index[at].checked_sub(1)?;
            if held & 1 == side as u32 && self.key(held) == key {
                return Some(held >> 1);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    fn has_expired(&self, entry: u32, now: Tick) -> bool {
        let entry = &self.entries[entry as usize];
        now.since(entry.last_seen) > self.timeouts.of(entry.inside.protocol(), entry.state)
    }

    /// Notes a packet of the translation: it is tracked as a flow is.
    #[inline]
    pub fn touch(&mut self, index: TranslationIndex, way: Way, flags: Flags, now: Tick) {
        let entry = &mut self.entries[index.0 as usize];
        entry.last_seen = now;
        entry.state = match way {
            _ if entry.inside.protocol() == 6 => entry.state.next(way, flags),
            Way::Reply => State::Established,
            Way::Original => entry.state,
        };
        entry.answered |= way == Way::Reply;
    }

    /// Adds one, neither of whose keys is another's.
    ///
    /// # Errors
    /// [`TranslationsFull`]
    pub fn insert(&mut self, translation: Translation) -> Result<TranslationIndex, TranslationsFull> {
        debug_assert!(self.search(&translation.inside, Side::Inside).is_none());
        debug_assert!(self.search(&translation.wire, Side::Wire).is_none());
        if self.free.is_empty() {
            self.make_way(translation.last_seen);
        }
        let entry = self.free.pop().ok_or(TranslationsFull)?;
        self.of_node += usize::from(translation.inside.endpoint() == NODE);
        self.entries[entry as usize] = Translation { is_free: false, ..translation };
        self.enter(entry << 1 | Side::Inside as u32);
        self.enter(entry << 1 | Side::Wire as u32);
        Ok(TranslationIndex(entry))
    }

    fn make_way(&mut self, now: Tick) {
        let mut best: Option<(u32, u32)> = None;
        for _ in 0..LOOKED_AT.min(self.entries.len()) {
            let at = self.hand as u32;
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &self.entries[at as usize];
            let idle_ms = match () {
                () if self.has_expired(at, now) || entry.state.may_be_reused() => u32::MAX,
                () if entry.answered => continue,
                () => now.since(entry.last_seen),
            };
            if best.is_none_or(|(idlest, _)| idle_ms > idlest) {
                best = Some((idle_ms, at));
            }
        }
        if let Some((_, entry)) = best {
            self.remove(TranslationIndex(entry));
        }
    }

    /// Forgets one.
    pub fn remove(&mut self, index: TranslationIndex) {
        let entry = index.0;
        if self.entries[entry as usize].is_free {
            return;
        }
        self.leave(entry << 1 | Side::Inside as u32);
        self.leave(entry << 1 | Side::Wire as u32);
        self.of_node -= usize::from(self.entries[entry as usize].inside.endpoint() == NODE);
        self.entries[entry as usize].is_free = true;
        self.free.push(entry);
    }

    /// As [`sweep`](Self::sweep), in steps that are short, at most once a millisecond.
    pub fn age(&mut self, now: Tick, keep: impl Fn(&Translation) -> bool) -> usize {
        if self.is_empty() || now == self.last_aged {
            return 0;
        }
        self.last_aged = now;
        self.sweep(AGED_A_MS, now, keep)
    }

    /// Looks at the next `count`, and forgets what has timed out or what `keep` does not want. Returns how many went.
    pub fn sweep(&mut self, count: usize, now: Tick, keep: impl Fn(&Translation) -> bool) -> usize {
        if self.is_empty() {
            return 0;
        }
        let before = self.len();
        for _ in 0..count.min(self.entries.len()) {
            let at = self.hand;
            self.hand = (at + 1) % self.entries.len();
            let entry = &self.entries[at];
            if !entry.is_free && (self.has_expired(at as u32, now) || !keep(entry)) {
                self.remove(TranslationIndex(at as u32));
            }
        }
        before - self.len()
    }

    fn key(&self, held: u32) -> &FlowKey {
        let entry = &self.entries[(held >> 1) as usize];
        if held & 1 == Side::Inside as u32 { &entry.inside } else { &entry.wire }
    }

    fn place(&self, key: &FlowKey, side: Side) -> usize {
        key.hash(&self.secrets[side as usize]) as usize & (self.index.len() - 1)
    }

    fn place_of(&self, held: u32) -> usize {
        self.place(self.key(held), if held & 1 == 0 { Side::Inside } else { Side::Wire })
    }

    fn enter(&mut self, held: u32) {
        let mut at = self.place_of(held);
        while self.index[at] != 0 {
            at = (at + 1) & (self.index.len() - 1);
        }
        self.index[at] = held + 1;
    }

    /// Takes a key out, and moves those behind it up that had to step aside.
    fn leave(&mut self, held: u32) {
        let mask = self.index.len() - 1;
        let mut hole = self.place_of(held);
        while self.index[hole] != held + 1 {
            hole = (hole + 1) & mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(next) = self.index[at].checked_sub(1) else { break };
            // What belongs at or before the hole may move into it.
            if at.wrapping_sub(self.place_of(next)) & mask >= at.wrapping_sub(hole) & mask {
                self.index[hole] = next + 1;
                hole = at;
            }
        }
        self.index[hole] = 0;
    }
}

/// A key by its two ends.
#[inline]
#[must_use]
pub fn key(of: EndpointIndex, protocol: u8, local: Socket, remote: Socket) -> FlowKey {
    FlowKey::new(of, protocol, local, remote)
}

#[cfg(test)]
mod tests;
