//! Services and their slices.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::convert::{Locality, ServedPort, SliceInfo, served_ports, service, service_slice};

fn web(spec: Value) -> Service {
    annotated(json!({}), spec)
}

fn annotated(annotations: Value, spec: Value) -> Service {
    let mut whole = json!({ "clusterIP": "10.96.0.7", "ports": [{ "name": "http", "port": 80 }] });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let mut status = whole["status"].take();
    whole.as_object_mut().unwrap().remove("status");
    if status.is_null() {
        status = json!({});
    }
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "x", "annotations": annotations }, "spec": whole, "status": status,
    }))
    .unwrap()
}

/// `10.0.0.1@node1` is ready, `~` before it not ready, `-` terminating and serving, `=` terminating and not; `+zone` is a
/// zone hint, `*node` a node hint.
fn slice(port: (&str, u16), endpoints: &[&str]) -> SliceInfo {
    let endpoint = |text: &&str| {
        let (text, for_node) = text.split_once('*').map_or((*text, None), |(text, hint)| (text, Some(hint)));
        let (text, zone) = text.split_once('+').map_or((text, None), |(text, zone)| (text, Some(zone)));
        let (ready, serving, terminating) = match text.as_bytes()[0] {
            b'~' => (false, false, false),
            b'-' => (false, true, true),
            b'=' => (false, false, true),
            _ => (true, true, false),
        };
        let (address, node) = text.trim_start_matches(['~', '-', '=']).split_once('@').unwrap();
        json!({
            "addresses": [address], "nodeName": node,
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            "hints": { "forZones": zone.map(|zone| vec![json!({"name": zone})]),
                       "forNodes": for_node.map(|node| vec![json!({"name": node})]) },
        })
    };
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": "web-1", "namespace": "x", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": port.0, "port": port.1, "protocol": "TCP" }],
    }))
    .unwrap();
    service_slice(&slice)
}

fn served(object: &Service, slices: &[SliceInfo]) -> Vec<ServedPort> {
    let here = Locality { node: "node1".to_owned(), zone: Some("east".to_owned()) };
    service(object).map(|info| served_ports(&info, slices.iter(), &here)).unwrap_or_default()
}

fn told(list: &[(std::net::IpAddr, u16)]) -> String {
    list.iter().map(|(address, port)| format!("{address}:{port}")).collect::<Vec<_>>().join(" ")
}

/// `cluster | local | draining` of the only port.
fn sets(object: &Service, endpoints: &[&str]) -> String {
    let ports = served(object, &[slice(("http", 8080), endpoints)]);
    assert_eq!(ports.len(), 1);
    let lists =
        [&ports[0].cluster, &ports[0].local, &ports[0].draining].map(|list| told(list).replace(":8080", ""));
    lists.join(" | ")
}

fn fronts(port: &ServedPort) -> Vec<String> {
    let one = |front: &crate::convert::ServedFrontend| {
        let address = front.address.map_or("*".to_owned(), |address| address.to_string());
        let sources: Vec<String> = front.sources.iter().map(ToString::to_string).collect();
        let outside = if front.is_external { " outside" } else { "" };
        format!(
            "{address}#{}{outside}{}",
            front.port,
            if sources.is_empty() { String::new() } else { format!(" from {}", sources.join(",")) }
        )
    };
    port.frontends.iter().map(one).collect()
}

#[test]
fn a_service_is_asked_at_all_its_addresses_and_ranges_bind_those_outside() {
    let object = web(json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.7", "fd00:10:96::7"], "externalIPs": ["198.51.100.1"],
        "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }],
        "loadBalancerSourceRanges": ["203.0.113.0/24"],
        "status": { "loadBalancer": { "ingress": [
            { "ip": "198.51.100.2" }, { "ip": "198.51.100.1" }, { "hostname": "a" }, { "ip": "198.51.100.3", "ipMode": "Proxy" } ] } },
    }));
    let ports = served(&object, &[]);
    assert_eq!(ports[0].id, "x/web:http");
    assert_eq!(
        fronts(&ports[0]),
        [
            "10.96.0.7#80",
            "fd00:10:96::7#80",
            "198.51.100.1#80 outside from 203.0.113.0/24",
            "198.51.100.2#80 outside from 203.0.113.0/24",
            "*#30080 outside",
        ]
    );
    let inside = web(json!({ "ports": [{ "port": 80, "nodePort": 30080 }] }));
    assert_eq!(
        fronts(&served(&inside, &[])[0]),
        ["10.96.0.7#80"],
        "a node port counts for the types that have one"
    );
    assert_eq!(served(&inside, &[])[0].id, "x/web:80");
    let one_family = web(json!({ "ipFamilies": ["IPv4"], "externalIPs": ["2001:db8::1", "198.51.100.1"] }));
    assert_eq!(fronts(&served(&one_family, &[])[0]), ["10.96.0.7#80", "198.51.100.1#80 outside"]);
}

#[test]
fn ranges_that_nobody_can_read_let_nobody_in_from_outside() {
    let with =
        |ranges: Value| web(json!({ "externalIPs": ["198.51.100.1"], "loadBalancerSourceRanges": ranges }));
    assert_eq!(fronts(&served(&with(json!(["203.0.113.0/33"])), &[])[0]), ["10.96.0.7#80"]);
    let some = with(json!(["203.0.113.0/33", " 192.0.2.0/24"]));
    assert_eq!(fronts(&served(&some, &[])[0]), ["10.96.0.7#80", "198.51.100.1#80 outside from 192.0.2.0/24"]);
}

#[test]
fn nothing_is_translated_for_names_headless_services_and_those_that_ask_not_to_be() {
    let none = |object: Service| assert_eq!(served(&object, &[slice(("http", 1), &["10.0.0.1@node1"])]), []);
    none(web(json!({ "clusterIP": "None" })));
    none(web(json!({ "clusterIP": null, "type": "ExternalName", "externalName": "a.b" })));
    none(annotated(json!({ "projectcalico.org/natExcludeService": "true" }), json!({})));
    none(web(json!({ "clusterIP": null })));
}

#[test]
fn ports_are_matched_by_name_and_slices_add_up() {
    let object = web(
        json!({ "ports": [{ "name": "http", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" }] }),
    );
    let slices = [
        slice(("http", 8080), &["10.0.0.2@node2", "10.0.0.1@node1"]),
        slice(("http", 8081), &["10.0.0.1@node1", "fd00::1@node1"]),
        slice(("dns", 53), &["10.0.0.9@node1"]),
    ];
    let ports = served(&object, &slices);
    assert_eq!(told(&ports[0].cluster), "10.0.0.1:8080 10.0.0.1:8081 10.0.0.2:8080 fd00::1:8081");
    assert_eq!(told(&ports[0].local), "10.0.0.1:8080 10.0.0.1:8081 fd00::1:8081");
    assert_eq!(told(&ports[1].cluster), "", "its slice is of TCP");
}

#[test]
fn those_that_terminate_serve_only_where_nobody_is_ready() {
    let object = web(json!({}));
    assert_eq!(
        sets(&object, &["10.0.0.1@node1", "10.0.0.2@node2", "~10.0.0.3@node1"]),
        "10.0.0.1 10.0.0.2 | 10.0.0.1 | "
    );
    assert_eq!(
        sets(&object, &["-10.0.0.1@node1", "10.0.0.2@node2", "=10.0.0.3@node1"]),
        "10.0.0.2 | 10.0.0.1 | 10.0.0.3",
        "each set on its own"
    );
    assert_eq!(sets(&object, &["-10.0.0.1@node2", "=10.0.0.3@node1"]), "10.0.0.1 |  | 10.0.0.3");
    assert_eq!(sets(&object, &["10.0.0.1@node2", "-10.0.0.3@node2"]), "10.0.0.1 |  | 10.0.0.3");
    assert_eq!(
        sets(&object, &["-10.0.0.1@node2", "fd00::1@node1"]),
        "10.0.0.1 fd00::1 | fd00::1 | ",
        "and each family"
    );
}

#[test]
fn a_service_may_have_udp_forget_backends_that_terminate() {
    let ports = json!([{ "name": "http", "port": 80, "protocol": "UDP" }]);
    let told_of = |annotations: Value| {
        let object = annotated(annotations, json!({ "ports": ports }));
        let mut slices = [slice(("http", 8080), &["10.0.0.1@node1", "=10.0.0.2@node1"])];
        slices[0].ports[0].1 = crate::protocol::Protocol::UDP;
        told(&served(&object, &slices)[0].draining)
    };
    assert_eq!(told_of(json!({})), "10.0.0.2:8080");
    assert_eq!(told_of(json!({ "projectcalico.org/udpConntrackCleanup": "TerminatingImmediately" })), "");
}

#[test]
fn hints_narrow_whom_cluster_chooses_from_and_the_others_may_finish() {
    let auto = annotated(json!({ "service.kubernetes.io/topology-mode": "Auto" }), json!({}));
    let zones = ["10.0.0.1@node2+east", "10.0.0.2@node3+west"];
    assert_eq!(sets(&auto, &zones), "10.0.0.1 |  | 10.0.0.2");
    assert_eq!(sets(&web(json!({})), &zones), "10.0.0.1 10.0.0.2 |  | ", "nobody asked for it");
    assert_eq!(sets(&web(json!({ "trafficDistribution": "PreferClose" })), &zones), "10.0.0.1 |  | 10.0.0.2");
    assert_eq!(
        sets(&auto, &["10.0.0.1@node2+east", "10.0.0.2@node3"]),
        "10.0.0.1 10.0.0.2 |  | ",
        "one lacks hints"
    );
    assert_eq!(
        sets(&auto, &["10.0.0.1@node2+west", "10.0.0.2@node3+west"]),
        "10.0.0.1 10.0.0.2 |  | ",
        "none is for us"
    );
    assert_eq!(
        sets(&auto, &["10.0.0.1@node2+east", "~10.0.0.2@node3"]),
        "10.0.0.1 |  | ",
        "one that is not ready need not say"
    );
    let near = web(json!({ "trafficDistribution": "PreferSameNode" }));
    assert_eq!(
        sets(&near, &["10.0.0.1@node1+east*node1", "10.0.0.2@node2+east*node2"]),
        "10.0.0.1 | 10.0.0.1 | 10.0.0.2"
    );
    assert_eq!(
        sets(&near, &["10.0.0.1@node3+east*node3", "10.0.0.2@node2+west*node2"]),
        "10.0.0.1 |  | 10.0.0.2",
        "then the zone"
    );
}

#[test]
fn affinity_and_policies_are_read() {
    let seconds = |spec: Value| served(&web(spec), &[])[0].affinity_seconds;
    assert_eq!(seconds(json!({})), 0);
    assert_eq!(seconds(json!({ "sessionAffinity": "ClientIP" })), 10_800);
    let config = json!({ "clientIP": { "timeoutSeconds": 5 } });
    assert_eq!(seconds(json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": config })), 5);
    let port =
        &served(&web(json!({ "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Cluster" })), &[])
            [0];
    assert_eq!((port.internal_local, port.external_local), (true, false));
    let port = &served(&web(json!({ "externalTrafficPolicy": "Local" })), &[])[0];
    assert_eq!((port.internal_local, port.external_local), (false, true));
}
