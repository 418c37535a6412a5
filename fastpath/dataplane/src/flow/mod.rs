//! Connection tracking: which packets belong to something that policy has allowed.
//!
//! A flow belongs to one endpoint, and an endpoint to one worker, so a flow table has one user and needs no lock. Two
//! pods on one node that talk have two flows: the sender's (judged by its egress policy) and the receiver's (judged by
//! its ingress policy).

pub mod key;
pub mod note;
pub mod table;
pub mod tcp;
pub mod timeout;

pub use key::FlowKey;
pub use note::{Carried, FlowNote};
pub use table::{FlowEntry, FlowFlags, FlowTable, Inserted, TableFull};
pub use tcp::{State, Way};

#[cfg(test)]
mod tests;
