//! What happens to an object between a request and the store: it is decoded, completed and judged. Pure.

use caracal_model::object::{FieldError, Object};
use serde_json::{Value, json};

use crate::kinds::{Moment, Resource, Scope};
use crate::metadata;
use crate::path::Subresource;
use crate::status::ApiError;

/// What is done about fields that the kind does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and the client is told.
    Warn,
    /// The object is refused.
    Strict,
}

impl FieldValidation {
    /// From the query.
    pub fn parse(text: &str) -> Result<FieldValidation, ApiError> {
        match text {
            "Ignore" => Ok(FieldValidation::Ignore),
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation must be Strict, Warn or Ignore, not \"{other}\""
            ))),
        }
    }
}

/// A decoded object and what its sender should be told.
#[derive(Debug)]
pub struct Admitted {
    /// Known fields only.
    pub object: Value,
    /// `unknown field "spec.x"`.
    pub warnings: Vec<String>,
}

/// Reads a sent object as what its path says it is.
pub fn decode(
    resource: &Resource,
    namespace: Option<&str>,
    mut object: Value,
    validation: FieldValidation,
) -> Result<Admitted, ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("what was sent, or what the patch leaves, is not an object"));
    }
    let expected = [("apiVersion", resource.api_version()), ("kind", resource.kind.clone())];
    for (field, expected) in expected {
        match object.get(field).and_then(Value::as_str).unwrap_or("") {
            "" => object[field] = expected.into(),
            sent if sent == expected => {}
            sent => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({sent}) does not match the expected one ({expected})"
                )));
            }
        }
    }
    let name = metadata::field(&object, "name").to_owned();
    // The type wants a metadata object; null says the same as none.
    if object.get("metadata").is_none_or(Value::is_null) {
        object["metadata"] = json!({});
    }
    let modelled = resource.custom && resource.definition().is_none();
    let sent = modelled.then(|| object.clone());
    let decoded = resource.decode(object).map_err(|error| match sent.map(Object::accept) {
        // A custom resource's schema is judged with all else that is judged: everything wrong is told at once.
        Some(Err(causes)) => ApiError::invalid(resource, &name, &causes),
        _ => ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {error}",
            resource.kind, resource.version, resource.kind
        )),
    })?;
    let mut object = decoded.value;
    if let Some(namespace) = namespace.filter(|_| resource.scope == Scope::Namespaced) {
        match metadata::field(&object, "namespace") {
            "" => drop(metadata::of(&mut object).insert("namespace".into(), namespace.into())),
            sent if sent == namespace => {}
            sent => {
                return Err(ApiError::bad_request(format!(
                    "the namespace of the provided object ({sent}) does not match the namespace sent on the request ({namespace})"
                )));
            }
        }
    }
    let warnings: Vec<String> =
        decoded.unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
    match validation {
        FieldValidation::Strict if !warnings.is_empty() => Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            resource.kind,
            resource.version,
            resource.kind,
            warnings.join(", ")
        ))),
        FieldValidation::Ignore => Ok(Admitted { object, warnings: Vec::new() }),
        _ => Ok(Admitted { object, warnings }),
    }
}

/// Makes a decoded object ready to be created.
pub fn create(resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
    if !metadata::field(object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if metadata::field(object, "name").is_empty() {
        let prefix = metadata::field(object, "generateName").to_owned();
        if !prefix.is_empty() {
            metadata::of(object).insert("name".into(), metadata::generated_name(&prefix).into());
        }
    }
    metadata::stamp(resource, object);
    resource.prepare(object, Moment::Create);
    judged(resource, object, resource.errors(object))
}

/// Makes a decoded object ready to replace another; only the part that the path names is taken from it.
pub fn update(
    resource: &Resource,
    subresource: Option<Subresource>,
    before: &Value,
    after: &mut Value,
) -> Result<(), ApiError> {
    match subresource {
        Some(Subresource::Status) => {
            let status = after.get("status").cloned();
            // Labels and annotations may be sent along, as in Kubernetes; the rest stays.
            let mut merged = before.clone();
            for field in ["labels", "annotations", "finalizers"] {
                let sent = after.get("metadata").and_then(|metadata| metadata.get(field)).cloned();
                set_or_remove(metadata::of(&mut merged), field, sent);
            }
            if let Some(map) = merged.as_object_mut() {
                set_or_remove(map, "status", status);
            }
            *after = merged;
        }
        None => {
            if resource.status
                && let Some(map) = after.as_object_mut()
            {
                set_or_remove(map, "status", before.get("status").cloned());
            }
        }
    }
    metadata::carry_over(resource, before, after);
    resource.prepare(after, Moment::Update);
    let mut causes = resource.errors(after);
    causes.extend(resource.change_errors(before, after));
    judged(resource, after, causes)
}

fn set_or_remove(map: &mut serde_json::Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(field.into(), value),
        None => map.remove(field),
    };
}

fn judged(resource: &Resource, object: &Value, causes: Vec<FieldError>) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(resource, metadata::field(object, "name"), &causes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kinds;

    fn pods() -> &'static Resource {
        kinds::find("", "v1", "pods").expect("served")
    }

    #[test]
    fn strict_refuses_what_warn_reports_and_ignore_drops() {
        let sent = json!({ "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "c" }], "nodename": "x" } });
        let decoded = |validation| decode(pods(), Some("n"), sent.clone(), validation);
        assert_eq!(decoded(FieldValidation::Ignore).expect("taken").warnings, Vec::<String>::new());
        assert_eq!(
            decoded(FieldValidation::Warn).expect("taken").warnings,
            ["unknown field \"spec.nodename\""]
        );
        let refused = decoded(FieldValidation::Strict).expect_err("refused");
        assert!(refused.message.contains("unknown field \"spec.nodename\""), "{}", refused.message);
    }

    #[test]
    fn an_update_leaves_the_status_and_a_status_update_leaves_the_spec() {
        let before = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "namespace": "n", "uid": "u", "labels": { "x": "y" } },
            "spec": { "containers": [{ "name": "c" }], "nodeName": "one" }, "status": { "phase": "Running" },
        });
        let mut before_full = before.clone();
        pods().prepare(&mut before_full, Moment::Update);
        let mut sent = before_full.clone();
        sent["status"] = json!({ "phase": "Failed" });
        sent["metadata"]["labels"]["x"] = "z".into();
        update(pods(), None, &before_full, &mut sent).expect("taken");
        assert_eq!(sent["status"]["phase"], "Running");
        assert_eq!(sent["metadata"]["labels"]["x"], "z");

        let mut sent = before_full.clone();
        sent["status"] = json!({ "phase": "Failed" });
        sent["spec"]["nodeName"] = "two".into();
        update(pods(), Some(Subresource::Status), &before_full, &mut sent).expect("taken");
        assert_eq!(sent["status"]["phase"], "Failed");
        assert_eq!(sent["spec"]["nodeName"], "one");
    }

    /// JSON made of names that matter, where they should not be.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = proptest::sample::select(vec![
            "metadata",
            "name",
            "generateName",
            "labels",
            "finalizers",
            "spec",
            "status",
            "containers",
            "ports",
            "podCIDR",
            "podCIDRs",
            "podSelector",
            "ingress",
            "from",
            "protocol",
            "resources",
            "apiVersion",
            "kind",
            "matchLabels",
            "tier",
            "order",
            "selector",
            "types",
            "egress",
            "action",
            "source",
            "services",
            "serviceAccounts",
            "nets",
            "notICMP",
            "stagedAction",
            "subject",
            "pods",
            "cidr",
            "blockSize",
            "node",
            "expectedIPs",
            "addressType",
            "template",
            "data",
            "stringData",
            "rules",
            "roleRef",
            "subjects",
            "strategy",
            "minAvailable",
            "value",
            "versions",
            "names",
            "schema",
            "properties",
            "default",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-zA-Z./-]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 48, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_object_is_taken_or_refused(sent in any_json(), other in any_json()) {
            for resource in kinds::NATIVE.iter() {
                for sent in [sent.clone(), json!({ "metadata": { "name": "a" }, "spec": sent, "status": other })] {
                    let namespace = Some("n").filter(|_| resource.scope == Scope::Namespaced);
                    let Ok(admitted) = decode(resource, namespace, sent, FieldValidation::Warn) else { continue };
                    let mut made = admitted.object.clone();
                    let taken = create(resource, &mut made);
                    resource.cells(&made, metadata::timestamp());
                    if taken.is_ok() {
                        // What was taken once is taken as it is.
                        let mut again = made.clone();
                        prop_assert_eq!(update(resource, None, &made, &mut again), Ok(()));
                        prop_assert_eq!(again, made);
                    }
                }
            }
        }
    }
}
