//! The host and its own pods: two ports, of which only the first is above policy.

use super::super::PortName;
use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{A, NODE1, OUTSIDE, REMOTE, TUNNEL1, pod};
use super::policy::{deny_all, ingress};
use super::support::*;
use crate::drop_reason::DropReason;

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
