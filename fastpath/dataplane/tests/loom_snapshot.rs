//! The snapshot module again, on loom's primitives: its own tests, in every interleaving.

mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering};
    pub use loom::sync::{Arc, Mutex};
    pub use loom::thread;

    pub fn model(test: impl Fn() + Sync + Send + 'static) {
        // More than three involuntary switches find nothing new here and cost minutes.
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(test);
    }
}

#[path = "../src/snapshot.rs"]
#[allow(dead_code, reason = "what the tests do not use is used by the library")]
mod snapshot;
