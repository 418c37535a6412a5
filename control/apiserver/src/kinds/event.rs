//! Events: what `kubectl describe` lists. Nothing here makes or expires them.

use caracal_model::object::{FieldError, FieldErrorReason};
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use super::{Column, Resource, age, cause, leave, namespaced, text};

/// Their row of the table.
pub fn row() -> Resource {
    Resource {
        short_names: vec!["ev".into()],
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
        prepare: leave,
        validate,
        columns: COLUMNS,
        ..namespaced::<Event>()
    }
}

const COLUMNS: &[Column] = &[
    Column::text("Last Seen", "When it last happened.", |object, now| {
        let seen = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
            .map(|at| text(object, at))
            .into_iter()
            .find(|time| !time.is_empty());
        age(seen.unwrap_or(""), now).into()
    }),
    Column::text("Type", "Normal or Warning.", |object, _| text(object, "/type").into()),
    Column::text("Reason", "What happened, in one word.", |object, _| text(object, "/reason").into()),
    Column::text("Object", "What it happened to.", |object, _| {
        let kind = text(object, "/involvedObject/kind").to_lowercase();
        Value::String(format!("{kind}/{}", text(object, "/involvedObject/name")))
    }),
    Column::text("Message", "What happened, for people.", |object, _| text(object, "/message").into()),
];

fn validate(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    let (here, there) = (text(object, "/metadata/namespace"), text(object, "/involvedObject/namespace"));
    // An event about what belongs to the cluster lives in `default`.
    if here != there && !(there.is_empty() && here == "default") {
        let why = format!("Invalid value: \"{there}\": does not match event.namespace");
        causes.push(cause("involvedObject.namespace", FieldErrorReason::Invalid, why));
    }
    causes
}
