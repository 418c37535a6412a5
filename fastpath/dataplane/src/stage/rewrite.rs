//! The last touch: time to live, MTU, and the Ethernet header of the link that the packet leaves by.

mod super_frame;

use std::net::IpAddr;

use caracal_wire::{MacAddr, checksum, ethernet, ipv4, ipv6};

use crate::batch::{Egress, Ingress, Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::stage::arp::GATEWAY_MAC;
use crate::stage::{Context, fragmentation, icmp_error};
use crate::table::{EndpointIndex, FibEntry, NextHop};

/// Takes one from the time to live and mends the header checksum (RFC 1624), or from the hop limit, which nothing
/// covers. The caller has seen that there is more than one.
#[inline]
pub fn decrement_ttl(slot: &mut Slot) {
    if !slot.parsed.is_ipv4() {
        let at = usize::from(slot.parsed.l3) + ipv6::field::HOP_LIMIT;
        let Some(hop_limit) = slot.packet.head.data_mut().get_mut(at) else { return };
        *hop_limit = hop_limit.saturating_sub(1);
        slot.parsed.ttl = *hop_limit;
        return;
    }
    let at = usize::from(slot.parsed.l3) + ipv4::field::TTL;
    // Time to live, protocol, checksum: the bytes that change lie beside one another.
    let Some([ttl, protocol, high, low]) = slot.packet.head.data_mut().get_mut(at..at + 4) else { return };
    let before = u16::from_be_bytes([*ttl, *protocol]);
    let checksum = u16::from_be_bytes([*high, *low]);
    *ttl = ttl.saturating_sub(1);
    [*high, *low] =
        checksum::update_u16(checksum, before, u16::from_be_bytes([*ttl, *protocol])).to_be_bytes();
    slot.parsed.ttl = *ttl;
}

/// Whether no packet that is going to be on a wire is longer: of a super-frame, which the port that cannot carry it whole cuts,
/// no segment.
#[inline]
pub fn is_within(slot: &Slot, mtu: u16) -> bool {
    slot.parsed.ip_len <= mtu || (slot.packet.offload.gso_size != 0 && super_frame::segment_len(slot) <= mtu)
}

/// How many packets on a wire this is: of a super-frame, its segments.
#[inline]
pub fn packets(slot: &Slot) -> u64 {
    if slot.packet.offload.gso_size == 0 { 1 } else { super_frame::segments(slot) }
}

/// How many bytes on a wire this is, from the Ethernet header on: of a super-frame, those of all its segments.
#[inline]
pub fn bytes(slot: &Slot) -> u64 {
    if slot.packet.offload.gso_size == 0 { slot.packet.len() as u64 } else { super_frame::bytes(slot) }
}

/// Makes the packet fit: one that may be is cut, and `exit` takes out the pieces behind the first, which stays here. If it
/// asked not to be, its sender is told and the packet dropped: false.
#[inline]
pub fn fits(
    context: &mut Context,
    slot: &mut Slot,
    mtu: u16,
    mut exit: impl FnMut(&mut Context, &mut Slot),
) -> bool {
    if is_within(slot, mtu) {
        return true;
    }
    let is_super_frame = slot.packet.offload.gso_size != 0;
    if is_super_frame && super_frame::shorten(slot, mtu) {
        return true;
    }
    if !slot.parsed.dont_fragment && !is_super_frame {
        return fragmentation::cut(context, slot, mtu, &mut exit);
    }
    icmp_error::too_big(context, slot, mtu);
    slot.drop(DropReason::PacketTooBig);
    false
}

/// Writes the Ethernet addresses; the type is already there.
#[inline]
pub fn address(slot: &mut Slot, to: MacAddr, from: MacAddr) {
    if let Some(header) = slot.packet.head.data_mut().first_chunk_mut::<{ ethernet::HEADER_LEN }>() {
        header[ethernet::field::DESTINATION].copy_from_slice(&to.0);
        header[ethernet::field::SOURCE].copy_from_slice(&from.0);
    }
}

/// Sends a plain packet to an uplink, towards `towards`: the destination itself, or the node that it is behind.
pub fn to_uplink(context: &mut Context, slot: &mut Slot, towards: IpAddr) {
    let Some(FibEntry::Via { ifindex, next_hop, mtu, .. }) = context.tables.fib.lookup(towards).copied()
    else {
        icmp_error::unreachable(context, slot, icmp_error::Unreachable::Net);
        return slot.drop(DropReason::NoRoute);
    };
    if !fits(context, slot, mtu, |context, piece| to_uplink(context, piece, towards)) {
        return;
    }
    let (hop, neighbor) = match next_hop {
        NextHop::Gateway { neighbor, address } => (address, Some(neighbor)),
        NextHop::OnLink => (towards, context.tables.neighbors.find(ifindex, towards)),
    };
    let Some(mac) = neighbor.and_then(|n| context.tables.neighbors.mac(n)) else {
        context.wants_neighbor(ifindex, hop);
        return slot.drop(DropReason::NeighborUnresolved);
    };
    let Some((uplink, link)) = context.links.uplink_on(ifindex) else {
        return slot.drop(DropReason::PortGone);
    };
    address(slot, mac, link.mac);
    context.counters.pipeline.to_uplink_plain.add(1);
    slot.verdict = Verdict::Transmit(Egress::Uplink(uplink));
}

/// Writes the link's header for what goes to this host or to an endpoint.
#[inline]
pub fn finish(context: &mut Context, slot: &mut Slot) {
    match slot.verdict {
        Verdict::Continue => match slot.deliver_to {
            Some(endpoint) => to_endpoint(context, slot, endpoint),
            // Every packet that goes on has been routed.
            None => slot.drop(DropReason::NoRoute),
        },
        Verdict::Transmit(Egress::Host) => to_host(context, slot, context.links.host),
        Verdict::Transmit(Egress::Forward) => to_host(context, slot, context.links.forward),
        _ => {}
    }
}

#[inline]
fn to_endpoint(context: &mut Context, slot: &mut Slot, endpoint: EndpointIndex) {
    let Some(link) = context.links.endpoint(endpoint).copied() else {
        return slot.drop(DropReason::EndpointNotReady);
    };
    if !fits(context, slot, link.mtu, |context, piece| to_endpoint(context, piece, endpoint)) {
        return;
    }
    let Some(mac) = link.pod_mac else { return slot.drop(DropReason::NeighborUnresolved) };
    address(slot, mac, GATEWAY_MAC);
    if matches!(slot.ingress, crate::batch::Ingress::Endpoint(_)) {
        context.counters.pipeline.delivered_local.add(1);
    }
    slot.verdict = Verdict::Transmit(Egress::Endpoint(endpoint));
}

fn to_host(context: &mut Context, slot: &mut Slot, link: Option<crate::pipeline::Link>) {
    let Some(link) = link else { return slot.drop(DropReason::PortGone) };
    if slot.deliver_to.is_some() {
        slot.deliver_to = None;
    }
    // A tap takes any size: its MTU is for what the host sends by it. What an uplink brought is as large as that allows, and
    // the host, whose it is, would have got it whole.
    let is_the_hosts = matches!(slot.ingress, Ingress::Uplink(_));
    if !is_the_hosts && !fits(context, slot, link.mtu, |context, piece| to_host(context, piece, Some(link))) {
        return;
    }
    address(slot, link.mac, GATEWAY_MAC);
}
