//! A large world, and what changes to it take.

use std::net::Ipv4Addr;

use caracal_calc::Update;
use serde_json::{Value, json};

use crate::acl::node;
use crate::{NODE, Planes, Random, Took, object, resident};

const NAMESPACES: u32 = 100;
const APPS: u32 = 50;
/// Pods of the node whose planes are measured.
const LOCAL: u32 = 250;
const REMOTE_NODES: u32 = 200;

fn pod_address(pod: u32) -> String {
    Ipv4Addr::from_bits(0x0A80_0000 + pod).to_string()
}

fn pod(number: u32, node: &str) -> anyhow::Result<Update> {
    let namespace = format!("ns{}", number % NAMESPACES);
    let labels = json!({
        "app": format!("app{}", number / NAMESPACES % APPS),
        "version": format!("v{}", number % 3),
        "pod-template-hash": format!("{:08x}", number / 7),
    });
    object(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod{number}"), "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": node, "serviceAccountName": "default",
            "containers": [{"name": "c", "image": "any", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"podIP": pod_address(number), "podIPs": [{"ip": pod_address(number)}], "phase": "Running"},
    }))
}

/// A policy of the kind that people write: for an app, from other apps of the namespace, or of another, to a port.
fn policy(number: u32, random: &mut Random) -> anyhow::Result<Update> {
    let namespace = number % NAMESPACES;
    let app = |number: u32| json!({"matchLabels": {"app": format!("app{}", number % APPS)}});
    let team = json!({"matchLabels": {"team": format!("team{}", random.below(10))}});
    let from = match random.below(5) {
        0 => json!([{"podSelector": app(random.next())}]),
        1 => json!([{"podSelector": app(random.next())}, {"podSelector": app(random.next())}]),
        2 => json!([{"namespaceSelector": team, "podSelector": app(random.next())}]),
        3 => json!([{"namespaceSelector": team}]),
        _ => {
            json!([{"ipBlock": {"cidr": format!("{}/24", Ipv4Addr::from_bits((random.next() << 9) & 0xFFFF_FF00))}}])
        }
    };
    let port = random.of(&[80, 443, 5432, 6379, 8080, 9090]);
    object(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("policy{number}"), "namespace": format!("ns{namespace}")},
        "spec": {
            // One of ten is for its whole namespace.
            "podSelector": if (number / NAMESPACES).is_multiple_of(10) { json!({}) } else { app(number / NAMESPACES) },
            "policyTypes": ["Ingress"],
            "ingress": [{"from": from, "ports": [{"protocol": "TCP", "port": port}]}],
        },
    }))
}

fn node_of(pod: u32, pods: u32) -> String {
    // One more than a divisor, so that the measured node's pods are of all namespaces.
    if pod.is_multiple_of(pods / LOCAL + 1) {
        NODE.to_owned()
    } else {
        format!("node{}", 2 + pod % REMOTE_NODES)
    }
}

fn network_set(name: &str, nets: &[String]) -> anyhow::Result<Update> {
    object(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
        "metadata": {"name": name, "labels": {"set": name}},
        "spec": {"nets": nets},
    }))
}

fn global_policy(name: &str, selector: &str) -> anyhow::Result<Update> {
    let rule: Value = json!({"action": "Allow", "protocol": "TCP", "source": {"selector": selector}, "destination": {"ports": [7]}});
    object(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"order": 1, "selector": "app == 'app1'", "types": ["Ingress"], "ingress": [rule]},
    }))
}

fn row(name: &str, metric: &str, unit: &str, value: f64) -> Value {
    json!({"name": name, "subject": "caracal", "metric": metric, "unit": unit, "value": value})
}

fn rows(name: &str, took: Took) -> Vec<Value> {
    vec![
        row(name, "object seen → tables published", "ms", took.milliseconds()),
        row(name, "of that: calc graph", "ms", took.calc * 1e3),
        row(name, "of that: plane messages", "ms", took.encoding * 1e3),
        row(name, "of that: tables", "ms", took.tables * 1e3),
        row(name, "plane messages", "bytes", took.bytes as f64),
    ]
}

/// The whole world, made one by one.
fn objects(pods: u32, policies: u32) -> impl Iterator<Item = anyhow::Result<Update>> {
    let mut random = Random(11);
    let namespaces = (0..NAMESPACES).flat_map(|namespace| {
        let name = format!("ns{namespace}");
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name},
        });
        let labels = json!({"team": format!("team{}", namespace % 10)});
        [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
            account,
        ]
    });
    let nodes = (0..REMOTE_NODES).map(|number| {
        let (block, address) = (format!("10.{number}.0.0/24"), format!("192.0.2.{}", 20 + number));
        node(&format!("node{}", 2 + number), &block, &address)
    });
    let few = namespaces.chain([node(NODE, "10.244.1.0/24", "192.0.2.11")]).chain(nodes).map(object);
    few.chain((0..pods).map(move |number| pod(number, &node_of(number, pods))))
        .chain((0..policies).map(move |number| policy(number, &mut random)))
        .chain([
            network_set("growing", &["198.51.100.0/24".into()]),
            global_policy("by-set", "set == 'growing'"),
            global_policy("by-label", "role == 'nobody'"),
        ])
}

/// What the world takes: objects come one by one and go again, so that what stays is what the planes keep.
pub fn memory(pods: u32, policies: u32) -> anyhow::Result<()> {
    let start = resident();
    let mut planes = Planes::new();
    for update in objects(pods, policies) {
        planes.calc.apply(update?);
    }
    let ops = planes.calc.flush();
    let agent = resident() - start;
    planes.take(ops)?;
    let fastpath = resident() - start - agent;
    let each = f64::from(pods + policies);
    let rows = vec![
        row("policy/memory", "agent: calc graph", "MiB", agent / 1048576.0),
        row("policy/memory", "agent: for each pod and policy", "bytes", agent / each),
        row(
            "policy/memory",
            "fastpath: tables and their builder, with the last message",
            "MiB",
            fastpath / 1048576.0,
        ),
        row("policy/memory", "fastpath: for each pod and policy of the cluster", "bytes", fastpath / each),
    ];
    println!("{}", Value::Array(rows));
    Ok(())
}

pub fn run(pods: u32, policies: u32, samples: u32) -> anyhow::Result<()> {
    let mut random = Random(12);
    let updates: Vec<Update> = objects(pods, policies).collect::<Result<_, _>>()?;
    let mut out = Vec::new();
    let mut planes = Planes::new();
    let took = planes.publish(updates)?;
    out.extend(rows("policy/cold-start", took));

    eprintln!("bench_policy: one pod at a time");
    let mut single: Vec<Took> = Vec::new();
    for number in 0..samples {
        // One of ten comes to the measured node.
        let node = if number.is_multiple_of(10) {
            NODE.to_owned()
        } else {
            format!("node{}", 2 + number % REMOTE_NODES)
        };
        single.push(planes.publish([pod(pods + number, &node)?])?);
    }
    let mut all: Vec<f64> = single.iter().map(|took| took.milliseconds()).collect();
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    for (metric, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        out.push(row("policy/pod-added", metric, "ms", at(share)));
    }

    eprintln!("bench_policy: changes that touch everything");
    let took = planes.publish([global_policy("by-label", "has(app)")?])?;
    out.extend(rows("policy/selector-matches-50k", took));
    let took = planes.publish([network_set("growing", &["198.51.100.0/24".into(), "0.0.0.0/0".into()])?])?;
    out.extend(rows("policy/net-set-zero", took));
    planes.publish([network_set("growing", &[])?])?;
    let before = resident();
    let nets: Vec<String> = overlapping(&mut random, 100_000);
    let took = planes.publish([network_set("growing", &nets)?])?;
    out.extend(rows("policy/net-set-100k", took));
    out.push(row("policy/net-set-100k", "memory", "MiB", (resident() - before) / 1048576.0));
    println!("{}", Value::Array(out));
    Ok(())
}

/// Networks inside one another: of every length from /12 on, many of them covering others.
fn overlapping(random: &mut Random, count: usize) -> Vec<String> {
    let mut nets = std::collections::BTreeSet::new();
    while nets.len() < count {
        let length = 12 + random.below(21);
        let bits = (0x0A00_0000 | random.next() >> 7) & (u32::MAX << (32 - length));
        nets.insert(format!("{}/{length}", Ipv4Addr::from_bits(bits)));
    }
    nets.into_iter().collect()
}
