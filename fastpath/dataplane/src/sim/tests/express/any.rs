//! Any packets between a few pods and peers: ordinary ones, and all kinds of odd ones.

use proptest::prelude::*;

use super::super::super::datagram::{ACK, Datagram, FIN, PSH, RST, SYN, checksum, vxlan};
use super::super::super::datagram6::Datagram6;
use super::super::super::world::{
    self, A, B, IPIP_REMOTE, NODE1, NODE2, OUTSIDE, PLAIN_REMOTE, REMOTE, TUNNEL1_MAC, TUNNEL2_MAC, VNI,
    VXLAN_PORT, VXLAN6_REMOTE, pod, v6,
};
use super::super::super::{Node, POD_MAC, PortName, UPLINK_MAC, services};
use super::super::support::{from_pod, from_uplink};
use crate::packet::{Offload, Packet, PartialChecksum};
use crate::port::HEADROOM;
use crate::stage::arp::GATEWAY_MAC;

const PEERS: [[u8; 4]; 11] =
    [REMOTE, REMOTE, REMOTE, IPIP_REMOTE, PLAIN_REMOTE, OUTSIDE, VXLAN6_REMOTE, services::VIP, A, B, NODE2];

/// One packet between a pod and a peer.
#[derive(Clone, Debug)]
pub struct Step {
    pub by: By,
    pub pod: [u8; 4],
    pub peer: [u8; 4],
    pub is_v6: bool,
    pub protocol: u8,
    pub pod_port: u16,
    pub flags: u8,
    pub tos: u8,
    pub outer_tos: u8,
    pub ttl: u8,
    pub payload: usize,
    pub oddity: Oddity,
}

/// How it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum By {
    Pod,
    Vxlan,
    Ipip,
    Plain,
}

/// How a peer's packets come.
fn natural(peer: [u8; 4]) -> By {
    match peer {
        IPIP_REMOTE => By::Ipip,
        PLAIN_REMOTE | OUTSIDE | NODE2 => By::Plain,
        _ => By::Vxlan,
    }
}

/// What is not ordinary about it.
#[derive(Clone, Copy, Debug)]
pub enum Oddity {
    Nothing,
    HalfMadeChecksum,
    Padded(usize),
    Cut(usize),
    Changed(usize, u8),
    /// The same in the outermost IPv4 header, with its checksum right, …
    Outside(usize, u8),
    /// … and in the innermost.
    Inside(usize, u8),
    /// In two segments.
    Chained(usize),
    SuperFrame(u16),
    /// The port says where the checksum is to be made.
    Told,
    /// An ICMP error about a packet the other way.
    Error,
    Part(u16),
}

fn oddity() -> impl Strategy<Value = Oddity> {
    prop_oneof![
        30 => Just(Oddity::Nothing),
        10 => Just(Oddity::HalfMadeChecksum),
        1 => (1usize..60).prop_map(Oddity::Padded),
        1 => (1usize..80).prop_map(Oddity::Cut),
        3 => (0usize..110, any::<u8>()).prop_map(|(at, by)| Oddity::Changed(at, by)),
        2 => (0usize..20, any::<u8>()).prop_map(|(at, by)| Oddity::Outside(at, by)),
        2 => (0usize..20, any::<u8>()).prop_map(|(at, by)| Oddity::Inside(at, by)),
        1 => (60usize..200).prop_map(Oddity::Chained),
        1 => prop::sample::select(vec![20u16, 500]).prop_map(Oddity::SuperFrame),
        1 => Just(Oddity::Told),
        1 => Just(Oddity::Error),
        1 => prop::sample::select(vec![0x2000u16, 0x2003, 3, 0x4000]).prop_map(Oddity::Part),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let ways = [By::Vxlan, By::Ipip, By::Plain];
    let by = prop_oneof![
        4 => Just(Some(By::Pod)),
        4 => Just(None),
        1 => prop::sample::select(ways.to_vec()).prop_map(Some),
    ];
    let mut flags = vec![ACK | PSH; 12];
    flags.extend([ACK, SYN, SYN | ACK, FIN | ACK, RST]);
    let mut hops = vec![64u8; 20];
    hops.extend([2, 1, 0]);
    let marks = prop::sample::select(vec![0u8, 0, 0, 0, 0, 0xb8, 1, 2, 3]);
    let who = (
        prop::sample::select(vec![A, A, B]),
        prop::sample::select(PEERS.to_vec()),
        prop::bool::weighted(0.1),
        prop::sample::select(vec![6u8, 6, 6, 17, 17, 17, 1, 132]),
        5000u16..5002,
    );
    let how = (
        prop_oneof![20 => prop::sample::select(flags), 1 => any::<u8>()],
        marks.clone(),
        marks,
        prop::sample::select(hops),
        prop::sample::select(vec![0usize, 1, 20, 100, 500, 1380, 1410, 1411, 1430]),
        oddity(),
    );
    (by, who, how).prop_map(
        |(by, (pod, peer, is_v6, protocol, pod_port), (flags, tos, outer_tos, ttl, payload, oddity))| Step {
            by: by.unwrap_or(natural(peer)),
            pod,
            peer,
            is_v6,
            protocol,
            pod_port,
            flags,
            tos,
            outer_tos,
            ttl,
            payload,
            oddity,
        },
    )
}

impl Step {
    fn port(&self) -> PortName {
        match self.by {
            By::Pod if self.pod == A => pod("a"),
            By::Pod => pod("b"),
            _ => PortName::Uplink,
        }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = if self.is_v6 { self.frame_v6() } else { self.frame_v4() };
        match self.oddity {
            Oddity::Padded(by) => frame.resize(frame.len() + by, 0xaa),
            Oddity::Cut(by) => frame.truncate(frame.len().saturating_sub(by).max(1)),
            Oddity::Changed(at, by) => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= by;
                }
            }
            Oddity::Outside(at, by) => change_header(&mut frame, at, by),
            _ => {}
        }
        frame
    }

    fn ports(&self) -> ((u16, u16), bool) {
        let out = self.by == By::Pod;
        // Some sides of services, which the pods' peers are backends of.
        let peer = if [A, B].contains(&self.peer) {
            self.pod_port
        } else if self.peer == REMOTE && self.pod_port == 5001 {
            8080
        } else {
            services::VIP_PORT
        };
        if out { ((self.pod_port, peer), out) } else { ((peer, self.pod_port), out) }
    }

    fn frame_v4(&self) -> Vec<u8> {
        let (ports, out) = self.ports();
        let (from, to) = if out { (self.pod, self.peer) } else { (self.peer, self.pod) };
        let (payload, from_port, to_port) = (vec![0x5a; self.payload], (from, ports.0), (to, ports.1));
        let mut packet = match self.protocol {
            6 => Datagram::tcp(from_port, to_port, self.flags, &payload),
            17 => Datagram::udp(from_port, to_port, &payload),
            1 => Datagram::echo(from, to, !out, self.pod_port, 1),
            _ => Datagram::sctp(from_port, to_port),
        };
        packet = packet.ttl(self.ttl).tos(self.tos);
        match self.oddity {
            Oddity::HalfMadeChecksum | Oddity::Told | Oddity::SuperFrame(_)
                if matches!(self.protocol, 6 | 17) =>
            {
                packet = packet.partial();
            }
            Oddity::Part(word) => packet.fragment_word = word,
            Oddity::Error => {
                let about = match self.protocol {
                    6 => Datagram::tcp(to_port, from_port, ACK, &payload),
                    _ => Datagram::udp(to_port, from_port, &payload),
                };
                packet = Datagram::error(from, to, 3, 3, [0; 4], &about, 28);
            }
            _ => {}
        }
        match self.by {
            By::Pod => self.inside(from_pod(&packet)),
            By::Plain => self.inside(from_uplink(&packet)),
            By::Vxlan => self.in_vxlan(&self.inside(packet.frame(TUNNEL1_MAC, TUNNEL2_MAC))),
            By::Ipip => {
                let inner = self.inside(packet.frame(TUNNEL1_MAC, TUNNEL2_MAC));
                from_uplink(&Datagram::new(NODE2, NODE1, 4, &inner[14..]).dont_fragment().tos(self.outer_tos))
            }
        }
    }

    fn frame_v6(&self) -> Vec<u8> {
        let (ports, out) = self.ports();
        let (pod, peer) = (v6(self.pod), v6(self.peer));
        let (from, to) = if out { (pod, peer) } else { (peer, pod) };
        let (payload, from_port, to_port) = (vec![0x5a; self.payload], (from, ports.0), (to, ports.1));
        let mut packet = match self.protocol {
            6 => Datagram6::tcp(from_port, to_port, self.flags, &payload),
            17 => Datagram6::udp(from_port, to_port, &payload),
            1 => Datagram6::echo(from, to, !out, self.pod_port, 1),
            _ => Datagram6::sctp(from_port, to_port),
        };
        packet = packet.hop_limit(self.ttl).class(self.tos);
        if matches!(self.oddity, Oddity::HalfMadeChecksum) && self.protocol != 1 {
            packet = packet.partial();
        }
        match self.by {
            By::Pod => packet.frame(GATEWAY_MAC, POD_MAC),
            By::Plain | By::Ipip => packet.frame(UPLINK_MAC, world::NEIGHBOR_MAC),
            By::Vxlan => self.in_vxlan(&packet.frame(TUNNEL1_MAC, TUNNEL2_MAC)),
        }
    }

    fn inside(&self, mut frame: Vec<u8>) -> Vec<u8> {
        if let Oddity::Inside(at, by) = self.oddity {
            change_header(&mut frame, at, by);
        }
        frame
    }

    /// Puts it where the node will receive it, if there is such a link.
    pub fn inject(&self, node: &mut Node) {
        let frame = self.frame();
        if node.port_mut(&self.port()).is_none() {
            return;
        }
        let cut = match self.oddity {
            Oddity::Chained(at) => at.min(frame.len()),
            _ => frame.len(),
        };
        let (first, second) = frame.split_at(cut);
        let pool = &mut node.engine_mut().pool;
        let mut segments = [first, second].into_iter().filter(|bytes| !bytes.is_empty()).map(|bytes| {
            let mut frame = pool.take().unwrap();
            frame.reset(HEADROOM);
            frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
            frame
        });
        let mut packet = Packet::new(segments.next().unwrap());
        packet.rest = segments.next().map(|second| Box::new(vec![second]));
        let l4 = if self.is_v6 { 54 } else { 34 };
        let offset = if self.protocol == 6 { 16 } else { 6 };
        let checksum = Some(PartialChecksum { start: l4, offset });
        // What ports say of: frames of pods, and of the fabric without a tunnel.
        let may_tell = matches!(self.by, By::Pod | By::Plain) && matches!(self.protocol, 6 | 17);
        match self.oddity {
            Oddity::Told if may_tell => packet.offload.checksum = checksum,
            Oddity::SuperFrame(gso_size) if may_tell && self.payload > usize::from(gso_size) => {
                packet.offload = Offload { gso_size, checksum };
            }
            _ => {}
        }
        node.port_mut(&self.port()).unwrap().inject(packet);
    }

    fn in_vxlan(&self, inner: &[u8]) -> Vec<u8> {
        from_uplink(&vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, inner).tos(self.outer_tos))
    }
}

/// Changes a byte of a frame's first IPv4 header, and makes its checksum right.
fn change_header(frame: &mut [u8], at: usize, by: u8) {
    if let Some(header) = frame.get_mut(14..34) {
        header[at] ^= by;
        header[10..12].fill(0);
        let sum = checksum(header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
}
