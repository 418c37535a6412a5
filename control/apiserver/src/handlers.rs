//! From a request to its answer.

mod read;
mod write;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, header};

use crate::App;
use crate::discovery;
use crate::openapi;
use crate::path::Target;
use crate::profiles;
use crate::request::{self, Query};
use crate::status::ApiError;

pub use read::view;

/// In whose name a client asks, if its kubeconfig says so. All may do all here; who wants to know what somebody asks for
/// reads it in the log of requests.
const IMPERSONATED: HeaderName = HeaderName::from_static("impersonate-user");

/// Answers any request. Never fails: what goes wrong is answered as a `Status`.
pub async fn answer(app: Arc<App>, request: Request<Body>) -> Response<Body> {
    match dispatch(&app, request).await {
        Ok(response) => response,
        Err(error) => error.response(),
    }
}

async fn dispatch(app: &Arc<App>, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let table = app.table();
    let path = request.uri().path().trim_end_matches('/').to_owned();
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    // What a supervisor asks, it may ask without a token.
    if get && is_health(&path) {
        return Ok(Response::new(Body::from("ok")));
    }
    if !app.tokens.admit(request::header_text(request.headers(), header::AUTHORIZATION)) {
        return Err(ApiError::unauthorized());
    }
    tracing::debug!(
        target: "caracal_apiserver::requests",
        user = request::header_text(request.headers(), IMPERSONATED), method = %request.method(), uri = %request.uri(),
    );
    if let Some(target) = Target::parse(&table, &path) {
        return serve(app, target, request).await;
    }
    if get {
        let accept = request::header_text(request.headers(), header::ACCEPT);
        if let Some(document) = discovery::answer(&table, &path, accept) {
            return Ok(document);
        }
        if let Some(document) = openapi::answer(&table, &path, accept) {
            return Ok(document);
        }
    }
    Err(ApiError::no_such_path())
}

fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

async fn serve(app: &Arc<App>, target: Target, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let method = request.method().clone();
    let (parts, body) = request.into_parts();
    let query = Query::of(&parts)?;
    if profiles::are(&target.resource) {
        return profiles::answer(app, &method, &target, &query, &parts.headers);
    }
    let request = Request::from_parts(parts, body);
    match (method, target.name.is_some(), target.subresource) {
        (Method::GET, true, _) => read::get(app, &target, &query, request.headers()),
        (Method::GET, false, _) => read::list_or_watch(app, &target, &query, request.headers()),
        (Method::POST, false, None) => write::create(app, &target, &query, request).await,
        (Method::PUT, true, _) => write::replace(app, &target, &query, request).await,
        (Method::PATCH, true, _) => write::patch(app, &target, &query, request).await,
        (Method::DELETE, true, None) => write::delete(app, &target, &query, request).await,
        (Method::DELETE, false, None) => write::delete_collection(app, &target, &query, request).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Adds what the sender should be told.
fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let quoted: String =
            warning.chars().flat_map(|c| if "\"\\".contains(c) { vec!['\\', c] } else { vec![c] }).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
