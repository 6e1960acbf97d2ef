//! `cargo +nightly fuzz run safetensors`: see [`mote_fuzz::safetensors`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::safetensors(bytes));
