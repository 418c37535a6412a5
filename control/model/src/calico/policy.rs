//! Policies: those that are enforced, and those that are staged.

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Rule;

macro_rules! policy_spec {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// The tier it stands in; `default` when not given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub tier: Option<String>,
            /// Its place in the tier, ascending; last when not given.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub order: Option<f64>,
            /// For traffic to the endpoints it applies to.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub ingress: Option<Vec<Rule>>,
            /// For traffic from them.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub egress: Option<Vec<Rule>>,
            /// Which endpoints it applies to.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub selector: Option<String>,
            /// …that run as such service accounts.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub service_account_selector: Option<String>,
            /// `Ingress`, `Egress`: the directions it speaks for.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub types: Option<Vec<String>>,
            /// `AssumeNeededOnEveryNode`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub performance_hints: Option<Vec<String>>,
            $(
                $(#[$field_doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: $type,
            )*
        }

        impl $name {
            /// What it has in common with the other kinds.
            pub fn common(&self) -> CommonPolicyFields<'_> {
                CommonPolicyFields {
                    tier: self.tier.as_deref(),
                    order: self.order,
                    ingress: self.ingress.as_deref().unwrap_or_default(),
                    egress: self.egress.as_deref().unwrap_or_default(),
                    selector: self.selector.as_deref(),
                    service_account_selector: self.service_account_selector.as_deref(),
                    types: self.types.as_deref().unwrap_or_default(),
                    performance_hints: self.performance_hints.as_deref().unwrap_or_default(),
                }
            }
        }
    };
}

/// The fields that every kind of policy has; a list that is not given is empty.
#[derive(Debug, Clone, Copy)]
pub struct CommonPolicyFields<'a> {
    /// As in the specification.
    pub tier: Option<&'a str>,
    /// As in the specification.
    pub order: Option<f64>,
    /// As in the specification.
    pub ingress: &'a [Rule],
    /// As in the specification.
    pub egress: &'a [Rule],
    /// As in the specification.
    pub selector: Option<&'a str>,
    /// As in the specification.
    pub service_account_selector: Option<&'a str>,
    /// As in the specification.
    pub types: &'a [String],
    /// As in the specification.
    pub performance_hints: &'a [String],
}

/// The fields that a policy for endpoints of all namespaces has beside them; by default as in one that has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct GlobalPolicyFields<'a> {
    /// As in the specification.
    pub namespace_selector: Option<&'a str>,
    /// As in the specification.
    pub apply_on_forward: bool,
    /// As in the specification.
    pub do_not_track: bool,
    /// As in the specification.
    pub pre_dnat: bool,
}

macro_rules! global_policy_fields {
    ($($spec:ident)*) => {$(
        impl $spec {
            /// What it has beside what all kinds have in common.
            pub fn global(&self) -> GlobalPolicyFields<'_> {
                GlobalPolicyFields {
                    namespace_selector: self.namespace_selector.as_deref(),
                    apply_on_forward: self.apply_on_forward == Some(true),
                    do_not_track: self.do_not_track == Some(true),
                    pre_dnat: self.pre_dnat == Some(true),
                }
            }
        }
    )*};
}

global_policy_fields! { GlobalNetworkPolicySpec StagedGlobalNetworkPolicySpec }

policy_spec! {
    /// A policy for the endpoints of its namespace.
    NetworkPolicySpec {}
}

policy_spec! {
    /// A policy for endpoints of all namespaces, and for host endpoints.
    GlobalNetworkPolicySpec {
        /// …in namespaces with such labels.
        namespace_selector: Option<String>,
        /// On host endpoints: also for what the host forwards.
        apply_on_forward: Option<bool>,
        /// On host endpoints: before connection tracking.
        do_not_track: Option<bool>,
        /// On host endpoints: before destinations are translated.
        #[serde(rename = "preDNAT")]
        pre_dnat: Option<bool>,
    }
}

policy_spec! {
    /// A NetworkPolicy that enforces nothing.
    StagedNetworkPolicySpec {
        /// `Set`, `Delete`, `Learn` or `Ignore`: what would become of the policy of this name.
        staged_action: Option<String>,
    }
}

policy_spec! {
    /// A GlobalNetworkPolicy that enforces nothing.
    StagedGlobalNetworkPolicySpec {
        /// `Set`, `Delete`, `Learn` or `Ignore`: what would become of the policy of this name.
        staged_action: Option<String>,
        /// …in namespaces with such labels.
        namespace_selector: Option<String>,
        /// On host endpoints: also for what the host forwards.
        apply_on_forward: Option<bool>,
        /// On host endpoints: before connection tracking.
        do_not_track: Option<bool>,
        /// On host endpoints: before destinations are translated.
        #[serde(rename = "preDNAT")]
        pre_dnat: Option<bool>,
    }
}

/// A Kubernetes NetworkPolicy that enforces nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    /// `Set`, `Delete`, `Learn` or `Ignore`: what would become of the policy of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<String>,
    /// As in Kubernetes' NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// As in Kubernetes' NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<NetworkPolicyIngressRule>>,
    /// As in Kubernetes' NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<NetworkPolicyEgressRule>>,
    /// As in Kubernetes' NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<String>>,
}
