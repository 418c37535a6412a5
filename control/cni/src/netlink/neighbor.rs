//! Neighbours that are known from the start: who has an address, and who is behind a tunnel.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError, family};

impl Netlink {
    /// Adds a permanent neighbour: `address` on link `index` has `mac`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_neighbor(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::Destination(neighbour(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(format!("add neighbour {address}"), RouteNetlinkMessage::NewNeighbour(message), flags)
            .map(drop)
    }

    /// Tells a VXLAN device that `mac` is behind the tunnel end `remote`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_tunnel_mac(&mut self, index: u32, mac: [u8; 6], remote: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::Destination(neighbour(remote)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let doing = format!("tell link {index} the tunnel end {remote}");
        self.ask(doing, RouteNetlinkMessage::NewNeighbour(message), flags).map(drop)
    }
}

fn neighbour(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}
