//! IPv4 in IPv4 (RFC 2003): one more IPv4 header, and nothing that says whose.

use caracal_wire::{EtherType, MacAddr, Protocol, ethernet, ipv4};

use super::{ecn, no_way, outer_v4_header, way_out};
use crate::batch::{Egress, Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::stage::Context;
use crate::table::{Encapsulation, TunnelIndex};

const OVERHEAD: u16 = ipv4::HEADER_LEN as u16;

/// Takes the outer header off; the Ethernet header moves up to the packet inside.
pub fn open(slot: &mut Slot, outer_len: u16) -> Result<(), DropReason> {
    slot.packet.trim_front(outer_len);
    // What is inside is IPv4, as the outer header has said: a packet of another version is found malformed.
    let header =
        ethernet::Repr { destination: MacAddr::ZERO, source: MacAddr::ZERO, ether_type: EtherType::IPV4 };
    header.emit(slot.packet.head.data_mut()).map_err(|_| DropReason::TunnelMalformed)
}

/// Puts an IPv4 packet into the tunnel to another node and addresses it to the next hop there.
///
/// RFC 2003, 3.1: the time to live is what suffices to reach the other end. "Don't fragment" must be set if it is inside
/// and may be if not; it is always, since ends of tunnels here do not put outer packets together again.
pub fn encapsulate(context: &mut Context, slot: &mut Slot, tunnel: TunnelIndex) -> Result<(), DropReason> {
    let tables = context.tables;
    let node = tables.node.config().ok_or(DropReason::NoRoute)?;
    let far = tables.tunnels.get(tunnel).and_then(|tunnel| tunnel.v4.as_ref());
    let (Some(source), Some(far), true) = (node.address_v4, far, slot.parsed.is_ipv4()) else {
        return no_way(context, slot);
    };
    let Some(underlay) = &far.underlay else { return no_way(context, slot) };
    let way = way_out(context, slot, underlay, OVERHEAD, |context, piece| {
        super::send(context, piece, tunnel, Encapsulation::Ipip);
    })?;
    let inner_len = slot.packet.len() - ethernet::HEADER_LEN;
    let ip_header = ipv4::Repr {
        tos: ecn::of(slot),
        payload_len: super::outer_len(&slot.packet, inner_len)?,
        ..outer_v4_header(Protocol::IPIP, source, far.node_address)
    };
    slot.packet.prepend(OVERHEAD).ok_or(DropReason::NoHeadroom)?;
    // The new bytes and the Ethernet header that was there make room for Ethernet and the outer header.
    let outer = slot.packet.head.data_mut();
    let (link, ip) = outer.split_at_mut_checked(ethernet::HEADER_LEN).ok_or(DropReason::NoHeadroom)?;
    way.emit(EtherType::IPV4, link).and_then(|()| ip_header.emit(ip)).map_err(|_| DropReason::Oversized)?;
    context.counters.pipeline.tunnel_encapsulated.add(1);
    slot.verdict = Verdict::Transmit(Egress::Uplink(way.uplink));
    Ok(())
}
