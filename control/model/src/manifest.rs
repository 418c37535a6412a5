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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let name = |value: &Value| value["metadata"]["name"].as_str().unwrap_or("?").to_owned();
        parse(text).unwrap().iter().map(name).collect()
    }

    #[test]
    fn documents_and_lists_are_one_sequence_of_objects() {
        let text = "---\nmetadata: {name: a}\n---\n---\nkind: List\nitems:\n- metadata: {name: b}\n- {kind: List, items: [{metadata: {name: c}}]}\n---\nmetadata: {name: d}\n";
        assert_eq!(names(text), ["a", "b", "c", "d"]);
        assert!(names("").is_empty());
        assert!(names("# nothing\n").is_empty());
    }

    #[test]
    fn json_is_read_too() {
        assert_eq!(names(r#"{"metadata": {"name": "a"}}"#), ["a"]);
    }
}
