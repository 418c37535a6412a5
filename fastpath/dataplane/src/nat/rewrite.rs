//! Other addresses and ports for a packet, with every checksum that covers them mended (RFC 1624), not made anew: what
//! was wrong before is wrong after, and doing it and undoing it gives the packet back.
//!
//! ```text
//!            IPv4 header       TCP · UDP · ICMP · ICMPv6        SCTP
//!  address   its checksum      checksum (pseudo-header; not ICMP)
//!  port                        checksum                         CRC32c, by the difference
//! ```
//!
//! UDP's checksum of zero says that there is none, and stays (RFC 768). A half-made checksum is the pseudo-header's sum,
//! not complemented: only addresses change it. An ICMP error is rewritten outside and inside (RFC 5508): the packet that it
//! quotes must look as its sender sent it.

use std::net::IpAddr;

use caracal_wire::checksum::{self, Sum};
use caracal_wire::{Protocol, icmpv4, icmpv6, ipv4, ipv6, sctp, tcp, udp};

use super::Socket;
use crate::batch::Slot;
use crate::stage::parse::{Fragment, Icmp, Parsed, Quoted};

/// One that has no ports and no checksum: of what is left of a datagram without its first part ("no next header").
const NO_PROTOCOL: Protocol = Protocol(59);

/// The packet cannot be given these addresses and ports: it has none of them, or they are of another family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotRewrite;

/// Gives a packet that is no ICMP error another source and destination. The ports of an ICMP message stand for its
/// identifier, see [`Icmp`]; what stands for its type cannot be changed.
///
/// # Errors
/// [`CannotRewrite`], and nothing has changed.
pub fn rewrite(slot: &mut Slot, source: Socket, destination: Socket) -> Result<(), CannotRewrite> {
    let parsed = slot.parsed;
    let before = [(parsed.source, parsed.source_port), (parsed.destination, parsed.destination_port)];
    let after = [source, destination];
    let l4_len = usize::from(parsed.ip_len.saturating_sub(parsed.l4 - parsed.l3));
    let is_partial = slot.packet.offload.checksum.is_some();
    let frame = slot.packet.head.data_mut();
    let ip = frame.get_mut(usize::from(parsed.l3)..).ok_or(CannotRewrite)?;
    let l4 = usize::from(parsed.l4 - parsed.l3);
    let protocol = match parsed.fragment {
        // There is nothing but addresses in it.
        Fragment::Later => NO_PROTOCOL,
        _ => Protocol(parsed.protocol),
    };
    // SCTP's checksum is over all parts, and nobody knows how long they are.
    let ports_change = before[0].1 != after[0].1 || before[1].1 != after[1].1;
    if protocol == Protocol::SCTP && parsed.fragment == Fragment::First && ports_change {
        return Err(CannotRewrite);
    }
    let part = Part { protocol, l4, l4_len, is_partial };
    part.rewrite(ip, before, after)?;
    (slot.parsed.source, slot.parsed.source_port) = source;
    (slot.parsed.destination, slot.parsed.destination_port) = destination;
    Ok(())
}

/// Gives an ICMP error other addresses, and the packet that it quotes another source and destination.
///
/// # Errors
/// [`CannotRewrite`]; the packet is to be dropped.
pub fn rewrite_error(
    slot: &mut Slot,
    about: &Quoted,
    addresses: [IpAddr; 2],
    quoted: [Socket; 2],
) -> Result<(), CannotRewrite> {
    let Parsed { l3, l4, source, destination, icmp, .. } = slot.parsed;
    let Icmp::Error(..) = icmp else { return Err(CannotRewrite) };
    let ip = slot.packet.head.data_mut().get_mut(usize::from(l3)..).ok_or(CannotRewrite)?;
    let l4 = usize::from(l4 - l3);
    let message = ip.get_mut(l4..).ok_or(CannotRewrite)?;
    // RFC 792, RFC 4443: eight bytes, then what is quoted.
    let inner = message.get_mut(icmpv4::HEADER_LEN..).ok_or(CannotRewrite)?;
    let inner_l4 = match about.source {
        IpAddr::V4(_) => usize::from(inner.first().ok_or(CannotRewrite)? & 0x0f) * 4,
        IpAddr::V6(_) => caracal_wire::Ipv6::new_quoted(&*inner)
            .ok()
            .and_then(|ip| ip.upper_layer().ok())
            .map(|upper| upper.offset)
            .ok_or(CannotRewrite)?,
    };
    // What is quoted may end anywhere; what it says of its length counts.
    let inner_len = match about.source {
        IpAddr::V4(_) => inner.get(2..4).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]]))),
        IpAddr::V6(_) => {
            inner.get(4..6).map(|b| ipv6::HEADER_LEN + usize::from(u16::from_be_bytes([b[0], b[1]])))
        }
    };
    let l4_len = inner_len.unwrap_or(0).saturating_sub(inner_l4);
    let part = Part { protocol: Protocol(about.protocol), l4: inner_l4, l4_len, is_partial: false };
    let before = [(about.source, about.source_port), (about.destination, about.destination_port)];
    // Everything that changes is in what is summed: an even number of bytes, or to the end.
    let changed = inner.len().min((inner_l4 + tcp::HEADER_LEN).next_multiple_of(2));
    let sum = |inner: &[u8]| Sum::of(&inner[..changed]);
    let sum_before = sum(inner);
    part.rewrite(inner, before, quoted)?;
    let difference = (sum_before, sum(inner));
    let field = message.get_mut(icmpv4::field::CHECKSUM).ok_or(CannotRewrite)?;
    mend(field, difference.0, difference.1);
    let outer = Part {
        protocol: Protocol(slot.parsed.protocol),
        l4,
        l4_len: 0,
        is_partial: slot.packet.offload.checksum.is_some(),
    };
    let ip = slot.packet.head.data_mut().get_mut(usize::from(l3)..).ok_or(CannotRewrite)?;
    outer.rewrite(ip, [(source, 0), (destination, 0)], addresses.map(|address| (address, 0)))?;
    [slot.parsed.source, slot.parsed.destination] = addresses;
    Ok(())
}

/// A packet, or what is quoted of one.
struct Part {
    protocol: Protocol,
    /// Where its transport header begins.
    l4: usize,
    /// How long it is from there on, said to be.
    l4_len: usize,
    /// The transport checksum is half made.
    is_partial: bool,
}

/// Where in a transport header is what stands for ports, and what covers it.
struct Layout {
    source: Option<usize>,
    destination: Option<usize>,
    checksum: Option<usize>,
    covers_addresses: bool,
}

impl Part {
    fn rewrite(&self, ip: &mut [u8], before: [Socket; 2], after: [Socket; 2]) -> Result<(), CannotRewrite> {
        let same_family = |i: usize| before[i].0.is_ipv4() == after[i].0.is_ipv4();
        if !same_family(0) || !same_family(1) {
            return Err(CannotRewrite);
        }
        let is_v4 = before[0].0.is_ipv4();
        let layout = self.layout(ip, is_v4)?;
        for (at, i) in [(layout.source, 0), (layout.destination, 1)] {
            let must_change = before[i].1 != after[i].1;
            if must_change && self.protocol != NO_PROTOCOL && at.is_none_or(|at| ip.len() < self.l4 + at + 2)
            {
                return Err(CannotRewrite);
            }
        }
        let addresses = if is_v4 { ipv4::field::SOURCE.start..20 } else { ipv6::field::SOURCE.start..40 };
        let bytes = ip.get_mut(addresses).ok_or(CannotRewrite)?;
        let addresses_before = Sum::of(bytes);
        write_addresses(bytes, [after[0].0, after[1].0]);
        let addresses_after = Sum::of(bytes);
        if is_v4 && let Some(field) = ip.get_mut(ipv4::field::CHECKSUM) {
            mend(field, addresses_before, addresses_after);
        }

        let Some(l4) = ip.get_mut(self.l4..) else { return Ok(()) };
        let (mut sum_before, mut sum_after) = (Sum::ZERO, Sum::ZERO);
        if layout.covers_addresses {
            (sum_before, sum_after) = (addresses_before, addresses_after);
        }
        let ports_before = l4.first_chunk::<4>().copied();
        for (at, i) in [(layout.source, 0), (layout.destination, 1)] {
            if let Some(field) = at.and_then(|at| l4.get_mut(at..at + 2)) {
                field.copy_from_slice(&after[i].1.to_be_bytes());
                // Those that the checksum is not yet over are in it when it is made.
                if !self.is_partial {
                    sum_before += Sum::ZERO + before[i].1;
                    sum_after += Sum::ZERO + after[i].1;
                }
            }
        }
        if self.protocol == Protocol::SCTP {
            if let (Some(before), Some(after)) = (ports_before, l4.first_chunk::<4>().copied())
                && let Some(field) = l4.get_mut(sctp::field::CHECKSUM)
                && let Ok(bytes) = <[u8; 4]>::try_from(&*field)
                // RFC 9653: zero says that there is none.
                && bytes != [0; 4]
            {
                let mended = sctp::update_ports(u32::from_le_bytes(bytes), before, after, self.l4_len);
                field.copy_from_slice(&mended.to_le_bytes());
            }
            return Ok(());
        }
        // An error may quote too little to have the checksum in it.
        let Some(field) = layout.checksum.and_then(|at| l4.get_mut(at..at + 2)) else { return Ok(()) };
        if self.is_partial {
            let held = u16::from_be_bytes([field[0], field[1]]);
            let mended = !checksum::update_u16(!held, sum_before.fold(), sum_after.fold());
            field.copy_from_slice(&mended.to_be_bytes());
        } else if self.protocol != Protocol::UDP {
            mend(field, sum_before, sum_after);
        } else if field != [0, 0] {
            mend(field, sum_before, sum_after);
            if field == [0, 0] {
                field.copy_from_slice(&[0xff, 0xff]);
            }
        }
        Ok(())
    }

    fn layout(&self, ip: &[u8], is_v4: bool) -> Result<Layout, CannotRewrite> {
        let with_ports =
            |checksum| Layout { source: Some(0), destination: Some(2), checksum, covers_addresses: true };
        Ok(match self.protocol {
            Protocol::TCP => with_ports(Some(tcp::field::CHECKSUM.start)),
            Protocol::UDP => with_ports(Some(udp::field::CHECKSUM.start)),
            Protocol::SCTP => with_ports(None),
            Protocol::ICMPV4 if is_v4 => {
                let (source, destination) = match ip.get(self.l4).ok_or(CannotRewrite)? {
                    8 | 13 | 15 | 17 => (Some(IDENTIFIER), None),
                    0 | 14 | 16 | 18 => (None, Some(IDENTIFIER)),
                    _ => (None, None),
                };
                let checksum = Some(icmpv4::field::CHECKSUM.start);
                Layout { source, destination, checksum, covers_addresses: false }
            }
            Protocol::ICMPV6 if !is_v4 => {
                let (source, destination) = match ip.get(self.l4).ok_or(CannotRewrite)? {
                    128 => (Some(IDENTIFIER), None),
                    129 => (None, Some(IDENTIFIER)),
                    _ => (None, None),
                };
                let checksum = Some(icmpv6::field::CHECKSUM.start);
                Layout { source, destination, checksum, covers_addresses: true }
            }
            _ => Layout { source: None, destination: None, checksum: None, covers_addresses: false },
        })
    }
}

/// Where a question and its answer have their identifier.
const IDENTIFIER: usize = 4;

fn write_addresses(bytes: &mut [u8], [source, destination]: [IpAddr; 2]) {
    let (first, second) = bytes.split_at_mut(bytes.len() / 2);
    for (bytes, address) in [(first, source), (second, destination)] {
        match address {
            IpAddr::V4(v4) if bytes.len() == 4 => bytes.copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) if bytes.len() == 16 => bytes.copy_from_slice(&v6.octets()),
            _ => {}
        }
    }
}

/// Mends a checksum after what it covers had one sum and has another.
fn mend(field: &mut [u8], before: Sum, after: Sum) {
    let (before, after) = (before.fold(), after.fold());
    if let [high, low] = field
        && before != after
    {
        let mended = checksum::update_u16(u16::from_be_bytes([*high, *low]), before, after);
        [*high, *low] = mended.to_be_bytes();
    }
}

#[cfg(test)]
mod tests;
