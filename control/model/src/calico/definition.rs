//! How Calico's kinds, and ClusterNetworkPolicy, are defined to a cluster that does not know them: as
//! CustomResourceDefinitions, made from the types of this module.
//!
//! A cluster serves only *structural* schemas: no references, a type everywhere, none of the formats that JSON Schema does
//! not know. What an object may say beyond its shape is not in them; [`crate::object::Object::validate`] knows it.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::*;
use crate::object::Kind;

/// What a definition is made from.
struct Definition {
    kind: Kind,
    /// What `kubectl get` also takes.
    short_names: &'static [&'static str],
    /// Whether `/status` is written apart from the rest.
    status: bool,
    schema: fn(&mut SchemaGenerator) -> Value,
}

/// A definition without short names, whose status, if it has one, is written with the rest.
fn of<S: JsonSchema>(kind: Kind) -> Definition {
    let schema = |generator: &mut SchemaGenerator| generator.subschema_for::<S>().to_value();
    Definition { kind, short_names: &[], status: false, schema }
}

/// The kinds that are defined by us. Profiles are not: where Calico's objects are custom resources, they are made of
/// namespaces and service accounts, and nobody stores them.
fn definitions() -> Vec<Definition> {
    let named = |definition: Definition, short_names| Definition { short_names, ..definition };
    let with_status = |definition: Definition| Definition { status: true, ..definition };
    vec![
        with_status(of::<ClusterNetworkPolicySpec>(Kind::ClusterNetworkPolicy)),
        of::<TierSpec>(Kind::Tier),
        named(of::<NetworkPolicySpec>(Kind::CalicoNetworkPolicy), &["cnp", "caliconetworkpolicy"]),
        named(of::<GlobalNetworkPolicySpec>(Kind::GlobalNetworkPolicy), &["gnp", "cgnp"]),
        named(of::<StagedNetworkPolicySpec>(Kind::StagedNetworkPolicy), &["snp", "scnp"]),
        named(of::<StagedGlobalNetworkPolicySpec>(Kind::StagedGlobalNetworkPolicy), &["sgnp"]),
        named(of::<StagedKubernetesNetworkPolicySpec>(Kind::StagedKubernetesNetworkPolicy), &["sknp"]),
        named(of::<NetworkSetSpec>(Kind::NetworkSet), &["netset", "netsets"]),
        named(of::<GlobalNetworkSetSpec>(Kind::GlobalNetworkSet), &["gns"]),
        named(of::<HostEndpointSpec>(Kind::HostEndpoint), &["hep", "heps"]),
        named(of::<FelixConfigurationSpec>(Kind::FelixConfiguration), &["felixconfig", "felixconfigs"]),
        named(with_status(of::<IPPoolSpec>(Kind::IPPool)), &["ipp", "ipps", "pool", "pools"]),
        of::<IPReservationSpec>(Kind::IPReservation),
        named(of::<IPAMConfigurationSpec>(Kind::IPAMConfiguration), &["ipamconfig", "ipamconfigs"]),
        of::<IPAMBlockSpec>(Kind::IPAMBlock),
        named(of::<BlockAffinitySpec>(Kind::BlockAffinity), &["affinity", "affinities"]),
        of::<IPAMHandleSpec>(Kind::IPAMHandle),
        named(of::<BGPConfigurationSpec>(Kind::BGPConfiguration), &["bgpconfig", "bgpconfigs"]),
        of::<BGPPeerSpec>(Kind::BGPPeer),
        of::<BGPFilterSpec>(Kind::BGPFilter),
        with_status(of::<CalicoNodeStatusSpec>(Kind::CalicoNodeStatus)),
        named(of::<ClusterInformationSpec>(Kind::ClusterInformation), &["clusterinfo", "clusterinfos"]),
        named(of::<KubeControllersConfigurationSpec>(Kind::KubeControllersConfiguration), &["kcc", "kccs"]),
    ]
}

/// The CustomResourceDefinitions of a group, in the order of [`Kind::ALL`]: `projectcalico.org`, `crd.projectcalico.org` (the
/// same objects as Calico stores them) or `policy.networking.k8s.io`; none for another group.
pub fn custom_resource_definitions(group: &str) -> Vec<Value> {
    definitions()
        .iter()
        .filter_map(|definition| {
            let (own, version) = definition.kind.api_version().split_once('/')?;
            match (group, own) {
                (STORED_GROUP, CALICO_GROUP) => Some(stored(definition)),
                _ if group == own => Some(custom_resource_definition(definition, group, version)),
                _ => None,
            }
        })
        .collect()
}

const CALICO_GROUP: &str = "projectcalico.org";
const STORED_GROUP: &str = "crd.projectcalico.org";

/// The definition of a kind as Calico stores it; what differs is what [`from_stored`] takes back.
fn stored(definition: &Definition) -> Value {
    let mut crd = custom_resource_definition(definition, STORED_GROUP, "v1");
    if let Some((kind, plural)) = stored_names(definition.kind) {
        crd["metadata"]["name"] = format!("{plural}.{STORED_GROUP}").into();
        for (name, value) in names(kind, plural) {
            crd["spec"]["names"][name] = value.into();
        }
    }
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    if definition.kind == Kind::BlockAffinity
        && let Some(kind) = crd.pointer_mut(&format!("{properties}/deleted/type"))
    {
        *kind = "string".into();
    }
    crd
}

/// The names of a kind that follow from two of them. The singular is the kind's own.
fn names(kind: &str, plural: &str) -> [(&'static str, String); 4] {
    [
        ("kind", kind.to_owned()),
        ("listKind", format!("{kind}List")),
        ("plural", plural.to_owned()),
        ("singular", kind.to_lowercase()),
    ]
}

fn custom_resource_definition(definition: &Definition, group: &str, version: &str) -> Value {
    let kind = definition.kind;
    let mut generator = SchemaSettings::openapi3().into_generator();
    let spec = (definition.schema)(&mut generator);
    let schemas = generator.take_definitions(true);
    let spec = structural(&spec, &schemas, Place::Field);

    let mut properties = json!({
        "apiVersion": { "type": "string", "description": "The API group and version." },
        "kind": { "type": "string", "description": "The kind." },
        "metadata": { "type": "object" },
        "spec": spec,
    });
    if kind.has_status() {
        properties["status"] = json!({
            "type": "object", "description": "What has become of it.", "x-kubernetes-preserve-unknown-fields": true,
        });
    }
    let mut names: Map<String, Value> = names(kind.as_str(), kind.plural())
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    if !definition.short_names.is_empty() {
        names.insert("shortNames".to_owned(), definition.short_names.into());
    }
    let mut served = json!({
        "name": version, "served": true, "storage": true,
        "schema": { "openAPIV3Schema": {
            "type": "object", "description": properties["spec"]["description"], "properties": properties,
        } },
    });
    if definition.status {
        served["subresources"] = json!({ "status": {} });
    }
    let mut metadata = json!({ "name": format!("{}.{group}", kind.plural()) });
    if group.ends_with(".k8s.io") {
        // Clusters refuse a definition of such a group that does not say whether Kubernetes approved of it.
        metadata["annotations"] = json!({
            "api-approved.kubernetes.io": "unapproved, made by Caracal from its own types of this API",
        });
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
        "spec": {
            "group": group, "names": names, "versions": [served],
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
        },
    })
}

/// Where a schema stands: what may be null there differs.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// A field: it is null when it is not there.
    Field,
    /// A member of a list or map: null is a value.
    Member,
}

/// A schema as a cluster takes it: with what it refers to in its place, and without what clusters refuse or warn about.
/// Defaults go, too: those of the types say what a reader takes a missing field for, and none is to be written down.
fn structural(schema: &Value, schemas: &Map<String, Value>, place: Place) -> Value {
    let mut schema = with_references(schema, schemas);
    let Some(fields) = schema.as_object_mut() else {
        return json!({ "x-kubernetes-preserve-unknown-fields": true });
    };
    fields.retain(|name, _| !matches!(name.as_str(), "default" | "title" | "$schema"));
    if place == Place::Field {
        fields.remove("nullable");
    }
    if let Some(format) = fields.get_mut("format")
        && let Some(unsigned) = format.as_str().and_then(|format| format.strip_prefix("uint"))
    {
        *format = if unsigned == "64" { "int64" } else { "int32" }.into();
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        for property in properties.values_mut() {
            *property = structural(property, schemas, Place::Field);
        }
    }
    for members in ["items", "additionalProperties"] {
        if let Some(schema) = fields.get_mut(members) {
            *schema = structural(schema, schemas, Place::Member);
        }
    }
    if fields.get("additionalProperties").is_some_and(is_anything) {
        fields.remove("additionalProperties");
        fields.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    }
    if is_number_or_text(fields) {
        fields.retain(|name, _| matches!(name.as_str(), "description" | "nullable"));
        fields.insert("x-kubernetes-int-or-string".to_owned(), true.into());
    }
    schema
}

/// A schema without references: what is referred to, with what is said beside the reference.
fn with_references(schema: &Value, schemas: &Map<String, Value>) -> Value {
    let Some(fields) = schema.as_object() else { return schema.clone() };
    let (inner, wrapper) = match (fields.get("$ref").and_then(Value::as_str), only_choice(fields)) {
        (Some(reference), _) => (schemas.get(reference.rsplit('/').next().unwrap_or(reference)), "$ref"),
        (None, Some((choice, wrapper))) => (Some(choice), wrapper),
        (None, None) => return schema.clone(),
    };
    let Value::Object(mut whole) = inner.map_or(Value::Bool(true), |inner| with_references(inner, schemas))
    else {
        return Value::Bool(true);
    };
    let beside = fields.iter().filter(|(name, _)| *name != wrapper);
    whole.extend(beside.map(|(name, value)| (name.clone(), value.clone())));
    Value::Object(whole)
}

/// What a schema with only one choice but null comes down to, and the word that it is wrapped in.
fn only_choice(fields: &Map<String, Value>) -> Option<(&Value, &'static str)> {
    ["allOf", "anyOf"].into_iter().find_map(|wrapper| {
        let choices = fields.get(wrapper)?.as_array()?;
        let mut others = choices.iter().filter(|choice| choice["enum"] != json!([null]));
        match (others.next(), others.next()) {
            (Some(only), None) => Some((only, wrapper)),
            _ => None,
        }
    })
}

/// Whether a schema is what [`structural`] makes of one that allows everything.
fn is_anything(schema: &Value) -> bool {
    *schema == json!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// Whether a schema is of a number or a text: `IntOrString`, in any of the ways it is written.
fn is_number_or_text(fields: &Map<String, Value>) -> bool {
    if fields.get("format").is_some_and(|format| format == "int-or-string") {
        return true;
    }
    let either = fields.get("anyOf").or_else(|| fields.get("oneOf")).and_then(Value::as_array);
    let Some(either) = either else { return false };
    let mut types: Vec<&str> = either.iter().filter_map(|one| one.get("type")?.as_str()).collect();
    types.sort_unstable();
    types == ["integer", "string"]
}

#[cfg(test)]
mod tests;
