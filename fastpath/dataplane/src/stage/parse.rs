//! What a frame is: Ethernet, IP, and what of the transport header flows and policy need. IPv4 is here; IPv6 and the
//! transport headers have files of their own.

mod ipv6;
mod transport;

use std::net::{IpAddr, Ipv4Addr};

use caracal_wire::checksum::{self, Sum};
use caracal_wire::tcp::Flags;
use caracal_wire::{Arp, EtherType, Ethernet, Protocol, ethernet, ipv4};

pub use self::ipv6::is_forwardable as is_forwardable_v6;
use self::transport::Transport;
pub use self::transport::{Quoted, quoted};

use crate::batch::{Ingress, Slot};
use crate::drop_reason::DropReason;
use crate::packet::PartialChecksum;

/// The headers of a packet, as far as stages need them. Offsets are from the beginning of the packet.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// Where the packet is from.
    pub source: IpAddr,
    /// Where it is to.
    pub destination: IpAddr,
    /// Source port; what stands for it in an ICMP message (see [`Icmp`]); else 0.
    pub source_port: u16,
    /// Destination port, likewise.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP flags; none for other protocols.
    pub tcp_flags: Flags,
    /// The sender asked not to fragment it, or it is IPv6.
    pub dont_fragment: bool,
    /// Length of the IP packet, bytes.
    pub ip_len: u16,
    /// Where the IP header begins.
    pub l3: u16,
    /// Where the transport header begins.
    pub l4: u16,
    /// What the Ethernet header says.
    pub ether_type: u16,
    /// What an ICMP message is.
    pub icmp: Icmp,
    /// Which part of its datagram the packet is.
    pub fragment: Fragment,
}

/// Which part of its datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The whole: nobody has fragmented it.
    No,
    /// The first part. It has the transport header, whole, and its checksum is over all parts.
    First,
    /// A further part. At `l4` begins the middle of something: there is no transport header to look at or to change.
    /// Ports, or what stands for them, are those of the first part.
    Later,
}

/// ICMP, as conntrack and policy see it: with type and code.
///
/// Where TCP has ports, a question has its identifier as the source's and its type and code as the destination's (as
/// NetFlow has it); its answer the same the other way round. So both are one flow, and a question that the other side
/// asks under the same identifier is another. Other messages are flows of their own by type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Not ICMP, or not this IP version's.
    No,
    /// A message that is no error.
    Message(u8, u8),
    /// An error about another packet, which [`quoted`] reads.
    Error(u8, u8),
}

impl Icmp {
    /// Type and code of a message that is judged.
    #[inline]
    #[must_use]
    pub fn message(self) -> Option<(u8, u8)> {
        match self {
            Icmp::Message(kind, code) => Some((kind, code)),
            _ => None,
        }
    }
}

impl Default for Parsed {
    fn default() -> Self {
        Parsed {
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            ttl: 0,
            tcp_flags: Flags(0),
            dont_fragment: false,
            ip_len: 0,
            l3: 0,
            l4: 0,
            ether_type: 0,
            icmp: Icmp::No,
            fragment: Fragment::No,
        }
    }
}

impl Parsed {
    /// Whether the frame is an ARP message: nothing but `ether_type` has been filled in then.
    #[inline]
    #[must_use]
    pub fn is_arp(&self) -> bool {
        self.ether_type == EtherType::ARP.0
    }

    /// Whether the frame is an IPv4 packet.
    #[inline]
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.ether_type == EtherType::IPV4.0
    }
}

/// Parses a frame from its Ethernet header on. On success the packet ends where IP says, without Ethernet's padding,
/// and knows whether its transport checksum is still to be completed.
#[inline]
pub fn parse(slot: &mut Slot) {
    if let Err(reason) = try_parse(slot) {
        slot.drop(reason);
    }
}

/// Ethernet and IPv4 without options: what every packet that is carried begins with.
pub(crate) const HEADERS: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;

/// As [`parse`], with the reason to drop as a result.
#[inline]
pub(crate) fn try_parse(slot: &mut Slot) -> Result<(), DropReason> {
    let frame = slot.packet.head.data();
    let Some((headers, segment)) = frame.split_first_chunk::<HEADERS>() else {
        return Err(try_parse_short(slot));
    };
    let ether_type = u16::from_be_bytes([headers[12], headers[13]]);
    slot.parsed.ether_type = ether_type;
    if ether_type != EtherType::IPV4.0 {
        return parse_other(slot);
    }
    let ip = ip_header(headers);
    let total_len = ip_plausible(ip)?;
    // The payload may go on in further segments, so its length is held against the packet, not the frame.
    if ethernet::HEADER_LEN + usize::from(total_len) > slot.packet.len() {
        return Err(DropReason::Ipv4Malformed);
    }
    let fragment_word = u16::from_be_bytes([ip[6], ip[7]]);
    let fragment = match fragment_word & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) {
        0 => Fragment::No,
        ipv4::MORE_FRAGMENTS => Fragment::First,
        _ => Fragment::Later,
    };
    let source = u32::from_be_bytes([ip[12], ip[13], ip[14], ip[15]]);
    let destination = u32::from_be_bytes([ip[16], ip[17], ip[18], ip[19]]);
    if !is_forwardable(source) || !is_forwardable(destination) {
        return Err(DropReason::AddressInvalid);
    }
    let parsed = &mut slot.parsed;
    parsed.source = IpAddr::V4(Ipv4Addr::from_bits(source));
    parsed.destination = IpAddr::V4(Ipv4Addr::from_bits(destination));
    parsed.protocol = ip[9];
    parsed.ttl = ip[8];
    parsed.dont_fragment = fragment_word & ipv4::DONT_FRAGMENT != 0;
    parsed.ip_len = total_len;
    parsed.l3 = ethernet::HEADER_LEN as u16;
    parsed.l4 = HEADERS as u16;
    let l4_len = usize::from(total_len) - ipv4::HEADER_LEN;
    // The transport header must be in the first segment, which may be longer (padding) or shorter than the packet.
    let segment = segment.get(..l4_len).unwrap_or(segment);
    let transport = if fragment == Fragment::No {
        Transport::parse(Protocol(ip[9]), Protocol::ICMPV4, segment, l4_len)?
    } else {
        Transport::of_part(fragment, Protocol(ip[9]), Protocol::ICMPV4, segment)?
    };
    parsed.fragment = fragment;
    transport.tell(parsed);
    if let Some((field, value)) = transport.checksum
        && may_be_partial(slot.ingress)
        && checksum::is_partial(value, Sum::ZERO + source + destination + u32::from(ip[9]) + l4_len as u32)
    {
        slot.packet.offload.checksum.get_or_insert(PartialChecksum { start: HEADERS as u16, offset: field });
    }
    if slot.packet.truncate(ethernet::HEADER_LEN + usize::from(total_len)) {
        Ok(())
    } else {
        Err(DropReason::Ipv4Malformed)
    }
}

/// The IPv4 header that follows the Ethernet header.
#[inline]
pub(crate) fn ip_header(headers: &[u8; HEADERS]) -> &[u8; ipv4::HEADER_LEN] {
    // An array of the one length ends with an array of the other.
    headers.last_chunk().unwrap_or(&[0; ipv4::HEADER_LEN])
}

/// The total length of an IPv4 packet whose header has no options, a right checksum and a length that covers it.
#[inline(always)]
pub(crate) fn ip_plausible(ip: &[u8; ipv4::HEADER_LEN]) -> Result<u16, DropReason> {
    if ip[0] != 0x45 {
        return Err(not_plain(ip));
    }
    if !is_summed_up(ip) {
        return Err(DropReason::Ipv4BadChecksum);
    }
    let total_len = u16::from_be_bytes([ip[2], ip[3]]);
    if usize::from(total_len) < ipv4::HEADER_LEN { Err(DropReason::Ipv4Malformed) } else { Ok(total_len) }
}

/// Whether the checksum of an IPv4 header without options is right.
#[inline(always)]
fn is_summed_up(ip: &[u8; ipv4::HEADER_LEN]) -> bool {
    let (words, _) = ip.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    // One's complement sums do not depend on the byte order: all ones is all ones.
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    let folded = (folded & 0xffff) + (folded >> 16);
    (folded & 0xffff) + (folded >> 16) == 0xffff
}

/// What is wrong with a header that does not begin as one of version 4 without options does.
#[cold]
#[inline(never)]
fn not_plain(ip: &[u8; ipv4::HEADER_LEN]) -> DropReason {
    let header_len = u16::from(ip[0] & 0x0f) * 4;
    let has_options = ip[0] >> 4 == 4 && header_len > ipv4::HEADER_LEN as u16;
    if has_options && header_len <= u16::from_be_bytes([ip[2], ip[3]]) {
        DropReason::Ipv4Options
    } else {
        DropReason::Ipv4Malformed
    }
}

/// A frame too short for Ethernet and IPv4: ARP has room in it, just, and everything else is malformed.
#[cold]
fn try_parse_short(slot: &Slot) -> DropReason {
    match Ethernet::new_checked(slot.packet.head.data()) {
        Err(_) => DropReason::EthernetTruncated,
        Ok(header) => match header.ether_type() {
            EtherType::IPV4 => DropReason::Ipv4Malformed,
            EtherType::ARP => DropReason::ArpMalformed,
            EtherType::IPV6 => DropReason::Ipv6Malformed,
            _ => DropReason::UnsupportedEtherType,
        },
    }
}

/// A frame that is not IPv4.
#[inline(never)]
fn parse_other(slot: &mut Slot) -> Result<(), DropReason> {
    let header = Ethernet::new_checked(slot.packet.head.data()).map_err(|_| DropReason::EthernetTruncated)?;
    match header.ether_type() {
        EtherType::ARP => Arp::new_checked(header.payload()).map(drop).map_err(|_| DropReason::ArpMalformed),
        EtherType::IPV6 => ipv6::parse(slot),
        _ => Err(DropReason::UnsupportedEtherType),
    }
}

/// Checksums come half made from any virtual device; a port with a virtio-net header says so itself.
#[inline]
fn may_be_partial(ingress: Ingress) -> bool {
    matches!(ingress, Ingress::Endpoint(_) | Ingress::Uplink(_) | Ingress::Tunnel(_))
}

/// Whether packets from or to this address are forwarded: not "this network", loopback, multicast, reserved or broadcast
/// (RFC 1812, 5.3.7).
#[inline]
fn is_forwardable(address: u32) -> bool {
    let first = address >> 24;
    first != 0 && first != 127 && first < 224
}
