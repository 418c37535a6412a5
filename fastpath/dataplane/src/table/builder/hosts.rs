//! Which host endpoint is about which interface, and since when they say what they say.

use std::net::IpAddr;
use std::sync::Arc;

use super::TableBuilder;
use crate::table::host::{HostInterface, Places};
use crate::table::policy::ClassId;

/// What host endpoints' judgements of forwarded packets rest on, besides their rules.
#[derive(Default)]
pub(super) struct Grounds {
    interfaces: Vec<HostInterface>,
    /// The classes of this node's own pods: a flow remembers its peer's only.
    classes: Vec<(IpAddr, ClassId)>,
    is_stale: bool,
}

impl TableBuilder {
    /// Says which interfaces this host has.
    pub fn host_interfaces(&mut self, interfaces: Vec<HostInterface>) {
        if interfaces != self.hosts.grounds.interfaces {
            self.hosts.grounds.interfaces = interfaces;
            self.hosts.grounds.is_stale = true;
        }
    }

    /// Host endpoints' rules, or their interfaces, are others now.
    pub(super) fn hosts_changed(&mut self) {
        self.hosts.grounds.is_stale = true;
    }

    /// Before the next generation is made: has what host endpoints say of forwarded packets changed?
    pub(super) fn settle_hosts(&mut self) {
        let was_stale = std::mem::take(&mut self.hosts.grounds.is_stale);
        if was_stale {
            let places = Places::new(&self.hosts.table, &self.hosts.grounds.interfaces);
            self.hosts.table.places = Arc::new(places);
        }
        let have_moved = !self.hosts.table.is_idle() && {
            let own = self.endpoints.by_id.values().flat_map(|(_, endpoint)| endpoint.addresses.iter());
            let classes: Vec<_> = own.map(|address| (address, self.policy.class_of(address))).collect();
            let have_moved = classes != self.hosts.grounds.classes;
            self.hosts.grounds.classes = classes;
            have_moved
        };
        if was_stale || have_moved {
            self.hosts.table.since = self.generation;
        }
    }
}
