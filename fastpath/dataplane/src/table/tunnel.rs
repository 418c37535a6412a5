//! Other nodes, as ends of tunnels.

use std::net::IpAddr;
use std::sync::Arc;

use caracal_wire::MacAddr;

use super::NeighborIndex;
use super::lpm::Lpm;
use super::paged::Paged;

/// Names another node. Given once in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelIndex(pub u32);

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Its address on the fabric: the outer destination, and the only outer source it may use.
    pub node_address: IpAddr,
    /// Its VTEP's MAC: the inner destination.
    pub tunnel_mac: MacAddr,
    /// How to reach `node_address`; None when no kernel route leads there.
    pub underlay: Option<Underlay>,
    /// Its VTEP's address.
    pub tunnel_address: Option<IpAddr>,
    /// Its name.
    pub node: Arc<str>,
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

impl TunnelTable {
    /// The node of this index, unless it has gone.
    #[inline]
    pub fn get(&self, index: TunnelIndex) -> Option<&Tunnel> {
        self.tunnels.get(index.0 as usize)?.as_deref()
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
