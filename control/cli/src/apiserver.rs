//! `caracal apiserver`.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use caracal_apiserver::{Options, Ranges};
use caracal_model::cidr::Cidr;
use caracal_monitor::Logs;

use crate::process::{runtime, told_to_end};

const EXAMPLES: &str = "Examples:
  caracal apiserver --data-dir ./data --write-kubeconfig ./kubeconfig
  caracal apiserver --data-dir ./data --write-kubeconfig ./kubeconfig --listen 198.18.0.1:0 --service-cluster-ip-range 10.96.0.0/16
  kubectl --kubeconfig ./kubeconfig get nodes";

/// Serve the Kubernetes API from an embedded store, for kubectl, the agents and the lab.
///
/// Runs until SIGTERM or SIGINT. Logs to stderr; CARACAL_LOG sets the level.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where everything is kept; made if it is not there.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Where to listen. Port 0 takes a free one; the kubeconfig says which.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    listen: SocketAddr,

    /// The kubeconfig to write for clients. It holds the token, and is there once the server answers.
    #[arg(long, value_name = "FILE")]
    write_kubeconfig: PathBuf,

    /// Further tokens to accept, one per line, as kube-apiserver has them: token,user,uid[,"group1,group2"]. Read again when
    /// the file changes. Whoever shows one may do everything.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// The range of services' cluster addresses: one CIDR, or one of each family, separated by a comma.
    #[arg(
        long,
        value_name = "CIDR[,CIDR]",
        value_delimiter = ',',
        default_value = "10.96.0.0/16,fd00:10:96::/112"
    )]
    service_cluster_ip_range: Vec<Cidr>,

    /// The range of services' node ports.
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: RangeInclusive<u16>,
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    let range = range.filter(|range: &RangeInclusive<u16>| *range.start() != 0 && !range.is_empty());
    range.ok_or_else(|| format!("{text:?} is no range of ports, like 30000-32767"))
}

/// The ranges, one of each family at most.
fn ranges(cidrs: &[Cidr], node_ports: RangeInclusive<u16>) -> anyhow::Result<Ranges> {
    let mut ranges = Ranges { node_ports, ..Ranges::default() };
    let of_family = |ipv4: bool| cidrs.iter().filter(move |cidr| cidr.is_ipv4() == ipv4).copied();
    anyhow::ensure!(
        of_family(true).count() <= 1 && of_family(false).count() <= 1,
        "--service-cluster-ip-range: at most one CIDR of each family"
    );
    ranges.v4 = of_family(true).next().unwrap_or(ranges.v4);
    ranges.v6 = of_family(false).next().unwrap_or(ranges.v6);
    Ok(ranges)
}

/// Runs it until SIGTERM or SIGINT.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let logs = Logs::start()?;
    let Args {
        data_dir,
        listen,
        write_kubeconfig,
        token_file,
        service_cluster_ip_range,
        service_node_port_range,
    } = args;
    let ranges = ranges(&service_cluster_ip_range, service_node_port_range)?;
    runtime()?.block_on(async {
        let stop = told_to_end()?;
        tokio::spawn(logs.follow_signal());
        let options = Options { data_dir, listen, write_kubeconfig, ranges };
        let server = caracal_apiserver::serve_with_tokens(options, token_file).await?;
        stop.await;
        server.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
