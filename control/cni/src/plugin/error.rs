//! Why a command was not done, as a runtime is told: JSON on stdout, with the specification's numbers.
//!
//! Below 100 the numbers are the specification's, from 100 on ours. docs/cni.md says of each what to do.

use caracal_datastore::{ClientError, DatastoreError};
use serde_json::{Value, json};

use super::config::ConfigError;
use super::env::EnvError;
use super::gates::Closed;
use super::version::{UnknownVersion, Version};
use crate::link::LinkError;
use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use crate::node_socket::{Code, NodeSocketError};

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The environment makes no sense.
    #[error(transparent)]
    Environment(#[from] EnvError),
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The command came with a later version than the configuration's.
    #[error("{command} is of CNI {since}, and this network's cniVersion is {version}")]
    Command {
        /// Which.
        command: &'static str,
        /// Since when there is that command.
        since: Version,
        /// The configuration's version.
        version: Version,
    },
    /// A file or socket could not be read or written.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The name of this node is not known.
    #[error(
        "cannot tell this node's name: {file} is not there, or is empty; the agent writes it when it starts: is caracal agent running, and is /var/lib/calico/ mounted?"
    )]
    NodeName {
        /// The file that should say.
        file: String,
    },
    /// Something must come first: try again later.
    #[error("{0}")]
    NotReady(String),
    /// The agent could not be asked, or said no.
    #[error(transparent)]
    Agent(#[from] NodeSocketError),
    /// A readiness gate is closed.
    #[error(transparent)]
    Gate(#[from] Closed),
    /// The container is nothing that this plugin attaches.
    #[error("{0}")]
    NotAPod(String),
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The API server could not be asked, or refused.
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    /// An annotation of the pod, or of its namespace, makes no sense.
    #[error("annotation {name} of {of}: {why}")]
    Annotation {
        /// Which.
        name: &'static str,
        /// Of whom.
        of: String,
        /// What it must be.
        why: String,
    },
    /// No address could be given, or taken back.
    #[error("{0}")]
    Ipam(String),
    /// Another plugin failed.
    #[error("IPAM plugin {plugin}: {error}")]
    Delegate {
        /// Which.
        plugin: String,
        /// Its number, or 100.
        code: u32,
        /// In its words.
        error: String,
        /// More of them.
        details: String,
    },
    /// The pod's link could not be made or removed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refuses.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The pod's namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// CHECK found something that is not as ADD left it.
    #[error("{0}")]
    NotAsMade(String),
    /// STATUS: ADD would not work.
    #[error("{why}")]
    Unavailable {
        /// Whether what is attached already may be cut off, too.
        limited: bool,
        /// What is missing.
        why: String,
    },
    /// The command failed, and what it had made could not all be taken back.
    #[error("{error}")]
    Remains {
        /// Why it failed.
        error: Box<PluginError>,
        /// What remains, and why.
        remains: String,
    },
}

impl PluginError {
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// The number.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::Config(ConfigError::Version(_)) | Self::Command { .. } => 1,
            Self::Environment(_) => 4,
            Self::Io { .. } => 5,
            Self::Config(ConfigError::NotJson(_)) => 6,
            Self::Config(ConfigError::Field { .. }) | Self::Client(_) => 7,
            Self::NotReady(_) | Self::NodeName { .. } | Self::Gate(_) => 11,
            Self::Agent(NodeSocketError::Failure(failure)) if failure.code == Code::Timeout => 104,
            Self::Agent(_) => 11,
            Self::Unavailable { limited: false, .. } => 50,
            Self::Unavailable { limited: true, .. } => 51,
            Self::Datastore(_) => 100,
            Self::Ipam(_) => 101,
            Self::Annotation { .. } => 102,
            Self::Link(_) | Self::Netlink(_) | Self::Netns(_) => 103,
            Self::NotAsMade(_) => 105,
            Self::NotAPod(_) => 106,
            Self::Delegate { code, .. } => *code,
            Self::Remains { error, .. } => error.code(),
        }
    }

    fn details(&self) -> &str {
        match self {
            Self::Delegate { details, .. } => details,
            Self::Remains { remains, .. } => remains,
            _ => "",
        }
    }

    /// As the runtime is told, in the form of the version that it speaks.
    #[must_use]
    pub fn to_value(&self, version: Version) -> Value {
        let mut value =
            json!({ "cniVersion": version.as_str(), "code": self.code(), "msg": self.to_string() });
        if let Some(map) = value.as_object_mut().filter(|_| !self.details().is_empty()) {
            map.insert("details".into(), self.details().into());
        }
        value
    }
}

impl From<UnknownVersion> for PluginError {
    fn from(error: UnknownVersion) -> Self {
        Self::Config(error.into())
    }
}
