//! One direction of a wire: what happens to its packets, and when they come out. No I/O and no clock.
//!
//! The fate of a packet depends on nothing but the seed, the direction and the packet's number, so a run with the same
//! packets in the same order does the same to them. Every packet that is not lost comes out once, and a second time if
//! it is duplicated.

use std::collections::VecDeque;
use std::time::Duration;

/// How likely what is, as parts of one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Chances {
    /// That a packet is lost.
    pub loss: f64,
    /// That it is overtaken by some that come after it.
    pub reorder: f64,
    /// That it comes twice.
    pub duplicate: f64,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes nowhere.
    Lost,
    /// It comes out.
    Carried {
        /// So many packets overtake it, if they come in time.
        overtaken_by: u8,
        /// It is followed by a copy.
        duplicated: bool,
    },
}

/// Decides, packet by packet.
#[derive(Debug, Clone, Copy)]
pub struct Fates {
    seed: u64,
    chances: Chances,
}

/// Packets that overtake one, at most.
const OVERTAKEN_BY_MAX: u64 = 8;

impl Fates {
    /// The fates of one direction: each has its own.
    #[must_use]
    pub fn new(seed: u64, direction: u64, chances: Chances) -> Self {
        Fates { seed: mixed(seed ^ mixed(direction)), chances }
    }

    /// What happens to packet `number`.
    #[must_use]
    pub fn of(&self, number: u64) -> Fate {
        let draw = |what: u64| mixed(self.seed ^ mixed(number.wrapping_mul(4).wrapping_add(what)));
        if is_drawn(draw(0), self.chances.loss) {
            return Fate::Lost;
        }
        let late = draw(1);
        let overtaken_by = match is_drawn(late, self.chances.reorder) {
            true => 1 + (mixed(late) % OVERTAKEN_BY_MAX) as u8,
            false => 0,
        };
        Fate::Carried { overtaken_by, duplicated: is_drawn(draw(2), self.chances.duplicate) }
    }
}

/// Sebastiano Vigna's splitmix64: every bit of the result depends on every bit of the argument.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn is_drawn(draw: u64, chance: f64) -> bool {
    // 53 bits are what an f64 holds exactly; so a chance of 1 is always drawn, and one of 0 never.
    ((draw >> 11) as f64) < chance * (1u64 << 53) as f64
}

/// How long a packet waits to be overtaken, if no others come.
const OVERTAKEN_WITHIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Late<P> {
    packet: P,
    left: u8,
    overtaken: bool,
    /// It waits no longer than until then.
    until: Duration,
}

/// Packets on their way. Times are counted from any one moment.
#[derive(Debug)]
pub struct Line<P> {
    delay: Duration,
    /// In the order in which they come out, with when.
    waiting: VecDeque<(Duration, P)>,
    /// To be overtaken yet.
    late: Vec<Late<P>>,
    /// Packets that others have overtaken.
    pub reordered: u64,
}

impl<P> Line<P> {
    /// A line on which nothing is, and everything takes `delay`.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Line { delay, waiting: VecDeque::new(), late: Vec::new(), reordered: 0 }
    }

    /// Puts a packet on the line.
    pub fn put(&mut self, packet: P, overtaken_by: u8, now: Duration) {
        if overtaken_by > 0 {
            let until = now + self.delay + OVERTAKEN_WITHIN;
            self.late.push(Late { packet, left: overtaken_by, overtaken: false, until });
            return;
        }
        self.waiting.push_back((now + self.delay, packet));
        for late in &mut self.late {
            late.left -= 1;
            late.overtaken = true;
        }
        self.release(now + self.delay, |late| late.left == 0);
    }

    fn release(&mut self, at: Duration, is_due: impl Fn(&Late<P>) -> bool) {
        while let Some(first) = self.late.iter().position(&is_due) {
            let late = self.late.remove(first);
            self.reordered += u64::from(late.overtaken);
            self.waiting.push_back((at, late.packet));
        }
    }

    /// The next packet that has arrived at the other end.
    pub fn next(&mut self, now: Duration) -> Option<P> {
        if !self.late.is_empty() {
            self.release(now, |late| late.until <= now);
        }
        match self.waiting.front() {
            Some((due, _)) if *due <= now => self.waiting.pop_front().map(|(_, packet)| packet),
            _ => None,
        }
    }

    /// Takes a packet back that has arrived and found no room.
    pub fn take_back(&mut self, packet: P, now: Duration) {
        self.waiting.push_front((now, packet));
    }

    /// When to look for the next packet, if there is one.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let late = self.late.iter().map(|late| late.until);
        self.waiting.front().map(|(due, _)| *due).into_iter().chain(late).min()
    }

    /// Everything that is on the line, out of it.
    pub fn into_packets(self) -> impl Iterator<Item = P> {
        let late = self.late.into_iter().map(|late| late.packet);
        self.waiting.into_iter().map(|(_, packet)| packet).chain(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const ONE_IN_A_HUNDRED: Chances = Chances { loss: 0.01, reorder: 0.01, duplicate: 0.01 };

    fn fates(seed: u64, direction: u64) -> Vec<Fate> {
        let fates = Fates::new(seed, direction, ONE_IN_A_HUNDRED);
        (0..100_000).map(|number| fates.of(number)).collect()
    }

    #[test]
    fn a_seed_gives_the_same_fates_each_time_and_another_seed_or_direction_gives_others() {
        assert_eq!(fates(1, 0), fates(1, 0));
        assert_ne!(fates(1, 0), fates(2, 0));
        assert_ne!(fates(1, 0), fates(1, 1));
    }

    #[test]
    fn each_fate_is_as_frequent_as_it_was_asked_for_and_no_two_go_together() {
        let fates = fates(7, 0);
        let count = |is: fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count();
        let lost = count(|fate| *fate == Fate::Lost);
        let late = count(|fate| matches!(fate, Fate::Carried { overtaken_by: 1.., .. }));
        let twice = count(|fate| matches!(fate, Fate::Carried { duplicated: true, .. }));
        let both = count(|fate| matches!(fate, Fate::Carried { overtaken_by: 1.., duplicated: true }));
        for frequency in [lost, late, twice] {
            // Six standard deviations of a binomial distribution with a mean of 1,000.
            assert!((810..1190).contains(&frequency), "{lost} lost, {late} late, {twice} twice");
        }
        assert!(both < 50, "{both} are both late and doubled");
    }

    #[test]
    fn certainty_is_certain_and_what_has_no_chance_does_not_happen() {
        let always = Fates::new(3, 0, Chances { loss: 1.0, ..Chances::default() });
        let never = Fates::new(3, 0, Chances::default());
        for number in 0..10_000 {
            assert_eq!(always.of(number), Fate::Lost);
            assert_eq!(never.of(number), Fate::Carried { overtaken_by: 0, duplicated: false });
        }
    }

    fn arrived(line: &mut Line<u32>, now: Duration) -> Vec<u32> {
        std::iter::from_fn(|| line.next(now)).collect()
    }

    #[test]
    fn a_late_packet_comes_after_as_many_as_overtake_it() {
        let mut line = Line::new(Duration::ZERO);
        line.put(0, 2, MS);
        (1..5).for_each(|packet| line.put(packet, 0, MS));
        assert_eq!(arrived(&mut line, MS), [1, 2, 0, 3, 4]);
        assert_eq!(line.reordered, 1);
    }

    #[test]
    fn a_late_packet_that_nobody_overtakes_comes_all_the_same() {
        let mut line = Line::new(MS);
        line.put(0, 2, MS);
        assert_eq!(line.due(), Some(12 * MS));
        assert!(arrived(&mut line, 11 * MS).is_empty());
        assert_eq!(arrived(&mut line, 12 * MS), [0]);
        assert_eq!((line.reordered, line.due()), (0, None));
    }

    #[test]
    fn packets_take_the_delay_and_keep_their_order() {
        let mut line = Line::new(5 * MS);
        line.put(0, 0, MS);
        line.put(1, 0, 2 * MS);
        assert_eq!(line.due(), Some(6 * MS));
        assert!(arrived(&mut line, 5 * MS).is_empty());
        assert_eq!(arrived(&mut line, 6 * MS), [0]);
        assert_eq!(arrived(&mut line, 60 * MS), [1]);
    }

    #[test]
    fn a_packet_that_found_no_room_is_the_next_again() {
        let mut line = Line::new(MS);
        (0..3).for_each(|packet| line.put(packet, 0, MS));
        let first = line.next(2 * MS).unwrap();
        line.take_back(first, 2 * MS);
        assert_eq!(arrived(&mut line, 2 * MS), [0, 1, 2]);
    }

    #[test]
    fn whatever_is_put_on_a_line_comes_out_once() {
        for seed in 0..50 {
            let chances = Chances { reorder: 0.3, ..Chances::default() };
            let fates = Fates::new(seed, 0, chances);
            let mut line = Line::new(MS);
            let mut out = Vec::new();
            for number in 0..200u32 {
                let Fate::Carried { overtaken_by, .. } = fates.of(u64::from(number)) else { unreachable!() };
                let now = MS / 10 * number;
                line.put(number, overtaken_by, now);
                out.extend(arrived(&mut line, now));
            }
            let in_time = out.len();
            out.extend(line.into_packets());
            assert!(in_time > 150, "{in_time} of 200 came out meanwhile");
            assert!(!out.is_sorted(), "nothing was overtaken");
            out.sort_unstable();
            assert_eq!(out, (0..200).collect::<Vec<_>>());
        }
    }
}
