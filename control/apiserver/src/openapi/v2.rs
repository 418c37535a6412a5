//! OpenAPI 2: one document.

use serde_json::{Map, Value, json};

use super::paths;
use crate::schema::{REFERENCE, definitions, of_definition};
use crate::table::Table;

/// The document.
pub fn document(table: &Table) -> Value {
    let mut all_paths = Map::new();
    for resource in table.rows() {
        all_paths.extend(paths(resource, |name| json!({ "name": name, "in": "query", "type": "string" })));
    }
    let mut schemas: Map<String, Value> =
        definitions().iter().map(|(name, schema)| (name.to_owned(), older(schema))).collect();
    for resource in table.rows() {
        if let Some(definition) = resource.definition() {
            let (name, schema) = of_definition(resource, definition);
            schemas.insert(name, older(&schema));
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes, as Caracal serves it", "version": "v1.33.0" },
        "paths": all_paths,
        "definitions": schemas,
    })
}

/// A schema in the older form: references stand beside descriptions, and live elsewhere.
fn older(schema: &Value) -> Value {
    match schema {
        Value::Object(map) if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) => {
            let mut changed = map.clone();
            changed.remove("x-kubernetes-int-or-string");
            changed.insert("type".into(), "string".into());
            changed.insert("format".into(), "int-or-string".into());
            Value::Object(changed)
        }
        // Older clients take a field that is not named for a mistake, and null for one wherever it stands.
        Value::Object(map) if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) => {
            let mut changed = map.clone();
            changed.retain(|name, _| name.starts_with("x-kubernetes-") || name == "description");
            Value::Object(changed)
        }
        Value::Object(map) => {
            let mut changed = Map::new();
            for (field, value) in map {
                match (field.as_str(), value) {
                    ("$ref", Value::String(reference)) => {
                        let name = reference.strip_prefix(REFERENCE).unwrap_or(reference);
                        changed.insert("$ref".into(), format!("#/definitions/{name}").into());
                    }
                    ("allOf", Value::Array(one)) if one.len() == 1 => {
                        if let Value::Object(inner) = older(&one[0]) {
                            changed.extend(inner);
                        }
                    }
                    (_, value) => drop(changed.insert(field.clone(), older(value))),
                }
            }
            Value::Object(changed)
        }
        Value::Array(list) => Value::Array(list.iter().map(older).collect()),
        other => other.clone(),
    }
}
