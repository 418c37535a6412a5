//! What the control plane has stated: things by name, what refers to what, and transactions over them.
//!
//! A transaction is staged beside the state, its references are checked against what would be, and only then it is
//! committed: so it is applied whole or not at all. A resynchronisation remembers what has been named since its
//! beginning; the transaction that ends it also removes all else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;
use caracal_wire::MacAddr;
use rustc_hash::FxHashSet;

use super::error::{ApplyError, Malformed};
use crate::table::endpoint::{Addresses, MAX_ADDRESSES};
use crate::table::host::Hook;
use crate::table::node::{DEFAULT_LOG_PREFIX, Failsafe, NodeConfig};
use crate::table::policy::{Member, Owner, PolicyBuilder, RuleList, RuleOwner, SetId};
use crate::table::prefix::{Prefix, PrefixError, address_from_plane};

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
    pub node_address: IpAddr,
    pub tunnel_address: Option<IpAddr>,
    pub tunnel_mac: MacAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Remote { node: Arc<str>, encapsulation: plane::Encapsulation },
    LocalBlock,
    LocalHost,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndpointSpec {
    pub interface: Arc<str>,
    pub addresses: Addresses,
    pub ingress: Vec<TierSpec>,
    pub egress: Vec<TierSpec>,
    pub profiles: Vec<Arc<str>>,
    pub allowed_sources: Arc<[Prefix]>,
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

impl Thing {
    fn references(&self) -> Vec<Key> {
        match self {
            Thing::Node(_) | Thing::Set(_) | Thing::Tunnel(_) => Vec::new(),
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
            Op::PolicyRemove(_)
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

/// What an operation is about.
fn key_of(op: &Op) -> Result<Key, Malformed> {
    let policy = |id: &plane::PolicyId| {
        Key::Policy(RuleOwner {
            kind: id.kind.as_str().into(),
            namespace: id.namespace.as_str().into(),
            name: id.name.as_str().into(),
        })
    };
    Ok(match op {
        Op::NodeConfig(_) => Key::Node,
        Op::IpSet(plane::IpSet { id, .. })
        | Op::IpSetDelta(plane::IpSetDelta { id, .. })
        | Op::IpSetRemove(id) => Key::Set(id.as_str().into()),
        Op::Policy(stated) => policy(stated.id.as_ref().ok_or(Malformed::NoPolicyId)?),
        Op::PolicyRemove(id) => policy(id),
        Op::Profile(plane::Profile { name, .. }) | Op::ProfileRemove(name) => {
            Key::Profile(name.as_str().into())
        }
        Op::Endpoint(plane::Endpoint { id, .. }) | Op::EndpointRemove(id) => {
            Key::Endpoint(id.as_str().into())
        }
        Op::HostEndpoint(plane::HostEndpoint { id, .. }) | Op::HostEndpointRemove(id) => {
            Key::HostEndpoint(id.as_str().into())
        }
        Op::Tunnel(plane::Tunnel { node, .. }) | Op::TunnelRemove(node) => Key::Tunnel(node.as_str().into()),
        Op::Route(plane::Route { prefix, .. }) => Key::Route(Prefix::from_plane(prefix.as_ref())?),
        Op::RouteRemove(prefix) => Key::Route(Prefix::from_plane(Some(prefix))?),
    })
}

fn members(
    members: &[plane::Member],
    hosts: Option<&plane::Hosts>,
) -> Result<impl Iterator<Item = Member>, Malformed> {
    let mut checked = members.iter().map(Member::from_plane).collect::<Result<Vec<Member>, _>>()?;
    if let Some(hosts) = hosts {
        checked.reserve(hosts.v4.len() / 4 + hosts.v6.len() / 16);
        checked.extend(packed::<4>(&hosts.v4)?.map(Member::host));
        checked.extend(packed::<16>(&hosts.v6)?.map(Member::host));
    }
    Ok(checked.into_iter())
}

/// Addresses, one after another.
fn packed<const BYTES: usize>(bytes: &[u8]) -> Result<impl Iterator<Item = IpAddr>, Malformed>
where
    IpAddr: From<[u8; BYTES]>,
{
    let (addresses, rest) = bytes.as_chunks::<BYTES>();
    match rest {
        [] => Ok(addresses.iter().map(|address| IpAddr::from(*address))),
        _ => Err(Malformed::PackedHosts { bytes: bytes.len(), each: BYTES }),
    }
}

fn optional_address(bytes: &[u8]) -> Result<Option<IpAddr>, PrefixError> {
    if bytes.is_empty() { Ok(None) } else { address_from_plane(bytes).map(Some) }
}

fn mac(bytes: &[u8]) -> Result<MacAddr, Malformed> {
    <[u8; 6]>::try_from(bytes).map(MacAddr).map_err(|_| Malformed::Mac(bytes.len()))
}

fn node_from_plane(config: &plane::NodeConfig) -> Result<NodeConfig, Malformed> {
    if config.vni >= 1 << 24 {
        return Err(Malformed::Vni(config.vni));
    }
    let tunnel_address = optional_address(&config.tunnel_address)?;
    // Without a tunnel there is no MAC to give.
    let no_mac = config.tunnel_mac.is_empty() && tunnel_address.is_none();
    Ok(NodeConfig {
        name: config.node.as_str().into(),
        address: address_from_plane(&config.address)?,
        tunnel_address,
        tunnel_mac: if no_mac { MacAddr::ZERO } else { mac(&config.tunnel_mac)? },
        vni: config.vni,
        vxlan_port: u16::try_from(config.vxlan_port).map_err(|_| Malformed::Port(config.vxlan_port))?,
        host_port: config.host_port.as_str().into(),
        forward_port: config.forward_port.as_str().into(),
        keep_established: config.keep_established,
        endpoint_to_host: plane::EndpointToHost::try_from(config.endpoint_to_host)
            .map_err(|_| Malformed::EndpointToHost(config.endpoint_to_host))?,
        failsafe_inbound: failsafes_from_plane(&config.failsafe_inbound)?,
        failsafe_outbound: failsafes_from_plane(&config.failsafe_outbound)?,
        allow_vxlan_from_workloads: config.allow_vxlan_from_workloads,
        allow_ipip_from_workloads: config.allow_ipip_from_workloads,
        log_prefix: match config.log_prefix.as_str() {
            "" => DEFAULT_LOG_PREFIX.into(),
            prefix => prefix.into(),
        },
    })
}

fn failsafes_from_plane(stated: &[plane::Failsafe]) -> Result<Box<[Failsafe]>, Malformed> {
    let failsafes = stated.iter().map(|failsafe| {
        let net = failsafe.net.as_ref().map(|net| Prefix::from_plane(Some(net))).transpose()?;
        Ok(Failsafe {
            protocol: u8::try_from(failsafe.protocol).map_err(|_| Malformed::Protocol(failsafe.protocol))?,
            port: u16::try_from(failsafe.port).map_err(|_| Malformed::Port(failsafe.port))?,
            net,
        })
    });
    failsafes.collect()
}

fn tunnel_from_plane(stated: &plane::Tunnel) -> Result<TunnelSpec, Malformed> {
    let tunnel_address = optional_address(&stated.tunnel_address)?;
    let no_mac = stated.tunnel_mac.is_empty() && tunnel_address.is_none();
    Ok(TunnelSpec {
        node_address: address_from_plane(&stated.node_address)?,
        tunnel_address,
        tunnel_mac: if no_mac { MacAddr::ZERO } else { mac(&stated.tunnel_mac)? },
    })
}

fn target_from_plane(stated: &plane::Route) -> Result<Target, Malformed> {
    match &stated.target {
        Some(plane::route::Target::Remote(remote)) => {
            let encapsulation = plane::Encapsulation::try_from(remote.encapsulation)
                .map_err(|_| Malformed::Encapsulation(remote.encapsulation))?;
            Ok(Target::Remote { node: remote.node.as_str().into(), encapsulation })
        }
        Some(plane::route::Target::LocalBlock(_)) => Ok(Target::LocalBlock),
        Some(plane::route::Target::LocalHost(_)) => Ok(Target::LocalHost),
        None => Err(Malformed::NoTarget),
    }
}

fn endpoint_from_plane(stated: &plane::Endpoint) -> Result<EndpointSpec, Malformed> {
    let addresses = addresses_from_plane(&stated.addresses)?;
    let allowed_sources = stated.allowed_sources.iter().map(|prefix| Prefix::from_plane(Some(prefix)));
    Ok(EndpointSpec {
        interface: stated.interface.as_str().into(),
        addresses: Addresses::new(&addresses)
            .ok_or(Malformed::TooManyAddresses { given: addresses.len(), most: MAX_ADDRESSES })?,
        ingress: tiers_from_plane(&stated.ingress)?,
        egress: tiers_from_plane(&stated.egress)?,
        profiles: names_from_plane(&stated.profiles),
        allowed_sources: allowed_sources.collect::<Result<_, _>>()?,
        staged_ingress: staged_from_plane(stated.staged_ingress.as_ref())?,
        staged_egress: staged_from_plane(stated.staged_egress.as_ref())?,
    })
}

fn host_endpoint_from_plane(stated: &plane::HostEndpoint) -> Result<HostEndpointSpec, Malformed> {
    let hook = |hook: &Option<plane::Hook>| -> Result<HookSpec, Malformed> {
        match hook {
            Some(hook) => Ok(HookSpec {
                ingress: tiers_from_plane(&hook.ingress)?,
                egress: tiers_from_plane(&hook.egress)?,
            }),
            None => Ok(HookSpec::default()),
        }
    };
    Ok(HostEndpointSpec {
        interface: stated.interface.as_str().into(),
        addresses: addresses_from_plane(&stated.addresses)?.into(),
        // As `Hook` counts them.
        hooks: [
            hook(&stated.untracked)?,
            hook(&stated.pre_dnat)?,
            hook(&stated.normal)?,
            hook(&stated.forward)?,
        ],
        profiles: names_from_plane(&stated.profiles),
    })
}

fn addresses_from_plane(addresses: &[Vec<u8>]) -> Result<Vec<IpAddr>, PrefixError> {
    addresses.iter().map(|address| address_from_plane(address)).collect()
}

fn names_from_plane(names: &[String]) -> Vec<Arc<str>> {
    names.iter().map(|name| name.as_str().into()).collect()
}

fn staged_from_plane(staged: Option<&plane::StagedTiers>) -> Result<Option<Vec<TierSpec>>, Malformed> {
    staged.map(|staged| tiers_from_plane(&staged.tiers)).transpose()
}

fn tiers_from_plane(bindings: &[plane::TierBinding]) -> Result<Vec<TierSpec>, Malformed> {
    let tiers = bindings.iter().map(|binding| {
        let default_deny = match plane::Action::try_from(binding.default_action) {
            Ok(plane::Action::Deny) => true,
            Ok(plane::Action::Pass) => false,
            _ => return Err(Malformed::TierDefault(binding.default_action)),
        };
        let policies = binding.policies.iter().map(|id| RuleOwner {
            kind: id.kind.as_str().into(),
            namespace: id.namespace.as_str().into(),
            name: id.name.as_str().into(),
        });
        Ok(TierSpec { name: binding.tier.as_str().into(), default_deny, policies: policies.collect() })
    });
    tiers.collect()
}
