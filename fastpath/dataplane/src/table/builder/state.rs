//! What the control plane has stated: things by name, what refers to what, and transactions over them.
//!
//! A transaction is staged beside the state, its references are checked against what would be, and only then it is
//! committed: so it is applied whole or not at all. A resynchronisation remembers what has been named since its
//! beginning; the transaction that ends it also removes all else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;
use rustc_hash::FxHashSet;

use super::error::{ApplyError, Malformed};
use super::parse::{
    endpoint_from_plane, host_endpoint_from_plane, key_of, members, node_from_plane, service_from_plane,
    target_from_plane, tunnel_from_plane,
};
use crate::table::endpoint::{Addresses, Limits, PodPort};
use crate::table::fib::Encapsulation;
use crate::table::host::Hook;
use crate::table::node::NodeConfig;
use crate::table::policy::{Member, Owner, PolicyBuilder, RuleList, RuleOwner, SetId};
use crate::table::prefix::Prefix;
use crate::table::service::{Backend, FrontendKey};
use crate::table::tunnel::Vtep;

/// Names a thing. The order is that in which changes are taken on: what is referred to comes before what refers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Node,
    Set(Arc<str>),
    Policy(RuleOwner),
    Profile(Arc<str>),
    Tunnel(Arc<str>),
    Route(Prefix),
    Endpoint(Arc<str>),
    HostEndpoint(Arc<str>),
    Service(Arc<str>),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Node => f.write_str("the node's configuration"),
            Key::Set(id) => write!(f, "IP set {id}"),
            Key::Policy(id) => write!(f, "policy {id}"),
            Key::Profile(name) => write!(f, "profile {name}"),
            Key::Tunnel(node) => write!(f, "tunnel to {node}"),
            Key::Route(prefix) => write!(f, "route {prefix}"),
            Key::Endpoint(id) => write!(f, "endpoint {id}"),
            Key::HostEndpoint(id) => write!(f, "host endpoint {id}"),
            Key::Service(id) => write!(f, "service {id}"),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Thing {
    Node(Arc<NodeConfig>),
    /// Its members are kept apart: they change by deltas.
    Set(SetId),
    Rules(Arc<Rules>),
    Tunnel(Arc<TunnelSpec>),
    Route(Target),
    Endpoint(Arc<EndpointSpec>),
    HostEndpoint(Arc<HostEndpointSpec>),
    Service(Arc<ServiceSpec>),
}

/// A policy's or profile's rules.
#[derive(Debug)]
pub(super) struct Rules {
    pub ingress: Arc<RuleList>,
    pub egress: Arc<RuleList>,
    sets: Vec<Arc<str>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct TunnelSpec {
    pub address_v4: Option<Ipv4Addr>,
    pub vtep_v4: Option<Vtep<Ipv4Addr>>,
    pub address_v6: Option<Ipv6Addr>,
    pub vtep_v6: Option<Vtep<Ipv6Addr>>,
    pub ipip_address: Option<Ipv4Addr>,
}

impl TunnelSpec {
    /// The node's addresses on the fabric.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address_v4.map(IpAddr::V4).into_iter().chain(self.address_v6.map(IpAddr::V6))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Remote { node: Arc<str>, encapsulation: Encapsulation },
    LocalBlock,
    LocalHost,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndpointSpec {
    pub interface: Arc<str>,
    pub port: PodPort,
    pub addresses: Addresses,
    pub ingress: Vec<TierSpec>,
    pub egress: Vec<TierSpec>,
    pub profiles: Vec<Arc<str>>,
    pub allowed_sources: Arc<[Prefix]>,
    pub limits_in: Limits,
    pub limits_out: Limits,
    /// None: the same as is enforced.
    pub staged_ingress: Option<Vec<TierSpec>>,
    pub staged_egress: Option<Vec<TierSpec>>,
}

/// What is stated of an interface of the host. Hooks are by [`Hook`], each with its ingress and egress tiers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostEndpointSpec {
    pub interface: Arc<str>,
    pub addresses: Box<[IpAddr]>,
    pub hooks: [HookSpec; Hook::COUNT],
    pub profiles: Vec<Arc<str>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HookSpec {
    pub ingress: Vec<TierSpec>,
    pub egress: Vec<TierSpec>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct TierSpec {
    pub name: Arc<str>,
    pub default_deny: bool,
    pub policies: Vec<RuleOwner>,
}

/// What is stated of a service's port. Backends are sorted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServiceSpec {
    pub protocol: u8,
    pub frontends: Vec<FrontendSpec>,
    pub cluster: Vec<Backend>,
    pub local: Vec<Backend>,
    pub draining: Vec<Backend>,
    pub internal_local: bool,
    pub external_local: bool,
    pub affinity_ms: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrontendSpec {
    /// None: a node port.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub external: bool,
    pub sources: Arc<[Prefix]>,
}

impl FrontendSpec {
    pub fn key(&self, protocol: u8) -> FrontendKey {
        FrontendKey { address: self.address, protocol, port: self.port }
    }
}

impl Thing {
    fn references(&self) -> Vec<Key> {
        match self {
            Thing::Node(_) | Thing::Set(_) | Thing::Tunnel(_) | Thing::Service(_) => Vec::new(),
            Thing::Rules(rules) => rules.sets.iter().cloned().map(Key::Set).collect(),
            Thing::Route(Target::Remote { node, .. }) => vec![Key::Tunnel(Arc::clone(node))],
            Thing::Route(_) => Vec::new(),
            Thing::Endpoint(endpoint) => {
                let staged =
                    [&endpoint.staged_ingress, &endpoint.staged_egress].into_iter().flatten().flatten();
                let tiers = endpoint.ingress.iter().chain(&endpoint.egress).chain(staged);
                judged_by(tiers, &endpoint.profiles)
            }
            Thing::HostEndpoint(host) => {
                let tiers = host.hooks.iter().flat_map(|hook| hook.ingress.iter().chain(&hook.egress));
                judged_by(tiers, &host.profiles)
            }
        }
    }

    fn is_same(&self, other: &Thing) -> bool {
        match (self, other) {
            (Thing::Node(a), Thing::Node(b)) => a == b,
            (Thing::Set(a), Thing::Set(b)) => a == b,
            (Thing::Rules(a), Thing::Rules(b)) => {
                Arc::ptr_eq(&a.ingress, &b.ingress) && Arc::ptr_eq(&a.egress, &b.egress)
            }
            (Thing::Tunnel(a), Thing::Tunnel(b)) => a == b,
            (Thing::Route(a), Thing::Route(b)) => a == b,
            (Thing::Endpoint(a), Thing::Endpoint(b)) => a == b,
            (Thing::HostEndpoint(a), Thing::HostEndpoint(b)) => a == b,
            (Thing::Service(a), Thing::Service(b)) => a == b,
            _ => false,
        }
    }
}

fn judged_by<'a>(tiers: impl Iterator<Item = &'a TierSpec>, profiles: &[Arc<str>]) -> Vec<Key> {
    let policies: BTreeSet<&RuleOwner> = tiers.flat_map(|tier| &tier.policies).collect();
    let policies = policies.into_iter().cloned().map(Key::Policy);
    policies.chain(profiles.iter().cloned().map(Key::Profile)).collect()
}

/// The state in force.
#[derive(Debug, Default)]
pub(super) struct State {
    things: HashMap<Key, Thing>,
    /// What refers to a thing.
    users: HashMap<Key, BTreeSet<Key>>,
    members: HashMap<SetId, FxHashSet<Member>>,
    /// While resynchronising: what has been named.
    named: Option<HashSet<Key>>,
    in_sync: bool,
}

/// A thing that has changed; None: is gone.
pub(super) type Change = (Key, Option<Thing>);

/// A transaction being checked.
#[derive(Default)]
struct Staged {
    things: BTreeMap<Key, Option<Thing>>,
    members: HashMap<Arc<str>, StagedMembers>,
    named: HashSet<Key>,
}

enum StagedMembers {
    Whole(FxHashSet<Member>),
    /// Members, and whether they join.
    Delta(Vec<(Member, bool)>),
}

impl State {
    pub fn begin_resync(&mut self) {
        self.named = Some(HashSet::new());
        self.in_sync = false;
    }

    pub fn in_sync(&self) -> bool {
        self.in_sync
    }

    pub fn get(&self, key: &Key) -> Option<&Thing> {
        self.things.get(key)
    }

    /// What refers to `key`.
    pub fn users(&self, key: &Key) -> impl Iterator<Item = &Key> {
        self.users.get(key).into_iter().flatten()
    }

    /// Applies `transaction`, or nothing of it. Members go into `policy` at once; the other changes are given back, what
    /// is referred to before what refers.
    pub fn apply(
        &mut self,
        transaction: &plane::Transaction,
        policy: &mut PolicyBuilder,
    ) -> Result<Vec<Change>, ApplyError> {
        let mut staged = Staged::default();
        for (operation, op) in transaction.ops.iter().enumerate() {
            let Some(op) = &op.op else { return Err(ApplyError::EmptyOperation { operation }) };
            self.stage(op, &mut staged, policy, operation)?;
        }
        if transaction.in_sync
            && let Some(named) = &self.named
        {
            let unnamed =
                self.things.keys().filter(|key| !named.contains(key) && !staged.named.contains(key));
            for key in unnamed.cloned().collect::<Vec<_>>() {
                staged.things.insert(key, None);
            }
        }
        self.check_references(&staged)?;
        let changes = self.commit(staged, policy);
        if transaction.in_sync {
            self.named = None;
            self.in_sync = true;
        }
        Ok(changes)
    }

    fn stage(
        &self,
        op: &Op,
        staged: &mut Staged,
        policy: &mut PolicyBuilder,
        operation: usize,
    ) -> Result<(), ApplyError> {
        let key = key_of(op).map_err(|reason| ApplyError::Malformed {
            operation,
            thing: "an operation".into(),
            reason,
        })?;
        staged.named.insert(key.clone());
        let malformed = |reason| ApplyError::Malformed { operation, thing: key.to_string(), reason };
        let thing = match op {
            Op::NodeConfig(config) => {
                Some(Thing::Node(Arc::new(node_from_plane(config).map_err(malformed)?)))
            }
            Op::IpSet(set) => {
                let members: FxHashSet<Member> =
                    members(&set.members, set.hosts.as_ref()).map_err(malformed)?.collect();
                staged.members.insert(set.id.as_str().into(), StagedMembers::Whole(members));
                Some(Thing::Set(policy.set(&set.id)))
            }
            Op::IpSetDelta(delta) => {
                if !self.will_exist(&key, staged) {
                    return Err(ApplyError::Missing {
                        user: format!("operation {operation}"),
                        missing: key.to_string(),
                    });
                }
                let add = members(&delta.add, delta.add_hosts.as_ref());
                let add = add.map_err(malformed)?.map(|member| (member, true));
                let remove = members(&delta.remove, delta.remove_hosts.as_ref());
                let remove = remove.map_err(malformed)?.map(|member| (member, false));
                let changes = remove.chain(add);
                match staged
                    .members
                    .entry(delta.id.as_str().into())
                    .or_insert(StagedMembers::Delta(Vec::new()))
                {
                    StagedMembers::Delta(former) => former.extend(changes),
                    StagedMembers::Whole(members) => {
                        for (member, joins) in changes {
                            if joins {
                                members.insert(member)
                            } else {
                                members.remove(&member)
                            };
                        }
                    }
                }
                return Ok(());
            }
            Op::IpSetRemove(id) => {
                staged.members.remove(id.as_str());
                None
            }
            Op::Policy(stated) => {
                let Key::Policy(id) = &key else { return Ok(()) };
                let owner = Owner::Policy { tier: stated.tier.as_str().into(), policy: id.clone() };
                Some(self.rules(&key, &owner, &stated.ingress, &stated.egress, policy).map_err(malformed)?)
            }
            Op::Profile(stated) => {
                let owner = Owner::Profile(stated.name.as_str().into());
                Some(self.rules(&key, &owner, &stated.ingress, &stated.egress, policy).map_err(malformed)?)
            }
            Op::Endpoint(stated) => {
                Some(Thing::Endpoint(Arc::new(endpoint_from_plane(stated).map_err(malformed)?)))
            }
            Op::HostEndpoint(stated) => {
                Some(Thing::HostEndpoint(Arc::new(host_endpoint_from_plane(stated).map_err(malformed)?)))
            }
            Op::Tunnel(stated) => {
                Some(Thing::Tunnel(Arc::new(tunnel_from_plane(stated).map_err(malformed)?)))
            }
            Op::Route(stated) => Some(Thing::Route(target_from_plane(stated).map_err(malformed)?)),
            Op::Service(stated) => {
                Some(Thing::Service(Arc::new(service_from_plane(stated).map_err(malformed)?)))
            }
            Op::ServiceRemove(_)
            | Op::PolicyRemove(_)
            | Op::ProfileRemove(_)
            | Op::EndpointRemove(_)
            | Op::HostEndpointRemove(_)
            | Op::TunnelRemove(_)
            | Op::RouteRemove(_) => None,
        };
        staged.things.insert(key, thing);
        Ok(())
    }

    fn rules(
        &self,
        key: &Key,
        owner: &Owner,
        ingress: &[plane::Rule],
        egress: &[plane::Rule],
        policy: &mut PolicyBuilder,
    ) -> Result<Thing, Malformed> {
        let former = match self.things.get(key) {
            Some(Thing::Rules(former)) => Some(former),
            _ => None,
        };
        let entities =
            ingress.iter().chain(egress).flat_map(|rule| [&rule.source, &rule.destination]).flatten();
        let sets = entities
            .flat_map(|e| e.in_all.iter().chain(&e.in_none).chain(&e.named_ports).chain(&e.not_named_ports));
        let sets: BTreeSet<&str> = sets.map(String::as_str).collect();
        let sets = sets.into_iter().map(Arc::from).collect();
        let in_direction = |direction| move |(rule, reason)| Malformed::Rule { direction, rule, reason };
        let ingress = policy.rule_list(owner, ingress, former.map(|former| &former.ingress));
        let egress = policy.rule_list(owner, egress, former.map(|former| &former.egress));
        Ok(Thing::Rules(Arc::new(Rules {
            ingress: ingress.map_err(in_direction("ingress"))?,
            egress: egress.map_err(in_direction("egress"))?,
            sets,
        })))
    }

    fn will_exist(&self, key: &Key, staged: &Staged) -> bool {
        staged.things.get(key).map_or_else(|| self.things.contains_key(key), Option::is_some)
    }

    fn check_references(&self, staged: &Staged) -> Result<(), ApplyError> {
        for (key, thing) in &staged.things {
            match thing {
                Some(thing) => {
                    let missing = thing.references().into_iter().find(|to| !self.will_exist(to, staged));
                    if let Some(missing) = missing {
                        return Err(ApplyError::Missing {
                            user: key.to_string(),
                            missing: missing.to_string(),
                        });
                    }
                }
                // Users that are staged themselves are checked as they will be.
                None => {
                    if let Some(user) = self.users(key).find(|user| !staged.things.contains_key(user)) {
                        return Err(ApplyError::StillUsed {
                            removed: key.to_string(),
                            user: user.to_string(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn commit(&mut self, mut staged: Staged, policy: &mut PolicyBuilder) -> Vec<Change> {
        if let Some(named) = &mut self.named {
            named.extend(staged.named);
        }
        let mut changes = Vec::new();
        for (key, thing) in staged.things {
            let former = self.things.get(&key);
            if let (Key::Set(name), Some(Thing::Set(set)), None) = (&key, former, &thing) {
                staged.members.insert(Arc::clone(name), StagedMembers::Whole(FxHashSet::default()));
                debug_assert!(self.members.contains_key(set));
            }
            let is_same = match (former, &thing) {
                (Some(former), Some(thing)) => former.is_same(thing),
                (None, None) => true,
                _ => false,
            };
            if is_same {
                continue;
            }
            for to in former.map(Thing::references).unwrap_or_default() {
                if let Some(users) = self.users.get_mut(&to) {
                    users.remove(&key);
                    if users.is_empty() {
                        self.users.remove(&to);
                    }
                }
            }
            for to in thing.as_ref().map(Thing::references).unwrap_or_default() {
                self.users.entry(to).or_default().insert(key.clone());
            }
            match &thing {
                Some(thing) => self.things.insert(key.clone(), thing.clone()),
                None => self.things.remove(&key),
            };
            changes.push((key, thing));
        }
        for (name, staged) in staged.members {
            self.commit_members(&name, staged, policy);
        }
        changes
    }

    fn commit_members(&mut self, name: &str, staged: StagedMembers, policy: &mut PolicyBuilder) {
        let set = policy.set(name);
        let members = self.members.entry(set).or_default();
        match staged {
            StagedMembers::Whole(new) => {
                for gone in members.difference(&new) {
                    policy.leave(set, gone);
                }
                for come in new.difference(members) {
                    policy.join(set, come);
                }
                *members = new;
            }
            StagedMembers::Delta(changes) => {
                members.reserve(changes.iter().filter(|(_, joins)| *joins).count());
                for (member, joins) in changes {
                    if joins && members.insert(member) {
                        policy.join(set, &member);
                    } else if !joins && members.remove(&member) {
                        policy.leave(set, &member);
                    }
                }
            }
        }
        if !self.things.contains_key(&Key::Set(name.into())) {
            self.members.remove(&set);
        }
    }
}
