//! The node's data plane: a packet pipeline run by poll-mode workers over immutable tables.
//!
//! ```text
//!  controller thread                     worker 0 … worker N−1 (pinned)
//!  plane socket, netlink mirror ──► table::TableBuilder
//!                                     │ snapshot::Publisher          one atomic load per batch
//!                                     └──────────────────────────►  worker ─► pipeline ─► ports
//!                                                                      ▲  rings  ▲
//!                                                                      └─────────┘ other workers
//! ```
//!
//! Where to find things: [`pipeline`] is the packet's way on one screen; [`stage`] has one file a step; [`flow`] is
//! connection tracking; [`table`] is what decisions are looked up in; [`port`] is packet I/O; [`worker`] is the loop;
//! [`controller`] is everything that is not the packet path; [`sim`] runs a whole node in memory, without a kernel.
//!
//! Rules of the packet path: no allocation, no lock, no log and no system call per packet. A drop has a reason from
//! [`drop_reason`], and nothing a packet contains can make this code panic.

pub mod batch;
pub mod clock;
pub mod coalesce;
pub mod controller;
pub mod counters;
pub mod drop_reason;
pub mod flow;
pub mod fragment;
pub mod handover;
pub mod huge_pages;
pub mod nat;
pub mod packet;
pub mod pipeline;
pub mod policy_log;
pub mod port;
pub mod probe;
pub mod rate_limit;
pub mod segment;
pub mod sim;
pub mod snapshot;
pub mod stage;
mod sync;
pub mod table;
pub mod worker;
