//! The walk through tiers, policies, rules and profiles (calico-style): the first rule that matches decides.

use super::cluster::{Cluster, Party};
use super::policies::{Hook, Policies, Policy};
use super::rule::{Action, Question, Rule};

/// Seen from the endpoint whose policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// Which policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// What a workload sends and receives, and what ends or starts on the host.
    Normal,
    /// What the host forwards.
    Forward,
    Untracked,
    PreDnat,
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Deny,
    /// Nothing was decided here.
    GoOn,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn rules<'r, 'a>(self, policy: &'r Policy<'a>) -> Option<&'r [Rule<'a>]> {
        match self {
            Self::Ingress => policy.is_for_ingress.then_some(&policy.ingress),
            Self::Egress => policy.is_for_egress.then_some(&policy.egress),
        }
    }
}

impl Class {
    fn asks(self, policy: &Policy<'_>, direction: Direction) -> bool {
        match self {
            Self::Normal => policy.hook == Hook::Normal,
            Self::Forward => policy.hook == Hook::Normal && policy.applies_on_forward,
            Self::Untracked => policy.hook == Hook::Untracked,
            Self::PreDnat => policy.hook == Hook::PreDnat && direction == Direction::Ingress,
        }
    }
}

fn decided(verdict: Verdict, why: String) -> Decision {
    Decision { verdict, why }
}

/// What the policies of `party` say of a packet that it sends or is to receive.
pub(super) fn walk(
    cluster: &Cluster<'_>,
    policies: &Policies<'_>,
    party: &Party,
    direction: Direction,
    class: Class,
    question: &Question<'_>,
) -> Decision {
    let way = direction.name();
    'tiers: for tier in &policies.tiers {
        let mut last = None;
        for policy in &tier.policies {
            let Some(rules) = direction.rules(policy) else { continue };
            if !class.asks(policy, direction) || !policy.applies_to(&party.labels) {
                continue;
            }
            last = Some(policy.title());
            for rule in rules {
                if rule.action == Action::Log || !rule.matches(cluster, question) {
                    continue;
                }
                let why = || format!("tier {} · {} · {}", tier.name, policy.title(), rule.place);
                match rule.action {
                    Action::Allow => return decided(Verdict::Allow, why()),
                    Action::Deny => return decided(Verdict::Deny, why()),
                    Action::Pass | Action::Log => continue 'tiers,
                }
            }
        }
        let drops_at_end = matches!(class, Class::Normal | Class::Forward) && !tier.passes;
        if let Some(policy) = last.filter(|_| drops_at_end) {
            let why =
                format!("tier {} · {way} default · {policy} was the last that no rule matched of", tier.name);
            return decided(Verdict::Deny, why);
        }
    }
    match class {
        Class::Normal => profiles(cluster, party, direction, question),
        Class::Forward => decided(Verdict::Allow, format!("{}: no policy for what is forwarded", party.name)),
        Class::Untracked | Class::PreDnat => decided(Verdict::GoOn, String::new()),
    }
}

fn profiles(cluster: &Cluster<'_>, party: &Party, direction: Direction, question: &Question<'_>) -> Decision {
    let way = direction.name();
    for name in &party.profiles {
        let (ingress, egress) = cluster.profile_rules(name);
        let rules = if direction == Direction::Ingress { ingress } else { egress };
        for rule in rules.iter().filter(|rule| rule.matches(cluster, question)) {
            let why = || format!("profile {name} · {way} of {}", party.name);
            match rule.action {
                Action::Allow => return decided(Verdict::Allow, why()),
                Action::Deny => return decided(Verdict::Deny, why()),
                Action::Pass | Action::Log => {}
            }
        }
    }
    decided(Verdict::Deny, format!("{way} of {}: no profile allows it", party.name))
}
