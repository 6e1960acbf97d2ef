//! Which instruction set this CPU has, found out once, and the version line that tells it.
//!
//! An island of `unsafe`: the core takes the host's word for what the CPU can do, and this is the
//! word.

use mote::arch::{Isa, Level};

use crate::error::{Failure, Result};

/// The environment variable that forces an instruction set.
pub const VARIABLE: &str = "MOTE_ISA";

/// The features that kernels are written for or may be, with what the CPU says to each.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
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

/// What all levels of AVX-512 need.
#[cfg(target_arch = "x86_64")]
const AVX512: [&str; 6] = ["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"];

/// What a level needs beside that.
#[cfg(target_arch = "x86_64")]
const fn with_avx512<const N: usize, const ALL: usize>(
    more: [&'static str; N],
) -> [&'static str; ALL] {
    let mut all = [""; ALL];
    let mut i = 0;
    while i < ALL {
        all[i] = if i < N { more[i] } else { AVX512[i - N] };
        i += 1;
    }
    all
}

/// The features that a level needs.
fn needs(level: Level) -> &'static [&'static str] {
    match level {
        Level::Scalar => &[],
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => &["avx2", "fma"],
        #[cfg(target_arch = "x86_64")]
        Level::AvxVnni => &["avx2", "fma", "avxvnni"],
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => &AVX512,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => const { &with_avx512::<1, 7>(["avx512vnni"]) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => const { &with_avx512::<2, 8>(["avx512vnni", "avx512bf16"]) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => &["neon"],
        #[cfg(target_arch = "aarch64")]
        Level::NeonDotprod => &["neon", "dotprod"],
        #[cfg(target_arch = "aarch64")]
        Level::NeonI8mm => &["neon", "dotprod", "i8mm"],
        #[cfg(target_arch = "aarch64")]
        Level::NeonBf16 => &["neon", "dotprod", "i8mm", "bf16"],
        // A level this file does not know yet is not taken.
        _ => &["a feature without a name"],
    }
}

/// The features of a level that the CPU lacks.
fn lacks(level: Level) -> Vec<&'static str> {
    let features = features();
    let is_missing = |name: &&str| !features.contains(&(*name, true));
    needs(level).iter().copied().filter(is_missing).collect()
}

/// The instruction set to use: what the environment asks for, or else the best one that the CPU has
/// and mote has kernels for.
///
/// # Errors
/// Where the environment asks for one that mote or the CPU does not have.
pub fn choose() -> Result<Isa> {
    let asked = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    let level = match asked {
        None => detect(),
        Some(name) => by_name(&name.to_string_lossy())?,
    };
    // SAFETY: `lacks` has just asked the CPU for the level's features: both ways above end there.
    Ok(unsafe { Isa::assume(level) })
}

/// The best level that the CPU has.
fn detect() -> Level {
    let levels = Level::ALL.iter().rev().copied();
    levels.into_iter().find(|level| lacks(*level).is_empty()).unwrap_or(Level::Scalar)
}

/// Every instruction set that this CPU has and mote has kernels for, the plainest first.
pub fn all() -> Vec<Isa> {
    let levels = Level::ALL.iter().copied().filter(|level| lacks(*level).is_empty());
    // SAFETY: `lacks` has just asked the CPU for the level's features.
    levels.map(|level| unsafe { Isa::assume(level) }).collect()
}

/// The level of this name, if the CPU has it.
fn by_name(name: &str) -> Result<Level> {
    let Some(&level) = Level::ALL.iter().find(|level| level.name().eq_ignore_ascii_case(name))
    else {
        let what = format!("{VARIABLE} is {name:?}, and mote has no such instruction set");
        let all: Vec<_> = Level::ALL.iter().map(|level| level.name()).collect();
        return Err(Failure::new(what).remedy(format!("Take one of {}", all.join(", "))));
    };
    let lacking = lacks(level);
    if !lacking.is_empty() {
        let what = format!("{VARIABLE} is {}, and this CPU lacks", level.name());
        let best = detect().name();
        return Err(Failure::new(format!("{what} {}", lacking.join(" and ")))
            .remedy(format!("Leave it out: mote takes {best} then")));
    }
    Ok(level)
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
    let isa = match (choose(), std::env::var_os(VARIABLE)) {
        (Ok(isa), None) => isa.name().to_string(),
        (Ok(isa), Some(_)) => format!("{} as {VARIABLE} says", isa.name()),
        (Err(failure), _) => format!("none. {failure}"),
    };
    let (version, arch) = (short_version(), std::env::consts::ARCH);
    format!("{version}\ninstruction set: {isa} ({arch})\nCPU features: {list}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_taken_by_its_name_and_refused_by_it() {
        assert_eq!(by_name("Scalar"), Ok(Level::Scalar));
        assert_eq!(by_name(detect().name()), Ok(detect()));
        let said = by_name("mmx").unwrap_err().to_string();
        assert!(said.contains("\"mmx\"") && said.contains("scalar"), "{said}");
        for &level in Level::ALL {
            let lacking = lacks(level);
            match by_name(level.name()) {
                Ok(found) => assert!(found == level && lacking.is_empty()),
                Err(failure) => assert!(failure.to_string().contains(lacking[0])),
            }
        }
    }
}
