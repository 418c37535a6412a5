//! The slow reference evaluator: what the specification of Calico's policy model says, read literally.
//!
//! For every packet it walks all tiers, all policies and all rules, and evaluates every selector from its text. It
//! compiles nothing, and shares with the production path only the resource types and the case's world; not its
//! conversion, its selectors or its tables. Where the two disagree, one of them is wrong, and this one is short enough to
//! be read.
//!
//! ```text
//!   sender is a pod ──► its own address? ─► no tunnel packet? ─► its egress policies ─► to its own host: as configured
//!                                                                                  │
//!   receiver is a pod ◄──────────────────── its ingress policies ◄─────────────────┘
//!                     └──── the sender is the receiver's own node: always
//! ```

mod address;
mod calico;
mod cluster;
mod felix;
mod host;
mod kubernetes;
mod policies;
mod rule;
mod selector;
mod walk;

use std::net::IpAddr;

use caracal_model::case::report::{Observation, Observed};
use caracal_model::case::{Place, World, WorldFlow, WorldHostFlow};
use caracal_model::object::Object;
use k8s_openapi::api::core::v1::Pod;

use cluster::{Cluster, Party};
use felix::Felix;
use rule::Question;
use walk::{Class, walk};

pub(crate) use host::{HostPacket, HostVerdict};
pub(crate) use rule::Packet;
pub(crate) use walk::{Decision, Direction, Verdict};

/// The UDP port of VXLAN (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// IP protocol numbers: IP in IP (RFC 2003), UDP, ICMPv6.
const IPIP: u8 = 4;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Listeners (RFC 2710), router solicitation, neighbour solicitation and advertisement (RFC 4861): what a pod may always
/// say to its host.
const ALWAYS_TO_HOST: [u8; 6] = [130, 131, 132, 133, 135, 136];

/// Judges the packets of one world.
#[derive(Debug)]
pub struct Reference<'a> {
    world: &'a World,
    objects: Judge<'a>,
}

/// Judges packets by objects alone.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    cluster: Cluster<'a>,
}

/// Which policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Those that are enforced.
    Enforced,
    /// Those that would be, if every staged one took effect.
    Staged,
}

/// An end of a flow.
#[derive(Debug, Clone, Copy)]
enum End<'a> {
    Pod(&'a Pod, &'a Party),
    /// The index of a node: the host, or a pod on its network.
    Host(usize),
    Outside,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(objects: &'a [Object]) -> Self {
        Self { cluster: Cluster::new(objects) }
    }

    /// What a pod's policies say of a packet that it sends or is to receive. `None` when there is no such pod on the
    /// network.
    #[cfg(test)]
    pub(crate) fn pod(
        &self,
        (namespace, name): (&str, &str),
        direction: Direction,
        packet: Packet,
        asked: Asked,
    ) -> Option<Decision> {
        let (_, party) = self.cluster.pod(namespace, name)?;
        Some(self.police(party, direction, packet, asked))
    }

    fn police(&self, party: &Party, direction: Direction, packet: Packet, asked: Asked) -> Decision {
        let policies = match asked {
            Asked::Enforced => &self.cluster.policies,
            Asked::Staged => &self.cluster.staged_policies,
        };
        let question = Question::new(&self.cluster, packet);
        walk(&self.cluster, policies, party, direction, Class::Normal, &question)
    }

    /// What becomes of a packet at a host endpoint; `None` when there is none of that name.
    pub(crate) fn host(&self, name: &str, asked: &HostPacket) -> Option<(HostVerdict, String)> {
        let (endpoint, party) = self.cluster.host_endpoint(name)?;
        let felix = Felix::new(&self.cluster, endpoint.spec.node.as_deref().unwrap_or_default());
        Some(host::judge(&self.cluster, &felix, party, asked))
    }
}

impl<'a> Reference<'a> {
    /// A judge over the objects of `world`.
    pub fn new(world: &'a World) -> Self {
        Self { world, objects: Judge::new(&world.objects) }
    }

    /// What must become of `flow`, and why.
    pub fn judge(&self, flow: &WorldFlow) -> Observation {
        self.observe(flow, Asked::Enforced).unwrap_or_else(|observation| observation)
    }

    /// What would become of `flow` if every staged policy took effect, and why.
    pub fn judge_staged(&self, flow: &WorldFlow) -> Observation {
        self.observe(flow, Asked::Staged).unwrap_or_else(|observation| observation)
    }

    /// What must become of `flow` at its host endpoint, and why.
    pub fn judge_host(&self, flow: &WorldHostFlow) -> Observation {
        if let Some(why) = &flow.unsupported {
            return Observation::new(Observed::Unsupported, why);
        }
        let asked = HostPacket {
            path: flow.path,
            packet: Packet {
                source: flow.source_address,
                destination: flow.destination_address,
                protocol: flow.protocol.0,
                source_port: flow.protocol.has_ports().then_some(flow.source_port).flatten(),
                destination_port: flow.protocol.has_ports().then_some(flow.destination_port).flatten(),
                icmp: flow.icmp.map(|icmp| (icmp.kind, icmp.code)),
            },
            original: flow
                .original
                .map(|(address, port)| (address, flow.protocol.has_ports().then_some(port))),
        };
        let Some((verdict, why)) = self.objects.host(&flow.host_endpoint, &asked) else {
            return Observation::new(
                Observed::Error,
                format!("there is no host endpoint {}", flow.host_endpoint),
            );
        };
        let observed = match verdict {
            HostVerdict::Allow => Observed::Allow,
            HostVerdict::AllowUntracked => Observed::AllowUntracked,
            HostVerdict::Deny => Observed::Deny,
        };
        Observation::new(observed, why)
    }

    fn observe(&self, flow: &WorldFlow, asked: Asked) -> Result<Observation, Observation> {
        let unsupported = |why: &str| Observation::new(Observed::Unsupported, why);
        let deny = |why: String| Err(Observation::new(Observed::Deny, why));
        if let Some(why) = &flow.unsupported {
            return Err(unsupported(why));
        }
        let (sender, receiver) = (self.end(flow.source)?, self.end(flow.destination)?);
        let packet = Packet {
            source: self.source_as_seen(sender, receiver, flow.source_address),
            destination: flow.destination_address,
            protocol: flow.protocol.0,
            source_port: flow.protocol.has_ports().then_some(flow.source_port).flatten(),
            destination_port: flow.protocol.has_ports().then_some(flow.destination_port).flatten(),
            icmp: flow.icmp.map(|icmp| (icmp.kind, icmp.code)),
        };

        let mut whys = Vec::new();
        if let End::Pod(pod, party) = sender {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
            let felix = Felix::new(&self.objects.cluster, node);
            if !party.blocks.iter().any(|block| block.holds(packet.source)) {
                return deny(format!("spoofed-source: {} is not of {}", packet.source, party.name));
            }
            let is_own_host = matches!(receiver, End::Host(host) if self.node_of(pod) == Some(host));
            let is_always_taken = packet.protocol == ICMPV6
                && packet.source.is_ipv6()
                && packet.icmp.is_some_and(|(kind, _)| ALWAYS_TO_HOST.contains(&kind));
            if is_own_host && is_always_taken {
                let why = "neighbour and multicast discovery with the host is not judged";
                return Ok(Observation::new(Observed::Allow, why));
            }
            let is_vxlan = packet.protocol == UDP && packet.destination_port == Some(VXLAN_PORT);
            if is_vxlan && !felix.lets_pods_send_vxlan()
                || packet.protocol == IPIP && !felix.lets_pods_send_ipip()
            {
                return deny("pod-sent-tunnel: only nodes may send VXLAN or IPIP".to_owned());
            }
            whys.push(self.police(party, Direction::Egress, packet, asked)?);
            if is_own_host && felix.endpoint_to_host().eq_ignore_ascii_case("Drop") {
                return deny("defaultEndpointToHostAction is Drop".to_owned());
            }
        }
        match (sender, receiver) {
            (End::Pod(from, _), End::Pod(to, _)) if from.metadata == to.metadata => {
                return Err(unsupported("a pod's packets to itself never leave it"));
            }
            (End::Host(from), End::Pod(to, party)) if self.node_of(to) == Some(from) => {
                whys.push(format!(
                    "{} is reached from its own node, which policy does not judge",
                    party.name
                ));
            }
            (_, End::Pod(_, party)) => whys.push(self.police(party, Direction::Ingress, packet, asked)?),
            (End::Pod(..), End::Host(_) | End::Outside) => {}
            (End::Host(_) | End::Outside, End::Host(_) | End::Outside) => {
                return Err(unsupported("neither end is a pod: the data plane does not carry it"));
            }
        }
        Ok(Observation::new(Observed::Allow, whys.join("; ")))
    }

    /// What one end's policies say: why they let the packet pass, or the observation that they do not.
    fn police(
        &self,
        party: &Party,
        direction: Direction,
        packet: Packet,
        asked: Asked,
    ) -> Result<String, Observation> {
        let decision = self.objects.police(party, direction, packet, asked);
        match decision.verdict {
            Verdict::Allow => Ok(decision.why),
            Verdict::Deny | Verdict::GoOn => Err(Observation::new(Observed::Deny, decision.why)),
        }
    }

    fn end(&self, place: Place) -> Result<End<'_>, Observation> {
        let error = |why: String| Observation::new(Observed::Error, why);
        match place {
            Place::External => Ok(End::Outside),
            Place::Service(_) => Err(Observation::new(Observed::Unsupported, "services are judged by backend")),
            Place::Node(node) => Ok(End::Host(node)),
            Place::Pod(index) => {
                let Some(pod) = self.world.pods.get(index) else {
                    return Err(error(format!("the world has no pod {index}")));
                };
                if pod.host_network {
                    return Ok(End::Host(pod.node));
                }
                let found = self.objects.cluster.pod(&pod.namespace, &pod.name);
                found
                    .filter(|(_, party)| !party.blocks.is_empty())
                    .map(|(object, party)| End::Pod(object, party))
                    .ok_or_else(|| error(format!("pod {}/{} has no address", pod.namespace, pod.name)))
            }
        }
    }

    /// A node speaks to pods of other nodes from its tunnel address; everybody else from the address they have.
    fn source_as_seen(&self, sender: End<'_>, receiver: End<'_>, source: IpAddr) -> IpAddr {
        match (sender, receiver) {
            (End::Host(from), End::Pod(to, _)) if self.node_of(to) != Some(from) && source.is_ipv4() => {
                self.world.nodes.get(from).map_or(source, |node| node.tunnel_address.into())
            }
            _ => source,
        }
    }

    fn node_of(&self, pod: &Pod) -> Option<usize> {
        let name = pod.spec.as_ref()?.node_name.as_deref();
        self.world.nodes.iter().position(|node| Some(node.name.as_str()) == name)
    }
}
