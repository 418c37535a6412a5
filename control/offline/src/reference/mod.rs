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
//!                                                  (of a service: each backend)   │
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
mod service;
mod walk;

use std::net::IpAddr;

use caracal_model::case::report::{Observation, Observed};
use caracal_model::case::{HostPath, Place, World, WorldFlow, WorldHostFlow};
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
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "no case asks; the tests of agreement do, of random worlds")
    )]
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

/// The node that translates a packet for a service.
#[derive(Debug, Clone, Copy)]
struct Translator {
    node: usize,
    /// Whether its own pod, or itself, asks.
    is_inside: bool,
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

    /// A host endpoint that does not let a forwarded packet and its answer pass as if it were not there.
    fn in_the_way(&self, packet: &Packet) -> Option<&str> {
        let answer = Packet {
            source: packet.destination,
            destination: packet.source,
            source_port: packet.destination_port,
            destination_port: packet.source_port,
            ..*packet
        };
        let ways = [HostPath::ForwardIn, HostPath::ForwardOut];
        let asked = |packet| ways.map(|path| HostPacket { path, packet, original: None });
        let mut names = self.cluster.host_endpoints().filter_map(|host| host.metadata.name.as_deref());
        names.find(|name| {
            let mut asked = asked(*packet).into_iter().chain(asked(answer));
            asked.any(|asked| {
                self.host(name, &asked).is_some_and(|(verdict, _)| verdict != HostVerdict::Allow)
            })
        })
    }
}

impl<'a> Reference<'a> {
    /// A judge over the objects of `world`.
    pub fn new(world: &'a World) -> Self {
        Self { world, objects: Judge::new(&world.objects) }
    }

    /// What must become of `flow`, and why.
    pub fn judge(&self, flow: &WorldFlow) -> Observation {
        self.observe(flow).unwrap_or_else(|observation| observation)
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

    fn observe(&self, flow: &WorldFlow) -> Result<Observation, Observation> {
        if let Some(why) = &flow.unsupported {
            return Err(Observation::new(Observed::Unsupported, why));
        }
        let sender = self.end(flow.source)?;
        let packet = Packet {
            source: flow.source_address,
            destination: flow.destination_address,
            protocol: flow.protocol.0,
            source_port: flow.protocol.has_ports().then_some(flow.source_port).flatten(),
            destination_port: flow.protocol.has_ports().then_some(flow.destination_port).flatten(),
            icmp: flow.icmp.map(|icmp| (icmp.kind, icmp.code)),
        };
        let observation = match (self.translator(flow, sender), packet.destination_port) {
            (Some(translator), Some(port)) if flow.service.is_some() => {
                self.translated(flow, sender, translator, packet, port)
            }
            _ => self.carried(sender, self.end(flow.destination)?, packet, packet.source),
        }?;
        match self.objects.in_the_way(&packet) {
            Some(host) => {
                let why = format!("host endpoint {host} may judge what is forwarded: ask by hostFlows");
                Err(Observation::new(Observed::Unsupported, why))
            }
            None => Ok(observation),
        }
    }

    /// The node that translates what is for a service: the sender's own; for whoever is outside, and for addresses of
    /// other nodes, the node that the packet comes to.
    fn translator(&self, flow: &WorldFlow, sender: End<'_>) -> Option<Translator> {
        let own = match sender {
            End::Pod(pod, _) => self.node_of(pod),
            End::Host(node) => Some(node),
            End::Outside => None,
        };
        let is_own_or_none = |node: usize| own.is_none_or(|own| own == node);
        match (flow.destination, own) {
            (Place::Node(node), own) => {
                Some(Translator { node, is_inside: own.is_some() && is_own_or_none(node) })
            }
            (_, Some(node)) => Some(Translator { node, is_inside: true }),
            (_, None) => {
                let node = self.world.entrance(flow.destination_address)?;
                Some(Translator { node, is_inside: false })
            }
        }
    }

    /// What becomes of a packet for a service: of each packet that it could become.
    fn translated(
        &self,
        flow: &WorldFlow,
        sender: End<'_>,
        translator: Translator,
        packet: Packet,
        port: u16,
    ) -> Result<Observation, Observation> {
        let Translator { node, is_inside } = translator;
        let Some(here) = self.world.nodes.get(node) else {
            return Err(Observation::new(Observed::Error, format!("the world has no node {node}")));
        };
        let ask = service::Ask {
            node: &here.name,
            is_inside,
            source: packet.source,
            destination: packet.destination,
            is_node_address: here.has_address(packet.destination),
            protocol: packet.protocol,
            port,
        };
        let Some(served) = service::asked(&self.objects.cluster, &ask) else {
            return Err(Observation::new(Observed::Error, "the case says a service is asked, and none is"));
        };
        // A node of another's pod is a stranger to the node that translates: its pods' policies have looked at the
        // packet as it was sent.
        let (first, mut whys) = match sender {
            End::Pod(..) if !is_inside => {
                let sent = self.carried(sender, End::Outside, packet, packet.source)?;
                (End::Outside, vec![sent.why])
            }
            _ => (if is_inside { sender } else { End::Outside }, Vec::new()),
        };
        if let Some(why) = served.refusal {
            return Err(Observation::new(Observed::Deny, why));
        }
        let mut verdicts: Vec<Result<Observation, Observation>> = Vec::new();
        for (address, port) in served.backends {
            let receiver = self.end_of(address);
            let sent = Packet { destination: address, destination_port: Some(port), ..packet };
            let seen = self.source_seen(sender, receiver, translator, sent, served.keeps_client);
            verdicts.push(self.carried(first, receiver, sent, seen));
        }
        let allows = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
        if allows != 0 && allows != verdicts.len() {
            let why = format!(
                "{}: some of the backends that {} may get refuse, and some do not: the case does not say which it gets",
                served.name, flow.from
            );
            return Err(Observation::new(Observed::Error, why));
        }
        let Some(verdict) = verdicts.into_iter().next() else {
            return Err(Observation::new(Observed::Error, "a service without backends is refused before"));
        };
        whys.push(served.name);
        verdict.map(|observation| {
            whys.push(observation.why);
            Observation::new(observation.observed, whys.join("; "))
        })
    }

    /// The source that a backend sees: its client's own, where its answer passes this node anyhow; else an address that
    /// leads back to the node that translates.
    fn source_seen(
        &self,
        sender: End<'_>,
        receiver: End<'_>,
        translator: Translator,
        packet: Packet,
        keeps_client: bool,
    ) -> IpAddr {
        let here = match receiver {
            End::Pod(pod, _) => self.node_of(pod),
            End::Host(_) | End::Outside => None,
        };
        let is_own_host_asking = matches!(sender, End::Host(_)) && translator.is_inside;
        match here {
            Some(here) if here != translator.node && (is_own_host_asking || !keeps_client) => {
                self.world.host_source(translator.node, here, packet.destination).unwrap_or(packet.source)
            }
            _ => packet.source,
        }
    }

    /// What becomes of `packet`, as its sender's policies see it, on its way to a receiver that sees it from `seen`.
    fn carried(
        &self,
        sender: End<'_>,
        receiver: End<'_>,
        packet: Packet,
        seen: IpAddr,
    ) -> Result<Observation, Observation> {
        let unsupported = |why: &str| Observation::new(Observed::Unsupported, why);
        let deny = |why: String| Err(Observation::new(Observed::Deny, why));
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
            whys.push(self.police(party, Direction::Egress, packet)?);
            if is_own_host && felix.endpoint_to_host().eq_ignore_ascii_case("Drop") {
                return deny("defaultEndpointToHostAction is Drop".to_owned());
            }
        }
        let packet = Packet { source: seen, ..packet };
        match (sender, receiver) {
            (End::Pod(from, _), End::Pod(to, party)) if from.metadata == to.metadata => {
                whys.push(format!("{} is its own backend, which policy does not judge", party.name));
            }
            (End::Host(from), End::Pod(to, party)) if self.node_of(to) == Some(from) => {
                whys.push(format!(
                    "{} is reached from its own node, which policy does not judge",
                    party.name
                ));
            }
            (_, End::Pod(_, party)) => whys.push(self.police(party, Direction::Ingress, packet)?),
            (End::Pod(..), End::Host(_) | End::Outside) => {}
            (End::Host(_) | End::Outside, End::Host(_) | End::Outside)
                if packet.destination_port.is_none() =>
            {
                return Err(unsupported("neither end is a pod: the data plane does not carry it"));
            }
            (End::Host(_) | End::Outside, End::Host(_) | End::Outside) => {
                whys.push("no policy of pods judges it".to_owned());
            }
        }
        Ok(Observation::new(Observed::Allow, whys.join("; ")))
    }

    /// What one end's policies say: why they let the packet pass, or the observation that they do not.
    fn police(&self, party: &Party, direction: Direction, packet: Packet) -> Result<String, Observation> {
        let decision = self.objects.police(party, direction, packet, Asked::Enforced);
        match decision.verdict {
            Verdict::Allow => Ok(decision.why),
            Verdict::Deny | Verdict::GoOn => Err(Observation::new(Observed::Deny, decision.why)),
        }
    }

    fn end(&self, place: Place) -> Result<End<'_>, Observation> {
        let error = |why: String| Observation::new(Observed::Error, why);
        match place {
            Place::External => Ok(End::Outside),
            Place::Service(_) => Err(Observation::new(Observed::Deny, "the service has no such port")),
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

    /// Who has an address.
    fn end_of(&self, address: IpAddr) -> End<'_> {
        let has =
            |pod: &&caracal_model::case::WorldPod| !pod.host_network && pod.addresses.contains(&address);
        let pod = self.world.pods.iter().find(has);
        if let Some((object, party)) = pod.and_then(|pod| self.objects.cluster.pod(&pod.namespace, &pod.name))
        {
            return End::Pod(object, party);
        }
        let node = self.world.nodes.iter().position(|node| node.has_address(address));
        node.map_or(End::Outside, End::Host)
    }

    fn node_of(&self, pod: &Pod) -> Option<usize> {
        let name = pod.spec.as_ref()?.node_name.as_deref();
        self.world.nodes.iter().position(|node| Some(node.name.as_str()) == name)
    }
}
