//! The wire: packet headers as checked views over bytes, the emitters that write them, and checksums.
//!
//! Every header has one file of one shape: the RFC's picture, a `field` module with the offsets, a checked view
//! (`Ipv4<T>`, `Tcp<T>`, …), a `Repr` (the header as plain values, with `parse`, `emit` and `buffer_len`), its
//! `Display`, and tests. Nothing here allocates, and nothing here is `unsafe`.
//!
//! # The panic contract
//!
//! * `new_checked` accepts any bytes, of any length, and answers with a view or with the reason why not: [`Malformed`].
//! * Getters and setters of a view that `new_checked` returned never panic, whatever the bytes say and whatever was
//!   set before: a length field that a setter has made too large clamps the payload to the buffer. (The one
//!   condition: `T` gives the same bytes each time it is asked, as slices and arrays do.)
//! * `Repr::emit` fails, without writing, on a buffer shorter than `buffer_len`; it needs nothing else of the
//!   buffer's former content. A view is not how headers are *made*: on a fresh buffer `new_checked` would judge noise.
//! * Functions of [`checksum`] take any slice.
//!
//! What is checked is what reading safely requires, and what the RFC lets no sender do (an IHL below five). Checksums
//! are never checked on the way in: that is the caller's decision, because a virtual device may hand over frames
//! whose checksum is not yet made (see [`checksum::is_partial`]).

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod arp;
mod bytes;
pub mod checksum;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
mod malformed;
mod protocol;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vxlan;

pub use arp::Arp;
pub use ethernet::{EtherType, Ethernet, MacAddr};
pub use icmpv4::Icmpv4;
pub use icmpv6::Icmpv6;
pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use malformed::Malformed;
pub use protocol::{L4Port, Protocol};
pub use sctp::Sctp;
pub use tcp::Tcp;
pub use udp::Udp;
pub use vxlan::{Vni, Vxlan};
