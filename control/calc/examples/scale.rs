//! What the calc graph costs in a big world: one JSON row a measure on standard output, for `scripts/bench`.
//!
//! ```text
//!   cargo run --release -p caracal-calc --example scale -- [PODS [POLICIES]]      (50000 and 5000 unless given)
//! ```
//!
//! Times are of `apply` and `flush` alone: objects are made outside of them. Memory is what the process has resident.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example prints, and fails by panicking")]

use std::time::{Duration, Instant};

use caracal_calc::{CalcGraph, Update};
use caracal_model::object::Object;
use caracal_plane_api as plane;
use serde_json::{Value, json};

const NODES: usize = 250;
const NAMESPACES: usize = 100;
/// Pods of one application.
const REPLICAS: usize = 20;

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn namespace(number: usize, generation: usize) -> Object {
    let labels = json!({"team": format!("t{}", number % 10), "generation": format!("g{generation}")});
    object(
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("ns{number}"), "labels": labels}}),
    )
}

fn node(number: usize) -> Object {
    let annotations = json!({
        "projectcalico.org/IPv4Address": format!("172.16.{}.{}/16", number / 250, 1 + number % 250),
        "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.{}.{}.0", 100 + number / 250, number % 250),
    });
    object(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node{number}"), "annotations": annotations},
        "spec": {"podCIDR": format!("10.{}.{}.0/24", 100 + number / 250, number % 250)},
    }))
}

/// Pod `number`: of application `number / REPLICAS`, on node `number % NODES`, in the namespace of its application.
fn pod(number: usize, version: usize) -> Object {
    let (app, node) = (number / REPLICAS, (number + number / NODES) % NODES);
    let labels = json!({
        "app": format!("a{app}"), "version": format!("v{version}"), "tier": format!("t{}", app % 5),
        "pod-template-hash": format!("{app:08x}"),
    });
    let ports = json!([{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]);
    let ip = format!("10.{}.{}.{}", 100 + node / 250, node % 250, 1 + number / NODES % 250);
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod{number}"), "namespace": format!("ns{}", app % NAMESPACES), "labels": labels},
        "spec": {"nodeName": format!("node{node}"), "serviceAccountName": "default",
            "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
    }))
}

/// Policy `number`: every other one is about an application, the others about a whole namespace; each lets two
/// applications of the namespace in, and the pods of a team.
fn policy(number: usize, apps: usize) -> Object {
    let app = number % apps;
    let near = |step: usize| json!({"podSelector": {"matchLabels": {"app": format!("a{}", (app + step * NAMESPACES) % apps)}}});
    let selector =
        if number.is_multiple_of(2) { json!({"matchLabels": {"app": format!("a{app}")}}) } else { json!({}) };
    object(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("p{number}"), "namespace": format!("ns{}", app % NAMESPACES)},
        "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [near(1), near(2)], "ports": [{"port": "http"}, {"port": 443}]},
                {"from": [{"namespaceSelector": {"matchLabels": {"team": format!("t{}", number % 10)}},
                    "podSelector": {"matchLabels": {"tier": format!("t{}", number % 5)}}}]},
            ],
            "egress": [{"to": [{"ipBlock": {"cidr": format!("10.{}.0.0/16", number % 200)}}]}, {"to": [near(3)]}]},
    }))
}

/// A policy for the pods of `ns0` that lets in whatever `peer` says.
fn policy_from(peer: Value) -> Object {
    object(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "wide", "namespace": "ns0"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [peer]}]},
    }))
}

/// A policy for all pods whose rule names the global network sets labelled `set: big`.
fn policy_of_sets() -> Object {
    object(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "sets"},
        "spec": {"selector": "all()", "types": ["Ingress"],
            "ingress": [{"action": "Deny", "source": {"selector": "set == 'big'"}}]},
    }))
}

fn network_set(nets: Vec<String>) -> Object {
    object(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
        "metadata": {"name": "big", "labels": {"set": "big"}}, "spec": {"nets": nets},
    }))
}

/// Overlapping networks of lengths 16 to 32.
fn networks(count: u32) -> Vec<String> {
    let network = |number: u32| {
        let address = std::net::Ipv4Addr::from(number.wrapping_mul(2_654_435_761));
        let length = 16 + number % 17;
        let kept = u32::from(address) & (u32::MAX << (32 - length));
        format!("{}/{length}", std::net::Ipv4Addr::from(kept))
    };
    (0..count).map(network).collect()
}

/// Resident memory.
fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096.0
}

fn row(name: &str, unit: &str, value: f64) {
    println!("{}", json!({"name": name, "unit": unit, "value": (value * 100.0).round() / 100.0}));
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Applies and flushes; how long that took, and what was said.
fn step(graph: &mut CalcGraph, update: Update) -> (Duration, Vec<plane::Op>) {
    let start = Instant::now();
    graph.apply(update);
    let ops = graph.flush();
    (start.elapsed(), ops)
}

/// Applies without flushing; adds to `spent`.
fn load(graph: &mut CalcGraph, spent: &mut Duration, object: Object) {
    let start = Instant::now();
    graph.apply(Update::Upsert(object));
    *spent += start.elapsed();
}

/// The distribution of many small steps.
fn rows_of_many(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    for (part, index) in [("p50", times.len() / 2), ("p99", times.len() * 99 / 100), ("max", times.len() - 1)]
    {
        row(&format!("{name}/{part}"), "us", milliseconds(times[index]) * 1e3);
    }
}

fn row_of_one(name: &str, graph: &mut CalcGraph, update: Update) {
    let (time, ops) = step(graph, update);
    row(name, "ms", milliseconds(time));
    row(&format!("{name}/ops"), "count", ops.len() as f64);
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let (pods, policies) = (arguments.next().unwrap_or(50_000), arguments.next().unwrap_or(5_000));
    let apps = pods.div_ceil(REPLICAS);
    let mut graph = CalcGraph::new("node0");

    let mut spent = Duration::ZERO;
    for number in 0..NAMESPACES {
        load(&mut graph, &mut spent, namespace(number, 0));
    }
    for number in 0..NODES {
        load(&mut graph, &mut spent, node(number));
    }
    let before = resident_bytes();
    for number in 0..pods {
        load(&mut graph, &mut spent, pod(number, 0));
    }
    let with_pods = resident_bytes();
    for number in 0..policies {
        load(&mut graph, &mut spent, policy(number, apps));
    }
    let start = Instant::now();
    let ops = graph.flush();
    spent += start.elapsed();
    row("calc/cold-start", "ms", milliseconds(spent));
    row("calc/cold-start/ops", "count", ops.len() as f64);
    drop(ops);
    let with_policies = resident_bytes();
    row("calc/memory/endpoint", "bytes", (with_pods - before) / pods as f64);
    row("calc/memory/policy", "bytes", (with_policies - with_pods) / policies as f64);
    row("calc/memory/resident", "MiB", with_policies / f64::from(1 << 20));

    let upsert = |object: Object| Update::Upsert(object);
    let new = (pods..pods + 1000).map(|number| pod(number, 0)).collect::<Vec<_>>();
    let keys: Vec<_> = new.iter().map(Object::key).collect();
    rows_of_many("calc/pod-added", new.into_iter().map(|pod| step(&mut graph, upsert(pod)).0).collect());
    let relabelled = (0..1000).map(|number| pod(number * 7 % pods, 1)).collect::<Vec<_>>();
    rows_of_many(
        "calc/pod-relabelled",
        relabelled.into_iter().map(|pod| step(&mut graph, upsert(pod)).0).collect(),
    );
    rows_of_many(
        "calc/pod-removed",
        keys.into_iter().map(|key| step(&mut graph, Update::Delete(key)).0).collect(),
    );
    rows_of_many(
        "calc/policy-changed",
        (0..1000).map(|number| step(&mut graph, upsert(policy(number, apps / 2))).0).collect(),
    );
    rows_of_many(
        "calc/namespace-relabelled",
        (0..NAMESPACES).map(|number| step(&mut graph, upsert(namespace(number, 1))).0).collect(),
    );

    row_of_one(
        "calc/selector-matches-nothing",
        &mut graph,
        upsert(policy_from(json!({"podSelector": {"matchLabels": {"app": "none"}}}))),
    );
    row_of_one(
        "calc/selector-matches-all",
        &mut graph,
        upsert(policy_from(json!({"namespaceSelector": {}}))),
    );
    row_of_one("calc/net-set/policy", &mut graph, upsert(policy_of_sets()));
    row_of_one("calc/net-set-100k", &mut graph, upsert(network_set(networks(100_000))));
    let mut with_all = networks(100_000);
    with_all.push("0.0.0.0/0".to_owned());
    row_of_one("calc/net-set-100k/slash-zero-added", &mut graph, upsert(network_set(with_all)));
    row_of_one("calc/net-set-100k/shrunk", &mut graph, upsert(network_set(networks(10))));
    row_of_one(
        "calc/net-set/slash-zero-added",
        &mut graph,
        upsert(network_set(vec!["0.0.0.0/0".to_owned()])),
    );
    let start = Instant::now();
    let ops = graph.state();
    row("calc/state", "ms", milliseconds(start.elapsed()));
    row("calc/state/ops", "count", ops.len() as f64);
}
