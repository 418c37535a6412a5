//! Token buckets.

use crate::clock::Tick;

/// Lets so much pass in a second, and a burst at once.
///
/// What is larger than the burst passes when the bucket is full, and is paid for later: the rate holds over time, and
/// nothing is shut out for its size.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    per_second: u64,
    burst_milli: i64,
    milli_tokens: i64,
    last: Tick,
}

impl RateLimit {
    /// `per_second` on average, `burst` at once.
    #[must_use]
    pub fn new(per_second: u64, burst: u64) -> Self {
        let burst_milli = milli(burst);
        RateLimit { per_second, burst_milli, milli_tokens: burst_milli, last: Tick::default() }
    }

    /// Takes a token, if there is one.
    pub fn allow(&mut self, now: Tick) -> bool {
        self.allow_many(now, 1)
    }

    /// Takes so many tokens, if there are so many, or the bucket is full.
    pub fn allow_many(&mut self, now: Tick, amount: u64) -> bool {
        let has = self.has(now, amount);
        if has {
            self.take(amount);
        }
        has
    }

    /// Whether so much may pass now. Nothing is taken.
    pub fn has(&mut self, now: Tick, amount: u64) -> bool {
        let elapsed_ms = u64::from(now.since(self.last));
        self.last = now;
        // A token a second is a thousandth of one a millisecond.
        let earned = i64::try_from(elapsed_ms.saturating_mul(self.per_second)).unwrap_or(i64::MAX);
        self.milli_tokens = self.milli_tokens.saturating_add(earned).min(self.burst_milli);
        self.milli_tokens >= milli(amount).min(self.burst_milli)
    }

    /// Takes so much, which [`has`](Self::has) has said may pass.
    pub fn take(&mut self, amount: u64) {
        self.milli_tokens = self.milli_tokens.saturating_sub(milli(amount));
    }
}

fn milli(amount: u64) -> i64 {
    i64::try_from(amount.saturating_mul(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_limit_allows_its_burst_then_its_rate() {
        let mut limit = RateLimit::new(100, 5);
        let allowed = |limit: &mut RateLimit, now| (0..50).filter(|_| limit.allow(Tick(now))).count();
        assert_eq!(allowed(&mut limit, 0), 5);
        assert_eq!(allowed(&mut limit, 20), 2);
        assert_eq!(allowed(&mut limit, 1_000_000), 5);
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_when_the_bucket_is_full_and_is_paid_for() {
        let mut limit = RateLimit::new(1000, 100);
        assert!(limit.has(Tick(0), 1000));
        limit.take(1000);
        assert!(!limit.has(Tick(900), 1) && !limit.has(Tick(999), 1000));
        assert!(limit.has(Tick(1001), 100));
    }

    proptest! {
        #[test]
        fn no_sequence_passes_more_than_burst_and_rate_and_one_packet_that_is_larger(
            rate in 1u64..1_000_000_000_000_000, burst in 1u64..40_000_000_000,
            packets in prop::collection::vec((0u32..10_000, 1u64..600_000), 1..100),
        ) {
            let mut limit = RateLimit::new(rate, burst);
            let (mut now, mut passed) = (0u32, 0u128);
            for (wait, amount) in packets {
                now += wait;
                if limit.has(Tick(now), amount) {
                    limit.take(amount);
                    passed += u128::from(amount);
                }
                let most = u128::from(burst.max(600_000)) + u128::from(rate) * u128::from(now) / 1000;
                prop_assert!(passed <= most, "{} of {}", passed, most);
            }
        }
    }
}
