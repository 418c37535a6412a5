//! Policies, tiers and profiles as a whole.

use serde_json::{Value, json};

use super::{NOTHING, calico, check, refused};
use crate::object::Object;

const KINDS: [&str; 4] =
    ["NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"];

fn rules(count: usize) -> Vec<Value> {
    vec![json!({"action": "Allow"}); count]
}

#[test]
fn every_kind_of_policy_says_the_same_things() {
    for kind in KINDS {
        check(
            kind,
            &[
                json!({}),
                json!({"tier": "a-b", "order": -1.5, "selector": "all()", "serviceAccountSelector": "has(a)"}),
                json!({"types": ["Egress", "Ingress"], "performanceHints": ["AssumeNeededOnEveryNode"]}),
                json!({"ingress": rules(1024), "egress": rules(1024)}),
            ],
            &[
                (json!({"tier": "a.b"}), &["tier"]),
                (json!({"tier": "A"}), &["tier"]),
                (json!({"tier": "a".repeat(64)}), &["tier"]),
                (json!({"order": "10"}), &["order"]),
                (json!({"types": ["ingress"]}), &["types[0]"]),
                (json!({"types": ["Ingress", "Ingress"]}), &["types[1]"]),
                (json!({"performanceHints": ["Fast"]}), &["performanceHints[0]"]),
                (
                    json!({"performanceHints": ["AssumeNeededOnEveryNode", "AssumeNeededOnEveryNode"]}),
                    &["performanceHints[1]"],
                ),
                (json!({"selector": "a"}), &["selector"]),
                (json!({"selector": "global()"}), &["selector"]),
                (json!({"serviceAccountSelector": "global()"}), &["serviceAccountSelector"]),
                (json!({"ingress": rules(1025)}), &["ingress"]),
                (json!({"egress": rules(1025)}), &["egress"]),
                (json!({"ingress": [{"action": "Allow"}, {"action": "Allows"}]}), &["ingress[1].action"]),
                (json!({"podSelector": {}}), &["podSelector"]),
            ],
        );
    }
}

#[test]
fn only_global_policies_say_namespaces_and_hooks() {
    for kind in ["GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"] {
        check(
            kind,
            &[
                json!({"namespaceSelector": "a == 'b'"}),
                json!({"applyOnForward": true}),
                json!({"preDNAT": true, "applyOnForward": true, "ingress": [{"action": "Deny"}]}),
                json!({"doNotTrack": true, "applyOnForward": true, "egress": [{"action": "Deny"}]}),
                json!({"doNotTrack": false, "preDNAT": false}),
            ],
            &[
                (json!({"namespaceSelector": "global()"}), &["namespaceSelector"]),
                (json!({"preDNAT": true, "doNotTrack": true, "applyOnForward": true}), &["preDNAT"]),
                (json!({"preDNAT": true}), &["applyOnForward"]),
                (json!({"doNotTrack": true, "applyOnForward": false}), &["applyOnForward"]),
                (
                    json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress"], "egress": rules(1)}),
                    &["egress"],
                ),
                (
                    json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress", "Egress"]}),
                    &["types"],
                ),
                (json!({"preDNAT": true, "applyOnForward": true, "egress": rules(1)}), &["egress", "types"]),
            ],
        );
    }
    for kind in ["NetworkPolicy", "StagedNetworkPolicy"] {
        for field in ["namespaceSelector", "applyOnForward", "doNotTrack", "preDNAT"] {
            let value = if field == "namespaceSelector" { json!("all()") } else { json!(true) };
            check(kind, &[], &[(json!({field: value}), &[field])]);
        }
    }
}

#[test]
fn a_staged_deletion_says_nothing_else() {
    for kind in ["StagedNetworkPolicy", "StagedGlobalNetworkPolicy"] {
        check(
            kind,
            &[
                json!({"stagedAction": "Delete", "tier": "t"}),
                json!({"stagedAction": "Delete", "selector": "", "ingress": [], "types": []}),
                json!({"stagedAction": "Set", "selector": "all()"}),
                json!({"stagedAction": "Learn"}),
                json!({"stagedAction": "Ignore"}),
            ],
            &[
                (json!({"stagedAction": "delete"}), &["stagedAction"]),
                (json!({"stagedAction": "Delete", "order": 0}), &["order"]),
                (json!({"stagedAction": "Delete", "ingress": rules(1)}), &["ingress"]),
                (json!({"stagedAction": "Delete", "egress": rules(1)}), &["egress"]),
                (json!({"stagedAction": "Delete", "selector": "all()"}), &["selector"]),
                (
                    json!({"stagedAction": "Delete", "serviceAccountSelector": "all()"}),
                    &["serviceAccountSelector"],
                ),
                (json!({"stagedAction": "Delete", "types": ["Ingress"]}), &["types"]),
                (
                    json!({"stagedAction": "Delete", "performanceHints": ["AssumeNeededOnEveryNode"]}),
                    &["performanceHints"],
                ),
            ],
        );
    }
    check(
        "StagedGlobalNetworkPolicy",
        &[json!({"stagedAction": "Delete", "doNotTrack": false})],
        &[
            (json!({"stagedAction": "Delete", "namespaceSelector": "all()"}), &["namespaceSelector"]),
            (
                json!({"stagedAction": "Delete", "applyOnForward": true, "preDNAT": true, "doNotTrack": true}),
                &["applyOnForward", "doNotTrack", "preDNAT"],
            ),
        ],
    );
}

#[test]
fn a_staged_kubernetes_policy_is_one_of_kubernetes() {
    check(
        "StagedKubernetesNetworkPolicy",
        &[
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]}),
            json!({"stagedAction": "Delete", "podSelector": {}}),
        ],
        &[
            (json!({"ingress": [{"ports": [{"endPort": 9}]}]}), &["ingress[0].ports[0].endPort"]),
            (json!({"policyTypes": ["ingress"]}), &["policyTypes[0]"]),
            (json!({"tier": "default"}), &["tier"]),
            (json!({"stagedAction": "Delete", "podSelector": {"matchLabels": {"a": "b"}}}), &["podSelector"]),
            (json!({"stagedAction": "Delete", "ingress": [{}]}), &["ingress"]),
            (json!({"stagedAction": "Delete", "egress": [{}]}), &["egress"]),
            (json!({"stagedAction": "Delete", "policyTypes": ["Egress"]}), &["policyTypes"]),
        ],
    );
}

#[test]
fn policies_are_called_by_one_label_or_two() {
    let named = |kind: &str, name: &str| {
        refused(json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}}))
    };
    for kind in KINDS {
        for name in ["a", "tier.a", "a-b.c-d"] {
            assert_eq!(named(kind, name), NOTHING, "{kind} {name}");
        }
        for name in ["a.b.c", "A", "a_b", "a.", ".a", "-a"] {
            assert_eq!(named(kind, name), ["metadata.name"], "{kind} {name}");
        }
    }
    for kind in ["NetworkPolicy", "StagedNetworkPolicy"] {
        assert_eq!(named(kind, "knp.default.a.b"), NOTHING);
        assert_eq!(named(kind, "ossg.default.a"), NOTHING);
        assert_eq!(named(kind, "knp.other.a"), ["metadata.name"]);
    }
    assert_eq!(named("GlobalNetworkPolicy", "knp.default.a"), ["metadata.name"]);
    assert_eq!(named("Tier", "a-b"), NOTHING);
    assert_eq!(named("Tier", "a.b"), ["metadata.name"]);
    assert_eq!(named("Tier", &"a".repeat(64)), ["metadata.name"]);
    assert_eq!(named("Tier", &"a".repeat(63)), NOTHING);
    assert_eq!(named("StagedKubernetesNetworkPolicy", "a.b.c"), NOTHING);
}

#[test]
fn tiers_deny_or_pass() {
    check(
        "Tier",
        &[json!({}), json!({"order": 1.5, "defaultAction": "Pass"}), json!({"defaultAction": "Deny"})],
        &[(json!({"defaultAction": "Allow"}), &["defaultAction"]), (json!({"order": "first"}), &["order"])],
    );
}

#[test]
fn profiles_hold_rules_and_labels() {
    check(
        "Profile",
        &[json!({"ingress": rules(1), "egress": rules(1), "labelsToApply": {"a": "b"}})],
        &[
            (json!({"ingress": [{"action": "x"}]}), &["ingress[0].action"]),
            (json!({"egress": rules(1025)}), &["egress"]),
            (json!({"labelsToApply": {"a b": "c"}}), &["labelsToApply"]),
        ],
    );
}

#[test]
fn cluster_policies_say_exactly_one_of_each() {
    let policy = |spec: Value| {
        let object = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "p"}, "spec": spec,
        });
        refused(object)
    };
    let with = |rule: Value| json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}}, "egress": [rule]});
    let to = |peer: Value| with(json!({"action": "Accept", "to": [peer]}));
    let over = |protocol: Value| {
        with(json!({"action": "Pass", "to": [{"namespaces": {}}], "protocols": [protocol]}))
    };
    let port = |port: Value| over(json!({"tcp": {"destinationPort": port}}));
    for good in [
        json!({"tier": "Baseline", "priority": 1000, "subject": {"pods": {"podSelector": {}}}}),
        to(json!({"networks": ["10.0.0.0/8", "::/0"]})),
        to(json!({"pods": {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {}}})),
        over(json!({"udp": {}})),
        over(json!({"destinationNamedPort": "http"})),
        port(json!({"number": 80})),
        port(json!({"range": {"start": 80, "end": 90}})),
    ] {
        assert_eq!(policy(good.clone()), NOTHING, "{good}");
    }
    let subject = json!({"namespaces": {}});
    for (bad, field) in [
        (json!({"priority": 1, "subject": subject}), "spec.tier"),
        (json!({"tier": "admin", "subject": subject}), "spec.tier"),
        (json!({"tier": "Admin", "priority": 1001, "subject": subject}), "spec.priority"),
        (json!({"tier": "Admin", "priority": -1, "subject": subject}), "spec.priority"),
        (json!({"tier": "Admin"}), "spec.subject"),
        (json!({"tier": "Admin", "subject": {"namespaces": {}, "pods": {}}}), "spec.subject"),
        (with(json!({"action": "Allow", "to": [{"namespaces": {}}]})), "spec.egress[0].action"),
        (with(json!({"action": "Deny"})), "spec.egress[0].to"),
        (to(json!({})), "spec.egress[0].to[0]"),
        (to(json!({"namespaces": {}, "networks": ["10.0.0.0/8"]})), "spec.egress[0].to[0]"),
        (to(json!({"networks": []})), "spec.egress[0].to[0].networks"),
        (to(json!({"networks": ["10.0.0.1/8"]})), "spec.egress[0].to[0].networks[0]"),
        (
            to(json!({"namespaces": {"matchExpressions": [{"key": "a", "operator": "in"}]}})),
            "spec.egress[0].to[0].namespaces.matchExpressions[0].operator",
        ),
        (over(json!({})), "spec.egress[0].protocols[0]"),
        (over(json!({"tcp": {}, "destinationNamedPort": "a"})), "spec.egress[0].protocols[0]"),
        (over(json!({"destinationNamedPort": "A"})), "spec.egress[0].protocols[0].destinationNamedPort"),
        (port(json!({})), "spec.egress[0].protocols[0].tcp.destinationPort"),
        (port(json!({"number": 0})), "spec.egress[0].protocols[0].tcp.destinationPort.number"),
        (
            port(json!({"range": {"start": 90, "end": 80}})),
            "spec.egress[0].protocols[0].tcp.destinationPort.range.end",
        ),
        (
            json!({
                "tier": "Admin", "subject": subject,
                "ingress": [{"action": "Accept", "from": [{"networks": ["10.0.0.0/8"], "namespaces": {}}]}],
            }),
            "spec.ingress[0].from[0].networks",
        ),
    ] {
        assert_eq!(policy(bad.clone()), [field], "{bad}");
    }
}

#[test]
fn policies_get_the_defaults_of_calico() {
    let spec =
        |kind: &str, spec: Value| Object::accept(calico(kind, spec)).unwrap().to_value()["spec"].clone();
    let types = |kind: &str, given: Value| spec(kind, given)["types"].clone();
    let (one, none) = (json!(rules(1)), json!([]));
    for kind in KINDS {
        assert_eq!(types(kind, json!({})), json!(["Ingress"]), "{kind}");
        assert_eq!(types(kind, json!({"ingress": one, "egress": none})), json!(["Ingress"]));
        assert_eq!(types(kind, json!({"egress": one})), json!(["Egress"]), "unlike in Kubernetes");
        assert_eq!(types(kind, json!({"ingress": one, "egress": one})), json!(["Ingress", "Egress"]));
        assert_eq!(types(kind, json!({"egress": one, "types": ["Ingress"]})), json!(["Ingress"]));
        let object = Object::accept(calico(kind, json!({"tier": "t"}))).unwrap().to_value();
        assert_eq!(object["metadata"]["labels"]["projectcalico.org/tier"], "t");
        assert_eq!(spec(kind, json!({}))["tier"], "default");
    }
    let staged = spec("StagedNetworkPolicy", json!({}));
    assert_eq!(staged["stagedAction"], "Set");
    assert_eq!(types("StagedNetworkPolicy", json!({"stagedAction": "Delete"})), Value::Null);
    let kubernetes = spec("StagedKubernetesNetworkPolicy", json!({"egress": [{"ports": [{"port": 1}]}]}));
    assert_eq!(kubernetes["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(kubernetes["egress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(spec("Tier", json!({}))["defaultAction"], "Deny");
}
