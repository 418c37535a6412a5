//! The express way against the long way: two nodes see the same, one of them with its express way closed. They say the
//! same, count the same and remember the same.

mod any;

use proptest::prelude::*;

use self::any::{By, Oddity, Step, step};
use super::super::datagram::{ACK, RST, SYN};
use super::super::world::{self, A, B, IPIP_REMOTE, PLAIN_REMOTE, REMOTE, TUNNEL2, v6};
use super::super::{FIRST_UPLINK, Node, Output, UPLINK_IFINDEX, UPLINK_MAC, services};
use super::host_endpoints::{forward_in, host, policy};
use super::policy::allow_port;
use super::staged::staged;
use crate::clock::Tick;
use crate::drop_reason::DropReason;
use crate::pipeline::{EndpointLink, Link, Uplink};
use crate::stage::express::PLACES;
use crate::table::{Deciding, EndpointIndex};
use caracal_plane_api::Encapsulation;
use caracal_plane_api::plane::{Action, Endpoint, Limits, Op, Profile, op::Op as Kind};
use caracal_wire::MacAddr;

#[derive(Clone, Debug)]
enum Event {
    Packets(Vec<Step>),
    Pause(u32),
    Change(u8),
    Link(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => prop::collection::vec(step(), 1..40).prop_map(Event::Packets),
        1 => prop::sample::select(vec![1u32, 3000, 20_001, 60_001]).prop_map(Event::Pause),
        3 => any::<u8>().prop_map(Event::Change),
        1 => any::<u8>().prop_map(Event::Link),
    ]
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
    match number % 12 {
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
        4 => match bit(7) {
            true => vec![world::op(Kind::EndpointRemove("default/b".into()))],
            false => endpoint(world::endpoint("b", B)),
        },
        5 => staged(vec![allow_port(6, 8080)]),
        6 => {
            let rules = if bit(7) {
                vec![allow_port(6, 80)]
            } else {
                vec![world::rule(Action::Log), world::rule(Action::Allow)]
            };
            let (web, tier) = policy("web", rules);
            vec![web, host("h", "uplink0", forward_in(&tier))]
        }
        7 => vec![world::op(Kind::HostEndpointRemove("h".into()))],
        8 => {
            let allow = world::rule(Action::Allow);
            let of = |ports: &[u32]| ports.iter().map(|port| allow_port(6, *port)).collect::<Vec<_>>();
            let ingress =
                if bit(7) { of(&[5000, 80]) } else { vec![world::rule(Action::Log), allow.clone()] };
            let profile = Profile { name: "kns.default".into(), ingress, egress: vec![allow] };
            vec![world::op(Kind::Profile(profile))]
        }
        9 => {
            let mut ops = first_ops();
            ops.retain(|op| matches!(op.op, Some(Kind::NodeConfig(_))));
            for op in &mut ops {
                if let Some(Kind::NodeConfig(config)) = &mut op.op {
                    config.keep_established = bit(7);
                    config.vxlan_port = if bit(6) { 4789 } else { 5001 };
                }
            }
            ops
        }
        // Another generation, and nothing that flows rest on.
        _ => vec![world::route([10, 244, number, 0], 24, world::to_node("node2", Encapsulation::Vxlan))],
    }
}

/// One of the things that may happen to links.
fn change_link(node: &mut Node, number: u8) {
    let bit = |at: u8| number >> at & 1 != 0;
    let mtu = if bit(6) { 1450 } else { 900 };
    let engine = node.engine_mut();
    match number % 3 {
        0 => {
            let link = Link { mac: UPLINK_MAC, mtu };
            let uplink = Uplink { ifindex: UPLINK_IFINDEX, link };
            engine.set_uplink(FIRST_UPLINK, Some(uplink).filter(|_| !bit(7)));
        }
        // Pod b's.
        _ => {
            let pod_mac = (!bit(7)).then_some(MacAddr([2, 0, 0, 0, 3, number & 1]));
            if let Some(link) = engine.pipeline.links.endpoint_mut(EndpointIndex(1)) {
                *link = EndpointLink { pod_mac, mtu };
            }
        }
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
            Event::Link(number) => self.nodes.iter_mut().for_each(|node| change_link(node, *number)),
            Event::Packets(steps) => {
                for node in &mut self.nodes {
                    steps.iter().for_each(|step| step.inject(node));
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
    for deciding in [Deciding::Enforced, Deciding::Staged] {
        state.extend(node.rule_counts(deciding).iter().map(|count| format!("{deciding:?} {count:?}")));
    }
    for endpoint in (0..3).map(EndpointIndex) {
        let flows = &node.engine_mut().pipeline.flows;
        let connections = [false, true].map(|out| flows.connections(endpoint, out));
        state.push(format!("{endpoint:?} has {connections:?}"));
    }
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
fn a_packet_as_long_as_its_way_out_allows_is_carried_and_a_longer_one_is_not() {
    const HEADERS: usize = 28;
    for (peer, mtu) in [(REMOTE, 1450), (IPIP_REMOTE, 1480), (PLAIN_REMOTE, 1500), (B, 1450)] {
        let of = |payload| Step { payload, ..ordinary(By::Pod, peer, 17) };
        let mut pair = Pair::new();
        for (payload, carried) in [(20, 0), (mtu - HEADERS, 1), (mtu - HEADERS + 1, 1)] {
            pair.go_on(&Event::Packets(vec![of(payload)]));
            assert_eq!(pair.carried(), carried, "{payload} bytes to {peer:?}");
        }
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
