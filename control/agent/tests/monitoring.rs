//! What an agent says of its health: beside a real API server, and the fastpath's end of the real socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod plane;
mod world;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use caracal_agent::monitoring::{Fixed, Vitals};
use caracal_agent::{Agent, HostServices};
use caracal_monitor::{Exposition, Logs, Row};
use plane::Plane;
use world::World;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

fn vitals() -> Arc<Vitals> {
    Arc::new(Vitals::new(Fixed::default(), Logs::unmanaged()))
}

async fn agent(world: &World, vitals: &Arc<Vitals>) -> Agent {
    let socket = world.kubeconfig().with_file_name("fastpath.sock");
    Agent::new("node1".into(), HostServices::Replace, &world.client().await, socket, None)
        .with_vitals(Arc::clone(vitals))
}

fn row(vitals: &Vitals, name: &str) -> Row {
    vitals.health.state(Instant::now()).0.into_iter().find(|row| row.name == name).unwrap()
}

fn value(vitals: &Vitals, series: &str) -> f64 {
    let mut page = Exposition::new();
    vitals.expose("node1", &mut page);
    let page = page.to_string();
    let line = page.lines().find(|line| line.split(' ').next() == Some(series)).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

async fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    tokio::task::block_in_place(|| wait_for(what, is_so));
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_api_is_told_and_makes_nobody_unready() {
    let mut world = World::new().await;
    let vitals = vitals();
    let fastpath = Plane::start(&world.kubeconfig().with_file_name("fastpath.sock"), 1);
    let running = tokio::spawn(agent(&world, &vitals).await.run(std::future::pending()));
    eventually("the lack of the node's object", || {
        row(&vitals, "CalculationGraph").why.contains("no Node object")
    })
    .await;
    assert!(!row(&vitals, "PlaneSession").ready);
    world.node("node1", 1).await;
    world.pod("web", "node1", "10.244.1.2").await;
    eventually("readiness", || row(&vitals, "CalculationGraph").ready && row(&vitals, "PlaneSession").ready)
        .await;
    eventually("all to be followed", || value(&vitals, "felix_resync_state") == 3.0).await;
    assert_eq!(value(&vitals, "felix_resyncs_started"), 1.0);
    eventually("the pod", || value(&vitals, "felix_active_local_endpoints") == 1.0).await;
    assert!(value(&vitals, "caracal_plane_ack_seconds_count") >= 1.0);

    world.stop_serving().await;
    eventually("the outage", || value(&vitals, "felix_resync_state") == 1.0).await;
    for name in ["CalculationGraph", "PlaneSession"] {
        let row = row(&vitals, name);
        assert!(row.ready && row.live != Some(false), "{row:?}");
    }
    assert_eq!(value(&vitals, "felix_active_local_endpoints"), 1.0);
    world.serve().await;
    // A watch without changes says nothing; that it works is seen after a while.
    eventually("the end of the outage", || value(&vitals, "felix_resync_state") == 3.0).await;
    assert!(value(&vitals, "felix_resyncs_started") >= 2.0);

    // The fastpath's end is seen, too.
    drop(fastpath);
    eventually("the fastpath's end", || !row(&vitals, "PlaneSession").ready).await;
    assert!(row(&vitals, "CalculationGraph").ready);
    running.abort();
}

/// Lets the main task go on, whatever happens: a runtime waits for its tasks.
struct Stuck(Arc<AtomicBool>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

#[test]
fn a_main_task_that_is_stuck_is_not_alive() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let vitals = vitals();
    let stuck = Stuck(Arc::default());
    // What the main task waits for is polled in it: one that blocks blocks it for good.
    let stop = poll_fn({
        let is_stuck = Arc::clone(&stuck.0);
        move |_| {
            while is_stuck.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            Poll::<()>::Pending
        }
    });
    let agent = runtime.block_on(agent(&world, &vitals));
    let running = runtime.spawn(agent.run(stop));
    wait_for("the main task", || row(&vitals, "CalculationGraph").why.contains("no Node object"));
    assert!(vitals.health.state(Instant::now()).is_live());
    stuck.0.store(true, Relaxed);
    wait_for("its death", || {
        // As healthTimeoutOverrides would have it; what the agent has read before it was stuck may come later.
        vitals.health.set_timeouts([("CalculationGraph".to_owned(), Duration::from_secs(3))]);
        !vitals.health.state(Instant::now()).is_live()
    });
    assert!(row(&vitals, "CalculationGraph").why.starts_with("has not reported for "));
    drop(stuck);
    wait_for("its resurrection", || vitals.health.state(Instant::now()).is_live());
    running.abort();
}
