//! So many series and no more: things beyond a limit are counted together. Pure.
//!
//! The invariant: every series only grows while its process lives. So a thing that has a series of its own keeps it as long as it is
//! there, however little it does; a place that becomes free goes to the busiest of the others; and what the others did is added up as
//! it happens, since a sum of what they count now would fall with each that goes or gets a place.

use std::collections::{BTreeMap, BTreeSet};

/// What `N` counters of many things come to.
#[derive(Debug)]
pub struct Bounded<K, const N: usize> {
    limit: usize,
    instance: u64,
    named: BTreeSet<K>,
    last: BTreeMap<K, [u64; N]>,
    others: [u64; N],
}

/// What is told of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Told<K, const N: usize> {
    /// By thing, at most as many as the limit.
    pub named: BTreeMap<K, [u64; N]>,
    /// What the others have done, together.
    pub others: [u64; N],
    /// How many others there are now.
    pub others_now: usize,
}

impl<K: Ord + Clone, const N: usize> Bounded<K, N> {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, instance: 0, named: BTreeSet::new(), last: BTreeMap::new(), others: [0; N] }
    }

    /// Takes what all things have counted, in one instance of whoever counts: another one started at zero.
    pub fn take(&mut self, instance: u64, counted: BTreeMap<K, [u64; N]>) -> Told<K, N> {
        if self.instance != instance {
            self.instance = instance;
            self.last.clear();
        }
        self.named.retain(|thing| counted.contains_key(thing));
        let free = self.limit.saturating_sub(self.named.len());
        let mut waiting: Vec<(&K, u64)> = counted
            .iter()
            .filter(|(thing, _)| !self.named.contains(*thing))
            .map(|(thing, counts)| {
                (thing, counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count)))
            })
            .collect();
        waiting.sort_by(|(_, one), (_, other)| other.cmp(one));
        self.named.extend(waiting.into_iter().take(free).map(|(thing, _)| thing.clone()));
        for (thing, counts) in counted.iter().filter(|(thing, _)| !self.named.contains(*thing)) {
            let before = self.last.get(thing).copied().unwrap_or([0; N]);
            for ((other, count), before) in self.others.iter_mut().zip(counts).zip(before) {
                // Less than before: it is a new one of that name.
                *other += if *count < before { *count } else { *count - before };
            }
        }
        let named: BTreeMap<K, [u64; N]> = counted
            .iter()
            .filter(|(thing, _)| self.named.contains(*thing))
            .map(|(thing, counts)| (thing.clone(), *counts))
            .collect();
        let others_now = counted.len() - named.len();
        self.last = counted;
        Told { named, others: self.others, others_now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&'static str, u64)]) -> BTreeMap<&'static str, [u64; 1]> {
        pairs.iter().map(|(thing, count)| (*thing, [*count])).collect()
    }

    fn told(named: &[(&'static str, u64)], others: u64, others_now: usize) -> Told<&'static str, 1> {
        Told { named: counts(named), others: [others], others_now }
    }

    #[test]
    fn the_busiest_are_named_and_stay_so_while_they_are_there() {
        let mut bounded = Bounded::new(2);
        let all = counts(&[("a", 1), ("b", 50), ("c", 20), ("d", 3)]);
        assert_eq!(bounded.take(1, all), told(&[("b", 50), ("c", 20)], 4, 2));
        // Now a is the busiest.
        let all = counts(&[("a", 100), ("b", 50), ("c", 20), ("d", 5)]);
        assert_eq!(bounded.take(1, all), told(&[("b", 50), ("c", 20)], 105, 2));
        // A place becomes free; what a did before it got it stays with the others.
        let all = counts(&[("a", 130), ("b", 51), ("d", 6)]);
        assert_eq!(bounded.take(1, all), told(&[("a", 130), ("b", 51)], 106, 1));
    }

    #[test]
    fn the_others_never_count_less_whoever_goes_comes_or_starts_over() {
        let mut bounded = Bounded::new(0);
        assert_eq!(bounded.take(1, counts(&[("a", 10), ("b", 5)])).others, [15]);
        assert_eq!(bounded.take(1, counts(&[("b", 6)])).others, [16]);
        assert_eq!(bounded.take(1, counts(&[("a", 3), ("b", 6)])).others, [19], "a new a");
        assert_eq!(bounded.take(1, counts(&[("a", 1), ("b", 6)])).others, [20], "and another");
        assert_eq!(bounded.take(2, counts(&[("a", 4), ("b", 7)])).others, [31], "everybody started over");
    }
}
