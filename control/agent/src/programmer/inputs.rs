//! What the kernel's state follows from: the part of the calc graph's output that concerns the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use caracal_plane_api::{Op, Prefix, op, route};
use tracing::warn;

/// Kept up to date from the same operations that the fastpath gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// This node, once it is known.
    pub node: Option<Node>,
    routes: BTreeMap<Cidr, Target>,
    endpoints: BTreeMap<String, Vec<IpAddr>>,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its address; the uplink is the interface that holds it.
    pub address: IpAddr,
    /// Its tunnel address, if it has one.
    pub tunnel_address: Option<IpAddr>,
    /// The tap device for what the host originates.
    pub host_port: String,
    /// The tap device for what the host forwards.
    pub forward_port: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Remote,
    LocalBlock,
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
                op::Op::NodeConfig(config) => {
                    let Some(address) = address(&config.address) else {
                        warn!(node = config.node, "the node's address is neither 4 nor 16 bytes; ignored");
                        continue;
                    };
                    self.node = Some(Node {
                        address,
                        tunnel_address: self::address(&config.tunnel_address),
                        host_port: config.host_port.clone(),
                        forward_port: config.forward_port.clone(),
                    });
                }
                op::Op::Route(route) => {
                    let target = match route.target {
                        Some(route::Target::Remote(_)) => Target::Remote,
                        Some(route::Target::LocalBlock(_)) => Target::LocalBlock,
                        Some(route::Target::LocalHost(_)) => Target::LocalHost,
                        None => continue,
                    };
                    if let Some(prefix) = route.prefix.as_ref().and_then(cidr) {
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
                _ => any = before,
            }
        }
        any
    }

    /// Where packets for pods go to: local and remote blocks, and local pods' addresses from elsewhere (borrowed).
    #[must_use]
    pub fn destinations(&self) -> BTreeSet<Cidr> {
        let of = |wanted| {
            self.routes.iter().filter(move |(_, target)| **target == wanted).map(|(prefix, _)| *prefix)
        };
        let ours: Vec<Cidr> = of(Target::LocalBlock).collect();
        let addresses = self.endpoints.values().flatten().copied();
        let borrowed =
            addresses.filter(|address| !ours.iter().any(|block| block.contains(*address))).map(Cidr::host);
        ours.iter().copied().chain(of(Target::Remote)).chain(borrowed).collect()
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn cidr(prefix: &Prefix) -> Option<Cidr> {
    Cidr::new(address(&prefix.address)?, u8::try_from(prefix.length).ok()?).ok()
}
