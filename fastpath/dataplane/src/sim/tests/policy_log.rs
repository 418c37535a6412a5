//! What is logged of policy: first packets, of denials and of what passes a Log rule.

use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{A, B, C, op, pod, rule};
use super::policy::{allow_port, deny_all, egress, ingress};
use super::support::*;
use crate::clock::Tick;
use crate::policy_log::{Kind, Line};
use crate::table::{FlowDirection, RuleAction};
use caracal_plane_api::plane::{self, Action, op::Op as Plane};

fn log(world: &mut World) -> Vec<Line> {
    world.node.policy_log(Tick(world.now))
}

/// What was written, in short.
fn lines(world: &mut World) -> Vec<(Kind, bool, String)> {
    log(world).into_iter().map(|line| (line.kind, line.allow, line.rule.to_string())).collect()
}

const WEB: &str = "tier default · NetworkPolicy default/for-b · ingress rule";

#[test]
fn a_flow_that_passes_log_rules_is_logged_once_with_each_of_them() {
    let mut world = World::new();
    let log_udp = plane::Rule { protocol: 17, ..rule(Action::Log) };
    world.apply(&ingress("b", vec![rule(Action::Log), log_udp, rule(Action::Log), allow_port(6, 80)]));
    for flags in [SYN, ACK, ACK] {
        assert_eq!(world.send(&pod("a"), &from_pod(&Datagram::tcp((A, 1000), (B, 80), flags, b""))).len(), 1);
    }
    let expected = [0, 2].map(|index| (Kind::Log, true, format!("{WEB} {index}")));
    assert_eq!(lines(&mut world), expected);
    assert_eq!(lines(&mut world), []);
    // What the Log rules stand before denies: both are said, once a packet, for each is a flow's first.
    world.send(&pod("a"), &from_pod(&Datagram::udp((A, 1000), (B, 81), b"")));
    let mut expected: Vec<_> = (0..3).map(|index| (Kind::Log, false, format!("{WEB} {index}"))).collect();
    let default = "tier default · ingress default · NetworkPolicy default/for-b: isolates, no rule matched";
    expected.push((Kind::Denied, false, default.into()));
    assert_eq!(lines(&mut world), expected);
}

#[test]
fn a_line_says_who_judged_whom_and_by_what_prefix() {
    let mut world = World::new();
    world.apply(&egress("a", vec![rule(Action::Log), rule(Action::Deny)]));
    world.apply(&[super::host::configured(|config| config.log_prefix = "%t/%k %p".into())]);
    let datagram = Datagram::echo(A, C, false, 77, 1);
    world.send(&pod("a"), &from_pod(&datagram));
    let lines = log(&mut world);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0].prefix, "default/NetworkPolicy default/for-a");
    assert_eq!(lines[0].rule.action(), RuleAction::Log);
    for line in &lines {
        assert_eq!((line.allow, line.endpoint.as_str(), line.suppressed), (false, "default/a", 0));
        let flow = &line.flow;
        assert_eq!((flow.local_address, flow.peer_address), (A.into(), C.into()));
        assert_eq!((flow.direction, flow.icmp, flow.local_port), (FlowDirection::Egress, Some((8, 0)), 0));
    }
}

#[test]
fn an_established_flow_is_logged_when_policy_comes_to_deny_it_and_not_when_it_is_only_judged_again() {
    let mut world = World::new();
    let out = from_pod(&Datagram::tcp((A, 1), (B, 80), ACK, b""));
    world.send(&pod("a"), &out);
    world.apply(&ingress("b", vec![rule(Action::Log), allow_port(6, 80)]));
    assert_eq!(world.send(&pod("a"), &out).len(), 1);
    assert_eq!(lines(&mut world), []);
    world.apply(&deny_all("b"));
    for _ in 0..3 {
        assert_eq!(world.send(&pod("a"), &out), []);
    }
    assert_eq!(lines(&mut world).len(), 1);
}

#[test]
fn a_flood_of_denials_is_cut_to_a_rate_and_the_rest_is_counted() {
    let mut world = World::new();
    world.apply(&deny_all("b"));
    for port in 0..500 {
        world.send(&pod("a"), &from_pod(&Datagram::udp((A, port), (B, 80), b"")));
    }
    assert_eq!(log(&mut world).len(), 200, "a burst");
    world.now += 1000;
    world.send(&pod("a"), &from_pod(&Datagram::udp((A, 501), (B, 80), b"")));
    let next = log(&mut world);
    assert_eq!(next.iter().map(|line| line.suppressed).collect::<Vec<_>>(), [300]);
    // What does not fit into the ring is counted, too.
    for port in 0..2000 {
        world.send(&pod("a"), &from_pod(&Datagram::udp((A, port), (B, 80), b"")));
    }
    assert_eq!(world.node.counters().pipeline.policy_log_lost.get(), 2000 - 1024);
    // Log rules have a limit of their own.
    world.apply(&[op(Plane::Policy(plane::Policy {
        id: Some(plane::PolicyId {
            kind: "NetworkPolicy".into(),
            namespace: "default".into(),
            name: "for-b".into(),
        }),
        tier: "default".into(),
        ingress: vec![rule(Action::Log), rule(Action::Allow)],
        egress: vec![],
    }))]);
    log(&mut world);
    world.send(&pod("a"), &from_pod(&Datagram::udp((A, 9), (B, 9), b"")));
    assert_eq!(lines(&mut world), [(Kind::Log, true, format!("{WEB} 0"))]);
}
