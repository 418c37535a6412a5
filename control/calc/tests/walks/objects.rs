//! Short ways to say objects.

use caracal_model::object::Object;
use serde_json::{Value, json};

use crate::expand::World;

pub fn object(value: Value) -> Object {
    let object = Object::from_value(value).unwrap();
    assert_eq!(object.validate(), [], "a test's object is not valid");
    object
}

pub fn world(objects: impl IntoIterator<Item = Object>) -> World {
    objects.into_iter().map(|object| (object.key(), object)).collect()
}

/// `"a=1,b=2"` as a map.
pub fn labels(text: &str) -> Value {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect()
}

pub fn namespace(name: &str, labelled: &str) -> Object {
    object(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(labelled)}}),
    )
}

pub fn service_account(namespace: &str, name: &str, labelled: &str) -> Object {
    let metadata = json!({"name": name, "namespace": namespace, "labels": labels(labelled)});
    object(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))
}

/// Node `number` as the default world has it.
pub fn node(number: u8) -> Object {
    node_with(number, &format!("10.244.{number}.0/24"), &format!("10.244.{number}.0"))
}

pub fn node_with(number: u8, block: &str, tunnel: &str) -> Object {
    let mut annotations = json!({"projectcalico.org/IPv4Address": format!("192.0.2.{}/24", 10 + number)});
    if !tunnel.is_empty() {
        annotations["projectcalico.org/IPv4VXLANTunnelAddr"] = json!(tunnel);
    }
    object(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node{number}"), "annotations": annotations},
        "spec": {"podCIDR": block},
    }))
}

/// A pod in a namespace on a node (`"x/web@node1"`), with ports `http` = 8080/TCP and `dns` = 53/UDP.
pub fn pod(place: &str, labelled: &str, ip: &str) -> Object {
    pod_with(place, labelled, ip, json!({}), json!({}))
}

pub fn pod_with(place: &str, labelled: &str, ip: &str, spec: Value, status: Value) -> Object {
    let (name, node) = place.split_once('@').unwrap();
    let (namespace, name) = name.split_once('/').unwrap();
    let ports = json!([
        {"name": "http", "containerPort": 8080},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
    ]);
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(labelled)},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running"},
    });
    if !ip.is_empty() {
        value["status"]["podIPs"] = json!([{"ip": ip}]);
    }
    for (part, with) in [("spec", spec), ("status", status)] {
        for (key, with) in with.as_object().unwrap() {
            value[part][key] = with.clone();
        }
    }
    object(value)
}

pub fn policy(place: &str, spec: Value) -> Object {
    let (namespace, name) = place.split_once('/').unwrap();
    object(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    }))
}

/// An object of Calico's, in a namespace (`"x/name"`) or in none (`"name"`).
pub fn calico(kind: &str, place: &str, spec: Value) -> Object {
    calico_with(kind, place, "", spec)
}

/// The same, with labels.
pub fn calico_with(kind: &str, place: &str, labelled: &str, spec: Value) -> Object {
    let mut metadata = json!({"labels": labels(labelled)});
    match place.split_once('/') {
        Some((namespace, name)) => {
            metadata["namespace"] = json!(namespace);
            metadata["name"] = json!(name);
        }
        None => metadata["name"] = json!(place),
    }
    object(json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}))
}

/// A slice of the endpoints of a service (`"x/slice@service"`).
pub fn slice(place: &str, addresses: &[&str], ports: &[u16]) -> Object {
    let (name, service) = place.split_once('@').unwrap();
    let (namespace, name) = name.split_once('/').unwrap();
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"}))
        .collect();
    object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": ports,
    }))
}

/// Policy of a cluster's administrators.
pub fn cluster_policy(name: &str, spec: Value) -> Object {
    object(json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    }))
}
