//! What a request says, read out of its parts: query, body, media types.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, header, request};
use caracal_model::manifest;
use serde_json::Value;

use crate::protobuf;
use crate::status::ApiError;

/// The largest body that is read, as in Kubernetes.
const BODY_MOST: usize = crate::store::OBJECT_MOST;

/// The query's parameters. Those that are not known are ignored, as Kubernetes does.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Query {
    /// List and watch: which labels.
    pub label_selector: String,
    /// List and watch: which fields.
    pub field_selector: String,
    /// Watch instead of list.
    pub watch: String,
    /// From which revision, or how recent.
    pub resource_version: String,
    /// `Exact`, `NotOlderThan`.
    pub resource_version_match: String,
    /// Objects a page.
    pub limit: String,
    /// Where the page begins.
    #[serde(rename = "continue")]
    pub more: String,
    /// How long to watch.
    pub timeout_seconds: String,
    /// Whether bookmarks are understood.
    pub allow_watch_bookmarks: String,
    /// Watch: begin with all there is, and say when that is told.
    pub send_initial_events: String,
    /// Tables: what stands beside the cells.
    pub include_object: String,
    /// `All`: do everything but write.
    pub dry_run: String,
    /// `Strict`, `Warn`, `Ignore`.
    pub field_validation: String,
    /// Delete: seconds of grace. Accepted; there is no kubelet here to wait for.
    pub grace_period_seconds: String,
}

impl Query {
    /// The parameters of a request.
    pub fn of(parts: &request::Parts) -> Result<Query, ApiError> {
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::bad_request(format!("the query cannot be read: {error}")))?;
        // The first of several wins, and a map lets serde sort out the names.
        let map = query.0.into_iter().rev().map(|(name, value)| (name, Value::String(value))).collect();
        serde_json::from_value(Value::Object(map))
            .map_err(|error| ApiError::bad_request(format!("the query cannot be read: {error}")))
    }

    /// A boolean parameter.
    pub fn flag(name: &str, text: &str) -> Result<bool, ApiError> {
        match text {
            "" | "false" | "0" | "False" => Ok(false),
            "true" | "1" | "True" => Ok(true),
            other => Err(ApiError::bad_request(format!("{name} must be true or false, not \"{other}\""))),
        }
    }

    /// A number parameter; none if it is absent.
    pub fn number(name: &str, text: &str) -> Result<Option<u64>, ApiError> {
        if text.is_empty() {
            return Ok(None);
        }
        let number = text.parse().map_err(|_| {
            ApiError::bad_request(format!("{name} must be a non-negative number, not \"{text}\""))
        })?;
        Ok(Some(number))
    }

    /// Whether to stop short of writing.
    pub fn is_dry_run(&self) -> Result<bool, ApiError> {
        match self.dry_run.as_str() {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::bad_request(format!("dryRun must be All, not \"{other}\""))),
        }
    }
}

/// The value of a header, as text.
pub fn header_text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The media type of the body, without its parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    header_text(headers, header::CONTENT_TYPE).split(';').next().unwrap_or("").trim()
}

/// The body, read to its end or to the limit.
pub async fn body(request: Request<Body>) -> Result<Bytes, ApiError> {
    axum::body::to_bytes(request.into_body(), BODY_MOST).await.map_err(|error| {
        use std::error::Error;
        let limited = error.source().is_some_and(|source| source.to_string().contains("length limit"));
        if limited {
            ApiError::too_large(format!("the request body is larger than {BODY_MOST} bytes"))
        } else {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        }
    })
}

/// A body of JSON, YAML, or what must be of protobuf.
pub fn object(media_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    let value: Value = match media_type {
        "" | "application/json" => serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(body)?,
        protobuf::MEDIA_TYPE => protobuf::object(body)?,
        other => {
            return Err(ApiError::unsupported_media_type(format!(
                "the body's media type is {other}; this server reads application/json and application/yaml"
            )));
        }
    };
    if !value.is_object() {
        return Err(ApiError::bad_request("the body is not an object"));
    }
    Ok(value)
}

/// YAML with one document.
fn yaml(body: &[u8]) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    let documents = manifest::parse(text)
        .map_err(|error| ApiError::bad_request(format!("the body is not YAML: {error}")))?;
    match <[Value; 1]>::try_from(documents) {
        Ok([document]) => Ok(document),
        Err(documents) => {
            Err(ApiError::bad_request(format!("the body must hold one object, not {}", documents.len())))
        }
    }
}
