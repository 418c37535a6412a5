//! Case files: a small cluster, its objects, and what must happen to each flow.
//!
//! [`Case::parse`] reads what the file says and nothing more; [`Case::world`] fills in every default, so that all who
//! run cases start from the same completed objects and the same resolved flows.

mod fields;
mod flow;
mod host_flow;
mod nodes;
mod parse;
mod pods;
mod pools;
pub mod report;
mod resolve;
mod services;
#[cfg(test)]
mod tests;
mod world;

use std::net::IpAddr;

use crate::object::ObjectKey;
use crate::pod_port::PodPort;
use crate::policy::IpVersion;
use crate::protocol::Protocol;

pub use flow::{Place, WorldFlow, WorldHostFlow};
pub use pools::{Between, Carriage, WorldPool};
pub use world::{RefusedObject, World, WorldError, WorldNode, WorldPod};

/// How long a flow may take to be answered when the file does not say.
pub const DEFAULT_TIMEOUT_MS: u64 = 1000;

/// A case file as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub description: Option<String>,
    /// Its objects in the order of the file; not yet decoded, because some of them may be there to be refused.
    pub objects: Vec<CaseObject>,
    /// Named hosts outside the cluster.
    pub externals: Vec<External>,
    /// What must happen to packets from and to pods.
    pub flows: Vec<CaseFlow>,
    /// What host endpoints must let through.
    pub host_flows: Vec<HostFlow>,
    /// Objects that the API must refuse.
    pub rejects: Vec<Reject>,
    /// How the lab runs it; never what must happen.
    pub lab: LabOptions,
}

/// Why a text is no case file: which line, which field, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {}{}{message}", .field, if .field.is_empty() { "" } else { ": " })]
pub struct CaseError {
    /// Counted from 1.
    pub line: u64,
    /// The field, in Kubernetes' syntax: `flows[0].port`; empty when the text is no YAML at all.
    pub field: String,
    /// What is wrong with it and what is expected.
    pub message: String,
}

/// An object of a case file.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseObject {
    /// Its place in `objects`, and so its field: `objects[3]`.
    pub index: usize,
    /// Which object.
    pub key: ObjectKey,
    /// The manifest, its namespace filled in.
    pub value: serde_json::Value,
    tree: crate::yaml::Tree,
}

/// A host outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// What flows call it.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

/// An end of a flow, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    /// `namespace/pod`.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// `external/NAME`.
    External(String),
    /// `node/NAME`.
    Node(String),
    /// `service/NAMESPACE/NAME`.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// An address.
    Address(IpAddr),
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::External(name) => write!(f, "external/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Service { namespace, name } => write!(f, "service/{namespace}/{name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A destination port, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PortReference {
    /// A number.
    Number(u16),
    /// The name of a container port of the pod at the other end.
    Name(String),
}

impl std::fmt::Display for PortReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// What an ICMP packet says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
}

/// What must happen to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Answered.
    Allow,
    /// Not answered.
    Deny,
    /// Let through without a flow entry (host endpoints only).
    AllowUntracked,
}

impl Expect {
    /// As case files say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::AllowUntracked => "allow-untracked",
        }
    }
}

/// The first packet of a new connection, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseFlow {
    /// The line of the file.
    pub line: u64,
    /// Who opens it.
    pub from: Party,
    /// Whom it is for.
    pub to: Party,
    /// With which protocol.
    pub protocol: Protocol,
    /// To which port; TCP, UDP and SCTP only.
    pub port: Option<PortReference>,
    /// From which port; any when not given.
    pub source_port: Option<u16>,
    /// Which ICMP message; an echo request when not given.
    pub icmp: Option<Icmp>,
    /// Over which IP version.
    pub ip_version: IpVersion,
    /// How long to wait for an answer.
    pub timeout_ms: u64,
    /// What must happen.
    pub expect: Expect,
}

/// Where a host endpoint sees a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostPath {
    /// Ends at the host.
    ToHost,
    /// Starts at the host.
    FromHost,
    /// Forwarded, comes in through the endpoint.
    ForwardIn,
    /// Forwarded, goes out through the endpoint.
    ForwardOut,
}

impl HostPath {
    /// As case files say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToHost => "to-host",
            Self::FromHost => "from-host",
            Self::ForwardIn => "forward-in",
            Self::ForwardOut => "forward-out",
        }
    }
}

/// A packet at a host endpoint, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFlow {
    /// The line of the file.
    pub line: u64,
    /// The host endpoint's name.
    pub host_endpoint: String,
    /// Which way the packet goes.
    pub path: HostPath,
    /// With which protocol.
    pub protocol: Protocol,
    /// Its source.
    pub from: Party,
    /// Its destination.
    pub to: Party,
    /// Its destination port.
    pub port: Option<PortReference>,
    /// Its source port.
    pub source_port: Option<u16>,
    /// Which ICMP message.
    pub icmp: Option<Icmp>,
    /// Over which IP version.
    pub ip_version: IpVersion,
    /// The destination before DNAT.
    pub original_to: Option<Party>,
    /// The destination port before DNAT.
    pub original_port: Option<u16>,
    /// What must happen.
    pub expect: Expect,
}

/// An object that the API must refuse, and for which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The line of the file.
    pub line: u64,
    /// Its kind, as manifests name it.
    pub kind: String,
    /// Its API group and version; whichever has an object of that kind and name, when not given.
    pub api_version: Option<String>,
    /// Its namespace; `default` when not given and the kind has namespaces.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The field that the API must name.
    pub field: String,
}

impl Reject {
    /// Whether it speaks of this object.
    pub fn names(&self, key: &ObjectKey) -> bool {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        self.kind == key.kind.as_str()
            && self.api_version.as_deref().is_none_or(|version| version == key.kind.api_version())
            && self.name == key.name
            && key.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

/// How the lab runs a case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabOptions {
    /// Workers of each fastpath.
    pub workers: Option<u32>,
    /// MTU of the uplinks.
    pub uplink_mtu: Option<u32>,
    /// Flows that each worker can track.
    pub flows: Option<u32>,
    /// What pods' ports are.
    pub pod_port: PodPort,
    /// Nodes that use Linux's own routing and vxlan device instead of us.
    pub kernel_nodes: Vec<String>,
    /// Whether agents start their nodes from nothing, and address management says what addresses pods have.
    pub startup: bool,
}
