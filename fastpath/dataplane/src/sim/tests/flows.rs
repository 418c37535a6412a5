//! The life of flows: how they begin, how they end, and who makes way.

use std::collections::BTreeSet;

use super::super::PortName;
use super::super::datagram::{ACK, Datagram, FIN, RST, SYN};
use super::super::world::{self, A, B, OUTSIDE, endpoint, op, pod};
use super::support::*;
use crate::drop_reason::DropReason;
use caracal_plane_api::plane::op::Op as Kind;

fn out(flags: u8) -> Vec<u8> {
    from_pod(&Datagram::tcp((A, 1000), (OUTSIDE, 80), flags, b""))
}

fn back(flags: u8) -> Vec<u8> {
    from_uplink(&Datagram::tcp((OUTSIDE, 80), (A, 1000), flags, b""))
}

/// Sends packets, true: the pod's, and sees that all pass.
fn walk(world: &mut World, packets: &[(bool, u8)]) {
    for (is_pods, flags) in packets {
        let (port, frame) = if *is_pods { (pod("a"), out(*flags)) } else { (PortName::Uplink, back(*flags)) };
        assert_eq!(world.send(&port, &frame).len(), 1);
    }
}

const CLOSED: [(bool, u8); 6] =
    [(true, SYN), (false, SYN | ACK), (true, ACK), (true, FIN | ACK), (false, FIN | ACK), (true, ACK)];

#[test]
fn a_reset_of_something_unknown_passes_and_is_not_remembered() {
    let mut world = World::new();
    walk(&mut world, &[(true, RST)]);
    expect_counters!(world, {"to_uplink_plain": 1});
    assert_eq!(world.flows(), 0);
}

#[test]
fn a_new_connection_on_a_closed_ones_ports_is_judged_anew() {
    for ending in [&CLOSED[..], &[(true, SYN), (false, RST | ACK)]] {
        let mut world = World::new();
        walk(&mut world, ending);
        // What comes late still belongs to the old one.
        walk(&mut world, &[(false, ACK)]);
        world.expect_moved(&[
            ("flow_created", 1),
            ("flow_hits", ending.len() as u64),
            ("to_uplink_plain", ending.iter().filter(|(is_pods, _)| *is_pods).count() as u64),
        ]);
        walk(&mut world, &[(true, SYN)]);
        expect_counters!(world, {"flow_closed": 1, "flow_created": 1, "to_uplink_plain": 1});
    }
}

#[test]
fn a_new_connection_on_a_closed_ones_ports_in_the_other_direction_is_judged_in_its_own() {
    let mut world = World::new();
    world.apply(&super::policy::deny_all("a"));
    walk(&mut world, &CLOSED);
    assert_eq!(world.send(&PortName::Uplink, &back(SYN)), []);
    assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 1)]);
}

#[test]
fn a_syn_on_an_open_connection_does_not_begin_another() {
    let mut world = World::new();
    walk(&mut world, &[(true, SYN), (false, SYN | ACK), (true, ACK), (true, SYN), (true, ACK)]);
    expect_counters!(world, {"flow_created": 1, "flow_hits": 4, "to_uplink_plain": 4});
}

/// A frame and the link that it comes by.
type Sent = (PortName, Vec<u8>);

#[test]
fn a_silent_flow_ends_when_its_time_is_over_and_not_before() {
    let second = 1000;
    let udp = from_pod(&Datagram::udp((A, 1000), (OUTSIDE, 53), b""));
    let udp_answer = from_uplink(&Datagram::udp((OUTSIDE, 53), (A, 1000), b""));
    let echo = from_pod(&Datagram::echo(A, OUTSIDE, false, 1, 1));
    let gre = from_pod(&Datagram::new(A, OUTSIDE, 47, &[0; 8]));
    let up = PortName::Uplink;
    let a = || pod("a");
    let cases: Vec<(&str, Vec<Sent>, u32)> = vec![
        ("udp", vec![(a(), udp.clone())], 60 * second),
        ("udp, answered", vec![(a(), udp), (up.clone(), udp_answer)], 60 * second),
        ("echo", vec![(a(), echo)], 5 * second),
        ("anything else", vec![(a(), gre)], 600 * second),
        ("tcp, not answered", vec![(a(), out(SYN))], 20 * second),
        ("tcp, half open", vec![(a(), out(SYN)), (up.clone(), back(SYN | ACK))], 20 * second),
        ("tcp", vec![(a(), out(ACK)), (up.clone(), back(ACK))], 3600 * second),
        ("tcp, half closed", vec![(a(), out(ACK)), (a(), out(FIN | ACK))], 3600 * second),
        (
            "tcp, closed",
            vec![(a(), out(FIN | ACK)), (a(), out(FIN | ACK)), (up.clone(), back(FIN | ACK))],
            30 * second,
        ),
        ("tcp, reset", vec![(a(), out(SYN)), (up, back(RST))], 40 * second),
    ];
    for (description, packets, lives) in cases {
        let mut world = World::new();
        for (port, frame) in &packets {
            assert_eq!(world.send(port, frame).len(), 1, "{description}");
        }
        // Time goes by in turns, as for a worker.
        let began = world.now;
        let mut lived = None;
        while lived.is_none() && world.now - began < lives + 20 * second {
            world.now += second;
            world.run();
            if world.flows() == 0 {
                lived = Some(world.now - began);
            }
        }
        let lived = lived.unwrap_or_else(|| panic!("{description}: lives on"));
        assert!(lived > lives, "{description}: forgotten after {lived} ms");
        // And when nobody has come by yet: the next packet begins another flow.
        let (port, frame) = packets.last().unwrap();
        for (after, still) in [(lives, true), (lives + 1, false)] {
            let mut world = World::new();
            for (port, frame) in &packets {
                world.send(port, frame);
            }
            let before = world.node.counters().pipeline.flow_hits.get();
            world.now += after;
            world.send(port, frame);
            let hit = world.node.counters().pipeline.flow_hits.get() > before;
            assert_eq!(hit, still, "{description}, after {after} ms");
        }
    }
}

#[test]
fn time_is_right_across_the_wrap_of_its_counter() {
    let mut world = World::new();
    world.now = u32::MAX - 10;
    let udp = from_pod(&Datagram::udp((A, 1000), (OUTSIDE, 53), b""));
    world.send(&pod("a"), &udp);
    world.now = world.now.wrapping_add(30_000);
    world.send(&pod("a"), &udp);
    expect_counters!(world, {"flow_created": 1, "flow_hits": 1, "to_uplink_plain": 2});
}

#[test]
fn an_address_that_a_pod_loses_takes_its_flows_with_it() {
    let mut world = World::new();
    let datagram = Datagram::tcp((A, 1), (B, 2), ACK, b"");
    world.send(&pod("a"), &from_pod(&datagram));
    assert_eq!(world.flows(), 2);
    world.apply(&[op(Kind::EndpointRemove("default/b".into()))]);
    for _ in 0..66 {
        world.now += 1000;
        world.run();
        if world.flows() == 1 {
            break;
        }
    }
    assert_eq!(world.flows(), 1, "a's own flow is still there");
    // The same name, another pod: whoever spoke to the old one is judged by what the new one says.
    let mut closed = endpoint("b", B);
    closed.profiles.clear();
    world.apply(&[op(Kind::Endpoint(closed))]);
    assert_eq!(world.send(&pod("a"), &from_pod(&datagram)), []);
    assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 1)]);
}

#[test]
fn an_address_that_moves_to_another_pod_takes_no_flow_there() {
    let mut world = World::new();
    let asked = Datagram::udp((OUTSIDE, 1), (B, 2), b"");
    world.send(&PortName::Uplink, &from_uplink(&asked));
    let mut ops = super::policy::deny_all("c");
    if let Some(Kind::Endpoint(endpoint)) = &mut ops[1].op {
        endpoint.addresses = vec![B.to_vec()];
    }
    ops.insert(0, op(Kind::EndpointRemove("default/b".into())));
    world.apply(&ops);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&asked)), []);
    assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 1)]);
}

/// Fills the smallest table with flows that have been answered, until one finds no room.
pub fn table_full() -> BTreeSet<DropReason> {
    let mut world = World::with(world::kernel(), 64);
    let mut open = Vec::new();
    for port in 0..400 {
        let (asked, answer) =
            (Datagram::udp((A, port), (OUTSIDE, 53), b"?"), Datagram::udp((OUTSIDE, 53), (A, port), b"!"));
        if world.send(&pod("a"), &from_pod(&asked)).len() == 1 {
            assert_eq!(world.send(&PortName::Uplink, &from_uplink(&answer)).len(), 1);
            open.push(asked);
        }
    }
    let refused = 400 - open.len() as u64;
    assert!(open.len() <= 64 && open.len() > 40, "{} flows", open.len());
    let open_count = open.len() as u64;
    world.expect_moved(&[
        ("drop.flow-table-full", refused),
        ("flow_created", open_count),
        ("flow_hits", open_count),
        ("to_uplink_plain", open_count),
    ]);
    // None of the open ones made way.
    for asked in &open {
        assert_eq!(world.send(&pod("a"), &from_pod(asked)).len(), 1);
    }
    world.expect_moved(&[("flow_hits", open_count), ("to_uplink_plain", open_count)]);
    world.node.drops().into_iter().map(|(reason, _)| reason).collect()
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_open_ones() {
    table_full();
}

#[test]
fn a_flood_of_questions_makes_way_among_itself() {
    let mut world = World::with(world::kernel(), 64);
    let asked = Datagram::udp((A, 9), (OUTSIDE, 53), b"?");
    world.send(&pod("a"), &from_pod(&asked));
    world.send(&PortName::Uplink, &from_uplink(&Datagram::udp((OUTSIDE, 53), (A, 9), b"!")));
    for port in 100..1100 {
        world.now += 1;
        let outputs = world.send(&pod("a"), &from_pod(&Datagram::tcp((A, port), (OUTSIDE, 80), SYN, b"")));
        assert_eq!(outputs.len(), 1);
    }
    let counters = &world.node.counters().pipeline;
    assert_eq!((counters.flow_created.get(), counters.flow_evicted.get() > 900), (1001, true));
    let before = counters.flow_hits.get();
    world.send(&pod("a"), &from_pod(&asked));
    assert_eq!(world.node.counters().pipeline.flow_hits.get(), before + 1, "the answered one is still there");
}

#[test]
fn a_flood_of_syns_of_ten_tables_cuts_nobody_off_and_keeps_nobody_out() {
    let mut world = World::with(world::kernel(), 1024);
    let capacity = world.node.engine_mut().pipeline.flows.capacity() as u32;
    let from_peer = |host: u32, port: u16, flags| {
        let [_, b, c, d] = host.to_be_bytes();
        from_uplink(&Datagram::tcp(([203, b, c, d], port), (A, 80), flags, b""))
    };
    let from_a = |host: u32, port: u16, flags| {
        let [_, b, c, d] = host.to_be_bytes();
        from_pod(&Datagram::tcp((A, 80), ([203, b, c, d], port), flags, b""))
    };
    let opens = |world: &mut World, host, port| {
        world.send(&PortName::Uplink, &from_peer(host, port, SYN)).len() == 1
            && world.send(&pod("a"), &from_a(host, port, SYN | ACK)).len() == 1
            && world.send(&PortName::Uplink, &from_peer(host, port, ACK)).len() == 1
    };
    let friends = capacity / 4;
    assert!((0..friends).all(|host| opens(&mut world, host, 7)));
    let created = world.node.counters().pipeline.flow_created.get();
    let mut kept_out = 0;
    for n in 0..10 * capacity {
        world.now += u32::from(n % 16 == 0);
        world.send(&PortName::Uplink, &from_peer(1 << 20 | n, 9, SYN));
        // Friends talk all the while, and from time to time there is a new one.
        assert_eq!(world.send(&PortName::Uplink, &from_peer(n % friends, 7, ACK)).len(), 1);
        if n % 64 == 0 {
            kept_out += u32::from(!opens(&mut world, n, 8));
        }
    }
    let counters = &world.node.counters().pipeline;
    // None of the friends has begun again: a packet in the middle would have.
    let news = 10 * capacity + 10 * capacity / 64;
    assert_eq!(counters.flow_created.get() - created, u64::from(news - kept_out));
    assert!(counters.flow_evicted.get() > u64::from(8 * capacity), "the flood displaces the flood");
    assert_eq!(kept_out, 0);
    assert!(world.flows() <= capacity as usize);
}

/// A world that checks windows, in which pod a has opened a connection to somebody outside: both have sent their SYN
/// with the number 0, and take 1,000 bytes.
fn with_windows() -> World {
    let mut world = World::new();
    world.node.engine_mut().pipeline.flows.check_windows();
    for (is_pods, flags, numbers) in [(true, SYN, (0, 0)), (false, SYN | ACK, (0, 1)), (true, ACK, (1, 1))] {
        assert_eq!(numbered(&mut world, is_pods, flags, numbers), 1);
    }
    world
}

fn numbered(world: &mut World, is_pods: bool, flags: u8, (sequence, acknowledgement): (u32, u32)) -> usize {
    let (pods, peers) = ((A, 1000), (OUTSIDE, 80));
    let of = |from, to| Datagram::tcp(from, to, flags, b"").numbered(sequence, acknowledgement, 1000);
    match is_pods {
        true => world.send(&pod("a"), &from_pod(&of(pods, peers))).len(),
        false => world.send(&PortName::Uplink, &from_uplink(&of(peers, pods))).len(),
    }
}

/// A blind reset, and a segment of somebody who does not know the connection's numbers.
pub fn out_of_window() -> BTreeSet<DropReason> {
    let mut world = with_windows();
    assert_eq!(numbered(&mut world, false, RST, (77_000, 0)), 0);
    assert_eq!(numbered(&mut world, false, ACK, (77_000, 1)), 0);
    world.node.drops().into_iter().map(|(reason, _)| reason).collect()
}

#[test]
fn a_segment_outside_of_the_windows_neither_passes_nor_ends_the_connection() {
    out_of_window();
    let mut world = with_windows();
    assert_eq!(numbered(&mut world, false, RST, (77_000, 0)), 0);
    // Still established: a SYN begins nothing.
    world.expect_moved(&[
        ("flow_created", 1),
        ("flow_hits", 2),
        ("to_uplink_plain", 2),
        ("drop.tcp-out-of-window", 1),
    ]);
    assert_eq!(numbered(&mut world, false, ACK, (1, 1)), 1);
    assert_eq!(numbered(&mut world, true, RST, (1, 1)), 1, "an honest reset");
    // The ports used again, with other numbers.
    assert_eq!(numbered(&mut world, true, SYN, (1 << 30, 0)), 1);
    assert_eq!(numbered(&mut world, false, SYN | ACK, (1 << 31, (1 << 30) + 1)), 1);
    assert_eq!(numbered(&mut world, true, ACK, ((1 << 30) + 1, (1 << 31) + 1)), 1);
    assert_eq!(numbered(&mut world, true, ACK, (1, 1)), 0);
    // Somebody who was there before is not judged.
    let middle = Datagram::tcp((B, 5), (OUTSIDE, 80), ACK, b"");
    for sequence in [5, 1 << 30] {
        let middle = middle.clone().numbered(sequence, 7, 10);
        assert_eq!(world.send(&pod("b"), &from_pod(&middle)).len(), 1);
    }
}
