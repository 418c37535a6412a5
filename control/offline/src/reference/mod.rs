//! The slow reference evaluator: what Kubernetes' documentation says about network policy, read literally.
//!
//! For every flow it walks all policies and all pods. It keeps nothing between flows, compiles nothing, and shares with
//! the production path only the resource types and the case's world; not its conversion, its selectors or its tables.
//! Where the two disagree, one of them is wrong, and this one is short enough to be read.
//!
//! ```text
//!   sender is a pod ──► its own address? ─► no tunnel packet? ─► egress policies select it? ─► one of their rules matches?
//!                                                                                          │
//!   receiver is a pod ◄──── ingress policies select it? one of their rules matches? ◄──────┘
//!                     └──── the sender is the receiver's own node: always
//! ```

mod address;
mod cluster;
mod policy;
mod selector;

use std::net::{IpAddr, Ipv4Addr};

use caracal_model::case::report::{Observation, Observed};
use caracal_model::case::{Place, World, WorldFlow};
use caracal_model::protocol::Protocol;

use cluster::{Cluster, PodRef};
use policy::{Decision, Direction, Packet};

/// The UDP port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// The IP protocol number of IP in IP (RFC 2003).
const IPIP: Protocol = Protocol(4);

/// Judges the flows of one world.
#[derive(Debug)]
pub struct Reference<'a> {
    world: &'a World,
    cluster: Cluster<'a>,
}

/// An end of a flow.
#[derive(Debug, Clone, Copy)]
enum End<'a> {
    Pod(PodRef<'a>),
    /// The index of a node: the host, or a pod on its network.
    Host(usize),
    Outside,
}

impl<'a> Reference<'a> {
    /// A judge over the objects of `world`.
    pub fn new(world: &'a World) -> Self {
        Self { world, cluster: Cluster::new(&world.objects) }
    }

    /// What must become of `flow`, and why.
    pub fn judge(&self, flow: &WorldFlow) -> Observation {
        self.observe(flow).unwrap_or_else(|observation| observation)
    }

    fn observe(&self, flow: &WorldFlow) -> Result<Observation, Observation> {
        let unsupported = |why: &str| Observation::new(Observed::Unsupported, why);
        if let Some(why) = &flow.unsupported {
            return Err(unsupported(why));
        }
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (flow.source_address, flow.destination_address)
        else {
            return Err(unsupported("IPv6 is not implemented"));
        };
        let (sender, receiver) = (self.end(flow.source)?, self.end(flow.destination)?);
        let packet = Packet {
            source: self.source_as_seen(sender, receiver, source),
            destination,
            protocol: flow.protocol,
            port: flow.destination_port,
        };

        let mut whys = Vec::new();
        if let End::Pod(pod) = sender {
            if !pod.addresses().contains(&source) {
                return Ok(Observation::new(
                    Observed::Deny,
                    format!("spoofed-source: {source} is not {pod}'s"),
                ));
            }
            let is_vxlan = flow.protocol == Protocol::UDP && flow.destination_port == Some(VXLAN_PORT);
            if is_vxlan || flow.protocol == IPIP {
                return Ok(Observation::new(
                    Observed::Deny,
                    "pod-sent-tunnel: only nodes may send VXLAN or IPIP",
                ));
            }
            whys.push(self.police(pod, Direction::Egress, &packet)?);
        }
        match (sender, receiver) {
            (End::Pod(from), End::Pod(to)) if from == to => {
                return Err(unsupported("a pod's packets to itself never leave it"));
            }
            (End::Host(from), End::Pod(to)) if self.node_of(to) == Some(from) => {
                whys.push(format!("{to} is reached from its own node, which policy does not judge"));
            }
            (_, End::Pod(to)) => whys.push(self.police(to, Direction::Ingress, &packet)?),
            (End::Pod(_), End::Host(_) | End::Outside) => {}
            (End::Host(_) | End::Outside, End::Host(_) | End::Outside) => {
                return Err(unsupported("neither end is a pod: the data plane does not carry it"));
            }
        }
        Ok(Observation::new(Observed::Allow, whys.join("; ")))
    }

    /// What one end's policies say: why they let the packet pass, or the observation that they do not.
    fn police(&self, pod: PodRef<'_>, direction: Direction, packet: &Packet) -> Result<String, Observation> {
        match policy::decide(&self.cluster, pod, direction, packet) {
            Decision::Allow(why) => Ok(why),
            Decision::Deny(why) => Err(Observation::new(Observed::Deny, why)),
        }
    }

    fn end(&self, place: Place) -> Result<End<'a>, Observation> {
        let error = |why: String| Observation::new(Observed::Error, why);
        match place {
            Place::External => Ok(End::Outside),
            Place::Node(node) => Ok(End::Host(node)),
            Place::Pod(index) => {
                let Some(pod) = self.world.pods.get(index) else {
                    return Err(error(format!("the world has no pod {index}")));
                };
                if pod.host_network {
                    return Ok(End::Host(pod.node));
                }
                let found = self.cluster.pod(&pod.namespace, &pod.name).filter(|pod| pod.is_on_network());
                found
                    .map(End::Pod)
                    .ok_or_else(|| error(format!("pod {}/{} has no address", pod.namespace, pod.name)))
            }
        }
    }

    /// A node speaks to pods of other nodes from its tunnel address; everybody else from the address they have.
    fn source_as_seen(&self, sender: End<'_>, receiver: End<'_>, source: Ipv4Addr) -> Ipv4Addr {
        match (sender, receiver) {
            (End::Host(from), End::Pod(to)) if self.node_of(to) != Some(from) => {
                self.world.nodes.get(from).map_or(source, |node| node.tunnel_address)
            }
            _ => source,
        }
    }

    fn node_of(&self, pod: PodRef<'_>) -> Option<usize> {
        self.world.nodes.iter().position(|node| Some(node.name.as_str()) == pod.node())
    }
}
