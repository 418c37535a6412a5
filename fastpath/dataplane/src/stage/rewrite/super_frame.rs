//! How long the segments of a super-frame are going to be, and making them shorter.

use caracal_wire::{Protocol, tcp, udp};

use crate::batch::Slot;

/// Less than this is no path for TCP: every IPv4 link carries so much (RFC 791).
const SEGMENT_LEN_MIN: u16 = 68;

/// Length of the IP and transport headers.
fn headers_len(slot: &Slot) -> u16 {
    let parsed = &slot.parsed;
    let transport = match Protocol(parsed.protocol) {
        Protocol::TCP => {
            let at = usize::from(parsed.l4) + tcp::field::DATA_OFFSET;
            u16::from(slot.packet.head.data().get(at).copied().unwrap_or_default() >> 4) * 4
        }
        _ => udp::HEADER_LEN as u16,
    };
    parsed.l4 - parsed.l3 + transport
}

/// Length of a super-frame's segments, but for the last; of the packet, if it is shorter.
#[cold]
pub fn segment_len(slot: &Slot) -> u16 {
    headers_len(slot).saturating_add(slot.packet.offload.gso_size).min(slot.parsed.ip_len)
}

/// How many segments a super-frame is going to be.
#[cold]
pub fn segments(slot: &Slot) -> u64 {
    let payload = slot.parsed.ip_len.saturating_sub(headers_len(slot));
    u64::from(payload.div_ceil(slot.packet.offload.gso_size.max(1)).max(1))
}

/// Bytes of all segments of a super-frame: each has headers of its own.
#[cold]
pub fn bytes(slot: &Slot) -> u64 {
    let headers = u64::from(slot.parsed.l3 + headers_len(slot));
    slot.packet.len() as u64 + (segments(slot) - 1) * headers
}

/// Has a super-frame of TCP that may be fragmented cut into shorter segments instead. False: it is none.
#[cold]
pub fn shorten(slot: &mut Slot, mtu: u16) -> bool {
    if slot.parsed.dont_fragment || slot.parsed.protocol != Protocol::TCP.0 {
        return false;
    }
    let size = mtu.max(SEGMENT_LEN_MIN).saturating_sub(headers_len(slot));
    slot.packet.offload.gso_size = size.max(1);
    true
}
