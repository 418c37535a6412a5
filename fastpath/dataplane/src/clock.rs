//! The one place that reads the time. Everything else takes a [`Tick`].

use std::time::Instant;

/// Milliseconds since this fastpath started. Wraps after 49 days; only differences are meaningful.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(pub u32);

impl Tick {
    /// Milliseconds from `earlier` to this tick; right across the wrap.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Tick) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// Reads ticks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts at tick 0.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "a clock is started, not defaulted")]
    pub fn start() -> Self {
        Clock { start: Instant::now() }
    }

    /// Now, in whole milliseconds.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "ticks wrap on purpose")]
    pub fn now(&self) -> Tick {
        Tick(self.start.elapsed().as_millis() as u32)
    }

    /// Microseconds since the start, for idling decisions shorter than a tick.
    #[must_use]
    pub fn micros(&self) -> u128 {
        self.start.elapsed().as_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_the_wrap() {
        assert_eq!(Tick(5).since(Tick(u32::MAX - 4)), 10);
    }
}
