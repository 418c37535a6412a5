//! Staged policies: what the policy would be, or that it would go.

use k8s_openapi::api::networking::v1::NetworkPolicySpec as KubernetesSpec;

use super::calico_policy::{common, hooks, namespaces};
use super::rule::Scope;
use super::{Errors, given, network_policy};
use crate::calico::{
    CommonPolicyFields, StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicySpec,
    StagedNetworkPolicySpec,
};

/// StagedNetworkPolicy.
pub(super) fn namespaced(spec: &StagedNetworkPolicySpec, errors: &mut Errors) {
    let common_fields = spec.common();
    common(common_fields, Scope::Namespaced, errors);
    if is_deletion(&spec.staged_action, errors) {
        nothing_said(&common_parts(common_fields), errors);
    }
}

/// StagedGlobalNetworkPolicy.
pub(super) fn global(spec: &StagedGlobalNetworkPolicySpec, errors: &mut Errors) {
    let common_fields = spec.common();
    common(common_fields, Scope::Global, errors);
    let global_fields = spec.global();
    namespaces(global_fields, errors);
    if is_deletion(&spec.staged_action, errors) {
        nothing_said(&common_parts(common_fields), errors);
        let own = [
            ("namespaceSelector", given(&spec.namespace_selector).is_some()),
            ("applyOnForward", global_fields.apply_on_forward),
            ("doNotTrack", global_fields.do_not_track),
            ("preDNAT", global_fields.pre_dnat),
        ];
        nothing_said(&own, errors);
    } else {
        hooks(common_fields, global_fields, errors);
    }
}

/// StagedKubernetesNetworkPolicy.
pub(super) fn kubernetes(spec: &StagedKubernetesNetworkPolicySpec, errors: &mut Errors) {
    let policy = KubernetesSpec {
        pod_selector: spec.pod_selector.clone(),
        ingress: spec.ingress.clone(),
        egress: spec.egress.clone(),
        policy_types: spec.policy_types.clone(),
    };
    network_policy::spec(&policy, errors);
    if is_deletion(&spec.staged_action, errors) {
        let selects = spec.pod_selector.as_ref().is_some_and(|selector| {
            selector.match_labels.as_ref().is_some_and(|labels| !labels.is_empty())
                || selector.match_expressions.as_ref().is_some_and(|terms| !terms.is_empty())
        });
        let parts = [
            ("podSelector", selects),
            ("ingress", spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty())),
            ("egress", spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
            ("policyTypes", spec.policy_types.as_ref().is_some_and(|types| !types.is_empty())),
        ];
        nothing_said(&parts, errors);
    }
}

/// Whether the policy of this name would go.
fn is_deletion(action: &Option<String>, errors: &mut Errors) -> bool {
    errors.one_of("spec.stagedAction", action, &["Set", "Delete", "Learn", "Ignore"]);
    action.as_deref() == Some("Delete")
}

/// The fields of a policy, and whether each is given.
fn common_parts(spec: CommonPolicyFields<'_>) -> [(&'static str, bool); 7] {
    [
        ("order", spec.order.is_some()),
        ("ingress", !spec.ingress.is_empty()),
        ("egress", !spec.egress.is_empty()),
        ("selector", spec.selector.is_some_and(|text| !text.is_empty())),
        ("serviceAccountSelector", spec.service_account_selector.is_some_and(|text| !text.is_empty())),
        ("types", !spec.types.is_empty()),
        ("performanceHints", !spec.performance_hints.is_empty()),
    ]
}

fn nothing_said(parts: &[(&str, bool)], errors: &mut Errors) {
    for (name, _) in parts.iter().filter(|(_, is_given)| *is_given) {
        errors.forbidden(
            &format!("spec.{name}"),
            "must not be given with `stagedAction` Delete: the policy would go",
        );
    }
}
