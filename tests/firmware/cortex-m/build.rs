//! Gives the linker the memory of the board that a target stands for.

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let memory = match target.as_str() {
        "thumbv6m-none-eabi" => "memory/microbit.x",
        "thumbv8m.main-none-eabihf" => "memory/mps3-an547.x",
        _ => "memory/mps2.x",
    };
    println!("cargo:rustc-check-cfg=cfg(helium)");
    if target.starts_with("thumbv8m.main") {
        println!("cargo:rustc-cfg=helium");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::copy(memory, out.join("memory.x")).expect("the memory's description can be copied");
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg=-Tlink.x");
    println!("cargo:rerun-if-changed=memory");
}
