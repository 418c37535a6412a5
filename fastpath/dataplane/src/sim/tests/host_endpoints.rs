//! Host endpoints' policy for what is forwarded between pods and the fabric.

use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{A, B, OUTSIDE, PLAIN_REMOTE, REMOTE, endpoint, op, pod, rule};
use super::super::{PortName, SECOND_UPLINK_IFINDEX};
use super::policy::{allow_port, deny_all};
use super::support::*;
use crate::drop_reason::DropReason;
use crate::table::{Deciding, KernelRoute, Prefix};
use caracal_plane_api::plane::op::Op as Kind;
use caracal_plane_api::plane::{self, Action, Hook, HostEndpoint, Op};
use std::net::IpAddr;

/// A policy's rules for both directions, and the tier that it is alone in.
pub fn policy(name: &str, rules: Vec<plane::Rule>) -> (Op, plane::TierBinding) {
    let id = plane::PolicyId { kind: "GlobalNetworkPolicy".into(), name: name.into(), ..Default::default() };
    let stated =
        plane::Policy { id: Some(id.clone()), tier: "default".into(), ingress: rules.clone(), egress: rules };
    let tier = plane::TierBinding {
        tier: "default".into(),
        default_action: Action::Deny.into(),
        policies: vec![id],
    };
    (op(Kind::Policy(stated)), tier)
}

pub fn host(name: &str, interface: &str, host: HostEndpoint) -> Op {
    op(Kind::HostEndpoint(HostEndpoint { id: name.into(), interface: interface.into(), ..host }))
}

fn ingress(tier: &plane::TierBinding) -> Option<Hook> {
    Some(Hook { ingress: vec![tier.clone()], egress: vec![] })
}

fn egress(tier: &plane::TierBinding) -> Option<Hook> {
    Some(Hook { ingress: vec![], egress: vec![tier.clone()] })
}

/// A world with one host endpoint; `hooks` makes it of the tier with the policy "web", which allows TCP's port 80.
fn world(interface: &str, hooks: fn(&plane::TierBinding) -> HostEndpoint) -> World {
    let mut world = World::new();
    let (web, tier) = policy("web", vec![allow_port(6, 80)]);
    world.apply(&[web, host("h", interface, hooks(&tier))]);
    world
}

pub fn forward_in(tier: &plane::TierBinding) -> HostEndpoint {
    HostEndpoint { forward: ingress(tier), ..HostEndpoint::default() }
}

fn forward_out(tier: &plane::TierBinding) -> HostEndpoint {
    HostEndpoint { forward: egress(tier), ..HostEndpoint::default() }
}

fn syn(from: [u8; 4], to: [u8; 4], port: u16) -> Datagram {
    Datagram::tcp((from, 1000), (to, port), SYN, b"")
}

/// Whether a packet gets through.
fn passes(world: &mut World, port: &PortName, frame: &[u8]) -> bool {
    match &world.send(port, frame)[..] {
        [] => {
            assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 1)]);
            false
        }
        [_] => true,
        more => panic!("{more:?}"),
    }
}

fn into_passes(world: &mut World, port: u16) -> bool {
    passes(world, &PortName::Uplink, &from_uplink(&syn(OUTSIDE, A, port)))
}

fn out_passes(world: &mut World, to: [u8; 4], port: u16) -> bool {
    passes(world, &pod("a"), &from_pod(&syn(A, to, port)))
}

#[test]
fn what_comes_in_by_the_interface_for_a_pod_is_judged_and_what_comes_otherwise_is_not() {
    for interface in ["uplink0", "192.0.2.11", "*"] {
        let mut world = world(interface, forward_in);
        assert!(into_passes(&mut world, 80), "{interface}");
        assert!(!into_passes(&mut world, 81), "{interface}");
        let udp = Datagram::udp((OUTSIDE, 1), (A, 80), b"");
        assert!(!passes(&mut world, &PortName::Uplink, &from_uplink(&udp)));
        let counts = world.node.rule_counts(Deciding::Enforced).into_iter();
        let counts: Vec<_> = counts.map(|(rule, n)| (rule.to_string(), n.connections)).collect();
        let of = |name: &str| counts.iter().find(|(rule, _)| rule.contains(name)).map(|(_, n)| *n);
        assert_eq!((of("web · ingress rule 0"), of("web: isolates")), (Some(1), Some(2)), "{counts:?}");
        // Another pod, what the host says or forwards, and answers to what the pod has asked.
        assert!(passes(&mut world, &pod("b"), &from_pod(&syn(B, A, 81))));
        assert!(passes(&mut world, &PortName::Forward, &from_host(&syn(OUTSIDE, A, 82))));
        assert!(out_passes(&mut world, OUTSIDE, 83));
        let answer = Datagram::tcp((OUTSIDE, 83), (A, 1000), SYN | ACK, b"");
        assert!(passes(&mut world, &PortName::Uplink, &from_uplink(&answer)));
        // What comes out of a tunnel comes by the tunnel's interface, which only `*` is about.
        let tunnelled = from_tunnel(&syn(REMOTE, A, 81));
        assert_eq!(passes(&mut world, &PortName::Uplink, &tunnelled), interface != "*", "{interface}");
    }
}

#[test]
fn what_a_pod_sends_out_by_the_interface_is_judged() {
    for interface in ["uplink0", "*"] {
        let mut world = world(interface, forward_out);
        assert!(out_passes(&mut world, OUTSIDE, 80) && !out_passes(&mut world, OUTSIDE, 81));
        assert!(out_passes(&mut world, PLAIN_REMOTE, 80) && !out_passes(&mut world, PLAIN_REMOTE, 81));
        assert!(out_passes(&mut world, B, 81), "to a pod of this node");
        assert_eq!(out_passes(&mut world, REMOTE, 81), interface != "*", "into a tunnel");
        // Answers to what came in.
        assert!(into_passes(&mut world, 82));
        let answer = Datagram::tcp((A, 82), (OUTSIDE, 1000), SYN | ACK, b"");
        assert!(passes(&mut world, &pod("a"), &from_pod(&answer)));
    }
}

#[test]
fn the_interface_by_which_a_packet_comes_decides_which_host_endpoint_judges() {
    // The one of the first uplink has nothing to say of what is forwarded, and `*` is not about it.
    let mut world = World::new();
    let (web, tier) = policy("web", vec![allow_port(6, 80)]);
    let normal = HostEndpoint { normal: ingress(&tier), ..HostEndpoint::default() };
    world.apply(&[web, host("all", "*", forward_in(&tier)), host("first", "uplink0", normal)]);
    assert!(into_passes(&mut world, 81));
    let mut frame = from_uplink(&syn(OUTSIDE, A, 82));
    frame[..6].copy_from_slice(&super::super::SECOND_UPLINK_MAC.0);
    assert!(!passes(&mut world, &PortName::SecondUplink, &frame));
    // The way out by the second uplink.
    let mut kernel = super::super::world::kernel();
    kernel.routes.push(KernelRoute {
        prefix: Prefix::new(IpAddr::from([203, 0, 113, 0]), 24),
        ifindex: SECOND_UPLINK_IFINDEX,
        gateway: Some(IpAddr::from([203, 0, 113, 1])),
        mtu: 1500,
        source: None,
    });
    let mut world = World::with(kernel, 64);
    let (web, tier) = policy("web", vec![allow_port(6, 80)]);
    world.apply(&[web, host("h", "uplink1", forward_out(&tier))]);
    assert!(out_passes(&mut world, OUTSIDE, 81) && out_passes(&mut world, [203, 0, 113, 7], 80));
    assert!(!out_passes(&mut world, [203, 0, 113, 7], 81));
}

#[test]
fn without_a_word_about_forwarding_nothing_is_judged() {
    let mut world = world("*", |tier| HostEndpoint { normal: ingress(tier), ..HostEndpoint::default() });
    assert!(into_passes(&mut world, 81) && out_passes(&mut world, OUTSIDE, 81));
}

#[test]
fn what_pre_dnat_policy_allows_skips_the_forward_policy_and_what_it_does_not_name_goes_on_to_it() {
    let mut world = World::new();
    let (web, tier) = policy("web", vec![allow_port(6, 80)]);
    let (early, early_tier) = policy("early", vec![allow_port(6, 81), rule_for(82, Action::Deny)]);
    let both = HostEndpoint { pre_dnat: ingress(&early_tier), ..forward_in(&tier) };
    world.apply(&[web, early, host("h", "uplink0", both)]);
    let verdicts = [80, 81, 82, 83].map(|port| into_passes(&mut world, port));
    assert_eq!(verdicts, [true, true, false, false]);
}

fn rule_for(port: u32, action: Action) -> plane::Rule {
    plane::Rule { action: action.into(), ..allow_port(6, port) }
}

#[test]
fn untracked_policy_judges_each_packet_and_what_it_allows_leaves_no_flow() {
    let mut world = World::new();
    let untracked = |rules| {
        let (policy, tier) = policy("raw", rules);
        [policy, host("h", "uplink0", HostEndpoint { untracked: ingress(&tier), ..HostEndpoint::default() })]
    };
    let into = |world: &mut World, flags| {
        let datagram = Datagram::tcp((OUTSIDE, 1000), (A, 80), flags, b"");
        passes(world, &PortName::Uplink, &from_uplink(&datagram))
    };
    assert!(into(&mut world, SYN));
    assert_eq!(world.flows(), 1);
    // An established flow, too, and from one packet to the next.
    world.apply(&untracked(vec![rule_for(80, Action::Deny)]));
    assert!(!into(&mut world, ACK));
    world.apply(&untracked(vec![]));
    assert!(into(&mut world, ACK));
    // What is allowed is not tracked.
    world.now += 4_000_000;
    world.run();
    assert_eq!(world.flows(), 0);
    world.apply(&untracked(vec![allow_port(6, 80)]));
    assert!(into(&mut world, SYN) && into(&mut world, ACK));
    assert_eq!(world.flows(), 0);
    // Its answers are to be allowed on their own.
    let answer = from_pod(&Datagram::tcp((A, 80), (OUTSIDE, 1000), SYN | ACK, b""));
    assert!(passes(&mut world, &pod("a"), &answer));
    world.apply(&super::policy::egress("a", vec![]));
    let other = from_pod(&Datagram::tcp((A, 80), (OUTSIDE, 1001), SYN | ACK, b""));
    assert!(!passes(&mut world, &pod("a"), &other));
    // The pod's own policy is asked for each packet.
    world.apply(&deny_all("a"));
    assert!(!into(&mut world, ACK));
}

#[test]
fn what_is_not_tracked_takes_from_the_bandwidth_of_its_pod() {
    let mut world = World::new();
    let (policy, tier) = policy("raw", vec![allow_port(6, 80)]);
    let limits = plane::Limits { bits_per_second: 1000, burst_bits: 1000, ..plane::Limits::default() };
    world.apply(&[
        policy,
        host("h", "uplink0", HostEndpoint { untracked: ingress(&tier), ..HostEndpoint::default() }),
        op(Kind::Endpoint(plane::Endpoint { ingress_limits: Some(limits), ..endpoint("a", A) })),
    ]);
    let datagram = from_uplink(&Datagram::tcp((OUTSIDE, 1000), (A, 80), ACK, &[0; 1000]));
    assert_eq!([(); 3].map(|()| world.send(&PortName::Uplink, &datagram).len()), [1, 0, 0]);
    assert_eq!(world.node.drops(), [(DropReason::BandwidthLimit, 2)]);
}

#[test]
fn an_established_flow_follows_the_rules_of_host_endpoints() {
    let mut world = world("uplink0", forward_in);
    let into = |world: &mut World, flags| {
        let datagram = Datagram::tcp((OUTSIDE, 1000), (A, 80), flags, b"");
        passes(world, &PortName::Uplink, &from_uplink(&datagram))
    };
    let back = from_pod(&Datagram::tcp((A, 80), (OUTSIDE, 1000), ACK, b""));
    assert!(into(&mut world, SYN) && passes(&mut world, &pod("a"), &back) && into(&mut world, ACK));
    // A change that is not theirs costs one look.
    let rejudged = |world: &World| world.node.counters().pipeline.flow_rejudged.get();
    world.apply(&deny_all("b"));
    assert!(into(&mut world, ACK));
    assert_eq!(rejudged(&world), 0);
    world.apply(&[policy("web", vec![]).0]);
    assert!(!into(&mut world, ACK) && !passes(&mut world, &pod("a"), &back));
    assert_eq!(rejudged(&world), 1);
    world.apply(&[policy("web", vec![allow_port(6, 80)]).0]);
    assert!(into(&mut world, ACK) && passes(&mut world, &pod("a"), &back));
    assert_eq!(rejudged(&world), 2);
    // The last one has gone: nobody denies.
    world.apply(&[policy("web", vec![]).0]);
    assert!(!into(&mut world, ACK));
    world.apply(&[op(Kind::HostEndpointRemove("h".into()))]);
    assert!(into(&mut world, ACK));
}

#[test]
fn an_established_flow_follows_the_sets_that_its_addresses_are_in() {
    let set = |addresses: &[[u8; 4]]| {
        let v4 = addresses.concat();
        op(Kind::IpSet(plane::IpSet {
            id: "s".into(),
            hosts: Some(plane::Hosts { v4, v6: vec![] }),
            ..plane::IpSet::default()
        }))
    };
    let in_set = || Some(plane::Entity { in_all: vec!["s".into()], ..plane::Entity::default() });
    for (source, destination, member) in [(in_set(), None, OUTSIDE), (None, in_set(), A)] {
        let mut world = World::new();
        let (friends, tier) =
            policy("friends", vec![plane::Rule { source, destination, ..rule(Action::Allow) }]);
        world.apply(&[set(&[member]), friends, host("h", "uplink0", forward_in(&tier))]);
        assert!(into_passes(&mut world, 80));
        world.apply(&[set(&[])]);
        assert!(!into_passes(&mut world, 80));
        world.apply(&[set(&[member])]);
        assert!(into_passes(&mut world, 80));
    }
}

#[test]
fn a_node_port_is_judged_by_what_was_asked_and_by_who_serves() {
    use super::super::world::NODE1;
    use super::nat::{NODE_PORT, service, with_services};
    // The backend's own port is 8080.
    let node_port = u32::from(NODE_PORT);
    let asks = |world: &mut World, port: u16, flags| {
        let datagram = Datagram::tcp((OUTSIDE, port), (NODE1, NODE_PORT), flags, b"");
        passes(world, &PortName::Uplink, &from_uplink(&datagram))
    };
    for server in [(A, 8080), (REMOTE, 8080)] {
        let mut world = with_services(&[service("web", &[server])]);
        let pre_dnat = |rules| {
            let (policy, tier) = policy("early", rules);
            let hooks = HostEndpoint { pre_dnat: ingress(&tier), ..HostEndpoint::default() };
            [policy, host("h", "uplink0", hooks)]
        };
        world.apply(&pre_dnat(vec![rule_for(8080, Action::Deny)]));
        assert!(asks(&mut world, 1, SYN), "pre-DNAT policy sees what was asked");
        // It comes to forbid the port: those that are there end, too.
        world.apply(&pre_dnat(vec![rule_for(node_port, Action::Deny)]));
        assert!(!asks(&mut world, 2, SYN));
        assert!(!asks(&mut world, 1, ACK) && !asks(&mut world, 1, ACK));
        world.apply(&pre_dnat(vec![]));
        assert!(asks(&mut world, 2, SYN));
        // Forward policy sees who serves.
        let (web, tier) = policy("web", vec![allow_port(6, 8080)]);
        world.apply(&[web, host("h", "uplink0", forward_in(&tier))]);
        assert!(asks(&mut world, 2, ACK) && asks(&mut world, 3, SYN));
        let (web, tier) = policy("web", vec![allow_port(6, node_port)]);
        world.apply(&[web, host("h", "uplink0", forward_in(&tier))]);
        assert!(!asks(&mut world, 4, SYN) && !asks(&mut world, 3, ACK));
        // What pre-DNAT policy allows skips it.
        let (early, early_tier) = policy("early", vec![allow_port(6, node_port)]);
        let both = HostEndpoint { pre_dnat: ingress(&early_tier), ..forward_in(&tier) };
        world.apply(&[early, host("h", "uplink0", both)]);
        assert!(asks(&mut world, 5, SYN));
    }
}
