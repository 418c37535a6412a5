//! What the host's rules follow from: the part of the calc graph's output that host endpoints' policy is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_plane_api::{Op, op};

use crate::plane::address;

/// A prefix: its address and its length.
pub(super) type Net = (IpAddr, u8);

/// A member of an IP set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub net: Net,
    /// 0: the address alone is the member.
    pub protocol: u8,
    /// 0: every port of the protocol.
    pub port: u16,
}

/// A policy's kind, namespace and name.
pub(super) type PolicyName = (String, String, String);

/// Kept up to date from the same operations that the fastpath gets. Copies are cheap.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostPolicy {
    pub(super) node: Option<Arc<plane::NodeConfig>>,
    pub(super) host_endpoints: BTreeMap<String, Arc<plane::HostEndpoint>>,
    pub(super) sets: BTreeMap<String, Arc<BTreeSet<Member>>>,
    pub(super) policies: BTreeMap<PolicyName, Arc<plane::Policy>>,
    pub(super) profiles: BTreeMap<String, Arc<plane::Profile>>,
    /// Other nodes' addresses, by node.
    pub(super) nodes: BTreeMap<String, Vec<IpAddr>>,
    /// What this node's pods send from, by endpoint.
    pub(super) pods: BTreeMap<String, Vec<Net>>,
    /// The sets that host endpoints' policy asks for.
    used: BTreeSet<String>,
}

impl HostPolicy {
    /// Takes operations, as they come from the calc graph; returns whether the host's rules may have to change. What makes
    /// no sense is left out.
    pub fn apply(&mut self, ops: &[Op]) -> bool {
        let had_endpoints = !self.host_endpoints.is_empty();
        let (mut any, mut set_changed) = (false, false);
        for op in ops.iter().filter_map(|op| op.op.as_ref()) {
            match op {
                op::Op::NodeConfig(config) => self.node = Some(Arc::new(config.clone())),
                op::Op::HostEndpoint(host) => {
                    self.host_endpoints.insert(host.id.clone(), Arc::new(host.clone()));
                }
                op::Op::HostEndpointRemove(id) => drop(self.host_endpoints.remove(id)),
                op::Op::Policy(policy) => {
                    let Some(id) = &policy.id else { continue };
                    self.policies.insert(name_of(id), Arc::new(policy.clone()));
                }
                op::Op::PolicyRemove(id) => drop(self.policies.remove(&name_of(id))),
                op::Op::Profile(profile) => {
                    self.profiles.insert(profile.name.clone(), Arc::new(profile.clone()));
                }
                op::Op::ProfileRemove(name) => drop(self.profiles.remove(name)),
                op::Op::Tunnel(tunnel) => {
                    let addresses = [&tunnel.node_address, &tunnel.node_address_v6];
                    let addresses = addresses.into_iter().filter_map(|bytes| address(bytes)).collect();
                    self.nodes.insert(tunnel.node.clone(), addresses);
                }
                op::Op::TunnelRemove(node) => drop(self.nodes.remove(node)),
                op::Op::Endpoint(endpoint) => {
                    let own = endpoint.addresses.iter().filter_map(|bytes| address(bytes)).map(host);
                    let further = endpoint.allowed_sources.iter().filter_map(net);
                    self.pods.insert(endpoint.id.clone(), own.chain(further).collect());
                }
                op::Op::EndpointRemove(id) => drop(self.pods.remove(id)),
                op::Op::IpSet(set) => {
                    let members = members(&set.members, set.hosts.as_ref()).collect();
                    self.sets.insert(set.id.clone(), Arc::new(members));
                    set_changed |= self.used.contains(&set.id);
                    continue;
                }
                op::Op::IpSetDelta(delta) => {
                    let Some(set) = self.sets.get_mut(&delta.id) else { continue };
                    let set = Arc::make_mut(set);
                    for gone in members(&delta.remove, delta.remove_hosts.as_ref()) {
                        set.remove(&gone);
                    }
                    set.extend(members(&delta.add, delta.add_hosts.as_ref()));
                    set_changed |= self.used.contains(&delta.id);
                    continue;
                }
                op::Op::IpSetRemove(id) => {
                    self.sets.remove(id);
                    continue;
                }
                _ => continue,
            }
            any = true;
        }
        let has_endpoints = !self.host_endpoints.is_empty();
        if any {
            self.used = self.sets_asked_for();
        }
        (any || set_changed) && (had_endpoints || has_endpoints)
    }

    /// The sets that the policies and profiles of host endpoints ask for.
    fn sets_asked_for(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for host in self.host_endpoints.values() {
            let hooks = [&host.untracked, &host.pre_dnat, &host.normal, &host.forward];
            let tiers = hooks.into_iter().flatten().flat_map(|hook| hook.ingress.iter().chain(&hook.egress));
            let policies = tiers.flat_map(|tier| &tier.policies).filter_map(|id| self.policy(id));
            let profiles = host.profiles.iter().filter_map(|name| self.profiles.get(name));
            let rules = policies.flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
            let rules =
                rules.chain(profiles.flat_map(|profile| profile.ingress.iter().chain(&profile.egress)));
            for entity in rules.flat_map(|rule| rule.source.iter().chain(&rule.destination)) {
                let named = entity.named_ports.iter().chain(&entity.not_named_ports);
                used.extend(entity.in_all.iter().chain(&entity.in_none).chain(named).cloned());
            }
        }
        used
    }

    pub(super) fn policy(&self, id: &plane::PolicyId) -> Option<&Arc<plane::Policy>> {
        self.policies.get(&name_of(id))
    }
}

fn name_of(id: &plane::PolicyId) -> PolicyName {
    (id.kind.clone(), id.namespace.clone(), id.name.clone())
}

fn members(listed: &[plane::Member], hosts: Option<&plane::Hosts>) -> impl Iterator<Item = Member> {
    let listed = listed.iter().filter_map(|member| {
        Some(Member {
            net: net(member.prefix.as_ref()?)?,
            protocol: u8::try_from(member.protocol).ok()?,
            port: u16::try_from(member.port).ok()?,
        })
    });
    let v4 = hosts.into_iter().flat_map(|hosts| hosts.v4.chunks(4));
    let v6 = hosts.into_iter().flat_map(|hosts| hosts.v6.chunks(16));
    let hosts = v4.chain(v6).filter_map(address);
    listed.chain(hosts.map(|address| Member { net: host(address), protocol: 0, port: 0 }))
}

pub(super) fn host(address: IpAddr) -> Net {
    (address, if address.is_ipv4() { 32 } else { 128 })
}

pub(super) fn net(prefix: &plane::Prefix) -> Option<Net> {
    let address = address(&prefix.address)?;
    let length = u8::try_from(prefix.length).ok()?;
    (length <= host(address).1).then_some((address, length))
}
