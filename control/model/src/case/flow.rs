//! Flows with every name resolved.

use std::net::IpAddr;

use super::{Expect, Icmp};
use crate::policy::IpVersion;
use crate::protocol::Protocol;

/// Where an end of a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// `World::pods` at this index.
    Pod(usize),
    /// `World::nodes` at this index: the host itself.
    Node(usize),
    /// A host outside the cluster.
    External,
}

/// A flow, resolved: one per flow of the case, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldFlow {
    /// The line of the file.
    pub line: u64,
    /// The source as written, for reports.
    pub from: String,
    /// The destination as written, for reports.
    pub to: String,
    /// Where the source is.
    pub source: Place,
    /// Where the destination is.
    pub destination: Place,
    /// The source's address.
    pub source_address: IpAddr,
    /// The destination's address.
    pub destination_address: IpAddr,
    /// With which protocol.
    pub protocol: Protocol,
    /// From which port; any when `None`.
    pub source_port: Option<u16>,
    /// To which port; TCP, UDP and SCTP only.
    pub destination_port: Option<u16>,
    /// Which ICMP message; ICMP and ICMPv6 only.
    pub icmp: Option<Icmp>,
    /// Over which IP version.
    pub ip_version: IpVersion,
    /// How long to wait for an answer.
    pub timeout_ms: u64,
    /// What must happen.
    pub expect: Expect,
    /// Why this flow cannot be tried at all; then the addresses are unspecified.
    pub unsupported: Option<String>,
}
