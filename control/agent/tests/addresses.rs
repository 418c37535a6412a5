//! Addresses that an agent gives on behalf of plugins, of a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caracal_agent::node_socket::NodeSocket;
use caracal_agent::{Agent, HostServices};
use caracal_cni::node_socket as asking;
use caracal_cni::node_socket::{Assign, Request};
use caracal_datastore::Datastore;
use caracal_ipam::{Record, Store};
use caracal_model::calico::IPPool;
use caracal_model::object::Object;
use serde_json::json;
use world::World;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

fn of(handle: &str) -> Assign {
    Assign {
        handle: handle.into(),
        namespace: "default".into(),
        pod: handle.into(),
        ipv4: true,
        ..Assign::default()
    }
}

/// As long as the agent leaves it to us, it does not know yet where Calico's objects are.
fn assign(socket: &Path, handle: &str) -> Vec<IpAddr> {
    let begin = Instant::now();
    loop {
        if let Some(addresses) = asking::NodeSocket::connect(socket).unwrap().assign(of(handle)).unwrap() {
            return addresses;
        }
        assert!(begin.elapsed() < PATIENCE, "the agent gives nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_of_a_crowd_gets_an_address_of_its_own_and_who_hangs_up_has_none() {
    let world = World::new().await;
    world.node("node1", 1).await;
    let datastore = Datastore::connect(world.client().await, None).await.unwrap();
    let pool: IPPool = serde_json::from_value(json!({
        "metadata": {"name": "pods"}, "spec": {"cidr": "10.50.0.0/24", "blockSize": 28, "vxlanMode": "Always"},
    }))
    .unwrap();
    datastore.create(&Object::IPPool(Box::new(pool))).await.unwrap();
    let path: PathBuf = world.kubeconfig().with_file_name("node.sock");
    let plane = path.with_file_name("fastpath.sock");
    let agent = Agent::new("node1".into(), HostServices::Replace, &world.client().await, plane, None)
        .with_node_socket(NodeSocket::open(&path).unwrap());
    let task = tokio::spawn(agent.run(std::future::pending()));

    let asked = path.clone();
    let given = tokio::task::spawn_blocking(move || {
        assign(&asked, "first");
        let mut gone = serde_json::to_vec(&Request::Assign(of("gone"))).unwrap();
        gone.push(b'\n');
        std::thread::scope(|scope| {
            let crowd: Vec<_> = (0..40)
                .map(|number| {
                    UnixStream::connect(&asked).unwrap().write_all(&gone).unwrap();
                    let asked = &asked;
                    scope.spawn(move || assign(asked, &format!("pod{number}")))
                })
                .collect();
            crowd.into_iter().flat_map(|one| one.join().unwrap()).collect::<Vec<IpAddr>>()
        })
    });
    let given = given.await.unwrap();
    assert_eq!((given.len(), given.iter().collect::<BTreeSet<_>>().len()), (40, 40), "{given:?}");

    let begin = Instant::now();
    loop {
        let records = datastore.ipam().everything().await.unwrap();
        let handles: BTreeSet<_> = records
            .iter()
            .filter_map(|record| match record {
                Record::Handle(handle) => Some(handle.id.as_str()),
                _ => None,
            })
            .collect();
        let addresses = records.iter().map(|record| match record {
            Record::Block(block) => block.given().count(),
            _ => 0,
        });
        if (handles.len(), handles.contains("gone"), addresses.sum::<usize>()) == (41, false, 41) {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{handles:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    task.abort();
}
