//! From pod to pod on this node, and from a pod to the outside and back.

use super::super::PortName;
use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{A, B, OUTSIDE, PLAIN_REMOTE, pod};
use super::support::*;

#[test]
fn a_packet_between_two_pods_is_tracked_at_both_ends() {
    let mut world = World::new();
    let syn = Datagram::tcp((A, 1000), (B, 80), SYN, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&syn)), [to_pod("b", &syn.clone().ttl(63))]);
    expect_counters!(world, {"flow_created": 2, "delivered_local": 1});
    let answer = Datagram::tcp((B, 80), (A, 1000), SYN | ACK, b"");
    assert_eq!(world.send(&pod("b"), &from_pod(&answer)), [to_pod("a", &answer.clone().ttl(63))]);
    expect_counters!(world, {"flow_hits": 2, "delivered_local": 1});
    assert_eq!(world.flows(), 2);
}

#[test]
fn every_protocol_passes_between_pods() {
    for (description, datagram) in [
        ("tcp", Datagram::tcp((A, 1), (B, 2), SYN, b"")),
        ("udp", Datagram::udp((A, 1), (B, 2), b"hello")),
        ("udp of nothing", Datagram::udp((A, 1), (B, 2), b"")),
        ("sctp", Datagram::sctp((A, 1), (B, 2))),
        ("icmp echo", Datagram::echo(A, B, false, 7, 1)),
        ("a protocol without ports", Datagram::new(A, B, 47, &[0; 4])),
        ("a protocol and no body", Datagram::new(A, B, 50, &[])),
    ] {
        let mut world = World::new();
        let outputs = world.send(&pod("a"), &from_pod(&datagram));
        assert_eq!(outputs, [to_pod("b", &datagram.clone().ttl(63))], "{description}");
        expect_counters!(world, {"flow_created": 2, "delivered_local": 1});
    }
}

#[test]
fn the_time_to_live_goes_down_by_one_and_the_header_checksum_with_it() {
    // Every value, so that every carry of the incremental update is among them.
    let mut world = World::new();
    for ttl in 2..=255 {
        for identification in [0, 0xffff] {
            let datagram = Datagram::udp((A, 1), (B, 2), b"x").identified(identification).ttl(ttl);
            let outputs = world.send(&pod("a"), &from_pod(&datagram));
            assert_eq!(outputs, [to_pod("b", &datagram.clone().ttl(ttl - 1))], "{ttl} {identification:#x}");
        }
    }
}

#[test]
fn a_packet_to_the_outside_goes_to_the_gateway_and_its_answer_comes_back() {
    let mut world = World::new();
    let out = Datagram::udp((A, 5000), (OUTSIDE, 53), b"?");
    assert_eq!(world.send(&pod("a"), &from_pod(&out)), [to_uplink(&out.clone().ttl(63))]);
    expect_counters!(world, {"flow_created": 1, "to_uplink_plain": 1});
    let back = Datagram::udp((OUTSIDE, 53), (A, 5000), b"!");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&back)), [to_pod("a", &back.clone().ttl(63))]);
    expect_counters!(world, {"flow_hits": 1});
}

#[test]
fn a_packet_to_a_node_without_a_tunnel_goes_as_it_is() {
    let mut world = World::new();
    let out = Datagram::udp((A, 1), (PLAIN_REMOTE, 2), b"plain");
    assert_eq!(world.send(&pod("a"), &from_pod(&out)), [to_uplink(&out.clone().ttl(63))]);
    expect_counters!(world, {"flow_created": 1, "to_uplink_plain": 1});
}

#[test]
fn a_pod_reaches_itself_through_its_gateway() {
    let mut world = World::new();
    let datagram = Datagram::udp((A, 1), (A, 2), b"me");
    assert_eq!(world.send(&pod("a"), &from_pod(&datagram)), [to_pod("a", &datagram.clone().ttl(63))]);
}

#[test]
fn what_ethernet_padded_is_not_sent_on() {
    let mut world = World::new();
    let short = Datagram::udp((A, 1), (B, 2), b"x");
    let mut padded = from_pod(&short);
    padded.resize(60, 0xaa);
    assert_eq!(world.send(&pod("a"), &padded), [to_pod("b", &short.clone().ttl(63))]);
    // Nor summed: the padding would spoil a checksum that is completed here.
    let partial = short.clone().partial();
    let mut padded = from_pod(&partial);
    padded.resize(60, 0xaa);
    assert_eq!(world.send(&pod("a"), &padded), [to_pod("b", &short.clone().ttl(63))]);
}

#[test]
fn a_batch_of_many_flows_comes_out_whole_and_in_order_for_each() {
    let mut world = World::new();
    for n in 0..200u16 {
        let datagram = Datagram::udp((A, n % 7), (B, 9), &n.to_be_bytes());
        assert!(world.node.inject(&pod("a"), &from_pod(&datagram)));
    }
    let outputs = world.run();
    let numbers: Vec<u16> =
        outputs.iter().map(|o| u16::from_be_bytes(*o.frame.last_chunk().unwrap())).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    expect_counters!(world, {"flow_created": 14, "flow_hits": 2 * 193, "delivered_local": 200});
}

#[test]
fn half_made_checksums_are_completed_before_they_leave() {
    for (description, whole) in [
        ("tcp", Datagram::tcp((A, 1), (B, 2), SYN, b"")),
        ("tcp with an odd payload", Datagram::tcp((A, 1), (B, 2), ACK, b"odd")),
        ("udp", Datagram::udp((A, 1), (B, 2), b"even")),
        ("udp of nothing", Datagram::udp((A, 1), (B, 2), b"")),
    ] {
        let mut world = World::new();
        let outputs = world.send(&pod("a"), &from_pod(&whole.clone().partial()));
        assert_eq!(outputs, [to_pod("b", &whole.clone().ttl(63))], "{description}");
        assert!(Datagram::read(&outputs[0].frame).unwrap().checksum_is_right());
        expect_counters!(world, {"flow_created": 2, "delivered_local": 1, "checksums_completed": 1});
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    // The payload is chosen so that the sum over everything is 0xffff.
    let mut datagram = Datagram::udp((A, 1), (B, 2), &[0, 0]);
    let sum = u16::from_be_bytes([datagram.body[6], datagram.body[7]]);
    datagram = Datagram::udp((A, 1), (B, 2), &sum.to_be_bytes());
    assert_eq!(datagram.body[6..8], [0xff, 0xff]);
    let mut world = World::new();
    let outputs = world.send(&pod("a"), &from_pod(&datagram.clone().partial()));
    assert_eq!(outputs, [to_pod("b", &datagram.ttl(63))]);
}

#[test]
fn no_udp_checksum_stays_none_and_a_wrong_one_is_the_receivers_to_see() {
    for sum in [[0, 0], [0xde, 0xad]] {
        let mut datagram = Datagram::udp((A, 1), (B, 2), b"x");
        datagram.body[6..8].copy_from_slice(&sum);
        let mut world = World::new();
        assert_eq!(world.send(&pod("a"), &from_pod(&datagram)), [to_pod("b", &datagram.clone().ttl(63))]);
    }
}
