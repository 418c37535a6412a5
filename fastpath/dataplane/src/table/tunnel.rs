//! Other nodes, as ends of tunnels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use caracal_wire::MacAddr;

use super::NeighborIndex;
use super::lpm::Lpm;
use super::paged::Paged;

/// Names another node. Given once in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelIndex(pub u32);

impl TunnelIndex {
    /// Whoever sends tunnel packets and is no node: [`NodeConfig::tunnel_sources`](super::NodeConfig::tunnel_sources).
    /// Looks up as None.
    pub const NO_NODE: TunnelIndex = TunnelIndex(u32::MAX);
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name.
    pub node: Arc<str>,
    /// What is reached by its IPv4 address.
    pub v4: Option<TunnelEnd<Ipv4Addr>>,
    /// What is reached by its IPv6 address.
    pub v6: Option<TunnelEnd<Ipv6Addr>>,
    /// Its end of IPIP, as a pod's peer sees it.
    pub ipip_address: Option<Ipv4Addr>,
}

/// The end of tunnels over one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelEnd<A> {
    /// The node's address on the fabric: the outer destination, the only outer source it may use, and the next hop of
    /// what is not encapsulated.
    pub node_address: A,
    /// Where VXLAN ends; None: the node has none of this family.
    pub vtep: Option<Vtep<A>>,
    /// How to reach `node_address`; None when no kernel route leads there.
    pub underlay: Option<Underlay>,
}

/// An end of VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep<A> {
    /// Its MAC: the inner destination.
    pub mac: MacAddr,
    /// Its own address, which the node's own packets through the tunnel have.
    pub address: Option<A>,
}

/// The way to another node over the fabric, found when the tables were built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    /// The interface.
    pub ifindex: u32,
    /// The neighbour there: a gateway or the node itself.
    pub next_hop: IpAddr,
    /// Where its link-layer address is found.
    pub neighbor: NeighborIndex,
    /// Largest outer packet that fits.
    pub mtu: u16,
}

pub(super) const PAGE: usize = 64;

/// All other nodes.
#[derive(Debug, Clone, Default)]
pub struct TunnelTable {
    pub(super) tunnels: Paged<Option<Arc<Tunnel>>, PAGE>,
    pub(super) by_source: Lpm,
}

impl Tunnel {
    /// Its addresses on the fabric.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().map(|end| IpAddr::V4(end.node_address));
        v4.chain(self.v6.iter().map(|end| IpAddr::V6(end.node_address)))
    }

    /// The ways to it.
    pub fn underlays(&self) -> impl Iterator<Item = Underlay> {
        let v4 = self.v4.iter().filter_map(|end| end.underlay);
        v4.chain(self.v6.iter().filter_map(|end| end.underlay))
    }
}

impl TunnelTable {
    /// The node of this index, unless it has gone.
    #[inline]
    pub fn get(&self, index: TunnelIndex) -> Option<&Tunnel> {
        self.tunnels.get(index.0 as usize)?.as_deref()
    }

    /// Whether no node has changed between them.
    pub fn is_same(&self, other: &TunnelTable) -> bool {
        self.tunnels.is_same(&other.tunnels)
    }

    /// The node whose tunnel packets have this outer source; None: nobody's we know.
    #[inline]
    pub fn by_source(&self, outer_source: IpAddr) -> Option<TunnelIndex> {
        self.by_source.lookup(outer_source).map(TunnelIndex)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (TunnelIndex, &Tunnel)> {
        let present = self.tunnels.iter();
        present.filter_map(|(i, tunnel)| Some((TunnelIndex(i as u32), tunnel.as_deref()?)))
    }
}
