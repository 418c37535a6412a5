use thiserror::Error;

/// Why bytes are not the header they were taken for.
///
/// One flat list over all headers, so that a caller that names its drops can give every reason a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Malformed {
    /// Fewer than 14 bytes.
    #[error("Ethernet: shorter than its 14-byte header")]
    EthernetTooShort,
    /// Fewer than 28 bytes.
    #[error("ARP: shorter than 28 bytes")]
    ArpTooShort,
    /// Hardware or protocol type, or their address lengths, are not Ethernet's and IPv4's.
    #[error("ARP: not for IPv4 over Ethernet")]
    ArpNotIpv4OverEthernet,
    /// Fewer than 20 bytes.
    #[error("IPv4: shorter than its 20-byte header")]
    Ipv4TooShort,
    /// The version field is not 4.
    #[error("IPv4: the version field is not 4")]
    Ipv4Version,
    /// IHL below five, or a header that is longer than the bytes there are.
    #[error("IPv4: header length below 20 bytes or beyond the packet")]
    Ipv4HeaderLength,
    /// Total length below the header's.
    #[error("IPv4: total length is less than the header's")]
    Ipv4TotalLength,
    /// Total length beyond the bytes there are.
    #[error("IPv4: truncated, total length is more than what arrived")]
    Ipv4Truncated,
    /// Fewer than 40 bytes.
    #[error("IPv6: shorter than its 40-byte header")]
    Ipv6TooShort,
    /// The version field is not 6.
    #[error("IPv6: the version field is not 6")]
    Ipv6Version,
    /// Payload length beyond the bytes there are.
    #[error("IPv6: truncated, payload length is more than what arrived")]
    Ipv6Truncated,
    /// An extension header that runs out of the packet.
    #[error("IPv6: an extension header runs beyond the packet")]
    Ipv6ExtensionTruncated,
    /// More extension headers than anyone needs.
    #[error("IPv6: too many extension headers")]
    Ipv6ExtensionChain,
    /// A routing header of type 0 with somewhere left to go.
    #[error("IPv6: routed by its source (RFC 5095)")]
    Ipv6SourceRoute,
    /// Fewer than 20 bytes.
    #[error("TCP: shorter than its 20-byte header")]
    TcpTooShort,
    /// Data offset below five, or beyond the bytes there are.
    #[error("TCP: data offset below 20 bytes or beyond the segment")]
    TcpDataOffset,
    /// Fewer than 8 bytes.
    #[error("UDP: shorter than its 8-byte header")]
    UdpTooShort,
    /// Length below 8, or beyond the bytes there are.
    #[error("UDP: length below 8 bytes or beyond the datagram")]
    UdpLength,
    /// Fewer than 12 bytes.
    #[error("SCTP: shorter than its 12-byte header")]
    SctpTooShort,
    /// Fewer than 8 bytes.
    #[error("ICMP: shorter than its 8-byte header")]
    Icmpv4TooShort,
    /// Fewer than 8 bytes.
    #[error("ICMPv6: shorter than its 8-byte header")]
    Icmpv6TooShort,
    /// A type or a code that the `Repr` asked for has no form of.
    #[error("ICMP: a type or code that has no representation here")]
    IcmpKind,
    /// Fewer than 8 bytes.
    #[error("VXLAN: shorter than its 8-byte header")]
    VxlanTooShort,
    /// The flag that says that the VNI is valid is not set.
    #[error("VXLAN: the valid-VNI flag is not set")]
    VxlanNoVni,
}
