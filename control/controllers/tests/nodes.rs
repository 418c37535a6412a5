//! What is left of pods and nodes that have gone, and host endpoints of those that are there, against a real API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use caracal_datastore::ApiGroup;
use caracal_model::object::{Kind, ObjectKey};
use serde_json::{Value, json};
use world::{CALICO, World, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gone_pod_and_a_gone_node_had_is_taken_back_and_nothing_else() {
    is_taken_back(ApiGroup::V3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_they_had_is_taken_back_from_stock_calicos_data_too() {
    is_taken_back(ApiGroup::Crd).await;
}

async fn is_taken_back(group: ApiGroup) {
    let world = World::of(group).await;
    world.configure(json!({"controllers": {"node": {"leakGracePeriod": "1s"}}})).await;
    world.pool("pods", "10.0.0.0/24", json!({"blockSize": 29})).await;
    for (node, address) in [("node1", "192.0.2.1"), ("node2", "192.0.2.2")] {
        world.node(node, address).await;
    }
    let stays = world.pod("node1", "stays").await;
    world.pod("node2", "goes-with-its-node").await;
    // Attached, and its pod never came, or went while nobody was told.
    world.assign("node1", "leaked").await;
    let process = world.alone().await;
    until("the leaked address to be back", || async { world.given().await.len() == 2 }).await;
    let counted = ("pods".to_owned(), "node1".to_owned());
    until("it to be counted", || async { process.view.collected().reclaimed.get(&counted) == Some(&1) })
        .await;

    world.delete(&ObjectKey::new(Kind::Pod, Some("default"), "goes-with-its-node")).await;
    world.delete(&ObjectKey::new(Kind::Node, None, "node2")).await;
    until("the claims of the gone node to be given up", || async {
        world.names(Kind::BlockAffinity).await.iter().all(|name| name.starts_with("node1-"))
    })
    .await;
    until("its handle to be gone", || async {
        world.names(Kind::IPAMHandle).await == ["k8s-pod-network.stays"]
    })
    .await;
    assert_eq!(world.given().await.len(), 1);
    assert!(world.get(&stays).await.is_some());
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_endpoints_come_change_and_go_with_nodes_and_configuration() {
    come_change_and_go(ApiGroup::V3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_endpoints_of_stock_calicos_data_do_so_too() {
    come_change_and_go(ApiGroup::Crd).await;
}

async fn come_change_and_go(group: ApiGroup) {
    let world = World::of(group).await;
    let node = world.node("node1", "192.0.2.1").await;
    let own = json!({"interfaceName": "eth0", "node": "node1"});
    world.create(json!({"apiVersion": CALICO, "kind": "HostEndpoint", "metadata": {"name": "people-made"}, "spec": own})).await;
    world.configure(json!({"controllers": {"node": {"hostEndpoint": {"autoCreate": "Enabled"}}}})).await;
    let process = world.alone().await;
    let made = ObjectKey::new(Kind::HostEndpoint, None, "node1-auto-hep");
    until("the node's host endpoint", || async { world.get(&made).await.is_some() }).await;
    let endpoint = world.get(&made).await.unwrap();
    assert_eq!(
        endpoint["spec"],
        json!({
            "node": "node1", "interfaceName": "*", "expectedIPs": ["192.0.2.1"],
            "profiles": ["projectcalico-default-allow"],
        })
    );
    assert_eq!(endpoint["metadata"]["labels"]["zone"], "a");
    assert_eq!(endpoint["metadata"]["labels"]["projectcalico.org/created-by"], "calico-kube-controllers");

    world.patch(&node, json!({"metadata": {"labels": {"zone": null, "rack": "7"}, "annotations": {"projectcalico.org/IPv4VXLANTunnelAddr": "10.0.0.0"}}})).await;
    until("it to follow the node", || async {
        let endpoint = world.get(&made).await.unwrap();
        let labels = &endpoint["metadata"]["labels"];
        endpoint["spec"]["expectedIPs"] == json!(["192.0.2.1", "10.0.0.0"])
            && labels["rack"] == "7"
            && labels["zone"] == Value::Null
    })
    .await;
    world.node("node2", "192.0.2.2").await;
    until("the other node's", || async { world.names(Kind::HostEndpoint).await.len() == 3 }).await;
    world.delete(&node).await;
    until("the first node's to go", || async { world.get(&made).await.is_none() }).await;
    world.configure(json!({"controllers": {"node": {"hostEndpoint": {"autoCreate": "Disabled"}}}})).await;
    until("all of ours to go", || async { world.names(Kind::HostEndpoint).await == ["people-made"] }).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_is_made_and_answered_with_what_is_done() {
    let world = World::new().await;
    let process = world.alone().await;
    let key = ObjectKey::new(Kind::KubeControllersConfiguration, None, "default");
    let running = async || {
        let configuration = world.get(&key).await?;
        configuration.pointer("/status/runningConfig/controllers/node/leakGracePeriod").cloned()
    };
    until("the configuration", || async { running().await == Some("15m".into()) }).await;
    world.configure(json!({"controllers": {"node": {"leakGracePeriod": "20m"}}})).await;
    until("the change", || async { running().await == Some("20m".into()) }).await;
    process.stop().await;
}
