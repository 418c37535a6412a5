//! Kubernetes' own protobuf, as far as kubectl insists on it: `kubectl create` of namespaces, service accounts,
//! configuration and roles sends nothing else since 1.32. What they can say is read; of metadata that is name,
//! namespace, labels and annotations.
//!
//! A body is the four bytes `k8s\0` and an envelope with the kind and the object's message.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use prost::{DecodeError, Message};
use serde_json::{Value, json};

use crate::status::ApiError;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// What all kinds begin with.
#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    generate_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMap {
    #[prost(btree_map = "string, string", tag = "2")]
    data: BTreeMap<String, String>,
    #[prost(btree_map = "string, bytes", tag = "3")]
    binary_data: BTreeMap<String, Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    immutable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Secret {
    #[prost(btree_map = "string, bytes", tag = "2")]
    data: BTreeMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    kind: String,
    #[prost(btree_map = "string, string", tag = "4")]
    string_data: BTreeMap<String, String>,
    #[prost(bool, optional, tag = "5")]
    immutable: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Role {
    #[prost(message, repeated, tag = "2")]
    rules: Vec<Rule>,
    /// Of cluster roles: other roles that it consists of. Not read, so not to be lost.
    #[prost(bytes = "vec", optional, tag = "3")]
    aggregation: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Rule {
    #[prost(string, repeated, tag = "1")]
    verbs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    groups: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    resources: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    names: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    urls: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Binding {
    #[prost(message, repeated, tag = "2")]
    subjects: Vec<Subject>,
    #[prost(message, optional, tag = "3")]
    role: Option<RoleRef>,
}

#[derive(Clone, PartialEq, Message)]
struct Subject {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    group: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct RoleRef {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(string, tag = "2")]
    kind: String,
    #[prost(string, tag = "3")]
    name: String,
}

/// What an object says beside its metadata; none: the kind is not read here.
fn content(api_version: &str, kind: &str, raw: &[u8]) -> Result<Option<Value>, DecodeError> {
    let encoded = |entries: BTreeMap<String, Vec<u8>>| -> BTreeMap<String, String> {
        entries.into_iter().map(|(key, bytes)| (key, BASE64.encode(&bytes))).collect()
    };
    Ok(Some(match (api_version, kind) {
        ("v1", "Namespace" | "ServiceAccount") => json!({}),
        ("v1", "ConfigMap") => {
            let ConfigMap { data, binary_data, immutable } = ConfigMap::decode(raw)?;
            json!({ "data": data, "binaryData": encoded(binary_data), "immutable": immutable })
        }
        ("v1", "Secret") => {
            let Secret { data, kind, string_data, immutable } = Secret::decode(raw)?;
            json!({ "data": encoded(data), "type": kind, "stringData": string_data, "immutable": immutable })
        }
        (RBAC, "Role" | "ClusterRole") => {
            let Role { rules, aggregation } = Role::decode(raw)?;
            if aggregation.is_some() {
                return Ok(None);
            }
            let rule = |rule: Rule| {
                json!({
                    "verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources,
                    "resourceNames": rule.names, "nonResourceURLs": rule.urls,
                })
            };
            json!({ "rules": rules.into_iter().map(rule).collect::<Vec<_>>() })
        }
        (RBAC, "RoleBinding" | "ClusterRoleBinding") => {
            let Binding { subjects, role } = Binding::decode(raw)?;
            let RoleRef { group, kind, name } = role.unwrap_or_default();
            let subject = |one: Subject| json!({ "kind": one.kind, "apiGroup": one.group, "name": one.name, "namespace": one.namespace });
            json!({
                "subjects": subjects.into_iter().map(subject).collect::<Vec<_>>(),
                "roleRef": { "apiGroup": group, "kind": kind, "name": name },
            })
        }
        _ => return Ok(None),
    }))
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Removes what says nothing: absent and empty are the same on the wire.
fn without_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(without_empty);
            let empty = |value: &Value| match value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            map.retain(|_, value| !empty(value));
        }
        Value::Array(list) => list.iter_mut().for_each(without_empty),
        _ => {}
    }
}

/// The object in a body.
pub fn object(body: &[u8]) -> Result<Value, ApiError> {
    let wrong = |why: &str| ApiError::bad_request(format!("the body is not Kubernetes protobuf: {why}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin with k8s"))?;
    let envelope = Envelope::decode(envelope).map_err(|error| wrong(&error.to_string()))?;
    let TypeMeta { api_version, kind } = envelope.type_meta.unwrap_or_default();
    let content = content(&api_version, &kind, &envelope.raw).map_err(|error| wrong(&error.to_string()))?;
    let Some(mut object) = content else {
        return Err(ApiError::unsupported_media_type(format!(
            "{api_version} {kind} is not read from protobuf here; send JSON or YAML (kubectl apply -f does)"
        )));
    };
    // Texts in data may be empty; they are no fields.
    for part in ["subjects", "rules", "roleRef"] {
        without_empty(&mut object[part]);
    }
    let head = Head::decode(envelope.raw.as_slice()).map_err(|error| wrong(&error.to_string()))?;
    let sent = head.metadata.unwrap_or_default();
    let mut metadata = json!({ "labels": sent.labels, "annotations": sent.annotations });
    for (field, text) in
        [("name", sent.name), ("generateName", sent.generate_name), ("namespace", sent.namespace)]
    {
        if !text.is_empty() {
            metadata[field] = text.into();
        }
    }
    if let Some(map) = object.as_object_mut() {
        map.retain(|_, value| !value.is_null() && *value != "");
    }
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    object["metadata"] = metadata;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str) -> Vec<u8> {
        let metadata = Metadata { name: "a".into(), ..Metadata::default() };
        let envelope = Envelope {
            type_meta: Some(TypeMeta { api_version: "v1".into(), kind: kind.into() }),
            raw: Head { metadata: Some(metadata) }.encode_to_vec(),
        };
        [MAGIC, &envelope.encode_to_vec()].concat()
    }

    #[test]
    fn a_namespace_is_read_and_a_pod_is_refused_with_advice() {
        let namespace = object(&body("Namespace")).expect("a namespace");
        assert_eq!((&namespace["kind"], &namespace["metadata"]["name"]), (&json!("Namespace"), &json!("a")));
        let refused = object(&body("Pod")).expect_err("a pod");
        assert!(refused.message.contains("send JSON"), "{}", refused.message);
    }

    #[test]
    fn a_truncated_body_is_refused() {
        let whole = body("Namespace");
        for length in 0..whole.len() {
            let _ = object(&whole[..length]);
        }
        assert!(object(&whole[..3]).is_err());
        assert!(object(&whole[..8]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_object_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = object(&bytes);
            let _ = object(&[MAGIC, &bytes].concat());
        }
    }
}
