//! Names, labels, annotations and label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{Errors, format};
use crate::object::{Kind, NameFormat};

/// All annotations of an object together, keys and values.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

pub(super) fn validate(kind: Kind, metadata: &ObjectMeta, errors: &mut Errors) {
    let check_name = match kind {
        Kind::Namespace | Kind::Tier => format::dns_label,
        Kind::Service => format::service_name,
        _ => format::dns_subdomain,
    };
    judge(check_name, kind.is_namespaced(), metadata, errors);
}

/// The same of a kind that the model does not know.
pub(super) fn of_other_kind(name: NameFormat, namespaced: bool, metadata: &ObjectMeta, errors: &mut Errors) {
    let check_name = match name {
        NameFormat::Subdomain => format::dns_subdomain,
        NameFormat::PathSegment => format::path_segment,
    };
    judge(check_name, namespaced, metadata, errors);
}

fn judge(
    check_name: fn(&str) -> Result<(), String>,
    namespaced: bool,
    metadata: &ObjectMeta,
    errors: &mut Errors,
) {
    let generate_name = metadata.generate_name.as_deref().unwrap_or_default();
    match metadata.name.as_deref().unwrap_or_default() {
        "" if generate_name.is_empty() => {
            errors.required("metadata.name", "name or generateName is required");
        }
        "" => {
            // What is generated ends in random letters, so a trailing '-' is good here.
            let stem = generate_name.trim_end_matches('-');
            errors.check("metadata.generateName", generate_name, check_name(stem));
        }
        name => errors.check("metadata.name", name, check_name(name)),
    }
    match metadata.namespace.as_deref() {
        None | Some("") => {}
        Some(namespace) if namespaced => {
            errors.check("metadata.namespace", namespace, format::dns_label(namespace));
        }
        Some(_) => errors.forbidden("metadata.namespace", "not allowed on this type"),
    }
    if let Some(map) = &metadata.labels {
        labels("metadata.labels", map, errors);
    }
    if let Some(map) = &metadata.annotations {
        annotations("metadata.annotations", map, errors);
    }
}

pub(super) fn annotations(field: &str, annotations: &BTreeMap<String, String>, errors: &mut Errors) {
    for key in annotations.keys() {
        errors.check(field, key, format::label_key(&key.to_ascii_lowercase()));
    }
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.invalid(field, bytes, format!("must have at most {ANNOTATIONS_BYTES_MAX} bytes"));
    }
}

pub(super) fn labels(field: &str, labels: &BTreeMap<String, String>, errors: &mut Errors) {
    for (key, value) in labels {
        errors.check(field, key, format::label_key(key));
        errors.check(field, value, format::label_value(value));
    }
}

pub(super) fn label_selector(field: &str, selector: &LabelSelector, errors: &mut Errors) {
    if let Some(map) = &selector.match_labels {
        labels(&format!("{field}.matchLabels"), map, errors);
    }
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = expression.values.as_deref().unwrap_or_default();
        match expression.operator.as_str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    errors.required(
                        &format!("{field}.values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.forbidden(
                        &format!("{field}.values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            operator => {
                errors.invalid(&format!("{field}.operator"), operator, "not a valid selector operator")
            }
        }
        errors.check(&format!("{field}.key"), &expression.key, format::label_key(&expression.key));
        for (index, value) in values.iter().enumerate() {
            errors.check(&format!("{field}.values[{index}]"), value, format::label_value(value));
        }
    }
}
