//! A node to attach pods to: a network namespace with a real API server in it, a bpffs, and somebody who answers the node socket as the
//! test says. The test's thread lives in that namespace, and so does all it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use caracal_cni::netlink::Netlink;
use caracal_cni::netns;
use caracal_cni::node_socket::{Answer, Code, Failure, Request, Status};
use caracal_cni::plugin::{batch, pod};
use caracal_datastore::{ApiGroup, Datastore};
use caracal_model::names::veth_name;
use caracal_model::object::{Kind, Object, ObjectKey};
use caracal_xsk::xdp::pod as program;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

pub const NODE: &str = "node1";
/// Against hanging only.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent's twin says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Yes,
    /// The node is ready, and an agent of an earlier version reads and writes no pods.
    Earlier,
    /// The agent gives addresses, too.
    Gives,
    /// The node is not ready.
    NotReady,
    /// No pod ever comes into force.
    Never,
}

pub struct World {
    pub dir: tempfile::TempDir,
    netns: PathBuf,
    server: Child,
    runtime: tokio::runtime::Runtime,
    datastore: Datastore,
    pub says: Arc<Mutex<Says>>,
    pods: Mutex<BTreeMap<String, PathBuf>>,
}

/// A container of a pod.
#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    pub pod: String,
    pub netns: PathBuf,
    pub args: String,
}

impl Container {
    pub fn veth(&self) -> String {
        veth_name("default", &self.pod)
    }

    pub fn handle(&self) -> String {
        format!("net.{}", self.id)
    }
}

/// What a plugin answered.
#[derive(Debug)]
pub struct Answered {
    pub good: bool,
    pub json: Value,
}

impl Answered {
    pub fn code(&self) -> u64 {
        assert!(!self.good, "it was done: {}", self.json);
        self.json["code"].as_u64().unwrap_or_else(|| panic!("no code in {}", self.json))
    }

    pub fn text(&self) -> String {
        self.json.to_string()
    }

    pub fn addresses(&self) -> Vec<String> {
        assert!(self.good, "it failed: {}", self.json);
        let ips = self.json["ips"].as_array().unwrap_or_else(|| panic!("no ips in {}", self.json));
        ips.iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
    }
}

/// Everything that an ADD makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub links: BTreeSet<String>,
    pub pins: Vec<String>,
    /// Addresses given, by their handles.
    pub given: BTreeMap<String, BTreeSet<String>>,
    pub handles: BTreeSet<String>,
    /// Pods whose annotations say an address, and which.
    pub annotated: BTreeMap<String, String>,
}

impl World {
    pub fn new(test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix(&format!("crt{}-cni-{test}", std::process::id()))
            .tempdir()
            .unwrap();
        let netns = netns::path(&format!("crt{}-{number}-node", std::process::id()));
        netns::create(&netns).expect("this test makes network namespaces and needs root");
        netns::enter(netns::open(&netns).unwrap().as_fd()).unwrap();
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.link("lo").unwrap().index;
        netlink.set_up(loopback).unwrap();
        let bpf = dir.path().join("bpf");
        std::fs::create_dir(&bpf).unwrap();
        mount(Some("bpffs"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        for name in ["caracal-cni", "caracal-ipam", "calico-ipam"] {
            std::fs::create_dir_all(dir.path().join("bin")).unwrap();
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_caracal"), dir.path().join("bin").join(name))
                .unwrap();
        }

        let kubeconfig = dir.path().join("kubeconfig");
        let server = start_server(dir.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(caracal_datastore::client(Some(&kubeconfig))).unwrap();
        let datastore = Datastore::new(client, ApiGroup::V3);
        let world = Self {
            dir,
            netns,
            server,
            runtime,
            datastore,
            says: Arc::new(Mutex::new(Says::Yes)),
            pods: Mutex::new(BTreeMap::new()),
        };
        world.make(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "spec": {"podCIDR": "10.99.1.0/24", "podCIDRs": ["10.99.1.0/24"]}}));
        world.pool("pool4", "10.244.0.0/16");
        world.serve();
        world
    }

    pub fn make(&self, object: Value) -> Object {
        let (object, unknown) = Object::from_value_lenient(object).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        self.runtime.block_on(self.datastore.create(&object)).unwrap()
    }

    pub fn pool(&self, name: &str, cidr: &str) {
        self.make(json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name}, "spec": {"cidr": cidr}}));
    }

    pub fn patch(&self, kind: Kind, namespace: Option<&str>, name: &str, patch: Value) {
        self.runtime.block_on(self.datastore.patch(&ObjectKey::new(kind, namespace, name), &patch)).unwrap();
    }

    /// A pod with these annotations, and its first container.
    pub fn pod(&self, name: &str, annotations: Value) -> Container {
        self.make(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]}}));
        self.container(name, &format!("c0-{name}"))
    }

    pub fn delete_pod(&self, name: &str) {
        self.runtime
            .block_on(self.datastore.delete(&ObjectKey::new(Kind::Pod, Some("default"), name), None))
            .unwrap();
    }

    /// A container, in a network namespace of its own.
    pub fn container(&self, pod: &str, id: &str) -> Container {
        let name = self.netns.file_name().unwrap().to_str().unwrap();
        let path = netns::path(&format!("{name}-{id}"));
        netns::create(&path).unwrap();
        self.pods.lock().unwrap().insert(id.to_owned(), path.clone());
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={id}"
        );
        Container { id: id.to_owned(), pod: pod.to_owned(), netns: path, args }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("node.sock")
    }

    /// The agent's twin: answers until the world ends. It says what the test wants said.
    pub fn serve(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let says = Arc::clone(&self.says);
        let kubeconfig = self.dir.path().join("kubeconfig");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), says) = (stream, Arc::clone(&says)) else { return };
                let kubeconfig = kubeconfig.clone();
                std::thread::spawn(move || converse(stream, &says, &kubeconfig));
            }
        });
    }

    pub fn agent_dies(&self) {
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub fn server_dies(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    pub fn server_starts(&mut self) {
        self.server = start_server(self.dir.path());
    }

    /// The network's configuration.
    pub fn config(&self) -> Value {
        let path = |name: &str| self.dir.path().join(name);
        json!({
            "cniVersion": "1.1.0", "name": "net", "type": "caracal-cni", "nodename": NODE, "mtu": 1450,
            "kubernetes": {"kubeconfig": path("kubeconfig")}, "policy": {"type": "k8s"}, "ipam": {"type": "calico-ipam"},
            "node_socket": self.socket(), "bpf_dir": path("bpf"), "ipam_lock_file": path("ipam.lock"),
            "calico_api_group": "projectcalico.org/v3", "log_file_path": path("cni.log"), "log_level": "debug",
        })
    }

    pub fn start(&self, plugin: &str, command: &str, container: Option<&Container>, config: &Value) -> Child {
        let mut process = Command::new(self.dir.path().join("bin").join(plugin));
        process.env_clear().env("CNI_COMMAND", command);
        // A proxy of the environment's is not on the way to the API server.
        process.env("HTTPS_PROXY", "http://127.0.0.1:1");
        process
            .env("CNI_PATH", format!("{}:/usr/lib/cni:/opt/cni/bin", self.dir.path().join("bin").display()));
        if let Some(container) = container {
            process
                .env("CNI_CONTAINERID", &container.id)
                .env("CNI_NETNS", &container.netns)
                .env("CNI_IFNAME", "eth0")
                .env("CNI_ARGS", &container.args);
        }
        let mut child =
            process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
        child
    }

    pub fn execute(
        &self,
        plugin: &str,
        command: &str,
        container: Option<&Container>,
        config: &Value,
    ) -> Answered {
        let output = self.start(plugin, command, container, config).wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let json = if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
        };
        Answered { good: output.status.success(), json }
    }

    pub fn add(&self, container: &Container) -> Answered {
        self.execute("caracal-cni", "ADD", Some(container), &self.config())
    }

    pub fn del(&self, container: &Container) -> Answered {
        self.execute("caracal-cni", "DEL", Some(container), &self.config())
    }

    pub fn check(&self, container: &Container, result: &Value) -> Answered {
        let mut config = self.config();
        config["prevResult"] = result.clone();
        self.execute("caracal-cni", "CHECK", Some(container), &config)
    }

    pub fn seen(&self) -> Seen {
        let links = Netlink::open().unwrap().links().unwrap();
        let mut seen = Seen {
            links: links.into_iter().map(|link| link.name).collect(),
            pins: program::pinned(&self.dir.path().join("bpf")).unwrap(),
            given: BTreeMap::new(),
            handles: BTreeSet::new(),
            annotated: BTreeMap::new(),
        };
        let list = |kind| self.runtime.block_on(self.datastore.list(kind)).unwrap();
        for object in list(Kind::IPAMBlock) {
            let Object::IPAMBlock(block) = object else { unreachable!() };
            let spec = block.spec;
            let attributes = spec.attributes.unwrap_or_default();
            for (ordinal, index) in spec.allocations.unwrap_or_default().iter().enumerate() {
                let Some(index) = index else { continue };
                let of = &attributes[usize::try_from(*index).unwrap()];
                let handle = of.handle_id.clone().unwrap_or_default();
                seen.given.entry(handle).or_default().insert(format!("{}+{ordinal}", spec.cidr));
            }
        }
        for object in list(Kind::IPAMHandle) {
            let Object::IPAMHandle(handle) = object else { unreachable!() };
            seen.handles.insert(handle.spec.handle_id);
        }
        for object in list(Kind::Pod) {
            let name = object.metadata().name.clone().unwrap();
            let says = object
                .metadata()
                .annotations
                .as_ref()
                .and_then(|all| all.get("cni.projectcalico.org/podIPs"));
            seen.annotated.extend(says.filter(|text| !text.is_empty()).map(|text| (name, text.clone())));
        }
        seen
    }

    pub fn in_pod<T: Send>(&self, container: &Container, work: impl FnOnce() -> T + Send) -> T {
        netns::within(&container.netns, work).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = umount2(&self.dir.path().join("bpf"), MntFlags::MNT_DETACH);
        for path in self.pods.get_mut().unwrap().values() {
            let _ = netns::remove(path);
        }
        let _ = netns::remove(&self.netns);
    }
}

/// An API server that answers.
fn start_server(dir: &std::path::Path) -> Child {
    let kubeconfig = dir.join("kubeconfig");
    let _ = std::fs::remove_file(&kubeconfig);
    let server = Command::new(env!("CARGO_BIN_EXE_caracal"))
        .args(["apiserver", "--listen", "127.0.0.1:6443", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--write-kubeconfig")
        .arg(&kubeconfig)
        .stderr(std::fs::File::create(dir.join("apiserver.log")).unwrap())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !kubeconfig.exists() {
        assert!(begin.elapsed() < PATIENCE, "no API server: see {}", dir.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    server
}

fn converse(stream: UnixStream, says: &Mutex<Says>, kubeconfig: &Path) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        let says = *says.lock().unwrap();
        let answer = match serde_json::from_str(&line).unwrap() {
            Request::Status => {
                let ready = says != Says::NotReady;
                Answer::Status(Status {
                    ready,
                    why: if ready { String::new() } else { "the fastpath is away".into() },
                    api_group: (says == Says::Gives).then(|| ApiGroup::V3.to_string()),
                })
            }
            Request::Wait(_) if says == Says::Never => {
                Answer::Failure(Failure { error: "not in force in time".into(), code: Code::Timeout })
            }
            Request::Wait(_) => Answer::Wait { in_force: true },
            Request::Read(_) | Request::Annotate(_) if says == Says::Earlier => {
                Answer::Failure(Failure { error: "what is that?".into(), code: Code::BadRequest })
            }
            // Then plugins see to it themselves, which is what is mostly tried here.
            Request::Assign(_) if says != Says::Gives => {
                Answer::Failure(Failure { error: "another has to".into(), code: Code::Busy })
            }
            errand => run(errand, kubeconfig)
                .unwrap_or_else(|why| Answer::Failure(Failure { error: why, code: Code::Busy })),
        };
        let mut text = serde_json::to_string(&answer).unwrap();
        text.push('\n');
        if (&stream).write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// Does what an agent does for a plugin, with a connection of its own.
fn run(errand: Request, kubeconfig: &Path) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = caracal_datastore::client(Some(kubeconfig)).await.map_err(|error| error.to_string())?;
        let datastore = Datastore::new(client, ApiGroup::V3);
        match errand {
            Request::Read(name) => {
                let found = pod::read(&datastore, &name.namespace, &name.pod).await;
                let found = found.map_err(|error| error.to_string())?.ok_or("there is no such pod")?;
                let of = match datastore.get(Kind::Namespace, None, &name.namespace).await {
                    Ok(Object::Namespace(namespace)) => Some(*namespace),
                    _ => None,
                };
                let (pod, of) = pod::looked_at(&found, of.as_ref());
                Ok(Answer::Known { pod: Box::new(pod), of: of.map(Box::new) })
            }
            Request::Annotate(annotate) => match pod::write(&datastore, &annotate).await {
                Ok(()) => Ok(Answer::Annotated { annotated: true }),
                Err(error) => Err(error.to_string()),
            },
            Request::Assign(assign) => {
                let world =
                    datastore.ipam_world(Some(NODE), None).await.map_err(|error| error.to_string())?;
                let given = batch::assign(&datastore, &world, NODE, &[assign], &mut batch::Near::new()).await;
                let addresses = given.into_iter().next().ok_or("nothing was given")?;
                addresses.map(|addresses| Answer::Assigned { addresses }).map_err(|error| error.to_string())
            }
            other => Err(format!("{other:?} is no errand")),
        }
    })
}
