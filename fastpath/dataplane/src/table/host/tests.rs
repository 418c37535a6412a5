use caracal_plane_api as plane;
use caracal_plane_api::op::Op;

use super::*;
use crate::table::{RuleName, TableBuilder};

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn rule(action: plane::Action, port: u32) -> plane::Rule {
    let ports = vec![plane::PortRange { first: port, last: port }];
    plane::Rule {
        action: action.into(),
        protocol: 6,
        destination: Some(plane::Entity { ports, ..Default::default() }),
        ..Default::default()
    }
}

fn policy_id(name: &str) -> plane::PolicyId {
    plane::PolicyId { kind: "GlobalNetworkPolicy".into(), namespace: String::new(), name: name.into() }
}

/// A policy with the same rules both ways.
fn policy(name: &str, rules: Vec<plane::Rule>) -> Op {
    let (ingress, egress) = (rules.clone(), rules);
    Op::Policy(plane::Policy { id: Some(policy_id(name)), tier: "default".into(), ingress, egress })
}

fn hook(policies: &[&str]) -> Option<plane::Hook> {
    let policies = policies.iter().map(|name| policy_id(name)).collect();
    let tier =
        plane::TierBinding { tier: "default".into(), default_action: plane::Action::Deny.into(), policies };
    Some(plane::Hook { ingress: vec![tier.clone()], egress: vec![tier] })
}

fn failsafe(protocol: u32, port: u32) -> plane::Failsafe {
    plane::Failsafe { protocol, port, net: None }
}

fn node() -> Op {
    Op::NodeConfig(plane::NodeConfig {
        address: vec![192, 0, 2, 1],
        failsafe_inbound: vec![failsafe(6, 22)],
        failsafe_outbound: vec![failsafe(17, 53)],
        ..Default::default()
    })
}

fn builder(host: plane::HostEndpoint, policies: Vec<Op>) -> TableBuilder {
    let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
    let mut ops = policies;
    ops.push(node());
    ops.push(Op::HostEndpoint(plane::HostEndpoint { id: "eth0".into(), interface: "eth0".into(), ..host }));
    let ops = ops.into_iter().map(|op| plane::Op { op: Some(op) }).collect();
    builder.apply(&plane::Transaction { seq: 1, ops, in_sync: true }).unwrap();
    builder
}

fn packet(path: HostPath, protocol: u8, peer_port: u16, local_port: u16) -> HostPacket {
    let flow = FlowTuple {
        protocol,
        peer_address: ip("203.0.113.7"),
        peer_port,
        local_address: ip("192.0.2.1"),
        local_port,
        icmp: None,
        direction: path.direction(),
    };
    HostPacket { path, flow, original: None }
}

/// The verdict and what decided; the explanation must say the same.
fn judge(builder: &mut TableBuilder, packet: &HostPacket) -> (HostVerdict, String) {
    let tables = builder.build();
    let judgement = tables.judge_host("eth0", packet).unwrap();
    let decided = builder.rule_name(judgement.rule).unwrap().clone();
    let explanation = builder.explain_host("eth0", packet).unwrap();
    assert_eq!((explanation.verdict, &explanation.decided), (judgement.verdict, &decided));
    (judgement.verdict, decided.to_string())
}

#[test]
fn a_host_endpoint_without_policy_denies_all_but_failsafes_and_what_is_forwarded() {
    let mut builder = builder(plane::HostEndpoint::default(), vec![]);
    let mut verdict = |path, protocol, peer, local| judge(&mut builder, &packet(path, protocol, peer, local));
    let nothing = RuleName::NoProfileMatch.to_string();
    assert_eq!(verdict(HostPath::ToHost, 6, 1000, 80), (HostVerdict::Deny, nothing.clone()));
    assert_eq!(verdict(HostPath::FromHost, 6, 80, 1000), (HostVerdict::Deny, nothing));
    let failsafe = (HostVerdict::Allow, RuleName::Failsafe.to_string());
    assert_eq!(verdict(HostPath::ToHost, 6, 1000, 22), failsafe);
    assert_eq!(verdict(HostPath::FromHost, 17, 53, 1000), failsafe);
    assert_eq!(verdict(HostPath::ToHost, 17, 1000, 53).0, HostVerdict::Deny, "outbound is not inbound");
    let forwarded = (HostVerdict::Allow, RuleName::NoForwardPolicy.to_string());
    assert_eq!(verdict(HostPath::ForwardIn, 6, 1000, 80), forwarded);
    assert_eq!(verdict(HostPath::ForwardOut, 6, 80, 1000), forwarded);
}

#[test]
fn untracked_policy_comes_first_has_no_default_and_leaves_failsafes_alone_both_ways() {
    let rules =
        vec![rule(plane::Action::Allow, 80), rule(plane::Action::Deny, 22), rule(plane::Action::Deny, 81)];
    let deny_udp = plane::Rule { action: plane::Action::Deny.into(), protocol: 17, ..Default::default() };
    let policies = vec![policy("raw", [rules, vec![deny_udp]].concat())];
    let host = plane::HostEndpoint { untracked: hook(&["raw"]), ..Default::default() };
    let mut builder = builder(host, policies);
    let mut verdict =
        |path, protocol, peer, local| judge(&mut builder, &packet(path, protocol, peer, local)).0;
    assert_eq!(verdict(HostPath::ToHost, 6, 1000, 80), HostVerdict::AllowUntracked);
    assert_eq!(verdict(HostPath::FromHost, 6, 80, 1000), HostVerdict::AllowUntracked);
    assert_eq!(verdict(HostPath::ToHost, 6, 1000, 22), HostVerdict::Allow, "a failsafe");
    assert_eq!(verdict(HostPath::ForwardIn, 6, 1000, 81), HostVerdict::Deny);
    assert_eq!(
        verdict(HostPath::ForwardIn, 6, 1000, 22),
        HostVerdict::Deny,
        "failsafes are not for what is forwarded"
    );
    assert_eq!(verdict(HostPath::ForwardOut, 6, 81, 1000), HostVerdict::Allow, "no untracked policy there");
    assert_eq!(verdict(HostPath::ForwardIn, 6, 1000, 82), HostVerdict::Allow, "its tier has no default");
    // An answer to what a failsafe lets out passes the untracked hook, and is judged by the next.
    let answer = packet(HostPath::ToHost, 17, 53, 1000);
    let explanation = builder.explain_host("eth0", &answer).unwrap();
    assert_eq!(
        explanation.hooks.first().map(|(hook, list)| (*hook, list.is_some())),
        Some((Hook::Untracked, false))
    );
    assert_eq!(explanation.decided, RuleName::NoProfileMatch);
}

#[test]
fn untracked_policy_sees_the_original_destination_of_what_comes_in_and_of_what_the_host_sends() {
    let policies = vec![policy("raw", vec![rule(plane::Action::Deny, 81), rule(plane::Action::Allow, 80)])];
    let host = plane::HostEndpoint { untracked: hook(&["raw"]), ..Default::default() };
    let mut builder = builder(host, policies);
    let to = |path, original: u16, translated: u16| {
        let (original, packet) = match path {
            HostPath::FromHost => (("203.0.113.7", original), packet(path, 6, translated, 1000)),
            _ => (("192.0.2.1", original), packet(path, 6, 1000, translated)),
        };
        HostPacket { original: Some((ip(original.0), original.1)), ..packet }
    };
    for path in [HostPath::ToHost, HostPath::ForwardIn, HostPath::FromHost] {
        assert_eq!(judge(&mut builder, &to(path, 80, 81)).0, HostVerdict::AllowUntracked, "{path:?}");
        assert_eq!(judge(&mut builder, &to(path, 81, 80)).0, HostVerdict::Deny, "{path:?}");
    }
}

#[test]
fn pre_dnat_policy_sees_the_original_destination_and_its_allow_skips_the_last_hook() {
    let policies = vec![
        policy("dnat", vec![rule(plane::Action::Allow, 80), rule(plane::Action::Deny, 81)]),
        policy("closed", vec![]),
    ];
    let host = plane::HostEndpoint {
        pre_dnat: hook(&["dnat"]),
        normal: hook(&["closed"]),
        forward: hook(&["closed"]),
        ..Default::default()
    };
    let mut builder = builder(host, policies);
    for path in [HostPath::ToHost, HostPath::ForwardIn] {
        let to = |original: u16, translated: u16| HostPacket {
            original: Some((ip("192.0.2.1"), original)),
            ..packet(path, 6, 1000, translated)
        };
        assert_eq!(judge(&mut builder, &to(80, 8080)).0, HostVerdict::Allow);
        assert_eq!(judge(&mut builder, &to(81, 80)).0, HostVerdict::Deny);
        let (verdict, by) = judge(&mut builder, &to(82, 80));
        assert_eq!(verdict, HostVerdict::Deny);
        assert!(by.starts_with("tier default · ingress default"), "{by}");
    }
    assert_eq!(judge(&mut builder, &packet(HostPath::FromHost, 6, 81, 1000)).0, HostVerdict::Deny);
}

#[test]
fn forwarded_traffic_meets_tier_defaults_but_no_profiles() {
    let allow = plane::Rule { action: plane::Action::Allow.into(), ..Default::default() };
    let profile = plane::Profile { name: "open".into(), ingress: vec![allow.clone()], egress: vec![allow] };
    let policies = vec![
        policy("web", vec![rule(plane::Action::Allow, 80), rule(plane::Action::Pass, 81)]),
        Op::Profile(profile),
    ];
    let host =
        plane::HostEndpoint { forward: hook(&["web"]), profiles: vec!["open".into()], ..Default::default() };
    let mut builder = builder(host, policies);
    let mut verdict = |path, port| judge(&mut builder, &packet(path, 6, 1000, port)).0;
    assert_eq!(verdict(HostPath::ForwardIn, 80), HostVerdict::Allow);
    assert_eq!(verdict(HostPath::ForwardIn, 81), HostVerdict::Allow, "passed by the last tier");
    assert_eq!(verdict(HostPath::ForwardIn, 82), HostVerdict::Deny);
    assert_eq!(verdict(HostPath::ToHost, 82), HostVerdict::Allow, "the profile's");
}

#[test]
fn a_policy_that_a_host_endpoint_uses_cannot_be_removed_alone_and_a_change_of_it_counts() {
    let host = plane::HostEndpoint { normal: hook(&["web"]), ..Default::default() };
    let mut builder = builder(host, vec![policy("web", vec![])]);
    let mut apply = |op: Op| {
        let ops = vec![plane::Op { op: Some(op) }];
        builder.apply(&plane::Transaction { seq: 2, ops, in_sync: false }).map_err(|error| error.to_string())
    };
    let refused = apply(Op::PolicyRemove(policy_id("web"))).unwrap_err();
    assert!(refused.contains("host endpoint eth0 refers to it"), "{refused}");
    apply(policy("web", vec![rule(plane::Action::Allow, 80)])).unwrap();
    assert_eq!(judge(&mut builder, &packet(HostPath::ToHost, 6, 1000, 80)).0, HostVerdict::Allow);
    let ops = vec![plane::Op { op: Some(Op::HostEndpointRemove("eth0".into())) }];
    builder.apply(&plane::Transaction { seq: 3, ops, in_sync: false }).unwrap();
    assert_eq!(builder.build().judge_host("eth0", &packet(HostPath::ToHost, 6, 1000, 80)), None);
}

#[test]
fn what_no_rule_of_the_pre_dnat_policy_is_about_is_left_to_the_next_hook() {
    let policies = vec![policy("dnat", vec![rule(plane::Action::Deny, 81)])];
    let mut builder =
        builder(plane::HostEndpoint { pre_dnat: hook(&["dnat"]), ..Default::default() }, policies);
    assert_eq!(judge(&mut builder, &packet(HostPath::ForwardIn, 6, 1000, 81)).0, HostVerdict::Deny);
    assert_eq!(judge(&mut builder, &packet(HostPath::ForwardIn, 6, 1000, 82)).0, HostVerdict::Allow);
}

#[test]
fn the_path_says_which_way_a_packet_goes_whatever_its_flow_says() {
    let (web, dns) = (vec![rule(plane::Action::Allow, 80)], vec![rule(plane::Action::Allow, 53)]);
    let policy =
        plane::Policy { id: Some(policy_id("web")), tier: "default".into(), ingress: web, egress: dns };
    let host = plane::HostEndpoint { normal: hook(&["web"]), ..Default::default() };
    let mut builder = builder(host, vec![Op::Policy(policy)]);
    for direction in [FlowDirection::Ingress, FlowDirection::Egress] {
        let mut verdict = |path, peer, local| {
            let mut packet = packet(path, 6, peer, local);
            packet.flow.direction = direction;
            judge(&mut builder, &packet).0
        };
        assert_eq!(verdict(HostPath::ToHost, 1000, 80), HostVerdict::Allow);
        assert_eq!(verdict(HostPath::ToHost, 53, 1000), HostVerdict::Deny);
        assert_eq!(verdict(HostPath::FromHost, 53, 1000), HostVerdict::Allow);
        assert_eq!(verdict(HostPath::FromHost, 1000, 80), HostVerdict::Deny);
    }
}

#[test]
fn every_host_endpoint_is_there_to_be_counted() {
    let tables = builder(plane::HostEndpoint::default(), vec![]).build();
    let ids: Vec<&str> = tables.host_endpoints.iter().map(|host| &*host.id).collect();
    assert_eq!(ids, ["eth0"]);
}
