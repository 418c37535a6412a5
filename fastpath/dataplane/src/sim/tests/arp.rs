//! ARP on pods' links.

use std::net::Ipv4Addr;

use super::super::datagram::{Datagram, arp, ethernet};
use super::super::world::{A, B, pod};
use super::super::{Output, POD_MAC, PortName};
use super::support::*;
use crate::pipeline::EndpointLink;
use crate::stage::arp::{GATEWAY, GATEWAY_MAC};
use caracal_wire::MacAddr;

const A_ADDRESS: Ipv4Addr = Ipv4Addr::new(A[0], A[1], A[2], A[3]);
const NOBODYS: (MacAddr, Ipv4Addr) = (MacAddr::ZERO, Ipv4Addr::UNSPECIFIED);

fn question(sender: (MacAddr, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    ethernet(MacAddr::BROADCAST, sender.0, 0x0806, &arp(1, sender, (MacAddr::ZERO, target)))
}

fn answer_for(target: Ipv4Addr, to: (MacAddr, Ipv4Addr)) -> Output {
    Output { port: pod("a"), frame: ethernet(to.0, GATEWAY_MAC, 0x0806, &arp(2, (GATEWAY_MAC, target), to)) }
}

#[test]
fn whoever_a_pod_asks_for_is_behind_its_gateway() {
    for target in [GATEWAY, Ipv4Addr::from(B), Ipv4Addr::new(8, 8, 8, 8)] {
        let mut world = World::new();
        let asker = (POD_MAC, A_ADDRESS);
        let mut frame = question(asker, target);
        frame.resize(60, 0);
        assert_eq!(world.send(&pod("a"), &frame), [answer_for(target, asker)]);
        expect_counters!(world, {"arp_answered": 1});
    }
}

#[test]
fn a_pods_address_is_learned_from_whatever_it_says() {
    let new = MacAddr([2, 7, 7, 7, 7, 7]);
    for (description, frame, answered) in [
        ("a question", question((new, A_ADDRESS), GATEWAY), 1),
        ("an announcement", question((new, A_ADDRESS), A_ADDRESS), 0),
        (
            "an answer",
            ethernet(GATEWAY_MAC, new, 0x0806, &arp(2, (new, A_ADDRESS), (GATEWAY_MAC, GATEWAY))),
            0,
        ),
    ] {
        let mut world = World::new();
        assert_eq!(world.send(&pod("a"), &frame).len(), answered, "{description}");
        let mut moved = vec![("arp_learned", 1)];
        moved.extend((answered == 1).then_some(("arp_answered", 1)));
        world.expect_moved(&moved);
        let datagram = Datagram::udp((B, 1), (A, 2), b"");
        let outputs = world.send(&pod("b"), &from_pod(&datagram));
        assert_eq!(outputs[0].frame[..6], new.0, "{description}");
    }
}

#[test]
fn an_address_that_is_none_is_not_learned() {
    for mac in [MacAddr::ZERO, MacAddr::BROADCAST, MacAddr([0x01, 0, 0x5e, 0, 0, 1])] {
        let mut world = World::new();
        world.send(&pod("a"), &question((mac, A_ADDRESS), A_ADDRESS));
        expect_counters!(world, {});
    }
}

#[test]
fn an_arp_message_in_anothers_name_is_dropped_and_teaches_nothing() {
    let mut world = World::new();
    let liar = MacAddr([2, 6, 6, 6, 6, 6]);
    assert_eq!(world.send(&pod("a"), &question((liar, Ipv4Addr::from(B)), GATEWAY)), []);
    expect_counters!(world, {"drop.spoofed-source": 1});
    let datagram = Datagram::udp((A, 1), (B, 2), b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&datagram)), [to_pod("b", &datagram.clone().ttl(63))]);
}

#[test]
fn a_pod_that_makes_sure_that_nobody_has_its_address_finds_nobody() {
    let mut world = World::new();
    let probe = (POD_MAC, NOBODYS.1);
    // RFC 5227: an answer would mean that the address is taken, and the pod would not use it.
    assert_eq!(world.send(&pod("a"), &question(probe, A_ADDRESS)), []);
    expect_counters!(world, {});
    // The gateway's is taken.
    assert_eq!(world.send(&pod("a"), &question(probe, GATEWAY)), [answer_for(GATEWAY, probe)]);
    expect_counters!(world, {"arp_answered": 1});
}

#[test]
fn a_pod_that_has_not_been_heard_is_asked_until_it_answers() {
    let mut world = World::new();
    let index = world.index_of("a");
    world
        .node
        .engine_mut()
        .pipeline
        .links
        .set_endpoint(index, Some(EndpointLink { pod_mac: None, mtu: 1450 }));
    let question = ethernet(
        MacAddr::BROADCAST,
        GATEWAY_MAC,
        0x0806,
        &arp(1, (GATEWAY_MAC, GATEWAY), (MacAddr::ZERO, A_ADDRESS)),
    );
    for _ in 0..3 {
        world.now += 50;
        assert_eq!(world.run(), [Output { port: pod("a"), frame: question.clone() }]);
        assert_eq!(world.run(), [], "once an interval");
    }
    let datagram = Datagram::udp((B, 1), (A, 2), b"");
    assert_eq!(world.send(&pod("b"), &from_pod(&datagram)), []);
    expect_counters!(world, {"flow_created": 2, "drop.neighbor-unresolved": 1});
    let answer = arp(2, (POD_MAC, A_ADDRESS), (GATEWAY_MAC, GATEWAY));
    world.send(&pod("a"), &ethernet(GATEWAY_MAC, POD_MAC, 0x0806, &answer));
    expect_counters!(world, {"arp_learned": 1});
    world.now += 1000;
    assert_eq!(world.run(), []);
    assert_eq!(world.send(&pod("b"), &from_pod(&datagram)), [to_pod("a", &datagram.clone().ttl(63))]);
}

#[test]
fn arp_elsewhere_is_not_ours() {
    for port in [PortName::Host, PortName::Forward] {
        let mut world = World::new();
        assert_eq!(world.send(&port, &question((POD_MAC, A_ADDRESS), GATEWAY)), []);
        expect_counters!(world, {"drop.arp-not-for-us": 1});
    }
    // The uplink's program hands us no ARP; were it to, a question to everybody is not addressed to us.
    let mut world = World::new();
    assert_eq!(world.send(&PortName::Uplink, &question((POD_MAC, A_ADDRESS), GATEWAY)), []);
    expect_counters!(world, {"drop.not-our-mac": 1});
}
