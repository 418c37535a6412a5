//! Connection tracking: which packets belong to something that policy has allowed.
//!
//! A flow belongs to one endpoint, and an endpoint to one worker, so a flow table has one user and needs no lock. Two
//! pods on one node that talk have two flows: the sender's (judged by its egress policy) and the receiver's (judged by
//! its ingress policy).
//!
//! # Who makes way
//!
//! A table has as many entries as `--flows` says, all allocated at the start. A new flow for which there is no room
//! takes the place of the first of these that its two buckets have:
//!
//! 1. a flow that has timed out, and that the wheel has not come to yet;
//! 2. a connection that has ended: both FINs or a reset have been seen;
//! 3. of those that only one side has spoken in, whose handshake is not complete, or that policy has come to deny, the
//!    one that has been silent longest.
//!
//! An established flow never makes way; where there is nothing else, the new one is refused (`flow-table-full`). So a
//! flood of SYNs displaces the flood: its oldest go first, and somebody who answers within a round trip is established
//! long before his turn comes.
//!
//! # Who is forgotten when
//!
//! A [wheel](wheel) comes by every flow when its time is over, and at least once in a minute: see there. What has been
//! removed is handed to the caller ([`Gone`]), who settles its account and drops what hangs on it.

pub mod entry;
pub mod key;
pub mod note;
pub mod table;
pub mod tcp;
pub mod timeout;
pub mod wheel;
pub mod window;

pub use entry::{FlowEntry, FlowFlags};
pub use key::FlowKey;
pub use note::{Carried, FlowNote};
pub use table::{Aged, FlowTable, Gone, Inserted, TableFull};
pub use tcp::{State, Way};
pub use timeout::Timeouts;

#[cfg(test)]
mod tests;
