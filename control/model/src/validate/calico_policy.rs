//! Calico's policies, tiers and profiles.

use super::calico_format::{Global, selector};
use super::rule::{self, Direction, Scope};
use super::{Errors, format, metadata};
use crate::calico::{CommonPolicyFields, GlobalNetworkPolicySpec, NetworkPolicySpec, ProfileSpec, TierSpec};

/// NetworkPolicy.
pub(super) fn namespaced(spec: &NetworkPolicySpec, errors: &mut Errors) {
    common(spec.common(), Scope::Namespaced, errors);
}

/// GlobalNetworkPolicy.
pub(super) fn global(spec: &GlobalNetworkPolicySpec, errors: &mut Errors) {
    let common_fields = spec.common();
    common(common_fields, Scope::Global, errors);
    selector("spec.namespaceSelector", &spec.namespace_selector, Global::Never, errors);
    let hooks = Hooks {
        apply_on_forward: spec.apply_on_forward == Some(true),
        do_not_track: spec.do_not_track == Some(true),
        pre_dnat: spec.pre_dnat == Some(true),
    };
    hooks.validate(common_fields, errors);
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
        selector(field, &text.map(str::to_owned), Global::Never, errors);
    }
    errors.set_of("spec.types", spec.types, &["Ingress", "Egress"]);
    errors.set_of("spec.performanceHints", spec.performance_hints, &["AssumeNeededOnEveryNode"]);
}

/// Where a policy for host endpoints takes effect.
pub(super) struct Hooks {
    pub(super) apply_on_forward: bool,
    pub(super) do_not_track: bool,
    pub(super) pre_dnat: bool,
}

impl Hooks {
    pub(super) fn validate(&self, spec: CommonPolicyFields<'_>, errors: &mut Errors) {
        if self.pre_dnat && self.do_not_track {
            errors.forbidden("spec.preDNAT", "may not be true together with `doNotTrack`");
        }
        if (self.pre_dnat || self.do_not_track) && !self.apply_on_forward {
            let of = if self.pre_dnat { "preDNAT" } else { "doNotTrack" };
            errors.required(
                "spec.applyOnForward",
                &format!("must be true when `{of}` is: it sees what is forwarded"),
            );
        }
        if self.pre_dnat {
            let why = "a preDNAT policy can only be for ingress";
            if !spec.egress.is_empty() {
                errors.forbidden("spec.egress", why);
            }
            if spec.types.iter().any(|name| name == "Egress") {
                errors.forbidden("spec.types", why);
            }
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
