//! Rules as the control plane states them, checked and with interned names.

use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;

use super::FlowDirection;
use super::name::{RuleAction, RuleName, RuleOwner};
use super::sets::{SetId, SetNames};

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// An action this fastpath does not know.
    #[error("unknown action {0}")]
    Action(i32),
    /// Neither 0, 4 nor 6.
    #[error("IP version {0} is none of 0, 4 and 6")]
    IpVersion(u32),
    /// Above 255.
    #[error("protocol {0} is above 255")]
    Protocol(u32),
    /// An ICMP type or code above 255.
    #[error("ICMP type or code {0} is above 255")]
    Icmp(u32),
    /// Empty, or above 65535.
    #[error("ports {first}-{last} are not a range within 0-65535")]
    Ports {
        /// The first port.
        first: u32,
        /// The last port.
        last: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// What a rule asks of ICMP messages: one type, of one code or of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct IcmpKind {
    pub kind: u8,
    pub code: Option<u8>,
}

/// A rule; everything that it asks must hold. Its place is that in its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub action: RuleAction,
    pub family: Option<Family>,
    /// 0: any.
    pub protocol: u8,
    /// 0: none.
    pub not_protocol: u8,
    pub icmp: Option<IcmpKind>,
    pub not_icmp: Option<IcmpKind>,
    pub source: Entity,
    pub destination: Entity,
}

/// One side of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entity {
    pub in_all: Vec<SetId>,
    pub in_none: Vec<SetId>,
    /// Inclusive.
    pub ports: Vec<(u16, u16)>,
    pub named_ports: Vec<SetId>,
    /// A negated list holds for what has no ports.
    pub not_ports: Vec<(u16, u16)>,
    pub not_named_ports: Vec<SetId>,
}

impl Entity {
    /// Every set that the entity mentions.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        let addresses = self.in_all.iter().chain(&self.in_none);
        addresses.chain(&self.named_ports).chain(&self.not_named_ports).copied()
    }

    fn from_plane(entity: Option<&plane::Entity>, names: &mut SetNames) -> Result<Entity, RuleError> {
        let Some(entity) = entity else { return Ok(Entity::default()) };
        let mut intern = |list: &[String]| list.iter().map(|name| names.intern(name)).collect();
        let ports = |ranges: &[plane::PortRange]| -> Result<Vec<_>, RuleError> {
            ranges.iter().map(range_from_plane).collect()
        };
        Ok(Entity {
            in_all: intern(&entity.in_all),
            in_none: intern(&entity.in_none),
            ports: ports(&entity.ports)?,
            named_ports: intern(&entity.named_ports),
            not_ports: ports(&entity.not_ports)?,
            not_named_ports: intern(&entity.not_named_ports),
        })
    }
}

fn range_from_plane(range: &plane::PortRange) -> Result<(u16, u16), RuleError> {
    match (u16::try_from(range.first), u16::try_from(range.last)) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(RuleError::Ports { first: range.first, last: range.last }),
    }
}

fn icmp_from_plane(icmp: Option<&plane::Icmp>) -> Result<Option<IcmpKind>, RuleError> {
    let byte = |value: u32| u8::try_from(value).map_err(|_| RuleError::Icmp(value));
    icmp.map(|icmp| Ok(IcmpKind { kind: byte(icmp.r#type)?, code: icmp.code.map(byte).transpose()? }))
        .transpose()
}

/// Rules in order, of a policy or profile in one direction.
pub(super) fn from_plane(
    rules: &[plane::Rule],
    names: &mut SetNames,
) -> Result<Vec<Rule>, (usize, RuleError)> {
    let rules = rules.iter().enumerate();
    rules.map(|(index, rule)| one_from_plane(rule, names).map_err(|error| (index, error))).collect()
}

fn one_from_plane(rule: &plane::Rule, names: &mut SetNames) -> Result<Rule, RuleError> {
    let action = match plane::Action::try_from(rule.action) {
        Ok(plane::Action::Allow) => RuleAction::Allow,
        Ok(plane::Action::Deny) => RuleAction::Deny,
        Ok(plane::Action::Pass) => RuleAction::Pass,
        Ok(plane::Action::Log) => RuleAction::Log,
        Err(_) => return Err(RuleError::Action(rule.action)),
    };
    let family = match rule.ip_version {
        0 => None,
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        other => return Err(RuleError::IpVersion(other)),
    };
    let protocol = |number: u32| u8::try_from(number).map_err(|_| RuleError::Protocol(number));
    Ok(Rule {
        action,
        family,
        protocol: protocol(rule.protocol)?,
        not_protocol: protocol(rule.not_protocol)?,
        icmp: icmp_from_plane(rule.icmp.as_ref())?,
        not_icmp: icmp_from_plane(rule.not_icmp.as_ref())?,
        source: Entity::from_plane(rule.source.as_ref(), names)?,
        destination: Entity::from_plane(rule.destination.as_ref(), names)?,
    })
}

/// Whose rules they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::table) enum Owner {
    /// A policy's, in the tier that is its own.
    Policy { tier: Arc<str>, policy: RuleOwner },
    /// A profile's.
    Profile(Arc<str>),
}

impl Owner {
    /// The policy, if it is one.
    pub(super) fn policy(&self) -> Option<&RuleOwner> {
        match self {
            Owner::Policy { policy, .. } => Some(policy),
            Owner::Profile(_) => None,
        }
    }

    pub(super) fn rule_name(&self, direction: FlowDirection, index: u32, action: RuleAction) -> RuleName {
        match self {
            Owner::Policy { tier, policy } => {
                let (tier, policy) = (Arc::clone(tier), policy.clone());
                RuleName::Rule { tier, policy, direction, index, action }
            }
            Owner::Profile(name) => RuleName::Profile { name: Arc::clone(name), direction, index, action },
        }
    }
}

/// The rules of a policy or profile in one direction. `version` is another for every other content, so that lists of
/// them can be compared without looking at rules.
#[derive(Debug)]
pub(in crate::table) struct RuleList {
    pub(super) owner: Owner,
    pub(super) version: u64,
    pub(super) rules: Vec<Rule>,
}

/// What judges an endpoint in one direction.
#[derive(Debug, Clone)]
pub(in crate::table) struct Binding {
    pub tiers: Vec<Tier>,
    pub fallback: Fallback,
}

/// What judges when no tier decides.
#[derive(Debug, Clone)]
pub(in crate::table) enum Fallback {
    /// These, in order; and if they do not decide either, it is denied.
    Profiles(Vec<Arc<RuleList>>),
    /// Whoever asks knows what that means.
    Undecided,
}

#[derive(Debug, Clone)]
pub(in crate::table) struct Tier {
    pub name: Arc<str>,
    pub default_deny: bool,
    pub policies: Vec<Arc<RuleList>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(rule: plane::Rule) -> String {
        let allow = plane::Rule { action: plane::Action::Allow.into(), ..Default::default() };
        let (index, error) = from_plane(&[allow, rule], &mut SetNames::default()).unwrap_err();
        assert_eq!(index, 1);
        error.to_string()
    }

    #[test]
    fn a_rule_of_what_cannot_be_is_refused() {
        let allow = || plane::Rule { action: plane::Action::Allow.into(), ..Default::default() };
        let ports = |first, last| {
            let ports = vec![plane::PortRange { first, last }];
            plane::Rule { source: Some(plane::Entity { ports, ..Default::default() }), ..allow() }
        };
        assert_eq!(refusal(ports(81, 80)), "ports 81-80 are not a range within 0-65535");
        assert_eq!(refusal(ports(80, 65536)), "ports 80-65536 are not a range within 0-65535");
        assert_eq!(refusal(plane::Rule { action: 99, ..allow() }), "unknown action 99");
        let version = plane::Rule { ip_version: 5, ..allow() };
        assert_eq!(refusal(version), "IP version 5 is none of 0, 4 and 6");
        assert_eq!(refusal(plane::Rule { not_protocol: 256, ..allow() }), "protocol 256 is above 255");
        let icmp = Some(plane::Icmp { r#type: 8, code: Some(256) });
        assert_eq!(refusal(plane::Rule { icmp, ..allow() }), "ICMP type or code 256 is above 255");
    }
}
