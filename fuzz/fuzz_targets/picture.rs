//! `cargo +nightly fuzz run picture`: see [`mote_fuzz::picture`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::picture(bytes));
