//! Services: worlds to walk between, what they mean, and what a change costs.

use caracal_calc::Update;
use caracal_model::object::{Kind, Object, ObjectKey};
use caracal_plane_api::op::Op;
use caracal_plane_api::{Backend, Service};
use serde_json::{Value, json};

use crate::expand::World;
use crate::objects::{node, object, world};
use crate::told_at_once;

/// A service (`"x/web"`) at `ip` with the port 80, called http.
pub fn service(place: &str, ip: &str, more: Value) -> Object {
    let (namespace, name) = place.split_once('/').unwrap();
    let mut spec = json!({ "clusterIP": ip, "clusterIPs": [ip], "ports": [{ "name": "http", "port": 80 }] });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    object(
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace }, "spec": spec }),
    )
}

/// A slice (`"x/web-1@web"`) of the port http = 8080; an endpoint is `address@node`, with `+zone` for whom it is meant.
pub fn slice(place: &str, endpoints: &[&str]) -> Object {
    let (place, service) = place.split_once('@').unwrap();
    let (namespace, name) = place.split_once('/').unwrap();
    let endpoint = |text: &&str| {
        let (text, zone) = text.split_once('+').map_or((*text, None), |(text, zone)| (text, Some(zone)));
        let (address, node) = text.split_once('@').unwrap();
        let mut endpoint =
            json!({ "addresses": [address], "nodeName": node, "conditions": { "ready": true } });
        if let Some(zone) = zone {
            endpoint["hints"] = json!({ "forZones": [{ "name": zone }] });
        }
        endpoint
    };
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "namespace": namespace, "labels": { "kubernetes.io/service-name": service } },
        "endpoints": endpoints, "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    }))
}

fn in_zone(zone: &str) -> Object {
    let mut node = node(1);
    node.metadata_mut()
        .labels
        .get_or_insert_default()
        .insert("topology.kubernetes.io/zone".into(), zone.into());
    node
}

/// Worlds with services.
pub fn worlds() -> Vec<(&'static str, World)> {
    let local = json!({ "internalTrafficPolicy": "Local" });
    let near = json!({ "trafficDistribution": "PreferClose" });
    let two_ports = json!({ "ports": [{ "name": "http", "port": 80 }, { "name": "admin", "port": 81 }] });
    let hinted = || slice("x/web-1@web", &["10.244.1.2@node1+east", "10.244.2.2@node2+west"]);
    vec![
        ("a service that nobody serves", world([node(1), service("x/web", "10.96.0.7", json!({}))])),
        (
            "a service of two slices",
            world([
                node(1),
                service("x/web", "10.96.0.7", local),
                slice("x/web-1@web", &["10.244.1.2@node1"]),
                slice("x/web-2@web", &["10.244.2.2@node2", "10.244.1.2@node1"]),
            ]),
        ),
        (
            "a slice of another service, and ports",
            world([
                node(1),
                service("x/web", "10.96.0.7", two_ports),
                slice("x/web-1@db", &["10.244.1.2@node1"]),
            ]),
        ),
        (
            "an address that has passed to another service",
            world([
                node(1),
                service("x/db", "10.96.0.7", json!({ "type": "NodePort" })),
                slice("x/web-1@db", &["10.244.1.2@node1"]),
            ]),
        ),
        ("a zone", world([in_zone("east"), service("x/web", "10.96.0.7", near.clone()), hinted()])),
        ("another zone", world([in_zone("west"), service("x/web", "10.96.0.7", near), hinted()])),
        (
            "a service that has become headless",
            world([node(1), service("x/web", "None", json!({})), hinted()]),
        ),
    ]
}

fn told(backends: &[Backend]) -> String {
    let one = |backend: &Backend| {
        let bytes: Vec<String> = backend.address.iter().map(ToString::to_string).collect();
        format!("{}:{}", bytes.join("."), backend.port)
    };
    backends.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_service_is_said_as_this_node_serves_it() {
    let object = service(
        "x/web",
        "10.96.0.7",
        json!({ "type": "NodePort", "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP", "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }] }),
    );
    let (_, fastpath) = told_at_once([
        in_zone("east"),
        object,
        slice("x/web-1@web", &["10.244.2.2@node2", "10.244.1.2@node1"]),
    ]);
    let service: &Service = &fastpath.services["x/web:http"];
    assert_eq!(told(&service.cluster), "10.244.1.2:8080 10.244.2.2:8080");
    assert_eq!(told(&service.local), "10.244.1.2:8080");
    assert!(service.draining.is_empty());
    assert_eq!(
        (service.internal_local, service.external_local, service.affinity_seconds),
        (false, true, 10_800)
    );
    let fronts: Vec<(Vec<u8>, u32, bool)> =
        service.frontends.iter().map(|front| (front.address.clone(), front.port, front.external)).collect();
    assert_eq!(fronts, [(vec![10, 96, 0, 7], 80, false), (vec![], 30080, true)]);
}

#[test]
fn an_address_passes_from_service_to_service_in_one_flush() {
    let (mut graph, mut fastpath) = told_at_once([node(1), service("x/web", "10.96.0.7", json!({}))]);
    graph.apply(Update::Upsert(service("x/api", "10.96.0.7", json!({}))));
    graph.apply(Update::Delete(ObjectKey::new(Kind::Service, Some("x"), "web")));
    let ops = graph.flush();
    assert!(matches!(&ops[0].op, Some(Op::ServiceRemove(id)) if id == "x/web:http"), "{ops:?}");
    assert!(matches!(&ops[1].op, Some(Op::Service(service)) if service.id == "x/api:http"), "{ops:?}");
    fastpath.apply(&ops);
    assert_eq!(fastpath.services.len(), 1);
}

#[test]
fn a_slice_that_changes_is_one_service_of_ten_thousand_looked_at() {
    const SERVICES: usize = 10_000;
    let place = |number: usize| format!("x/s{number}");
    let objects = (0..SERVICES).flat_map(|number| {
        let ip = format!("10.96.{}.{}", number / 250, number % 250);
        [
            service(&place(number), &ip, json!({})),
            slice(&format!("x/s{number}-1@s{number}"), &["10.244.1.2@node1"]),
        ]
    });
    let (mut graph, mut fastpath) = told_at_once(objects);
    let before = graph.work().services;
    graph.apply(Update::Upsert(slice("x/s77-1@s77", &["10.244.1.9@node1"])));
    let ops = graph.flush();
    fastpath.apply(&ops);
    assert_eq!((ops.len(), graph.work().services - before), (1, 1));
    graph.apply(Update::Upsert(slice("x/s77-1@s77", &["10.244.1.9@node1"])));
    assert!(graph.flush().is_empty());
    assert_eq!(graph.work().services - before, 1, "what is as it was costs nothing");
    graph.apply(Update::Upsert(in_zone("east")));
    graph.flush();
    assert_eq!(graph.work().services - before, 1, "no service prefers a zone");
}
