//! `caracal apiserver`.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use caracal_apiserver::Options;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Serve the Kubernetes API from an embedded store, for kubectl, the agents and the lab.
///
/// Runs until SIGTERM or SIGINT. Logs to stderr; CARACAL_LOG sets the level.
#[derive(Debug, clap::Args)]
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
}

/// The environment variable that sets what is logged: `info`, `debug`, `caracal_apiserver=debug,warn`, …
const LOG: &str = "CARACAL_LOG";

/// Runs it until SIGTERM or SIGINT.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let filter = match std::env::var(LOG) {
        Ok(text) => EnvFilter::try_new(&text).with_context(|| format!("{LOG}={text}"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let Args { data_dir, listen, write_kubeconfig } = args;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
        let server = caracal_apiserver::serve(Options { data_dir, listen, write_kubeconfig }).await?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
