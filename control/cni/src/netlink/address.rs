//! The addresses of links.

use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use super::{Netlink, NetlinkError, family};

impl Netlink {
    /// The addresses of a link, with their prefix lengths.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<(IpAddr, u8)>, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask("list addresses", message, NLM_F_DUMP)?;
        let of_link = |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Some(message),
            _ => None,
        };
        let address = |message: AddressMessage| {
            let length = message.header.prefix_len;
            let mut found = None;
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(address) => return Some((address, length)),
                    // IPv6 has no other.
                    AddressAttribute::Address(address) => found = Some((address, length)),
                    _ => {}
                }
            }
            found
        };
        Ok(answers.into_iter().filter_map(of_link).filter_map(address).collect())
    }

    /// Adds an address to a link; IPv6 without duplicate detection.
    ///
    /// # Errors
    /// It is there already, or the kernel refuses.
    pub fn add_address(&mut self, index: u32, address: IpAddr, length: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = length;
        message.header.family = family(address);
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        self.create(
            format!("add address {address}/{length} to link {index}"),
            RouteNetlinkMessage::NewAddress(message),
        )
    }
}
