//! OpenAPI 2: one document.

use serde_json::{Map, Value, json};

use super::paths;
use crate::kinds::RESOURCES;
use crate::schema::{REFERENCE, definitions};

/// The document.
pub fn document() -> Value {
    let mut all_paths = Map::new();
    for resource in RESOURCES.iter() {
        all_paths.extend(paths(resource, |name| json!({ "name": name, "in": "query", "type": "string" })));
    }
    let schemas: Map<String, Value> =
        definitions().iter().map(|(name, schema)| (name.to_owned(), older(schema))).collect();
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
