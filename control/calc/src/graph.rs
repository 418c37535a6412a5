//! The calc graph, wired.
//!
//! ```text
//!                     ┌────────────────────── labels to inherit ──────────────────┐
//!   Namespace ────────┤                                                           ▼
//!   ServiceAccount ───┴─► Profiles ◄── names ── local endpoints ◄────────── Endpoints ◄─── Pod
//!                            │                        │                   (all, with labels)
//!                            │ rules                  │                      │       │
//!   NetworkPolicy ──► Policies (matched with local    │                      │       │
//!                            │  endpoints)            │                      │       │
//!                            │ rules     bindings ────┤                      │       │
//!                            ▼                        │                      │       ▼
//!                     rule scanner ──► IpSets ◄───────┼── members ───────────┘    Routes ◄── Node
//!                            │            │           │                              │
//!                            ▼            ▼           ▼                              ▼
//!                      Policy, Profile  IpSet(Delta)  Endpoint           NodeConfig, Tunnel, Route
//!                            └────────────┴───────────┴──────────────────────────────┘
//!                                          flush: in an order that is safe
//! ```
//!
//! Every vertex keeps what it needs of its inputs, compares what comes with that, and passes on differences only. What
//! goes out is compared once more with what has been said ([`crate::delta`]).

use std::collections::BTreeSet;

use caracal_model::convert::{
    DroppedRule, namespace_profile, network_policy, node_info, pod_endpoint, service_account_profile,
};
use caracal_model::names;
use caracal_model::object::{Kind, Object, ObjectKey};
use caracal_model::policy::{PolicyKey, PolicyKind, Profile};
use caracal_plane_api as plane;
use caracal_plane_api::op;

use crate::Update;
use crate::delta::Delta;
use crate::endpoints::{EndpointChange, EndpointId, Endpoints};
use crate::ip_sets::IpSets;
use crate::plane::{address, op, policy_id, prefix};
use crate::policies::{Policies, local_part};
use crate::profiles::Profiles;
use crate::routes::Routes;

/// What one node must do, as a function of all objects. Feed it with [`apply`](Self::apply), take the difference out
/// with [`flush`](Self::flush).
#[derive(Debug)]
pub struct CalcGraph {
    node: String,
    endpoints: Endpoints,
    profiles: Profiles,
    policies: Policies,
    sets: IpSets,
    routes: Routes,
    /// Local endpoints whose message must be made again.
    dirty: BTreeSet<EndpointId>,
    messages: Delta<EndpointId, plane::Endpoint>,
    dropped: Vec<(PolicyKey, DroppedRule)>,
    resolutions: u64,
}

/// How much has been computed since the graph was made: for metrics, and to show that small changes stay small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Selectors compared with endpoints.
    pub comparisons: u64,
    /// Policies whose rules were scanned.
    pub scans: u64,
    /// Endpoints whose bindings were put together.
    pub resolutions: u64,
    /// Prefixes whose route was decided.
    pub decisions: u64,
}

impl CalcGraph {
    /// The graph of the node named `node`, with no objects yet.
    pub fn new(node: impl Into<String>) -> Self {
        let node = node.into();
        Self {
            endpoints: Endpoints::default(),
            profiles: Profiles::new(),
            policies: Policies::new(),
            sets: IpSets::new(),
            routes: Routes::new(&node),
            dirty: BTreeSet::new(),
            messages: Delta::new(),
            dropped: Vec::new(),
            resolutions: 0,
            node,
        }
    }

    /// Takes a change in. Nothing is said of it before the next flush; an object that says what it said before, as far
    /// as we can tell the difference, costs nothing.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Upsert(Object::Namespace(namespace)) => {
                let profile = namespace_profile(&namespace);
                self.set_profile(&profile.name.clone(), Some(profile));
            }
            Update::Upsert(Object::ServiceAccount(account)) => {
                let profile = service_account_profile(&account);
                self.set_profile(&profile.name.clone(), Some(profile));
            }
            Update::Upsert(Object::Node(node)) => {
                let info = node_info(&node);
                self.routes.set_node(&info.name.clone(), Some(info), &self.endpoints.all);
            }
            Update::Upsert(Object::Pod(pod)) => {
                let change = match pod_endpoint(&pod) {
                    Some(endpoint) => self.endpoints.set(endpoint, &self.profiles.all),
                    None => self.endpoints.remove(&endpoint_id(&Object::Pod(pod).key())),
                };
                change.into_iter().for_each(|change| self.endpoint_changed(&change));
            }
            Update::Upsert(Object::NetworkPolicy(policy)) => {
                let converted = network_policy(&policy);
                let key = converted.policy.key.clone();
                self.dropped.extend(converted.dropped.into_iter().map(|dropped| (key.clone(), dropped)));
                let affected =
                    self.policies.set(&key, Some(converted.policy), &mut self.sets, &self.endpoints.all);
                self.dirty.extend(affected);
            }
            Update::Upsert(_) => {}
            Update::Delete(key) => self.delete(&key),
        }
    }

    fn delete(&mut self, key: &ObjectKey) {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        match key.kind {
            Kind::Namespace => self.set_profile(&names::namespace_profile(&key.name), None),
            Kind::ServiceAccount => {
                self.set_profile(&names::service_account_profile(namespace, &key.name), None);
            }
            Kind::Node => self.routes.set_node(&key.name, None, &self.endpoints.all),
            Kind::Pod => {
                let change = self.endpoints.remove(&endpoint_id(key));
                change.into_iter().for_each(|change| self.endpoint_changed(&change));
            }
            Kind::NetworkPolicy => {
                let key = PolicyKey {
                    kind: PolicyKind::KubernetesNetworkPolicy,
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                };
                let affected = self.policies.set(&key, None, &mut self.sets, &self.endpoints.all);
                self.dirty.extend(affected);
            }
            _ => {}
        }
    }

    fn set_profile(&mut self, name: &str, profile: Option<Profile>) {
        if self.profiles.set(name, profile, &mut self.sets, &self.endpoints.all) {
            for change in self.endpoints.reinherit(name, &self.profiles.all) {
                self.endpoint_changed(&change);
            }
        }
    }

    fn endpoint_changed(&mut self, change: &EndpointChange) {
        self.sets.endpoint_changed(&change.id, change.old.as_ref(), change.new.as_ref());
        self.routes.endpoint_changed(change);
        let (concerns_this_node, local) = local_part(change, &self.node);
        if concerns_this_node {
            let was_local = change.old.as_ref().filter(|old| old.pod.node == self.node);
            let before = was_local.map(|old| old.pod.profiles.as_slice()).unwrap_or_default();
            let now = local.map(|new| new.pod.profiles.as_slice()).unwrap_or_default();
            let all = &self.endpoints.all;
            self.profiles.endpoint_changed(&change.id, before, now, &mut self.sets, all);
            let bindings_changed = self.policies.endpoint_changed(&change.id, local, &mut self.sets, all);
            let pod =
                |endpoint: Option<&crate::endpoints::Endpoint>| endpoint.map(|endpoint| endpoint.pod.clone());
            if bindings_changed || pod(was_local) != pod(local) {
                self.dirty.insert(change.id.clone());
            }
        }
    }

    /// What has changed since the last flush, in an order in which no operation refers to what is not there: what is
    /// referred to comes first, and goes last. Of the endpoints those that go come before those that come, because an
    /// address or a veth may pass from one to the other.
    pub fn flush(&mut self) -> Vec<plane::Op> {
        for id in std::mem::take(&mut self.dirty) {
            let message = self.resolve(&id);
            self.messages.want(id, message);
        }
        let sets = self.sets.flush();
        let policies = self.policies.flush();
        let profiles = self.profiles.flush();
        let routes = self.routes.flush();
        let endpoints = self.messages.flush();

        let mut ops = Vec::new();
        ops.extend(routes.config.map(op::Op::NodeConfig));
        ops.extend(sets.whole.into_iter().map(op::Op::IpSet));
        ops.extend(sets.deltas.into_iter().map(op::Op::IpSetDelta));
        ops.extend(policies.upserts.into_iter().map(op::Op::Policy));
        ops.extend(profiles.upserts.into_iter().map(op::Op::Profile));
        ops.extend(routes.tunnels.upserts.into_iter().map(op::Op::Tunnel));
        ops.extend(routes.routes.upserts.into_iter().map(op::Op::Route));
        ops.extend(endpoints.removals.into_iter().map(|id| op::Op::EndpointRemove(id.to_string())));
        ops.extend(endpoints.upserts.into_iter().map(op::Op::Endpoint));
        ops.extend(routes.routes.removals.into_iter().map(|cidr| op::Op::RouteRemove(prefix(cidr))));
        ops.extend(routes.tunnels.removals.into_iter().map(op::Op::TunnelRemove));
        ops.extend(profiles.removals.into_iter().map(op::Op::ProfileRemove));
        ops.extend(policies.removals.iter().map(|key| op::Op::PolicyRemove(policy_id(key))));
        ops.extend(sets.removals.into_iter().map(op::Op::IpSetRemove));
        ops.into_iter().map(op).collect()
    }

    /// Everything that has been flushed so far, for a fastpath that knows nothing yet.
    pub fn state(&self) -> Vec<plane::Op> {
        let routes = self.routes.said();
        let mut ops = Vec::new();
        ops.extend(routes.config.cloned().map(op::Op::NodeConfig));
        ops.extend(self.sets.said().map(op::Op::IpSet));
        ops.extend(self.policies.said().cloned().map(op::Op::Policy));
        ops.extend(self.profiles.said().cloned().map(op::Op::Profile));
        ops.extend(routes.tunnels.into_iter().cloned().map(op::Op::Tunnel));
        ops.extend(routes.routes.into_iter().cloned().map(op::Op::Route));
        ops.extend(self.messages.said().cloned().map(op::Op::Endpoint));
        ops.into_iter().map(op).collect()
    }

    /// The rules that could not be converted since this was last asked: for the log.
    pub fn take_dropped_rules(&mut self) -> Vec<(PolicyKey, DroppedRule)> {
        std::mem::take(&mut self.dropped)
    }

    /// How much has been computed.
    pub fn work(&self) -> Work {
        Work {
            comparisons: self.sets.comparisons() + self.policies.comparisons(),
            scans: self.policies.scans,
            resolutions: self.resolutions,
            decisions: self.routes.decisions,
        }
    }

    /// What the fastpath must know of a local endpoint; `None` when it is not, or no longer, here.
    fn resolve(&mut self, id: &EndpointId) -> Option<plane::Endpoint> {
        self.resolutions += 1;
        let endpoint = self.endpoints.all.get(id).filter(|endpoint| endpoint.pod.node == self.node)?;
        let (ingress, egress) = self.policies.bindings(id);
        Some(plane::Endpoint {
            id: id.to_string(),
            interface: endpoint.pod.interface.clone(),
            addresses: endpoint.pod.addresses.iter().copied().map(address).collect(),
            ingress,
            egress,
            profiles: endpoint.pod.profiles.clone(),
            ..plane::Endpoint::default()
        })
    }
}

fn endpoint_id(key: &ObjectKey) -> EndpointId {
    format!("{}/{}", key.namespace.as_deref().unwrap_or("default"), key.name).into()
}
