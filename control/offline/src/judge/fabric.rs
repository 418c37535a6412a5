//! The world around the pipelines: pods, hosts, the fabric with its router, and hosts outside.
//!
//! ```text
//!   pods ⇄ node1 ⇄ uplink ─┐                     ┌─ uplink ⇄ node2 ⇄ pods
//!   host ⇄                 ├─ fabric and router ─┤                 ⇄ host
//!                          └────── outside ──────┘
//! ```
//!
//! The fabric knows what its routers would: each node's address, and which node has which pod.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use caracal_dataplane::clock::Tick;
use caracal_dataplane::drop_reason::DropReason;
use caracal_dataplane::sim::{HOST_MAC, Kernel, Node, POD_MAC, PortName, UPLINK_IFINDEX, UPLINK_MAC};
use caracal_dataplane::table::policy::RuleAction;
use caracal_dataplane::table::{FlowDirection, KernelRoute, Prefix, RuleName};
use caracal_model::case::report::{Observation, Observed};
use caracal_model::case::{Place, World, WorldFlow, WorldNode, WorldPod};
use caracal_plane_api::Op;
use caracal_wire::{L4Port, MacAddr, Malformed, Protocol};

use super::JudgeError;
use super::packet::{Talk, datagram_of, frame, is_same};

const UPLINK_MTU: u16 = 1500;
const POD_MTU: u16 = 1450;
/// What pods and hosts send their frames to.
const GATEWAY_MAC: MacAddr = MacAddr([0xee; 6]);
/// Whatever is on the other side of an uplink.
const FABRIC_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
/// The router's IPv6 address: link-local, as routers advertise themselves.
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const VXLAN_PORT: L4Port = L4Port(4789);
/// IP in IP (RFC 2003).
const IPIP: Protocol = Protocol(4);
/// Flows and frames of a simulated node: it sees one flow.
const FLOWS: usize = 256;
const FRAMES: u32 = 64;
/// A packet that has been handed on so often is going round in circles.
const HOPS_MAX: usize = 32;
const NOW: Tick = Tick(1);

/// The nodes of a world, joined.
pub(super) struct Fabric<'a> {
    world: &'a World,
    nodes: Vec<Node>,
    /// What data planes have sent in their nodes' names: the node, the protocol, and the port or identifier. What comes for
    /// these is an answer to them, not to the host.
    lent: BTreeSet<(usize, Protocol, u16)>,
}

/// What became of a datagram.
#[derive(Debug)]
pub(super) struct Journey {
    /// Where datagrams came out.
    arrivals: Vec<(Place, Vec<u8>)>,
    /// What the nodes dropped on the way, and which of their rules refused.
    drops: Vec<String>,
}

/// Where the fabric leads a datagram.
enum Next {
    /// Into the data plane of a node.
    DataPlane(usize),
    /// Past its data plane, to the host itself.
    Host(usize),
    Outside,
    /// To nobody: what the fabric knows of cluster addresses is nothing.
    Nowhere,
}

impl<'a> Fabric<'a> {
    /// Joins nodes that have been told `ops`, one list a node.
    pub(super) fn new(world: &'a World, ops: &[Vec<Op>]) -> Result<Self, JudgeError> {
        let start = |(node, ops): (&WorldNode, &Vec<Op>)| {
            Node::new(ops, kernel_of(node), FLOWS, FRAMES)
                .map_err(|source| JudgeError::Tables { node: node.name.clone(), source })
        };
        let nodes = world.nodes.iter().zip(ops).map(start).collect::<Result<_, _>>()?;
        Ok(Self { world, nodes, lent: BTreeSet::new() })
    }

    /// Sends a datagram from `from` and follows it until it has come out or is gone.
    pub(super) fn carry(&mut self, from: Place, datagram: Vec<u8>) -> Result<Journey, Malformed> {
        let denials_before = self.denials();
        let mut lost = false;
        let mut arrivals = Vec::new();
        let mut on_the_way = VecDeque::new();
        match from {
            Place::Pod(pod) => {
                if let Some(pod) = self.world.pods.get(pod) {
                    let frame = frame(POD_MAC, GATEWAY_MAC, &datagram)?;
                    on_the_way.push_back((pod.node, port_of(pod), frame));
                }
            }
            Place::Node(node) => {
                on_the_way.push_back((node, PortName::Host, frame(HOST_MAC, GATEWAY_MAC, &datagram)?));
            }
            // A service's address sends nothing.
            Place::Service(_) => {}
            Place::External => lost |= !self.cross(&datagram, &mut on_the_way, &mut arrivals)?,
        }
        for _ in 0..HOPS_MAX {
            let Some((node, port, frame)) = on_the_way.pop_front() else { break };
            let Some(sim) = self.nodes.get_mut(node) else { continue };
            sim.inject(&port, &frame);
            let outputs = sim.run(NOW);
            for output in outputs {
                // Whatever is not IP is ARP between a node and its own links.
                let Some(datagram) = datagram_of(&output.frame) else { continue };
                let is_out = matches!(output.port, PortName::Uplink | PortName::SecondUplink);
                if is_out && let Some(lent) = self.lends(node, datagram_of(&frame), datagram)? {
                    self.lent.insert(lent);
                }
                match output.port {
                    PortName::Uplink | PortName::SecondUplink => {
                        lost |= !self.cross(datagram, &mut on_the_way, &mut arrivals)?;
                    }
                    PortName::Pod(id) => {
                        let pod =
                            self.world.pods.iter().position(|pod| port_of(pod) == PortName::Pod(id.clone()));
                        arrivals.extend(pod.map(|pod| (Place::Pod(pod), datagram.to_vec())));
                    }
                    PortName::Host | PortName::Forward => {
                        arrivals.push((Place::Node(node), datagram.to_vec()));
                    }
                }
            }
        }
        let mut drops = self.drops(&denials_before);
        drops.extend(lost.then(|| "the fabric knows no way to cluster addresses of services".to_owned()));
        Ok(Journey { arrivals, drops })
    }

    /// Takes a datagram from an uplink, or from outside, over the fabric. False: it leads nowhere.
    fn cross(
        &self,
        datagram: &[u8],
        on_the_way: &mut VecDeque<(usize, PortName, Vec<u8>)>,
        arrivals: &mut Vec<(Place, Vec<u8>)>,
    ) -> Result<bool, Malformed> {
        match self.next(datagram)? {
            Next::DataPlane(node) => {
                on_the_way.push_back((node, PortName::Uplink, frame(FABRIC_MAC, UPLINK_MAC, datagram)?));
            }
            Next::Host(node) => arrivals.push((Place::Node(node), datagram.to_vec())),
            Next::Outside => arrivals.push((Place::External, datagram.to_vec())),
            Next::Nowhere => return Ok(false),
        }
        Ok(true)
    }

    /// What a node has sent in its own name though somebody else had said it.
    fn lends(
        &self,
        node: usize,
        came: Option<&[u8]>,
        went: &[u8],
    ) -> Result<Option<(usize, Protocol, u16)>, Malformed> {
        let Some(world_node) = self.world.nodes.get(node) else { return Ok(None) };
        let went = Talk::of(went)?;
        let came = came.map(Talk::of).transpose()?;
        let is_its = world_node.has_address(went.source);
        let is_as_it_came =
            came.is_some_and(|came| (came.source, came.source_port) == (went.source, went.source_port));
        let is_between_nodes =
            is_tunnel(&went) && self.world.nodes.iter().any(|node| node.has_address(went.destination));
        let lends = is_its && !is_as_it_came && !is_between_nodes;
        Ok(lends.then_some((node, went.protocol, went.source_port)))
    }

    fn next(&self, datagram: &[u8]) -> Result<Next, Malformed> {
        let talk = Talk::of(datagram)?;
        let destination = talk.destination;
        if let Some(node) = self.world.nodes.iter().position(|node| node.has_address(destination)) {
            // As the program on a node's uplink takes them.
            let port = match talk.protocol {
                Protocol::ICMPV4 | Protocol::ICMPV6 => talk.source_port,
                _ => talk.destination_port,
            };
            let is_node_port = self.world.services.iter().flat_map(|service| &service.ports).any(|known| {
                known.protocol.0 == talk.protocol.0 && known.node_port == Some(talk.destination_port)
            });
            let is_ours =
                is_tunnel(&talk) || is_node_port || self.lent.contains(&(node, talk.protocol, port));
            return Ok(if is_ours { Next::DataPlane(node) } else { Next::Host(node) });
        }
        let node = self
            .node_of_pod_address(destination)
            .or_else(|| self.world.nodes.iter().position(|node| node.has_in_block(destination)))
            .or_else(|| self.world.entrance(destination));
        let is_of_a_service = self.world.services.iter().any(|s| s.cluster_ips.contains(&destination));
        let beyond = if is_of_a_service { Next::Nowhere } else { Next::Outside };
        Ok(node.map_or(beyond, Next::DataPlane))
    }

    fn node_of_pod_address(&self, address: IpAddr) -> Option<usize> {
        let has = |pod: &&WorldPod| !pod.host_network && pod.addresses.contains(&address);
        self.world.pods.iter().find(has).map(|pod| pod.node)
    }

    /// What decided about `flow`, which was allowed: the rules that have counted it, the opener's first.
    pub(super) fn what_decided(&self, flow: &WorldFlow) -> String {
        let hits = self.nodes.iter().flat_map(Node::rule_hits).map(|(rule, _)| rule);
        let (egress, mut rest): (Vec<_>, Vec<_>) = hits.partition(is_egress);
        let mut rules = egress;
        rules.append(&mut rest);
        if rules.is_empty() {
            return format!("no policy judges what {} sends to {}", flow.from, flow.to);
        }
        rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// How often each rule of each node has refused.
    fn denials(&self) -> BTreeMap<(usize, RuleName), u64> {
        let of_node = |(index, node): (usize, &Node)| {
            let refusals = node.rule_hits().into_iter().filter(|(rule, _)| rule.action() == RuleAction::Deny);
            refusals.map(|(rule, hits)| ((index, rule), hits)).collect::<Vec<_>>()
        };
        self.nodes.iter().enumerate().flat_map(of_node).collect()
    }

    fn drops(&mut self, denials_before: &BTreeMap<(usize, RuleName), u64>) -> Vec<String> {
        let denials = self.denials();
        let new: Vec<&(usize, RuleName)> = denials
            .iter()
            .filter(|(rule, hits)| denials_before.get(rule).is_none_or(|before| before < hits))
            .map(|(rule, _)| rule)
            .collect();
        let mut drops = Vec::new();
        for (index, (node, sim)) in self.world.nodes.iter().zip(&mut self.nodes).enumerate() {
            for (reason, _) in sim.drops() {
                let rules = new.iter().filter(|(node, _)| *node == index).map(|(_, rule)| rule);
                let rules: Vec<String> = rules.map(ToString::to_string).collect();
                drops.push(match reason {
                    DropReason::PolicyDeny if !rules.is_empty() => rules.join("; "),
                    _ => format!("{}: {} On {}.", reason.label(), reason.description(), node.name),
                });
            }
        }
        drops
    }
}

impl Journey {
    /// Where datagrams came out, and what they were.
    pub(super) fn arrivals(&self) -> &[(Place, Vec<u8>)] {
        &self.arrivals
    }

    /// What is to be said of the flow if a node dropped a packet of it.
    pub(super) fn denial(&self) -> Option<Observation> {
        (!self.drops.is_empty()).then(|| Observation::new(Observed::Deny, self.drops.join("; ")))
    }

    /// That the datagram came out at `place` as it was sent; else what is to be said of its flow.
    pub(super) fn arrived_at(&self, place: Place, sent: &[u8], what: &str) -> Result<(), Observation> {
        let error = |why: String| Err(Observation::new(Observed::Error, why));
        if self.arrivals.iter().any(|(at, arrived)| *at == place && is_same(sent, arrived)) {
            return Ok(());
        }
        if let Some((_, arrived)) = self.arrivals.iter().find(|(at, _)| *at == place) {
            return error(format!("{what} was altered on its way: {sent:02x?} became {arrived:02x?}"));
        }
        if let Some(denial) = self.denial() {
            return Err(denial);
        }
        match self.arrivals.first() {
            Some((at, _)) => error(format!("{what} came out at {at:?} instead of {place:?}")),
            None => error(format!("{what} vanished, and no drop was counted")),
        }
    }
}

/// Whether it is between nodes: VXLAN or IPIP.
fn is_tunnel(talk: &Talk) -> bool {
    let is_vxlan = talk.protocol == Protocol::UDP && talk.destination_port == VXLAN_PORT.0;
    is_vxlan || talk.protocol == IPIP
}

fn is_egress(rule: &RuleName) -> bool {
    match rule {
        RuleName::Rule { direction, .. }
        | RuleName::TierDefault { direction, .. }
        | RuleName::Profile { direction, .. } => *direction == FlowDirection::Egress,
        RuleName::NoProfileMatch | RuleName::Failsafe | RuleName::NoForwardPolicy => false,
    }
}

fn port_of(pod: &WorldPod) -> PortName {
    PortName::Pod(format!("{}/{}", pod.namespace, pod.name))
}

fn kernel_of(node: &WorldNode) -> Kernel {
    let route = |prefix, gateway| KernelRoute {
        prefix,
        ifindex: UPLINK_IFINDEX,
        gateway,
        mtu: UPLINK_MTU,
        source: None,
    };
    let on_link = node.subnet_v6;
    Kernel {
        routes: [
            route(Prefix::new(node.subnet.address(), node.subnet.length()), None),
            route(Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0), Some(node.router.into())),
            route(Prefix::new(Ipv6Addr::UNSPECIFIED.into(), 0), Some(ROUTER_V6.into())),
        ]
        .into_iter()
        .chain(on_link.map(|subnet| route(Prefix::new(subnet.address(), subnet.length()), None)))
        .collect(),
        addresses: [Some(IpAddr::V4(node.address)), node.address_v6.map(IpAddr::V6)]
            .into_iter()
            .chain([Some(node.tunnel_address.into()), node.tunnel_address_v6.map(IpAddr::V6)])
            .chain([Some(node.ipip_tunnel_address.into())])
            .flatten()
            .collect(),
        neighbor_mac: FABRIC_MAC,
        uplink_mtu: UPLINK_MTU,
        pod_mtu: POD_MTU,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: [Place; 2] = [Place::Pod(0), Place::Pod(1)];

    fn datagram(payload: u8) -> Vec<u8> {
        let talk = super::super::packet::Talk {
            source: Ipv4Addr::new(10, 244, 1, 2).into(),
            destination: Ipv4Addr::new(10, 244, 2, payload).into(),
            protocol: Protocol::UDP,
            source_port: 40_000,
            destination_port: 53,
            icmp: caracal_model::case::Icmp { kind: 8, code: 0 },
        };
        talk.questions().unwrap().remove(0)
    }

    fn observed(arrivals: Vec<(Place, Vec<u8>)>, drops: &[&str]) -> Option<Observed> {
        let drops = drops.iter().map(|drop| (*drop).to_owned()).collect();
        let arrived = Journey { arrivals, drops }.arrived_at(PODS[1], &datagram(2), "the packet");
        arrived.err().map(|observation| observation.observed)
    }

    #[test]
    fn only_a_counted_drop_is_a_denial() {
        assert_eq!(observed(vec![(PODS[1], datagram(2))], &[]), None);
        assert_eq!(observed(vec![], &["tier default · ingress default"]), Some(Observed::Deny));
        assert_eq!(observed(vec![], &[]), Some(Observed::Error), "it vanished");
        assert_eq!(observed(vec![(PODS[0], datagram(2))], &[]), Some(Observed::Error), "it went astray");
        assert_eq!(observed(vec![(PODS[1], datagram(3))], &[]), Some(Observed::Error), "it was altered");
    }

    #[test]
    fn an_answer_of_ours_to_the_sender_does_not_hide_the_drop() {
        let answer = (PODS[0], datagram(9));
        assert_eq!(observed(vec![answer], &["blackhole: …"]), Some(Observed::Deny));
    }
}
