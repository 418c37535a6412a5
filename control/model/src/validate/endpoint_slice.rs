//! EndpointSlice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::service::protocol;
use super::{Errors, format, given};

/// The most endpoints of a slice.
const ENDPOINTS_MAX: usize = 1000;
/// The most addresses of an endpoint, and the most ports of a slice.
const ADDRESSES_MAX: usize = 100;

pub(super) fn validate(slice: &EndpointSlice, errors: &mut Errors) {
    let types = ["FQDN", "IPv4", "IPv6"];
    let kind = slice.address_type.as_str();
    if kind.is_empty() {
        errors.required("addressType", "must be FQDN, IPv4 or IPv6");
    } else if !types.contains(&kind) {
        errors.not_supported("addressType", kind, &types);
    }
    errors.at_most_items("endpoints", &slice.endpoints, ENDPOINTS_MAX);
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let field = format!("endpoints[{index}].addresses");
        if endpoint.addresses.is_empty() {
            errors.required(&field, "must contain at least 1 address");
        }
        errors.at_most_items(&field, &endpoint.addresses, ADDRESSES_MAX);
        for (index, text) in endpoint.addresses.iter().enumerate() {
            errors.check(&format!("{field}[{index}]"), text, address(kind, text));
        }
    }
    let ports = slice.ports.as_deref().unwrap_or_default();
    errors.at_most_items("ports", ports, ADDRESSES_MAX);
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("ports[{index}]");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            errors.check(&format!("{field}.name"), name, format::dns_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(&format!("{field}.name"), name);
        }
        protocol(&format!("{field}.protocol"), &port.protocol, errors);
        errors.in_range(&format!("{field}.port"), port.port.map(i64::from), 1..=65535);
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        if let Some(node) = given(&endpoint.node_name) {
            errors.check(&format!("endpoints[{index}].nodeName"), node, format::dns_subdomain(node));
        }
    }
}

fn address(kind: &str, text: &str) -> Result<(), String> {
    let parsed = text.parse::<IpAddr>();
    match kind {
        "IPv4" if !matches!(parsed, Ok(IpAddr::V4(_))) => Err("must be an IPv4 address".to_owned()),
        "IPv6" if !matches!(parsed, Ok(IpAddr::V6(_))) => Err("must be an IPv6 address".to_owned()),
        "FQDN" => format::dns_subdomain(text),
        _ => Ok(()),
    }
}
