//! The rule scanner: a rule's selectors, networks and named ports become IP sets, and what is left is the plane's rule.

use std::collections::BTreeMap;

use caracal_model::cidr::Cidr;
use caracal_model::policy::{IpVersion, PeerMatch, Rule};
use caracal_model::selector::Selector;
use caracal_plane_api as plane;

use crate::endpoints::{Endpoint, EndpointId};
use crate::ip_sets::{Definition, IpSets, SetId};
use crate::plane::action;

/// Scans rules, acquiring the sets they need; `acquired` is what to release when the rules go.
pub(crate) struct Scanner<'a> {
    pub sets: &'a mut IpSets,
    pub endpoints: &'a BTreeMap<EndpointId, Endpoint>,
    pub acquired: Vec<SetId>,
}

impl Scanner<'_> {
    /// The plane's form of rules.
    pub fn rules(&mut self, rules: &[Rule]) -> Vec<plane::Rule> {
        rules.iter().map(|rule| self.rule(rule)).collect()
    }

    fn rule(&mut self, rule: &Rule) -> plane::Rule {
        let ip_version = rule.ip_version.or_else(|| only_version_of_nets(rule));
        plane::Rule {
            action: action(rule.action),
            ip_version: match ip_version {
                None => 0,
                Some(IpVersion::V4) => 4,
                Some(IpVersion::V6) => 6,
            },
            protocol: rule.protocol.map_or(0, |protocol| protocol.0.into()),
            source: self.entity(rule, &rule.source),
            destination: self.entity(rule, &rule.destination),
            ..plane::Rule::default()
        }
    }

    fn entity(&mut self, rule: &Rule, side: &PeerMatch) -> Option<plane::Entity> {
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
        let range = |range: &caracal_model::policy::PortRange| plane::PortRange {
            first: range.first.into(),
            last: range.last.into(),
        };
        entity.ports = side.ports.iter().map(range).collect();
        let named = side.named_ports.iter().map(|name| {
            let selector = selector.clone().unwrap_or(Selector::All);
            self.acquire(Definition::NamedPort { selector, protocol: rule.protocol, name: name.clone() })
        });
        entity.named_ports = named.collect();
        Some(entity)
    }

    fn acquire(&mut self, definition: Definition) -> SetId {
        let id = self.sets.acquire(definition, self.endpoints);
        self.acquired.push(id.clone());
        id
    }
}

/// A list of networks that are all of one IP version makes the rule one of that version, even where the list says
/// which networks are *not* meant.
fn only_version_of_nets(rule: &Rule) -> Option<IpVersion> {
    let lists =
        [&rule.source.nets, &rule.source.not_nets, &rule.destination.nets, &rule.destination.not_nets];
    lists.into_iter().filter(|list| !list.is_empty()).find_map(|list| {
        let v4 = list.iter().filter(|net: &&Cidr| net.is_ipv4()).count();
        match v4 {
            0 => Some(IpVersion::V6),
            all if all == list.len() => Some(IpVersion::V4),
            _ => None,
        }
    })
}
