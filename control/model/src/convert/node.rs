//! Node → [`NodeInfo`].

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Node;

use crate::annotations;
use crate::cidr::{Cidr, parse_address_and_length};
use crate::names;

/// What the network must know of a node. What an annotation says wrongly is left out, as if it were not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its IPv4 address: Calico's annotation, else the first InternalIP, else the first ExternalIP.
    pub address: Option<Ipv4Addr>,
    /// The subnet of that address, where the annotation says it.
    pub subnet: Option<Cidr>,
    /// Its blocks of pod addresses.
    pub pod_cidrs: Vec<Cidr>,
    /// Its VXLAN tunnel address.
    pub vxlan_tunnel_address: Option<Ipv4Addr>,
    /// The MAC of its VXLAN tunnel end: the annotation, else made from its name.
    pub vxlan_tunnel_mac: [u8; 6],
}

/// Reads a node.
pub fn node_info(node: &Node) -> NodeInfo {
    let name = node.metadata.name.clone().unwrap_or_default();
    let annotation =
        |key| node.metadata.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);

    let annotated = annotation(annotations::NODE_IPV4_ADDRESS).and_then(address_with_optional_mask);
    let address = match annotated {
        Some((address, _)) => Some(address),
        None => status_address(node, "InternalIP").or_else(|| status_address(node, "ExternalIP")),
    };
    let spec = node.spec.as_ref();
    let all = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let texts: Vec<&String> = if all.is_empty() { one.into_iter().collect() } else { all.iter().collect() };
    NodeInfo {
        address,
        subnet: annotated.and_then(|(_, subnet)| subnet),
        pod_cidrs: texts.iter().filter_map(|text| text.parse().ok()).collect(),
        vxlan_tunnel_address: annotation(annotations::NODE_IPV4_VXLAN_TUNNEL_ADDRESS)
            .and_then(|text| text.parse().ok()),
        vxlan_tunnel_mac: annotation(annotations::NODE_VXLAN_TUNNEL_MAC)
            .and_then(parse_mac)
            .unwrap_or_else(|| names::vtep_mac(&name)),
        name,
    }
}

fn address_with_optional_mask(text: &str) -> Option<(Ipv4Addr, Option<Cidr>)> {
    if let Ok(address) = text.parse() {
        return Some((address, None));
    }
    match parse_address_and_length(text).ok()? {
        (IpAddr::V4(address), length) => Some((address, Cidr::new(address.into(), length).ok())),
        (IpAddr::V6(_), _) => None,
    }
}

fn status_address(node: &Node, kind: &str) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|address| address.type_ == kind).find_map(|address| address.address.parse().ok())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let is_unicast = mac[0] & 1 == 0 && mac != [0; 6];
    (parts.next().is_none() && is_unicast).then_some(mac)
}
