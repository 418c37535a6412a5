//! Namespaces.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::{AGE, Column, Moment, NAME, Resource, cluster, model_defaults, model_validate, text};

/// Their row of the table.
pub fn row() -> Resource {
    Resource {
        short_names: vec!["ns".into()],
        status: true,
        names: None,
        fields: &["status.phase"],
        validate: model_validate,
        prepare,
        columns: COLUMNS,
        ..cluster::<Namespace>()
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Status", "Active, or Terminating while its content is deleted.", |object, _| {
        text(object, "/status/phase").into()
    }),
    AGE,
];

fn prepare(object: &mut Value, moment: Moment) {
    model_defaults(object);
    if moment == Moment::Create {
        object["spec"] = json!({ "finalizers": ["kubernetes"] });
        object["status"] = json!({ "phase": "Active" });
    }
}
