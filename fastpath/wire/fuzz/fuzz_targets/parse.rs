//! Arbitrary bytes through every header parser: see `../parse.rs`, which the ordinary test run uses, too.
#![no_main]

#[path = "../parse.rs"]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::every_header(bytes));
