//! What endpoints may move: packets a second, bandwidth, connections at once.

use std::collections::BTreeSet;

use super::super::datagram::{ACK, Datagram, FIN, RST, SYN};
use super::super::world::{self, A, B, NODE1, OUTSIDE, REMOTE, TUNNEL1, endpoint, op, pod};
use super::super::{Output, PortName};
use super::support::*;
use super::workers::Pair;
use crate::drop_reason::DropReason;
use crate::packet::{Offload, PartialChecksum};
use caracal_plane_api::plane::op::Op as Kind;
use caracal_plane_api::plane::{self, Limits};

/// A world in which pod a has these limits.
fn limited(into: Limits, out: Limits) -> World {
    let mut world = World::new();
    limit(&mut world, into, out);
    world
}

fn limit(world: &mut World, into: Limits, out: Limits) {
    world.apply(&[op(Kind::Endpoint(plane::Endpoint {
        ingress_limits: Some(into),
        egress_limits: Some(out),
        ..endpoint("a", A)
    }))]);
}

fn packets(packets_per_second: u64, packet_burst: u64) -> Limits {
    Limits { packets_per_second, packet_burst, ..Limits::default() }
}

fn bandwidth(bits_per_second: u64, burst_bits: u64) -> Limits {
    Limits { bits_per_second, burst_bits, ..Limits::default() }
}

fn connections(connections: u64) -> Limits {
    Limits { connections, ..Limits::default() }
}

/// How many of `count` packets get through.
fn passed(world: &mut World, port: &PortName, frame: &[u8], count: usize) -> usize {
    (0..count).map(|_| world.send(port, frame).len()).sum()
}

fn out(len: usize) -> Vec<u8> {
    from_pod(&Datagram::udp((A, 1), (OUTSIDE, 2), &vec![0; len]))
}

fn back(len: usize) -> Vec<u8> {
    from_uplink(&Datagram::udp((OUTSIDE, 2), (A, 1), &vec![0; len]))
}

#[test]
fn a_super_frame_counts_as_what_it_is_on_a_wire() {
    // Ten segments, of 100 bytes each, and 54 in front of each.
    let frame = from_pod(&Datagram::tcp((A, 1), (B, 2), ACK, &[7; 1000]).dont_fragment().partial());
    let send = |world: &mut World| {
        let checksum = Some(PartialChecksum { start: 34, offset: 16 });
        world.send_chain(&pod("a"), &[&frame], Offload { gso_size: 100, checksum }).len()
    };
    for (limit, reason) in [
        (packets(1, 25), "drop.packet-rate-limit"),
        // Two of them are 24,640 bits; were the headers counted once, three would pass.
        (bandwidth(1000, 26_000), "drop.bandwidth-limit"),
    ] {
        let mut world = limited(Limits::default(), limit);
        assert_eq!([send(&mut world), send(&mut world), send(&mut world)], [10, 10, 0], "{reason}");
        world.expect_moved(&[
            ("checksums_completed", 20),
            ("delivered_local", 2),
            ("flow_created", 2),
            ("flow_hits", if reason == "drop.bandwidth-limit" { 3 } else { 2 }),
            ("segmented", 2),
            ("segments_made", 20),
            (reason, 1),
        ]);
    }
}

#[test]
fn packets_beyond_the_rate_are_dropped_in_the_direction_that_it_is_for() {
    for (is_in, port, frame) in [(false, pod("a"), out(9)), (true, PortName::Uplink, back(9))] {
        let (limit, none) = (packets(100, 10), Limits::default());
        let mut world = if is_in { limited(limit, none) } else { limited(none, limit) };
        assert_eq!(passed(&mut world, &port, &frame, 30), 10, "the burst");
        assert_eq!(world.node.drops(), [(DropReason::PacketRateLimit, 20)]);
        for _ in 0..20 {
            world.now += 50;
            assert_eq!(passed(&mut world, &port, &frame, 20), 5, "the rate");
        }
        world.now += 60_000;
        assert_eq!(passed(&mut world, &port, &frame, 30), 10, "no more than the burst is saved up");
        // The other direction, and other pods, go on.
        let (port, frame) = if is_in { (pod("a"), out(9)) } else { (PortName::Uplink, back(9)) };
        assert_eq!(passed(&mut world, &port, &frame, 30), 30);
        assert_eq!(
            passed(&mut world, &pod("b"), &from_pod(&Datagram::udp((B, 1), (OUTSIDE, 2), b"")), 30),
            30
        );
    }
}

#[test]
fn a_rate_can_be_reached_though_time_is_counted_in_milliseconds() {
    let mut world = limited(Limits::default(), packets(10_000, 1));
    passed(&mut world, &pod("a"), &out(0), 100);
    let mut total = 0;
    for _ in 0..100 {
        world.now += 1;
        total += passed(&mut world, &pod("a"), &out(0), 20);
    }
    assert_eq!(total, 1000, "in a tenth of a second");
}

#[test]
fn bytes_beyond_the_bandwidth_are_dropped() {
    // A frame of 1,000 bytes.
    let (out, back) = (out(1000 - 42), back(1000 - 42));
    for (is_in, port, frame) in [(false, pod("a"), &out), (true, PortName::Uplink, &back)] {
        let (limit, none) = (bandwidth(80_000, 40_000), Limits::default());
        let mut world = if is_in { limited(limit, none) } else { limited(none, limit) };
        assert_eq!(passed(&mut world, &port, frame, 30), 5, "the burst");
        assert_eq!(world.node.drops(), [(DropReason::BandwidthLimit, 25)]);
        for _ in 0..20 {
            world.now += 300;
            assert_eq!(passed(&mut world, &port, frame, 20), 3, "the rate");
        }
    }
}

#[test]
fn the_peak_rate_holds_within_the_burst() {
    let limits =
        Limits { peak_bits_per_second: 80_000, peak_burst_bytes: 2000, ..bandwidth(8_000, 8_000_000) };
    let mut world = limited(Limits::default(), limits);
    let frame = out(1000 - 42);
    assert_eq!(passed(&mut world, &pod("a"), &frame, 30), 2);
    for _ in 0..20 {
        world.now += 100;
        assert_eq!(passed(&mut world, &pod("a"), &frame, 30), 1);
    }
}

#[test]
fn what_policy_denies_takes_nothing_from_the_bandwidth() {
    let mut world = limited(bandwidth(8_000, 8_000), Limits::default());
    world.apply(&[op(Kind::Profile(plane::Profile {
        name: "kns.default".into(),
        ingress: vec![plane::Rule {
            action: plane::Action::Allow.into(),
            protocol: 6,
            ..plane::Rule::default()
        }],
        egress: Vec::new(),
    }))]);
    assert_eq!(passed(&mut world, &PortName::Uplink, &back(900), 30), 0);
    assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 30)]);
    let allowed = from_uplink(&Datagram::tcp((OUTSIDE, 1), (A, 2), SYN, &[0; 900]));
    assert_eq!(world.send(&PortName::Uplink, &allowed).len(), 1);
}

#[test]
fn a_super_frame_counts_with_all_its_bytes_and_passes_though_it_is_larger_than_the_burst() {
    let mut world = limited(Limits::default(), bandwidth(80_000, 8_000));
    let whole = from_pod(&Datagram::udp((A, 1), (OUTSIDE, 2), &[0; 1400]));
    let (first, rest) = whole.split_at(1000);
    let whole = |world: &mut World| world.send_chain(&pod("a"), &[first, rest], Offload::default()).len();
    assert_eq!((whole(&mut world), whole(&mut world)), (1, 0));
    // What it was too large for is paid for first: 442 bytes, at ten a millisecond.
    world.now += 44;
    assert_eq!(passed(&mut world, &pod("a"), &out(0), 1), 0);
    world.now += 6;
    assert_eq!(passed(&mut world, &pod("a"), &out(0), 1), 1);
}

fn syn(port: u16) -> Datagram {
    Datagram::tcp((OUTSIDE, port), (A, 80), SYN, b"")
}

/// The reset that refuses a SYN (RFC 9293, 3.5.2).
fn reset(syn: &Datagram) -> Datagram {
    let port = |at: usize| u16::from_be_bytes([syn.body[at], syn.body[at + 1]]);
    let answer = Datagram::tcp((syn.destination, port(2)), (syn.source, port(0)), RST | ACK, b"");
    answer.numbered(0, 2, 0).dont_fragment()
}

#[test]
fn a_connection_too_many_is_refused_and_one_that_ends_makes_room() {
    let mut world = limited(connections(2), Limits::default());
    for port in 1..=2 {
        assert_eq!(
            world.send(&PortName::Uplink, &from_uplink(&syn(port))),
            [to_pod("a", &syn(port).ttl(63))]
        );
    }
    world.expect_moved(&[("flow_created", 2)]);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(3))), [to_uplink(&reset(&syn(3)))]);
    expect_counters!(world, {"drop.connection-limit": 1, "tcp_resets_sent": 1, "to_uplink_plain": 1});
    let udp = Datagram::udp((OUTSIDE, 3), (A, 80), b"");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&udp)), []);
    expect_counters!(world, {"drop.connection-limit": 1});
    // Those that are there go on, what the pod opens itself is another matter, and the host may always.
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(2))).len(), 1);
    assert_eq!(world.send(&pod("a"), &out(0)).len(), 1);
    assert_eq!(
        world.send(&PortName::Host, &from_host(&Datagram::tcp((NODE1, 9), (A, 80), SYN, b""))).len(),
        1
    );
    world.node.drops();
    // Closed by both sides, though it is still remembered.
    for (is_pods, flags) in [(true, SYN | ACK), (false, ACK), (false, FIN | ACK), (true, FIN | ACK)] {
        let (from, to) = if is_pods { ((A, 80), (OUTSIDE, 1)) } else { ((OUTSIDE, 1), (A, 80)) };
        let datagram = Datagram::tcp(from, to, flags, b"");
        let (port, frame) = if is_pods {
            (pod("a"), from_pod(&datagram))
        } else {
            (PortName::Uplink, from_uplink(&datagram))
        };
        assert_eq!(world.send(&port, &frame).len(), 1);
    }
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(3))).len(), 1);
    assert_eq!(world.node.drops(), []);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(4))), [to_uplink(&reset(&syn(4)))]);
    // One that times out.
    world.now += 30_000;
    world.run();
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(4))).len(), 1);
    assert_eq!(world.node.drops(), [(DropReason::ConnectionLimit, 1)]);
}

#[test]
fn who_opens_is_told_wherever_he_is() {
    let full = || {
        let mut world = limited(connections(1), Limits::default());
        world.send(&PortName::Uplink, &from_uplink(&syn(1)));
        world
    };
    // A pod of this node: its own flow ends, too.
    let asks = Datagram::tcp((B, 5), (A, 80), SYN, b"");
    assert_eq!(full().send(&pod("b"), &from_pod(&asks)), [to_pod("b", &reset(&asks))]);
    // A pod of another node, through the tunnel.
    let asks = Datagram::tcp((REMOTE, 5), (A, 80), SYN, b"");
    let outputs = full().send(&PortName::Uplink, &from_tunnel(&asks));
    assert_eq!(outputs.iter().map(|output| unwrapped(output).0).collect::<Vec<_>>(), [reset(&asks)]);
    // What the host forwards, by the port that it came in by.
    let asks = Datagram::tcp((OUTSIDE, 5), (A, 80), SYN, b"");
    assert_eq!(
        full().send(&PortName::Forward, &from_host(&asks)),
        [to_host(PortName::Forward, &reset(&asks))]
    );
    // Nobody, when it is said in another's name.
    let asks = Datagram::tcp((B, 5), (A, 80), SYN, b"");
    assert_eq!(full().send(&PortName::Uplink, &from_uplink(&asks)), []);
    assert_eq!(full().send(&PortName::Uplink, &from_tunnel(&asks)), []);
}

#[test]
fn a_pod_that_opens_too_many_is_told_by_whom_it_asked() {
    let mut world = limited(Limits::default(), connections(1));
    let asks = |port| Datagram::tcp((A, port), (OUTSIDE, 80), SYN, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&asks(1))).len(), 1);
    assert_eq!(world.send(&pod("a"), &from_pod(&asks(2))), [to_pod("a", &reset(&asks(2)))]);
    // Others' connections to it are another matter.
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(1))).len(), 1);
    // Its first one is refused by the other side: it has ended.
    let refused = Datagram::tcp((OUTSIDE, 80), (A, 1), RST | ACK, b"");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&refused)).len(), 1);
    assert_eq!(world.send(&pod("a"), &from_pod(&asks(2))).len(), 1);
}

#[test]
fn a_pod_is_told_even_where_its_ingress_policy_lets_nothing_in() {
    let mut world = World::new();
    let mut ops = super::policy::deny_all("a");
    let endpoints = ops.iter_mut().filter_map(|op| match &mut op.op {
        Some(Kind::Endpoint(endpoint)) => Some(endpoint),
        _ => None,
    });
    let limited = endpoints.map(|endpoint| endpoint.egress_limits = Some(connections(1))).count();
    assert_eq!(limited, 1);
    world.apply(&ops);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(1))), [], "denied");
    let asks = |port| Datagram::tcp((A, port), (OUTSIDE, 80), SYN, b"");
    world.send(&pod("a"), &from_pod(&asks(1)));
    assert_eq!(world.send(&pod("a"), &from_pod(&asks(2))), [to_pod("a", &reset(&asks(2)))]);
}

#[test]
fn limits_that_change_find_the_connections_that_are_there_and_those_that_do_not_go_on() {
    let mut world = World::new();
    for port in 1..=5 {
        world.send(&PortName::Uplink, &from_uplink(&syn(port)));
    }
    let none = Limits::default;
    limit(&mut world, Limits { connections: 5, ..packets(100, 20) }, none());
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(6))), [to_uplink(&reset(&syn(6)))]);
    limit(&mut world, Limits { connections: 6, ..packets(100, 20) }, none());
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&syn(6))).len(), 1);
    world.node.drops();
    assert_eq!(passed(&mut world, &PortName::Uplink, &from_uplink(&syn(6)), 40), 19);
    // A change that is not about this direction refills nothing.
    limit(&mut world, Limits { connections: 6, ..packets(100, 20) }, packets(1, 1));
    assert_eq!(passed(&mut world, &PortName::Uplink, &from_uplink(&syn(6)), 40), 0);
    limit(&mut world, none(), none());
    assert_eq!(passed(&mut world, &PortName::Uplink, &from_uplink(&syn(6)), 40), 40);
}

#[test]
fn a_connection_over_ipv6_is_refused_as_well() {
    use super::super::datagram6::Datagram6;
    use super::super::world::{OUTSIDE6, v6};
    let mut world = limited(connections(1), Limits::default());
    world.send(&PortName::Uplink, &from_uplink(&syn(1)));
    let asks = Datagram6::tcp((OUTSIDE6, 5), (v6(A), 80), SYN, b"");
    let frame = asks.frame(super::super::UPLINK_MAC, world::NEIGHBOR_MAC);
    let outputs = world.send(&PortName::Uplink, &frame);
    let [Output { port: PortName::Uplink, frame }] = &outputs[..] else { panic!("{outputs:?}") };
    let answer = Datagram6::read(frame).unwrap();
    assert!(answer.checksum_is_right());
    assert_eq!((answer.source, answer.destination), (v6(A), OUTSIDE6));
    // Ports, no sequence number, one more than the SYN's acknowledged, RST and ACK, no window.
    assert_eq!(answer.body[..16], [0, 80, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0x50, RST | ACK, 0, 0]);
}

/// One packet for each reason.
pub fn exceeded() -> BTreeSet<DropReason> {
    let mut world = limited(Limits::default(), Limits { connections: 1, ..packets(1, 1) });
    passed(&mut world, &pod("a"), &out(0), 2);
    limit(&mut world, Limits::default(), Limits { connections: 1, ..bandwidth(1000, 1000) });
    passed(&mut world, &pod("a"), &out(200), 2);
    world.send(&pod("a"), &from_pod(&Datagram::udp((A, 9), (TUNNEL1, 2), b"")));
    world.node.drops().into_iter().map(|(reason, _)| reason).collect()
}

#[test]
fn a_connection_to_a_service_too_many_is_refused_in_the_services_name() {
    use super::nat::{VIP, VIP_PORT, service, with_services};
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    limit(&mut world, Limits::default(), connections(1));
    let asks = |port| Datagram::tcp((A, port), (VIP, VIP_PORT), SYN, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&asks(1))).len(), 1);
    for _ in 0..2 {
        assert_eq!(world.send(&pod("a"), &from_pod(&asks(2))), [to_pod("a", &reset(&asks(2)))]);
    }
    assert_eq!(world.send(&pod("a"), &from_pod(&asks(1))).len(), 1, "the first goes on");
}

#[test]
fn who_opens_is_told_by_way_of_his_own_worker() {
    // a is worker 0's, b worker 1's: the reset that refuses crosses back, and ends a's own flow, which counts no more.
    let mut ops = world::ops();
    for (name, address, into, out) in
        [("b", B, connections(1), Limits::default()), ("a", A, Limits::default(), connections(2))]
    {
        ops.push(op(Kind::Endpoint(plane::Endpoint {
            ingress_limits: Some(into),
            egress_limits: Some(out),
            ..endpoint(name, address)
        })));
    }
    let mut pair = Pair::told(&ops, 256, 64);
    let asks = |port| Datagram::tcp((A, port), (B, 80), SYN, b"");
    assert_eq!(pair.send(&pod("a"), &from_pod(&asks(1))), [to_pod("b", &asks(1).ttl(63))]);
    for port in 2..9 {
        assert_eq!(pair.send(&pod("a"), &from_pod(&asks(port))), [to_pod("a", &reset(&asks(port)))]);
    }
    assert_eq!(pair.dropped(), [DropReason::ConnectionLimit].into());
}

#[test]
fn answers_that_another_worker_translates_take_from_the_bandwidth_as_well() {
    use super::nat::{NODE_PORT, ops, service};
    let mut ops = ops(&[service("web", &[(B, 8080)])]);
    ops.push(op(Kind::Endpoint(plane::Endpoint {
        egress_limits: Some(bandwidth(1000, 1000)),
        ..endpoint("b", B)
    })));
    // b is worker 1's; whose a client is, its port says: some are worker 0's.
    let mut pair = Pair::told(&ops, 256, 64);
    let mut passed = 0;
    for port in 40_000..40_016 {
        let client = (OUTSIDE, port);
        pair.send(&PortName::Uplink, &from_uplink(&Datagram::tcp(client, (NODE1, NODE_PORT), SYN, b"")));
        let answer = Datagram::tcp((B, 8080), client, ACK, &[0; 1000]);
        passed += pair.send(&pod("b"), &from_pod(&answer)).len();
    }
    assert_eq!(passed, 1, "the first, and no other");
    assert_eq!(pair.dropped(), [DropReason::BandwidthLimit].into());
}
