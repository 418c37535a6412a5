//! ICMP errors: those that we send, and those that pass through.

use super::super::PortName;
use super::super::datagram::{Datagram, SYN};
use super::super::world::{
    self, A, B, NOBODY, NODE1, OUTSIDE, PLAIN_REMOTE, POD_MTU, REMOTE, TUNNEL1, UPLINK_MTU, pod,
};
use super::support::*;

/// The error that this node must send to `to`: precedence 6 (RFC 1812, 4.3.2.5), and as much of the packet as fits 576
/// bytes.
fn ours(from: [u8; 4], kind: u8, code: u8, rest: [u8; 4], about: &Datagram) -> Datagram {
    Datagram { tos: 0xc0, ..Datagram::error(from, about.source, kind, code, rest, about, 576 - 28) }
}

#[test]
fn a_pod_whose_packet_ran_out_of_hops_is_told_by_the_node() {
    for payload in [0, 8, 520, 521, 1000] {
        let mut world = World::new();
        let packet = Datagram::udp((A, 33_434), (OUTSIDE, 33_434), &vec![7; payload]).identified(9).ttl(1);
        let error = ours(NODE1, 11, 0, [0; 4], &packet);
        assert!(error.bytes().len() <= 576);
        assert_eq!(world.send(&pod("a"), &from_pod(&packet)), [to_pod("a", &error)], "{payload}");
        expect_counters!(world, {"flow_created": 1, "drop.ttl-exceeded": 1, "icmp_errors_sent": 1, "flow_related": 1, "flow_hits": 1});
    }
}

#[test]
fn a_pod_behind_a_tunnel_is_told_by_the_tunnels_address_through_the_tunnel() {
    let mut world = World::new();
    let packet = Datagram::tcp((REMOTE, 4000), (A, 80), SYN, b"").ttl(1);
    let outputs = world.send(&PortName::Uplink, &from_tunnel(&packet));
    assert_eq!(outputs.len(), 1);
    assert_eq!(unwrapped(&outputs[0]).0, ours(TUNNEL1, 11, 0, [0; 4], &packet));
    expect_counters!(world, {
        "tunnel_decapsulated": 1, "drop.ttl-exceeded": 1, "icmp_errors_sent": 1, "tunnel_encapsulated": 1
    });
}

#[test]
fn somebody_outside_is_told_by_the_node() {
    let mut world = World::new();
    let packet = Datagram::udp((OUTSIDE, 4000), (A, 80), b"").ttl(1);
    let outputs = world.send(&PortName::Uplink, &from_uplink(&packet));
    assert_eq!(outputs, [to_uplink(&ours(NODE1, 11, 0, [0; 4], &packet))]);
}

#[test]
fn a_packet_that_does_not_fit_and_must_not_be_fragmented_is_answered_with_what_would_fit() {
    let tunnel_mtu = UPLINK_MTU - 50;
    for (description, destination, mtu) in [
        ("to a pod here", B, POD_MTU),
        ("into the tunnel", REMOTE, tunnel_mtu),
        ("outside", OUTSIDE, UPLINK_MTU),
    ] {
        let mut world = World::new();
        let of = |len: u16| {
            Datagram::udp((A, 1), (destination, 2), &vec![1; usize::from(len) - 28]).dont_fragment()
        };
        assert_eq!(world.send(&pod("a"), &from_pod(&of(mtu))).len(), 1, "{description}: exactly fits");
        let packet = of(mtu + 1);
        // The quoted packet is as it would have been sent on, one hop on.
        let about = packet.clone().ttl(63);
        let [high, low] = mtu.to_be_bytes();
        let error = ours(NODE1, 3, 4, [0, 0, high, low], &about);
        assert_eq!(world.send(&pod("a"), &from_pod(&packet)), [to_pod("a", &error)], "{description}");
        assert_eq!(world.node.drops(), [(crate::drop_reason::DropReason::PacketTooBig, 1)], "{description}");
    }
}

#[test]
fn a_packet_for_a_pod_that_is_not_there_is_answered_with_host_unreachable() {
    let mut world = World::new();
    let packet = Datagram::udp((A, 1), (NOBODY, 2), b"x");
    let error = ours(NODE1, 3, 1, [0; 4], &packet);
    assert_eq!(world.send(&pod("a"), &from_pod(&packet)), [to_pod("a", &error)]);
    let mut world = World::new();
    let packet = Datagram::udp((REMOTE, 1), (NOBODY, 2), b"x");
    let outputs = world.send(&PortName::Uplink, &from_tunnel(&packet));
    assert_eq!(unwrapped(&outputs[0]).0, ours(TUNNEL1, 3, 1, [0; 4], &packet));
}

#[test]
fn a_pod_is_told_when_there_is_no_way_to_the_node_of_the_other_pod() {
    for (description, destination) in [("through a tunnel", REMOTE), ("without a tunnel", PLAIN_REMOTE)] {
        let mut kernel = world::kernel();
        kernel.routes.clear();
        let mut world = World::with(kernel, 64);
        let packet = Datagram::udp((A, 1), (destination, 2), b"x");
        let error = ours(NODE1, 3, 0, [0; 4], &packet.clone().ttl(63));
        assert_eq!(world.send(&pod("a"), &from_pod(&packet)), [to_pod("a", &error)], "{description}");
        expect_counters!(world, {"flow_created": 1, "drop.no-route": 1, "icmp_errors_sent": 1, "flow_related": 1, "flow_hits": 1});
        // An error is not answered with one.
        let error = Datagram::error(A, destination, 3, 3, [0; 4], &packet, 28);
        assert_eq!(world.send(&pod("a"), &from_pod(&error)), [], "{description}");
    }
}

#[test]
fn an_error_is_never_answered_with_an_error() {
    let mut world = World::new();
    let asked = Datagram::udp((OUTSIDE, 1), (A, 2), b"?");
    world.send(&PortName::Uplink, &from_uplink(&asked));
    expect_counters!(world, {"flow_created": 1});
    for (kind, code) in [(3, 3), (11, 0), (12, 0), (4, 0), (5, 1)] {
        let error = Datagram::error(A, OUTSIDE, kind, code, [0; 4], &asked, 28).ttl(1);
        assert_eq!(world.send(&pod("a"), &from_pod(&error)), [], "type {kind}");
        expect_counters!(world, {"flow_related": 1, "flow_hits": 1, "drop.ttl-exceeded": 1});
    }
    // A question may be.
    let echo = Datagram::echo(A, OUTSIDE, false, 1, 1).ttl(1);
    assert_eq!(world.send(&pod("a"), &from_pod(&echo)).len(), 1);
}

#[test]
fn errors_are_sent_at_a_limited_rate() {
    let mut world = World::new();
    let packet = Datagram::udp((A, 1), (OUTSIDE, 2), b"").ttl(1);
    let flood = |world: &mut World| {
        for _ in 0..100 {
            assert!(world.node.inject(&pod("a"), &from_pod(&packet)));
        }
        world.run().len()
    };
    assert_eq!(flood(&mut world), 64);
    expect_counters!(world, {
        "flow_created": 1, "flow_hits": 99 + 64, "drop.ttl-exceeded": 100, "icmp_errors_sent": 64, "flow_related": 64,
        "icmp_errors_suppressed": 36
    });
    world.now += 10;
    assert_eq!(flood(&mut world), 10, "a thousand a second");
}

#[test]
fn an_error_about_a_pods_flow_reaches_it_from_wherever_it_comes() {
    let asked = Datagram::udp((A, 1000), (OUTSIDE, 53), b"?");
    let tcp = Datagram::tcp((A, 1000), (OUTSIDE, 80), SYN, b"");
    let echo = Datagram::echo(A, OUTSIDE, false, 77, 1);
    let sctp = Datagram::sctp((A, 1), (OUTSIDE, 2));
    for (description, about, kind, code) in [
        ("port unreachable", &asked, 3, 3),
        ("fragmentation needed", &tcp, 3, 4),
        ("time exceeded, about an echo", &echo, 11, 0),
        ("host unreachable, about SCTP", &sctp, 3, 1),
    ] {
        let mut world = World::new();
        world.send(&pod("a"), &from_pod(about));
        // A router on the way says so, not the peer; and quotes eight bytes, as the oldest do.
        let error = Datagram::error([203, 0, 113, 1], A, kind, code, [0; 4], about, 28);
        let outputs = world.send(&PortName::Uplink, &from_uplink(&error));
        assert_eq!(outputs, [to_pod("a", &error.ttl(63))], "{description}");
        expect_counters!(world, {"flow_created": 1, "to_uplink_plain": 1, "flow_related": 1, "flow_hits": 1});
    }
}

#[test]
fn an_error_that_a_pod_sends_about_a_flow_of_its_peer_goes_through_both_ends() {
    let mut world = World::new();
    let asked = Datagram::udp((A, 1000), (B, 53), b"?");
    world.send(&pod("a"), &from_pod(&asked));
    expect_counters!(world, {"flow_created": 2, "delivered_local": 1});
    let error = Datagram::error(B, A, 3, 3, [0; 4], &asked.clone().ttl(63), 28 + 8);
    assert_eq!(world.send(&pod("b"), &from_pod(&error)), [to_pod("a", &error.clone().ttl(63))]);
    expect_counters!(world, {"flow_related": 2, "flow_hits": 2, "delivered_local": 1});
    assert_eq!(world.flows(), 2, "an error begins no flow");
}

#[test]
fn an_error_about_something_else_does_not_pass() {
    let mut world = World::new();
    let asked = Datagram::udp((A, 1000), (OUTSIDE, 53), b"?");
    world.send(&pod("a"), &from_pod(&asked));
    expect_counters!(world, {"flow_created": 1, "to_uplink_plain": 1});
    for (description, about) in [
        ("another port of the peer", Datagram::udp((A, 1000), (OUTSIDE, 54), b"?")),
        ("another port of the pod", Datagram::udp((A, 1001), (OUTSIDE, 53), b"?")),
        ("another peer", Datagram::udp((A, 1000), ([198, 51, 100, 10], 53), b"?")),
        ("another pod", Datagram::udp((B, 1000), (OUTSIDE, 53), b"?")),
        ("another protocol", Datagram::tcp((A, 1000), (OUTSIDE, 53), SYN, b"")),
        ("the other way round", Datagram::udp((OUTSIDE, 53), (A, 1000), b"?")),
    ] {
        let error = Datagram::error(OUTSIDE, A, 3, 3, [0; 4], &about, 28);
        assert_eq!(world.send(&PortName::Uplink, &from_uplink(&error)), [], "{description}");
        expect_counters!(world, {"drop.related-unknown": 1});
    }
    // Nor does one from the pod.
    let error = Datagram::error(A, OUTSIDE, 3, 3, [0; 4], &asked, 28);
    assert_eq!(world.send(&pod("a"), &from_pod(&error)), []);
    expect_counters!(world, {"drop.related-unknown": 1});
}

#[test]
fn an_error_about_a_flow_that_policy_has_ended_since_does_not_pass() {
    let mut world = World::new();
    let asked = Datagram::udp((A, 1000), (B, 53), b"?");
    world.send(&pod("a"), &from_pod(&asked));
    world.apply(&super::policy::deny_all("b"));
    let error = Datagram::error(B, A, 3, 3, [0; 4], &asked, 28);
    assert_eq!(world.send(&pod("b"), &from_pod(&error)), []);
    expect_counters!(world, {
        "flow_created": 2, "delivered_local": 1, "flow_rejudged": 1, "drop.related-unknown": 1
    });
}
