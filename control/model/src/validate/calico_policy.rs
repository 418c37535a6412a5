//! Calico's policies, tiers and profiles.

use super::calico_format::{Global, selector};
use super::rule::{self, Direction, Scope};
use super::{Errors, format, metadata};
use crate::calico::{
    CommonPolicyFields, GlobalNetworkPolicySpec, GlobalPolicyFields, NetworkPolicySpec, ProfileSpec, TierSpec,
};

/// NetworkPolicy.
pub(super) fn namespaced(spec: &NetworkPolicySpec, errors: &mut Errors) {
    common(spec.common(), Scope::Namespaced, errors);
}

/// GlobalNetworkPolicy.
pub(super) fn global(spec: &GlobalNetworkPolicySpec, errors: &mut Errors) {
    common(spec.common(), Scope::Global, errors);
    namespaces(spec.global(), errors);
    hooks(spec.common(), spec.global(), errors);
}

/// What every kind of policy says.
pub(super) fn common(spec: CommonPolicyFields<'_>, scope: Scope, errors: &mut Errors) {
    if let Some(tier) = spec.tier {
        errors.check("spec.tier", tier, format::dns_label(tier));
    }
    rule::validate("spec.ingress", spec.ingress, Direction::Ingress, scope, errors);
    rule::validate("spec.egress", spec.egress, Direction::Egress, scope, errors);
    for (field, text) in
        [("spec.selector", spec.selector), ("spec.serviceAccountSelector", spec.service_account_selector)]
    {
        selector(field, text, Global::Never, errors);
    }
    errors.set_of("spec.types", spec.types, &["Ingress", "Egress"]);
    errors.set_of("spec.performanceHints", spec.performance_hints, &["AssumeNeededOnEveryNode"]);
}

/// In which namespaces a policy of none applies.
pub(super) fn namespaces(global: GlobalPolicyFields<'_>, errors: &mut Errors) {
    selector("spec.namespaceSelector", global.namespace_selector, Global::Never, errors);
}

/// Where a policy for host endpoints takes effect.
pub(super) fn hooks(common: CommonPolicyFields<'_>, global: GlobalPolicyFields<'_>, errors: &mut Errors) {
    if global.pre_dnat && global.do_not_track {
        errors.forbidden("spec.preDNAT", "may not be true together with `doNotTrack`");
    }
    if (global.pre_dnat || global.do_not_track) && !global.apply_on_forward {
        let of = if global.pre_dnat { "preDNAT" } else { "doNotTrack" };
        errors.required(
            "spec.applyOnForward",
            &format!("must be true when `{of}` is: it sees what is forwarded"),
        );
    }
    if global.pre_dnat {
        let why = "a preDNAT policy can only be for ingress";
        if !common.egress.is_empty() {
            errors.forbidden("spec.egress", why);
        }
        if common.types.iter().any(|name| name == "Egress") {
            errors.forbidden("spec.types", why);
        }
    }
}

/// Tier.
pub(super) fn tier(spec: &TierSpec, errors: &mut Errors) {
    errors.one_of("spec.defaultAction", &spec.default_action, &["Deny", "Pass"]);
}

/// Profile.
pub(super) fn profile(spec: &ProfileSpec, errors: &mut Errors) {
    let rules = |rules: &Option<Vec<_>>| rules.clone().unwrap_or_default();
    rule::validate("spec.ingress", &rules(&spec.ingress), Direction::Ingress, Scope::Global, errors);
    rule::validate("spec.egress", &rules(&spec.egress), Direction::Egress, Scope::Global, errors);
    if let Some(labels) = &spec.labels_to_apply {
        metadata::labels("spec.labelsToApply", labels, errors);
    }
}
