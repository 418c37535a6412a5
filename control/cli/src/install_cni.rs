//! `caracal install-cni`: the CNI plugin onto a node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use caracal_cni::install::{Credentials, Install};

use crate::process::{runtime, told_to_end};

const EXAMPLES: &str = "Examples:
  caracal install-cni                                            in a pod, with the host's folders below /host
  caracal install-cni --kubeconfig ./kubeconfig --node node1     on a host, by hand
  caracal install-cni --watch                                    and keep the plugin's token as fresh as the pod's
  caracal install-cni --uninstall";

/// Where Kubernetes puts a pod's token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How often the token is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Install the CNI plugin on this node: its binaries, its kubeconfig, and, once the API server has answered, its configuration.
///
/// In a pod it takes the service account's credentials; the environment variables are Calico's.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where plugins are [default: /host/opt/cni/bin if that is there, else /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Where networks' configurations are [default: /host/etc/cni/net.d if that is there, else /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,
    /// The same as the host sees it [default: /etc/cni/net.d, or what --conf-dir says]
    #[arg(long, value_name = "DIR", env = "CNI_NET_DIR")]
    conf_dir_on_host: Option<PathBuf>,
    /// The name of the configuration; runtimes take the first in alphabetical order
    #[arg(long, value_name = "NAME", env = "CNI_CONF_NAME", default_value = "10-caracal.conflist")]
    conf_name: String,
    /// The configuration instead of ours; __CNI_MTU__, __KUBECONFIG_FILEPATH__, __KUBERNETES_NODE_NAME__, __LOG_LEVEL__ and
    /// __CALICO_API_GROUP__ are filled in
    #[arg(long, value_name = "JSON", env = "CNI_NETWORK_CONFIG", hide_env_values = true)]
    template: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE", env = "CNI_NETWORK_CONFIG_FILE", conflicts_with = "template")]
    template_file: Option<PathBuf>,
    /// Let the plugin reach the API server by a copy of this file [default: as this pod's service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The name of the kubeconfig that is written
    #[arg(long, value_name = "NAME", env = "KUBECONFIG_FILE_NAME", default_value = "caracal-kubeconfig")]
    kubeconfig_name: String,
    /// The name of this node's Node object [default: what the agent writes to /var/lib/calico/nodename]
    #[arg(long, value_name = "NAME", env = "NODENAME", default_value = "", hide_default_value = true)]
    node: String,
    /// The pods' MTU; 0: what the agent writes to /var/lib/calico/mtu
    #[arg(long, value_name = "BYTES", env = "CNI_MTU", default_value_t = 0)]
    mtu: u32,
    /// The plugin's log level
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "info")]
    log_level: String,
    /// Stay, and write the kubeconfig again whenever the service account's token is replaced
    #[arg(long)]
    watch: bool,
    /// Remove all of it, and end
    #[arg(long, conflicts_with = "watch")]
    uninstall: bool,
}

/// Installs it, or removes it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (watch, uninstall) = (args.watch, args.uninstall);
    let install = install(args)?;
    if uninstall {
        install.uninstall()?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime()?.block_on(async {
        install.install().await?;
        println!("installed {} in {}", install.conf_name, install.conf_dir.display());
        if watch {
            follow(&install).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Keeps the plugin's credentials fresh until it is told to end.
async fn follow(install: &Install) -> anyhow::Result<()> {
    let stop = told_to_end()?;
    tokio::pin!(stop);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            _ = look.tick() => match install.refresh() {
                Ok(false) => {}
                Ok(true) => println!("the plugin has the new token"),
                // The kubelet may be replacing the files just now.
                Err(error) => eprintln!("caracal install-cni: {error}; trying again"),
            },
        }
    }
}

fn install(args: Args) -> anyhow::Result<Install> {
    let host = |path: &str| {
        let mounted = Path::new("/host").join(path.trim_start_matches('/'));
        if mounted.is_dir() { mounted } else { PathBuf::from(path) }
    };
    let template = match &args.template_file {
        Some(file) => {
            Some(std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?)
        }
        None => args.template.filter(|text| !text.trim().is_empty()),
    };
    let credentials = match args.kubeconfig {
        Some(file) => Credentials::Kubeconfig(file),
        // Removing needs none.
        None if args.uninstall => Credentials::Kubeconfig(PathBuf::new()),
        None => service_account()?,
    };
    let conf_dir_on_host = args.conf_dir_on_host.or_else(|| args.conf_dir.clone());
    Ok(Install {
        program: std::env::current_exe().context("cannot find this program")?,
        bin_dir: args.bin_dir.unwrap_or_else(|| host("/opt/cni/bin")),
        conf_dir: args.conf_dir.unwrap_or_else(|| host("/etc/cni/net.d")),
        conf_dir_on_host: conf_dir_on_host.unwrap_or_else(|| "/etc/cni/net.d".into()),
        conf_name: args.conf_name,
        kubeconfig_name: args.kubeconfig_name,
        template,
        credentials,
        node: args.node,
        mtu: args.mtu,
        log_level: args.log_level,
    })
}

fn service_account() -> anyhow::Result<Credentials> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST"), variable("KUBERNETES_SERVICE_PORT"));
    let (Some(host), Some(port)) = (host, port) else {
        anyhow::bail!(
            "this is not a pod (KUBERNETES_SERVICE_HOST and _PORT are not set): give --kubeconfig FILE"
        );
    };
    let port = port.parse().with_context(|| format!("KUBERNETES_SERVICE_PORT={port}"))?;
    Ok(Credentials::ServiceAccount { directory: SERVICE_ACCOUNT.into(), host, port })
}
