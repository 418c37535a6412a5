//! What is the same for all kinds: names, labels, and the metadata that the server owns. Pure, but for random names.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use crate::kinds::Resource;

/// Lower-case letters, digits, `-` and `.`; parts begin and end with a letter or digit; at most 253.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

fn is_dns_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|byte| plain(*byte) || *byte == b'-')
}

/// The text of a metadata field; empty if there is none.
pub fn field<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(name)).and_then(Value::as_str).unwrap_or("")
}

/// The metadata, to change. An object whose metadata is no object gets an empty one.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    match metadata {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

/// Now, in whole seconds.
pub fn timestamp() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Now, as objects say it.
pub fn now() -> String {
    timestamp().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Random letters and digits that spell no words, for names from `generateName`.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4();
    random.as_bytes()[..5]
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

/// A name from `generateName`.
pub fn generated_name(prefix: &str) -> String {
    const ROOM: usize = 63 - 5;
    let prefix: String = prefix.chars().take(ROOM).collect();
    prefix + &suffix()
}

/// What the server writes into the metadata of a new object, and what it does not take from anyone.
pub fn stamp(resource: &Resource, object: &mut Value) {
    let metadata = of(object);
    for ours in
        ["resourceVersion", "selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        metadata.remove(ours);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
    if resource.generation {
        metadata.insert("generation".into(), 1.into());
    } else {
        metadata.remove("generation");
    }
}

/// What a new version of an object keeps from the old one, whatever was sent.
pub fn carry_over(resource: &Resource, before: &Value, after: &mut Value) {
    let old = before.get("metadata").and_then(Value::as_object);
    let generation = old.and_then(|old| old.get("generation")).and_then(Value::as_i64).unwrap_or(1);
    let metadata = of(after);
    for ours in ["selfLink", "managedFields"] {
        metadata.remove(ours);
    }
    for ours in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "generation",
    ] {
        match old.and_then(|old| old.get(ours)) {
            Some(value) => metadata.insert(ours.into(), value.clone()),
            None => metadata.remove(ours),
        };
    }
    if resource.generation {
        // A custom resource without a status of its own may call anything its status.
        let apart = resource.status || resource.definition().is_none();
        let changed = desired(before, apart) != desired(after, apart);
        of(after).insert("generation".into(), (generation + i64::from(changed)).into());
    }
}

/// The part of an object that people want, as against what the system says of it.
fn desired(object: &Value, status_apart: bool) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    let said = |name: &str| name == "metadata" || name == "apiVersion" || name == "status" && status_apart;
    fields.filter(|(name, _)| !said(name)).collect()
}

/// Whether something must still be done before the object may go.
pub fn has_finalizers(object: &Value) -> bool {
    let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    finalizers.is_some_and(|finalizers| !finalizers.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    #[test]
    fn generated_names_are_legal_and_differ() {
        let long = "a".repeat(80);
        for prefix in ["pod-", long.as_str()] {
            let (one, other) = (generated_name(prefix), generated_name(prefix));
            assert!(is_dns_part(&one) && one.len() <= 63, "{one}");
            assert_ne!(one, other);
        }
    }

    #[test]
    fn generation_counts_changes_of_what_is_wanted_only() {
        let policies = kinds::find("networking.k8s.io", "v1", "networkpolicies").expect("served");
        let before = json!({ "metadata": { "name": "a", "generation": 3, "uid": "u" }, "spec": { "x": 1 } });
        let mut labelled = json!({ "metadata": { "name": "a", "labels": { "b": "c" } }, "spec": { "x": 1 } });
        carry_over(policies, &before, &mut labelled);
        assert_eq!(
            (&labelled["metadata"]["generation"], &labelled["metadata"]["uid"]),
            (&json!(3), &json!("u"))
        );
        let mut changed = json!({ "metadata": { "name": "a" }, "spec": { "x": 2 } });
        carry_over(policies, &before, &mut changed);
        assert_eq!(changed["metadata"]["generation"], 4);
    }
}
