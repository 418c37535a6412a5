//! The transport header: ports, flags, and what an ICMP message is. The same for both versions of IP.

use std::net::IpAddr;

use caracal_wire::tcp::Flags;
use caracal_wire::{Icmpv4, Icmpv6, Ipv4, Ipv6, Protocol, tcp, udp};

use super::{Fragment, Icmp, Parsed};
use crate::batch::Slot;
use crate::drop_reason::DropReason;
use crate::flow::tcp::flags_are_invalid;

/// What the transport header says.
pub(super) struct Transport {
    source_port: u16,
    destination_port: u16,
    tcp_flags: Flags,
    /// Where the checksum field is in the header, and what is in it.
    pub checksum: Option<(u16, u16)>,
    icmp: Icmp,
}

impl Transport {
    const NOTHING: Transport = Transport {
        source_port: 0,
        destination_port: 0,
        tcp_flags: Flags(0),
        checksum: None,
        icmp: Icmp::No,
    };

    /// Reads the header at the beginning of `segment`, of a packet that has `l4_len` bytes from there on. `own_icmp`:
    /// which ICMP belongs to this version of IP.
    // Into what parses whole packets; nobody else is in a hurry.
    #[inline(always)]
    pub fn parse(
        protocol: Protocol,
        own_icmp: Protocol,
        segment: &[u8],
        l4_len: usize,
    ) -> Result<Self, DropReason> {
        let truncated = DropReason::L4Truncated;
        let mut found = Transport::NOTHING;
        match protocol {
            Protocol::TCP => {
                let header: &[u8; tcp::HEADER_LEN] = segment.first_chunk().ok_or(truncated)?;
                let header_len = usize::from(header[tcp::field::DATA_OFFSET] >> 4) * 4;
                if header_len < tcp::HEADER_LEN || header_len > segment.len() {
                    return Err(truncated);
                }
                found.tcp_flags = Flags(header[tcp::field::FLAGS]);
                if flags_are_invalid(found.tcp_flags) {
                    return Err(DropReason::TcpInvalidFlags);
                }
                found.source_port = u16::from_be_bytes([header[0], header[1]]);
                found.destination_port = u16::from_be_bytes([header[2], header[3]]);
                found.checksum =
                    Some((tcp::field::CHECKSUM.start as u16, u16::from_be_bytes([header[16], header[17]])));
            }
            Protocol::UDP => {
                let header: &[u8; udp::HEADER_LEN] = segment.first_chunk().ok_or(truncated)?;
                let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                if len < udp::HEADER_LEN || len > l4_len {
                    return Err(truncated);
                }
                found.source_port = u16::from_be_bytes([header[0], header[1]]);
                found.destination_port = u16::from_be_bytes([header[2], header[3]]);
                found.checksum =
                    Some((udp::field::CHECKSUM.start as u16, u16::from_be_bytes([header[6], header[7]])));
            }
            Protocol::SCTP => {
                let header: &[u8; 12] = segment.first_chunk().ok_or(truncated)?;
                found.source_port = u16::from_be_bytes([header[0], header[1]]);
                found.destination_port = u16::from_be_bytes([header[2], header[3]]);
            }
            _ if protocol == own_icmp => return Transport::of_icmp(own_icmp, segment).ok_or(truncated),
            _ => {}
        }
        Ok(found)
    }

    /// As [`parse`](Self::parse) of a part of a datagram. The first must have what the others are judged by: one that ends
    /// within the transport header hides something (RFC 1858, RFC 7112), and errors, which quote only what fits, are
    /// whole. The checksum is over all parts, so nothing follows from it here: whoever fragments has completed it.
    #[cold]
    pub fn of_part(
        fragment: Fragment,
        protocol: Protocol,
        own_icmp: Protocol,
        segment: &[u8],
    ) -> Result<Self, DropReason> {
        if fragment == Fragment::Later {
            return Ok(Transport::NOTHING);
        }
        let found = Transport::parse(protocol, own_icmp, segment, usize::from(u16::MAX));
        let found = found.map_err(|reason| match reason {
            DropReason::L4Truncated => DropReason::FragmentMalformed,
            reason => reason,
        })?;
        match found.icmp {
            Icmp::Error(..) => Err(DropReason::FragmentMalformed),
            _ => Ok(Transport { checksum: None, ..found }),
        }
    }

    #[inline(never)]
    fn of_icmp(own_icmp: Protocol, segment: &[u8]) -> Option<Transport> {
        let header: &[u8; 8] = segment.first_chunk()?;
        let (kind, code) = (header[0], header[1]);
        let (is_error, quotes) = if own_icmp == Protocol::ICMPV4 {
            let message = Icmpv4::new_checked(segment).ok()?;
            (message.kind().is_error(), quoted_v4(message.payload()).is_some())
        } else {
            let message = Icmpv6::new_checked(segment).ok()?;
            (message.kind().is_error(), quoted_v6(message.payload()).is_some())
        };
        if is_error {
            return quotes.then_some(Transport { icmp: Icmp::Error(kind, code), ..Transport::NOTHING });
        }
        let (source_port, destination_port) = instead_of_ports(own_icmp, header);
        let icmp = Icmp::Message(kind, code);
        Some(Transport { source_port, destination_port, icmp, ..Transport::NOTHING })
    }

    /// Writes down what was found.
    #[inline]
    pub fn tell(&self, parsed: &mut Parsed) {
        parsed.source_port = self.source_port;
        parsed.destination_port = self.destination_port;
        parsed.tcp_flags = self.tcp_flags;
        parsed.icmp = self.icmp;
    }
}

/// What stands for ports in an ICMP message that is no error: see [`Icmp`].
fn instead_of_ports(own_icmp: Protocol, header: &[u8; 8]) -> (u16, u16) {
    let [kind, code, _, _, high, low, _, _] = *header;
    let identifier = u16::from_be_bytes([high, low]);
    let question = |kind: u8| u16::from_be_bytes([kind, code]);
    // RFC 792: echo, timestamp, information; RFC 950: address mask. RFC 4443: echo.
    match (own_icmp, kind) {
        (Protocol::ICMPV4, 8 | 13 | 15 | 17) | (Protocol::ICMPV6, 128) => (identifier, question(kind)),
        (Protocol::ICMPV4, 0) => (question(8), identifier),
        (Protocol::ICMPV4, 14 | 16 | 18) | (Protocol::ICMPV6, 129) => (question(kind - 1), identifier),
        _ => (0, question(kind)),
    }
}

/// The packet that an ICMP error is about, as its sender sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// Its source port, or what stands for it.
    pub source_port: u16,
    /// Its destination port, or what stands for it.
    pub destination_port: u16,
    /// Its protocol.
    pub protocol: u8,
}

/// The packet that an ICMP error is about. None: the packet is no such error.
#[must_use]
pub fn quoted(slot: &Slot) -> Option<Quoted> {
    let message = slot.packet.head.data().get(usize::from(slot.parsed.l4)..)?;
    if slot.parsed.is_ipv4() {
        quoted_v4(Icmpv4::new_checked(message).ok()?.payload())
    } else {
        quoted_v6(Icmpv6::new_checked(message).ok()?.payload())
    }
}

/// The header and first eight bytes that an ICMP error quotes (RFC 792).
fn quoted_v4(payload: &[u8]) -> Option<Quoted> {
    let ip = Ipv4::new_quoted(payload).ok()?;
    if ip.fragment_offset() != 0 {
        return None;
    }
    let l4 = payload.get(ip.header_len()..)?.first_chunk()?;
    let ports = quoted_ports(ip.protocol(), Protocol::ICMPV4, l4);
    Some(Quoted {
        source: ip.source().into(),
        destination: ip.destination().into(),
        source_port: ports.0,
        destination_port: ports.1,
        protocol: ip.protocol().0,
    })
}

/// The same for ICMPv6 (RFC 4443, 2.4 c), which quotes as much as fits.
fn quoted_v6(payload: &[u8]) -> Option<Quoted> {
    let ip = Ipv6::new_quoted(payload).ok()?;
    let upper = ip.upper_layer().ok()?;
    if upper.fragment.is_some_and(|part| part.offset != 0) {
        return None;
    }
    let l4 = payload.get(upper.offset..)?.first_chunk()?;
    let ports = quoted_ports(upper.protocol, Protocol::ICMPV6, l4);
    Some(Quoted {
        source: ip.source().into(),
        destination: ip.destination().into(),
        source_port: ports.0,
        destination_port: ports.1,
        protocol: upper.protocol.0,
    })
}

fn quoted_ports(protocol: Protocol, own_icmp: Protocol, l4: &[u8; 8]) -> (u16, u16) {
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            (u16::from_be_bytes([l4[0], l4[1]]), u16::from_be_bytes([l4[2], l4[3]]))
        }
        _ if protocol == own_icmp => instead_of_ports(own_icmp, l4),
        _ => (0, 0),
    }
}
