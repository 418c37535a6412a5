//! Being told to stop: Ctrl-C, SIGTERM from `lab down`, or a hang-up of the terminal. Whoever waits in the lab asks here often.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};

use crate::error::LabError;

/// Whether to stop. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    told: Arc<AtomicBool>,
    at: Option<Instant>,
}

impl Stop {
    /// One that signals set. Call it before other threads exist, because threads inherit which signals are blocked. (Child processes do
    /// not: the standard library starts them with none blocked.)
    #[must_use]
    pub fn on_signals() -> Self {
        let stop = Self::default();
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        if signals.thread_block().is_ok() {
            let told = stop.clone();
            thread::spawn(move || {
                while let Ok(_signal) = signals.wait() {
                    told.set();
                }
            });
        }
        stop
    }

    /// One that is set when a time has passed.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self { at: Instant::now().checked_add(time), ..Self::default() }
    }

    /// Stops whoever asks.
    pub fn set(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    /// Whether to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.told.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// An error when it is time to stop.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        if self.is_set() { Err(LabError::Stopped) } else { Ok(()) }
    }

    /// Sleeps, unless it is time to stop.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), LabError> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}
