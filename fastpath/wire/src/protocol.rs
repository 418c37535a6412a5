use core::fmt;

/// An IP protocol number (IPv4 "protocol", IPv6 "next header"; IANA's Assigned Internet Protocol Numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMPV4: Protocol = Protocol(1);
    /// IPv4 in IP (RFC 2003): "IPIP".
    pub const IPIP: Protocol = Protocol(4);
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: Protocol = Protocol(41);
    /// GRE.
    pub const GRE: Protocol = Protocol(47);
    /// ICMP for IPv6.
    pub const ICMPV6: Protocol = Protocol(58);
    /// IPv6: nothing follows (RFC 8200 §4.7).
    pub const IPV6_NO_NEXT: Protocol = Protocol(59);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);
    /// UDP-Lite.
    pub const UDP_LITE: Protocol = Protocol(136);

    /// Whether source and destination port are the first four bytes of the header.
    #[inline]
    pub const fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP | Protocol::UDP_LITE)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Protocol::ICMPV4 => "icmp",
            Protocol::IPIP => "ipip",
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            Protocol::IPV6 => "ipv6",
            Protocol::GRE => "gre",
            Protocol::ICMPV6 => "icmpv6",
            Protocol::SCTP => "sctp",
            Protocol::UDP_LITE => "udplite",
            Protocol(number) => return write!(f, "protocol {number}"),
        })
    }
}

/// A port of TCP, UDP or SCTP (a [port] of packets is something else in this project).
///
/// [port]: https://www.rfc-editor.org/rfc/rfc6335
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct L4Port(pub u16);

impl L4Port {
    /// The number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl From<u16> for L4Port {
    fn from(number: u16) -> Self {
        L4Port(number)
    }
}

impl fmt::Display for L4Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn known_protocols_show_their_name_and_others_their_number() {
        assert_eq!(Protocol::SCTP.to_string(), "sctp");
        assert_eq!(Protocol(200).to_string(), "protocol 200");
    }
}
