//! `pktgen profile check`: whether profiles say what profiles may say.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::files;

use super::file::{Defaults, File, Flagged};

const EXAMPLES: &str = "\
Examples:
  Look at a profile before a long run:
    pktgen profile check profiles/mixed.yaml

Exit status: 0 all are right; 1 one is not; 2 could not run.";

/// Look at profiles
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say whether profiles are right, and what is wrong with which line; exit status 1 if one is not
    Check {
        /// Profiles in YAML
        #[arg(value_name = "PROFILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// Runs `pktgen profile`.
///
/// # Errors
/// None: what is wrong with a profile is the answer.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Command::Check { files } = &args.command;
    let mut is_right = true;
    for path in files {
        match File::read(path).and_then(|file| about(&file)) {
            Ok(about) => files::print(&format!("{}: {about}\n", path.display()))?,
            Err(error) => {
                files::print(&format!("{error:#}\n"))?;
                is_right = false;
            }
        }
    }
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn about(file: &File) -> anyhow::Result<String> {
    // Any addresses do: those of the places are known when it runs.
    let [source, destination] = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last).into());
    let end = |given: Option<std::net::IpAddr>, default| given.unwrap_or(default);
    let mut flows = 0u64;
    for (at, stream) in file.streams.iter().enumerate() {
        let mut defaults = Defaults {
            source: end(file.from.address, source),
            destination: end(file.to.address, destination),
            flags: Flagged::default(),
        };
        let is_v6 = |address: Option<std::net::IpAddr>| address.is_some_and(|address| address.is_ipv6());
        if is_v6(stream.source.address) || is_v6(stream.destination.address) || file.to.ipv6 == Some(true) {
            [defaults.source, defaults.destination] = [std::net::Ipv6Addr::LOCALHOST.into(); 2];
        }
        flows += u64::from(stream.resolve(at, &defaults)?.flows);
    }
    Ok(match (file.connections, file.streams.len()) {
        (Some(connections), _) => format!("{} connections a second", connections.per_second),
        (None, 0) => "one stream of UDP".into(),
        (None, streams) => format!("{streams} streams, {flows} flows"),
    })
}
