//! IPv6 packets for tests, byte by byte from the RFCs, as [`super::datagram`] has them for IPv4.

use std::net::Ipv6Addr;

use caracal_wire::MacAddr;

use super::datagram::{checksum, ethernet};

/// An address and a port.
pub type Socket6 = (Ipv6Addr, u16);

/// An IPv6 packet to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram6 {
    /// Who it is from.
    pub source: Ipv6Addr,
    /// Whom it is for.
    pub destination: Ipv6Addr,
    /// What `body` begins with.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class.
    pub class: u8,
    /// Flow label.
    pub label: u32,
    /// Extension headers, the transport header and what follows it, its checksum included.
    pub body: Vec<u8>,
}

impl Datagram6 {
    /// A packet of any protocol.
    #[must_use]
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, body: &[u8]) -> Self {
        Datagram6 { source, destination, next_header, hop_limit: 64, class: 0, label: 0, body: body.to_vec() }
    }

    /// UDP with a right checksum (RFC 768).
    #[must_use]
    pub fn udp(from: Socket6, to: Socket6, payload: &[u8]) -> Self {
        let len = (8 + payload.len()) as u16;
        let header = [from.1, to.1, len, 0].map(u16::to_be_bytes).concat();
        Datagram6::new(from.0, to.0, 17, &[&header, payload].concat()).with_checksum(6)
    }

    /// TCP without options, with a right checksum (RFC 9293).
    #[must_use]
    pub fn tcp(from: Socket6, to: Socket6, flags: u8, payload: &[u8]) -> Self {
        let mut header = [from.1, to.1, 0, 1, 0, 2].map(u16::to_be_bytes).concat();
        header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Datagram6::new(from.0, to.0, 6, &[&header, payload].concat()).with_checksum(16)
    }

    /// SCTP's common header and one chunk type (RFC 9260); the checksum is zero, which nobody on the way reads.
    #[must_use]
    pub fn sctp(from: Socket6, to: Socket6) -> Self {
        let ports = [from.1, to.1].map(u16::to_be_bytes).concat();
        Datagram6::new(from.0, to.0, 132, &[ports, vec![0; 8], vec![1, 0, 0, 4]].concat())
    }

    /// An echo request, or its reply (RFC 4443, 4).
    #[must_use]
    pub fn echo(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        reply: bool,
        identifier: u16,
        sequence: u16,
    ) -> Self {
        let kind = if reply { 129 } else { 128 };
        let rest = [&[identifier, sequence].map(u16::to_be_bytes).concat(), &b"echo"[..]].concat();
        Datagram6::icmp(source, destination, kind, 0, &rest)
    }

    /// An ICMPv6 error that quotes `about` as far as `quoted` bytes (RFC 4443, 3).
    #[must_use]
    pub fn error(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        (kind, code): (u8, u8),
        rest: u32,
        about: &Datagram6,
        quoted: usize,
    ) -> Self {
        let bytes = about.bytes();
        let rest = [&rest.to_be_bytes(), &bytes[..quoted.min(bytes.len())]].concat();
        Datagram6::icmp(source, destination, kind, code, &rest)
    }

    /// Any ICMPv6 message: `rest` is what follows the checksum.
    #[must_use]
    pub fn icmp(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Self {
        Datagram6::new(source, destination, 58, &[&[kind, code, 0, 0], rest].concat()).with_checksum(2)
    }

    /// A neighbour solicitation (135) or advertisement (136) with its option (RFC 4861, 4.3 and 4.4).
    #[must_use]
    pub fn neighbour(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        kind: u8,
        flags: u32,
        target: Ipv6Addr,
        mac: Option<MacAddr>,
    ) -> Self {
        let mut rest = [&flags.to_be_bytes()[..], &target.octets()].concat();
        if let Some(mac) = mac {
            rest.extend([if kind == 135 { 1 } else { 2 }, 1]);
            rest.extend(mac.0);
        }
        Datagram6::icmp(source, destination, kind, 0, &rest).hop_limit(255)
    }

    /// With another hop limit.
    #[must_use]
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        Datagram6 { hop_limit, ..self }
    }

    /// With a traffic class.
    #[must_use]
    pub fn class(self, class: u8) -> Self {
        Datagram6 { class, ..self }
    }

    /// With an extension header of `kind` (its first byte is what followed so far) in front of what there is.
    #[must_use]
    pub fn behind(self, kind: u8, rest_of_header: &[u8]) -> Self {
        let body = [&[self.next_header], rest_of_header, &self.body].concat();
        Datagram6 { next_header: kind, body, ..self }
    }

    /// With only the pseudo-header's sum where the checksum of TCP or UDP goes.
    #[must_use]
    pub fn partial(mut self) -> Self {
        let at = if self.next_header == 6 { 16 } else { 6 };
        let partial = !checksum(&self.pseudo_header());
        self.body[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        self
    }

    /// Whether the transport checksum of a packet without extension headers is right.
    #[must_use]
    pub fn checksum_is_right(&self) -> bool {
        checksum(&[self.pseudo_header(), self.body.clone()].concat()) == 0
    }

    fn with_checksum(mut self, at: usize) -> Self {
        let sum = match checksum(&[self.pseudo_header(), self.body.clone()].concat()) {
            0 => 0xffff,
            sum => sum,
        };
        self.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// RFC 8200, 8.1.
    fn pseudo_header(&self) -> Vec<u8> {
        let mut header = [self.source.octets(), self.destination.octets()].concat();
        header.extend((self.body.len() as u32).to_be_bytes());
        header.extend([0, 0, 0, self.next_header]);
        header
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = (6 << 28 | u32::from(self.class) << 20 | self.label).to_be_bytes().to_vec();
        header.extend((self.body.len() as u16).to_be_bytes());
        header.extend([self.next_header, self.hop_limit]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        [header, self.body.clone()].concat()
    }

    /// The packet in an Ethernet frame.
    #[must_use]
    pub fn frame(&self, to: MacAddr, from: MacAddr) -> Vec<u8> {
        ethernet(to, from, 0x86dd, &self.bytes())
    }

    /// Reads the packet in an Ethernet frame back. `None`: it is no IPv6 packet that fills the frame.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Datagram6> {
        let packet = frame.get(14..)?;
        let header: &[u8; 40] = packet.first_chunk()?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).ok().map(Ipv6Addr::from);
        if frame[12..14] != [0x86, 0xdd] || header[0] >> 4 != 6 || 40 + len != packet.len() {
            return None;
        }
        Some(Datagram6 {
            source: address(8)?,
            destination: address(24)?,
            next_header: header[6],
            hop_limit: header[7],
            class: header[0] << 4 | header[1] >> 4,
            label: u32::from(header[1] & 15) << 16 | u32::from(header[2]) << 8 | u32::from(header[3]),
            body: packet[40..].to_vec(),
        })
    }
}

/// The UDP packet that carries `inner` between tunnel endpoints (RFC 7348) over IPv6, with its checksum (RFC 8200, 8.1).
#[must_use]
pub fn vxlan6(from: Socket6, to: Socket6, vni: u32, inner: &[u8]) -> Datagram6 {
    let header = [[8, 0, 0, 0], (vni << 8).to_be_bytes()].concat();
    Datagram6::udp(from, to, &[&header, inner].concat())
}
