//! Tunnels between nodes: VXLAN over IPv4 and IPv6, and IPv4 in IPv4.
//!
//! ```text
//!   VXLAN         Ethernet 14 │ IPv4 20 │ UDP 8 │ VXLAN 8 │ Ethernet 14 │ IPv4 or IPv6 …     50 bytes less for what is inside
//!   VXLAN-v6      Ethernet 14 │ IPv6 40 │ UDP 8 │ VXLAN 8 │ Ethernet 14 │ IPv4 or IPv6 …     70
//!   IPIP          Ethernet 14 │ IPv4 20 │ IPv4 …                                             20
//! ```
//!
//! * Only known nodes are listened to, by every tunnel and both families, whatever this node would send them by: while a
//!   pool changes from one encapsulation to another, both arrive.
//! * Nobody fragments an outer packet: it says so (DF) over IPv4. What does not fit is fragmented before it goes in, or
//!   its sender is told.
//! * The outer header's DSCP is 0 and its hop limit 64, as Linux' VXLAN has them unless told otherwise; what is inside
//!   keeps its own. Its ECN follows the packet into the tunnel and out of it: [`ecn`].

mod ecn;
mod ipip;
mod vxlan;

use std::net::{IpAddr, Ipv4Addr};

use caracal_wire::{EtherType, MacAddr, Malformed, Protocol, ethernet, ipv4};

use crate::batch::{Ingress, Slot, UplinkIndex, Verdict};
use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::pipeline::Link;
use crate::stage::parse::Fragment;
use crate::stage::{Context, icmp_error, parse, rewrite};
use crate::table::{Encapsulation, NodeConfig, TunnelIndex, Underlay};

pub use ecn::{leaves as leaves_mark, of_tos as mark_of};
pub use vxlan::{OUTER_LEN_V4 as VXLAN_OVERHEAD_V4, source_port};

const OUTER_HOP_LIMIT: u8 = 64;

/// The outer IPv4 header of a tunnel packet, without its length and mark. Tunnel endpoints do not fragment (RFC 7348, 4.3),
/// and neither may anybody on the way.
#[inline]
#[must_use]
pub fn outer_v4_header(protocol: Protocol, source: Ipv4Addr, destination: Ipv4Addr) -> ipv4::Repr {
    ipv4::Repr {
        tos: 0,
        identification: 0,
        fragment_word: ipv4::DONT_FRAGMENT,
        ttl: OUTER_HOP_LIMIT,
        protocol,
        source,
        destination,
        payload_len: 0,
    }
}

/// Parses a packet from the fabric; one that is in a tunnel is taken out of it first.
#[inline]
pub fn receive(context: &mut Context, slot: &mut Slot) {
    if let Err(reason) = try_receive(context, slot) {
        slot.drop(reason);
    }
}

/// What the outer headers of a tunnel packet to this node say.
struct Outer {
    source: IpAddr,
    /// The low two bits of type of service or traffic class.
    ecn: u8,
    /// Length of what comes off in front of the Ethernet header inside (VXLAN), or of the outer IPv4 header (IPIP).
    len: u16,
    is_vxlan: bool,
}

#[inline]
fn try_receive(context: &mut Context, slot: &mut Slot) -> Result<(), DropReason> {
    let Some(node) = context.tables.node.config() else { return Err(DropReason::NoRoute) };
    let bytes = slot.packet.head.data();
    if !matches!(bytes.get(ethernet::field::ETHER_TYPE), Some(of) if *of == EtherType::IPV4.0.to_be_bytes()) {
        return receive_other(context, slot, node);
    }
    match outer_v4(slot, node)? {
        Some(outer) => take_out(context, slot, node, &outer),
        None => parse::try_parse(slot),
    }
}

/// A packet whose outermost header is not IPv4.
#[inline(never)]
fn receive_other(context: &mut Context, slot: &mut Slot, node: &NodeConfig) -> Result<(), DropReason> {
    match vxlan::outer_v6(slot, node)? {
        Some(outer) => take_out(context, slot, node, &outer),
        None => parse::try_parse(slot),
    }
}

/// Takes the outer headers off, and parses what is inside.
// Once for each family, so that none of the outer header has to be looked up again.
#[inline(always)]
fn take_out(
    context: &mut Context,
    slot: &mut Slot,
    node: &NodeConfig,
    outer: &Outer,
) -> Result<(), DropReason> {
    let tunnel = match context.tables.tunnels.by_source(outer.source) {
        Some(tunnel) => tunnel,
        None => stranger(node, outer.source)?,
    };
    if outer.is_vxlan {
        vxlan::open(slot, outer.len, node.vni)?;
    } else {
        ipip::open(slot, outer.len)?;
    }
    slot.ingress = Ingress::Tunnel(tunnel);
    parse::try_parse(slot)?;
    let parsed = &slot.parsed;
    let is_vxlan = parsed.protocol == Protocol::UDP.0 && parsed.destination_port == node.vxlan_port;
    if (is_vxlan || parsed.protocol == Protocol::IPIP.0) && node.owns(parsed.destination) {
        return Err(DropReason::TunnelNested);
    }
    if outer.ecn != ecn::NOT_ECT {
        ecn::leave(slot, outer.ecn)?;
    }
    context.counters.pipeline.tunnel_decapsulated.add(1);
    Ok(())
}

/// Somebody who is no node, and may send tunnel packets all the same.
#[cold]
fn stranger(node: &NodeConfig, source: IpAddr) -> Result<TunnelIndex, DropReason> {
    let is_let_in = node.tunnel_sources.iter().any(|prefix| prefix.contains(source));
    if is_let_in { Ok(TunnelIndex::NO_NODE) } else { Err(DropReason::TunnelUnknownSource) }
}

/// The outer headers of an IPv4 packet if that is in a tunnel to this node. Only what says so is looked at: the packet
/// inside is what is going to be parsed.
#[inline(always)]
fn outer_v4(slot: &Slot, node: &NodeConfig) -> Result<Option<Outer>, DropReason> {
    let bytes = slot.packet.head.data();
    let Some((headers, behind)) = bytes.split_first_chunk::<{ parse::HEADERS }>() else { return Ok(None) };
    let ip = parse::ip_header(headers);
    if ip[0] != 0x45 || Some(Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19])) != node.address_v4 {
        return Ok(None);
    }
    let (len, is_vxlan) = match Protocol(ip[9]) {
        Protocol::UDP if vxlan::is_to_port(behind, node.vxlan_port) => (vxlan::OUTER_LEN_V4, true),
        Protocol::IPIP => (ipv4::HEADER_LEN as u16, false),
        _ => return Ok(None),
    };
    if u16::from_be_bytes([ip[6], ip[7]]) & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0 {
        return Err(DropReason::TunnelFragmented);
    }
    let total_len = usize::from(parse::ip_plausible(ip)?);
    if ethernet::HEADER_LEN + total_len > slot.packet.len() {
        return Err(DropReason::Ipv4Malformed);
    }
    if bytes.len() < usize::from(len) || ethernet::HEADER_LEN + total_len < usize::from(len) {
        return Err(DropReason::TunnelMalformed);
    }
    let source = IpAddr::from([ip[12], ip[13], ip[14], ip[15]]);
    Ok(Some(Outer { source, ecn: ip[1] & ecn::MASK, len, is_vxlan }))
}

/// Sends a packet to another node, in the tunnel that `encapsulation` says or as it is.
#[inline]
pub fn send(context: &mut Context, slot: &mut Slot, tunnel: TunnelIndex, encapsulation: Encapsulation) {
    let sent = match encapsulation {
        Encapsulation::Vxlan => vxlan::over_ipv4(context, slot, tunnel),
        Encapsulation::VxlanOverIpv6 => vxlan::over_ipv6(context, slot, tunnel),
        Encapsulation::Ipip => ipip::encapsulate(context, slot, tunnel),
        Encapsulation::None => as_it_is(context, slot, tunnel),
    };
    if let Err(reason) = sent {
        slot.drop(reason);
    }
}

/// To the node's address of the packet's own family.
fn as_it_is(context: &mut Context, slot: &mut Slot, tunnel: TunnelIndex) -> Result<(), DropReason> {
    let node = context.tables.tunnels.get(tunnel);
    let address = node.and_then(|node| match slot.parsed.is_ipv4() {
        true => node.v4.as_ref().map(|end| IpAddr::V4(end.node_address)),
        false => node.v6.as_ref().map(|end| IpAddr::V6(end.node_address)),
    });
    let Some(address) = address else { return no_way(context, slot) };
    rewrite::to_uplink(context, slot, address);
    Ok(())
}

/// The other node has no such end, or no route leads there.
#[cold]
fn no_way<T>(context: &mut Context, slot: &Slot) -> Result<T, DropReason> {
    icmp_error::unreachable(context, slot, icmp_error::Unreachable::Net);
    Err(DropReason::NoRoute)
}

/// Where a packet with `overhead` bytes in front of it leaves. One that is too long and may be cut is, and `exit` takes
/// out the pieces behind the first.
#[inline]
fn way_out(
    context: &mut Context,
    slot: &mut Slot,
    underlay: &Underlay,
    overhead: u16,
    exit: impl FnMut(&mut Context, &mut Slot),
) -> Result<WayOut, DropReason> {
    if !rewrite::fits(context, slot, underlay.mtu.saturating_sub(overhead), exit) {
        return Err(match slot.verdict {
            Verdict::Drop(reason) => reason,
            _ => DropReason::PacketTooBig,
        });
    }
    let next_hop = context.tables.neighbors.mac(underlay.neighbor).ok_or(DropReason::NeighborUnresolved)?;
    let (uplink, link) = context.links.uplink_on(underlay.ifindex).ok_or(DropReason::PortGone)?;
    Ok(WayOut { uplink, link, next_hop })
}

/// The link that a tunnel packet leaves by, and the neighbor there.
struct WayOut {
    uplink: UplinkIndex,
    link: Link,
    next_hop: MacAddr,
}

impl WayOut {
    /// Writes the outer Ethernet header.
    #[inline]
    fn emit(&self, ether_type: EtherType, bytes: &mut [u8]) -> Result<(), Malformed> {
        ethernet::Repr { destination: self.next_hop, source: self.link.mac, ether_type }.emit(bytes)
    }
}

/// What an outer header says of the length behind it. That of a super-frame may be longer than any such packet; every
/// segment gets its own when it is cut.
#[inline]
fn outer_len(packet: &Packet, len: usize) -> Result<u16, DropReason> {
    if packet.offload.gso_size != 0 {
        return Ok((len as u64).min(SUPER_FRAME_LEN) as u16);
    }
    u16::try_from(len).map_err(|_| DropReason::Oversized)
}

/// What outer headers say of a super-frame, at most: room for the headers that count themselves.
const SUPER_FRAME_LEN: u64 = 65_000;

/// A number that is the same for all packets of a flow and different between flows, for links and queues to be chosen
/// by. A datagram in parts has no ports that all its parts show.
#[inline]
fn entropy(slot: &Slot) -> u64 {
    let parsed = &slot.parsed;
    let (a, b) = match (parsed.source, parsed.destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits(), b.to_bits()),
        (a, b) => (folded(a), folded(b)),
    };
    let ports = match parsed.fragment {
        Fragment::No => u32::from(parsed.source_port) << 16 | u32::from(parsed.destination_port),
        Fragment::First | Fragment::Later => 0,
    };
    entropy_of(a, b, ports)
}

/// The same of two addresses and both ports.
#[inline]
#[must_use]
pub fn entropy_of(source: u32, destination: u32, ports: u32) -> u64 {
    let both = u64::from(source ^ ports.rotate_left(7)) << 32 | u64::from(destination ^ ports);
    both.wrapping_mul(0x9e37_79b9_7f4a_7c15)
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
