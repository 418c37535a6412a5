//! Virtual reassembly: what the first part of a datagram tells about the others (RFC 791, 3.2; RFC 8200, 4.5).
//!
//! ```text
//!                     first part not seen            first part seen
//!   further part ───► held, until it comes ────────► passes, with the first part's ports
//!   first part   ─────────────────────────────────► passes, and so does what was held
//!   overlap      ───► nothing of the datagram passes any more (RFC 5722; RFC 1858 for IPv4)
//! ```
//!
//! Nothing is put together: parts stay parts, and go on as they come. What is known of a datagram is forgotten once all
//! of it has been seen, or after [`Limits::timeout_ms`].
//!
//! Invariants: at most [`Limits::datagrams`] are known, each of at most [`PARTS_MAX`] parts; what is held has at most
//! [`Limits::frames`] frames in all. When there is no room for more, the oldest datagram makes way, of those that hold
//! something if it is frames that are wanted. Every datagram is in exactly one of two lists, in the order of their ages:
//! `waiting` for its first part, or `known`, of which nothing is held.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::clock::Tick;
use crate::stage::parse::Icmp;
use crate::table::EndpointIndex;

/// Parts of a datagram, at most: 64 KB in parts of 576 bytes, the least that every IPv4 host takes, are 119.
pub const PARTS_MAX: usize = 128;

/// How much may be known and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams known at once.
    pub datagrams: usize,
    /// Frames held at once.
    pub frames: usize,
    /// How long parts wait for the first one, and how long that one is known. An endpoint waits 30 or 60 s for a datagram
    /// to become whole; here a short time does no harm but to parts that overtake by that much, and a long one would
    /// mistake a new datagram of the same identification for an old one.
    pub timeout_ms: u32,
}

/// What a worker has unless told otherwise.
impl Default for Limits {
    fn default() -> Self {
        Limits { datagrams: 1024, frames: 256, timeout_ms: 5_000 }
    }
}

/// Who sees the datagram: the same one passes several places of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// An endpoint, which sends it.
    From(EndpointIndex),
    /// An endpoint, which is to receive it.
    To(EndpointIndex),
    /// The node: it is from or to an address of this node.
    Node,
}

/// Which datagram a part is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    /// Who sees it.
    pub scope: Scope,
    /// Whom it is from.
    pub source: IpAddr,
    /// Whom it is to.
    pub destination: IpAddr,
    /// Its protocol, over IPv4; over IPv6 the first part alone knows, and this is 0.
    pub protocol: u8,
    /// What its parts share.
    pub identification: u32,
}

/// Which bytes of its datagram a part has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first one.
    pub offset: u16,
    /// How many.
    pub len: u16,
    /// There are more behind it.
    pub more: bool,
}

/// What the first part says for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The transport protocol.
    pub protocol: u8,
    /// The source port, or what stands for it.
    pub source_port: u16,
    /// The destination port, likewise.
    pub destination_port: u16,
    /// What an ICMP message is.
    pub icmp: Icmp,
}

/// What becomes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, with what the first part says.
    Pass(Upper),
    /// It must be given to [`Tracker::hold`], until the first part comes.
    Hold,
    /// It goes nowhere.
    Drop(Refusal),
}

/// Why a part goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is empty, ends in the middle of eight bytes though more follow, or beyond what a datagram can have.
    Malformed,
    /// It overlaps another part of its datagram, or that one of its parts has done so.
    Overlap,
    /// It has been seen already.
    Duplicate,
    /// There is no room to know or to hold it.
    Full,
    /// The first part has not come in time.
    Expired,
}

/// What is known of datagrams in parts. `T` is what is held.
#[derive(Debug)]
pub struct Tracker<T> {
    limits: Limits,
    by_key: HashMap<DatagramKey, usize>,
    datagrams: Vec<Datagram>,
    /// Places in `datagrams` that are free.
    free: Vec<usize>,
    waiting: Ages,
    known: Ages,
    held: Vec<Option<Held<T>>>,
    /// Places in `held` that are free.
    free_held: Vec<usize>,
    frames: usize,
    /// What no longer waits: to go on, and to be dropped.
    released: VecDeque<T>,
    discarded: VecDeque<(T, Refusal)>,
}

#[derive(Debug)]
struct Datagram {
    key: DatagramKey,
    since: Tick,
    upper: Option<Upper>,
    /// Where it ends, once its last part has been seen.
    end: Option<u32>,
    /// Bytes seen.
    seen: u32,
    /// Those seen; first byte and the one behind.
    parts: Vec<(u32, u32)>,
    is_refused: bool,
    /// It is in the list of those, not of those that wait.
    is_known: bool,
    /// The first of what is held of it.
    held: Option<usize>,
    /// Its neighbors in age.
    older: Option<usize>,
    newer: Option<usize>,
}

#[derive(Debug)]
struct Held<T> {
    thing: T,
    frames: usize,
    next: Option<usize>,
}

/// A list of datagrams by age.
#[derive(Debug, Default)]
struct Ages {
    oldest: Option<usize>,
    newest: Option<usize>,
}

impl<T> Tracker<T> {
    /// A tracker that knows nothing yet, with all the memory that it is going to need but for lists of parts.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Tracker {
            limits,
            // Twice the room, so that what is removed leaves room to reuse.
            by_key: HashMap::with_capacity(2 * limits.datagrams),
            datagrams: Vec::with_capacity(limits.datagrams),
            free: Vec::with_capacity(limits.datagrams),
            waiting: Ages::default(),
            known: Ages::default(),
            held: Vec::with_capacity(limits.frames),
            free_held: Vec::with_capacity(limits.frames),
            frames: 0,
            released: VecDeque::with_capacity(limits.frames),
            discarded: VecDeque::with_capacity(limits.frames),
        }
    }

    /// Takes note of a part, and says what becomes of it. `first`: what the first part, which begins at 0, says.
    pub fn meet(&mut self, key: DatagramKey, part: Part, first: Option<Upper>, now: Tick) -> Fate {
        let (begin, end) = (u32::from(part.offset), u32::from(part.offset) + u32::from(part.len));
        let is_cut_anywhere = part.more && !part.len.is_multiple_of(8);
        if part.len == 0 || is_cut_anywhere || end > u32::from(u16::MAX) || first.is_some() != (begin == 0) {
            return Fate::Drop(Refusal::Malformed);
        }
        let known = match self.by_key.get(&key).copied() {
            Some(at) if self.is_over(at, now) => {
                self.forget(at, Refusal::Expired);
                None
            }
            known => known,
        };
        let Some(at) = known.or_else(|| self.begin(key, now)) else { return Fate::Drop(Refusal::Full) };
        let datagram = &mut self.datagrams[at];
        if datagram.is_refused {
            return Fate::Drop(Refusal::Overlap);
        }
        if datagram.parts.contains(&(begin, end)) && part.more == (datagram.end != Some(end)) {
            return Fate::Drop(Refusal::Duplicate);
        }
        let overlaps = datagram.parts.iter().any(|(other, other_end)| begin < *other_end && *other < end);
        let ends_otherwise = match (part.more, datagram.end) {
            (true, Some(last)) => end >= last,
            (false, Some(last)) => end != last,
            (false, None) => datagram.parts.iter().any(|(_, other_end)| *other_end > end),
            (true, None) => false,
        };
        if overlaps || ends_otherwise {
            self.refuse(at, Refusal::Overlap, now);
            return Fate::Drop(Refusal::Overlap);
        }
        if datagram.parts.len() == PARTS_MAX {
            self.refuse(at, Refusal::Full, now);
            return Fate::Drop(Refusal::Full);
        }
        datagram.parts.push((begin, end));
        datagram.seen += end - begin;
        if !part.more {
            datagram.end = Some(end);
        }
        let is_whole = datagram.end == Some(datagram.seen);
        if first.is_some() {
            datagram.upper = first;
            self.release(at, now);
        }
        let Some(upper) = self.datagrams[at].upper else { return Fate::Hold };
        if is_whole {
            self.forget(at, Refusal::Expired);
        }
        Fate::Pass(upper)
    }

    /// Holds a part for which [`meet`](Self::meet) has said so, and which has so many frames.
    pub fn hold(&mut self, key: &DatagramKey, thing: T, frames: usize) {
        // The oldest that waits may be this very one.
        while self.frames + frames > self.limits.frames
            && let Some(oldest) = self.waiting.oldest
        {
            self.forget(oldest, Refusal::Full);
        }
        let at = self.by_key.get(key).copied().filter(|at| self.datagrams[*at].upper.is_none());
        let Some(at) = at.filter(|_| self.frames + frames <= self.limits.frames) else {
            return self.discarded.push_back((thing, Refusal::Full));
        };
        let next = self.datagrams[at].held;
        let held = Some(Held { thing, frames, next });
        let place = match self.free_held.pop() {
            Some(place) => {
                self.held[place] = held;
                place
            }
            None => {
                self.held.push(held);
                self.held.len() - 1
            }
        };
        self.datagrams[at].held = Some(place);
        self.frames += frames;
    }

    /// Forgets what has been known for too long, a few at a time. What it held is [`discarded`](Self::discarded).
    pub fn expire(&mut self, now: Tick) {
        const AT_ONCE: usize = 64;
        for _ in 0..AT_ONCE {
            let oldest = [self.waiting.oldest, self.known.oldest].into_iter().flatten();
            let mut over = oldest.filter(|at| self.is_over(*at, now));
            let Some(over) = over.next() else { return };
            self.forget(over, Refusal::Expired);
        }
    }

    /// What no longer waits for its first part, since that has just come.
    pub fn released(&mut self) -> Option<T> {
        self.released.pop_front()
    }

    /// What is no longer held and goes nowhere.
    #[inline]
    pub fn discarded(&mut self) -> Option<(T, Refusal)> {
        self.discarded.pop_front()
    }

    /// Forgets everything. What was held is [`discarded`](Self::discarded).
    pub fn clear(&mut self) {
        while let Some(at) = self.waiting.oldest.or(self.known.oldest) {
            self.forget(at, Refusal::Expired);
        }
    }

    /// Things held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len() - self.free_held.len()
    }

    /// Frames held.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Datagrams known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    fn is_over(&self, at: usize, now: Tick) -> bool {
        now.since(self.datagrams[at].since) >= self.limits.timeout_ms
    }

    /// A place for another datagram; the oldest makes way for it.
    fn begin(&mut self, key: DatagramKey, now: Tick) -> Option<usize> {
        if self.by_key.len() >= self.limits.datagrams {
            let oldest = self.known.oldest.or(self.waiting.oldest)?;
            self.forget(oldest, Refusal::Full);
        }
        let mut fresh = Datagram {
            key,
            since: now,
            upper: None,
            end: None,
            seen: 0,
            parts: Vec::new(),
            is_refused: false,
            is_known: false,
            held: None,
            older: None,
            newer: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                // The list of parts keeps its memory.
                fresh.parts = std::mem::take(&mut self.datagrams[at].parts);
                fresh.parts.clear();
                self.datagrams[at] = fresh;
                at
            }
            None => {
                self.datagrams.push(fresh);
                self.datagrams.len() - 1
            }
        };
        self.by_key.insert(key, at);
        self.waiting.push(&mut self.datagrams, at);
        Some(at)
    }

    /// The first part has come.
    fn release(&mut self, at: usize, now: Tick) {
        self.make_known(at, now);
        while let Some(thing) = self.take_held(at) {
            self.released.push_back(thing);
        }
    }

    /// Nothing of the datagram passes any more, until it is forgotten.
    fn refuse(&mut self, at: usize, refusal: Refusal, now: Tick) {
        self.make_known(at, now);
        self.datagrams[at].is_refused = true;
        while let Some(thing) = self.take_held(at) {
            self.discarded.push_back((thing, refusal));
        }
    }

    fn make_known(&mut self, at: usize, now: Tick) {
        let datagram = &mut self.datagrams[at];
        if std::mem::replace(&mut datagram.is_known, true) {
            return;
        }
        datagram.since = now;
        self.waiting.remove(&mut self.datagrams, at);
        self.known.push(&mut self.datagrams, at);
    }

    fn forget(&mut self, at: usize, refusal: Refusal) {
        while let Some(thing) = self.take_held(at) {
            self.discarded.push_back((thing, refusal));
        }
        let datagram = &self.datagrams[at];
        self.by_key.remove(&datagram.key);
        let ages = if datagram.is_known { &mut self.known } else { &mut self.waiting };
        ages.remove(&mut self.datagrams, at);
        self.free.push(at);
    }

    fn take_held(&mut self, at: usize) -> Option<T> {
        let place = self.datagrams[at].held?;
        let held = self.held[place].take()?;
        self.datagrams[at].held = held.next;
        self.free_held.push(place);
        self.frames -= held.frames;
        Some(held.thing)
    }
}

impl Ages {
    fn push(&mut self, datagrams: &mut [Datagram], at: usize) {
        datagrams[at].older = self.newest;
        datagrams[at].newer = None;
        match self.newest {
            Some(newest) => datagrams[newest].newer = Some(at),
            None => self.oldest = Some(at),
        }
        self.newest = Some(at);
    }

    fn remove(&mut self, datagrams: &mut [Datagram], at: usize) {
        let (older, newer) = (datagrams[at].older, datagrams[at].newer);
        match older {
            Some(older) => datagrams[older].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => datagrams[newer].older = older,
            None => self.newest = older,
        }
    }
}
