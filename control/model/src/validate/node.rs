//! Node.

use k8s_openapi::api::core::v1::Node;

use super::Errors;
use crate::cidr::Cidr;

pub(super) fn validate(node: &Node, errors: &mut Errors) {
    let Some(spec) = &node.spec else { return };
    let one = spec.pod_cidr.as_deref().filter(|text| !text.is_empty());
    let all = spec.pod_cidrs.as_deref().unwrap_or_default();
    if let Some(one) = one {
        if let Err(why) = one.parse::<Cidr>() {
            errors.invalid("spec.podCIDR", one, why);
        }
        if all.first().is_some_and(|first| first != one) {
            errors.invalid("spec.podCIDR", one, "must be the first of `podCIDRs`");
        }
    }
    let mut parsed = Vec::new();
    for (index, text) in all.iter().enumerate() {
        match text.parse::<Cidr>() {
            Ok(cidr) => parsed.push(cidr),
            Err(why) => errors.invalid(&format!("spec.podCIDRs[{index}]"), text.as_str(), why),
        }
    }
    let of_one_family = parsed.iter().filter(|cidr| cidr.is_ipv4()).count();
    if of_one_family > 1 || parsed.len() - of_one_family > 1 {
        errors.invalid("spec.podCIDRs", all.to_vec(), "may specify no more than one CIDR for each IP family");
    }
}
