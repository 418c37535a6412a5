//! The slow twin: judges a flow by reading what the control plane said, rule by rule, set by set.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;

use super::{FlowDirection, FlowTuple, RuleAction, RuleName, RuleOwner};
use crate::table::prefix::{Prefix, address_from_plane};

/// What the control plane has said, as it said it.
#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    pub sets: BTreeMap<String, BTreeSet<SetMember>>,
    pub policies: BTreeMap<String, plane::Policy>,
    pub profiles: BTreeMap<String, plane::Profile>,
    pub endpoints: BTreeMap<String, plane::Endpoint>,
}

/// A prefix with a protocol and port: both 0 where the address alone is the member, port 0 where every port is.
type SetMember = (Prefix, u32, u32);

fn members(members: &[plane::Member], hosts: Option<&plane::Hosts>) -> Vec<SetMember> {
    let listed = members.iter().map(|m| (Prefix::from_plane(m.prefix.as_ref()).unwrap(), m.protocol, m.port));
    let v4 = hosts.iter().flat_map(|hosts| hosts.v4.chunks(4));
    let v6 = hosts.iter().flat_map(|hosts| hosts.v6.chunks(16));
    let hosts = v4.chain(v6).map(|bytes| (Prefix::host(address_from_plane(bytes).unwrap()), 0, 0));
    listed.chain(hosts).collect()
}

impl Reference {
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::IpSet(set) => {
                let members = members(&set.members, set.hosts.as_ref());
                self.sets.insert(set.id.clone(), members.into_iter().collect());
            }
            Op::IpSetDelta(delta) => {
                let set = self.sets.get_mut(&delta.id).unwrap();
                for gone in members(&delta.remove, delta.remove_hosts.as_ref()) {
                    set.remove(&gone);
                }
                set.extend(members(&delta.add, delta.add_hosts.as_ref()));
            }
            Op::IpSetRemove(id) => {
                self.sets.remove(id);
            }
            Op::Policy(policy) => {
                self.policies.insert(policy.id.clone().unwrap().name, policy.clone());
            }
            Op::PolicyRemove(id) => {
                self.policies.remove(&id.name);
            }
            Op::Profile(profile) => {
                self.profiles.insert(profile.name.clone(), profile.clone());
            }
            Op::ProfileRemove(name) => {
                self.profiles.remove(name);
            }
            Op::Endpoint(endpoint) => {
                self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
            }
            Op::EndpointRemove(id) => {
                self.endpoints.remove(id);
            }
            other => unreachable!("policy does not come from {other:?}"),
        }
    }

    /// Everything, as one transaction that begins from nothing.
    pub fn ops(&self) -> Vec<Op> {
        let member = |(prefix, protocol, port): &SetMember| {
            let address = match prefix.address() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let prefix = Some(plane::Prefix { address, length: prefix.length().into() });
            plane::Member { prefix, protocol: *protocol, port: *port }
        };
        let sets = self.sets.iter().map(|(id, members)| {
            let members = members.iter().map(member).collect();
            Op::IpSet(plane::IpSet { id: id.clone(), members, hosts: None })
        });
        let policies = self.policies.values().cloned().map(Op::Policy);
        let profiles = self.profiles.values().cloned().map(Op::Profile);
        let endpoints = self.endpoints.values().cloned().map(Op::Endpoint);
        sets.chain(policies).chain(profiles).chain(endpoints).collect()
    }

    /// What decides about `flow` of an endpoint, and the Log rules that it passes.
    pub fn judge(&self, endpoint: &str, flow: &FlowTuple, staged: bool) -> (RuleName, Vec<RuleName>) {
        let endpoint = &self.endpoints[endpoint];
        let (tiers, staged_tiers) = match flow.direction {
            FlowDirection::Ingress => (&endpoint.ingress, &endpoint.staged_ingress),
            FlowDirection::Egress => (&endpoint.egress, &endpoint.staged_egress),
        };
        let tiers = if staged { &staged_tiers.as_ref().unwrap().tiers } else { tiers };
        let mut logs = Vec::new();
        let decided = self.tiers(tiers, flow, &mut logs, true);
        (decided.unwrap_or_else(|| self.profiles(&endpoint.profiles, flow, &mut logs)), logs)
    }

    /// What a host endpoint's tiers decide, if they do.
    pub fn tiers(
        &self,
        tiers: &[plane::TierBinding],
        flow: &FlowTuple,
        logs: &mut Vec<RuleName>,
        ends: bool,
    ) -> Option<RuleName> {
        let direction = flow.direction;
        'tiers: for tier in tiers {
            for id in &tier.policies {
                let policy = &self.policies[&id.name];
                let rules = rules_of(direction, &policy.ingress, &policy.egress);
                for (index, rule) in rules.iter().enumerate() {
                    if !self.matches(rule, flow) {
                        continue;
                    }
                    let name = RuleName::Rule {
                        tier: policy.tier.as_str().into(),
                        policy: owner(id),
                        direction,
                        index: index as u32,
                        action: action_of(rule),
                    };
                    match rule.action() {
                        plane::Action::Log => logs.push(name),
                        plane::Action::Pass => continue 'tiers,
                        plane::Action::Allow | plane::Action::Deny => return Some(name),
                    }
                }
            }
            if ends && tier.default_action() == plane::Action::Deny {
                let policies = tier.policies.iter().map(owner).collect();
                return Some(RuleName::TierDefault { tier: tier.tier.as_str().into(), direction, policies });
            }
        }
        None
    }

    pub fn profiles(&self, names: &[String], flow: &FlowTuple, logs: &mut Vec<RuleName>) -> RuleName {
        let direction = flow.direction;
        for name in names {
            let profile = &self.profiles[name];
            for (index, rule) in rules_of(direction, &profile.ingress, &profile.egress).iter().enumerate() {
                if !self.matches(rule, flow) {
                    continue;
                }
                let (name, index, action) = (name.as_str().into(), index as u32, action_of(rule));
                let name = RuleName::Profile { name, direction, index, action };
                match rule.action() {
                    plane::Action::Log => logs.push(name),
                    plane::Action::Pass => {}
                    plane::Action::Allow | plane::Action::Deny => return name,
                }
            }
        }
        RuleName::NoProfileMatch
    }

    fn matches(&self, rule: &plane::Rule, flow: &FlowTuple) -> bool {
        let version = if flow.peer_address.is_ipv4() { 4 } else { 6 };
        let protocol = u32::from(flow.protocol);
        let peer = (flow.peer_address, flow.peer_port);
        let local = (flow.local_address, flow.local_port);
        let (source, destination) = match flow.direction {
            FlowDirection::Ingress => (peer, local),
            FlowDirection::Egress => (local, peer),
        };
        let is_message = |icmp: &plane::Icmp| {
            let message = flow.icmp.filter(|_| [1, 58].contains(&protocol));
            message.is_some_and(|(kind, code)| {
                icmp.r#type == u32::from(kind) && icmp.code.is_none_or(|of| of == u32::from(code))
            })
        };
        (rule.ip_version == 0 || rule.ip_version == version)
            && (rule.protocol == 0 || rule.protocol == protocol)
            && (rule.not_protocol == 0 || rule.not_protocol != protocol)
            && rule.icmp.iter().all(is_message)
            && !rule.not_icmp.iter().any(is_message)
            && rule.source.iter().all(|entity| self.entity_matches(entity, source, flow.protocol))
            && rule.destination.iter().all(|entity| self.entity_matches(entity, destination, flow.protocol))
    }

    fn entity_matches(&self, entity: &plane::Entity, (address, port): (IpAddr, u16), protocol: u8) -> bool {
        let is_in = |id: &String| {
            self.sets[id].iter().any(|(prefix, of, port)| (*of, *port) == (0, 0) && prefix.contains(address))
        };
        let has_ports = [6, 17, 132].contains(&protocol);
        let named = |id: &String| {
            let (protocol, port) = (u32::from(protocol), u32::from(port));
            let is_named = |of: u32, named: u32| of == protocol && (named == 0 || named == port);
            has_ports && self.sets[id].iter().any(|m| is_named(m.1, m.2) && m.0.contains(address))
        };
        let listed =
            |range: &plane::PortRange| has_ports && (range.first..=range.last).contains(&u32::from(port));
        let is_any_port = entity.ports.is_empty() && entity.named_ports.is_empty();
        entity.in_all.iter().all(is_in)
            && !entity.in_none.iter().any(is_in)
            && (is_any_port || entity.ports.iter().any(listed) || entity.named_ports.iter().any(named))
            && !entity.not_ports.iter().any(listed)
            && !entity.not_named_ports.iter().any(named)
    }
}

fn owner(id: &plane::PolicyId) -> RuleOwner {
    RuleOwner {
        kind: id.kind.as_str().into(),
        namespace: id.namespace.as_str().into(),
        name: id.name.as_str().into(),
    }
}

fn rules_of<'a>(
    direction: FlowDirection,
    ingress: &'a [plane::Rule],
    egress: &'a [plane::Rule],
) -> &'a [plane::Rule] {
    match direction {
        FlowDirection::Ingress => ingress,
        FlowDirection::Egress => egress,
    }
}

fn action_of(rule: &plane::Rule) -> RuleAction {
    match rule.action() {
        plane::Action::Allow => RuleAction::Allow,
        plane::Action::Deny => RuleAction::Deny,
        plane::Action::Pass => RuleAction::Pass,
        plane::Action::Log => RuleAction::Log,
    }
}
