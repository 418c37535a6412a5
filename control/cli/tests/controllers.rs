//! `caracal controllers` as real processes beside a real API server: killed, ended, and misled.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use caracal_apiserver::{Options, Ranges, Server, serve};
use caracal_datastore::{ApiGroup, Datastore, client};
use caracal_model::object::{Kind, Object, ObjectKey};
use caracal_monitor::{Question, probe};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process, killed when it is forgotten.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct World {
    directory: tempfile::TempDir,
    _server: Server,
    datastore: Datastore,
}

fn kubeconfig(directory: &Path) -> PathBuf {
    directory.join("kubeconfig")
}

fn controllers(directory: &Path, renew_deadline: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    command.arg("controllers").arg("--kubeconfig").arg(kubeconfig(directory));
    command.args(["--lease-duration", "2s", "--renew-deadline", renew_deadline, "--retry-period", "200ms"]);
    command.args(["--health-address", "none", "--metrics-address", "none"]);
    command.env_remove("CALICO_API_GROUP").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            data_dir: directory.path().join("api"),
            listen: ([127, 0, 0, 1], 0).into(),
            write_kubeconfig: kubeconfig(directory.path()),
            ranges: Ranges::default(),
        };
        let server = serve(options).await.unwrap();
        let datastore =
            Datastore::new(client(Some(&kubeconfig(directory.path()))).await.unwrap(), ApiGroup::V3);
        let world = Self { directory, _server: server, datastore };
        world
            .create(json!({
                "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "services"},
                "spec": {"cidr": "198.51.100.0/28", "blockSize": 28, "allowedUses": ["LoadBalancer"]},
            }))
            .await;
        world
    }

    async fn create(&self, manifest: Value) {
        self.datastore.create(&Object::from_value(manifest).unwrap()).await.unwrap();
    }

    fn start(&self) -> Process {
        Process(controllers(self.directory.path(), "1500ms").stderr(Stdio::inherit()).spawn().unwrap())
    }

    async fn service_gets(&self, name: &str, address: &str) {
        self.create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        }))
        .await;
        let key = ObjectKey::new(Kind::Service, Some("default"), name);
        let end = Instant::now() + PATIENCE;
        loop {
            let service = self.datastore.get(key.kind, Some("default"), name).await.unwrap().to_value();
            if service.pointer("/status/loadBalancer/ingress/0/ip") == Some(&address.into()) {
                return;
            }
            assert!(Instant::now() < end, "{name} was never given {address}: {service}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_and_an_ended_one_at_once() {
    let world = World::new().await;
    let mut first = world.start();
    world.service_gets("one", "198.51.100.0").await;
    let mut second = world.start();
    first.0.kill().unwrap();
    world.service_gets("two", "198.51.100.1").await;
    let _third = world.start();
    // Asked to end, it ends well.
    kill(Pid::from_raw(second.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert!(second.0.wait().unwrap().success());
    world.service_gets("three", "198.51.100.2").await;
}

#[test]
fn what_it_is_told_wrongly_it_refuses_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let told = refused(controllers(directory.path(), "1500ms").env("RECONCILER_PERIOD", "often"));
    assert!(told.contains("RECONCILER_PERIOD") && told.contains("often"), "{told}");
    let told = refused(&mut controllers(directory.path(), "3s"));
    assert!(told.contains("holds for 2000 ms, is given up after 3000 ms"), "{told}");
    let told = refused(&mut controllers(directory.path(), "1500ms"));
    assert!(told.contains("kubeconfig"), "{told}");
}

#[test]
fn one_that_waits_for_the_api_server_tells_probes_that_it_lives() {
    let directory = tempfile::tempdir().unwrap();
    // Taken as long as the test runs, and nobody answers there.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", silent.local_addr().unwrap());
    let cluster = json!({"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}});
    let context = json!({"name": "c", "context": {"cluster": "c", "user": "u"}});
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster],
        "contexts": [context], "users": [{"name": "u", "user": {"token": "t"}}]});
    std::fs::write(kubeconfig(directory.path()), config.to_string()).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
    command.arg("controllers").arg("--kubeconfig").arg(kubeconfig(directory.path()));
    command.args(["--health-address", &free, "--metrics-address", "none"]).env_remove("CALICO_API_GROUP");
    let _process = Process(command.spawn().unwrap());
    let end = Instant::now() + PATIENCE;
    let lives = loop {
        match probe(&free, Question::Live) {
            Ok((lives, _)) => break lives,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(lives);
    let (ready, why) = probe(&free, Question::Ready).unwrap();
    assert!(!ready && why.contains("has not said yet"), "{why}");
}
