//! Kubernetes' own protobuf, as far as kubectl insists on it: `kubectl create namespace` and `create serviceaccount`
//! send nothing else since 1.32. Everything that they can say is name, namespace, labels and annotations.
//!
//! A body is the four bytes `k8s\0` and an envelope with the kind and the object's message.

use std::collections::BTreeMap;

use prost::Message;
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

/// The object in a body.
pub fn object(body: &[u8]) -> Result<Value, ApiError> {
    let wrong = |why: &str| ApiError::bad_request(format!("the body is not Kubernetes protobuf: {why}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin with k8s"))?;
    let envelope = Envelope::decode(envelope).map_err(|error| wrong(&error.to_string()))?;
    let TypeMeta { api_version, kind } = envelope.type_meta.unwrap_or_default();
    if api_version != "v1" || !["Namespace", "ServiceAccount"].contains(&kind.as_str()) {
        return Err(ApiError::unsupported_media_type(format!(
            "{api_version} {kind} is not read from protobuf here; send JSON or YAML"
        )));
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
    Ok(json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata }))
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
