//! The whole product, driven as an operator drives it: `caracal lab up`, real pods in network namespaces, real packets of real kernel
//! sockets, `kill -9`.
//!
//! Needs root, and the programs: `cargo build -p caracal -p caracal-dataplane` (where else they are: `CARACAL_BIN_DIR`). Each test has a lab
//! of its own, which goes when the test ends, however it ends. Tests that measure loss or time have the machine for themselves.
//! `CARACAL_LONG=1` repeats more often what depends on the moment. What is measured is printed: `cargo test -- --nocapture`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod api;
mod bad_input;
mod bulk;
mod by_hand;
mod changes;
mod cni;
mod convergence;
mod flood;
mod footprint;
mod forgery;
mod host;
mod kubectl;
mod lab;
mod limits;
mod machine;
mod migration;
mod monitoring;
mod operator;
mod parts;
mod paths;
mod policy;
mod restarts;
mod traffic;
mod transfers;
mod translation;
mod wire;
