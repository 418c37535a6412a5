//! ClusterNetworkPolicy: subjects, peers, protocols, and what becomes of what cannot be converted.

use serde_json::{Value, json};

use super::texts;
use crate::calico::ClusterNetworkPolicy;
use crate::convert::{ConvertedPolicy, cluster_network_policy};
use crate::policy::Policy;

fn converted(spec: Value) -> Option<ConvertedPolicy> {
    let mut whole = json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    let object: ClusterNetworkPolicy =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": whole})).unwrap();
    cluster_network_policy(&object)
}

fn policy(spec: Value) -> Policy {
    let converted = converted(spec).unwrap();
    assert_eq!(converted.dropped, []);
    converted.policy
}

#[test]
fn the_tier_and_the_priority_give_its_place() {
    let admin = policy(json!({}));
    assert_eq!((admin.tier.as_str(), admin.order), ("kube-admin", Some(7.0)));
    assert_eq!(admin.key.to_string(), "ClusterNetworkPolicy p");
    assert_eq!(policy(json!({"tier": "Baseline"})).tier, "kube-baseline");
}

#[test]
fn one_of_an_unknown_tier_or_without_a_subject_is_as_if_it_were_not_there() {
    assert_eq!(converted(json!({"tier": "Other"})), None);
    assert_eq!(converted(json!({"tier": ""})), None);
    assert_eq!(converted(json!({"subject": {}})), None);
}

#[test]
fn the_subject_is_pods_and_nothing_else() {
    let selector = |subject: Value| policy(json!({"subject": subject})).selector.to_string();
    assert_eq!(
        selector(json!({"namespaces": {}})),
        r#"(projectcalico.org/orchestrator == "k8s" && has(projectcalico.org/namespace))"#
    );
    assert_eq!(
        selector(json!({"namespaces": {"matchLabels": {"env": "prod"}}})),
        r#"(projectcalico.org/orchestrator == "k8s" && pcns.env == "prod")"#
    );
    assert_eq!(
        selector(json!({"pods": {
            "namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "Exists"}]},
            "podSelector": {"matchLabels": {"app": "web"}},
        }})),
        r#"(projectcalico.org/orchestrator == "k8s" && app == "web" && has(pcns.env))"#
    );
}

#[test]
fn it_speaks_only_for_directions_with_rules() {
    let directions = |spec: Value| {
        let policy = policy(spec);
        (policy.applies_to_ingress, policy.applies_to_egress)
    };
    let rule = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
    assert_eq!(directions(json!({})), (false, false));
    assert_eq!(directions(json!({"ingress": rule, "egress": []})), (true, false));
    let rule = json!([{"action": "Deny", "to": [{"namespaces": {}}]}]);
    assert_eq!(directions(json!({"egress": rule})), (false, true));
}

#[test]
fn a_rule_is_one_for_each_protocol_and_peer() {
    let policy = policy(json!({"egress": [{
        "action": "Accept",
        "to": [
            {"namespaces": {"matchLabels": {"a": "1"}}},
            {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"b": "2"}}}},
            {"networks": ["10.0.0.0/8", "192.168.0.0/16"]},
        ],
        "protocols": [
            {"udp": {"destinationPort": {"number": 53}}},
            {"tcp": {"destinationPort": {"range": {"start": 80, "end": 81}}}},
            {"tcp": {"destinationPort": {"number": 82}}},
            {"sctp": {"destinationPort": {"number": 1}}},
            {"sctp": {}},
            {"destinationNamedPort": "http"},
        ],
    }]}));
    let peers = [
        ("", r#"pcns.a == "1""#),
        ("", r#"(has(projectcalico.org/namespace) && projectcalico.org/orchestrator == "k8s" && b == "2")"#),
        (" V4", "10.0.0.0/8 192.168.0.0/16"),
    ];
    let mut expected = Vec::new();
    for (protocol, ports) in [("SCTP", ""), ("TCP", " :80-82"), ("UDP", " :53-53"), ("any", " :http")] {
        expected
            .extend(peers.map(|(version, peer)| format!("{protocol}{version} from any to {peer}{ports}")));
    }
    assert_eq!(texts(&policy.egress), expected);
}

#[test]
fn a_rule_that_cannot_be_converted_fails_closed() {
    let bad = json!([{"tcp": {"destinationPort": {"number": 0}}}]);
    let from = json!([{"namespaces": {}}]);
    let converted = converted(json!({"ingress": [
        {"action": "Accept", "from": from, "protocols": bad},
        {"action": "Pass", "from": from, "protocols": bad},
        {"action": "Deny", "from": [{}]},
        {"action": "Deny", "from": []},
        {"action": "Allow", "from": from},
        {"action": "Accept", "from": [{"namespaces": {}, "pods": {}}]},
        {"action": "Accept", "from": from, "protocols": [{}]},
        {"action": "Pass", "from": from},
    ]}))
    .unwrap();
    let deny = "Deny any from any to any";
    assert_eq!(
        texts(&converted.policy.ingress),
        [deny, deny, deny, deny, "Pass any from has(projectcalico.org/namespace) to any"]
    );
    let fields: Vec<&str> = converted.dropped.iter().map(|dropped| dropped.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.ingress[0].protocols[0].tcp.destinationPort",
            "spec.ingress[1].protocols[0].tcp.destinationPort",
            "spec.ingress[2].from[0]",
            "spec.ingress[3].from",
            "spec.ingress[4].action",
            "spec.ingress[5].from[0]",
            "spec.ingress[6].protocols[0]",
        ]
    );
    assert!(converted.policy.applies_to_ingress);
}

#[test]
fn what_is_given_but_empty_is_nothing_and_not_everything() {
    let to = json!([{"namespaces": {}}]);
    let no_name = json!([{"destinationNamedPort": ""}]);
    let converted = converted(json!({"egress": [
        {"action": "Accept", "to": [{"networks": []}]},
        {"action": "Deny", "to": [{"networks": []}]},
        {"action": "Accept", "to": to, "protocols": no_name},
        {"action": "Deny", "to": to, "protocols": no_name},
    ]}))
    .unwrap();
    let deny = "Deny any from any to any";
    assert_eq!(texts(&converted.policy.egress), [deny, deny]);
    let fields: Vec<&str> = converted.dropped.iter().map(|dropped| dropped.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.egress[0].to[0]",
            "spec.egress[1].to[0]",
            "spec.egress[2].protocols[0]",
            "spec.egress[3].protocols[0]",
        ]
    );
}
