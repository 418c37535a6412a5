//! What decided, as people read it.

use std::fmt;
use std::sync::Arc;

use super::FlowDirection;

/// What can decide about a flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleName {
    /// A rule of a policy.
    Rule {
        /// The policy's tier.
        tier: Arc<str>,
        /// The policy.
        policy: RuleOwner,
        /// Which of its lists of rules.
        direction: FlowDirection,
        /// Counted from 0.
        index: u32,
        /// What it says.
        action: RuleAction,
    },
    /// No rule of a tier's policies matched, and the tier denies.
    TierDefault {
        /// The tier.
        tier: Arc<str>,
        /// To or from the endpoint.
        direction: FlowDirection,
        /// The tier's policies that select the endpoint in this direction: they isolate it.
        policies: Arc<[RuleOwner]>,
    },
    /// A rule of a profile.
    Profile {
        /// The profile.
        name: Arc<str>,
        /// Which of its lists of rules.
        direction: FlowDirection,
        /// Counted from 0.
        index: u32,
        /// What it says.
        action: RuleAction,
    },
    /// Nothing matched: no tier decided and no profile allows.
    NoProfileMatch,
    /// Traffic of the host that no host endpoint's policy may cut.
    Failsafe,
    /// Forwarded traffic that no policy of a host endpoint is about.
    NoForwardPolicy,
}

/// A policy's name: kind, namespace (empty for cluster-wide ones), name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleOwner {
    /// As users name it: "NetworkPolicy".
    pub kind: Arc<str>,
    /// Empty for cluster-wide kinds.
    pub namespace: Arc<str>,
    /// The policy's name.
    pub name: Arc<str>,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleAction {
    /// The flow may be.
    Allow,
    /// It may not.
    Deny,
    /// The next tier decides.
    Pass,
    /// It is to be logged; the next rule decides.
    Log,
}

impl RuleName {
    /// What it says.
    pub fn action(&self) -> RuleAction {
        match self {
            RuleName::Rule { action, .. } | RuleName::Profile { action, .. } => *action,
            RuleName::TierDefault { .. } | RuleName::NoProfileMatch => RuleAction::Deny,
            RuleName::Failsafe | RuleName::NoForwardPolicy => RuleAction::Allow,
        }
    }
}

/// Isolating policies that are named; the others are counted.
const POLICIES_NAMED: usize = 3;

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleName::Rule { tier, policy, direction, index, .. } => {
                write!(f, "tier {tier} · {policy} · {direction} rule {index}")
            }
            RuleName::TierDefault { tier, direction, policies } => {
                write!(f, "tier {tier} · {direction} default · ")?;
                for (at, policy) in policies.iter().take(POLICIES_NAMED).enumerate() {
                    write!(f, "{}{policy}", if at == 0 { "" } else { ", " })?;
                }
                match policies.len().saturating_sub(POLICIES_NAMED) {
                    0 => f.write_str(": isolates, no rule matched"),
                    more => write!(f, " and {more} more: isolate, no rule matched"),
                }
            }
            RuleName::Profile { name, direction, index, .. } => {
                write!(f, "profile {name} · {direction} rule {index}")
            }
            RuleName::NoProfileMatch => f.write_str("no policy or profile matched"),
            RuleName::Failsafe => f.write_str("failsafe port of the host"),
            RuleName::NoForwardPolicy => f.write_str("no policy denies forwarding"),
        }
    }
}

impl fmt::Display for RuleOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl fmt::Display for FlowDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FlowDirection::Ingress => "ingress",
            FlowDirection::Egress => "egress",
        })
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleAction::Allow => "allow",
            RuleAction::Deny => "deny",
            RuleAction::Pass => "pass",
            RuleAction::Log => "log",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_as_tier_policy_direction_and_index() {
        let policy = RuleOwner {
            kind: "NetworkPolicy".into(),
            namespace: "production".into(),
            name: "allow-web".into(),
        };
        let rule = RuleName::Rule {
            tier: "default".into(),
            policy,
            direction: FlowDirection::Ingress,
            index: 0,
            action: RuleAction::Allow,
        };
        assert_eq!(rule.to_string(), "tier default · NetworkPolicy production/allow-web · ingress rule 0");
        assert_eq!(rule.action().to_string(), "allow");
    }

    #[test]
    fn a_tiers_default_names_the_policies_that_isolate() {
        let policy = |name: &str| RuleOwner {
            kind: "NetworkPolicy".into(),
            namespace: "shop".into(),
            name: name.into(),
        };
        let default = |names: &[&str]| RuleName::TierDefault {
            tier: "default".into(),
            direction: FlowDirection::Egress,
            policies: names.iter().map(|name| policy(name)).collect(),
        };
        assert_eq!(
            default(&["deny-all"]).to_string(),
            "tier default · egress default · NetworkPolicy shop/deny-all: isolates, no rule matched"
        );
        assert!(
            default(&["a", "b", "c", "d", "e"])
                .to_string()
                .ends_with("shop/c and 2 more: isolate, no rule matched")
        );
    }
}
