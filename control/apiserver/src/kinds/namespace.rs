//! Namespaces.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::{AGE, Column, Moment, NAME, Resource, Scope, any_change, no_causes, text};
use crate::shape::Shape;

/// The label by which policies select a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub const NAMESPACE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    scope: Scope::Cluster,
    status: true,
    generation: false,
    fields: &["status.phase"],
    shape: Shape::of::<Namespace>,
    prepare,
    validate: no_causes,
    validate_change: any_change,
    columns: &[
        NAME,
        Column {
            name: "Status",
            kind: "string",
            priority: 0,
            description: "Active, or Terminating while its content is deleted.",
            cell: |object, _| text(object, "/status/phase").into(),
        },
        AGE,
    ],
};

fn prepare(object: &mut Value, moment: Moment) {
    let name = object["metadata"]["name"].clone();
    if !object["metadata"]["labels"].is_object() {
        object["metadata"]["labels"] = json!({});
    }
    object["metadata"]["labels"][NAME_LABEL] = name;
    if moment == Moment::Create {
        object["spec"] = json!({ "finalizers": ["kubernetes"] });
        object["status"] = json!({ "phase": "Active" });
    }
}
