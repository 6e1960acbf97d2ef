//! `cargo +nightly fuzz run model`: see [`mote_fuzz::model`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::model(bytes));
