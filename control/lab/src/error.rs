//! Why the lab could not do something. Each message is one line: what was being done, to what, and what to do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use caracal_cni::{link::LinkError, netlink::NetlinkError, netns::NetnsError};
use caracal_plane_api::PlaneError;

use crate::{api::ApiError, cni::CniError};

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces, links and AF_XDP take root.
    #[error("the lab makes network namespaces and needs root: run it as root (sudo)")]
    NotRoot,
    /// A lab name that is none.
    #[error(
        "{0:?} is no lab name: use 1 to 32 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    BadName(String),
    /// A lab of that name is there.
    #[error(
        "there is a lab {0} already: `caracal lab down --name {0}` removes it, `--name` picks another name"
    )]
    Exists(String),
    /// No lab of that name.
    #[error("there is no lab {0}: `caracal lab status` lists those there are")]
    NoSuchLab(String),
    /// Something that a command names is not in the lab.
    #[error("lab {lab} has no {what}; it has {known}")]
    NotInLab {
        /// The lab.
        lab: String,
        /// What was asked for.
        what: String,
        /// What there is.
        known: String,
    },
    /// A program that the lab starts is not installed.
    #[error(
        "cannot find {0}: it is looked for beside this program and in PATH; `cargo build -p caracal-dataplane` makes it"
    )]
    NoProgram(&'static str),
    /// A file or folder could not be used.
    #[error("cannot {doing} {}: {source}", .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A kernel request failed.
    #[error("{place}: {source}")]
    Netlink {
        /// In which part of the lab.
        place: String,
        /// What failed.
        source: NetlinkError,
    },
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A command's view of the devices could not be made.
    #[error("cannot mount /sys of the network namespace {place}: {source}")]
    Sysfs {
        /// Which namespace.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// A pod's link could not be made.
    #[error("pod {pod}: {source}")]
    Link {
        /// Whose.
        pod: String,
        /// What failed.
        source: LinkError,
    },
    /// The CNI plugin did not attach a pod.
    #[error("pod {pod}: {source}")]
    Cni {
        /// Whose.
        pod: String,
        /// What it says.
        source: CniError,
    },
    /// Address management could not be told what is a node's.
    #[error("{what}: {why}")]
    Ipam {
        /// What was to be given.
        what: String,
        /// Why it was not.
        why: String,
    },
    /// A kernel setting was refused.
    #[error("{place}: cannot set net.{key} to {value}: {source}")]
    Sysctl {
        /// In which part of the lab.
        place: String,
        /// The setting, with slashes.
        key: String,
        /// What it was to be.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket of a responder or of the API server's door could not be made.
    #[error("{place}: cannot listen on {what}: {source}")]
    Listen {
        /// In which part of the lab.
        place: String,
        /// Protocol and port.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// A process could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Which.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// The Kubernetes API refused or did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A fastpath did not answer.
    #[error("node {node}: {source}")]
    Plane {
        /// Whose.
        node: String,
        /// What happened.
        source: PlaneError,
    },
    /// Time ran out while something was not ready.
    #[error("not ready after {seconds} s: {what}; see {}", .logs.display())]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// What was not, node by node.
        what: String,
        /// Where to look.
        logs: PathBuf,
    },
    /// A process keeps dying.
    #[error("{name} has died {times} times within seconds; its log {} ends: {last}", .log.display())]
    KeepsDying {
        /// Which.
        name: String,
        /// How often.
        times: u32,
        /// Where it writes.
        log: PathBuf,
        /// The end of it.
        last: String,
    },
    /// The supervisor ended before the lab was up.
    #[error("{0}")]
    Supervisor(String),
    /// Ctrl-C, or somebody's `lab down`.
    #[error("interrupted")]
    Stopped,
    /// What the case asks for cannot be built here.
    #[error("{0}")]
    Case(String),
    /// The asynchronous runtime could not be made.
    #[error("cannot start threads: {0}")]
    Threads(io::Error),
}

impl LabError {
    /// For `map_err`: what was being done to a file.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    /// For `map_err`: in which part of the lab a kernel request failed.
    pub(crate) fn netlink(place: &str) -> impl Fn(NetlinkError) -> Self {
        let place = place.to_owned();
        move |source| Self::Netlink { place: place.clone(), source }
    }
}
