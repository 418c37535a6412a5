//! Packets for tests, written byte by byte from the RFCs and not by the emitters under test: what a test expects must not
//! come from the code that it judges. Checksums are summed the slow way (RFC 1071, 4.1).

use std::net::Ipv4Addr;

use caracal_wire::MacAddr;

/// TCP's FIN.
pub const FIN: u8 = 0x01;
/// TCP's SYN.
pub const SYN: u8 = 0x02;
/// TCP's RST.
pub const RST: u8 = 0x04;
/// TCP's PSH.
pub const PSH: u8 = 0x08;
/// TCP's ACK.
pub const ACK: u8 = 0x10;

/// An address and a port.
pub type Socket = ([u8; 4], u16);

/// An IPv4 packet to be, without options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who it is from.
    pub source: [u8; 4],
    /// Whom it is for.
    pub destination: [u8; 4],
    /// What `body` is.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset.
    pub fragment_word: u16,
    /// The transport header and what follows it, its checksum included.
    pub body: Vec<u8>,
}

impl Datagram {
    /// A packet of any protocol.
    #[must_use]
    pub fn new(source: [u8; 4], destination: [u8; 4], protocol: u8, body: &[u8]) -> Self {
        Datagram {
            source,
            destination,
            protocol,
            ttl: 64,
            tos: 0,
            identification: 0,
            fragment_word: 0,
            body: body.to_vec(),
        }
    }

    /// UDP with a right checksum (RFC 768).
    #[must_use]
    pub fn udp(from: Socket, to: Socket, payload: &[u8]) -> Self {
        let len = (8 + payload.len()) as u16;
        let header = [from.1, to.1, len, 0].map(u16::to_be_bytes).concat();
        Datagram::new(from.0, to.0, 17, &[&header, payload].concat()).with_checksum(6)
    }

    /// TCP without options, with a right checksum (RFC 9293).
    #[must_use]
    pub fn tcp(from: Socket, to: Socket, flags: u8, payload: &[u8]) -> Self {
        let mut header = [from.1, to.1, 0, 1, 0, 2].map(u16::to_be_bytes).concat();
        header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Datagram::new(from.0, to.0, 6, &[&header, payload].concat()).with_checksum(16)
    }

    /// TCP with these numbers (RFC 9293, 3.1).
    #[must_use]
    pub fn numbered(mut self, sequence: u32, acknowledgement: u32, window: u16) -> Self {
        self.body[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.body[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        self.body[14..16].copy_from_slice(&window.to_be_bytes());
        self.body[16..18].fill(0);
        self.with_checksum(16)
    }

    /// SCTP's common header and one chunk type (RFC 9260); the checksum is zero, which nobody on the way reads.
    #[must_use]
    pub fn sctp(from: Socket, to: Socket) -> Self {
        let ports = [from.1, to.1].map(u16::to_be_bytes).concat();
        Datagram::new(from.0, to.0, 132, &[ports, vec![0; 8], vec![1, 0, 0, 4]].concat())
    }

    /// An echo request, or its reply (RFC 792).
    #[must_use]
    pub fn echo(source: [u8; 4], destination: [u8; 4], reply: bool, identifier: u16, sequence: u16) -> Self {
        let kind = if reply { 0 } else { 8 };
        let numbers = [identifier, sequence].map(u16::to_be_bytes).concat();
        Datagram::icmp(source, destination, kind, 0, &numbers, b"echo")
    }

    /// An ICMP error that quotes `about` as far as `quoted` bytes.
    #[must_use]
    pub fn error(
        source: [u8; 4],
        destination: [u8; 4],
        kind: u8,
        code: u8,
        rest: [u8; 4],
        about: &Datagram,
        quoted: usize,
    ) -> Self {
        let bytes = about.bytes();
        Datagram::icmp(source, destination, kind, code, &rest, &bytes[..quoted.min(bytes.len())])
    }

    fn icmp(source: [u8; 4], destination: [u8; 4], kind: u8, code: u8, rest: &[u8], payload: &[u8]) -> Self {
        let mut body = [&[kind, code, 0, 0], rest, payload].concat();
        let sum = checksum(&body).to_be_bytes();
        body[2..4].copy_from_slice(&sum);
        Datagram::new(source, destination, 1, &body)
    }

    /// With another time to live.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        Datagram { ttl, ..self }
    }

    /// Not to be fragmented.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        Datagram { fragment_word: 0x4000, ..self }
    }

    /// With a type of service.
    #[must_use]
    pub fn tos(self, tos: u8) -> Self {
        Datagram { tos, ..self }
    }

    /// With an identification.
    #[must_use]
    pub fn identified(self, identification: u16) -> Self {
        Datagram { identification, ..self }
    }

    /// With only the pseudo-header's sum where the checksum of TCP or UDP goes: CHECKSUM_PARTIAL, as virtual devices hand
    /// packets over.
    #[must_use]
    pub fn partial(mut self) -> Self {
        let at = if self.protocol == 6 { 16 } else { 6 };
        let partial = !checksum(&self.pseudo_header());
        self.body[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        self
    }

    /// Whether the transport checksum of TCP or UDP is right.
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

    fn pseudo_header(&self) -> Vec<u8> {
        let mut header = [self.source, self.destination].concat();
        header.extend([0, self.protocol]);
        header.extend((self.body.len() as u16).to_be_bytes());
        header
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let total = (20 + self.body.len()) as u16;
        let mut header = vec![0x45, self.tos];
        header.extend(total.to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        header.extend(self.fragment_word.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source);
        header.extend(self.destination);
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        [header, self.body.clone()].concat()
    }

    /// The packet in an Ethernet frame.
    #[must_use]
    pub fn frame(&self, to: MacAddr, from: MacAddr) -> Vec<u8> {
        ethernet(to, from, 0x0800, &self.bytes())
    }

    /// Reads the packet in an Ethernet frame back. `None`: it is not a plain IPv4 packet with a right header checksum that
    /// fills the frame.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Datagram> {
        let packet = frame.get(14..)?;
        let header = packet.get(..20)?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let is_plain = frame[12..14] == [8, 0] && header[0] == 0x45 && checksum(header) == 0;
        if !is_plain || usize::from(word(2)) != packet.len() {
            return None;
        }
        Some(Datagram {
            source: header[12..16].try_into().ok()?,
            destination: header[16..20].try_into().ok()?,
            protocol: header[9],
            ttl: header[8],
            tos: header[1],
            identification: word(4),
            fragment_word: word(6),
            body: packet[20..].to_vec(),
        })
    }
}

/// An Ethernet frame.
#[must_use]
pub fn ethernet(to: MacAddr, from: MacAddr, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0, &from.0, &ether_type.to_be_bytes()[..], payload].concat()
}

/// An ARP message of IPv4 over Ethernet (RFC 826): 1 asks, 2 answers.
#[must_use]
pub fn arp(operation: u8, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let preamble = [0, 1, 8, 0, 6, 4, 0, operation];
    [&preamble[..], &sender.0.0, &sender.1.octets(), &target.0.0, &target.1.octets()].concat()
}

/// The UDP packet that carries `inner` between tunnel endpoints (RFC 7348), with no UDP checksum.
#[must_use]
pub fn vxlan(from: Socket, to: Socket, vni: u32, inner: &[u8]) -> Datagram {
    let len = (16 + inner.len()) as u16;
    let mut body = [from.1, to.1, len, 0].map(u16::to_be_bytes).concat();
    body.extend([0x08, 0, 0, 0]);
    body.extend((vni << 8).to_be_bytes());
    body.extend(inner);
    Datagram::new(from.0, to.0, 17, &body).dont_fragment()
}

/// The packet that carries `inner` between nodes (RFC 2003).
#[must_use]
pub fn ipip(from: [u8; 4], to: [u8; 4], inner: &Datagram) -> Datagram {
    Datagram::new(from, to, 4, &inner.bytes()).dont_fragment()
}

/// RFC 1071, 4.1, word by word.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
