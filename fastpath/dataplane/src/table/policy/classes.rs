//! Identities and classes: which sets an address is in, by longest match.
//!
//! Invariant after [`Classes::settle`]: the class of a prefix holds its own memberships and those of every prefix that
//! covers it, so the longest match alone says all. When a prefix joins or leaves a set, the prefixes inside it are
//! given their classes again; they follow it in the order of prefixes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::sets::{Membership, SetId};
use super::{CONTENTS_PAGE, ClassId, IDENTITIES_PAGE};
use crate::table::lpm::{Lpm, LpmBuilder};
use crate::table::paged::{Paged, PagedBuilder};
use crate::table::prefix::Prefix;

/// What a class is: memberships, sorted.
pub(super) type Content = Arc<[Membership]>;

#[derive(Debug, Default)]
pub(super) struct Classes {
    identities: BTreeMap<Prefix, Identity>,
    /// How many identities have a length, by family and length: where to look for a covering prefix.
    lengths: [LengthCounts; 2],
    by_address: LpmBuilder,
    by_identity: PagedBuilder<ClassId, IDENTITIES_PAGE>,
    free: Vec<u32>,
    /// Identities ever numbered.
    numbered: u32,
    /// Whose memberships have changed since the last settling.
    dirty: BTreeSet<Prefix>,
    interned: Interned,
}

#[derive(Debug, Default)]
struct Identity {
    number: Option<u32>,
    class: ClassId,
    /// Sorted.
    memberships: Vec<Membership>,
}

#[derive(Debug)]
struct LengthCounts([u32; 129]);

impl Default for LengthCounts {
    fn default() -> Self {
        LengthCounts([0; 129])
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
    /// Adds a membership of `prefix`.
    pub fn join(&mut self, prefix: Prefix, membership: Membership) {
        let memberships = &mut self.identities.entry(prefix).or_default().memberships;
        if let Err(place) = memberships.binary_search(&membership) {
            memberships.insert(place, membership);
            self.dirty.insert(prefix);
        }
    }

    /// Takes a membership of `prefix` away.
    pub fn leave(&mut self, prefix: Prefix, membership: Membership) {
        let Some(identity) = self.identities.get_mut(&prefix) else { return };
        if let Ok(place) = identity.memberships.binary_search(&membership) {
            identity.memberships.remove(place);
            self.dirty.insert(prefix);
        }
    }

    /// Gives classes to what has changed; None: nothing has.
    pub fn settle(&mut self) -> Option<Settled> {
        if self.dirty.is_empty() {
            return None;
        }
        let mut settled: Option<Prefix> = None;
        for prefix in std::mem::take(&mut self.dirty) {
            // What a dirty prefix covers has been settled with it.
            if !settled.is_some_and(|settled| settled.covers(&prefix)) {
                self.settle_below(prefix);
                settled = Some(prefix);
            }
        }
        Some(self.interned.take_settled())
    }

    fn settle_below(&mut self, top: Prefix) {
        let mut above: Vec<(Option<Prefix>, ClassId)> = vec![(None, self.class_above(top))];
        let mut empty = Vec::new();
        for (prefix, identity) in self.identities.range_mut(top..) {
            if !top.covers(prefix) {
                break;
            }
            if identity.memberships.is_empty() {
                empty.push(*prefix);
                continue;
            }
            while above.last().is_some_and(|(cover, _)| cover.is_some_and(|cover| !cover.covers(prefix))) {
                above.pop();
            }
            let covering = above.last().map_or(ClassId::default(), |(_, class)| *class);
            let class = self.interned.merged(covering, &identity.memberships);
            above.push((Some(*prefix), class));
            let number = *identity.number.get_or_insert_with(|| {
                let number = self.free.pop().unwrap_or_else(|| {
                    self.numbered += 1;
                    self.numbered - 1
                });
                self.by_address.insert(*prefix, number);
                self.lengths[usize::from(prefix.address().is_ipv6())].0[usize::from(prefix.length())] += 1;
                number
            });
            if identity.class != class {
                self.interned.release(identity.class);
                self.interned.retain(class);
                identity.class = class;
                self.by_identity.set(number as usize, class);
            }
        }
        for prefix in empty {
            let Some(identity) = self.identities.remove(&prefix) else { continue };
            let Some(number) = identity.number else { continue };
            self.interned.release(identity.class);
            self.by_address.remove(prefix);
            self.by_identity.clear(number as usize);
            self.free.push(number);
            self.lengths[usize::from(prefix.address().is_ipv6())].0[usize::from(prefix.length())] -= 1;
        }
    }

    /// The class of the longest settled prefix that covers `prefix` and is not itself.
    fn class_above(&self, prefix: Prefix) -> ClassId {
        let counts = &self.lengths[usize::from(prefix.address().is_ipv6())].0;
        let lengths = (0..prefix.length()).rev().filter(|length| counts[usize::from(*length)] > 0);
        let mut covering = lengths.filter_map(|length| self.identities.get(&prefix.shortened(length)));
        covering.find(|identity| !identity.memberships.is_empty()).map_or(ClassId::default(), |i| i.class)
    }

    /// The class of an address, as of the last settling.
    pub fn class_of(&mut self, address: IpAddr) -> ClassId {
        let identity = self.by_address.snapshot().lookup(address);
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
    by_content: HashMap<Content, ClassId>,
    classes: HashMap<ClassId, (Content, usize)>,
    by_set: HashMap<SetId, HashSet<ClassId>>,
    last: u32,
    born: Vec<ClassId>,
    /// What readers see of `classes`.
    contents: PagedBuilder<Option<Content>, CONTENTS_PAGE>,
    /// May be without users.
    released: Vec<ClassId>,
    /// For merging, kept for its allocation.
    merging: Vec<Membership>,
}

impl Interned {
    fn content(&self, class: ClassId) -> Content {
        self.classes.get(&class).map_or_else(|| Arc::from([]), |(content, _)| Arc::clone(content))
    }

    /// The class of what `covering` is and `memberships` besides.
    fn merged(&mut self, covering: ClassId, memberships: &[Membership]) -> ClassId {
        let mut merging = std::mem::take(&mut self.merging);
        merging.clear();
        if let Some((content, _)) = self.classes.get(&covering) {
            merging.extend_from_slice(content);
        }
        merging.extend_from_slice(memberships);
        merging.sort_unstable();
        merging.dedup();
        let class = self.intern(&merging);
        self.merging = merging;
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
