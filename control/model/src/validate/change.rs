//! What may not change in an object that is there, what may not come beside others, and what may not go.

use super::Errors;
use super::calico_format::masked_cidr;
use super::ip_pool::default_block_size;
use crate::calico::{IPPool, IPPoolSpec};
use crate::cidr::Cidr;
use crate::convert::tier_of;
use crate::object::{FieldError, Object};
use crate::policy::{DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER};

/// Everything for which `new` may not replace `old`.
pub(crate) fn replacement(old: &Object, new: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    match (old, new) {
        (Object::IPPool(old), Object::IPPool(new)) => pool(&old.spec, &new.spec, &mut errors),
        (Object::EndpointSlice(old), Object::EndpointSlice(new)) if old.address_type != new.address_type => {
            errors.invalid("addressType", new.address_type.as_str(), "field is immutable");
        }
        _ => {}
    }
    errors.0
}

/// The same addresses in the same blocks; how the CIDR is written does not matter.
fn pool(old: &IPPoolSpec, new: &IPPoolSpec, errors: &mut Errors) {
    if let (Ok(before), Ok(after)) = (old.cidr.parse::<Cidr>(), new.cidr.parse::<Cidr>())
        && before != after
    {
        let why = format!("must stay {before}: addresses of it may be in use; make another pool");
        errors.forbidden("spec.cidr", &why);
    }
    if let (Some(before), Some(after)) = (block_size(old), block_size(new))
        && before != after
    {
        let why = format!("must stay {before}: blocks of that size may be in use; make another pool");
        errors.forbidden("spec.blockSize", &why);
    }
}

/// The prefix length of a pool's blocks; `None` when nothing says its family.
fn block_size(spec: &IPPoolSpec) -> Option<i64> {
    let default = default_block_size(spec.cidr.parse::<Cidr>().ok()?.is_ipv4());
    Some(spec.block_size.filter(|size| *size != 0).unwrap_or(default))
}

/// Everything for which `new` may not come beside `others`.
pub(crate) fn creation<'a>(new: &Object, others: impl Iterator<Item = &'a Object>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let Object::IPPool(new) = new else { return errors.0 };
    let Ok(cidr) = masked_cidr(&new.spec.cidr) else { return errors.0 };
    for other in others {
        match other {
            Object::IPPool(other) if other.metadata.name != new.metadata.name => {
                overlap(cidr, other, &mut errors);
            }
            Object::IPAMBlock(block) => {
                let Ok(block) = block.spec.cidr.parse::<Cidr>() else { continue };
                let size = block_size(&new.spec);
                if overlaps(cidr, block) && size != Some(block.length().into()) {
                    let why = format!("must be {}: the block {block} is in use", block.length());
                    errors.forbidden("spec.blockSize", &why);
                }
            }
            _ => {}
        }
    }
    errors.0
}

fn overlap(cidr: Cidr, other: &IPPool, errors: &mut Errors) {
    if let Ok(taken) = other.spec.cidr.parse::<Cidr>()
        && overlaps(cidr, taken)
    {
        let name = other.metadata.name.as_deref().unwrap_or_default();
        let why = format!("must not overlap {taken} of the pool {name}");
        errors.invalid("spec.cidr", cidr.to_string(), why);
    }
}

fn overlaps(a: Cidr, b: Cidr) -> bool {
    a.covers(&b) || b.covers(&a)
}

/// Everything for which `object` may not be deleted while `others` are there.
pub(crate) fn deletion<'a>(object: &Object, others: impl Iterator<Item = &'a Object>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    match object {
        Object::Tier(tier) => {
            let name = tier.metadata.name.as_deref().unwrap_or_default();
            if [DEFAULT_TIER, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER].contains(&name) {
                errors.forbidden(
                    "metadata.name",
                    &format!("the tier {name} cannot be deleted: others rely on it"),
                );
            }
            for policy in others.filter(|other| tier_of(other) == Some(name)) {
                let why = format!("the tier holds the {}: delete that first", policy.key());
                errors.forbidden("metadata.name", &why);
            }
        }
        Object::Profile(_) => {
            errors.forbidden("metadata.name", "profiles are made from namespaces and service accounts");
        }
        _ => {}
    }
    errors.0
}
