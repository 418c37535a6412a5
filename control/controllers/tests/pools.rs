//! Pools and tiers that are to go, against a real API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use caracal_model::object::{Kind, ObjectKey};
use serde_json::{Value, json};
use world::{CALICO, World, until};

/// Why a pool gives addresses, or none.
async fn reason(world: &World, pool: &str) -> Option<String> {
    let pool = world.get(&ObjectKey::new(Kind::IPPool, None, pool)).await?;
    let conditions =
        pool.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let allocatable = conditions.iter().find(|condition| condition["type"] == "Allocatable")?;
    Some(format!("{} {}", allocatable["status"].as_str()?, allocatable["reason"].as_str()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_says_whether_it_gives_addresses_and_gives_up_its_blocks_before_it_goes() {
    let world = World::new().await;
    world.pool("pods", "10.0.0.0/24", json!({"blockSize": 29})).await;
    let process = world.alone().await;
    let says = async |what: &str| {
        until(what, || async { reason(&world, "pods").await.as_deref() == Some(what) }).await;
    };
    says("True OK").await;
    let key = ObjectKey::new(Kind::IPPool, None, "pods");
    world.patch(&key, json!({"spec": {"disabled": true}})).await;
    says("False PoolDisabled").await;
    world.patch(&key, json!({"spec": {"disabled": false}})).await;
    says("True OK").await;

    world.node("node1", "192.0.2.1").await;
    world.pod("node1", "web").await;
    assert_eq!(world.names(Kind::BlockAffinity).await.len(), 1);
    world.delete(&key).await;
    until("the pool to be gone", || async { world.get(&key).await.is_none() }).await;
    assert!(world.names(Kind::BlockAffinity).await.is_empty());
    // What is in use stays so.
    assert_eq!(world.given().await.len(), 1);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_goes_when_its_last_policy_has() {
    let world = World::new().await;
    let tier = ObjectKey::new(Kind::Tier, None, "security");
    world.create(json!({"apiVersion": CALICO, "kind": "Tier", "metadata": {"name": "security"}, "spec": {"order": 5}})).await;
    let process = world.alone().await;
    until("the finalizer", || async {
        let tier = world.get(&tier).await.unwrap();
        tier["metadata"]["finalizers"] == json!(["projectcalico.org/tier-controller"])
    })
    .await;
    world.delete(&tier).await;
    until("the tier to be gone", || async { world.get(&tier).await.is_none() }).await;
    process.stop().await;
}
