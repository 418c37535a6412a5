//! Calico's policies, enforced and staged → [`Policy`].

use super::calico_rule::rules;
use super::converted::{ConvertedPolicy, DroppedRule};
use super::effective::{given, in_namespace, in_some_namespace};
use super::network_policy;
use crate::calico::{self, CommonPolicyFields, GlobalPolicyFields};
use crate::labels::key;
use crate::policy::{DEFAULT_TIER, Hook, Policy, PolicyKey, PolicyKind, StagedAction};
use crate::selector::Selector;

/// Converts a NetworkPolicy of Calico.
pub fn calico_network_policy(object: &calico::NetworkPolicy) -> ConvertedPolicy {
    Written {
        key: key_of(PolicyKind::NetworkPolicy, object),
        staged: None,
        common: object.spec.common(),
        global: GlobalPolicyFields::default(),
    }
    .convert()
}

/// Converts a GlobalNetworkPolicy.
pub fn global_network_policy(object: &calico::GlobalNetworkPolicy) -> ConvertedPolicy {
    Written {
        key: key_of(PolicyKind::GlobalNetworkPolicy, object),
        staged: None,
        common: object.spec.common(),
        global: object.spec.global(),
    }
    .convert()
}

/// Converts a StagedNetworkPolicy; `None` for one that would change nothing (`Learn`, `Ignore`).
pub fn staged_network_policy(object: &calico::StagedNetworkPolicy) -> Option<ConvertedPolicy> {
    let written = Written {
        key: key_of(PolicyKind::StagedNetworkPolicy, object),
        staged: Some(staged_action(object.spec.staged_action.as_deref())?),
        common: object.spec.common(),
        global: GlobalPolicyFields::default(),
    };
    Some(written.convert())
}

/// Converts a StagedGlobalNetworkPolicy; `None` for one that would change nothing (`Learn`, `Ignore`).
pub fn staged_global_network_policy(object: &calico::StagedGlobalNetworkPolicy) -> Option<ConvertedPolicy> {
    let written = Written {
        key: key_of(PolicyKind::StagedGlobalNetworkPolicy, object),
        staged: Some(staged_action(object.spec.staged_action.as_deref())?),
        common: object.spec.common(),
        global: object.spec.global(),
    };
    Some(written.convert())
}

/// Converts a StagedKubernetesNetworkPolicy; `None` for one that would change nothing (`Learn`, `Ignore`).
pub fn staged_kubernetes_network_policy(
    object: &calico::StagedKubernetesNetworkPolicy,
) -> Option<ConvertedPolicy> {
    let action = staged_action(object.spec.staged_action.as_deref())?;
    let mut converted = network_policy::of_spec(
        key_of(PolicyKind::StagedKubernetesNetworkPolicy, object),
        &network_policy::spec_of_staged(&object.spec),
    );
    converted.policy.staged = Some(action);
    if action == StagedAction::Delete {
        select_nothing(&mut converted.policy);
    }
    Some(converted)
}

/// What a staged policy would do; `None`: nothing.
fn staged_action(name: Option<&str>) -> Option<StagedAction> {
    match name {
        None | Some("" | "Set") => Some(StagedAction::Set),
        Some("Delete") => Some(StagedAction::Delete),
        Some(_) => None,
    }
}

fn key_of<S>(kind: PolicyKind, object: &calico::Manifest<S>) -> PolicyKey {
    let is_global = matches!(kind, PolicyKind::GlobalNetworkPolicy | PolicyKind::StagedGlobalNetworkPolicy);
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    PolicyKey {
        kind,
        namespace: (!is_global).then(|| namespace.to_owned()),
        name: object.metadata.name.clone().unwrap_or_default(),
    }
}

/// What all four kinds say, one way or another.
struct Written<'a> {
    key: PolicyKey,
    staged: Option<StagedAction>,
    common: CommonPolicyFields<'a>,
    global: GlobalPolicyFields<'a>,
}

impl Written<'_> {
    fn convert(self) -> ConvertedPolicy {
        let mut dropped = Vec::new();
        let namespace = self.key.namespace.as_deref();
        let hook = match (self.global.do_not_track, self.global.pre_dnat) {
            (true, _) => Hook::Untracked,
            (false, true) => Hook::PreDnat,
            (false, false) => Hook::Normal,
        };
        let (applies_to_ingress, applies_to_egress) = self.directions(hook);
        let mut rules_of = |applies: bool, field: &str, written: &[calico::Rule]| {
            rules(namespace, field, Some(written).filter(|_| applies), &mut dropped)
        };
        let ingress = rules_of(applies_to_ingress, "spec.ingress", self.common.ingress);
        let egress = rules_of(applies_to_egress, "spec.egress", self.common.egress);
        // As Calico does, one whose selectors cannot be read applies to nothing: to apply a policy for some to everything,
        // hosts among it, would cut off more than it protects.
        let selector = self.effective_selector().unwrap_or_else(|error| {
            dropped.push(error);
            nothing()
        });
        let mut policy = Policy {
            tier: self.common.tier.filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER).to_owned(),
            order: self.common.order,
            staged: self.staged,
            hook,
            apply_on_forward: self.global.apply_on_forward,
            applies_to_ingress,
            applies_to_egress,
            selector,
            ingress,
            egress,
            key: self.key,
        };
        if policy.staged == Some(StagedAction::Delete) {
            select_nothing(&mut policy);
        }
        ConvertedPolicy { policy, dropped }
    }

    /// Ingress and egress as `types` says, else as there are rules: unlike Kubernetes', a policy with egress rules only
    /// leaves ingress alone. Before DNAT there is only ingress.
    fn directions(&self, hook: Hook) -> (bool, bool) {
        let CommonPolicyFields { types, ingress, egress, .. } = self.common;
        let (ingress, egress) = if types.is_empty() {
            (egress.is_empty() || !ingress.is_empty(), !egress.is_empty())
        } else {
            (types.iter().any(|name| name == "Ingress"), types.iter().any(|name| name == "Egress"))
        };
        (ingress, egress && hook != Hook::PreDnat)
    }

    fn effective_selector(&self) -> Result<Selector, DroppedRule> {
        let selector = given("spec.selector", self.common.selector)?;
        let namespaces = given("spec.namespaceSelector", self.global.namespace_selector)?;
        let accounts = given("spec.serviceAccountSelector", self.common.service_account_selector)?;
        let accounts = accounts.map(|selector| selector.prefixed(key::SERVICE_ACCOUNT_PREFIX));
        if let Some(namespace) = &self.key.namespace {
            let here = Some(in_namespace(namespace));
            return Ok(Selector::and([selector, here, accounts].into_iter().flatten()));
        }
        // Where namespaces are selected, `all()` is all that is in one, in both selectors; `!all()` then is not nothing.
        let selected = match namespaces {
            None => selector,
            Some(namespaces) => {
                let everything = in_some_namespace();
                let namespaces = namespaces.prefixed(key::NAMESPACE_PREFIX);
                let both = selector.into_iter().chain([namespaces]);
                Some(Selector::and(both.map(|one| one.replacing(&Selector::All, &everything))))
            }
        };
        let accounts =
            accounts.map(|selector| selector.replacing(&Selector::All, &Selector::has(key::SERVICE_ACCOUNT)));
        Ok(Selector::and(selected.into_iter().chain(accounts)))
    }
}

fn nothing() -> Selector {
    Selector::All.negate()
}

/// A policy that is staged to delete another says nothing of its own.
fn select_nothing(policy: &mut Policy) {
    policy.applies_to_ingress = false;
    policy.applies_to_egress = false;
    policy.selector = nothing();
    policy.ingress.clear();
    policy.egress.clear();
}
