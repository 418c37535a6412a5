//! What a lab has made, on disk, so that whoever comes after a crash can remove it.
//!
//! The invariant: a thing is written here *before* it is made. So everything that exists is written, though not everything that is
//! written need exist; and [`sweep`] removes what it finds and is content with what it does not. Processes are found by the run's mark
//! in their environment, which they have from their first instant.
//!
//! ```text
//!   /var/run/caracal/lab/NAME/
//!     state.json          this file's State
//!     bpf/                a bpffs of the lab's own: NODE/VETH/{prog,link,xsks}; goes whole when it is unmounted
//!     case.yaml           what it was made from
//!     data/               the API server's store          kubeconfig
//!     bin/                the CNI plugins: links to `caracal`
//!     NODE.sock           each fastpath's plane socket         NODE-agent.sock   each agent's, for the CNI plugin
//!     PROCESS.log         what each process writes
//! ```

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use caracal_cni::netns;
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::LabError,
    name::{DIRECTORY, LabName},
    process::{self, Process},
};

const STATE_FILE: &str = "state.json";
const KILL_LIMIT: Duration = Duration::from_secs(60);
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(60);

/// How far a lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being made.
    Starting,
    /// Every fastpath forwards.
    Ready,
    /// Being removed.
    Stopping,
}

/// A lab on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Its name.
    pub name: String,
    /// The mark of its processes; no other run of any lab has it.
    pub run: String,
    /// The case file it was made from.
    pub case: String,
    /// How far it is.
    pub phase: Phase,
    /// The process that looks after it: `caracal lab supervise` or `caracal lab run`.
    pub supervisor: Process,
    /// Every network namespace, by name.
    pub netns: Vec<String>,
    /// The nodes.
    pub nodes: Vec<NodeState>,
    /// The pods.
    pub pods: Vec<PodState>,
    /// The processes as they were last started.
    pub processes: Vec<ProcessState>,
    /// Where the API server listens, in the host's and in every node's namespace.
    pub api: String,
}

/// A node of a lab on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its namespace.
    pub netns: String,
    /// Its fastpath's plane socket; `None`: Linux does its routing.
    pub socket: Option<PathBuf>,
}

/// A pod of a lab on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// Its namespace, of Kubernetes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace.
    pub netns: String,
    /// The host side of its veth; empty for a pod in its node's namespace.
    pub interface: String,
}

/// A process of a lab on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessState {
    /// What it is: `apiserver`, `agent-node1`, `fastpath-node1`.
    pub name: String,
    /// The process; `None` while it is not running.
    pub process: Option<Process>,
    /// How often it was started again.
    pub restarts: u32,
}

impl State {
    /// Takes the name: makes the lab's folder and writes the state, before anything else is made.
    ///
    /// # Errors
    /// The name is taken.
    pub fn begin(&self) -> Result<(), LabError> {
        let directory = self.directory();
        fs::create_dir_all(DIRECTORY).map_err(LabError::file("make the folder", Path::new(DIRECTORY)))?;
        fs::create_dir(&directory).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => LabError::Exists(self.name.clone()),
            _ => LabError::file("make the folder", &directory)(source),
        })?;
        self.write()
    }

    /// Writes the state as it is now; readers see the former or this, never half.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> Result<(), LabError> {
        let path = self.directory().join(STATE_FILE);
        let write = || -> io::Result<()> {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            caracal_files::replace(&path, 0o644, &text)
        };
        write().map_err(LabError::file("write", &path))
    }

    /// The state of the lab of that name.
    ///
    /// # Errors
    /// There is no such lab, or its state cannot be read.
    pub fn read(name: &LabName) -> Result<Self, LabError> {
        let path = name.directory().join(STATE_FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| LabError::file("read", &path)(e.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LabError::NoSuchLab(name.to_string()))
            }
            Err(error) => Err(LabError::file("read", &path)(error)),
        }
    }

    /// Where the lab keeps what it writes.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// The bpffs of the lab's own.
    #[must_use]
    pub fn bpf(&self) -> PathBuf {
        self.directory().join("bpf")
    }

    /// Where a node's programs are pinned. A bpffs has no names with dots, and nodes' names have no underscores.
    #[must_use]
    pub fn bpf_of(&self, node: &str) -> PathBuf {
        self.bpf().join(node.replace('.', "_"))
    }

    /// Where a node's agent says how big its pods' packets may be.
    #[must_use]
    pub fn mtu_of(&self, node: &str) -> PathBuf {
        self.directory().join(format!("mtu-{node}"))
    }

    /// Where a node's agent answers the CNI plugin.
    #[must_use]
    pub fn node_socket_of(&self, node: &str) -> PathBuf {
        self.directory().join(format!("{node}-agent.sock"))
    }

    /// The CNI plugins of every node.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.directory().join("bin")
    }

    /// For kubectl and the agents.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory().join("kubeconfig")
    }

    /// The lab's own copy of its case.
    #[must_use]
    pub fn case_file(&self) -> PathBuf {
        self.directory().join("case.yaml")
    }

    /// What a process of the lab writes.
    #[must_use]
    pub fn log_of(&self, process: &str) -> PathBuf {
        self.directory().join(format!("{process}.log"))
    }

    /// The node of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&NodeState, LabError> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| LabError::NotInLab {
            lab: self.name.clone(),
            what: format!("node {name}"),
            known: self.nodes.iter().map(|node| format!("node/{}", node.name)).collect::<Vec<_>>().join(", "),
        })
    }

    /// Takes over what has become known of pods.
    pub(crate) fn know(&mut self, pods: Vec<PodState>) {
        for pod in pods {
            let is_it = |known: &&mut PodState| known.namespace == pod.namespace && known.name == pod.name;
            if let Some(known) = self.pods.iter_mut().find(is_it) {
                *known = pod;
            }
        }
    }

    /// The pod of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<&PodState, LabError> {
        self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name).ok_or_else(|| {
            let known: Vec<_> =
                self.pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
            LabError::NotInLab {
                lab: self.name.clone(),
                what: format!("pod {namespace}/{name}"),
                known: if known.is_empty() { "no pods".into() } else { known.join(", ") },
            }
        })
    }
}

/// The labs there are, by name; also those of which only a folder was made.
///
/// # Errors
/// The folder of labs cannot be read.
pub fn names() -> Result<Vec<LabName>, LabError> {
    let directory = Path::new(DIRECTORY);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(LabError::file("read the folder", directory))?,
    };
    let mut names: Vec<LabName> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    Ok(names)
}

/// Removes everything a lab made: processes, namespaces (and so links), pinned programs, files. Whoever supervised it must have ended, or
/// be the caller.
///
/// # Errors
/// Something could not be removed. Then it is still written, and a later sweep tries again.
pub fn sweep(name: &LabName) -> Result<(), LabError> {
    let directory = name.directory();
    match State::read(name) {
        Ok(state) => {
            if let Some(process) = process::kill_marked(&state.run, KILL_LIMIT).first() {
                return Err(LabError::Supervisor(format!(
                    "process {} of lab {name} does not end though it was killed; try again when it has",
                    process.pid
                )));
            }
            for netns in &state.netns {
                netns::remove(&netns::path(netns))?;
            }
            unmount(&state.bpf())?;
        }
        // Its folder is all that was made.
        Err(LabError::NoSuchLab(_)) => {}
        Err(error) => return Err(error),
    }
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LabError::file("remove the folder", &directory)(error))
        }
        _ => Ok(()),
    }
}

fn unmount(path: &Path) -> Result<(), LabError> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(LabError::file("unmount", path)(errno.into())),
    }
}

/// Ends whoever looks after a lab, and removes the lab; also what is left of one whose supervisor was killed.
///
/// # Errors
/// There is no such lab, or something could not be removed.
pub fn take_down(name: &LabName) -> Result<(), LabError> {
    if !name.directory().exists() {
        return Err(LabError::NoSuchLab(name.to_string()));
    }
    if let Ok(state) = State::read(name) {
        // It removes its lab itself; the sweep below then finds nothing.
        state.supervisor.signal(Signal::SIGTERM);
        if !state.supervisor.wait_end(SUPERVISOR_LIMIT) {
            state.supervisor.signal(Signal::SIGKILL);
        }
    }
    sweep(name)
}
