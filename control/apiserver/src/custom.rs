//! Custom resources: what CustomResourceDefinitions ask to be served.
//!
//! ```text
//!   a definition is written ──► errors: refused, or kept
//!   settle: of all that are kept, whose names are accepted ──► their status ──► the rows that are served
//!   a definition is deleted ──► its objects go first (lifecycle), then it, then its rows
//! ```
//!
//! What a definition cannot have here: conversion by webhooks (versions differ in their name only), the scale
//! subresource, and rules in CEL (`x-kubernetes-validations`), which are kept, shown and not evaluated.
//!
//! A definition of what is served natively is kept, and its status says that it is not used.

mod column;
mod lifecycle;
mod names;
mod schema;

use caracal_model::object::{FieldError, FieldErrorReason, decode_lenient};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use crate::kinds::{Resource, Scope, cause, defined};
use crate::pointer::{items, text};
use crate::schema::REFERENCE;
use crate::shape::Decoded;

pub use column::PrinterColumn;
pub use lifecycle::{clear, living, settle, start};
pub use names::{Names, version_order};
use schema::{BadSchema, Schema};

/// The definitions' own group and plural.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Their plural.
pub const PLURAL: &str = "customresourcedefinitions";

/// Whether these are the definitions themselves.
pub fn are(resource: &Resource) -> bool {
    resource.is(GROUP, PLURAL)
}

/// One version of a definition, ready to serve.
#[derive(Debug)]
pub struct Definition {
    /// The definition's name: `foos.example.org`.
    pub name: String,
    /// `FooList`.
    pub list_kind: String,
    /// The group and version in which objects are kept.
    pub kept_as: String,
    /// Whether `/status` is written apart from the rest.
    pub has_status: bool,
    /// What `kubectl get` shows.
    pub columns: Vec<PrinterColumn>,
    /// What a field selector may name.
    pub fields: Vec<String>,
    schema: Schema,
    /// The schema as it was written.
    written: Value,
}

impl Definition {
    /// Reads an object: unknown fields go, defaults come.
    pub fn decode(&self, mut object: Value) -> Result<Decoded, String> {
        let mut unknown = self.schema.prune(&mut object);
        let metadata = object.get("metadata").cloned().unwrap_or_default();
        let (metadata, of_metadata) =
            decode_lenient::<ObjectMeta>(metadata).map_err(|error| format!("metadata.{error}"))?;
        unknown.extend(of_metadata.into_iter().map(|field| format!("metadata.{field}")));
        object["metadata"] = serde_json::to_value(metadata).map_err(|error| error.to_string())?;
        self.schema.complete(&mut object);
        Ok(Decoded { value: object, unknown })
    }

    /// Everything wrong with an object.
    pub fn errors(&self, object: &Value) -> Vec<FieldError> {
        self.schema.errors(object)
    }

    /// The schema as OpenAPI documents show it.
    pub fn published(&self) -> Value {
        let mut schema = self.written.clone();
        if !schema.is_object() {
            schema = json!({});
        }
        schema["type"] = "object".into();
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        let own = [
            ("apiVersion", json!({ "type": "string", "description": "The API group and version." })),
            ("kind", json!({ "type": "string", "description": "The kind." })),
            (
                "metadata",
                json!({ "allOf": [{ "$ref": format!("{REFERENCE}{OBJECT_META}") }], "description": "Who it is." }),
            ),
        ];
        for (field, schema_of_field) in own {
            schema["properties"][field] = schema_of_field;
        }
        schema
    }
}

/// The definition of metadata, as OpenAPI documents call it.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Fills in what a definition need not say.
pub fn prepare(definition: &mut Value) {
    let kind = text(definition, "/spec/names/kind").to_owned();
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let or_insert = |map: &mut Map<String, Value>, field: &str, value: Value| {
        if map.get(field).is_none_or(|found| found.is_null() || found == "") {
            map.insert(field.into(), value);
        }
    };
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        or_insert(names, "singular", kind.to_lowercase().into());
        or_insert(names, "listKind", format!("{kind}List").into());
    }
    or_insert(spec, "conversion", json!({ "strategy": "None" }));
}

/// The schema of a version, as it is written.
fn written(version: &Value) -> &Value {
    version.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null)
}

/// Everything for which a definition cannot be served.
pub fn errors(definition: &Value) -> Vec<FieldError> {
    let mut errors = names::errors(definition);
    let mut refuse = |field: &str, reason, message: &str| errors.push(cause(field, reason, message));
    let scope = text(definition, "/spec/scope");
    if !["Cluster", "Namespaced"].contains(&scope) {
        let why = format!("Unsupported value: {scope:?}: supported values: \"Cluster\", \"Namespaced\"");
        refuse("spec.scope", FieldErrorReason::NotSupported, &why);
    }
    if text(definition, "/spec/conversion/strategy") != "None" {
        let why =
            "Unsupported value: here, versions are converted by their name only: supported values: \"None\"";
        refuse("spec.conversion.strategy", FieldErrorReason::NotSupported, why);
    }
    if definition.pointer("/spec/preserveUnknownFields") == Some(&Value::Bool(true)) {
        let why =
            "Invalid value: true: must be false; say x-kubernetes-preserve-unknown-fields in the schema";
        refuse("spec.preserveUnknownFields", FieldErrorReason::Invalid, why);
    }
    let versions = items(definition, "/spec/versions");
    let kept = versions.iter().filter(|version| version["storage"] == true).count();
    if kept != 1 {
        let why = "Invalid value: must have exactly one version marked as storage version";
        refuse("spec.versions", FieldErrorReason::Invalid, why);
    }
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, "/name");
        if versions[..index].iter().any(|earlier| text(earlier, "/name") == name) {
            let field = format!("spec.versions[{index}].name");
            refuse(&field, FieldErrorReason::Duplicate, &format!("Duplicate value: {name:?}"));
        }
    }
    for stored in items(definition, "/status/storedVersions").iter().filter_map(Value::as_str) {
        if !versions.iter().any(|version| text(version, "/name") == stored) {
            let why = format!(
                "Invalid value: {stored:?}: must appear in spec.versions: objects may be kept in this version"
            );
            refuse("status.storedVersions", FieldErrorReason::Invalid, &why);
        }
    }
    for (index, version) in versions.iter().enumerate() {
        errors.extend(version_errors(version, &format!("spec.versions[{index}]")));
    }
    errors
}

fn version_errors(version: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(version, "/name");
    if !names::is_label(name) {
        let why =
            format!("Invalid value: {name:?}: must be lower-case letters, digits and '-' (a DNS label)");
        errors.push(cause(&format!("{field}.name"), FieldErrorReason::Invalid, why));
    }
    let schema_field = format!("{field}.schema.openAPIV3Schema");
    if written(version).is_object() {
        let mut bad = Vec::new();
        schema::compile(written(version), &mut bad);
        errors.extend(bad.into_iter().map(|BadSchema { field: at, why }| {
            let at = if at.is_empty() { schema_field.clone() } else { format!("{schema_field}.{at}") };
            cause(&at, FieldErrorReason::Invalid, format!("Invalid value: {why}"))
        }));
    } else {
        errors.push(cause(&schema_field, FieldErrorReason::Required, "Required value: schemas are required"));
    }
    for (index, column) in items(version, "/additionalPrinterColumns").iter().enumerate() {
        let field = format!("{field}.additionalPrinterColumns[{index}]");
        let kind = text(column, "/type");
        if !["integer", "number", "string", "boolean", "date"].contains(&kind) {
            let why = format!(
                "Unsupported value: {kind:?}: supported values: \"integer\", \"number\", \"string\", \"boolean\", \"date\""
            );
            errors.push(cause(&format!("{field}.type"), FieldErrorReason::NotSupported, why));
        }
        if let Err(bad) = PrinterColumn::of(column) {
            let why = format!("Invalid value: {bad}");
            errors.push(cause(&format!("{field}.jsonPath"), FieldErrorReason::Invalid, why));
        }
    }
    errors
}

/// What may not change of a definition.
pub fn change_errors(before: &Value, after: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["group", "scope", "names/plural", "names/kind"] {
        let pointer = format!("/spec/{field}");
        let (old, new) = (text(before, &pointer), text(after, &pointer));
        if old != new {
            let why = format!("Invalid value: {new:?}: field is immutable");
            let field = format!("spec.{}", field.replace('/', "."));
            errors.push(cause(&field, FieldErrorReason::Invalid, why));
        }
    }
    errors
}

/// The rows that a definition is served by: one for each served version, the newest and most stable first.
fn rows(definition: &Value) -> Vec<Resource> {
    let (group, name) = (text(definition, "/spec/group"), text(definition, "/metadata/name"));
    let versions = items(definition, "/spec/versions");
    let kept = versions.iter().find(|version| version["storage"] == true);
    let Some(kept) = kept.map(|version| format!("{group}/{}", text(version, "/name"))) else {
        return Vec::new();
    };
    let scope = match text(definition, "/spec/scope") {
        "Cluster" => Scope::Cluster,
        _ => Scope::Namespaced,
    };
    let mut rows: Vec<Resource> = versions
        .iter()
        .filter(|version| version["served"] == true)
        .filter_map(|version| {
            let names = Names::of(definition.pointer("/status/acceptedNames")?);
            let fields = items(version, "/selectableFields").iter();
            let served = Definition {
                name: name.to_owned(),
                list_kind: names.list_kind.clone(),
                kept_as: kept.clone(),
                has_status: version.pointer("/subresources/status").is_some(),
                columns: PrinterColumn::all(items(version, "/additionalPrinterColumns")).ok()?,
                fields: fields
                    .map(|field| text(field, "/jsonPath").trim_start_matches('.').to_owned())
                    .collect(),
                schema: schema::compile(written(version), &mut Vec::new()),
                written: written(version).clone(),
            };
            Some(defined(group, text(version, "/name"), names, scope, served))
        })
        .collect();
    rows.sort_by_cached_key(|row| version_order(&row.version));
    rows
}

#[cfg(test)]
mod tests;
