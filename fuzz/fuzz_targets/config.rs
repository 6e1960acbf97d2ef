//! `cargo +nightly fuzz run config`: see [`mote_fuzz::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::config(bytes));
