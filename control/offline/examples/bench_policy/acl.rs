//! Five-tuple rules as Calico policies, through both planes, and the verdicts on a trace.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use caracal_dataplane::clock::Tick;
use caracal_dataplane::flow::{FlowEntry, FlowKey, FlowNote, FlowTable};
use caracal_dataplane::table::{
    ClassId, EndpointIndex, FlowDirection, FlowTuple, Judgement, PolicyListId, Tables,
};
use serde_json::{Value, json};

use crate::rules::{self, LOCAL_PODS, Rule, Tuple, pod_address};
use crate::{NODE, Planes, object, resident};

/// Packets judged together, as workers judge the first packets of a batch.
const BATCH: usize = 64;
/// A policy may hold this many rules, so a long list is several policies.
const RULES_PER_POLICY: usize = 1024;

fn address(bits: u32) -> String {
    Ipv4Addr::from_bits(bits).to_string()
}

/// Tells the objects of the lists: the node, its pods, and the policies.
fn load(planes: &mut Planes, list: &[Rule], endpoints: u32) -> anyhow::Result<crate::Took> {
    let mut updates = vec![
        object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acl"}}))?,
        object(node(NODE, "10.244.1.0/24", "192.0.2.11"))?,
    ];
    for pod in 0..LOCAL_PODS {
        updates.push(object(pod_manifest(
            &format!("pod{pod}"),
            NODE,
            pod_address(pod),
            json!({"acl": "here"}),
        ))?);
    }
    for pod in 0..endpoints {
        let manifest = pod_manifest(&format!("far{pod}"), "node2", 0x0A80_0000 + pod, json!({}));
        updates.push(object(manifest)?);
    }
    for (number, rules) in list.chunks(RULES_PER_POLICY).enumerate() {
        let rules: Vec<Value> = rules.iter().map(rule_manifest).collect();
        updates.push(object(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
            "metadata": {"name": format!("acl-{number}")},
            "spec": {"order": number, "selector": "acl == 'here'", "types": ["Ingress"], "ingress": rules},
        }))?);
    }
    planes.publish(updates)
}

pub fn node(name: &str, block: &str, node_address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"projectcalico.org/IPv4Address": format!("{node_address}/24")}},
        "spec": {"podCIDR": block, "podCIDRs": [block]},
    })
}

pub fn pod_manifest(name: &str, node: &str, bits: u32, labels: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "acl", "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "any"}]},
        "status": {"podIP": address(bits), "podIPs": [{"ip": address(bits)}], "phase": "Running"},
    })
}

fn rule_manifest(rule: &Rule) -> Value {
    let net = |(bits, length): (u32, u8)| format!("{}/{length}", address(bits));
    let mut source = json!({"nets": [net(rule.source)]});
    let mut destination = json!({"nets": [net(rule.destination)]});
    for (side, (first, last)) in
        [(&mut source, rule.source_ports), (&mut destination, rule.destination_ports)]
    {
        if (first, last) != (0, u16::MAX) {
            side["ports"] =
                json!([if first == last { json!(first) } else { json!(format!("{first}:{last}")) }]);
        }
    }
    json!({
        "action": if rule.allow { "Allow" } else { "Deny" },
        "protocol": if rule.protocol == 6 { "TCP" } else { "UDP" },
        "source": source,
        "destination": destination,
    })
}

pub fn run(from: &Path, passes: u32, endpoints: u32) -> anyhow::Result<()> {
    let list = rules::read_rules(&from.join("rules"))?;
    let trace = rules::read_trace(&from.join("trace"))?;
    let before = resident();
    let mut planes = Planes::new();
    let took = load(&mut planes, &list, endpoints)?;
    let memory = resident() - before;
    let tables = &planes.published;

    // What the pipeline knows when it judges: the endpoint, found by the route, and the packet's tuple.
    let list_of = |destination: u32| -> Option<PolicyListId> {
        let wanted = IpAddr::V4(Ipv4Addr::from_bits(destination));
        let found = tables.endpoints.iter().find(|(_, endpoint)| endpoint.addresses.contains(wanted));
        found.map(|(_, endpoint)| endpoint.policy_in)
    };
    let lists: std::collections::HashMap<u32, PolicyListId> =
        (0..LOCAL_PODS).map(pod_address).filter_map(|pod| Some((pod, list_of(pod)?))).collect();
    let prepared = |tuple: &Tuple| -> anyhow::Result<(PolicyListId, FlowTuple)> {
        let list = lists.get(&tuple.destination).context("a packet is for no pod")?;
        Ok((*list, flow(tuple)))
    };
    let flows: Vec<(PolicyListId, FlowTuple)> = trace.iter().map(prepared).collect::<Result<_, _>>()?;

    let mut verdicts = vec![false; flows.len()];
    let mut nanoseconds = Vec::new();
    let mut judgements = [Judgement::default(); BATCH];
    for _ in 0..passes {
        let start = Instant::now();
        for (batch, out) in flows.chunks(BATCH).zip(verdicts.chunks_mut(BATCH)) {
            let mut classes = [ClassId::default(); BATCH];
            for (class, (_, flow)) in classes.iter_mut().zip(batch) {
                *class = tables.policy.class_of(flow.peer_address);
            }
            tables.policy.judge_batch(batch, &classes, &mut judgements);
            for (verdict, judgement) in out.iter_mut().zip(black_box(&judgements)) {
                *verdict = judgement.allow;
            }
        }
        nanoseconds.push(start.elapsed().as_secs_f64() * 1e9 / flows.len() as f64);
    }
    let remembered = remember(tables, &flows, passes)?;
    let text: String = verdicts.iter().map(|allow| if *allow { 'a' } else { 'd' }).collect();
    let path = from.join("verdicts.caracal");
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "{}",
        json!({
            "rules": list.len(), "packets": flows.len(), "build_s": took.milliseconds() / 1e3,
            "calc_s": took.calc, "tables_s": took.tables, "bytes": memory, "ns": nanoseconds, "insert_ns": remembered,
        })
    );
    Ok(())
}

/// Nanoseconds a packet of every pass: looked for among the flows, judged, and remembered if it is allowed.
fn remember(tables: &Tables, flows: &[(PolicyListId, FlowTuple)], passes: u32) -> anyhow::Result<Vec<f64>> {
    let now = Tick(1);
    let mut nanoseconds = Vec::new();
    let mut judgements = [Judgement::default(); BATCH];
    let mut keys = [(FlowKey::default(), 0, None); BATCH];
    for _ in 0..passes {
        let mut table = FlowTable::new(1 << 18, 7);
        let start = Instant::now();
        for batch in flows.chunks(BATCH) {
            let mut classes = [ClassId::default(); BATCH];
            for ((class, key), (_, flow)) in classes.iter_mut().zip(&mut keys).zip(batch) {
                *class = tables.policy.class_of(flow.peer_address);
                let (local, peer) =
                    ((flow.local_address, flow.local_port), (flow.peer_address, flow.peer_port));
                key.0 = FlowKey::new(EndpointIndex(0), flow.protocol, local, peer);
                key.1 = table.hash(&key.0);
                table.prefetch(key.1);
            }
            for (_, hash, guess) in &mut keys {
                *guess = table.guess(*hash);
            }
            tables.policy.judge_batch(batch, &classes, &mut judgements);
            let asked = batch.iter().zip(&classes).zip(&judgements).zip(&keys);
            for ((((list, _), class), judgement), (key, hash, guess)) in asked {
                if !judgement.allow || table.find(key, *hash, *guess).is_some() {
                    continue;
                }
                let entry = FlowEntry {
                    key: *key,
                    list: *list,
                    peer_class: *class,
                    last_seen: now,
                    ..Default::default()
                };
                let note = FlowNote::new(Some(judgement.rule), None, now, 64);
                table.insert(*hash, entry, note).ok().context("the flow table is full")?;
            }
        }
        nanoseconds.push(start.elapsed().as_secs_f64() * 1e9 / flows.len() as f64);
    }
    Ok(nanoseconds)
}

fn flow(tuple: &Tuple) -> FlowTuple {
    FlowTuple {
        protocol: tuple.protocol,
        peer_address: IpAddr::V4(Ipv4Addr::from_bits(tuple.source)),
        peer_port: tuple.source_port,
        local_address: IpAddr::V4(Ipv4Addr::from_bits(tuple.destination)),
        local_port: tuple.destination_port,
        icmp: None,
        direction: FlowDirection::Ingress,
    }
}
