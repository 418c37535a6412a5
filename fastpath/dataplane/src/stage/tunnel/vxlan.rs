//! VXLAN (RFC 7348), as Calico uses it: one network identifier, every node's tunnel endpoint known beforehand, inner
//! Ethernet addressed to the other node's tunnel MAC.
//!
//! Over IPv4 the outer UDP checksum is zero, as the RFC wants it. Over IPv6 it is made: receivers, Linux among them, drop
//! packets without one unless they are configured otherwise (RFC 6935). None is verified: what is inside has its own.

use std::net::{IpAddr, Ipv6Addr};

use caracal_wire::checksum::Sum;
use caracal_wire::{EtherType, Ipv6, Malformed, Protocol, Vni, Vxlan, ethernet, ipv4, ipv6, udp, vxlan};

use super::{OUTER_HOP_LIMIT, Outer, ecn, entropy, no_way, outer_v4_header, way_out};
use crate::batch::{Egress, Slot, Verdict};
use crate::drop_reason::DropReason;
use crate::stage::{Context, rewrite};
use crate::table::{Encapsulation, NodeConfig, TunnelIndex, Vtep};

/// What goes in front of the inner Ethernet header over IPv4 …
pub const OUTER_LEN_V4: u16 =
    (ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN) as u16;
/// … and over IPv6. The packet inside must be that much shorter than the underlay's MTU: its Ethernet header is more, and
/// the outer one does not count.
pub const OUTER_LEN_V6: u16 = OUTER_LEN_V4 + (ipv6::HEADER_LEN - ipv4::HEADER_LEN) as u16;

/// Outer source ports: the ephemeral range of RFC 6335, so that the fabric spreads flows over its links (RFC 7348, 4.1).
const SOURCE_PORT_FIRST: u16 = 49_152;
const SOURCE_PORT_BITS: u32 = 14;

/// The outer source port for a flow's [`entropy`].
#[inline]
#[must_use]
pub fn source_port(entropy: u64) -> u16 {
    SOURCE_PORT_FIRST + (entropy >> (u64::BITS - SOURCE_PORT_BITS)) as u16
}

/// Whether what follows an IP header is UDP to this port.
#[inline]
pub fn is_to_port(udp: &[u8], port: u16) -> bool {
    matches!(udp.first_chunk(), Some(&[_, _, high, low]) if u16::from_be_bytes([high, low]) == port)
}

/// The outer headers of VXLAN over IPv6 to this node; none for any other packet.
#[inline(never)]
pub fn outer_v6(slot: &Slot, node: &NodeConfig) -> Result<Option<Outer>, DropReason> {
    let bytes = slot.packet.head.data();
    let Some((link, packet)) = bytes.split_at_checked(ethernet::HEADER_LEN) else { return Ok(None) };
    if link[ethernet::field::ETHER_TYPE] != EtherType::IPV6.0.to_be_bytes() {
        return Ok(None);
    }
    let Ok(ip) = Ipv6::new_quoted(packet) else { return Ok(None) };
    if Some(ip.destination()) != node.address_v6 {
        return Ok(None);
    }
    if ip.next_header() != Protocol::UDP {
        let is_part = ip.upper_layer().is_ok_and(|upper| {
            let behind = packet.get(upper.offset..).unwrap_or_default();
            let fragment = upper.fragment.is_some_and(|part| part.offset == 0 && part.more);
            fragment && upper.protocol == Protocol::UDP && is_to_port(behind, node.vxlan_port)
        });
        return if is_part { Err(DropReason::TunnelFragmented) } else { Ok(None) };
    }
    if !is_to_port(&packet[ipv6::HEADER_LEN..], node.vxlan_port) {
        return Ok(None);
    }
    let end = ethernet::HEADER_LEN + ipv6::HEADER_LEN + usize::from(ip.payload_len());
    if end > slot.packet.len() {
        return Err(DropReason::Ipv6Malformed);
    }
    let len = usize::from(OUTER_LEN_V6);
    if bytes.len() < len || end < len {
        return Err(DropReason::TunnelMalformed);
    }
    let ecn = ip.traffic_class() & ecn::MASK;
    Ok(Some(Outer { source: IpAddr::V6(ip.source()), ecn, len: OUTER_LEN_V6, is_vxlan: true }))
}

/// Takes the outer headers off. What is inside must be Ethernet, and no ARP: every tunnel endpoint is known beforehand.
#[inline(always)]
pub fn open(slot: &mut Slot, outer_len: u16, vni: u32) -> Result<(), DropReason> {
    let bytes = slot.packet.head.data();
    let (outer, inner) = bytes.split_at_checked(usize::from(outer_len)).ok_or(DropReason::TunnelMalformed)?;
    let header: &[u8; vxlan::HEADER_LEN] = outer.last_chunk().ok_or(DropReason::TunnelMalformed)?;
    let header = Vxlan::new_checked(header).map_err(|_| DropReason::TunnelMalformed)?;
    if header.vni().get() != vni {
        return Err(DropReason::TunnelUnknownVni);
    }
    let ether_type = inner.get(ethernet::field::ETHER_TYPE).ok_or(DropReason::TunnelMalformed)?;
    if ether_type == EtherType::ARP.0.to_be_bytes() {
        return Err(DropReason::TunnelMalformed);
    }
    slot.packet.trim_front(outer_len);
    Ok(())
}

/// Puts a packet into the tunnel between the nodes' IPv4 addresses.
#[inline]
pub fn over_ipv4(context: &mut Context, slot: &mut Slot, tunnel: TunnelIndex) -> Result<(), DropReason> {
    let tables = context.tables;
    let node = tables.node.config().ok_or(DropReason::NoRoute)?;
    let far = tables.tunnels.get(tunnel).and_then(|tunnel| tunnel.v4.as_ref());
    let (Some(source), Some(here), Some(far)) = (node.address_v4, &node.vtep_v4, far) else {
        return no_way(context, slot);
    };
    let (Some(there), Some(underlay)) = (&far.vtep, &far.underlay) else { return no_way(context, slot) };
    let way = way_out(context, slot, underlay, OUTER_LEN_V4, |context, piece| {
        super::send(context, piece, tunnel, Encapsulation::Vxlan);
    })?;
    let ecn = ecn::of(slot);
    let header = Header::new(slot, node, here, there)?;
    let outer = slot.packet.prepend(OUTER_LEN_V4).ok_or(DropReason::NoHeadroom)?;
    let (link, rest) = outer.split_at_mut(ethernet::HEADER_LEN);
    let (ip, rest) = rest.split_at_mut(ipv4::HEADER_LEN);
    let ip_header = ipv4::Repr {
        tos: ecn,
        payload_len: header.udp_len,
        ..outer_v4_header(Protocol::UDP, source, far.node_address)
    };
    let written = way.emit(EtherType::IPV4, link);
    let written = written.and_then(|()| ip_header.emit(ip)).and_then(|()| header.emit(rest));
    written.map_err(|_| DropReason::NoHeadroom)?;
    context.counters.pipeline.tunnel_encapsulated.add(1);
    slot.verdict = Verdict::Transmit(Egress::Uplink(way.uplink));
    Ok(())
}

/// Puts a packet into the tunnel between the nodes' IPv6 addresses.
pub fn over_ipv6(context: &mut Context, slot: &mut Slot, tunnel: TunnelIndex) -> Result<(), DropReason> {
    let tables = context.tables;
    let node = tables.node.config().ok_or(DropReason::NoRoute)?;
    let far = tables.tunnels.get(tunnel).and_then(|tunnel| tunnel.v6.as_ref());
    let (Some(source), Some(here), Some(far)) = (node.address_v6, &node.vtep_v6, far) else {
        return no_way(context, slot);
    };
    let (Some(there), Some(underlay)) = (&far.vtep, &far.underlay) else { return no_way(context, slot) };
    let way = way_out(context, slot, underlay, OUTER_LEN_V6, |context, piece| {
        super::send(context, piece, tunnel, Encapsulation::VxlanOverIpv6);
    })?;
    let ecn = ecn::of(slot);
    let header = Header::new(slot, node, here, there)?;
    let outer = slot.packet.prepend(OUTER_LEN_V6).ok_or(DropReason::NoHeadroom)?;
    let (link, rest) = outer.split_at_mut(ethernet::HEADER_LEN);
    let (ip, rest) = rest.split_at_mut(ipv6::HEADER_LEN);
    let ip_header = ipv6::Repr {
        traffic_class: ecn,
        // What UDP's source port is for, where only addresses and label are looked at (RFC 6438).
        flow_label: header.flow_label,
        next_header: Protocol::UDP,
        hop_limit: OUTER_HOP_LIMIT,
        source,
        destination: far.node_address,
        payload_len: header.udp_len,
    };
    let written = way.emit(EtherType::IPV6, link);
    let written = written.and_then(|()| ip_header.emit(ip)).and_then(|()| header.emit(rest));
    written.map_err(|_| DropReason::NoHeadroom)?;
    // A super-frame's segments get theirs when it is cut.
    if slot.packet.offload.gso_size != 0 {
        context.counters.pipeline.tunnel_encapsulated.add(1);
        slot.verdict = Verdict::Transmit(Egress::Uplink(way.uplink));
        return Ok(());
    }
    sum_up(slot, source, far.node_address, header.udp_len)?;
    context.counters.pipeline.tunnel_encapsulated.add(1);
    slot.verdict = Verdict::Transmit(Egress::Uplink(way.uplink));
    Ok(())
}

/// Makes the outer UDP checksum of a packet that is otherwise ready (RFC 8200, 8.1). A half-made checksum inside stays
/// so: what it will be is known from what it is (see [`Packet::completed_sum`](crate::packet::Packet::completed_sum)).
fn sum_up(slot: &mut Slot, source: Ipv6Addr, destination: Ipv6Addr, udp_len: u16) -> Result<(), DropReason> {
    const UDP: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
    let pseudo = Sum::pseudo_v6(source, destination, Protocol::UDP, u32::from(udp_len));
    let sum = match (pseudo + slot.packet.completed_sum(UDP)).finish() {
        // Zero would say that there is none (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    let udp = slot.packet.head.data_mut().get_mut(UDP..).ok_or(DropReason::NoHeadroom)?;
    udp.get_mut(udp::field::CHECKSUM).ok_or(DropReason::NoHeadroom)?.copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// UDP's and VXLAN's headers.
struct Header {
    source_port: u16,
    destination_port: u16,
    udp_len: u16,
    flow_label: u32,
    vni: Vni,
}

impl Header {
    /// For a packet, whose own Ethernet header is written at the same time.
    #[inline]
    fn new<A>(
        slot: &mut Slot,
        node: &NodeConfig,
        here: &Vtep<A>,
        there: &Vtep<A>,
    ) -> Result<Header, DropReason> {
        rewrite::address(slot, there.mac, here.mac);
        let udp_len = slot.packet.len() + udp::HEADER_LEN + vxlan::HEADER_LEN;
        let entropy = entropy(slot);
        Ok(Header {
            source_port: source_port(entropy),
            destination_port: node.vxlan_port,
            udp_len: super::outer_len(&slot.packet, udp_len)?,
            flow_label: (entropy >> 44) as u32,
            vni: Vni::new(node.vni).map_err(|_| DropReason::TunnelUnknownVni)?,
        })
    }

    /// Writes both, without a checksum.
    #[inline]
    fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let (udp, vxlan) = bytes.split_at_mut_checked(udp::HEADER_LEN).ok_or(Malformed::UdpTooShort)?;
        let udp: &mut [u8; udp::HEADER_LEN] = udp.first_chunk_mut().ok_or(Malformed::UdpTooShort)?;
        udp[udp::field::SOURCE_PORT].copy_from_slice(&self.source_port.to_be_bytes());
        udp[udp::field::DESTINATION_PORT].copy_from_slice(&self.destination_port.to_be_bytes());
        udp[udp::field::LEN].copy_from_slice(&self.udp_len.to_be_bytes());
        udp[udp::field::CHECKSUM].copy_from_slice(&[0, 0]);
        vxlan::Repr { vni: self.vni }.emit(vxlan)
    }
}
