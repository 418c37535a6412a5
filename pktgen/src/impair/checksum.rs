//! Checksums that a kernel has left to the hardware: on a veth there is none, and they come half made.
//!
//! A packet that is sent on by an AF_XDP socket goes as it is, so they are completed here: those of TCP and UDP, and of TCP
//! and UDP in VXLAN and IPIP. Half made means that the field is the folded sum of the pseudo-header; any other value is
//! what the sender meant, right or wrong, and stays.

use std::net::{Ipv4Addr, Ipv6Addr};

use caracal_wire::checksum::{self, Sum};
use caracal_wire::{EtherType, Protocol, ethernet, ipv4, ipv6, tcp, udp, vxlan};

/// VXLAN's port (RFC 7348).
const VXLAN_PORT: u16 = 4789;
/// Headers of IP inside one another, at most.
const DEPTH_MAX: usize = 3;

/// A checksum to complete: from `start` to `end`, both from the first byte of the frame, into the field at `field`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HalfMade {
    start: usize,
    end: usize,
    field: usize,
}

/// Completes every half-made checksum of a frame whose first segment is `head` and whose others are `rest`.
pub fn complete(head: &mut [u8], rest: &[&[u8]]) {
    let mut found = [None; DEPTH_MAX];
    let Some(kind) = word(head, ethernet::field::ETHER_TYPE.start) else { return };
    look(head, EtherType(kind), ethernet::HEADER_LEN, &mut found);
    // The innermost first: the outer sums cover it.
    for HalfMade { start, end, field } in found.into_iter().rev().flatten() {
        let total = head.len() + rest.iter().map(|segment| segment.len()).sum::<usize>();
        if end > total || field + 2 > head.len() {
            continue;
        }
        let sum = sum(head, rest, start, end);
        // RFC 768: zero means "no checksum"; the other zero is sent instead.
        let value = if sum == 0 { 0xffff } else { sum };
        if let Some(bytes) = head.get_mut(field..field + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// The checksum over bytes of a chain.
fn sum(head: &[u8], rest: &[&[u8]], start: usize, end: usize) -> u16 {
    let mut total = Sum::ZERO;
    let (mut from, mut covered) = (0, 0);
    for segment in std::iter::once(&head).chain(rest) {
        let (first, last) = (start.max(from), end.min(from + segment.len()));
        if let Some(part) = segment.get(first.saturating_sub(from)..last.saturating_sub(from)) {
            let sum = Sum::of(part).fold();
            // What begins at an odd byte contributes with its bytes swapped (RFC 1071, 2B).
            total = total + if covered % 2 == 1 { sum.swap_bytes() } else { sum };
            covered += part.len();
        }
        from += segment.len();
    }
    total.finish()
}

/// Looks for half-made checksums from the IP header at `at` on; the outermost comes first.
fn look(bytes: &[u8], kind: EtherType, at: usize, found: &mut [Option<HalfMade>]) {
    let Some((slot, deeper)) = found.split_first_mut() else { return };
    let Some((protocol, l4, end, pseudo)) = ip(bytes, kind, at) else { return };
    let field = match protocol {
        Protocol::TCP => tcp::field::CHECKSUM.start,
        Protocol::UDP => udp::field::CHECKSUM.start,
        Protocol::IPIP => return look(bytes, EtherType::IPV4, l4, deeper),
        _ => return,
    };
    let Some(value) = word(bytes, l4 + field) else { return };
    if checksum::is_partial(value, pseudo) {
        *slot = Some(HalfMade { start: l4, end, field: l4 + field });
    }
    if protocol == Protocol::UDP && word(bytes, l4 + udp::field::DESTINATION_PORT.start) == Some(VXLAN_PORT) {
        let inner = l4 + udp::HEADER_LEN + vxlan::HEADER_LEN;
        if let Some(kind) = word(bytes, inner + ethernet::field::ETHER_TYPE.start) {
            look(bytes, EtherType(kind), inner + ethernet::HEADER_LEN, deeper);
        }
    }
}

/// Protocol, where the transport header begins, where the packet ends, and its pseudo-header's sum. None for what is no
/// whole IP packet, or has extension headers.
fn ip(bytes: &[u8], kind: EtherType, at: usize) -> Option<(Protocol, usize, usize, Sum)> {
    let header = bytes.get(at..)?;
    let (protocol, header_len, len) = match kind {
        EtherType::IPV4 => {
            let header: &[u8; ipv4::HEADER_LEN] = header.first_chunk()?;
            let fragment = u16::from_be_bytes([header[6], header[7]]);
            if fragment & (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET) != 0 {
                return None;
            }
            let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
            (Protocol(header[9]), usize::from(header[0] & 0xf) * 4, total)
        }
        EtherType::IPV6 => {
            let header: &[u8; ipv6::HEADER_LEN] = header.first_chunk()?;
            let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
            (Protocol(header[6]), ipv6::HEADER_LEN, ipv6::HEADER_LEN + payload)
        }
        _ => return None,
    };
    let l4_len = u32::try_from(len.checked_sub(header_len)?).ok()?;
    let pseudo = match kind {
        EtherType::IPV4 => {
            let address = |from: usize| Some(Ipv4Addr::from(*header.get(from..)?.first_chunk::<4>()?));
            Sum::pseudo_v4(address(12)?, address(16)?, protocol, l4_len)
        }
        _ => {
            let address = |from: usize| Some(Ipv6Addr::from(*header.get(from..)?.first_chunk::<16>()?));
            Sum::pseudo_v6(address(8)?, address(24)?, protocol, l4_len)
        }
    };
    Some((protocol, at + header_len, at + len, pseudo))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn ethernet(kind: EtherType, packet: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind.0.to_be_bytes(), packet].concat()
    }

    fn ip4(protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let mut header = vec![0x45, 0];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol.0, 0, 0]);
        header.extend(A.octets());
        header.extend(B.octets());
        [header, payload.to_vec()].concat()
    }

    /// A datagram whose checksum field holds `field`.
    fn datagram(port: u16, payload: &[u8], field: u16) -> Vec<u8> {
        let mut bytes = 1000u16.to_be_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend((8 + payload.len() as u16).to_be_bytes());
        bytes.extend(field.to_be_bytes());
        [bytes, payload.to_vec()].concat()
    }

    fn half_made(len: usize) -> u16 {
        Sum::pseudo_v4(A, B, Protocol::UDP, len as u32).fold()
    }

    fn half_made_datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        datagram(port, payload, half_made(8 + payload.len()))
    }

    fn is_right(udp: &[u8]) -> bool {
        checksum::is_correct(udp, Sum::pseudo_v4(A, B, Protocol::UDP, udp.len() as u32))
    }

    #[test]
    fn a_half_made_checksum_is_completed_and_any_other_is_left_alone() {
        let mut frame = ethernet(EtherType::IPV4, &ip4(Protocol::UDP, &half_made_datagram(53, b"odd")));
        // Padding of Ethernet's does not count.
        frame.resize(60, 0xee);
        complete(&mut frame, &[]);
        assert!(is_right(&frame[34..45]));
        assert_eq!(frame[45..], [0xee; 15]);
        for other in [0, 1, 0xabcd] {
            let wrong = ethernet(EtherType::IPV4, &ip4(Protocol::UDP, &datagram(53, b"odd", other)));
            let mut after = wrong.clone();
            complete(&mut after, &[]);
            assert_eq!(after, wrong);
        }
    }

    #[test]
    fn a_checksum_over_a_chain_is_that_over_the_whole() {
        let payload: Vec<u8> = (0..=255).cycle().take(999).collect();
        let frame = ethernet(EtherType::IPV4, &ip4(Protocol::UDP, &half_made_datagram(53, &payload)));
        let mut whole = frame.clone();
        complete(&mut whole, &[]);
        assert!(is_right(&whole[34..]));
        for cuts in [[100, 101], [99, 500], [43, 44], [200, 1000]] {
            let mut head = frame[..cuts[0]].to_vec();
            complete(&mut head, &[&frame[cuts[0]..cuts[1]], &frame[cuts[1]..]]);
            assert_eq!(head, whole[..cuts[0]], "{cuts:?}");
        }
    }

    #[test]
    fn checksums_inside_a_tunnel_are_completed_before_the_tunnels_own() {
        let inner = ethernet(EtherType::IPV4, &ip4(Protocol::UDP, &half_made_datagram(53, b"inside")));
        let vxlan = [&[8, 0, 0, 0, 0, 16, 0, 0][..], &inner].concat();
        let mut frame =
            ethernet(EtherType::IPV4, &ip4(Protocol::UDP, &half_made_datagram(VXLAN_PORT, &vxlan)));
        complete(&mut frame, &[]);
        assert!(is_right(&frame[34..]), "outer");
        assert!(is_right(&frame[34 + 16 + 34..]), "inner");
        let ipip = ip4(Protocol::IPIP, &ip4(Protocol::UDP, &half_made_datagram(53, b"inside")));
        let mut frame = ethernet(EtherType::IPV4, &ipip);
        complete(&mut frame, &[]);
        assert!(is_right(&frame[14 + 20 + 20..]), "in IPIP");
    }

    #[test]
    fn tcp_over_ipv6_is_completed_too() {
        let (a, b) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let mut segment = vec![0; 25];
        segment[12] = 0x50;
        segment[16..18].copy_from_slice(&Sum::pseudo_v6(a, b, Protocol::TCP, 25).fold().to_be_bytes());
        let mut packet = vec![0x60, 0, 0, 0, 0, 25, 6, 64];
        packet.extend(a.octets());
        packet.extend(b.octets());
        packet.extend(segment);
        let mut frame = ethernet(EtherType::IPV6, &packet);
        complete(&mut frame, &[]);
        assert!(checksum::is_correct(&frame[54..], Sum::pseudo_v6(a, b, Protocol::TCP, 25)));
    }

    #[test]
    fn whatever_comes_is_survived() {
        let inner = ethernet(EtherType::IPV4, &ip4(Protocol::UDP, &half_made_datagram(53, b"inside")));
        let vxlan = [&[8, 0, 0, 0, 0, 16, 0, 0][..], &inner].concat();
        let frame = ethernet(EtherType::IPV4, &ip4(Protocol::UDP, &half_made_datagram(VXLAN_PORT, &vxlan)));
        for len in 0..frame.len() {
            complete(&mut frame[..len].to_vec(), &[]);
            for at in 0..len {
                let mut bent = frame[..len].to_vec();
                bent[at] ^= 0xff;
                complete(&mut bent, &[]);
            }
        }
    }
}
