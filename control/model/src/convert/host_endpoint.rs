//! HostEndpoint → [`HostEndpointInfo`].

use std::net::IpAddr;

use super::NamedPort;
use super::calico_rule::protocol;
use crate::calico;
use crate::labels::Labels;
use crate::protocol::Protocol;

/// Interfaces of a node that policy applies to. What cannot be read of it is left out, as if it were not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEndpointInfo {
    /// Its name.
    pub name: String,
    /// The node.
    pub node: String,
    /// The interface, or `*` for all that no other host endpoint is about; `None`: the one with an expected address.
    pub interface: Option<String>,
    /// The addresses that rules select it by, as written, each once.
    pub expected_ips: Vec<IpAddr>,
    /// Its own labels; not those it inherits from its profiles.
    pub labels: Labels,
    /// Its profiles, in order.
    pub profiles: Vec<String>,
    /// The ports that rules can name.
    pub ports: Vec<NamedPort>,
}

/// Reads a host endpoint.
pub fn host_endpoint(object: &calico::HostEndpoint) -> HostEndpointInfo {
    let spec = &object.spec;
    let mut expected_ips = Vec::new();
    for address in spec.expected_ips.iter().flatten().filter_map(|text| text.parse().ok()) {
        if !expected_ips.contains(&address) {
            expected_ips.push(address);
        }
    }
    HostEndpointInfo {
        name: object.metadata.name.clone().unwrap_or_default(),
        node: spec.node.clone().unwrap_or_default(),
        interface: spec.interface_name.clone().filter(|name| !name.is_empty()),
        expected_ips,
        labels: object.metadata.labels.as_ref().map(Labels::from).unwrap_or_default(),
        profiles: spec.profiles.clone().unwrap_or_default(),
        ports: spec.ports.iter().flatten().filter_map(named_port).collect(),
    }
}

fn named_port(port: &calico::EndpointPort) -> Option<NamedPort> {
    let protocol = protocol("protocol", Some(&port.protocol)).ok().flatten();
    Some(NamedPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty())?,
        protocol: protocol.filter(|protocol: &Protocol| protocol.has_ports())?,
        port: u16::try_from(port.port).ok().filter(|port| *port != 0)?,
    })
}
