//! What objects of Calico's kinds may be called, beyond what all names must be.

use super::{Errors, calico_format, format};
use crate::cidr::Cidr;
use crate::object::{Kind, Object};

/// The longest name of an object.
const NAME_MAX: usize = 253;

pub(super) fn validate(object: &Object, errors: &mut Errors) {
    // A name that is generated is checked when it has been.
    let Some(name) = object.metadata().name.as_deref().filter(|name| !name.is_empty()) else { return };
    // What is no name at all has been said already.
    if format::dns_subdomain(name).is_err() {
        return;
    }
    let check = match object.kind() {
        Kind::Tier | Kind::Service => Ok(()),
        Kind::CalicoNetworkPolicy | Kind::StagedNetworkPolicy => {
            let of_another_api = ["knp.default.", "ossg.default."];
            if of_another_api.iter().any(|prefix| name.starts_with(prefix)) {
                Ok(())
            } else {
                policy_name(name)
            }
        }
        Kind::GlobalNetworkPolicy | Kind::StagedGlobalNetworkPolicy => policy_name(name),
        Kind::IPAMConfiguration | Kind::ClusterInformation | Kind::KubeControllersConfiguration => {
            only_default(name)
        }
        Kind::BGPConfiguration if name != "default" && node_of(name).is_none() => {
            Err("must be \"default\", or \"node.\" and the name of a node".to_owned())
        }
        _ => derived_name(object, name),
    };
    errors.check("metadata.name", name, check);
}

/// The node that a configuration called `node.NAME` is for.
pub(super) fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix("node.").filter(|node| !node.is_empty())
}

/// A policy is called `NAME`, or `TIER.NAME` by convention.
fn policy_name(name: &str) -> Result<(), String> {
    if name.split('.').count() <= 2 {
        return Ok(());
    }
    Err("must be one label (a-z, 0-9, '-'), or two joined by a dot, such as \"tier.name\"".to_owned())
}

fn only_default(name: &str) -> Result<(), String> {
    if name == "default" { Ok(()) } else { Err("must be \"default\": there is only one".to_owned()) }
}

/// Address management finds its objects by names that it makes of what is in them.
fn derived_name(object: &Object, name: &str) -> Result<(), String> {
    let expected = match object {
        Object::IPAMBlock(block) => in_name(&block.spec.cidr),
        Object::BlockAffinity(affinity) => {
            let cidr = in_name(&affinity.spec.cidr);
            // Longer ones are cut short and end in a hash.
            cidr.map(|cidr| format!("{}-{cidr}", affinity.spec.node)).filter(|name| name.len() < NAME_MAX)
        }
        Object::IPAMHandle(handle) => Some(handle.spec.handle_id.to_lowercase()),
        _ => None,
    };
    match expected.filter(|expected| !expected.is_empty()) {
        Some(expected) if expected != name => Err(format!("must be {expected:?}, as the spec says")),
        _ => Ok(()),
    }
}

/// A CIDR as names hold it.
fn in_name(cidr: &str) -> Option<String> {
    calico_format::cidr(cidr).ok()?;
    let cidr: Cidr = cidr.parse().ok()?;
    Some(cidr.to_string().replace(['.', ':', '/'], "-"))
}
