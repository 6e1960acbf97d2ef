//! Gives the linker the board's memory and its order.

use std::env;

fn main() {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo:rustc-link-arg=-T{folder}/virt.x");
    println!("cargo:rerun-if-changed=virt.x");
}
