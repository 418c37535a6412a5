//! YAML manifests, as people and kubectl write them.

use serde_json::Value;

pub use crate::yaml::YamlError;
use crate::yaml::{self, Tree, TreeValue};

/// Reads a manifest: any number of documents, empty ones left out, lists (`kind: List`, `kind: TierList`) flattened.
pub fn parse(text: &str) -> Result<Vec<Value>, YamlError> {
    let mut objects = Vec::new();
    for document in yaml::parse_documents(text)? {
        flatten(document.to_json(), &mut objects);
    }
    Ok(objects)
}

/// The line on which a field of the `index`-th object that [`parse`] gives stands, or of the innermost field on the way to
/// it that is there. For messages: the text is read once more.
pub fn line_of(text: &str, index: usize, field: &str) -> Option<u64> {
    fn items<'a>(tree: &'a Tree, objects: &mut Vec<&'a Tree>) {
        let TreeValue::Map(entries) = &tree.value else {
            if tree.value != TreeValue::Null {
                objects.push(tree);
            }
            return;
        };
        let get = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, tree)| &tree.value);
        match (get("kind"), get("items")) {
            (Some(TreeValue::String(kind)), Some(TreeValue::Sequence(list))) if kind.ends_with("List") => {
                list.iter().for_each(|item| items(item, objects));
            }
            _ => objects.push(tree),
        }
    }
    let documents = yaml::parse_documents(text).ok()?;
    let mut objects = Vec::new();
    documents.iter().for_each(|document| items(document, &mut objects));
    objects.get(index).map(|object| object.line_of(field))
}

fn flatten(mut value: Value, objects: &mut Vec<Value>) {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) if is_list => {
            for item in items {
                flatten(item, objects);
            }
        }
        Some(items) => {
            if let Some(place) = value.get_mut("items") {
                *place = items;
            }
            objects.push(value);
        }
        None if value.is_null() => {}
        None => objects.push(value),
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
    fn what_only_looks_like_a_list_is_not_lost() {
        let kinds = |text: &str| parse(text).unwrap().len();
        assert_eq!(kinds("kind: TierList\nitems: [{kind: Tier}, {kind: Tier}]"), 2);
        assert_eq!(kinds("kind: List\nitems: []"), 0);
        assert_eq!(kinds("kind: List\nitems: 7"), 1);
        assert_eq!(kinds("kind: List"), 1);
        let other = "kind: Tier\nitems: [1]";
        assert_eq!(parse(other).unwrap(), [serde_json::json!({"kind": "Tier", "items": [1]})]);
    }

    #[test]
    fn a_field_of_any_object_has_a_line() {
        let text = "---\nkind: A\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n  spec:\n    order: x\n";
        assert_eq!(names(text).len(), 3);
        assert_eq!(line_of(text, 2, "spec.order"), Some(9));
        assert_eq!(line_of(text, 1, "spec.order"), Some(6), "the object, where the field is missing");
        assert_eq!(line_of(text, 3, "spec"), None);
    }

    #[test]
    fn a_manifest_may_be_of_any_size_but_aliases_do_not_make_it_larger_than_memory() {
        assert_eq!(names(&"metadata: {name: a}\n---\n".repeat(2000)).len(), 2000);
        let nets = "10.0.0.0/8, ".repeat(300_000);
        assert_eq!(parse(&format!("spec: {{nets: [{nets}]}}")).unwrap().len(), 1);
        let bomb: String = (1..12)
            .map(|level| format!("a{level}: &a{level} [{}]\n", format!("*a{}, ", level - 1).repeat(9)))
            .collect();
        assert!(parse(&format!("a0: &a0 [x]\n{bomb}")).is_err());
    }

    #[test]
    fn json_is_read_too() {
        assert_eq!(names(r#"{"metadata": {"name": "a"}}"#), ["a"]);
    }
}
