//! The doorbell's agreement again, on loom's primitives: its own tests, in every interleaving.

mod sync {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    pub use loom::{model, thread};
}

#[path = "../src/handover/sleep_state.rs"]
#[allow(dead_code, reason = "what the tests do not use is used by the library")]
mod sleep_state;
