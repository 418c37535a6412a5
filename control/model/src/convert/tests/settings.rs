//! Tiers, profiles, sets, host endpoints, slices and the node agent's configuration.

use serde_json::{Value, json};

use super::texts;
use crate::calico;
use crate::convert::*;
use crate::labels::Labels;
use crate::policy::Action;
use crate::protocol::Protocol;

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_tier_denies_unless_it_passes() {
    let action = |spec: Value| tier(&from(json!({"metadata": {"name": "t"}, "spec": spec}))).default_action;
    assert_eq!(action(json!({})), Action::Deny);
    assert_eq!(action(json!({"defaultAction": "Deny"})), Action::Deny);
    assert_eq!(action(json!({"defaultAction": "Pass"})), Action::Pass);
    let tier = tier(&from(json!({"metadata": {"name": "t"}, "spec": {"order": 5}})));
    assert_eq!((tier.name.as_str(), tier.order), ("t", Some(5.0)));
    let known = well_known_tiers().map(|tier| (tier.name, tier.order, tier.default_action));
    assert_eq!(
        known,
        [
            ("kube-admin".to_owned(), Some(1e3), Action::Pass),
            ("default".to_owned(), Some(1e6), Action::Deny),
            ("kube-baseline".to_owned(), Some(1e7), Action::Pass),
        ]
    );
}

#[test]
fn a_profile_has_rules_of_no_namespace_and_labels() {
    let profile = profile(&from(json!({"metadata": {"name": "p"}, "spec": {
        "ingress": [{"action": "Allow", "source": {"selector": "has(a)"}}],
        "egress": [{"action": "Deny"}],
        "labelsToApply": {"k": "v"},
    }})));
    assert_eq!(texts(&profile.ingress), ["any from has(a) to any"]);
    assert_eq!(texts(&profile.egress), ["Deny any from any to any"]);
    assert_eq!(profile.labels.to_string(), "k=v");
    assert_eq!(default_allow_profile().name, "projectcalico-default-allow");
}

#[test]
fn sets_hold_addresses_and_prefixes_masked_and_once() {
    let spec = json!({"nets": ["10.1.2.3/8", "10.0.0.0/8", "192.0.2.1", "2001:db8::1", "nonsense"]});
    let metadata =
        json!({"name": "s", "namespace": "x", "labels": {"a": "b", "projectcalico.org/namespace": "y"}});
    let set = network_set(&from(json!({"metadata": metadata, "spec": spec})));
    let nets: Vec<String> = set.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128"]);
    assert_eq!(set.labels.to_string(), "a=b,projectcalico.org/namespace=x");
    assert_eq!(
        (set.namespace.as_deref(), set.profiles.as_slice()),
        (Some("x"), ["kns.x".to_owned()].as_slice())
    );
    let set =
        global_network_set(&from(json!({"metadata": {"name": "s", "labels": {"a": "b"}}, "spec": spec})));
    assert_eq!((set.labels.to_string().as_str(), set.namespace, set.profiles), ("a=b", None, vec![]));
}

#[test]
fn a_host_endpoint_is_an_interface_or_what_has_its_addresses() {
    let endpoint = host_endpoint(&from(json!({"metadata": {"name": "h", "labels": {"a": "b"}}, "spec": {
        "node": "node1", "interfaceName": "eth0", "profiles": ["b", "a"],
        "expectedIPs": ["192.0.2.11", "192.0.2.11", "::1", "x"],
        "ports": [{"name": "ssh", "protocol": "TCP", "port": 22}, {"name": "dns", "protocol": 17, "port": 53},
                  {"name": "", "protocol": "TCP", "port": 1}, {"name": "z", "protocol": "ICMP", "port": 1},
                  {"name": "zero", "protocol": "TCP", "port": 0}],
    }})));
    assert_eq!((endpoint.node.as_str(), endpoint.interface.as_deref()), ("node1", Some("eth0")));
    assert_eq!(endpoint.profiles, ["b", "a"]);
    let addresses: Vec<String> = endpoint.expected_ips.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.11", "::1"]);
    let ports: Vec<_> =
        endpoint.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect();
    assert_eq!(ports, [("ssh", Protocol::TCP, 22), ("dns", Protocol::UDP, 53)]);
    let spec = json!({"node": "n", "interfaceName": ""});
    assert_eq!(host_endpoint(&from(json!({"metadata": {"name": "h"}, "spec": spec}))).interface, None);
}

#[test]
fn a_slice_counts_whether_its_endpoints_are_ready_or_not() {
    let slice = endpoint_slice(&from(json!({
        "metadata": {"name": "web-1", "namespace": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.1"]},
        ],
        "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}, {"protocol": "SCTP"}, {"port": 1, "protocol": "X"}],
    })));
    assert_eq!(slice.service.map(|service| service.to_string()).as_deref(), Some("x/web"));
    assert_eq!(
        slice.addresses,
        ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<std::net::IpAddr>().unwrap())
    );
    let ports: Vec<_> = slice.ports.iter().map(|port| (port.protocol, port.port)).collect();
    assert_eq!(ports, [(Protocol::TCP, Some(80)), (Protocol::UDP, Some(53)), (Protocol::SCTP, None)]);
    let orphan = endpoint_slice(&from(json!({
        "metadata": {"name": "s", "namespace": "x"}, "addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}],
    })));
    assert_eq!((orphan.service, orphan.addresses), (None, vec![]));
}

fn felix(name: &str, spec: Value) -> calico::FelixConfiguration {
    from(json!({"metadata": {"name": name}, "spec": spec}))
}

#[test]
fn the_built_in_settings_are_calicos_but_pods_reach_their_host() {
    let settings = felix_settings([], "node1", &Labels::new());
    assert_eq!(settings, FelixSettings::default());
    assert_eq!(settings.endpoint_to_host, EndpointToHost::Accept);
    assert_eq!(settings.established_flows, EstablishedFlows::Rejudge);
    let has =
        |ports: &[FailsafePort], protocol, port| ports.contains(&FailsafePort { protocol, port, net: None });
    let (inbound, outbound) = (&settings.failsafe_inbound, &settings.failsafe_outbound);
    assert_eq!((inbound.len(), outbound.len()), (9, 9));
    assert!(has(inbound, Protocol::TCP, 22) && !has(outbound, Protocol::TCP, 22));
    assert!(has(outbound, Protocol::UDP, 53) && !has(inbound, Protocol::UDP, 53));
    assert!(has(inbound, Protocol::UDP, 68) && has(outbound, Protocol::UDP, 67));
    assert!(!has(inbound, Protocol::TCP, 10250));
}

#[test]
fn the_most_specific_object_that_gives_a_field_wins() {
    let objects = [
        felix(
            "default",
            json!({"logPrefix": "d", "allowVXLANPacketsFromWorkloads": true,
                                "defaultEndpointToHostAction": "Drop", "failsafeInboundHostPorts": []}),
        ),
        felix("b", json!({"nodeSelector": "role == 'edge'", "logPrefix": "b"})),
        felix(
            "a",
            json!({"nodeSelector": "role == 'edge'", "logPrefix": "a", "defaultEndpointToHostAction": "return"}),
        ),
        felix("unselected", json!({"logPrefix": "u"})),
        felix("node.node1", json!({"logPrefix": "n"})),
    ];
    let of = |node: &str, labels: &str| {
        let labels: Labels = labels.split(',').filter_map(|pair| pair.split_once('=')).collect();
        felix_settings(&objects, node, &labels)
    };
    let settings = of("node1", "role=edge");
    assert_eq!((settings.log_prefix.as_str(), settings.endpoint_to_host), ("n", EndpointToHost::Return));
    assert_eq!((settings.failsafe_inbound.len(), settings.failsafe_outbound.len()), (0, 9));
    assert!(settings.allow_vxlan_from_workloads && !settings.allow_ipip_from_workloads);
    assert_eq!(of("node2", "role=edge").log_prefix, "a");
    let settings = of("node2", "");
    assert_eq!((settings.log_prefix.as_str(), settings.endpoint_to_host), ("d", EndpointToHost::Drop));
}

#[test]
fn the_oldest_object_that_selects_the_node_comes_first() {
    let object = |name: &str, created: &str| -> calico::FelixConfiguration {
        from(json!({"metadata": {"name": name, "creationTimestamp": created},
                    "spec": {"nodeSelector": "all()", "logPrefix": name}}))
    };
    let objects = [object("a", "2026-02-01T00:00:00Z"), object("b", "2026-01-01T00:00:00Z")];
    assert_eq!(felix_settings(&objects, "n", &Labels::new()).log_prefix, "b");
}

#[test]
fn failsafe_ports_may_be_limited_to_a_network_and_nonsense_counts_as_the_default() {
    let ports = |value: Value| {
        felix_settings([&felix("default", json!({"failsafeInboundHostPorts": value}))], "n", &Labels::new())
            .failsafe_inbound
    };
    let one = ports(json!([{"protocol": "tcp", "port": 22, "net": "10.0.0.0/8"}]));
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].net.map(|net| net.to_string()).as_deref(), Some("10.0.0.0/8"));
    assert_eq!((ports(json!("none")), ports(json!([]))), (vec![], vec![]));
    for nonsense in
        [json!("none?"), json!([{"protocol": "X", "port": 1}]), json!([{"protocol": "TCP", "port": 0}])]
    {
        assert_eq!(ports(nonsense), FelixSettings::default().failsafe_inbound);
    }
}

#[test]
fn an_annotation_lets_established_flows_keep_their_verdict() {
    let object: calico::FelixConfiguration = from(json!({
        "metadata": {"name": "default", "annotations": {"projectcaracal.org/establishedFlows": "Keep"}}, "spec": {},
    }));
    assert_eq!(felix_settings([&object], "n", &Labels::new()).established_flows, EstablishedFlows::Keep);
}
