//! A lab of a test's own, which is gone when the test ends.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{self, Command, Output},
    sync::{
        Once, OnceLock,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use caracal_lab::{LabName, Process, ProcessState, Reader, State};
use caracal_plane_api::{StatusReport, What};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::{Kubernetes, pod},
    machine::{Permit, caracal, eventually, program, stderr},
    traffic::Place,
};

/// No test of one lab takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(600);
const LONG_LIMIT: Duration = Duration::from_secs(1800);

/// What a lab is made from.
pub struct Plan {
    objects: Vec<Value>,
    lab: Value,
}

impl Plan {
    /// Nothing yet.
    pub fn bare() -> Self {
        Self { objects: Vec::new(), lab: json!({}) }
    }

    /// Pods of the namespace `default`, as (name, node), each labelled `app: NAME`.
    pub fn pods(pods: &[(&str, &str)]) -> Self {
        let mut plan = Self::bare();
        for (name, node) in pods {
            plan.objects.push(pod(name, node));
        }
        // There are two nodes though pods may be on one only.
        for node in ["node1", "node2"] {
            plan.objects.push(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}));
        }
        plan
    }

    pub fn object(mut self, object: Value) -> Self {
        self.objects.push(object);
        self
    }

    pub fn option(mut self, name: &str, value: Value) -> Self {
        self.lab[name] = value;
        self
    }
}

/// A lab that is up.
pub struct Lab {
    name: LabName,
    state: State,
    came_up_in: Duration,
    kubernetes: OnceLock<Kubernetes>,
    _watchdog: Sender<()>,
    _folder: TempDir,
    _permit: Permit,
}

impl Lab {
    /// Brings a lab up beside those of other tests.
    pub fn up(name: &str, plan: &Plan) -> Self {
        Self::with(name, plan, Permit::shared())
    }

    /// Brings a lab up that has the machine for itself.
    pub fn up_alone(name: &str, plan: &Plan) -> Self {
        Self::with(name, plan, Permit::alone())
    }

    fn with(name: &str, plan: &Plan, permit: Permit) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "must be run as root: labs are network namespaces");
        static FORMER: Once = Once::new();
        FORMER.call_once(remove_labs_of_killed_tests);
        let name: LabName = format!("crt{}-{name}", process::id()).parse().unwrap();
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("case.yaml");
        let case = json!({"name": name.as_str(), "objects": plan.objects, "lab": plan.lab});
        // JSON is YAML.
        fs::write(&file, case.to_string()).unwrap();
        let watchdog = watchdog();
        let start = Instant::now();
        let up = caracal(&["lab", "up", "--name", name.as_str(), file.to_str().unwrap()]);
        assert!(up.status.success(), "lab {name} does not come up: {}", stderr(&up));
        let came_up_in = start.elapsed();
        let state = State::read(&name).unwrap();
        let kubernetes = OnceLock::new();
        Self { name, state, came_up_in, kubernetes, _watchdog: watchdog, _folder: folder, _permit: permit }
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// How long `lab up` took.
    pub fn came_up_in(&self) -> Duration {
        self.came_up_in
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn kubernetes(&self) -> &Kubernetes {
        self.kubernetes.get_or_init(|| Kubernetes::connect(&self.state.kubeconfig()))
    }

    /// A pod of `default`, by its first address.
    pub fn pod(&self, name: &str) -> Place {
        let pod = self.state.pod("default", name).unwrap();
        Place { netns: pod.netns.clone(), address: pod.addresses[0] }
    }

    /// A pod of `default`, by its IPv6 address.
    pub fn pod_v6(&self, name: &str) -> Place {
        let pod = self.state.pod("default", name).unwrap();
        let address = *pod.addresses.iter().find(|address| address.is_ipv6()).unwrap();
        Place { netns: pod.netns.clone(), address }
    }

    pub fn node(&self, name: &str) -> Place {
        let node = self.state.node(name).unwrap();
        Place { netns: node.netns.clone(), address: node.address }
    }

    /// The router between nodes and everybody outside.
    pub fn router(&self) -> Place {
        Place { netns: self.name.fabric(), address: Ipv4Addr::new(192, 0, 2, 254).into() }
    }

    /// A host outside, by an address.
    pub fn outside(&self, address: impl Into<IpAddr>) -> Place {
        Place { netns: self.name.outside(), address: address.into() }
    }

    /// The host side of a pod's veth.
    pub fn interface(&self, pod: &str) -> &str {
        &self.state.pod("default", pod).unwrap().interface
    }

    pub fn socket(&self, node: &str) -> &Path {
        self.state.node(node).unwrap().socket.as_deref().unwrap()
    }

    /// Runs a command in the lab, as `caracal lab exec` does.
    pub fn exec(&self, place: &str, command: &[&str]) -> Output {
        let mut arguments = vec!["lab", "exec", "--name", self.name(), place, "--"];
        arguments.extend(command);
        caracal(&arguments)
    }

    /// As [`Self::exec`], of a command that must succeed.
    pub fn must(&self, place: &str, command: &[&str]) {
        let output = self.exec(place, command);
        assert!(output.status.success(), "{place}: {command:?}: {}", stderr(&output));
    }

    /// A process of the lab as it is now: `fastpath-node1`, `agent-node1`, `apiserver`.
    pub fn process(&self, name: &str) -> ProcessState {
        let state = State::read(&self.name).unwrap();
        state.processes.into_iter().find(|process| process.name == name).unwrap()
    }

    pub fn supervisor(&self) -> Process {
        self.state.supervisor
    }

    /// `kill -9`.
    pub fn kill(&self, name: &str) -> ProcessState {
        let mut former = None;
        eventually(&format!("{name} runs"), || {
            former = Some(self.process(name));
            former.as_ref().unwrap().process.is_some_and(Process::is_alive)
        });
        let former = former.unwrap();
        former.process.unwrap().signal(Signal::SIGKILL);
        former
    }

    /// `kill -9`, and waits until the supervisor has it back.
    pub fn kill_and_wait(&self, name: &str) {
        let former = self.kill(name);
        eventually(&format!("{name} is started again"), || {
            let now = self.process(name);
            now.restarts > former.restarts && now.process.is_some_and(Process::is_alive)
        });
    }

    /// What a node's fastpath says of itself; `None` while it cannot be asked.
    pub fn status(&self, node: &str) -> Option<StatusReport> {
        Reader::connect(self.socket(node)).ok()?.read(What::Status).ok()?.status
    }

    /// What a node lacks to forward for all its pods.
    pub fn is_ready(&self, node: &str) -> bool {
        let interfaces = caracal_lab::interfaces_of(self.state.node(node).unwrap(), &self.state);
        self.status(node).is_some_and(|status| caracal_lab::missing(&status, &interfaces).is_none())
    }

    /// Packets dropped on a node, by reason.
    pub fn drops(&self, node: &str) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for row in Reader::connect(self.socket(node)).unwrap().read(What::Drops).unwrap().drops {
            *sum.entry(row.reason).or_insert(0) += row.packets;
        }
        sum
    }

    pub fn dropped(&self, node: &str, reason: &str) -> u64 {
        *self.drops(node).get(reason).unwrap_or_else(|| panic!("{reason} is no drop reason"))
    }

    /// A counter of a node, summed over workers; of a port, if one is named.
    pub fn counter(&self, node: &str, name: &str, object: &str) -> u64 {
        let counters = Reader::connect(self.socket(node)).unwrap().read(What::Counters).unwrap().counters;
        counters.iter().filter(|c| c.name == name && c.object == object).map(|c| c.value).sum()
    }

    /// Takes the lab down now.
    pub fn down(&self) {
        let down = caracal(&["lab", "down", "--name", self.name()]);
        assert!(down.status.success(), "lab {} cannot be taken down: {}", self.name, stderr(&down));
    }

    fn tell(&self) {
        for node in &self.state.nodes {
            let Some(socket) = &node.socket else { continue };
            for what in ["drops", "status"] {
                let output = caracal(&["fastpath", what, "--socket", socket.to_str().unwrap()]);
                eprintln!("{} {what}:\n{}{}", node.name, crate::machine::stdout(&output), stderr(&output));
            }
        }
        for process in &self.state.processes {
            let log = fs::read_to_string(self.state.log_of(&process.name)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{} wrote:\n{}", process.name, lines[lines.len().saturating_sub(12)..].join("\n"));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.name.directory().exists() {
            return;
        }
        // A test may have stopped it.
        self.state.supervisor.signal(Signal::SIGCONT);
        if thread::panicking() {
            self.tell();
        }
        let down = caracal(&["lab", "down", "--name", self.name()]);
        if !down.status.success() {
            eprintln!("lab {} cannot be taken down: {}", self.name, stderr(&down));
        }
    }
}

/// Ends everything when its sender is not dropped in time: a test that hangs must not leave a lab, nor hang whoever waits for it.
fn watchdog() -> Sender<()> {
    let (sender, receiver) = channel();
    let limit = if std::env::var_os("CARACAL_LONG").is_some() { LONG_LIMIT } else { LIMIT };
    thread::spawn(move || {
        if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!("a test hangs: not over after {limit:?}");
            for name in labs_of(process::id()) {
                caracal(&["lab", "down", "--name", name.as_str()]);
            }
            process::abort();
        }
    });
    sender
}

fn labs_of(pid: u32) -> Vec<LabName> {
    let prefix = format!("crt{pid}-");
    caracal_lab::names().unwrap().into_iter().filter(|name| name.as_str().starts_with(&prefix)).collect()
}

/// Tests that were killed took nothing down.
fn remove_labs_of_killed_tests() {
    for name in caracal_lab::names().unwrap() {
        let pid =
            name.as_str().strip_prefix("crt").and_then(|rest| rest.split_once('-')?.0.parse::<i32>().ok());
        if pid.is_some_and(|pid| Process::of(pid).is_none()) {
            caracal(&["lab", "down", "--name", name.as_str()]);
        }
    }
}

/// The folder of a process in /proc.
pub fn proc(process: Process) -> PathBuf {
    PathBuf::from(format!("/proc/{}", process.pid))
}

/// `caracal-fastpath` without a lab.
pub fn fastpath(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("caracal-fastpath"));
    command.args(arguments);
    command
}
