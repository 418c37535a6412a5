//! TCP connection state, as far as a firewall must know it: to time flows out and to notice new connections.
//!
//! ```text
//!            SYN            SYN+ACK              ACK
//!   (none) ───────► Opening ────────► Answered ────────► Established
//!                      ▲                                  │ FIN either way
//!      SYN again: new  │        RST                       ▼
//!      connection      └──── Reset ◄── any ──  HalfClosed ──FIN the other way──► Closed
//! ```
//!
//! Where both sides open at once (RFC 9293, figure 7), the second SYN takes the place of the SYN+ACK.
//!
//! A flow picked up in the middle (this fastpath restarted, or the route moved here) starts as Established: policy has
//! judged it all the same. Sequence numbers are not checked; the endpoints do that.

use caracal_wire::tcp::Flags;

/// Which way a packet goes, compared with the first packet of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The same way.
    Original,
    /// The other way: an answer.
    Reply,
}

/// How far a connection is. UDP and the rest use `Opening` until they have been answered, then `Established`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// First packet seen.
    #[default]
    Opening,
    /// SYN+ACK seen.
    Answered,
    /// Both ways seen.
    Established,
    /// FIN seen from the side that opened.
    ClosedByOriginal,
    /// FIN seen from the side that answered.
    ClosedByReply,
    /// FIN seen from both.
    Closed,
    /// RST seen.
    Reset,
}

impl State {
    /// Every state, in the order of their numbers.
    pub const ALL: [State; 7] = [
        State::Opening,
        State::Answered,
        State::Established,
        State::ClosedByOriginal,
        State::ClosedByReply,
        State::Closed,
        State::Reset,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The state of a TCP flow whose first packet has `flags`.
    #[must_use]
    pub fn first(flags: Flags) -> State {
        if flags.contains(Flags::RST) {
            State::Reset
        } else if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) {
            State::Opening
        } else {
            State::Established
        }
    }

    /// The state after one more packet.
    #[inline]
    #[must_use]
    pub fn next(self, way: Way, flags: Flags) -> State {
        // What nearly all segments are.
        if self == State::Established && flags.0 & (Flags::FIN.0 | Flags::RST.0) == 0 {
            return self;
        }
        if flags.contains(Flags::RST) {
            return State::Reset;
        }
        let fin = flags.contains(Flags::FIN);
        match (self, way) {
            // With ACK the usual answer, without one that of a peer that opens at the same time (RFC 9293, figure 7).
            (State::Opening, Way::Reply) if flags.contains(Flags::SYN) => State::Answered,
            (State::Opening | State::Answered | State::Established, Way::Original) if fin => {
                State::ClosedByOriginal
            }
            (State::Opening | State::Answered | State::Established, Way::Reply) if fin => {
                State::ClosedByReply
            }
            (State::Answered, Way::Original) if flags.contains(Flags::ACK) => State::Established,
            // An answer that is no SYN+ACK: the opening was not seen whole.
            (State::Opening, Way::Reply) if flags.contains(Flags::ACK) => State::Established,
            (State::ClosedByOriginal, Way::Reply) | (State::ClosedByReply, Way::Original) if fin => {
                State::Closed
            }
            (state, _) => state,
        }
    }

    /// Whether a SYN on this flow begins another connection with the same addresses and ports.
    #[inline]
    #[must_use]
    pub fn may_be_reused(self) -> bool {
        matches!(self, State::Closed | State::Reset)
    }

    /// For people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Answered => "answered",
            State::Established => "established",
            State::ClosedByOriginal | State::ClosedByReply => "half-closed",
            State::Closed => "closed",
            State::Reset => "reset",
        }
    }
}

/// Whether no TCP uses this combination of flags: scanners do, and conntrack would not know what to make of it.
#[inline]
#[must_use]
pub const fn flags_are_invalid(flags: Flags) -> bool {
    const EXCLUSIVE: u8 = Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0;
    let exclusive = flags.0 & EXCLUSIVE;
    // SYN, FIN and RST exclude one another; at least one of them or ACK is always set.
    exclusive & exclusive.wrapping_sub(1) != 0 || flags.0 & (EXCLUSIVE | Flags::ACK.0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    const FIN: u8 = Flags::FIN.0;
    const SYN: u8 = Flags::SYN.0;
    const RST: u8 = Flags::RST.0;
    const PSH: u8 = Flags::PSH.0;
    const ACK: u8 = Flags::ACK.0;

    fn walk(packets: &[(Way, u8)]) -> State {
        let (first, rest) = packets.split_first().unwrap();
        rest.iter().fold(State::first(Flags(first.1)), |state, (way, flags)| state.next(*way, Flags(*flags)))
    }

    use Way::{Original, Reply};

    #[test]
    fn a_connection_opens_talks_and_closes() {
        let mut packets = vec![(Original, SYN)];
        for (packet, state) in [
            ((Reply, SYN | ACK), State::Answered),
            ((Original, ACK), State::Established),
            ((Original, ACK | PSH), State::Established),
            ((Reply, ACK | FIN), State::ClosedByReply),
            ((Original, ACK), State::ClosedByReply),
            ((Original, ACK | FIN), State::Closed),
            ((Reply, ACK), State::Closed),
        ] {
            packets.push(packet);
            assert_eq!(walk(&packets), state, "{packets:?}");
        }
    }

    #[test]
    fn a_simultaneous_close_is_a_close() {
        assert_eq!(walk(&[(Original, ACK), (Original, FIN | ACK), (Reply, FIN | ACK)]), State::Closed);
    }

    #[test]
    fn a_simultaneous_open_is_an_open() {
        let (syn, syn_ack) = (SYN, SYN | ACK);
        assert_eq!(walk(&[(Original, syn), (Reply, syn)]), State::Answered);
        for order in [[(Original, syn_ack), (Reply, syn_ack)], [(Reply, syn_ack), (Original, syn_ack)]] {
            assert_eq!(walk(&[&[(Original, syn), (Reply, syn)], &order[..]].concat()), State::Established);
        }
    }

    #[test]
    fn a_repeated_fin_from_one_side_does_not_close_the_other() {
        assert_eq!(
            walk(&[(Original, ACK), (Original, FIN | ACK), (Original, FIN | ACK)]),
            State::ClosedByOriginal
        );
    }

    #[test]
    fn a_reset_ends_any_state_and_stays() {
        assert_eq!(walk(&[(Original, SYN), (Reply, RST | ACK)]), State::Reset);
        assert_eq!(walk(&[(Original, ACK), (Original, RST), (Reply, ACK)]), State::Reset);
    }

    #[test]
    fn a_flow_picked_up_in_the_middle_is_established() {
        assert_eq!(walk(&[(Original, ACK)]), State::Established);
    }

    #[test]
    fn a_retransmitted_syn_does_not_advance() {
        assert_eq!(walk(&[(Original, SYN), (Original, SYN)]), State::Opening);
    }

    #[test]
    fn only_combinations_that_tcp_uses_are_valid() {
        let valid: Vec<u8> = (0..=0x1f).filter(|flags| !flags_are_invalid(Flags(*flags))).collect();
        let psh = [0, PSH];
        let mut expected: Vec<u8> = [SYN, FIN, RST, ACK, SYN | ACK, FIN | ACK, RST | ACK]
            .iter()
            .flat_map(|f| psh.map(|p| f | p))
            .collect();
        expected.sort_unstable();
        assert_eq!(valid, expected);
    }
}
