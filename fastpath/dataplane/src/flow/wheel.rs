//! A timer wheel: which slots of a table are to be looked at next, at a cost that does not depend on how many there are.
//!
//! ```text
//!             turn (all before it has been looked at)
//!               ▼
//!   heads:  │ 7 │ 8 │ 9 │ … 256 buckets of 256 ms … │        a slot is in one list, or in none
//!                 │
//!   links:        └─► slot 12 ◄─► slot 4099 ◄─► slot 77      8 bytes a slot, far from what packets touch
//! ```
//!
//! What is due later than the wheel reaches (65 s) is looked at earlier, found not to be due, and put back: so a packet
//! only writes down when it came, and the wheel finds out when it next comes by.

use crate::clock::Tick;

const BUCKETS: usize = 256;
/// A bucket is so many milliseconds: 2 to this power.
const SHIFT: u32 = 8;
/// Ticks wrap, and so do the buckets' numbers: after so many of them.
const NUMBERS: u32 = 1 << (32 - SHIFT);
const NONE: u32 = u32::MAX;
/// In `previous`: the slot is the first of this bucket. Above every slot's number.
const FIRST_OF: u32 = 1 << 31;

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
}

const UNLINKED: Link = Link { next: NONE, previous: NONE };

/// The wheel of a table with a fixed number of slots.
#[derive(Debug)]
pub struct Wheel {
    links: Vec<Link>,
    heads: [u32; BUCKETS],
    /// The bucket to look at next, by its number since the clock began.
    turn: u32,
}

impl Wheel {
    /// A wheel for so many slots, none of which is in it.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Wheel { links: vec![UNLINKED; slots], heads: [NONE; BUCKETS], turn: 0 }
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(self.links.as_slice())
    }

    /// Has a slot, which is in no list, looked at `wait_ms` after `now`; earlier, if that is further than the wheel reaches.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "slots are fewer than 2^31")]
    pub fn put(&mut self, slot: usize, now: Tick, wait_ms: u32) {
        // The bucket after the one in which the time is over …
        let due = number(now).wrapping_add((wait_ms >> SHIFT).min(BUCKETS as u32) + 2);
        // … as far as the wheel reaches, and never the one that is being looked at.
        let ahead = (due.wrapping_sub(self.turn) << SHIFT).cast_signed() >> SHIFT;
        let ahead = ahead.clamp(1, BUCKETS as i32 - 1).cast_unsigned();
        let bucket = bucket(self.turn.wrapping_add(ahead));
        let next = self.heads[bucket];
        self.links[slot] = Link { next, previous: FIRST_OF | bucket as u32 };
        if next != NONE {
            self.links[next as usize].previous = slot as u32;
        }
        self.heads[bucket] = slot as u32;
    }

    /// Takes a slot out, if it is in.
    pub fn take_out(&mut self, slot: usize) {
        let Link { next, previous } = std::mem::replace(&mut self.links[slot], UNLINKED);
        if previous == NONE {
            return;
        }
        match previous.checked_sub(FIRST_OF) {
            Some(bucket) => self.heads[bucket as usize] = next,
            None => self.links[previous as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
    }

    /// Takes out the next slot that is to be looked at. Each is met once: when it is put back, it comes later.
    pub fn next_due(&mut self, now: Tick) -> Option<usize> {
        let until = number(now);
        let behind = until.wrapping_sub(self.turn) % NUMBERS;
        if behind > BUCKETS as u32 {
            // Once round is enough, however long nobody has looked.
            self.turn = until.wrapping_sub(BUCKETS as u32) % NUMBERS;
        }
        loop {
            let first = self.heads[bucket(self.turn)];
            if first != NONE {
                self.take_out(first as usize);
                return Some(first as usize);
            }
            if self.turn == until {
                return None;
            }
            self.turn = self.turn.wrapping_add(1) % NUMBERS;
        }
    }
}

fn number(tick: Tick) -> u32 {
    tick.0 >> SHIFT
}

fn bucket(number: u32) -> usize {
    number as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slot_is_due_when_its_time_is_over_and_at_most_two_buckets_later() {
        for start in [0, 255, 1 << 20, u32::MAX - 100] {
            for wait in [0, 1, 255, 256, 5000, 60_000] {
                let mut wheel = Wheel::new(4);
                let at = |ms: u32| Tick(start.wrapping_add(ms));
                assert_eq!(wheel.next_due(at(0)), None);
                wheel.put(2, at(0), wait);
                assert_eq!(wheel.next_due(at(wait)), None, "{start}, {wait}");
                assert_eq!(wheel.next_due(at(wait + 512)), Some(2), "{start}, {wait}");
                assert_eq!(wheel.next_due(at(wait + 512)), None);
            }
        }
    }

    #[test]
    fn what_is_far_away_is_looked_at_once_a_round_and_can_be_put_back_meanwhile() {
        let mut wheel = Wheel::new(1);
        wheel.put(0, Tick(0), 3_600_000);
        let mut looks = 0;
        for now in (0..3_600_000).step_by(100) {
            if wheel.next_due(Tick(now)).is_some() {
                looks += 1;
                wheel.put(0, Tick(now), 3_600_000 - now);
                assert_eq!(wheel.next_due(Tick(now)), None, "it comes later");
            }
        }
        assert!((55..60).contains(&looks), "{looks}");
    }

    #[test]
    fn nobody_is_forgotten_however_long_nobody_has_looked() {
        for gap in [70_000, 1 << 24, u32::MAX - 70_000] {
            let mut wheel = Wheel::new(300);
            for slot in 0..300 {
                wheel.put(slot, Tick(0), slot as u32 * 200);
            }
            let mut seen: Vec<_> = std::iter::from_fn(|| wheel.next_due(Tick(gap))).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..300), "{gap}");
        }
    }

    proptest! {
        #[test]
        fn a_slot_that_is_in_comes_out_once_and_one_that_was_taken_out_does_not(
            start in any::<u32>(),
            steps in prop::collection::vec((0usize..16, 0u32..4, 0u32..80_000), 1..300),
        ) {
            let mut wheel = Wheel::new(16);
            let mut now = Tick(start);
            prop_assert_eq!(wheel.next_due(now), None);
            // When each is due, and whether that is further away than the wheel reaches.
            let mut twin: [Option<(u64, bool)>; 16] = [None; 16];
            let mut time = 0u64;
            for (slot, what, ms) in steps {
                match what {
                    0 if twin[slot].is_none() => {
                        wheel.put(slot, now, ms);
                        twin[slot] = Some((time + u64::from(ms), ms > 64_000));
                    }
                    1 => {
                        wheel.take_out(slot);
                        twin[slot] = None;
                    }
                    _ => {
                        time += u64::from(ms);
                        now = Tick(now.0.wrapping_add(ms));
                        while let Some(due) = wheel.next_due(now) {
                            let Some((when, is_far)) = twin[due].take() else {
                                return Err(TestCaseError::fail(format!("slot {due} was not in")));
                            };
                            prop_assert!(when < time || is_far, "early");
                        }
                        for (when, _) in twin.iter().flatten() {
                            prop_assert!(when + 513 > time, "late");
                        }
                    }
                }
            }
        }
    }
}
