//! A node's start, against a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod netns;
mod plane;
mod running;
mod world;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use caracal_agent::node::{Config, Settings};
use caracal_agent::node_socket::NodeSocket;
use caracal_agent::{Agent, HostServices};
use caracal_datastore::{ApiGroup, Datastore, DatastoreError};
use caracal_model::object::{Kind, Object, ObjectKey};
use k8s_openapi::api::core::v1::Node;
use netns::{in_new_netns, sh};
use plane::Plane;
use running::Running;
use serde_json::{Value, json};
use world::World;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

const V4: &str = "projectcalico.org/IPv4Address";
const VXLAN: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
const IPIP: &str = "projectcalico.org/IPv4IPIPTunnelAddr";

impl World {
    fn path(&self, node: &str, name: &str) -> PathBuf {
        self.kubeconfig().with_file_name(format!("{node}-{name}"))
    }

    /// An agent that starts its node by this environment, at an address that this machine does not have.
    async fn starts(&self, node: &str, environment: &[(&str, &str)]) -> Running {
        let find = |key: &str| {
            environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        };
        let config = Config {
            settings: Settings::read(find).unwrap(),
            nodename_file: self.path(node, "lib/nodename"),
            marks_down: true,
        };
        let socket = NodeSocket::open(&self.path(node, "node.sock")).unwrap();
        let plane = self.path(node, "fastpath.sock");
        let agent = Agent::new(node.into(), HostServices::Replace, &self.client().await, plane, None)
            .with_node_socket(socket)
            .with_start(config);
        Running::start(agent)
    }

    fn fastpath(&self, node: &str) -> Plane {
        Plane::start(&self.path(node, "fastpath.sock"), 1)
    }

    async fn datastore(&self) -> Datastore {
        Datastore::connect(self.client().await, Some(ApiGroup::V3)).await.unwrap()
    }

    async fn bare_node(&self, name: &str) {
        self.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).await;
    }

    async fn create(&self, value: Value) {
        let object = Object::from_value_lenient(value).unwrap().0;
        self.datastore().await.create(&object).await.unwrap();
    }

    async fn pool(&self, name: &str, cidr: &str, modes: Value) {
        let mut spec = json!({"cidr": cidr});
        spec.as_object_mut().unwrap().extend(modes.as_object().unwrap().clone());
        self.create(json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": spec}))
            .await;
    }

    async fn patch(&self, kind: Kind, name: &str, patch: Value) {
        self.datastore().await.patch(&ObjectKey::new(kind, None, name), &patch).await.unwrap();
    }

    /// The Node, once it is so.
    async fn until(&self, name: &str, what: &str, mut so: impl FnMut(&Node) -> bool) -> Node {
        let datastore = self.datastore().await;
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let node = match datastore.get(Kind::Node, None, name).await {
                Ok(Object::Node(node)) => *node,
                other => panic!("{other:?}"),
            };
            if so(&node) {
                return node;
            }
            assert!(tokio::time::Instant::now() < end, "waited in vain for {what}: {node:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for the agent's own word on why it is not ready.
    async fn hears(&self, node: &str, why: &str) {
        let path = self.path(node, "node.sock");
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let ask = {
                let path = path.clone();
                move || caracal_cni::node_socket::NodeSocket::connect(&path).unwrap().status().unwrap()
            };
            let status = tokio::task::spawn_blocking(ask).await.unwrap();
            if status.ready == why.is_empty() && status.why.contains(why) {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "waited in vain for {why:?}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn names(&self, kind: Kind) -> BTreeSet<String> {
        self.datastore().await.list(kind).await.unwrap().iter().map(|object| object.key().name).collect()
    }
}

fn annotation(node: &Node, key: &str) -> Option<String> {
    node.metadata.annotations.as_ref()?.get(key).cloned()
}

fn network(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition.type_ == "NetworkUnavailable");
    found
        .map(|found| format!("{} {}", found.status, found.reason.clone().unwrap_or_default()))
        .unwrap_or_default()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_node_of_a_cluster_leaves_it_with_all_that_a_cluster_has() {
    let world = World::new().await;
    world.bare_node("node1").await;
    let agent =
        world.starts("node1", &[("IP", "192.0.2.5/24"), ("AS", "64512"), ("CLUSTER_TYPE", "k8s,test")]).await;
    let node = world.until("node1", "its tunnel address", |node| annotation(node, IPIP).is_some()).await;
    assert_eq!(annotation(&node, V4).as_deref(), Some("192.0.2.5/24"));
    assert_eq!(annotation(&node, "projectcalico.org/ASNumber").as_deref(), Some("64512"));
    assert!(annotation(&node, IPIP).unwrap().starts_with("192.168."), "{node:?}");
    assert_eq!(annotation(&node, VXLAN), None);
    assert_eq!(network(&node), "", "nothing forwards yet");
    assert_eq!(std::fs::read_to_string(world.path("node1", "lib/nodename")).unwrap(), "node1");

    let tiers = world.names(Kind::Tier).await;
    assert!(tiers.is_superset(&set(&["default", "kube-admin", "kube-baseline"])), "{tiers:?}");
    let pools = world.names(Kind::IPPool).await;
    assert!(pools.contains("default-ipv4-ippool"), "{pools:?}");
    assert_eq!(world.names(Kind::FelixConfiguration).await, set(&["default"]));
    let information =
        world.datastore().await.get(Kind::ClusterInformation, None, "default").await.unwrap().to_value();
    assert_eq!(information["spec"]["datastoreReady"], true);
    assert_eq!(information["spec"]["clusterType"], "k8s,test,caracal,kdd");
    assert_eq!(information["spec"]["clusterGUID"].as_str().unwrap().len(), 32);

    let fastpath = world.fastpath("node1");
    world.hears("node1", "").await;
    let node = world.until("node1", "a network", |node| network(node) == "False CalicoIsUp").await;
    assert!(node.metadata.resource_version.is_some());
    agent.stop().await;
    world.until("node1", "no agent", |node| network(node) == "True CalicoIsDown").await;
    drop(fastpath);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_agents_that_start_at_once_make_one_of_each() {
    for _ in 0..3 {
        let world = World::new().await;
        for name in ["node1", "node2"] {
            world.bare_node(name).await;
        }
        let (one, two) = tokio::join!(
            world.starts("node1", &[("IP", "192.0.2.5/24")]),
            world.starts("node2", &[("IP", "192.0.2.6/24")])
        );
        let mut addresses = BTreeSet::new();
        for name in ["node1", "node2"] {
            let node = world.until(name, "its tunnel address", |node| annotation(node, IPIP).is_some()).await;
            addresses.insert(annotation(&node, IPIP).unwrap());
        }
        assert_eq!(addresses.len(), 2);
        assert_eq!(world.names(Kind::ClusterInformation).await, set(&["default"]));
        let pools = world.names(Kind::IPPool).await;
        assert!(pools.is_subset(&set(&["default-ipv4-ippool", "default-ipv6-ippool"])), "{pools:?}");
        one.stop().await;
        two.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_somebody_has_written_by_hand_is_left_alone() {
    let world = World::new().await;
    // As the README has it: blocks by podCIDR, no pools.
    world.node("node1", 1).await;
    let agent = world.starts("node1", &[("NO_DEFAULT_POOLS", "true")]).await;
    let fastpath = world.fastpath("node1");
    world.hears("node1", "").await;
    let node = world.until("node1", "a network", |node| network(node) == "False CalicoIsUp").await;
    assert_eq!(annotation(&node, V4).as_deref(), Some("192.0.2.11/24"));
    assert_eq!(annotation(&node, VXLAN).as_deref(), Some("10.244.1.0"));
    assert_eq!(world.names(Kind::IPPool).await, set(&[]));
    assert!(fastpath.with(|told| told.has("node")));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tunnel_addresses_follow_the_pools() {
    let world = World::new().await;
    world.bare_node("node1").await;
    world.pool("plain", "10.48.0.0/16", json!({})).await;
    let agent = world.starts("node1", &[("IP", "192.0.2.5/24"), ("NO_DEFAULT_POOLS", "true")]).await;
    let node = world.until("node1", "its address", |node| annotation(node, V4).is_some()).await;
    assert_eq!((annotation(&node, VXLAN), annotation(&node, IPIP)), (None, None));
    world.patch(Kind::IPPool, "plain", json!({"spec": {"vxlanMode": "Always"}})).await;
    let node = world.until("node1", "a VXLAN end", |node| annotation(node, VXLAN).is_some()).await;
    assert!(annotation(&node, VXLAN).unwrap().starts_with("10.48."));
    world.pool("other", "10.49.0.0/16", json!({"ipipMode": "Always", "nodeSelector": "zone == 'a'"})).await;
    world.patch(Kind::Node, "node1", json!({"metadata": {"labels": {"zone": "a"}}})).await;
    let node = world.until("node1", "an IPIP end", |node| annotation(node, IPIP).is_some()).await;
    assert!(annotation(&node, IPIP).unwrap().starts_with("10.49."));
    assert_eq!(
        world.names(Kind::IPAMHandle).await,
        set(&["vxlan-tunnel-addr-node1", "ipip-tunnel-addr-node1"])
    );
    world.patch(Kind::IPPool, "plain", json!({"spec": {"vxlanMode": "Never"}})).await;
    world.until("node1", "no VXLAN end", |node| annotation(node, VXLAN).is_none()).await;
    assert_eq!(world.names(Kind::IPAMHandle).await, set(&["ipip-tunnel-addr-node1"]));
    // Somebody takes the annotation away: it is written again, and it is the same address.
    let address = annotation(&node, IPIP);
    world.patch(Kind::Node, "node1", json!({"metadata": {"annotations": {IPIP: null}}})).await;
    world.until("node1", "the same IPIP end", |node| annotation(node, IPIP) == address).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_address_that_another_node_has_is_named_and_not_taken() {
    let world = World::new().await;
    world.node("other", 1).await;
    world.bare_node("node1").await;
    let agent = world.starts("node1", &[("IP", "192.0.2.11/24")]).await;
    world.hears("node1", "192.0.2.11 is node other's already").await;
    let datastore = world.datastore().await;
    let node = world.until("node1", "nothing", |_| true).await;
    assert_eq!(annotation(&node, V4), None);
    datastore.delete(&ObjectKey::new(Kind::Node, None, "other"), None).await.unwrap();
    world.until("node1", "its address", |node| annotation(node, V4).is_some()).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_made_anew_is_started_anew() {
    let world = World::new().await;
    let fastpath = world.fastpath("node1");
    let agent = world.starts("node1", &[("IP", "192.0.2.5/24")]).await;
    world.hears("node1", "no Node object").await;
    for _ in 0..3 {
        world.bare_node("node1").await;
        world
            .until("node1", "all of it", |node| {
                annotation(node, V4).is_some()
                    && annotation(node, IPIP).is_some()
                    && network(node) == "False CalicoIsUp"
            })
            .await;
        let key = ObjectKey::new(Kind::Node, None, "node1");
        world.datastore().await.delete(&key, None).await.unwrap();
    }
    drop(fastpath);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn data_that_is_not_to_be_used_is_not_used() {
    let world = World::new().await;
    world.bare_node("node1").await;
    let information = |ready: bool| {
        json!({"apiVersion": "projectcalico.org/v3", "kind": "ClusterInformation", "metadata": {"name": "default"},
            "spec": {"datastoreReady": ready}})
    };
    let ready = |ready: bool| json!({"spec": {"datastoreReady": ready}});
    world.create(information(false)).await;
    let fastpath = world.fastpath("node1");
    let agent = world.starts("node1", &[("IP", "192.0.2.5/24")]).await;
    world.hears("node1", "datastoreReady: false").await;
    assert_eq!(world.names(Kind::IPPool).await, set(&[]), "nothing is made");
    world.patch(Kind::ClusterInformation, "default", ready(true)).await;
    world.hears("node1", "").await;

    world.patch(Kind::ClusterInformation, "default", ready(false)).await;
    world.hears("node1", "datastoreReady: false").await;
    world.pod("web", "node1", "192.168.1.2").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!fastpath.with(|told| told.has("endpoint default/web")));
    assert!(fastpath.with(|told| told.has("node")), "what is in force stays");
    world.patch(Kind::ClusterInformation, "default", ready(true)).await;
    fastpath.wait("the pod", |told| told.has("endpoint default/web"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn somebody_who_keeps_writing_the_node_neither_stops_its_start_nor_loses_anything() {
    let world = World::new().await;
    world.bare_node("node1").await;
    let datastore = world.datastore().await;
    let busy = tokio::spawn(async move {
        let mut written = 0;
        for round in 0..200 {
            let Object::Node(mut node) = datastore.get(Kind::Node, None, "node1").await.unwrap() else {
                panic!()
            };
            node.metadata.annotations.get_or_insert_default().insert("test/round".into(), round.to_string());
            match datastore.replace(&Object::Node(node)).await {
                Ok(_) => written = round,
                Err(DatastoreError::Conflict { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        written
    });
    let agent = world.starts("node1", &[("IP", "192.0.2.5/24")]).await;
    let fastpath = world.fastpath("node1");
    world
        .until("node1", "all of it", |node| {
            annotation(node, V4).is_some()
                && annotation(node, IPIP).is_some()
                && network(node) == "False CalicoIsUp"
        })
        .await;
    let last = busy.await.unwrap();
    let node = world.until("node1", "nothing", |_| true).await;
    assert_eq!(annotation(&node, "test/round"), Some(last.to_string()));
    assert!(annotation(&node, V4).is_some() && annotation(&node, IPIP).is_some());
    drop(fastpath);
    agent.stop().await;
}

#[test]
fn a_node_finds_its_addresses_among_its_interfaces() {
    in_new_netns(async || {
        sh(
            "ip link set lo up; ip link add docker0 type veth peer name x0; ip link add eth0 type veth peer name x1; \
            ip link add eth1 type veth peer name x2; ip addr add 10.9.0.1/16 dev docker0; \
            ip addr add 192.168.7.5/24 dev eth0; ip addr add 198.51.100.5/25 dev eth1; \
            ip addr add 2001:db8::5/64 dev eth1 nodad; ip addr add 2001:db8::99/64 dev eth1 nodad preferred_lft 0",
        );
        sh(
            "for i in docker0 eth0 eth1 x0 x1 x2; do ip link set $i up; done; ip route add 203.0.113.0/24 via 198.51.100.1",
        );
        let world = World::new().await;
        world.bare_node("node1").await;
        for (method, found) in [
            ("first-found", "192.168.7.5/24"),
            ("can-reach=203.0.113.7", "198.51.100.5/25"),
            ("interface=docker.*", "10.9.0.1/16"),
            ("skip-interface=eth0", "198.51.100.5/25"),
            ("cidr=192.168.0.0/16", "192.168.7.5/24"),
        ] {
            let environment =
                [("IP", "autodetect"), ("IP_AUTODETECTION_METHOD", method), ("IP6", "autodetect")];
            let agent = world.starts("node1", &environment).await;
            let node =
                world.until("node1", method, |node| annotation(node, V4).as_deref() == Some(found)).await;
            let v6 = annotation(&node, "projectcalico.org/IPv6Address");
            assert_eq!(v6.as_deref(), Some("2001:db8::5/64"), "not the one that is deprecated");
            agent.stop().await;
        }
        let pool =
            world.datastore().await.get(Kind::IPPool, None, "default-ipv4-ippool").await.unwrap().to_value();
        assert_eq!(pool["spec"]["cidr"], "172.16.0.0/16", "this host is in the other");
        let agent = world
            .starts("node1", &[("IP", "autodetect"), ("IP_AUTODETECTION_METHOD", "interface=wlan.*")])
            .await;
        world
            .until("node1", "what it had", |node| annotation(node, V4).as_deref() == Some("192.168.7.5/24"))
            .await;
        agent.stop().await;
    });
}
