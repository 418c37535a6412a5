//! A node with two ways to the fabric: the kernel's routes say which one a packet takes.

use super::super::datagram::Datagram;
use super::super::world::{self, A, NEIGHBOR_MAC, NODE1, NODE2, OUTSIDE, REMOTE, pod};
use super::super::{HOST_MAC, Output, PortName, SECOND_UPLINK, SECOND_UPLINK_IFINDEX, SECOND_UPLINK_MAC};
use super::support::*;
use crate::batch::Egress;
use crate::pipeline::Link;
use crate::table::{KernelRoute, Prefix};
use caracal_wire::MacAddr;

/// The host's address on the second uplink.
const SECOND_ADDRESS: [u8; 4] = [203, 0, 113, 11];

/// Routes to these go by the second uplink and a gateway there.
fn world_with(second: &[([u8; 4], u8)]) -> World {
    let mut kernel = world::kernel();
    kernel.routes.extend(second.iter().map(|(address, length)| KernelRoute {
        prefix: Prefix::new((*address).into(), *length),
        ifindex: SECOND_UPLINK_IFINDEX,
        gateway: Some([203, 0, 113, 1].into()),
        mtu: 1400,
        source: Some(SECOND_ADDRESS.into()),
    }));
    World::with(kernel, 1024)
}

#[test]
fn a_packet_leaves_by_the_uplink_that_its_route_names() {
    let mut world = world_with(&[(OUTSIDE, 32)]);
    let there = Datagram::udp((A, 9), (OUTSIDE, 53), b"?");
    let expected = Output {
        port: PortName::SecondUplink,
        frame: there.clone().ttl(63).frame(NEIGHBOR_MAC, SECOND_UPLINK_MAC),
    };
    assert_eq!(world.send(&pod("a"), &from_pod(&there)), [expected]);
    let elsewhere = Datagram::udp((A, 9), ([198, 51, 100, 10], 53), b"?");
    assert_eq!(world.send(&pod("a"), &from_pod(&elsewhere)), [to_uplink(&elsewhere.clone().ttl(63))]);
    expect_counters!(world, {"flow_created": 2, "to_uplink_plain": 2});
}

#[test]
fn a_tunnel_goes_by_the_uplink_that_leads_to_its_node() {
    let mut world = world_with(&[(NODE2, 32)]);
    let datagram = Datagram::udp((A, 9), (REMOTE, 53), b"?");
    let outputs = world.send(&pod("a"), &from_pod(&datagram));
    assert_eq!(outputs[0].port, PortName::SecondUplink);
    assert_eq!(MacAddr(outputs[0].frame[6..12].try_into().unwrap()), SECOND_UPLINK_MAC);
    expect_counters!(world, {"flow_created": 1, "tunnel_encapsulated": 1});
}

#[test]
fn answers_may_come_by_another_uplink_and_each_takes_only_what_is_addressed_to_it() {
    let mut world = world_with(&[]);
    world.send(&pod("a"), &from_pod(&Datagram::udp((A, 9), (OUTSIDE, 53), b"?")));
    let back = Datagram::udp((OUTSIDE, 53), (A, 9), b"!");
    let second = back.frame(SECOND_UPLINK_MAC, NEIGHBOR_MAC);
    assert_eq!(world.send(&PortName::SecondUplink, &second), [to_pod("a", &back.clone().ttl(63))]);
    expect_counters!(world, {"flow_created": 1, "to_uplink_plain": 1, "flow_hits": 1});
    assert_eq!(world.send(&PortName::SecondUplink, &from_uplink(&back)), []);
    assert_eq!(world.send(&PortName::Uplink, &second), []);
    expect_counters!(world, {"drop.not-our-mac": 2});
}

#[test]
fn a_route_by_an_interface_that_is_no_uplink_leads_nowhere() {
    let mut world = world_with(&[(OUTSIDE, 32)]);
    world.node.engine_mut().set_uplink(SECOND_UPLINK, None);
    assert_eq!(world.send(&pod("a"), &from_pod(&Datagram::udp((A, 9), (OUTSIDE, 53), b"?"))), []);
    expect_counters!(world, {"flow_created": 1, "drop.port-gone": 1});
}

#[test]
fn what_an_uplink_brings_for_the_host_may_be_larger_than_the_host_port_sends() {
    let mut world = world_with(&[]);
    let small = Link { mac: HOST_MAC, mtu: 1400 };
    world.node.engine_mut().set_link(Egress::Host, Some(small));
    let whole = Datagram::udp((OUTSIDE, 53), (NODE1, 20_000), &[7; 1472]);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&whole)), [to_host(PortName::Host, &whole)]);
    expect_counters!(world, {"to_host": 1});
}

#[test]
fn what_leaves_in_the_nodes_name_has_the_address_of_its_route() {
    let mut world = world_with(&[(OUTSIDE, 32)]);
    world.apply(&super::nat::ops(&[]));
    let there = Datagram::udp((A, 20_009), (OUTSIDE, 53), b"?");
    let wire = Datagram::udp((SECOND_ADDRESS, 20_009), (OUTSIDE, 53), b"?").ttl(63);
    let expected =
        Output { port: PortName::SecondUplink, frame: wire.frame(NEIGHBOR_MAC, SECOND_UPLINK_MAC) };
    assert_eq!(world.send(&pod("a"), &from_pod(&there)), [expected]);
    let answer = Datagram::udp((OUTSIDE, 53), (SECOND_ADDRESS, 20_009), b"!");
    let back = world.send(&PortName::SecondUplink, &answer.frame(SECOND_UPLINK_MAC, NEIGHBOR_MAC));
    assert_eq!(back, [to_pod("a", &Datagram::udp((OUTSIDE, 53), (A, 20_009), b"!").ttl(63))]);
}
