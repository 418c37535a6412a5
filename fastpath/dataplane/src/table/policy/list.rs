//! A policy list: all that judges in one direction, in the order in which it is asked.

use std::sync::Arc;

use super::matching::{Ports, Side};
use super::rules::{Binding, Entity, Fallback, Family, IcmpKind, Owner, Rule};
use super::sets::Membership;
use super::{FlowDirection, FlowTuple, Judgement, LogListId, RuleAction, RuleId, RuleName};

/// A judgement in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::table) struct Packed(u32);

impl Packed {
    const ALLOW: u32 = 1 << 31;
    /// What is left is a [`LogListId`].
    const LOGGED: u32 = 1 << 30;

    pub fn allow(rule: RuleId) -> Packed {
        Packed(rule.0 & !Self::LOGGED | Self::ALLOW)
    }

    pub fn deny(rule: RuleId) -> Packed {
        Packed(rule.0 & !(Self::LOGGED | Self::ALLOW))
    }

    pub fn logged(logs: LogListId) -> Packed {
        Packed(logs.0 & !Self::ALLOW | Self::LOGGED)
    }

    /// The list of Log rules that stands for a judgement, if it does.
    #[inline]
    pub fn log_list(self) -> Option<LogListId> {
        (self.0 & Self::LOGGED != 0).then_some(LogListId(self.0 & !(Self::LOGGED | Self::ALLOW)))
    }

    pub fn word(self) -> u32 {
        self.0
    }

    #[inline]
    pub fn from_word(word: u32) -> Packed {
        Packed(word)
    }

    #[inline]
    pub fn unpack(self) -> Judgement {
        let rule = RuleId(self.0 & !Self::ALLOW);
        Judgement { allow: self.0 & Self::ALLOW != 0, rule, logs: LogListId::default() }
    }
}

/// What a matching rule leads to, or the end of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Decide(Packed),
    NextSection,
    /// To the next rule.
    Log,
}

/// The rules of a list, in order, and how its sections end. A section is a tier; profiles, or what takes their place,
/// are the last.
#[derive(Debug)]
pub(in crate::table) struct List {
    pub(super) direction: FlowDirection,
    pub(super) rules: Box<[FlatRule]>,
    /// Of the rules, by themselves: what judging looks at.
    pub(super) outcomes: Box<[Outcome]>,
    pub(super) sections: Box<[Section]>,
    pub(super) has_logs: bool,
    pub(super) looks_at_local: bool,
}

#[derive(Debug)]
pub(super) struct Section {
    /// None: profiles, or what takes their place.
    pub tier: Option<Arc<str>>,
    pub end: Outcome,
}

/// A rule with its place, its outcome, and its sides told apart by whose they are.
#[derive(Debug)]
pub(super) struct FlatRule {
    pub section: usize,
    pub id: RuleId,
    pub outcome: Outcome,
    pub family: Option<Family>,
    /// 0: any.
    pub protocol: u8,
    /// 0: none.
    pub not_protocol: u8,
    pub icmp: Option<IcmpKind>,
    pub not_icmp: Option<IcmpKind>,
    pub local: Entity,
    pub peer: Entity,
    /// What is asked of ports where that does not depend on classes.
    pub local_ports: Option<Ports>,
    pub peer_ports: Option<Ports>,
    direction: FlowDirection,
}

impl FlatRule {
    /// Which side of the rule is the local one, and which the peer's.
    pub fn sides(&self) -> (Side, Side) {
        match self.direction {
            FlowDirection::Ingress => (Side::Destination, Side::Source),
            FlowDirection::Egress => (Side::Source, Side::Destination),
        }
    }

    fn new(section: usize, direction: FlowDirection, rule: &Rule, id: RuleId) -> FlatRule {
        let (peer, local) = match direction {
            FlowDirection::Ingress => (&rule.source, &rule.destination),
            FlowDirection::Egress => (&rule.destination, &rule.source),
        };
        let outcome = match rule.action {
            RuleAction::Allow => Outcome::Decide(Packed::allow(id)),
            RuleAction::Deny => Outcome::Decide(Packed::deny(id)),
            RuleAction::Pass => Outcome::NextSection,
            RuleAction::Log => Outcome::Log,
        };
        FlatRule {
            section,
            id,
            outcome,
            family: rule.family,
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            local: local.clone(),
            peer: peer.clone(),
            local_ports: local.ports_for(&[]),
            peer_ports: peer.ports_for(&[]),
            direction,
        }
    }
}

/// What a walk over a list has come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::table) struct Walked {
    /// None: the list does not decide.
    pub decided: Option<Packed>,
    /// Log rules on the way.
    pub logs: Vec<RuleId>,
}

/// What a walk meets, in order: every rule that it comes to, and every section that none of its rules ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Met {
    /// The rule of this place, and whether it matches.
    Rule(usize, bool),
    End(usize),
}

impl List {
    /// Puts the rules of tiers and profiles in one order. `intern` gives the ids of what can decide.
    pub(super) fn new(
        direction: FlowDirection,
        binding: &Binding,
        intern: &mut dyn FnMut(RuleName) -> RuleId,
    ) -> List {
        let mut rules = Vec::new();
        let mut sections = Vec::new();
        let mut add =
            |section: usize, owner: &Owner, list: &[Rule], intern: &mut dyn FnMut(RuleName) -> RuleId| {
                for (index, rule) in list.iter().enumerate() {
                    // After the tiers there is nothing to pass to: Pass has no effect in a profile.
                    if owner.policy().is_none() && rule.action == RuleAction::Pass {
                        continue;
                    }
                    let id = intern(owner.rule_name(direction, index as u32, rule.action));
                    rules.push(FlatRule::new(section, direction, rule, id));
                }
            };
        for (section, tier) in binding.tiers.iter().enumerate() {
            for policy in &tier.policies {
                add(section, &policy.owner, &policy.rules, intern);
            }
            let denying = tier.default_deny.then(|| {
                let policies = tier.policies.iter().filter_map(|policy| policy.owner.policy().cloned());
                let (tier, policies) = (Arc::clone(&tier.name), policies.collect());
                intern(RuleName::TierDefault { tier, direction, policies })
            });
            let end = denying.map_or(Outcome::NextSection, |name| Outcome::Decide(Packed::deny(name)));
            sections.push(Section { tier: Some(Arc::clone(&tier.name)), end });
        }
        let end = match &binding.fallback {
            Fallback::Profiles(profiles) => {
                for profile in profiles {
                    add(binding.tiers.len(), &profile.owner, &profile.rules, intern);
                }
                Outcome::Decide(Packed::deny(RuleId::NO_PROFILE_MATCH))
            }
            Fallback::Undecided => Outcome::NextSection,
        };
        sections.push(Section { tier: None, end });
        let has_logs = rules.iter().any(|rule| rule.outcome == Outcome::Log);
        let looks_at_local = rules.iter().any(|rule| rule.local.sets().next().is_some());
        let outcomes = rules.iter().map(|rule| rule.outcome).collect();
        List { direction, rules: rules.into(), outcomes, sections: sections.into(), has_logs, looks_at_local }
    }

    /// Judges by asking one rule after another, and tells `meet` of each. The classes are those of the flow's sides.
    pub(super) fn walk(
        &self,
        flow: &FlowTuple,
        local: &[Membership],
        peer: &[Membership],
        meet: &mut dyn FnMut(Met),
    ) -> Walked {
        let mut logs = Vec::new();
        let mut rules = self.rules.iter().enumerate().peekable();
        for (number, section) in self.sections.iter().enumerate() {
            let mut outcome = None;
            while let Some((place, rule)) = rules.next_if(|(_, rule)| rule.section == number) {
                if outcome.is_some() {
                    continue;
                }
                let matches = rule.matches(flow, local, peer);
                meet(Met::Rule(place, matches));
                match rule.outcome {
                    _ if !matches => {}
                    Outcome::Log => logs.push(rule.id),
                    decides => outcome = Some(decides),
                }
            }
            if outcome.is_none() {
                meet(Met::End(number));
            }
            if let Outcome::Decide(judgement) = outcome.unwrap_or(section.end) {
                return Walked { decided: Some(judgement), logs };
            }
        }
        Walked { decided: None, logs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_beyond_all_that_fit_is_not_taken_for_another_judgement() {
        for rule in [RuleId(1 << 30), RuleId(1 << 31), RuleId(u32::MAX)] {
            let (allow, deny) = (Packed::allow(rule), Packed::deny(rule));
            assert_eq!((allow.log_list(), deny.log_list()), (None, None));
            assert!(allow.unpack().allow && !deny.unpack().allow);
        }
        for id in [LogListId(7), LogListId(1 << 31 | 7)] {
            assert_eq!(Packed::logged(id).log_list(), Some(LogListId(7)));
        }
    }
}
