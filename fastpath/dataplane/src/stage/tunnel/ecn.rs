//! Congestion marks through tunnels (RFC 6040): a mark set on the outer header on the way is carried over to the packet
//! inside.
//!
//! ```text
//!            outer  Not-ECT   ECT(0)   ECT(1)    CE
//!   inner Not-ECT   Not-ECT  Not-ECT  Not-ECT  dropped      what goes on, RFC 6040, figure 4
//!         ECT(0)    ECT(0)   ECT(0)   ECT(1)     CE
//!         ECT(1)    ECT(1)   ECT(1)   ECT(1)     CE
//!         CE          CE       CE       CE       CE
//! ```
//!
//! On the way in the mark is copied ("normal mode", 4.1), CE too, where Linux writes ECT(0) for that (RFC 3168, 9.1.1);
//! both ends understand either.

use caracal_wire::{checksum, ipv4, ipv6};

use crate::batch::Slot;
use crate::drop_reason::DropReason;

/// The bits of type of service or traffic class that are ECN (RFC 3168).
pub const MASK: u8 = 0b11;
/// The sender's transport does not know of ECN.
pub const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// A packet's mark, which its outer header gets.
#[inline]
pub fn of(slot: &Slot) -> u8 {
    let at = usize::from(slot.parsed.l3) + ipv4::field::TOS;
    let byte = slot.packet.head.data().get(at).copied().unwrap_or(0);
    // The byte of the type of service has the middle of IPv6's traffic class, whose last two bits are ECN.
    if slot.parsed.is_ipv4() { byte & MASK } else { byte >> IPV6_SHIFT & MASK }
}

/// Where traffic class ends in the second byte of an IPv6 header.
const IPV6_SHIFT: u8 = 4;

/// The mark in a type of service.
#[inline]
#[must_use]
pub fn of_tos(tos: u8) -> u8 {
    tos & MASK
}

/// Whether a packet with this type of service comes out of a tunnel as it is, if the outer header has that one.
#[inline]
#[must_use]
pub fn leaves(inner: u8, outer: u8) -> bool {
    of_tos(outer) == NOT_ECT || of_tos(outer) == of_tos(inner)
}

/// Combines the outer header's mark with that of the packet that has come out of the tunnel.
pub fn leave(slot: &mut Slot, outer: u8) -> Result<(), DropReason> {
    let inner = of(slot);
    let mark = match (inner, outer) {
        (NOT_ECT, CE) => return Err(DropReason::TunnelCongested),
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        (inner, _) => inner,
    };
    if mark != inner {
        set(slot, mark);
    }
    Ok(())
}

fn set(slot: &mut Slot, mark: u8) {
    let (l3, is_ipv4) = (usize::from(slot.parsed.l3), slot.parsed.is_ipv4());
    let Some(header) = slot.packet.head.data_mut().get_mut(l3..) else { return };
    if !is_ipv4 {
        if let Some(byte) = header.get_mut(ipv6::field::VERSION_CLASS_LABEL.start + 1) {
            *byte = *byte & !(MASK << IPV6_SHIFT) | mark << IPV6_SHIFT;
        }
        return;
    }
    let Some(header) = header.first_chunk_mut::<{ ipv4::HEADER_LEN }>() else { return };
    let before = u16::from_be_bytes([header[ipv4::field::VERSION_IHL], header[ipv4::field::TOS]]);
    let after = before & !u16::from(MASK) | u16::from(mark);
    let sum =
        u16::from_be_bytes([header[ipv4::field::CHECKSUM.start], header[ipv4::field::CHECKSUM.start + 1]]);
    header[ipv4::field::TOS] = after as u8;
    header[ipv4::field::CHECKSUM].copy_from_slice(&checksum::update_u16(sum, before, after).to_be_bytes());
}
