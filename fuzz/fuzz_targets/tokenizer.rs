//! `cargo +nightly fuzz run tokenizer`: see [`mote_fuzz::tokenizer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mote_fuzz::tokenizer(bytes));
