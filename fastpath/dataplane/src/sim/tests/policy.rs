//! Policy and the flows that it has allowed.

use super::super::PortName;
use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{self, A, B, OUTSIDE, REMOTE, TUNNEL2, endpoint, op, pod, rule};
use super::support::*;
use crate::table::Deciding;
use caracal_plane_api::plane::{self, Action, Op, op::Op as Kind};

/// A policy of these ingress rules, which applies to the pod of this name.
pub fn ingress(name: &str, rules: Vec<plane::Rule>) -> Vec<Op> {
    policy(name, rules, true)
}

/// The same for egress rules.
pub fn egress(name: &str, rules: Vec<plane::Rule>) -> Vec<Op> {
    policy(name, rules, false)
}

fn policy(name: &str, rules: Vec<plane::Rule>, is_ingress: bool) -> Vec<Op> {
    let id = plane::PolicyId {
        kind: "NetworkPolicy".into(),
        namespace: "default".into(),
        name: format!("for-{name}"),
    };
    let (ingress, egress) = if is_ingress { (rules, vec![]) } else { (vec![], rules) };
    let binding = plane::TierBinding {
        tier: "default".into(),
        default_action: Action::Deny.into(),
        policies: vec![id.clone()],
    };
    let address = match name {
        "a" => A,
        "b" => B,
        _ => world::C,
    };
    let mut endpoint = endpoint(name, address);
    if is_ingress {
        endpoint.ingress = vec![binding];
    } else {
        endpoint.egress = vec![binding];
    }
    vec![
        op(Kind::Policy(plane::Policy { id: Some(id), tier: "default".into(), ingress, egress })),
        op(Kind::Endpoint(endpoint)),
    ]
}

/// Nobody may talk to the pod of this name.
pub fn deny_all(name: &str) -> Vec<Op> {
    ingress(name, vec![])
}

pub fn allow_port(protocol: u32, port: u32) -> plane::Rule {
    plane::Rule {
        protocol,
        destination: Some(plane::Entity {
            ports: vec![plane::PortRange { first: port, last: port }],
            ..Default::default()
        }),
        ..rule(Action::Allow)
    }
}

fn connections(world: &World) -> Vec<(String, u64)> {
    let counts = world.node.rule_counts(Deciding::Enforced).into_iter();
    counts.map(|(name, count)| (name.to_string(), count.connections)).collect()
}

#[test]
fn what_policy_allows_passes_what_it_denies_does_not_and_the_rules_are_counted() {
    let mut world = World::new();
    world.apply(&ingress("b", vec![rule(Action::Log), allow_port(6, 80), allow_port(17, 53)]));
    let web = Datagram::tcp((A, 1000), (B, 80), SYN, b"");
    let other = Datagram::tcp((A, 1000), (B, 81), SYN, b"");
    let same_port_other_protocol = Datagram::udp((A, 1000), (B, 80), b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&web)), [to_pod("b", &web.clone().ttl(63))]);
    expect_counters!(world, {"flow_created": 2, "delivered_local": 1});
    for denied in [&other, &same_port_other_protocol, &other] {
        assert_eq!(world.send(&pod("a"), &from_pod(denied)), []);
    }
    // Its egress is allowed, and remembered once.
    expect_counters!(world, {"flow_created": 2, "flow_hits": 1, "drop.policy-deny": 3});
    // A packet of a known flow asks no rule.
    world.send(&pod("a"), &from_pod(&web));
    let connections = connections(&world);
    let of = |what: &str| {
        let named = connections.iter().filter(|(name, _)| name.contains(what));
        named.map(|(_, count)| count).sum::<u64>()
    };
    let counts = (of("for-b · ingress rule 1"), of("for-b · ingress rule 2"), of("kns.default"));
    assert_eq!(counts, (1, 0, 3), "{connections:?}");
    assert_eq!(connections.iter().map(|(_, n)| n).sum::<u64>(), 1 + 3 + 3, "{connections:?}");
}

#[test]
fn egress_is_judged_where_the_packet_starts() {
    let mut world = World::new();
    world.apply(&policy("a", vec![allow_port(17, 53)], false));
    for destination in [B, OUTSIDE, REMOTE] {
        let allowed = Datagram::udp((A, 1), (destination, 53), b"");
        let denied = Datagram::udp((A, 1), (destination, 54), b"");
        assert_eq!(world.send(&pod("a"), &from_pod(&allowed)).len(), 1);
        assert_eq!(world.send(&pod("a"), &from_pod(&denied)), []);
    }
}

#[test]
fn answers_of_an_allowed_connection_pass_whatever_policy_says_of_the_way_back() {
    let mut world = World::new();
    world.apply(&deny_all("a"));
    let syn = Datagram::tcp((A, 1000), (B, 80), SYN, b"");
    let answer = Datagram::tcp((B, 80), (A, 1000), SYN | ACK, b"");
    // Nobody asked yet.
    assert_eq!(world.send(&pod("b"), &from_pod(&answer)), []);
    expect_counters!(world, {"flow_created": 1, "drop.policy-deny": 1});
    let mut world = World::new();
    world.apply(&deny_all("a"));
    assert_eq!(world.send(&pod("a"), &from_pod(&syn)).len(), 1);
    assert_eq!(world.send(&pod("b"), &from_pod(&answer)), [to_pod("a", &answer.clone().ttl(63))]);
    // A connection the other way is another matter.
    let back = Datagram::tcp((B, 1000), (A, 80), SYN, b"");
    assert_eq!(world.send(&pod("b"), &from_pod(&back)), []);
}

#[test]
fn an_answer_from_outside_and_from_a_tunnel_passes_a_pod_that_nobody_may_talk_to() {
    let mut world = World::new();
    world.apply(&deny_all("a"));
    for (peer, back) in [(OUTSIDE, from_uplink as fn(&Datagram) -> Vec<u8>), (REMOTE, from_tunnel)] {
        let answer = Datagram::udp((peer, 53), (A, 1000), b"!");
        assert_eq!(world.send(&PortName::Uplink, &back(&answer)), []);
        assert_eq!(world.send(&pod("a"), &from_pod(&Datagram::udp((A, 1000), (peer, 53), b"?"))).len(), 1);
        assert_eq!(world.send(&PortName::Uplink, &back(&answer)), [to_pod("a", &answer.clone().ttl(63))]);
    }
}

#[test]
fn newer_tables_that_change_nothing_for_a_flow_cost_it_one_look() {
    let mut world = World::new();
    let datagram = Datagram::udp((A, 1), (B, 2), b"");
    world.send(&pod("a"), &from_pod(&datagram));
    expect_counters!(world, {"flow_created": 2, "delivered_local": 1});
    world.apply(&[world::route_to_node([10, 244, 77, 0], 24, "node2", plane::Encapsulation::Vxlan)]);
    world.send(&pod("a"), &from_pod(&datagram));
    expect_counters!(world, {"flow_revalidated": 2, "delivered_local": 1});
    world.send(&pod("a"), &from_pod(&datagram));
    expect_counters!(world, {"flow_hits": 2, "delivered_local": 1});
    // A policy for somebody else is somebody else's.
    world.apply(&deny_all("c"));
    world.send(&pod("a"), &from_pod(&datagram));
    expect_counters!(world, {"flow_revalidated": 2, "delivered_local": 1});
}

#[test]
fn an_open_connection_ends_with_the_first_packet_after_policy_denies_it() {
    let mut world = World::new();
    let (out, back) = (Datagram::tcp((A, 1), (B, 80), ACK, b""), Datagram::tcp((B, 80), (A, 1), ACK, b""));
    world.send(&pod("a"), &from_pod(&out));
    world.send(&pod("b"), &from_pod(&back));
    expect_counters!(world, {"flow_created": 2, "flow_hits": 2, "delivered_local": 2});
    world.apply(&deny_all("b"));
    // b's own flow is stale, and judged in the direction of its first packet, though this is an answer.
    assert_eq!(world.send(&pod("b"), &from_pod(&back)), []);
    expect_counters!(world, {"flow_rejudged": 1, "drop.policy-deny": 1});
    assert_eq!(world.send(&pod("a"), &from_pod(&out)), []);
    expect_counters!(world, {"flow_revalidated": 1, "flow_hits": 1, "drop.policy-deny": 1});
    // An answer that was under way does not bring it back as a connection of b's.
    assert_eq!(world.send(&pod("b"), &from_pod(&back)), []);
    assert_eq!(world.send(&pod("a"), &from_pod(&out)), []);
    // Nor does opening it anew; b may open one to a, as anybody may.
    assert_eq!(world.send(&pod("a"), &from_pod(&Datagram::tcp((A, 1), (B, 80), SYN, b""))), []);
    assert_eq!(world.send(&pod("b"), &from_pod(&back)), []);
    assert_eq!(world.send(&pod("b"), &from_pod(&Datagram::tcp((B, 80), (A, 1), SYN, b""))).len(), 1);
}

#[test]
fn an_open_connection_that_policy_still_allows_is_judged_again_once() {
    let mut world = World::new();
    let out = Datagram::tcp((A, 1), (B, 80), ACK, b"");
    world.send(&pod("a"), &from_pod(&out));
    world.apply(&ingress("b", vec![allow_port(6, 80)]));
    world.expect_moved(&[("flow_created", 2), ("delivered_local", 1)]);
    assert_eq!(world.send(&pod("a"), &from_pod(&out)).len(), 1);
    expect_counters!(world, {"flow_revalidated": 1, "flow_rejudged": 1, "delivered_local": 1});
    assert_eq!(world.send(&pod("a"), &from_pod(&out)).len(), 1);
    expect_counters!(world, {"flow_hits": 2, "delivered_local": 1});
}

#[test]
fn a_peer_that_leaves_a_set_ends_its_connections() {
    let mut world = World::new();
    let member = |address: [u8; 4], length| plane::Member {
        prefix: Some(plane::Prefix { address: address.to_vec(), length }),
        ..Default::default()
    };
    let set = |members| op(Kind::IpSet(plane::IpSet { id: "friends".into(), members, hosts: None }));
    let from_friends = plane::Rule {
        source: Some(plane::Entity { in_all: vec!["friends".into()], ..Default::default() }),
        ..rule(Action::Allow)
    };
    let mut ops = vec![set(vec![member(TUNNEL2, 24), member(A, 32)])];
    ops.extend(ingress("b", vec![from_friends]));
    world.apply(&ops);
    let local = Datagram::udp((A, 1), (B, 2), b"");
    let remote = Datagram::udp((REMOTE, 1), (B, 2), b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&local)).len(), 1);
    assert_eq!(world.send(&PortName::Uplink, &from_tunnel(&remote)).len(), 1);
    world.apply(&[set(vec![member(A, 32)])]);
    assert_eq!(world.send(&pod("a"), &from_pod(&local)).len(), 1);
    assert_eq!(world.send(&PortName::Uplink, &from_tunnel(&remote)), []);
}

#[test]
fn flows_keep_their_verdict_where_the_node_says_so() {
    let mut world = World::new();
    world.apply(&[super::host::configured(|config| config.keep_established = true)]);
    let old = Datagram::tcp((A, 1), (B, 80), ACK, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&old)).len(), 1);
    world.apply(&deny_all("b"));
    world.expect_moved(&[("flow_created", 2), ("delivered_local", 1)]);
    assert_eq!(world.send(&pod("a"), &from_pod(&old)).len(), 1, "established before");
    expect_counters!(world, {"flow_revalidated": 2, "delivered_local": 1});
    let new = Datagram::tcp((A, 2), (B, 80), SYN, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&new)), []);
    expect_counters!(world, {"flow_created": 1, "drop.policy-deny": 1});
    // Judged again as soon as the node says that instead, and what is denied then is not established any more.
    world.apply(&[super::host::configured(|_| {})]);
    assert_eq!(world.send(&pod("a"), &from_pod(&old)), []);
    world.apply(&[super::host::configured(|config| config.keep_established = true)]);
    assert_eq!(world.send(&pod("a"), &from_pod(&old)), []);
    world.apply(&ingress("b", vec![allow_port(6, 80)]));
    assert_eq!(world.send(&pod("a"), &from_pod(&old)).len(), 1, "there was nothing to keep");
}

#[test]
fn a_verdict_is_current_after_one_judgement_however_many_changes_there_were() {
    let mut world = World::new();
    let out = Datagram::tcp((A, 1), (B, 80), ACK, b"");
    world.send(&pod("a"), &from_pod(&out));
    world.expect_moved(&[("flow_created", 2), ("delivered_local", 1)]);
    for round in 0..5 {
        for port in 0..10 {
            world.apply(&ingress("b", vec![allow_port(17, 1000 + 10 * round + port), allow_port(6, 80)]));
        }
        assert_eq!(world.send(&pod("a"), &from_pod(&out)).len(), 1);
        expect_counters!(world, {"flow_revalidated": 1, "flow_rejudged": 1, "delivered_local": 1});
        assert_eq!(world.send(&pod("a"), &from_pod(&out)).len(), 1);
        expect_counters!(world, {"flow_hits": 2, "delivered_local": 1});
    }
}

#[test]
fn rules_tell_icmp_messages_apart_and_flows_do_too() {
    let allow = |kind, code| plane::Rule {
        protocol: 1,
        icmp: Some(plane::Icmp { r#type: kind, code }),
        ..rule(Action::Allow)
    };
    let icmp = |kind: u8, code: u8| Datagram::new(A, B, 1, &[kind, code, 0, 0, 0, 7, 0, 1]);
    let mut world = World::new();
    world.apply(&ingress("b", vec![allow(13, None), allow(9, Some(16))]));
    for (kind, code, passes) in [
        (13, 0, true),
        (13, 1, true),
        (8, 0, false),
        (15, 0, false),
        (17, 0, false),
        (9, 16, true),
        (9, 0, false),
        (14, 0, false),
    ] {
        let outputs = world.send(&pod("a"), &from_pod(&icmp(kind, code)));
        assert_eq!(outputs.len(), usize::from(passes), "type {kind}, code {code}");
    }
    // Judged again, it is still the message that it was.
    world.apply(&ingress("b", vec![allow(9, None), allow(13, Some(1))]));
    for (kind, code, passes) in [(13, 0, false), (13, 1, true), (9, 16, true)] {
        let outputs = world.send(&pod("a"), &from_pod(&icmp(kind, code)));
        assert_eq!(outputs.len(), usize::from(passes), "type {kind}, code {code}");
    }
}

#[test]
fn two_pods_that_ask_each_other_under_one_identifier_have_two_flows() {
    let mut world = World::new();
    world.apply(&deny_all("a"));
    let (ask, answer) = (Datagram::echo(A, B, false, 7, 1), Datagram::echo(B, A, true, 7, 1));
    assert_eq!(world.send(&pod("a"), &from_pod(&ask)).len(), 1);
    assert_eq!(world.send(&pod("b"), &from_pod(&answer)).len(), 1);
    assert_eq!(world.send(&pod("b"), &from_pod(&Datagram::echo(B, A, false, 7, 1))), []);
}
