//! `cargo +nightly fuzz run scheduler`: see [`mote_fuzz::scheduler`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::scheduler(bytes));
