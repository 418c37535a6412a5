//! What is served, told in the ways clients ask: group by group (kubectl 1.20, kube-rs), and all at once
//! (`APIGroupDiscoveryList`, kubectl since 1.27).

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::kinds::{Resource, Scope};
use crate::profiles;
use crate::status::json_response;
use crate::table::{Group, Table};

/// The document at `path`, if it is one of discovery's.
pub fn answer(table: &Table, path: &str, accept: &str) -> Option<Response<Body>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let document = match parts.as_slice() {
        ["version"] => version(),
        ["api"] => {
            if let Some(version) = aggregated(accept) {
                return Some(aggregate(table, version, |group| group.is_empty()));
            }
            json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
        }
        ["apis"] => {
            if let Some(version) = aggregated(accept) {
                return Some(aggregate(table, version, |group| !group.is_empty()));
            }
            let groups: Vec<Value> = named_groups(table).map(|group| api_group(&group)).collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", group] => {
            let mut document = api_group(&named_groups(table).find(|known| known.name == *group)?);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            document
        }
        ["api", version] => resource_list(table, "", version)?,
        ["apis", group, version] if !group.is_empty() => resource_list(table, group, version)?,
        [""] => json!({ "paths": root_paths(table) }),
        _ => return None,
    };
    Some(json_response(StatusCode::OK, &document))
}

fn root_paths(table: &Table) -> Vec<String> {
    let mut paths: Vec<String> =
        ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(str::to_owned)
            .into();
    paths.extend(table.rows().map(|row| row.root()));
    paths.sort();
    paths.dedup();
    paths
}

/// The Kubernetes version whose types are served.
fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": concat!("v1.33.0+caracal-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": "linux/amd64",
    })
}

fn named_groups(table: &Table) -> impl Iterator<Item = Group<'_>> {
    table.groups().into_iter().filter(|group| !group.name.is_empty())
}

fn api_group(group: &Group<'_>) -> Value {
    let version =
        |version: &&str| json!({ "groupVersion": format!("{}/{version}", group.name), "version": version });
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({ "name": group.name, "versions": versions, "preferredVersion": versions.first() })
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: [&str; 3] = ["get", "patch", "update"];

fn verbs(resource: &Resource) -> Vec<&'static str> {
    if profiles::are(resource) {
        return profiles::VERBS.into();
    }
    VERBS.into_iter().filter(|verb| resource.kind != "Namespace" || *verb != "deletecollection").collect()
}

fn resource_list(table: &Table, group: &str, version: &str) -> Option<Value> {
    let mut listed = Vec::new();
    for resource in table.of_version(group, version) {
        let namespaced = resource.scope == Scope::Namespaced;
        let mut row = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": namespaced,
            "kind": resource.kind, "verbs": verbs(resource),
        });
        if !resource.short_names.is_empty() {
            row["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            row["categories"] = json!(resource.categories);
        }
        listed.push(row);
        if resource.status {
            listed.push(json!({
                "name": format!("{}/status", resource.plural), "singularName": "", "namespaced": namespaced,
                "kind": resource.kind, "verbs": STATUS_VERBS,
            }));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!listed.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": listed,
        })
    })
}

/// The version of aggregated discovery that the client would rather have than the classic form.
fn aggregated(accept: &str) -> Option<&'static str> {
    for wanted in accept.split(',') {
        let has = |parameter: &str| wanted.split(';').any(|part| part.trim() == parameter);
        if has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io") {
            if has("v=v2") {
                return Some("v2");
            }
            if has("v=v2beta1") {
                return Some("v2beta1");
            }
        } else if wanted.split(';').next().map(str::trim) == Some("application/json") {
            return None;
        }
    }
    None
}

fn aggregate(table: &Table, version: &str, wanted: impl Fn(&str) -> bool) -> Response<Body> {
    let items: Vec<Value> = table
        .groups()
        .into_iter()
        .filter(|group| wanted(group.name))
        .map(|group| {
            let version = |version: &&str| {
                let rows = table.of_version(group.name, version);
                let resources: Vec<Value> = rows.map(|row| aggregate_resource(row)).collect();
                json!({ "version": version, "resources": resources, "freshness": "Current" })
            };
            let metadata = if group.name.is_empty() { json!({}) } else { json!({ "name": group.name }) };
            json!({ "metadata": metadata, "versions": group.versions.iter().map(version).collect::<Vec<_>>() })
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    });
    let mut response = json_response(StatusCode::OK, &body);
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(value) = HeaderValue::from_str(&media) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregate_resource(resource: &Resource) -> Value {
    let scope = if resource.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let kind = crate::schema::gvk(resource);
    let mut row = json!({
        "resource": resource.plural, "responseKind": kind, "scope": scope,
        "singularResource": resource.singular, "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        row["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        row["categories"] = json!(resource.categories);
    }
    if resource.status {
        row["subresources"] =
            json!([{ "subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS }]);
    }
    row
}
