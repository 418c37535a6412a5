use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::allocation::{Ranges, Taken, allocate};
use super::slices::{endpoint_slices, is_ours, service_name};
use crate::object::Object;

fn service(name: &str, spec: Value) -> Service {
    let mut whole =
        json!({ "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }], "type": "ClusterIP" });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "x" }, "spec": whole })).unwrap()
}

fn taken(others: &[Service]) -> Taken {
    let mut taken = Taken::default();
    others.iter().for_each(|other| taken.add(other));
    taken
}

fn given(mut service: Service, others: &[Service]) -> Service {
    let errors = allocate(&mut service, None, &taken(others), &Ranges::default());
    assert_eq!(errors, []);
    service
}

fn replaced(former: &Service, spec: Value) -> Result<Service, String> {
    let mut new = service("a", spec);
    let errors = allocate(&mut new, Some(former), &Taken::default(), &Ranges::default());
    errors.first().map_or(Ok(new), |error| Err(error.to_string()))
}

fn refused(spec: Value, others: &[Service]) -> String {
    let errors = allocate(&mut service("a", spec), None, &taken(others), &Ranges::default());
    errors.first().map(ToString::to_string).unwrap_or_default()
}

fn addresses(service: &Service) -> String {
    let spec = service.spec.as_ref().unwrap();
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default().join(" ");
    format!(
        "{} | {} | {}",
        list(&spec.cluster_ips),
        list(&spec.ip_families),
        spec.ip_family_policy.clone().unwrap_or_default()
    )
}

fn node_ports(service: &Service) -> Vec<Option<i32>> {
    service.spec.as_ref().unwrap().ports.iter().flatten().map(|port| port.node_port).collect()
}

#[test]
fn a_service_gets_the_lowest_free_address_behind_those_for_asking() {
    let first = given(service("a", json!({})), &[]);
    assert_eq!(addresses(&first), "10.96.1.0 | IPv4 | SingleStack");
    assert_eq!(first.spec.as_ref().unwrap().cluster_ip.as_deref(), Some("10.96.1.0"));
    let asked = given(service("b", json!({ "clusterIP": "10.96.0.10" })), std::slice::from_ref(&first));
    let next = given(service("c", json!({})), &[first.clone(), asked.clone()]);
    assert_eq!(
        (addresses(&asked).as_str(), addresses(&next).as_str()),
        ("10.96.0.10 | IPv4 | SingleStack", "10.96.1.1 | IPv4 | SingleStack")
    );
    assert_eq!(
        addresses(&given(service("d", json!({})), &[next])),
        "10.96.1.0 | IPv4 | SingleStack",
        "what has gone is free"
    );
    let again = refused(json!({ "clusterIP": "10.96.0.10" }), &[asked]);
    assert!(again.starts_with("spec.clusterIPs[0]") && again.contains("already allocated"), "{again}");
    assert!(refused(json!({ "clusterIP": "10.97.0.1" }), &[]).contains("10.96.0.0/16"));
}

#[test]
fn a_full_range_is_said_and_a_small_one_used_whole() {
    let ranges = Ranges { v4: "10.0.0.0/30".parse().unwrap(), ..Ranges::default() };
    let mut others: Vec<Service> = Vec::new();
    for expected in ["10.0.0.1", "10.0.0.2"] {
        let mut next = service("a", json!({}));
        assert_eq!(allocate(&mut next, None, &taken(&others), &ranges), []);
        assert_eq!(next.spec.as_ref().unwrap().cluster_ip.as_deref(), Some(expected));
        others.push(next);
    }
    let errors = allocate(&mut service("b", json!({})), None, &taken(&others), &ranges);
    assert!(errors[0].to_string().contains("no address of 10.0.0.0/30 is free"), "{errors:?}");
}

#[test]
fn families_are_named_or_follow_from_addresses_and_policy() {
    let told = |spec: Value| addresses(&given(service("a", spec), &[]));
    assert_eq!(told(json!({ "ipFamilies": ["IPv6"] })), "fd00:10:96::100 | IPv6 | SingleStack");
    assert_eq!(
        told(json!({ "ipFamilyPolicy": "PreferDualStack" })),
        "10.96.1.0 fd00:10:96::100 | IPv4 IPv6 | PreferDualStack"
    );
    assert_eq!(
        told(json!({ "ipFamilies": ["IPv6", "IPv4"] })),
        "fd00:10:96::100 10.96.1.0 | IPv6 IPv4 | RequireDualStack"
    );
    assert_eq!(told(json!({ "clusterIP": "fd00:10:96::7" })), "fd00:10:96::7 | IPv6 | SingleStack");
    assert_eq!(told(json!({ "clusterIP": "None" })), "None | IPv4 | SingleStack");
    assert_eq!(told(json!({ "type": "ExternalName", "clusterIP": "10.96.0.1" })), " |  | ");
    let wrong = refused(json!({ "clusterIP": "10.96.0.7", "ipFamilies": ["IPv6"] }), &[]);
    assert!(wrong.contains("expected an IPv6 value"), "{wrong}");
    let single = refused(json!({ "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack" }), &[]);
    assert!(single.starts_with("spec.ipFamilyPolicy"), "{single}");
}

#[test]
fn an_address_stays_while_the_service_does() {
    let former = given(service("a", json!({ "clusterIP": "10.96.0.7" })), &[]);
    assert_eq!(addresses(&replaced(&former, json!({})).unwrap()), "10.96.0.7 | IPv4 | SingleStack");
    let error = replaced(&former, json!({ "clusterIP": "10.96.0.8" })).unwrap_err();
    assert!(error.contains("may not change once set"), "{error}");
    assert!(replaced(&former, json!({ "ipFamilies": ["IPv6"] })).is_err());
    let dual = replaced(&former, json!({ "ipFamilyPolicy": "PreferDualStack" })).unwrap();
    assert_eq!(addresses(&dual), "10.96.0.7 fd00:10:96::100 | IPv4 IPv6 | PreferDualStack");
    let single = replaced(&dual, json!({ "ipFamilyPolicy": "SingleStack" })).unwrap();
    assert_eq!(addresses(&single), "10.96.0.7 | IPv4 | SingleStack");
    let name = replaced(&former, json!({ "type": "ExternalName" })).unwrap();
    assert_eq!(addresses(&name), " |  | ", "a name gives it back");
    assert_eq!(addresses(&replaced(&name, json!({})).unwrap()), "10.96.1.0 | IPv4 | SingleStack");
}

#[test]
fn node_ports_are_given_kept_and_taken_back() {
    let ports = json!([{ "name": "a", "port": 80, "protocol": "TCP" }, { "name": "b", "port": 80, "protocol": "UDP" },
                       { "name": "c", "port": 81, "protocol": "TCP", "nodePort": 30000 }]);
    let former = given(service("a", json!({ "type": "NodePort", "ports": ports })), &[]);
    assert_eq!(
        node_ports(&former),
        [Some(30001), Some(30000), Some(30000)],
        "a number serves once for each protocol"
    );
    let other = given(service("b", json!({ "type": "LoadBalancer" })), std::slice::from_ref(&former));
    assert_eq!(node_ports(&other), [Some(30002)]);
    let none = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false });
    assert_eq!(node_ports(&given(service("b", none), &[])), [None]);
    let kept = replaced(&former, json!({ "type": "NodePort" })).unwrap();
    assert_eq!(node_ports(&kept), [Some(30001)], "by port and protocol");
    assert_eq!(node_ports(&replaced(&former, json!({})).unwrap()), [None]);
    let one = |number: u16| json!({ "type": "NodePort", "ports": [{ "port": 80, "protocol": "TCP", "nodePort": number }] });
    assert!(refused(one(30000), &[former]).contains("already allocated: to x/a"));
    assert!(refused(one(80), &[]).contains("30000-32767"));
    let mut inside = one(30000);
    inside["type"] = json!("ClusterIP");
    assert!(refused(inside, &[]).contains("may not be used when `type` is 'ClusterIP'"));
}

fn pod(name: &str, spec: Value, status: Value) -> Pod {
    let mut value = json!({
        "metadata": { "name": name, "namespace": "x", "labels": { "app": "web" } },
        "spec": { "nodeName": "node1", "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
        "status": { "phase": "Running" },
    });
    for (part, with) in [("spec", spec), ("status", status)] {
        for (key, with) in with.as_object().unwrap() {
            value[part][key] = with.clone();
        }
    }
    serde_json::from_value(value).unwrap()
}

fn at(address: &str) -> Value {
    let ips: Vec<Value> = address.split(' ').map(|ip| json!({ "ip": ip })).collect();
    json!({ "podIPs": ips })
}

/// `IPv4 http=8080: 10.0.0.1 ready …` a slice.
fn told(service: &Service, pods: &[Pod]) -> Vec<String> {
    let slices = endpoint_slices(service, pods.iter(), |node| (node == "node1").then(|| "east".to_owned()));
    let one = |slice: &EndpointSlice| {
        assert!(is_ours(slice) && service_name(slice) == Some("a"));
        assert_eq!(Object::from(slice.clone()).validate(), []);
        let ports: Vec<String> = slice
            .ports
            .iter()
            .flatten()
            .map(|port| format!("{}={}", port.name.clone().unwrap(), port.port.unwrap()))
            .collect();
        let endpoints = slice.endpoints.iter().map(|endpoint| {
            let conditions = endpoint.conditions.as_ref().unwrap();
            let flags = [(conditions.ready, 'r'), (conditions.serving, 's'), (conditions.terminating, 't')];
            let flags: String =
                flags.iter().filter(|(flag, _)| *flag == Some(true)).map(|(_, name)| name).collect();
            format!("{}/{flags}", endpoint.addresses[0])
        });
        format!("{} {}: {}", slice.address_type, ports.join(","), endpoints.collect::<Vec<_>>().join(" "))
    };
    let mut lines: Vec<String> = slices.iter().map(one).collect();
    lines.sort();
    lines
}

fn selecting(spec: Value) -> Service {
    let mut spec = spec;
    spec["selector"] = json!({ "app": "web" });
    service("a", spec)
}

#[test]
fn pods_that_the_selector_matches_are_endpoints_with_their_conditions() {
    let not_ready =
        json!({ "podIPs": [{ "ip": "10.0.0.3" }], "conditions": [{ "type": "Ready", "status": "False" }] });
    let mut going = pod("d", json!({}), at("10.0.0.4"));
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut other = pod("e", json!({}), at("10.0.0.5"));
    other.metadata.labels = None;
    let mut elsewhere = pod("f", json!({}), at("10.0.0.6"));
    elsewhere.metadata.namespace = Some("y".into());
    let pods = [
        pod("a", json!({}), at("10.0.0.1")),
        pod("b", json!({ "hostNetwork": true }), at("192.0.2.11")),
        pod("c", json!({}), not_ready),
        going,
        other,
        elsewhere,
        pod("g", json!({}), json!({ "phase": "Succeeded", "podIPs": [{ "ip": "10.0.0.7" }] })),
        pod("h", json!({ "nodeName": null }), at("10.0.0.8")),
        pod("i", json!({}), json!({})),
    ];
    assert_eq!(
        told(&selecting(json!({})), &pods),
        ["IPv4 http=80: 10.0.0.1/rs 192.0.2.11/rs 10.0.0.3/ 10.0.0.4/st"]
    );
    let early = told(&selecting(json!({ "publishNotReadyAddresses": true })), &pods);
    assert_eq!(early, ["IPv4 http=80: 10.0.0.1/rs 192.0.2.11/rs 10.0.0.3/r 10.0.0.4/rst"]);
    assert_eq!(told(&service("a", json!({})), &pods), [] as [&str; 0], "no selector, no slices");
    let name = json!({ "type": "ExternalName", "externalName": "x.y" });
    assert_eq!(told(&selecting(name), &pods), [] as [&str; 0]);
}

#[test]
fn named_target_ports_are_each_pods_own() {
    let with = |name: &str, port: Value, ip: &str| {
        pod(name, json!({ "containers": [{ "name": "c", "ports": [port] }] }), at(ip))
    };
    let pods = [
        pod("a", json!({}), at("10.0.0.1")),
        with("b", json!({ "name": "http", "containerPort": 9090 }), "10.0.0.2"),
        with("c", json!({ "name": "http", "containerPort": 53, "protocol": "UDP" }), "10.0.0.3"),
    ];
    let ports = json!([{ "name": "http", "port": 80, "targetPort": "http" }, { "name": "x", "port": 81, "targetPort": 7 }]);
    assert_eq!(
        told(&selecting(json!({ "ports": ports })), &pods),
        ["IPv4 http=8080,x=7: 10.0.0.1/rs", "IPv4 http=9090,x=7: 10.0.0.2/rs", "IPv4 x=7: 10.0.0.3/rs"]
    );
}

#[test]
fn slices_are_of_one_family_and_of_a_hundred_endpoints() {
    let pods = [pod("a", json!({}), at("10.0.0.1 fd00::1")), pod("b", json!({}), at("10.0.0.2"))];
    let dual = selecting(json!({ "ipFamilies": ["IPv6", "IPv4"], "clusterIP": "None" }));
    assert_eq!(told(&dual, &pods), ["IPv4 http=80: 10.0.0.1/rs 10.0.0.2/rs", "IPv6 http=80: fd00::1/rs"]);
    let many: Vec<Pod> = (0..250)
        .map(|number| pod(&format!("p{number}"), json!({}), at(&format!("10.0.1.{number}"))))
        .collect();
    let slices = endpoint_slices(&selecting(json!({})), many.iter(), |_| None);
    let names: std::collections::BTreeSet<_> =
        slices.iter().map(|slice| slice.metadata.name.clone()).collect();
    let counts: Vec<usize> = slices.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!((names.len(), counts.iter().sum::<usize>(), counts.iter().max()), (3, 250, Some(&100)));
}

#[test]
fn a_distribution_is_hinted_as_kubernetes_does() {
    let hints = |distribution: Value| {
        let service = selecting(json!({ "trafficDistribution": distribution }));
        let pods = [pod("a", json!({}), at("10.0.0.1"))];
        let slices = endpoint_slices(&service, pods.iter(), |_| Some("east".to_owned()));
        serde_json::to_value(&slices[0].endpoints[0].hints).unwrap()
    };
    assert_eq!(hints(json!(null)), json!(null));
    assert_eq!(hints(json!("PreferClose")), json!({ "forZones": [{ "name": "east" }] }));
    let both = json!({ "forZones": [{ "name": "east" }], "forNodes": [{ "name": "node1" }] });
    assert_eq!(hints(json!("PreferSameNode")), both);
}
