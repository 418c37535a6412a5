//! Rules as the control plane states them, checked and with interned names.

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
    /// Empty, or above 65535.
    #[error("ports {first}-{last} are not a range within 0-65535")]
    Ports {
        /// The first port.
        first: u32,
        /// The last port.
        last: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

/// A rule that can decide (not Log), and its place in its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub index: u32,
    pub action: Action,
    pub family: Option<Family>,
    /// 0: any.
    pub protocol: u8,
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
}

impl Entity {
    /// Every set that the entity mentions.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        self.in_all.iter().chain(&self.in_none).chain(&self.named_ports).copied()
    }

    fn from_plane(entity: Option<&plane::Entity>, names: &mut SetNames) -> Result<Entity, RuleError> {
        let Some(entity) = entity else { return Ok(Entity::default()) };
        let mut intern = |list: &[String]| list.iter().map(|name| names.intern(name)).collect();
        let ports = entity.ports.iter().map(|range| {
            let bounds = (u16::try_from(range.first).ok(), u16::try_from(range.last).ok());
            match bounds {
                (Some(first), Some(last)) if first <= last => Ok((first, last)),
                _ => Err(RuleError::Ports { first: range.first, last: range.last }),
            }
        });
        Ok(Entity {
            in_all: intern(&entity.in_all),
            in_none: intern(&entity.in_none),
            ports: ports.collect::<Result<_, _>>()?,
            named_ports: intern(&entity.named_ports),
        })
    }
}

/// Rules in order, of a policy or profile in one direction.
pub(super) fn from_plane(
    rules: &[plane::Rule],
    names: &mut SetNames,
) -> Result<Vec<Rule>, (usize, RuleError)> {
    let mut deciding = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let checked = one_from_plane(index as u32, rule, names).map_err(|error| (index, error))?;
        deciding.extend(checked);
    }
    Ok(deciding)
}

/// None: a rule that decides nothing.
fn one_from_plane(index: u32, rule: &plane::Rule, names: &mut SetNames) -> Result<Option<Rule>, RuleError> {
    let action = match plane::Action::try_from(rule.action) {
        Ok(plane::Action::Allow) => Some(Action::Allow),
        Ok(plane::Action::Deny) => Some(Action::Deny),
        Ok(plane::Action::Pass) => Some(Action::Pass),
        Ok(plane::Action::Log) => None,
        Err(_) => return Err(RuleError::Action(rule.action)),
    };
    let family = match rule.ip_version {
        0 => None,
        4 => Some(Family::V4),
        6 => Some(Family::V6),
        other => return Err(RuleError::IpVersion(other)),
    };
    let protocol = u8::try_from(rule.protocol).map_err(|_| RuleError::Protocol(rule.protocol))?;
    let source = Entity::from_plane(rule.source.as_ref(), names)?;
    let destination = Entity::from_plane(rule.destination.as_ref(), names)?;
    Ok(action.map(|action| Rule { index, action, family, protocol, source, destination }))
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
#[derive(Debug, Clone, Default)]
pub(in crate::table) struct Binding {
    pub tiers: Vec<Tier>,
    pub profiles: Vec<Arc<RuleList>>,
}

#[derive(Debug, Clone)]
pub(in crate::table) struct Tier {
    pub name: Arc<str>,
    pub default_deny: bool,
    pub policies: Vec<Arc<RuleList>>,
}
