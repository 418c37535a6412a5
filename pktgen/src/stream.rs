//! A stream: packets of one kind, in flows, with sizes, and its share of all packets.
//!
//! The flow with number *n* has the *n*th combination of what its ends have: source ports first, then destination ports, then source
//! addresses, then destination addresses. So a profile of a million flows is a few ranges, and the same in every run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use caracal_wire::MacAddr;
use caracal_wire::tcp::Flags;

use crate::malformed::Malformed;
use crate::profile::Sizes;

/// What a stream's packets are.
#[derive(Debug, Clone, PartialEq)]
pub enum Packets {
    /// UDP datagrams.
    Udp,
    /// TCP segments with these flags. No connection is made: see [`crate::connections`] for those.
    Tcp(Flags),
    /// ICMP echo requests.
    Echo,
    /// What nobody should let through, kinds taking turns.
    Malformed(Vec<Malformed>),
}

/// How often which flow has its turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// In turn.
    Uniform,
    /// The *n*th most frequent flow has 1/*n*^s of what the first has (Zipf's law).
    Zipf(f64),
}

/// What one end of the flows may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The first address.
    pub address: IpAddr,
    /// How many there are from it on.
    pub addresses: u32,
    /// The first port, or echo identifier.
    pub port: u16,
    /// How many there are from it on.
    pub ports: u32,
}

impl End {
    fn address(&self, n: u64) -> IpAddr {
        let n = n % u64::from(self.addresses.max(1));
        match self.address {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits().wrapping_add(n as u32)).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits().wrapping_add(u128::from(n))).into(),
        }
    }

    fn port(&self, n: u64) -> u16 {
        self.port.wrapping_add((n % u64::from(self.ports.max(1))) as u16)
    }
}

/// A header around the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Which.
    pub kind: TunnelKind,
    /// Its end here.
    pub source: Ipv4Addr,
    /// Its other end.
    pub destination: Ipv4Addr,
}

/// What a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelKind {
    /// VXLAN (RFC 7348).
    Vxlan {
        /// The network.
        vni: u32,
        /// The UDP port.
        port: u16,
        /// Source of the Ethernet header inside.
        inner_source: MacAddr,
        /// Destination of the Ethernet header inside.
        inner_destination: MacAddr,
    },
    /// IPv4 or IPv6 in IPv4 (RFC 2003, RFC 4213).
    Ipip,
}

/// A stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Its weight among all streams' packets.
    pub share: f64,
    /// Its packets.
    pub packets: Packets,
    /// The lengths of their frames.
    pub sizes: Sizes,
    /// How many flows it has at a time.
    pub flows: u32,
    /// How often each has its turn.
    pub distribution: Distribution,
    /// How many flows a second end, and another begins in their place.
    pub churn: f64,
    /// Where packets are from.
    pub source: End,
    /// Where packets go.
    pub destination: End,
    /// What is around them.
    pub tunnel: Option<Tunnel>,
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
}

impl Stream {
    /// How many different flows there can be.
    #[must_use]
    pub fn combinations(&self) -> u64 {
        let End { addresses, ports, .. } = self.source;
        let ports = u64::from(ports) * u64::from(self.destination.ports);
        u64::from(addresses).saturating_mul(u64::from(self.destination.addresses)).saturating_mul(ports)
    }

    /// The `n`th flow; round and round when there are no more.
    #[must_use]
    pub fn tuple(&self, n: u64) -> Tuple {
        let (from, to) = (self.source, self.destination);
        let source_port = from.port(n);
        let n = n / u64::from(from.ports.max(1));
        let destination_port = to.port(n);
        let n = n / u64::from(to.ports.max(1));
        let source = from.address(n);
        let n = n / u64::from(from.addresses.max(1));
        Tuple { source: (source, source_port), destination: (to.address(n), destination_port) }
    }

    /// Whether its packets have marks, and are expected to come.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        !matches!(self.packets, Packets::Malformed(_))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::collections::HashSet;

    /// UDP from 10.0.0.1 to 10.0.0.2.
    pub fn stream(flows: u32, sizes: &str) -> Stream {
        let end = |last, port, ports| End { address: [10, 0, 0, last].into(), addresses: 1, port, ports };
        Stream {
            name: "test".into(),
            share: 1.0,
            packets: Packets::Udp,
            sizes: sizes.parse().unwrap(),
            flows,
            distribution: Distribution::Uniform,
            churn: 0.0,
            source: end(1, 1024, 64_512),
            destination: end(2, 9000, 16),
            tunnel: None,
        }
    }

    #[test]
    fn flows_with_different_numbers_are_different_as_far_as_there_are_combinations() {
        let mut stream = stream(1, "64");
        (stream.source.ports, stream.source.addresses) = (5, 3);
        (stream.destination.ports, stream.destination.addresses) = (4, 2);
        assert_eq!(stream.combinations(), 120);
        let all: HashSet<_> = (0..120).map(|n| format!("{:?}", stream.tuple(n))).collect();
        assert_eq!(all.len(), 120);
        assert_eq!(stream.tuple(120), stream.tuple(0));
        assert_eq!(stream.tuple(1).source, ([10, 0, 0, 1].into(), 1025));
        assert_eq!(stream.tuple(119).destination, ([10, 0, 0, 3].into(), 9003));
    }
}
