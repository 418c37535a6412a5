//! `caracal agent`: the control plane of one node.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use caracal_agent::{Config, HostServices, clean_up};
use tracing_subscriber::EnvFilter;

/// The environment variable that sets what is logged: `info`, `debug`, `caracal_agent=debug,warn`, …
const LOG: &str = "CARACAL_LOG";

const EXAMPLES: &str = "Examples:
  caracal agent --node node1                                     in a pod of the cluster, beside caracal-fastpath
  caracal agent --node node1 --kubeconfig ./kubeconfig --services coexist
  caracal agent --cleanup                                        nothing of Caracal's stays in this network namespace";

/// Run a node's agent: follow the Kubernetes API, feed the fastpath, keep the kernel's routes to the host ports.
///
/// Runs in the network namespace it is started in, as root, until SIGTERM or SIGINT. What it has made stays when it ends.
/// Logs to stderr; CARACAL_LOG sets the level.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The name of this node's Node object
    #[arg(long, value_name = "NAME", required_unless_present = "cleanup", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    node: Option<String>,
    /// How to reach the API server [default: as the pod that this process is in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The fastpath's socket
    #[arg(long, value_name = "SOCKET", default_value = "/var/run/caracal/fastpath.sock")]
    fastpath: PathBuf,
    /// The socket that the CNI plugin asks
    #[arg(long, value_name = "SOCKET", default_value = caracal_agent::node_socket::DEFAULT_PATH)]
    node_socket: PathBuf,
    /// Where the pods' programs are pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/caracal")]
    bpf_dir: PathBuf,
    /// The file that tells the CNI plugin how big pods' packets may be
    #[arg(long, value_name = "FILE", default_value = "/var/lib/calico/mtu")]
    mtu_file: PathBuf,
    /// Who sees to services for this host, NodePorts included: the fastpath, or a kube-proxy beside it
    #[arg(long, value_enum, default_value_t = Services::Replace)]
    services: Services,
    /// Remove the host ports, routes, rules and host endpoints' policy that agents have made in this network namespace, and end
    #[arg(long)]
    cleanup: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Services {
    /// The fastpath does; there must be no kube-proxy
    Replace,
    /// A kube-proxy does; the fastpath serves pods alone
    Coexist,
}

/// Runs it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let filter = match std::env::var(LOG) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|e| anyhow::anyhow!("{LOG}={text}: {e}"))?,
        // What kube's client would say at each attempt, the agent says once.
        Err(_) => EnvFilter::new("info,kube_client::client::builder=off"),
    };
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the tokio runtime")?;
    if args.cleanup {
        for change in runtime.block_on(clean_up())? {
            println!("{change}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let node = args.node.context("--node NAME is required")?;
    let config = Config {
        node,
        kubeconfig: args.kubeconfig,
        fastpath: args.fastpath,
        node_socket: args.node_socket,
        bpf_dir: args.bpf_dir,
        mtu_file: args.mtu_file,
        services: match args.services {
            Services::Replace => HostServices::Replace,
            Services::Coexist => HostServices::Coexist,
        },
    };
    runtime.block_on(caracal_agent::run(config))?;
    Ok(ExitCode::SUCCESS)
}
