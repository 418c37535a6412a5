//! Translation of addresses and ports: what is translated to what, which ports there are for it, and how a packet is
//! rewritten. Which packets are translated is decided by [`crate::stage::service`] and [`crate::stage::masquerade`].
//!
//! Every translation has one owner, a worker that any packet of it leads to:
//!
//! | translation | owner |
//! |---|---|
//! | of an endpoint (it asked a service) | the endpoint's worker |
//! | of the node, source kept | [`owner`]: hash of protocol and client |
//! | of the node, source an address of the node's | the worker whose [slice](ports::Ports) the port is in |
//!
//! Where the last two meet (a service asked from outside, served behind another node) the port is of the owner's slice.

pub mod affinity;
pub mod ports;
pub mod rewrite;
pub mod table;

use std::net::IpAddr;

use crate::flow::key::{fold, words};
use crate::worker::WorkerIndex;

pub use affinity::Affinity;
pub use ports::Ports;
pub use table::{NODE, Origin, Translation, TranslationIndex, Translations, TranslationsFull};

/// An address and a port, or what stands for one.
pub type Socket = (IpAddr, u16);

/// The worker that owns what the node translates for a client.
#[inline]
#[must_use]
pub fn owner(protocol: u8, client: Socket, workers: u16) -> WorkerIndex {
    const KEY: u64 = 0xa076_1d64_78bd_642f;
    let [high, low] = words(client.0);
    let rest = u64::from(client.1) << 8 | u64::from(protocol);
    let hash = fold(high.rotate_left(21) ^ low ^ KEY, rest ^ !KEY);
    WorkerIndex(((u128::from(hash) * u128::from(workers.max(1))) >> 64) as u16)
}
