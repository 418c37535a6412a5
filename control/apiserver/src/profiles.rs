//! Profiles: one for each namespace and service account, and one that allows everything. They are made from those when
//! they are read, as where Calico keeps its data in Kubernetes, and cannot be written.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use caracal_model::convert::{namespace_profile, service_account_profile};
use caracal_model::object::{Kind, Object};
use caracal_model::policy::Profile;
use serde_json::{Map, Value, json};

use crate::App;
use crate::handlers::view;
use crate::kinds::{NATIVE, Resource};
use crate::metadata;
use crate::path::Target;
use crate::request::Query;
use crate::selector::Selection;
use crate::status::{ApiError, json_response};
use crate::store::Range;
use crate::view::ListMeta;

/// The profile that allows everything: that of host endpoints that are made for nodes.
const ALLOW: &str = "projectcalico-default-allow";

/// What can be done with profiles.
pub const VERBS: [&str; 2] = ["get", "list"];

/// Whether these are the objects of a row.
pub fn are(resource: &Resource) -> bool {
    resource.kind == Kind::Profile.as_str() && resource.api_version() == Kind::Profile.api_version()
}

/// Answers a request for profiles.
pub fn answer(
    app: &App,
    method: &Method,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let resource = &target.resource;
    if *method != Method::GET || Query::flag("watch", &query.watch)? {
        let why = "profiles are made from namespaces and service accounts: they can be read and listed, \
                   but neither written nor watched";
        return Err(ApiError { message: why.into(), ..ApiError::method_not_allowed() });
    }
    let view = view(query, headers)?;
    let (profiles, revision) = all(app)?;
    if let Some(name) = &target.name {
        let found = profiles.iter().find(|profile| metadata::field(profile, "name") == name);
        let found = found.ok_or_else(|| ApiError::not_found(resource, name))?;
        return Ok(json_response(StatusCode::OK, &view.object(resource, found, true)));
    }
    let selection = Selection::parse(resource, &query.label_selector, &query.field_selector)?;
    let shown: Vec<&Value> = profiles.iter().filter(|profile| selection.matches(profile)).collect();
    let meta = ListMeta { revision, ..ListMeta::default() };
    let mut response = Response::new(Body::from(view.list(resource, &shown, &meta)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// All of them, by name, at one revision.
fn all(app: &App) -> Result<(Vec<Value>, u64), ApiError> {
    let revision = app.store.revision();
    let mut profiles = vec![json!({
        "apiVersion": Kind::Profile.api_version(), "kind": Kind::Profile.as_str(),
        "metadata": { "name": ALLOW, "resourceVersion": "0" },
        "spec": { "ingress": [{ "action": "Allow" }], "egress": [{ "action": "Allow" }] },
    })];
    for kind in [Kind::Namespace, Kind::ServiceAccount] {
        let Some(resource) = NATIVE.iter().find(|row| row.plural == kind.plural()) else { continue };
        let range = Range { resource: resource.qualified(), namespace: None };
        for (_, stored) in app.store.list(&range, Some(revision), None)?.items {
            let profile = match Object::from_value_lenient(stored.value.clone()) {
                Ok((Object::Namespace(namespace), _)) => namespace_profile(&namespace),
                Ok((Object::ServiceAccount(account), _)) => service_account_profile(&account),
                _ => continue,
            };
            profiles.push(manifest(&profile, &stored.value));
        }
    }
    profiles.sort_by(|a, b| metadata::field(a, "name").cmp(metadata::field(b, "name")));
    Ok((profiles, revision))
}

/// A profile as an object, born when what it is made from was.
fn manifest(profile: &Profile, source: &Value) -> Value {
    let labels: Map<String, Value> =
        profile.labels.iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let mut spec = json!({ "labelsToApply": labels });
    for (field, rules) in [("ingress", &profile.ingress), ("egress", &profile.egress)] {
        if !rules.is_empty() {
            // The only rule that such a profile has.
            spec[field] = json!([{ "action": "Allow" }]);
        }
    }
    let of_source = |field| source.get("metadata").and_then(|metadata| metadata.get(field));
    let mut object = json!({
        "apiVersion": Kind::Profile.api_version(), "kind": Kind::Profile.as_str(),
        "metadata": { "name": profile.name }, "spec": spec,
    });
    for field in ["creationTimestamp", "resourceVersion", "uid"] {
        if let Some(value) = of_source(field) {
            object["metadata"][field] = value.clone();
        }
    }
    object
}
