//! Service accounts.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::{AGE, Column, NAME, Resource, Scope, any_change, items, leave, model_validate};
use crate::shape::Shape;

pub const SERVICE_ACCOUNT: Resource = Resource {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    short_names: &["sa"],
    categories: &[],
    scope: Scope::Namespaced,
    status: false,
    generation: false,
    custom: false,
    names: None,
    fields: &[],
    shape: Shape::of::<ServiceAccount>,
    prepare: leave,
    validate: model_validate,
    validate_change: any_change,
    columns: &[
        NAME,
        Column::text("Secrets", "How many secrets it may use.", |object, _| {
            items(object, "/secrets").len().into()
        }),
        AGE,
    ],
};
