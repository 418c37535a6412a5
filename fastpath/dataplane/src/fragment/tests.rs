use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::*;

fn key(identification: u32) -> DatagramKey {
    let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into());
    DatagramKey { scope: Scope::Node, source, destination, protocol: 17, identification }
}

fn upper(port: u16) -> Upper {
    Upper { protocol: 17, source_port: port, destination_port: 53, icmp: Icmp::No }
}

fn part(offset: u16, len: u16, more: bool) -> Part {
    Part { offset, len, more }
}

/// What the first part of datagram `id` says, if this is it.
fn first(id: u32, part: Part) -> Option<Upper> {
    (part.offset == 0).then(|| upper(id as u16))
}

fn tracker(limits: Limits) -> Tracker<(u32, Part)> {
    Tracker::new(limits)
}

/// Meets a part, and holds it if that is its fate.
fn meet(tracker: &mut Tracker<(u32, Part)>, id: u32, part: Part, now: u32) -> Fate {
    let fate = tracker.meet(key(id), part, first(id, part), Tick(now));
    if fate == Fate::Hold {
        tracker.hold(&key(id), (id, part), 1);
    }
    fate
}

fn released(tracker: &mut Tracker<(u32, Part)>) -> Vec<Part> {
    std::iter::from_fn(|| tracker.released()).map(|(_, part)| part).collect()
}

fn discarded(tracker: &mut Tracker<(u32, Part)>) -> Vec<((u32, Part), Refusal)> {
    std::iter::from_fn(|| tracker.discarded()).collect()
}

#[test]
fn parts_in_order_pass_with_the_first_ones_ports_and_nothing_is_kept_of_a_whole_datagram() {
    let mut tracker = tracker(Limits::default());
    for (at, fragment) in [part(0, 16, true), part(16, 8, true), part(24, 3, false)].into_iter().enumerate() {
        assert_eq!(meet(&mut tracker, 7, fragment, 0), Fate::Pass(upper(7)));
        assert_eq!(tracker.len(), usize::from(at < 2));
    }
    assert!(tracker.is_empty());
}

#[test]
fn parts_that_overtake_the_first_one_wait_for_it() {
    let mut tracker = tracker(Limits::default());
    let (head, middle, tail) = (part(0, 16, true), part(16, 8, true), part(24, 3, false));
    assert_eq!(meet(&mut tracker, 7, tail, 0), Fate::Hold);
    assert_eq!(meet(&mut tracker, 7, middle, 0), Fate::Hold);
    assert_eq!(tracker.frames(), 2);
    assert_eq!(meet(&mut tracker, 7, head, 0), Fate::Pass(upper(7)));
    assert_eq!(released(&mut tracker), [middle, tail]);
    assert!(tracker.is_empty() && tracker.frames() == 0);
}

#[test]
fn an_overlap_ends_the_whole_datagram_until_it_is_forgotten() {
    let overlaps = [
        vec![part(0, 16, true), part(8, 16, true)],
        // RFC 1858: over the transport header that has been judged.
        vec![part(0, 24, true), part(8, 16, true)],
        vec![part(0, 8, true), part(0, 16, true)],
        vec![part(16, 8, true), part(8, 24, true)],
        // Two ends, and something behind the end.
        vec![part(0, 8, true), part(16, 8, false), part(24, 8, false)],
        vec![part(0, 8, true), part(16, 8, false), part(24, 8, true)],
        vec![part(0, 8, true), part(24, 8, true), part(8, 8, false)],
        // The same bytes, but the end, or not.
        vec![part(0, 8, true), part(8, 8, true), part(8, 8, false)],
    ];
    for parts in overlaps {
        let mut tracker = tracker(Limits::default());
        let (last, before) = parts.split_last().unwrap();
        for part in before {
            assert!(!matches!(meet(&mut tracker, 7, *part, 0), Fate::Drop(_)), "{parts:?}");
        }
        assert_eq!(meet(&mut tracker, 7, *last, 0), Fate::Drop(Refusal::Overlap), "{parts:?}");
        assert_eq!(meet(&mut tracker, 7, part(800, 8, true), 0), Fate::Drop(Refusal::Overlap), "{parts:?}");
        assert!(discarded(&mut tracker).iter().all(|(_, why)| *why == Refusal::Overlap));
        assert_eq!(tracker.frames(), 0);
        let later = Limits::default().timeout_ms;
        assert_eq!(meet(&mut tracker, 7, part(0, 8, true), later), Fate::Pass(upper(7)), "{parts:?}");
    }
}

#[test]
fn an_exact_duplicate_is_dropped_and_does_no_harm() {
    let mut tracker = tracker(Limits::default());
    let (head, middle, tail) = (part(0, 16, true), part(16, 8, true), part(24, 3, false));
    for fragment in [tail, middle] {
        assert_eq!(meet(&mut tracker, 7, fragment, 0), Fate::Hold);
        assert_eq!(meet(&mut tracker, 7, fragment, 0), Fate::Drop(Refusal::Duplicate));
    }
    assert_eq!(meet(&mut tracker, 7, head, 0), Fate::Pass(upper(7)));
    assert_eq!(released(&mut tracker).len(), 2);
}

#[test]
fn parts_that_no_datagram_has_are_malformed() {
    let mut tracker = tracker(Limits::default());
    for wrong in [part(8, 0, true), part(8, 0, false), part(0, 12, true), part(65_528, 8, false)] {
        assert_eq!(meet(&mut tracker, 7, wrong, 0), Fate::Drop(Refusal::Malformed), "{wrong:?}");
    }
    assert!(tracker.is_empty());
    assert_eq!(meet(&mut tracker, 7, part(65_528, 7, false), 0), Fate::Hold);
}

#[test]
fn what_waits_too_long_is_given_back_and_what_is_known_too_long_is_forgotten() {
    let limits = Limits::default();
    let mut tracker = tracker(limits);
    assert_eq!(meet(&mut tracker, 1, part(8, 8, true), 0), Fate::Hold);
    assert_eq!(meet(&mut tracker, 2, part(0, 8, true), 1), Fate::Pass(upper(2)));
    tracker.expire(Tick(limits.timeout_ms - 1));
    assert_eq!(tracker.len(), 2);
    tracker.expire(Tick(limits.timeout_ms));
    assert_eq!(discarded(&mut tracker), [((1, part(8, 8, true)), Refusal::Expired)]);
    assert_eq!(tracker.len(), 1);
    tracker.expire(Tick(limits.timeout_ms + 1));
    assert!(tracker.is_empty() && tracker.frames() == 0);
}

#[test]
fn the_oldest_makes_way_where_there_is_no_room() {
    let mut tracker = tracker(Limits { datagrams: 3, frames: 2, timeout_ms: 100 });
    for id in [1, 2] {
        assert_eq!(meet(&mut tracker, id, part(8, 8, true), 0), Fate::Hold);
    }
    assert_eq!(meet(&mut tracker, 3, part(8, 8, true), 0), Fate::Hold);
    assert_eq!(discarded(&mut tracker), [((1, part(8, 8, true)), Refusal::Full)]);
    assert_eq!((tracker.len(), tracker.frames()), (2, 2));
    // One that has its first part makes way before one that waits.
    assert_eq!(meet(&mut tracker, 4, part(0, 8, true), 0), Fate::Pass(upper(4)));
    assert_eq!(meet(&mut tracker, 5, part(0, 8, true), 0), Fate::Pass(upper(5)));
    assert_eq!(discarded(&mut tracker), []);
    assert_eq!(meet(&mut tracker, 2, part(0, 8, true), 0), Fate::Pass(upper(2)));
    assert_eq!(released(&mut tracker), [part(8, 8, true)]);
    // A thing larger than all there is room for.
    assert_eq!(tracker.meet(key(9), part(8, 8, true), None, Tick(0)), Fate::Hold);
    tracker.hold(&key(9), (9, part(8, 8, true)), 3);
    assert!(discarded(&mut tracker).contains(&((9, part(8, 8, true)), Refusal::Full)));
}

#[test]
fn a_datagram_of_too_many_parts_is_refused() {
    let mut tracker = tracker(Limits::default());
    for at in 0..PARTS_MAX as u16 {
        assert_eq!(meet(&mut tracker, 1, part(at * 16, 8, true), 0), Fate::Pass(upper(1)));
    }
    assert_eq!(meet(&mut tracker, 1, part(8, 8, true), 0), Fate::Drop(Refusal::Full));
    assert!(matches!(meet(&mut tracker, 1, part(24, 8, true), 0), Fate::Drop(_)));
}

/// The slow twin: remembers every byte of every datagram, and has no bounds.
#[derive(Default)]
struct Twin {
    datagrams: BTreeMap<u32, TwinDatagram>,
}

#[derive(Default)]
struct TwinDatagram {
    parts: Vec<Part>,
    bytes: BTreeSet<u32>,
    end: Option<u32>,
    held: Vec<Part>,
    is_refused: bool,
    has_first: bool,
}

impl Twin {
    /// Everything that goes on now, and whether the part itself does.
    fn meet(&mut self, id: u32, part: Part) -> Vec<Part> {
        let datagram = self.datagrams.entry(id).or_default();
        let own: BTreeSet<u32> =
            (u32::from(part.offset)..u32::from(part.offset) + u32::from(part.len)).collect();
        if datagram.is_refused || datagram.parts.contains(&part) {
            return Vec::new();
        }
        let last = own.last().unwrap() + 1;
        let is_behind = |end: u32| own.iter().any(|byte| *byte >= end) || part.more && last == end;
        let ends_before = !part.more && datagram.bytes.iter().any(|byte| *byte >= last);
        let other_end = !part.more && datagram.end.is_some_and(|end| end != last);
        if !own.is_disjoint(&datagram.bytes)
            || datagram.end.is_some_and(is_behind)
            || ends_before
            || other_end
        {
            datagram.is_refused = true;
            datagram.held.clear();
            return Vec::new();
        }
        datagram.bytes.extend(&own);
        datagram.parts.push(part);
        if !part.more {
            datagram.end = Some(last);
        }
        datagram.has_first |= part.offset == 0;
        datagram.held.push(part);
        let mut goes = Vec::new();
        if datagram.has_first {
            goes = std::mem::take(&mut datagram.held);
        }
        if datagram.end.is_some_and(|end| datagram.bytes.len() as u32 == end) {
            self.datagrams.remove(&id);
        }
        goes
    }
}

fn parts() -> impl Strategy<Value = (u32, Part)> {
    (0u32..3, 0u16..6, 1u16..4, 0u16..8, any::<bool>()).prop_map(|(id, begin, eights, rest, more)| {
        let len = if more { eights * 8 } else { eights * 8 - rest };
        (id, part(begin * 8, len, more))
    })
}

/// The parts of one datagram, cut anywhere.
fn whole() -> impl Strategy<Value = Vec<Part>> {
    (prop::collection::vec(1u16..5, 1..8), 1u16..9).prop_map(|(eights, last)| {
        let mut offset = 0;
        let mut cut: Vec<Part> = Vec::new();
        for len in eights {
            cut.push(part(offset, len * 8, true));
            offset += len * 8;
        }
        cut.push(part(offset, last, false));
        cut
    })
}

proptest! {
    #[test]
    fn any_parts_in_any_order_pass_as_in_the_slow_twin(sent in prop::collection::vec(parts(), 1..40)) {
        let (mut fast, mut slow) = (tracker(Limits::default()), Twin::default());
        for (id, fragment) in sent {
            let passes = matches!(meet(&mut fast, id, fragment, 0), Fate::Pass(_));
            let mut went: Vec<Part> = released(&mut fast);
            went.extend(passes.then_some(fragment));
            let mut expected = slow.meet(id, fragment);
            went.sort_by_key(|part| part.offset);
            expected.sort_by_key(|part| part.offset);
            prop_assert_eq!(went, expected, "datagram {}, {:?}", id, fragment);
        }
    }

    #[test]
    fn a_whole_datagram_goes_on_whole_in_any_order_with_any_part_twice(
        (sent, doubled) in whole().prop_flat_map(|cut| {
            let count = cut.len();
            (Just(cut).prop_shuffle(), prop::collection::vec(0..count, 0..3))
        }),
    ) {
        let mut tracker = tracker(Limits::default());
        let all = sent.len();
        // A copy comes right behind its original: behind the end of the datagram it would begin another one.
        let doubled: Vec<usize> = doubled.into_iter().filter(|at| *at + 1 < all).collect();
        let mut went = Vec::new();
        for (at, fragment) in sent.iter().enumerate() {
            for _ in 0..=usize::from(doubled.contains(&at)) {
                if let Fate::Pass(said) = meet(&mut tracker, 5, *fragment, 0) {
                    prop_assert_eq!(said, upper(5));
                    went.push(*fragment);
                }
                went.extend(released(&mut tracker));
            }
        }
        went.sort_by_key(|part| part.offset);
        let mut expected = sent.clone();
        expected.sort_by_key(|part| part.offset);
        prop_assert_eq!(went, expected);
        prop_assert!(tracker.is_empty());
    }

    #[test]
    fn what_is_known_and_held_stays_within_its_bounds_and_nothing_is_lost(
        sent in prop::collection::vec(((0u32..40, 0u16..6, 1u16..4, any::<bool>()), 1usize..4, 0u32..60), 1..200),
    ) {
        let limits = Limits { datagrams: 8, frames: 6, timeout_ms: 200 };
        let mut tracker: Tracker<usize> = Tracker::new(limits);
        let (mut now, mut held, mut back) = (0, 0, 0);
        for ((id, begin, eights, more), frames, passed) in sent {
            now += passed;
            let fragment = part(begin * 8, eights * 8, more);
            let fate = tracker.meet(key(id), fragment, first(id, fragment), Tick(now));
            if fate == Fate::Hold {
                tracker.hold(&key(id), frames, frames);
                held += frames;
            }
            tracker.expire(Tick(now));
            back += std::iter::from_fn(|| tracker.released()).sum::<usize>();
            back += std::iter::from_fn(|| tracker.discarded()).map(|(frames, _)| frames).sum::<usize>();
            prop_assert!(tracker.len() <= limits.datagrams && tracker.frames() <= limits.frames);
            prop_assert_eq!(held - back, tracker.frames());
            prop_assert!(tracker.datagrams.len() <= limits.datagrams && tracker.held.len() <= limits.frames);
        }
        tracker.clear();
        prop_assert!(tracker.is_empty() && tracker.frames() == 0);
    }
}
