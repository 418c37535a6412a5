//! A policy list, compiled: rules are narrowed by the local side's class, then by the peer's; what is left are ports.
//!
//! ```text
//!   CompiledPolicy ─family─► Side ─local class─► Variant ─peer class─► Row
//!                                   (one, unless rules look at the local side's sets)
//! ```
//!
//! Classes that no set of the list's rules mentions need nothing stored: they are the base variant's, and its base row's.
//! So a class is only compiled into the lists that mention one of its sets ([`ListCompiler::sets`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::classes::Content;
use super::ports::{Outcome, Packed, PortRange, PortRule, Row, WITH_PORTS, row};
use super::rules::{Binding, Entity, Family, Owner, Rule};
use super::sets::{Membership, SetId};
use super::{ClassId, FlowDirection, RuleAction, RuleId, RuleName};
use crate::table::paged::{Paged, PagedBuilder};

const ROWS_PAGE: usize = 64;

/// What workers run for one policy list.
#[derive(Debug)]
pub(super) struct CompiledPolicy {
    v4: Arc<Side>,
    v6: Arc<Side>,
}

#[derive(Debug)]
pub(super) struct Side {
    looks_at_local: bool,
    base: Variant,
    /// By local class, 1 + the place in `variants`; the base where nothing is set.
    variant_of: Paged<u32, ROWS_PAGE>,
    variants: Box<[Variant]>,
}

#[derive(Debug)]
struct Variant {
    base: Arc<Row>,
    /// By peer class; the base row where nothing is set.
    rows: Paged<Option<Arc<Row>>, ROWS_PAGE>,
}

impl CompiledPolicy {
    #[inline]
    pub fn side(&self, address: IpAddr) -> &Side {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

impl Side {
    #[inline]
    pub fn looks_at_local(&self) -> bool {
        self.looks_at_local
    }

    #[inline]
    pub fn row(&self, local: ClassId, peer: ClassId) -> &Row {
        let place = self.variant_of.get(local.0 as usize).and_then(|place| place.checked_sub(1));
        let variant = place.and_then(|place| self.variants.get(place as usize)).unwrap_or(&self.base);
        variant.rows.get(peer.0 as usize).and_then(Option::as_deref).unwrap_or(&variant.base)
    }
}

/// The rules of a list, in order, and how its sections end.
#[derive(Debug)]
struct List {
    direction: FlowDirection,
    rules: Vec<FlatRule>,
    ends: Vec<Outcome>,
}

/// A rule with its place, its outcome, and its sides told apart by whose they are.
#[derive(Debug)]
struct FlatRule {
    section: usize,
    outcome: Outcome,
    family: Option<Family>,
    protocol: u8,
    local: Entity,
    peer: Entity,
}

/// A rule that a class leaves standing, with what it asks of that side's ports (None: nothing).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Narrowed {
    /// Its place in the list it was narrowed from.
    rule: u32,
    ports: Option<Box<[PortRange]>>,
}

/// The controller's part of a [`CompiledPolicy`].
#[derive(Debug)]
pub(super) struct ListCompiler {
    list: List,
    local_sets: BTreeSet<SetId>,
    peer_sets: BTreeSet<SetId>,
    /// The classes that mention any of `peer_sets`, for variants yet to come.
    peers: BTreeMap<ClassId, Content>,
    v4: SideCompiler,
    /// None: the list says the same of both families.
    v6: Option<SideCompiler>,
    compiled: Option<Arc<CompiledPolicy>>,
}

#[derive(Debug)]
struct SideCompiler {
    family: Family,
    looks_at_local: bool,
    base: VariantCompiler,
    variant_of: PagedBuilder<u32, ROWS_PAGE>,
    variants: Vec<VariantCompiler>,
    /// 0 is the base.
    by_local: HashMap<Vec<Narrowed>, u32>,
}

#[derive(Debug)]
struct VariantCompiler {
    /// What the local class leaves of the list.
    rules: Vec<Narrowed>,
    /// Places of rules that may match a peer in no set.
    for_anyone: Vec<u32>,
    /// Places of rules that match no peer outside this set.
    for_members: HashMap<SetId, Vec<u32>>,
    base: Arc<Row>,
    rows: PagedBuilder<Option<Arc<Row>>, ROWS_PAGE>,
    by_peer: HashMap<Vec<Narrowed>, Arc<Row>>,
}

impl ListCompiler {
    /// Compiles `binding` for addresses in no set. `intern` gives the ids of what can decide.
    pub fn new(
        direction: FlowDirection,
        binding: &Binding,
        intern: &mut dyn FnMut(RuleName) -> RuleId,
    ) -> Self {
        let list = flatten(direction, binding, intern);
        let local_sets: BTreeSet<SetId> = list.rules.iter().flat_map(|rule| rule.local.sets()).collect();
        let peer_sets = list.rules.iter().flat_map(|rule| rule.peer.sets()).collect();
        let by_family = list.rules.iter().any(|rule| rule.family.is_some());
        let looks_at_local = !local_sets.is_empty();
        let v4 = SideCompiler::new(&list, Family::V4, looks_at_local);
        let v6 = by_family.then(|| SideCompiler::new(&list, Family::V6, looks_at_local));
        ListCompiler { list, local_sets, peer_sets, peers: BTreeMap::new(), v4, v6, compiled: None }
    }

    /// The sets whose classes must be told to this list.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        self.local_sets.union(&self.peer_sets).copied()
    }

    /// Whether judging needs the class of the endpoint's own address.
    pub fn looks_at_local(&self) -> bool {
        !self.local_sets.is_empty()
    }

    /// Compiles for one more class.
    pub fn add_class(&mut self, class: ClassId, content: &Content) {
        self.compiled = None;
        let mentions =
            |sets: &BTreeSet<SetId>| content.iter().any(|membership| sets.contains(&membership.set));
        let (as_peer, as_local) = (mentions(&self.peer_sets), mentions(&self.local_sets));
        if as_peer {
            self.peers.insert(class, Arc::clone(content));
        }
        for side in [Some(&mut self.v4), self.v6.as_mut()].into_iter().flatten() {
            if as_peer {
                for variant in std::iter::once(&mut side.base).chain(&mut side.variants) {
                    variant.add_peer(&self.list, class, content);
                }
            }
            if as_local {
                side.add_local(&self.list, class, content, &self.peers);
            }
        }
    }

    /// Forgets a class.
    pub fn remove_class(&mut self, class: ClassId) {
        self.compiled = None;
        self.peers.remove(&class);
        for side in [Some(&mut self.v4), self.v6.as_mut()].into_iter().flatten() {
            side.variant_of.clear(class.0 as usize);
            for variant in std::iter::once(&mut side.base).chain(&mut side.variants) {
                variant.remove_peer(class);
            }
        }
    }

    /// What workers run.
    pub fn compiled(&mut self) -> Arc<CompiledPolicy> {
        let compiled = self.compiled.get_or_insert_with(|| {
            let v4 = Arc::new(self.v4.snapshot());
            let v6 = self.v6.as_mut().map_or_else(|| Arc::clone(&v4), |v6| Arc::new(v6.snapshot()));
            Arc::new(CompiledPolicy { v4, v6 })
        });
        Arc::clone(compiled)
    }
}

impl SideCompiler {
    fn new(list: &List, family: Family, looks_at_local: bool) -> SideCompiler {
        let rules = narrow_local(list, family, &[]);
        let by_local = HashMap::from([(rules.clone(), 0)]);
        let base = VariantCompiler::new(list, rules);
        let variant_of = PagedBuilder::default();
        SideCompiler { family, looks_at_local, base, variant_of, variants: Vec::new(), by_local }
    }

    fn add_local(
        &mut self,
        list: &List,
        class: ClassId,
        content: &Content,
        peers: &BTreeMap<ClassId, Content>,
    ) {
        let rules = narrow_local(list, self.family, content);
        let variant = match self.by_local.get(&rules) {
            Some(variant) => *variant,
            None => {
                let mut variant = VariantCompiler::new(list, rules.clone());
                for (peer, content) in peers {
                    variant.add_peer(list, *peer, content);
                }
                self.variants.push(variant);
                let place = self.variants.len() as u32;
                self.by_local.insert(rules, place);
                place
            }
        };
        self.variant_of.set(class.0 as usize, variant);
    }

    fn snapshot(&mut self) -> Side {
        Side {
            looks_at_local: self.looks_at_local,
            base: self.base.snapshot(),
            variant_of: self.variant_of.snapshot(),
            variants: self.variants.iter_mut().map(VariantCompiler::snapshot).collect(),
        }
    }
}

impl VariantCompiler {
    fn new(list: &List, rules: Vec<Narrowed>) -> VariantCompiler {
        let mut for_anyone = Vec::new();
        let mut for_members: HashMap<SetId, Vec<u32>> = HashMap::new();
        for (place, narrowed) in rules.iter().enumerate() {
            let peer = &list.rules[narrowed.rule as usize].peer;
            let place = place as u32;
            if let Some(set) = peer.in_all.first() {
                for_members.entry(*set).or_default().push(place);
            } else if peer.ports.is_empty() && !peer.named_ports.is_empty() {
                for set in &peer.named_ports {
                    for_members.entry(*set).or_default().push(place);
                }
            } else {
                for_anyone.push(place);
            }
        }
        let rows = PagedBuilder::default();
        let empty = Arc::new(Row::denied());
        let mut variant =
            VariantCompiler { rules, for_anyone, for_members, base: empty, rows, by_peer: HashMap::new() };
        variant.base = variant.row(list, &[]);
        variant
    }

    fn add_peer(&mut self, list: &List, class: ClassId, content: &[Membership]) {
        let row = self.row(list, content);
        if Arc::ptr_eq(&row, &self.base) {
            self.rows.clear(class.0 as usize);
        } else {
            self.rows.set(class.0 as usize, Some(row));
        }
    }

    fn remove_peer(&mut self, class: ClassId) {
        self.rows.clear(class.0 as usize);
    }

    /// The row of a peer class, made if no other class has the same.
    fn row(&mut self, list: &List, content: &[Membership]) -> Arc<Row> {
        let mut places = self.for_anyone.clone();
        let mut sets: Vec<SetId> = content.iter().map(|membership| membership.set).collect();
        sets.dedup();
        for set in sets {
            places.extend(self.for_members.get(&set).into_iter().flatten());
        }
        places.sort_unstable();
        places.dedup();
        let narrowed: Vec<Narrowed> = places
            .into_iter()
            .filter_map(|place| {
                let peer = &list.rules[self.rules[place as usize].rule as usize].peer;
                Some(Narrowed { rule: place, ports: narrow(peer, content)? })
            })
            .collect();
        if let Some(row) = self.by_peer.get(&narrowed) {
            return Arc::clone(row);
        }
        let port_rules: Vec<PortRule<'_>> = narrowed
            .iter()
            .map(|by_peer| {
                let by_local = &self.rules[by_peer.rule as usize];
                let rule = &list.rules[by_local.rule as usize];
                let (source, destination) = match list.direction {
                    FlowDirection::Ingress => (by_peer, by_local),
                    FlowDirection::Egress => (by_local, by_peer),
                };
                PortRule {
                    section: rule.section,
                    outcome: rule.outcome,
                    protocol: rule.protocol,
                    source: source.ports.as_deref(),
                    destination: destination.ports.as_deref(),
                }
            })
            .collect();
        let row = Arc::new(row(&port_rules, &list.ends));
        // Rows that no class has any more go when they have become many.
        if self.by_peer.len() >= 64 && self.by_peer.len().is_power_of_two() {
            self.by_peer.retain(|_, row| Arc::strong_count(row) > 1);
        }
        self.by_peer.insert(narrowed, Arc::clone(&row));
        row
    }

    fn snapshot(&mut self) -> Variant {
        Variant { base: Arc::clone(&self.base), rows: self.rows.snapshot() }
    }
}

/// The rules that an endpoint of this family and class is under.
fn narrow_local(list: &List, family: Family, content: &[Membership]) -> Vec<Narrowed> {
    let rules = list.rules.iter().enumerate();
    let rules = rules.filter(|(_, rule)| rule.family.is_none_or(|of| of == family));
    rules
        .filter_map(|(i, rule)| Some(Narrowed { rule: i as u32, ports: narrow(&rule.local, content)? }))
        .collect()
}

/// What `entity` asks of ports once an address of this class is known; None if it does not match such an address.
fn narrow(entity: &Entity, content: &[Membership]) -> Option<Option<Box<[PortRange]>>> {
    let is_in = |set: &SetId| content.binary_search(&Membership::address(*set)).is_ok();
    if !entity.in_all.iter().all(is_in) || entity.in_none.iter().any(is_in) {
        return None;
    }
    if entity.ports.is_empty() && entity.named_ports.is_empty() {
        return Some(None);
    }
    let listed =
        entity.ports.iter().map(|(first, last)| PortRange { protocol: 0, first: *first, last: *last });
    let named = entity.named_ports.iter().flat_map(|set| {
        let start = content.partition_point(|membership| membership.set < *set);
        content[start..].iter().take_while(|membership| membership.set == *set)
    });
    let named = named.filter(|membership| WITH_PORTS.contains(&membership.protocol));
    let named = named.map(|m| PortRange { protocol: m.protocol, first: m.port, last: m.port });
    let ports: Box<[PortRange]> = listed.chain(named).collect();
    (!ports.is_empty()).then_some(Some(ports))
}

/// Puts the rules of tiers and profiles in one order.
fn flatten(direction: FlowDirection, binding: &Binding, intern: &mut dyn FnMut(RuleName) -> RuleId) -> List {
    let mut rules = Vec::new();
    let mut ends = Vec::new();
    for (section, tier) in binding.tiers.iter().enumerate() {
        for policy in &tier.policies {
            for (index, rule) in
                policy.rules.iter().enumerate().filter(|(_, rule)| rule.action != RuleAction::Log)
            {
                let outcome = outcome(index as u32, rule, direction, &policy.owner, intern);
                rules.push(FlatRule::new(section, outcome, direction, rule));
            }
        }
        ends.push(match tier.default_deny {
            true => {
                let policies =
                    tier.policies.iter().filter_map(|policy| policy.owner.policy().cloned()).collect();
                let name = RuleName::TierDefault { tier: Arc::clone(&tier.name), direction, policies };
                Outcome::Decide(Packed::deny(intern(name)))
            }
            false => Outcome::NextSection,
        });
    }
    let section = binding.tiers.len();
    for profile in &binding.profiles {
        // After the tiers there is nothing to pass to: Pass has no effect in a profile.
        for (index, rule) in profile
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| matches!(rule.action, RuleAction::Allow | RuleAction::Deny))
        {
            let outcome = outcome(index as u32, rule, direction, &profile.owner, intern);
            rules.push(FlatRule::new(section, outcome, direction, rule));
        }
    }
    ends.push(Outcome::Decide(Packed::deny(RuleId::NO_PROFILE_MATCH)));
    List { direction, rules, ends }
}

impl FlatRule {
    fn new(section: usize, outcome: Outcome, direction: FlowDirection, rule: &Rule) -> FlatRule {
        let (peer, local) = match direction {
            FlowDirection::Ingress => (&rule.source, &rule.destination),
            FlowDirection::Egress => (&rule.destination, &rule.source),
        };
        let (family, protocol) = (rule.family, rule.protocol);
        FlatRule { section, outcome, family, protocol, local: local.clone(), peer: peer.clone() }
    }
}

fn outcome(
    index: u32,
    rule: &Rule,
    direction: FlowDirection,
    owner: &Owner,
    intern: &mut dyn FnMut(RuleName) -> RuleId,
) -> Outcome {
    let id = intern(owner.rule_name(direction, index, rule.action));
    match rule.action {
        RuleAction::Allow => Outcome::Decide(Packed::allow(id)),
        RuleAction::Deny => Outcome::Decide(Packed::deny(id)),
        RuleAction::Pass | RuleAction::Log => Outcome::NextSection,
    }
}
