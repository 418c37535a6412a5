//! Tier → [`Tier`], and the tiers that there are without being written.

use crate::calico;
use crate::object::Object;
use crate::policy::{Action, DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER, Tier};

/// Converts a Tier; one that does not say what becomes of unmatched traffic denies it.
pub fn tier(object: &calico::Tier) -> Tier {
    Tier {
        name: object.metadata.name.clone().unwrap_or_default(),
        order: object.spec.order,
        default_action: match object.spec.default_action.as_deref() {
            Some("Pass") => Action::Pass,
            _ => Action::Deny,
        },
    }
}

/// The tier that a policy stands in, whether it names it or not; `None`: that is no policy of a tier.
pub fn tier_of(object: &Object) -> Option<&str> {
    let tier = match object {
        Object::CalicoNetworkPolicy(policy) => &policy.spec.tier,
        Object::GlobalNetworkPolicy(policy) => &policy.spec.tier,
        Object::StagedNetworkPolicy(policy) => &policy.spec.tier,
        Object::StagedGlobalNetworkPolicy(policy) => &policy.spec.tier,
        _ => return None,
    };
    Some(tier.as_deref().filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER))
}

/// The tiers that exist unless an object of their name says otherwise.
pub fn well_known_tiers() -> [Tier; 3] {
    let tier = |name: &str, order: f64, default_action| Tier {
        name: name.to_owned(),
        order: Some(order),
        default_action,
    };
    [
        tier(KUBE_ADMIN_TIER, 1_000.0, Action::Pass),
        tier(DEFAULT_TIER, 1_000_000.0, Action::Deny),
        tier(KUBE_BASELINE_TIER, 10_000_000.0, Action::Pass),
    ]
}
