//! The forwarding table: destination → what to do with the packet.
//!
//! One table of four sources. The most specific prefix wins; at equal length the sources rank endpoint, plane route,
//! address of the host itself, kernel route.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::lpm::Lpm;
use super::paged::Paged;
use super::{EndpointIndex, NeighborIndex, TunnelIndex};

/// What a destination's packets are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FibEntry {
    /// An endpoint of this node.
    Endpoint(EndpointIndex),
    /// An address behind another node.
    Tunnel {
        /// That node.
        tunnel: TunnelIndex,
        /// How packets travel to it.
        encapsulation: Encapsulation,
    },
    /// Outside, by one of the host's interfaces.
    Via {
        /// The interface.
        ifindex: u32,
        /// The neighbour there.
        next_hop: NextHop,
        /// Largest IP packet that fits.
        mtu: u16,
        /// The address that this host takes when it sends there; None: not known.
        source: Option<IpAddr>,
    },
    /// The host itself.
    LocalHost,
    /// A service: what is still to one of its cluster addresses, and to none of its ports, is for nobody.
    Service,
    /// Nobody: an address of ours that no endpoint has.
    Blackhole,
}

/// How packets travel to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// As they are, to the node's address of their own family.
    None,
    /// VXLAN between IPv4 addresses, whatever it carries.
    Vxlan,
    /// VXLAN between IPv6 addresses, whatever it carries.
    VxlanOverIpv6,
    /// IPv4 in IPv4.
    Ipip,
}

/// Who is asked to take a packet on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// A gateway.
    Gateway {
        /// Its address.
        address: IpAddr,
        /// Where its link-layer address is found.
        neighbor: NeighborIndex,
    },
    /// The destination itself is on the link.
    OnLink,
}

/// Where an entry came from; earlier ones win at equal prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// An endpoint's own address.
    Endpoint,
    /// A route of the control plane.
    Plane,
    /// An address of the host.
    KernelLocal,
    /// A service's cluster address.
    Service,
    /// A kernel route.
    Kernel,
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Encapsulation::None => "none",
            Encapsulation::Vxlan => "vxlan",
            Encapsulation::VxlanOverIpv6 => "vxlan-v6",
            Encapsulation::Ipip => "ipip",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Endpoint => "endpoint",
            Origin::Plane | Origin::Service => "plane",
            Origin::KernelLocal | Origin::Kernel => "kernel",
        })
    }
}

/// Entries a page. Entries that many routes share (one next hop) are one.
pub(super) const ENTRIES_PAGE: usize = 64;

/// The forwarding table.
#[derive(Debug, Clone, Default)]
pub struct Fib {
    pub(super) lpm: Lpm,
    pub(super) entries: Paged<Option<FibEntry>, ENTRIES_PAGE>,
}

impl Fib {
    /// Brings near what a lookup of `destination` begins with: for a batch, before it is looked up.
    #[inline]
    pub fn prefetch(&self, destination: IpAddr) {
        self.lpm.prefetch(destination);
    }

    /// The entry of the longest prefix that contains `destination`.
    #[inline]
    pub fn lookup(&self, destination: IpAddr) -> Option<&FibEntry> {
        match destination {
            IpAddr::V4(destination) => self.entry(self.lpm.lookup_v4(destination)?),
            IpAddr::V6(destination) => self.lookup_v6(destination.to_bits()),
        }
    }

    /// As [`prefetch`](Self::prefetch), of an IPv4 address.
    #[inline]
    pub fn prefetch_v4(&self, destination: Ipv4Addr) {
        self.lpm.prefetch(IpAddr::V4(destination));
    }

    /// The number of that entry, for who remembers something about each.
    #[inline]
    pub fn number_v4(&self, destination: Ipv4Addr) -> Option<u32> {
        self.lpm.lookup_v4(destination)
    }

    /// The entry with a number from [`number_v4`](Self::number_v4).
    #[inline]
    pub fn numbered(&self, number: u32) -> Option<&FibEntry> {
        self.entry(number)
    }

    /// Whether no entry has changed between them, whatever leads there.
    pub fn has_entries_of(&self, other: &Fib) -> bool {
        self.entries.is_same(&other.entries)
    }

    #[inline(never)]
    fn lookup_v6(&self, destination: u128) -> Option<&FibEntry> {
        self.entry(self.lpm.lookup_v6_bits(destination)?)
    }

    #[inline]
    fn entry(&self, entry: u32) -> Option<&FibEntry> {
        self.entries.get(entry as usize)?.as_ref()
    }

    /// Bytes that the longest-match table takes.
    pub fn bytes(&self) -> usize {
        self.lpm.bytes()
    }
}
