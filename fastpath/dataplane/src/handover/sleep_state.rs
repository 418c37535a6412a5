//! The part of a doorbell that threads agree by; explored by loom in `tests/loom_handover.rs`.

use crate::sync::{AtomicBool, Ordering, fence};

/// Whether somebody sleeps, or is about to.
#[derive(Debug)]
pub struct SleepState {
    asleep: AtomicBool,
}

impl Default for SleepState {
    fn default() -> Self {
        Self::new()
    }
}

impl SleepState {
    /// Awake.
    #[must_use]
    pub fn new() -> Self {
        SleepState { asleep: AtomicBool::new(false) }
    }

    /// Announces sleep. What is looked at after this is at least as new as what anybody who did not see the
    /// announcement had pushed.
    pub fn falls_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back.
    pub fn wakes_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Whether the sleeper must be woken for what has just been pushed. Only one of several callers is told so.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    //! The invariant of doorbells: what is pushed is seen, or the sleeper is woken for it.

    use super::SleepState;
    use crate::sync::{self, Arc, AtomicBool, AtomicU64, Ordering, thread};

    /// Announces sleep, looks once more, and says whether it may sleep.
    fn would_sleep(state: &SleepState, pushed: &AtomicU64, expected: u64) -> bool {
        state.falls_asleep();
        if pushed.load(Ordering::Relaxed) == expected {
            state.wakes_up();
            return false;
        }
        true
    }

    #[test]
    fn a_sleeper_either_sees_what_was_pushed_or_is_woken() {
        sync::model(|| {
            let state = Arc::new(SleepState::new());
            let pushed = Arc::new(AtomicU64::new(0));
            let sender = {
                let (state, pushed) = (Arc::clone(&state), Arc::clone(&pushed));
                thread::spawn(move || {
                    // As weak as it can be: a ring's own ordering must not be what makes this hold.
                    pushed.store(1, Ordering::Relaxed);
                    state.must_wake()
                })
            };
            let sleeps = would_sleep(&state, &pushed, 1);
            let woken = sender.join().unwrap();
            assert!(!sleeps || woken, "asleep beside a packet");
        });
    }

    #[test]
    fn of_two_senders_one_wakes_a_sleeper() {
        sync::model(|| {
            let state = Arc::new(SleepState::new());
            state.falls_asleep();
            let sender = |state: &Arc<SleepState>| {
                let state = Arc::clone(state);
                thread::spawn(move || state.must_wake())
            };
            let (first, second) = (sender(&state), sender(&state));
            let (first, second) = (first.join().unwrap(), second.join().unwrap());
            assert!(first ^ second, "woken {} times", u8::from(first) + u8::from(second));
        });
    }

    #[test]
    fn a_second_push_after_waking_up_wakes_again() {
        sync::model(|| {
            let state = Arc::new(SleepState::new());
            let pushed = Arc::new(AtomicU64::new(0));
            let rung = Arc::new(AtomicBool::new(false));
            let sender = {
                let (state, pushed, rung) = (Arc::clone(&state), Arc::clone(&pushed), Arc::clone(&rung));
                thread::spawn(move || {
                    for n in 1..=2 {
                        pushed.store(n, Ordering::Relaxed);
                        if state.must_wake() {
                            // The eventfd: the kernel's lock in it orders what comes before and after.
                            rung.swap(true, Ordering::AcqRel);
                        }
                    }
                })
            };
            // Sleeps once, is woken by whatever came, and goes to sleep again.
            let first = would_sleep(&state, &pushed, 2);
            let woken_before = rung.swap(false, Ordering::AcqRel);
            let sleeps = match first {
                true if woken_before => {
                    state.wakes_up();
                    would_sleep(&state, &pushed, 2)
                }
                sleeps => sleeps,
            };
            sender.join().unwrap();
            assert!(!sleeps || rung.swap(false, Ordering::AcqRel), "asleep beside the second packet");
        });
    }
}
