//! What the kernel does with a packet that meets a ruleset: slow, and obviously so. Tests hold rulesets to what they are to mean with it.

use std::net::IpAddr;
use std::ops::RangeBounds;

use crate::Family;
use crate::ruleset::{Hook, Rule, Ruleset};
use crate::statement::{Field, Match, Side, StateMask, Statement, Verdict};

/// A packet, and what the kernel knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// The interface that it came in by; empty: none.
    pub input: String,
    /// The interface that it goes out by; empty: none.
    pub output: String,
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes to.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Of protocols that have ports.
    pub source_port: u16,
    /// Likewise.
    pub destination_port: u16,
    /// Type and code of ICMP and ICMPv6.
    pub icmp: (u8, u8),
    /// IPv6's hop limit.
    pub hop_limit: u8,
    /// Whether its destination is an address of this host, or of many.
    pub is_for_this_host: bool,
    /// Its connection.
    pub state: State,
    /// Its mark.
    pub mark: u32,
}

/// What connection tracking says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It belongs to no connection and can begin none.
    Invalid = 1,
    /// It belongs to one.
    Established = 2,
    /// It begins one.
    New = 8,
    /// It is not tracked.
    Untracked = 64,
}

/// What became of a packet at a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Accepted,
    /// It is gone.
    Dropped,
}

/// What a chain ends with.
enum End {
    Accept,
    Drop,
    Through,
}

impl Ruleset {
    /// Sends a packet through the chains at `hook` with such priorities, in order.
    pub fn meet(&self, hook: Hook, priorities: impl RangeBounds<i32>, packet: &mut Tested) -> Fate {
        let mut bases: Vec<_> =
            self.chains.iter().filter_map(|(name, chain)| Some((chain.base?, name))).collect();
        bases.sort();
        for (base, name) in bases {
            let is_met = base.hook == hook && priorities.contains(&base.priority);
            if is_met && matches!(self.walk(name, packet), End::Drop) {
                return Fate::Dropped;
            }
        }
        Fate::Accepted
    }

    fn walk(&self, chain: &str, packet: &mut Tested) -> End {
        let rules = self.chains.get(chain).map(|chain| chain.rules.as_slice()).unwrap_or_default();
        for rule in rules {
            match self.verdict(rule, packet) {
                None => {}
                Some(Verdict::Accept) => return End::Accept,
                Some(Verdict::Drop) => return End::Drop,
                Some(Verdict::Return) => return End::Through,
                Some(Verdict::Goto(chain)) => return self.walk(chain, packet),
                Some(Verdict::Jump(chain)) => match self.walk(chain, packet) {
                    End::Through => {}
                    end => return end,
                },
            }
        }
        End::Through
    }

    fn verdict<'a>(&self, rule: &'a Rule, packet: &mut Tested) -> Option<&'a Verdict> {
        for statement in &rule.statements {
            match statement {
                Statement::Match(condition) if !self.holds(condition, packet) => return None,
                Statement::Match(_) | Statement::Counter | Statement::Log(_) => {}
                Statement::NoTrack => packet.state = State::Untracked,
                Statement::Mark(bits) => packet.mark |= bits,
                Statement::Unmark(bits) => packet.mark &= !bits,
                Statement::Verdict(verdict) => return Some(verdict),
            }
        }
        None
    }

    fn holds(&self, condition: &Match, packet: &Tested) -> bool {
        match condition {
            Match::InputInterface(name) => packet.input == *name,
            Match::OutputInterface(name) => packet.output == *name,
            Match::Family(family) => Family::of(packet.source) == *family,
            Match::Protocol { protocol, is } => (packet.protocol == *protocol) == *is,
            Match::Address { side, prefix, length } => {
                let set = crate::Set::of_prefixes(Family::of(*prefix), [(*prefix, *length)]);
                Family::of(*prefix) == Family::of(packet.source)
                    && set.contains(&[bits(packet.address(*side))])
            }
            Match::Port { side, first, last, is } => (*first..=*last).contains(&packet.port(*side)) == *is,
            Match::Icmp { kind, code, is } => {
                (packet.icmp.0 == *kind && code.is_none_or(|code| packet.icmp.1 == code)) == *is
            }
            Match::HopLimit(limit) => packet.hop_limit == *limit,
            Match::LocalDestination => packet.is_for_this_host,
            Match::Marked(bits) => packet.mark & bits != 0,
            Match::State(StateMask(mask)) => packet.state as u32 & mask != 0,
            Match::InSet { fields, set, is } => {
                let values: Vec<u128> = fields.iter().map(|field| packet.value(*field)).collect();
                self.sets.get(set).is_some_and(|set| set.contains(&values)) == *is
            }
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Tested {
    fn address(&self, side: Side) -> IpAddr {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }

    fn port(&self, side: Side) -> u16 {
        match side {
            Side::Source => self.source_port,
            Side::Destination => self.destination_port,
        }
    }

    fn value(&self, field: Field) -> u128 {
        match field {
            Field::Address(side, _) => bits(self.address(side)),
            Field::Protocol => self.protocol.into(),
            Field::Port(side) => self.port(side).into(),
        }
    }
}
