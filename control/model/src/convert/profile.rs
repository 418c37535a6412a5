//! Namespace, ServiceAccount and Profile → [`Profile`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

use super::calico_rule::rules;
use crate::calico;
use crate::labels::{Labels, key};
use crate::names;
use crate::policy::{Action, DEFAULT_ALLOW_PROFILE, Profile, Rule};

/// The profile of a namespace: allows what no policy has judged, and hands the namespace's labels down to its pods.
pub fn namespace_profile(namespace: &Namespace) -> Profile {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    Profile {
        name: names::namespace_profile(name),
        ingress: vec![Rule::any(Action::Allow)],
        egress: vec![Rule::any(Action::Allow)],
        labels: inherited(key::NAMESPACE_PREFIX, name, namespace.metadata.labels.as_ref()),
    }
}

/// The profile of a service account: no rules, only its labels for its pods.
pub fn service_account_profile(account: &ServiceAccount) -> Profile {
    let name = account.metadata.name.as_deref().unwrap_or_default();
    let namespace = account.metadata.namespace.as_deref().unwrap_or("default");
    Profile {
        name: names::service_account_profile(namespace, name),
        ingress: Vec::new(),
        egress: Vec::new(),
        labels: inherited(key::SERVICE_ACCOUNT_PREFIX, name, account.metadata.labels.as_ref()),
    }
}

/// The profile that exists without being written and allows everything.
pub fn default_allow_profile() -> Profile {
    Profile {
        name: DEFAULT_ALLOW_PROFILE.to_owned(),
        ingress: vec![Rule::any(Action::Allow)],
        egress: vec![Rule::any(Action::Allow)],
        labels: Labels::new(),
    }
}

/// Converts a Profile. Rules that cannot be converted are left out or deny, as those of policies; it is of no namespace.
pub fn profile(object: &calico::Profile) -> Profile {
    let spec = &object.spec;
    let mut dropped = Vec::new();
    Profile {
        name: object.metadata.name.clone().unwrap_or_default(),
        ingress: rules(None, "spec.ingress", spec.ingress.as_deref(), &mut dropped),
        egress: rules(None, "spec.egress", spec.egress.as_deref(), &mut dropped),
        labels: spec.labels_to_apply.as_ref().map(Labels::from).unwrap_or_default(),
    }
}

fn inherited(prefix: &str, name: &str, labels: Option<&BTreeMap<String, String>>) -> Labels {
    let mut inherited: Labels =
        labels.into_iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.as_str())).collect();
    inherited.set(format!("{prefix}{}", key::NAME), name);
    inherited
}
