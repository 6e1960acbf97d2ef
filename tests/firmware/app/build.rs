//! Tells where the model lies: where `MOTE_FIRMWARE_MODEL` says, or where `run` puts it.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=MOTE_FIRMWARE_MODEL");
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let model = env::var_os("MOTE_FIRMWARE_MODEL")
        .map_or_else(|| folder.join("../target/model.safetensors"), PathBuf::from);
    assert!(model.is_file(), "{} is missing: `tests/firmware/run` makes it", model.display());
    println!("cargo:rerun-if-changed={}", model.display());
    println!("cargo:rustc-env=MOTE_FIRMWARE_MODEL={}", model.display());
}
