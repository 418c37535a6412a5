//! Neighbour discovery on pods' links.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::super::datagram::{Datagram, ethernet};
use super::super::datagram6::Datagram6;
use super::super::world::{A, B, NODE1_6, OUTSIDE6, pod, v6};
use super::super::{HOST_MAC, Output, POD_MAC, PortName};
use super::policy::deny_all;
use super::support::*;
use crate::drop_reason::DropReason;
use crate::pipeline::EndpointLink;
use crate::stage::arp::GATEWAY_MAC;
use crate::stage::nd::GATEWAY;
use caracal_wire::MacAddr;

const A6: Ipv6Addr = v6(A);
const OWN_LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
const NEW: MacAddr = MacAddr([2, 7, 7, 7, 7, 7]);

/// The group of those who listen for an address (RFC 4291, 2.7.1).
fn listeners(target: Ipv6Addr) -> (Ipv6Addr, MacAddr) {
    let [.., a, b, c] = target.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    (Ipv6Addr::from(group), MacAddr([0x33, 0x33, 0xff, a, b, c]))
}

fn question(source: Ipv6Addr, target: Ipv6Addr, mac: Option<MacAddr>) -> Vec<u8> {
    let (group, group_mac) = listeners(target);
    Datagram6::neighbour(source, group, 135, 0, target, mac).frame(group_mac, mac.unwrap_or(POD_MAC))
}

fn answer(target: Ipv6Addr, to: Ipv6Addr, mac: MacAddr, flags: u32) -> Output {
    let message = Datagram6::neighbour(GATEWAY, to, 136, flags, target, Some(GATEWAY_MAC));
    Output { port: pod("a"), frame: message.frame(mac, GATEWAY_MAC) }
}

#[test]
fn the_gateway_has_the_link_local_address_that_pods_route_by() {
    assert_eq!(GATEWAY.to_string(), "fe80::ecee:eeff:feee:eeee");
}

#[test]
fn a_pod_finds_its_gateway_and_whoever_is_behind_it() {
    let (gateways, proxys) = (0xe000_0000, 0xc000_0000);
    for (target, flags) in [(GATEWAY, gateways), (v6(B), proxys), (OUTSIDE6, proxys), (NODE1_6, proxys)] {
        for source in [A6, OWN_LINK] {
            let mut world = World::new();
            world.apply(&deny_all("a"));
            let outputs = world.send(&pod("a"), &question(source, target, Some(POD_MAC)));
            assert_eq!(outputs, [answer(target, source, POD_MAC, flags)], "{target}");
            expect_counters!(world, {"nd_answered": 1});
            // One without the option is answered where it came from.
            let outputs = world.send(&pod("a"), &question(source, target, None));
            assert_eq!(outputs, [answer(target, source, POD_MAC, flags)], "{target}");
            expect_counters!(world, {"nd_answered": 1});
        }
    }
}

#[test]
fn a_pod_that_probes_for_its_own_addresses_is_left_alone() {
    for (source, target) in [
        (Ipv6Addr::UNSPECIFIED, A6),
        (Ipv6Addr::UNSPECIFIED, OWN_LINK),
        (Ipv6Addr::UNSPECIFIED, GATEWAY),
        (A6, A6),
        (A6, OWN_LINK),
    ] {
        let mut world = World::new();
        assert_eq!(world.send(&pod("a"), &question(source, target, None)), [], "{source} asks for {target}");
        expect_counters!(world, {});
    }
}

#[test]
fn a_pods_link_address_is_learned_from_questions_and_answers() {
    let announced = |target| {
        Datagram6::neighbour(A6, GATEWAY, 136, 0x6000_0000, target, Some(NEW)).frame(GATEWAY_MAC, NEW)
    };
    for (description, frame, answered) in [
        ("a question", question(A6, GATEWAY, Some(NEW)), true),
        ("an answer about its address", announced(A6), false),
        ("an answer about its link-local address", announced(OWN_LINK), false),
    ] {
        let mut world = World::new();
        assert_eq!(world.send(&pod("a"), &frame).len(), usize::from(answered), "{description}");
        let outputs = world.send(&pod("b"), &from_pod(&Datagram::udp((B, 1), (A, 2), b"")));
        assert_eq!(outputs[0].frame[..6], NEW.0, "{description}");
    }
    let mut world = World::new();
    world.send(&pod("a"), &announced(v6(B)));
    let outputs = world.send(&pod("b"), &from_pod(&Datagram::udp((B, 1), (A, 2), b"")));
    assert_eq!(outputs[0].frame[..6], POD_MAC.0, "an answer about somebody else teaches nothing");
}

#[test]
fn a_forged_or_forwarded_message_is_neither_answered_nor_learned_from() {
    forged();
}

/// The reasons that its messages were dropped for.
pub fn forged() -> BTreeSet<DropReason> {
    let mut reached = BTreeSet::new();
    let (group, group_mac) = listeners(GATEWAY);
    let honest = Datagram6::neighbour(A6, group, 135, 0, GATEWAY, Some(NEW));
    let mut wrong_sum = honest.clone();
    wrong_sum.body[2] ^= 1;
    let endless = Datagram6::icmp(
        A6,
        group,
        135,
        0,
        &[&[0; 4][..], &GATEWAY.octets(), &[1, 0, 0, 0, 0, 0, 0, 0]].concat(),
    );
    let short = Datagram6::icmp(A6, group, 135, 0, &[0; 12]).hop_limit(255);
    for (description, datagram, reason) in [
        (
            "of another pod",
            Datagram6::neighbour(v6(B), group, 135, 0, GATEWAY, Some(NEW)),
            DropReason::SpoofedSource,
        ),
        ("forwarded", honest.clone().hop_limit(254), DropReason::NdMalformed),
        ("with a wrong checksum", wrong_sum, DropReason::NdMalformed),
        ("too short", short, DropReason::NdMalformed),
        ("about a group", Datagram6::neighbour(A6, group, 135, 0, group, Some(NEW)), DropReason::NdMalformed),
    ] {
        let mut world = World::new();
        assert_eq!(world.send(&pod("a"), &datagram.frame(group_mac, NEW)), [], "{description}");
        assert_eq!(world.node.drops(), [(reason, 1)], "{description}");
        world.expect_moved(&[(&format!("drop.{}", reason.label()), 1)]);
        reached.insert(reason);
    }
    // An option of length zero is no address; the frame's sender is asked back.
    let mut world = World::new();
    let outputs = world.send(&pod("a"), &endless.hop_limit(255).frame(group_mac, POD_MAC));
    assert_eq!(outputs, [answer(GATEWAY, A6, POD_MAC, 0xe000_0000)]);
    reached
}

#[test]
fn listener_reports_and_router_solicitations_end_here_in_silence() {
    let routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let reports: Ipv6Addr = "ff02::16".parse().unwrap();
    for (source, to, kind) in [
        (OWN_LINK, routers, 133),
        (Ipv6Addr::UNSPECIFIED, routers, 133),
        (OWN_LINK, reports, 143),
        (Ipv6Addr::UNSPECIFIED, reports, 143),
        (OWN_LINK, routers, 131),
        (OWN_LINK, routers, 132),
        (OWN_LINK, routers, 130),
    ] {
        let mut world = World::new();
        world.apply(&deny_all("a"));
        let message = Datagram6::icmp(source, to, kind, 0, &[0; 20]).hop_limit(1);
        assert_eq!(world.send(&pod("a"), &message.frame(MacAddr([0x33, 0x33, 0, 0, 0, 2]), POD_MAC)), []);
        expect_counters!(world, {});
    }
}

#[test]
fn a_listener_report_comes_with_a_router_alert_and_ends_here_too() {
    // RFC 3810, 5: a hop-by-hop header with the router alert of RFC 2711, hop limit 1.
    let mut world = World::new();
    let records = [&[0, 0, 0, 1, 4, 0, 0, 0][..], &GATEWAY.octets()].concat();
    let report = Datagram6::icmp(OWN_LINK, "ff02::16".parse().unwrap(), 143, 0, &records).hop_limit(1);
    let alert = report.behind(0, &[0, 5, 2, 0, 0, 1, 0]);
    assert_eq!(world.send(&pod("a"), &alert.frame(MacAddr([0x33, 0x33, 0, 0, 0, 0x16]), POD_MAC)), []);
    expect_counters!(world, {});
}

#[test]
fn the_gateway_answers_when_it_is_asked_whether_it_is_there() {
    for source in [A6, OWN_LINK] {
        let mut world = World::new();
        let asked = Datagram6::echo(source, GATEWAY, false, 7, 1);
        let reply = Datagram6::echo(GATEWAY, source, true, 7, 1);
        let expected = Output { port: pod("a"), frame: reply.frame(POD_MAC, GATEWAY_MAC) };
        assert_eq!(world.send(&pod("a"), &asked.frame(GATEWAY_MAC, POD_MAC)), [expected]);
        expect_counters!(world, {"nd_answered": 1});
    }
    let mut world = World::new();
    let forged = Datagram6::echo(v6(B), GATEWAY, false, 7, 1);
    assert_eq!(world.send(&pod("a"), &forged.frame(GATEWAY_MAC, POD_MAC)), []);
    assert_eq!(world.node.drops(), [(DropReason::SpoofedSource, 1)]);
}

#[test]
fn such_messages_to_this_host_pass_before_policy_and_others_do_not() {
    for (kind, passes) in [
        (130, true),
        (131, true),
        (132, true),
        (133, true),
        (135, true),
        (136, true),
        (134, false),
        (128, false),
        (143, false),
    ] {
        let mut world = World::new();
        world.apply(&super::policy::egress("a", vec![]));
        let message = Datagram6::icmp(A6, NODE1_6, kind, 0, &[0; 20]);
        let expected = Output { port: PortName::Host, frame: message.frame(HOST_MAC, GATEWAY_MAC) };
        let outputs = world.send(&pod("a"), &message.frame(GATEWAY_MAC, POD_MAC));
        assert_eq!(outputs, if passes { vec![expected] } else { vec![] }, "type {kind}");
        let forged = Datagram6::icmp(v6(B), NODE1_6, kind, 0, &[0; 20]);
        assert_eq!(world.send(&pod("a"), &forged.frame(GATEWAY_MAC, POD_MAC)), [], "forged, type {kind}");
    }
}

#[test]
fn a_pod_without_ipv4_is_asked_for_its_link_address_by_ipv6() {
    let mut world = World::new();
    let mut only6 = super::super::world::endpoint("a", A);
    only6.addresses.remove(0);
    world.apply(&[super::super::world::op(caracal_plane_api::plane::op::Op::Endpoint(only6))]);
    let index = world.index_of("a");
    // So that nobody asks a second time.
    world.now = 0;
    let engine = world.node.engine_mut();
    engine.pipeline.links.set_endpoint(index, None);
    engine.set_endpoint_link(index, EndpointLink { pod_mac: None, mtu: 1450 });
    let (group, group_mac) = listeners(A6);
    let question = Datagram6::neighbour(GATEWAY, group, 135, 0, A6, Some(GATEWAY_MAC));
    assert_eq!(world.run(), [Output { port: pod("a"), frame: question.frame(group_mac, GATEWAY_MAC) }]);
}

#[test]
fn a_message_of_the_link_from_the_fabric_is_not_for_us() {
    let (group, _) = listeners(A6);
    let message = Datagram6::neighbour(NODE1_6, group, 135, 0, A6, Some(NEW));
    let mut world = World::new();
    let frame = ethernet(super::super::UPLINK_MAC, NEW, 0x86dd, &message.bytes());
    assert_eq!(world.send(&PortName::Uplink, &frame), []);
    assert_eq!(world.node.drops(), [(DropReason::AddressInvalid, 1)]);
}
