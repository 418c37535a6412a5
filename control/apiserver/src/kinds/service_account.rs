//! Service accounts.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{AGE, Column, NAME, Resource, items, model_validate, namespaced};

/// Their row of the table.
pub fn row() -> Resource {
    Resource {
        short_names: vec!["sa".into()],
        names: None,
        validate: model_validate,
        columns: COLUMNS,
        ..namespaced::<ServiceAccount>()
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Secrets", "How many secrets it may use.", |object, _| {
        items(object, "/secrets").len().into()
    }),
    AGE,
];
