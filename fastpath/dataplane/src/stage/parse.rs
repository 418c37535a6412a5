//! What a frame is: Ethernet, IPv4, and what of the transport header flows and policy need.

use std::net::{IpAddr, Ipv4Addr};

use caracal_wire::tcp::Flags;
use caracal_wire::{
    Arp, EtherType, Ethernet, Icmpv4, Ipv4, Protocol, Tcp, Udp, checksum, ethernet, ipv4, tcp, udp,
};

use crate::batch::{Ingress, Slot};
use crate::drop_reason::DropReason;
use crate::flow::tcp::flags_are_invalid;
use crate::packet::PartialChecksum;

/// The headers of a packet, as far as stages need them. Offsets are from the beginning of the packet.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// Where the packet is from.
    pub source: IpAddr,
    /// Where it is to.
    pub destination: IpAddr,
    /// Source port; the identifier for ICMP echo; else 0.
    pub source_port: u16,
    /// Destination port; the identifier for ICMP echo; else 0.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// TCP flags; none for other protocols.
    pub tcp_flags: Flags,
    /// The sender asked not to fragment it.
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
}

/// ICMP, as conntrack sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// Not ICMP, or a message that is neither echo nor error.
    No,
    /// An error about another packet.
    Error(Quoted),
}

/// The packet that an ICMP error is about, as its sender sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its source.
    pub source: Ipv4Addr,
    /// Its destination.
    pub destination: Ipv4Addr,
    /// Its source port, or echo identifier.
    pub source_port: u16,
    /// Its destination port, or echo identifier.
    pub destination_port: u16,
    /// Its protocol.
    pub protocol: u8,
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
}

/// Parses a frame from its Ethernet header on. On success the packet ends where IP says, without Ethernet's padding,
/// and knows whether its transport checksum is still to be completed.
#[inline]
pub fn parse(slot: &mut Slot) {
    if let Err(reason) = try_parse(slot) {
        slot.drop(reason);
    }
}

/// As [`parse`], with the reason to drop as a result.
#[inline]
pub(crate) fn try_parse(slot: &mut Slot) -> Result<(), DropReason> {
    let available = slot.packet.len();
    let frame = slot.packet.head.data();
    let header = Ethernet::new_checked(frame).map_err(|_| DropReason::EthernetTruncated)?;
    let parsed = &mut slot.parsed;
    parsed.ether_type = header.ether_type().0;
    match header.ether_type() {
        EtherType::IPV4 => {}
        EtherType::ARP => {
            Arp::new_checked(header.payload()).map_err(|_| DropReason::ArpMalformed)?;
            return Ok(());
        }
        EtherType::IPV6 => return Err(DropReason::Ipv6Unsupported),
        _ => return Err(DropReason::UnsupportedEtherType),
    }
    // The payload may go on in further segments, so its length is held against the packet, not the frame.
    let ip = Ipv4::new_quoted(header.payload()).map_err(|_| DropReason::Ipv4Malformed)?;
    let total_len = usize::from(ip.total_len());
    if ethernet::HEADER_LEN + total_len > available {
        return Err(DropReason::Ipv4Malformed);
    }
    if !ip.checksum_is_correct() {
        return Err(DropReason::Ipv4BadChecksum);
    }
    if ip.header_len() != ipv4::HEADER_LEN {
        return Err(DropReason::Ipv4Options);
    }
    if ip.is_fragment() {
        return Err(DropReason::Ipv4Fragment);
    }
    let (source, destination) = (ip.source(), ip.destination());
    if !is_forwardable(source) || !is_forwardable(destination) {
        return Err(DropReason::AddressInvalid);
    }
    const L4: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
    parsed.source = IpAddr::V4(source);
    parsed.destination = IpAddr::V4(destination);
    parsed.protocol = ip.protocol().0;
    parsed.ttl = ip.ttl();
    parsed.dont_fragment = ip.dont_fragment();
    parsed.ip_len = ip.total_len();
    parsed.l3 = ethernet::HEADER_LEN as u16;
    parsed.l4 = L4 as u16;
    parsed.source_port = 0;
    parsed.destination_port = 0;
    parsed.tcp_flags = Flags(0);
    parsed.icmp = Icmp::No;

    // The transport header must be in the first segment. `segment` ends with it or with the packet, whichever is first.
    let segment = ip.payload();
    let l4_len = total_len - ipv4::HEADER_LEN;
    let pseudo = || ip.pseudo_sum();
    let mut partial = None;
    match ip.protocol() {
        Protocol::TCP => {
            let header = Tcp::new_checked(segment).map_err(|_| DropReason::L4Truncated)?;
            parsed.source_port = header.source_port().get();
            parsed.destination_port = header.destination_port().get();
            parsed.tcp_flags = header.flags();
            if flags_are_invalid(header.flags()) {
                return Err(DropReason::TcpInvalidFlags);
            }
            if may_be_partial(slot.ingress) && checksum::is_partial(header.checksum(), pseudo()) {
                partial = Some(tcp::field::CHECKSUM.start);
            }
        }
        Protocol::UDP => {
            let header = Udp::new_quoted(segment).map_err(|_| DropReason::L4Truncated)?;
            if usize::from(header.len()) > l4_len {
                return Err(DropReason::L4Truncated);
            }
            parsed.source_port = header.source_port().get();
            parsed.destination_port = header.destination_port().get();
            if may_be_partial(slot.ingress) && checksum::is_partial(header.checksum(), pseudo()) {
                partial = Some(udp::field::CHECKSUM.start);
            }
        }
        Protocol::SCTP => {
            let ports: &[u8; 12] = segment.first_chunk().ok_or(DropReason::L4Truncated)?;
            parsed.source_port = u16::from_be_bytes([ports[0], ports[1]]);
            parsed.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        }
        Protocol::ICMPV4 => {
            let message = Icmpv4::new_checked(segment).map_err(|_| DropReason::L4Truncated)?;
            if message.kind().is_echo() {
                parsed.source_port = message.identifier();
                parsed.destination_port = message.identifier();
            } else if message.kind().is_error() {
                parsed.icmp = Icmp::Error(quoted(message.payload()).ok_or(DropReason::L4Truncated)?);
            }
        }
        _ => {}
    }
    if let Some(field) = partial
        && slot.packet.offload.checksum.is_none()
    {
        slot.packet.offload.checksum = Some(PartialChecksum { start: L4 as u16, offset: field as u16 });
    }
    if slot.packet.truncate(ethernet::HEADER_LEN + total_len) { Ok(()) } else { Err(DropReason::Ipv4Malformed) }
}

/// Checksums come half made from any virtual device; a port with a virtio-net header says so itself.
#[inline]
fn may_be_partial(ingress: Ingress) -> bool {
    matches!(ingress, Ingress::Endpoint(_) | Ingress::Uplink | Ingress::Tunnel(_))
}

/// Whether packets from or to this address are forwarded: not "this network", loopback, multicast, reserved or broadcast
/// (RFC 1812, 5.3.7).
#[inline]
fn is_forwardable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// The header and first eight bytes that an ICMP error quotes (RFC 792).
fn quoted(payload: &[u8]) -> Option<Quoted> {
    let ip = Ipv4::new_quoted(payload).ok()?;
    if ip.fragment_offset() != 0 {
        return None;
    }
    let l4: &[u8; 8] = payload.get(ip.header_len()..)?.first_chunk()?;
    let (first, second) = (u16::from_be_bytes([l4[0], l4[1]]), u16::from_be_bytes([l4[2], l4[3]]));
    let identifier = u16::from_be_bytes([l4[4], l4[5]]);
    let (source_port, destination_port) = match ip.protocol() {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => (first, second),
        Protocol::ICMPV4 => (identifier, identifier),
        _ => (0, 0),
    };
    Some(Quoted {
        source: ip.source(),
        destination: ip.destination(),
        source_port,
        destination_port,
        protocol: ip.protocol().0,
    })
}
