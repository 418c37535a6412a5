//! OpenAPI documents: what `kubectl apply`, `create` and `explain` read to know the kinds' fields, how their lists
//! merge, and which query parameters are served.
//!
//! - `/openapi/v3`: an index, and one document for each group and version (kubectl since 1.27).
//! - `/openapi/v2`: one document for all, as JSON, or as protobuf for older kubectl.

mod v2;
mod v2_proto;
mod v3;

use std::sync::OnceLock;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Response, StatusCode, header};
use prost::Message;
use serde_json::{Value, json};

use crate::kinds::{Resource, Scope};
use crate::schema::gvk;
use crate::status::json_response;
use crate::table::Table;

/// What of a table's documents is made once.
#[derive(Default)]
pub struct Documents {
    v2_json: OnceLock<Bytes>,
    v2_proto: OnceLock<Bytes>,
    v3_index: OnceLock<Value>,
}

const PROTO: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document at `path`, if it is one of these.
pub fn answer(table: &Table, path: &str, accept: &str) -> Option<Response<Body>> {
    let documents = &table.documents;
    match path {
        "/openapi/v2" if accept.contains("proto-openapi.spec.v2") => {
            let made = || v2_proto::Document::from_json(&v2::document(table)).encode_to_vec().into();
            Some(bytes(PROTO, documents.v2_proto.get_or_init(made).clone()))
        }
        "/openapi/v2" => {
            let made = || v2::document(table).to_string().into();
            Some(bytes("application/json", documents.v2_json.get_or_init(made).clone()))
        }
        "/openapi/v3" => {
            Some(json_response(StatusCode::OK, documents.v3_index.get_or_init(|| v3::index(table))))
        }
        other => {
            let root = other.strip_prefix("/openapi/v3")?;
            let row = table.rows().find(|row| row.root() == root)?;
            Some(json_response(StatusCode::OK, &v3::document(table, &row.group, &row.version)))
        }
    }
}

fn bytes(media: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// The paths of a resource with their operations; `parameter` says how a document's version writes one.
fn paths(resource: &Resource, parameter: impl Fn(&str) -> Value) -> Vec<(String, Value)> {
    let operation = |action: &str, queries: &[&str]| {
        let parameters: Vec<Value> = queries.iter().map(|name| parameter(name)).collect();
        json!({
            "operationId": format!("{action}{}", resource.kind),
            "parameters": parameters,
            "responses": { "200": { "description": "OK" } },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(resource),
        })
    };
    const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
    const LIST: [&str; 9] = [
        "allowWatchBookmarks",
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "resourceVersionMatch",
        "timeoutSeconds",
        "watch",
    ];
    let place = match resource.scope {
        Scope::Cluster => String::new(),
        Scope::Namespaced => "/namespaces/{namespace}".to_owned(),
    };
    let collection = format!("{}{place}/{}", resource.root(), resource.plural);
    let item = format!("{collection}/{{name}}");
    let change = || {
        json!({
            "get": operation("get", &[]), "put": operation("put", &WRITE), "patch": operation("patch", &WRITE),
        })
    };
    let mut of_item = change();
    of_item["delete"] = operation("delete", &["dryRun", "gracePeriodSeconds"]);
    let mut paths = vec![
        (collection, json!({ "get": operation("list", &LIST), "post": operation("post", &WRITE) })),
        (item.clone(), of_item),
    ];
    if resource.status {
        paths.push((format!("{item}/status"), change()));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_tell_that_fields_are_validated_by_the_server() {
        let table = Table::with(Vec::new());
        for resource in table.rows() {
            let document = v3::document(&table, &resource.group, &resource.version);
            let item = paths(resource, |name| json!(name)).swap_remove(1).0;
            let patch = &document["paths"][&item]["patch"];
            assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], resource.kind);
            let parameters = patch["parameters"].as_array().expect("a list");
            assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
            assert!(v2::document(&table)["paths"][&item]["patch"].is_object());
        }
    }

    #[test]
    fn the_index_leads_to_every_group() {
        let table = Table::with(Vec::new());
        for (path, place) in v3::index(&table)["paths"].as_object().expect("a map") {
            let url = place["serverRelativeURL"].as_str().expect("a path");
            let (path_of_url, _) = url.split_once('?').expect("a hash");
            assert_eq!(path_of_url, format!("/openapi/v3/{path}"));
            assert!(answer(&table, path_of_url, "application/json").is_some());
        }
        assert!(answer(&table, "/openapi/v3/apis/none/v1", "").is_none());
    }
}
