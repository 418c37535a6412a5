//! What the fastpath knows of its own node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use caracal_plane_api::EndpointToHost;

use super::prefix::Prefix;
use super::tunnel::Vtep;

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
    /// Its IPv4 address on the fabric; the interface that holds it is an uplink.
    pub address_v4: Option<Ipv4Addr>,
    /// Its IPv6 address, likewise.
    pub address_v6: Option<Ipv6Addr>,
    /// Its end of VXLAN over IPv4.
    pub vtep_v4: Option<Vtep<Ipv4Addr>>,
    /// Its end of VXLAN over IPv6.
    pub vtep_v6: Option<Vtep<Ipv6Addr>>,
    /// Its end of IPIP.
    pub ipip_address: Option<Ipv4Addr>,
    /// Senders of tunnel packets that are no nodes.
    pub tunnel_sources: Box<[Prefix]>,
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
    /// What leaves with an address of this node; None: nothing.
    pub nat_outgoing: Option<NatOutgoing>,
    /// How long flows live without a packet.
    pub flow_timeouts: FlowTimeouts,
    /// How services are reached by addresses of this node; None: not at all.
    pub node_ports: Option<NodePorts>,
    /// Addresses of pods to which other nodes may send outside of any tunnel.
    pub plain_pools: Box<[Prefix]>,
}

/// Which packets leave this node with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatOutgoing {
    /// Every pool for workloads or tunnels.
    pub pools: Box<[Pool]>,
    /// Packets to nodes keep their source.
    pub exclude_hosts: bool,
    /// What IPv4 packets leave with; None: the address that the route takes.
    pub address: Option<Ipv4Addr>,
    /// The ports to choose from; None: the fastpath's own range.
    pub ports: Option<RangeInclusive<u16>>,
}

/// Addresses that pods and tunnels have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The addresses.
    pub prefix: Prefix,
    /// What is sent from them to no pool at all leaves with an address of the node.
    pub nat_outgoing: bool,
}

/// How long a flow lives without a packet, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP that has not been answered by both sides.
    pub tcp_syn_sent: u32,
    /// TCP that has.
    pub tcp_established: u32,
    /// TCP that both sides have ended.
    pub tcp_fins_seen: u32,
    /// TCP that has been reset.
    pub tcp_reset_seen: u32,
    /// UDP.
    pub udp: u32,
    /// ICMP and ICMPv6.
    pub icmp: u32,
    /// Everything else.
    pub generic: u32,
}

/// Calico's.
impl Default for FlowTimeouts {
    fn default() -> Self {
        FlowTimeouts {
            tcp_syn_sent: 20_000,
            tcp_established: 3_600_000,
            tcp_fins_seen: 30_000,
            tcp_reset_seen: 40_000,
            udp: 60_000,
            icmp: 5_000,
            generic: 600_000,
        }
    }
}

/// How services are reached by addresses of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePorts {
    /// The ports that node ports are taken from.
    pub ranges: Box<[RangeInclusive<u16>]>,
    /// By which addresses; none: by all of the node's.
    pub addresses: Box<[Prefix]>,
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

impl NodeConfig {
    /// Its addresses on the fabric.
    #[inline]
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address_v4.map(IpAddr::V4).into_iter().chain(self.address_v6.map(IpAddr::V6))
    }

    /// Its address of a family.
    #[inline]
    pub fn address(&self, ipv4: bool) -> Option<IpAddr> {
        if ipv4 { self.address_v4.map(IpAddr::V4) } else { self.address_v6.map(IpAddr::V6) }
    }

    /// Whether `address` is one of them.
    #[inline]
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.address_v4 == Some(v4),
            IpAddr::V6(v6) => self.address_v6 == Some(v6),
        }
    }
}

impl NodeConfig {
    /// Whether a pod's packets to nodes keep its source.
    pub fn nodes_see(&self, pod: IpAddr) -> bool {
        let is_hidden = |pool: &Pool| pool.nat_outgoing && pool.prefix.contains(pod);
        self.nat_outgoing.as_ref().is_none_or(|nat| nat.exclude_hosts || !nat.pools.iter().any(is_hidden))
    }

    /// Whether another node sends its pod's packet to `destination`, of a pod of ours or our own, outside of any tunnel.
    pub fn may_come_plain(&self, pod: IpAddr, destination: IpAddr) -> bool {
        self.plain_pools.iter().any(|pool| pool.contains(destination))
            || self.owns(destination) && self.nodes_see(pod)
    }
}

impl NodeTable {
    pub(super) fn new(config: Option<Arc<NodeConfig>>) -> NodeTable {
        NodeTable { config }
    }

    /// Whether both are one configuration.
    pub fn is_same(&self, other: &NodeTable) -> bool {
        match (&self.config, &other.config) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// The configuration; None before the control plane has sent it.
    #[inline]
    pub fn config(&self) -> Option<&NodeConfig> {
        self.config.as_deref()
    }
}
