//! Frames that nobody should let through, by name.
//!
//! Each kind is made of a sound UDP, TCP or ICMP packet of the stream's first flow, and one thing is wrong with it. They have no mark: what
//! comes of them is not counted, because nothing should.

use caracal_wire::checksum::Sum;
use caracal_wire::tcp::Flags;
use clap::ValueEnum;
use serde::Deserialize;

use crate::frame::{self, Packet};
use crate::stream::{Packets, Stream};
use crate::traffic::{self, Hop};

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Malformed {
    /// An Ethernet header, and nothing in it.
    Empty,
    /// An EtherType that nobody knows.
    EtherType,
    /// Half an IP header.
    IpShort,
    /// IP version 5.
    IpVersion,
    /// An IPv4 header of 16 bytes, as it says.
    IpHeaderLength,
    /// An IPv4 header that is longer than the packet.
    IpHeaderBeyond,
    /// A total length that is less than the header's.
    IpLengthBelow,
    /// A length that is more than there is.
    IpLengthBeyond,
    /// A wrong IPv4 header checksum.
    IpChecksum,
    /// A time to live of 0.
    IpTtl,
    /// An IPv4 option that says which way to take.
    IpSourceRoute,
    /// From a multicast address.
    IpSourceMulticast,
    /// From the loopback's address.
    IpSourceLoopback,
    /// From and to the same address and port.
    Land,
    /// Half a UDP header.
    UdpShort,
    /// A UDP length of 4.
    UdpLengthBelow,
    /// A UDP length that is more than there is.
    UdpLengthBeyond,
    /// Half a TCP header.
    TcpShort,
    /// A TCP header of 16 bytes, as it says.
    TcpHeaderLength,
    /// A TCP header that is longer than the segment.
    TcpHeaderBeyond,
    /// No flag at all.
    TcpFlagsNone,
    /// SYN and FIN together.
    TcpFlagsSynFin,
    /// Half an ICMP header.
    IcmpShort,
    /// Two fragments that both have the bytes between (RFC 5722).
    FragmentOverlap,
    /// A fragment whose end is beyond 65,535 bytes.
    FragmentBeyond,
    /// A first fragment without the whole L4 header (RFC 1858).
    FragmentTiny,
}

const ETHERNET: usize = 14;
const SIZE: usize = 176;
const FRAGMENT_OFFSET: usize = 6;
const MORE_FRAGMENTS: u16 = 0x2000;

impl Malformed {
    /// All kinds that there are of IPv4, or of IPv6.
    #[must_use]
    pub fn all(ipv6: bool) -> Vec<Malformed> {
        let kinds = Self::value_variants().iter().copied();
        kinds.filter(|kind| !ipv6 || kind.is_of_ipv6()).collect()
    }

    /// Whether there is such a thing in IPv6.
    #[must_use]
    pub fn is_of_ipv6(self) -> bool {
        use Malformed as M;
        !matches!(
            self,
            M::IpHeaderLength
                | M::IpHeaderBeyond
                | M::IpLengthBelow
                | M::IpChecksum
                | M::IpSourceRoute
                | M::IpTtl
                | M::FragmentOverlap
                | M::FragmentBeyond
                | M::FragmentTiny
        )
    }

    fn base(self) -> Packets {
        use Malformed as M;
        match self {
            M::TcpShort | M::TcpHeaderLength | M::TcpHeaderBeyond => Packets::Tcp(Flags::ACK),
            M::TcpFlagsNone => Packets::Tcp(Flags(0)),
            M::TcpFlagsSynFin => Packets::Tcp(Flags::SYN | Flags::FIN),
            M::IcmpShort => Packets::Echo,
            _ => Packets::Udp,
        }
    }

    /// The frames of this kind: one, or several that belong together. None if there is no such thing in the stream's IP.
    #[must_use]
    pub fn frames(self, stream: &Stream, hop: Hop) -> Vec<Vec<u8>> {
        let ipv6 = stream.source.address.is_ipv6();
        if ipv6 && !self.is_of_ipv6() {
            return Vec::new();
        }
        let base = Stream { packets: self.base(), ..stream.clone() };
        self.try_frames(&base, hop, ipv6).unwrap_or_default()
    }

    fn try_frames(self, base: &Stream, hop: Hop, ipv6: bool) -> Option<Vec<Vec<u8>>> {
        use Malformed as M;
        let template = traffic::template(base, hop).ok()?;
        let mut flow = traffic::flow(base, &template, 0, 0);
        let mut frame = vec![0; SIZE];
        let packet = Packet { template: &template, length: SIZE, run: 0, now_ns: 0, scout: false };
        if !frame::write(packet, &mut flow, &mut frame) {
            return None;
        }
        let (ip, l4) = (usize::from(template.ip), usize::from(template.l4));
        let set = |frame: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            if let Some(there) = frame.get_mut(at..at + bytes.len()) {
                there.copy_from_slice(bytes);
            }
        };
        // An IPv4 header is right but for what is changed.
        let sum = |frame: &mut Vec<u8>| {
            if ipv6 {
                return;
            }
            set(frame, ip + 10, &[0, 0]);
            let header = frame.get(ip).map_or(20, |byte| usize::from(byte & 15) * 4).max(20);
            let sum = Sum::of(frame.get(ip..ip + header).unwrap_or(&[])).finish();
            set(frame, ip + 10, &sum.to_be_bytes());
        };
        // Ends the packet there, and says so in the lengths of IP.
        let cut = |frame: &mut Vec<u8>, end: usize| {
            frame.truncate(end);
            let (at, length) = if ipv6 { (ip + 4, end - l4) } else { (ip + 2, end - ip) };
            set(frame, at, &(length as u16).to_be_bytes());
        };
        let source = if ipv6 { ip + 8..ip + 24 } else { ip + 12..ip + 16 };
        let source_len = source.len();
        let beyond = (SIZE as u16 * 2).to_be_bytes();
        match self {
            M::Empty => frame.truncate(ip),
            M::EtherType => set(&mut frame, ip - 2, &[0x88, 0xb5]),
            M::IpShort => frame.truncate(ip + 10),
            M::IpVersion => set(&mut frame, ip, &[0x55]),
            M::IpHeaderLength => set(&mut frame, ip, &[0x44]),
            M::IpHeaderBeyond => {
                set(&mut frame, ip, &[0x4f]);
                frame.truncate(ip + 40);
            }
            M::IpLengthBelow => set(&mut frame, ip + 2, &[0, 10]),
            M::IpLengthBeyond => set(&mut frame, if ipv6 { ip + 4 } else { ip + 2 }, &beyond),
            M::IpChecksum => {
                let at = ip + 10;
                let wrong = frame.get(at).map_or(0, |byte| byte ^ 0xff);
                set(&mut frame, at, &[wrong]);
                return Some(vec![frame]);
            }
            M::IpTtl => set(&mut frame, ip + 8, &[0]),
            M::IpSourceRoute => {
                // Loose source routing to one more address, and the end of options (RFC 791, 3.1).
                let destination = frame.get(ip + 16..ip + 20)?.to_vec();
                let mut options = vec![131, 7, 4];
                options.extend(destination);
                options.push(0);
                frame.splice(l4..l4, options);
                frame.truncate(SIZE);
                set(&mut frame, ip, &[0x47]);
            }
            M::IpSourceMulticast => {
                let mut address = vec![0; source_len];
                (address[0], address[source_len - 1]) = if ipv6 { (0xff, 2) } else { (224, 1) };
                set(&mut frame, source.start, &address);
            }
            M::IpSourceLoopback => {
                let mut address = vec![0; source_len];
                address[0] = if ipv6 { 0 } else { 127 };
                address[source_len - 1] = 1;
                set(&mut frame, source.start, &address);
            }
            M::Land => {
                let destination = frame.get(source.end..source.end + source_len)?.to_vec();
                set(&mut frame, source.start, &destination);
                let port = frame.get(l4 + 2..l4 + 4)?.to_vec();
                set(&mut frame, l4, &port);
            }
            M::UdpShort | M::IcmpShort => cut(&mut frame, l4 + 4),
            M::TcpShort => cut(&mut frame, l4 + 10),
            M::UdpLengthBelow => set(&mut frame, l4 + 4, &[0, 4]),
            M::UdpLengthBeyond => set(&mut frame, l4 + 4, &beyond),
            M::TcpHeaderLength => set(&mut frame, l4 + 12, &[0x40]),
            M::TcpHeaderBeyond => {
                set(&mut frame, l4 + 12, &[0xf0]);
                cut(&mut frame, l4 + 40);
            }
            M::TcpFlagsNone | M::TcpFlagsSynFin => {}
            M::FragmentOverlap => {
                let mut first = frame.clone();
                set(&mut first, ip + FRAGMENT_OFFSET, &MORE_FRAGMENTS.to_be_bytes());
                cut(&mut first, l4 + 64);
                sum(&mut first);
                // Both have bytes 32 to 64.
                let mut second = frame.clone();
                set(&mut second, ip + FRAGMENT_OFFSET, &4u16.to_be_bytes());
                sum(&mut second);
                return Some(vec![first, second]);
            }
            M::FragmentBeyond => set(&mut frame, ip + FRAGMENT_OFFSET, &0x1fff_u16.to_be_bytes()),
            M::FragmentTiny => {
                set(&mut frame, ip + FRAGMENT_OFFSET, &MORE_FRAGMENTS.to_be_bytes());
                set(&mut frame, ip + 9, &[6]);
                cut(&mut frame, l4 + 8);
            }
        }
        sum(&mut frame);
        if frame.len() < ETHERNET {
            return None;
        }
        Some(vec![frame])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::HOP;
    use crate::stream::tests::stream;

    #[test]
    fn every_kind_has_frames_and_no_two_are_the_same() {
        let mut v6 = stream(1, "64");
        v6.source.address = "2001:db8::1".parse().unwrap();
        v6.destination.address = "2001:db8::2".parse().unwrap();
        for (stream, ipv6) in [(stream(1, "64"), false), (v6, true)] {
            let frames: Vec<_> = Malformed::all(ipv6)
                .into_iter()
                .flat_map(|kind| {
                    let frames = kind.frames(&stream, HOP);
                    assert!(!frames.is_empty(), "{kind:?}");
                    frames
                })
                .collect();
            for (at, frame) in frames.iter().enumerate() {
                assert!((ETHERNET..=192).contains(&frame.len()), "{} bytes", frame.len());
                assert!(!frames[..at].contains(frame));
            }
        }
    }
}
