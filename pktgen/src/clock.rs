//! The one clock that both ends of a flow read.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: the same in every process and network namespace of this machine.
#[must_use]
pub fn now_ns() -> u64 {
    // The clock exists on every Linux; zero would only spoil a latency.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
