//! Services get and lose external addresses, against a real API server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use caracal_datastore::ApiGroup;
use caracal_ipam::{Attributes, Nanoseconds, Owner, Use, assign_address};
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
    gets_and_gives_back(ApiGroup::V3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_a_cluster_with_stock_calicos_data_does_so_too() {
    gets_and_gives_back(ApiGroup::Crd).await;
}

/// Calico's handle is a hash, with upper-case letters; its `type` is the service's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_keeps_the_address_that_stock_calico_has_given_it() {
    let world = World::of(ApiGroup::Crd).await;
    world.pool("services", "198.51.100.0/26", FOR_SERVICES()).await;
    let web = world.service("web", json!({})).await;
    let owner = [("namespace", "default"), ("service", "web"), ("type", "LoadBalancer")];
    let attributes = Attributes {
        handle: Some("lb-Hk3xZ0aQ".to_owned()),
        owner: owner.map(|(key, text)| (key.to_owned(), text.to_owned())).into(),
        ..Attributes::default()
    };
    let (ipam, usage) = (world.datastore.ipam(), Some(Use::LoadBalancer));
    let pools = world.datastore.ipam_world(None, None).await.unwrap();
    let balancer = Owner::Virtual("load-balancer".to_owned());
    let address = "198.51.100.3".parse().unwrap();
    assign_address(&ipam, &pools, address, &attributes, &balancer, usage, Nanoseconds(1)).await.unwrap();
    let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.3"}]}}});
    world.datastore.patch_status(&web, &ingress).await.unwrap();

    let process = world.alone().await;
    // Once another has one, this one has been looked at.
    let other = world.service("other", json!({})).await;
    shows(&world, &other, &["198.51.100.0"]).await;
    assert_eq!(world.ingress(&web).await, ["198.51.100.3"]);
    assert_eq!(world.given().await.len(), 2);
    world.delete(&web).await;
    until("its address to be back", || async { world.given().await.len() == 1 }).await;
    process.stop().await;
}

async fn gets_and_gives_back(group: ApiGroup) {
    let world = World::of(group).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_two_families_gets_an_address_of_each_in_its_order_and_pools_are_asked_for_by_name() {
    let world = World::new().await;
    for (name, cidr, length) in
        [("first", "198.51.100.0/29", 29), ("second", "203.0.113.0/29", 29), ("sixth", "2001:db8::/120", 122)]
    {
        let mut spec = FOR_SERVICES();
        spec["blockSize"] = length.into();
        world.pool(name, cidr, spec).await;
    }
    let process = world.alone().await;
    let both = json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"});
    let web = world.service("web", both).await;
    shows(&world, &web, &["2001:db8::", "198.51.100.0"]).await;
    let asks = json!({"metadata": {"annotations": {"projectcalico.org/ipv4pools": "[\"second\"]"}}});
    world.patch(&web, asks).await;
    shows(&world, &web, &["2001:db8::", "203.0.113.0"]).await;
    until("the other address to be back", || async { world.given().await.len() == 2 }).await;

    // Another class is another's business; only those who ask are ours when it is said so.
    let other = world.service("other", json!({"loadBalancerClass": "example.com/other"})).await;
    world.configure(json!({"controllers": {"loadBalancer": {"assignIPs": "RequestedServicesOnly"}}})).await;
    let asks_by_class = world.service("by-class", json!({"loadBalancerClass": "calico"})).await;
    // What came back is given again after all others.
    shows(&world, &asks_by_class, &["198.51.100.1"]).await;
    shows(&world, &web, &["2001:db8::", "203.0.113.0"]).await;
    assert!(world.ingress(&other).await.is_empty());
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_reach_the_api_server_no_longer_leads_until_it_is_back() {
    let mut world = World::new().await;
    let mut spec = FOR_SERVICES();
    spec["blockSize"] = 29.into();
    world.pool("services", "198.51.100.0/29", spec).await;
    let process = world.candidate("only").await;
    until("it to lead", || async { process.view.leads() }).await;
    let address = world.stop_serving().await;
    until("it to lead no longer", || async { !process.view.leads() }).await;
    assert!(process.view.is_in_sync(), "what it knows it keeps");
    world.serve(address).await;
    let web = world.service("web", json!({})).await;
    shows(&world, &web, &["198.51.100.0"]).await;
    assert!(process.view.leads());
    process.stop().await;
}
