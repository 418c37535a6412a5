//! Who may talk to whom: address → identity → class → verdict.
//!
//! ```text
//!   peer address ──LPM──► identity ──page──► class ─┐            the class: which IP sets the address is in
//!   endpoint ──► policy list ──► compiled ──────────┴─► row ──protocol──► ports ──► allow or deny, by which rule
//! ```
//!
//! An *identity* is one prefix out of all members of all IP sets; what no prefix covers has none, and class 0. A *class*
//! is an interned set of memberships, so an address that joins a set moves to another class, and a set that suddenly
//! has 50,000 members changes pages, not rules. A *policy list* is the interned content of everything that judges an
//! endpoint in one direction: tiers, policies and their rules, profiles. Ids of classes, lists and rules are never
//! reused, and what a (list, class) says never changes: a verdict is current as long as both ids are.
//!
//! `compile.rs` turns a list and a class into a row in which rules are gone: per protocol the ports, cut into ranges of one
//! judgement. So what a first packet costs depends on the number of ranges (logarithmically), not of rules.

mod builder;
mod classes;
mod compile;
mod name;
mod ports;
#[cfg(test)]
mod reference;
mod rules;
mod sets;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use super::lpm::Lpm;
use super::paged::Paged;
use super::rule_counters::RuleCounters;

pub use name::{RuleAction, RuleName, RuleOwner};

pub use rules::RuleError;
pub use sets::MemberError;

pub(super) use builder::PolicyBuilder;
pub(super) use rules::{Binding, Owner, RuleList, Tier};
pub(super) use sets::{Member, SetId};

/// Names a set of memberships. Never reused; 0 is the class of addresses that are in no set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClassId(pub u32);

/// Names the content of all that judges an endpoint in one direction. Never reused; 0 is no list, and denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PolicyListId(pub u32);

/// Names what can decide: see [`RuleName`]. Never reused; 0 is that nothing matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RuleId(pub u32);

impl RuleId {
    /// [`RuleName::NoProfileMatch`].
    pub const NO_PROFILE_MATCH: RuleId = RuleId(0);
}

/// Which way a flow's first packet goes, seen from the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowDirection {
    /// To the endpoint: the peer is the source.
    Ingress,
    /// From the endpoint: the peer is the destination.
    Egress,
}

/// What policy sees of a flow. The local side is the endpoint whose policy judges. Ports are 0 where the protocol has
/// none; then rules that ask for ports do not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowTuple {
    /// IP protocol number.
    pub protocol: u8,
    /// The other side.
    pub peer_address: IpAddr,
    /// Its port.
    pub peer_port: u16,
    /// The endpoint's own address.
    pub local_address: IpAddr,
    /// Its port.
    pub local_port: u16,
    /// Type and code of an ICMP or ICMPv6 message; None: not one, or not known.
    pub icmp: Option<(u8, u8)>,
    /// Which way the first packet goes.
    pub direction: FlowDirection,
}

/// What policy says, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Judgement {
    /// Whether the flow may be.
    pub allow: bool,
    /// What decided.
    pub rule: RuleId,
}

const IDENTITIES_PAGE: usize = 1024;
const LISTS_PAGE: usize = 64;

/// All that judges flows, and the counters of what decided.
#[derive(Debug, Clone, Default)]
pub struct PolicyTable {
    identities: Lpm,
    classes: Paged<ClassId, IDENTITIES_PAGE>,
    lists: Paged<Option<Arc<compile::CompiledPolicy>>, LISTS_PAGE>,
    /// How often each rule decided.
    pub counters: RuleCounters,
}

impl PolicyTable {
    /// The class of an address: which IP sets it is in.
    #[inline]
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        let Some(identity) = self.identities.lookup(address) else { return ClassId::default() };
        self.classes.get(identity as usize).copied().unwrap_or_default()
    }

    /// What `list` says about `flow`, whose peer is in `peer_class`. A list that is not (any more) denies.
    #[inline]
    pub fn judge(&self, list: PolicyListId, peer_class: ClassId, flow: &FlowTuple) -> Judgement {
        let compiled = self.lists.get(list.0 as usize).and_then(Option::as_deref);
        let Some(compiled) = compiled else {
            return Judgement { allow: false, rule: RuleId::NO_PROFILE_MATCH };
        };
        let side = compiled.side(flow.peer_address);
        let local_class =
            if side.looks_at_local() { self.class_of(flow.local_address) } else { ClassId::default() };
        let (source_port, destination_port) = match flow.direction {
            FlowDirection::Ingress => (flow.peer_port, flow.local_port),
            FlowDirection::Egress => (flow.local_port, flow.peer_port),
        };
        side.row(local_class, peer_class).judge(flow.protocol, source_port, destination_port)
    }
}
