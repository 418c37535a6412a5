//! A worker: a thread pinned to a core, its UMEM domain, its ports, its endpoints, its flows.

pub mod engine;
pub mod thread;

pub use engine::{Engine, Owners, PortSlot, Role};

/// Which worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerIndex(pub u16);
