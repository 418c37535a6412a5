//! What a flow has carried, and on whose account.
//!
//! Packets touch no rule's counters: a flow counts what it carries, and what it has not yet accounted for is added to its
//! rules when the flow ends, is judged by another rule, is swept, or somebody reads the counters. So the sum over all
//! rules is exact at every one of these moments, and a packet of a known flow costs no further line of memory.

use crate::clock::Tick;
use crate::flow::entry::FlowEntry;
use crate::table::RuleId;

/// The part of a flow that is for people. Packets do not touch it: an entry counts what it carries, and hands it over
/// when that grows too large for it, and whenever the flow is settled.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FlowNote {
    /// 1 + the rule that allows or denies it; 0: none does.
    rule: u32,
    /// 1 + the rule that would decide if staged policies were enforced; 0: they would change nothing.
    staged: u32,
    /// When it began.
    pub created: Tick,
    /// Type and code of its first packet, if it is of ICMP.
    pub icmp: (u8, u8),
    /// Packets, both ways, that its entry has handed over; wraps.
    packets: u32,
    /// Of these, those that are accounted for.
    settled_packets: u32,
    /// Bytes likewise, from Ethernet header to end.
    bytes: u64,
    settled_bytes: u64,
}

const _: () = assert!(size_of::<FlowNote>() == 40);

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
        let mut note = FlowNote {
            created,
            packets: 1,
            settled_packets: 1,
            bytes,
            settled_bytes: bytes,
            ..FlowNote::default()
        };
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

    /// Packets that the flow of this entry has carried, both ways; wraps.
    #[must_use]
    pub fn packets(&self, entry: &FlowEntry) -> u32 {
        self.packets.wrapping_add(entry.packets.into())
    }

    /// Bytes likewise, from Ethernet header to end.
    #[must_use]
    pub fn bytes(&self, entry: &FlowEntry) -> u64 {
        self.bytes + u64::from(entry.bytes)
    }

    /// What it has carried since it was last settled.
    #[must_use]
    pub fn unsettled(&self, entry: &FlowEntry) -> Carried {
        Carried {
            rule: self.rule(),
            staged: self.staged(),
            packets: u64::from(self.packets(entry).wrapping_sub(self.settled_packets)),
            bytes: self.bytes(entry).wrapping_sub(self.settled_bytes),
        }
    }

    /// Takes over what the entry has counted.
    pub(super) fn take_over(&mut self, entry: &mut FlowEntry) {
        self.packets = self.packets(entry);
        self.bytes = self.bytes(entry);
        (entry.packets, entry.bytes) = (0, 0);
    }

    /// What it has carried since it was last settled, which from now on is settled.
    pub(super) fn settle(&mut self, entry: &mut FlowEntry) -> Carried {
        self.take_over(entry);
        let carried = self.unsettled(entry);
        self.settled_packets = self.packets;
        self.settled_bytes = self.bytes;
        carried
    }
}
