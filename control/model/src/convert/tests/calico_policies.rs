//! Calico's policies: what their selectors, rules and defaults come to.

use serde_json::{Value, json};

use super::{text, texts};
use crate::calico;
use crate::convert::*;
use crate::policy::{Hook, Policy, StagedAction};

fn manifest<S: serde::de::DeserializeOwned + Default>(
    namespace: Option<&str>,
    spec: Value,
) -> calico::Manifest<S> {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec})).unwrap()
}

fn np(spec: Value) -> Policy {
    whole(calico_network_policy(&manifest(Some("x"), spec)))
}

fn gnp(spec: Value) -> Policy {
    whole(global_network_policy(&manifest(None, spec)))
}

fn whole(converted: ConvertedPolicy) -> Policy {
    assert_eq!(converted.dropped, [], "something could not be converted");
    converted.policy
}

/// The one ingress rule of a policy in the namespace x.
fn in_np(rule: Value) -> String {
    text(&np(json!({"ingress": [rule]})).ingress[0])
}

/// The one ingress rule of a global policy.
fn in_gnp(rule: Value) -> String {
    text(&gnp(json!({"ingress": [rule]})).ingress[0])
}

#[test]
fn a_namespaced_policy_selects_in_its_namespace_only() {
    let selector = |spec: Value| np(spec).selector.to_string();
    assert_eq!(selector(json!({})), r#"projectcalico.org/namespace == "x""#);
    assert_eq!(selector(json!({"selector": "  "})), r#"projectcalico.org/namespace == "x""#);
    assert_eq!(selector(json!({"selector": "all()"})), r#"projectcalico.org/namespace == "x""#);
    assert_eq!(
        selector(json!({"selector": "pod=='a'"})),
        r#"(pod == "a" && projectcalico.org/namespace == "x")"#
    );
    assert_eq!(
        selector(json!({"selector": "a == '1' || b == '1'", "serviceAccountSelector": "role=='fe'"})),
        r#"((a == "1" || b == "1") && projectcalico.org/namespace == "x" && pcsa.role == "fe")"#
    );
    // Unlike in a global policy, all() stays what it is: pods without the service account's label are selected.
    assert_eq!(selector(json!({"serviceAccountSelector": "all()"})), r#"projectcalico.org/namespace == "x""#);
}

#[test]
fn all_means_in_a_namespace_where_a_global_policy_selects_namespaces() {
    let selector = |spec: Value| gnp(spec).selector.to_string();
    assert_eq!(selector(json!({})), "all()");
    assert_eq!(selector(json!({"selector": "all()"})), "all()");
    assert_eq!(selector(json!({"selector": "!all()"})), "!all()");
    assert_eq!(
        selector(json!({"selector": "all()", "namespaceSelector": "env=='p'"})),
        r#"(has(projectcalico.org/namespace) && pcns.env == "p")"#
    );
    assert_eq!(selector(json!({"namespaceSelector": "all()"})), "has(projectcalico.org/namespace)");
    assert_eq!(
        selector(json!({"selector": "has(a) || !all()", "namespaceSelector": "has(b)"})),
        "((has(a) || !has(projectcalico.org/namespace)) && has(pcns.b))"
    );
    assert_eq!(selector(json!({"serviceAccountSelector": "role=='fe'"})), r#"pcsa.role == "fe""#);
    assert_eq!(selector(json!({"serviceAccountSelector": "all()"})), "has(projectcalico.org/serviceaccount)");
    assert_eq!(
        selector(json!({"selector": "all()", "serviceAccountSelector": "all()"})),
        "has(projectcalico.org/serviceaccount)",
    );
}

#[test]
fn rules_of_namespaced_policies_look_in_their_namespace_unless_they_say_otherwise() {
    let source = |side: Value| in_np(json!({"action": "Allow", "source": side}));
    let cases = [
        (json!({"selector": "role=='b'"}), r#"(projectcalico.org/namespace == "x" && role == "b")"#),
        (json!({"selector": "all()"}), r#"projectcalico.org/namespace == "x""#),
        (json!({"namespaceSelector": "team=='r'"}), r#"pcns.team == "r""#),
        (json!({"namespaceSelector": "all()"}), "has(projectcalico.org/namespace)"),
        (json!({"namespaceSelector": "!all()"}), "!has(projectcalico.org/namespace)"),
        (json!({"namespaceSelector": "global()"}), "!has(projectcalico.org/namespace)"),
        (
            json!({"namespaceSelector": "global()", "selector": "ext=='y'"}),
            r#"(!has(projectcalico.org/namespace) && ext == "y")"#,
        ),
        (
            json!({"namespaceSelector": "has(a)", "selector": "has(b)", "notSelector": "has(c)"}),
            "(has(pcns.a) && has(b)) not[has(c)]",
        ),
        // A notSelector by itself is about endpoints of the namespace, and so matches nothing outside.
        (json!({"notSelector": "has(c)"}), r#"projectcalico.org/namespace == "x" not[has(c)]"#),
        (
            json!({"serviceAccounts": {"names": ["b", "a"], "selector": "x=='1'"}}),
            r#"(projectcalico.org/namespace == "x" && pcsa.x == "1" && projectcalico.org/serviceaccount in {"a", "b"})"#,
        ),
        (
            json!({"namespaceSelector": "has(a)", "serviceAccounts": {"names": ["s"]}, "selector": "has(b)"}),
            r#"(has(pcns.a) && projectcalico.org/serviceaccount in {"s"} && has(b))"#,
        ),
    ];
    for (side, expected) in cases {
        assert_eq!(source(side.clone()), format!("any from {expected} to any"), "{side}");
    }
}

#[test]
fn nets_and_ports_alone_are_of_no_namespace() {
    let rule = json!({"action": "Allow", "protocol": "TCP", "source": {"nets": ["10.1.2.3/8"]}, "destination": {"ports": [80]}});
    assert_eq!(in_np(rule), "TCP V4 from 10.0.0.0/8 to :80-80");
    let rule =
        json!({"action": "Allow", "source": {"serviceAccounts": {}}, "destination": {"ports": ["http"]}});
    assert_eq!(in_np(rule), "any from any to :http");
}

#[test]
fn rules_of_global_policies_look_everywhere() {
    let source = |side: Value| in_gnp(json!({"action": "Deny", "source": side}));
    assert_eq!(source(json!({"selector": "all()"})), "Deny any from all() to any");
    assert_eq!(source(json!({"notSelector": "has(c)"})), "Deny any from not[has(c)] to any");
    assert_eq!(
        source(json!({"namespaceSelector": "all()", "notSelector": "has(c)"})),
        "Deny any from has(projectcalico.org/namespace) not[has(c)] to any"
    );
}

#[test]
fn every_field_of_a_rule_is_there_with_its_negation() {
    let rule = json!({
        "action": "Log", "ipVersion": 4, "protocol": "ICMP", "notProtocol": 17,
        "icmp": {"type": 8}, "notICMP": {"type": 8, "code": 0},
        "source": {"notNets": ["10.0.0.0/8", "192.0.2.1"], "notPorts": [1, "2:5", "x", "80", 6]},
        "destination": {"ports": ["2:5", 6, "9:9", "b", "a", "a"], "selector": "has(d)"},
    });
    assert_eq!(
        in_gnp(rule),
        "Log ICMP V4 !UDP 8 !8/0 from !10.0.0.0/8 !192.0.2.1/32 !:1-6 !:80-80 !:x to has(d) :2-6 :9-9 :a :b"
    );
    assert_eq!(in_gnp(json!({"action": "Pass", "protocol": 132})), "Pass SCTP from any to any");
    assert_eq!(
        in_gnp(json!({"action": "Allow", "icmp": {}, "protocol": "ICMPv6"})),
        "ICMPv6 from any to any"
    );
}

#[test]
fn services_are_of_the_policys_namespace_unless_they_say_otherwise() {
    let rule = |service: Value| json!({"action": "Allow", "source": {"services": service}});
    assert_eq!(in_np(rule(json!({"name": "web"}))), "any from service x/web to any");
    assert_eq!(in_np(rule(json!({"name": "web", "namespace": "y"}))), "any from service y/web to any");
    assert_eq!(in_gnp(rule(json!({"name": "web", "namespace": "y"}))), "any from service y/web to any");
    let converted =
        global_network_policy(&manifest(None, json!({"ingress": [rule(json!({"name": "web"}))]})));
    assert_eq!(converted.dropped[0].field, "spec.ingress[0].source.services.namespace");
    assert_eq!(converted.policy.ingress, []);
}

#[test]
fn a_rule_is_of_the_families_that_its_nets_leave() {
    let rule = |source: Value| json!({"ingress": [{"action": "Deny", "source": source}]});
    let families =
        |source: Value| texts(&global_network_policy(&manifest(None, rule(source))).policy.ingress);
    for (source, expected) in [
        (json!({"nets": ["10.0.0.0/8"]}), vec!["Deny any V4 from 10.0.0.0/8 to any"]),
        (json!({"nets": ["2001:db8::/32"]}), vec!["Deny any V6 from 2001:db8::/32 to any"]),
        // Nothing but these: an IPv6 packet would be "not in 10/8", yet the rule does not exist for it.
        (json!({"notNets": ["10.0.0.0/8"]}), vec!["Deny any V4 from !10.0.0.0/8 to any"]),
        (
            json!({"nets": ["10.0.0.0/8", "2001:db8::/32"]}),
            vec!["Deny any from 10.0.0.0/8 2001:db8::/32 to any"],
        ),
        (
            json!({"nets": ["10.0.0.0/8", "2001:db8::/32"], "notNets": ["10.1.0.0/16"]}),
            vec!["Deny any V4 from 10.0.0.0/8 !10.1.0.0/16 to any"],
        ),
        (json!({"notNets": ["0.0.0.0/0"]}), vec![]),
        (json!({"notNets": ["0.0.0.0/0", "2001:db8::/32"]}), vec!["Deny any V6 from !2001:db8::/32 to any"]),
        (json!({"nets": ["10.0.0.0/8"], "notNets": ["2001:db8::/32"]}), vec![]),
        (json!({"nets": []}), vec!["Deny any from any to any"]),
    ] {
        assert_eq!(families(source.clone()), expected, "{source}");
    }
    let of_version =
        json!({"ingress": [{"action": "Deny", "ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}]});
    let converted = global_network_policy(&manifest(None, of_version));
    assert_eq!(converted.policy.ingress, []);
    assert_eq!(converted.dropped[0].field, "spec.ingress[0]");
}

#[test]
fn types_default_to_the_directions_that_have_rules() {
    let directions = |spec: Value| {
        let policy = gnp(spec);
        (policy.applies_to_ingress, policy.applies_to_egress)
    };
    let rules = json!([{"action": "Allow"}]);
    for (spec, expected) in [
        (json!({}), (true, false)),
        (json!({"ingress": rules}), (true, false)),
        (json!({"egress": rules}), (false, true)),
        (json!({"egress": rules, "ingress": []}), (false, true)),
        (json!({"egress": []}), (true, false)),
        (json!({"egress": rules, "ingress": rules}), (true, true)),
        (json!({"types": [], "egress": rules}), (false, true)),
        (json!({"types": ["Egress"], "ingress": rules}), (false, true)),
        (json!({"types": ["Egress", "Ingress"]}), (true, true)),
        (json!({"types": ["Ingress", "Egress"], "preDNAT": true, "applyOnForward": true}), (true, false)),
    ] {
        assert_eq!(directions(spec.clone()), expected, "{spec}");
    }
    assert_eq!(gnp(json!({"types": ["Egress"], "ingress": rules})).ingress, []);
}

#[test]
fn tier_order_and_hook_are_as_written() {
    let policy = gnp(json!({"tier": "", "order": -1.5, "doNotTrack": true, "applyOnForward": true}));
    assert_eq!((policy.tier.as_str(), policy.order), ("default", Some(-1.5)));
    assert_eq!((policy.hook, policy.apply_on_forward), (Hook::Untracked, true));
    let policy = gnp(json!({"tier": "t", "preDNAT": true, "applyOnForward": true}));
    assert_eq!((policy.tier.as_str(), policy.order, policy.hook), ("t", None, Hook::PreDnat));
    let policy = np(json!({}));
    assert_eq!((policy.hook, policy.apply_on_forward, policy.staged), (Hook::Normal, false, None));
    assert_eq!(policy.key.to_string(), "NetworkPolicy x/p");
}

#[test]
fn a_rule_that_cannot_be_converted_opens_nothing() {
    let bad = json!({"nets": ["10.0.0.0/33"]});
    let converted = calico_network_policy(&manifest(
        Some("x"),
        json!({"ingress": [
            {"action": "Allow", "source": bad},
            {"action": "Log", "source": bad},
            {"action": "Allow", "protocol": "TCP"},
            {"action": "Pass", "source": bad},
            {"action": "Deny", "source": {"selector": "a ="}},
            {"action": "allow"},
        ]}),
    ));
    let deny = "Deny any from any to any";
    assert_eq!(texts(&converted.policy.ingress), ["TCP from any to any", deny, deny, deny]);
    let fields: Vec<&str> = converted.dropped.iter().map(|dropped| dropped.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.ingress[0].source.nets[0]",
            "spec.ingress[1].source.nets[0]",
            "spec.ingress[3].source.nets[0]",
            "spec.ingress[4].source.selector",
            "spec.ingress[5].action",
        ]
    );
}

#[test]
fn what_no_field_can_hold_is_dropped_by_its_path() {
    let field = |rule: Value| {
        let converted = global_network_policy(&manifest(None, json!({"egress": [rule]})));
        converted.dropped.first().map(|dropped| dropped.field.clone()).unwrap_or_default()
    };
    for (rule, expected) in [
        (json!({"action": "Allow", "ipVersion": 5}), "spec.egress[0].ipVersion"),
        (json!({"action": "Allow", "protocol": "tcp"}), "spec.egress[0].protocol"),
        (json!({"action": "Allow", "notProtocol": 256}), "spec.egress[0].notProtocol"),
        (json!({"action": "Allow", "icmp": {"type": 256}}), "spec.egress[0].icmp.type"),
        (json!({"action": "Allow", "notICMP": {"code": 1}}), "spec.egress[0].notICMP.type"),
        (json!({"action": "Allow", "source": {"ports": [0]}}), "spec.egress[0].source.ports[0]"),
        (json!({"action": "Allow", "source": {"ports": ["9:8"]}}), "spec.egress[0].source.ports[0]"),
        (json!({"action": "Allow", "source": {"ports": ["+1:2"]}}), "spec.egress[0].source.ports[0]"),
        (json!({"action": "Allow", "source": {"ports": [1, "1:+2"]}}), "spec.egress[0].source.ports[1]"),
        (json!({"action": "Allow", "source": {"ports": [""]}}), "spec.egress[0].source.ports[0]"),
        (
            json!({"action": "Allow", "source": {"notPorts": ["1:70000"]}}),
            "spec.egress[0].source.notPorts[0]",
        ),
        (
            json!({"action": "Allow", "source": {"ports": ["99999999999999999999"]}}),
            "spec.egress[0].source.ports[0]",
        ),
        (json!({"action": "Allow", "source": {"notNets": ["x"]}}), "spec.egress[0].source.notNets[0]"),
        (
            json!({"action": "Allow", "source": {"serviceAccounts": {"selector": "("}}}),
            "spec.egress[0].source.serviceAccounts.selector",
        ),
    ] {
        assert_eq!(field(rule.clone()), expected, "{rule}");
    }
}

#[test]
fn a_policy_whose_selector_cannot_be_read_applies_to_nothing() {
    let converted = global_network_policy(&manifest(None, json!({"selector": "a ="})));
    assert_eq!(converted.policy.selector.to_string(), "!all()");
    assert_eq!(converted.dropped[0].field, "spec.selector");
    assert!(converted.dropped[0].message.starts_with("column 3"), "{:?}", converted.dropped);
}

#[test]
fn staged_policies_say_what_they_would_do() {
    let staged = |action: Value| {
        let spec = json!({"stagedAction": action, "selector": "has(a)", "ingress": [{"action": "Allow"}]});
        staged_network_policy(&manifest(Some("x"), spec)).map(whole)
    };
    for set in [json!("Set"), json!(null)] {
        let policy = staged(set).unwrap();
        assert_eq!(policy.staged, Some(StagedAction::Set));
        assert_eq!(policy.key.to_string(), "StagedNetworkPolicy x/p");
        assert_eq!(texts(&policy.ingress), ["any from any to any"]);
    }
    let policy = staged(json!("Delete")).unwrap();
    assert_eq!(policy.staged, Some(StagedAction::Delete));
    assert_eq!((policy.applies_to_ingress, policy.applies_to_egress), (false, false));
    assert_eq!(policy.selector.to_string(), "!all()");
    assert_eq!((staged(json!("Learn")), staged(json!("Ignore"))), (None, None));
}

#[test]
fn staged_policies_are_otherwise_what_they_are_staged_for() {
    let spec = json!({"selector": "all()", "namespaceSelector": "has(a)", "doNotTrack": true, "applyOnForward": true,
                      "order": 3, "tier": "t", "egress": [{"action": "Deny"}]});
    let mut staged = whole(staged_global_network_policy(&manifest(None, spec.clone())).unwrap());
    assert_eq!(staged.key.kind.enforced(), gnp(spec.clone()).key.kind);
    staged.key = gnp(spec.clone()).key;
    staged.staged = None;
    assert_eq!(staged, gnp(spec));

    let spec = json!({"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Egress"],
                      "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": 80}]}]});
    let staged = whole(staged_kubernetes_network_policy(&manifest(Some("x"), spec.clone())).unwrap());
    let enforced = super::policy(spec);
    assert_eq!(staged.key.to_string(), "StagedKubernetesNetworkPolicy x/p");
    assert_eq!(Policy { key: enforced.key.clone(), staged: None, ..staged }, enforced);
}
