//! What the programs on the uplinks take from the host.
//!
//! | what | because |
//! |---|---|
//! | pods' addresses and local blocks, whole | nobody else has them |
//! | VXLAN and IPIP to the node's addresses | tunnels end here |
//! | external addresses of services, whole | nobody else has them; one that the host has is taken by the services' ports only |
//! | node ports that a service has, at the addresses that the configuration names | services |
//! | the ports and echo identifiers of translation, at every address of the host | answers to what left with such an address |
//!
//! Where ports are taken, fragments and ICMP errors come along; where nothing is translated, neither are they touched.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use caracal_plane_api::NAT_PORTS;
use caracal_xsk::xdp::uplink::Capture;

use crate::table::{NodeConfig, Prefix, ServiceTable};

/// What the captures follow from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The node.
    pub node: Option<NodeConfig>,
    /// Pods' addresses and local blocks.
    pub pods: BTreeSet<Prefix>,
    /// The host's own addresses.
    pub host: Vec<IpAddr>,
    /// Services.
    pub services: ServiceTable,
}

impl Facts {
    fn is_same(&self, other: &Facts) -> bool {
        self.services.has_frontends_of(&other.services)
            && (&self.node, &self.pods, &self.host) == (&other.node, &other.pods, &other.host)
    }
}

/// The captures, found anew only when they may be others.
#[derive(Debug, Default)]
pub struct Captures(Option<(Facts, Arc<BTreeSet<Capture>>)>);

impl Captures {
    /// What must come to us by an uplink; the same `Arc` as long as nothing has changed.
    pub fn follow(&mut self, facts: Facts) -> Arc<BTreeSet<Capture>> {
        if let Some((former, captures)) = &self.0
            && former.is_same(&facts)
        {
            return Arc::clone(captures);
        }
        let captures = Arc::new(wanted(&facts));
        self.0 = Some((facts, Arc::clone(&captures)));
        captures
    }
}

fn wanted(facts: &Facts) -> BTreeSet<Capture> {
    let Some(node) = &facts.node else { return BTreeSet::new() };
    let prefix = |prefix: &Prefix| Capture::Prefix { address: prefix.address(), length: prefix.length() };
    let mut wanted: BTreeSet<Capture> = facts.pods.iter().map(prefix).collect();
    for local in node.addresses() {
        wanted.insert(Capture::Vxlan { local, port: node.vxlan_port });
        if local.is_ipv4() {
            wanted.insert(Capture::Ipip { local });
        }
    }
    for frontend in facts.services.frontends().filter(|frontend| frontend.external) {
        let (protocol, port) = (frontend.key.protocol, frontend.key.port);
        let service = |local: &IpAddr| Capture::Service { local: *local, protocol, port };
        match frontend.key.address {
            None => wanted.extend(node_port_addresses(node, &facts.host).map(service)),
            Some(address) if facts.host.contains(&address) => {
                wanted.insert(service(&address));
            }
            Some(address) => {
                wanted.insert(prefix(&Prefix::host(address)));
            }
        }
    }
    if let Some(ports) = translated_ports(node, &facts.services) {
        let stands_for_pods = node.nat_outgoing.as_ref().and_then(|nat| nat.address).map(IpAddr::V4);
        for local in facts.host.iter().copied().chain(stands_for_pods) {
            wanted.insert(Capture::Ports { local, first: *ports.start(), last: *ports.end() });
        }
    }
    wanted
}

/// The addresses at which node ports are served.
fn node_port_addresses<'a>(node: &'a NodeConfig, host: &'a [IpAddr]) -> impl Iterator<Item = &'a IpAddr> {
    let named = node.node_ports.as_ref().map(|node_ports| &node_ports.addresses);
    let is_served = move |address: &&IpAddr| {
        named.is_some_and(|named| named.is_empty() || named.iter().any(|prefix| prefix.contains(**address)))
    };
    host.iter().filter(is_served)
}

/// The ports with which something may leave this node; none: nothing is translated.
fn translated_ports(node: &NodeConfig, services: &ServiceTable) -> Option<RangeInclusive<u16>> {
    let outgoing = node.nat_outgoing.as_ref();
    let is_translated = outgoing.is_some() || services.frontends().next().is_some();
    is_translated.then(|| outgoing.and_then(|nat| nat.ports.clone()).unwrap_or(NAT_PORTS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableBuilder;
    use caracal_plane_api::plane::{self, Op, Transaction, op};

    const NODE: [u8; 4] = [192, 0, 2, 11];
    const OTHER: [u8; 4] = [198, 51, 100, 11];
    const NODE6: &str = "2001:db8::11";
    const TCP: u8 = 6;

    fn config() -> plane::NodeConfig {
        plane::NodeConfig {
            node: "node1".into(),
            address: NODE.to_vec(),
            vni: 4096,
            vxlan_port: 4789,
            ..plane::NodeConfig::default()
        }
    }

    fn service(frontends: Vec<plane::Frontend>) -> op::Op {
        op::Op::Service(plane::Service {
            id: "default/web:http".into(),
            protocol: TCP.into(),
            frontends,
            ..plane::Service::default()
        })
    }

    fn frontend(address: &[u8], port: u32, external: bool) -> plane::Frontend {
        plane::Frontend { address: address.to_vec(), port, external, ..plane::Frontend::default() }
    }

    fn facts(ops: Vec<op::Op>) -> Facts {
        let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
        let ops = ops.into_iter().map(|op| Op { op: Some(op) }).collect();
        builder.apply(&Transaction { seq: 1, ops, in_sync: true }).unwrap();
        let tables = builder.build();
        Facts {
            node: tables.node.config().cloned(),
            pods: [Prefix::new([10, 244, 1, 0].into(), 24)].into(),
            host: vec![NODE.into(), OTHER.into(), NODE6.parse().unwrap()],
            services: tables.services.clone(),
        }
    }

    fn captures(ops: Vec<op::Op>) -> Vec<String> {
        wanted(&facts(ops)).iter().map(Capture::to_string).collect()
    }

    #[test]
    fn tunnels_of_both_families_and_pods_are_taken_and_the_host_keeps_the_rest() {
        let both = plane::NodeConfig {
            address_v6: NODE6.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec(),
            ..config()
        };
        let expected = [
            "10.244.1.0/24",
            "VXLAN to 192.0.2.11, port 4789",
            "VXLAN to 2001:db8::11, port 4789",
            "IPIP to 192.0.2.11",
        ];
        assert_eq!(captures(vec![op::Op::NodeConfig(both)]), expected);
        assert_eq!(captures(vec![]), [""; 0]);
    }

    #[test]
    fn ports_of_translation_are_taken_at_every_address_when_something_is_translated() {
        let nat = plane::NatOutgoing {
            address: vec![203, 0, 113, 7],
            ports: Some(plane::PortRange { first: 40_000, last: 40_999 }),
            ..plane::NatOutgoing::default()
        };
        let config = plane::NodeConfig { nat_outgoing: Some(nat), ..config() };
        let captures = captures(vec![op::Op::NodeConfig(config)]);
        let expected = ["192.0.2.11", "198.51.100.11", "203.0.113.7", "2001:db8::11"];
        let expected = expected.map(|address| format!("ports 40000 to 40999 of {address}"));
        assert_eq!(captures[3..], expected);
    }

    #[test]
    fn external_frontends_are_taken_and_internal_ones_are_not() {
        let frontends = vec![
            frontend(&[10, 96, 0, 10], 80, false),
            frontend(&[203, 0, 113, 80], 80, true),
            // One that this host has: by its port, or nobody could log in any more.
            frontend(&NODE, 443, true),
            frontend(&[], 30_080, true),
        ];
        let config = |addresses| plane::NodeConfig {
            node_ports: Some(plane::NodePorts { addresses, ..plane::NodePorts::default() }),
            ..config()
        };
        let services = |captures: Vec<String>| -> Vec<String> {
            let is_of_services = |c: &String| c.contains("/32") || c.starts_with("protocol");
            captures.into_iter().filter(is_of_services).collect()
        };
        let everywhere = captures(vec![op::Op::NodeConfig(config(vec![])), service(frontends.clone())]);
        assert!(everywhere.contains(&"ports 20000 to 29999 of 192.0.2.11".into()), "{everywhere:?}");
        let expected = [
            "203.0.113.80/32",
            "protocol 6 to 192.0.2.11, port 443",
            "protocol 6 to 192.0.2.11, port 30080",
            "protocol 6 to 198.51.100.11, port 30080",
            "protocol 6 to 2001:db8::11, port 30080",
        ];
        assert_eq!(services(everywhere), expected);
        let only = plane::Prefix { address: vec![198, 51, 100, 0], length: 24 };
        let there =
            services(captures(vec![op::Op::NodeConfig(config(vec![only])), service(frontends.clone())]));
        assert_eq!(there, ["203.0.113.80/32", expected[1], expected[3]]);
        let nowhere =
            services(captures(vec![op::Op::NodeConfig(super::tests::config()), service(frontends)]));
        assert_eq!(nowhere, ["203.0.113.80/32", expected[1]]);
    }

    #[test]
    fn captures_are_found_anew_only_when_something_has_changed() {
        let mut captures = Captures::default();
        let facts = facts(vec![op::Op::NodeConfig(config()), service(vec![frontend(&[], 30_080, true)])]);
        let first = captures.follow(facts.clone());
        assert!(Arc::ptr_eq(&first, &captures.follow(facts.clone())));
        let second = captures.follow(Facts { host: vec![NODE.into()], ..facts.clone() });
        assert_ne!(first, second);
        assert_eq!(captures.follow(facts), first);
    }
}
