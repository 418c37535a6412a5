//! Judges case files without a network, in two ways that share as little as they can.
//!
//! ```text
//!   case file ─► Case ─► World ─┬─► judge: calc graph ─► tables and pipeline in memory ─► real frames ─► observations
//!                               └─► reference: a plain reading of the rules ────────────────────────► observations
//! ```
//!
//! A flow on which the two disagree is a bug in one of them. This is the only crate of the control plane that links the
//! data plane, as a library.

pub mod explain;
pub mod judge;
pub mod reference;
pub mod run;

#[cfg(test)]
mod agreement;
