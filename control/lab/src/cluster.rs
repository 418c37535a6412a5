//! A lab that is up: its network, its processes, who answers in it; and how it comes up and goes.
//!
//! ```text
//!   State::begin ─► API server ─► network ─► who answers ─► fastpaths ─► objects ─► agents ─► nodes ready ─► pods ─► ready
//!        │                                                                                                            │
//!        └───────────────────────── whatever happens: Drop ─► processes end ─► sweep ◄── pods' DEL ◄──────────────────┘
//! ```
//!
//! Objects are loaded before the agents start, so that the first state that an agent calls complete has every policy in it; pods are
//! attached last, as to a node that is up already.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use caracal_cni::netns;
use caracal_model::{
    case::{Place, World},
    convert::service_slice,
    object::Object,
    pod_port::PodPort,
    protocol::Protocol,
};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::{Pid, geteuid},
};
use socket2::Domain;

use crate::{
    api, blocks,
    children::{Children, Program, lock},
    cni, door,
    error::LabError,
    host_flows,
    name::LabName,
    network, pods,
    process::Process,
    ready,
    responder::{self, Listening},
    state::{NodeState, Phase, PodState, State, sweep},
    stop::Stop,
};

/// Below the kernel's ephemeral ports, so that no connection takes the API server's port while it is being started again.
const API_PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How long pods may take to be detached, before what they have is swept.
const DETACH_LIMIT: Duration = Duration::from_secs(10);
const IPV4: &[Domain] = &[Domain::IPV4];
const BOTH: &[Domain] = &[Domain::IPV4, Domain::IPV6];
/// Ports on which the hosts outside answer besides those that flows name.
const OUTSIDE_PORTS: [(Protocol, u16); 7] = [
    (Protocol::TCP, 7),
    (Protocol::TCP, 53),
    (Protocol::TCP, 80),
    (Protocol::TCP, 443),
    (Protocol::TCP, 8080),
    (Protocol::UDP, 7),
    (Protocol::UDP, 53),
];

/// A lab that is up. Dropping it removes it.
#[derive(Debug)]
pub struct Cluster {
    name: LabName,
    state: Arc<Mutex<State>>,
    children: Children,
    runtime: tokio::runtime::Runtime,
}

/// Says what is being done, for people who wait.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

impl Cluster {
    /// Brings a world up under a name, and returns when every fastpath forwards for every pod. When it fails, nothing stays.
    ///
    /// # Errors
    /// Any [`LabError`].
    pub fn up(
        name: &LabName,
        case: &str,
        world: &World,
        stop: &Stop,
        progress: Progress<'_>,
    ) -> Result<Self, LabError> {
        check_root()?;
        let caracal = program("caracal")?;
        let fastpath = program("caracal-fastpath")?;
        let api = api_address(name)?;
        let state = plan(name, case, world, api)?;
        state.begin()?;
        let state = Arc::new(Mutex::new(state));
        // From here on, dropping the cluster cleans up.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(LabError::Threads)?;
        let mut cluster =
            Self { name: name.clone(), state: Arc::clone(&state), children: Children::new(state), runtime };
        cluster.start(world, &caracal, &fastpath, api, stop, progress)?;
        Ok(cluster)
    }

    fn start(
        &mut self,
        world: &World,
        caracal: &Path,
        fastpath: &Path,
        api: SocketAddr,
        stop: &Stop,
        progress: Progress<'_>,
    ) -> Result<(), LabError> {
        let begin = Instant::now();
        let step = |what: &str| progress(&format!("{:>6.2} s  {what}", begin.elapsed().as_secs_f64()));
        let state = self.state();
        let name = self.name.clone();

        step("starting the API server");
        self.children.start(apiserver(&state, caracal, api))?;
        step(&format!("making {} nodes, and namespaces for {} pods", world.nodes.len(), state.pods.len()));
        cni::plugin_folder(&state.plugins(), caracal)
            .map_err(LabError::file("put the CNI plugins into", &state.plugins()))?;
        network::build(world, &name, &state, stop)?;
        let handle = self.runtime.handle();
        for (netns, place, listening, versions) in listeners(world, &name) {
            stop.check()?;
            responder::open(handle, &netns, &place, &listening, versions)?;
        }

        step("starting the fastpaths");
        let cpus = Cpus::of(&name);
        let workers = world.lab.workers.unwrap_or(1).max(1) as usize;
        for (index, node) in state.nodes.iter().enumerate() {
            let Some(socket) = &node.socket else { continue };
            door::open(handle, &name, &node.name, api)?;
            let mut arguments = vec![
                "--socket".into(),
                socket.display().to_string(),
                "--cpus".into(),
                cpus.list(index * workers, workers),
                "--workers".into(),
                workers.to_string(),
                "--bpf-dir".into(),
                state.bpf_of(&node.name).display().to_string(),
            ];
            if let Some(flows) = world.lab.flows {
                arguments.extend(["--flows".into(), flows.to_string()]);
            }
            if world.lab.pod_port != PodPort::Auto {
                arguments.extend(["--pod-port".into(), world.lab.pod_port.to_string()]);
            }
            let process = format!("fastpath-{}", node.name);
            self.children.start(Program {
                log: state.log_of(&process),
                name: process,
                netns: Some(netns::path(&node.netns)),
                path: fastpath.to_owned(),
                arguments,
            })?;
        }

        step(&format!("loading {} objects through the Kubernetes API", world.objects.len()));
        let load = async {
            let client = api::connect(&state.kubeconfig(), api::LIMIT, stop).await?;
            for object in &world.objects {
                stop.check()?;
                api::load(&client, &pods::before(world, &state, object)).await?;
            }
            if !world.lab.startup {
                blocks::give(world, &client).await?;
            }
            Ok::<_, LabError>(client)
        };
        let client =
            self.runtime.block_on(load).map_err(|error| ready::explain(&lock(&self.state), error))?;

        step("starting the agents, waiting for the nodes");
        for node in &state.nodes {
            let Some(socket) = &node.socket else { continue };
            let process = format!("agent-{}", node.name);
            let arguments = vec![
                "agent".into(),
                "--node".into(),
                node.name.clone(),
                "--kubeconfig".into(),
                state.kubeconfig().display().to_string(),
                "--fastpath".into(),
                socket.display().to_string(),
                "--bpf-dir".into(),
                state.bpf_of(&node.name).display().to_string(),
                "--mtu-file".into(),
                state.mtu_of(&node.name).display().to_string(),
                "--node-socket".into(),
                state.node_socket_of(&node.name).display().to_string(),
                "--nodename-file".into(),
                state.directory().join(format!("nodename-{}", node.name)).display().to_string(),
                "--startup".into(),
                if world.lab.startup { "on" } else { "off" }.into(),
            ];
            self.children.start(Program {
                log: state.log_of(&process),
                name: process,
                netns: Some(netns::path(&node.netns)),
                path: caracal.to_owned(),
                arguments,
            })?;
        }
        ready::nodes(&self.state, stop)?;
        step(&format!("attaching {} pods", state.pods.len()));
        let attached = pods::attach(world, &state, handle, &client, stop)?;
        lock(&self.state).know(attached);
        ready::pods(&self.state, stop)?;
        lock(&self.state).phase = Phase::Ready;
        self.state().write()?;
        step("ready");
        Ok(())
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// The lab as it is now.
    #[must_use]
    pub fn state(&self) -> State {
        lock(&self.state).clone()
    }

    pub(crate) fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }

    /// Removes the lab.
    ///
    /// # Errors
    /// Something could not be removed; `lab down` may try again.
    pub fn down(mut self) -> Result<(), LabError> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), LabError> {
        {
            let mut state = lock(&self.state);
            if !state.directory().exists() {
                return Ok(());
            }
            state.phase = Phase::Stopping;
        }
        pods::detach(&self.state(), &Stop::after(DETACH_LIMIT));
        self.children.end();
        sweep(&self.name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("caracal lab: {error}; `caracal lab down --name {}` tries again", self.name);
        }
    }
}

/// The lab needs root.
///
/// # Errors
/// This is not root.
pub fn check_root() -> Result<(), LabError> {
    if geteuid().is_root() { Ok(()) } else { Err(LabError::NotRoot) }
}

/// Everything that will be made, before any of it is.
fn plan(name: &LabName, case: &str, world: &World, api: SocketAddr) -> Result<State, LabError> {
    let directory = name.directory();
    let mut netns = vec![name.fabric(), name.outside()];
    let mut nodes = Vec::new();
    for node in &world.nodes {
        let socket = directory.join(format!("{}.sock", node.name));
        // sockaddr_un has room for 107 bytes and a zero; the agent's socket is called so with -agent.
        if socket.as_os_str().len() + "-agent".len() > 107 {
            return Err(LabError::Case(format!(
                "the name of node {} is too long for its socket {}",
                node.name,
                socket.display()
            )));
        }
        netns.push(name.node(&node.name));
        nodes.push(NodeState {
            name: node.name.clone(),
            address: node.address.into(),
            netns: name.node(&node.name),
            socket: (!node.kernel).then_some(socket),
        });
    }
    let mut pods = Vec::new();
    for pod in world.pods.iter().filter(|pod| !pod.addresses.is_empty()) {
        let Some(node) = world.nodes.get(pod.node) else { continue };
        let own = (!pod.host_network).then(|| name.pod(&pod.namespace, &pod.name));
        netns.extend(own.clone());
        pods.push(PodState {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            node: node.name.clone(),
            addresses: pod.addresses.clone(),
            interface: if pod.host_network { String::new() } else { pod.interface.clone() },
            netns: own.unwrap_or_else(|| name.node(&node.name)),
        });
    }
    let supervisor = Process::own();
    Ok(State {
        name: name.to_string(),
        run: format!("{name}-{}-{}", supervisor.pid, supervisor.start_time),
        case: case.into(),
        phase: Phase::Starting,
        supervisor,
        netns,
        nodes,
        pods,
        processes: Vec::new(),
        api: api.to_string(),
    })
}

fn apiserver(state: &State, caracal: &Path, api: SocketAddr) -> Program {
    let arguments = [
        "apiserver".into(),
        "--data-dir".into(),
        state.directory().join("data").display().to_string(),
        "--listen".into(),
        api.to_string(),
        "--write-kubeconfig".into(),
        state.kubeconfig().display().to_string(),
    ];
    Program {
        name: "apiserver".into(),
        netns: None,
        path: caracal.to_owned(),
        arguments: arguments.into(),
        log: state.log_of("apiserver"),
    }
}

/// Who listens where: a namespace, what people call it, what is listened to, and over which IP versions.
type Listener = (String, String, Listening, &'static [Domain]);

fn listeners(world: &World, name: &LabName) -> Vec<Listener> {
    let mut outside = Listening::default();
    for (protocol, port) in OUTSIDE_PORTS {
        outside.add(protocol, Some(port));
    }
    let mut nodes = vec![Listening::default(); world.nodes.len()];
    let mut pods = vec![Listening::default(); world.pods.len()];
    for (pod, own) in world.pods.iter().zip(&mut pods) {
        let listening = if pod.host_network { nodes.get_mut(pod.node) } else { Some(own) };
        let Some(listening) = listening else { continue };
        for port in &pod.ports {
            listening.add(port.protocol, Some(port.port));
        }
        // Whoever has no SCTP port refuses SCTP, as other protocols' ports are refused.
        listening.add(Protocol::SCTP, None);
    }
    for (place, flow) in host_flows::asked(world) {
        match place {
            Place::External => outside.add(flow.protocol, flow.destination_port),
            Place::Node(index) => {
                if let Some(node) = nodes.get_mut(index) {
                    node.add(flow.protocol, flow.destination_port);
                }
            }
            // Pods listen on their container ports only.
            Place::Pod(_) | Place::Service(_) => {}
        }
    }
    for flow in &world.flows {
        let portless = (!flow.protocol.has_ports()).then_some(None);
        match flow.destination {
            Place::External => outside.add(flow.protocol, flow.destination_port),
            // Behind a service's address, or its node port, its backends answer.
            Place::Service(_) => {}
            Place::Node(_) if flow.service.is_some() => {}
            Place::Node(index) => {
                if let Some(node) = nodes.get_mut(index) {
                    node.add(flow.protocol, flow.destination_port);
                }
            }
            // Pods listen on their container ports only.
            Place::Pod(index) => {
                if let (Some(pod), Some(port)) = (pods.get_mut(index), portless) {
                    pod.add(flow.protocol, port);
                }
            }
        }
    }
    // Services may have backends outside.
    let slices = world.objects.iter().filter_map(|object| match object {
        Object::EndpointSlice(slice) => Some(service_slice(slice)),
        _ => None,
    });
    for slice in slices {
        let is_outside = |address: IpAddr| {
            let of_pod = world.pods.iter().any(|pod| pod.addresses.contains(&address));
            !of_pod && !world.nodes.iter().any(|node| node.has_address(address))
        };
        if slice.endpoints.iter().any(|endpoint| is_outside(endpoint.address)) {
            slice.ports.iter().for_each(|(_, protocol, port)| outside.add(*protocol, Some(*port)));
        }
    }
    let versions = |ipv6: bool| if ipv6 { BOTH } else { IPV4 };
    let mut all = vec![(name.outside(), "outside".into(), outside, versions(network::has_ipv6(world)))];
    for (node, listening) in world.nodes.iter().zip(nodes) {
        let ipv6 = network::legs(node).iter().any(|leg| leg.address.is_ipv6());
        all.push((name.node(&node.name), format!("node {}", node.name), listening, versions(ipv6)));
    }
    for (pod, listening) in world.pods.iter().zip(pods) {
        if !pod.host_network && !pod.addresses.is_empty() {
            let label = format!("{}/{}", pod.namespace, pod.name);
            let versions = versions(pod.addresses.iter().any(IpAddr::is_ipv6));
            all.push((name.pod(&pod.namespace, &pod.name), format!("pod {label}"), listening, versions));
        }
    }
    all
}

/// A program of ours: this one, beside this one, one folder above it (where cargo puts programs for tests), or in PATH.
fn program(name: &'static str) -> Result<PathBuf, LabError> {
    let own = env::current_exe().ok();
    if let Some(own) = own.as_ref().filter(|own| own.file_name().is_some_and(|file| file == name)) {
        return Ok(own.clone());
    }
    let beside = own.iter().flat_map(|own| own.ancestors().skip(1).take(2).map(Path::to_path_buf));
    let path = env::var_os("PATH").unwrap_or_default();
    let executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let mut candidates = beside.chain(env::split_paths(&path)).map(|folder| folder.join(name));
    candidates.find(executable).ok_or(LabError::NoProgram(name))
}

/// A free port of a loopback address that most likely no other lab has: between this look and the API server's start, and while that is
/// being started again, a lab with the same address could take the port.
fn api_address(name: &LabName) -> Result<SocketAddr, LabError> {
    let count = API_PORTS.end - API_PORTS.start;
    let first = seed(name);
    let [high, middle] = first.to_be_bytes();
    let [.., low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, high.max(1), middle, low);
    for offset in 0..count {
        let port = API_PORTS.start + (first.wrapping_add(offset)) % count;
        let address = SocketAddr::from((own, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(LabError::Case(format!("no port from {} to {} is free on {own}", API_PORTS.start, API_PORTS.end)))
}

fn seed(name: &LabName) -> u16 {
    let own = u64::from(std::process::id());
    let hash = name.as_str().bytes().fold(own, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    (hash % 65_521) as u16
}

/// The CPUs this process may use, dealt out so that labs that run at once begin at different ones.
struct Cpus {
    allowed: Vec<usize>,
    first: usize,
}

impl Cpus {
    fn of(name: &LabName) -> Self {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_else(|_| CpuSet::new());
        let allowed: Vec<_> = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect();
        let first = usize::from(seed(name));
        Self { allowed: if allowed.is_empty() { vec![0] } else { allowed }, first }
    }

    fn list(&self, first: usize, count: usize) -> String {
        let cpus =
            (first..first + count).filter_map(|i| self.allowed.get((self.first + i) % self.allowed.len()));
        cpus.map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_dealt_round_and_round() {
        let cpus = Cpus { allowed: vec![2, 5, 7], first: 1 };
        assert_eq!(cpus.list(0, 2), "5,7");
        assert_eq!(cpus.list(2, 2), "2,5");
    }
}
