//! OpenAPI 3: an index, and a document for each group and version.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::paths;
use crate::kinds::{RESOURCES, groups};
use crate::schema::{REFERENCE, definitions};

/// Tells a client's cache one build's documents from another's: the documents are made from the types alone.
static HASH: LazyLock<String> = LazyLock::new(|| {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for (group, version) in groups() {
        document(group, version).to_string().hash(&mut hasher);
    }
    format!("{:016X}", hasher.finish())
});

/// Where the documents are.
pub fn index() -> Value {
    let places: Map<String, Value> = RESOURCES
        .iter()
        .map(|resource| {
            let root = resource.root();
            let url = format!("/openapi/v3{root}?hash={}", *HASH);
            (root.trim_start_matches('/').to_owned(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": places })
}

/// The document of one group and version, with the definitions that it needs.
pub fn document(group: &str, version: &str) -> Value {
    let rows = || RESOURCES.iter().filter(|row| (row.group, row.version) == (group, version));
    let mut all_paths = Map::new();
    let mut wanted: Vec<&str> = Vec::new();
    for resource in rows() {
        all_paths.extend(paths(
            resource,
            |name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }),
        ));
        wanted.push(definitions().root(resource));
    }
    let mut schemas = Map::new();
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name) {
            continue;
        }
        if let Some((name, schema)) = definitions().get(name) {
            references(schema, &mut wanted);
            schemas.insert(name.to_owned(), with_alternatives(schema));
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes, as Caracal serves it", "version": "v1.33.0" },
        "paths": all_paths,
        "components": { "schemas": schemas },
    })
}

/// The names of the definitions that a schema refers to.
fn references<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
    match schema {
        Value::Object(map) => {
            let reference = map.get("$ref").and_then(Value::as_str);
            found.extend(reference.and_then(|reference| reference.strip_prefix(REFERENCE)));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// What may be a number or a text says so in OpenAPI's own words too.
fn with_alternatives(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if schema["x-kubernetes-int-or-string"] == true {
        schema["oneOf"] = json!([{ "type": "integer" }, { "type": "string" }]);
    }
    schema
}
