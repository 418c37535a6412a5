//! JSON patches, with bounds: a short patch must not make a vast object, by copying or by nesting, that whoever walks
//! it afterwards has no memory or no stack for.

use json_patch::{PatchOperation, patch_unsafe};
use serde_json::Value;

/// Operations in one patch, as in Kubernetes.
const OPERATIONS_MOST: usize = 10_000;
/// Bytes that all copies of one patch may copy together, as JSON.
const COPIED_MOST: usize = 3 << 20;
/// How deep an object may become: what a parser of JSON takes.
const DEPTH_MOST: usize = 127;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum JsonPatchError {
    /// An operation does not fit the object.
    #[error(transparent)]
    Operation(#[from] json_patch::PatchError),
    /// Too long.
    #[error("the patch has more than {OPERATIONS_MOST} operations")]
    TooMany,
    /// Copies too much.
    #[error("the patch copies more than {COPIED_MOST} bytes")]
    CopiesTooMuch,
    /// Nests too deeply.
    #[error("{0}: deeper than {DEPTH_MOST} levels")]
    TooDeep(String),
    /// Replaces the whole object by something else.
    #[error("the patch leaves no object")]
    NoObject,
}

/// The object as the patch leaves it.
pub fn apply(object: &Value, patch: &[PatchOperation]) -> Result<Value, JsonPatchError> {
    if patch.len() > OPERATIONS_MOST {
        return Err(JsonPatchError::TooMany);
    }
    let mut changed = object.clone();
    let mut copied = 0;
    for operation in patch {
        let put = match operation {
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Move(moved) => changed.pointer(moved.from.as_str()),
            PatchOperation::Copy(copy) => changed.pointer(copy.from.as_str()),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some(put) = put {
            let path = operation.path().as_str();
            if !fits(put, DEPTH_MOST.saturating_sub(path.matches('/').count())) {
                return Err(JsonPatchError::TooDeep(path.chars().take(100).collect()));
            }
            if let PatchOperation::Copy(_) = operation {
                copied += put.to_string().len();
                if copied > COPIED_MOST {
                    return Err(JsonPatchError::CopiesTooMuch);
                }
            }
        }
        patch_unsafe(&mut changed, std::slice::from_ref(operation))?;
    }
    if changed.is_object() { Ok(changed) } else { Err(JsonPatchError::NoObject) }
}

/// Whether a value has at most so many levels.
fn fits(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(map) => levels > 0 && map.values().all(|value| fits(value, levels - 1)),
        Value::Array(list) => levels > 0 && list.iter().all(|value| fits(value, levels - 1)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(object: Value, patch: Value) -> Result<Value, JsonPatchError> {
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
        apply(&object, &patch)
    }

    #[test]
    fn operations_apply_in_order_and_all_or_nothing() {
        let patch = json!([
            { "op": "test", "path": "/a", "value": 1 },
            { "op": "move", "from": "/a", "path": "/b" },
            { "op": "add", "path": "/c", "value": [1] },
            { "op": "add", "path": "/c/-", "value": 2 },
            { "op": "replace", "path": "/c/0", "value": 0 },
        ]);
        assert_eq!(applied(json!({ "a": 1 }), patch.clone()).expect("fits"), json!({ "b": 1, "c": [0, 2] }));
        assert!(applied(json!({ "a": 2 }), patch).is_err());
        assert!(applied(json!({}), json!([{ "op": "remove", "path": "/a" }])).is_err());
        assert!(applied(json!({}), json!([{ "op": "replace", "path": "", "value": [] }])).is_err());
    }

    #[test]
    fn doubling_by_copies_is_refused() {
        // Each copy doubles the object.
        let patch: Vec<Value> = (0..60)
            .map(|index| json!({ "op": "copy", "from": "/a", "path": format!("/a/{index}") }))
            .collect();
        let outcome = applied(json!({ "a": {} }), patch.into());
        assert!(
            matches!(outcome, Err(JsonPatchError::CopiesTooMuch | JsonPatchError::TooDeep(_))),
            "{outcome:?}"
        );
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let mut path = String::new();
        let mut patch = Vec::new();
        for _ in 0..500 {
            path.push_str("/a");
            patch.push(json!({ "op": "add", "path": path, "value": {} }));
        }
        assert!(matches!(applied(json!({}), patch.into()), Err(JsonPatchError::TooDeep(_))));
        let patch =
            json!([{ "op": "add", "path": "/a", "value": {} }, { "op": "add", "path": "/a/b", "value": [] }]);
        assert!(applied(json!({}), patch).is_ok());
    }
}
