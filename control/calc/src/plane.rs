//! From the model's types to the plane API's messages.

use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use caracal_model::policy::{Action, PolicyKey};
use caracal_plane_api as plane;
use caracal_plane_api::op;

pub(crate) fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(crate) fn prefix(cidr: Cidr) -> plane::Prefix {
    plane::Prefix { address: address(cidr.address()), length: cidr.length().into() }
}

pub(crate) fn policy_id(key: &PolicyKey) -> plane::PolicyId {
    plane::PolicyId {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.clone().unwrap_or_default(),
        name: key.name.clone(),
    }
}

pub(crate) fn action(action: Action) -> i32 {
    let action = match action {
        Action::Allow => plane::Action::Allow,
        Action::Deny => plane::Action::Deny,
        Action::Pass => plane::Action::Pass,
        Action::Log => plane::Action::Log,
    };
    action.into()
}

pub(crate) fn op(op: op::Op) -> plane::Op {
    plane::Op { op: Some(op) }
}
