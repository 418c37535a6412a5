//! Random packets through a world: from and to its pods, and at its host endpoints.

use std::fmt;
use std::net::IpAddr;

use caracal_model::case::HostPath;
use caracal_model::object::Object;

use super::random::Random;
use super::words::{PORTS, stranger};
use crate::reference::{HostPacket, Packet};

/// A question to both judges.
#[derive(Debug, Clone)]
pub(super) enum Question {
    /// What do the pod's policies say of what it sends, or of what it is to receive?
    Pod { namespace: String, name: String, is_sender: bool, packet: Packet },
    /// What becomes of it at the host endpoint?
    Host { name: String, packet: HostPacket },
}

/// Where packets of a world can come from and go to.
#[derive(Debug)]
pub(super) struct Places {
    /// Namespace, name, addresses.
    pods: Vec<(String, String, Vec<IpAddr>)>,
    host_endpoints: Vec<String>,
}

impl Places {
    pub(super) fn new(objects: &[Object]) -> Self {
        let mut places = Self { pods: Vec::new(), host_endpoints: Vec::new() };
        for object in objects {
            let key = object.key();
            match object {
                Object::Pod(pod) => {
                    let is_on_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network != Some(true));
                    let status = pod.status.as_ref();
                    let is_finished = status.and_then(|status| status.phase.as_deref()) == Some("Succeeded");
                    let listed = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
                    let one = status.and_then(|status| status.pod_ip.as_ref());
                    let ips = listed.map(|listed| &listed.ip).chain(one);
                    let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
                    if is_on_network && !is_finished {
                        places.pods.push((key.namespace.unwrap_or_default(), key.name, addresses));
                    }
                }
                Object::HostEndpoint(_) => places.host_endpoints.push(key.name),
                _ => {}
            }
        }
        places
    }

    /// The questions about one random packet: one or two of pods, or one of a host endpoint.
    pub(super) fn ask(&self, random: &mut Random) -> Vec<Question> {
        let is_v4 = random.chance(65);
        if !self.host_endpoints.is_empty() && random.chance(25) {
            let name = random.pick(&self.host_endpoints).clone();
            return vec![Question::Host { name, packet: self.host_packet(random, is_v4) }];
        }
        let ((sender, source), (receiver, destination)) = (self.end(random, is_v4), self.end(random, is_v4));
        let packet = packet(random, source, destination);
        let about = |end: Option<usize>, is_sender| {
            let (namespace, name, _) = end.and_then(|index| self.pods.get(index))?;
            Some(Question::Pod { namespace: namespace.clone(), name: name.clone(), is_sender, packet })
        };
        about(sender, true).into_iter().chain(about(receiver, false)).collect()
    }

    /// A pod and one of its addresses, or an address of anybody.
    fn end(&self, random: &mut Random, is_v4: bool) -> (Option<usize>, IpAddr) {
        if random.chance(70) && !self.pods.is_empty() {
            let index = random.below(self.pods.len());
            let address = self.pods[index].2.iter().find(|address| address.is_ipv4() == is_v4);
            if let Some(address) = address {
                return (Some(index), *address);
            }
        }
        (None, stranger(random, is_v4))
    }

    fn host_packet(&self, random: &mut Random, is_v4: bool) -> HostPacket {
        let path =
            *random.pick(&[HostPath::ToHost, HostPath::FromHost, HostPath::ForwardIn, HostPath::ForwardOut]);
        let ((_, source), (_, destination)) = (self.end(random, is_v4), self.end(random, is_v4));
        let packet = packet(random, source, destination);
        let original = random.maybe(30, |random| {
            (stranger(random, is_v4), packet.destination_port.map(|_| *random.pick(&PORTS)))
        });
        HostPacket { path, packet, original }
    }
}

fn packet(random: &mut Random, source: IpAddr, destination: IpAddr) -> Packet {
    let icmp = if source.is_ipv4() { 1 } else { 58 };
    let protocol = match random.below(16) {
        0..=5 => 6,
        6..=9 => 17,
        10 | 11 => 132,
        12 | 13 => icmp,
        14 => 47,
        _ => *random.pick(&[4, 136, 255, 50]),
    };
    let has_ports = matches!(protocol, 6 | 17 | 132);
    let port = |random: &mut Random| {
        let port = *random.pick(&PORTS);
        // At the ends of ranges, and just beyond.
        match random.below(8) {
            0 => port.saturating_sub(1).max(1),
            1 => port.saturating_add(1),
            _ => port,
        }
    };
    Packet {
        source,
        destination,
        protocol,
        source_port: has_ports.then(|| port(random)),
        // Now and then VXLAN's, which pods may not send to.
        destination_port: has_ports.then(|| if random.chance(3) { 4789 } else { port(random) }),
        icmp: (protocol == icmp)
            .then(|| (*random.pick(&[0, 3, 8, 128, 129, 135, 255]), *random.pick(&[0, 1, 3]))),
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, name, is_sender, packet } => {
                let way = if *is_sender { "egress" } else { "ingress" };
                write!(f, "{way} of {namespace}/{name}: {packet:?}")
            }
            Self::Host { name, packet } => write!(f, "at host endpoint {name}: {packet:?}"),
        }
    }
}
