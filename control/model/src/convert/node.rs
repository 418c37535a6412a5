//! Node → [`NodeInfo`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use k8s_openapi::api::core::v1::Node;

use super::block::block_cidr;
use crate::annotations;
use crate::cidr::Cidr;
use crate::labels::Labels;
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
    /// Its IPv6 address, likewise.
    pub address_v6: Option<Ipv6Addr>,
    /// The subnet of that address.
    pub subnet_v6: Option<Cidr>,
    /// Its blocks of pod addresses, of either family.
    pub pod_cidrs: Vec<Cidr>,
    /// Its VXLAN tunnel address over IPv4.
    pub vxlan_tunnel_address: Option<Ipv4Addr>,
    /// The MAC of its VXLAN tunnel end over IPv4: the annotation, else made from its name.
    pub vxlan_tunnel_mac: [u8; 6],
    /// Its VXLAN tunnel address over IPv6.
    pub vxlan_tunnel_address_v6: Option<Ipv6Addr>,
    /// The MAC of its VXLAN tunnel end over IPv6, likewise.
    pub vxlan_tunnel_mac_v6: [u8; 6],
    /// Its IPIP tunnel address.
    pub ipip_tunnel_address: Option<Ipv4Addr>,
}

impl NodeInfo {
    /// Its addresses, IPv4 before IPv6.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address.map(IpAddr::V4).into_iter().chain(self.address_v6.map(IpAddr::V6))
    }

    /// Its tunnel addresses, of every kind.
    pub fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = [self.vxlan_tunnel_address, self.ipip_tunnel_address].into_iter().flatten();
        v4.map(IpAddr::V4).chain(self.vxlan_tunnel_address_v6.map(IpAddr::V6))
    }

    /// Its address of one family.
    pub fn address_of(&self, ipv4: bool) -> Option<IpAddr> {
        if ipv4 { self.address.map(IpAddr::V4) } else { self.address_v6.map(IpAddr::V6) }
    }

    /// The subnet of that address.
    pub fn subnet_of(&self, ipv4: bool) -> Option<Cidr> {
        if ipv4 { self.subnet } else { self.subnet_v6 }
    }

    /// Whether VXLAN can lead to it between addresses of one family.
    pub fn has_vtep(&self, ipv4: bool) -> bool {
        if ipv4 {
            self.address.is_some() && self.vxlan_tunnel_address.is_some()
        } else {
            self.address_v6.is_some() && self.vxlan_tunnel_address_v6.is_some()
        }
    }
}

/// Reads a node.
pub fn node_info(node: &Node) -> NodeInfo {
    let name = node.metadata.name.clone().unwrap_or_default();
    let annotation = |key| annotation(node, key);
    let (address, subnet) = node_address(node, annotations::NODE_IPV4_ADDRESS);
    let (address_v6, subnet_v6) = node_address(node, annotations::NODE_IPV6_ADDRESS);
    let spec = node.spec.as_ref();
    let all = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let texts: Vec<&String> = if all.is_empty() { one.into_iter().collect() } else { all.iter().collect() };
    let mac = |key, from_name: [u8; 6]| annotation(key).and_then(parse_mac).unwrap_or(from_name);
    NodeInfo {
        address,
        subnet,
        address_v6,
        subnet_v6,
        pod_cidrs: texts.iter().filter_map(|text| block_cidr(text)).collect(),
        vxlan_tunnel_address: parsed(annotation(annotations::NODE_IPV4_VXLAN_TUNNEL_ADDRESS)),
        vxlan_tunnel_mac: mac(annotations::NODE_VXLAN_TUNNEL_MAC, names::vtep_mac(&name)),
        vxlan_tunnel_address_v6: parsed(annotation(annotations::NODE_IPV6_VXLAN_TUNNEL_ADDRESS)),
        vxlan_tunnel_mac_v6: mac(annotations::NODE_VXLAN_TUNNEL_MAC_V6, names::vtep_mac_v6(&name)),
        ipip_tunnel_address: parsed(annotation(annotations::NODE_IPV4_IPIP_TUNNEL_ADDRESS)),
        name,
    }
}

/// A node's labels: Kubernetes', and those that an annotation keeps for Calico's model alone. Kubernetes' win.
pub fn node_labels(node: &Node) -> Labels {
    let own = annotation(node, annotations::NODE_LABELS);
    let own: BTreeMap<String, String> =
        own.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let of_kubernetes = node.metadata.labels.iter().flatten();
    own.iter().chain(of_kubernetes).map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn annotation<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The node's address of a family, and its subnet where the annotation says one.
fn node_address<A: FromStr>(node: &Node, key: &str) -> (Option<A>, Option<Cidr>) {
    let text = annotation(node, key).unwrap_or_default();
    let alone = text.split_once('/').map_or(text, |(address, _)| address);
    if let Ok(address) = alone.parse::<A>() {
        match text.parse::<Cidr>() {
            Ok(subnet) => return (Some(address), Some(subnet)),
            Err(_) if alone == text => return (Some(address), None),
            Err(_) => {}
        }
    }
    let status = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &str| {
        let addresses = status.iter().filter(|address| address.type_ == kind);
        addresses.filter_map(|address| address.address.parse().ok()).next()
    };
    (of("InternalIP").or_else(|| of("ExternalIP")), None)
}

fn parsed<A: FromStr>(text: Option<&str>) -> Option<A> {
    text?.parse().ok()
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
