//! Packets of several segments: jumbo frames and super-frames.

use super::super::datagram::{ACK, Datagram, PSH, vxlan};
use super::super::world::{self, A, B, NODE1, NODE2, REMOTE, TUNNEL1_MAC, TUNNEL2_MAC, VNI, VXLAN_PORT, pod};
use super::super::{Kernel, Output, PortName};
use super::support::*;
use crate::packet::{Offload, PartialChecksum};

fn jumbo_world() -> World {
    let mut kernel = Kernel { uplink_mtu: 9000, pod_mtu: 8950, ..world::kernel() };
    kernel.routes.iter_mut().for_each(|route| route.mtu = 9000);
    World::with(kernel, 1024)
}

/// Where a frame is cut into segments: even and odd lengths, a byte alone, many.
const CUTS: [&[usize]; 5] = [
    &[1500, 3000, 4500],
    &[1501, 3002, 4503],
    &[99, 100, 101, 1801, 3500],
    &[54, 55, 1777, 3400],
    &[1700, 3400],
];

fn cut<'a>(frame: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut segments = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([frame.len()]) {
        segments.push(&frame[from..to]);
        from = to;
    }
    segments
}

fn jumbo(from: [u8; 4], to: [u8; 4]) -> Datagram {
    let payload: Vec<u8> = (0..5001u32).map(|n| (n * n) as u8).collect();
    Datagram::tcp((from, 1), (to, 2), ACK, &payload)
}

#[test]
fn a_jumbo_frame_between_pods_comes_out_whole() {
    for cuts in CUTS {
        let mut world = jumbo_world();
        let packet = jumbo(A, B);
        let frame = from_pod(&packet);
        let outputs = world.send_chain(&pod("a"), &cut(&frame, cuts), Offload::default());
        assert_eq!(outputs, [to_pod("b", &packet.ttl(63))], "{cuts:?}");
    }
}

#[test]
fn a_checksum_is_completed_over_all_segments_also_odd_ones() {
    for cuts in CUTS {
        let mut world = jumbo_world();
        let packet = jumbo(A, B);
        let frame = from_pod(&packet.clone().partial());
        let outputs = world.send_chain(&pod("a"), &cut(&frame, cuts), Offload::default());
        assert_eq!(outputs, [to_pod("b", &packet.ttl(63))], "{cuts:?}");
        expect_counters!(world, {"flow_created": 2, "delivered_local": 1, "checksums_completed": 1});
    }
}

#[test]
fn a_jumbo_frame_goes_into_a_tunnel_with_its_checksum_made() {
    for cuts in CUTS {
        let mut world = jumbo_world();
        let packet = jumbo(A, REMOTE);
        let frame = from_pod(&packet.clone().partial());
        let outputs = world.send_chain(&pod("a"), &cut(&frame, cuts), Offload::default());
        assert_eq!(unwrapped(&outputs[0]).0, packet.ttl(63), "{cuts:?}");
    }
}

#[test]
fn a_jumbo_frame_comes_out_of_a_tunnel() {
    for cuts in CUTS {
        let mut world = jumbo_world();
        let packet = jumbo(REMOTE, A);
        let frame = from_tunnel(&packet.clone().partial());
        // All headers are in the first segment: 50 bytes outside, 54 within.
        let cuts: Vec<usize> = cuts.iter().map(|at| at + 50).collect();
        let outputs = world.send_chain(&PortName::Uplink, &cut(&frame, &cuts), Offload::default());
        assert_eq!(outputs, [to_pod("a", &packet.ttl(63))], "{cuts:?}");
    }
}

#[test]
fn headers_that_are_not_in_the_first_segment_are_not_looked_for_elsewhere() {
    let packet = jumbo(A, B);
    let frame = from_pod(&packet);
    for (at, reason) in
        [(13, "drop.ethernet-truncated"), (33, "drop.ipv4-malformed"), (53, "drop.l4-truncated")]
    {
        let mut world = jumbo_world();
        assert_eq!(world.send_chain(&pod("a"), &cut(&frame, &[at, 1700, 3400]), Offload::default()), []);
        world.expect_moved(&[(reason, 1)]);
    }
    let inner = jumbo(REMOTE, A).frame(TUNNEL1_MAC, TUNNEL2_MAC);
    let outer = from_uplink(&vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &inner));
    for (at, reason) in
        [(45, "drop.tunnel-malformed"), (60, "drop.tunnel-malformed"), (70, "drop.ipv4-malformed")]
    {
        let mut world = jumbo_world();
        assert_eq!(
            world.send_chain(&PortName::Uplink, &cut(&outer, &[at, 1700, 3400]), Offload::default()),
            [],
            "{at}"
        );
        world.expect_moved(&[(reason, 1)]);
    }
}

#[test]
fn what_follows_a_chains_packet_is_cut_off_or_the_chain_refused() {
    let packet = jumbo(A, B);
    let mut frame = from_pod(&packet.clone().partial());
    let end = frame.len();
    frame.extend([0xaa; 4]);
    // In the last segment: cut off, so that nobody sums it.
    let mut world = jumbo_world();
    let outputs = world.send_chain(&pod("a"), &cut(&frame, &[1700, 3400]), Offload::default());
    assert_eq!(outputs, [to_pod("b", &packet.ttl(63))]);
    // Whole segments of nothing are no padding.
    let mut world = jumbo_world();
    assert_eq!(world.send_chain(&pod("a"), &cut(&frame, &[1700, 3400, end]), Offload::default()), []);
    expect_counters!(world, {"drop.ipv4-malformed": 1});
}

#[test]
fn a_jumbo_frame_that_is_too_big_for_its_way_is_answered_like_any_other() {
    let mut world = World::new();
    let packet = jumbo(A, B).dont_fragment();
    let frame = from_pod(&packet);
    let outputs = world.send_chain(&pod("a"), &cut(&frame, &[1700, 3400]), Offload::default());
    let about = packet.ttl(63);
    let error = Datagram {
        tos: 0xc0,
        ..Datagram::error(super::super::world::NODE1, A, 3, 4, [0, 0, 0x05, 0xaa], &about, 548)
    };
    assert_eq!(outputs, [to_pod("a", &error)]);
}

#[test]
fn a_super_frame_that_no_outer_header_can_describe_is_one_segment_after_the_other_in_the_tunnel() {
    let mut world = jumbo_world();
    let payload: Vec<u8> = (0..65_535 - 40u32).map(|n| (n * 7) as u8).collect();
    let packet = Datagram::tcp((A, 1), (REMOTE, 2), ACK | PSH, &payload).identified(9).dont_fragment();
    let frame = from_pod(&packet.clone().partial());
    let cuts: Vec<usize> = (1..=34).map(|n| n * 1890).collect();
    let offload = Offload { gso_size: 1400, checksum: Some(PartialChecksum { start: 34, offset: 16 }) };
    let outputs = world.send_chain(&pod("a"), &cut(&frame, &cuts), offload);
    for (n, (output, piece)) in outputs.iter().zip(payload.chunks(1400)).enumerate() {
        let flags = if n == 46 { ACK | PSH } else { ACK };
        let segment = Datagram::tcp((A, 1), (REMOTE, 2), flags, piece)
            .identified(9 + n as u16)
            .dont_fragment()
            .numbered(1 + 1400 * n as u32, 2, 0xffff)
            .ttl(63);
        assert_eq!(unwrapped(output).0, segment, "segment {n}");
    }
    assert_eq!(outputs.len(), 47);
    expect_counters!(world, {
        "flow_created": 1, "tunnel_encapsulated": 1, "segmented": 1, "segments_made": 47, "checksums_completed": 47
    });
}

/// A super-frame of 3,000 bytes whose segments are longer than the other pod's link carries.
fn too_long(packet: &Datagram) -> (World, Vec<Output>) {
    let mut world = World::new();
    let frame = from_pod(&packet.clone().partial());
    let checksum = Some(PartialChecksum { start: 34, offset: 16 });
    let outputs = world.send_chain(&pod("a"), &cut(&frame, &[1700]), Offload { gso_size: 1500, checksum });
    (world, outputs)
}

#[test]
fn a_super_frame_whose_segments_do_not_fit_is_answered_or_cut_shorter() {
    let packet = Datagram::tcp((A, 1), (B, 2), ACK, &[7; 3000]);
    let (_, outputs) = too_long(&packet.clone().dont_fragment());
    assert_eq!(outputs.len(), 1);
    let answer = Datagram::read(&outputs[0].frame).unwrap();
    assert_eq!(
        (outputs[0].port.clone(), &answer.body[..2], &answer.body[6..8]),
        (pod("a"), &[3, 4][..], &[0x05, 0xaa][..])
    );
    // 1,450 bytes are 1,410 of payload.
    let (_, outputs) = too_long(&packet);
    let lengths: Vec<usize> =
        outputs.iter().map(|output| Datagram::read(&output.frame).unwrap().body.len() - 20).collect();
    assert_eq!(lengths, [1410, 1410, 180]);
}
