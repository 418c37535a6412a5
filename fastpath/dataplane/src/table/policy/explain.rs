//! Why: a walk over a policy list with everything that it meets written down.

use std::fmt;
use std::sync::Arc;

use super::list::{List, Met, Outcome, Packed, Walked};
use super::matching::{Side, Unmatched};
use super::sets::{Membership, SetNames};
use super::{FlowTuple, RuleId, RuleName};

/// How a flow fares in a policy list, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Every rule and the end of every tier, in order.
    pub steps: Vec<Step>,
    /// What decided; None: nothing did, which only hooks of host endpoints know.
    pub decided: Option<RuleName>,
    /// Whether the flow may be.
    pub allow: bool,
    /// The Log rules that the flow passes on its way.
    pub logged: Vec<RuleName>,
    /// What the tables that packets meet say instead, if that is another thing: then one of the two is wrong.
    pub disagreement: Option<RuleName>,
}

/// A rule, or the end of a tier or of the profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// None: after the tiers.
    pub tier: Option<Arc<str>>,
    /// What is asked.
    pub what: Asked,
    /// What became of it.
    pub found: Found,
}

/// What a step asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A rule.
    Rule(RuleName),
    /// No rule of the tier has matched: its default denies.
    DefaultDeny(RuleName),
    /// No rule of the tier has matched: its default passes on.
    DefaultPass,
    /// No tier has decided, and no profile.
    End,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It applies.
    Matched,
    /// It does not, for each of these reasons.
    Unmatched(Vec<Mismatch>),
    /// Something before it decided.
    NotReached,
}

/// Why a rule does not match: the field that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mismatch {
    /// The other address family.
    IpVersion,
    /// Another protocol.
    Protocol,
    /// The protocol that it excludes.
    NotProtocol,
    /// Another message, or none.
    Icmp,
    /// The message that it excludes.
    NotIcmp,
    /// The address is not in this set.
    NotInSet {
        /// Whose address.
        side: Side,
        /// The set's id.
        set: Arc<str>,
    },
    /// The address is in this set, which it excludes.
    InSet {
        /// Whose address.
        side: Side,
        /// The set's id.
        set: Arc<str>,
    },
    /// The port is none of those that it names.
    Ports(Side),
    /// The port is one of those that it excludes.
    NotPorts(Side),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::IpVersion => f.write_str("ipVersion"),
            Mismatch::Protocol => f.write_str("protocol"),
            Mismatch::NotProtocol => f.write_str("notProtocol"),
            Mismatch::Icmp => f.write_str("icmp"),
            Mismatch::NotIcmp => f.write_str("notICMP"),
            Mismatch::NotInSet { side, set } => write!(f, "{side} is not in {set}"),
            Mismatch::InSet { side, set } => write!(f, "{side} is in {set}"),
            Mismatch::Ports(side) => write!(f, "{side} ports"),
            Mismatch::NotPorts(side) => write!(f, "{side} notPorts"),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Destination => "destination",
        })
    }
}

/// Walks `list`, and says what the walk came to besides.
pub(super) fn explain(
    list: &List,
    flow: &FlowTuple,
    local: &[Membership],
    peer: &[Membership],
    sets: &SetNames,
    name: impl Fn(RuleId) -> RuleName,
) -> (Explanation, Walked) {
    let mut found_of_rules = vec![Found::NotReached; list.rules.len()];
    let mut ended = vec![Found::NotReached; list.sections.len()];
    let walked = list.walk(flow, local, peer, &mut |met| match met {
        Met::Rule(place, true) => found_of_rules[place] = Found::Matched,
        Met::Rule(place, false) => {
            let reasons = list.rules[place].unmatched(flow, local, peer);
            found_of_rules[place] = Found::Unmatched(reasons.map(|reason| mismatch(reason, sets)).collect());
        }
        Met::End(section) => ended[section] = Found::Matched,
    });
    let mut steps = Vec::with_capacity(found_of_rules.len() + ended.len());
    let mut rules = list.rules.iter().zip(found_of_rules).peekable();
    for ((number, section), end) in list.sections.iter().enumerate().zip(ended) {
        while let Some((rule, found)) = rules.next_if(|(rule, _)| rule.section == number) {
            steps.push(Step { tier: section.tier.clone(), what: Asked::Rule(name(rule.id)), found });
        }
        let what = match (&section.tier, section.end) {
            (None, _) => Asked::End,
            (Some(_), Outcome::Decide(judgement)) => Asked::DefaultDeny(name(judgement.unpack().rule)),
            (Some(_), Outcome::NextSection | Outcome::Log) => Asked::DefaultPass,
        };
        steps.push(Step { tier: section.tier.clone(), what, found: end });
    }
    let judgement = walked.decided.map(Packed::unpack);
    let explanation = Explanation {
        steps,
        decided: judgement.map(|judgement| name(judgement.rule)),
        allow: judgement.is_some_and(|judgement| judgement.allow),
        logged: walked.logs.iter().map(|rule| name(*rule)).collect(),
        disagreement: None,
    };
    (explanation, walked)
}

fn mismatch(reason: Unmatched, sets: &SetNames) -> Mismatch {
    let name = |set| sets.name(set).cloned().unwrap_or_else(|| "".into());
    match reason {
        Unmatched::IpVersion => Mismatch::IpVersion,
        Unmatched::Protocol => Mismatch::Protocol,
        Unmatched::NotProtocol => Mismatch::NotProtocol,
        Unmatched::Icmp => Mismatch::Icmp,
        Unmatched::NotIcmp => Mismatch::NotIcmp,
        Unmatched::In(side, set) => Mismatch::NotInSet { side, set: name(set) },
        Unmatched::NotIn(side, set) => Mismatch::InSet { side, set: name(set) },
        Unmatched::Ports(side) => Mismatch::Ports(side),
        Unmatched::NotPorts(side) => Mismatch::NotPorts(side),
    }
}

#[cfg(test)]
mod tests;
