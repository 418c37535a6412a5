//! HostEndpoint.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Errors, calico_format, format, given};
use crate::calico::HostEndpointSpec;

/// The longest name of a node.
const NODE_MAX: usize = 253;

pub(super) fn validate(spec: &HostEndpointSpec, errors: &mut Errors) {
    match given(&spec.node) {
        None => errors.required("spec.node", "the node whose interfaces these are"),
        Some(node) => errors.at_most_characters("spec.node", node, NODE_MAX),
    }
    let addresses = spec.expected_ips.as_deref().unwrap_or_default();
    match given(&spec.interface_name) {
        None if addresses.is_empty() => {
            errors.required(
                "spec.interfaceName",
                "at least one of `interfaceName` and `expectedIPs` must be given",
            );
        }
        None | Some("*") => {}
        Some(name) => {
            let why = |why: String| format!("{why}; or \"*\" for all interfaces");
            errors.check("spec.interfaceName", name, calico_format::interface(name).map_err(why));
        }
    }
    for (index, address) in addresses.iter().enumerate() {
        errors.check(&format!("spec.expectedIPs[{index}]"), address, calico_format::address(address));
    }
    errors.unique("spec.expectedIPs", addresses);
    errors.unique("spec.profiles", spec.profiles.as_deref().unwrap_or_default());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}]");
        if port.name.is_empty() {
            errors.required(&format!("{field}.name"), "the name that rules use");
        } else {
            errors.check(&format!("{field}.name"), &port.name, format::port_name(&port.name));
        }
        errors.in_range(&format!("{field}.port"), Some(port.port), 1..=65535);
        let (field, supported) = (format!("{field}.protocol"), ["SCTP", "TCP", "UDP"]);
        match &port.protocol {
            IntOrString::String(name) if supported.contains(&name.as_str()) => {}
            IntOrString::String(name) if !name.is_empty() => errors.not_supported(&field, name, &supported),
            // A protocol that is not given decodes as 0.
            IntOrString::String(_) | IntOrString::Int(0) => {
                errors.required(&field, "must be SCTP, TCP or UDP")
            }
            IntOrString::Int(number) => errors.not_supported(&field, &number.to_string(), &supported),
        }
    }
}
