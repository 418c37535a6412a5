//! Other nodes as ends of tunnels, and next hops with their link-layer addresses, as they change.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use caracal_wire::MacAddr;

use super::state::TunnelSpec;
use crate::table::lpm::LpmBuilder;
use crate::table::neighbor::{self, NeighborIndex};
use crate::table::paged::PagedBuilder;
use crate::table::prefix::Prefix;
use crate::table::tunnel::{self, Tunnel, TunnelIndex};

#[derive(Default)]
pub(super) struct Tunnels {
    pub by_node: HashMap<Arc<str>, (TunnelIndex, Arc<TunnelSpec>)>,
    pub table: PagedBuilder<Option<Arc<Tunnel>>, { tunnel::PAGE }>,
    pub by_source: LpmBuilder,
    ever: u32,
}

#[derive(Default)]
pub(super) struct Neighbors {
    pub macs: PagedBuilder<Option<MacAddr>, { neighbor::PAGE }>,
    pub by_address: Arc<HashMap<(u32, IpAddr), NeighborIndex>>,
}

impl Tunnels {
    pub fn get(&self, index: TunnelIndex) -> Option<&Tunnel> {
        self.table.get(index.0 as usize)?.as_deref()
    }

    /// Its place in the table follows when its next hop is looked for.
    pub fn set(&mut self, node: &Arc<str>, spec: Arc<TunnelSpec>) {
        let index = match self.by_node.get(node) {
            Some((index, _)) => *index,
            None => {
                self.ever += 1;
                TunnelIndex(self.ever - 1)
            }
        };
        for source in spec.node_addresses() {
            self.by_source.insert(Prefix::host(source), index.0);
        }
        if let Some((_, former)) = self.by_node.insert(Arc::clone(node), (index, Arc::clone(&spec))) {
            for gone in
                former.node_addresses().filter(|former| spec.node_addresses().all(|new| new != *former))
            {
                self.forget_source(gone, index);
            }
        }
    }

    pub fn remove(&mut self, node: &Arc<str>) {
        if let Some((index, spec)) = self.by_node.remove(node) {
            self.table.clear(index.0 as usize);
            for source in spec.node_addresses() {
                self.forget_source(source, index);
            }
        }
    }

    /// `index` no longer has `source`; if another node has it (a node replaced under a new name), it is that one's.
    fn forget_source(&mut self, source: IpAddr, index: TunnelIndex) {
        if self.by_source.get(Prefix::host(source)) != Some(index.0) {
            return;
        }
        let has_it = |spec: &TunnelSpec| spec.node_addresses().any(|address| address == source);
        match self.by_node.values().find(|(other, spec)| *other != index && has_it(spec)) {
            Some((other, _)) => self.by_source.insert(Prefix::host(source), other.0),
            None => self.by_source.remove(Prefix::host(source)),
        };
    }
}

impl Neighbors {
    pub fn index(&mut self, ifindex: u32, address: IpAddr) -> NeighborIndex {
        if let Some(index) = self.by_address.get(&(ifindex, address)) {
            return *index;
        }
        let index = NeighborIndex(self.by_address.len() as u32);
        Arc::make_mut(&mut self.by_address).insert((ifindex, address), index);
        index
    }

    pub fn is_resolved(&self, neighbor: &(u32, IpAddr)) -> bool {
        let index = self.by_address.get(neighbor);
        index.and_then(|index| self.macs.get(index.0 as usize)).is_some_and(Option::is_some)
    }
}
