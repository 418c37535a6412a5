//! Services get and lose external addresses, against a real API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use caracal_model::object::ObjectKey;
use serde_json::json;
use world::{World, until};

const FOR_SERVICES: fn() -> serde_json::Value =
    || json!({"allowedUses": ["LoadBalancer"], "nodeSelector": "all()"});

async fn shows(world: &World, service: &ObjectKey, addresses: &[&str]) {
    until(&format!("{service} to show {addresses:?}"), || async {
        world.ingress(service).await == addresses
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_gets_an_address_and_gives_it_back() {
    let world = World::new().await;
    world
        .pool("services", "198.51.100.0/29", {
            let mut spec = FOR_SERVICES();
            spec["blockSize"] = 29.into();
            spec
        })
        .await;
    let process = world.alone().await;
    let web = world.service("web", json!({})).await;
    shows(&world, &web, &["198.51.100.0"]).await;
    let given = world.given().await;
    assert_eq!(given.len(), 1);
    assert!(given[0].1.starts_with("lb-default.web."), "{given:?}");

    // Another is not given the same; it asks for one by number.
    let other = world.service("other", json!({})).await;
    shows(&world, &other, &["198.51.100.1"]).await;
    world
        .patch(
            &other,
            json!({"metadata": {"annotations": {"projectcalico.org/loadBalancerIPs": "[\"198.51.100.5\"]"}}}),
        )
        .await;
    shows(&world, &other, &["198.51.100.5"]).await;

    // No balancer any more: the address goes from the status, and from the block.
    world.patch(&web, json!({"spec": {"type": "ClusterIP"}})).await;
    shows(&world, &web, &[]).await;
    world.delete(&other).await;
    until("every address to be back", || async { world.given().await.is_empty() }).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_takes_over_when_the_leader_is_killed_or_ends() {
    let world = World::new().await;
    let mut spec = FOR_SERVICES();
    spec["blockSize"] = 29.into();
    world.pool("services", "198.51.100.0/29", spec).await;
    let first = world.candidate("first").await;
    until("the first to lead", || async { first.view.leads() }).await;
    let second = world.candidate("second").await;
    let one = world.service("one", json!({})).await;
    shows(&world, &one, &["198.51.100.0"]).await;
    assert!(first.view.leads() && !second.view.leads());

    first.kill().await;
    let two = world.service("two", json!({})).await;
    shows(&world, &two, &["198.51.100.1"]).await;
    assert!(second.view.leads());

    let third = world.candidate("third").await;
    second.stop().await;
    let three = world.service("three", json!({})).await;
    shows(&world, &three, &["198.51.100.2"]).await;
    assert!(third.view.leads());
    third.stop().await;
}
