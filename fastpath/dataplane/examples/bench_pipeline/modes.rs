//! `mem/mode/MODE/…`: what each way of carrying a packet costs, out of pods and back to them.
//!
//! ```text
//!   pods' frames ──► node ──► what leaves by the uplink ── mirrored: sources ⇄ destinations ──► node ──► pods
//!        out                                                            in
//! ```
//!
//! The answers are the packets that left with source and destination exchanged in every header, so they fit whatever the
//! node made of them: tunnels, translated addresses and ports. Sums do not depend on the order of what is summed, so
//! every checksum stays right.
//!
//! * `out-established`, `in-established`: 20,000 flows of UDP that 100 pods have opened; a batch out is one pod's.
//! * `out-first`: the same flows, forgotten before: policy, service and translation are looked up and remembered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, bail};
use caracal_dataplane::sim::POD_MAC;
use caracal_dataplane::sim::datagram::Datagram;
use caracal_dataplane::sim::datagram6::Datagram6;
use caracal_plane_api as plane;
use caracal_plane_api::op::Op as Kind;
use caracal_plane_api::{Encapsulation, route::Target};
use caracal_wire::{EtherType, Protocol, ethernet, ipv4, ipv6, udp, vxlan};

use crate::bench::{BATCH, BURST, Bench};
use crate::frames::GATEWAY_MAC;
use crate::world::{
    LOCAL_BLOCK, NODE, OTHER_NODE, OUR_VTEP, PODS, THEIR_VTEP, VXLAN_PORT, node_config, octets, pod_address,
    pod_id,
};
use crate::{Random, per_packet};

const FLOWS_OF_A_POD: u32 = 200;
const FLOWS: u32 = PODS * FLOWS_OF_A_POD;
/// As long as the payload of a frame of 64 bytes over IPv4.
const PAYLOAD: [u8; 22] = [0x5a; 22];

/// Pods of the other node, behind a tunnel or not, as the mode says.
const REMOTE_BLOCK: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 0);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 0, 0);
const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 10), 80);
const BACKENDS: u32 = 16;
const FABRIC_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);

/// The ways there are.
pub const MODES: [Mode; 6] =
    [Mode::Vxlan, Mode::VxlanOverIpv6, Mode::Ipip, Mode::Plain, Mode::Service, Mode::NatOutgoing];

/// A way of carrying a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Vxlan,
    VxlanOverIpv6,
    Ipip,
    Plain,
    /// To a ClusterIP with 16 backends behind a VXLAN tunnel.
    Service,
    /// To hosts outside, with the node's address.
    NatOutgoing,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    OutEstablished,
    InEstablished,
    OutFirst,
}

/// The parts, and their names.
pub const PARTS: [(&str, Part); 3] = [
    ("out-established", Part::OutEstablished),
    ("in-established", Part::InEstablished),
    ("out-first", Part::OutFirst),
];

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Vxlan => "vxlan",
            Mode::VxlanOverIpv6 => "vxlan-v6",
            Mode::Ipip => "ipip",
            Mode::Plain => "none",
            Mode::Service => "service",
            Mode::NatOutgoing => "nat-outgoing",
        }
    }

    /// Whom flow `flow` is for.
    fn destination(self, flow: u32) -> (IpAddr, u16) {
        let v4 = |base: Ipv4Addr, host: u32| IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() + host));
        let port = 9000 + (flow % 1000) as u16;
        match self {
            Mode::Vxlan | Mode::Ipip | Mode::Plain => (v4(REMOTE_BLOCK, 2 + flow % 200), port),
            Mode::VxlanOverIpv6 => (pod_v6(2, flow % 200).into(), port),
            Mode::Service => (SERVICE.0.into(), SERVICE.1),
            Mode::NatOutgoing => (v4(OUTSIDE, 1 + flow % 50_000), port),
        }
    }

    /// Whether a frame that left is what this mode makes of a pod's: a figure for another way would be none.
    fn has_carried(self, frame: &[u8]) -> bool {
        let at = |from: usize, expected: &[u8]| frame.get(from..from + expected.len()) == Some(expected);
        let ether_type = |kind: EtherType| at(12, &kind.0.to_be_bytes());
        let (v4, v4_end) = (ethernet::HEADER_LEN, ethernet::HEADER_LEN + ipv4::HEADER_LEN);
        let to_vxlan = |udp: usize| at(udp + 2, &VXLAN_PORT.to_be_bytes());
        let source = |address: Ipv4Addr| at(v4 + 12, &address.octets());
        match self {
            Mode::Vxlan => ether_type(EtherType::IPV4) && to_vxlan(v4_end),
            Mode::VxlanOverIpv6 => ether_type(EtherType::IPV6) && to_vxlan(v4 + ipv6::HEADER_LEN),
            Mode::Ipip => ether_type(EtherType::IPV4) && at(v4 + 9, &[Protocol::IPIP.0]),
            Mode::Plain => {
                ether_type(EtherType::IPV4) && at(v4 + 16, &REMOTE_BLOCK.octets()[..3]) && !source(NODE)
            }
            Mode::Service => {
                let inner = v4_end + udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN;
                to_vxlan(v4_end) && at(inner + 16, &REMOTE_BLOCK.octets()[..3])
            }
            Mode::NatOutgoing => source(NODE) && at(v4 + 16, &OUTSIDE.octets()[..2]),
        }
    }

    fn ops(self) -> Vec<Kind> {
        let encapsulation = match self {
            Mode::Ipip => Encapsulation::Ipip,
            Mode::Plain => Encapsulation::None,
            _ => Encapsulation::Vxlan,
        };
        let remote = |over_ipv6| {
            Some(Target::Remote(plane::RemoteNode {
                node: "node2".into(),
                encapsulation: encapsulation.into(),
                over_ipv6,
            }))
        };
        let local = || Some(Target::LocalBlock(plane::LocalBlock {}));
        let prefix = |address: IpAddr, length| {
            let address = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            Some(plane::Prefix { address, length })
        };
        let pool = prefix(Ipv4Addr::new(10, 244, 0, 0).into(), 16);
        let route = |prefix, target| Kind::Route(plane::Route { prefix, target });
        let mut ops = vec![
            Kind::NodeConfig(plane::NodeConfig {
                address_v6: node_v6(NODE).octets().to_vec(),
                tunnel_address_v6: pod_v6(1, 0).octets().to_vec(),
                tunnel_mac_v6: OUR_VTEP.0.to_vec(),
                ipip_tunnel_address: octets(LOCAL_BLOCK),
                nat_outgoing: Some(plane::NatOutgoing {
                    pools: vec![plane::Pool { prefix: pool, nat_outgoing: true }],
                    ..Default::default()
                }),
                ..node_config()
            }),
            Kind::Tunnel(plane::Tunnel {
                node: "node2".into(),
                node_address: octets(OTHER_NODE),
                tunnel_address: octets(REMOTE_BLOCK),
                tunnel_mac: THEIR_VTEP.0.to_vec(),
                node_address_v6: node_v6(OTHER_NODE).octets().to_vec(),
                tunnel_address_v6: pod_v6(2, 0).octets().to_vec(),
                tunnel_mac_v6: THEIR_VTEP.0.to_vec(),
                ipip_tunnel_address: octets(REMOTE_BLOCK),
            }),
            route(prefix(REMOTE_BLOCK.into(), 24), remote(false)),
            route(prefix(pod_v6(2, 0).into(), 64), remote(true)),
            route(prefix(LOCAL_BLOCK.into(), 24), local()),
            route(prefix(pod_v6(1, 0).into(), 64), local()),
            Kind::Profile(plane::Profile {
                name: "open".into(),
                ingress: vec![allow()],
                egress: vec![allow()],
            }),
        ];
        ops.extend((0..PODS).map(|pod| {
            Kind::Endpoint(plane::Endpoint {
                id: pod_id(pod),
                interface: format!("cali{pod}"),
                addresses: vec![octets(pod_address(pod)), pod_v6(1, 2 + pod).octets().to_vec()],
                profiles: vec!["open".into()],
                ..Default::default()
            })
        }));
        if self == Mode::Service {
            let backend = |i| plane::Backend {
                address: octets(Ipv4Addr::from_bits(REMOTE_BLOCK.to_bits() + 2 + i)),
                port: 8080,
            };
            ops.push(Kind::Service(plane::Service {
                id: "bench/web:80".into(),
                protocol: Protocol::UDP.0.into(),
                frontends: vec![plane::Frontend {
                    address: octets(SERVICE.0),
                    port: SERVICE.1.into(),
                    ..Default::default()
                }],
                cluster: (0..BACKENDS).map(backend).collect(),
                ..Default::default()
            }));
        }
        ops
    }
}

fn allow() -> plane::Rule {
    plane::Rule { action: plane::Action::Allow.into(), ..Default::default() }
}

/// A pod's address in the IPv6 block of a node; host 0 is the block itself, and the node's tunnel address.
fn pod_v6(node: u16, host: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, node, 0, 0, 0, host as u16)
}

fn node_v6(node: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(FABRIC_V6.to_bits() + u128::from(node.octets()[3]))
}

/// Flows in one mode.
pub struct Carried {
    mode: Mode,
    bench: Bench,
    out: Vec<Vec<u8>>,
    back: Vec<Vec<u8>>,
    random: Random,
}

impl Carried {
    pub fn new(mode: Mode) -> anyhow::Result<Self> {
        let bench = Bench::new(mode.ops())?;
        let out = (0..FLOWS).map(|flow| frame_of(mode, flow)).collect();
        let mut carried = Carried { mode, bench, out, back: Vec::new(), random: Random(17) };
        carried.open()?;
        Ok(carried)
    }

    pub fn run(&mut self, part: Part, bursts: u32) -> anyhow::Result<f64> {
        let mut time = std::time::Duration::ZERO;
        // Every flow is a first packet once.
        let bursts = if part == Part::OutFirst { bursts.min(FLOWS / BURST as u32) } else { bursts };
        if part == Part::OutFirst {
            self.bench.forget_flows();
        }
        for burst in 0..bursts {
            let random = &mut self.random;
            time += match part {
                Part::InEstablished => {
                    let frames: Vec<&[u8]> =
                        (0..BURST).map(|_| self.back[random.below(FLOWS) as usize].as_slice()).collect();
                    self.bench.receive_inward(frames.into_iter())?
                }
                Part::OutEstablished => {
                    let groups: Vec<_> = (0..BURST / BATCH)
                        .map(|_| {
                            let pod = random.below(PODS);
                            let mut frame =
                                || self.out[(random.below(FLOWS_OF_A_POD) * PODS + pod) as usize].as_slice();
                            (pod as usize, (0..BATCH).map(|_| frame()).collect())
                        })
                        .collect();
                    self.bench.receive_outward(&groups)?
                }
                Part::OutFirst => {
                    let groups: Vec<_> = (0..BURST / BATCH)
                        .map(|group| {
                            let at = burst as usize * (BURST / BATCH) + group;
                            let (pod, first) = (at as u32 % PODS, at as u32 / PODS * BATCH as u32);
                            let frame = |i| self.out[((first + i) * PODS + pod) as usize].as_slice();
                            (pod as usize, (0..BATCH as u32).map(frame).collect())
                        })
                        .collect();
                    self.bench.receive_outward(&groups)?
                }
            };
        }
        if part == Part::OutFirst {
            self.bench.forget_flows();
            self.open()?;
        }
        Ok(per_packet(time, bursts))
    }

    /// Opens every flow, so that the other parts find them established, and keeps the answers: what the node makes of a
    /// flow may be another port each time.
    fn open(&mut self) -> anyhow::Result<()> {
        self.back.clear();
        for flows in (0..FLOWS).collect::<Vec<_>>().chunks(BURST) {
            let one = |flow: &u32| ((flow % PODS) as usize, vec![self.out[*flow as usize].as_slice()]);
            let groups: Vec<_> = flows.iter().map(one).collect();
            let mut left = Vec::with_capacity(flows.len());
            self.bench.receive_outward_seeing(&groups, |frame| left.push(frame.to_vec()))?;
            if let Some(other) = left.iter().find(|frame| !self.mode.has_carried(frame)) {
                bail!("a packet was not carried as {}: {other:02x?}", self.mode.name());
            }
            for frame in &mut left {
                exchange_ethernet(frame).context("a frame left that has headers not known here")?;
            }
            self.bench.receive_inward(left.iter().map(Vec::as_slice))?;
            self.back.extend(left);
        }
        Ok(())
    }
}

/// A packet of a flow as its pod sends it.
fn frame_of(mode: Mode, flow: u32) -> Vec<u8> {
    let pod = flow % PODS;
    let port = 20_000 + (flow / PODS) as u16;
    match mode.destination(flow) {
        (IpAddr::V4(to), to_port) => {
            Datagram::udp((pod_address(pod).octets(), port), (to.octets(), to_port), &PAYLOAD)
                .frame(GATEWAY_MAC, POD_MAC)
        }
        (IpAddr::V6(to), to_port) => {
            Datagram6::udp((pod_v6(1, 2 + pod), port), (to, to_port), &PAYLOAD).frame(GATEWAY_MAC, POD_MAC)
        }
    }
}

/// Exchanges source and destination in every header of a frame. None: a header that is not known here.
fn exchange_ethernet(frame: &mut [u8]) -> Option<()> {
    let (header, packet) = frame.split_at_mut_checked(ethernet::HEADER_LEN)?;
    exchange(header, 0, 6);
    match EtherType(u16::from_be_bytes([header[12], header[13]])) {
        EtherType::IPV4 => exchange_ipv4(packet),
        EtherType::IPV6 => {
            let (header, rest) = packet.split_at_mut_checked(ipv6::HEADER_LEN)?;
            exchange(header, 8, 16);
            exchange_transport(Protocol(header[6]), rest)
        }
        _ => None,
    }
}

fn exchange_ipv4(packet: &mut [u8]) -> Option<()> {
    let (header, rest) = packet.split_at_mut_checked(ipv4::HEADER_LEN)?;
    exchange(header, 12, 4);
    exchange_transport(Protocol(header[9]), rest)
}

fn exchange_transport(protocol: Protocol, rest: &mut [u8]) -> Option<()> {
    match protocol {
        Protocol::IPIP => exchange_ipv4(rest),
        Protocol::UDP => {
            let (header, payload) = rest.split_at_mut_checked(udp::HEADER_LEN)?;
            if u16::from_be_bytes([header[2], header[3]]) == VXLAN_PORT {
                return exchange_ethernet(payload.get_mut(vxlan::HEADER_LEN..)?);
            }
            exchange(header, 0, 2);
            Some(())
        }
        _ => None,
    }
}

/// Exchanges the `len` bytes at `at` with those that follow them.
fn exchange(header: &mut [u8], at: usize, len: usize) {
    let (first, second) = header[at..at + 2 * len].split_at_mut(len);
    first.swap_with_slice(second);
}
