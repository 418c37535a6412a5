//! Address management as Calico does it, on Calico's objects: who has which address, of which block, of which pool.
//!
//! ```text
//!   IPPool 10.244.0.0/16 ──► IPAMBlock 10.244.1.0/26 ──► 64 addresses, each free, given, or cooling down
//!                                 ▲ affinity: host:node1       ▲
//!                                 │                            │ how many of which block
//!                            BlockAffinity node1          IPAMHandle k8s-pod-network.0f3c…
//! ```
//!
//! Many nodes work on the same objects at once, and any of them may die between two writes. Everything is therefore an
//! `async` function over a compare-and-swap [`Store`]: there is no I/O here, no clock and no randomness; `now` and all that
//! is only read (pools, settings, labels) are arguments. Tests stop such functions at any write.
//!
//! The invariants, in the order of the writes that keep them:
//!
//! * An address is given by one swap of its block, so never twice.
//! * A handle counts an address before its block gives it: what dies in between leaves a handle that counts too many, which
//!   is found, never an address that no handle knows.
//! * An affinity is `pending` before its block exists and `confirmed` after: who dies in between goes on from there.

pub mod affinity;
pub mod assign;
pub mod block;
pub mod gc;
mod handle;
mod many;
mod pool;
pub mod release;
mod store;
pub mod tunnel;

pub use affinity::{Affinity, AffinityState};
pub use assign::{
    AssignAddress, AssignError, Assigned, AutoAssign, assign_address, assign_address_as, auto_assign,
    auto_assign_near,
};
pub use block::{Attributes, Block, Owner};
pub use handle::Handle;
pub use many::assign_many;
pub use pool::{Pool, Settings, Use, World};
pub use release::{Released, release_addresses, release_by_handle};
pub use store::{Key, Record, Store, StoreError, WriteError};
pub use tunnel::{Tunnel, ensure_tunnel_address};

/// How often a swap is tried again after somebody else was quicker, as Calico has it.
pub const RETRIES: usize = 100;

/// Nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanoseconds(pub u64);

impl Nanoseconds {
    /// How many seconds have passed since `earlier`; none if the clock went back.
    #[must_use]
    pub fn seconds_since(self, earlier: Nanoseconds) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000_000
    }
}
