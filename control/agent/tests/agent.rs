//! The agent between a real API server and the fastpath's end of the real socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod plane;
mod running;
mod world;

use std::path::PathBuf;

use caracal_agent::{Agent, HostServices};
use plane::Plane;
use running::Running;
use world::World;

/// An agent, and the fastpath's end of its socket.
impl World {
    fn socket(&self) -> PathBuf {
        self.kubeconfig().with_file_name("fastpath.sock")
    }

    async fn agent(&self) -> Running {
        let agent =
            Agent::new("node1".into(), HostServices::Replace, &self.client().await, self.socket(), None);
        Running::start(agent)
    }

    fn fastpath(&self, instance: u64) -> Plane {
        Plane::start(&self.socket(), instance)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_thing_a_fastpath_hears_is_everything_and_then_changes() {
    let world = World::new().await;
    world.node("node1", 1).await;
    world.node("node2", 2).await;
    world.pod("web", "node1", "10.244.1.2").await;
    world.pod("far", "node2", "10.244.2.2").await;
    let fastpath = world.fastpath(1);
    let agent = world.agent().await;
    fastpath.wait("the state", |told| told.in_sync);
    fastpath.with(|told| {
        let names = [
            "node",
            "endpoint default/web",
            "tunnel node2",
            "route [10, 244, 2, 0]/24",
            "route [10, 244, 1, 0]/24",
        ];
        for name in names {
            assert!(told.has(name), "{name} is not in {:?}", told.objects.keys());
        }
        assert!(!told.has("endpoint default/far"));
        assert_eq!(told.transactions.len(), 1);
        assert!(told.transactions[0].in_sync);
    });
    world.isolate("deny").await;
    fastpath.wait("the policy", |told| told.has("policy default/deny"));
    world.pod("late", "node1", "10.244.1.3").await;
    fastpath.wait("the pod", |told| told.has("endpoint default/late"));
    world.delete_pod("web").await;
    fastpath.wait("the end of the pod", |told| !told.has("endpoint default/web"));
    assert_eq!(fastpath.with(|told| told.hellos), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_exist_yet_is_waited_for() {
    let world = World::new().await;
    world.node("node2", 2).await;
    let fastpath = world.fastpath(1);
    let agent = world.agent().await;
    fastpath.wait("the agent", |told| told.hellos == 1);
    world.pod("web", "node1", "10.244.1.2").await;
    assert_eq!(fastpath.with(|told| told.transactions.len()), 0);
    world.node("node1", 1).await;
    fastpath.wait("the state", |told| told.in_sync && told.has("node") && told.has("endpoint default/web"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_fastpath_and_one_that_refuses_are_told_everything_again() {
    let world = World::new().await;
    world.node("node1", 1).await;
    world.pod("web", "node1", "10.244.1.2").await;
    let agent = world.agent().await;
    for instance in 1..=5 {
        let fastpath = world.fastpath(instance);
        fastpath.wait("the state", |told| told.in_sync && told.has("endpoint default/web"));
    }
    let fastpath = world.fastpath(9);
    fastpath.wait("the state", |told| told.in_sync);
    fastpath.with(|told| told.refuse = true);
    world.pod("late", "node1", "10.244.1.3").await;
    fastpath.wait("a new connection", |told| {
        told.hellos == 2 && told.in_sync && told.has("endpoint default/late")
    });
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_takes_nothing_with_it() {
    let mut world = World::new().await;
    world.node("node1", 1).await;
    world.pod("web", "node1", "10.244.1.2").await;
    world.pod("old", "node1", "10.244.1.3").await;
    let agent = world.agent().await;
    let fastpath = world.fastpath(1);
    fastpath.wait("the state", |told| told.in_sync);
    world.stop_serving().await;
    // The fastpath restarts meanwhile: the agent still knows everything.
    drop(fastpath);
    let fastpath = world.fastpath(2);
    fastpath.wait("the state", |told| told.in_sync && told.has("endpoint default/old"));
    assert_eq!(fastpath.with(|told| told.removed.clone()), [].into());
    world.serve().await;
    world.delete_pod("old").await;
    world.pod("new", "node1", "10.244.1.4").await;
    fastpath
        .wait("what happened", |told| told.has("endpoint default/new") && !told.has("endpoint default/old"));
    fastpath.with(|told| {
        assert!(told.has("endpoint default/web"));
        assert!(!told.removed.contains("endpoint default/web"));
        assert_eq!(told.hellos, 1);
    });
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_restarts_removes_nothing_before_it_knows_everything() {
    let mut world = World::new().await;
    world.node("node1", 1).await;
    world.pod("web", "node1", "10.244.1.2").await;
    world.pod("old", "node1", "10.244.1.3").await;
    let fastpath = world.fastpath(1);
    let agent = world.agent().await;
    fastpath.wait("the state", |told| told.in_sync);
    agent.stop().await;
    world.delete_pod("old").await;
    world.stop_serving().await;
    let agent = world.agent().await;
    fastpath.wait("the second agent", |told| told.hellos == 2);
    fastpath.with(|told| {
        assert!(told.has("endpoint default/old") && told.has("endpoint default/web"));
        assert_eq!(told.transactions.len(), 1, "nothing but Hello");
    });
    world.serve().await;
    fastpath.wait("the state", |told| told.in_sync);
    fastpath.with(|told| {
        assert_eq!(told.removed, ["endpoint default/old".to_owned()].into());
        assert!(told.has("endpoint default/web"));
    });
    agent.stop().await;
}
