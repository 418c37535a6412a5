//! OpenAPI 3: an index, and a document for each group and version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::paths;
use crate::schema::{REFERENCE, definitions, of_definition};
use crate::table::Table;

/// Tells a client's cache one document from another.
fn hash(table: &Table, group: &str, version: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    document(table, group, version).to_string().hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

/// The documents of what is served natively never change.
static NATIVE: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let table = Table::with(Vec::new());
    table.rows().map(|row| (row.root(), hash(&table, &row.group, &row.version))).collect()
});

/// Where the documents are.
pub fn index(table: &Table) -> Value {
    let mut places = Map::new();
    for group in table.groups() {
        for version in group.versions {
            let mut rows = table.of_version(group.name, version).peekable();
            let Some(root) = rows.peek().map(|row| row.root()) else { continue };
            let native = rows.all(|row| row.definition().is_none());
            let hash = match NATIVE.get(&root) {
                Some(hash) if native => hash.clone(),
                _ => hash(table, group.name, version),
            };
            let url = format!("/openapi/v3{root}?hash={hash}");
            places.insert(root.trim_start_matches('/').to_owned(), json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": places })
}

/// The document of one group and version, with the definitions that it needs.
pub fn document(table: &Table, group: &str, version: &str) -> Value {
    let mut all_paths = Map::new();
    let mut custom: Vec<(String, Value)> = Vec::new();
    let mut wanted: Vec<&str> = Vec::new();
    for resource in table.of_version(group, version) {
        all_paths.extend(paths(
            resource,
            |name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }),
        ));
        match resource.definition() {
            None => wanted.push(definitions().root(resource)),
            Some(definition) => custom.push(of_definition(resource, definition)),
        }
    }
    let mut schemas = Map::new();
    for (name, schema) in &custom {
        references(schema, &mut wanted);
        schemas.insert(name.clone(), with_alternatives(schema));
    }
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
