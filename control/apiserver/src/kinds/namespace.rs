//! Namespaces.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::{AGE, Column, Moment, NAME, Resource, Scope, any_change, model_defaults, model_validate, text};
use crate::shape::Shape;

pub const NAMESPACE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    short_names: &["ns"],
    categories: &[],
    scope: Scope::Cluster,
    status: true,
    generation: false,
    custom: false,
    names: None,
    fields: &["status.phase"],
    shape: Shape::of::<Namespace>,
    prepare,
    validate: model_validate,
    validate_change: any_change,
    columns: &[
        NAME,
        Column::text("Status", "Active, or Terminating while its content is deleted.", |object, _| {
            text(object, "/status/phase").into()
        }),
        AGE,
    ],
};

fn prepare(object: &mut Value, moment: Moment) {
    model_defaults(object);
    if moment == Moment::Create {
        object["spec"] = json!({ "finalizers": ["kubernetes"] });
        object["status"] = json!({ "phase": "Active" });
    }
}
