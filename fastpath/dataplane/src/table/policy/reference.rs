//! The slow twin: judges a flow by reading what the control plane said, rule by rule, set by set.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;

use super::{FlowDirection, FlowTuple, RuleAction, RuleName, RuleOwner};
use crate::table::prefix::Prefix;

/// What the control plane has said, as it said it.
#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    pub sets: BTreeMap<String, Vec<plane::Member>>,
    pub policies: BTreeMap<String, plane::Policy>,
    pub profiles: BTreeMap<String, plane::Profile>,
    pub endpoints: BTreeMap<String, plane::Endpoint>,
}

impl Reference {
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::IpSet(set) => {
                self.sets.insert(set.id.clone(), set.members.clone());
            }
            Op::IpSetDelta(delta) => {
                let members = self.sets.get_mut(&delta.id).unwrap();
                members.retain(|member| !delta.remove.contains(member));
                members.extend(delta.add.iter().cloned());
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
        let sets = self.sets.iter().map(|(id, members)| {
            Op::IpSet(plane::IpSet { id: id.clone(), members: members.clone(), hosts: None })
        });
        let policies = self.policies.values().cloned().map(Op::Policy);
        let profiles = self.profiles.values().cloned().map(Op::Profile);
        let endpoints = self.endpoints.values().cloned().map(Op::Endpoint);
        sets.chain(policies).chain(profiles).chain(endpoints).collect()
    }

    /// What decides about `flow` of an endpoint.
    pub fn judge(&self, endpoint: &str, flow: &FlowTuple) -> RuleName {
        let endpoint = &self.endpoints[endpoint];
        let direction = flow.direction;
        let tiers = match direction {
            FlowDirection::Ingress => &endpoint.ingress,
            FlowDirection::Egress => &endpoint.egress,
        };
        for tier in tiers {
            let rules = tier.policies.iter().flat_map(|id| {
                let policy = &self.policies[&id.name];
                let rules = rules_of(direction, &policy.ingress, &policy.egress);
                rules.iter().enumerate().map(move |(index, rule)| (policy, index as u32, rule))
            });
            let mut deciding = rules.filter(|(_, _, rule)| rule.action() != plane::Action::Log);
            match deciding.find(|(_, _, rule)| self.matches(rule, flow)) {
                Some((_, _, rule)) if rule.action() == plane::Action::Pass => {}
                Some((policy, index, rule)) => {
                    let id = policy.id.as_ref().unwrap();
                    return RuleName::Rule {
                        tier: policy.tier.as_str().into(),
                        policy: RuleOwner {
                            kind: id.kind.as_str().into(),
                            namespace: id.namespace.as_str().into(),
                            name: id.name.as_str().into(),
                        },
                        direction,
                        index,
                        action: action_of(rule),
                    };
                }
                None if tier.default_action() == plane::Action::Pass => {}
                None => {
                    let owner = |id: &plane::PolicyId| RuleOwner {
                        kind: id.kind.as_str().into(),
                        namespace: id.namespace.as_str().into(),
                        name: id.name.as_str().into(),
                    };
                    let policies = tier.policies.iter().map(owner).collect();
                    return RuleName::TierDefault { tier: tier.tier.as_str().into(), direction, policies };
                }
            }
        }
        for name in &endpoint.profiles {
            let profile = &self.profiles[name];
            for (index, rule) in rules_of(direction, &profile.ingress, &profile.egress).iter().enumerate() {
                let decides = matches!(rule.action(), plane::Action::Allow | plane::Action::Deny);
                if decides && self.matches(rule, flow) {
                    let (name, index) = (name.as_str().into(), index as u32);
                    return RuleName::Profile { name, direction, index, action: action_of(rule) };
                }
            }
        }
        RuleName::NoProfileMatch
    }

    fn matches(&self, rule: &plane::Rule, flow: &FlowTuple) -> bool {
        let version = if flow.peer_address.is_ipv4() { 4 } else { 6 };
        let peer = (flow.peer_address, flow.peer_port);
        let local = (flow.local_address, flow.local_port);
        let (source, destination) = match flow.direction {
            FlowDirection::Ingress => (peer, local),
            FlowDirection::Egress => (local, peer),
        };
        (rule.ip_version == 0 || rule.ip_version == version)
            && (rule.protocol == 0 || rule.protocol == u32::from(flow.protocol))
            && rule.source.iter().all(|entity| self.entity_matches(entity, source, flow.protocol))
            && rule.destination.iter().all(|entity| self.entity_matches(entity, destination, flow.protocol))
    }

    fn entity_matches(&self, entity: &plane::Entity, (address, port): (IpAddr, u16), protocol: u8) -> bool {
        let is_in =
            |id: &String| self.sets[id].iter().any(|m| m.protocol == 0 && m.port == 0 && covers(m, address));
        let has_port = |id: &String| {
            let named = (u32::from(protocol), u32::from(port));
            self.sets[id].iter().any(|m| (m.protocol, m.port) == named && covers(m, address))
        };
        let ports_match = entity.ports.is_empty() && entity.named_ports.is_empty()
            || [6, 17, 132].contains(&protocol)
                && (entity.ports.iter().any(|range| (range.first..=range.last).contains(&u32::from(port)))
                    || entity.named_ports.iter().any(has_port));
        entity.in_all.iter().all(is_in) && !entity.in_none.iter().any(is_in) && ports_match
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
        _ => RuleAction::Deny,
    }
}

fn covers(member: &plane::Member, address: IpAddr) -> bool {
    Prefix::from_plane(member.prefix.as_ref()).unwrap().contains(address)
}
