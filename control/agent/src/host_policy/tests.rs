use caracal_plane_api::{self as plane, Action, Op, op};

use super::*;

fn policy_id(name: &str) -> plane::PolicyId {
    plane::PolicyId { kind: "GlobalNetworkPolicy".into(), namespace: String::new(), name: name.into() }
}

fn state(rule: plane::Rule) -> HostPolicy {
    let tier = plane::TierBinding {
        tier: "default".into(),
        default_action: Action::Deny.into(),
        policies: vec![policy_id("edge")],
    };
    let hook = plane::Hook { ingress: vec![tier], egress: vec![] };
    let ops = [
        op::Op::NodeConfig(plane::NodeConfig {
            failsafe_inbound: vec![plane::Failsafe { protocol: 6, port: 22, net: None }],
            log_prefix: "%t/%n 100%".into(),
            ..Default::default()
        }),
        op::Op::Policy(plane::Policy {
            id: Some(policy_id("edge")),
            tier: "default".into(),
            ingress: vec![rule],
            egress: vec![],
        }),
        op::Op::HostEndpoint(plane::HostEndpoint {
            id: "edge-1".into(),
            interface: "192.0.2.11".into(),
            normal: Some(hook),
            ..Default::default()
        }),
    ];
    let mut state = HostPolicy::default();
    state.apply(&ops.map(|op| Op { op: Some(op) }));
    state
}

fn interfaces() -> Interfaces {
    [("192.0.2.11".parse().unwrap(), "eth0".to_owned())].into()
}

/// The lines of a chain.
fn chain(ruleset: &Ruleset, name: &str) -> Vec<String> {
    ruleset.chains[name].to_string().lines().map(|line| line.trim().to_owned()).collect()
}

fn entity(ports: &[(u32, u32)], not_ports: &[(u32, u32)]) -> Option<plane::Entity> {
    let ranges = |list: &[(u32, u32)]| {
        list.iter().map(|(first, last)| plane::PortRange { first: *first, last: *last }).collect()
    };
    Some(plane::Entity { ports: ranges(ports), not_ports: ranges(not_ports), ..Default::default() })
}

#[test]
fn the_table_reads_as_nft_lists_it() {
    let rule = plane::Rule {
        action: Action::Allow.into(),
        protocol: 6,
        destination: entity(&[(80, 80), (8000, 8080)], &[]),
        ..Default::default()
    };
    let ruleset = render(&state(rule), &interfaces());
    assert_eq!(
        chain(&ruleset, "input"),
        [
            "type filter hook input priority 0; policy accept;",
            "iifname \"lo\" accept",
            "iifname \"eth0\" goto input/0-edge-1",
        ]
    );
    assert_eq!(
        chain(&ruleset, "input/0-edge-1/0-default"),
        [
            "meta l4proto 6 th dport @ports-0 counter accept comment \"tier default · GlobalNetworkPolicy edge · ingress rule 0\"",
            "counter drop comment \"tier default · ingress default\"",
        ]
    );
    let endpoint = chain(&ruleset, "input/0-edge-1");
    for line in [
        "ct state invalid counter drop comment \"of no connection\"",
        "meta l4proto 6 th dport 22 counter accept comment \"failsafe port of the host\"",
        "jump input/0-edge-1/0-default",
        "counter drop comment \"no policy or profile matched\"",
    ] {
        assert!(endpoint.iter().any(|found| found == line), "{line}: {endpoint:#?}");
    }
    assert!(
        ruleset
            .to_string()
            .contains("set ports-0 {\n\t\ttype inet_service\n\t\tflags interval\n\t\telements = { 80,")
    );
    assert!(!ruleset.chains.contains_key("pre-dnat") && !ruleset.chains.contains_key("forward-in"));
}

#[test]
fn a_log_line_begins_as_configured_and_the_next_rule_goes_on() {
    let ruleset =
        render(&state(plane::Rule { action: Action::Log.into(), ..Default::default() }), &interfaces());
    let tier = chain(&ruleset, "input/0-edge-1/0-default");
    assert!(tier[0].starts_with("counter log prefix \"default/edge 100%: \" level info comment"), "{tier:?}");
}

#[test]
fn negated_ports_do_not_keep_protocols_without_ports_from_matching() {
    let rule = plane::Rule {
        action: Action::Allow.into(),
        destination: entity(&[], &[(80, 80)]),
        ..Default::default()
    };
    let tier = chain(&render(&state(rule), &interfaces()), "input/0-edge-1/0-default");
    assert!(
        tier[0].starts_with("meta l4proto @protocols-with-ports th dport != 80 counter accept"),
        "{tier:?}"
    );
    assert!(tier[1].starts_with("meta l4proto != @protocols-with-ports counter accept"), "{tier:?}");
}

#[test]
fn without_an_interface_to_be_about_there_is_no_table() {
    let state = state(plane::Rule::default());
    assert!(render(&state, &Interfaces::new()).is_empty());
    assert!(!render(&state, &interfaces()).is_empty());
}
