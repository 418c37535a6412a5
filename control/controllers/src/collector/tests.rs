use std::time::Instant;

use caracal_ipam::{Attributes, Block, Nanoseconds, Owner};
use caracal_model::object::{Object, Update};
use serde_json::json;

use super::*;
use crate::settings::Overrides;
use crate::walks::{configuration, object};

/// A block of node1's with an address of pod `gone`, another of one that is there, and a service's.
fn records() -> Vec<Record> {
    let cidr = "10.0.0.0/29".parse().unwrap();
    let mut block = Block::new(cidr, Some(Owner::Host("node1".into())), false, Nanoseconds(1)).unwrap();
    for (kind, name, node) in [("pod", "gone", "node1"), ("pod", "there", "node1"), ("service", "web", "")] {
        let owner = [("namespace", "shop"), (kind, name), ("node", node)];
        let attributes = Attributes {
            owner: owner.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            ..Attributes::default()
        };
        block.take(1, &attributes, |_| false);
    }
    vec![Record::Block(block)]
}

fn cluster(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::default();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "there", "namespace": "shop"},
        "spec": {"nodeName": "node1", "containers": []}, "status": {"podIPs": [{"ip": "10.0.0.1"}]},
    });
    cluster.apply(Update::Upsert(object(pod)));
    for node in nodes {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
        cluster.apply(Update::Upsert(object(node)));
    }
    cluster
}

/// What is released after a while, and who is asked for before.
fn released(cluster: &Cluster, grace: &str) -> Vec<(String, Vec<Living>)> {
    let told = configuration(json!({"node": {"leakGracePeriod": grace}}));
    let mut configured = Cluster::default();
    configured.apply(Update::Upsert(told));
    let spec = configured.configuration().map(|configuration| &configuration.spec);
    let settings = Settings::new(spec, &Overrides::default());
    let (mut collector, origin) = (Collector::default(), Instant::now());
    let mut plan = Plan::default();
    for minutes in [0, 10] {
        let now = Now { instant: origin + Duration::from_secs(60 * minutes), time: Nanoseconds(0) };
        plan = collector.plan(cluster, records(), &settings, now);
    }
    assert!(plan.candidates.is_some());
    let releases = plan.actions.into_iter().filter_map(|action| match action {
        Action::Collect { action: gc::Action::ReleaseAddress { address, .. }, unless } => {
            Some((address.to_string(), unless))
        }
        _ => None,
    });
    releases.collect()
}

fn pod(name: &str, address: &str) -> Living {
    let key = ObjectKey::new(Kind::Pod, Some("shop"), name);
    Living { address: Some((address.parse().unwrap(), Some("node1".to_owned()))), ..Living::object(key) }
}

#[test]
fn an_address_is_taken_back_after_the_grace_period_unless_its_pod_has_it_after_all() {
    let all = released(&cluster(&["node1"]), "5m");
    assert_eq!(all, [("10.0.0.0".to_owned(), vec![pod("gone", "10.0.0.0")])]);
    assert_eq!(released(&cluster(&["node1"]), "15m"), []);
    assert_eq!(released(&cluster(&["node1"]), "0s"), [], "no grace period: never");
}

#[test]
fn of_a_node_that_seems_gone_the_api_server_is_asked_for_the_node_too() {
    let node = Living::object(ObjectKey::new(Kind::Node, None, "node1"));
    let all = released(&cluster(&["node2"]), "15m");
    assert_eq!(all, [("10.0.0.0".to_owned(), vec![node, pod("gone", "10.0.0.0")])]);
}

#[test]
fn whatever_any_place_says_of_a_pods_addresses_counts_and_one_that_says_none_yet_may_have_its() {
    let read = |metadata: serde_json::Value, spec: serde_json::Value, status: serde_json::Value| {
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status});
        let Object::Pod(pod) = object(pod) else { panic!("it is a pod") };
        as_far_as_addresses_go(&pod)
    };
    let annotated = json!({"name": "p", "annotations": {
        "cni.projectcalico.org/podIPs": "10.0.0.2/32", "cni.projectcalico.org/containerID": "0f3c",
    }});
    let (bare, here) = (json!({"name": "p"}), json!({"nodeName": "node1", "containers": []}));
    let has = |pod: &Pod, address: &str| pod.may_have(address.parse().unwrap(), Some("node1"));
    let both = read(annotated, here.clone(), json!({"podIPs": [{"ip": "10.0.0.1"}]}));
    assert!(has(&both, "10.0.0.1") && has(&both, "10.0.0.2") && !has(&both, "10.0.0.3"));
    assert!(has(&read(bare.clone(), here.clone(), json!({})), "10.0.0.3"), "its sandbox is being made");
    for (spec, status, why) in [
        (here, json!({"phase": "Succeeded"}), "it has ended"),
        (json!({"containers": []}), json!({}), "it is nowhere yet"),
        (json!({"nodeName": "node1", "containers": [], "hostNetwork": true}), json!({}), "it has its host's"),
        (json!({"nodeName": "node2", "containers": []}), json!({}), "it is elsewhere"),
    ] {
        assert!(!has(&read(bare.clone(), spec, status), "10.0.0.3"), "{why}");
    }
}
