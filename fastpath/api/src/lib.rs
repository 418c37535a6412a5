//! The plane API: what a node's control plane says to its fastpath, and what it can ask.
//!
//! Messages are protobuf ([`plane.proto`](../src/plane.proto) documents each), framed by a four-byte big-endian length,
//! over a unix stream socket. One connection is either the controller's (transactions, acknowledgements) or a
//! reader's. This crate is the messages and their framing; it does no I/O of its own beyond `Read` and `Write`, and
//! works for both planes: the fastpath uses it with blocking sockets, the agent moves [`encode`] and [`Decoder`] under tokio.

mod frame;

pub use frame::{Decoder, FrameError, MAX_MESSAGE_BYTES, encode, read_message, write_message};

/// The version of the contract. Spoken in Hello and Welcome; a fastpath refuses another one.
pub const VERSION: u32 = 1;

/// The source ports of node-level translation where NatOutgoing names no others, as Calico's `bpfPSNATPorts` has them:
/// below the kernel's ephemeral ports (32768–60999) and Kubernetes' NodePorts (30000–32767). The fastpath takes them,
/// the agent reserves them with the kernel.
pub const NAT_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// The generated messages.
#[allow(missing_docs, clippy::all, reason = "generated from plane.proto, where each is documented")]
pub mod plane {
    include!(concat!(env!("OUT_DIR"), "/caracal.plane.rs"));
}

pub use plane::*;
