//! The pods among the ports, and which kind of port a pod has.
//!
//! ```text
//!              bulk TCP, for two seconds
//!   AF_XDP ──────────────────────────────► packet socket      the guard is on before the pod program goes; the new port is
//!     ▲                                        │              there before packets come by it, the old one as long as it
//!     └────────────────────────────────────────┘              has any
//!         many small packets, for three seconds
//! ```
//!
//! AF_XDP is the port of a pod that has said nothing: it is best for small packets, and knows no worst case. A packet socket carries super-frames,
//! which is worth it where there are any. See docs/decisions/0020-bulk-tcp.md.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caracal_xsk::packet_socket::PacketSocket;
use caracal_xsk::xdp;
use tracing::{info, warn};

use super::{KernelLink, LivePort, Missing, Plan, PortError, Ports, rings};
use crate::counters::PortCounters;
use crate::pipeline::EndpointLink;
use crate::port::{PacketSocketPort, Port, XskPort};
use crate::table::{Endpoint, EndpointIndex, PodPort};
use crate::worker::Role;
use crate::worker::thread::Command;

/// What a pod's port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    AfXdp,
    Packet,
}

/// A pod's port.
pub(super) struct LivePod {
    pub endpoint: Arc<Endpoint>,
    pub port: LivePort,
    /// Why it is what it is, for people.
    pub why: String,
    /// Somebody has said what it shall be.
    is_told: bool,
    kind: Kind,
    traffic: Traffic,
    /// The last attempt to change it came to nothing.
    has_failed: bool,
}

/// How often the traffic of pods is looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// How long a port stays what it is after a change, at least.
const SETTLED: Duration = Duration::from_secs(10);

impl Ports {
    pub(super) fn follow_pods(&mut self, plan: &Plan) {
        let by_name: BTreeMap<&str, &KernelLink> =
            plan.links.iter().map(|link| (link.name.as_str(), link)).collect();
        let wanted: BTreeMap<EndpointIndex, &Arc<Endpoint>> =
            plan.endpoints.iter().map(|(i, e)| (*i, e)).collect();
        let stale: Vec<EndpointIndex> = self
            .pods
            .iter()
            .filter(|(index, pod)| {
                !wanted.contains_key(index)
                    || by_name.get(&*pod.endpoint.interface).is_none_or(|link| link.index != pod.port.ifindex)
            })
            .map(|(index, _)| *index)
            .collect();
        for index in stale {
            if let Some(pod) = self.pods.remove(&index) {
                info!(endpoint = %pod.endpoint.id, "pod port detached");
                self.close(pod.port);
            }
        }
        for (index, pod) in &mut self.pods {
            pod.endpoint = Arc::clone(wanted[index]);
        }
        let fresh: Vec<_> = wanted.into_iter().filter(|(index, _)| !self.pods.contains_key(index)).collect();
        if !fresh.is_empty() {
            self.set_fill_targets(self.pods.len() + fresh.len(), &self.uplink_queues());
        }
        for (index, endpoint) in fresh {
            let link = by_name.get(&*endpoint.interface).copied();
            match self.open_pod(index, endpoint, link) {
                Ok(pod) => {
                    info!(endpoint = %endpoint.id, interface = %endpoint.interface, "pod port attached: {}", pod.port.io);
                    self.pods.insert(index, pod);
                }
                Err(error) => {
                    let missing = Missing { kind: "pod", problem: error.to_string() };
                    self.missing.insert(endpoint.interface.to_string(), missing);
                }
            }
        }
        for (index, pod) in &mut self.pods {
            let Some(link) = by_name.get(&*pod.endpoint.interface) else { continue };
            if link.mtu != pod.port.mtu {
                pod.port.mtu = link.mtu;
                let changed = EndpointLink { pod_mac: None, mtu: link.mtu };
                self.workers[pod.port.worker].tell(Command::EndpointLink(*index, changed));
            }
        }
        self.follow_choices(plan.links);
    }

    /// What a pod's port should be: what the pod says, else what the node does.
    fn choice(&self, endpoint: &Endpoint) -> PodPort {
        match endpoint.port {
            PodPort::Auto => self.config.pod_port,
            said => said,
        }
    }

    fn open_pod(
        &mut self,
        index: EndpointIndex,
        endpoint: &Arc<Endpoint>,
        link: Option<&KernelLink>,
    ) -> Result<LivePod, PortError> {
        let link = link.ok_or_else(|| PortError::NoLink(endpoint.interface.to_string()))?;
        self.check_link(link)?;
        let choice = self.choice(endpoint);
        let kind = if choice == PodPort::Packet { Kind::Packet } else { Kind::AfXdp };
        let port = self.open_kind(index, endpoint, link, kind, Arc::default())?;
        let is_told = choice != PodPort::Auto;
        let why = if is_told { self.configured(endpoint) } else { String::new() };
        let traffic = Traffic::new(&port.counters);
        Ok(LivePod { endpoint: Arc::clone(endpoint), port, why, is_told, kind, traffic, has_failed: false })
    }

    fn configured(&self, endpoint: &Endpoint) -> String {
        match endpoint.port {
            PodPort::Auto => "--pod-port".into(),
            _ => "the pod's annotation".into(),
        }
    }

    /// Makes a port and gives it to its worker. What the pod sends comes by it from then on; one that the pod had before is still there.
    fn open_kind(
        &mut self,
        index: EndpointIndex,
        endpoint: &Endpoint,
        link: &KernelLink,
        kind: Kind,
        counters: Arc<PortCounters>,
    ) -> Result<LivePort, PortError> {
        let worker = usize::from(endpoint.worker);
        let bpf_dir = self.config.bpf_dir.clone();
        let role = Role::Endpoint(index);
        let live = match kind {
            Kind::AfXdp => {
                let socket = self.bind(worker, link.index, 0, rings(self.config.pod_ring))?;
                let place = |map: &mut xdp::pod::PodMap| map.set_socket(0, &socket);
                xdp::pod::put_back(&bpf_dir, &link.name, link.index, place)?;
                let completes = self.workers[worker].domain.checksum_offload();
                let port = Port::Xsk(XskPort::new(socket, completes, 0));
                self.add_counting(worker, port, role, link, counters)?
            }
            Kind::Packet => {
                // Before there is a packet for it: it gets none while the pod program is there.
                let socket = PacketSocket::open(link.index)?;
                let port = self.add_counting(
                    worker,
                    Port::PacketSocket(PacketSocketPort::new(socket)),
                    role,
                    link,
                    counters,
                )?;
                if let Err(error) = xdp::pod::set_aside(&bpf_dir, &link.name, link.index) {
                    self.close(port);
                    return Err(error.into());
                }
                port
            }
        };
        let unknown = EndpointLink { pod_mac: None, mtu: link.mtu };
        self.workers[worker].tell(Command::EndpointLink(index, unknown));
        Ok(live)
    }

    /// Looks at what pods move, and gives those of which that is to be decided the port that is best for it.
    pub fn look_at_traffic(&mut self, links: &[KernelLink]) {
        for pod in self.pods.values_mut() {
            pod.traffic.look(&pod.port.counters);
        }
        self.follow_choices(links);
    }

    /// Changes the ports of pods that should have another kind.
    fn follow_choices(&mut self, links: &[KernelLink]) {
        let node = self.config.pod_port;
        for pod in self.pods.values_mut() {
            let is_told = node != PodPort::Auto || pod.endpoint.port != PodPort::Auto;
            if std::mem::replace(&mut pod.is_told, is_told) && !is_told {
                // It stays what it is until its traffic asks for another: a change costs packets.
                pod.why = "as the pod's annotation had it, which is gone".into();
            }
        }
        let now = Instant::now();
        let mut changes = Vec::new();
        for (index, pod) in &self.pods {
            let (kind, why) = match self.choice(&pod.endpoint) {
                PodPort::AfXdp => (Kind::AfXdp, self.configured(&pod.endpoint)),
                PodPort::Packet => (Kind::Packet, self.configured(&pod.endpoint)),
                PodPort::Auto => match pod.traffic.asks_for(pod.kind, now) {
                    Some((kind, why)) => (kind, why),
                    None => continue,
                },
            };
            // One that could not be made is not tried all the time.
            let has_failed = pod.has_failed && pod.traffic.is_settling(now);
            if kind != pod.kind && !has_failed {
                changes.push((*index, kind, why));
            }
        }
        for (index, kind, why) in changes {
            self.change(index, kind, why, links);
        }
    }

    fn change(&mut self, index: EndpointIndex, kind: Kind, why: String, links: &[KernelLink]) {
        let Some(mut pod) = self.pods.remove(&index) else { return };
        let endpoint = Arc::clone(&pod.endpoint);
        let link = links.iter().find(|link| link.index == pod.port.ifindex);
        let opened = link
            .ok_or_else(|| PortError::NoLink(endpoint.interface.to_string()))
            .and_then(|link| self.open_kind(index, &endpoint, link, kind, Arc::clone(&pod.port.counters)));
        pod.has_failed = opened.is_err();
        match opened {
            Ok(port) => {
                info!(endpoint = %endpoint.id, "pod port changed from {} to {}: {why}", pod.port.io, port.io);
                // What the old one has received is read before it goes: the worker looks at its ports many times in this while.
                std::thread::sleep(DRAIN);
                let old = std::mem::replace(&mut pod.port, port);
                self.close(old);
                (pod.kind, pod.why) = (kind, why);
            }
            Err(error) => {
                let why = format!("it would have another if that could be made: {error}");
                if pod.why != why {
                    warn!(endpoint = %endpoint.id, "pod port stays {}: {error}", pod.port.io);
                }
                pod.why = why;
            }
        }
        pod.traffic = Traffic::new(&pod.port.counters);
        pod.traffic.changed_at = Some(Instant::now());
        self.pods.insert(index, pod);
    }
}

/// How long a port that has been replaced is still read.
const DRAIN: Duration = Duration::from_millis(2);

/// What a pod has moved lately.
#[derive(Debug)]
struct Traffic {
    before: Totals,
    /// Looks in a row that saw bulk TCP …
    bulk: u32,
    /// … and many small packets.
    small: u32,
    /// The last look, for people.
    last: String,
    changed_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    /// Packets and bytes: from the pod, and to it.
    received: (u64, u64),
    sent: (u64, u64),
    batches: u64,
    tcp_batches: u64,
}

/// Bytes in a second from which on a pod's traffic is bulk: 200 Mbit/s.
const BULK_BYTES: u64 = 25_000_000;
/// Mean length of packets from which on it is.
const BULK_LEN: u64 = 1000;
/// Looks in a row.
const BULK_LOOKS: u32 = 2;
/// Packets in a second from which on it matters how much each costs …
const SMALL_PACKETS: u64 = 20_000;
/// … and how long they are at most, on average.
const SMALL_LEN: u64 = 500;
/// Looks in a row.
const SMALL_LOOKS: u32 = 3;

impl Traffic {
    fn new(counters: &PortCounters) -> Self {
        Traffic { before: Totals::of(counters), bulk: 0, small: 0, last: String::new(), changed_at: None }
    }

    /// Takes note of what has been moved since the last look, a second ago.
    fn look(&mut self, counters: &PortCounters) {
        let totals = Totals::of(counters);
        let Totals { received, sent, batches, tcp_batches } = totals.since(&self.before);
        self.before = totals;
        let (packets, bytes) = if received.1 > sent.1 { received } else { sent };
        let len = bytes / packets.max(1);
        let is_tcp = tcp_batches * 4 >= batches * 3 && batches > 0;
        let is_bulk = is_tcp && len >= BULK_LEN && bytes >= BULK_BYTES;
        let is_small = len <= SMALL_LEN && received.0 + sent.0 >= SMALL_PACKETS;
        self.bulk = if is_bulk { self.bulk + 1 } else { 0 };
        self.small = if is_small { self.small + 1 } else { 0 };
        if is_bulk {
            self.last = format!("bulk TCP: {} Mbit/s", bytes / 125_000);
        } else if is_small {
            self.last = format!("small packets: {}/s", received.0 + sent.0);
        }
    }

    /// Whether the last change, or attempt, is not long ago.
    fn is_settling(&self, now: Instant) -> bool {
        self.changed_at.is_some_and(|at| now.duration_since(at) < SETTLED)
    }

    /// Another kind of port, if the traffic of the last looks is for it, and why.
    fn asks_for(&self, kind: Kind, now: Instant) -> Option<(Kind, String)> {
        if self.is_settling(now) {
            return None;
        }
        match kind {
            Kind::AfXdp if self.bulk >= BULK_LOOKS => Some((Kind::Packet, self.last.clone())),
            Kind::Packet if self.small >= SMALL_LOOKS => Some((Kind::AfXdp, self.last.clone())),
            _ => None,
        }
    }
}

impl Totals {
    fn of(counters: &PortCounters) -> Self {
        Totals {
            received: (counters.received_packets.get(), counters.received_bytes.get()),
            sent: (counters.sent_packets.get(), counters.sent_bytes.get()),
            batches: counters.batches.get(),
            tcp_batches: counters.tcp_batches.get(),
        }
    }

    fn since(&self, before: &Totals) -> Totals {
        let pair = |now: (u64, u64), before: (u64, u64)| (now.0 - before.0, now.1 - before.1);
        Totals {
            received: pair(self.received, before.received),
            sent: pair(self.sent, before.sent),
            batches: self.batches - before.batches,
            tcp_batches: self.tcp_batches - before.tcp_batches,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a port has counted after a second of so many packets of such a length from the pod, as batches of TCP or not.
    fn second(traffic: &mut Traffic, counters: &PortCounters, packets: u64, len: u64, is_tcp: bool) {
        counters.received_packets.add(packets);
        counters.received_bytes.add(packets * len);
        counters.sent_packets.add(packets);
        counters.sent_bytes.add(packets * 66);
        counters.batches.add(packets / 10);
        counters.tcp_batches.add(if is_tcp { packets / 10 } else { 0 });
        traffic.look(counters);
    }

    #[test]
    fn bulk_tcp_that_goes_on_asks_for_a_packet_socket() {
        let counters = PortCounters::default();
        let now = Instant::now();
        for (packets, len, is_tcp, is_bulk) in [
            (30_000, 1448, true, true),
            (1_000, 60_000, true, true),
            (30_000, 1448, false, false),
            (10_000, 1448, true, false),
            (200_000, 200, true, false),
        ] {
            let mut traffic = Traffic::new(&counters);
            second(&mut traffic, &counters, packets, len, is_tcp);
            assert_eq!(traffic.asks_for(Kind::AfXdp, now), None, "a second is not enough");
            second(&mut traffic, &counters, packets, len, is_tcp);
            let asked = traffic.asks_for(Kind::AfXdp, now);
            assert_eq!(
                asked.as_ref().map(|(kind, _)| *kind),
                is_bulk.then_some(Kind::Packet),
                "{packets} of {len}"
            );
            assert_eq!(traffic.asks_for(Kind::Packet, now), None, "one that has it keeps it");
            if let Some((_, why)) = asked {
                assert!(why.contains("bulk TCP"), "{why}");
                traffic.changed_at = Some(now);
                assert_eq!(
                    traffic.asks_for(Kind::AfXdp, now + SETTLED / 2),
                    None,
                    "not so soon after a change"
                );
                assert!(traffic.asks_for(Kind::AfXdp, now + SETTLED).is_some());
            }
        }
    }

    #[test]
    fn a_second_without_bulk_begins_the_count_anew() {
        let counters = PortCounters::default();
        let mut traffic = Traffic::new(&counters);
        for is_bulk in [true, false, true] {
            second(&mut traffic, &counters, if is_bulk { 30_000 } else { 10 }, 1448, true);
            assert_eq!(traffic.asks_for(Kind::AfXdp, Instant::now()), None);
        }
    }

    #[test]
    fn many_small_packets_ask_for_af_xdp_and_silence_for_nothing() {
        let counters = PortCounters::default();
        let now = Instant::now();
        for (packets, len, is_asked) in
            [(15_000, 64, true), (5_000, 64, false), (30_000, 1400, false), (0, 0, false)]
        {
            let mut traffic = Traffic::new(&counters);
            for _ in 0..SMALL_LOOKS - 1 {
                second(&mut traffic, &counters, packets, len, false);
                assert_eq!(traffic.asks_for(Kind::Packet, now), None);
            }
            second(&mut traffic, &counters, packets, len, false);
            let kind = traffic.asks_for(Kind::Packet, now).map(|(kind, _)| kind);
            assert_eq!(kind, is_asked.then_some(Kind::AfXdp), "{packets} of {len}");
        }
    }
}
