//! What the tests of kernels need, on WebAssembly: the compiler knows its instruction sets.

#[path = "../choices.rs"]
mod choices;

pub use choices::{Choices, numbers};
use mote::arch::{Isa, Level};

/// Every instruction set that this program was compiled for.
///
/// # Panics
/// Where there is nothing to compare plain Rust with.
pub fn isas() -> Vec<Isa> {
    assert_eq!(Isa::compiled().name(), "simd128", "compile with -Ctarget-feature=+simd128");
    // SAFETY: on WebAssembly the levels are those whose features the compiler was told to use.
    Level::ALL.iter().map(|&level| unsafe { Isa::assume(level) }).collect()
}
