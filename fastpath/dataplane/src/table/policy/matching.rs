//! Whether a rule matches. The compiler, the walk over rules and its explanation ask the same questions here: of sets,
//! once a class is known; of ports, once what the sets leave of them is; and of the protocol.

use super::FlowTuple;
use super::list::FlatRule;
use super::rules::{Entity, Family, IcmpKind};
use super::sets::{Membership, SetId};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The protocols whose ports rules can ask for.
pub(super) const WITH_PORTS: [u8; 3] = [TCP, UDP, SCTP];

/// The protocols whose messages have a type and a code.
pub(super) const WITH_MESSAGES: [u8; 2] = [ICMP, ICMPV6];

/// Ports of a protocol; of protocol 0: of any that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PortRange {
    pub protocol: u8,
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    fn is_of(&self, protocol: u8) -> bool {
        self.protocol == 0 || self.protocol == protocol
    }

    fn holds(&self, protocol: u8, port: u16) -> bool {
        self.is_of(protocol) && (self.first..=self.last).contains(&port)
    }
}

/// What one side of a rule asks of ports, once the side's class is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    ranges: Box<[PortRange]>,
    /// Whether a packet without ports matches: only negated lists are given.
    pub portless: bool,
}

impl Ports {
    /// The ranges of a protocol that has ports.
    pub fn of(&self, protocol: u8) -> impl Iterator<Item = (u16, u16)> {
        let ranges = self.ranges.iter().filter(move |range| range.is_of(protocol));
        ranges.map(|range| (range.first, range.last))
    }
}

impl Entity {
    /// Sets that an address of this class would have to be in, and is not.
    pub fn sets_missed<'a>(&'a self, class: &'a [Membership]) -> impl Iterator<Item = SetId> {
        self.in_all.iter().copied().filter(|set| !is_in(class, *set))
    }

    /// Sets that an address of this class must not be in, and is.
    pub fn sets_hit<'a>(&'a self, class: &'a [Membership]) -> impl Iterator<Item = SetId> {
        self.in_none.iter().copied().filter(|set| is_in(class, *set))
    }

    /// Whether an address of this class may match, ports aside.
    pub fn takes(&self, class: &[Membership]) -> bool {
        self.sets_missed(class).next().is_none() && self.sets_hit(class).next().is_none()
    }

    /// Whether the class of an address says which ports match.
    pub fn names_ports(&self) -> bool {
        !self.named_ports.is_empty() || !self.not_named_ports.is_empty()
    }

    fn wants_ports(&self) -> bool {
        !self.ports.is_empty() || !self.named_ports.is_empty()
    }

    fn wanted<'a>(&'a self, class: &'a [Membership]) -> impl Iterator<Item = PortRange> {
        numbered(&self.ports).chain(named(&self.named_ports, class))
    }

    fn refused<'a>(&'a self, class: &'a [Membership]) -> impl Iterator<Item = PortRange> {
        numbered(&self.not_ports).chain(named(&self.not_named_ports, class))
    }

    /// What is asked of the ports of an address of this class; None: nothing.
    pub fn ports_for(&self, class: &[Membership]) -> Option<Ports> {
        if self.not_ports.is_empty() && self.not_named_ports.is_empty() {
            let wanted = || Ports { ranges: self.wanted(class).collect(), portless: false };
            return self.wants_ports().then(wanted);
        }
        let mut ranges = Vec::new();
        // Where no named port is in play every protocol has the same ranges.
        let protocols = if self.names_ports() { &WITH_PORTS[..] } else { &[0] };
        for &protocol in protocols {
            let mut left: Vec<(u16, u16)> = match self.wants_ports() {
                true => self.wanted(class).filter(|r| r.is_of(protocol)).map(|r| (r.first, r.last)).collect(),
                false => vec![(0, u16::MAX)],
            };
            for refused in self.refused(class).filter(|range| range.is_of(protocol)) {
                left = left
                    .into_iter()
                    .flat_map(|range| without(range, (refused.first, refused.last)))
                    .collect();
            }
            ranges.extend(left.into_iter().map(|(first, last)| PortRange { protocol, first, last }));
        }
        Some(Ports { ranges: ranges.into(), portless: !self.wants_ports() })
    }

    /// Whether a port is one of those that are asked for.
    fn takes_port(&self, class: &[Membership], protocol: u8, port: u16) -> bool {
        !self.wants_ports()
            || WITH_PORTS.contains(&protocol) && self.wanted(class).any(|range| range.holds(protocol, port))
    }

    /// Whether a port is one of those that must not be.
    fn refuses_port(&self, class: &[Membership], protocol: u8, port: u16) -> bool {
        WITH_PORTS.contains(&protocol) && self.refused(class).any(|range| range.holds(protocol, port))
    }
}

fn is_in(class: &[Membership], set: SetId) -> bool {
    class.binary_search(&Membership::address(set)).is_ok()
}

fn numbered(ranges: &[(u16, u16)]) -> impl Iterator<Item = PortRange> {
    ranges.iter().map(|(first, last)| PortRange { protocol: 0, first: *first, last: *last })
}

/// The ports that an address of this class has in these sets.
fn named<'a>(sets: &'a [SetId], class: &'a [Membership]) -> impl Iterator<Item = PortRange> {
    let memberships = sets.iter().flat_map(|set| {
        let start = class.partition_point(|membership| membership.set < *set);
        class[start..].iter().take_while(|membership| membership.set == *set)
    });
    let named = memberships.filter(|membership| WITH_PORTS.contains(&membership.protocol));
    named.map(|m| {
        let (first, last) = m.ports();
        PortRange { protocol: m.protocol, first, last }
    })
}

/// What is left of a range without another.
fn without((first, last): (u16, u16), (from, to): (u16, u16)) -> impl Iterator<Item = (u16, u16)> {
    let before = from.checked_sub(1).map(|end| (first, end.min(last)));
    let after = to.checked_add(1).map(|start| (start.max(first), last));
    [before, after].into_iter().flatten().filter(|(first, last)| first <= last)
}

impl IcmpKind {
    fn holds(&self, (kind, code): (u8, u8)) -> bool {
        self.kind == kind && self.code.is_none_or(|of| of == code)
    }
}

/// Type and code of a flow, where its protocol has them.
pub(super) fn message_of(flow: &FlowTuple) -> Option<(u8, u8)> {
    flow.icmp.filter(|_| WITH_MESSAGES.contains(&flow.protocol))
}

/// A side of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where a flow's first packet comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Why a rule does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Unmatched {
    IpVersion,
    Protocol,
    NotProtocol,
    Icmp,
    NotIcmp,
    /// Not in this set.
    In(Side, SetId),
    /// In this set.
    NotIn(Side, SetId),
    Ports(Side),
    NotPorts(Side),
}

impl FlatRule {
    /// Whether flows of `protocol` can match.
    pub fn takes_protocol(&self, protocol: u8) -> bool {
        (self.protocol == 0 || self.protocol == protocol) && self.not_protocol != protocol
    }

    /// Whether a flow between addresses of these classes matches.
    pub fn matches(&self, flow: &FlowTuple, local: &[Membership], peer: &[Membership]) -> bool {
        self.unmatched(flow, local, peer).next().is_none()
    }

    /// Everything that keeps a flow between addresses of these classes from matching.
    pub fn unmatched<'a>(
        &'a self,
        flow: &FlowTuple,
        local: &'a [Membership],
        peer: &'a [Membership],
    ) -> impl Iterator<Item = Unmatched> + use<'a> {
        let (protocol, message) = (flow.protocol, message_of(flow));
        let plain = [
            (self.family.is_none_or(|of| of == Family::of(flow.peer_address)), Unmatched::IpVersion),
            (self.protocol == 0 || self.protocol == protocol, Unmatched::Protocol),
            (self.not_protocol == 0 || self.not_protocol != protocol, Unmatched::NotProtocol),
            (self.icmp.is_none_or(|of| message.is_some_and(|m| of.holds(m))), Unmatched::Icmp),
            (!self.not_icmp.is_some_and(|of| message.is_some_and(|m| of.holds(m))), Unmatched::NotIcmp),
        ];
        let plain = plain.into_iter().filter(|(holds, _)| !holds).map(|(_, reason)| reason);
        let (local_side, peer_side) = self.sides();
        let sides = [
            (local_side, &self.local, local, flow.local_port),
            (peer_side, &self.peer, peer, flow.peer_port),
        ];
        let of_sides = sides.into_iter().flat_map(move |(side, entity, class, port)| {
            let missed = entity.sets_missed(class).map(move |set| Unmatched::In(side, set));
            let hit = entity.sets_hit(class).map(move |set| Unmatched::NotIn(side, set));
            let ports = (!entity.takes_port(class, protocol, port)).then_some(Unmatched::Ports(side));
            let refused = entity.refuses_port(class, protocol, port).then_some(Unmatched::NotPorts(side));
            missed.chain(hit).chain(ports).chain(refused)
        });
        plain.chain(of_sides)
    }
}
