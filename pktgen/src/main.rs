//! `pktgen`: a generator and a sink of traffic, to find out what a network does to it.
//!
//! ```text
//!   profile ─► pace ─► generator ══ packets ══► sink ─► report
//!   (flows,    (tokens) (one place)  (numbered   (another place:
//!    sizes,                           and         loss, order,
//!    rate)                            stamped)    latency)
//! ```
//!
//! A place is a network namespace of this machine, so both ends read one clock and latency is one-way.
//! Exit status: 0 done, 1 what was expected did not happen, 2 could not run.

mod account;
mod capture;
mod clock;
mod connections;
mod cpu;
mod engine;
mod files;
mod frame;
mod html;
mod impair;
mod live;
mod machine;
mod malformed;
mod pace;
mod payload;
mod place;
mod profile;
mod reach;
mod reconfigure;
mod replay;
mod report;
mod results;
mod run;
mod search;
mod soak;
mod stream;
mod traffic;
mod way;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sends numbered, stamped packets and tells what became of them.
#[derive(Debug, Parser)]
#[command(name = "pktgen", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Search(search::Args),
    Rfc2544(search::rfc2544::Args),
    Soak(soak::Args),
    Report(report::command::Args),
    Replay(replay::Args),
    Profile(profile::command::Args),
    Impair(impair::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Search(args) => search::run(&args),
        Command::Rfc2544(args) => search::rfc2544::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Report(args) => report::command::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Profile(args) => profile::command::run(&args),
        Command::Impair(args) => impair::run(&args),
    };
    result.unwrap_or_else(|error| {
        files::say(format_args!("{error:#}"));
        ExitCode::from(2)
    })
}
