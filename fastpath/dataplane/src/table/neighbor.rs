//! Link-layer addresses of next hops, mirrored from the kernel.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::paged::Paged;
use caracal_wire::MacAddr;

/// Names a neighbour. Given once in a process to an (interface, address).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighborIndex(pub u32);

pub(super) const PAGE: usize = 256;

/// What is known of neighbours.
#[derive(Debug, Clone, Default)]
pub struct NeighborTable {
    pub(super) macs: Paged<Option<MacAddr>, PAGE>,
    pub(super) by_address: Arc<HashMap<(u32, IpAddr), NeighborIndex>>,
}

impl NeighborTable {
    /// The neighbour's MAC, once the kernel has resolved it.
    #[inline]
    pub fn mac(&self, neighbor: NeighborIndex) -> Option<MacAddr> {
        *self.macs.get(neighbor.0 as usize)?
    }

    /// Whether nothing has changed between them.
    pub fn is_same(&self, other: &NeighborTable) -> bool {
        self.macs.is_same(&other.macs) && Arc::ptr_eq(&self.by_address, &other.by_address)
    }

    /// The neighbour with this address on this interface, for destinations that are on the link themselves.
    pub fn find(&self, ifindex: u32, address: IpAddr) -> Option<NeighborIndex> {
        self.by_address.get(&(ifindex, address)).copied()
    }
}
