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

mod batch;
mod builder;
mod classes;
mod compile;
mod explain;
mod list;
mod matching;
mod name;
#[cfg(test)]
mod reference;
mod rows;
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

pub use explain::{Asked, Explanation, Found, Mismatch, Step};
pub use matching::Side;
pub use rules::RuleError;
pub use sets::MemberError;

pub(super) use builder::PolicyBuilder;
pub(super) use list::{List as PolicyList, Walked};
pub(super) use rules::{Binding, Fallback, Owner, RuleList, Tier};
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
    /// [`RuleName::Failsafe`].
    pub const FAILSAFE: RuleId = RuleId(1);
    /// [`RuleName::NoForwardPolicy`].
    pub const NO_FORWARD_POLICY: RuleId = RuleId(2);
}

/// Names a list of Log rules. Never reused; 0 is the empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogListId(pub u32);

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

/// What policy says, and by what. The default is that nothing matched, so it is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Judgement {
    /// Whether the flow may be.
    pub allow: bool,
    /// What decided.
    pub rule: RuleId,
    /// The Log rules that the flow has passed on its way, see [`PolicyTable::log_rules`].
    pub logs: LogListId,
}

/// A judgement, and the Log rules that stand before it.
#[derive(Debug)]
struct Logged {
    judgement: list::Packed,
    rules: Box<[RuleId]>,
}

const IDENTITIES_PAGE: usize = 1024;
const LISTS_PAGE: usize = 64;
const CONTENTS_PAGE: usize = 64;
const LOGS_PAGE: usize = 64;

/// All that judges flows, and the counters of what decided.
#[derive(Debug, Clone, Default)]
pub struct PolicyTable {
    identities: Lpm,
    classes: Paged<ClassId, IDENTITIES_PAGE>,
    lists: Paged<Option<Arc<compile::CompiledPolicy>>, LISTS_PAGE>,
    /// What classes are, for what is not compiled.
    contents: Paged<Option<classes::Content>, CONTENTS_PAGE>,
    logs: Paged<Option<Arc<Logged>>, LOGS_PAGE>,
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
        let Some(compiled) = self.lists.get(list.0 as usize).and_then(Option::as_deref) else {
            return Judgement::default();
        };
        let packed = match compiled.variant(flow.local_address) {
            Some(variant) => variant.judge(variant.row(peer_class), rows::Question::new(flow)),
            None => self.walk(&compiled.list, flow),
        };
        self.unpacked(packed)
    }

    #[inline]
    fn unpacked(&self, packed: list::Packed) -> Judgement {
        match packed.log_list() {
            None => packed.unpack(),
            Some(logs) => self.logged(logs),
        }
    }

    /// The Log rules that a judgement names, in order.
    pub fn log_rules(&self, logs: LogListId) -> &[RuleId] {
        self.logs.get(logs.0 as usize).and_then(Option::as_deref).map_or(&[], |logged| &logged.rules)
    }

    #[cold]
    fn logged(&self, logs: LogListId) -> Judgement {
        let logged = self.logs.get(logs.0 as usize).and_then(Option::as_deref);
        let judgement =
            logged.map_or(list::Packed::deny(RuleId::NO_PROFILE_MATCH), |logged| logged.judgement);
        Judgement { logs, ..judgement.unpack() }
    }

    /// Asks the rules of a list one after another: for local addresses that are no endpoint's own.
    #[cold]
    fn walk(&self, list: &list::List, flow: &FlowTuple) -> list::Packed {
        self.ask(list, flow).decided.unwrap_or(list::Packed::deny(RuleId::NO_PROFILE_MATCH))
    }

    pub(super) fn ask(&self, list: &PolicyList, flow: &FlowTuple) -> Walked {
        let (local, peer) = (self.content_of(flow.local_address), self.content_of(flow.peer_address));
        list.walk(flow, local, peer, &mut |_| {})
    }

    /// What the class of an address is.
    fn content_of(&self, address: IpAddr) -> &[sets::Membership] {
        let class = self.class_of(address);
        self.contents.get(class.0 as usize).and_then(Option::as_deref).unwrap_or_default()
    }
}
