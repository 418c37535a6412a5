mod calico_policies;
mod cluster_policies;
mod networks;
mod services;
mod settings;

use serde_json::{Value, json};

use super::*;
use crate::labels::Labels;
use crate::object::Object;
use crate::policy::{Action, IcmpMatch, PeerMatch, Policy, PortRange, Rule};
use crate::protocol::Protocol;

fn converted(spec: Value) -> ConvertedPolicy {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "x"}, "spec": spec,
    });
    match Object::from_value(value).unwrap() {
        Object::NetworkPolicy(policy) => network_policy(&policy),
        other => panic!("{other:?}"),
    }
}

fn policy(spec: Value) -> Policy {
    let converted = converted(spec);
    assert_eq!(converted.dropped, [], "something could not be converted");
    converted.policy
}

fn ingress(rule: Value) -> Vec<Rule> {
    policy(json!({"ingress": [rule]})).ingress
}

/// A rule in one line, for tables of examples.
fn text(rule: &Rule) -> String {
    let side = |side: &PeerMatch| {
        let range = |PortRange { first, last }: &PortRange| format!("{first}-{last}");
        let mut parts = Vec::new();
        parts.extend(side.nets.iter().map(|net| format!("{net}")));
        parts.extend(side.not_nets.iter().map(|net| format!("!{net}")));
        parts.extend(side.selector.iter().map(|selector| format!("{selector}")));
        parts.extend(side.not_selector.iter().map(|selector| format!("not[{selector}]")));
        parts.extend(side.ports.iter().map(|ports| format!(":{}", range(ports))));
        parts.extend(side.named_ports.iter().map(|name| format!(":{name}")));
        parts.extend(side.not_ports.iter().map(|ports| format!("!:{}", range(ports))));
        parts.extend(side.not_named_ports.iter().map(|name| format!("!:{name}")));
        parts.extend(side.service.iter().map(|service| format!("service {service}")));
        if parts.is_empty() { "any".to_owned() } else { parts.join(" ") }
    };
    let icmp = |icmp: &IcmpMatch| match icmp.code {
        None => format!("{}", icmp.kind),
        Some(code) => format!("{}/{code}", icmp.kind),
    };
    let mut parts = vec![rule.protocol.map_or("any".to_owned(), |protocol| protocol.to_string())];
    parts.extend(rule.ip_version.map(|version| format!("{version:?}")));
    parts.extend(rule.not_protocol.map(|protocol| format!("!{protocol}")));
    parts.extend(rule.icmp.as_ref().map(icmp));
    parts.extend(rule.not_icmp.as_ref().map(|message| format!("!{}", icmp(message))));
    let action = if rule.action == Action::Allow { String::new() } else { format!("{:?} ", rule.action) };
    format!("{action}{} from {} to {}", parts.join(" "), side(&rule.source), side(&rule.destination))
}

fn texts(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(text).collect()
}

const LOCAL: &str = r#"(projectcalico.org/namespace == "x" && projectcalico.org/orchestrator == "k8s""#;

#[test]
fn the_policy_selects_kubernetes_pods_of_its_namespace() {
    let selector = |pod_selector: Value| policy(json!({"podSelector": pod_selector})).selector.to_string();
    let with = |terms: &str| {
        format!(r#"(projectcalico.org/orchestrator == "k8s"{terms} && projectcalico.org/namespace == "x")"#)
    };
    assert_eq!(selector(json!({})), with(""));
    assert_eq!(selector(json!({"matchLabels": {"b": "2", "a": "1"}})), with(r#" && a == "1" && b == "2""#));
    let expressions = json!([
        {"key": "k", "operator": "NotIn", "values": ["b", "a", "b"]},
        {"key": "k", "operator": "In", "values": ["c"]},
        {"key": "k", "operator": "Exists"},
        {"key": "k", "operator": "DoesNotExist"},
    ]);
    let expected = r#" && k not in {"a", "b"} && k in {"c"} && has(k) && !has(k)"#;
    assert_eq!(selector(json!({"matchExpressions": expressions})), with(expected));
}

#[test]
fn it_stands_in_the_default_tier_at_order_1000() {
    let policy = policy(json!({}));
    assert_eq!((policy.tier.as_str(), policy.order), ("default", Some(1000.0)));
    assert_eq!(policy.key.to_string(), "KubernetesNetworkPolicy x/p");
}

#[test]
fn policy_types_default_to_ingress_alone() {
    let types = |spec: Value| {
        let policy = policy(spec);
        (policy.applies_to_ingress, policy.applies_to_egress)
    };
    assert_eq!(types(json!({})), (true, false));
    assert_eq!(types(json!({"policyTypes": []})), (true, false));
    assert_eq!(types(json!({"policyTypes": ["Egress"]})), (false, true));
    assert_eq!(types(json!({"policyTypes": ["Egress", "Ingress"]})), (true, true));
}

#[test]
fn rules_of_a_direction_that_is_not_among_the_types_are_inert() {
    assert_eq!(policy(json!({"egress": [{}]})).egress, []);
    assert_eq!(policy(json!({"ingress": [{}], "policyTypes": ["Egress"]})).ingress, []);
    assert_eq!(policy(json!({"egress": [{}], "policyTypes": ["Egress"]})).egress, [Rule::any(Action::Allow)]);
}

#[test]
fn missing_and_empty_lists_mean_anything() {
    for rule in [json!({}), json!({"from": []}), json!({"ports": []}), json!({"from": [], "ports": []})] {
        assert_eq!(ingress(rule), [Rule::any(Action::Allow)]);
    }
}

#[test]
fn no_rules_at_all_allow_nothing_but_still_isolate() {
    let policy = policy(json!({"ingress": []}));
    assert_eq!(policy.ingress, []);
    assert!(policy.applies_to_ingress);
}

#[test]
fn one_rule_for_each_protocol_by_name_and_each_peer_in_order() {
    let rules = ingress(json!({
        "ports": [{"protocol": "UDP", "port": 53}, {"port": 80}, {"protocol": "SCTP"}],
        "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "9.0.0.0/8"}}],
    }));
    assert_eq!(
        texts(&rules),
        [
            "SCTP V4 from 10.0.0.0/8 to any",
            "SCTP V4 from 9.0.0.0/8 to any",
            "TCP V4 from 10.0.0.0/8 to :80-80",
            "TCP V4 from 9.0.0.0/8 to :80-80",
            "UDP V4 from 10.0.0.0/8 to :53-53",
            "UDP V4 from 9.0.0.0/8 to :53-53",
        ]
    );
}

#[test]
fn an_empty_port_is_all_of_tcp() {
    assert_eq!(texts(&ingress(json!({"ports": [{}]}))), ["TCP from any to any"]);
}

#[test]
fn a_port_entry_without_port_supersedes_those_of_its_protocol_only() {
    let rules = ingress(json!({"ports": [
        {"port": 80}, {"port": "http"}, {"protocol": "TCP"}, {"protocol": "UDP", "port": 53},
    ]}));
    assert_eq!(texts(&rules), ["TCP from any to any", "UDP from any to :53-53"]);
}

#[test]
fn ranges_are_merged_and_names_sorted() {
    let ports = |ports: Value| texts(&ingress(json!({"ports": ports}))).join(", ");
    assert_eq!(ports(json!([{"port": 81}, {"port": 80}])), "TCP from any to :80-81");
    assert_eq!(
        ports(json!([{"port": 90, "endPort": 99}, {"port": 80, "endPort": 95}, {"port": 200}])),
        "TCP from any to :80-99 :200-200"
    );
    assert_eq!(ports(json!([{"port": 80, "endPort": 82}, {"port": 81}])), "TCP from any to :80-82");
    assert_eq!(ports(json!([{"port": 65535}, {"port": 1, "endPort": 65535}])), "TCP from any to :1-65535");
    assert_eq!(
        ports(json!([{"port": "b"}, {"port": 1}, {"port": "a"}, {"port": "b"}])),
        "TCP from any to :1-1 :a :b"
    );
}

#[test]
fn a_pod_selector_alone_is_local_to_the_policys_namespace() {
    let from = |selector: Value| text(&ingress(json!({"from": [{"podSelector": selector}]}))[0]);
    assert_eq!(from(json!({})), format!("any from {LOCAL}) to any"));
    assert_eq!(
        from(json!({"matchLabels": {"role": "b"}})),
        format!(r#"any from {LOCAL} && role == "b") to any"#)
    );
}

#[test]
fn a_namespace_selector_is_about_inherited_labels() {
    let from = |peer: Value| text(&ingress(json!({"from": [peer]}))[0]);
    let k8s = r#"projectcalico.org/orchestrator == "k8s""#;
    assert_eq!(
        from(json!({"namespaceSelector": {}})),
        format!("any from (has(projectcalico.org/namespace) && {k8s}) to any")
    );
    assert_eq!(
        from(json!({"namespaceSelector": {"matchLabels": {"team": "r"}}})),
        format!(r#"any from (pcns.team == "r" && {k8s}) to any"#)
    );
    assert_eq!(
        from(
            json!({"namespaceSelector": {"matchLabels": {"team": "r"}}, "podSelector": {"matchLabels": {"a": "1"}}})
        ),
        format!(r#"any from (pcns.team == "r" && {k8s} && a == "1") to any"#)
    );
}

#[test]
fn an_ip_block_is_masked_and_never_namespaced() {
    let from = |block: Value| text(&ingress(json!({"from": [{"ipBlock": block}]}))[0]);
    assert_eq!(from(json!({"cidr": "10.1.2.3/8"})), "any V4 from 10.0.0.0/8 to any");
    assert_eq!(
        from(json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.77/24"]})),
        "any V4 from 0.0.0.0/0 !10.0.0.0/8 !192.0.2.0/24 to any"
    );
    assert_eq!(from(json!({"cidr": "2001:db8::1/32"})), "any V6 from 2001:db8::/32 to any");
}

#[test]
fn egress_peers_and_ports_are_both_about_the_destination() {
    let rules = policy(json!({"policyTypes": ["Egress"], "egress": [
        {"to": [{"podSelector": {}}], "ports": [{"port": "http"}, {"port": 80}]},
    ]}));
    assert_eq!(texts(&rules.egress), [format!("TCP from any to {LOCAL}) :80-80 :http")]);
}

#[test]
fn a_rule_that_cannot_be_converted_is_dropped_and_the_policy_still_isolates() {
    let bad = [
        (json!({"ports": [{"port": 80}, {"port": 70000}]}), "ports[1].port"),
        (json!({"ports": [{"port": 80, "endPort": 79}]}), "ports[0].endPort"),
        (json!({"ports": [{"protocol": "GRE"}]}), "ports[0].protocol"),
        (json!({"from": [{}]}), "from[0]"),
        (json!({"from": [{"ipBlock": {"cidr": "10"}}]}), "from[0].ipBlock.cidr"),
        (
            json!({"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}]}),
            "from[0].podSelector.matchExpressions[0].operator",
        ),
    ];
    for (rule, field) in bad {
        let converted = converted(json!({"ingress": [{"ports": [{"port": 1}]}, rule]}));
        assert_eq!(texts(&converted.policy.ingress), ["TCP from any to :1-1"], "{field}");
        assert!(converted.policy.applies_to_ingress);
        let fields: Vec<&str> = converted.dropped.iter().map(|dropped| dropped.field.as_str()).collect();
        assert_eq!(fields, [format!("spec.ingress[1].{field}")]);
    }
}

fn pod(value: Value) -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_pod_becomes_an_endpoint() {
    let endpoint = pod_endpoint(&pod(json!({
        "metadata": {"name": "web", "namespace": "x", "labels": {"app": "web", "pcns.a": "forged", "pcsa.b": "forged"}},
        "spec": {
            "nodeName": "node1", "serviceAccountName": "robot",
            "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 8080}, {"containerPort": 9},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            ]}],
            "initContainers": [{"name": "i", "ports": [{"name": "init", "containerPort": 1}]}],
        },
        "status": {"podIPs": [{"ip": "10.244.1.2"}], "podIP": "10.9.9.9"},
    })))
    .unwrap();
    assert_eq!(endpoint.interface, crate::names::veth_name("x", "web"));
    let labels = "app=web,projectcalico.org/namespace=x,projectcalico.org/orchestrator=k8s,projectcalico.org/serviceaccount=robot";
    assert_eq!(endpoint.labels.to_string(), labels);
    assert_eq!(endpoint.profiles, ["kns.x", "ksa.x.robot"]);
    assert_eq!(endpoint.addresses, ["10.244.1.2".parse::<std::net::IpAddr>().unwrap()]);
    let ports: Vec<(&str, Protocol, u16)> =
        endpoint.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect();
    assert_eq!(
        ports,
        [("http", Protocol::TCP, 8080), ("dns", Protocol::UDP, 53), ("init", Protocol::TCP, 1)]
    );
}

#[test]
fn a_service_account_name_too_long_for_a_label_gives_no_label() {
    let with = |name: String| {
        let spec = json!({"nodeName": "n", "serviceAccountName": name, "containers": []});
        pod_endpoint(&pod(json!({"metadata": {"name": "a", "namespace": "x"}, "spec": spec}))).unwrap()
    };
    assert!(with("a".repeat(62)).labels.has(crate::labels::key::SERVICE_ACCOUNT));
    let long = with("a".repeat(63));
    assert!(!long.labels.has(crate::labels::key::SERVICE_ACCOUNT));
    assert_eq!(long.profiles.len(), 2, "the profile is there all the same");
}

#[test]
fn pods_without_a_node_or_in_its_network_have_no_endpoint() {
    let endpoint =
        |spec: Value| pod_endpoint(&pod(json!({"metadata": {"name": "a", "namespace": "x"}, "spec": spec})));
    assert_eq!(endpoint(json!({"containers": []})), None);
    assert_eq!(endpoint(json!({"containers": [], "nodeName": ""})), None);
    assert_eq!(endpoint(json!({"containers": [], "nodeName": "n", "hostNetwork": true})), None);
}

#[test]
fn addresses_come_from_the_first_place_that_has_any() {
    let addresses = |status: Value, annotations: Value| -> String {
        let metadata = json!({"name": "a", "namespace": "x", "annotations": annotations});
        let pod =
            pod(json!({"metadata": metadata, "spec": {"nodeName": "n", "containers": []}, "status": status}));
        pod_endpoint(&pod).unwrap().addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let both = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "2001:db8::1"}], "podIP": "10.0.0.9"});
    assert_eq!(addresses(both.clone(), json!({})), "10.0.0.1 2001:db8::1");
    let named = |container: &str| json!({"cni.projectcalico.org/podIPs": "10.0.0.2/32", "cni.projectcalico.org/containerID": container});
    assert_eq!(addresses(both.clone(), named("")), "10.0.0.1 2001:db8::1");
    assert_eq!(addresses(both, named("0f3c")), "10.0.0.2", "a new sandbox, and the status of the former");
    assert_eq!(addresses(json!({"podIP": "10.0.0.9"}), json!({})), "10.0.0.9");
    assert_eq!(
        addresses(json!({"podIPs": []}), json!({"cni.projectcalico.org/podIPs": "10.0.0.2/32, ::2/128"})),
        "10.0.0.2 ::2"
    );
    assert_eq!(addresses(json!({}), json!({"cni.projectcalico.org/podIP": "10.0.0.3/32"})), "10.0.0.3");
    assert_eq!(addresses(json!({}), json!({"vpc.amazonaws.com/pod-ips": "10.0.0.4"})), "10.0.0.4");
    assert_eq!(addresses(json!({}), json!({})), "");
}

#[test]
fn finished_pods_have_lost_their_addresses() {
    let is_empty = |metadata: Value, phase: &str| {
        let status = json!({"podIPs": [{"ip": "10.0.0.1"}], "phase": phase});
        let pod =
            pod(json!({"metadata": metadata, "spec": {"nodeName": "n", "containers": []}, "status": status}));
        pod_endpoint(&pod).unwrap().addresses.is_empty()
    };
    let plain = json!({"name": "a", "namespace": "x"});
    assert!(!is_empty(plain.clone(), "Running"));
    assert!(is_empty(plain.clone(), "Succeeded"));
    assert!(is_empty(plain, "Failed"));
    let deleted = |annotations: Value| json!({"name": "a", "namespace": "x", "deletionTimestamp": "2026-11-21T00:00:00Z", "annotations": annotations});
    assert!(!is_empty(deleted(json!({})), "Running"));
    assert!(is_empty(deleted(json!({"cni.projectcalico.org/podIP": ""})), "Running"));
    assert!(!is_empty(json!({"name": "a", "annotations": {"cni.projectcalico.org/podIP": ""}}), "Running"));
}

#[test]
fn namespaces_and_service_accounts_hand_their_labels_down() {
    let namespace =
        serde_json::from_value(json!({"metadata": {"name": "x", "labels": {"team": "r"}}})).unwrap();
    let profile = namespace_profile(&namespace);
    assert_eq!(profile.name, "kns.x");
    assert_eq!(profile.labels.to_string(), "pcns.projectcalico.org/name=x,pcns.team=r");
    assert_eq!(profile.ingress, [Rule::any(Action::Allow)]);
    assert_eq!(profile.egress, [Rule::any(Action::Allow)]);
    let account =
        serde_json::from_value(json!({"metadata": {"name": "a.b", "namespace": "x", "labels": {"q": "1"}}}))
            .unwrap();
    let profile = service_account_profile(&account);
    assert_eq!(profile.name, "ksa.x.a.b");
    assert_eq!(profile.labels, Labels::from_iter([("pcsa.projectcalico.org/name", "a.b"), ("pcsa.q", "1")]));
    assert_eq!((profile.ingress, profile.egress), (vec![], vec![]));
}

#[test]
fn a_nodes_address_is_the_annotation_or_the_internal_address() {
    let node = |annotations: Value, addresses: Value| -> NodeInfo {
        let value = json!({
            "metadata": {"name": "node1", "annotations": annotations},
            "spec": {"podCIDR": "10.244.1.0/24"}, "status": {"addresses": addresses},
        });
        node_info(&serde_json::from_value(value).unwrap())
    };
    let internal = json!([{"type": "Hostname", "address": "node1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
        {"type": "InternalIP", "address": "192.0.2.1"}]);
    let address = |info: &NodeInfo| info.address.map(|address| address.to_string()).unwrap_or_default();
    let both = json!([{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "2001:db8::1"}]);
    let dual = node(json!({"projectcalico.org/IPv6Address": "2001:db8::11/64"}), both.clone());
    assert_eq!(dual.addresses().map(|a| a.to_string()).collect::<Vec<_>>(), ["192.0.2.1", "2001:db8::11"]);
    assert_eq!(
        (dual.subnet_of(true), dual.subnet_of(false).unwrap().to_string()),
        (None, "2001:db8::/64".to_owned())
    );
    for wrong in ["192.0.2.11/24", "2001:db8::11/129", "2001:db8::11/"] {
        let fallback = node(json!({"projectcalico.org/IPv6Address": wrong}), both.clone());
        assert_eq!(fallback.address_of(false), Some("2001:db8::1".parse().unwrap()), "{wrong}");
    }
    let annotated = node(json!({"projectcalico.org/IPv4Address": "192.0.2.11/24"}), internal.clone());
    assert_eq!(annotated.address_v6, None);
    assert_eq!(address(&annotated), "192.0.2.11");
    assert_eq!(annotated.subnet.unwrap().to_string(), "192.0.2.0/24");
    assert_eq!(address(&node(json!({}), internal.clone())), "192.0.2.1");
    assert_eq!(address(&node(json!({"projectcalico.org/IPv4Address": "nonsense"}), internal)), "192.0.2.1");
    assert_eq!(
        address(&node(json!({}), json!([{"type": "ExternalIP", "address": "203.0.113.1"}]))),
        "203.0.113.1"
    );
    assert_eq!(address(&node(json!({}), json!([]))), "");
    assert_eq!(annotated.pod_cidrs[0].to_string(), "10.244.1.0/24");
}

#[test]
fn a_nodes_tunnel_end_comes_from_annotations_and_its_name() {
    let node = |annotations: Value| -> NodeInfo {
        let value = json!({"metadata": {"name": "node1", "annotations": annotations}});
        node_info(&serde_json::from_value(value).unwrap())
    };
    let plain = node(json!({}));
    assert_eq!(plain.vxlan_tunnel_mac, crate::names::vtep_mac("node1"));
    assert_eq!(plain.vxlan_tunnel_address, None);
    let told = node(json!({
        "projectcalico.org/IPv4VXLANTunnelAddr": "10.244.1.0", "projectcalico.org/VXLANTunnelMACAddr": "02:00:00:00:00:0a",
    }));
    assert_eq!(told.vxlan_tunnel_mac, [2, 0, 0, 0, 0, 10]);
    assert_eq!(told.vxlan_tunnel_address, Some([10, 244, 1, 0].into()));
    assert_eq!(told.ipip_tunnel_address, None);
    let told = node(json!({
        "projectcalico.org/IPv6VXLANTunnelAddr": "fd00:1::", "projectcalico.org/IPv4IPIPTunnelAddr": "10.244.1.1",
        "projectcalico.org/VXLANTunnelMACAddrV6": "02:00:00:00:00:0b",
    }));
    assert_eq!(
        (told.vxlan_tunnel_mac, told.vxlan_tunnel_mac_v6),
        (plain.vxlan_tunnel_mac, [2, 0, 0, 0, 0, 11])
    );
    assert_eq!(plain.vxlan_tunnel_mac_v6, crate::names::vtep_mac_v6("node1"));
    assert_eq!(
        told.tunnel_addresses().map(|a| a.to_string()).collect::<Vec<_>>(),
        ["10.244.1.1", "fd00:1::"]
    );
    let nonsense = node(json!({"projectcalico.org/VXLANTunnelMACAddr": "01:00:00:00:00:00"}));
    assert_eq!(nonsense.vxlan_tunnel_mac, crate::names::vtep_mac("node1"), "a multicast MAC is ignored");
}
