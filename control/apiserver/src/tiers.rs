//! What Calico's servers do for tiers: three are there from the start and stay, and none goes while policies stand in it.

use std::sync::Arc;

use caracal_model::object::Kind;
use serde_json::{Value, json};

use crate::App;
use crate::kinds::RESOURCES;
use crate::namespaces::make;
use crate::status::ApiError;
use crate::store::Range;

/// Tiers that are there from the start, and may be changed but not deleted: name, order, default action.
const INITIAL: [(&str, f64, &str); 3] = [
    ("default", 1_000_000.0, "Deny"),
    ("kube-admin", 1_000.0, "Pass"),
    ("kube-baseline", 10_000_000.0, "Pass"),
];

/// How many policies a refusal names.
const NAMED: usize = 5;

/// Makes those that are missing.
pub async fn start(app: &Arc<App>) -> Result<(), ApiError> {
    let Some(resource) = RESOURCES.iter().find(|row| row.kind == Kind::Tier.as_str()) else { return Ok(()) };
    for (name, order, default_action) in INITIAL {
        let spec = json!({ "order": order, "defaultAction": default_action });
        make(app, resource, &json!({ "metadata": { "name": name }, "spec": spec }), None).await?;
    }
    Ok(())
}

/// Why a tier may not be deleted, if it may not.
pub fn keeps(app: &App, name: &str) -> Result<Option<String>, ApiError> {
    if INITIAL.iter().any(|(initial, ..)| *initial == name) {
        return Ok(Some("this tier is always there and cannot be deleted".into()));
    }
    let mut policies = Vec::new();
    for resource in RESOURCES.iter().filter(|row| row.group == "projectcalico.org") {
        if !(resource.kind.ends_with("NetworkPolicy") && resource.kind != "StagedKubernetesNetworkPolicy") {
            continue;
        }
        let range = Range { resource: resource.qualified(), namespace: None };
        for (key, stored) in app.store.list(&range, None, None)?.items {
            if tier_of(&stored.value) == name {
                let namespace =
                    if key.namespace.is_empty() { String::new() } else { format!("{}/", key.namespace) };
                policies.push(format!("{} {namespace}{}", resource.kind, key.name));
            }
        }
    }
    if policies.is_empty() {
        return Ok(None);
    }
    let more = policies.len().saturating_sub(NAMED);
    policies.truncate(NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Ok(Some(format!(
        "the tier is not empty: {}{more} stand in it; delete them or move them to another tier first",
        policies.join(", ")
    )))
}

fn tier_of(policy: &Value) -> &str {
    match policy.pointer("/spec/tier").and_then(Value::as_str) {
        None | Some("") => "default",
        Some(tier) => tier,
    }
}
