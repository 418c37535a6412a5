//! `crd.projectcalico.org/v1`: how Calico's objects are stored where `projectcalico.org/v3` is served by an API server of
//! its own. What they say is the same but for a few names and types, and for metadata: what `v3` says of an object beyond
//! its name, labels and annotations is kept in an annotation, and its UID is derived from the stored object's.

use serde_json::{Map, Value};

use crate::object::Kind;

/// The API version of stored objects.
const STORED: &str = "crd.projectcalico.org/v1";
/// The API version of what they store.
const SERVED: &str = "projectcalico.org/v3";
/// Holds the `v3` object's own metadata, as JSON.
const METADATA: &str = "projectcalico.org/metadata";
/// Metadata that stored objects have themselves.
const OWN_METADATA: [&str; 6] = ["name", "namespace", "resourceVersion", "uid", "labels", "annotations"];
/// Metadata that is the server's business, of either object.
const SERVERS_METADATA: [&str; 3] = ["managedFields", "generation", "selfLink"];

/// The kind and the plural that objects of a kind are stored under; `None` for kinds that are not Calico's, or not stored.
#[must_use]
pub fn stored_names(kind: Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::IPAMConfiguration => Some(("IPAMConfig", "ipamconfigs")),
        Kind::Profile => None,
        kind if kind.api_version() == SERVED => Some((kind.as_str(), kind.plural())),
        _ => None,
    }
}

/// The object of `projectcalico.org/v3` that is stored so; another object stays what it is.
#[must_use]
pub fn from_stored(mut object: Value) -> Value {
    if object.get("apiVersion").and_then(Value::as_str) != Some(STORED) {
        return object;
    }
    if let Some(version) = object.get_mut("apiVersion") {
        *version = SERVED.into();
    }
    if let Some(kind) = object.get_mut("kind").filter(|kind| *kind == "IPAMConfig") {
        *kind = "IPAMConfiguration".into();
    }
    let is_affinity = object.get("kind").is_some_and(|kind| kind == "BlockAffinity");
    if let Some(deleted) = object.pointer_mut("/spec/deleted").filter(|_| is_affinity) {
        // Anything but these two stays as it is, and is refused as no boolean.
        if *deleted == "true" {
            *deleted = true.into();
        } else if *deleted == "false" {
            *deleted = false.into();
        }
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        take_metadata(metadata);
        exchange_uid(metadata);
    }
    object
}

/// How an object of `projectcalico.org/v3` is stored; another object stays what it is.
#[must_use]
pub fn to_stored(mut object: Value) -> Value {
    if object.get("apiVersion").and_then(Value::as_str) != Some(SERVED) {
        return object;
    }
    if let Some(version) = object.get_mut("apiVersion") {
        *version = STORED.into();
    }
    if let Some(kind) = object.get_mut("kind").filter(|kind| *kind == "IPAMConfiguration") {
        *kind = "IPAMConfig".into();
    }
    let is_affinity = object.get("kind").is_some_and(|kind| kind == "BlockAffinity");
    if let Some(deleted) = object.pointer_mut("/spec/deleted").filter(|_| is_affinity)
        && let Value::Bool(is_deleted) = *deleted
    {
        *deleted = is_deleted.to_string().into();
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        put_metadata(metadata);
        exchange_uid(metadata);
    }
    object
}

/// Takes what the annotation says into the metadata. One that cannot be read stays where it is.
fn take_metadata(metadata: &mut Map<String, Value>) {
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    let kept = annotations.get(METADATA).and_then(Value::as_str);
    let Some(Ok(Value::Object(kept))) = kept.map(serde_json::from_str::<Value>) else { return };
    annotations.remove(METADATA);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    for (field, value) in kept {
        let is_told = !value.is_null() && !SERVERS_METADATA.contains(&field.as_str());
        // Older versions kept labels and annotations there, too; the object's own are newer.
        if is_told && !(OWN_METADATA.contains(&field.as_str()) && metadata.contains_key(&field)) {
            metadata.insert(field, value);
        }
    }
}

/// Puts what a stored object does not have itself into the annotation.
fn put_metadata(metadata: &mut Map<String, Value>) {
    metadata.retain(|field, _| !SERVERS_METADATA.contains(&field.as_str()));
    let others: Vec<String> =
        metadata.keys().filter(|field| !OWN_METADATA.contains(&field.as_str())).cloned().collect();
    let kept: Map<String, Value> =
        others.into_iter().filter_map(|field| metadata.remove_entry(&field)).collect();
    if kept.is_empty() {
        return;
    }
    let annotations = metadata.entry("annotations").or_insert_with(|| Map::new().into());
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(METADATA.to_owned(), Value::Object(kept).to_string().into());
    }
}

/// Replaces a UID by that of the other object of the pair: the bits of each byte reversed, except of the two that hold the
/// UUID's version and variant (RFC 9562, section 4). The same in both directions; what is no UUID stays as it is.
fn exchange_uid(metadata: &mut Map<String, Value>) {
    let Some(Value::String(uid)) = metadata.get_mut("uid") else { return };
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    let is_uuid = uid.len() == 36 && digits.len() == 32;
    let Some(number) = u128::from_str_radix(&digits, 16).ok().filter(|_| is_uuid) else { return };
    let mut bytes = number.to_be_bytes();
    for (at, byte) in bytes.iter_mut().enumerate() {
        if at != 6 && at != 8 {
            *byte = byte.reverse_bits();
        }
    }
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default());
    *uid = parts.join("-");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::Object;

    #[test]
    fn stored_objects_are_those_of_the_api() {
        for object in [
            json!({"apiVersion": STORED, "kind": "Tier", "metadata": {"name": "a"}, "spec": {"order": 1}}),
            json!({"apiVersion": STORED, "kind": "IPAMConfig", "metadata": {"name": "default"}, "spec": {}}),
            json!({
                "apiVersion": STORED, "kind": "BlockAffinity", "metadata": {"name": "n1-10-0-0-0-26"},
                "spec": {"cidr": "10.0.0.0/26", "node": "n1", "state": "confirmed", "deleted": "false"},
            }),
        ] {
            assert_eq!(Object::accept(from_stored(object.clone())).err(), None, "{object}");
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"deleted": "true"}});
        assert_eq!(from_stored(pod.clone()), pod);
    }

    #[test]
    fn what_is_stored_and_read_again_is_the_same() {
        for object in [
            json!({
                "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration",
                "metadata": {"name": "default"}, "spec": {"strictAffinity": true},
            }),
            json!({
                "apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity",
                "metadata": {
                    "name": "n1-10-0-0-0-26", "labels": {"a": "b"}, "annotations": {"c": "d"},
                    "uid": "3ffa7f2e-6a3c-4c2f-9d51-0123456789ab", "resourceVersion": "7",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "ownerReferences": [{"name": "n1"}],
                },
                "spec": {"cidr": "10.0.0.0/26", "node": "n1", "state": "confirmed", "deleted": true},
            }),
        ] {
            assert_eq!(from_stored(to_stored(object.clone())), object);
        }
    }

    #[test]
    fn metadata_beyond_name_and_labels_is_kept_in_an_annotation() {
        let object = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "Tier",
            "metadata": {
                "name": "a", "resourceVersion": "7", "labels": {"l": "1"}, "annotations": {"x": "y"},
                "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3, "managedFields": [],
                "uid": "01020304-0506-4708-890a-0b0c0d0e0f80",
            },
        });
        let kept = r#"{"creationTimestamp":"2026-01-01T00:00:00Z"}"#;
        let stored = json!({
            "apiVersion": STORED, "kind": "Tier",
            "metadata": {
                "name": "a", "resourceVersion": "7", "labels": {"l": "1"},
                "annotations": {"x": "y", METADATA: kept},
                // Bytes 6 and 8 hold version and variant, and stay.
                "uid": "8040c020-a060-4710-8950-d030b070f001",
            },
        });
        assert_eq!(to_stored(object), stored);
    }

    #[test]
    fn older_annotations_with_labels_are_read_and_nonsense_is_left_alone() {
        let read = |annotation: &str| {
            from_stored(json!({
                "apiVersion": STORED, "kind": "Tier",
                "metadata": {"name": "a", "uid": "no uuid", "annotations": {METADATA: annotation}},
            }))
        };
        let older =
            read(r#"{"name":"b","labels":{"l":"1"},"annotations":{"x":"y"},"creationTimestamp":null}"#);
        let metadata =
            json!({"name": "a", "uid": "no uuid", "labels": {"l": "1"}, "annotations": {"x": "y"}});
        assert_eq!(older["metadata"], metadata);
        assert_eq!(read("{")["metadata"]["annotations"], json!({METADATA: "{"}));
    }
}
