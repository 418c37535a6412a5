//! `caracal agent`: the control plane of one node.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use caracal_agent::monitoring::{Fixed, Limits};
use caracal_agent::node::{self, Settings, node_name};
use caracal_agent::{Config, HostServices, clean_up};
use caracal_monitor::{Logs, Question, Wanted, probe};

use crate::process::{runtime, told_to_end};
use crate::table::emit;

const EXAMPLES: &str = "Examples:
  caracal agent --node node1                                     in a pod of the cluster, beside caracal-fastpath
  caracal agent --node node1 --kubeconfig ./kubeconfig --services coexist
  caracal agent --check ready                                    for probes: exit status 0 if this node's agent is ready
  caracal agent --cleanup                                        remove what agents have made in this network namespace";

/// Run a node's agent: follow the Kubernetes API, feed the fastpath, keep the kernel's routes to the host ports.
///
/// Runs in the network namespace it is started in, as root, until SIGTERM or SIGINT. What it has made stays when it ends.
/// Logs to stderr; CARACAL_LOG sets the level.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The name of this node's Node object [default: NODENAME, else HOSTNAME, else the host's name, in lower case]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    node: Option<String>,
    /// How to reach the API server [default: as the pod that this process is in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The fastpath's socket
    #[arg(long, value_name = "SOCKET", default_value = caracal_plane_api::DEFAULT_SOCKET)]
    fastpath: PathBuf,
    /// The socket that the CNI plugin asks
    #[arg(long, value_name = "SOCKET", default_value = caracal_agent::node_socket::DEFAULT_PATH)]
    node_socket: PathBuf,
    /// Where the pods' programs are pinned
    #[arg(long, value_name = "DIR", default_value = caracal_cni::DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,
    /// The file that tells the CNI plugin how big pods' packets may be
    #[arg(long, value_name = "FILE", default_value = caracal_cni::DEFAULT_MTU_FILE)]
    mtu_file: PathBuf,
    /// Who implements Services for this host, NodePorts included (for pods, the fastpath always does)
    #[arg(long, value_enum, default_value_t = Services::Replace)]
    services: Services,
    /// Whether to set this node up as calico-node does, by the same environment variables (IP, IP_AUTODETECTION_METHOD,
    /// CALICO_IPV4POOL_CIDR, NO_DEFAULT_POOLS, …): the Node object's addresses and tunnel addresses, default pools, tiers and
    /// configuration, the condition NetworkUnavailable
    #[arg(long, value_enum, default_value_t = Startup::On)]
    startup: Startup,
    /// The file that tells the CNI plugin this node's name; not written with --startup off
    #[arg(long, value_name = "FILE", default_value = caracal_cni::DEFAULT_NODENAME_FILE)]
    nodename_file: PathBuf,
    /// What becomes of the Node's condition NetworkUnavailable when the agent is told to end
    #[arg(long, value_enum, default_value_t = ShutdownCondition::Down)]
    shutdown_condition: ShutdownCondition,
    /// Where /liveness and /readiness are served, or "none" [default: as FelixConfiguration says, else 127.0.0.1:9099]
    #[arg(long, value_name = "HOST:PORT")]
    health_address: Option<Wanted>,
    /// Where /metrics is served, or "none" [default: if and where FelixConfiguration says]
    #[arg(long, value_name = "HOST:PORT")]
    metrics_address: Option<Wanted>,
    /// How many endpoints have metrics of their own; the others are counted together
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().endpoints)]
    metrics_endpoints: usize,
    /// How many policy rules have metrics of their own; the others are counted together
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().rules)]
    metrics_rules: usize,
    /// Ask this node's agent how it is, print the answer, and end: exit status 0 if it is so, 1 if not, 2 if it does not answer
    #[arg(long, value_enum)]
    check: Option<Check>,
    /// Remove the host ports, routes, rules and host endpoints' policy that agents have made in this network namespace, and end
    #[arg(long)]
    cleanup: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Services {
    /// The fastpath; there must be no kube-proxy
    Replace,
    /// A kube-proxy beside it
    Coexist,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Startup {
    /// Do so
    On,
    /// Leave these objects to whoever writes them by hand
    Off,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ShutdownCondition {
    /// It becomes True (CalicoIsDown), so that new pods are scheduled elsewhere until the agent is back
    Down,
    /// It is left as it is
    Keep,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Check {
    /// Whether it lives; if not, restart it
    Live,
    /// Whether this node's pods are connected as the cluster's state says
    Ready,
}

/// Runs it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let monitoring = Fixed::new(args.health_address, args.metrics_address)
        .with_environment(|variable| std::env::var(variable).ok());
    if let Some(check) = args.check {
        monitoring.nonsense().iter().for_each(|line| eprintln!("caracal: {line}"));
        return run_check(check, &monitoring);
    }
    let logs = Logs::start()?;
    let runtime = runtime()?;
    if args.cleanup {
        for change in runtime.block_on(clean_up())? {
            println!("{change}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let variable = |name: &str| std::env::var(name).ok();
    let node = node_name(args.node.as_deref(), variable)?;
    let start = match args.startup {
        Startup::Off => None,
        Startup::On => Some(node::Config {
            settings: Settings::read(variable)?,
            nodename_file: args.nodename_file,
            marks_down: matches!(args.shutdown_condition, ShutdownCondition::Down),
        }),
    };
    let config = Config {
        node,
        kubeconfig: args.kubeconfig,
        fastpath: args.fastpath,
        node_socket: args.node_socket,
        start,
        monitoring,
        limits: Limits { endpoints: args.metrics_endpoints, rules: args.metrics_rules },
        logs,
        bpf_dir: args.bpf_dir,
        mtu_file: args.mtu_file,
        services: match args.services {
            Services::Replace => HostServices::Replace,
            Services::Coexist => HostServices::Coexist,
        },
    };
    runtime.block_on(async { anyhow::Ok(caracal_agent::run(config, told_to_end()?).await?) })?;
    Ok(ExitCode::SUCCESS)
}

fn run_check(check: Check, monitoring: &Fixed) -> anyhow::Result<ExitCode> {
    // What objects say is not known here: where they give another address, the probe is to be given it, too.
    let address = monitoring.health_address(&Default::default());
    let address =
        address.context("--health-address none, or FELIX_HEALTHENABLED=false: nobody can be asked")?;
    let question = match check {
        Check::Live => Question::Live,
        Check::Ready => Question::Ready,
    };
    let (is_so, table) = probe(&address, question)?;
    emit(&table);
    Ok(ExitCode::from(u8::from(!is_so)))
}
