//! The agent: one on each node. It follows the cluster in the Kubernetes API, works out what this node must do, and sees
//! that the fastpath and the kernel do it.
//!
//! ```text
//!   Kubernetes API ──list, watch──► Syncer ──Update──► CalcGraph ──Op──┬──► Session ──Link──► caracal-fastpath
//!                                                                      ├──► Inputs ─► Programmer ──netlink──► kernel
//!                                                                      └──► HostPolicy ─► HostRules ─nf_tables──► kernel
//!                                   └──────────────── Agent, one task ────────────────┘
//! ```
//!
//! The rules that hold throughout: nothing is told or removed before everything is known once; an API server, a fastpath
//! or a kernel that fails is tried again, with what is known kept; and when the agent ends, however it ends, everything
//! it made stays, because the data plane outlives the control plane. [`clean_up`] removes it.

mod addresses;
mod agent;
pub mod host_policy;
pub mod monitoring;
pub mod node;
pub mod node_socket;
pub mod plane;
mod pods;
pub mod programmer;
pub mod syncer;
mod text_file;

use std::path::PathBuf;
use std::sync::Arc;

use tracing::{error, info, warn};

pub use agent::Agent;
pub use caracal_calc::HostServices;
use caracal_datastore::{ApiGroup, ClientError, UnknownGroup};
use caracal_monitor::Logs;
use host_policy::HostRules;
use monitoring::{Fixed, Limits, Vitals};
use node_socket::NodeSocket;
use programmer::{Kernel, KernelError, Programmer};

/// What the agent must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of this node's Node object.
    pub node: String,
    /// How to reach the API server; `None`: as the pod that this process is in.
    pub kubeconfig: Option<PathBuf>,
    /// The fastpath's socket.
    pub fastpath: PathBuf,
    /// Where pod programs are pinned.
    pub bpf_dir: PathBuf,
    /// The file that says how big pods' packets may be.
    pub mtu_file: PathBuf,
    /// Who sees to services for this host.
    pub services: HostServices,
    /// The socket that the CNI plugin asks.
    pub node_socket: PathBuf,
    /// How the node is started; `None`: its objects are written by hand, and left alone.
    pub start: Option<node::Config>,
    /// Where health and metrics are served, as far as that is not for FelixConfigurations to say.
    pub monitoring: Fixed,
    /// How many series there may be.
    pub limits: Limits,
    /// What the process logs.
    pub logs: Logs,
}

/// Why the agent cannot start, or clean up.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The kernel cannot be spoken to.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Not root.
    #[error("the agent makes network devices and routes, for which it needs CAP_NET_ADMIN: run it as root")]
    NotPermitted,
    /// nf_tables cannot be spoken to.
    #[error(transparent)]
    Nft(#[from] caracal_nft::NftError),
    /// Nobody can watch.
    #[error("cannot start the thread that answers probes: {0}")]
    Monitor(std::io::Error),
    /// The environment names no API group of Calico's kinds.
    #[error("CALICO_API_GROUP cannot be used")]
    Group(#[from] UnknownGroup),
    /// The CNI plugin cannot be served.
    #[error(transparent)]
    NodeSocket(#[from] node_socket::NodeSocketError),
    /// Something could not be removed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    CleanUp(Vec<KernelError>),
}

/// Runs the agent in this network namespace until `stop` is done.
///
/// # Errors
/// [`AgentError`], before anything has been done. A server or fastpath that cannot be reached is waited for.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
    check_permission()?;
    // Those who ask for the group later have nobody to tell.
    if let Some(group) = std::env::var("CALICO_API_GROUP").ok().filter(|group| !group.is_empty()) {
        group.parse::<ApiGroup>()?;
    }
    config.monitoring.nonsense().iter().for_each(|line| warn!("{line}"));
    // Served from the first moment: a kubelet asks while we wait for the API server.
    let vitals = Arc::new(Vitals::new(config.monitoring, config.logs));
    monitoring::start(&vitals, &config.node, &config.fastpath, config.limits).map_err(AgentError::Monitor)?;
    let client = caracal_datastore::client(config.kubeconfig.as_deref()).await?;
    let node_socket = NodeSocket::open(&config.node_socket)?;
    let programmer = Programmer::start(config.bpf_dir, config.mtu_file, Arc::clone(&vitals))?;
    info!(node = config.node, fastpath = %config.fastpath.display(), "starting");
    let agent = Agent::new(config.node, config.services, &client, config.fastpath, Some(programmer))
        .with_node_socket(node_socket)
        .with_vitals(Arc::clone(&vitals));
    let agent = match config.start {
        Some(start) => agent.with_start(start),
        None => agent,
    };
    let agent = match HostRules::start(vitals) {
        Ok(host_rules) => agent.with_host_rules(host_rules),
        // Pods are not to wait for that.
        Err(failure) => {
            error!(
                "{failure}; policy of host endpoints is not in force for what ends or starts on this host"
            );
            agent
        }
    };
    agent.run(stop).await;
    Ok(())
}

/// Removes everything that agents have made in this network namespace: host ports, routes and rules, and host
/// endpoints' policy. Returns what was removed.
///
/// # Errors
/// What could not be removed; what could be has been.
pub async fn clean_up() -> Result<Vec<String>, AgentError> {
    check_permission()?;
    let kernel = Kernel::open()?;
    // What cannot be removed of one is no reason to leave the other.
    let changes = programmer::clean_up(&kernel).await.map_err(AgentError::CleanUp);
    let had_table = host_policy::remove()?;
    let mut removed: Vec<String> = changes?.iter().map(ToString::to_string).collect();
    if had_table {
        removed.push(format!("remove table inet {}", host_policy::TABLE));
    }
    Ok(removed)
}

/// Says at once what otherwise every request to the kernel would say. Where /proc does not tell, the kernel will.
fn check_permission() -> Result<(), AgentError> {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match effective.map(|capabilities| u64::from_str_radix(capabilities.trim(), 16)) {
        Some(Ok(capabilities)) if capabilities & CAP_NET_ADMIN == 0 => Err(AgentError::NotPermitted),
        _ => Ok(()),
    }
}
