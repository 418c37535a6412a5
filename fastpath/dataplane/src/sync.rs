//! The primitives that [`crate::snapshot`] and [`crate::handover::sleep_state`] share memory with, in one place:
//! `tests/loom_*.rs` compile those modules again beside loom's, which explore every interleaving and every value that the memory model allows.

pub use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub use std::sync::{Arc, Mutex};
#[cfg(test)]
pub use std::thread;

/// Runs a test of what threads share; here once, under loom in every way.
#[cfg(test)]
pub fn model(test: impl Fn() + Sync + Send + 'static) {
    test();
}
