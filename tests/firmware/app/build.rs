//! Tells where the models lie: where `MOTE_FIRMWARE_MODELS` says, or where `run` puts them.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=MOTE_FIRMWARE_MODELS");
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let models = env::var_os("MOTE_FIRMWARE_MODELS")
        .map_or_else(|| folder.join("../target/models"), PathBuf::from);
    assert!(models.is_dir(), "{} is missing: `tests/firmware/run` makes it", models.display());
    println!("cargo:rerun-if-changed={}", models.display());
    println!("cargo:rustc-env=MOTE_FIRMWARE_MODELS={}", models.display());
}
