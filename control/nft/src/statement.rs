//! What rules are made of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Family;

/// A step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Goes on only if this holds.
    Match(Match),
    /// Counts packets and bytes.
    Counter,
    /// Writes a line to the kernel's log, which begins so.
    Log(String),
    /// No connection is tracked for the packet.
    NoTrack,
    /// Sets these bits of the packet's mark.
    Mark(u32),
    /// Clears these bits of the packet's mark.
    Unmark(u32),
    /// Ends the rule.
    Verdict(Verdict),
}

/// What a rule leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes this hook's chain; later chains still judge it.
    Accept,
    /// The packet is gone.
    Drop,
    /// Back to the rule after the one that jumped here.
    Return,
    /// To another chain, and back when that ends.
    Jump(String),
    /// To another chain, for good.
    Goto(String),
}

/// A side of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// States of connection tracking, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateMask(pub u32);

impl StateMask {
    /// A packet that belongs to no connection and can begin none.
    pub const INVALID: StateMask = StateMask(1);
    /// A packet of a connection that both sides know, or that a known one brings about.
    pub const ESTABLISHED_OR_RELATED: StateMask = StateMask(2 | 4);
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It came in by this interface.
    InputInterface(String),
    /// It goes out by this interface.
    OutputInterface(String),
    /// It is of this version of IP.
    Family(Family),
    /// Its protocol is, or is not, this.
    Protocol {
        /// IP protocol number.
        protocol: u8,
        /// Whether it must be, or must not.
        is: bool,
    },
    /// An address is in this prefix; the version of IP has been asked before.
    Address {
        /// Whose.
        side: Side,
        /// The prefix's address.
        prefix: IpAddr,
        /// Its length.
        length: u8,
    },
    /// A port is, or is not, from `first` to `last`; of a protocol that has ports, which has been asked before.
    Port {
        /// Whose.
        side: Side,
        /// The lowest.
        first: u16,
        /// The highest.
        last: u16,
        /// Whether it must be, or must not.
        is: bool,
    },
    /// It is, or is not, this message of ICMP or ICMPv6, which has been asked before.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code; None: any.
        code: Option<u8>,
        /// Whether it must be, or must not.
        is: bool,
    },
    /// The hop limit of IPv6, which has been asked before, is this.
    HopLimit(u8),
    /// Its destination is not somebody else's: an address of this host, or of many.
    LocalDestination,
    /// The packet's mark has one of these bits.
    Marked(u32),
    /// Its connection is in one of these states.
    State(StateMask),
    /// Fields, one after another, are in a set, or are not.
    InSet {
        /// The fields; those of the set.
        fields: Vec<Field>,
        /// The set's name.
        set: String,
        /// Whether they must be, or must not.
        is: bool,
    },
}

/// What is looked up in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An address.
    Address(Side, Family),
    /// The protocol.
    Protocol,
    /// A port.
    Port(Side),
}

impl From<Match> for Statement {
    fn from(condition: Match) -> Statement {
        Statement::Match(condition)
    }
}

impl From<Verdict> for Statement {
    fn from(verdict: Verdict) -> Statement {
        Statement::Verdict(verdict)
    }
}

/// A prefix's address and mask, in network order.
pub(crate) fn masked(prefix: IpAddr, length: u8) -> (Vec<u8>, Vec<u8>) {
    match prefix {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            let address = Ipv4Addr::from_bits(address.to_bits() & mask);
            (address.octets().to_vec(), mask.to_be_bytes().to_vec())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            let address = Ipv6Addr::from_bits(address.to_bits() & mask);
            (address.octets().to_vec(), mask.to_be_bytes().to_vec())
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Match(condition) => condition.fmt(f),
            Statement::Counter => f.write_str("counter"),
            Statement::Log(prefix) => write!(f, "log prefix \"{prefix}\" level info"),
            Statement::NoTrack => f.write_str("notrack"),
            Statement::Mark(bits) => write!(f, "meta mark set meta mark | {bits:#010x}"),
            Statement::Unmark(bits) => write!(f, "meta mark set meta mark & {:#010x}", !bits),
            Statement::Verdict(verdict) => verdict.fmt(f),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Side {
    fn address(self) -> &'static str {
        match self {
            Side::Source => "saddr",
            Side::Destination => "daddr",
        }
    }

    fn port(self) -> &'static str {
        match self {
            Side::Source => "sport",
            Side::Destination => "dport",
        }
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Address(side, family) => write!(f, "{} {}", family_name(*family), side.address()),
            Field::Protocol => f.write_str("meta l4proto"),
            Field::Port(side) => write!(f, "th {}", side.port()),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |is: &bool| if *is { "" } else { "!= " };
        match self {
            Match::InputInterface(name) => write!(f, "iifname \"{name}\""),
            Match::OutputInterface(name) => write!(f, "oifname \"{name}\""),
            Match::Family(Family::V4) => f.write_str("meta nfproto ipv4"),
            Match::Family(Family::V6) => f.write_str("meta nfproto ipv6"),
            Match::Protocol { protocol, is } => write!(f, "meta l4proto {}{protocol}", not(is)),
            Match::Address { side, prefix, length } => {
                let family = family_name(Family::of(*prefix));
                write!(f, "{family} {} {prefix}/{length}", side.address())
            }
            Match::Port { side, first, last, is } if first == last => {
                write!(f, "th {} {}{first}", side.port(), not(is))
            }
            Match::Port { side, first, last, is } => {
                write!(f, "th {} {}{first}-{last}", side.port(), not(is))
            }
            Match::Icmp { kind, code: None, is } => write!(f, "icmp type {}{kind}", not(is)),
            Match::Icmp { kind, code: Some(code), is } => {
                write!(f, "icmp type . code {}{kind} . {code}", not(is))
            }
            Match::HopLimit(limit) => write!(f, "ip6 hoplimit {limit}"),
            Match::LocalDestination => f.write_str("fib daddr type != unicast"),
            Match::Marked(bits) => write!(f, "meta mark & {bits:#010x} != 0"),
            Match::State(StateMask::INVALID) => f.write_str("ct state invalid"),
            Match::State(StateMask::ESTABLISHED_OR_RELATED) => f.write_str("ct state established,related"),
            Match::State(StateMask(bits)) => write!(f, "ct state & {bits:#x} != 0"),
            Match::InSet { fields, set, is } => {
                for (at, field) in fields.iter().enumerate() {
                    write!(f, "{}{field}", if at == 0 { "" } else { " . " })?;
                }
                write!(f, " {}@{set}", not(is))
            }
        }
    }
}
