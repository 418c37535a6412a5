//! Arbitrary bytes as frames on every link of a node: see `../pipeline.rs`, which the ordinary test run uses, too.
#![no_main]

#[path = "../pipeline.rs"]
mod pipeline;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pipeline::any_traffic(bytes));
