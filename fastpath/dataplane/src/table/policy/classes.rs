//! Identities and classes: which sets an address is in, by longest match.
//!
//! Invariant after [`Classes::settle`]: the class of a prefix holds its own memberships and those of every prefix that
//! covers it, so the longest match alone says all. When a prefix joins or leaves a set, the prefixes inside it are
//! given their classes again; they follow it in the order of prefixes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::sets::{Membership, SetId};
use super::{CONTENTS_PAGE, ClassId, IDENTITIES_PAGE};
use crate::table::lpm::{Lpm, LpmBuilder};
use crate::table::paged::{Paged, PagedBuilder};
use crate::table::prefix::Prefix;

/// What a class is: memberships, sorted.
pub(super) type Content = Arc<[Membership]>;

#[derive(Debug, Default)]
pub(super) struct Classes {
    /// The identity of a prefix: its place in `identities`.
    by_prefix: BTreeMap<Prefix, u32>,
    identities: Vec<Identity>,
    free: Vec<u32>,
    /// How many settled identities have a length, by family and length: where to look for a covering prefix.
    lengths: [LengthCounts; 2],
    by_address: LpmBuilder,
    by_identity: PagedBuilder<ClassId, IDENTITIES_PAGE>,
    /// Whose memberships have changed since the last settling.
    dirty: Vec<u32>,
    owns: Owns,
    interned: Interned,
}

#[derive(Debug)]
struct Identity {
    prefix: Prefix,
    /// Whether its class is known.
    is_settled: bool,
    /// Whether readers find it: its class is not that of what covers it.
    is_found: bool,
    is_dirty: bool,
    class: ClassId,
    own: OwnId,
    /// The longest settled prefix that covers it.
    parent: Option<u32>,
}

#[derive(Debug)]
struct LengthCounts([u32; 129]);

impl Default for LengthCounts {
    fn default() -> Self {
        LengthCounts([0; 129])
    }
}

/// Names what memberships a prefix has of its own; 0 is none. Used again once nobody has it.
type OwnId = u32;

/// The memberships that prefixes have of their own. What many have is here once, and what one more or one less makes of
/// it is remembered until the next settling.
#[derive(Debug)]
struct Owns {
    contents: Vec<(Content, usize)>,
    by_content: FxHashMap<Content, OwnId>,
    free: Vec<OwnId>,
    /// May be without users.
    released: Vec<OwnId>,
    moves: FxHashMap<(OwnId, Membership), OwnId>,
}

impl Default for Owns {
    fn default() -> Self {
        let none: Content = Arc::from([]);
        Owns {
            contents: vec![(Arc::clone(&none), 1)],
            by_content: FxHashMap::from_iter([(none, 0)]),
            free: Vec::new(),
            released: Vec::new(),
            moves: FxHashMap::default(),
        }
    }
}

impl Owns {
    /// `own` with `membership` if it is without, without it if it has it.
    fn toggled(&mut self, own: OwnId, membership: Membership) -> OwnId {
        if let Some(to) = self.moves.get(&(own, membership)) {
            return *to;
        }
        let mut content = self.contents[own as usize].0.to_vec();
        match content.binary_search(&membership) {
            Ok(place) => {
                content.remove(place);
            }
            Err(place) => content.insert(place, membership),
        }
        let to = match self.by_content.get(&content[..]) {
            Some(to) => *to,
            None => {
                let content: Content = content.into();
                let id = self.free.pop().unwrap_or(self.contents.len() as OwnId);
                match self.contents.get_mut(id as usize) {
                    Some(free) => *free = (Arc::clone(&content), 0),
                    None => self.contents.push((Arc::clone(&content), 0)),
                }
                self.by_content.insert(content, id);
                self.released.push(id);
                id
            }
        };
        self.moves.insert((own, membership), to);
        to
    }

    fn has(&self, own: OwnId, membership: &Membership) -> bool {
        self.contents[own as usize].0.binary_search(membership).is_ok()
    }

    fn exchange(&mut self, from: OwnId, to: OwnId) {
        self.contents[to as usize].1 += 1;
        let users = &mut self.contents[from as usize].1;
        *users -= 1;
        if *users == 0 {
            self.released.push(from);
        }
    }

    /// Forgets what nobody has, and what was remembered.
    fn sweep(&mut self) {
        self.moves.clear();
        self.released.sort_unstable();
        self.released.dedup();
        for own in std::mem::take(&mut self.released) {
            if self.contents[own as usize].1 == 0 {
                let content = std::mem::replace(&mut self.contents[own as usize].0, Arc::from([]));
                self.by_content.remove(&content);
                self.free.push(own);
            }
        }
    }
}

/// What settling changed.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Classes that have become some address's.
    pub born: Vec<ClassId>,
    /// Classes that no address has any more; their numbers are not used again.
    pub dead: Vec<(ClassId, Content)>,
}

impl Classes {
    /// Adds a membership of `prefix`, which it has not had.
    pub fn join(&mut self, prefix: Prefix, membership: Membership) {
        let number = self.number_of(prefix).unwrap_or_else(|| self.identity(prefix));
        if !self.owns.has(self.identities[number as usize].own, &membership) {
            self.toggle(number, membership);
        }
    }

    /// Takes a membership of `prefix` away.
    pub fn leave(&mut self, prefix: Prefix, membership: Membership) {
        let Some(number) = self.number_of(prefix) else { return };
        if self.owns.has(self.identities[number as usize].own, &membership) {
            self.toggle(number, membership);
        }
    }

    fn number_of(&self, prefix: Prefix) -> Option<u32> {
        // The trie is quicker, where it has the prefix.
        let guess = self.by_address.lookup(prefix.address()).filter(|_| prefix.is_host());
        let guess = guess.filter(|number| self.identities[*number as usize].prefix == prefix);
        guess.or_else(|| self.by_prefix.get(&prefix).copied())
    }

    fn identity(&mut self, prefix: Prefix) -> u32 {
        let identity = Identity {
            prefix,
            is_settled: false,
            is_found: false,
            is_dirty: false,
            class: ClassId::default(),
            own: 0,
            parent: None,
        };
        self.owns.contents[0].1 += 1;
        let number = match self.free.pop() {
            Some(number) => {
                self.identities[number as usize] = identity;
                number
            }
            None => {
                self.identities.push(identity);
                self.identities.len() as u32 - 1
            }
        };
        self.by_prefix.insert(prefix, number);
        number
    }

    fn toggle(&mut self, number: u32, membership: Membership) {
        let identity = &mut self.identities[number as usize];
        let own = self.owns.toggled(identity.own, membership);
        self.owns.exchange(identity.own, own);
        identity.own = own;
        if !std::mem::replace(&mut identity.is_dirty, true) {
            self.dirty.push(number);
        }
    }

    /// Gives classes to what has changed; None: nothing has.
    pub fn settle(&mut self) -> Option<Settled> {
        if self.dirty.is_empty() {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let prefix_of = |number: &u32| self.identities[*number as usize].prefix;
        let (hosts, mut nets): (Vec<u32>, Vec<u32>) = dirty.into_iter().partition(|n| prefix_of(n).is_host());
        // What covers comes before what it covers; single addresses cover nothing.
        nets.sort_unstable_by_key(prefix_of);
        for number in nets.into_iter().chain(hosts) {
            let Identity { prefix, is_dirty, .. } = self.identities[number as usize];
            // What a dirty prefix covers has been settled with it.
            if !is_dirty {
                continue;
            }
            if prefix.is_host() {
                let parent = self.parent_of(prefix, number);
                self.settle_one(number, parent);
            } else {
                self.settle_below(prefix, number);
            }
        }
        self.owns.sweep();
        Some(self.interned.take_settled())
    }

    /// The longest settled prefix that covers `prefix` and is not itself.
    fn parent_of(&mut self, prefix: Prefix, number: u32) -> Option<u32> {
        let identity = &self.identities[number as usize];
        if identity.is_settled {
            return identity.parent;
        }
        if prefix.is_host() {
            return self.by_address.lookup(prefix.address());
        }
        let counts = &self.lengths[usize::from(prefix.address().is_ipv6())].0;
        let lengths = (0..prefix.length()).rev().filter(|length| counts[usize::from(*length)] > 0);
        let mut covering = lengths.filter_map(|length| self.by_prefix.get(&prefix.shortened(length)));
        covering.find(|number| self.identities[**number as usize].is_settled).copied()
    }

    /// Settles a prefix and all that it covers.
    fn settle_below(&mut self, top: Prefix, number: u32) {
        let mut above: Vec<(Option<Prefix>, Option<u32>)> = vec![(None, self.parent_of(top, number))];
        let inside = self.by_prefix.range(top..).take_while(|(prefix, _)| top.covers(prefix));
        let inside: Vec<(Prefix, u32)> = inside.map(|(prefix, number)| (*prefix, *number)).collect();
        let mut empty = Vec::new();
        for (prefix, number) in inside {
            if self.identities[number as usize].own == 0 {
                empty.push((prefix, number));
                continue;
            }
            while above.last().is_some_and(|(cover, _)| cover.is_some_and(|cover| !cover.covers(&prefix))) {
                above.pop();
            }
            let parent = above.last().and_then(|(_, number)| *number);
            self.settle_one(number, parent);
            if !prefix.is_host() {
                above.push((Some(prefix), Some(number)));
            }
        }
        // Only now, since they cover others, which have another parent now.
        for (_, number) in empty {
            self.remove(number);
        }
    }

    fn settle_one(&mut self, number: u32, parent: Option<u32>) {
        let covering = parent.map_or(ClassId::default(), |parent| self.identities[parent as usize].class);
        let identity = &mut self.identities[number as usize];
        identity.is_dirty = false;
        if identity.own == 0 {
            return self.remove(number);
        }
        identity.parent = parent;
        let class =
            self.interned.merged(covering, identity.own, &self.owns.contents[identity.own as usize].0);
        let prefix = identity.prefix;
        if !std::mem::replace(&mut identity.is_settled, true) {
            self.lengths[usize::from(prefix.address().is_ipv6())].0[usize::from(prefix.length())] += 1;
        }
        let is_found = class != covering;
        if std::mem::replace(&mut identity.is_found, is_found) != is_found {
            match is_found {
                true => self.by_address.insert(prefix, number),
                false => self.by_address.remove(prefix),
            };
        }
        if identity.class != class {
            self.interned.release(identity.class);
            self.interned.retain(class);
            identity.class = class;
            self.by_identity.set(number as usize, class);
        }
    }

    fn remove(&mut self, number: u32) {
        let identity = &mut self.identities[number as usize];
        let prefix = identity.prefix;
        identity.is_dirty = false;
        self.by_prefix.remove(&prefix);
        self.free.push(number);
        self.owns.contents[0].1 -= 1;
        if std::mem::replace(&mut identity.is_settled, false) {
            self.interned.release(identity.class);
            if std::mem::replace(&mut identity.is_found, false) {
                self.by_address.remove(prefix);
            }
            self.by_identity.clear(number as usize);
            self.lengths[usize::from(prefix.address().is_ipv6())].0[usize::from(prefix.length())] -= 1;
        }
    }

    /// The class of an address, as of the last settling.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        let identity = self.by_address.lookup(address);
        identity.and_then(|number| self.by_identity.get(number as usize)).copied().unwrap_or_default()
    }

    /// What `class` is; nothing if it is dead.
    pub fn content(&self, class: ClassId) -> Content {
        self.interned.content(class)
    }

    /// The classes with any membership in `set`.
    pub fn with(&self, set: SetId) -> impl Iterator<Item = ClassId> {
        self.interned.by_set.get(&set).into_iter().flatten().copied()
    }

    pub fn snapshot(&mut self) -> Snapshot {
        Snapshot {
            identities: self.by_address.snapshot(),
            classes: self.by_identity.snapshot(),
            contents: self.interned.contents.snapshot(),
        }
    }
}

/// The readers' part.
pub(super) struct Snapshot {
    pub identities: Lpm,
    pub classes: Paged<ClassId, IDENTITIES_PAGE>,
    pub contents: Paged<Option<Content>, CONTENTS_PAGE>,
}

/// The classes there are. Class 0 is the empty one and not in the maps.
#[derive(Debug, Default)]
struct Interned {
    by_content: FxHashMap<Content, ClassId>,
    classes: FxHashMap<ClassId, (Content, usize)>,
    by_set: FxHashMap<SetId, FxHashSet<ClassId>>,
    last: u32,
    born: Vec<ClassId>,
    /// What readers see of `classes`.
    contents: PagedBuilder<Option<Content>, CONTENTS_PAGE>,
    /// May be without users.
    released: Vec<ClassId>,
    /// What a covering class and own memberships make, remembered until the next settling.
    merges: FxHashMap<(ClassId, OwnId), ClassId>,
}

impl Interned {
    fn content(&self, class: ClassId) -> Content {
        self.classes.get(&class).map_or_else(|| Arc::from([]), |(content, _)| Arc::clone(content))
    }

    /// The class of what `covering` is and `memberships` besides, which are `own`.
    fn merged(&mut self, covering: ClassId, own: OwnId, memberships: &[Membership]) -> ClassId {
        if let Some(class) = self.merges.get(&(covering, own)) {
            return *class;
        }
        let content = self.classes.get(&covering).map_or(&[][..], |(content, _)| content);
        let mut merging = [content, memberships].concat();
        merging.sort_unstable();
        merging.dedup();
        let class = self.intern(&merging);
        self.merges.insert((covering, own), class);
        class
    }

    fn intern(&mut self, content: &[Membership]) -> ClassId {
        if content.is_empty() {
            return ClassId::default();
        }
        if let Some(class) = self.by_content.get(content) {
            return *class;
        }
        self.last += 1;
        let class = ClassId(self.last);
        let content: Content = content.into();
        for membership in content.iter() {
            self.by_set.entry(membership.set).or_default().insert(class);
        }
        self.by_content.insert(Arc::clone(&content), class);
        self.contents.set(class.0 as usize, Some(Arc::clone(&content)));
        self.classes.insert(class, (content, 0));
        self.born.push(class);
        class
    }

    fn retain(&mut self, class: ClassId) {
        if let Some((_, users)) = self.classes.get_mut(&class) {
            *users += 1;
        }
    }

    fn release(&mut self, class: ClassId) {
        if let Some((_, users)) = self.classes.get_mut(&class) {
            *users -= 1;
            if *users == 0 {
                self.released.push(class);
            }
        }
    }

    fn take_settled(&mut self) -> Settled {
        let mut settled = Settled::default();
        self.merges.clear();
        let born = std::mem::take(&mut self.born);
        let unused = std::mem::take(&mut self.released);
        for class in unused.into_iter().chain(born.iter().copied()) {
            if self.classes.get(&class).is_none_or(|(_, users)| *users > 0) {
                continue;
            }
            let Some((content, _)) = self.classes.remove(&class) else { continue };
            self.by_content.remove(&content);
            self.contents.clear(class.0 as usize);
            for membership in content.iter() {
                if let Some(classes) = self.by_set.get_mut(&membership.set) {
                    classes.remove(&class);
                    if classes.is_empty() {
                        self.by_set.remove(&membership.set);
                    }
                }
            }
            settled.dead.push((class, content));
        }
        settled.born = born.into_iter().filter(|class| self.classes.contains_key(class)).collect();
        settled
    }
}

#[cfg(test)]
mod tests;
