//! Validation as Kubernetes' API server does it: all errors at once, each with its field.

pub(crate) mod defaults;

use crate::object::{FieldError, Object};

/// Everything that is wrong with an object.
pub(crate) fn object(object: &Object) -> Vec<FieldError> {
    let _ = object;
    Vec::new()
}
