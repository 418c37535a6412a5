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

/// Tokens of one run.
#[derive(Debug)]
pub struct Pacer {
    rate: Rate,
    duration: Duration,
    given: u64,
    missed: u64,
}

impl Pacer {
    /// Tokens for a run of that length.
    #[must_use]
    pub fn new(rate: Rate, duration: Duration) -> Self {
        Pacer { rate, duration, given: 0, missed: 0 }
    }

    /// At what rate.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes up to `max` tokens, `elapsed` after the start. `None`: the run is over.
    pub fn take(&mut self, elapsed: Duration, max: u64) -> Option<u64> {
        let Rate::PerSecond(rate) = self.rate else {
            let n = if elapsed < self.duration { max } else { return None };
            self.given += n;
            return Some(n);
        };
        let total = count(rate, self.duration);
        if self.given + self.missed >= total {
            return None;
        }
        // The first packet is due at once.
        let earned = (count(rate, elapsed) + 1).min(total);
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
            Rate::PerSecond(rate) => Duration::from_secs_f64((self.given + self.missed) as f64 / rate),
        }
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
}
