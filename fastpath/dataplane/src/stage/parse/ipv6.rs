//! IPv6 (RFC 8200): the fixed header, the walk over extension headers, and the transport header behind them.

use std::net::{IpAddr, Ipv6Addr};

use caracal_wire::checksum::{self, Sum};
use caracal_wire::{EtherType, Ipv6, Malformed, Protocol, ethernet, ipv6};

use super::{Fragment, Transport, may_be_partial};
use crate::batch::{Ingress, Slot};
use crate::drop_reason::DropReason;
use crate::packet::PartialChecksum;
use crate::stage::nd;

/// Parses a frame whose Ethernet header says IPv6.
pub(super) fn parse(slot: &mut Slot) -> Result<(), DropReason> {
    let frame = slot.packet.head.data();
    let bytes = frame.get(ethernet::HEADER_LEN..).ok_or(DropReason::Ipv6Malformed)?;
    // The payload may go on in further segments, so its length is held against the packet, not the frame.
    let ip = Ipv6::new_quoted(bytes).map_err(|_| DropReason::Ipv6Malformed)?;
    let ip_len = ipv6::HEADER_LEN + usize::from(ip.payload_len());
    let frame_len = ethernet::HEADER_LEN + ip_len;
    if frame_len > slot.packet.len() {
        return Err(DropReason::Ipv6Malformed);
    }
    let upper = ip.upper_layer().map_err(|malformed| match malformed {
        Malformed::Ipv6ExtensionTruncated | Malformed::Ipv6ExtensionChain | Malformed::Ipv6SourceRoute => {
            DropReason::Ipv6Extensions
        }
        _ => DropReason::Ipv6Malformed,
    })?;
    let fragment = match upper.fragment {
        Some(part) if part.offset != 0 => Fragment::Later,
        Some(part) if part.more => Fragment::First,
        // One that is all of its datagram is whole (RFC 6946).
        _ => Fragment::No,
    };
    let (source, destination) = (ip.source(), ip.destination());
    let l4_len = ip_len.checked_sub(upper.offset).ok_or(DropReason::Ipv6Extensions)?;
    let segment = bytes.get(upper.offset..).unwrap_or(&[]);
    let segment = segment.get(..l4_len).unwrap_or(segment);
    let transport = if fragment == Fragment::No {
        Transport::parse(upper.protocol, Protocol::ICMPV6, segment, l4_len)?
    } else {
        Transport::of_part(fragment, upper.protocol, Protocol::ICMPV6, segment)?
    };
    let hop_limit = ip.hop_limit();

    let parsed = &mut slot.parsed;
    parsed.source = IpAddr::V6(source);
    parsed.destination = IpAddr::V6(destination);
    parsed.protocol = upper.protocol.0;
    parsed.ttl = hop_limit;
    // Only the sender fragments.
    parsed.dont_fragment = true;
    parsed.ether_type = EtherType::IPV6.0;
    parsed.ip_len = u16::try_from(ip_len).map_err(|_| DropReason::Oversized)?;
    parsed.l3 = ethernet::HEADER_LEN as u16;
    parsed.l4 = (ethernet::HEADER_LEN + upper.offset) as u16;
    parsed.fragment = fragment;
    transport.tell(parsed);
    // Messages of the link are told from packets to forward by whoever has the link.
    let is_of_the_link = matches!(slot.ingress, Ingress::Endpoint(_)) && nd::is_link_message(parsed);
    let may_go_on = is_forwardable(destination) && may_be_source(source, slot.ingress);
    if !is_of_the_link && !may_go_on {
        return Err(DropReason::AddressInvalid);
    }
    if let Some((field, value)) = transport.checksum
        && may_be_partial(slot.ingress)
        && checksum::is_partial(value, Sum::pseudo_v6(source, destination, upper.protocol, l4_len as u32))
    {
        let start = slot.parsed.l4;
        slot.packet.offload.checksum.get_or_insert(PartialChecksum { start, offset: field });
    }
    if slot.packet.truncate(frame_len) { Ok(()) } else { Err(DropReason::Ipv6Malformed) }
}

/// Whether packets from or to this address are forwarded: not unspecified, loopback, multicast or of one link
/// (RFC 4291, 2.4). An IPv4-mapped address is none on any wire (RFC 4291, 2.5.5.2), and flow keys hold IPv4's so.
#[inline]
#[must_use]
pub fn is_forwardable(address: Ipv6Addr) -> bool {
    let is_mapped = address.to_ipv4_mapped().is_some();
    let of_one_link = address.is_unicast_link_local();
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || of_one_link || is_mapped)
}

/// Errors of ours may come from the address that we have on pods' links.
#[inline]
fn may_be_source(source: Ipv6Addr, ingress: Ingress) -> bool {
    is_forwardable(source) || ingress == Ingress::Ourselves && source == nd::GATEWAY
}
