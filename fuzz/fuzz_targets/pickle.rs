//! `cargo +nightly fuzz run pickle`: see [`mote_fuzz::pickle`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::pickle(bytes));
