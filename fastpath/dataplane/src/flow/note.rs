//! What a flow has carried, and on whose account.
//!
//! Packets touch no rule's counters: a flow counts what it carries, and what it has not yet accounted for is added to its
//! rules when the flow ends, is judged by another rule, is swept, or somebody reads the counters. So the sum over all
//! rules is exact at every one of these moments, and a packet of a known flow costs no further line of memory.

use crate::clock::Tick;
use crate::table::RuleId;

/// The part of a flow that is for people. Never in two cache lines: one is brought near for each packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub struct FlowNote {
    /// 1 + the rule that allows or denies it; 0: none does.
    rule: u32,
    /// 1 + the rule that would decide if staged policies were enforced; 0: they would change nothing.
    staged: u32,
    /// When it began.
    pub created: Tick,
    /// Of its packets, those that are accounted for.
    settled_packets: u32,
    /// Bytes, both ways, from Ethernet header to end.
    pub bytes: u64,
    settled_bytes: u64,
}

const _: () = assert!(size_of::<FlowNote>() == 32);

/// What a flow has carried since it was last settled, and the rules whose account it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// What decided.
    pub rule: Option<RuleId>,
    /// What would have decided if staged policies were enforced.
    pub staged: Option<RuleId>,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl FlowNote {
    /// Of a flow whose first packet has been accounted for.
    #[must_use]
    pub fn new(rule: Option<RuleId>, staged: Option<RuleId>, created: Tick, first_packet: usize) -> Self {
        let bytes = first_packet as u64;
        let mut note =
            FlowNote { created, settled_packets: 1, bytes, settled_bytes: bytes, ..FlowNote::default() };
        note.decided_by(rule);
        note.would_be_decided_by(staged);
        note
    }

    /// The rule that allows or denies it; none for what this host opened.
    #[must_use]
    pub fn rule(&self) -> Option<RuleId> {
        self.rule.checked_sub(1).map(RuleId)
    }

    /// The rule that would decide if staged policies were enforced, if they would change anything for the endpoint.
    #[must_use]
    pub fn staged(&self) -> Option<RuleId> {
        self.staged.checked_sub(1).map(RuleId)
    }

    /// Another rule decides from now on. What was carried so far must be settled.
    pub fn decided_by(&mut self, rule: Option<RuleId>) {
        self.rule = rule.map_or(0, |rule| rule.0 + 1);
    }

    /// The same for staged policies.
    pub fn would_be_decided_by(&mut self, rule: Option<RuleId>) {
        self.staged = rule.map_or(0, |rule| rule.0 + 1);
    }

    /// What a flow of so many packets has carried since it was last settled.
    #[must_use]
    pub fn unsettled(&self, packets: u32) -> Carried {
        Carried {
            rule: self.rule(),
            staged: self.staged(),
            packets: u64::from(packets.wrapping_sub(self.settled_packets)),
            bytes: self.bytes.wrapping_sub(self.settled_bytes),
        }
    }

    /// The same, and from now on it is settled.
    pub fn settle(&mut self, packets: u32) -> Carried {
        let carried = self.unsettled(packets);
        self.settled_packets = packets;
        self.settled_bytes = self.bytes;
        carried
    }
}
