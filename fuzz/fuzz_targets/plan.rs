//! `cargo +nightly fuzz run plan`: see [`mote_fuzz::plan`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::plan(bytes));
