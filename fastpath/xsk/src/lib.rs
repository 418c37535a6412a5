//! AF_XDP for Caracal: memory, frames, rings, sockets and the XDP programs that feed them; and tap devices,
//! because they too need `ioctl`s. This is the only crate of Caracal that contains `unsafe` code.
//!
//! ```text
//!            FramePool ── take() ──► Frame ── transmit() ──► Socket ══ TX ring ══════════► kernel
//!   (free chunks of one domain)        ▲                       │                            │
//!            ▲   ▲                     └────── receive() ──────┼◄═ RX ring ═════════════════╡
//!            │   └────────────────── reclaim() ────────────────┼◄═ completion ring ═════════╡
//!            └── close(): everything it held ── refill() ──────┴══ fill ring ══════════════►┘
//! ```
//!
//! What the types promise, and why no caller can break memory safety with this crate's safe functions:
//!
//! 1. **A chunk of memory has one holder.** It is free in its [`FramePool`], or a [`Frame`] somewhere, or inside one [`Socket`]
//!    (that is: in one of the four rings, or in the kernel's hands). Frames can be moved but not copied; a socket keeps a
//!    [`ledger`] with one bit a chunk and takes from the kernel only what it gave to the kernel.
//! 2. **Memory outlives its frames.** A [`Frame`] carries no lifetime. Memory is unmapped only if every chunk is home in its pool;
//!    otherwise it is leaked on purpose.
//! 3. **Nothing here panics or trusts** what comes from the kernel or from another process: descriptors are checked before use.
//!
//! A frame that is dropped instead of given back is a bug of the program (it shrinks the pool for ever): a debug build panics,
//! a release build counts it ([`lost_frames`]).
#![allow(unsafe_code, reason = "the one crate that talks to the kernel by shared memory; see CONTRIBUTING")]

mod domain;
mod frame;
mod keys;
mod lanes;
pub mod ledger;
pub mod live_frames;
mod memory;
pub mod packet_socket;
mod pool;
mod prefetch;
pub mod ring;
mod socket;
mod sys;
pub mod tap;
pub mod xdp;

pub use domain::{Domain, DomainConfig, DomainError, KERNEL_HEADROOM, MultiBuffer, kernel_ring_bytes};
pub use frame::{DomainId, Frame, RESERVED_HEADROOM, lost_frames};
pub use keys::{KEYS, count_below};
pub use lanes::equal_lanes;
pub use memory::Pages;
pub use pool::FramePool;
pub use prefetch::{prefetch, prefetch_lines, prefetch_slice};
pub use socket::{BindError, Checksum, Config, Mode, Socket, Statistics, StatisticsHandle, TxOptions};
