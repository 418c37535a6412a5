//! The types behind the kinds: decoding with every unknown field named, and their JSON schemas.

use caracal_model::object::{Kind, Object, decode_lenient};
use k8s_openapi::Resource as KubernetesResource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::schema::REFERENCE;

/// A type, as functions over JSON.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Reads an object into the type and back, so that only known fields remain.
    pub decode: fn(Value) -> Result<Decoded, String>,
    /// Adds the schema of a row's type, and those it needs, to a generator; returns its name there.
    pub schema: fn(&mut SchemaGenerator, &Resource) -> String,
}

/// An object that fits its type.
#[derive(Debug)]
pub struct Decoded {
    /// Known fields only.
    pub value: Value,
    /// `spec.containers[0].imagee`.
    pub unknown: Vec<String>,
}

impl Shape {
    /// The shape of a Kubernetes type.
    pub fn of<T: DeserializeOwned + Serialize + JsonSchema + KubernetesResource>() -> Shape {
        Shape { decode: decode::<T>, schema: schema::<T> }
    }

    /// The shape of a kind whose type is a [`Manifest`](caracal_model::calico::Manifest) of `S`.
    pub fn of_manifest<S: JsonSchema>() -> Shape {
        Shape { decode: decode_manifest, schema: manifest_schema::<S> }
    }
}

fn decode<T: DeserializeOwned + Serialize>(value: Value) -> Result<Decoded, String> {
    let (typed, unknown) = decode_lenient::<T>(value).map_err(|error| error.to_string())?;
    let value = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    Ok(Decoded { value, unknown })
}

/// A manifest does not keep what kind it is of; the model does, and finds its type by it.
fn decode_manifest(value: Value) -> Result<Decoded, String> {
    let (object, unknown) = Object::from_value_lenient(value).map_err(|error| error.to_string())?;
    Ok(Decoded { value: object.to_value(), unknown })
}

fn manifest_schema<S: JsonSchema>(generator: &mut SchemaGenerator, resource: &Resource) -> String {
    let spec = generator.subschema_for::<S>();
    let metadata = generator.subschema_for::<ObjectMeta>();
    let description = spec.get("$ref").and_then(Value::as_str).and_then(|reference| {
        let spec = generator.definitions().get(reference.strip_prefix(REFERENCE)?)?;
        spec.get("description").cloned()
    });
    let group: Vec<&str> = resource.group.rsplit('.').collect();
    let name = format!("{}.{}.{}", group.join("."), resource.version, resource.kind);
    let mut schema = json!({
        "description": description,
        "type": "object",
        "properties": {
            "apiVersion": { "type": "string", "description": "The API group and version." },
            "kind": { "type": "string", "description": "The kind." },
            "metadata": { "allOf": [metadata], "description": "Who it is." },
            "spec": { "allOf": [spec], "description": "What it asks for." },
        },
    });
    if Kind::from_manifest(&resource.api_version(), &resource.kind).is_some_and(Kind::has_status) {
        schema["properties"]["status"] = json!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "description": "What has become of it.",
        });
    }
    generator.definitions_mut().insert(name.clone(), schema);
    name
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator, _: &Resource) -> String {
    generator.subschema_for::<T>();
    T::schema_name().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_named_by_their_path_and_dropped() {
        let decoded = (Shape::of::<Pod>().decode)(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "sepc": {},
            "spec": { "containers": [{ "name": "c", "imagee": "x" }] },
        }))
        .expect("a pod");
        let mut unknown = decoded.unknown;
        unknown.sort();
        assert_eq!(unknown, ["sepc", "spec.containers[0].imagee"]);
        assert_eq!(decoded.value["spec"]["containers"], json!([{ "name": "c" }]));
    }

    #[test]
    fn a_field_of_the_wrong_type_is_named() {
        let error = (Shape::of::<Pod>().decode)(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": { "containers": [{ "name": 5 }] },
        }))
        .expect_err("a name is text");
        assert!(error.contains("spec.containers[0].name"), "{error}");
    }
}
