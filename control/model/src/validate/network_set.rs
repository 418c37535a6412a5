//! NetworkSet and GlobalNetworkSet.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Errors, calico_format};
use crate::labels::key;

pub(super) fn validate(metadata: &ObjectMeta, nets: Option<&[String]>, errors: &mut Errors) {
    let nets = nets.unwrap_or_default();
    for (index, net) in nets.iter().enumerate() {
        errors.check(&format!("spec.nets[{index}]"), net, calico_format::net(net));
    }
    errors.unique("spec.nets", nets);
    if metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(key::NAMESPACE)) {
        let why = format!("{} is set by itself and must not be given", key::NAMESPACE);
        errors.forbidden("metadata.labels", &why);
    }
}
