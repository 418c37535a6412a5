//! Events: what `kubectl describe` lists. Nothing here makes or expires them.

use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use super::{Column, Resource, Scope, age, any_change, leave, no_causes, text};
use crate::shape::Shape;

pub const EVENT: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    categories: &[],
    scope: Scope::Namespaced,
    status: false,
    generation: false,
    fields: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    shape: Shape::of::<Event>,
    prepare: leave,
    validate: no_causes,
    validate_change: any_change,
    columns: &[
        Column {
            name: "Last Seen",
            kind: "string",
            priority: 0,
            description: "When it last happened.",
            cell: |object, now| {
                let seen = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
                    .map(|at| text(object, at))
                    .into_iter()
                    .find(|time| !time.is_empty());
                age(seen.unwrap_or(""), now).into()
            },
        },
        Column {
            name: "Type",
            kind: "string",
            priority: 0,
            description: "Normal or Warning.",
            cell: |object, _| text(object, "/type").into(),
        },
        Column {
            name: "Reason",
            kind: "string",
            priority: 0,
            description: "What happened, in one word.",
            cell: |object, _| text(object, "/reason").into(),
        },
        Column {
            name: "Object",
            kind: "string",
            priority: 0,
            description: "What it happened to.",
            cell: |object, _| {
                let kind = text(object, "/involvedObject/kind").to_lowercase();
                Value::String(format!("{kind}/{}", text(object, "/involvedObject/name")))
            },
        },
        Column {
            name: "Message",
            kind: "string",
            priority: 0,
            description: "What happened, for people.",
            cell: |object, _| text(object, "/message").into(),
        },
    ],
};
