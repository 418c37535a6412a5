//! Tiers, and the order in which policies judge: tiers by order and name, and the policies of a tier by order and the
//! bytes of `name/namespace/kind`. What has no order comes last, and a tier that nobody has made after all others.

use std::collections::BTreeMap;

use caracal_model::convert::well_known_tiers;
use caracal_model::policy::{Action, Policy, Tier};
use caracal_plane_api as plane;

use crate::plane::{action, policy_id};

/// A number for an order: ascending as orders are, none the last.
fn rank(order: Option<f64>) -> u64 {
    // Adding zero makes one zero of the two that there are.
    let bits = (order.unwrap_or(f64::INFINITY) + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// A policy and its place in its tier.
#[derive(Debug)]
pub(crate) struct Ranked {
    pub policy: Policy,
    order: u64,
    tie: String,
}

impl Ranked {
    pub fn new(policy: Policy) -> Self {
        let (key, namespace) = (&policy.key, policy.key.namespace.as_deref().unwrap_or_default());
        // What is staged stands where the policy that it would be stands. No list has both.
        let tie = format!("{}/{namespace}/{}", key.name, key.kind.enforced().as_str());
        Self { order: rank(policy.order), tie, policy }
    }
}

/// What becomes of traffic that policies of a tier apply to and none has judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndOfTier {
    /// What the tier says.
    Default,
    /// It goes on.
    Pass,
}

/// All tiers.
#[derive(Debug)]
pub(crate) struct Tiers(BTreeMap<String, Tier>);

impl Tiers {
    /// Those that exist without being written.
    pub fn new() -> Self {
        Self(well_known_tiers().into_iter().map(|tier| (tier.name.clone(), tier)).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The tier is there, like this, or is as if nobody had written it. Returns whether that is a change.
    pub fn set(&mut self, name: &str, tier: Option<Tier>) -> bool {
        let tier = tier.or_else(|| well_known_tiers().into_iter().find(|tier| tier.name == name));
        if self.0.get(name) == tier.as_ref() {
            return false;
        }
        match tier {
            Some(tier) => drop(self.0.insert(name.to_owned(), tier)),
            None => drop(self.0.remove(name)),
        }
        true
    }

    /// The tiers of policies, with the policies, each in order.
    pub fn bind<'a>(
        &self,
        policies: impl Iterator<Item = &'a Ranked>,
        end: EndOfTier,
    ) -> Vec<plane::TierBinding> {
        let mut by_tier: BTreeMap<&str, Vec<&Ranked>> = BTreeMap::new();
        for ranked in policies {
            by_tier.entry(&ranked.policy.tier).or_default().push(ranked);
        }
        let mut tiers: Vec<(&str, Vec<&Ranked>)> = by_tier.into_iter().collect();
        // Stable: equal ranks stay in the order of names.
        tiers.sort_by_key(|(name, _)| {
            let tier = self.0.get(*name);
            (tier.is_none(), rank(tier.and_then(|tier| tier.order)))
        });
        let binding = |(name, mut policies): (&str, Vec<&Ranked>)| {
            policies.sort_by(|a, b| (a.order, &a.tie).cmp(&(b.order, &b.tie)));
            let default = match end {
                EndOfTier::Default => self.0.get(name).map_or(Action::Deny, |tier| tier.default_action),
                EndOfTier::Pass => Action::Pass,
            };
            plane::TierBinding {
                tier: name.to_owned(),
                default_action: action(default),
                policies: policies.iter().map(|ranked| policy_id(&ranked.policy.key)).collect(),
            }
        };
        tiers.into_iter().map(binding).collect()
    }
}

#[cfg(test)]
mod tests {
    use caracal_model::policy::{Hook, PolicyKey, PolicyKind};
    use caracal_model::selector::Selector;

    use super::*;

    fn policy(tier: &str, order: Option<f64>, namespace: Option<&str>, name: &str) -> Ranked {
        let kind =
            if namespace.is_some() { PolicyKind::NetworkPolicy } else { PolicyKind::GlobalNetworkPolicy };
        Ranked::new(Policy {
            key: PolicyKey { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() },
            tier: tier.to_owned(),
            order,
            staged: None,
            hook: Hook::Normal,
            apply_on_forward: false,
            applies_to_ingress: true,
            applies_to_egress: true,
            selector: Selector::All,
            ingress: Vec::new(),
            egress: Vec::new(),
        })
    }

    fn tier(name: &str, order: Option<f64>) -> Option<Tier> {
        Some(Tier { name: name.to_owned(), order, default_action: Action::Pass })
    }

    #[test]
    fn what_is_staged_stands_where_the_policy_that_it_would_be_stands() {
        let mut staged = policy("default", Some(1000.0), Some("x"), "p");
        staged.policy.key.kind = PolicyKind::StagedKubernetesNetworkPolicy;
        staged.policy.staged = Some(caracal_model::policy::StagedAction::Set);
        let (staged, enforced) =
            (Ranked::new(staged.policy), policy("default", Some(1000.0), Some("x"), "p"));
        let bound = Tiers::new().bind([&enforced, &staged].into_iter(), EndOfTier::Default);
        let kinds: Vec<&str> = bound[0].policies.iter().map(|policy| policy.kind.as_str()).collect();
        assert_eq!(kinds, ["StagedKubernetesNetworkPolicy", "NetworkPolicy"]);
    }

    #[test]
    fn orders_rank_as_numbers_and_none_ranks_last() {
        let ascending = [Some(-1e300), Some(-2.0), Some(-0.5), Some(0.0), Some(1e-300), Some(7.0), None];
        for pair in ascending.windows(2) {
            assert!(rank(pair[0]) < rank(pair[1]), "{pair:?}");
        }
        assert_eq!(rank(Some(-0.0)), rank(Some(0.0)));
    }

    #[test]
    fn tiers_stand_by_order_then_name_and_unknown_ones_stand_last_and_deny() {
        let mut tiers = Tiers::new();
        for (name, order) in
            [("z", Some(-5.0)), ("b", None), ("a", None), ("first", Some(1.0)), ("also", Some(1.0))]
        {
            assert!(tiers.set(name, tier(name, order)));
        }
        assert!(!tiers.set("a", tier("a", None)));
        let names = ["unknown", "a", "default", "b", "kube-baseline", "first", "z", "kube-admin", "also"];
        let policies: Vec<Ranked> = names.iter().map(|name| policy(name, None, None, "p")).collect();
        let bound = tiers.bind(policies.iter(), EndOfTier::Default);
        let order: Vec<&str> = bound.iter().map(|binding| binding.tier.as_str()).collect();
        assert_eq!(
            order,
            ["z", "also", "first", "kube-admin", "default", "kube-baseline", "a", "b", "unknown"]
        );
        let denies: Vec<&str> = bound
            .iter()
            .filter(|binding| binding.default_action == plane::Action::Deny as i32)
            .map(|binding| binding.tier.as_str())
            .collect();
        assert_eq!(denies, ["default", "unknown"]);
        let passes = tiers.bind(policies.iter(), EndOfTier::Pass);
        assert!(passes.iter().all(|binding| binding.default_action == plane::Action::Pass as i32));
    }

    #[test]
    fn a_well_known_tier_is_as_its_object_says_while_that_is_there() {
        let mut tiers = Tiers::new();
        let policies = [policy("default", None, None, "p")];
        let default_action =
            |tiers: &Tiers| tiers.bind(policies.iter(), EndOfTier::Default)[0].default_action;
        assert!(tiers.set("default", tier("default", Some(1.0))));
        assert_eq!(default_action(&tiers), plane::Action::Pass as i32);
        assert!(tiers.set("default", None));
        assert_eq!(default_action(&tiers), plane::Action::Deny as i32);
    }

    #[test]
    fn policies_stand_by_order_then_by_name_namespace_and_kind() {
        let policies = [
            policy("default", None, None, "a"),
            policy("default", Some(2.0), Some("y"), "b"),
            policy("default", Some(2.0), None, "b"),
            policy("default", Some(2.0), Some("x"), "b"),
            policy("default", Some(2.0), Some("x"), "b-b"),
            policy("default", Some(-2.0), None, "z"),
        ];
        let bound = Tiers::new().bind(policies.iter(), EndOfTier::Default);
        let order: Vec<String> =
            bound[0].policies.iter().map(|id| format!("{}/{}", id.namespace, id.name)).collect();
        assert_eq!(order, ["/z", "x/b-b", "/b", "x/b", "y/b", "/a"]);
    }
}
