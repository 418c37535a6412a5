//! create, replace, patch, delete.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::read::{key, range, view};
use super::with_warnings;
use crate::App;
use crate::admission::{self, FieldValidation};
use crate::custom;
use crate::kinds::{Resource, Scope};
use crate::metadata;
use crate::namespaces;
use crate::neighbours;
use crate::patch::Patch;
use crate::path::Target;
use crate::request::{self, Query};
use crate::selector::Selection;
use crate::services;
use crate::status::{ApiError, json_response};
use crate::store::{Change, CommitError, Condition, Key, Stored};

/// How often a write that lost a race is tried again before its client is told.
const ATTEMPTS: usize = 16;

pub async fn create(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let view = view(query, request.headers())?;
    let validation = FieldValidation::parse(&query.field_validation)?;
    let media = request::media_type(request.headers()).to_owned();
    let sent = request::object(&media, &request::body(request).await?)?;
    let resource = target.resource.as_ref();
    let mut target = target.clone();
    // `POST /api/v1/pods` with a namespace in the object.
    if resource.scope == Scope::Namespaced && target.namespace.is_none() {
        target.namespace = Some(match metadata::field(&sent, "namespace") {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        });
    }
    let admitted = admission::decode(resource, target.namespace.as_deref(), sent, validation)?;
    let mut object = admitted.object;
    admission::create(resource, &mut object)?;
    let name = metadata::field(&object, "name").to_owned();
    let key = key(&target, &name);

    let _turn = services::turn(app, resource).await;
    for _ in 0..ATTEMPTS {
        let mut conditions = vec![Condition::Absent(key.clone())];
        if let Some(namespace) = &target.namespace {
            conditions.push(living_namespace(app, resource, &name, namespace)?);
        }
        conditions.extend(custom::living(app, resource)?);
        neighbours::may_come(app, resource, &name, &object)?;
        services::complete(app, resource, &name, &mut object, None)?;
        if query.is_dry_run()? {
            if app.store.get(&key).is_some() {
                return Err(ApiError::already_exists(resource, &name));
            }
            let shown = view.object(resource, &object, true);
            return Ok(with_warnings(json_response(StatusCode::CREATED, &shown), &admitted.warnings));
        }
        let mut kept = object.clone();
        resource.keep(&mut kept);
        let change = Change { key: key.clone(), conditions, value: Some(kept) };
        match app.store.commit(change).await {
            Ok(committed) => {
                if custom::are(resource) {
                    custom::settle(app).await?;
                }
                if resource.kind == "Namespace" {
                    namespaces::furnish(app, &name).await?;
                }
                let shown = view.object(resource, &committed.object.value, true);
                return Ok(with_warnings(json_response(StatusCode::CREATED, &shown), &admitted.warnings));
            }
            Err(CommitError::Unmet(Condition::Absent(_))) => {
                return Err(ApiError::already_exists(resource, &name));
            }
            // The namespace changed: look at it again.
            Err(CommitError::Unmet(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::internal("the namespace keeps changing"))
}

/// The namespace must exist, stay, and still do so when the object is written.
fn living_namespace(
    app: &App,
    resource: &Resource,
    name: &str,
    namespace: &str,
) -> Result<Condition, ApiError> {
    let key = namespaces::key(namespace);
    let stored = app.store.get(&key).ok_or_else(|| ApiError::not_found(namespaces::resource(), namespace))?;
    if namespaces::is_terminating(&stored.value) {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(ApiError::forbidden(resource, name, &why));
    }
    Ok(Condition::Unchanged(key, stored.revision))
}

pub async fn replace(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let headers = request.headers().clone();
    let media = request::media_type(&headers).to_owned();
    let sent = request::object(&media, &request::body(request).await?)?;
    modify(app, target, query, &headers, |_| Ok(sent.clone())).await
}

pub async fn patch(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let headers = request.headers().clone();
    let media = request::media_type(&headers).to_owned();
    let patch = Patch::parse(&media, &request::body(request).await?)?;
    modify(app, target, query, &headers, |stored| {
        patch.apply(&target.resource, &target.resource.shown(&stored.value))
    })
    .await
}

/// Changes one object: `desired` says what it should be, given what it is. Without a resourceVersion in its answer
/// the change is made to whatever is there, and made again if somebody else was faster.
async fn modify(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    desired: impl Fn(&Stored) -> Result<Value, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let view = view(query, headers)?;
    let validation = FieldValidation::parse(&query.field_validation)?;
    let dry_run = query.is_dry_run()?;
    let resource = target.resource.as_ref();
    let name = target.name.as_deref().unwrap_or("");
    let key = key(target, name);
    let _turn = services::turn(app, resource).await;
    for _ in 0..ATTEMPTS {
        let stored = app.store.get(&key).ok_or_else(|| ApiError::not_found(resource, name))?;
        let sent = desired(&stored)?;
        let admitted = admission::decode(resource, target.namespace.as_deref(), sent, validation)?;
        let mut object = admitted.object;
        match metadata::field(&object, "name") {
            "" => drop(metadata::of(&mut object).insert("name".into(), name.into())),
            sent if sent == name => {}
            sent => {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({sent}) does not match the name on the URL ({name})"
                )));
            }
        }
        let expected = metadata::field(&object, "resourceVersion");
        if !expected.is_empty() && expected != stored.revision.to_string() {
            return Err(ApiError::stale(resource, name));
        }
        same_uid(resource, name, metadata::field(&object, "uid"), &stored.value)?;
        admission::update(resource, target.subresource, &stored.value, &mut object)?;
        if target.subresource.is_none() {
            services::complete(app, resource, name, &mut object, Some(&stored.value))?;
        }
        let answer = |object: &Value| {
            let shown = view.object(resource, object, true);
            with_warnings(json_response(StatusCode::OK, &shown), &admitted.warnings)
        };
        metadata::of(&mut object).insert("resourceVersion".into(), stored.revision.to_string().into());
        resource.keep(&mut object);
        if object == stored.value {
            return Ok(answer(&stored.value));
        }
        if dry_run {
            return Ok(answer(&object));
        }
        // The last finalizer of an object on its way out has gone.
        let gone = !metadata::field(&object, "deletionTimestamp").is_empty()
            && !metadata::has_finalizers(&object)
            && resource.kind != "Namespace";
        let change = Change {
            key: key.clone(),
            conditions: vec![Condition::Unchanged(key.clone(), stored.revision)],
            value: (!gone).then_some(object),
        };
        match app.store.commit(change).await {
            Ok(committed) => {
                if custom::are(resource) {
                    custom::settle(app).await?;
                }
                return Ok(answer(&committed.object.value));
            }
            // A client that named a revision is told at the next look.
            Err(CommitError::Unmet(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::stale(resource, name))
}

fn same_uid(resource: &Resource, name: &str, expected: &str, stored: &Value) -> Result<(), ApiError> {
    let uid = metadata::field(stored, "uid");
    if expected.is_empty() || expected == uid {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {expected}, UID in object meta: {uid}");
    Err(ApiError::conflict(resource, name, &why))
}

/// What a deletion is asked to look at first.
#[derive(Default)]
struct DeleteOptions {
    uid: String,
    resource_version: String,
    dry_run: bool,
}

impl DeleteOptions {
    async fn of(query: &Query, request: Request<Body>) -> Result<DeleteOptions, ApiError> {
        let dry_run = query.is_dry_run()?;
        let media = request::media_type(request.headers()).to_owned();
        let body = request::body(request).await?;
        if body.is_empty() {
            return Ok(DeleteOptions { dry_run, ..DeleteOptions::default() });
        }
        let sent = request::object(&media, &body)?;
        let condition = |name: &str| {
            let found = sent.get("preconditions").and_then(|conditions| conditions.get(name));
            found.and_then(Value::as_str).unwrap_or("").to_owned()
        };
        let asked = sent.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        Ok(DeleteOptions {
            uid: condition("uid"),
            resource_version: condition("resourceVersion"),
            dry_run: dry_run || asked,
        })
    }
}

pub async fn delete(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let options = DeleteOptions::of(query, request).await?;
    let resource = target.resource.as_ref();
    let name = target.name.as_deref().unwrap_or("");
    let removed = remove(app, resource, &key(target, name), &options).await?;
    let answer = match removed {
        Removed::Gone(object) => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {
                "name": name, "group": resource.group, "kind": resource.plural,
                "uid": metadata::field(&object, "uid"),
            },
        }),
        Removed::Going(object) => resource.shown(&object).into_owned(),
    };
    Ok(json_response(StatusCode::OK, &answer))
}

pub async fn delete_collection(
    app: &Arc<App>,
    target: &Target,
    query: &Query,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let options = DeleteOptions::of(query, request).await?;
    let resource = target.resource.as_ref();
    if resource.kind == "Namespace" {
        return Err(ApiError::method_not_allowed());
    }
    let selection = Selection::parse(resource, &query.label_selector, &query.field_selector)?;
    let snapshot = app.store.list(&range(target), None, None)?;
    let mut deleted = Vec::new();
    for (key, stored) in snapshot.items.iter().filter(|(_, stored)| selection.matches(&stored.value)) {
        match remove(app, resource, key, &options).await {
            Ok(Removed::Gone(object) | Removed::Going(object)) => {
                deleted.push(resource.shown(&object).into_owned())
            }
            Err(error) if error.code == StatusCode::NOT_FOUND => {
                deleted.push(resource.shown(&stored.value).into_owned())
            }
            Err(error) => return Err(error),
        }
    }
    Ok(json_response(
        StatusCode::OK,
        &json!({
            "kind": resource.list_kind(), "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": app.store.revision().to_string() }, "items": deleted,
        }),
    ))
}

/// What became of an object that was to be deleted.
enum Removed {
    /// It is gone; this is how it last was.
    Gone(Value),
    /// It is marked, and goes when its finalizers have gone.
    Going(Value),
}

/// Deletes at once, unless finalizers stand in the way. There is no kubelet here, so nobody needs a pod's grace
/// period: it is taken as zero.
async fn remove(
    app: &Arc<App>,
    resource: &Resource,
    key: &Key,
    options: &DeleteOptions,
) -> Result<Removed, ApiError> {
    let name = key.name.as_str();
    let is_namespace = resource.kind == "Namespace";
    if is_namespace && namespaces::INITIAL.contains(&name) {
        return Err(ApiError::forbidden(resource, name, "this namespace may not be deleted"));
    }
    for _ in 0..ATTEMPTS {
        let stored = app.store.get(key).ok_or_else(|| ApiError::not_found(resource, name))?;
        same_uid(resource, name, &options.uid, &stored.value)?;
        if !options.resource_version.is_empty() && options.resource_version != stored.revision.to_string() {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {}",
                options.resource_version, stored.revision
            );
            return Err(ApiError::conflict(resource, name, &why));
        }
        neighbours::may_go(app, resource, name, &stored.value)?;
        let waits = is_namespace || metadata::has_finalizers(&stored.value);
        let mut object = stored.value.clone();
        if waits {
            if !metadata::field(&object, "deletionTimestamp").is_empty() {
                return Ok(Removed::Going(object));
            }
            let metadata = metadata::of(&mut object);
            metadata.insert("deletionTimestamp".into(), metadata::now().into());
            metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
            if is_namespace {
                object["status"] = json!({ "phase": "Terminating" });
            }
        }
        if options.dry_run {
            return Ok(if waits { Removed::Going(object) } else { Removed::Gone(object) });
        }
        let change = Change {
            key: key.clone(),
            conditions: vec![Condition::Unchanged(key.clone(), stored.revision)],
            value: waits.then_some(object),
        };
        match app.store.commit(change).await {
            Ok(committed) if waits => {
                if is_namespace {
                    namespaces::clear(app, name);
                } else if custom::are(resource) {
                    custom::settle(app).await?;
                    custom::clear(app, name);
                }
                return Ok(Removed::Going(committed.object.value.clone()));
            }
            Ok(committed) => {
                if custom::are(resource) {
                    custom::settle(app).await?;
                }
                return Ok(Removed::Gone(committed.object.value.clone()));
            }
            Err(CommitError::Unmet(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::stale(resource, name))
}
