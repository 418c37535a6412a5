//! YAML manifests, as people and kubectl write them.

use serde_json::Value;

use crate::yaml;
pub use crate::yaml::YamlError;

/// Reads a manifest: any number of documents, empty ones left out, `kind: List` flattened.
pub fn parse(text: &str) -> Result<Vec<Value>, YamlError> {
    let mut objects = Vec::new();
    for document in yaml::parse_documents(text)? {
        flatten(document.to_json(), &mut objects);
    }
    Ok(objects)
}

fn flatten(value: Value, objects: &mut Vec<Value>) {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind == "List");
    match value {
        Value::Null => {}
        Value::Object(mut map) if is_list => {
            if let Some(Value::Array(items)) = map.remove("items") {
                for item in items {
                    flatten(item, objects);
                }
            }
        }
        other => objects.push(other),
    }
}
