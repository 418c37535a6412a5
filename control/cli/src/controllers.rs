//! `caracal controllers`: what one process of the cluster sees to for all nodes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use caracal_controllers::election::Timing;
use caracal_controllers::monitoring::{self, Addresses};
use caracal_controllers::settings::Overrides;
use caracal_controllers::{LeaseName, Options, View, connect};
use caracal_model::duration;
use caracal_monitor::{Logs, Wanted};

use crate::process::{runtime, told_to_end};

const EXAMPLES: &str = "Examples:
  caracal controllers                                             in a pod of the cluster; several may run, one acts
  caracal controllers --kubeconfig ./kubeconfig --leader-elect=false
";

/// Run the controllers: collect addresses that nobody has, make host endpoints, give services external addresses.
///
/// Runs until SIGTERM or SIGINT. Configured by the KubeControllersConfiguration `default`, and by the environment variables that
/// Calico's controllers read. Logs to stderr; CARACAL_LOG sets the level.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How to reach the API server [default: as the pod that this process is in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Whether to act only while holding the Lease; without it there must be no second process
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    /// The namespace of the Lease
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    lease_namespace: String,
    /// The name of the Lease
    #[arg(long, value_name = "NAME", default_value = "caracal-controllers")]
    lease_name: String,
    /// Where /liveness and /readiness are served, or "none"
    #[arg(long, value_name = "HOST:PORT", default_value = ":9098")]
    health_address: Wanted,
    /// Where /metrics is served, or "none"
    #[arg(long, value_name = "HOST:PORT", default_value = ":9094")]
    metrics_address: Wanted,
    /// How long the Lease holds: others take over from a leader that has not renewed it for so long
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = period)]
    lease_duration: Duration,
    /// How long a leader that cannot renew the Lease goes on acting
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = period)]
    renew_deadline: Duration,
    /// How often to look at the Lease, or to renew it
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = period)]
    retry_period: Duration,
}

fn period(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "must be a duration such as 15s".to_owned())
}

/// Runs it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let logs = Logs::start()?;
    runtime()?.block_on(async {
        let stop = told_to_end()?;
        tokio::spawn(logs.clone().follow_signal());
        let overrides = Overrides::read(|name| std::env::var(name).ok())?;
        let timing = Timing {
            lease: args.lease_duration,
            renew_deadline: args.renew_deadline,
            retry: args.retry_period,
        };
        let timing = timing.checked()?;
        let client = caracal_datastore::client(args.kubeconfig.as_deref()).await?;
        tokio::pin!(stop);
        let addresses =
            Addresses { health: args.health_address.address(), metrics: args.metrics_address.address() };
        let shown = Arc::new(OnceLock::new());
        monitoring::serve(&shown, &logs, addresses).context("cannot start the thread that answers probes")?;
        let datastore = tokio::select! {
            connected = connect(client) => connected?,
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        };
        let lease = LeaseName { namespace: args.lease_namespace, name: args.lease_name };
        let view = View::new(datastore, &overrides);
        let view = shown.get_or_init(|| view).clone();
        let lease = args.leader_elect.then_some(lease);
        let options = Options { lease, timing, overrides, logs, ..Options::default() };
        caracal_controllers::run(view, options, stop).await;
        Ok(ExitCode::SUCCESS)
    })
}
