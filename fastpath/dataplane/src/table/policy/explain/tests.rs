use std::net::IpAddr;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;

use super::*;
use crate::table::{FlowDirection, TableBuilder};

fn entity(edit: impl FnOnce(&mut plane::Entity)) -> Option<plane::Entity> {
    let mut entity = plane::Entity::default();
    edit(&mut entity);
    Some(entity)
}

fn ports(port: u32) -> Vec<plane::PortRange> {
    vec![plane::PortRange { first: port, last: port }]
}

/// What a web server's policy finds wrong with a flow of UDP from port 53 of 10.0.0.1, which is in `friends`.
fn explained(rules: Vec<plane::Rule>) -> Explanation {
    let id = plane::PolicyId { kind: "NetworkPolicy".into(), namespace: "a".into(), name: "p".into() };
    let members = |address: [u8; 4]| {
        let prefix = plane::Prefix { address: address.to_vec(), length: 32 };
        vec![plane::Member { prefix: Some(prefix), protocol: 0, port: 0 }]
    };
    let set = |id: &str, members| Op::IpSet(plane::IpSet { id: id.into(), members, hosts: None });
    let nothing = plane::PolicyId { name: "nothing".into(), ..id.clone() };
    let tier = |tier: &str, default: plane::Action, policy: &plane::PolicyId| plane::TierBinding {
        tier: tier.into(),
        default_action: default.into(),
        policies: vec![policy.clone()],
    };
    let ingress = vec![tier("t", plane::Action::Pass, &id), tier("u", plane::Action::Deny, &nothing)];
    let ops = [
        set("friends", members([10, 0, 0, 1])),
        set("servers", members([10, 0, 0, 9])),
        Op::Policy(plane::Policy { id: Some(id), tier: "t".into(), ingress: rules, egress: vec![] }),
        Op::Policy(plane::Policy { id: Some(nothing), tier: "u".into(), ingress: vec![], egress: vec![] }),
        Op::Endpoint(plane::Endpoint {
            id: "a/x".into(),
            interface: "cali-x".into(),
            addresses: vec![vec![10, 0, 0, 9]],
            ingress,
            ..Default::default()
        }),
    ];
    let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
    let ops = ops.into_iter().map(|op| plane::Op { op: Some(op) }).collect();
    builder.apply(&plane::Transaction { seq: 1, ops, in_sync: true }).unwrap();
    builder.build();
    let ip = |address: &str| address.parse::<IpAddr>().unwrap();
    let flow = FlowTuple {
        protocol: 17,
        peer_address: ip("10.0.0.1"),
        peer_port: 53,
        local_address: ip("10.0.0.9"),
        local_port: 80,
        icmp: None,
        direction: FlowDirection::Ingress,
    };
    builder.explain("a/x", &flow, false).unwrap()
}

/// What is read of a step.
fn read(step: &Step) -> String {
    let what = match &step.what {
        Asked::Rule(name) => name.to_string(),
        Asked::DefaultDeny(name) => name.to_string(),
        Asked::DefaultPass => "passes".into(),
        Asked::End => "end".into(),
    };
    let found = match &step.found {
        Found::Matched => "matched".into(),
        Found::NotReached => "not reached".into(),
        Found::Unmatched(reasons) => reasons.iter().map(Mismatch::to_string).collect::<Vec<_>>().join(", "),
    };
    format!("{}: {what}: {found}", step.tier.as_deref().unwrap_or("-"))
}

#[test]
fn a_rule_that_does_not_match_tells_every_field_that_keeps_it_from_matching() {
    let allow = || plane::Rule { action: plane::Action::Allow.into(), ..Default::default() };
    let icmp = Some(plane::Icmp { r#type: 8, code: None });
    let rules = vec![
        plane::Rule { ip_version: 6, protocol: 6, icmp, ..allow() },
        plane::Rule { not_protocol: 17, ..allow() },
        plane::Rule {
            source: entity(|source| source.in_none = vec!["friends".into()]),
            destination: entity(|destination| destination.in_all = vec!["friends".into()]),
            ..allow()
        },
        plane::Rule {
            source: entity(|source| {
                source.in_all = vec!["servers".into()];
                source.not_ports = ports(53);
            }),
            destination: entity(|destination| destination.ports = ports(443)),
            ..allow()
        },
    ];
    let explanation = explained(rules);
    let rule = |index: u32| format!("t: tier t · NetworkPolicy a/p · ingress rule {index}");
    let steps: Vec<String> = explanation.steps.iter().map(read).collect();
    let expected = [
        format!("{}: ipVersion, protocol, icmp", rule(0)),
        format!("{}: notProtocol", rule(1)),
        format!("{}: destination is not in friends, source is in friends", rule(2)),
        format!("{}: destination ports, source is not in servers, source notPorts", rule(3)),
        "t: passes: matched".into(),
        "u: tier u · ingress default · NetworkPolicy a/nothing: isolates, no rule matched: matched".into(),
        "-: end: not reached".into(),
    ];
    assert_eq!(steps, expected);
    assert!(!explanation.allow);
}

#[test]
fn what_comes_after_the_rule_that_decides_is_not_reached() {
    let of = |action: plane::Action| plane::Rule { action: action.into(), ..Default::default() };
    let rules = vec![of(plane::Action::Log), of(plane::Action::Allow), of(plane::Action::Deny)];
    let explanation = explained(rules);
    let found: Vec<&Found> = explanation.steps.iter().map(|step| &step.found).collect();
    let expected = [
        Found::Matched,
        Found::Matched,
        Found::NotReached,
        Found::NotReached,
        Found::NotReached,
        Found::NotReached,
    ];
    assert_eq!(found, expected.iter().collect::<Vec<_>>());
    let tiers: Vec<Option<&str>> = explanation.steps.iter().map(|step| step.tier.as_deref()).collect();
    assert_eq!(tiers, [Some("t"), Some("t"), Some("t"), Some("t"), Some("u"), None]);
    assert!(explanation.allow);
    assert_eq!(explanation.logged.len(), 1);
}
