//! Which policies apply to which endpoints of this node. A policy is said, and its IP sets are there, while it applies
//! to at least one of them.

use std::collections::{BTreeMap, BTreeSet};

use caracal_model::policy::{Action, DEFAULT_TIER, Policy, PolicyKey, PolicyPosition};
use caracal_plane_api as plane;

use crate::delta::{Delta, Flushed};
use crate::endpoints::{Endpoint, EndpointChange, EndpointId};
use crate::ip_sets::{IpSets, SetId};
use crate::label_index::{LabelIndex, MatchChange};
use crate::plane::{action, policy_id};
use crate::rules::Scanner;

/// A tier: where it stands and what becomes of traffic that none of its policies has judged.
struct Tier {
    order: Option<f64>,
    default_action: Action,
}

/// The tier of Kubernetes' policies. One that a policy names and nobody has made stands last and denies.
fn tier(name: &str) -> Tier {
    let order = (name == DEFAULT_TIER).then_some(1_000_000.0);
    Tier { order, default_action: Action::Deny }
}

/// The directions of traffic, from the endpoint's point of view.
#[derive(Clone, Copy)]
enum Direction {
    Ingress,
    Egress,
}

/// The vertex that matches policies with local endpoints.
///
/// ```text
///   policies ───────────► index ◄─────────── local endpoints' labels
///                           │
///                           ├─ first or last match of a policy ──► rule scanner ──► IP sets
///                           │                                          └──────────► Policy
///                           └─ any match ──► that endpoint's bindings are made again
/// ```
#[derive(Debug)]
pub(crate) struct Policies {
    all: BTreeMap<PolicyKey, Policy>,
    index: LabelIndex<EndpointId, PolicyKey>,
    /// The policies that apply somewhere here, and the sets that their rules have acquired.
    active: BTreeMap<PolicyKey, Vec<SetId>>,
    messages: Delta<PolicyKey, plane::Policy>,
    /// How often a policy's rules were scanned.
    pub scans: u64,
}

impl Policies {
    pub fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            index: LabelIndex::new(),
            active: BTreeMap::new(),
            messages: Delta::new(),
            scans: 0,
        }
    }

    /// The policy is there, like this, or is gone. Returns the local endpoints whose bindings may have changed.
    pub fn set(
        &mut self,
        key: &PolicyKey,
        policy: Option<Policy>,
        sets: &mut IpSets,
        endpoints: &BTreeMap<EndpointId, Endpoint>,
    ) -> BTreeSet<EndpointId> {
        if self.all.get(key) == policy.as_ref() {
            return BTreeSet::new();
        }
        let mut affected: BTreeSet<EndpointId> = self.index.items_of(key).cloned().collect();
        let changes = match &policy {
            Some(policy) => self.index.set_selector(key, &policy.selector),
            None => self.index.remove_selector(key),
        };
        affected.extend(changes.into_iter().map(|change| change.item));
        match policy {
            Some(policy) => drop(self.all.insert(key.clone(), policy)),
            None => drop(self.all.remove(key)),
        }
        self.rescan(key, sets, endpoints);
        affected
    }

    /// A local endpoint has come, changed or gone. Returns whether its bindings may have changed.
    pub fn endpoint_changed(
        &mut self,
        id: &EndpointId,
        local: Option<&Endpoint>,
        sets: &mut IpSets,
        endpoints: &BTreeMap<EndpointId, Endpoint>,
    ) -> bool {
        let changes = match local {
            Some(endpoint) => self.index.set_item(id, &endpoint.labels),
            None => self.index.remove_item(id),
        };
        for MatchChange { selector: key, .. } in &changes {
            if self.is_needed(key) != self.active.contains_key(key) {
                self.rescan(key, sets, endpoints);
            }
        }
        !changes.is_empty()
    }

    fn is_needed(&self, key: &PolicyKey) -> bool {
        self.index.items_of(key).next().is_some()
    }

    fn rescan(&mut self, key: &PolicyKey, sets: &mut IpSets, endpoints: &BTreeMap<EndpointId, Endpoint>) {
        // New sets are acquired before old ones are released, so that what both need stays as it is.
        let policy = self.all.get(key).filter(|_| self.is_needed(key));
        let former = match policy {
            Some(policy) => {
                self.scans += 1;
                let mut scanner = Scanner { sets, endpoints, acquired: Vec::new() };
                let message = plane::Policy {
                    id: Some(policy_id(key)),
                    tier: policy.tier.clone(),
                    ingress: scanner.rules(&policy.ingress),
                    egress: scanner.rules(&policy.egress),
                };
                let acquired = scanner.acquired;
                self.messages.want(key.clone(), Some(message));
                self.active.insert(key.clone(), acquired)
            }
            None => {
                self.messages.want(key.clone(), None);
                self.active.remove(key)
            }
        };
        former.into_iter().flatten().for_each(|id| sets.release(&id));
    }

    /// The tiers with policies that apply to an endpoint: to traffic to it, and from it.
    pub fn bindings(&self, id: &EndpointId) -> (Vec<plane::TierBinding>, Vec<plane::TierBinding>) {
        let policies: Vec<&Policy> =
            self.index.selectors_of(id).filter_map(|key| self.all.get(key)).collect();
        (bindings_in(Direction::Ingress, &policies), bindings_in(Direction::Egress, &policies))
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

fn bindings_in(direction: Direction, policies: &[&Policy]) -> Vec<plane::TierBinding> {
    let applies = |policy: &&&Policy| match direction {
        Direction::Ingress => policy.applies_to_ingress,
        Direction::Egress => policy.applies_to_egress,
    };
    let mut by_tier: BTreeMap<&str, Vec<PolicyPosition>> = BTreeMap::new();
    for policy in policies.iter().filter(applies) {
        by_tier.entry(&policy.tier).or_default().push(policy.position());
    }
    let mut tiers: Vec<(&str, Vec<PolicyPosition>)> = by_tier.into_iter().collect();
    let order = |name| tier(name).order.unwrap_or(f64::INFINITY);
    tiers.sort_by(|(a, _), (b, _)| order(a).total_cmp(&order(b)).then_with(|| a.cmp(b)));
    let binding = |(name, mut positions): (&str, Vec<PolicyPosition>)| {
        positions.sort();
        plane::TierBinding {
            tier: name.to_owned(),
            default_action: action(tier(name).default_action),
            policies: positions.iter().map(|position| policy_id(&position.key)).collect(),
        }
    };
    tiers.into_iter().map(binding).collect()
}

/// Whether a change concerns an endpoint of this node, and what it is there now.
pub(crate) fn local_part<'a>(change: &'a EndpointChange, node: &str) -> (bool, Option<&'a Endpoint>) {
    let is_local = |endpoint: &&Endpoint| endpoint.pod.node == node;
    let new = change.new.as_ref().filter(is_local);
    (new.is_some() || change.old.as_ref().filter(is_local).is_some(), new)
}
