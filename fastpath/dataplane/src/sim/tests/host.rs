//! The host and its own pods: two ports, of which only the first is above policy.

use std::collections::BTreeSet;

use super::super::PortName;
use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{self, A, NODE1, OUTSIDE, REMOTE, TUNNEL1, op, pod};
use super::policy::{deny_all, egress, ingress};
use super::support::*;
use crate::drop_reason::DropReason;
use caracal_plane_api::plane::{self, EndpointToHost, Op, op::Op as Kind};

#[test]
fn the_host_reaches_its_own_pod_whatever_policy_says_and_hears_it_by_the_same_port() {
    for source in [TUNNEL1, NODE1] {
        let mut world = World::new();
        world.apply(&deny_all("a"));
        let probe = Datagram::tcp((source, 40_000), (A, 80), SYN, b"");
        // The host has counted the hop itself, so to say: it is where the packet starts.
        assert_eq!(world.send(&PortName::Host, &from_host(&probe)), [to_pod("a", &probe)]);
        expect_counters!(world, {"host_to_pod": 1, "flow_created": 1});
        let answer = Datagram::tcp((A, 80), (source, 40_000), SYN | ACK, b"");
        assert_eq!(world.send(&pod("a"), &from_pod(&answer)), [to_host(PortName::Host, &answer)]);
        expect_counters!(world, {"flow_hits": 1, "to_host": 1});
    }
}

#[test]
fn the_hosts_connections_outlive_changes_of_policy() {
    let mut world = World::new();
    let probe = Datagram::tcp((TUNNEL1, 40_000), (A, 80), SYN, b"");
    world.send(&PortName::Host, &from_host(&probe));
    world.apply(&deny_all("a"));
    assert_eq!(world.send(&PortName::Host, &from_host(&probe)).len(), 1);
    expect_counters!(world, {"host_to_pod": 1, "flow_created": 1, "flow_rejudged": 1});
}

#[test]
fn what_the_host_forwards_is_judged() {
    let mut world = World::new();
    world.apply(&deny_all("a"));
    let forwarded = Datagram::tcp((OUTSIDE, 40_000), (A, 80), SYN, b"").ttl(60);
    assert_eq!(world.send(&PortName::Forward, &from_host(&forwarded)), []);
    expect_counters!(world, {"drop.policy-deny": 1});
}

/// The world's node, configured otherwise.
pub fn configured(change: impl Fn(&mut plane::NodeConfig)) -> Op {
    let mut ops = world::ops().into_iter();
    let config = ops.find_map(|op| match op.op {
        Some(Kind::NodeConfig(config)) => Some(config),
        _ => None,
    });
    let mut config = config.unwrap();
    change(&mut config);
    op(Kind::NodeConfig(config))
}

#[test]
fn what_a_pod_sends_to_its_host_is_dropped_where_the_node_says_so_but_not_its_answers() {
    for (action, passes) in
        [(EndpointToHost::Accept, true), (EndpointToHost::Return, true), (EndpointToHost::Drop, false)]
    {
        let mut world = World::new();
        world.apply(&[configured(|config| config.endpoint_to_host = action.into())]);
        for host in [NODE1, TUNNEL1] {
            let own = Datagram::tcp((A, 5000), (host, 10_250), SYN, b"");
            let outputs = world.send(&pod("a"), &from_pod(&own));
            assert_eq!(outputs.len(), usize::from(passes), "{action:?}");
            let drops = if passes { vec![] } else { vec![(DropReason::EndpointToHost, 1)] };
            assert_eq!(world.node.drops(), drops, "{action:?}");
            let probe = Datagram::tcp((host, 40_000), (A, 80), SYN, b"");
            assert_eq!(world.send(&PortName::Host, &from_host(&probe)).len(), 1, "{action:?}");
            let answer = Datagram::tcp((A, 80), (host, 40_000), SYN | ACK, b"");
            assert_eq!(
                world.send(&pod("a"), &from_pod(&answer)),
                [to_host(PortName::Host, &answer)],
                "{action:?}"
            );
        }
        // Policy comes first.
        world.apply(&egress("a", vec![]));
        let denied = Datagram::tcp((A, 5001), (NODE1, 10_250), SYN, b"");
        assert_eq!(world.send(&pod("a"), &from_pod(&denied)), []);
        assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 1)], "{action:?}");
    }
}

/// The reason that a closed host's packet is dropped for.
pub fn closed() -> BTreeSet<DropReason> {
    let mut world = World::new();
    world.apply(&[configured(|config| config.endpoint_to_host = EndpointToHost::Drop.into())]);
    world.send(&pod("a"), &from_pod(&Datagram::udp((A, 1), (NODE1, 2), b"")));
    expect_counters!(world, {"flow_created": 1, "drop.endpoint-to-host": 1});
    BTreeSet::from([DropReason::EndpointToHost])
}

#[test]
fn pods_may_send_tunnel_packets_where_the_node_says_so() {
    let vxlan = Datagram::udp((A, 5000), (OUTSIDE, 4789), b"");
    let ipip = Datagram::new(A, OUTSIDE, 4, &[0; 20]);
    for (allow_vxlan, allow_ipip) in [(false, true), (true, false)] {
        let mut world = World::new();
        world.apply(&[configured(|config| {
            config.allow_vxlan_from_workloads = allow_vxlan;
            config.allow_ipip_from_workloads = allow_ipip;
        })]);
        for (datagram, allowed) in [(&vxlan, allow_vxlan), (&ipip, allow_ipip)] {
            assert_eq!(world.send(&pod("a"), &from_pod(datagram)).len(), usize::from(allowed));
        }
        assert_eq!(world.node.drops(), [(DropReason::PodSentTunnel, 1)]);
    }
}

#[test]
fn a_pod_may_send_from_what_it_is_allowed_besides_its_own_addresses() {
    let allowed = [203, 0, 113, 7];
    let mut endpoint = world::endpoint("a", A);
    endpoint.allowed_sources = vec![
        plane::Prefix { address: vec![203, 0, 113, 0], length: 28 },
        plane::Prefix { address: world::v6([203, 0, 113, 0]).octets().to_vec(), length: 64 },
    ];
    let mut world = World::new();
    world.apply(&[op(Kind::Endpoint(endpoint))]);
    for (source, passes) in
        [(A, true), (allowed, true), ([203, 0, 113, 16], false), (super::super::world::B, false)]
    {
        let datagram = Datagram::udp((source, 1), (OUTSIDE, 2), b"");
        assert_eq!(world.send(&pod("a"), &from_pod(&datagram)).len(), usize::from(passes), "{source:?}");
    }
    assert_eq!(world.node.drops(), [(DropReason::SpoofedSource, 2)]);
    // Its flow lives as any does.
    world.now += 10_000;
    world.run();
    world.run();
    assert_eq!(world.flows(), 2);
}

#[test]
fn answers_to_what_the_host_forwarded_go_back_by_the_forward_port() {
    let mut world = World::new();
    // The host has taken one from the time to live already.
    let forwarded = Datagram::tcp((OUTSIDE, 40_000), (A, 80), SYN, b"").ttl(60);
    assert_eq!(world.send(&PortName::Forward, &from_host(&forwarded)), [to_pod("a", &forwarded)]);
    expect_counters!(world, {"flow_created": 1});
    let answer = Datagram::tcp((A, 80), (OUTSIDE, 40_000), SYN | ACK, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&answer)), [to_host(PortName::Forward, &answer)]);
    expect_counters!(world, {"flow_hits": 1, "to_host": 1});
    // What the pod begins itself goes by the uplink, to the same peer.
    let own = Datagram::tcp((A, 5000), (OUTSIDE, 443), SYN, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&own)), [to_uplink(&own.ttl(63))]);
}

#[test]
fn an_error_about_what_the_host_opened_goes_back_by_its_port() {
    for port in [PortName::Host, PortName::Forward] {
        let mut world = World::new();
        let source = if port == PortName::Host { TUNNEL1 } else { OUTSIDE };
        let asked = Datagram::udp((source, 40_000), (A, 53), b"?");
        world.send(&port, &from_host(&asked));
        let error = Datagram::error(A, source, 3, 3, [0; 4], &asked, 28);
        assert_eq!(world.send(&pod("a"), &from_pod(&error)), [to_host(port, &error)]);
    }
}

#[test]
fn a_pod_reaches_its_own_host_by_any_of_its_addresses() {
    for address in [NODE1, TUNNEL1] {
        let mut world = World::new();
        let datagram = Datagram::tcp((A, 1), (address, 6443), SYN, b"");
        assert_eq!(world.send(&pod("a"), &from_pod(&datagram)), [to_host(PortName::Host, &datagram)]);
        expect_counters!(world, {"flow_created": 1, "to_host": 1});
        // The answer comes by the host's port, and passes although nobody may talk to the pod.
        world.apply(&deny_all("a"));
        let answer = Datagram::tcp((address, 6443), (A, 1), SYN | ACK, b"");
        assert_eq!(world.send(&PortName::Host, &from_host(&answer)), [to_pod("a", &answer)]);
        expect_counters!(world, {"flow_revalidated": 1});
    }
}

#[test]
fn the_host_reaches_other_nodes_pods_through_the_tunnel() {
    let mut world = World::new();
    let probe = Datagram::tcp((TUNNEL1, 40_000), (REMOTE, 80), SYN, b"");
    assert_eq!(unwrapped(&world.send(&PortName::Host, &from_host(&probe))[0]).0, probe);
    expect_counters!(world, {"tunnel_encapsulated": 1});
    let answer = Datagram::tcp((REMOTE, 80), (TUNNEL1, 40_000), SYN | ACK, b"");
    assert_eq!(world.send(&PortName::Uplink, &from_tunnel(&answer)), [to_host(PortName::Host, &answer)]);
}

#[test]
fn the_hosts_half_made_checksums_are_for_its_port_to_announce() {
    // A tap device says with each packet whether its checksum is made; this one said nothing.
    let mut world = World::new();
    world.apply(&ingress("a", vec![]));
    let partial = Datagram::udp((TUNNEL1, 1), (A, 2), b"x").partial();
    assert_eq!(world.send(&PortName::Host, &from_host(&partial)), [to_pod("a", &partial)]);
    assert_eq!(world.node.drops(), Vec::<(DropReason, u64)>::new());
}
