//! Every rule, with an object that keeps it and one that breaks it.

mod arbitrary;
mod change;
mod configuration;
mod decoding;
mod networks;
mod policies;
mod rules;
mod services;

use serde_json::{Value, json};

use crate::object::Object;

fn errors(value: Value) -> Vec<String> {
    Object::from_value(value).unwrap().validate().iter().map(ToString::to_string).collect()
}

/// The fields that a NetworkPolicy with this spec is refused for.
fn policy_fields(spec: Value) -> Vec<String> {
    let object = Object::from_value(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "x"}, "spec": spec,
    }));
    object.unwrap().validate().into_iter().map(|error| error.field).collect()
}

fn pod_fields(spec: Value, status: Value) -> Vec<String> {
    let object = Object::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "x"}, "spec": spec, "status": status,
    }));
    object.unwrap().validate().into_iter().map(|error| error.field).collect()
}

fn ingress(ports: Value, from: Value) -> Value {
    json!({"podSelector": {}, "ingress": [{"ports": ports, "from": from}]})
}

const NOTHING: [&str; 0] = [];

#[test]
fn unknown_fields_are_refused_by_their_path() {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
        "spec": {"podSelector": {"matchlabels": {}}, "ingress": [{"ports": [{"endport": 1}]}]},
    });
    let error = Object::from_value(value).unwrap_err();
    assert_eq!(error.fields(), ["spec.ingress[0].ports[0].endport", "spec.podSelector.matchlabels"]);
}

#[test]
fn a_value_of_the_wrong_type_is_refused_by_its_path() {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
        "spec": {"ingress": [{"ports": [{"endPort": "http"}]}]},
    });
    let error = Object::from_value(value).unwrap_err();
    assert_eq!(error.fields(), ["spec.ingress[0].ports[0].endPort"], "{error}");
}

#[test]
fn what_has_no_known_kind_is_refused() {
    assert!(Object::from_value(json!([])).is_err());
    assert_eq!(Object::from_value(json!({"kind": "Pod"})).unwrap_err().fields(), ["apiVersion"]);
    let error = Object::from_value(json!({"apiVersion": "v2", "kind": "Pod"})).unwrap_err();
    assert!(error.to_string().contains("v2 Pod is not known"), "{error}");
}

#[test]
fn objects_round_trip() {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "x"},
        "spec": {"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}]},
    });
    assert_eq!(Object::from_value(value.clone()).unwrap().to_value(), value);
}

#[test]
fn names_are_checked_by_kind() {
    let named = |kind: &str, name: &str| {
        errors(json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}))
    };
    assert_eq!(named("Namespace", "a-b"), NOTHING);
    assert_eq!(named("Namespace", "a.b").len(), 1);
    assert_eq!(named("ServiceAccount", "a.b"), NOTHING);
    assert_eq!(named("Node", "Node1").len(), 1);
    assert_eq!(named("Node", "a..b").len(), 1);
    assert_eq!(named("Node", &"a".repeat(254)).len(), 1);
    assert_eq!(named("Namespace", &"a".repeat(64)).len(), 1);
    assert_eq!(
        errors(json!({"apiVersion": "v1", "kind": "Node", "metadata": {}})),
        ["metadata.name: Required value: name or generateName is required"]
    );
    assert_eq!(
        errors(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "namespace": "x"}})),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
}

#[test]
fn labels_are_checked() {
    let labelled = |key: &str, value: &str| {
        errors(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {key: value}}}),
        )
    };
    for (key, value) in [("a", ""), ("example.com/A_b.c", "x"), ("0", "A.b_c-d")] {
        assert_eq!(labelled(key, value), NOTHING, "{key}={value}");
    }
    for (key, value) in [
        ("", "x"),
        ("a/b/c", "x"),
        ("/a", "x"),
        ("Example.com/a", "x"),
        ("a-", "x"),
        ("a", "-x"),
        ("a", "a b"),
    ] {
        assert_eq!(labelled(key, value).len(), 1, "{key}={value}");
    }
    assert_eq!(labelled("a", &"x".repeat(64)).len(), 1);
}

#[test]
fn policy_ports_are_checked() {
    let fields = |port: Value| policy_fields(ingress(json!([port]), json!([])));
    for good in [
        json!({}),
        json!({"port": 80}),
        json!({"port": 80, "endPort": 80}),
        json!({"port": 1, "endPort": 65535, "protocol": "SCTP"}),
        json!({"port": "http"}),
        json!({"port": "a-1", "protocol": "UDP"}),
    ] {
        assert_eq!(fields(good.clone()), NOTHING, "{good}");
    }
    let at = |field: &str| vec![format!("spec.ingress[0].ports[0].{field}")];
    for (bad, field) in [
        (json!({"port": 0}), "port"),
        (json!({"port": 65536}), "port"),
        (json!({"port": -1}), "port"),
        (json!({"port": ""}), "port"),
        (json!({"port": "Http"}), "port"),
        (json!({"port": "123"}), "port"),
        (json!({"port": "a--b"}), "port"),
        (json!({"port": "-a"}), "port"),
        (json!({"port": "sixteen-chars-xx"}), "port"),
        (json!({"port": 80, "endPort": 79}), "endPort"),
        (json!({"port": 80, "endPort": 65536}), "endPort"),
        (json!({"port": "http", "endPort": 90}), "endPort"),
        (json!({"endPort": 90}), "endPort"),
        (json!({"port": 80, "protocol": "ICMP"}), "protocol"),
        (json!({"port": 80, "protocol": "tcp"}), "protocol"),
    ] {
        assert_eq!(fields(bad.clone()), at(field), "{bad}");
    }
}

#[test]
fn policy_peers_are_checked() {
    let fields = |peer: Value| policy_fields(ingress(json!([]), json!([peer])));
    for good in [
        json!({"podSelector": {}}),
        json!({"podSelector": {}, "namespaceSelector": {}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.3.4/32"]}}),
        json!({"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}}),
    ] {
        assert_eq!(fields(good.clone()), NOTHING, "{good}");
    }
    for (bad, field) in [
        (json!({}), ""),
        (json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}), ""),
        (json!({"ipBlock": {"cidr": ""}}), ".ipBlock.cidr"),
        (json!({"ipBlock": {"cidr": "10.0.0.0"}}), ".ipBlock.cidr"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/33"}}), ".ipBlock.cidr"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}), ".ipBlock.except[0]"),
        (
            json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}}),
            ".ipBlock.except[1]",
        ),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}}), ".ipBlock.except[0]"),
        (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1"]}}), ".ipBlock.except[0]"),
    ] {
        assert_eq!(fields(bad.clone()), [format!("spec.ingress[0].from[0]{field}")], "{bad}");
    }
    let egress = json!({"egress": [{}, {"to": [{}]}]});
    assert_eq!(policy_fields(egress), ["spec.egress[1].to[0]"]);
}

#[test]
fn label_selectors_are_checked() {
    let fields =
        |expression: Value| policy_fields(json!({"podSelector": {"matchExpressions": [expression]}}));
    for good in [
        json!({"key": "a", "operator": "In", "values": ["x", ""]}),
        json!({"key": "a", "operator": "NotIn", "values": ["x"]}),
        json!({"key": "a", "operator": "Exists"}),
        json!({"key": "a", "operator": "DoesNotExist", "values": []}),
    ] {
        assert_eq!(fields(good.clone()), NOTHING, "{good}");
    }
    for (bad, field) in [
        (json!({"key": "a", "operator": "In"}), "values"),
        (json!({"key": "a", "operator": "NotIn", "values": []}), "values"),
        (json!({"key": "a", "operator": "Exists", "values": ["x"]}), "values"),
        (json!({"key": "a", "operator": "in", "values": ["x"]}), "operator"),
        (json!({"key": "a b", "operator": "Exists"}), "key"),
        (json!({"key": "a", "operator": "In", "values": ["x", "b c"]}), "values[1]"),
    ] {
        assert_eq!(fields(bad.clone()), [format!("spec.podSelector.matchExpressions[0].{field}")], "{bad}");
    }
    assert_eq!(
        policy_fields(json!({"podSelector": {"matchLabels": {"a": "b c"}}})),
        ["spec.podSelector.matchLabels"]
    );
}

#[test]
fn policy_types_are_checked() {
    assert_eq!(policy_fields(json!({"policyTypes": ["Ingress", "Egress"]})), NOTHING);
    assert_eq!(policy_fields(json!({"policyTypes": ["Ingress", "egress"]})), ["spec.policyTypes[1]"]);
    assert_eq!(policy_fields(json!({"policyTypes": ["Ingress", "Egress", "Ingress"]})), ["spec.policyTypes"]);
}

#[test]
fn all_errors_come_at_once() {
    let spec = json!({
        "podSelector": {"matchLabels": {"a": "b c"}},
        "ingress": [{"from": [{}], "ports": [{"port": 0}]}, {"ports": [{"port": "http", "endPort": 1}]}],
        "policyTypes": ["x"],
    });
    assert_eq!(policy_fields(spec).len(), 5);
}

#[test]
fn pods_are_checked() {
    let ports = |ports: Value| pod_fields(json!({"containers": [{"name": "c", "ports": ports}]}), json!({}));
    assert_eq!(pod_fields(json!({"containers": []}), json!({})), ["spec.containers"]);
    assert_eq!(
        pod_fields(json!({"containers": [{"name": "c"}, {"name": "c"}]}), json!({})),
        ["spec.containers[1].name"]
    );
    assert_eq!(ports(json!([{"name": "http", "containerPort": 80}, {"containerPort": 80}])), NOTHING);
    assert_eq!(
        ports(json!([{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}])),
        ["spec.containers[0].ports[1].name"]
    );
    assert_eq!(ports(json!([{"containerPort": 0}])), ["spec.containers[0].ports[0].containerPort"]);
    assert_eq!(ports(json!([{"containerPort": 65536}])), ["spec.containers[0].ports[0].containerPort"]);
    assert_eq!(
        ports(json!([{"containerPort": 1, "name": "sixteen-chars-xx"}])),
        ["spec.containers[0].ports[0].name"]
    );
    assert_eq!(
        ports(json!([{"containerPort": 1, "protocol": "ICMP"}])),
        ["spec.containers[0].ports[0].protocol"]
    );
    let ips = |ips: Value| pod_fields(json!({"containers": [{"name": "c"}]}), json!({"podIPs": ips}));
    assert_eq!(ips(json!([{"ip": "10.0.0.1"}, {"ip": "2001:db8::1"}])), NOTHING);
    assert_eq!(ips(json!([{"ip": "10.0.0.256"}])), ["status.podIPs[0]"]);
    assert_eq!(ips(json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}])), ["status.podIPs"]);
}

#[test]
fn nodes_are_checked() {
    let fields = |spec: Value| -> Vec<String> {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": spec});
        Object::from_value(node).unwrap().validate().into_iter().map(|error| error.field).collect()
    };
    assert_eq!(
        fields(json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "2001:db8::/64"]})),
        NOTHING
    );
    assert_eq!(fields(json!({"podCIDR": "10.0.0.0"})), ["spec.podCIDR"]);
    assert_eq!(fields(json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"]})), ["spec.podCIDR"]);
    assert_eq!(fields(json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]})), ["spec.podCIDRs"]);
}

#[test]
fn defaults_are_those_of_the_api_server() {
    let defaulted = |value: Value| {
        let mut object = Object::from_value(value).unwrap();
        object.set_defaults();
        object.to_value()
    };
    let policy = |spec: Value| {
        let value = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": spec});
        defaulted(value)["spec"]["policyTypes"].clone()
    };
    assert_eq!(policy(json!({})), json!(["Ingress"]));
    assert_eq!(policy(json!({"egress": []})), json!(["Ingress"]));
    assert_eq!(policy(json!({"egress": [{}]})), json!(["Ingress", "Egress"]));
    assert_eq!(policy(json!({"egress": [{}], "policyTypes": ["Ingress"]})), json!(["Ingress"]));
    let namespace = defaulted(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}));
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
}

/// An object of one of Calico's kinds that need nothing but a spec.
fn calico(kind: &str, spec: Value) -> Value {
    let name = match kind {
        "FelixConfiguration"
        | "BGPConfiguration"
        | "ClusterInformation"
        | "IPAMConfiguration"
        | "KubeControllersConfiguration" => "default",
        _ => "n",
    };
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The fields that an object is refused for; none when it is taken.
fn refused(object: Value) -> Vec<String> {
    let errors = Object::accept(object).err().unwrap_or_default();
    errors.into_iter().map(|error| error.field).collect()
}

/// Checks specs of a kind: those that are taken, and those that are refused for exactly these fields of the spec.
fn check(kind: &str, good: &[Value], bad: &[(Value, &[&str])]) {
    for spec in good {
        assert_eq!(refused(calico(kind, spec.clone())), NOTHING, "{kind} {spec}");
    }
    for (spec, fields) in bad {
        let expected: Vec<String> = fields.iter().map(|field| format!("spec.{field}")).collect();
        assert_eq!(refused(calico(kind, spec.clone())), expected, "{kind} {spec}");
    }
}
