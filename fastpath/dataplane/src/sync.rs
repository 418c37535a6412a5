//! The primitives that [`crate::snapshot`] shares memory with, in one place: `tests/loom_snapshot.rs` compiles that module
//! again beside loom's, which explore every interleaving and every value that the memory model allows.

pub use std::sync::atomic::{AtomicU64, Ordering};
pub use std::sync::{Arc, Mutex};
#[cfg(test)]
pub use std::thread;

/// Runs a test of what threads share; here once, under loom in every way.
#[cfg(test)]
pub fn model(test: impl Fn() + Sync + Send + 'static) {
    test();
}
