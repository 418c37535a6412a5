//! Pods that an agent reads and annotates on behalf of plugins, of a real API server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod world;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caracal_agent::node_socket::NodeSocket;
use caracal_agent::{Agent, HostServices};
use caracal_cni::node_socket as asking;
use caracal_cni::node_socket::{Annotate, Request};
use caracal_cni::plugin::pod;
use caracal_datastore::Datastore;
use k8s_openapi::api::core::v1::Pod;
use world::World;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(30);

fn annotate(pod: &Pod) -> Annotate {
    Annotate {
        namespace: "default".into(),
        pod: pod.metadata.name.clone().unwrap(),
        uid: pod.metadata.uid.clone().unwrap(),
        container_id: "sandbox".into(),
        addresses: vec!["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()],
    }
}

/// As long as the agent leaves it to us, it does not know yet where Calico's objects are.
fn read(socket: &Path, name: &str) -> Pod {
    let begin = Instant::now();
    loop {
        if let Some((pod, namespace)) =
            asking::NodeSocket::connect(socket).unwrap().read("default", name).unwrap()
        {
            assert_eq!(namespace.unwrap().metadata.name.as_deref(), Some("default"));
            return pod;
        }
        assert!(begin.elapsed() < PATIENCE, "the agent reads nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn addresses(pod: &Pod) -> &str {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get("cni.projectcalico.org/podIPs")).map_or("", String::as_str)
}

struct Node {
    world: World,
    datastore: Datastore,
    socket: PathBuf,
    agent: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn up() -> Self {
        let world = World::new().await;
        world.node("node1", 1).await;
        let datastore = Datastore::connect(world.client().await, None).await.unwrap();
        let socket: PathBuf = world.kubeconfig().with_file_name("node.sock");
        let plane = socket.with_file_name("fastpath.sock");
        let agent = Agent::new("node1".into(), HostServices::Replace, &world.client().await, plane, None)
            .with_node_socket(NodeSocket::open(&socket).unwrap());
        let agent = tokio::spawn(agent.run(std::future::pending()));
        Self { world, datastore, socket, agent }
    }

    async fn pod(&self, name: &str) -> Pod {
        pod::read(&self.datastore, "default", name).await.unwrap().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pod_is_read_and_annotated_as_a_plugin_would_and_another_of_its_name_is_not() {
    let node = Node::up().await;
    node.world.pod("web", "node1", "").await;
    let socket = node.socket.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let found = read(&socket, "web");
        let mut agent = asking::NodeSocket::connect(&socket).unwrap();
        assert_eq!(agent.read("default", "nobody").unwrap(), None, "the plugin is to see for itself");
        let other = Annotate { uid: "another".into(), ..annotate(&found) };
        assert_eq!(agent.annotate(other).unwrap(), None, "the plugin is to see for itself");
        assert_eq!(addresses(&read(&socket, "web")), "");
        assert_eq!(agent.annotate(annotate(&found)).unwrap(), Some(()));
        (found, read(&socket, "web"))
    });
    let (before, after) = asked.await.unwrap();
    assert_eq!(before.spec.unwrap().node_name.as_deref(), Some("node1"));
    assert_eq!(addresses(&after), "10.244.1.7/32,fd00::7/128");
    let kept = node.pod("web").await.metadata.annotations.unwrap();
    assert_eq!(kept["cni.projectcalico.org/podIP"], "10.244.1.7/32");
    assert_eq!(kept["cni.projectcalico.org/containerID"], "sandbox");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_del_did_not_find_of_a_plugin_that_was_killed_is_not_there_afterwards_either() {
    const PODS: u64 = 60;
    let node = Node::up().await;
    node.world.pod("first", "node1", "").await;
    let socket = node.socket.clone();
    tokio::task::spawn_blocking(move || read(&socket, "first")).await.unwrap();
    let mut gone = Vec::new();
    for number in 0..PODS {
        let name = format!("web-{number}");
        node.world.pod(&name, "node1", "").await;
        let found = node.pod(&name).await;
        let mut line = serde_json::to_vec(&Request::Annotate(annotate(&found))).unwrap();
        line.push(b'\n');
        let mut plugin = UnixStream::connect(&node.socket).unwrap();
        plugin.write_all(&line).unwrap();
        // Killed at another moment each time, in the middle of the write for some.
        tokio::time::sleep(Duration::from_micros(number * 100)).await;
        drop(plugin);
        if addresses(&node.pod(&name).await).is_empty() {
            gone.push(name);
        }
    }
    assert!(!gone.is_empty(), "all were written before anybody could be killed");
    let begin = Instant::now();
    loop {
        let mut left = Vec::new();
        for name in &gone {
            left.extend((!addresses(&node.pod(name).await).is_empty()).then_some(name));
        }
        if left.is_empty() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "annotated for nobody: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
