//! Which policies apply to which endpoints of this node, pods and host endpoints. A policy is said, and its IP sets are
//! there, while it applies to at least one of them.

use std::collections::{BTreeMap, BTreeSet};

use caracal_model::policy::{Hook, Policy, PolicyKey, PolicyKind, StagedAction, Tier};
use caracal_plane_api as plane;
use hashbrown::HashMap;
use slab::Slab;

use crate::delta::{Delta, Flushed};
use crate::ip_sets::{IpSets, SetId};
use crate::label_index::LabelIndex;
use crate::plane::policy_id;
use crate::rules::Scanner;
use crate::sources::{SourceId, Sources};
use crate::tiers::{EndOfTier, Ranked, Tiers};

/// What policies apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndpointKind {
    Pod,
    Host,
}

/// The directions of traffic, from the endpoint's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

fn is_about(policy: &Policy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.applies_to_ingress,
        // Destinations are translated on the way in only.
        Direction::Egress => policy.applies_to_egress && policy.hook != Hook::PreDnat,
    }
}

/// Whether a policy has anything to say to an endpoint that it selects: to a pod only after translation and where
/// connections are tracked; and what is staged is tried on pods only.
fn applies(policy: &Policy, kind: EndpointKind) -> bool {
    let is_meant = match kind {
        EndpointKind::Pod => policy.hook == Hook::Normal,
        EndpointKind::Host => policy.staged.is_none(),
    };
    is_meant && (is_about(policy, Direction::Ingress) || is_about(policy, Direction::Egress))
}

/// What judges a pod's traffic; `staged`: what would if staged policies were enforced, where that is something else.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PodBindings {
    pub ingress: Vec<plane::TierBinding>,
    pub egress: Vec<plane::TierBinding>,
    pub staged_ingress: Option<plane::StagedTiers>,
    pub staged_egress: Option<plane::StagedTiers>,
}

/// What judges a host endpoint's traffic.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct HostBindings {
    pub untracked: plane::Hook,
    pub pre_dnat: plane::Hook,
    pub normal: plane::Hook,
    pub forward: plane::Hook,
}

/// The vertex that matches policies with local endpoints.
///
/// ```text
///   policies ───────────► index ◄─────────── local endpoints' labels
///                           │
///                           ├─ first or last match of a policy ──► rule scanner ──► IP sets
///                           │                                          └──────────► Policy
///   tiers ──────────────────┴─ any match ──► that endpoint's bindings are made again
/// ```
#[derive(Debug)]
pub(crate) struct Policies {
    ids: BTreeMap<PolicyKey, u32>,
    all: Slab<Ranked>,
    tiers: Tiers,
    index: LabelIndex,
    kinds: HashMap<SourceId, EndpointKind>,
    /// The policies that apply somewhere here, and the sets that their rules have acquired.
    active: HashMap<u32, Vec<SetId>>,
    messages: Delta<PolicyKey, plane::Policy>,
    /// How often a policy's rules were scanned.
    pub scans: u64,
}

impl Policies {
    /// How many policies and tiers there are.
    pub fn count(&self) -> (usize, usize) {
        (self.ids.len(), self.tiers.count())
    }

    pub fn new() -> Self {
        Self {
            ids: BTreeMap::new(),
            all: Slab::new(),
            tiers: Tiers::new(),
            index: LabelIndex::default(),
            kinds: HashMap::new(),
            active: HashMap::new(),
            messages: Delta::new(),
            scans: 0,
        }
    }

    fn get(&self, key: &PolicyKey) -> Option<(u32, &Policy)> {
        let id = *self.ids.get(key)?;
        self.all.get(id as usize).map(|ranked| (id, &ranked.policy))
    }

    /// The policy is there, like this, or is gone. Returns the local endpoints whose bindings may have changed.
    pub fn set(
        &mut self,
        key: &PolicyKey,
        policy: Option<Policy>,
        sets: &mut IpSets,
        sources: &mut Sources,
    ) -> BTreeSet<SourceId> {
        let known =
            self.get(key).map(|(id, known)| (id, known.selector.clone(), Some(known) == policy.as_ref()));
        let mut affected = BTreeSet::new();
        // A staged policy, there or gone, also concerns those that the policy selects whose place it takes.
        let enforced = PolicyKey { kind: key.kind.enforced(), ..key.clone() };
        if let Some((id, _)) = self.get(&enforced).filter(|_| enforced != *key) {
            affected.extend(self.index.items_of(id));
        }
        let Some(policy) = policy else {
            let Some((id, ..)) = known else { return BTreeSet::new() };
            affected.extend(self.index.remove_selector(id, &mut sources.symbols));
            self.rescan(id, sets, sources);
            self.ids.remove(key);
            self.all.try_remove(id as usize);
            return affected;
        };
        let id = match known {
            Some((_, _, true)) => return BTreeSet::new(),
            Some((id, former, _)) => {
                affected.extend(self.index.items_of(id));
                if former != policy.selector {
                    let changes = self.index.set_selector(id, &policy.selector, &mut sources.symbols);
                    affected.extend(changes.began);
                }
                if let Some(known) = self.all.get_mut(id as usize) {
                    *known = Ranked::new(policy);
                }
                id
            }
            None => {
                let selector = policy.selector.clone();
                let id = self.all.insert(Ranked::new(policy)) as u32;
                self.ids.insert(key.clone(), id);
                affected.extend(self.index.set_selector(id, &selector, &mut sources.symbols).began);
                id
            }
        };
        self.rescan(id, sets, sources);
        affected
    }

    /// The tier is there, like this, or is gone. Returns the local endpoints whose bindings may have changed.
    pub fn set_tier(&mut self, name: &str, tier: Option<Tier>) -> BTreeSet<SourceId> {
        if !self.tiers.set(name, tier) {
            return BTreeSet::new();
        }
        let of_tier = self.all.iter().filter(|(_, ranked)| ranked.policy.tier == name);
        of_tier.flat_map(|(id, _)| self.index.items_of(id as u32)).collect()
    }

    /// A local endpoint has come, changed or gone. Returns whether its bindings may have changed.
    pub fn endpoint_changed(
        &mut self,
        id: SourceId,
        kind: Option<EndpointKind>,
        sets: &mut IpSets,
        sources: &mut Sources,
    ) -> bool {
        let changed = match (kind, sources.get(id)) {
            (Some(kind), Some(source)) => {
                self.kinds.insert(id, kind);
                let changes = self.index.set_item(id, &source.labels, &sources.symbols);
                [changes.began, changes.ceased].concat()
            }
            _ => {
                let ceased = self.index.remove_item(id);
                self.kinds.remove(&id);
                ceased
            }
        };
        for policy in &changed {
            if self.is_needed(*policy) != self.active.contains_key(policy) {
                self.rescan(*policy, sets, sources);
            }
        }
        !changed.is_empty()
    }

    fn is_needed(&self, id: u32) -> bool {
        let Some(ranked) = self.all.get(id as usize) else { return false };
        let policy = &ranked.policy;
        let kinds = || self.index.items_of(id).filter_map(|item| self.kinds.get(&item));
        policy.staged != Some(StagedAction::Delete) && kinds().any(|kind| applies(policy, *kind))
    }

    fn rescan(&mut self, id: u32, sets: &mut IpSets, sources: &mut Sources) {
        let Some(ranked) = self.all.get(id as usize) else { return };
        let key = ranked.policy.key.clone();
        // New sets are acquired before old ones are released, so that what both need stays as it is.
        let former = if self.is_needed(id) {
            self.scans += 1;
            let mut scanner = Scanner { sets, sources, acquired: Vec::new() };
            let message = plane::Policy {
                id: Some(policy_id(&key)),
                tier: ranked.policy.tier.clone(),
                ingress: scanner.rules(&ranked.policy.ingress),
                egress: scanner.rules(&ranked.policy.egress),
            };
            let acquired = scanner.acquired;
            self.messages.want(key, Some(message));
            self.active.insert(id, acquired)
        } else {
            self.messages.want(key, None);
            self.active.remove(&id)
        };
        former.into_iter().flatten().for_each(|id| sets.release(id));
    }

    /// The policies that select an endpoint and have something to say to one of its kind.
    fn policies_of(&self, id: SourceId, kind: EndpointKind) -> Vec<&Ranked> {
        let selecting =
            self.index.selectors_of(id).iter().filter_map(|policy| self.all.get(*policy as usize));
        selecting.filter(|ranked| applies(&ranked.policy, kind)).collect()
    }

    /// The tiers that judge a pod.
    pub fn pod_bindings(&self, id: SourceId) -> PodBindings {
        let policies = self.policies_of(id, EndpointKind::Pod);
        let (ingress, staged_ingress) = self.pod_direction(&policies, Direction::Ingress);
        let (egress, staged_egress) = self.pod_direction(&policies, Direction::Egress);
        PodBindings { ingress, egress, staged_ingress, staged_egress }
    }

    fn pod_direction(
        &self,
        policies: &[&Ranked],
        direction: Direction,
    ) -> (Vec<plane::TierBinding>, Option<plane::StagedTiers>) {
        let about = || policies.iter().copied().filter(|ranked| is_about(&ranked.policy, direction));
        let enforced = || about().filter(|ranked| ranked.policy.staged.is_none());
        let would_be = || about().filter(|ranked| ranked.policy.staged == Some(StagedAction::Set));
        let stays = |ranked: &&Ranked| !self.is_staged_over(&ranked.policy.key);
        let changes = would_be().next().is_some() || !enforced().all(|ranked| stays(&ranked));
        let staged = changes.then(|| plane::StagedTiers {
            tiers: self.tiers.bind(enforced().filter(stays).chain(would_be()), EndOfTier::Default),
        });
        (self.tiers.bind(enforced(), EndOfTier::Default), staged)
    }

    /// Whether a staged policy would take the place of this one.
    fn is_staged_over(&self, key: &PolicyKey) -> bool {
        let kind = match key.kind {
            PolicyKind::NetworkPolicy => PolicyKind::StagedNetworkPolicy,
            PolicyKind::GlobalNetworkPolicy => PolicyKind::StagedGlobalNetworkPolicy,
            PolicyKind::KubernetesNetworkPolicy => PolicyKind::StagedKubernetesNetworkPolicy,
            _ => return false,
        };
        self.ids.contains_key(&PolicyKey { kind, ..key.clone() })
    }

    /// The tiers that judge a host endpoint, hook by hook.
    pub fn host_bindings(&self, id: SourceId) -> HostBindings {
        let policies = self.policies_of(id, EndpointKind::Host);
        let hook = |is_of: &dyn Fn(&Policy) -> bool, end| {
            let bind = |direction| {
                let of = policies.iter().copied().filter(|ranked| is_of(&ranked.policy));
                self.tiers.bind(of.filter(|ranked| is_about(&ranked.policy, direction)), end)
            };
            plane::Hook { ingress: bind(Direction::Ingress), egress: bind(Direction::Egress) }
        };
        let is_normal = |policy: &Policy| policy.hook == Hook::Normal;
        HostBindings {
            untracked: hook(&|policy| policy.hook == Hook::Untracked, EndOfTier::Pass),
            pre_dnat: hook(&|policy| policy.hook == Hook::PreDnat, EndOfTier::Pass),
            normal: hook(&is_normal, EndOfTier::Default),
            forward: hook(&|policy| is_normal(policy) && policy.apply_on_forward, EndOfTier::Default),
        }
    }

    /// The difference since the last flush.
    pub fn flush(&mut self) -> Flushed<PolicyKey, plane::Policy> {
        self.messages.flush()
    }

    /// Every policy as last said.
    pub fn said(&self) -> impl Iterator<Item = &plane::Policy> {
        self.messages.said()
    }

    /// How often a policy's selector was compared with an endpoint.
    pub fn comparisons(&self) -> u64 {
        self.index.comparisons
    }
}
