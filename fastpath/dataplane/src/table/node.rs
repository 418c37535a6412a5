//! What the fastpath knows of its own node.

use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api::EndpointToHost;
use caracal_wire::MacAddr;

use super::prefix::Prefix;

/// This node's configuration, if the control plane has sent one.
#[derive(Debug, Clone, Default)]
pub struct NodeTable {
    config: Option<Arc<NodeConfig>>,
}

/// See `NodeConfig` in plane.proto.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The node's name.
    pub name: Arc<str>,
    /// Its address on the fabric; the uplink is the interface that holds it.
    pub address: IpAddr,
    /// Its own VXLAN tunnel address.
    pub tunnel_address: Option<IpAddr>,
    /// Its VTEP's MAC.
    pub tunnel_mac: MacAddr,
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// VXLAN's UDP port.
    pub vxlan_port: u16,
    /// The tap device for what the host originates.
    pub host_port: Arc<str>,
    /// The tap device for what the host forwards.
    pub forward_port: Arc<str>,
    /// Flows keep the verdict of their first packet when policy changes.
    pub keep_established: bool,
    /// What becomes of what pods send to this host, once their egress policy has let it pass.
    pub endpoint_to_host: EndpointToHost,
    /// Pods may send VXLAN.
    pub allow_vxlan_from_workloads: bool,
    /// Pods may send IPIP.
    pub allow_ipip_from_workloads: bool,
    /// What lines of Log rules begin with.
    pub log_prefix: Arc<str>,
    /// Connections to the host that no host endpoint's policy may cut.
    pub failsafe_inbound: Box<[Failsafe]>,
    /// Connections from the host that no host endpoint's policy may cut.
    pub failsafe_outbound: Box<[Failsafe]>,
}

/// What Log rules say where nothing else is configured.
pub const DEFAULT_LOG_PREFIX: &str = "calico-packet";

/// Traffic that no host endpoint's policy may cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failsafe {
    /// IP protocol number.
    pub protocol: u8,
    /// Of the side that is connected to.
    pub port: u16,
    /// Where the remote side is; None: anywhere.
    pub net: Option<Prefix>,
}

impl Failsafe {
    /// Whether it is for traffic of this protocol, port and remote address.
    pub fn holds(&self, protocol: u8, port: u16, remote: IpAddr) -> bool {
        (self.protocol, self.port) == (protocol, port) && self.net.is_none_or(|net| net.contains(remote))
    }
}

impl NodeTable {
    pub(super) fn new(config: Option<Arc<NodeConfig>>) -> NodeTable {
        NodeTable { config }
    }

    /// The configuration; None before the control plane has sent it.
    #[inline]
    pub fn config(&self) -> Option<&NodeConfig> {
        self.config.as_deref()
    }
}
