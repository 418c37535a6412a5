//! Flows with every name resolved.

use std::net::IpAddr;

use super::{Expect, HostPath, Icmp};
use crate::policy::IpVersion;
use crate::protocol::Protocol;

/// Where an end of a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// `World::pods` at this index.
    Pod(usize),
    /// `World::nodes` at this index: the host itself.
    Node(usize),
    /// The address of `World::services` at this index, inside or outside: behind it are others.
    Service(usize),
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
    /// `World::services` at this index translates it: asked at its own address, or at a node's port.
    pub service: Option<usize>,
    /// Over which IP version.
    pub ip_version: IpVersion,
    /// How long to wait for an answer.
    pub timeout_ms: u64,
    /// What must happen.
    pub expect: Expect,
    /// Why this flow cannot be tried at all; then the addresses are unspecified.
    pub unsupported: Option<String>,
}

/// A packet at a host endpoint, resolved: one per host flow of the case, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldHostFlow {
    /// The line of the file.
    pub line: u64,
    /// The host endpoint's name; it is among the world's objects.
    pub host_endpoint: String,
    /// `World::nodes` at this index: the host endpoint's.
    pub node: usize,
    /// Which way the packet goes.
    pub path: HostPath,
    /// The source as written, for reports.
    pub from: String,
    /// The destination as written, for reports.
    pub to: String,
    /// The source's address.
    pub source_address: IpAddr,
    /// The destination's address, after DNAT.
    pub destination_address: IpAddr,
    /// With which protocol.
    pub protocol: Protocol,
    /// From which port; any when `None`.
    pub source_port: Option<u16>,
    /// To which port, after DNAT; TCP, UDP and SCTP only.
    pub destination_port: Option<u16>,
    /// Which ICMP message; ICMP and ICMPv6 only.
    pub icmp: Option<Icmp>,
    /// Over which IP version.
    pub ip_version: IpVersion,
    /// The destination before DNAT, where it was another one. The port is 0 for protocols without.
    pub original: Option<(IpAddr, u16)>,
    /// The destination before DNAT as written, for reports.
    pub original_to: Option<String>,
    /// Its port as written, for reports.
    pub original_port: Option<u16>,
    /// What must happen.
    pub expect: Expect,
    /// Why this flow cannot be tried at all; then the addresses are unspecified.
    pub unsupported: Option<String>,
}
