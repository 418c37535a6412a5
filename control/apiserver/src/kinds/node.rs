//! Nodes.

use caracal_model::object::{FieldError, FieldErrorReason};
use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::{AGE, Column, Moment, NAME, Resource, cause, cluster, default_to, items, model_validate, text};

/// Their row of the table.
pub fn row() -> Resource {
    Resource {
        short_names: vec!["no".into()],
        status: true,
        names: None,
        fields: &["spec.unschedulable"],
        validate: model_validate,
        validate_change,
        prepare,
        columns: COLUMNS,
        ..cluster::<Node>()
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Status", "Whether its kubelet says that it is ready.", status),
    Column::text("Roles", "Its node-role.kubernetes.io labels.", roles),
    AGE,
    Column::text("Version", "Its kubelet's version.", |object, _| {
        text(object, "/status/nodeInfo/kubeletVersion").into()
    }),
    Column::text("Internal-IP", "Its address within the cluster.", |object, _| address(object, "InternalIP"))
        .wide(),
    Column::text("External-IP", "Its address outside.", |object, _| address(object, "ExternalIP")).wide(),
    Column::text("Pod-CIDR", "The addresses of its pods.", |object, _| {
        or_none(text(object, "/spec/podCIDR"))
    })
    .wide(),
];

fn prepare(object: &mut Value, _: Moment) {
    // The singular and the plural say the same; either may be sent.
    let single = text(object, "/spec/podCIDR").to_owned();
    let first = items(object, "/spec/podCIDRs").first().and_then(Value::as_str).unwrap_or("").to_owned();
    default_to(object, "spec", serde_json::json!({}));
    match (single.is_empty(), first.is_empty()) {
        (false, true) => object["spec"]["podCIDRs"] = serde_json::json!([single]),
        (true, false) => object["spec"]["podCIDR"] = first.into(),
        _ => {}
    }
}

fn validate_change(before: &Value, after: &Value) -> Vec<FieldError> {
    let (old, new) = (items(before, "/spec/podCIDRs"), items(after, "/spec/podCIDRs"));
    if old.is_empty() || old == new {
        return Vec::new();
    }
    let why = "Forbidden: node updates may not change podCIDR except from \"\" to valid";
    vec![cause("spec.podCIDRs", FieldErrorReason::Forbidden, why)]
}

fn status(object: &Value, _: k8s_openapi::jiff::Timestamp) -> Value {
    let ready =
        items(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == "Ready");
    let mut told = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if object.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true) {
        told.push_str(",SchedulingDisabled");
    }
    told.into()
}

fn roles(object: &Value, _: k8s_openapi::jiff::Timestamp) -> Value {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(label, value)| match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if label == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .collect();
    roles.sort_unstable();
    or_none(&roles.join(","))
}

fn address(object: &Value, kind: &str) -> Value {
    let found = items(object, "/status/addresses").iter().find(|address| text(address, "/type") == kind);
    or_none(found.map_or("", |address| text(address, "/address")))
}

/// The text, or what kubectl says where there is none.
pub fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>" } else { text }.into()
}
