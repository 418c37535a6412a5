//! What one object means to others: three tiers are there from the start, a tier stays while policies stand in it, and a
//! pool does not come beside one that it overlaps.

use std::sync::Arc;

use caracal_model::convert::well_known_tiers;
use caracal_model::object::{FieldError, Kind, Object};
use caracal_model::policy::Action;
use serde_json::{Value, json};

use crate::App;
use crate::kinds::{NATIVE, Resource};
use crate::namespaces::make;
use crate::status::ApiError;
use crate::store::Range;

/// The kinds that a tier is for.
const POLICIES: [Kind; 4] = [
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
];
/// The kinds that a pool must go together with.
const POOLS: [Kind; 2] = [Kind::IPPool, Kind::IPAMBlock];

/// How many reasons a refusal names.
const NAMED: usize = 5;

/// Makes the tiers that are there from the start, if they are missing.
pub async fn start(app: &Arc<App>) -> Result<(), ApiError> {
    let Some(resource) = row(Kind::Tier) else { return Ok(()) };
    for tier in well_known_tiers() {
        let default_action = if tier.default_action == Action::Pass { "Pass" } else { "Deny" };
        let spec = json!({ "order": tier.order, "defaultAction": default_action });
        make(app, resource, &json!({ "metadata": { "name": tier.name }, "spec": spec }), None).await?;
    }
    Ok(())
}

/// Refuses an object that may not come beside what is there.
pub fn may_come(app: &App, resource: &Resource, name: &str, object: &Value) -> Result<(), ApiError> {
    let Some(object) = typed(resource, object) else { return Ok(()) };
    let beside: &[Kind] = if object.kind() == Kind::IPPool { &POOLS } else { &[] };
    let errors = object.validate_creation(&all(app, beside)?);
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, name, &errors)) }
}

/// Refuses the end of an object that others need.
pub fn may_go(app: &App, resource: &Resource, name: &str, object: &Value) -> Result<(), ApiError> {
    let Some(object) = typed(resource, object) else { return Ok(()) };
    let needed_by: &[Kind] = if object.kind() == Kind::Tier { &POLICIES } else { &[] };
    let errors = object.validate_deletion(&all(app, needed_by)?);
    if errors.is_empty() {
        return Ok(());
    }
    let more = errors.len().saturating_sub(NAMED);
    let told: Vec<String> = errors.iter().take(NAMED).map(FieldError::to_string).collect();
    let more = if more == 0 { String::new() } else { format!(", and {more} more reasons") };
    Err(ApiError::forbidden(resource, name, &format!("{}{more}", told.join(", "))))
}

/// A custom resource as the model knows it; the built-in kinds do not depend on each other.
fn typed(resource: &Resource, object: &Value) -> Option<Object> {
    resource.custom.then(|| Object::from_value_lenient(object.clone()).ok()).flatten().map(|(typed, _)| typed)
}

fn row(kind: Kind) -> Option<&'static Resource> {
    NATIVE
        .iter()
        .map(Arc::as_ref)
        .find(|row| row.api_version() == kind.api_version() && row.plural == kind.plural())
}

/// All objects of some kinds.
fn all(app: &App, kinds: &[Kind]) -> Result<Vec<Object>, ApiError> {
    let mut objects = Vec::new();
    for resource in kinds.iter().filter_map(|kind| row(*kind)) {
        let range = Range { resource: resource.qualified(), namespace: None };
        let listed = app.store.list(&range, None, None)?.items;
        objects.extend(listed.iter().filter_map(|(_, stored)| typed(resource, &stored.value)));
    }
    Ok(objects)
}
