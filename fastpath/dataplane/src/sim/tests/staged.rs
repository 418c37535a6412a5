//! Staged policies enforce nothing and are counted all the same.

use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{A, B, C, endpoint, op, pod, rule};
use super::policy::{allow_port, ingress};
use super::support::*;
use crate::table::{Deciding, RuleCount};
use caracal_plane_api::plane::{self, Action, Op, op::Op as Kind};

/// Pod b, which all may talk to, and for which a policy of these ingress rules is staged.
pub fn staged(rules: Vec<plane::Rule>) -> Vec<Op> {
    let id = plane::PolicyId {
        kind: "StagedNetworkPolicy".into(),
        namespace: "default".into(),
        name: "next".into(),
    };
    let tiers = vec![plane::TierBinding {
        tier: "default".into(),
        default_action: Action::Deny.into(),
        policies: vec![id.clone()],
    }];
    let policy = plane::Policy { id: Some(id), tier: "default".into(), ingress: rules, egress: vec![] };
    let pod = plane::Endpoint { staged_ingress: Some(plane::StagedTiers { tiers }), ..endpoint("b", B) };
    vec![op(Kind::Policy(policy)), op(Kind::Endpoint(pod))]
}

/// What staged rules would have decided, in short.
fn would(world: &World) -> Vec<(String, RuleCount)> {
    let counts = world.node.rule_counts(Deciding::Staged).into_iter();
    counts.map(|(name, count)| (name.to_string(), count)).collect()
}

const RULE: &str = "tier default · StagedNetworkPolicy default/next · ingress rule";
const DEFAULT: &str =
    "tier default · ingress default · StagedNetworkPolicy default/next: isolates, no rule matched";
const LEN: u64 = 14 + 40;

fn count(connections: u64, packets: u64) -> RuleCount {
    RuleCount { connections, packets, bytes: packets * LEN }
}

fn send(world: &mut World, port: u16, flags: u8) -> usize {
    world.send(&pod("a"), &from_pod(&Datagram::tcp((A, 1000), (B, port), flags, b""))).len()
}

#[test]
fn what_staged_policies_would_deny_passes_and_is_counted_for_them() {
    let mut world = World::new();
    world.apply(&staged(vec![allow_port(6, 80)]));
    for flags in [SYN, ACK, ACK] {
        assert_eq!(send(&mut world, 80, flags), 1);
    }
    for flags in [SYN, ACK] {
        assert_eq!(send(&mut world, 81, flags), 1, "nothing is enforced");
    }
    let mut counts = would(&world);
    counts.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(counts, [(RULE.to_owned() + " 0", count(1, 3)), (DEFAULT.into(), count(1, 2))]);
    // Other pods' flows are nobody's.
    world.send(&pod("a"), &from_pod(&Datagram::tcp((A, 1), (C, 80), SYN, b"")));
    assert_eq!(would(&world).len(), 2);
    let mut expected = would(&world);
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(counts, expected);
}

#[test]
fn a_denied_flow_is_judged_by_staged_policies_too() {
    let mut world = World::new();
    let mut ops = ingress("b", vec![rule(Action::Deny)]);
    let mut next = staged(vec![rule(Action::Allow)]);
    let Some(Kind::Endpoint(pod)) = next.pop().unwrap().op else { panic!("the pod comes last") };
    let Some(Kind::Endpoint(enforced)) = ops.pop().unwrap().op else { panic!("the pod comes last") };
    ops.append(&mut next);
    ops.push(op(Kind::Endpoint(plane::Endpoint { staged_ingress: pod.staged_ingress, ..enforced })));
    world.apply(&ops);
    for _ in 0..2 {
        assert_eq!(send(&mut world, 80, SYN), 0);
    }
    assert_eq!(would(&world), [(RULE.to_owned() + " 0", count(2, 2))]);
}

#[test]
fn an_established_flow_goes_on_the_account_of_what_is_staged_now() {
    let mut world = World::new();
    send(&mut world, 80, SYN);
    world.apply(&staged(vec![allow_port(6, 80)]));
    send(&mut world, 80, ACK);
    send(&mut world, 80, ACK);
    assert_eq!(would(&world), [(RULE.to_owned() + " 0", count(0, 2))]);
    world.apply(&staged(vec![allow_port(6, 81), allow_port(6, 80)]));
    send(&mut world, 80, ACK);
    let mut counts = would(&world);
    counts.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(counts, [(RULE.to_owned() + " 0", count(0, 2)), (RULE.to_owned() + " 1", count(0, 1))]);
    // And off it, when nothing is.
    world.apply(&[op(Kind::Endpoint(endpoint("b", B)))]);
    for _ in 0..3 {
        assert_eq!(send(&mut world, 80, ACK), 1);
    }
    let mut after = would(&world);
    after.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(after, counts);
}
