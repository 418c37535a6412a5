//! The CNI plugin as a runtime executes it, on a real kernel, against a real API server: in network namespaces of the tests' own, so they
//! need root. The agent's end of the node socket is a twin that says what a test wants said; with a real agent and data plane it is
//! tested by the system tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod add_del;
mod commands;
mod wishes;
mod world;

use caracal_cni::netlink::{IpVersion, Netlink};
use serde_json::json;
use world::{Says, World};

#[test]
fn a_pod_is_attached_as_calico_would_and_detached_without_a_trace() {
    let world = World::new("life");
    let before = world.seen();
    let container = world.pod("web", json!({}));
    let added = world.add(&container);
    let addresses = added.addresses();
    assert_eq!(addresses.len(), 1, "{}", added.json);
    assert!(addresses[0].starts_with("10.244.") && addresses[0].ends_with("/32"), "{addresses:?}");
    let json = &added.json;
    assert_eq!(json["cniVersion"], "1.1.0");
    assert_eq!(json["interfaces"][0], json!({"name": container.veth()}));
    assert_eq!(
        (&json["interfaces"][1]["name"], &json["interfaces"][1]["mtu"]),
        (&json!("eth0"), &json!(1450))
    );
    assert_eq!(json["interfaces"][1]["sandbox"], json!(container.netns));
    assert_eq!((&json["ips"][0]["interface"], &json["routes"]), (&json!(1), &json!([{"dst": addresses[0]}])));

    let seen = world.seen();
    assert!(seen.links.contains(&container.veth()));
    assert_eq!(seen.pins, [container.veth()]);
    assert_eq!(seen.given.keys().collect::<Vec<_>>(), [&container.handle()]);
    assert_eq!(seen.annotated["web"], addresses[0]);
    let (found, routes) = world.in_pod(&container, || {
        let mut netlink = Netlink::open().unwrap();
        let eth0 = netlink.link("eth0").unwrap().index;
        (netlink.addresses(eth0).unwrap(), netlink.routes(IpVersion::V4).unwrap())
    });
    assert!(found.iter().any(|(address, length)| format!("{address}/{length}") == addresses[0]), "{found:?}");
    assert!(routes.contains(&(None, 0, Some("169.254.1.1".parse().unwrap()))), "{routes:?}");
    assert!(world.check(&container, &added.json).good);

    let removed = world.del(&container);
    assert!(removed.good && removed.json.is_null(), "{}", removed.json);
    assert_eq!(world.seen(), before);
    assert!(world.del(&container).good, "it may be repeated");
}

#[test]
fn while_the_agent_is_away_or_not_ready_add_fails_for_now_and_leaves_nothing() {
    let world = World::new("away");
    let container = world.pod("web", json!({}));
    let before = world.seen();
    *world.says.lock().unwrap() = Says::NotReady;
    let answered = world.add(&container);
    assert_eq!(answered.code(), 11);
    assert!(answered.text().contains("the fastpath is away"), "{}", answered.text());
    world.agent_dies();
    assert_eq!(world.add(&container).code(), 11);
    assert_eq!(world.seen(), before);
}

#[test]
fn a_pod_that_does_not_come_into_force_is_taken_back() {
    let world = World::new("never");
    let container = world.pod("web", json!({}));
    let before = world.seen();
    *world.says.lock().unwrap() = Says::Never;
    let answered = world.add(&container);
    assert_eq!(answered.code(), 104);
    assert_eq!(world.seen(), before);
    *world.says.lock().unwrap() = Says::Yes;
    assert!(world.add(&container).good);
}
