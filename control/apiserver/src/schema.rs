//! The JSON schemas of what is served, and how lists in them merge. Made once, from the types.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::custom::Definition;
use crate::kinds::{Form, NATIVE, Resource};

/// Where a reference to a definition begins.
pub const REFERENCE: &str = "#/components/schemas/";

/// How a list merges in a strategic merge patch, instead of being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Its members are objects, matched by this field.
    ByKey(&'static str),
    /// The same; and a patch may say which fields of a member to keep.
    ByKeyRetaining(&'static str),
    /// Its members are values, each at most once.
    AsSet,
}

/// The lists that merge, as the Kubernetes API defines them: (definition, field, how). All others are replaced.
const MERGING: &[(&str, &str, Merge)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", Merge::AsSet),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", Merge::ByKey("uid")),
    ("io.k8s.api.core.v1.Container", "env", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.Container", "ports", Merge::ByKey("containerPort")),
    ("io.k8s.api.core.v1.Container", "volumeDevices", Merge::ByKey("devicePath")),
    ("io.k8s.api.core.v1.Container", "volumeMounts", Merge::ByKey("mountPath")),
    ("io.k8s.api.core.v1.EphemeralContainer", "env", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.EphemeralContainer", "ports", Merge::ByKey("containerPort")),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeDevices", Merge::ByKey("devicePath")),
    ("io.k8s.api.core.v1.EphemeralContainer", "volumeMounts", Merge::ByKey("mountPath")),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", Merge::ByKey("type")),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", Merge::AsSet),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", Merge::ByKey("type")),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", Merge::ByKey("type")),
    ("io.k8s.api.core.v1.PodSpec", "containers", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.PodSpec", "ephemeralContainers", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.PodSpec", "hostAliases", Merge::ByKey("ip")),
    ("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.PodSpec", "initContainers", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.PodSpec", "resourceClaims", Merge::ByKeyRetaining("name")),
    ("io.k8s.api.core.v1.PodSpec", "schedulingGates", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.PodSpec", "topologySpreadConstraints", Merge::ByKey("topologyKey")),
    ("io.k8s.api.core.v1.PodSpec", "volumes", Merge::ByKeyRetaining("name")),
    ("io.k8s.api.core.v1.PodStatus", "conditions", Merge::ByKey("type")),
    ("io.k8s.api.core.v1.PodStatus", "hostIPs", Merge::ByKey("ip")),
    ("io.k8s.api.core.v1.PodStatus", "podIPs", Merge::ByKey("ip")),
    ("io.k8s.api.core.v1.PodStatus", "resourceClaimStatuses", Merge::ByKeyRetaining("name")),
    ("io.k8s.api.core.v1.ServiceAccount", "secrets", Merge::ByKey("name")),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", Merge::ByKey("port")),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", Merge::ByKey("type")),
];

/// How the list `field` of `definition` merges; none: it is replaced.
pub fn merge_of(definition: &str, field: &str) -> Option<Merge> {
    MERGING.iter().find(|row| (row.0, row.1) == (definition, field)).map(|row| row.2)
}

/// All definitions, by name.
pub struct Definitions {
    schemas: BTreeMap<String, Value>,
    /// The definition of each row of the table, in its order.
    roots: Vec<String>,
}

static DEFINITIONS: LazyLock<Definitions> = LazyLock::new(Definitions::make);

/// The definitions of everything that is served.
pub fn definitions() -> &'static Definitions {
    &DEFINITIONS
}

impl Definitions {
    fn make() -> Definitions {
        let mut generator = SchemaSettings::openapi3().into_generator();
        let roots: Vec<String> = NATIVE
            .iter()
            .map(|resource| match &resource.form {
                Form::Typed(shape) => (shape().schema)(&mut generator, resource),
                Form::Defined(_) => String::new(),
            })
            .collect();
        let mut schemas: BTreeMap<String, Value> = generator.take_definitions(true).into_iter().collect();
        schemas.values_mut().for_each(plain);
        for (resource, root) in NATIVE.iter().zip(&roots) {
            if let Some(schema) = schemas.get_mut(root) {
                schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
            }
        }
        for (definition, field, merge) in MERGING {
            let Some(property) =
                schemas.get_mut(*definition).and_then(|schema| schema.get_mut("properties")?.get_mut(field))
            else {
                continue;
            };
            let (strategy, key) = match merge {
                Merge::ByKey(key) => ("merge", Some(key)),
                Merge::ByKeyRetaining(key) => ("merge,retainKeys", Some(key)),
                Merge::AsSet => ("merge", None),
            };
            property["x-kubernetes-patch-strategy"] = strategy.into();
            if let Some(key) = key {
                property["x-kubernetes-patch-merge-key"] = (*key).into();
            }
        }
        Definitions { schemas, roots }
    }

    /// Name and schema of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.schemas.iter().map(|(name, schema)| (name.as_str(), schema))
    }

    /// One of them, under the name it has here.
    pub fn get(&self, name: &str) -> Option<(&str, &Value)> {
        self.schemas.get_key_value(name).map(|(name, schema)| (name.as_str(), schema))
    }

    /// The definition of a native row; empty for another.
    pub fn root(&self, resource: &Resource) -> &str {
        let index = NATIVE.iter().position(|row| row.as_ref() == resource);
        index.and_then(|index| self.roots.get(index)).map_or("", String::as_str)
    }

    /// The definition behind a field: of the object there, or of the members of the list there.
    pub fn field(&self, definition: &str, field: &str) -> Option<&str> {
        let property = self.schemas.get(definition)?.get("properties")?.get(field)?;
        let at = property.get("items").unwrap_or(property);
        let reference = at.get("$ref").or_else(|| at.get("allOf")?.get(0)?.get("$ref"))?;
        reference.as_str()?.strip_prefix(REFERENCE)
    }
}

/// A schema as Kubernetes writes them: what may be left out need not be said to be null, nor what it is then.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // A property may be called `default`; then it is an object, within `properties`.
            map.remove("nullable");
            map.retain(|field, value| field != "default" || value.get("type").is_some());
            let null = |schema: &Value| schema["enum"] == json!([null]);
            if let Some(Value::Array(mut any)) = map.remove("anyOf") {
                any.retain(|schema| !null(schema));
                map.insert(if any.len() == 1 { "allOf" } else { "anyOf" }.into(), any.into());
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(list) => list.iter_mut().for_each(plain),
        _ => {}
    }
}

/// The name and the schema of a row that a CustomResourceDefinition is served by.
pub fn of_definition(resource: &Resource, definition: &Definition) -> (String, Value) {
    let group: Vec<&str> = resource.group.rsplit('.').collect();
    let name = format!("{}.{}.{}", group.join("."), resource.version, resource.kind);
    let mut schema = definition.published();
    schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
    (name, schema)
}

/// Group, version and kind as OpenAPI documents say them.
pub fn gvk(resource: &Resource) -> Value {
    json!({ "group": resource.group, "version": resource.version, "kind": resource.kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_merging_list_is_a_list_of_a_known_definition() {
        for (definition, field, merge) in MERGING {
            let schema = definitions().schemas.get(*definition).unwrap_or_else(|| panic!("{definition}"));
            let property = &schema["properties"][field];
            assert_eq!(property["type"], "array", "{definition}.{field}");
            if let Merge::ByKey(key) | Merge::ByKeyRetaining(key) = merge {
                let member = definitions().field(definition, field).expect("members have a definition");
                let key = &definitions().schemas[member]["properties"][*key];
                assert!(key.is_object(), "{definition}.{field}");
            }
        }
    }

    #[test]
    fn every_row_has_a_definition_with_its_kind() {
        for resource in NATIVE.iter() {
            let schema = &definitions().schemas[definitions().root(resource)];
            assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], resource.kind);
            for field in ["apiVersion", "kind", "metadata"] {
                assert!(schema["properties"][field].is_object(), "{} {field}", resource.kind);
            }
        }
    }

    #[test]
    fn no_schema_speaks_of_null_or_of_rusts_defaults() {
        for (name, schema) in definitions().iter().filter(|(name, _)| !name.starts_with("io.k8s.api")) {
            let text = schema.to_string();
            assert!(
                !text.contains("nullable") && !text.contains("\"default\":") && !text.contains("null"),
                "{name}: {text}"
            );
        }
        let rule = &definitions().schemas["Rule"]["properties"];
        assert_eq!(definitions().field("Rule", "source"), Some("EntityRule"));
        assert_eq!(rule["action"]["type"], "string");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.strip_prefix(REFERENCE).expect("a local reference").to_owned());
                    }
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        definitions().iter().for_each(|(_, schema)| walk(schema, &mut found));
        assert!(found.len() > 100);
        for name in found {
            assert!(definitions().schemas.contains_key(&name), "{name}");
        }
    }
}
