//! What the kernel's state follows from: the part of the calc graph's output that concerns the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use caracal_calc::Mtu;
use caracal_model::cidr::Cidr;
use caracal_plane_api::{Encapsulation, NAT_PORTS, NodeConfig, Op, Prefix, op, route};
use tracing::warn;

use crate::plane::address;

/// Kept up to date from the same operations that the fastpath gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// This node, once it is known.
    pub node: Option<Node>,
    /// How big pods' packets may be.
    pub mtu: Mtu,
    routes: BTreeMap<Cidr, Target>,
    endpoints: BTreeMap<String, Vec<IpAddr>>,
    services: BTreeMap<String, Vec<IpAddr>>,
    other_nodes: BTreeMap<String, Vec<IpAddr>>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its addresses, of either family; uplinks are the interfaces that hold them.
    pub addresses: Vec<IpAddr>,
    /// Its VXLAN tunnel addresses.
    pub vxlan_addresses: Vec<IpAddr>,
    /// Its IPIP tunnel address, if it has one.
    pub ipip_address: Option<IpAddr>,
    /// The tap device for what the host originates.
    pub host_port: String,
    /// The tap device for what the host forwards.
    pub forward_port: String,
    /// The ports of its addresses that the fastpath translates to.
    pub nat_ports: RangeInclusive<u16>,
    /// Whether the host gets to services through the fastpath.
    pub serves_host: bool,
}

/// How packets to a destination go on from the fastpath.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// To a pod of this node.
    Local,
    /// To another node in VXLAN.
    Vxlan,
    /// To another node in IPIP.
    Ipip,
    /// To another node as they are.
    Plain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Pods(Destination),
    LocalHost,
}

impl Inputs {
    /// Takes operations, as they come from the calc graph; returns whether any was of interest here. What makes no sense
    /// is left out.
    pub fn apply(&mut self, ops: &[Op]) -> bool {
        let mut any = false;
        for op in ops.iter().filter_map(|op| op.op.as_ref()) {
            let before = std::mem::replace(&mut any, true);
            match op {
                op::Op::NodeConfig(config) => match node(config) {
                    Some(node) => self.node = Some(node),
                    None => {
                        warn!(node = config.node, "none of the node's addresses is 4 or 16 bytes; ignored")
                    }
                },
                op::Op::Route(route) => {
                    if let (Some(prefix), Some(target)) =
                        (route.prefix.as_ref().and_then(cidr), route.target.as_ref().and_then(target))
                    {
                        self.routes.insert(prefix, target);
                    }
                }
                op::Op::RouteRemove(prefix) => {
                    if let Some(prefix) = cidr(prefix) {
                        self.routes.remove(&prefix);
                    }
                }
                op::Op::Endpoint(endpoint) => {
                    let addresses = endpoint.addresses.iter().filter_map(|a| address(a)).collect();
                    self.endpoints.insert(endpoint.id.clone(), addresses);
                }
                op::Op::EndpointRemove(id) => {
                    self.endpoints.remove(id);
                }
                op::Op::Service(service) => {
                    let addresses =
                        service.frontends.iter().filter_map(|frontend| address(&frontend.address));
                    let addresses: Vec<IpAddr> = addresses.collect();
                    // Mostly its backends are others, which are not the kernel's business.
                    if self.services.get(&service.id) == Some(&addresses) {
                        any = before;
                    } else {
                        self.services.insert(service.id.clone(), addresses);
                    }
                }
                op::Op::ServiceRemove(id) => {
                    self.services.remove(id);
                }
                op::Op::Tunnel(tunnel) => {
                    let addresses = [&tunnel.node_address, &tunnel.node_address_v6];
                    let addresses = addresses.into_iter().filter_map(|a| address(a)).collect();
                    self.other_nodes.insert(tunnel.node.clone(), addresses);
                }
                op::Op::TunnelRemove(node) => {
                    self.other_nodes.remove(node);
                }
                _ => any = before,
            }
        }
        any
    }

    /// Where packets for pods go to: local and remote blocks, and local pods' addresses from elsewhere (borrowed).
    #[must_use]
    pub fn destinations(&self) -> BTreeMap<Cidr, Destination> {
        let nodes = self.node_addresses();
        let routes = self.routes.iter().filter_map(|(prefix, target)| match target {
            // A node is not reached by way of us, whatever block its address is in.
            Target::Pods(_) if prefix.is_host() && nodes.contains(&prefix.address()) => None,
            Target::Pods(destination) => Some((*prefix, *destination)),
            Target::LocalHost => None,
        });
        let mut destinations: BTreeMap<Cidr, Destination> = routes.collect();
        let is_local = |(prefix, destination): (&Cidr, &Destination)| {
            (*destination == Destination::Local).then_some(*prefix)
        };
        let ours: Vec<Cidr> = destinations.iter().filter_map(is_local).collect();
        let addresses = self.endpoints.values().flatten().copied();
        let borrowed = addresses.filter(|address| !ours.iter().any(|block| block.contains(*address)));
        destinations.extend(borrowed.map(|address| (Cidr::host(address), Destination::Local)));
        destinations
    }

    /// Addresses of services that the host gets to through the fastpath. Nodes' own addresses are not among them: all
    /// else that is there must stay in reach, and the node itself sees to the service.
    #[must_use]
    pub fn service_addresses(&self) -> BTreeSet<IpAddr> {
        if !self.node.as_ref().is_some_and(|node| node.serves_host) {
            return BTreeSet::new();
        }
        let nodes = self.node_addresses();
        self.services.values().flatten().copied().filter(|address| !nodes.contains(address)).collect()
    }

    fn node_addresses(&self) -> BTreeSet<IpAddr> {
        let own = self.node.iter().flat_map(|node| &node.addresses);
        own.chain(self.other_nodes.values().flatten()).copied().collect()
    }
}

impl Node {
    /// Its own address of one family.
    #[must_use]
    pub fn address_of(&self, ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == ipv4)
    }

    /// The source that the host is to take for packets to a destination, where it is not its own address.
    #[must_use]
    pub fn tunnel_source(&self, destination: Destination, ipv4: bool) -> Option<IpAddr> {
        let vxlan = self.vxlan_addresses.iter().copied().find(|address| address.is_ipv4() == ipv4);
        let ipip = self.ipip_address.filter(|_| ipv4);
        match destination {
            Destination::Local => vxlan.or(ipip),
            Destination::Vxlan => vxlan,
            Destination::Ipip => ipip,
            Destination::Plain => None,
        }
    }

    /// Its tunnel addresses, which are on the host port.
    pub fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.vxlan_addresses.iter().copied().chain(self.ipip_address)
    }
}

fn node(config: &NodeConfig) -> Option<Node> {
    let all = |texts: [&[u8]; 2]| -> Vec<IpAddr> { texts.into_iter().filter_map(address).collect() };
    let addresses = all([&config.address, &config.address_v6]);
    (!addresses.is_empty()).then_some(())?;
    let ports = config.nat_outgoing.as_ref().and_then(|nat| nat.ports);
    let ports =
        ports.and_then(|ports| Some(u16::try_from(ports.first).ok()?..=u16::try_from(ports.last).ok()?));
    Some(Node {
        addresses,
        vxlan_addresses: all([&config.tunnel_address, &config.tunnel_address_v6]),
        ipip_address: address(&config.ipip_tunnel_address),
        host_port: config.host_port.clone(),
        forward_port: config.forward_port.clone(),
        nat_ports: ports.unwrap_or(NAT_PORTS),
        serves_host: config.node_ports.is_some(),
    })
}

fn target(target: &route::Target) -> Option<Target> {
    Some(match target {
        route::Target::Remote(remote) => {
            Target::Pods(match Encapsulation::try_from(remote.encapsulation).ok()? {
                Encapsulation::Vxlan => Destination::Vxlan,
                Encapsulation::Ipip => Destination::Ipip,
                Encapsulation::None => Destination::Plain,
            })
        }
        route::Target::LocalBlock(_) => Target::Pods(Destination::Local),
        route::Target::LocalHost(_) => Target::LocalHost,
    })
}

fn cidr(prefix: &Prefix) -> Option<Cidr> {
    Cidr::new(address(&prefix.address)?, u8::try_from(prefix.length).ok()?).ok()
}
