//! When packets are due. Tokens are earned by time and spent on packets; nothing here reads a clock or sleeps.
//!
//! The invariant: tokens given + missed never exceed what time has earned, and what time has earned never exceeds the run's total.

use std::time::Duration;

/// How far a generator that was held up may catch up at once, in time. What it owes beyond that is missed for good: a long burst would
/// test queues, not the rate that was asked for.
const CATCH_UP: Duration = Duration::from_millis(20);

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as the generator can.
    Max,
    /// Packets a second.
    PerSecond(f64),
}

impl Rate {
    /// A part of it.
    #[must_use]
    pub fn part(self, part: f64) -> Rate {
        match self {
            Rate::Max => Rate::Max,
            Rate::PerSecond(rate) => Rate::PerSecond(rate * part),
        }
    }
}

/// Tokens of one run, or of one core's part of it.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate: Rate,
    duration: Duration,
    /// Of the whole part: packets of a rate; without one there is no such number.
    total: u64,
    /// When the first token is earned.
    first: Duration,
    given: u64,
    missed: u64,
}

/// A pacer for those that look at the clock themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// When the first packet is due after the start.
    pub first_ns: u64,
    /// Between two; 0: as fast as it goes.
    pub interval_ns: u64,
    /// 2^-32 nanoseconds, of `interval_ns`.
    pub interval_fraction: u32,
    /// How far behind one may be.
    pub catch_up_ns: u64,
    /// Packets.
    pub tokens: u64,
    /// After this nothing is sent.
    pub time_limit: Duration,
}

impl Pacer {
    /// Tokens for a run of that length.
    #[must_use]
    pub fn new(rate: Rate, duration: Duration) -> Self {
        let total = match rate {
            Rate::Max => u64::MAX,
            Rate::PerSecond(rate) => count(rate, duration),
        };
        Pacer { rate, duration, total, first: Duration::ZERO, given: 0, missed: 0 }
    }

    /// The run's tokens shared out to several cores by their weights. Together they earn what one would, and never more than it has by then,
    /// but for the first of each: those are spread over an interval.
    #[must_use]
    pub fn split(rate: Rate, duration: Duration, weights: &[u64]) -> Vec<Pacer> {
        let whole: u64 = weights.iter().sum::<u64>().max(1);
        let all = Pacer::new(rate, duration).total;
        // The largest numbers are a rate of 10^9 for a week, times a deck's cards.
        let below = |weight: u64| (u128::from(all) * u128::from(weight) / u128::from(whole)) as u64;
        let mut before = 0;
        // Cores of one weight take turns.
        let turn = |core: usize| match rate {
            Rate::Max => 0.0,
            Rate::PerSecond(rate) => core as f64 / rate,
        };
        weights
            .iter()
            .enumerate()
            .map(|(core, weight)| {
                let part = *weight as f64 / whole as f64;
                let total = below(before + weight) - below(before);
                before += weight;
                let first = Duration::from_secs_f64(turn(core).min(duration.as_secs_f64()));
                Pacer { total, first, ..Pacer::new(rate.part(part), duration) }
            })
            .collect()
    }

    /// At what rate.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The same for a program that paces itself.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let Rate::PerSecond(rate) = self.rate else {
            return Plan {
                first_ns: 0,
                interval_ns: 0,
                interval_fraction: 0,
                catch_up_ns: u64::MAX,
                tokens: u64::MAX,
                time_limit: self.duration,
            };
        };
        let interval = 1e9 / rate;
        Plan {
            first_ns: self.first.as_nanos() as u64,
            interval_ns: interval as u64,
            interval_fraction: (interval.fract() * 2f64.powi(32)) as u32,
            catch_up_ns: CATCH_UP.as_nanos() as u64,
            tokens: self.total,
            time_limit: self.duration + CATCH_UP,
        }
    }

    /// Takes up to `max` tokens, `elapsed` after the start. `None`: the run is over.
    pub fn take(&mut self, elapsed: Duration, max: u64) -> Option<u64> {
        let Rate::PerSecond(rate) = self.rate else {
            let n = if elapsed < self.duration { max } else { return None };
            self.given += n;
            return Some(n);
        };
        if self.given + self.missed >= self.total {
            return None;
        }
        let earned = match elapsed.checked_sub(self.first) {
            // The first packet is due at once.
            Some(elapsed) => (count(rate, elapsed) + 1).min(self.total),
            None => 0,
        };
        let owed = earned.saturating_sub(self.given + self.missed);
        let depth = count(rate, CATCH_UP).max(1);
        self.missed += owed.saturating_sub(depth);
        let n = owed.min(depth).min(max);
        self.given += n;
        Some(n)
    }

    /// When, after the start, the next token is earned.
    #[must_use]
    pub fn next(&self) -> Duration {
        match self.rate {
            Rate::Max => Duration::ZERO,
            Rate::PerSecond(rate) => {
                self.first + Duration::from_secs_f64((self.given + self.missed) as f64 / rate)
            }
        }
    }

    /// Whether its time is over, for those who spend tokens later than they take them.
    #[must_use]
    pub fn is_over(&self, elapsed: Duration) -> bool {
        elapsed > self.duration + CATCH_UP
    }

    /// Tokens that were earned while the generator was held up, and are gone.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both factors are positive")]
fn count(rate: f64, time: Duration) -> u64 {
    (rate * time.as_secs_f64()).floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_run_gives_rate_times_duration_and_then_ends() {
        let mut pacer = Pacer::new(Rate::PerSecond(10_000.0), SECOND);
        let mut given = 0;
        for tick in 0..=2_000 {
            given += pacer.take(Duration::from_micros(tick * 500), 64).unwrap_or(0);
        }
        assert_eq!((given, pacer.missed()), (10_000, 0));
        assert_eq!(pacer.take(SECOND, 64), None);
    }

    #[test]
    fn no_token_comes_before_its_time() {
        let mut pacer = Pacer::new(Rate::PerSecond(100.0), SECOND);
        assert_eq!(pacer.take(Duration::ZERO, 64), Some(1));
        assert_eq!(pacer.next(), Duration::from_millis(10));
        assert_eq!(pacer.take(Duration::from_micros(9_999), 64), Some(0));
        assert_eq!(pacer.take(Duration::from_millis(10), 64), Some(1));
    }

    #[test]
    fn a_held_up_generator_catches_up_a_little_and_misses_the_rest() {
        let mut pacer = Pacer::new(Rate::PerSecond(10_000.0), SECOND);
        assert_eq!(pacer.take(Duration::from_millis(500), 10_000), Some(200));
        assert_eq!(pacer.missed(), 4_801);
        assert_eq!(pacer.take(Duration::from_millis(500), 10_000), Some(0));
    }

    #[test]
    fn the_greatest_rate_gives_whatever_is_asked_until_time_is_over() {
        let mut pacer = Pacer::new(Rate::Max, SECOND);
        assert_eq!(pacer.take(Duration::ZERO, 64), Some(64));
        assert_eq!(pacer.take(SECOND, 64), None);
    }

    #[test]
    fn cores_share_a_rate_exactly_and_are_never_ahead_of_it() {
        for (rate, weights) in [
            (100_003.0, vec![1, 1, 1]),
            (9_999.5, vec![5, 1]),
            (7.0, vec![3, 2, 1, 1]),
            (50_000.0, vec![65_536, 1]),
        ] {
            let mut pacers = Pacer::split(Rate::PerSecond(rate), 3 * SECOND, &weights);
            let plans: u64 = pacers.iter().map(|pacer| pacer.plan().tokens).sum();
            assert_eq!(plans, count(rate, 3 * SECOND));
            let mut given = 0;
            for tick in 0..=31_000 {
                let now = Duration::from_micros(tick * 100);
                given += pacers.iter_mut().filter_map(|pacer| pacer.take(now, 64)).sum::<u64>();
                let earned = rate * now.as_secs_f64() + weights.len() as f64;
                assert!(given as f64 <= earned, "{given} of {earned} at {now:?}");
            }
            let missed: u64 = pacers.iter().map(Pacer::missed).sum();
            assert_eq!((given, missed), (count(rate, 3 * SECOND), 0), "{rate}");
        }
    }

    #[test]
    fn a_plan_has_the_interval_of_its_rate() {
        let plan = Pacer::new(Rate::PerSecond(1_500_000.0), SECOND).plan();
        assert_eq!((plan.interval_ns, plan.tokens, plan.first_ns), (666, 1_500_000, 0));
        let interval = plan.interval_ns as f64 + f64::from(plan.interval_fraction) / 2f64.powi(32);
        assert!((interval - 1e9 / 1.5e6).abs() < 1e-6);
    }
}
