//! CustomResourceDefinitions. What they define is in [`crate::custom`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::{Column, Moment, NAME, Resource, cluster, text};
use crate::custom;

/// Their row of the table.
pub fn row() -> Resource {
    Resource {
        short_names: vec!["crd".into(), "crds".into()],
        categories: vec!["api-extensions".into()],
        status: true,
        generation: true,
        prepare: |object, moment| {
            // What became of another is not what becomes of this one.
            if moment == Moment::Create
                && let Some(map) = object.as_object_mut()
            {
                map.remove("status");
            }
            custom::prepare(object);
        },
        validate: custom::errors,
        validate_change: custom::change_errors,
        columns: COLUMNS,
        ..cluster::<CustomResourceDefinition>()
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Created At", "When it was made.", |object, _| {
        text(object, "/metadata/creationTimestamp").into()
    }),
];
