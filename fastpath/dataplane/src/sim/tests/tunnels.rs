//! Into tunnels and out of them.

use super::super::PortName;
use super::super::datagram::{Datagram, SYN, vxlan};
use super::super::world::{
    A, B, NODE1, NODE2, REMOTE, TUNNEL1, TUNNEL1_MAC, TUNNEL2, TUNNEL2_MAC, VNI, VXLAN_PORT, pod,
};
use super::support::*;

#[test]
fn a_packet_to_another_nodes_pod_is_put_into_the_tunnel() {
    let mut world = World::new();
    let syn = Datagram::tcp((A, 1000), (REMOTE, 80), SYN, b"");
    let outputs = world.send(&pod("a"), &from_pod(&syn));
    assert_eq!(outputs.len(), 1);
    let (inner, _) = unwrapped(&outputs[0]);
    assert_eq!(inner, syn.ttl(63));
    expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 1});
}

#[test]
fn the_outer_source_port_is_one_for_a_flow_and_spreads_over_flows() {
    let mut world = World::new();
    let mut ports = std::collections::BTreeSet::new();
    for flow in 0..200u16 {
        let mut of_flow = |payload: &[u8]| {
            let datagram = Datagram::udp((A, 1000 + flow), (REMOTE, 80), payload);
            unwrapped(&world.send(&pod("a"), &from_pod(&datagram))[0]).1
        };
        let (first, second) = (of_flow(b"one"), of_flow(b"another, longer"));
        assert_eq!(first, second);
        assert!(first >= 49_152, "RFC 7348 recommends the ephemeral range, this is {first}");
        ports.insert(first);
    }
    assert!(ports.len() > 190, "{} ports for 200 flows", ports.len());
}

#[test]
fn a_packet_out_of_the_tunnel_reaches_its_pod_and_the_answer_goes_back_in() {
    let mut world = World::new();
    let request = Datagram::udp((REMOTE, 4000), (A, 53), b"?");
    assert_eq!(world.send(&PortName::Uplink, &from_tunnel(&request)), [to_pod("a", &request.ttl(63))]);
    expect_counters!(world, {"tunnel_decapsulated": 1, "flow_created": 1});
    let answer = Datagram::udp((A, 53), (REMOTE, 4000), b"!");
    let outputs = world.send(&pod("a"), &from_pod(&answer));
    assert_eq!(unwrapped(&outputs[0]).0, answer.ttl(63));
    expect_counters!(world, {"tunnel_encapsulated": 1, "flow_hits": 1});
}

#[test]
fn the_other_node_itself_reaches_a_pod_by_its_tunnel_address_and_by_its_own() {
    for source in [TUNNEL2, NODE2] {
        let mut world = World::new();
        let probe = Datagram::tcp((source, 4000), (A, 80), SYN, b"");
        assert_eq!(world.send(&PortName::Uplink, &from_tunnel(&probe)), [to_pod("a", &probe.ttl(63))]);
    }
}

#[test]
fn half_made_checksums_are_completed_inside_tunnels() {
    for whole in
        [Datagram::tcp((A, 1), (REMOTE, 2), SYN, b"odd"), Datagram::udp((A, 1), (REMOTE, 2), b"even")]
    {
        let mut world = World::new();
        let outputs = world.send(&pod("a"), &from_pod(&whole.clone().partial()));
        let (inner, _) = unwrapped(&outputs[0]);
        assert!(inner.checksum_is_right());
        assert_eq!(inner, whole.ttl(63));
        expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 1, "checksums_completed": 1});
    }
}

#[test]
fn half_made_checksums_that_come_out_of_a_tunnel_are_completed_for_the_pod() {
    let mut world = World::new();
    let whole = Datagram::udp((REMOTE, 1), (A, 2), b"from a veth, all the way");
    let outputs = world.send(&PortName::Uplink, &from_tunnel(&whole.clone().partial()));
    assert_eq!(outputs, [to_pod("a", &whole.ttl(63))]);
    expect_counters!(world, {"tunnel_decapsulated": 1, "flow_created": 1, "checksums_completed": 1});
}

#[test]
fn a_half_made_outer_checksum_goes_with_the_outer_header() {
    let mut world = World::new();
    let inner = Datagram::udp((REMOTE, 1), (A, 2), b"x");
    let frame = inner.frame(TUNNEL1_MAC, TUNNEL2_MAC);
    let outer = vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &frame).partial();
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&outer)), [to_pod("a", &inner.ttl(63))]);
    expect_counters!(world, {"tunnel_decapsulated": 1, "flow_created": 1});
}

#[test]
fn what_the_inner_ethernet_frame_is_padded_with_stays_behind() {
    let mut world = World::new();
    let inner = Datagram::udp((REMOTE, 1), (A, 2), b"x");
    let mut frame = inner.frame(TUNNEL1_MAC, TUNNEL2_MAC);
    frame.resize(60, 0xaa);
    let outer = vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &frame);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&outer)), [to_pod("a", &inner.ttl(63))]);
}

#[test]
fn reserved_bits_of_the_vxlan_header_are_ignored() {
    let mut world = World::new();
    let inner = Datagram::udp((REMOTE, 1), (A, 2), b"x");
    let mut outer = vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &inner.frame(TUNNEL1_MAC, TUNNEL2_MAC));
    outer.body[8] = 0xff;
    outer.body[9..12].fill(0xff);
    outer.body[15] = 0xff;
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&outer)), [to_pod("a", &inner.ttl(63))]);
}

#[test]
fn what_is_for_this_nodes_end_of_the_tunnel_goes_to_the_host() {
    let mut world = World::new();
    let datagram = Datagram::udp((REMOTE, 1), (TUNNEL1, 2), b"x");
    assert_eq!(world.send(&PortName::Uplink, &from_tunnel(&datagram)), [to_host(PortName::Host, &datagram)]);
    expect_counters!(world, {"tunnel_decapsulated": 1, "to_host": 1});
}

#[test]
fn a_vxlan_packet_on_a_pods_way_to_a_pod_of_another_port_is_just_udp() {
    // Only our own tunnel port is a pod's to keep away from.
    let mut world = World::new();
    let datagram = vxlan((A, 1), (B, 8472), VNI, &[0; 20]);
    assert_eq!(world.send(&pod("a"), &from_pod(&datagram)), [to_pod("b", &datagram.ttl(63))]);
}
