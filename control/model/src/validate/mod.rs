//! Validation as Kubernetes' API server does it: all errors at once, each with its field.
//!
//! What concerns the network and the object's identity is checked; what only the kubelet would act upon (images,
//! volumes, resources) is not.

pub(crate) mod defaults;
mod format;
mod metadata;
mod network_policy;
mod node;
mod pod;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use serde_json::Value;

use crate::object::{FieldError, FieldErrorReason, Object};

/// Everything that is wrong with an object.
pub(crate) fn object(object: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::validate(object.kind(), object.metadata(), &mut errors);
    match object {
        Object::Namespace(_) | Object::ServiceAccount(_) => {}
        Object::Node(node) => node::validate(node, &mut errors),
        Object::Pod(pod) => pod::validate(pod, &mut errors),
        Object::NetworkPolicy(policy) => network_policy::validate(policy, &mut errors),
        _ => {}
    }
    errors.0
}

/// Collects errors in the words of Kubernetes.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, field: &str, reason: FieldErrorReason, message: String) {
        self.0.push(FieldError { field: field.to_owned(), reason, message });
    }

    fn required(&mut self, field: &str, why: &str) {
        let colon = if why.is_empty() { "" } else { ": " };
        self.push(field, FieldErrorReason::Required, format!("Required value{colon}{why}"));
    }

    fn invalid(&mut self, field: &str, value: impl Into<Value>, why: impl Display) {
        self.push(field, FieldErrorReason::Invalid, format!("Invalid value: {}: {why}", value.into()));
    }

    fn not_supported(&mut self, field: &str, value: &str, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
        self.push(field, FieldErrorReason::NotSupported, message);
    }

    fn duplicate(&mut self, field: &str, value: &str) {
        self.push(field, FieldErrorReason::Duplicate, format!("Duplicate value: {value:?}"));
    }

    fn forbidden(&mut self, field: &str, why: &str) {
        self.push(field, FieldErrorReason::Forbidden, format!("Forbidden: {why}"));
    }

    /// Records what a check of a text found, if anything.
    fn check(&mut self, field: &str, value: &str, check: Result<(), String>) {
        if let Err(why) = check {
            self.invalid(field, value, why);
        }
    }
}
