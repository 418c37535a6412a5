//! IPv6: the ways of [`super::local`], [`super::tunnels`], [`super::host`] and [`super::icmp`], and what it does
//! otherwise: extension headers, and its own errors.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::super::datagram::{ACK, SYN, vxlan};
use super::super::datagram6::Datagram6;
use super::super::world::{
    self, A, B, NEIGHBOR_MAC, NOBODY, NODE1, NODE1_6, NODE2, OUTSIDE6, PLAIN_REMOTE, POD_MTU, REMOTE,
    TUNNEL1, TUNNEL1_MAC, TUNNEL2_MAC, VNI, VXLAN_PORT, op, pod, rule, v6,
};
use super::super::{HOST_MAC, Output, POD_MAC, PortName, UPLINK_MAC};
use super::policy::{deny_all, ingress};
use super::support::*;
use crate::drop_reason::DropReason;
use crate::stage::arp::GATEWAY_MAC;
use crate::stage::nd;
use caracal_plane_api::plane::{self, Action, op::Op as Kind};

pub const A6: Ipv6Addr = v6(A);
pub const B6: Ipv6Addr = v6(B);
pub const REMOTE6: Ipv6Addr = v6(REMOTE);

pub fn from_pod6(datagram: &Datagram6) -> Vec<u8> {
    datagram.frame(GATEWAY_MAC, POD_MAC)
}

pub fn from_uplink6(datagram: &Datagram6) -> Vec<u8> {
    datagram.frame(UPLINK_MAC, NEIGHBOR_MAC)
}

fn from_tunnel6(datagram: &Datagram6) -> Vec<u8> {
    let inner = datagram.frame(TUNNEL1_MAC, TUNNEL2_MAC);
    from_uplink(&vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &inner))
}

pub fn to_pod6(name: &str, datagram: &Datagram6) -> Output {
    Output { port: pod(name), frame: datagram.frame(POD_MAC, GATEWAY_MAC) }
}

pub fn to_uplink6(datagram: &Datagram6) -> Output {
    Output { port: PortName::Uplink, frame: datagram.frame(NEIGHBOR_MAC, UPLINK_MAC) }
}

fn to_host6(port: PortName, datagram: &Datagram6) -> Output {
    Output { port, frame: datagram.frame(HOST_MAC, GATEWAY_MAC) }
}

pub fn hop(datagram: &Datagram6) -> Datagram6 {
    datagram.clone().hop_limit(datagram.hop_limit - 1)
}

/// What `datagram` is in a tunnel packet to node2, from the outer source port that `output` has.
fn tunneled(datagram: &Datagram6, output: &Output) -> Output {
    let port = u16::from_be_bytes([output.frame[34], output.frame[35]]);
    assert!(port >= 49_152, "{port}");
    let inner = datagram.frame(TUNNEL2_MAC, TUNNEL1_MAC);
    to_uplink(&vxlan((NODE1, port), (NODE2, VXLAN_PORT), VNI, &inner))
}

#[test]
fn a_packet_between_two_pods_is_tracked_at_both_ends() {
    let mut world = World::new();
    let syn = Datagram6::tcp((A6, 1000), (B6, 80), SYN, b"");
    assert_eq!(world.send(&pod("a"), &from_pod6(&syn)), [to_pod6("b", &hop(&syn))]);
    expect_counters!(world, {"flow_created": 2, "delivered_local": 1});
    let answer = Datagram6::tcp((B6, 80), (A6, 1000), SYN | ACK, b"");
    assert_eq!(world.send(&pod("b"), &from_pod6(&answer)), [to_pod6("a", &hop(&answer))]);
    expect_counters!(world, {"flow_hits": 2, "delivered_local": 1});
}

#[test]
fn every_protocol_and_every_chain_of_headers_within_bounds_passes() {
    let udp = || Datagram6::udp((A6, 1), (B6, 2), b"x");
    let options = [0, 1, 4, 0, 0, 0, 0];
    let mut long = udp();
    for _ in 0..8 {
        long = long.behind(60, &options);
    }
    for (description, datagram) in [
        ("tcp", Datagram6::tcp((A6, 1), (B6, 2), SYN, b"")),
        ("udp", Datagram6::udp((A6, 1), (B6, 2), b"hello")),
        ("sctp", Datagram6::sctp((A6, 1), (B6, 2))),
        ("echo", Datagram6::echo(A6, B6, false, 7, 1)),
        ("another message", Datagram6::icmp(A6, B6, 139, 0, &[0; 12])),
        ("a protocol without ports", Datagram6::new(A6, B6, 47, &[0; 4])),
        ("no next header", Datagram6::new(A6, B6, 59, &[])),
        ("hop-by-hop options", udp().behind(0, &options)),
        ("authentication", udp().behind(51, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("eight extension headers", long),
    ] {
        let mut world = World::new();
        let outputs = world.send(&pod("a"), &from_pod6(&datagram));
        assert_eq!(outputs, [to_pod6("b", &hop(&datagram))], "{description}");
        expect_counters!(world, {"flow_created": 2, "delivered_local": 1});
    }
}

#[test]
fn what_cannot_be_carried_is_dropped_by_name() {
    uncarried();
}

/// The reasons that its packets were dropped for.
pub fn uncarried() -> BTreeSet<DropReason> {
    let mut reached = BTreeSet::new();
    let udp = || Datagram6::udp((A6, 1), (B6, 2), b"x");
    let options = [0, 1, 4, 0, 0, 0, 0];
    let mut nine = udp();
    for _ in 0..9 {
        nine = nine.behind(60, &options);
    }
    let cut = |datagram: Datagram6, len| from_pod6(&datagram)[..len].to_vec();
    let mapped = std::net::Ipv4Addr::from(B).to_ipv6_mapped();
    let to = |destination| from_pod6(&Datagram6::udp((A6, 1), (destination, 2), b"x"));
    let from = |source| from_pod6(&Datagram6::udp((source, 1), (B6, 2), b"x"));
    for (description, frame, reason) in [
        ("a header but for a byte", cut(udp(), 14 + 39), DropReason::Ipv6Malformed),
        ("a payload but for a byte", cut(udp(), 14 + 48), DropReason::Ipv6Malformed),
        (
            "version 4",
            {
                let mut f = from_pod6(&udp());
                f[14] = 0x45;
                f
            },
            DropReason::Ipv6Malformed,
        ),
        ("nine extension headers", from_pod6(&nine), DropReason::Ipv6Extensions),
        (
            "options that end nowhere",
            from_pod6(&udp().behind(60, &[9, 0, 0, 0, 0, 0, 0])),
            DropReason::Ipv6Extensions,
        ),
        (
            "a route of the sender's own",
            from_pod6(&udp().behind(43, &[0, 0, 1, 0, 0, 0, 0])),
            DropReason::Ipv6Extensions,
        ),
        ("half a UDP header", from_pod6(&Datagram6::new(A6, B6, 17, &[0; 7])), DropReason::L4Truncated),
        ("to a group", to("ff0e::1".parse().unwrap()), DropReason::AddressInvalid),
        ("to another link", to("fe80::1".parse().unwrap()), DropReason::AddressInvalid),
        ("to an IPv4-mapped address", to(mapped), DropReason::AddressInvalid),
        ("from an IPv4-mapped address", from(mapped), DropReason::AddressInvalid),
        ("from the link", from("fe80::1".parse().unwrap()), DropReason::AddressInvalid),
        ("from nobody", from(Ipv6Addr::UNSPECIFIED), DropReason::AddressInvalid),
        ("from another pod", from(v6(world::C)), DropReason::SpoofedSource),
        ("to a pod that is not", to(v6(NOBODY)), DropReason::Blackhole),
        ("the last hop", from_pod6(&udp().hop_limit(1)), DropReason::TtlExceeded),
        ("VXLAN", from_pod6(&Datagram6::udp((A6, 1), (B6, VXLAN_PORT), b"")), DropReason::PodSentTunnel),
        ("IPIP", from_pod6(&Datagram6::new(A6, B6, 4, &[0; 20])), DropReason::PodSentTunnel),
    ] {
        let mut world = World::new();
        world.send(&pod("a"), &frame);
        assert_eq!(world.node.drops(), [(reason, 1)], "{description}");
        reached.insert(reason);
    }
    reached
}

#[test]
fn padding_is_cut_off_and_a_half_made_checksum_is_completed() {
    let mut world = World::new();
    let whole = Datagram6::tcp((A6, 1), (B6, 80), SYN, b"abc");
    let mut frame = from_pod6(&whole.clone().partial());
    frame.extend([0xaa; 9]);
    let outputs = world.send(&pod("a"), &frame);
    assert_eq!(outputs, [to_pod6("b", &hop(&whole))]);
    assert!(Datagram6::read(&outputs[0].frame).unwrap().checksum_is_right());
}

#[test]
fn a_packet_to_the_outside_goes_to_the_gateway_and_its_answer_comes_back() {
    let mut world = World::new();
    let out = Datagram6::udp((A6, 5000), (OUTSIDE6, 53), b"?");
    assert_eq!(world.send(&pod("a"), &from_pod6(&out)), [to_uplink6(&hop(&out))]);
    expect_counters!(world, {"flow_created": 1, "to_uplink_plain": 1});
    let back = Datagram6::udp((OUTSIDE6, 53), (A6, 5000), b"!");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink6(&back)), [to_pod6("a", &hop(&back))]);
    expect_counters!(world, {"flow_hits": 1});
}

#[test]
fn a_pod_behind_another_node_is_reached_through_the_ipv4_tunnel_and_answers_through_it() {
    let mut world = World::new();
    let out = Datagram6::tcp((A6, 1000), (REMOTE6, 80), SYN, b"");
    let outputs = world.send(&pod("a"), &from_pod6(&out));
    assert_eq!(outputs, [tunneled(&hop(&out), &outputs[0])]);
    expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 1});
    let back = Datagram6::tcp((REMOTE6, 80), (A6, 1000), SYN | ACK, b"");
    assert_eq!(world.send(&PortName::Uplink, &from_tunnel6(&back)), [to_pod6("a", &hop(&back))]);
    expect_counters!(world, {"flow_hits": 1, "tunnel_decapsulated": 1});
    // A source that belongs to no tunnel may not come out of one.
    let forged = Datagram6::udp((OUTSIDE6, 1), (A6, 2), b"");
    assert_eq!(world.send(&PortName::Uplink, &from_tunnel6(&forged)), []);
    expect_counters!(world, {"tunnel_decapsulated": 1, "drop.tunnel-spoofed-inner": 1});
    let forged = Datagram6::udp((REMOTE6, 1), (A6, 2), b"");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink6(&forged)), []);
    expect_counters!(world, {"drop.fabric-spoofed-source": 1});
}

#[test]
fn flows_of_different_peers_and_ports_spread_over_outer_source_ports() {
    let mut ports = BTreeSet::new();
    let mut world = World::new();
    for port in 0..50 {
        let out = Datagram6::udp((A6, 1000 + port), (REMOTE6, 80), b"");
        let outputs = world.send(&pod("a"), &from_pod6(&out));
        ports.insert([outputs[0].frame[34], outputs[0].frame[35]]);
    }
    assert!(ports.len() > 40, "{}", ports.len());
}

#[test]
fn a_pod_behind_a_node_without_a_tunnel_is_reached_by_that_nodes_link_address() {
    let mut world = World::new();
    world.node.apply(&[]).unwrap();
    let out = Datagram6::udp((A6, 1), (v6(PLAIN_REMOTE), 2), b"x");
    assert_eq!(world.send(&pod("a"), &from_pod6(&out)), [to_uplink6(&hop(&out))]);
}

#[test]
fn the_host_reaches_its_own_pod_whatever_policy_says_and_hears_it_by_the_same_port() {
    let mut world = World::new();
    world.apply(&deny_all("a"));
    let probe = Datagram6::tcp((NODE1_6, 40_000), (A6, 80), SYN, b"");
    let frame = probe.frame(GATEWAY_MAC, HOST_MAC);
    assert_eq!(world.send(&PortName::Host, &frame), [to_pod6("a", &probe)]);
    let answer = Datagram6::tcp((A6, 80), (NODE1_6, 40_000), SYN | ACK, b"");
    assert_eq!(world.send(&pod("a"), &from_pod6(&answer)), [to_host6(PortName::Host, &answer)]);
    // What it forwards is judged.
    let forwarded = Datagram6::tcp((OUTSIDE6, 40_000), (A6, 80), SYN, b"");
    assert_eq!(world.send(&PortName::Forward, &forwarded.frame(GATEWAY_MAC, HOST_MAC)), []);
    let own = Datagram6::tcp((A6, 4000), (NODE1_6, 10_250), SYN, b"");
    assert_eq!(world.send(&pod("a"), &from_pod6(&own)), [to_host6(PortName::Host, &own)]);
}

fn allow_icmp(kind: u32, code: Option<u32>) -> plane::Rule {
    plane::Rule { protocol: 58, icmp: Some(plane::Icmp { r#type: kind, code }), ..rule(Action::Allow) }
}

#[test]
fn policy_judges_ipv6_by_its_own_rules_sets_and_messages() {
    let friends = op(Kind::IpSet(plane::IpSet {
        id: "friends".into(),
        members: vec![plane::Member {
            prefix: Some(plane::Prefix { address: A6.octets().to_vec(), length: 128 }),
            ..Default::default()
        }],
        ..Default::default()
    }));
    let from_friends = plane::Rule {
        ip_version: 6,
        protocol: 17,
        source: Some(plane::Entity { in_all: vec!["friends".into()], ..Default::default() }),
        ..rule(Action::Allow)
    };
    let mut world = World::new();
    let mut ops = vec![friends];
    ops.extend(ingress("b", vec![from_friends, allow_icmp(128, Some(0))]));
    world.apply(&ops);
    for (description, name, datagram, passes) in [
        ("a friend", "a", Datagram6::udp((A6, 1), (B6, 2), b""), true),
        ("a friend by another protocol", "a", Datagram6::tcp((A6, 1), (B6, 2), SYN, b""), false),
        ("a stranger", "c", Datagram6::udp((v6(world::C), 1), (B6, 2), b""), false),
        ("an echo", "c", Datagram6::echo(v6(world::C), B6, false, 1, 1), true),
        ("an answer to none", "c", Datagram6::echo(v6(world::C), B6, true, 2, 1), false),
        ("another question", "c", Datagram6::icmp(v6(world::C), B6, 139, 0, &[0; 12]), false),
        ("a solicitation to another pod", "c", Datagram6::icmp(v6(world::C), B6, 133, 0, &[0; 4]), false),
    ] {
        let outputs = world.send(&pod(name), &from_pod6(&datagram));
        assert_eq!(outputs.len(), usize::from(passes), "{description}");
    }
    // An echo that b asks is b's own flow, though the identifier is the same.
    let echo = Datagram6::echo(B6, v6(world::C), false, 1, 1);
    assert_eq!(world.send(&pod("b"), &from_pod6(&echo)), [to_pod6("c", &hop(&echo))]);
    let answer = Datagram6::echo(v6(world::C), B6, true, 1, 1);
    assert_eq!(world.send(&pod("c"), &from_pod6(&answer)), [to_pod6("b", &hop(&answer))]);
}

#[test]
fn a_pod_whose_packet_ran_out_of_hops_is_told_by_its_gateway() {
    for payload in [0, 8, 1200, 1300] {
        let mut world = World::new();
        let packet = Datagram6::udp((A6, 33_434), (OUTSIDE6, 33_434), &vec![7; payload]).hop_limit(1);
        let error = Datagram6::error(nd::GATEWAY, A6, (3, 0), 0, &packet, 1280 - 48);
        assert_eq!(world.send(&pod("a"), &from_pod6(&packet)), [to_pod6("a", &error)], "{payload}");
        expect_counters!(world, {"flow_created": 1, "drop.ttl-exceeded": 1, "icmp_errors_sent": 1, "flow_related": 1, "flow_hits": 1});
    }
}

#[test]
fn a_packet_that_does_not_fit_is_answered_with_what_would_fit() {
    for (description, destination, mtu) in [("to a pod", B6, POD_MTU), ("into the tunnel", REMOTE6, 1450)] {
        let mut world = World::new();
        let of = |len: u16| Datagram6::udp((A6, 1), (destination, 2), &vec![1; usize::from(len) - 48]);
        assert_eq!(world.send(&pod("a"), &from_pod6(&of(mtu))).len(), 1, "{description}: exactly fits");
        let packet = of(mtu + 1);
        let error = Datagram6::error(nd::GATEWAY, A6, (2, 0), u32::from(mtu), &hop(&packet), 1280 - 48);
        assert_eq!(world.send(&pod("a"), &from_pod6(&packet)), [to_pod6("a", &error)], "{description}");
        assert_eq!(world.node.drops(), [(DropReason::PacketTooBig, 1)], "{description}");
    }
}

#[test]
fn a_packet_for_a_pod_that_is_not_there_is_answered_with_address_unreachable() {
    let mut world = World::new();
    let packet = Datagram6::udp((A6, 1), (v6(NOBODY), 2), b"x");
    let error = Datagram6::error(nd::GATEWAY, A6, (1, 3), 0, &packet, 1280);
    assert_eq!(world.send(&pod("a"), &from_pod6(&packet)), [to_pod6("a", &error)]);
    // Who is far away is told by the tunnel's address.
    let packet = Datagram6::udp((REMOTE6, 1), (v6(NOBODY), 2), b"x");
    world.expect_moved(&[
        ("flow_created", 1),
        ("drop.blackhole", 1),
        ("icmp_errors_sent", 1),
        ("flow_related", 1),
        ("flow_hits", 1),
    ]);
    let error = Datagram6::error(v6(TUNNEL1), REMOTE6, (1, 3), 0, &packet, 1280);
    let outputs = world.send(&PortName::Uplink, &from_tunnel6(&packet));
    assert_eq!(outputs, [tunneled(&error, &outputs[0])]);
    expect_counters!(world, {"tunnel_decapsulated": 1, "drop.blackhole": 1, "icmp_errors_sent": 1, "tunnel_encapsulated": 1});
}

#[test]
fn an_error_about_a_pods_flow_reaches_it_and_one_about_another_does_not() {
    let asked = Datagram6::udp((A6, 1000), (OUTSIDE6, 53), b"?");
    let echo = Datagram6::echo(A6, OUTSIDE6, false, 77, 1);
    let with_options = Datagram6::tcp((A6, 1), (OUTSIDE6, 80), SYN, b"").behind(60, &[0, 1, 4, 0, 0, 0, 0]);
    let router: Ipv6Addr = "2001:db8:ffff::1".parse().unwrap();
    for (about, kind) in [(&asked, (1, 4)), (&echo, (3, 0)), (&with_options, (2, 0))] {
        let mut world = World::new();
        world.send(&pod("a"), &from_pod6(about));
        let error = Datagram6::error(router, A6, kind, 1400, about, 1000);
        assert_eq!(
            world.send(&PortName::Uplink, &from_uplink6(&error)),
            [to_pod6("a", &hop(&error))],
            "{about:?}"
        );
        expect_counters!(world, {"flow_created": 1, "to_uplink_plain": 1, "flow_related": 1, "flow_hits": 1});
        for other in [
            Datagram6::udp((A6, 1000), (OUTSIDE6, 54), b"?"),
            Datagram6::echo(A6, OUTSIDE6, false, 78, 1),
            Datagram6::echo(A6, OUTSIDE6, true, 77, 1),
        ] {
            let error = Datagram6::error(router, A6, kind, 0, &other, 1000);
            assert_eq!(world.send(&PortName::Uplink, &from_uplink6(&error)), [], "{other:?}");
            expect_counters!(world, {"drop.related-unknown": 1});
        }
    }
}

#[test]
fn the_same_numbers_in_ipv4_and_ipv6_are_two_flows() {
    let mut world = World::new();
    world.send(&pod("a"), &from_pod6(&Datagram6::udp((A6, 1), (B6, 2), b"")));
    let four = super::super::datagram::Datagram::udp((A, 1), (B, 2), b"");
    world.send(&pod("a"), &from_pod(&four));
    assert_eq!(world.flows(), 4);
}
