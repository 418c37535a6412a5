//! Windows against two ends that keep to RFC 9293, over a network that loses, repeats and reorders.

use caracal_wire::{L4Port, Tcp, tcp};
use proptest::prelude::*;

use super::{Segment, Window, is_before};
use crate::flow::tcp::Way;
use caracal_wire::tcp::Flags;

const ACK: Flags = Flags::ACK;
const SYN: Flags = Flags::SYN;
const RST: Flags = Flags::RST;
const SYN_ACK: Flags = Flags(0x12);

fn segment(sequence: u32, acknowledgement: u32, len: u32, window: u32, flags: Flags) -> Segment {
    let control = u32::from(flags.contains(SYN)) + u32::from(flags.contains(Flags::FIN));
    let end = sequence.wrapping_add(len + control);
    Segment { sequence, acknowledgement, end, window, flags, scale: None, sack: None }
}

/// A connection that has been opened: both ends begin at their numbers and offer 1,000 bytes.
fn open(original: u32, reply: u32) -> Window {
    let mut window = Window::new(&segment(original, 0, 0, 1000, SYN));
    assert!(window.admits(Way::Reply, &segment(reply, original.wrapping_add(1), 0, 1000, SYN_ACK)));
    assert!(
        window.admits(Way::Original, &segment(original.wrapping_add(1), reply.wrapping_add(1), 0, 1000, ACK))
    );
    window
}

#[test]
fn options_are_read_and_nonsense_ends_the_reading() {
    let read = |options: &[u8]| {
        let mut bytes = vec![0; tcp::HEADER_LEN];
        let repr = tcp::Repr {
            source_port: L4Port(1),
            destination_port: L4Port(2),
            sequence: 100,
            acknowledgement: 7,
            flags: Flags(0x11),
            window: 500,
        };
        repr.emit(&mut bytes).unwrap();
        bytes.extend(options);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[tcp::field::DATA_OFFSET] = (bytes.len() as u8 / 4) << 4;
        let segment = Segment::read(&Tcp::new_checked(&bytes[..]).unwrap(), bytes.len() + 3000);
        assert_eq!((segment.sequence, segment.end, segment.window), (100, 3101, 500), "data and FIN");
        (segment.scale, segment.sack)
    };
    let block = |from: u32, to: u32| [from.to_be_bytes(), to.to_be_bytes()].concat();
    let two = [block(10, 20), block(30, 40)].concat();
    assert_eq!(read(&[2, 4, 5, 180, 1, 3, 3, 7]), (Some(7), None));
    assert_eq!(read(&[3, 3, 200]), (Some(14), None));
    assert_eq!(read(&[&[1, 1, 5, 18], &two[..]].concat()), (None, Some(40)));
    assert_eq!(read(&[&[1, 1, 5, 10], &block(u32::MAX - 5, 3)[..]].concat()), (None, Some(3)));
    for nonsense in [&[3u8][..], &[3, 0, 7], &[3, 1, 7], &[3, 60, 7], &[0, 3, 3, 7], &[8, 99, 3, 3, 7]] {
        assert_eq!(read(nonsense), (None, None), "{nonsense:?}");
    }
}

#[test]
fn what_lies_outside_of_the_windows_does_not_pass() {
    for (original, reply) in [(5000, 90_000), (u32::MAX - 200, u32::MAX - 500)] {
        let (next, peer) = (original.wrapping_add(1), reply.wrapping_add(1));
        let passes = |sequence: u32, acknowledgement: u32, len, flags| {
            open(original, reply).admits(Way::Original, &segment(sequence, acknowledgement, len, 1000, flags))
        };
        assert!(passes(next, peer, 1000, ACK), "all that was asked for");
        assert!(passes(next.wrapping_add(1000), peer, 0, ACK), "a window's end");
        assert!(!passes(next.wrapping_add(1001), peer, 0, ACK), "I: beyond it");
        assert!(passes(next.wrapping_sub(1000), peer, 0, ACK), "repeated");
        assert!(!passes(next.wrapping_sub(1001), peer, 0, ACK), "II: repeated from long ago");
        assert!(!passes(next, peer.wrapping_add(1), 10, ACK), "III: acknowledges what nobody has sent");
        assert!(!passes(next, peer.wrapping_sub(66_001), 10, ACK), "IV: acknowledges what is long past");
        assert!(!passes(next.wrapping_add(50_000), 0, 0, RST), "a blind reset");
        assert!(passes(next, 0, 0, RST), "an honest one");
    }
}

#[test]
fn windows_are_scaled_when_both_ends_offer_it() {
    for (theirs, most) in [(Some(4), 16_000), (None, 1000)] {
        let mut window = Window::new(&Segment { scale: Some(2), ..segment(0, 0, 0, 1000, SYN) });
        assert!(window.admits(Way::Reply, &Segment { scale: theirs, ..segment(0, 1, 0, 1000, SYN_ACK) }));
        assert!(window.admits(Way::Original, &segment(1, 1, 0, 1000, ACK)));
        assert!(window.admits(Way::Reply, &segment(1, 1, 0, 1000, ACK)));
        let mut early = window;
        assert!(window.admits(Way::Original, &segment(1 + most, 1, 0, 1000, ACK)), "{theirs:?}");
        assert!(!early.admits(Way::Original, &segment(2 + most, 1, 0, 1000, ACK)), "{theirs:?}");
    }
}

#[test]
fn a_closed_window_may_be_probed() {
    let mut window = open(0, 0);
    assert!(window.admits(Way::Original, &segment(1, 1, 1000, 1000, ACK)));
    assert!(window.admits(Way::Reply, &segment(1, 1001, 0, 0, ACK)));
    assert!(window.admits(Way::Original, &segment(1001, 1, 1, 1000, ACK)));
    assert!(!window.admits(Way::Original, &segment(1003, 1, 1, 1000, ACK)));
}

#[test]
fn a_syn_sent_again_with_another_number_begins_anew_and_both_may_open_at_once() {
    let mut window = Window::new(&segment(0, 0, 0, 1000, SYN));
    assert!(window.admits(Way::Original, &segment(700_000, 0, 0, 1000, SYN)));
    assert!(window.admits(Way::Reply, &segment(5, 700_001, 0, 1000, SYN_ACK)));
    assert!(window.admits(Way::Original, &segment(700_001, 6, 100, 1000, ACK)));
    assert!(!window.admits(Way::Original, &segment(1, 6, 100, 1000, ACK)));
    let mut both = Window::new(&segment(0, 0, 0, 1000, SYN));
    assert!(both.admits(Way::Reply, &segment(9000, 0, 0, 1000, SYN)));
    assert!(both.admits(Way::Original, &segment(0, 9001, 0, 1000, SYN_ACK)));
    assert!(both.admits(Way::Reply, &segment(9000, 1, 0, 1000, SYN_ACK)));
    assert!(both.admits(Way::Original, &segment(1, 9001, 1000, 1000, ACK)));
    assert!(!both.admits(Way::Original, &segment(90_000, 9001, 1, 1000, ACK)));
}

#[test]
fn a_connection_whose_beginning_was_not_seen_is_not_judged() {
    let mut window = Window::new(&segment(1, 1, 100, 1000, ACK));
    for sequence in [0, 1 << 20, u32::MAX] {
        assert!(window.admits(Way::Original, &segment(sequence, 5, 100, 10, ACK)));
        assert!(window.admits(Way::Reply, &segment(sequence, 5, 100, 10, ACK)));
    }
}

/// One end of a connection: sends within the other's window, takes what is in order, acknowledges everything.
#[derive(Clone, Debug)]
struct End {
    sent: u32,
    acknowledged: u32,
    received: u32,
    /// Beyond what was received in order, one range.
    early: Option<(u32, u32)>,
    window: u32,
    scale: u8,
    /// The most that the other has offered.
    offered: u32,
    allowed: u32,
}

impl End {
    fn segment(&self, sequence: u32, len: u32) -> Segment {
        let sack = self.early.map(|(_, end)| end);
        let stated = self.window >> self.scale;
        Segment { sack, ..segment(sequence, self.received, len, stated, ACK) }
    }

    /// Whether a segment is looked at: it is not all of what has come before (RFC 9293, 3.10.7.4).
    fn accepts(&self, s: &Segment) -> bool {
        if s.sequence == s.end {
            !is_before(s.sequence, self.received)
        } else {
            is_before(self.received, s.end)
        }
    }

    /// Whether a segment that comes tells this end anything.
    fn gains_from(&self, s: &Segment, other_scale: u8) -> bool {
        // RFC 5961, 5.2: what acknowledges something this old is not taken.
        if !self.accepts(s) || is_before(s.acknowledgement, self.acknowledged.wrapping_sub(self.offered)) {
            return false;
        }
        let limit = s.acknowledgement.wrapping_add(s.window << other_scale);
        is_before(self.received, s.end) && !is_before(self.received.wrapping_add(self.window), s.end)
            || is_before(self.acknowledged, s.acknowledgement)
            || is_before(self.allowed, limit)
    }

    fn take(&mut self, s: &Segment, other_scale: u8) {
        if !self.accepts(s) {
            return;
        }
        if is_before(self.acknowledged, s.acknowledgement) {
            self.acknowledged = s.acknowledgement;
        }
        let limit = s.acknowledgement.wrapping_add(s.window << other_scale);
        if is_before(self.allowed, limit) {
            self.allowed = limit;
        }
        if is_before(self.received.wrapping_add(self.window), s.end) {
            return;
        }
        if !is_before(self.received, s.sequence) {
            if is_before(self.received, s.end) {
                self.received = s.end;
            }
            if let Some((from, to)) = self.early
                && !is_before(self.received, from)
            {
                if is_before(self.received, to) {
                    self.received = to;
                }
                self.early = None;
            }
        } else if self.early.is_none() && s.sequence != s.end {
            self.early = Some((s.sequence, s.end));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn two_ends_that_keep_to_their_windows_lose_nothing_to_the_judge_between_them(
        numbers in any::<(u32, u32)>(),
        windows in (1u32..200_000, 1u32..200_000),
        steps in prop::collection::vec((0usize..2, 0u32..7, any::<u32>(), 1u32..20_000), 1..300),
    ) {
        let scale = 3u8;
        let syn = |n, window: u32| Segment { scale: Some(scale), ..segment(n, 0, 0, window.min(65_535), SYN) };
        let mut judge = Window::new(&syn(numbers.0, windows.0));
        let answer = Segment { acknowledgement: numbers.0.wrapping_add(1), flags: SYN_ACK, ..syn(numbers.1, windows.1) };
        prop_assert!(judge.admits(Way::Reply, &answer));
        let (a, b) = (numbers.0.wrapping_add(1), numbers.1.wrapping_add(1));
        let end = |own: u32, peer: u32, window: u32, others: u32| End {
            sent: own,
            acknowledged: own,
            received: peer,
            early: None,
            window: (window >> scale << scale).max(1 << scale),
            scale,
            offered: others,
            allowed: own.wrapping_add(others.min(65_535)),
        };
        let mut ends = [end(a, b, windows.0, windows.1), end(b, a, windows.1, windows.0)];
        // What each has sent and the judge has not seen.
        let mut wires: [Vec<Segment>; 2] = [Vec::new(), Vec::new()];
        for (from, what, chance, len) in steps {
            let me = ends[from].clone();
            match what {
                // New data, as far as the window allows.
                0 | 1 => {
                    let room = me.allowed.wrapping_sub(me.sent).cast_signed().max(0).cast_unsigned();
                    let len = len.min(room);
                    wires[from].push(me.segment(me.sent, len));
                    ends[from].sent = me.sent.wrapping_add(len);
                }
                // Old data again.
                2 => {
                    let outstanding = me.sent.wrapping_sub(me.acknowledged);
                    wires[from].push(me.segment(me.acknowledged, len.min(outstanding)));
                }
                // Nothing but what has come.
                3 => wires[from].push(me.segment(me.sent, 0)),
                // One of those on the way arrives, or is lost behind the judge, or arrives and comes once more.
                _ if !wires[from].is_empty() => {
                    let at = chance as usize % wires[from].len();
                    let s = if what == 6 { wires[from][at] } else { wires[from].remove(at) };
                    let way = if from == 0 { Way::Original } else { Way::Reply };
                    let other = &mut ends[1 - from];
                    if judge.admits(way, &s) {
                        if chance % 5 != 0 {
                            other.take(&s, scale);
                        }
                    } else {
                        prop_assert!(!other.gains_from(&s, scale), "{:?} to {:?}; {:?}", s, other, judge);
                    }
                }
                _ => {}
            }
        }
    }

    #[test]
    fn no_segments_make_it_panic(segments in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 20..60), any::<u16>()), 1..20)) {
        let mut judge = Window::default();
        for (original, mut bytes, len) in segments {
            bytes[tcp::field::DATA_OFFSET] = (bytes.len() as u8 / 4) << 4;
            let way = if original { Way::Original } else { Way::Reply };
            judge.admits(way, &Segment::read(&Tcp::new_checked(&bytes[..]).unwrap(), usize::from(len)));
        }
    }
}
