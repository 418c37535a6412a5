//! A policy list, compiled: rules are narrowed by the local side's class, then by the peer's; what is left are ports.
//!
//! ```text
//!   CompiledPolicy ─local address─► VariantTable ─peer class─► Row
//!                    (its family, unless rules look at the local side's sets)
//! ```
//!
//! What a local class leaves of a list is a *variant*. Only the classes of addresses that endpoints have are compiled
//! for; another local address, of a host say, is judged by a walk over the rules.
//!
//! Classes that no set of the rules mentions need nothing stored: they are the variant's base row's. So a class is only
//! compiled into the lists that mention one of its sets ([`ListCompiler::sets`]). Rows are shared between variants. The
//! rules for a set that has very many are not put into the row of every class in that set, but into a layer that those
//! rows share: so what a list takes follows its rules, however their nets lie in one another.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use rustc_hash::{FxHashMap, FxHashSet};

use super::classes::Content;
use super::list::Packed;
use super::list::{FlatRule, List};
use super::matching::Ports;
use super::rows::{self, InternLogs, Layer, PortRule, Question, Row};
use super::rules::Family;
use super::sets::{Membership, SetId};
use super::{ClassId, FlowDirection};
use crate::table::paged::{Paged, PagedBuilder};

const ROWS_PAGE: usize = 64;

/// From so many rules on, those for one set have a layer of their own. Few in tests, so that small lists have layers.
const SHARED_RULES: usize = if cfg!(test) { 2 } else { 64 };
/// Layers that a row shares at most: each is looked into.
const SHARED_LAYERS: usize = 3;

/// What workers run for one policy list.
#[derive(Debug)]
pub(super) struct CompiledPolicy {
    pub list: Arc<List>,
    variants: Variants,
}

#[derive(Debug)]
enum Variants {
    /// The local address matters by its family alone.
    ByFamily {
        v4: Arc<VariantTable>,
        v6: Arc<VariantTable>,
    },
    ByAddress(Box<[(IpAddr, Arc<VariantTable>)]>),
}

/// Rows by peer class.
#[derive(Debug)]
pub(super) struct VariantTable {
    pub list: Arc<List>,
    base: Arc<Row>,
    /// The base row where nothing is set.
    rows: Paged<Option<Arc<Row>>, ROWS_PAGE>,
    /// Layers that rows share, by number.
    pub layers: Box<[Arc<Layer>]>,
}

impl CompiledPolicy {
    /// What is compiled for a local address; None: nothing.
    #[inline]
    pub fn variant(&self, local: IpAddr) -> Option<&VariantTable> {
        match &self.variants {
            Variants::ByFamily { v4, v6 } => Some(if local.is_ipv4() { v4 } else { v6 }),
            Variants::ByAddress(variants) => {
                variants.iter().find(|(address, _)| *address == local).map(|(_, variant)| &**variant)
            }
        }
    }
}

impl VariantTable {
    /// What the row of a flow's peer says.
    #[inline]
    pub fn judge(&self, row: &Row, question: Question) -> Packed {
        rows::judge(row, &self.layers, &self.list, question)
    }

    /// The row of a peer class.
    #[inline]
    pub fn row(&self, peer: ClassId) -> &Row {
        self.rows.get(peer.0 as usize).and_then(Option::as_deref).unwrap_or(&self.base)
    }

    /// Asks memory for where the row of a peer class is said to be.
    #[inline]
    pub fn prefetch(&self, peer: ClassId) {
        if let Some(row) = self.rows.get(peer.0 as usize) {
            caracal_xsk::prefetch(row);
        }
    }
}

/// Names a variant within its list.
pub(super) type VariantNumber = u32;

/// Which variants a list is made of for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chosen {
    ByFamily { v4: VariantNumber, v6: VariantNumber },
    ByAddress(Box<[(IpAddr, VariantNumber)]>),
}

impl Chosen {
    fn numbers(&self) -> Vec<VariantNumber> {
        match self {
            Chosen::ByFamily { v4, v6 } => vec![*v4, *v6],
            Chosen::ByAddress(variants) => variants.iter().map(|(_, number)| *number).collect(),
        }
    }
}

/// The controller's part of [`CompiledPolicy`]s that are one list for several endpoints.
#[derive(Debug)]
pub(super) struct ListCompiler {
    list: Arc<List>,
    index: Index,
    /// The classes that mention a set of a rule's peer side, for variants yet to come.
    peers: FxHashMap<ClassId, Content>,
    variants: BTreeMap<VariantNumber, Variant>,
    by_standing: FxHashMap<Arc<Standing>, VariantNumber>,
    last_variant: VariantNumber,
    rows: FxHashMap<RowKey, Weak<Row>>,
    /// Kept for its allocation.
    mentioned: Vec<Membership>,
}

/// The places of rules, by a set without whose members they match nobody; None: by no such set.
#[derive(Debug, Default)]
struct Index {
    /// Rules that ask nothing else of the peer that depends on its class.
    simple: FxHashMap<Option<SetId>, Vec<u32>>,
    others: FxHashMap<Option<SetId>, Vec<u32>>,
    sets: FxHashSet<SetId>,
}

/// What a local class leaves of a list.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Standing {
    /// By place, 64 to a word.
    rules: Box<[u64]>,
    /// Of rules with named ports on the local side: what the class makes of them.
    named: Box<[(u32, Option<Ports>)]>,
}

#[derive(Debug)]
struct Variant {
    standing: Arc<Standing>,
    users: usize,
    base: Arc<Row>,
    rows: PagedBuilder<Option<Arc<Row>>, ROWS_PAGE>,
    /// Of the memberships that rules of the list ask for.
    by_memberships: FxHashMap<Box<[Membership]>, Weak<Row>>,
    /// Layers that rows share, by number.
    layers: Vec<Arc<Layer>>,
    /// How many rules a set's layer has, and its number; None: they are too few for one.
    by_set: FxHashMap<Option<SetId>, Option<(usize, u32)>>,
    published: Option<Arc<VariantTable>>,
}

/// A rule that both classes leave standing, with what they make of its named ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Narrowed {
    place: u32,
    local: Option<Ports>,
    peer: Option<Ports>,
}

/// What a row is made of. Rows with shared layers are of one variant.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RowKey {
    layers: Option<(VariantNumber, Box<[u32]>)>,
    rules: Box<[Narrowed]>,
}

impl ListCompiler {
    pub fn new(list: List) -> ListCompiler {
        let index = Index::new(&list);
        ListCompiler {
            list: Arc::new(list),
            index,
            peers: FxHashMap::default(),
            variants: BTreeMap::new(),
            by_standing: FxHashMap::default(),
            last_variant: 0,
            rows: FxHashMap::default(),
            mentioned: Vec::new(),
        }
    }

    /// The sets whose classes must be told to this list.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        self.index.sets.iter().copied()
    }

    pub fn list(&self) -> &Arc<List> {
        &self.list
    }

    /// Compiles for one more peer class, which mentions one of the sets.
    pub fn add_class(&mut self, class: ClassId, content: &Content, intern: &mut InternLogs<'_>) {
        self.peers.insert(class, Arc::clone(content));
        let mut variants = std::mem::take(&mut self.variants);
        for (number, variant) in &mut variants {
            self.add_peer(*number, variant, class, content, intern);
        }
        self.variants = variants;
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, class: ClassId) {
        self.peers.remove(&class);
        for variant in self.variants.values_mut() {
            variant.rows.clear(class.0 as usize);
            variant.published = None;
        }
    }

    /// The variants for an endpoint with these addresses, each with its class; kept until released.
    pub fn choose(&mut self, addresses: &[(IpAddr, Content)], intern: &mut InternLogs<'_>) -> Chosen {
        if self.list.looks_at_local {
            let variants = addresses.iter();
            let variants = variants
                .map(|(address, class)| (*address, self.variant(Family::of(*address), class, intern)))
                .collect();
            return Chosen::ByAddress(variants);
        }
        let v4 = self.variant(Family::V4, &[], intern);
        Chosen::ByFamily { v4, v6: self.variant(Family::V6, &[], intern) }
    }

    /// What was chosen is no longer used.
    pub fn release(&mut self, chosen: &Chosen) {
        for number in chosen.numbers() {
            let Some(variant) = self.variants.get_mut(&number) else { continue };
            variant.users -= 1;
            if variant.users == 0 {
                self.by_standing.remove(&variant.standing);
                self.variants.remove(&number);
            }
        }
    }

    /// What workers run.
    pub fn compiled(&mut self, chosen: &Chosen) -> Arc<CompiledPolicy> {
        let mut table = |number: &VariantNumber| {
            self.variants.get_mut(number).map(|variant| variant.snapshot(&self.list))
        };
        let variants = match chosen {
            Chosen::ByFamily { v4, v6 } => {
                table(v4).zip(table(v6)).map(|(v4, v6)| Variants::ByFamily { v4, v6 })
            }
            Chosen::ByAddress(variants) => {
                let variants =
                    variants.iter().filter_map(|(address, number)| Some((*address, table(number)?)));
                Some(Variants::ByAddress(variants.collect()))
            }
        };
        // What is chosen is there; were it not, nothing would be compiled, and rules be walked.
        let variants = variants.unwrap_or_else(|| Variants::ByAddress(Box::default()));
        Arc::new(CompiledPolicy { list: Arc::clone(&self.list), variants })
    }

    fn variant(
        &mut self,
        family: Family,
        class: &[Membership],
        intern: &mut InternLogs<'_>,
    ) -> VariantNumber {
        let standing = Arc::new(Standing::new(&self.list, family, class));
        if let Some(number) = self.by_standing.get(&standing)
            && let Some(variant) = self.variants.get_mut(number)
        {
            variant.users += 1;
            return *number;
        }
        self.last_variant += 1;
        let number = self.last_variant;
        let mut variant = Variant {
            standing: Arc::clone(&standing),
            users: 1,
            base: rows::row(&[], &self.list, intern),
            rows: PagedBuilder::default(),
            by_memberships: FxHashMap::default(),
            layers: Vec::new(),
            by_set: FxHashMap::default(),
            published: None,
        };
        variant.base = self.row(number, &mut variant, &[], intern);
        let peers = std::mem::take(&mut self.peers);
        for (peer, content) in &peers {
            self.add_peer(number, &mut variant, *peer, content, intern);
        }
        self.peers = peers;
        self.variants.insert(number, variant);
        self.by_standing.insert(standing, number);
        number
    }

    fn add_peer(
        &mut self,
        number: VariantNumber,
        variant: &mut Variant,
        class: ClassId,
        content: &[Membership],
        intern: &mut InternLogs<'_>,
    ) {
        let mut mentioned = std::mem::take(&mut self.mentioned);
        mentioned.clear();
        mentioned.extend(content.iter().filter(|membership| self.index.sets.contains(&membership.set)));
        let known = variant.by_memberships.get(&mentioned[..]).and_then(Weak::upgrade);
        let row = known.unwrap_or_else(|| {
            let row = self.row(number, variant, &mentioned, intern);
            forget_unused(&mut variant.by_memberships);
            variant.by_memberships.insert(mentioned.as_slice().into(), Arc::downgrade(&row));
            row
        });
        self.mentioned = mentioned;
        variant.published = None;
        if Arc::ptr_eq(&row, &variant.base) {
            variant.rows.clear(class.0 as usize);
        } else {
            variant.rows.set(class.0 as usize, Some(row));
        }
    }

    /// The row of a peer class, made if there is none of the same rules.
    fn row(
        &mut self,
        number: VariantNumber,
        variant: &mut Variant,
        content: &[Membership],
        intern: &mut InternLogs<'_>,
    ) -> Arc<Row> {
        let mut sets: Vec<Option<SetId>> = content.iter().map(|membership| Some(membership.set)).collect();
        sets.dedup();
        sets.push(None);
        let mut shared: Vec<(usize, Option<SetId>, u32)> = Vec::new();
        if !self.list.has_logs {
            // Being in a set by a port is not being in it by one's address, which those rules ask for.
            let by_address = |set: &&Option<SetId>| {
                set.is_none_or(|set| content.binary_search(&Membership::address(set)).is_ok())
            };
            shared = sets.iter().filter(by_address).filter_map(|set| self.layer(variant, *set)).collect();
            shared.sort_by_key(|(rules, ..)| std::cmp::Reverse(*rules));
            shared.truncate(SHARED_LAYERS);
            // A row of nothing else is better flat.
            if let [(_, only, _)] = &shared[..]
                && sets.iter().all(|set| set == only || !self.index.has(set))
            {
                shared.clear();
            }
        }
        let mut places = Vec::new();
        for set in &sets {
            places.extend(self.index.others.get(set).into_iter().flatten());
            if shared.iter().all(|(_, of, _)| of != set) {
                places.extend(self.index.simple.get(set).into_iter().flatten());
            }
        }
        places.sort_unstable();
        places.dedup();
        let standing = places.into_iter().filter(|place| variant.standing.has(*place));
        let rules = standing.filter_map(|place| {
            let peer = &self.list.rules[place as usize].peer;
            let local = variant.standing.named(place);
            peer.takes(content).then(|| Narrowed {
                place,
                local,
                peer: if peer.names_ports() { peer.ports_for(content) } else { None },
            })
        });
        let rules: Box<[Narrowed]> = rules.collect();
        let numbers: Box<[u32]> = shared.into_iter().map(|(_, _, number)| number).collect();
        let key = RowKey { layers: (!numbers.is_empty()).then_some((number, numbers)), rules };
        if let Some(row) = self.rows.get(&key).and_then(Weak::upgrade) {
            return row;
        }
        let port_rules: Vec<PortRule<'_>> =
            key.rules.iter().map(|narrowed| narrowed.resolve(&self.list)).collect();
        let row = match &key.layers {
            Some((_, numbers)) => rows::layered_row(&port_rules, numbers),
            None => rows::row(&port_rules, &self.list, intern),
        };
        forget_unused(&mut self.rows);
        self.rows.insert(key, Arc::downgrade(&row));
        row
    }

    /// The layer of the rules for `set` alone: how many they are, and its number. None: too few to have one.
    fn layer(&self, variant: &mut Variant, set: Option<SetId>) -> Option<(usize, Option<SetId>, u32)> {
        let places = self.index.simple.get(&set).filter(|places| places.len() >= SHARED_RULES)?;
        let layers = &mut variant.layers;
        let standing = &variant.standing;
        let layer = variant.by_set.entry(set).or_insert_with(|| {
            let rules = places.iter().filter(|place| standing.has(**place));
            let rules: Vec<Narrowed> = rules
                .map(|place| Narrowed { place: *place, local: standing.named(*place), peer: None })
                .collect();
            (rules.len() >= SHARED_RULES).then(|| {
                let resolved: Vec<PortRule<'_>> =
                    rules.iter().map(|narrowed| narrowed.resolve(&self.list)).collect();
                layers.push(rows::layer(&resolved));
                (rules.len(), layers.len() as u32 - 1)
            })
        });
        layer.map(|(rules, number)| (rules, set, number))
    }
}

/// Forgets what nobody has any more, whenever there has come to be much.
fn forget_unused<K>(rows: &mut FxHashMap<K, Weak<Row>>)
where
    K: std::hash::Hash + Eq,
{
    if rows.len() >= 64 && rows.len() == rows.capacity() {
        rows.retain(|_, row| row.strong_count() > 0);
    }
}

impl Index {
    fn new(list: &List) -> Index {
        let mut index = Index::default();
        for (place, rule) in list.rules.iter().enumerate() {
            let (place, peer) = (place as u32, &rule.peer);
            index.sets.extend(peer.sets());
            let is_simple = peer.in_all.len() <= 1 && peer.in_none.is_empty() && !peer.names_ports();
            if is_simple {
                index.simple.entry(peer.in_all.first().copied()).or_default().push(place);
            } else if peer.in_all.is_empty() && peer.ports.is_empty() && !peer.named_ports.is_empty() {
                for set in &peer.named_ports {
                    index.others.entry(Some(*set)).or_default().push(place);
                }
            } else {
                index.others.entry(peer.in_all.first().copied()).or_default().push(place);
            }
        }
        index
    }
}

impl Index {
    fn has(&self, set: &Option<SetId>) -> bool {
        self.simple.contains_key(set) || self.others.contains_key(set)
    }
}

impl Standing {
    fn new(list: &List, family: Family, class: &[Membership]) -> Standing {
        let mut rules = vec![0; list.rules.len().div_ceil(64)];
        let mut named = Vec::new();
        for (place, rule) in list.rules.iter().enumerate() {
            if rule.family.is_none_or(|of| of == family) && rule.local.takes(class) {
                rules[place / 64] |= 1 << (place % 64);
                if rule.local.names_ports() {
                    named.push((place as u32, rule.local.ports_for(class)));
                }
            }
        }
        Standing { rules: rules.into(), named: named.into() }
    }

    fn has(&self, place: u32) -> bool {
        self.rules.get(place as usize / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    fn named(&self, place: u32) -> Option<Ports> {
        let found = self.named.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        self.named[found].1.clone()
    }
}

impl Narrowed {
    fn resolve<'a>(&'a self, list: &'a List) -> PortRule<'a> {
        let rule: &FlatRule = &list.rules[self.place as usize];
        let local = if rule.local.names_ports() { &self.local } else { &rule.local_ports };
        let peer = if rule.peer.names_ports() { &self.peer } else { &rule.peer_ports };
        let (source, destination) = match list.direction {
            FlowDirection::Ingress => (peer, local),
            FlowDirection::Egress => (local, peer),
        };
        PortRule { place: self.place, rule, source: source.as_ref(), destination: destination.as_ref() }
    }
}

impl Variant {
    fn snapshot(&mut self, list: &Arc<List>) -> Arc<VariantTable> {
        let published = self.published.get_or_insert_with(|| {
            let layers = self.layers.iter().cloned().collect();
            let (list, base) = (Arc::clone(list), Arc::clone(&self.base));
            Arc::new(VariantTable { list, base, rows: self.rows.snapshot(), layers })
        });
        Arc::clone(published)
    }
}

#[cfg(test)]
mod tests;
