//! wip
mod backoff;
pub mod programmer;
pub mod plane;
