//! The CNI plugins `caracal-cni` and `caracal-ipam`: what a container runtime executes to attach a pod, and to detach it.
//!
//! ```text
//!   runtime ──CNI_* variables, configuration on stdin──► Plugin::run ─► add, del, check, gc, status ──► JSON on stdout
//!                                                          │               ├─► link: veth, program, routes      (kernel)
//!                                                          │               ├─► ipam: blocks, handles            (API server)
//!                                                          │               └─► node_socket: in force?           (agent)
//!                                                          └─► log, never to stdout
//! ```
//!
//! What the specification says is in `env`, `config`, `version`, `result` and `error`, which do no I/O; the rest does.

mod add;
pub mod batch;
mod check;
pub(crate) mod config;
mod del;
mod delegate;
mod env;
mod error;
mod gates;
mod gc;
pub mod ipam;
mod ipam_command;
mod log;
pub mod pod;
mod result;
mod session;
mod status;
mod version;

use std::io::{Read, Write};

use config::Config;
use env::{Attachment, Command, Variables};
use error::PluginError;
use serde_json::{Value, json};
use tracing::{error, info};
use version::Version;

/// More is no configuration.
const CONFIGURATION_BYTES_MAX: u64 = 4 << 20;

/// Which of the two this program is executed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `caracal-cni`: links and all.
    Main,
    /// `caracal-ipam`: addresses alone.
    Ipam,
}

impl Plugin {
    /// The plugin that a program's name stands for, if it stands for one.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "caracal-cni" | "calico" => Some(Self::Main),
            "caracal-ipam" | "calico-ipam" => Some(Self::Ipam),
            _ => None,
        }
    }

    /// Does what the environment says with the configuration on stdin, answers on stdout, and tells the exit status.
    #[must_use]
    pub fn main(self) -> u8 {
        let variables: Variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let (answer, status) = match configuration() {
            Ok(text) => self.run(&variables, &text),
            Err(error) => failed(&error, Version::NEWEST),
        };
        say(answer);
        status
    }

    /// Asks the API server of the configuration on stdin whether pods could be attached; what is wrong is answered as an error of ADD's.
    #[must_use]
    pub fn try_datastore() -> u8 {
        let tried = configuration().and_then(|text| {
            let config = Config::parse(&text)?;
            runtime()?.block_on(status::ipam(&config))
        });
        match tried {
            Ok(()) => 0,
            Err(error) => {
                let (answer, status) = failed(&error, Version::NEWEST);
                say(answer);
                status
            }
        }
    }

    /// The same with what is read and written as values.
    #[must_use]
    pub fn run(self, variables: &Variables, text: &[u8]) -> (Option<Value>, u8) {
        let command = match Command::read(variables) {
            Ok(Command::Version) => return (Some(versions(text)), 0),
            Ok(command) => command,
            Err(error) => return failed(&error.into(), Version::NEWEST),
        };
        let config = match Config::parse(text) {
            Ok(config) => config,
            Err(error) => return failed(&error.into(), Version::NEWEST),
        };
        log::start(&config.log);
        let (version, whose) =
            (config.version, variables.get("CNI_CONTAINERID").cloned().unwrap_or_default());
        let done = runtime().and_then(|runtime| runtime.block_on(self.command(command, &config, variables)));
        match done {
            Ok(answer) => {
                info!(?command, container = whose, "done");
                (answer.map(|result| result.to_value(version)), 0)
            }
            Err(error) => {
                error!(?command, container = whose, code = error.code(), "{error}");
                failed(&error, version)
            }
        }
    }

    async fn command(
        self,
        command: Command,
        config: &Config,
        variables: &Variables,
    ) -> Result<Option<result::CniResult>, PluginError> {
        if config.version < command.since() {
            let command_name = match command {
                Command::Check => "CHECK",
                Command::Gc => "GC",
                _ => "STATUS",
            };
            return Err(PluginError::Command {
                command: command_name,
                since: command.since(),
                version: config.version,
            });
        }
        let attachment = || Attachment::read(variables, command);
        match (self, command) {
            (Self::Main, Command::Add) => add::run(config, &attachment()?, variables).await.map(Some),
            (Self::Main, Command::Del) => del::run(config, &attachment()?, variables).await.map(|()| None),
            (Self::Main, Command::Check) => {
                check::run(config, &attachment()?, variables).await.map(|()| None)
            }
            (Self::Main, Command::Gc) => gc::run(config, variables).await.map(|()| None),
            (Self::Main, Command::Status) => status::run(config).await.map(|()| None),
            (Self::Ipam, Command::Add) => ipam_command::add(config, &attachment()?).await.map(Some),
            (Self::Ipam, Command::Del) => ipam_command::del(config, &attachment()?).await.map(|()| None),
            (Self::Ipam, Command::Check) => ipam_command::check(config, &attachment()?).await.map(|()| None),
            (Self::Ipam, Command::Gc) => gc::addresses(config).await.map(|()| None),
            (Self::Ipam, Command::Status) => status::ipam(config).await.map(|()| None),
            // Answered before.
            (_, Command::Version) => Ok(None),
        }
    }
}

fn configuration() -> Result<Vec<u8>, PluginError> {
    let mut text = Vec::new();
    let read = std::io::stdin().take(CONFIGURATION_BYTES_MAX).read_to_end(&mut text);
    read.map_err(PluginError::io("read the network configuration on stdin"))?;
    Ok(text)
}

fn say(answer: Option<Value>) {
    if let Some(answer) = answer {
        // A runtime that does not listen is told by the exit status.
        let _ = writeln!(std::io::stdout(), "{answer:#}");
    }
}

/// A thread more costs more than the few requests of a command gain by it.
fn runtime() -> Result<tokio::runtime::Runtime, PluginError> {
    let builder = tokio::runtime::Builder::new_current_thread().enable_all().build();
    builder.map_err(PluginError::io("start the runtime of asynchronous work"))
}

fn failed(error: &PluginError, version: Version) -> (Option<Value>, u8) {
    (Some(error.to_value(version)), 1)
}

/// The answer to VERSION, whatever the configuration says.
fn versions(text: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(text).ok();
    let asked = asked.as_ref().and_then(|config| config.get("cniVersion")?.as_str());
    let version = asked.and_then(|text| Version::parse(text).ok()).unwrap_or(Version::NEWEST);
    json!({ "cniVersion": version.as_str(), "supportedVersions": Version::ALL.map(Version::as_str) })
}
