//! How long flows live without a packet.

use crate::flow::tcp::State;
use crate::table::FlowTimeouts;

/// The node's timeouts, as the flow table asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    ms: [[u32; State::COUNT]; KINDS],
    shortest: u32,
}

const KINDS: usize = 4;

impl Timeouts {
    /// The timeouts that a node's configuration asks for.
    #[must_use]
    pub fn new(of: &FlowTimeouts) -> Self {
        let tcp = State::ALL.map(|state| match state {
            State::Opening | State::Answered => of.tcp_syn_sent,
            // A half-closed connection may carry data for as long as an open one.
            State::Established | State::ClosedByOriginal | State::ClosedByReply => of.tcp_established,
            State::Closed => of.tcp_fins_seen,
            State::Reset => of.tcp_reset_seen,
        });
        let ms = [tcp, [of.udp; State::COUNT], [of.icmp; State::COUNT], [of.generic; State::COUNT]];
        let shortest = ms.iter().flatten().min().copied().unwrap_or(0);
        Timeouts { ms, shortest }
    }

    /// Milliseconds that a flow in this state lives without a packet.
    #[inline]
    #[must_use]
    pub fn of(&self, protocol: u8, state: State) -> u32 {
        let kind = match protocol {
            6 => 0,
            17 => 1,
            1 | 58 => 2,
            _ => 3,
        };
        self.ms[kind][state as usize]
    }

    /// Milliseconds that every flow lives without a packet: most are seen again sooner, and nobody need look further.
    #[inline]
    #[must_use]
    pub fn shortest(&self) -> u32 {
        self.shortest
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts::new(&FlowTimeouts::default())
    }
}
