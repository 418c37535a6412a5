use caracal_model::object::Update;
use serde_json::{Value, json};

use super::*;

fn cluster(objects: &[Value]) -> Cluster {
    let mut cluster = Cluster::default();
    for object in objects {
        cluster.apply(Update::Upsert(Object::from_value(object.clone()).unwrap()));
    }
    cluster
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A block of four addresses, the first of which these nodes have.
fn block(name: &str, cidr: &str, affinity: Value, nodes: &[&str]) -> Value {
    let attributes = nodes.iter().map(|node| {
        json!({"handle_id": format!("k8s-pod-network.{node}"), "secondary": {"node": node, "pod": "p", "namespace": "n"}})
    });
    let attributes: Vec<Value> = attributes.collect();
    let allocations: Vec<Value> =
        (0..4).map(|at| if at < nodes.len() { json!(at) } else { Value::Null }).collect();
    let unallocated: Vec<usize> = (nodes.len()..4).collect();
    object(
        "IPAMBlock",
        name,
        json!({
            "cidr": cidr, "affinity": affinity, "strictAffinity": false, "allocations": allocations,
            "unallocated": unallocated, "attributes": attributes, "deleted": false,
        }),
    )
}

fn page_of(objects: &[Value], collected: &Collected) -> String {
    let mut page = Exposition::new();
    ipam_metrics(&cluster(objects), collected, &mut page);
    page.to_string()
}

#[test]
fn addresses_are_told_by_pool_and_node_as_calico_tells_them() {
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let objects = [
        node("node1"),
        node("node3"),
        object("IPPool", "pods", json!({"cidr": "10.0.0.0/24", "blockSize": 30})),
        object("IPPool", "pods6", json!({"cidr": "fd00::/64"})),
        object(
            "IPReservation",
            "some",
            json!({"reservedCIDRs": ["10.0.0.0/28", "10.0.0.4/32", "10.0.1.0/24", "fd00::/56"]}),
        ),
        block("10-0-0-0-30", "10.0.0.0/30", json!("host:node1"), &["node1", "node1", "node2"]),
        block("10-0-0-4-30", "10.0.0.4/30", Value::Null, &["node2"]),
        block("10-9-0-0-30", "10.9.0.0/30", json!("host:node2"), &["node2"]),
    ];
    let mut collected = Collected::default();
    collected.candidates.push(("10.0.0.1".parse().unwrap(), Some("node1".into())));
    collected.reclaimed.insert(("pods".into(), "gone".into()), 4);
    collected.reclaimed.insert((String::new(), String::new()), 1);
    let page = page_of(&objects, &collected);
    for line in [
        "ipam_ippool_size{ippool=\"pods\"} 256",
        "ipam_ippool_size{ippool=\"pods6\"} 18446744073709552000",
        "ipam_ippool_reserved{ippool=\"pods\"} 16",
        "ipam_ippool_reserved{ippool=\"pods6\"} 18446744073709552000",
        "ipam_blocks{ippool=\"pods\",node=\"node1\"} 1",
        "ipam_blocks{ippool=\"pods\",node=\"no_affinity\"} 1",
        "ipam_blocks{ippool=\"no_ippool\",node=\"node2\"} 1",
        "ipam_allocations_in_use{ippool=\"pods\",node=\"node1\"} 2",
        "ipam_allocations_in_use{ippool=\"pods\",node=\"node2\"} 2",
        "ipam_allocations_in_use{ippool=\"no_ippool\",node=\"node2\"} 1",
        "ipam_allocations_borrowed{ippool=\"pods\",node=\"node1\"} 0",
        "ipam_allocations_borrowed{ippool=\"pods\",node=\"node2\"} 2",
        "ipam_allocations_gc_candidates{ippool=\"pods\",node=\"node1\"} 1",
        "ipam_allocations_gc_reclamations{ippool=\"pods\",node=\"gone\"} 4",
        "ipam_allocations_gc_reclamations{ippool=\"no_ippool\",node=\"unknown_node\"} 1",
        "ipam_blocks_per_node{node=\"node1\"} 1",
        "ipam_blocks_per_node{node=\"node3\"} 0",
        "ipam_allocations_per_node{node=\"node2\"} 3",
        "ipam_allocations_borrowed_per_node{node=\"node2\"} 2",
        "# TYPE ipam_allocations_gc_reclamations counter",
        "# TYPE ipam_allocations_in_use gauge",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
    }
}
