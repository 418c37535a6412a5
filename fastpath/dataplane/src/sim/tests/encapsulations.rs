//! Every way to another node: VXLAN over both families, IPIP, and none.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::super::datagram::{ACK, Datagram, SYN, ipip, vxlan};
use super::super::datagram6::{Datagram6, vxlan6};
use super::super::world::{
    self, A, B, NEIGHBOR_MAC, NODE1, NODE1_6, NODE2, NODE2_6, NODE3, OUTSIDE, PLAIN_REMOTE, REMOTE,
    TUNNEL1_MAC, TUNNEL2, TUNNEL2_MAC, UPLINK_MTU, VNI, VXLAN_PORT, op, pod, route, route6, vtep_v6,
};
use super::super::{Output, PortName, UPLINK_MAC};
use super::ipv6::{A6, REMOTE6, from_pod6, from_uplink6, hop, to_pod6, to_uplink6};
use super::support::*;
use crate::drop_reason::DropReason;
use crate::stage::nd;
use caracal_plane_api::plane::{self, Encapsulation, Op, op::Op as Kind, route::Target};

/// The pods of node2 are reached so from now on, in both families.
fn by(encapsulation: Encapsulation, over_ipv6: bool) -> Vec<Op> {
    let target = Target::Remote(plane::RemoteNode {
        node: "node2".into(),
        encapsulation: encapsulation.into(),
        over_ipv6,
    });
    vec![route(TUNNEL2, 24, target.clone()), route6(TUNNEL2, 64, target)]
}

/// The world, with the rest of what is said of it replaced by `ops`.
fn world_with(ops: Vec<Op>) -> World {
    let mut world = World::new();
    let all = [world::ops(), ops].concat();
    world.apply(&all);
    world.expect_moved(&[]);
    world
}

fn over_v6(inner: &[u8]) -> Vec<u8> {
    from_uplink6(&vxlan6((NODE2_6, 50_000), (NODE1_6, VXLAN_PORT), VNI, inner))
}

fn by_ipip(inner: &Datagram) -> Vec<u8> {
    from_uplink(&ipip(NODE2, NODE1, inner))
}

/// What is inside a VXLAN packet over IPv6 to node2, whose outer headers are what they should be but for `class`; and its
/// flow label.
#[track_caller]
fn unwrapped6(output: &Output, class: u8) -> (Vec<u8>, u32) {
    assert_eq!(output.port, PortName::Uplink);
    let outer = Datagram6::read(&output.frame).expect("an outer IPv6 packet");
    let port = u16::from_be_bytes([outer.body[0], outer.body[1]]);
    assert!(port >= 49_152, "{port}");
    let inner = outer.body[16..].to_vec();
    let (to, from) = (vtep_v6(TUNNEL2_MAC), vtep_v6(TUNNEL1_MAC));
    assert_eq!(inner[..12], [to.0, from.0].concat(), "inner Ethernet addresses");
    let expected = vxlan6((NODE1_6, port), (NODE2_6, VXLAN_PORT), VNI, &inner);
    let expected = Datagram6 { label: outer.label, class, ..expected };
    assert_eq!(output.frame, expected.frame(NEIGHBOR_MAC, UPLINK_MAC), "outer headers");
    (inner, outer.label)
}

#[test]
fn vxlan_over_ipv6_carries_both_families_there_and_back() {
    let mut world = world_with(by(Encapsulation::Vxlan, true));
    let out = Datagram::tcp((A, 1000), (REMOTE, 80), SYN, b"odd");
    let outputs = world.send(&pod("a"), &from_pod(&out));
    let (inner, label) = unwrapped6(&outputs[0], 0);
    assert_eq!(Datagram::read(&inner).unwrap(), out.ttl(63));
    assert_ne!(label, 0, "RFC 6438: the label stands for the flow");
    expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 1});
    let back = Datagram::tcp((REMOTE, 80), (A, 1000), SYN | ACK, b"");
    let frame = over_v6(&back.frame(vtep_v6(TUNNEL1_MAC), vtep_v6(TUNNEL2_MAC)));
    assert_eq!(world.send(&PortName::Uplink, &frame), [to_pod("a", &back.ttl(63))]);
    expect_counters!(world, {"flow_hits": 1, "tunnel_decapsulated": 1});

    let out = Datagram6::udp((A6, 1000), (REMOTE6, 80), b"even");
    let (inner, _) = unwrapped6(&world.send(&pod("a"), &from_pod6(&out))[0], 0);
    assert_eq!(Datagram6::read(&inner).unwrap(), hop(&out));
    let back = Datagram6::udp((REMOTE6, 80), (A6, 1000), b"!");
    let frame = over_v6(&back.frame(vtep_v6(TUNNEL1_MAC), vtep_v6(TUNNEL2_MAC)));
    assert_eq!(world.send(&PortName::Uplink, &frame), [to_pod6("a", &hop(&back))]);
}

#[test]
fn a_half_made_checksum_inside_vxlan_over_ipv6_leaves_both_checksums_right() {
    for payload in [&b"odd"[..], b"even", b"", &[0xff; 1301], &[0; 1300]] {
        let mut world = world_with(by(Encapsulation::Vxlan, true));
        let whole = Datagram::tcp((A, 1), (REMOTE, 2), SYN, payload);
        let outputs = world.send(&pod("a"), &from_pod(&whole.clone().partial()));
        assert_eq!(Datagram::read(&unwrapped6(&outputs[0], 0).0).unwrap(), whole.ttl(63));
        let whole = Datagram6::udp((A6, 1), (REMOTE6, 2), payload);
        let outputs = world.send(&pod("a"), &from_pod6(&whole.clone().partial()));
        assert_eq!(Datagram6::read(&unwrapped6(&outputs[0], 0).0).unwrap(), hop(&whole));
        expect_counters!(world, {"flow_created": 2, "tunnel_encapsulated": 2, "checksums_completed": 2});
    }
}

#[test]
fn the_outer_checksum_over_ipv6_covers_every_segment_of_a_chain() {
    let mut world = world_with(by(Encapsulation::Vxlan, true));
    let whole = Datagram::udp((A, 1), (REMOTE, 2), &(0..1000u16).map(|i| i as u8).collect::<Vec<_>>());
    let frame = from_pod(&whole);
    let (head, rest) = frame.split_at(101);
    let (middle, last) = rest.split_at(333);
    let outputs = world.send_chain(&pod("a"), &[head, middle, last], Default::default());
    assert_eq!(Datagram::read(&unwrapped6(&outputs[0], 0).0).unwrap(), whole.ttl(63));
}

#[test]
fn ipip_puts_one_more_header_in_front_and_takes_it_off() {
    let mut world = world_with(by(Encapsulation::Ipip, false));
    let out = Datagram::tcp((A, 1000), (REMOTE, 80), SYN, b"odd");
    let expected = to_uplink(&ipip(NODE1, NODE2, &out.clone().ttl(63)));
    assert_eq!(world.send(&pod("a"), &from_pod(&out)), [expected]);
    expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 1});
    let back = Datagram::tcp((REMOTE, 80), (A, 1000), SYN | ACK, b"");
    assert_eq!(world.send(&PortName::Uplink, &by_ipip(&back)), [to_pod("a", &back.clone().ttl(63))]);
    expect_counters!(world, {"flow_hits": 1, "tunnel_decapsulated": 1});
    let whole = Datagram::udp((A, 1), (REMOTE, 2), b"half made");
    let expected = to_uplink(&ipip(NODE1, NODE2, &whole.clone().ttl(63)));
    assert_eq!(world.send(&pod("a"), &from_pod(&whole.partial())), [expected]);
    expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 1, "checksums_completed": 1});
    // What the outer packet is padded with is not part of what is inside.
    let mut padded = by_ipip(&back);
    padded.resize(padded.len() + 7, 0xaa);
    assert_eq!(world.send(&PortName::Uplink, &padded), [to_pod("a", &back.ttl(63))]);
}

#[test]
fn what_comes_unencapsulated_from_a_node_without_a_tunnel_is_not_spoofed() {
    let mut world = World::new();
    let plain = Datagram::udp((PLAIN_REMOTE, 1), (A, 2), b"x");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&plain)), [to_pod("a", &plain.ttl(63))]);
    expect_counters!(world, {"flow_created": 1});
}

#[test]
fn while_a_pool_changes_its_encapsulation_packets_come_by_either_and_go_by_the_newest() {
    let mut world = World::new();
    let out = || Datagram::udp((A, 1000), (REMOTE, 80), b"x");
    let back = || Datagram::udp((REMOTE, 80), (A, 1000), b"y");
    assert_eq!(unwrapped(&world.send(&pod("a"), &from_pod(&out()))[0]).0, out().ttl(63));
    world.apply(&[world::ops(), by(Encapsulation::Ipip, false)].concat());
    let [sent] = &world.send(&pod("a"), &from_pod(&out()))[..] else { panic!("one packet") };
    assert_eq!(*sent, to_uplink(&ipip(NODE1, NODE2, &out().ttl(63))));
    let v6_frame = over_v6(&back().frame(vtep_v6(TUNNEL1_MAC), vtep_v6(TUNNEL2_MAC)));
    for frame in [from_tunnel(&back()), by_ipip(&back()), v6_frame] {
        assert_eq!(world.send(&PortName::Uplink, &frame), [to_pod("a", &back().ttl(63))]);
    }
    world.apply(&[world::ops(), by(Encapsulation::Vxlan, true)].concat());
    unwrapped6(&world.send(&pod("a"), &from_pod(&out()))[0], 0);
    assert_eq!(world.flows(), 1, "it is one flow throughout");
    assert_eq!(world.node.drops(), []);
}

#[test]
fn a_node_of_ipv6_alone_carries_both_families() {
    let mut ops = world::ops();
    for op in &mut ops {
        match op.op.as_mut().unwrap() {
            Kind::NodeConfig(node) => {
                node.address.clear();
                node.tunnel_address.clear();
                node.tunnel_mac.clear();
            }
            Kind::Tunnel(tunnel) => tunnel.node_address.clear(),
            _ => {}
        }
    }
    let mut world = World::new();
    world.apply(&[ops, by(Encapsulation::Vxlan, true)].concat());
    for _ in 0..2 {
        let out = Datagram::udp((A, 1000), (REMOTE, 80), b"x");
        unwrapped6(&world.send(&pod("a"), &from_pod(&out))[0], 0);
    }
    let back = Datagram6::udp((REMOTE6, 1), (A6, 2), b"x");
    let frame = over_v6(&back.frame(vtep_v6(TUNNEL1_MAC), vtep_v6(TUNNEL2_MAC)));
    assert_eq!(world.send(&PortName::Uplink, &frame), [to_pod6("a", &hop(&back))]);
}

#[test]
fn what_does_not_fit_with_its_tunnels_headers_is_answered_with_what_would() {
    for (encapsulation, over_ipv6, overhead) in [
        (Encapsulation::Vxlan, false, 50),
        (Encapsulation::Vxlan, true, 70),
        (Encapsulation::Ipip, false, 20),
    ] {
        let mut world = world_with(by(encapsulation, over_ipv6));
        let mtu = UPLINK_MTU - overhead;
        let of = |len: u16| {
            Datagram::udp((A, 1), (REMOTE, 2), &vec![1; usize::from(len) - 28]).dont_fragment().identified(7)
        };
        let outputs = world.send(&pod("a"), &from_pod(&of(mtu)));
        assert_eq!(outputs[0].frame.len(), 14 + usize::from(UPLINK_MTU), "exactly fits");
        let about = of(mtu + 1).ttl(63);
        let mtu_bytes = mtu.to_be_bytes();
        let error = Datagram::error(NODE1, A, 3, 4, [0, 0, mtu_bytes[0], mtu_bytes[1]], &about, 548);
        let error = to_pod("a", &error.tos(0xc0));
        assert_eq!(world.send(&pod("a"), &from_pod(&of(mtu + 1))), [error]);
        if encapsulation == Encapsulation::Ipip {
            continue;
        }
        let of = |len: u16| Datagram6::udp((A6, 1), (REMOTE6, 2), &vec![1; usize::from(len) - 48]);
        assert_eq!(world.send(&pod("a"), &from_pod6(&of(mtu))).len(), 1);
        let error = Datagram6::error(nd::GATEWAY, A6, (2, 0), mtu.into(), &hop(&of(mtu + 1)), 1280 - 48);
        assert_eq!(world.send(&pod("a"), &from_pod6(&of(mtu + 1))), [to_pod6("a", &error)]);
    }
}

#[test]
fn where_the_other_node_has_no_such_end_there_is_no_route() {
    let of_v4_alone = Kind::Tunnel(plane::Tunnel {
        node: "node2".into(),
        node_address: NODE2.to_vec(),
        ..plane::Tunnel::default()
    });
    for ops in [by(Encapsulation::Vxlan, false), by(Encapsulation::Vxlan, true)] {
        let mut world = world_with([vec![op(of_v4_alone.clone())], ops].concat());
        let outputs = world.send(&pod("a"), &from_pod(&Datagram::udp((A, 1), (REMOTE, 2), b"x")));
        assert_eq!(Datagram::read(&outputs[0].frame).unwrap().body[..2], [3, 0], "network unreachable");
        assert_eq!(world.node.drops(), [(DropReason::NoRoute, 1)]);
    }
    // IPIP has no room for IPv6, and a node without an IPv6 address cannot be the next hop of it.
    for encapsulation in [Encapsulation::Ipip, Encapsulation::None] {
        let mut world = world_with([vec![op(of_v4_alone.clone())], by(encapsulation, false)].concat());
        let outputs = world.send(&pod("a"), &from_pod6(&Datagram6::udp((A6, 1), (REMOTE6, 2), b"x")));
        assert_eq!(Datagram6::read(&outputs[0].frame).unwrap().body[..2], [1, 0], "no route");
        assert_eq!(world.node.drops(), [(DropReason::NoRoute, 1)]);
    }
}

#[test]
fn senders_of_tunnel_packets_that_are_no_nodes_must_be_named() {
    let stranger6: Ipv6Addr = "2001:db8::66".parse().unwrap();
    let inner = Datagram::udp((OUTSIDE, 1), (A, 2), b"x");
    let ethernet = inner.frame(TUNNEL1_MAC, TUNNEL2_MAC);
    let frames = [
        from_uplink(&ipip([192, 0, 2, 66], NODE1, &inner)),
        from_uplink(&vxlan(([192, 0, 2, 66], 50_000), (NODE1, VXLAN_PORT), VNI, &ethernet)),
        from_uplink6(&vxlan6((stranger6, 50_000), (NODE1_6, VXLAN_PORT), VNI, &ethernet)),
    ];
    let mut world = World::new();
    for frame in &frames {
        assert_eq!(world.send(&PortName::Uplink, frame), []);
        expect_counters!(world, {"drop.tunnel-unknown-source": 1});
    }
    let mut ops = world::ops();
    if let Some(Kind::NodeConfig(node)) = &mut ops[0].op {
        let prefix = |address: Vec<u8>, length| plane::Prefix { address, length };
        node.tunnel_sources = vec![prefix(vec![192, 0, 2, 64], 29), prefix(stranger6.octets().to_vec(), 128)];
    }
    world.apply(&ops);
    for frame in &frames {
        assert_eq!(world.send(&PortName::Uplink, frame), [to_pod("a", &inner.clone().ttl(63))]);
    }
    world.expect_moved(&[("tunnel_decapsulated", 3), ("flow_created", 1), ("flow_hits", 2)]);
    // Not in the name of what is here.
    let forged = ipip([192, 0, 2, 66], NODE1, &Datagram::udp((B, 1), (A, 2), b"x"));
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&forged)), []);
    expect_counters!(world, {"tunnel_decapsulated": 1, "drop.tunnel-spoofed-inner": 1});
}

/// ECN: what the packet inside has, what the outer header has, and what goes on (RFC 6040, figure 4).
const OUT_OF_A_TUNNEL: [(u8, u8, Option<u8>); 16] = [
    (0, 0, Some(0)),
    (0, 2, Some(0)),
    (0, 1, Some(0)),
    (0, 3, None),
    (2, 0, Some(2)),
    (2, 2, Some(2)),
    (2, 1, Some(1)),
    (2, 3, Some(3)),
    (1, 0, Some(1)),
    (1, 2, Some(1)),
    (1, 1, Some(1)),
    (1, 3, Some(3)),
    (3, 0, Some(3)),
    (3, 2, Some(3)),
    (3, 1, Some(3)),
    (3, 3, Some(3)),
];

#[test]
fn a_mark_for_congestion_comes_out_of_every_tunnel_with_the_packet() {
    const DSCP: u8 = 0xb8;
    for (inside, outside, left) in OUT_OF_A_TUNNEL {
        let mut world = World::new();
        let inner = Datagram::udp((REMOTE, 1), (A, 2), b"x").tos(DSCP | inside);
        let inner6 = Datagram6::udp((REMOTE6, 1), (A6, 2), b"x").class(DSCP | inside);
        let (frame, frame6) = (inner.frame(TUNNEL1_MAC, TUNNEL2_MAC), inner6.frame(TUNNEL1_MAC, TUNNEL2_MAC));
        let over_v4 = |inner: &[u8]| {
            from_uplink(&vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, inner).tos(0x50 | outside))
        };
        let over_v6 = |inner: &[u8]| {
            let outer = vxlan6((NODE2_6, 50_000), (NODE1_6, VXLAN_PORT), VNI, inner);
            from_uplink6(&outer.class(0x50 | outside))
        };
        let by_ipip = from_uplink(&ipip(NODE2, NODE1, &inner).tos(0x50 | outside));
        for bytes in [over_v4(&frame), over_v6(&frame), by_ipip] {
            let expected = left.map(|left| to_pod("a", &inner.clone().tos(DSCP | left).ttl(63)));
            let outputs = world.send(&PortName::Uplink, &bytes);
            assert_eq!(outputs, Vec::from_iter(expected), "{inside} in {outside}");
        }
        for bytes in [over_v4(&frame6), over_v6(&frame6)] {
            let expected = left.map(|left| to_pod6("a", &hop(&inner6).class(DSCP | left)));
            let outputs = world.send(&PortName::Uplink, &bytes);
            assert_eq!(outputs, Vec::from_iter(expected), "{inside} in {outside}");
        }
        let dropped = if left.is_none() { vec![(DropReason::TunnelCongested, 5)] } else { vec![] };
        assert_eq!(world.node.drops(), dropped, "{inside} in {outside}");
    }
}

#[test]
fn a_mark_for_congestion_goes_into_every_tunnel_and_the_class_of_service_does_not() {
    for ecn in 0..4 {
        let out = Datagram::udp((A, 1), (REMOTE, 2), b"x").tos(0xb8 | ecn);
        let out6 = Datagram6::udp((A6, 1), (REMOTE6, 2), b"x").class(0xb8 | ecn);
        let mut world = World::new();
        for frame in [from_pod(&out), from_pod6(&out6)] {
            assert_eq!(Datagram::read(&world.send(&pod("a"), &frame)[0].frame).unwrap().tos, ecn);
        }
        let mut world = world_with(by(Encapsulation::Ipip, false));
        let expected = to_uplink(&ipip(NODE1, NODE2, &out.clone().ttl(63)).tos(ecn));
        assert_eq!(world.send(&pod("a"), &from_pod(&out)), [expected]);
        let mut world = world_with(by(Encapsulation::Vxlan, true));
        for frame in [from_pod(&out), from_pod6(&out6)] {
            unwrapped6(&world.send(&pod("a"), &frame)[0], ecn);
        }
    }
}

#[test]
fn the_other_node_itself_reaches_a_pod_through_ipip() {
    for source in [TUNNEL2, NODE2, world::ipip(TUNNEL2)] {
        let mut world = World::new();
        let probe = Datagram::tcp((source, 4000), (A, 80), SYN, b"");
        assert_eq!(world.send(&PortName::Uplink, &by_ipip(&probe)), [to_pod("a", &probe.ttl(63))]);
    }
}

#[test]
fn what_is_sent_to_a_node_of_both_families_unencapsulated_takes_its_own() {
    let mut world = world_with(by(Encapsulation::None, false));
    let out = Datagram::udp((A, 1), (REMOTE, 2), b"x");
    assert_eq!(world.send(&pod("a"), &from_pod(&out)), [to_uplink(&out.ttl(63))]);
    let out = Datagram6::udp((A6, 1), (REMOTE6, 2), b"x");
    assert_eq!(world.send(&pod("a"), &from_pod6(&out)), [to_uplink6(&hop(&out))]);
}

/// What no end of a tunnel takes.
pub fn refused() -> BTreeSet<DropReason> {
    let inner = Datagram::udp((REMOTE, 1), (A, 2), b"x");
    let ethernet = inner.frame(TUNNEL1_MAC, TUNNEL2_MAC);
    let over_v4 = || vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &ethernet);
    let over_v6 = |vni| vxlan6((NODE2_6, 50_000), (NODE1_6, VXLAN_PORT), vni, &ethernet);
    let part = |outer: Datagram, word| from_uplink(&Datagram { fragment_word: word, ..outer });
    let part6 = over_v6(VNI).behind(44, &[0, 0, 1, 0, 0, 0, 9]);
    let to_node6 = Datagram6::udp((REMOTE6, 1), (NODE1_6, VXLAN_PORT), b"nested");
    let nested = to_node6.frame(TUNNEL1_MAC, TUNNEL2_MAC);
    let nested = vxlan6((NODE2_6, 50_000), (NODE1_6, VXLAN_PORT), VNI, &nested);
    let ce = ipip(NODE2, NODE1, &inner).tos(3);
    let of_another_node = Datagram::udp((NODE3, 1), (A, 2), b"x");
    let not_v4 = Datagram::new(NODE2, NODE1, 4, &Datagram6::udp((REMOTE6, 1), (A6, 2), b"").bytes());
    let mut no_flag = over_v6(VNI);
    no_flag.body[8] = 0;
    let cut_off = Datagram6::udp((NODE2_6, 1), (NODE1_6, VXLAN_PORT), &[8, 0, 0]);
    let cases = [
        ("the first part of VXLAN", part(over_v4(), 0x2000), DropReason::TunnelFragmented),
        ("a part of IPIP", part(ipip(NODE2, NODE1, &inner), 7), DropReason::TunnelFragmented),
        ("the first part of VXLAN over IPv6", from_uplink6(&part6), DropReason::TunnelFragmented),
        ("a mark that nobody would understand", from_uplink(&ce), DropReason::TunnelCongested),
        ("another VNI over IPv6", from_uplink6(&over_v6(VNI + 1)), DropReason::TunnelUnknownVni),
        ("no VNI over IPv6", from_uplink6(&no_flag), DropReason::TunnelMalformed),
        ("half a VXLAN header over IPv6", from_uplink6(&cut_off), DropReason::TunnelMalformed),
        ("a tunnel in a tunnel over IPv6", from_uplink6(&nested), DropReason::TunnelNested),
        ("IPIP of nothing", from_uplink(&Datagram::new(NODE2, NODE1, 4, b"")), DropReason::Ipv4Malformed),
        ("IPIP of IPv6", from_uplink(&not_v4), DropReason::Ipv4Malformed),
        ("IPIP from another", by_ipip(&of_another_node), DropReason::TunnelSpoofedInner),
    ];
    let mut reached = BTreeSet::new();
    for (description, frame, reason) in cases {
        let mut world = World::new();
        assert_eq!(world.send(&PortName::Uplink, &frame), [], "{description}");
        assert_eq!(world.node.drops(), [(reason, 1)], "{description}");
        reached.insert(reason);
    }
    reached
}

#[test]
fn what_no_end_of_a_tunnel_takes_is_dropped_for_what_is_wrong_with_it() {
    refused();
}
