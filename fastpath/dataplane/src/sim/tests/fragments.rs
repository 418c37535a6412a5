//! Datagrams in parts, and packets that are cut.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::datagram::{Datagram, SYN, ipip, vxlan};
use super::super::datagram6::Datagram6;
use super::super::world::{
    self, A, B, NODE1, NODE2, OUTSIDE, POD_MTU, REMOTE, TUNNEL1_MAC, TUNNEL2_MAC, UPLINK_MTU, VNI,
    VXLAN_PORT, op, pod,
};
use super::super::{HOST_MAC, Output, PortName};
use super::ipv6::{A6, B6, REMOTE6, from_pod6, hop, to_pod6};
use super::policy::{allow_port, deny_all, ingress};
use super::support::*;
use crate::drop_reason::DropReason;
use crate::fragment::{Limits, Tracker};
use crate::packet::{Offload, PartialChecksum};
use caracal_plane_api::plane::{self, op::Op as Kind};

/// A datagram cut before these bytes of its body, all multiples of 8.
pub fn cut(whole: &Datagram, at: &[usize]) -> Vec<Datagram> {
    let ends = at.iter().copied().chain([whole.body.len()]);
    let begins = [0].into_iter().chain(at.iter().copied());
    let parts = begins.zip(ends).map(|(begin, end)| Datagram {
        fragment_word: (begin / 8) as u16 | if end < whole.body.len() { 0x2000 } else { 0 },
        body: whole.body[begin..end].to_vec(),
        ..whole.clone()
    });
    parts.collect()
}

/// The same for IPv6.
pub fn cut6(whole: &Datagram6, identification: u32, at: &[usize]) -> Vec<Datagram6> {
    let ends = at.iter().copied().chain([whole.body.len()]);
    let begins = [0].into_iter().chain(at.iter().copied());
    let parts = begins.zip(ends).map(|(begin, end)| {
        let word = begin as u16 | u16::from(end < whole.body.len());
        let header = [&[0][..], &word.to_be_bytes(), &identification.to_be_bytes()].concat();
        Datagram6 { body: whole.body[begin..end].to_vec(), ..whole.clone() }.behind(44, &header)
    });
    parts.collect()
}

/// What parts are parts of, put together by bytes and nothing else: one body, and the header of the first.
#[track_caller]
pub fn put_together(mut parts: Vec<Datagram>) -> Datagram {
    parts.sort_by_key(|part| part.fragment_word & 0x1fff);
    let mut whole = Datagram { fragment_word: 0, body: Vec::new(), ..parts[0].clone() };
    let (last, before) = parts.split_last().unwrap();
    for part in &parts {
        assert_eq!(usize::from(part.fragment_word & 0x1fff) * 8, whole.body.len(), "a gap, or an overlap");
        let (identification, ttl) = (part.identification, part.ttl);
        assert_eq!((identification, ttl, part.tos), (whole.identification, whole.ttl, whole.tos));
        whole.body.extend(&part.body);
    }
    assert!(before.iter().all(|part| part.fragment_word & 0x2000 != 0), "more follow");
    assert_eq!(last.fragment_word & 0x2000, 0, "none follows");
    whole
}

fn udp(to: ([u8; 4], u16), len: usize) -> Datagram {
    Datagram::udp((A, 1000), to, &(0..len).map(|i| i as u8).collect::<Vec<_>>()).identified(77)
}

fn read(outputs: &[Output]) -> Vec<Datagram> {
    outputs.iter().map(|output| Datagram::read(&output.frame).expect("IPv4 that fills its frame")).collect()
}

#[test]
fn parts_are_judged_by_the_ports_of_the_first_and_go_on_as_they_came() {
    let mut world = World::new();
    world.apply(&ingress("b", vec![allow_port(17, 53)]));
    for part in cut(&udp((B, 53), 100), &[16, 48]) {
        assert_eq!(world.send(&pod("a"), &from_pod(&part)), [to_pod("b", &part.ttl(63))]);
    }
    expect_counters!(world, {"flow_created": 2, "flow_hits": 4, "delivered_local": 3});
    for part in cut(&udp((B, 54), 100).identified(78), &[16, 48]) {
        assert_eq!(world.send(&pod("a"), &from_pod(&part)), []);
    }
    assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 3)]);
}

#[test]
fn parts_that_overtake_the_first_wait_for_it_and_go_on_behind_it() {
    let mut world = World::new();
    let parts = cut(&udp((B, 53), 100), &[16, 48]);
    assert_eq!(world.send(&pod("a"), &from_pod(&parts[2])), []);
    assert_eq!(world.send(&pod("a"), &from_pod(&parts[1])), []);
    expect_counters!(world, {"fragments_held": 2});
    let outputs = world.send(&pod("a"), &from_pod(&parts[0]));
    let to_b = |part: &Datagram| to_pod("b", &part.clone().ttl(63));
    assert_eq!(outputs, [to_b(&parts[0]), to_b(&parts[1]), to_b(&parts[2])]);
    expect_counters!(world, {"flow_created": 2, "flow_hits": 4, "delivered_local": 3});
    assert_eq!(world.held(), 0);
}

#[test]
fn in_one_batch_too_the_first_part_comes_first() {
    let mut world = World::new();
    let parts = cut(&udp((REMOTE, 53), 100), &[16, 48]);
    for at in [1, 2, 0] {
        assert!(world.node.inject(&pod("a"), &from_pod(&parts[at])));
    }
    let outputs: Vec<(Datagram, u16)> = world.run().iter().map(unwrapped).collect();
    let order: Vec<u16> = outputs.iter().map(|(part, _)| part.fragment_word & 0x1fff).collect();
    assert_eq!(order[0], 0);
    assert_eq!(
        put_together(outputs.iter().map(|(part, _)| part.clone()).collect()).body,
        udp((REMOTE, 53), 100).body
    );
    let ports: BTreeSet<u16> = outputs.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports.len(), 1, "one way for all parts");
}

#[test]
fn parts_of_ipv6_are_judged_likewise_whatever_order_they_come_in() {
    let whole = Datagram6::udp((A6, 1000), (B6, 53), &[7; 100]);
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut world = World::new();
        let parts = cut6(&whole, 9, &[16, 48]);
        let mut outputs = Vec::new();
        for at in order {
            outputs.extend(world.send(&pod("a"), &from_pod6(&parts[at])));
        }
        let mut expected: Vec<Output> = parts.iter().map(|part| to_pod6("b", &hop(part))).collect();
        outputs.sort_by_key(|output| output.frame.clone());
        expected.sort_by_key(|output| output.frame.clone());
        assert_eq!(outputs, expected, "{order:?}");
        assert_eq!(world.flows(), 2);
    }
}

#[test]
fn an_ipv6_packet_with_a_fragment_header_that_is_whole_needs_nobody() {
    let mut world = World::new();
    let atomic = Datagram6::udp((A6, 1), (B6, 2), b"x").behind(44, &[0, 0, 0, 0, 0, 0, 9]);
    for _ in 0..2 {
        assert_eq!(world.send(&pod("a"), &from_pod6(&atomic)), [to_pod6("b", &hop(&atomic))]);
    }
    expect_counters!(world, {"flow_created": 2, "flow_hits": 2, "delivered_local": 2});
}

#[test]
fn the_first_part_of_ipv6_may_have_more_extension_headers_than_the_rest() {
    let mut world = World::new();
    let whole = Datagram6::udp((A6, 1000), (B6, 53), &[7; 100]).behind(60, &[0, 1, 4, 0, 0, 0, 0]);
    for part in cut6(&whole, 9, &[24]) {
        assert_eq!(world.send(&pod("a"), &from_pod6(&part)), [to_pod6("b", &hop(&part))]);
    }
    assert_eq!(world.flows(), 2);
}

#[test]
fn parts_come_out_of_tunnels_and_echo_requests_have_parts_too() {
    let mut world = World::new();
    let payload = vec![3; 64];
    let whole = Datagram::udp((REMOTE, 53), (A, 1000), &payload).identified(5);
    for part in cut(&whole, &[8, 40]).iter().rev() {
        let inner = part.frame(TUNNEL1_MAC, TUNNEL2_MAC);
        let frame = from_uplink(&vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &inner));
        assert!(world.node.inject(&PortName::Uplink, &frame));
    }
    assert_eq!(put_together(read(&world.run())).body, whole.body);
    assert_eq!(world.flows(), 1);
    let mut echo = Datagram::echo(A, B, false, 9, 1).identified(6);
    echo.body.extend([0; 60]);
    for part in cut(&echo, &[16]) {
        assert_eq!(world.send(&pod("a"), &from_pod(&part)).len(), 1);
    }
    assert_eq!(world.flows(), 3, "one flow on each side");
}

#[test]
fn what_policy_has_come_to_deny_it_denies_in_parts_too() {
    let mut world = World::new();
    let parts = cut(&udp((B, 53), 100), &[16]);
    assert_eq!(world.send(&pod("a"), &from_pod(&parts[0])).len(), 1);
    world.apply(&deny_all("b"));
    assert_eq!(world.send(&pod("a"), &from_pod(&parts[1])), []);
    assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 1)]);
}

#[test]
fn parts_from_two_pods_are_never_taken_for_one_datagram() {
    // Spoofing is found before anything is remembered.
    let mut world = World::new();
    let parts = cut(&udp((OUTSIDE, 53), 100), &[16]);
    assert_eq!(world.send(&pod("b"), &from_pod(&parts[0])), []);
    assert_eq!(world.node.drops(), [(DropReason::SpoofedSource, 1)]);
    assert_eq!(world.send(&pod("a"), &from_pod(&parts[1])), []);
    assert_eq!(world.held(), 1);
}

#[test]
fn a_part_for_the_host_goes_to_the_host_which_puts_it_together() {
    let mut world = World::new();
    let parts = cut(&Datagram::udp((OUTSIDE, 53), (NODE1, 1000), &[1; 64]).identified(3), &[16]);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&parts[1])), []);
    let outputs = world.send(&PortName::Uplink, &from_uplink(&parts[0]));
    assert_eq!(outputs, [to_host(PortName::Host, &parts[0]), to_host(PortName::Host, &parts[1])]);
}

/// Cut apart and sent in the other order.
fn backwards(whole: &Datagram, at: &[usize]) -> Vec<Datagram> {
    cut(whole, at).into_iter().rev().collect()
}

#[test]
fn parts_leave_with_the_nodes_address_and_those_of_the_answer_find_their_way_back() {
    let mut world = World::new();
    let mut ops = world::ops();
    if let Some(Kind::NodeConfig(node)) = &mut ops[0].op {
        let prefix = plane::Prefix { address: vec![10, 244, 0, 0], length: 16 };
        let pool = plane::Pool { prefix: Some(prefix), nat_outgoing: true };
        node.nat_outgoing = Some(plane::NatOutgoing { pools: vec![pool], ..Default::default() });
    }
    world.apply(&ops);
    let whole = udp((OUTSIDE, 53), 100);
    let mut outputs = Vec::new();
    for part in backwards(&whole, &[16, 48]) {
        outputs.extend(world.send(&pod("a"), &from_pod(&part)));
    }
    let asked = put_together(read(&outputs));
    assert_eq!((asked.source, asked.destination), (NODE1, OUTSIDE));
    assert!(asked.checksum_is_right());
    assert_eq!(asked.body[8..], whole.body[8..]);
    let port = u16::from_be_bytes([asked.body[0], asked.body[1]]);
    let answer = Datagram::udp((OUTSIDE, 53), (NODE1, port), &[9; 200]).identified(4711);
    let mut outputs = Vec::new();
    for part in backwards(&answer, &[8, 64]) {
        outputs.extend(world.send(&PortName::Uplink, &from_uplink(&part)));
    }
    assert!(outputs.iter().all(|output| output.port == pod("a")));
    let expected = Datagram::udp((OUTSIDE, 53), (A, 1000), &[9; 200]).identified(4711);
    assert_eq!(put_together(read(&outputs)), expected.ttl(63));
    assert_eq!((world.node.drops(), world.held()), (vec![], 0));
}

#[test]
fn a_service_is_asked_in_parts_by_pods_and_by_the_host() {
    let mut world = World::new();
    let backend = |address: [u8; 4]| plane::Backend { address: address.to_vec(), port: 53 };
    let frontend = plane::Frontend { address: vec![10, 96, 0, 10], port: 53, ..Default::default() };
    let service = plane::Service {
        id: "default/dns:53".into(),
        protocol: 17,
        frontends: vec![frontend],
        cluster: vec![backend(B)],
        ..Default::default()
    };
    world.apply(&[world::ops(), vec![op(Kind::Service(service))]].concat());
    let expected = Datagram::udp((A, 1000), (B, 53), &[5; 100]).identified(77);
    let mut outputs = Vec::new();
    for part in backwards(&Datagram::udp((A, 1000), ([10, 96, 0, 10], 53), &[5; 100]).identified(77), &[16]) {
        outputs.extend(world.send(&pod("a"), &from_pod(&part)));
    }
    assert!(outputs.iter().all(|output| output.port == pod("b")));
    assert_eq!(put_together(read(&outputs)), expected.ttl(63));
    let mut outputs = Vec::new();
    for part in backwards(&Datagram::udp((NODE1, 7), ([10, 96, 0, 10], 53), &[5; 100]).identified(78), &[16])
    {
        outputs.extend(world.send(&PortName::Host, &from_host(&part)));
    }
    assert!(outputs.iter().all(|output| output.port == pod("b")), "{outputs:?}");
    let asked = put_together(read(&outputs));
    assert_eq!((asked.source, asked.destination), (NODE1, B));
    assert!(asked.checksum_is_right());
    assert_eq!((world.node.drops(), world.held()), (vec![], 0));
}

/// What parts are dropped for.
pub fn dropped() -> BTreeSet<DropReason> {
    let parts = cut(&udp((B, 53), 100), &[16, 48]);
    let tcp = Datagram::tcp((A, 1), (B, 2), SYN, &[0; 40]).identified(1);
    let overlapping = Datagram { fragment_word: 0x2000 | 1, ..parts[1].clone() };
    let ragged = Datagram { body: parts[1].body[..20].to_vec(), ..parts[1].clone() };
    let error = Datagram::error(A, B, 3, 1, [0; 4], &Datagram::udp((B, 1), (A, 2), &[0; 40]), 60);
    let tiny6 = &cut6(&Datagram6::tcp((A6, 1), (B6, 2), SYN, &[0; 40]), 9, &[8])[0];
    let cases: &[(&str, Vec<Vec<u8>>, DropReason)] = &[
        (
            "a first part within TCP's header",
            vec![from_pod(&cut(&tcp, &[8])[0])],
            DropReason::FragmentMalformed,
        ),
        ("the same of IPv6", vec![from_pod6(tiny6)], DropReason::FragmentMalformed),
        ("a part that ends within eight bytes", vec![from_pod(&ragged)], DropReason::FragmentMalformed),
        ("the first part of an error", vec![from_pod(&cut(&error, &[48])[0])], DropReason::FragmentMalformed),
        (
            "over the first part",
            vec![from_pod(&parts[0]), from_pod(&overlapping)],
            DropReason::FragmentOverlap,
        ),
        ("twice", vec![from_pod(&parts[0]), from_pod(&parts[0])], DropReason::FragmentDuplicate),
    ];
    let mut reached = BTreeSet::new();
    for (description, frames, reason) in cases {
        let mut world = World::new();
        for frame in frames {
            world.send(&pod("a"), frame);
        }
        assert_eq!(world.node.drops(), [(*reason, 1)], "{description}");
        reached.insert(*reason);
    }
    for scene in [expired, crowded, without_frames] {
        reached.extend(scene());
    }
    reached
}

fn expired() -> BTreeSet<DropReason> {
    let mut world = World::new();
    let parts = cut(&udp((B, 53), 100), &[16]);
    assert_eq!(world.send(&pod("a"), &from_pod(&parts[1])), []);
    assert_eq!((world.held(), world.node.drops()), (1, vec![]));
    world.now += Limits::default().timeout_ms;
    assert_eq!(world.run(), []);
    assert_eq!((world.held(), world.node.drops()), (0, vec![(DropReason::FragmentExpired, 1)]));
    BTreeSet::from([DropReason::FragmentExpired])
}

fn crowded() -> BTreeSet<DropReason> {
    let mut world = World::new();
    let limits = Limits { frames: 4, ..Limits::default() };
    world.node.engine_mut().pipeline.fragments = Tracker::new(limits);
    for id in 0..5 {
        let parts = cut(&udp((B, 53), 100).identified(id), &[16]);
        assert_eq!(world.send(&pod("a"), &from_pod(&parts[1])), []);
    }
    assert_eq!((world.held(), world.node.drops()), (4, vec![(DropReason::FragmentTableFull, 1)]));
    BTreeSet::from([DropReason::FragmentTableFull])
}

fn without_frames() -> BTreeSet<DropReason> {
    let mut world = World::new();
    let long = from_pod(&udp((B, 53), usize::from(POD_MTU)));
    assert!(world.node.inject(&pod("a"), &long));
    let mut taken = Vec::new();
    while let Some(frame) = world.node.engine_mut().pool.take() {
        taken.push(frame);
    }
    let outputs = world.node.run(crate::clock::Tick(world.now));
    taken.into_iter().for_each(|frame| world.node.engine_mut().pool.put(frame));
    assert_eq!((outputs, world.node.drops()), (vec![], vec![(DropReason::NoFrame, 1)]));
    BTreeSet::from([DropReason::NoFrame])
}

#[test]
fn parts_are_dropped_for_what_is_wrong_with_them() {
    dropped();
}

#[test]
fn a_packet_that_is_too_long_for_a_link_and_may_be_cut_is_cut() {
    let mut world = World::new();
    let whole = udp((B, 53), 4000);
    let frame = from_pod(&whole);
    let segments: Vec<&[u8]> = frame.chunks(1500).collect();
    let outputs = world.send_chain(&pod("a"), &segments, Offload::default());
    assert_eq!(outputs.len(), 3);
    assert!(outputs.iter().all(|output| output.port == pod("b")));
    assert!(outputs.iter().all(|output| output.frame.len() <= 14 + usize::from(POD_MTU)));
    let pieces = read(&outputs);
    assert_eq!(put_together(pieces), whole.ttl(63));
    expect_counters!(world, {"flow_created": 2, "delivered_local": 3, "fragmented": 1, "fragments_made": 3});
}

#[test]
fn what_is_cut_is_cut_before_it_goes_into_a_tunnel() {
    let whole = udp((REMOTE, 53), usize::from(UPLINK_MTU) - 28);
    let mut world = World::new();
    let outputs = world.send(&pod("a"), &from_pod(&whole));
    let (pieces, ports): (Vec<Datagram>, BTreeSet<u16>) = outputs.iter().map(unwrapped).unzip();
    assert_eq!((pieces.len(), ports.len()), (2, 1));
    assert_eq!(outputs[0].frame.len().max(outputs[1].frame.len()), 14 + 50 + 20 + 1424, "1430, in eights");
    assert_eq!(put_together(pieces), whole.clone().ttl(63));
    expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 2, "fragmented": 1, "fragments_made": 2});

    world.apply(
        &[
            world::ops(),
            vec![world::route_to_node(world::TUNNEL2, 24, "node2", caracal_plane_api::Encapsulation::Ipip)],
        ]
        .concat(),
    );
    let outer = read(&world.send(&pod("a"), &from_pod(&whole)));
    let inner: Vec<Datagram> = outer
        .iter()
        .map(|outer| Datagram::read(&[&[0; 12][..], &[8, 0], &outer.body].concat()).unwrap())
        .collect();
    for (outer, inner) in outer.iter().zip(&inner) {
        assert_eq!(*outer, ipip(NODE1, NODE2, inner), "the outer packet is whole, and stays so");
    }
    assert_eq!(put_together(inner), whole.ttl(63));
}

#[test]
fn half_made_checksums_are_completed_before_a_packet_is_cut() {
    let mut world = World::new();
    let whole = Datagram::tcp((A, 1), (OUTSIDE, 2), SYN, &[7; 1700]).identified(9);
    let outputs = world.send(&pod("a"), &from_pod(&whole.clone().partial()));
    let together = put_together(read(&outputs));
    assert!(together.checksum_is_right());
    assert_eq!(together, whole.clone().ttl(63));
    // As a port with a virtio-net header tells it.
    let offload = Offload { gso_size: 0, checksum: Some(PartialChecksum { start: 34, offset: 16 }) };
    let frame = from_pod(&whole.clone().partial());
    let outputs = world.send_chain(&pod("a"), &[&frame], offload);
    assert_eq!(put_together(read(&outputs)), whole.ttl(63));
}

#[test]
fn a_part_that_is_too_long_is_cut_further_and_packets_to_the_host_are_cut_too() {
    let mut world = World::new();
    let whole = udp((B, 53), 1600);
    let parts = cut(&whole, &[1472]);
    let outputs: Vec<Output> = parts.iter().flat_map(|part| world.send(&pod("a"), &from_pod(part))).collect();
    assert_eq!(outputs.len(), 3);
    assert_eq!(put_together(read(&outputs)), whole.ttl(63));
    let whole = udp((NODE1, 53), 1700);
    let outputs = world.send(&pod("a"), &from_pod(&whole));
    assert!(outputs.iter().all(|o| o.port == PortName::Host && o.frame[..6] == HOST_MAC.0), "{outputs:?}");
    assert_eq!(put_together(read(&outputs)), whole.ttl(64));
}

#[test]
fn ipv6_is_never_cut() {
    let mut world = World::new();
    let long = Datagram6::udp((A6, 1), (REMOTE6, 2), &[0; 1430]);
    let outputs = world.send(&pod("a"), &from_pod6(&long));
    assert_eq!(Datagram6::read(&outputs[0].frame).unwrap().body[..2], [2, 0], "packet too big");
    assert_eq!(world.node.drops(), [(DropReason::PacketTooBig, 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_leaves_in_pieces_is_what_came_in_parts_in_any_order(
        (order, len, mtu, partial) in (1usize..6, 0usize..1800, 68u16..1600, any::<bool>()).prop_flat_map(
            |(parts, len, mtu, partial)| {
                (Just((0..parts).collect::<Vec<_>>()).prop_shuffle(), Just(len), Just(mtu), Just(partial))
            },
        ),
    ) {
        let mut kernel = world::kernel();
        kernel.pod_mtu = mtu;
        let mut world = World::with(kernel, 64);
        let whole = udp((B, 53), len);
        let step = (whole.body.len() / order.len()).next_multiple_of(8).max(8);
        let at: Vec<usize> = (1..order.len()).map(|part| part * step).filter(|at| *at < whole.body.len()).collect();
        let parts = cut(&whole, &at);
        let is_whole = parts.len() == 1;
        let mut outputs = Vec::new();
        for part in order.iter().filter_map(|at| parts.get(*at)) {
            let part = if partial && is_whole { part.clone().partial() } else { part.clone() };
            outputs.extend(world.send(&pod("a"), &from_pod(&part)));
        }
        prop_assert!(outputs.iter().all(|output| output.frame.len() <= 14 + usize::from(mtu)));
        prop_assert_eq!(put_together(read(&outputs)), whole.ttl(63));
        prop_assert_eq!(world.held(), 0);
        prop_assert_eq!(world.node.drops(), []);
    }
}
