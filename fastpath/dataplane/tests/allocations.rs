//! Nothing is allocated for packets once a worker is warm: not for those of known flows, not for new ones, not for those
//! that are dropped or answered, and not when newer tables are adopted. (Tables are built by the controller.)

#![allow(clippy::expect_used, reason = "a test's helpers fail as tests do")]

use caracal_dataplane::clock::Tick;
use caracal_dataplane::coalesce::Coalescer;
use caracal_dataplane::drop_reason::DropReason;
use caracal_dataplane::packet::Packet;
use caracal_dataplane::port::Boxes;
use caracal_dataplane::segment;
use caracal_dataplane::sim::datagram::{ACK, Datagram, SYN, arp, ethernet, vxlan};
use caracal_dataplane::sim::datagram6::Datagram6;
use caracal_dataplane::sim::services::{self, NODE_PORT, VIP, VIP_PORT};
use caracal_dataplane::sim::world::{
    self, A, B, NEIGHBOR_MAC, NOBODY, NODE1, NODE2, OUTSIDE, OUTSIDE6, REMOTE, TUNNEL1, TUNNEL1_MAC,
    TUNNEL2_MAC, VNI, VXLAN_PORT, pod, v6,
};
use caracal_dataplane::sim::{HOST_MAC, Node, POD_MAC, PortName, UPLINK_MAC};
use caracal_dataplane::stage::arp::GATEWAY_MAC;
use caracal_dataplane::stage::nd;
use caracal_plane_api::Encapsulation;
use caracal_wire::MacAddr;
use caracal_xsk::FramePool;

/// Frames, the links that they come by, and where a port number can be written over to make another flow.
struct Traffic(Vec<(PortName, Vec<u8>, usize)>);

const PLAIN_PORT: usize = 14 + 20;
const TUNNELED_PORT: usize = 50 + PLAIN_PORT;
const PLAIN_PORT6: usize = 14 + 40;
const TUNNELED_PORT6: usize = 50 + PLAIN_PORT6;

impl Traffic {
    fn new() -> Traffic {
        let from_pod = |d: Datagram| d.frame(GATEWAY_MAC, POD_MAC);
        let in_tunnel = |d: Datagram| {
            let inner = d.frame(TUNNEL1_MAC, TUNNEL2_MAC);
            vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &inner).frame(UPLINK_MAC, NEIGHBOR_MAC)
        };
        let udp = |from, to| Datagram::udp((from, 1000), (to, 53), &[0; 100]);
        let from_pod6 = |d: Datagram6| d.frame(GATEWAY_MAC, POD_MAC);
        let in_tunnel6 = |d: Datagram6| {
            let inner = d.frame(TUNNEL1_MAC, TUNNEL2_MAC);
            vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &inner).frame(UPLINK_MAC, NEIGHBOR_MAC)
        };
        let udp6 = |from, to| Datagram6::udp((from, 1000), (to, 53), &[0; 100]);
        let solicitation = Datagram6::neighbour(v6(A), nd::GATEWAY, 135, 0, nd::GATEWAY, Some(POD_MAC))
            .frame(GATEWAY_MAC, POD_MAC);
        let question = arp(1, (POD_MAC, A.into()), (MacAddr::ZERO, [169, 254, 1, 1].into()));
        let up = PortName::Uplink;
        Traffic(vec![
            (up.clone(), in_tunnel(udp(REMOTE, A)), TUNNELED_PORT),
            (pod("a"), from_pod(udp(A, REMOTE)), PLAIN_PORT),
            (pod("a"), from_pod(udp(A, B)), PLAIN_PORT),
            (pod("a"), from_pod(Datagram::tcp((A, 1000), (B, 80), SYN, b"").partial()), PLAIN_PORT),
            (pod("b"), from_pod(udp(B, OUTSIDE)), PLAIN_PORT),
            (up.clone(), udp(OUTSIDE, B).frame(UPLINK_MAC, NEIGHBOR_MAC), PLAIN_PORT),
            (PortName::Host, udp(TUNNEL1, A).frame(GATEWAY_MAC, HOST_MAC), PLAIN_PORT),
            (pod("a"), from_pod(udp(A, TUNNEL1)), PLAIN_PORT),
            // Dropped, with an answer and without.
            (pod("a"), from_pod(udp(A, NOBODY)), PLAIN_PORT),
            (pod("a"), from_pod(udp(A, OUTSIDE).ttl(1)), PLAIN_PORT),
            (pod("a"), from_pod(udp(B, OUTSIDE)), PLAIN_PORT),
            (up.clone(), in_tunnel6(udp6(v6(REMOTE), v6(A))), TUNNELED_PORT6),
            (pod("a"), from_pod6(udp6(v6(A), v6(REMOTE))), PLAIN_PORT6),
            (pod("a"), from_pod6(udp6(v6(A), v6(B))), PLAIN_PORT6),
            (pod("a"), from_pod6(udp6(v6(A), OUTSIDE6)), PLAIN_PORT6),
            (pod("a"), from_pod6(udp6(v6(A), OUTSIDE6).hop_limit(1)), PLAIN_PORT6),
            (up, udp(REMOTE, A).frame(UPLINK_MAC, NEIGHBOR_MAC), PLAIN_PORT),
            (pod("a"), from_pod(udp(A, [192, 0, 2, 77])), PLAIN_PORT),
            (pod("a"), solicitation, 0),
            (pod("b"), ethernet(MacAddr::BROADCAST, POD_MAC, 0x0806, &question), PLAIN_PORT),
            (pod("a"), ethernet(MacAddr::BROADCAST, POD_MAC, 0x0806, &question), PLAIN_PORT),
        ])
    }

    /// Sends four of each, in flows of this number, and takes away what comes out.
    fn run(&mut self, node: &mut Node, flow: u16, now: u32) -> usize {
        for (link, frame, port_at) in &mut self.0 {
            if frame[12..14] != [8, 6] && *port_at > 0 {
                frame[*port_at..*port_at + 2].copy_from_slice(&flow.to_be_bytes());
            }
            for _ in 0..4 {
                assert!(node.inject(link, frame));
            }
        }
        node.process(Tick(now));
        // What the worker's thread does after each turn.
        node.engine_mut().pipeline.unknown_neighbors.clear();
        self.0.iter().map(|(link, ..)| node.drain(link, usize::MAX, |_| {})).sum()
    }
}

/// A stream's worth of TCP segments put together, cut, and put together again. Returns what has been allocated for it.
fn through_super_frames(pool: &mut FramePool, boxes: &mut Boxes, waiting: &mut Coalescer) -> u64 {
    let mut frames: Vec<_> = (0..32u32)
        .map(|n| {
            let segment = Datagram::tcp((A, 1), (B, 2), ACK, &[n as u8; 1400])
                .dont_fragment()
                .numbered(1 + 1400 * n, 2, 3)
                .frame(POD_MAC, GATEWAY_MAC);
            let mut frame = pool.take().expect("a frame");
            frame.reset(segment::SEGMENT_HEADROOM);
            frame.append(segment.len()).expect("room").copy_from_slice(&segment);
            frame
        })
        .collect();
    let spent = allocation_counter::measure(|| {
        for frame in frames.drain(..) {
            waiting.add(Packet::new(frame), boxes);
        }
        for _ in 0..10 {
            assert_eq!(waiting.sealed().len(), 1);
            let mut whole = None;
            waiting.sent(1, |packet| whole = Some(packet));
            let cut = segment::cut(whole.expect("a packet"), pool, boxes, |segment, _, boxes| {
                waiting.add(segment, boxes);
            });
            assert_eq!(cut.ok(), Some(32));
        }
        waiting.sealed();
        waiting.sent(1, |packet| packet.release(pool, boxes));
    });
    assert_eq!(pool.free(), pool.total());
    spent.count_total
}

#[test]
fn super_frames_cost_no_allocation_once_a_worker_is_warm() {
    let mut pool = FramePool::heap(64);
    let (mut boxes, mut waiting) = (Boxes::new(), Coalescer::default());
    assert!(through_super_frames(&mut pool, &mut boxes, &mut waiting) > 0, "the first ones do");
    for _ in 0..100 {
        assert_eq!(through_super_frames(&mut pool, &mut boxes, &mut waiting), 0);
    }
}

#[test]
fn packets_cost_no_allocation_once_a_worker_is_warm() {
    let mut node = world::node(1024, 512).unwrap();
    let mut traffic = Traffic::new();
    let mut now = 0;
    for flow in 0..50 {
        now += 10;
        assert!(traffic.run(&mut node, flow, now) > 30);
    }
    let mut rounds = |node: &mut Node, what: &str, flow_of: &dyn Fn(u16) -> u16| {
        let spent = allocation_counter::measure(|| {
            for round in 0..1000 {
                now += 10;
                assert!(traffic.run(node, flow_of(round), now) > 20);
            }
        });
        assert_eq!(spent.count_total, 0, "{what}");
    };
    rounds(&mut node, "packets of known flows", &|_| 7);
    rounds(&mut node, "packets of new flows, in the end in a full table", &|round| 1000 + round);
    for change in 0..20 {
        let prefix = [10, 244, 100 + change, 0];
        node.publish(&[world::route_to_node(prefix, 24, "node2", Encapsulation::Vxlan)]).unwrap();
        let spent = allocation_counter::measure(|| node.engine_mut().adopt());
        assert_eq!(spent.count_total, 0, "adopting tables");
        rounds(&mut node, "the same under newer tables", &|round| round % 3);
    }
    let counters = &node.counters().pipeline;
    for (what, count) in [
        ("hits", counters.flow_hits.get()),
        ("revalidations", counters.flow_revalidated.get()),
        ("evictions", counters.flow_evicted.get()),
        ("decapsulations", counters.tunnel_decapsulated.get()),
        ("encapsulations", counters.tunnel_encapsulated.get()),
        ("errors", counters.icmp_errors_sent.get()),
        ("answers to solicitations", counters.nd_answered.get()),
        ("answers to ARP", counters.arp_answered.get()),
        ("half-made checksums", counters.checksums_completed.get()),
    ] {
        assert!(count > 20, "{count} {what}: the traffic is not what this test is about");
    }
}

#[test]
fn translation_costs_no_allocation_either() {
    use caracal_plane_api::plane::Service;
    let udp =
        |name, backends: &[([u8; 4], u16)]| Service { protocol: 17, ..services::service(name, backends) };
    let mut sticky = udp("sticky", &[(B, 53), (REMOTE, 53), (NODE1, 53)]);
    sticky.affinity_seconds = 1;
    let mut empty = udp("empty", &[]);
    empty.frontends.truncate(1);
    empty.frontends[0].port += 1;
    let mut node = Node::new(&services::ops(&[sticky, empty], None), world::kernel(), 1024, 512).unwrap();
    let packet = |from, to: ([u8; 4], u16)| Datagram::udp((from, 1000), to, &[0; 100]);
    let pod_asks = |to| (pod("a"), packet(A, to).frame(GATEWAY_MAC, POD_MAC), PLAIN_PORT);
    let (vip, node_port) = ((VIP, VIP_PORT), (NODE1, NODE_PORT));
    let mut traffic = Traffic(vec![
        pod_asks(vip),
        pod_asks((VIP, VIP_PORT + 1)),
        pod_asks((OUTSIDE, 53)),
        pod_asks((NODE1, NODE_PORT)),
        (pod("b"), packet(B, (OUTSIDE, 53)).frame(GATEWAY_MAC, POD_MAC), PLAIN_PORT),
        (PortName::Uplink, packet(OUTSIDE, node_port).frame(UPLINK_MAC, NEIGHBOR_MAC), PLAIN_PORT),
        (PortName::Host, packet(NODE1, vip).frame(GATEWAY_MAC, HOST_MAC), PLAIN_PORT),
        (PortName::Host, packet(NODE1, (REMOTE, 53)).frame(GATEWAY_MAC, HOST_MAC), PLAIN_PORT),
    ]);
    let mut now = 0;
    let mut rounds = |node: &mut Node, rounds: u16| {
        for round in 0..rounds {
            now += 10;
            traffic.run(node, round % 700, now);
        }
    };
    rounds(&mut node, 100);
    let spent = allocation_counter::measure(|| rounds(&mut node, 2000));
    assert_eq!(spent.count_total, 0);
    let counters = &node.counters().pipeline;
    for count in [counters.translated.get(), counters.translations_made.get()] {
        assert!(count > 500, "{count}: the traffic is not what this test is about");
    }
}

#[test]
fn limits_windows_and_host_endpoints_cost_no_allocation_either() {
    use caracal_plane_api::plane::op::Op;
    use caracal_plane_api::plane::{self, Action};
    let mut node = world::node(1024, 512).unwrap();
    node.engine_mut().pipeline.flows.check_windows();
    let limits = plane::Limits {
        packets_per_second: 2000,
        bits_per_second: 100_000,
        burst_bits: 10_000,
        connections: 200,
        ..plane::Limits::default()
    };
    let limited = plane::Endpoint {
        ingress_limits: Some(limits),
        egress_limits: Some(limits),
        ..world::endpoint("a", A)
    };
    let policy = |name: &str, rule: plane::Rule| {
        let id =
            plane::PolicyId { kind: "GlobalNetworkPolicy".into(), name: name.into(), ..Default::default() };
        let tier = plane::TierBinding {
            tier: "default".into(),
            default_action: Action::Deny.into(),
            policies: vec![id.clone()],
        };
        let rules = vec![rule];
        let stated =
            plane::Policy { id: Some(id), tier: "default".into(), ingress: rules.clone(), egress: rules };
        (Op::Policy(stated), Some(plane::Hook { ingress: vec![tier.clone()], egress: vec![tier] }))
    };
    let (some, forward) = policy("some", plane::Rule { protocol: 1, ..world::rule(Action::Allow) });
    let (raw, untracked) = policy("raw", plane::Rule { protocol: 6, ..world::rule(Action::Allow) });
    let host = plane::HostEndpoint {
        id: "h".into(),
        interface: "*".into(),
        forward,
        untracked,
        ..plane::HostEndpoint::default()
    };
    let ops = [Op::Endpoint(limited), some, raw, Op::HostEndpoint(host)].map(world::op);
    node.apply(&ops).unwrap();
    let mut traffic = Traffic::new();
    let mut now = 0;
    let mut run = |node: &mut Node, rounds: u16, flow_of: &dyn Fn(u16) -> u16| {
        for round in 0..rounds {
            now += 10;
            traffic.run(node, flow_of(round), now);
        }
    };
    run(&mut node, 50, &|round| round);
    let spent = allocation_counter::measure(|| {
        run(&mut node, 500, &|_| 7);
        run(&mut node, 500, &|round| 1000 + round);
    });
    assert_eq!(spent.count_total, 0);
    let counters = node.counters();
    for reason in [
        DropReason::PacketRateLimit,
        DropReason::BandwidthLimit,
        DropReason::ConnectionLimit,
        DropReason::PolicyDeny,
    ] {
        assert!(counters.dropped(reason) > 20, "{}: {}", reason.label(), counters.dropped(reason));
    }
}
