//! `crd.projectcalico.org/v1`: how Calico's objects are stored where `projectcalico.org/v3` is served by an API server of
//! its own. What they say is the same but for a few names and types.

use serde_json::Value;

/// The API version of stored objects.
const STORED: &str = "crd.projectcalico.org/v1";

/// The object of `projectcalico.org/v3` that is stored so; another object stays what it is.
pub fn from_stored(mut object: Value) -> Value {
    if object.get("apiVersion").and_then(Value::as_str) != Some(STORED) {
        return object;
    }
    if let Some(version) = object.get_mut("apiVersion") {
        *version = "projectcalico.org/v3".into();
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
    object
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
}
