//! Writes a packet as bpf/generate.c does, for the engines that make packets in user space. The two must agree byte by byte, which a test sees to.

use caracal_wire::checksum::Sum;
use caracal_xsk::live_frames::{Flow, Kind, TEMPLATE_BYTES, Template};

use crate::payload::{self, Mark};

/// What a packet is to be.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// What its stream's have in common.
    pub template: &'a Template,
    /// Bytes of its frame.
    pub length: usize,
    /// The run's number.
    pub run: u32,
    /// When it is sent.
    pub now_ns: u64,
    /// It is one that goes ahead.
    pub scout: bool,
}

/// Writes the flow's next packet to `frame`, whose bytes behind headers and mark are zero and stay so, and counts it in the flow. False: it does
/// not fit.
pub fn write(packet: Packet<'_>, flow: &mut Flow, frame: &mut [u8]) -> bool {
    let written = try_write(packet, flow, frame).is_some();
    if written && !packet.scout {
        flow.sequence += 1;
    }
    written
}

/// Headers' fields: where they are in theirs.
mod field {
    pub const TOTAL_LENGTH: usize = 2;
    pub const IP_CHECKSUM: usize = 10;
    pub const UDP_LENGTH: usize = 4;
    pub const UDP_CHECKSUM: usize = 6;
    pub const TCP_SEQUENCE: usize = 4;
    pub const TCP_CHECKSUM: usize = 16;
    pub const ICMP_CHECKSUM: usize = 2;
}

fn try_write(packet: Packet<'_>, flow: &mut Flow, frame: &mut [u8]) -> Option<()> {
    let Packet { template: t, length, run, now_ns, scout } = packet;
    let frame = frame.get_mut(..length)?;
    let copy = usize::from(t.copy).min(length).min(TEMPLATE_BYTES);
    frame.get_mut(..copy)?.copy_from_slice(t.bytes.get(..copy)?);
    if t.kind == Kind::Raw as u8 {
        return Some(());
    }
    let mut put = |at: usize, bytes: &[u8]| -> Option<()> {
        frame.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        Some(())
    };
    let after = |from: u8| length.checked_sub(usize::from(from)).and_then(|len| u16::try_from(len).ok());
    let in_memory = |sum: u16| Sum::ZERO + u16::from_be_bytes(sum.to_ne_bytes());
    if t.outer_ip != 0 {
        let (at, total) = (usize::from(t.outer_ip), after(t.outer_ip)?);
        put(at + field::TOTAL_LENGTH, &total.to_be_bytes())?;
        put(at + field::IP_CHECKSUM, &(in_memory(t.outer_sum) + total).finish().to_be_bytes())?;
        if t.outer_udp != 0 {
            let at = usize::from(t.outer_udp);
            put(at, &flow.outer_port)?;
            put(at + field::UDP_LENGTH, &after(t.outer_udp)?.to_be_bytes())?;
        }
    }
    let (ip, l4) = (usize::from(t.ip), usize::from(t.l4));
    let l4_len = after(t.l4)?;
    if t.ipv6 != 0 {
        put(ip + 4, &l4_len.to_be_bytes())?;
        put(ip + 8, &flow.source)?;
        put(ip + 24, &flow.destination)?;
    } else {
        let total = after(t.ip)?;
        put(ip + field::TOTAL_LENGTH, &total.to_be_bytes())?;
        put(ip + field::IP_CHECKSUM, &(in_memory(flow.ip_sum) + total).finish().to_be_bytes())?;
        put(ip + 12, &flow.source[12..])?;
        put(ip + 16, &flow.destination[12..])?;
    }
    let mut mark = [0; payload::LEN];
    let sequence = if scout { payload::SCOUT } else { flow.sequence };
    Mark { run, flow: flow.id, sequence, sent_ns: now_ns }.write(&mut mark);
    put(l4 + usize::from(t.l4_header), &mark)?;
    let sum = in_memory(flow.l4_sum) + Sum::of(&mark);
    match t.kind {
        kind if kind == Kind::Tcp as u8 => {
            put(l4, &flow.source_port)?;
            put(l4 + 2, &flow.destination_port)?;
            put(l4 + field::TCP_SEQUENCE, &flow.tcp_sequence.to_be_bytes())?;
            let sum = sum + flow.tcp_sequence + l4_len;
            put(l4 + field::TCP_CHECKSUM, &sum.finish().to_be_bytes())?;
            let payload = u32::from(l4_len) - u32::from(t.l4_header);
            flow.tcp_sequence = flow.tcp_sequence.wrapping_add(payload).wrapping_add(t.tcp_step);
        }
        kind if kind == Kind::Echo as u8 => {
            let count = sequence as u16;
            put(l4 + 4, &flow.source_port)?;
            put(l4 + 6, &count.to_be_bytes())?;
            let sum = if t.ipv6 != 0 { sum + count + l4_len } else { sum + count };
            put(l4 + field::ICMP_CHECKSUM, &sum.finish().to_be_bytes())?;
        }
        _ => {
            put(l4, &flow.source_port)?;
            put(l4 + 2, &flow.destination_port)?;
            put(l4 + field::UDP_LENGTH, &l4_len.to_be_bytes())?;
            if t.checksum != 0 {
                // The length counts twice, in the header and in the pseudo-header; a sum of zero is written as its other form (RFC 768).
                let checksum = (sum + l4_len + l4_len).finish();
                let checksum = if checksum == 0 { u16::MAX } else { checksum };
                put(l4 + field::UDP_CHECKSUM, &checksum.to_be_bytes())?;
            }
        }
    }
    Some(())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::stream::tests::stream;
    use crate::stream::{Packets, Stream, Tunnel, TunnelKind};
    use crate::traffic::{self, Hop};
    use caracal_wire::tcp::Flags;
    use caracal_wire::{EtherType, Ethernet, Icmpv4, Icmpv6, Ipv4, Ipv6, MacAddr, Tcp, Udp, Vxlan};
    use std::net::{Ipv4Addr, Ipv6Addr};

    pub const HOP: Hop =
        Hop { source: MacAddr([2, 0, 0, 0, 0, 1]), destination: MacAddr([2, 0, 0, 0, 0, 2]) };

    /// One stream of each kind.
    pub fn streams() -> Vec<Stream> {
        let packets =
            [Packets::Udp, Packets::Tcp(Flags::ACK | Flags::PSH), Packets::Tcp(Flags::SYN), Packets::Echo];
        let tunnel = |kind| {
            Some(Tunnel {
                kind,
                source: Ipv4Addr::new(192, 0, 2, 1),
                destination: Ipv4Addr::new(192, 0, 2, 2),
            })
        };
        let vxlan = TunnelKind::Vxlan {
            vni: 4096,
            port: 4789,
            inner_source: HOP.destination,
            inner_destination: HOP.source,
        };
        let mut streams = Vec::new();
        for tunnel in [None, tunnel(vxlan), tunnel(TunnelKind::Ipip)] {
            for v6 in [false, true] {
                for packets in &packets {
                    let mut stream =
                        Stream { packets: packets.clone(), tunnel, ..stream(3, "64x1,200x1,1001x1") };
                    if v6 {
                        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
                        (stream.source.address, stream.destination.address) = (address(1), address(2));
                    }
                    streams.push(stream);
                }
            }
        }
        streams
    }

    /// Checks everything from an IP header on; returns the payload above L4.
    fn judge(ether_type: EtherType, ip: &[u8]) -> Vec<u8> {
        let (protocol, pseudo, l4) = if ether_type == EtherType::IPV4 {
            let ip = Ipv4::new_checked(ip).unwrap();
            assert!(ip.checksum_is_correct());
            (ip.protocol().0, ip.pseudo_sum(), ip.payload().to_vec())
        } else {
            let ip = Ipv6::new_checked(ip).unwrap();
            let pseudo =
                Sum::pseudo_v6(ip.source(), ip.destination(), ip.next_header(), ip.payload().len() as u32);
            (ip.next_header().0, pseudo, ip.payload().to_vec())
        };
        match protocol {
            17 => {
                let udp = Udp::new_checked(&l4).unwrap();
                assert!(udp.checksum() == 0 || udp.checksum_is_correct(pseudo), "UDP checksum");
                if udp.destination_port().0 == 4789 {
                    let vxlan = Vxlan::new_checked(udp.payload()).unwrap();
                    let inner = Ethernet::new_checked(vxlan.payload()).unwrap();
                    return judge(inner.ether_type(), inner.payload());
                }
                assert_ne!(udp.checksum(), 0);
                udp.payload().to_vec()
            }
            6 => {
                let tcp = Tcp::new_checked(&l4).unwrap();
                assert!(tcp.checksum_is_correct(pseudo), "TCP checksum");
                tcp.payload().to_vec()
            }
            1 => {
                assert!(Icmpv4::new_checked(&l4).unwrap().checksum_is_correct(), "ICMP checksum");
                l4[8..].to_vec()
            }
            58 => {
                assert!(Icmpv6::new_checked(&l4).unwrap().checksum_is_correct(pseudo), "ICMPv6 checksum");
                l4[8..].to_vec()
            }
            4 => judge(EtherType::IPV4, &l4),
            41 => judge(EtherType::IPV6, &l4),
            other => panic!("protocol {other}"),
        }
    }

    #[test]
    fn every_kind_of_packet_is_right_in_all_its_checksums_and_lengths_and_has_its_mark() {
        for stream in streams() {
            let template = traffic::template(&stream, HOP).unwrap();
            for number in [0, 1, 70_000] {
                let mut flow = traffic::flow(&stream, &template, 0, number);
                flow.id = 7;
                for length in [traffic::shortest(&template), 201, 1400] {
                    let mut frame = vec![0; 1500];
                    let packet = Packet { template: &template, length, run: 9, now_ns: 12_345, scout: false };
                    assert!(write(packet, &mut flow, &mut frame), "{stream:?}");
                    let ethernet = Ethernet::new_checked(&frame[..length]).unwrap();
                    let payload = judge(ethernet.ether_type(), ethernet.payload());
                    let mark = Mark::read(&payload).unwrap();
                    assert_eq!((mark.run, mark.flow, mark.sent_ns), (9, 7, 12_345), "{stream:?}");
                    assert_eq!(mark.sequence, flow.sequence - 1);
                }
            }
        }
    }
}
