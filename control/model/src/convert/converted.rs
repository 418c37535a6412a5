//! What a conversion gives: a policy, and what of its object could not be made part of it.

use crate::policy::{Action, Policy, Rule};

/// A policy and what could not be made of its object.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertedPolicy {
    /// The policy, without the rules that could not be converted: it isolates all the same.
    pub policy: Policy,
    /// What is missing, for the log.
    pub dropped: Vec<DroppedRule>,
}

/// A rule, or something else of a policy, that could not be converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedRule {
    /// What of it: `spec.ingress[1].ports[0].port`.
    pub field: String,
    /// Why.
    pub message: String,
}

impl DroppedRule {
    pub(super) fn new(field: impl Into<String>, message: impl ToString) -> Self {
        Self { field: field.into(), message: message.to_string() }
    }
}

/// What stands in for a rule that could not be converted, so that nothing passes that it might have stopped: nothing for
/// one that allows or logs; a Deny of everything for one that denies, passes to later tiers, or does nobody knows what.
pub(super) fn fail_closed(action: Option<Action>) -> Option<Rule> {
    match action {
        Some(Action::Allow | Action::Log) => None,
        Some(Action::Deny | Action::Pass) | None => Some(Rule::any(Action::Deny)),
    }
}
