//! get, list, watch.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::App;
use crate::path::Target;
use crate::request::{Query, header_text};
use crate::selector::Selection;
use crate::status::{ApiError, json_response};
use crate::store::{Key, Range};
use crate::view::{ListMeta, View};
use crate::watch::{Start, Watch};

/// The key of a named target.
pub fn key(target: &Target, name: &str) -> Key {
    Key::new(target.resource.qualified(), target.namespace.clone().unwrap_or_default(), name)
}

/// The range of a collection.
pub fn range(target: &Target) -> Range {
    Range { resource: target.resource.qualified(), namespace: target.namespace.clone() }
}

/// How the client wants its answer.
pub fn view(query: &Query, headers: &HeaderMap) -> Result<View, ApiError> {
    View::from_accept(header_text(headers, header::ACCEPT), &query.include_object)
}

pub fn get(
    app: &App,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let view = view(query, headers)?;
    let name = target.name.as_deref().unwrap_or("");
    let stored =
        app.store.get(&key(target, name)).ok_or_else(|| ApiError::not_found(&target.resource, name))?;
    Ok(json_response(StatusCode::OK, &view.object(&target.resource, &stored.value, true)))
}

pub fn list_or_watch(
    app: &App,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let view = view(query, headers)?;
    let selection = Selection::parse(&target.resource, &query.label_selector, &query.field_selector)?;
    if Query::flag("watch", &query.watch)? {
        return watch(app, target, query, view, selection);
    }
    list(app, target, query, view, &selection)
}

/// A page's end, and so the next one's beginning: `REVISION:NAMESPACE/NAME`.
struct Position {
    revision: u64,
    namespace: String,
    name: String,
}

impl Position {
    fn parse(text: &str) -> Result<Position, ApiError> {
        let parsed = text.split_once(':').and_then(|(revision, at)| {
            let (namespace, name) = at.split_once('/')?;
            Some(Position {
                revision: revision.parse().ok()?,
                namespace: namespace.into(),
                name: name.into(),
            })
        });
        parsed
            .ok_or_else(|| ApiError::bad_request("continue key is not valid: it was not made by this server"))
    }
}

fn list(
    app: &App,
    target: &Target,
    query: &Query,
    view: View,
    selection: &Selection,
) -> Result<Response<Body>, ApiError> {
    let limit = Query::number("limit", &query.limit)?.filter(|limit| *limit > 0);
    let wanted = Query::number("resourceVersion", &query.resource_version)?;
    let position = match query.more.as_str() {
        "" => None,
        text => Some(Position::parse(text)?),
    };
    let at = match (&position, query.resource_version_match.as_str(), wanted) {
        (Some(position), ..) => Some(position.revision),
        (None, "Exact", Some(revision)) => Some(revision),
        (None, "Exact", None) => {
            return Err(ApiError::bad_request("resourceVersionMatch Exact needs a resourceVersion"));
        }
        (None, "" | "NotOlderThan", _) => None,
        (None, other, _) => {
            return Err(ApiError::bad_request(format!(
                "resourceVersionMatch must be Exact or NotOlderThan, not \"{other}\""
            )));
        }
    };
    let after = position.as_ref().map(|position| (position.namespace.as_str(), position.name.as_str()));
    let snapshot = app.store.list(&range(target), at, after)?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted > snapshot.revision) {
        return Err(crate::store::ReadError::Future { asked: wanted, current: snapshot.revision }.into());
    }

    let mut selected = snapshot.items.iter().filter(|(_, stored)| selection.matches(&stored.value));
    let page = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let shown: Vec<_> = selected.by_ref().take(page).collect();
    let following = selected.count();
    let more = shown
        .last()
        .filter(|_| following > 0)
        .map(|(key, _)| format!("{}:{}/{}", snapshot.revision, key.namespace, key.name));
    let meta = ListMeta {
        revision: snapshot.revision,
        // Kubernetes does not count what a selector leaves.
        remaining: more.as_ref().filter(|_| selection.is_everything()).map(|_| following),
        more,
    };
    let objects: Vec<_> = shown.iter().map(|(_, stored)| &stored.value).collect();
    let mut response = Response::new(Body::from(view.list(&target.resource, &objects, &meta)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A watch without timeoutSeconds ends after this, as in Kubernetes.
const WATCH_DEFAULT: Duration = Duration::from_secs(30 * 60);
/// And none is longer than this.
const WATCH_LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn watch(
    app: &App,
    target: &Target,
    query: &Query,
    view: View,
    selection: Selection,
) -> Result<Response<Body>, ApiError> {
    let bookmarks = Query::flag("allowWatchBookmarks", &query.allow_watch_bookmarks)?;
    let initial = Query::flag("sendInitialEvents", &query.send_initial_events)?;
    if initial && query.resource_version_match != "NotOlderThan" {
        return Err(ApiError::bad_request("sendInitialEvents needs resourceVersionMatch=NotOlderThan"));
    }
    let revision = Query::number("resourceVersion", &query.resource_version)?.unwrap_or(0);
    let start = match (initial, revision) {
        (true, _) => Start::Now,
        // Said to be false: only what changes from here on.
        (false, 0) if !query.send_initial_events.is_empty() => Start::Revision(app.store.revision()),
        (false, 0) => Start::Now,
        (false, revision) => Start::Revision(revision),
    };
    let timeout = Query::number("timeoutSeconds", &query.timeout_seconds)?.filter(|seconds| *seconds > 0);
    let watch = Watch {
        resource: Arc::clone(&target.resource),
        range: range(target),
        selection,
        view,
        start,
        bookmarks,
        mark_initial_end: initial && bookmarks,
        timeout: timeout.map_or(WATCH_DEFAULT, Duration::from_secs).min(WATCH_LONGEST),
    };
    let mut response = Response::new(Body::from_stream(watch.stream(
        app.store.clone(),
        app.tables.subscribe(),
        app.stop.clone(),
    )));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
