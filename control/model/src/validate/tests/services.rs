//! Services and their endpoints.

use serde_json::{Value, json};

use super::{NOTHING, refused};
use crate::object::Object;

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "x"}, "spec": spec})
}

fn slice(parts: Value) -> Value {
    let mut object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "x"}, "addressType": "IPv4", "endpoints": [],
    });
    for (name, value) in parts.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
}

#[test]
fn services_are_checked() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"ports": [{"port": 80}]});
        spec[field] = value;
        spec
    };
    let port = |port: Value| json!({"ports": [port]});
    for good in [
        port(json!({"port": 80})),
        port(json!({"port": 80, "targetPort": "http", "protocol": "SCTP", "nodePort": 30000})),
        json!({"ports": [{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}]}),
        json!({"clusterIP": "None"}),
        with("clusterIP", json!("10.96.0.1")),
        with("clusterIPs", json!(["10.96.0.1", "fd00::1"])),
        with("sessionAffinity", json!("ClientIP")),
        with("type", json!("LoadBalancer")),
        with("externalIPs", json!(["192.0.2.1"])),
        json!({"type": "ExternalName", "externalName": "example.com."}),
    ] {
        assert_eq!(refused(service(good.clone())), NOTHING, "{good}");
    }
    for (bad, fields) in [
        (json!({}), vec!["spec.ports"]),
        (port(json!({})), vec!["spec.ports[0].port", "spec.ports[0].targetPort"]),
        (port(json!({"port": 65536, "targetPort": 1})), vec!["spec.ports[0].port"]),
        (port(json!({"port": 80, "protocol": "ICMP"})), vec!["spec.ports[0].protocol"]),
        (port(json!({"port": 80, "targetPort": "Http"})), vec!["spec.ports[0].targetPort"]),
        (port(json!({"port": 80, "targetPort": 70000})), vec!["spec.ports[0].targetPort"]),
        (port(json!({"port": 80, "nodePort": 70000})), vec!["spec.ports[0].nodePort"]),
        (port(json!({"port": 80, "name": "A"})), vec!["spec.ports[0].name"]),
        (json!({"ports": [{"port": 1}, {"port": 2}]}), vec!["spec.ports[0].name", "spec.ports[1].name"]),
        (json!({"ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}), vec!["spec.ports[1].name"]),
        (json!({"ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1}]}), vec!["spec.ports[1]"]),
        (with("clusterIP", json!("none")), vec!["spec.clusterIP"]),
        (with("clusterIPs", json!(["10.0.0.1", "10.0.0.2"])), vec!["spec.clusterIPs"]),
        (with("sessionAffinity", json!("Cookie")), vec!["spec.sessionAffinity"]),
        (
            with("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 0}})),
            vec!["spec.sessionAffinityConfig.clientIP.timeoutSeconds", "spec.sessionAffinityConfig"],
        ),
        (with("type", json!("Other")), vec!["spec.type"]),
        (with("externalTrafficPolicy", json!("Node")), vec!["spec.externalTrafficPolicy"]),
        (with("externalIPs", json!(["x"])), vec!["spec.externalIPs[0]"]),
        (with("loadBalancerSourceRanges", json!(["10.0.0.1"])), vec!["spec.loadBalancerSourceRanges[0]"]),
        (with("selector", json!({"a": "b c"})), vec!["spec.selector"]),
        (json!({"type": "ExternalName"}), vec!["spec.externalName"]),
    ] {
        assert_eq!(refused(service(bad.clone())), fields, "{bad}");
    }
    let mut digit = service(port(json!({"port": 80})));
    digit["metadata"]["name"] = json!("1web");
    assert_eq!(refused(digit), ["metadata.name"]);
}

#[test]
fn endpoint_slices_are_checked() {
    let addresses = |kind: &str, addresses: Value| {
        refused(slice(json!({"addressType": kind, "endpoints": [{"addresses": addresses}]})))
    };
    let ports = |ports: Value| refused(slice(json!({"ports": ports})));
    assert_eq!(addresses("IPv4", json!(["10.0.0.1"])), NOTHING);
    assert_eq!(addresses("IPv6", json!(["2001:db8::1"])), NOTHING);
    assert_eq!(addresses("FQDN", json!(["a.example"])), NOTHING);
    assert_eq!(addresses("IPv4", json!(["2001:db8::1"])), ["endpoints[0].addresses[0]"]);
    assert_eq!(addresses("IPv6", json!(["10.0.0.1"])), ["endpoints[0].addresses[0]"]);
    assert_eq!(addresses("IPv4", json!([])), ["endpoints[0].addresses"]);
    assert_eq!(addresses("ipv4", json!(["10.0.0.1"])), ["addressType"]);
    assert_eq!(refused(slice(json!({"addressType": ""}))), ["addressType"]);
    assert_eq!(ports(json!([{"port": 80}, {"name": "b", "port": 81, "protocol": "UDP"}])), NOTHING);
    assert_eq!(ports(json!([{"name": "all"}])), NOTHING);
    assert_eq!(ports(json!([{"port": 0}])), ["ports[0].port"]);
    assert_eq!(ports(json!([{"port": 80, "protocol": "tcp"}])), ["ports[0].protocol"]);
    assert_eq!(ports(json!([{"port": 80}, {"port": 81}])), ["ports[1].name"]);
    assert_eq!(ports(json!([{"name": "A", "port": 80}])), ["ports[0].name"]);
}

#[test]
fn services_and_their_endpoints_get_the_defaults_of_kubernetes() {
    let spec = |value: Value| Object::accept(service(value)).unwrap().to_value()["spec"].clone();
    assert_eq!(
        spec(json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.1"})),
        json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        })
    );
    let sticky = spec(json!({"ports": [{"port": 80, "targetPort": "http"}], "sessionAffinity": "ClientIP"}));
    assert_eq!(sticky["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
    assert_eq!(sticky["ports"][0]["targetPort"], "http");
    assert_eq!(
        spec(json!({"ports": [{"port": 80}], "type": "NodePort"}))["externalTrafficPolicy"],
        "Cluster"
    );
    let endpoints = Object::accept(slice(json!({"ports": [{"port": 80}]}))).unwrap().to_value();
    assert_eq!(endpoints["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]));
}
