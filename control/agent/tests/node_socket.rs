//! The node socket of a real agent, between a real API server and the fastpath's end of the real plane socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod plane;
mod running;
mod world;

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caracal_agent::node_socket::{NodeSocket, NodeSocketError};
use caracal_agent::{Agent, HostServices};
use caracal_cni::node_socket as asking;
use caracal_cni::node_socket::{Code, LINE_BYTES_MAX, Wait};
use caracal_model::names::veth_name;
use plane::Plane;
use running::Running;
use tokio::sync::oneshot;
use world::World;

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.kubeconfig().with_file_name(name)
    }

    async fn agent(&self) -> Running {
        let socket = NodeSocket::open(&self.path("node.sock")).unwrap();
        let plane = self.path("fastpath.sock");
        let agent = Agent::new("node1".into(), HostServices::Replace, &self.client().await, plane, None)
            .with_node_socket(socket);
        Running::start(agent)
    }

    fn asks(&self) -> Client {
        Client(self.path("node.sock"))
    }
}

/// Asks as the CNI plugin does, each time over a new connection.
#[derive(Clone)]
struct Client(PathBuf);

impl Client {
    async fn status(&self) -> asking::Status {
        let path = self.0.clone();
        let ask = move || asking::NodeSocket::connect(&path).unwrap().status().unwrap();
        tokio::task::spawn_blocking(ask).await.unwrap()
    }

    async fn wait(&self, pod: &str, address: &str, timeout: Duration) -> Result<(), asking::NodeSocketError> {
        let wait = wait(pod, address, timeout);
        let path = self.0.clone();
        tokio::task::spawn_blocking(move || asking::NodeSocket::connect(&path).unwrap().wait(wait))
            .await
            .unwrap()
    }

    /// Waits in vain until the agent says that this is why: it may not know yet what a test has just done.
    async fn waits_in_vain(&self, pod: &str, address: &str, why: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (code, said) = code(self.wait(pod, address, Duration::from_millis(100)).await.unwrap_err());
            assert_eq!(code, Code::Timeout, "{said}");
            if said.contains(why) {
                return;
            }
            assert!(Instant::now() < end, "not {why:?}, but {said:?}");
        }
    }

    async fn until_ready(&self) {
        self.until(true).await;
    }

    /// Returns why it is not.
    async fn until_not_ready(&self) -> String {
        self.until(false).await.why
    }

    async fn until(&self, ready: bool) -> asking::Status {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.ready == ready {
                return status;
            }
            assert!(Instant::now() < end, "still {status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn wait(pod: &str, address: &str, timeout: Duration) -> Wait {
    Wait {
        namespace: "default".into(),
        pod: pod.into(),
        container_id: String::new(),
        interface: veth_name("default", pod),
        addresses: vec![address.parse().unwrap()],
        timeout_ms: timeout.as_millis().try_into().unwrap(),
    }
}

fn code(error: asking::NodeSocketError) -> (Code, String) {
    match error {
        asking::NodeSocketError::Failure(failure) => (failure.code, failure.error),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_is_ready_when_its_fastpath_has_all_and_says_what_is_missing_until_then() {
    let world = World::new().await;
    let agent = world.agent().await;
    let client = world.asks();
    let end = tokio::time::Instant::now() + PATIENCE;
    for (why, mend) in [("no Node object", 0), ("fastpath is not in sync", 1)] {
        while !client.status().await.why.contains(why) {
            assert!(tokio::time::Instant::now() < end, "{why}: {:?}", client.status().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!client.status().await.ready);
        if mend == 0 {
            world.node("node1", 1).await;
        }
    }
    let fastpath = Plane::start(&world.path("fastpath.sock"), 1);
    client.until_ready().await;
    drop(fastpath);
    client.until_not_ready().await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_whose_fastpath_is_there_and_answers_nothing_is_not_ready() {
    let world = World::new().await;
    world.node("node1", 1).await;
    let fastpath = Plane::start(&world.path("fastpath.sock"), 1);
    let agent = world.agent().await;
    let client = world.asks();
    client.until_ready().await;
    fastpath.with(|told| told.withhold = true);
    let why = client.until_not_ready().await;
    assert!(why.starts_with("the fastpath does not answer"), "{why}");
    fastpath.acknowledge();
    client.until_ready().await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pod_is_in_force_when_its_endpoint_is_acknowledged_and_its_port_open() {
    let world = World::new().await;
    world.node("node1", 1).await;
    let fastpath = Plane::start(&world.path("fastpath.sock"), 1);
    let agent = world.agent().await;
    let client = world.asks();
    client.until_ready().await;

    let early = tokio::spawn({
        let client = client.clone();
        async move { client.wait("web", "10.244.1.2", PATIENCE).await }
    });
    fastpath.with(|told| told.withhold = true);
    world.pod("web", "node1", "10.244.1.2").await;
    fastpath.wait("the endpoint", |told| told.has("endpoint default/web"));
    client.waits_in_vain("web", "10.244.1.2", "not acknowledged").await;
    fastpath.acknowledge();
    client.waits_in_vain("web", "10.244.1.2", "no port").await;
    assert!(!early.is_finished());
    fastpath.with(|told| told.ports.insert(veth_name("default", "web")));
    early.await.unwrap().unwrap();
    client.wait("web", "10.244.1.2", PATIENCE).await.unwrap();

    client.waits_in_vain("web", "10.244.1.3", "other addresses: 10.244.1.2").await;
    world.delete_pod("web").await;
    fastpath.wait("the end of the pod", |told| !told.has("endpoint default/web"));
    client.waits_in_vain("web", "10.244.1.2", "has not seen the pod").await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_while_the_fastpath_restarts_hears_when_the_new_one_has_the_pod() {
    let world = World::new().await;
    world.node("node1", 1).await;
    world.pod("web", "node1", "10.244.1.2").await;
    let port = veth_name("default", "web");
    let fastpath = Plane::start(&world.path("fastpath.sock"), 1);
    fastpath.with(|told| told.ports.insert(port.clone()));
    let agent = world.agent().await;
    let client = world.asks();
    client.wait("web", "10.244.1.2", PATIENCE).await.unwrap();
    drop(fastpath);
    client.until_not_ready().await;
    client.waits_in_vain("web", "10.244.1.2", "not in sync").await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.wait("web", "10.244.1.2", PATIENCE).await }
    });
    let fastpath = Plane::start(&world.path("fastpath.sock"), 2);
    fastpath.with(|told| told.ports.insert(port));
    waiting.await.unwrap().unwrap();
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_that_ends_tells_those_who_wait_and_takes_its_socket_along() {
    let world = World::new().await;
    world.node("node1", 1).await;
    let _fastpath = Plane::start(&world.path("fastpath.sock"), 1);
    let agent = world.agent().await;
    let client = world.asks();
    client.until_ready().await;
    let (accepted, is_accepted) = oneshot::channel();
    let waiting = tokio::task::spawn_blocking({
        let path = client.0.clone();
        move || {
            let mut socket = asking::NodeSocket::connect(&path).unwrap();
            socket.status().unwrap();
            accepted.send(()).unwrap();
            socket.wait(wait("web", "10.244.1.2", PATIENCE))
        }
    });
    is_accepted.await.unwrap();
    // Now it most likely waits; if it has not asked yet, it is told the same.
    tokio::time::sleep(Duration::from_millis(100)).await;
    agent.stop().await;
    let (stopping, _) = code(waiting.await.unwrap().unwrap_err());
    assert_eq!(stopping, Code::Stopping);
    assert!(matches!(asking::NodeSocket::connect(&client.0), Err(asking::NodeSocketError::Connect { .. })));
}

/// Says bytes, and returns the lines that are answered until the other end closes. It listens to so many before it closes its own: the
/// questions of who may have hung up are given up after a while.
fn says(path: &Path, bytes: &[u8], answers: usize) -> Vec<String> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // An answer may come, and the connection end, before all has been said.
    let _ = stream.write_all(bytes);
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let mut heard: Vec<String> = lines.by_ref().take(answers).collect();
    let _ = stream.shutdown(Shutdown::Write);
    heard.extend(lines);
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nonsense_is_answered_as_such_and_harms_nobody() {
    let world = World::new().await;
    let agent = world.agent().await;
    let client = world.asks();
    let path = client.0.clone();
    let work = move || {
        let status = b"{\"op\":\"status\"}\n".to_vec();
        let mut hundred = status.repeat(100);
        assert_eq!(says(&path, &hundred, 100).len(), 100, "one answer for each question");
        hundred.splice(0..0, b"\xff\xfe{}[]\n\n{\"op\":7}\n{\"op\":\"erase\"}\n".to_vec());
        let answers = says(&path, &hundred, 104);
        assert_eq!(answers.len(), 104);
        assert!(answers[..4].iter().all(|answer| answer.contains("bad-request")), "{answers:?}");
        assert!(answers[4..].iter().all(|answer| answer.contains("\"ready\":false")));

        let addresses = vec!["\"10.0.0.1\""; 3000].join(",");
        let many = format!(
            "{{\"op\":\"wait\",\"namespace\":\"a\",\"pod\":\"b\",\"interface\":\"c\",\"addresses\":[{addresses}],\"timeoutMs\":1}}\n"
        );
        assert!(many.len() < LINE_BYTES_MAX);
        assert!(says(&path, many.as_bytes(), 1)[0].contains("timeout"));
        for address in ["1.2.3", "", "::g", "10.0.0.0/8"] {
            let wrong = many.replacen("10.0.0.1", address, 1);
            assert!(says(&path, wrong.as_bytes(), 1)[0].contains("bad-request"), "{address}");
        }
        for timeout in ["-1", "1e9", "18446744073709551616", "\"1\""] {
            let wrong = many.replace("\"timeoutMs\":1", &format!("\"timeoutMs\":{timeout}"));
            assert!(says(&path, wrong.as_bytes(), 1)[0].contains("bad-request"), "{timeout}");
        }

        let huge = vec![b'['; LINE_BYTES_MAX * 3];
        let answers = says(&path, &huge, 0);
        assert!(answers.is_empty() || answers[0].contains("too long"), "{answers:?}");
        assert_eq!(says(&path, b"{\"op\":\"status\"}", 0), Vec::<String>::new(), "half a line is nothing");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    assert!(!client.status().await.ready);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_who_hang_up_are_forgotten() {
    let world = World::new().await;
    let agent = world.agent().await;
    let client = world.asks();
    let path = client.0.clone();
    let work = move || {
        for _ in 0..6 {
            let line = serde_json::to_string(&asking::Request::Wait(wait("web", "10.0.0.1", PATIENCE * 10)))
                .unwrap();
            let mut streams = Vec::new();
            for _ in 0..1000 {
                let mut stream = UnixStream::connect(&path).unwrap();
                writeln!(stream, "{line}").unwrap();
                streams.push(stream);
            }
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    let end = Instant::now() + PATIENCE;
    // As long as it forgets, it may not get to answering; then there is room, and the time that was asked for.
    let is_late =
        |error| matches!(error, asking::NodeSocketError::Failure(failure) if failure.code == Code::Timeout);
    while !is_late(client.wait("web", "10.0.0.1", Duration::from_millis(50)).await.unwrap_err()) {
        assert!(Instant::now() < end, "there is no room");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_socket_that_a_dead_agent_left_is_replaced_and_that_of_a_living_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/node.sock");
    let first = NodeSocket::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = NodeSocket::open(&path).unwrap_err();
    assert!(matches!(error, NodeSocketError::InUse { .. }), "{error}");
    assert!(UnixStream::connect(&path).is_ok(), "the first still serves");
    drop(first);
    // As after SIGKILL: the file is there, nobody serves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(NodeSocket::open(&path).unwrap());
    std::fs::write(&path, "precious").unwrap();
    let error = NodeSocket::open(&path).unwrap_err();
    assert!(matches!(error, NodeSocketError::NotASocket { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_socket_that_somebody_removes_is_served_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/node.sock");
    let _socket = NodeSocket::open(&path).unwrap();
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let served = async {
        while UnixStream::connect(&path).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
