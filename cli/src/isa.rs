//! Which instruction set this CPU has, found out once, and the version line that tells it.
//!
//! An island of `unsafe`: the core takes the host's word for what the CPU can do, and this is the
//! word.

use mote::arch::{Isa, Level};

/// The features that kernels are written for or may be, with what the CPU says to each.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<(&'static str, bool)> {
    use std::arch::is_aarch64_feature_detected as detected;
    vec![
        ("neon", detected!("neon")),
        ("fp16", detected!("fp16")),
        ("dotprod", detected!("dotprod")),
        ("i8mm", detected!("i8mm")),
        ("bf16", detected!("bf16")),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<(&'static str, bool)> {
    Vec::new()
}

/// Whether the CPU has all features of a level.
fn has(level: Level) -> bool {
    let all = |names: &[&str]| {
        let features = features();
        names.iter().all(|name| features.contains(&(*name, true)))
    };
    match level {
        Level::Scalar => true,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => all(&["avx2", "fma", "f16c"]),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => all(&["avx2", "fma", "f16c", "avx512f"]),
        // A level this file does not know yet is not taken.
        _ => all(&["a feature without a name"]),
    }
}

/// The best instruction set that the CPU has and mote has kernels for.
pub fn detect() -> Isa {
    match Level::ALL.iter().rev().find(|level| has(**level)) {
        // SAFETY: `has` has just asked the CPU for the level's features.
        Some(&level) => unsafe { Isa::assume(level) },
        None => Isa::SCALAR,
    }
}

/// What `mote -V` says after the name.
pub fn short_version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// What `mote --version` says after the name: the version, the instruction set in use, and the
/// features found.
pub fn long_version() -> String {
    let found = features().into_iter().filter(|(_, has)| *has);
    let found: Vec<_> = found.map(|(name, _)| name).collect();
    let list = if found.is_empty() { "none that matter".into() } else { found.join(" ") };
    let (version, arch, isa) = (short_version(), std::env::consts::ARCH, detect().name());
    format!("{version}\ninstruction set: {isa} ({arch})\nCPU features: {list}")
}
