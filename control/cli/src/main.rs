//! `caracal`: one binary for the agent, the API server, the lab and the operator's commands.
//!
//! Each command is one file here: its flags (`Args`) and `run`, which returns the exit status that docs/operations.md gives: 0 done, 1 the
//! thing asked about is not so, 2 could not do it. An error that reaches this file is printed as one line, and means 2.

mod agent;
mod apiserver;
mod cni;
mod controllers;
mod explain;
mod fastpath;
mod install_cni;
mod lab;
mod policy;
mod process;
mod selector;
mod table;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const NAMES: &str = "Executed as caracal-cni or caracal-ipam, this program is the CNI plugin; `caracal install-cni` sees to that.";

/// Calico-compatible Kubernetes networking with a userspace data plane.
#[derive(Debug, Parser)]
#[command(name = "caracal", version, max_term_width = 110, after_help = NAMES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lab(lab::Args),
    Policy(policy::Args),
    Validate(validate::Args),
    Fastpath(fastpath::Args),
    Agent(agent::Args),
    Controllers(controllers::Args),
    Apiserver(apiserver::Args),
    InstallCni(install_cni::Args),
}

fn main() -> ExitCode {
    // A link or a copy of this binary under a plugin's name is the plugin: a container runtime executes it, with nothing on its command line.
    if let Some(plugin) = cni::plugin() {
        return cni::run(plugin);
    }
    let result = match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Fastpath(args) => fastpath::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Controllers(args) => controllers::run(args),
        Command::Apiserver(args) => apiserver::run(args),
        Command::InstallCni(args) => install_cni::run(args),
    };
    result.unwrap_or_else(|error: anyhow::Error| {
        eprintln!("caracal: {}", caracal_datastore::causes(error.as_ref()));
        ExitCode::from(2)
    })
}
