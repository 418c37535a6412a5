//! The rule scanner: a rule's selectors, networks, named ports and services become IP sets, and what is left is the
//! plane's rule.

use caracal_model::policy::{IcmpMatch, IpVersion, PeerMatch, PortRange, Rule};
use caracal_model::selector::Selector;
use caracal_plane_api as plane;

use crate::definition::{Definition, SetName};
use crate::ip_sets::{IpSets, SetId};
use crate::plane::action;
use crate::sources::Sources;

/// Scans rules, acquiring the sets they need; `acquired` is what to release when the rules go.
pub(crate) struct Scanner<'a> {
    pub sets: &'a mut IpSets,
    pub sources: &'a mut Sources,
    pub acquired: Vec<SetId>,
}

/// Which side of a packet a rule speaks of.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl Scanner<'_> {
    /// The plane's form of rules.
    pub fn rules(&mut self, rules: &[Rule]) -> Vec<plane::Rule> {
        rules.iter().map(|rule| self.rule(rule)).collect()
    }

    fn rule(&mut self, rule: &Rule) -> plane::Rule {
        plane::Rule {
            action: action(rule.action),
            ip_version: match rule.ip_version {
                None => 0,
                Some(IpVersion::V4) => 4,
                Some(IpVersion::V6) => 6,
            },
            protocol: rule.protocol.map_or(0, |protocol| protocol.0.into()),
            not_protocol: rule.not_protocol.map_or(0, |protocol| protocol.0.into()),
            icmp: rule.icmp.map(icmp),
            not_icmp: rule.not_icmp.map(icmp),
            source: self.entity(rule, Side::Source),
            destination: self.entity(rule, Side::Destination),
        }
    }

    fn entity(&mut self, rule: &Rule, which: Side) -> Option<plane::Entity> {
        let side = match which {
            Side::Source => &rule.source,
            Side::Destination => &rule.destination,
        };
        if *side == PeerMatch::default() {
            return None;
        }
        let mut entity = plane::Entity::default();
        // With a positive selector, the negative one is about the same endpoint; alone, it is about any address.
        let selector = match (&side.selector, &side.not_selector) {
            (Some(selector), Some(not)) => Some(Selector::and([selector.clone(), not.clone().negate()])),
            (Some(selector), None) => Some(selector.clone()),
            (None, Some(not)) => {
                entity.in_none.push(self.acquire(Definition::Selected(not.clone())));
                None
            }
            (None, None) => None,
        };
        if let Some(selector) = &selector {
            entity.in_all.push(self.acquire(Definition::Selected(selector.clone())));
        }
        if !side.nets.is_empty() {
            entity.in_all.push(self.acquire(Definition::nets(&side.nets)));
        }
        if !side.not_nets.is_empty() {
            entity.in_none.push(self.acquire(Definition::nets(&side.not_nets)));
        }
        entity.ports = side.ports.iter().map(port_range).collect();
        entity.not_ports = side.not_ports.iter().map(port_range).collect();
        let selector = selector.unwrap_or(Selector::All);
        entity.named_ports = self.named_ports(rule, &selector, &side.named_ports);
        entity.not_named_ports = self.named_ports(rule, &selector, &side.not_named_ports);
        if let Some(service) = side.service.clone() {
            match which {
                Side::Source => entity.in_all.push(self.acquire(Definition::ServiceAddresses(service))),
                Side::Destination => {
                    entity.named_ports.push(self.acquire(Definition::ServicePorts(service)));
                }
            }
        }
        Some(entity)
    }

    fn named_ports(&mut self, rule: &Rule, selector: &Selector, names: &[String]) -> Vec<SetName> {
        let definition = |name: &String| Definition::NamedPort {
            selector: selector.clone(),
            protocol: rule.protocol,
            name: name.clone(),
        };
        names.iter().map(|name| self.acquire(definition(name))).collect()
    }

    fn acquire(&mut self, definition: Definition) -> SetName {
        let id = self.sets.acquire(definition, self.sources);
        self.acquired.push(id);
        self.sets.name(id)
    }
}

fn port_range(range: &PortRange) -> plane::PortRange {
    plane::PortRange { first: range.first.into(), last: range.last.into() }
}

fn icmp(icmp: IcmpMatch) -> plane::Icmp {
    plane::Icmp { r#type: icmp.kind.into(), code: icmp.code.map(u32::from) }
}
