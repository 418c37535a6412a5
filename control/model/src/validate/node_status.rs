//! CalicoNodeStatus.

use super::{Errors, given};
use crate::calico::CalicoNodeStatusSpec;

pub(super) fn validate(spec: &CalicoNodeStatusSpec, errors: &mut Errors) {
    if given(&spec.node).is_none() {
        errors.required("spec.node", "the node that tells of itself");
    }
    let (classes, supported) = (spec.classes.as_deref().unwrap_or_default(), ["Agent", "BGP", "Routes"]);
    if classes.is_empty() {
        errors.required("spec.classes", "what the node tells: Agent, BGP, Routes");
    }
    errors.set_of("spec.classes", classes, &supported);
    errors.in_range("spec.updatePeriodSeconds", spec.update_period_seconds, 0..=86_400);
}
