//! VXLAN (RFC 7348), as Calico uses it: one network identifier, every node's tunnel endpoint known beforehand, inner
//! Ethernet addressed to the other node's tunnel MAC.
//!
//! ```text
//!   Ethernet 14 │ IPv4 20 │ UDP 8 │ VXLAN 8 │ Ethernet 14 │ IPv4 …
//!   └──────────────── 50 bytes in front ────┴── 14 that were there: 50 bytes less for the packet inside ─┘
//! ```

use std::net::{IpAddr, Ipv4Addr};

use caracal_wire::{EtherType, Protocol, Vni, Vxlan, ethernet, ipv4, udp, vxlan};

use crate::batch::{Egress, Ingress, Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::stage::{Context, icmp_error, parse, rewrite};
use crate::table::TunnelIndex;

/// What goes in front of the inner Ethernet header.
const OUTER_LEN: u16 = (ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN) as u16;
/// By how much the packet inside must be shorter than the underlay's MTU.
pub const OVERHEAD: u16 =
    (ipv4::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN) as u16;

/// Outer source ports: the ephemeral range of RFC 6335, so that the fabric spreads flows over its links.
const SOURCE_PORT_FIRST: u16 = 49_152;
const SOURCE_PORT_COUNT: u16 = 16_384;

const OUTER_TTL: u8 = 64;

/// Parses a packet from the fabric; one that is in a tunnel is taken out of it first.
#[inline]
pub fn receive(context: &mut Context, slot: &mut Slot) {
    if let Err(reason) = try_receive(context, slot) {
        slot.drop(reason);
    }
}

#[inline]
fn try_receive(context: &mut Context, slot: &mut Slot) -> Result<(), DropReason> {
    let Some(node) = context.tables.node.config() else { return Err(DropReason::NoRoute) };
    let Some((source, outer)) = tunnel_packet(slot, node.address_v4, node.vxlan_port)? else {
        return parse::try_parse(slot);
    };
    let tunnel = context.tables.tunnels.by_source(source).ok_or(DropReason::TunnelUnknownSource)?;
    let header = Vxlan::new_checked(&outer[UDP_END..]).map_err(|_| DropReason::TunnelMalformed)?;
    if header.vni().get() != node.vni {
        return Err(DropReason::TunnelUnknownVni);
    }
    slot.packet.trim_front(OUTER_LEN);
    // What is inside must be Ethernet, and no ARP: every tunnel endpoint is known beforehand.
    let inner =
        slot.packet.head.data().get(ethernet::field::ETHER_TYPE).ok_or(DropReason::TunnelMalformed)?;
    if inner == EtherType::ARP.0.to_be_bytes() {
        return Err(DropReason::TunnelMalformed);
    }
    slot.ingress = Ingress::Tunnel(tunnel);
    parse::try_parse(slot)?;
    let parsed = &slot.parsed;
    let is_vxlan = parsed.protocol == Protocol::UDP.0 && parsed.destination_port == node.vxlan_port;
    if node.owns(parsed.destination) && (is_vxlan || parsed.protocol == Protocol::IPIP.0) {
        return Err(DropReason::TunnelNested);
    }
    context.counters.pipeline.tunnel_decapsulated.add(1);
    Ok(())
}

/// Where the outer UDP header ends and VXLAN's begins.
const UDP_END: usize = parse::HEADERS + udp::HEADER_LEN;

/// The outer source and headers of a VXLAN packet to this node; none for any other packet. Only what says so is
/// looked at: the packet inside is what is going to be parsed.
#[inline]
fn tunnel_packet(
    slot: &Slot,
    node: Option<Ipv4Addr>,
    port: u16,
) -> Result<Option<(IpAddr, &[u8; OUTER_LEN as usize])>, DropReason> {
    let bytes = slot.packet.head.data();
    let Some((headers, udp)) = bytes.split_first_chunk::<{ parse::HEADERS }>() else { return Ok(None) };
    let Some(&[_, _, high, low]) = udp.first_chunk() else { return Ok(None) };
    let ip = parse::ip_header(headers);
    let is_ipv4 = headers[12..14] == EtherType::IPV4.0.to_be_bytes() && ip[0] == 0x45;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET);
    let is_for_tunnel = ip[9] == Protocol::UDP.0
        && u16::from_be_bytes([high, low]) == port
        && Some(Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19])) == node;
    if !is_ipv4 || fragment != 0 || !is_for_tunnel {
        return Ok(None);
    }
    let total_len = usize::from(parse::ip_plausible(ip)?);
    if ethernet::HEADER_LEN + total_len > slot.packet.len() {
        return Err(DropReason::Ipv4Malformed);
    }
    let outer = bytes.first_chunk().ok_or(DropReason::TunnelMalformed)?;
    if total_len < usize::from(OUTER_LEN) - ethernet::HEADER_LEN {
        return Err(DropReason::TunnelMalformed);
    }
    Ok(Some((IpAddr::from([ip[12], ip[13], ip[14], ip[15]]), outer)))
}

/// Puts a packet into the tunnel to another node and addresses it to the next hop there.
#[inline]
pub fn encapsulate_vxlan(context: &mut Context, slot: &mut Slot, tunnel: TunnelIndex) {
    if let Err(reason) = try_encapsulate(context, slot, tunnel) {
        slot.drop(reason);
    }
}

fn try_encapsulate(context: &mut Context, slot: &mut Slot, tunnel: TunnelIndex) -> Result<(), DropReason> {
    let tables = context.tables;
    let node = tables.node.config().ok_or(DropReason::NoRoute)?;
    let tunnel = tables.tunnels.get(tunnel).ok_or(DropReason::NoRoute)?;
    let (Some(vtep), Some(end)) = (&node.vtep_v4, &tunnel.v4) else { return Err(DropReason::TunnelOverIpv6) };
    let (Some(underlay), Some(far)) = (end.underlay, &end.vtep) else {
        icmp_error::unreachable(context, slot, icmp_error::Unreachable::Net);
        return Err(DropReason::NoRoute);
    };
    if !rewrite::fits(context, slot, underlay.mtu.saturating_sub(OVERHEAD)) {
        return Err(DropReason::PacketTooBig);
    }
    let next_hop = tables.neighbors.mac(underlay.neighbor).ok_or(DropReason::NeighborUnresolved)?;
    let (uplink, link_out) = context.links.uplink_on(underlay.ifindex).ok_or(DropReason::PortGone)?;
    let (Some(source), destination) = (node.address_v4, end.node_address) else {
        return Err(DropReason::TunnelOverIpv6);
    };
    rewrite::address(slot, far.mac, vtep.mac);

    let inner_len = slot.packet.len();
    let udp_len =
        u16::try_from(inner_len + udp::HEADER_LEN + vxlan::HEADER_LEN).map_err(|_| DropReason::Oversized)?;
    let source_port = entropy(slot);
    let outer = slot.packet.prepend(OUTER_LEN).ok_or(DropReason::NoHeadroom)?;
    let (link, rest) = outer.split_at_mut(ethernet::HEADER_LEN);
    let (ip, rest) = rest.split_at_mut(ipv4::HEADER_LEN);
    let (udp, vxlan) = rest.split_at_mut(udp::HEADER_LEN);
    let link_header =
        ethernet::Repr { destination: next_hop, source: link_out.mac, ether_type: EtherType::IPV4 };
    let ip_header = ipv4::Repr {
        tos: 0,
        identification: 0,
        // Tunnel endpoints do not fragment (RFC 7348, 4.3), and neither may anybody on the way.
        fragment_word: ipv4::DONT_FRAGMENT,
        ttl: OUTER_TTL,
        protocol: Protocol::UDP,
        source,
        destination,
        payload_len: udp_len,
    };
    let vni = Vni::new(node.vni).map_err(|_| DropReason::TunnelUnknownVni)?;
    let written = link_header
        .emit(link)
        .and_then(|()| ip_header.emit(ip))
        .and_then(|()| emit_udp(udp, source_port, node.vxlan_port, udp_len))
        .and_then(|()| vxlan::Repr { vni }.emit(vxlan));
    written.map_err(|_| DropReason::NoHeadroom)?;
    context.counters.pipeline.tunnel_encapsulated.add(1);
    slot.verdict = Verdict::Transmit(Egress::Uplink(uplink));
    Ok(())
}

/// The outer UDP header; its checksum is zero, as RFC 7348 wants it on IPv4.
fn emit_udp(
    bytes: &mut [u8],
    source: u16,
    destination: u16,
    len: u16,
) -> Result<(), caracal_wire::Malformed> {
    let bytes: &mut [u8; udp::HEADER_LEN] =
        bytes.first_chunk_mut().ok_or(caracal_wire::Malformed::UdpTooShort)?;
    bytes[udp::field::SOURCE_PORT].copy_from_slice(&source.to_be_bytes());
    bytes[udp::field::DESTINATION_PORT].copy_from_slice(&destination.to_be_bytes());
    bytes[udp::field::LEN].copy_from_slice(&len.to_be_bytes());
    bytes[udp::field::CHECKSUM].copy_from_slice(&[0, 0]);
    Ok(())
}

/// A source port that is the same for all packets of a flow and different between flows (RFC 7348, 4).
#[inline]
fn entropy(slot: &Slot) -> u16 {
    let parsed = &slot.parsed;
    let (a, b) = match (parsed.source, parsed.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits(), b.to_bits()),
        (a, b) => (folded(a), folded(b)),
    };
    let ports = u32::from(parsed.source_port) << 16 | u32::from(parsed.destination_port);
    let mixed = (u64::from(a ^ ports.rotate_left(7)) << 32 | u64::from(b ^ ports))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    SOURCE_PORT_FIRST + (mixed >> 50) as u16 % SOURCE_PORT_COUNT
}

/// All bits of an IPv6 address in 32.
#[cold]
fn folded(address: IpAddr) -> u32 {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let halves = (bits >> 64) as u64 ^ bits as u64;
    (halves >> 32) as u32 ^ halves as u32
}
