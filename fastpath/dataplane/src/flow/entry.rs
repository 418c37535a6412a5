//! One flow, as the table keeps it: how it began, what its verdict rests on, how far it is.

use crate::clock::Tick;
use crate::flow::key::FlowKey;
use crate::flow::tcp::State;
use crate::table::{ClassId, PolicyListId};

/// How a flow began and what its answers need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFlags(u8);

impl FlowFlags {
    const OUT: u8 = 1;
    const FROM_HOST: u8 = 2;
    const FROM_FORWARD: u8 = 4;
    const ANSWERED: u8 = 8;
    const DENIED: u8 = 16;
    const TRANSLATED: u8 = 32;
    const BY_NODE: u8 = 64;
    const OF_ITSELF: u8 = 128;

    /// A flow whose first packet the endpoint sent (`out`) or received.
    #[must_use]
    pub fn new(out: bool) -> Self {
        FlowFlags(if out { Self::OUT } else { 0 })
    }

    /// Whether the endpoint sent the first packet.
    #[inline]
    #[must_use]
    pub fn is_out(self) -> bool {
        self.0 & Self::OUT != 0
    }

    /// The endpoint knows it by other addresses or ports: on the way to it they are put back.
    #[must_use]
    pub fn translated(self) -> Self {
        FlowFlags(self.0 | Self::TRANSLATED)
    }

    /// Whether the endpoint knows it by other addresses or ports.
    #[inline]
    #[must_use]
    pub fn is_translated(self) -> bool {
        self.0 & Self::TRANSLATED != 0
    }

    /// The node has translated it: its answers go to the worker that did.
    #[must_use]
    pub fn by_node(self) -> Self {
        FlowFlags(self.0 | Self::BY_NODE)
    }

    /// Whether the node has translated it.
    #[inline]
    #[must_use]
    pub fn is_by_node(self) -> bool {
        self.0 & Self::BY_NODE != 0
    }

    /// The host itself opened it: never judged, and its answers go back by the host port.
    #[must_use]
    pub fn from_host(self) -> Self {
        FlowFlags(self.0 | Self::FROM_HOST)
    }

    /// Whether the host itself opened it.
    #[inline]
    #[must_use]
    pub fn is_from_host(self) -> bool {
        self.0 & Self::FROM_HOST != 0
    }

    /// The endpoint itself opened it, by way of a service: what it says to itself no policy judges as it comes in.
    #[must_use]
    pub fn of_itself(self) -> Self {
        FlowFlags(self.0 | Self::OF_ITSELF)
    }

    /// Whether no policy judges it, whatever changes.
    #[inline]
    #[must_use]
    pub fn is_never_judged(self) -> bool {
        self.0 & (Self::FROM_HOST | Self::OF_ITSELF) != 0
    }

    /// The host forwarded it to us: its answers go back by the forward port.
    #[must_use]
    pub fn from_forward(self) -> Self {
        FlowFlags(self.0 | Self::FROM_FORWARD)
    }

    /// Whether the host forwarded it to us.
    #[inline]
    #[must_use]
    pub fn is_from_forward(self) -> bool {
        self.0 & Self::FROM_FORWARD != 0
    }

    /// Packets have gone both ways.
    #[inline]
    #[must_use]
    pub fn is_answered(self) -> bool {
        self.0 & Self::ANSWERED != 0
    }

    /// Policy has come to deny it. It stays known, so that answers under way do not look like the beginning of a flow
    /// of the other side's.
    #[inline]
    #[must_use]
    pub fn is_denied(self) -> bool {
        self.0 & Self::DENIED != 0
    }

    /// Whether nothing but its state and its verdict's age is to be asked of a packet of it, either way: policy allows it,
    /// its addresses stay, and the route says where its answers go.
    #[inline]
    #[must_use]
    pub fn is_simple(self) -> bool {
        const ASKED: u8 = FlowFlags::FROM_HOST
            | FlowFlags::FROM_FORWARD
            | FlowFlags::DENIED
            | FlowFlags::TRANSLATED
            | FlowFlags::BY_NODE;
        self.0 & ASKED == 0
    }

    /// Notes what policy says now.
    pub(super) fn set_denied(&mut self, denied: bool) {
        let flag = if denied { Self::DENIED } else { 0 };
        self.0 = self.0 & !Self::DENIED | flag;
    }
}

/// One flow, all that a packet of it touches: a cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct FlowEntry {
    /// Which flow.
    pub key: FlowKey,
    /// The tables under which the verdict was last known to be current (low half of the generation).
    pub generation: u32,
    /// The policy list that judged it.
    pub list: PolicyListId,
    /// The peer's class when it was judged.
    pub peer_class: ClassId,
    /// When its last packet came.
    pub last_seen: Tick,
    /// Bytes, both ways, that its note does not know of yet. Changed by [`FlowTable::count_packet`].
    ///
    /// [`FlowTable::count_packet`]: crate::flow::FlowTable::count_packet
    pub bytes: u32,
    /// Packets likewise.
    pub packets: u16,
    /// How far the connection is. Changed by [`FlowTable::set_state`].
    pub state: State,
    /// How it began.
    pub flags: FlowFlags,
}

const _: () = assert!(size_of::<FlowEntry>() == 64);

impl FlowEntry {
    /// Notes that an answer has been seen.
    #[inline]
    pub fn mark_answered(&mut self) {
        self.flags.0 |= FlowFlags::ANSWERED;
    }

    /// Whether only one side has spoken so far, a TCP handshake has not been completed, or policy denies the flow: it
    /// makes way.
    #[must_use]
    pub fn is_half_open(&self) -> bool {
        !self.flags.is_answered()
            || self.flags.is_denied()
            || matches!(self.state, State::Opening | State::Answered)
    }

    /// Whether it is one of its endpoint's connections: it has not ended, policy allows it, and it is not this host's,
    /// which no limit holds back.
    #[inline]
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.state.may_be_reused() && !self.flags.is_denied() && !self.flags.is_from_host()
    }
}
