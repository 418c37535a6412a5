//! Waiting longer after each failure, never in step with others.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubles from `first` to `limit`; each wait is a random part of it between a half and the whole, so that the nodes
/// of a cluster do not all come back at the same instant.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off that has not yet seen a failure.
    #[must_use]
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// How long to wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.limit);
        // RandomState is seeded from the system's randomness: enough to spread, and no dependency.
        let random = RandomState::new().hash_one(whole);
        let share = f64::from((random >> 32) as u32) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }

    /// Starts over after a success.
    pub fn succeeded(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_over_after_success() {
        let (first, limit) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, limit);
        for whole in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.failed();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} for {whole:?}");
        }
        backoff.succeeded();
        assert!(backoff.failed() <= first);
    }

    #[test]
    fn two_nodes_do_not_wait_equally_long() {
        let waits: Vec<_> =
            (0..8).map(|_| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).failed()).collect();
        assert!(waits.windows(2).any(|w| w[0] != w[1]), "{waits:?}");
    }
}
