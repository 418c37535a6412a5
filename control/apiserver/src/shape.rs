//! The types behind the kinds: decoding with every unknown field named, and their JSON schemas.

use caracal_model::object::decode_lenient;
use k8s_openapi::Resource as KubernetesResource;
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A type, as functions over JSON.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Reads an object into the type and back, so that only known fields remain.
    pub decode: fn(Value) -> Result<Decoded, String>,
    /// Adds the type's schema, and those it needs, to a generator; returns its name there.
    pub schema: fn(&mut SchemaGenerator) -> String,
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
}

fn decode<T: DeserializeOwned + Serialize>(value: Value) -> Result<Decoded, String> {
    let (typed, unknown) = decode_lenient::<T>(value).map_err(|error| error.to_string())?;
    let value = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    Ok(Decoded { value, unknown })
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> String {
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
