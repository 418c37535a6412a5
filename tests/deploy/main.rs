//! What is installed on a cluster: that the files of `deploy/` follow from what they are made from, that a cluster takes
//! them, and that they ask for what the programs need and no more.
//!
//! Files that are made are compared with what they would be now; `BLESS=1` writes them instead.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod access;
mod apply;
mod chart;
mod crds;
mod files;
mod image;
mod machine;
