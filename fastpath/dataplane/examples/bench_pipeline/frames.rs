//! Frames as pods and the other node send them.

use std::net::Ipv4Addr;

use caracal_dataplane::sim::{POD_MAC, UPLINK_MAC};
use caracal_wire::checksum::Sum;
use caracal_wire::tcp::Flags;
use caracal_wire::{EtherType, L4Port, MacAddr, Protocol, Tcp, Udp, Vni, ethernet, ipv4, tcp, udp, vxlan};

use crate::world::{
    NODE, OTHER_NODE, OUR_VTEP, PODS, REMOTE_BLOCK, THEIR_VTEP, VNI, VXLAN_PORT, pod_address,
};

pub const SERVICE: u16 = 8080;
pub const FABRIC_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
pub const GATEWAY_MAC: MacAddr = MacAddr([0xee; 6]);
/// An inner frame of 64 bytes.
pub const INNER_IP_LEN: usize = 50;

pub fn remote_of(flow: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(REMOTE_BLOCK.to_bits() + 2 + flow / PODS)
}

pub fn remote_port_of(flow: u32) -> L4Port {
    L4Port(30_000 + (flow % 20_000) as u16)
}

pub fn inward_tcp(flow: u32, flags: Flags) -> anyhow::Result<Vec<u8>> {
    let (source, destination) = (remote_of(flow), pod_address(flow % PODS));
    in_tunnel(flow, &tcp_packet((source, remote_port_of(flow)), (destination, L4Port(SERVICE)), flags)?)
}

pub fn outward_tcp(flow: u32, flags: Flags) -> anyhow::Result<Vec<u8>> {
    let (source, destination) = (pod_address(flow % PODS), remote_of(flow));
    let packet = tcp_packet((source, L4Port(SERVICE)), (destination, remote_port_of(flow)), flags)?;
    in_frame(GATEWAY_MAC, POD_MAC, &packet)
}

pub fn inward_udp(flow: u32, source: Ipv4Addr, port: u16) -> anyhow::Result<Vec<u8>> {
    let destination = pod_address(flow % PODS);
    let mut packet = ip_packet(source, destination, Protocol::UDP, INNER_IP_LEN)?;
    let l4 = &mut packet[ipv4::HEADER_LEN..];
    let payload_len = (l4.len() - udp::HEADER_LEN) as u16;
    let source_port = L4Port(1024 + (flow / PODS % 60_000) as u16);
    udp::Repr { source_port, destination_port: L4Port(port), payload_len }.emit(l4)?;
    Udp::new_checked(l4)?.update_checksum(pseudo(source, destination, Protocol::UDP));
    in_tunnel(flow, &packet)
}

pub fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol) -> Sum {
    let len = (INNER_IP_LEN - ipv4::HEADER_LEN) as u32;
    Sum::pseudo_v4(source, destination, protocol, len)
}

pub fn tcp_packet(from: (Ipv4Addr, L4Port), to: (Ipv4Addr, L4Port), flags: Flags) -> anyhow::Result<Vec<u8>> {
    let mut packet = ip_packet(from.0, to.0, Protocol::TCP, INNER_IP_LEN)?;
    let l4 = &mut packet[ipv4::HEADER_LEN..];
    let header = tcp::Repr {
        source_port: from.1,
        destination_port: to.1,
        sequence: 1,
        acknowledgement: 1,
        flags,
        window: 1024,
    };
    header.emit(l4)?;
    Tcp::new_checked(l4)?.update_checksum(pseudo(from.0, to.0, Protocol::TCP));
    Ok(packet)
}

pub fn ip_packet(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: Protocol,
    len: usize,
) -> anyhow::Result<Vec<u8>> {
    let mut packet = vec![0; len];
    let header = ipv4::Repr {
        tos: 0,
        identification: 0,
        fragment_word: ipv4::DONT_FRAGMENT,
        ttl: 64,
        protocol,
        source,
        destination,
        payload_len: (len - ipv4::HEADER_LEN) as u16,
    };
    header.emit(&mut packet)?;
    Ok(packet)
}

pub fn in_frame(destination: MacAddr, source: MacAddr, packet: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut frame = vec![0; ethernet::HEADER_LEN];
    ethernet::Repr { destination, source, ether_type: EtherType::IPV4 }.emit(&mut frame)?;
    frame.extend_from_slice(packet);
    Ok(frame)
}

/// Ethernet · IPv4 · UDP · VXLAN · Ethernet · packet, as the other node sends it.
pub fn in_tunnel(flow: u32, packet: &[u8]) -> anyhow::Result<Vec<u8>> {
    let inner = in_frame(OUR_VTEP, THEIR_VTEP, packet)?;
    let udp_len = udp::HEADER_LEN + vxlan::HEADER_LEN + inner.len();
    let mut outer = ip_packet(OTHER_NODE, NODE, Protocol::UDP, ipv4::HEADER_LEN + udp_len)?;
    let (udp_header, rest) = outer[ipv4::HEADER_LEN..].split_at_mut(udp::HEADER_LEN);
    let source_port = L4Port(49_152 + (flow % 16_384) as u16);
    let payload_len = (udp_len - udp::HEADER_LEN) as u16;
    udp::Repr { source_port, destination_port: L4Port(VXLAN_PORT), payload_len }.emit(udp_header)?;
    vxlan::Repr { vni: Vni::new(VNI)? }.emit(rest)?;
    rest[vxlan::HEADER_LEN..].copy_from_slice(&inner);
    in_frame(UPLINK_MAC, FABRIC_MAC, &outer)
}
