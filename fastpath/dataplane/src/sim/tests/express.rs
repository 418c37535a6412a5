//! The express way against the long way: two nodes see the same, one of them with its express way closed. They say the
//! same, count the same and remember the same.

use proptest::prelude::*;

use super::super::datagram::{ACK, Datagram, FIN, PSH, RST, SYN, ipip, vxlan};
use super::super::datagram6::Datagram6;
use super::super::world::{
    self, A, B, IPIP_REMOTE, NODE1, NODE2, OUTSIDE, PLAIN_REMOTE, REMOTE, TUNNEL1_MAC, TUNNEL2, TUNNEL2_MAC,
    VNI, VXLAN_PORT, VXLAN6_REMOTE, pod, v6,
};
use super::super::{Node, Output, PortName, services};
use super::support::{from_pod, from_uplink};
use crate::clock::Tick;
use crate::drop_reason::DropReason;
use crate::stage::express::PLACES;
use crate::table::Deciding;
use caracal_plane_api::Encapsulation;
use caracal_plane_api::plane::{Endpoint, Limits, Op, op::Op as Kind};
use caracal_wire::MacAddr;

const PEERS: [[u8; 4]; 11] =
    [REMOTE, REMOTE, REMOTE, IPIP_REMOTE, PLAIN_REMOTE, OUTSIDE, VXLAN6_REMOTE, services::VIP, A, B, NODE2];

/// One packet between a pod and a peer.
#[derive(Clone, Debug)]
struct Step {
    by: By,
    pod: [u8; 4],
    peer: [u8; 4],
    is_v6: bool,
    protocol: u8,
    pod_port: u16,
    flags: u8,
    tos: u8,
    outer_tos: u8,
    ttl: u8,
    payload: usize,
    oddity: Oddity,
}

/// How it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
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
enum Oddity {
    Nothing,
    HalfMadeChecksum,
    Padded(usize),
    Cut(usize),
    Changed(usize, u8),
    Part(u16),
}

#[derive(Clone, Debug)]
enum Event {
    Packets(Vec<Step>),
    Pause(u32),
    Change(u8),
}

fn oddity() -> impl Strategy<Value = Oddity> {
    prop_oneof![
        30 => Just(Oddity::Nothing),
        10 => Just(Oddity::HalfMadeChecksum),
        1 => (1usize..60).prop_map(Oddity::Padded),
        1 => (1usize..80).prop_map(Oddity::Cut),
        2 => (0usize..110, any::<u8>()).prop_map(|(at, by)| Oddity::Changed(at, by)),
        1 => prop::sample::select(vec![0x2000u16, 0x2003, 3, 0x4000]).prop_map(Oddity::Part),
    ]
}

fn step() -> impl Strategy<Value = Step> {
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
        prop::sample::select(flags),
        marks.clone(),
        marks,
        prop::sample::select(hops),
        prop::sample::select(vec![0usize, 1, 20, 100, 500, 1380, 1405, 1430]),
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

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => prop::collection::vec(step(), 1..40).prop_map(Event::Packets),
        1 => prop::sample::select(vec![1u32, 3000, 20_001, 60_001]).prop_map(Event::Pause),
        3 => any::<u8>().prop_map(Event::Change),
    ]
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
            Oddity::HalfMadeChecksum if self.protocol != 1 => packet = packet.partial(),
            Oddity::Part(word) => packet.fragment_word = word,
            _ => {}
        }
        match self.by {
            By::Pod => from_pod(&packet),
            By::Plain => from_uplink(&packet),
            By::Vxlan => self.in_vxlan(&packet.frame(TUNNEL1_MAC, TUNNEL2_MAC)),
            By::Ipip => from_uplink(&ipip(NODE2, NODE1, &packet).tos(self.outer_tos)),
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
            By::Pod => packet.frame(crate::stage::arp::GATEWAY_MAC, super::super::POD_MAC),
            By::Plain | By::Ipip => packet.frame(super::super::UPLINK_MAC, world::NEIGHBOR_MAC),
            By::Vxlan => self.in_vxlan(&packet.frame(TUNNEL1_MAC, TUNNEL2_MAC)),
        }
    }

    fn in_vxlan(&self, inner: &[u8]) -> Vec<u8> {
        from_uplink(&vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, inner).tos(self.outer_tos))
    }
}

fn first_ops() -> Vec<Op> {
    services::ops(
        &[services::service("web", &[(REMOTE, 8080)]), {
            let mut udp = services::service("dns", &[(REMOTE, 8080), (A, 8080)]);
            udp.protocol = 17;
            udp
        }],
        None,
    )
}

/// One of the things that may change under flows.
fn change(number: u8) -> Vec<Op> {
    let bit = |at: u8| number >> at & 1 != 0;
    let endpoint = |endpoint: Endpoint| vec![world::op(Kind::Endpoint(endpoint))];
    match number % 6 {
        0 => {
            let profiles = if bit(7) { vec![] } else { vec!["kns.default".into()] };
            endpoint(Endpoint { profiles, ..world::endpoint("a", A) })
        }
        1 => {
            let ways = [Encapsulation::Vxlan, Encapsulation::Ipip, Encapsulation::None, Encapsulation::Vxlan];
            vec![world::route_to_node(TUNNEL2, 24, "node2", ways[usize::from(number >> 6)])]
        }
        2 => {
            let limits = Limits { packets_per_second: u64::from(bit(7)) * 1000, ..Limits::default() };
            endpoint(Endpoint { egress_limits: Some(limits), ..world::endpoint("b", B) })
        }
        3 => {
            let mut ops = first_ops();
            if bit(7) {
                for op in &mut ops {
                    if let Some(Kind::NodeConfig(config)) = &mut op.op {
                        config.nat_outgoing = None;
                    }
                }
            }
            ops
        }
        // Another generation, and nothing that flows rest on.
        _ => vec![world::route([10, 244, number, 0], 24, world::to_node("node2", Encapsulation::Vxlan))],
    }
}

struct Pair {
    nodes: [Node; 2],
    now: u32,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(&first_ops())
    }

    fn with(ops: &[Op]) -> Pair {
        let node = || Node::new(ops, world::kernel(), 1024, 512).unwrap();
        let mut nodes = [node(), node()];
        nodes[1].engine_mut().pipeline.express.close();
        Pair { nodes, now: 1000 }
    }

    fn carried(&mut self) -> u64 {
        self.nodes[0].engine_mut().pipeline.express.carried()
    }

    /// Does it on both nodes, and sees that they agree.
    fn go_on(&mut self, event: &Event) {
        let mut said: Vec<Vec<Output>> = Vec::new();
        match event {
            Event::Pause(ms) => self.now += ms,
            Event::Change(number) => self.nodes.iter_mut().for_each(|node| {
                node.apply(&change(*number)).unwrap();
            }),
            Event::Packets(steps) => {
                for node in &mut self.nodes {
                    for step in steps {
                        assert!(node.inject(&step.port(), &step.frame()), "no room for a frame");
                    }
                    said.push(node.run(Tick(self.now)));
                }
                // One by one: a packet is long to read, and they are many.
                let (express, long) = (&said[0], &said[1]);
                for (at, (one, other)) in express.iter().zip(long).enumerate() {
                    assert_eq!(one, other, "packet {at} by the express way, and by the long way");
                }
                assert_eq!(express.len(), long.len());
            }
        }
        let [express, long] = self.nodes.each_mut().map(state);
        assert_eq!(express, long);
    }
}

/// What a node has counted, and what it knows of flows.
fn state(node: &mut Node) -> Vec<String> {
    let counters = node.counters();
    let mut state: Vec<String> =
        counters.pipeline.each().map(|(name, _, value)| format!("{name} {value}")).collect();
    state.extend(DropReason::ALL.iter().map(|r| format!("{} {}", r.label(), counters.dropped(*r))));
    state.extend(node.rule_counts(Deciding::Enforced).iter().map(|count| format!("{count:?}")));
    let flows = &node.engine_mut().pipeline.flows;
    flows.visit(0, flows.buckets(), |entry, note| state.push(format!("{entry:?} {note:?}")));
    let pool = &node.engine_mut().pool;
    state.push(format!("{} of {} frames are free", pool.free(), pool.total()));
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_do_the_same_with_any_batches_under_tables_that_change(events in prop::collection::vec(event(), 1..25)) {
        let mut pair = Pair::new();
        for event in &events {
            pair.go_on(event);
        }
    }
}

fn ordinary(by: By, peer: [u8; 4], protocol: u8) -> Step {
    Step {
        by,
        pod: A,
        peer,
        is_v6: false,
        protocol,
        pod_port: 5000,
        flags: ACK,
        tos: 0,
        outer_tos: 0,
        ttl: 64,
        payload: 20,
        oddity: Oddity::Nothing,
    }
}

/// What is sent and answered, and again: the second time the flow is known and has been answered.
#[track_caller]
fn is_carried(out: &Step, back: &Step) {
    let mut pair = Pair::new();
    for step in [out, back] {
        pair.go_on(&Event::Packets(vec![step.clone()]));
    }
    for step in [out, back] {
        let before = pair.carried();
        pair.go_on(&Event::Packets(vec![step.clone()]));
        assert_eq!(pair.carried(), before + 1, "{step:?}");
    }
}

#[test]
fn packets_of_established_flows_are_carried_through_every_kind_of_tunnel_and_none() {
    for protocol in [6, 17, 1] {
        for (by, peer) in [(By::Vxlan, REMOTE), (By::Ipip, IPIP_REMOTE), (By::Plain, PLAIN_REMOTE)] {
            is_carried(&ordinary(By::Pod, peer, protocol), &ordinary(by, peer, protocol));
        }
    }
}

#[test]
fn packets_from_one_pod_to_another_are_carried_through_both_flows() {
    let out = ordinary(By::Pod, B, 17);
    let back = Step { pod: B, peer: A, ..out.clone() };
    let mut pair = Pair::new();
    for (step, carried) in [(&out, 0), (&back, 0), (&out, 1), (&back, 2)] {
        pair.go_on(&Event::Packets(vec![step.clone()]));
        assert_eq!(pair.carried(), carried);
    }
}

#[test]
fn what_follows_a_new_beginning_in_its_batch_belongs_to_that() {
    let flags = |flags| Step { flags, ..ordinary(By::Vxlan, REMOTE, 6) };
    let mut pair = Pair::new();
    pair.go_on(&Event::Packets(vec![ordinary(By::Pod, REMOTE, 6)]));
    pair.go_on(&Event::Packets(vec![flags(RST), flags(SYN), flags(ACK)]));
    assert_eq!(pair.carried(), 0);
}

#[test]
fn after_a_large_batch_in_vain_a_few_take_the_long_way_unread_and_then_they_are_read_again() {
    let known = ordinary(By::Vxlan, REMOTE, 17);
    let resets = vec![Step { flags: RST, ..ordinary(By::Vxlan, REMOTE, 6) }; 32];
    let mut pair = Pair::new();
    pair.go_on(&Event::Packets(vec![known.clone()]));
    pair.go_on(&Event::Packets(resets));
    let carried: Vec<u64> = (0..9)
        .map(|_| {
            pair.go_on(&Event::Packets(vec![known.clone()]));
            pair.carried()
        })
        .collect();
    assert_eq!(carried, [0, 0, 0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn packets_with_half_made_checksums_and_equal_congestion_marks_are_carried() {
    let odd = |step: Step| Step { oddity: Oddity::HalfMadeChecksum, tos: 2, outer_tos: 2, ..step };
    is_carried(&odd(ordinary(By::Pod, REMOTE, 6)), &odd(ordinary(By::Vxlan, REMOTE, 6)));
}

#[test]
fn a_flow_is_carried_on_under_newer_tables_that_say_the_same_of_it() {
    let mut pair = Pair::new();
    let step = ordinary(By::Vxlan, REMOTE, 17);
    pair.go_on(&Event::Packets(vec![step.clone()]));
    pair.go_on(&Event::Change(4));
    pair.go_on(&Event::Packets(vec![step]));
    assert_eq!(pair.carried(), 1);
}

#[test]
fn ways_out_that_share_a_place_are_not_taken_for_one_another() {
    // More nodes than there are places: the packets of a batch go to two of the same place by turns.
    let (mut ops, mut pods) = (first_ops(), Vec::new());
    for node in 0..PLACES as u16 + 88 {
        let [high, low] = node.to_be_bytes();
        let (name, mac) = (format!("far{node}"), MacAddr([0x66, 7, 7, 7, high, low]));
        let (address, ends) = ([203, 0, high, low], [100, 64 + high, low, 0]);
        ops.push(world::tunnel(&name, address, v6(address), ends, mac));
        ops.push(world::route_to_node(ends, 24, &name, Encapsulation::Vxlan));
        pods.push([ends[0], ends[1], ends[2], 9]);
    }
    let mut pair = Pair::with(&ops);
    let to = |at: usize| ordinary(By::Pod, pods[at], 17);
    let batches = (0..88).step_by(8).map(|first| (first..first + 8).flat_map(|at| [to(at), to(at + PLACES)]));
    let batches: Vec<Event> = batches.map(|steps| Event::Packets(steps.collect())).collect();
    for event in batches.iter().chain(&batches) {
        pair.go_on(event);
    }
    assert_eq!(pair.carried(), 88, "one of each two");
}
