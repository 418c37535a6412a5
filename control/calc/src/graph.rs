//! The calc graph, wired.
//!
//! ```text
//!                        ┌────────────── labels to inherit ──────────────┐
//!   Namespace ───────────┤                                               ▼
//!   ServiceAccount ──────┤                                            Sources ◄─── Pod, HostEndpoint,
//!   Profile ─────────────┴─► Profiles ◄── names ── local endpoints ◄──(all, with     NetworkSet,
//!                               │                        │             labels)       GlobalNetworkSet
//!                               │ rules                  │                │
//!   Kubernetes' and Calico's ─► Policies (matched with local              │ members        Routes ◄── Node, Pod, blocks
//!   policies, Tier              │  endpoints)            │                │                  ├─ Pools ◄── IPPool
//!                               │ rules     bindings ────┤                │                  │    └► Config ◄── Node,
//!                               ▼                        │                ▼                  │        │   FelixConfiguration
//!                        rule scanner ──────────────────────────────► IpSets ◄── EndpointSlice        │
//!                               │                        │                │                  │        │
//!                               ▼                        ▼                ▼                  ▼        ▼
//!                        Policy, Profile   Endpoint, HostEndpoint   IpSet(Delta)   Tunnel, Route  NodeConfig
//!                               └────────────────────────┴────────────────┴──────────────────┴────────┘
//!                                          flush: in an order that is safe
//! ```
//!
//! Every vertex keeps what it needs of its inputs, compares what comes with that, and passes on differences only. What
//! goes out is compared once more with what has been said ([`crate::delta`]). Inside, everything is numbered; the numbers
//! depend on the order in which things came, so they order nothing that goes out: names do.

mod messages;

use std::collections::BTreeMap;
use std::sync::Arc;

use caracal_model::cidr::Cidr;
use caracal_model::convert::{
    Block, ConvertedPolicy, DroppedRule, HostEndpointInfo, Locality, MonitoringSettings, NetworkSetInfo,
    PodEndpoint, Pool, block_affinity, calico_network_policy, cluster_network_policy, endpoint_slice,
    global_network_policy, global_network_set, host_endpoint, ip_pool, ipam_block, namespace_profile,
    network_policy, network_set, node_info, node_labels, pod_endpoint, profile, service,
    service_account_profile, service_slice, staged_global_network_policy, staged_kubernetes_network_policy,
    staged_network_policy, tier,
};
use caracal_model::names;
use caracal_model::object::{Kind, Object, ObjectKey};
use caracal_model::policy::{PolicyKey, PolicyKind, Profile, ServiceKey};
use caracal_plane_api as plane;
use caracal_plane_api::op;
use hashbrown::HashMap;

use crate::Update;
use crate::config::{Config, HostServices};
use crate::delta::Delta;
use crate::ip_sets::IpSets;
use crate::mtu::Mtu;
use crate::plane::{op, policy_id, prefix};
use crate::policies::{EndpointKind, Policies};
use crate::pools::Pools;
use crate::profiles::{Origin, Profiles};
use crate::routes::{BlockSource, EndpointId, Routes};
use crate::served::Served;
use crate::sources::{Draft, SourceChange, SourceId, SourceKey, Sources, qualified};

/// What one node must do, as a function of all objects. Feed it with [`apply`](Self::apply), take the difference out
/// with [`flush`](Self::flush).
#[derive(Debug)]
pub struct CalcGraph {
    node: String,
    sources: Sources,
    profiles: Profiles,
    policies: Policies,
    sets: IpSets,
    pools: Pools,
    routes: Routes,
    served: Served,
    config: Config,
    /// The endpoints of this node.
    local: HashMap<SourceId, Local>,
    /// Local endpoints, there or gone, whose message must be made again.
    dirty: BTreeMap<SourceKey, Option<SourceId>>,
    /// Whether host endpoints may have changed places.
    are_hosts_dirty: bool,
    pods: Delta<EndpointId, plane::Endpoint>,
    hosts: Delta<Arc<str>, plane::HostEndpoint>,
    dropped: Vec<(PolicyKey, DroppedRule)>,
    /// By pod: limits that it asks for and that cannot be had.
    dropped_limits: Vec<(EndpointId, DroppedRule)>,
    resolutions: u64,
}

/// An endpoint of this node.
#[derive(Debug, PartialEq)]
enum Local {
    Pod(Box<PodEndpoint>),
    Host(Box<HostEndpointInfo>),
}

impl Local {
    fn kind(&self) -> EndpointKind {
        match self {
            Self::Pod(_) => EndpointKind::Pod,
            Self::Host(_) => EndpointKind::Host,
        }
    }

    fn profiles(&self) -> &[String] {
        match self {
            Self::Pod(pod) => &pod.profiles,
            Self::Host(host) => &host.profiles,
        }
    }
}

/// How much has been computed since the graph was made: for metrics, and to show that small changes stay small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Selectors compared with sources of members, and with endpoints.
    pub comparisons: u64,
    /// Policies whose rules were scanned.
    pub scans: u64,
    /// Endpoints whose bindings were put together.
    pub resolutions: u64,
    /// Prefixes whose route was decided.
    pub decisions: u64,
    /// Services whose messages were put together.
    pub services: u64,
}

/// How many objects there are, in the cluster and for this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Nodes.
    pub nodes: usize,
    /// Pods with an address of the pod network.
    pub pods: usize,
    /// Host endpoints of all nodes.
    pub host_endpoints: usize,
    /// Policies of all kinds, staged ones too.
    pub policies: usize,
    /// Tiers.
    pub tiers: usize,
    /// Profiles.
    pub profiles: usize,
    /// Endpoints of this node, the host's too.
    pub local_endpoints: usize,
    /// Policies that apply to one of them.
    pub local_policies: usize,
    /// Sets of addresses that their rules need.
    pub local_sets: usize,
}

impl CalcGraph {
    /// The graph of the node named `node`, with no objects yet.
    pub fn new(node: impl Into<String>) -> Self {
        Self::with_host_services(node, HostServices::default())
    }

    /// The same, where somebody else may see to services for the host.
    pub fn with_host_services(node: impl Into<String>, services: HostServices) -> Self {
        let node = node.into();
        Self {
            sources: Sources::default(),
            profiles: Profiles::new(),
            policies: Policies::new(),
            sets: IpSets::default(),
            pools: Pools::default(),
            routes: Routes::new(&node),
            served: Served::new(&node),
            config: Config::new(&node, services),
            local: HashMap::new(),
            dirty: BTreeMap::new(),
            are_hosts_dirty: false,
            pods: Delta::new(),
            hosts: Delta::new(),
            dropped: Vec::new(),
            dropped_limits: Vec::new(),
            resolutions: 0,
            node,
        }
    }

    /// Takes a change in. Nothing is said of it before the next flush; an object that says what it said before, as far
    /// as we can tell the difference, costs nothing.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Upsert(object) => self.upsert(object),
            Update::Delete(key) => self.delete(&key),
        }
    }

    fn upsert(&mut self, object: Object) {
        let key = object.key();
        match object {
            Object::Namespace(namespace) => self.set_profile(Origin::Derived, namespace_profile(&namespace)),
            Object::ServiceAccount(account) => {
                self.set_profile(Origin::Derived, service_account_profile(&account));
            }
            Object::Profile(object) => self.set_profile(Origin::Written, profile(&object)),
            Object::Node(node) => {
                let info = node_info(&node);
                if info.name == self.node {
                    self.config.set_node(Some((info.clone(), node_labels(&node))));
                    self.served.set_zone(Locality::of(&node).zone);
                    self.are_hosts_dirty = true;
                }
                self.routes.set_node(&info.name.clone(), Some(info));
            }
            Object::Pod(pod) => match pod_endpoint(&pod).filter(|endpoint| !endpoint.addresses.is_empty()) {
                Some(endpoint) => self.set_pod(endpoint),
                None => self.remove_pod(&key),
            },
            Object::HostEndpoint(object) => self.set_host_endpoint(host_endpoint(&object)),
            Object::NetworkSet(object) => self.set_network_set(network_set(&object)),
            Object::GlobalNetworkSet(object) => self.set_network_set(global_network_set(&object)),
            Object::EndpointSlice(slice) => {
                let endpoints = endpoint_slice(&slice);
                let of_service = service_slice(&slice);
                self.served.set_slice(&endpoints.namespace, &endpoints.name, Some(of_service));
                self.sets.set_slice(&endpoints.namespace, &endpoints.name, Some(&endpoints));
            }
            Object::Tier(object) => {
                let affected = self.policies.set_tier(&key.name, Some(tier(&object)));
                self.mark(affected);
            }
            Object::NetworkPolicy(policy) => self.set_policy(&key, Some(network_policy(&policy))),
            Object::ClusterNetworkPolicy(policy) => self.set_policy(&key, cluster_network_policy(&policy)),
            Object::CalicoNetworkPolicy(policy) => {
                self.set_policy(&key, Some(calico_network_policy(&policy)));
            }
            Object::GlobalNetworkPolicy(policy) => {
                self.set_policy(&key, Some(global_network_policy(&policy)));
            }
            Object::StagedNetworkPolicy(policy) => self.set_policy(&key, staged_network_policy(&policy)),
            Object::StagedGlobalNetworkPolicy(policy) => {
                self.set_policy(&key, staged_global_network_policy(&policy));
            }
            Object::StagedKubernetesNetworkPolicy(policy) => {
                self.set_policy(&key, staged_kubernetes_network_policy(&policy));
            }
            Object::FelixConfiguration(object) => self.config.set_configuration(&key.name, Some(*object)),
            Object::IPPool(object) => self.set_pool(&key.name, ip_pool(&object)),
            Object::BlockAffinity(object) => self.set_block(&key, block_affinity(&object)),
            Object::IPAMBlock(object) => self.set_block(&key, ipam_block(&object)),
            // What a service's rules match is in its slices.
            Object::Service(object) => {
                self.served.set_service(service_key(&key), service(&object));
            }
            // Giving addresses and BGP are not this graph's.
            Object::IPReservation(_)
            | Object::IPAMConfiguration(_)
            | Object::IPAMHandle(_)
            | Object::BGPConfiguration(_)
            | Object::BGPPeer(_)
            | Object::BGPFilter(_)
            | Object::CalicoNodeStatus(_)
            | Object::ClusterInformation(_)
            | Object::KubeControllersConfiguration(_) => {}
        }
    }

    fn delete(&mut self, key: &ObjectKey) {
        let namespace = key.namespace.as_deref();
        match key.kind {
            Kind::Namespace => self.remove_profile(&names::namespace_profile(&key.name), Origin::Derived),
            Kind::ServiceAccount => {
                let name = names::service_account_profile(namespace.unwrap_or_default(), &key.name);
                self.remove_profile(&name, Origin::Derived);
            }
            Kind::Profile => self.remove_profile(&key.name, Origin::Written),
            Kind::Node => {
                if key.name == self.node {
                    self.config.set_node(None);
                    self.served.set_zone(None);
                    self.are_hosts_dirty = true;
                }
                self.routes.set_node(&key.name, None);
            }
            Kind::Pod => self.remove_pod(key),
            Kind::HostEndpoint => self.remove_source(&SourceKey::HostEndpoint(key.name.as_str().into())),
            Kind::NetworkSet => self.remove_source(&SourceKey::NetworkSet(qualified(namespace, &key.name))),
            Kind::GlobalNetworkSet => {
                self.remove_source(&SourceKey::GlobalNetworkSet(key.name.as_str().into()));
            }
            Kind::EndpointSlice => {
                self.sets.set_slice(namespace.unwrap_or_default(), &key.name, None);
                self.served.set_slice(namespace.unwrap_or_default(), &key.name, None);
            }
            Kind::Service => self.served.set_service(service_key(key), None),
            Kind::Tier => {
                let affected = self.policies.set_tier(&key.name, None);
                self.mark(affected);
            }
            Kind::FelixConfiguration => self.config.set_configuration(&key.name, None),
            Kind::IPPool => self.set_pool(&key.name, None),
            Kind::BlockAffinity | Kind::IPAMBlock => self.set_block(key, None),
            _ => self.set_policy(key, None),
        }
    }

    fn set_pool(&mut self, name: &str, pool: Option<Pool>) {
        let concerned = self.pools.set(name, pool);
        if !concerned.is_empty() {
            self.config.pools_changed();
        }
        concerned.into_iter().for_each(|cidr| self.routes.pools_changed(cidr));
    }

    fn set_block(&mut self, key: &ObjectKey, block: Option<Block>) {
        let name = key.name.as_str().into();
        let source = match key.kind {
            Kind::IPAMBlock => BlockSource::Ipam(name),
            _ => BlockSource::Affinity(name),
        };
        self.routes.set_block(source, block);
    }

    /// The policy is there, like this, or is gone, or is none.
    fn set_policy(&mut self, key: &ObjectKey, converted: Option<ConvertedPolicy>) {
        let Some(kind) = policy_kind(key.kind) else { return };
        let key = PolicyKey { kind, namespace: key.namespace.clone(), name: key.name.clone() };
        let policy = converted.map(|converted| {
            self.dropped.extend(converted.dropped.into_iter().map(|dropped| (key.clone(), dropped)));
            converted.policy
        });
        let affected = self.policies.set(&key, policy, &mut self.sets, &mut self.sources);
        self.mark(affected);
    }

    fn set_profile(&mut self, origin: Origin, profile: Profile) {
        let name = profile.name.clone();
        let heirs = self.profiles.set(&name, origin, Some(profile), &mut self.sets, &mut self.sources);
        self.relabel(heirs);
    }

    fn remove_profile(&mut self, name: &str, origin: Origin) {
        let heirs = self.profiles.set(name, origin, None, &mut self.sets, &mut self.sources);
        self.relabel(heirs);
    }

    fn relabel(&mut self, sources: Vec<SourceId>) {
        for id in sources {
            self.sets.source_changed(&SourceChange { id, former: None }, &self.sources);
            if let Some(local) = self.local.get(&id) {
                let kind = Some(local.kind());
                if self.policies.endpoint_changed(id, kind, &mut self.sets, &mut self.sources) {
                    self.mark([id]);
                }
            }
        }
    }

    fn set_pod(&mut self, pod: PodEndpoint) {
        let id = qualified(Some(&pod.namespace), &pod.name);
        self.routes.set_endpoint(&id, Some((&pod.node, &pod.addresses)));
        let draft = Draft {
            key: SourceKey::Pod(id),
            labels: &pod.labels,
            profiles: &pod.profiles,
            nets: pod.addresses.iter().copied().map(Cidr::host).collect(),
            ports: &pod.ports,
        };
        let key = draft.key.clone();
        let change = self.sources.set(draft);
        let local = (pod.node == self.node).then(|| Local::Pod(Box::new(pod)));
        self.source_changed(key, change, local);
    }

    fn remove_pod(&mut self, key: &ObjectKey) {
        let id = qualified(key.namespace.as_deref(), &key.name);
        self.routes.set_endpoint(&id, None);
        self.remove_source(&SourceKey::Pod(id));
    }

    fn set_host_endpoint(&mut self, host: HostEndpointInfo) {
        let draft = Draft {
            key: SourceKey::HostEndpoint(host.name.as_str().into()),
            labels: &host.labels,
            profiles: &host.profiles,
            nets: host.expected_ips.iter().copied().map(Cidr::host).collect(),
            ports: &host.ports,
        };
        let key = draft.key.clone();
        let change = self.sources.set(draft);
        let local = (host.node == self.node).then(|| Local::Host(Box::new(host)));
        self.source_changed(key, change, local);
    }

    fn set_network_set(&mut self, set: NetworkSetInfo) {
        let key = match &set.namespace {
            Some(namespace) => SourceKey::NetworkSet(qualified(Some(namespace), &set.name)),
            None => SourceKey::GlobalNetworkSet(set.name.as_str().into()),
        };
        let draft = Draft {
            key: key.clone(),
            labels: &set.labels,
            profiles: &set.profiles,
            nets: set.nets,
            ports: &[],
        };
        let change = self.sources.set(draft);
        self.source_changed(key, change, None);
    }

    fn remove_source(&mut self, key: &SourceKey) {
        let change = self.sources.remove(key);
        self.source_changed(key.clone(), change, None);
    }

    /// A source is as `change` says, and is this endpoint here, or none of this node.
    fn source_changed(&mut self, key: SourceKey, change: Option<SourceChange>, local: Option<Local>) {
        let id = match (&change, self.sources.id_of(&key)) {
            (Some(change), _) => change.id,
            (None, Some(id)) => id,
            (None, None) => return,
        };
        if let Some(change) = &change {
            self.sets.source_changed(change, &self.sources);
        }
        let was_local = self.local.remove(&id);
        if was_local.is_none() && local.is_none() {
            return;
        }
        let before = was_local.as_ref().map_or(&[][..], Local::profiles);
        let now = local.as_ref().map_or(&[][..], Local::profiles);
        self.profiles.endpoint_changed(id, before, now, &mut self.sets, &mut self.sources);
        let kind = local.as_ref().map(Local::kind);
        let is_rebound = self.policies.endpoint_changed(id, kind, &mut self.sets, &mut self.sources);
        if let (Some(Local::Pod(pod)), SourceKey::Pod(name)) = (&local, &key) {
            let is_known =
                |was: &Local| matches!(was, Local::Pod(was) if was.dropped_limits == pod.dropped_limits);
            if !was_local.as_ref().is_some_and(is_known) {
                let dropped = pod.dropped_limits.iter().cloned();
                self.dropped_limits.extend(dropped.map(|dropped| (name.clone(), dropped)));
            }
        }
        if is_rebound || was_local != local {
            let is_host = |local: &Option<Local>| matches!(local, Some(Local::Host(_)));
            self.are_hosts_dirty |= is_host(&was_local) || is_host(&local);
            self.dirty.insert(key, local.is_some().then_some(id));
        }
        if let Some(local) = local {
            self.local.insert(id, local);
        }
    }

    /// The messages of these local endpoints must be made again.
    fn mark(&mut self, endpoints: impl IntoIterator<Item = SourceId>) {
        for id in endpoints {
            if let Some(source) = self.sources.get(id) {
                self.dirty.insert(source.key.clone(), Some(id));
            }
        }
    }

    /// What has changed since the last flush, in an order in which no operation refers to what is not there: what is
    /// referred to comes first, and goes last. Of the endpoints those that go come before those that come, because an
    /// address or a veth may pass from one to the other.
    pub fn flush(&mut self) -> Vec<plane::Op> {
        self.refresh_settings();
        self.resolve();
        let config = self.config.flush(&self.pools);
        let sets = self.sets.flush(&mut self.sources);
        let policies = self.policies.flush();
        let profiles = self.profiles.flush();
        let routes = self.routes.flush(&self.pools);
        let services = self.served.flush();
        let (pods, hosts) = (self.pods.flush(), self.hosts.flush());
        self.sources.symbols.sweep();

        let mut ops = Vec::new();
        ops.extend(config.map(op::Op::NodeConfig));
        ops.extend(sets.whole.into_iter().map(op::Op::IpSet));
        ops.extend(sets.deltas.into_iter().map(op::Op::IpSetDelta));
        ops.extend(policies.upserts.into_iter().map(op::Op::Policy));
        ops.extend(profiles.upserts.into_iter().map(op::Op::Profile));
        ops.extend(routes.tunnels.upserts.into_iter().map(op::Op::Tunnel));
        ops.extend(routes.routes.upserts.into_iter().map(op::Op::Route));
        ops.extend(services.removals.into_iter().map(op::Op::ServiceRemove));
        ops.extend(services.upserts.into_iter().map(op::Op::Service));
        ops.extend(pods.removals.into_iter().map(|id| op::Op::EndpointRemove(id.to_string())));
        ops.extend(hosts.removals.into_iter().map(|id| op::Op::HostEndpointRemove(id.to_string())));
        ops.extend(pods.upserts.into_iter().map(op::Op::Endpoint));
        ops.extend(hosts.upserts.into_iter().map(op::Op::HostEndpoint));
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
        ops.extend(self.config.said().cloned().map(op::Op::NodeConfig));
        ops.extend(self.sets.said(&self.sources).into_iter().map(op::Op::IpSet));
        ops.extend(self.policies.said().cloned().map(op::Op::Policy));
        ops.extend(self.profiles.said().cloned().map(op::Op::Profile));
        ops.extend(routes.tunnels.into_iter().cloned().map(op::Op::Tunnel));
        ops.extend(routes.routes.into_iter().cloned().map(op::Op::Route));
        ops.extend(self.served.said().cloned().map(op::Op::Service));
        ops.extend(self.pods.said().cloned().map(op::Op::Endpoint));
        ops.extend(self.hosts.said().cloned().map(op::Op::HostEndpoint));
        ops.into_iter().map(op).collect()
    }

    /// What a set of a rule is, in users' words: `selector app == "web"`, `nets 10.0.0.0/8`. `None`: there is no such set.
    pub fn describe_set(&self, id: &str) -> Option<String> {
        self.sets.describe(id)
    }

    /// The rules that could not be converted since this was last asked: for the log.
    pub fn take_dropped_rules(&mut self) -> Vec<(PolicyKey, DroppedRule)> {
        std::mem::take(&mut self.dropped)
    }

    /// The limits that pods of this node ask for and that cannot be had, since this was last asked: for the log.
    pub fn take_dropped_limits(&mut self) -> Vec<(EndpointId, DroppedRule)> {
        std::mem::take(&mut self.dropped_limits)
    }

    /// How much has been computed.
    pub fn work(&self) -> Work {
        Work {
            comparisons: self.sets.comparisons() + self.policies.comparisons(),
            scans: self.policies.scans,
            resolutions: self.resolutions,
            decisions: self.routes.decisions,
            services: self.served.looks,
        }
    }

    /// How many objects there are; looks at each source, so not to be asked at every change.
    pub fn census(&self) -> Census {
        let (pods, host_endpoints) = self.sources.count_endpoints();
        let (policies, tiers) = self.policies.count();
        Census {
            nodes: self.routes.count_nodes(),
            pods,
            host_endpoints,
            policies,
            tiers,
            profiles: self.profiles.count(),
            local_endpoints: self.local.len(),
            local_policies: self.policies.said().count(),
            local_sets: self.sets.count(),
        }
    }

    /// How this node's agent is watched, as far as has been flushed.
    pub fn monitoring(&self) -> &MonitoringSettings {
        &self.config.settings().monitoring
    }

    /// How big this node's pods' packets may be, as far as has been flushed.
    pub fn mtu(&self) -> Mtu {
        self.config.mtu(&self.pools)
    }
}

fn service_key(key: &ObjectKey) -> ServiceKey {
    ServiceKey { namespace: key.namespace.clone().unwrap_or_default(), name: key.name.clone() }
}

fn policy_kind(kind: Kind) -> Option<PolicyKind> {
    match kind {
        Kind::NetworkPolicy => Some(PolicyKind::KubernetesNetworkPolicy),
        Kind::ClusterNetworkPolicy => Some(PolicyKind::ClusterNetworkPolicy),
        Kind::CalicoNetworkPolicy => Some(PolicyKind::NetworkPolicy),
        Kind::GlobalNetworkPolicy => Some(PolicyKind::GlobalNetworkPolicy),
        Kind::StagedNetworkPolicy => Some(PolicyKind::StagedNetworkPolicy),
        Kind::StagedGlobalNetworkPolicy => Some(PolicyKind::StagedGlobalNetworkPolicy),
        Kind::StagedKubernetesNetworkPolicy => Some(PolicyKind::StagedKubernetesNetworkPolicy),
        _ => None,
    }
}
