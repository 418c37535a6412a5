//! Roles and what binds them. This server gives whoever it knows all rights; roles are kept for what is installed.

use caracal_model::object::{FieldError, FieldErrorReason};
use serde_json::Value;

use super::super::{AGE, Column, Moment, NAME, cause, default_to, items, items_mut, text};

const GROUP: &str = "rbac.authorization.k8s.io";

pub const ROLE: &[Column] = &[
    NAME,
    Column::text("Created At", "When it was made.", |object, _| {
        text(object, "/metadata/creationTimestamp").into()
    }),
];

pub const BINDING: &[Column] = &[
    NAME,
    Column::text("Role", "What its subjects may do.", |object, _| {
        format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name")).into()
    }),
    AGE,
    Column::text("Users", "Who may.", |object, _| subjects(object, "User")).wide(),
    Column::text("Groups", "Who may.", |object, _| subjects(object, "Group")).wide(),
    Column::text("ServiceAccounts", "Who may.", |object, _| subjects(object, "ServiceAccount")).wide(),
];

fn subjects(object: &Value, kind: &str) -> Value {
    let of_kind = items(object, "/subjects").iter().filter(|subject| text(subject, "/kind") == kind);
    let names: Vec<String> = of_kind
        .map(|subject| match text(subject, "/namespace") {
            "" => text(subject, "/name").to_owned(),
            namespace => format!("{namespace}/{}", text(subject, "/name")),
        })
        .collect();
    names.join(", ").into()
}

pub fn role(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    let of_cluster = text(object, "/kind") == "ClusterRole";
    for (index, rule) in items(object, "/rules").iter().enumerate() {
        let mut required = |field: &str, why: &str| {
            let message = format!("Required value: {why}");
            causes.push(cause(&format!("rules[{index}].{field}"), FieldErrorReason::Required, message));
        };
        if items(rule, "/verbs").is_empty() {
            required("verbs", "verbs must contain at least one value");
        }
        if !items(rule, "/nonResourceURLs").is_empty() {
            if !of_cluster {
                let why = "Invalid value: namespaced rules cannot apply to non-resource URLs";
                let field = format!("rules[{index}].nonResourceURLs");
                causes.push(cause(&field, FieldErrorReason::Invalid, why));
            }
            continue;
        }
        if items(rule, "/apiGroups").is_empty() {
            required("apiGroups", "resource rules must supply at least one api group");
        }
        if items(rule, "/resources").is_empty() {
            required("resources", "resource rules must supply at least one resource");
        }
    }
    causes
}

pub fn prepare_binding(object: &mut Value, _: Moment) {
    // The type makes an absent group an empty one.
    if let Some(role) = object.get_mut("roleRef").filter(|role| text(role, "/apiGroup").is_empty())
        && let Some(role) = role.as_object_mut()
    {
        role.insert("apiGroup".into(), GROUP.into());
    }
    for subject in items_mut(object, "/subjects") {
        if ["User", "Group"].contains(&text(subject, "/kind")) {
            default_to(subject, "apiGroup", GROUP);
        }
    }
}

pub fn binding(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    let mut refuse = |field: String, reason, message: String| causes.push(cause(&field, reason, message));
    let kinds: &[&str] = match text(object, "/kind") {
        "ClusterRoleBinding" => &["ClusterRole"],
        _ => &["Role", "ClusterRole"],
    };
    let kind = text(object, "/roleRef/kind");
    if !kinds.contains(&kind) {
        let supported: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
        let why = format!("Unsupported value: {kind:?}: supported values: {}", supported.join(", "));
        refuse("roleRef.kind".into(), FieldErrorReason::NotSupported, why);
    }
    let group = text(object, "/roleRef/apiGroup");
    if group != GROUP {
        let why = format!("Unsupported value: {group:?}: supported values: {GROUP:?}");
        refuse("roleRef.apiGroup".into(), FieldErrorReason::NotSupported, why);
    }
    if text(object, "/roleRef/name").is_empty() {
        refuse("roleRef.name".into(), FieldErrorReason::Required, "Required value".into());
    }
    for (index, subject) in items(object, "/subjects").iter().enumerate() {
        let field = |name: &str| format!("subjects[{index}].{name}");
        if text(subject, "/name").is_empty() {
            refuse(field("name"), FieldErrorReason::Required, "Required value".into());
        }
        match text(subject, "/kind") {
            "ServiceAccount" if text(subject, "/namespace").is_empty() => {
                refuse(field("namespace"), FieldErrorReason::Required, "Required value".into());
            }
            "ServiceAccount" | "User" | "Group" => {}
            other => {
                let why = format!(
                    "Unsupported value: {other:?}: supported values: \"ServiceAccount\", \"User\", \"Group\""
                );
                refuse(field("kind"), FieldErrorReason::NotSupported, why);
            }
        }
    }
    causes
}

pub fn keeps_its_role(before: &Value, after: &Value) -> Vec<FieldError> {
    if before["roleRef"] == after["roleRef"] {
        return Vec::new();
    }
    vec![cause("roleRef", FieldErrorReason::Invalid, "Invalid value: cannot change roleRef")]
}
