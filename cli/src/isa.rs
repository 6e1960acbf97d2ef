//! Which instruction set this CPU has, found out once, and the version line that tells it.

use std::fmt::Write;

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

/// What `mote -V` says after the name.
pub fn short_version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

/// What `mote --version` says after the name: the version, the architecture and the CPU's features.
pub fn long_version() -> String {
    let mut text = format!("{}\narchitecture: {}\n", short_version(), std::env::consts::ARCH);
    let found: Vec<_> =
        features().into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    let list = if found.is_empty() { "none".into() } else { found.join(" ") };
    // Writing to a string cannot fail.
    let _ = write!(text, "CPU features: {list}");
    text
}
