//! Which host endpoint of this node is about which interface.
//!
//! Of those that name an interface, `*` included, the first by name is about it. One that names none is about the
//! interface that holds one of its expected addresses; the interfaces of a node are not known here, but its own address
//! is, and stands for the interface that holds it. The others are about nothing: rules still know their addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_model::convert::HostEndpointInfo;

/// The interface that each host endpoint is about, by the endpoint's name: a name, `*`, an address that stands for the
/// interface that holds it, or nothing.
pub(crate) fn interfaces<'a>(
    endpoints: impl Iterator<Item = &'a HostEndpointInfo>,
    node_addresses: &[IpAddr],
) -> BTreeMap<&'a str, String> {
    let by_name: BTreeMap<&str, &HostEndpointInfo> =
        endpoints.map(|endpoint| (endpoint.name.as_str(), endpoint)).collect();
    let mut taken = Vec::new();
    let mut interface_of = |endpoint: &HostEndpointInfo| {
        let held = || endpoint.expected_ips.iter().find(|address| node_addresses.contains(address));
        let wanted = match &endpoint.interface {
            Some(name) => Some(name.clone()),
            None => held().map(ToString::to_string),
        };
        let free = wanted.filter(|wanted| !taken.contains(wanted));
        taken.extend(free.clone());
        free.unwrap_or_default()
    };
    by_name.into_iter().map(|(name, endpoint)| (name, interface_of(endpoint))).collect()
}

#[cfg(test)]
mod tests {
    use caracal_model::labels::Labels;

    use super::*;

    fn endpoint(name: &str, interface: &str, addresses: &[&str]) -> HostEndpointInfo {
        HostEndpointInfo {
            name: name.to_owned(),
            node: "node1".to_owned(),
            interface: Some(interface.to_owned()).filter(|name| !name.is_empty()),
            expected_ips: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            labels: Labels::new(),
            profiles: Vec::new(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn the_first_by_name_has_the_interface() {
        let own: Vec<IpAddr> = vec!["192.0.2.11".parse().unwrap()];
        let endpoints = [
            endpoint("c", "eth0", &[]),
            endpoint("b", "eth0", &["192.0.2.11"]),
            endpoint("z", "*", &[]),
            endpoint("y", "*", &[]),
            endpoint("h", "", &["192.0.2.11"]),
            endpoint("g", "", &["203.0.113.1", "192.0.2.11"]),
            endpoint("e", "", &["203.0.113.1"]),
            endpoint("d", "eth1", &[]),
        ];
        let bound = interfaces(endpoints.iter(), &own);
        let of = |name: &str| bound[name].as_str();
        assert_eq!((of("b"), of("c"), of("d")), ("eth0", "", "eth1"));
        assert_eq!((of("y"), of("z")), ("*", ""));
        assert_eq!((of("g"), of("h"), of("e")), ("192.0.2.11", "", ""));
    }
}
