//! How the CPU does it: kernels on plain slices, one file per instruction set.
//!
//! An [`Isa`] is a token: whoever holds one has the proof that the CPU can run its kernels. The
//! core never detects; the host does, once. `kernels.rs` is the list of all kernels; `scalar.rs` is
//! fallback, oracle and explanation. An island of `unsafe`: instruction sets and raw loads.

mod kernels;
mod portable;
mod register_loop;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

pub use kernels::{Activation, Gather, MAX_TAPS, MR_MAX, NO_ROW, NR_MAX};

use core::fmt;
use kernels::Kernels;

/// An instruction set that mote has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust, whatever the compiler makes of it.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// All levels of this architecture, the plainest first.
    pub const ALL: &'static [Self] = &[
        Self::Scalar,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
    ];

    /// Its name: `scalar`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        self.kernels().name
    }

    fn kernels(self) -> &'static Kernels {
        match self {
            Self::Scalar => &scalar::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => &x86_avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => &x86_avx512::KERNELS,
        }
    }
}

/// The proof that the CPU can run the kernels of a [`Level`].
#[derive(Clone, Copy)]
pub struct Isa(&'static Kernels);

impl Isa {
    /// Plain Rust: every CPU can run it.
    pub const SCALAR: Self = Self(&scalar::KERNELS);

    /// The best level that this program was compiled for, so that no detection is needed.
    pub fn compiled() -> Self {
        #[cfg(all(target_arch = "x86_64", target_feature = "avx512f"))]
        return Self(&x86_avx512::KERNELS);
        #[cfg(all(
            target_arch = "x86_64",
            target_feature = "avx2",
            target_feature = "fma",
            not(target_feature = "avx512f")
        ))]
        return Self(&x86_avx2::KERNELS);
        #[allow(unreachable_code, reason = "reached where no level above was compiled for")]
        Self::SCALAR
    }

    /// The token for `level`, on the host's word.
    ///
    /// # Safety
    /// The CPU has the features of `level`.
    pub unsafe fn assume(level: Level) -> Self {
        Self(level.kernels())
    }

    /// The level's name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Rows and columns of the tile that [`Isa::gemm_f32`] computes.
    pub fn gemm_f32_tile(self) -> [usize; 2] {
        [self.0.gemm_f32.mr, self.0.gemm_f32.nr]
    }

    /// One tile of a matrix product: `tile[r][j] = Σ a[row r][k] · b[k][j]`, in the order of k.
    ///
    /// `a` says where the rows lie; `b` is a packed panel `[taps·channels, nr]`; `tile` is `[mr,
    /// nr]`.
    ///
    /// # Panics
    /// Where a slice is too short for what `a` says, or there are more than [`MAX_TAPS`] taps.
    pub fn gemm_f32(self, a: &Gather<'_>, b: &[f32], tile: &mut [f32]) {
        let gemm = &self.0.gemm_f32;
        a.check(gemm.mr);
        let panel = (a.taps * gemm.nr).saturating_mul(a.channels);
        assert!(b.len() >= panel, "a panel is too short");
        assert!(tile.len() >= gemm.mr * gemm.nr, "a tile is too small");
        // SAFETY: the token proves the CPU's features; sizes and row addresses were just checked.
        unsafe { (gemm.run)(a, b, tile) }
    }

    /// Applies an activation to every element. Errors: see each [`Activation`].
    pub fn activate_f32(self, activation: Activation, x: &mut [f32]) {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.0.activate_f32)(activation, x) }
    }

    /// `x ← exp(x − max)`; the sum of the results, in 16 interleaved partial sums.
    pub fn exp_sub_sum_f32(self, x: &mut [f32], max: f32) -> f32 {
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.0.exp_sub_sum_f32)(x, max) }
    }

    /// `x ← activation((x − mean) · scale + shift)` along one row of channels.
    ///
    /// # Panics
    /// Where the slices differ in length.
    pub fn normalise_f32(self, x: &mut [f32], mean: &[f32], scale: &[f32], shift: &[f32]) {
        let n = x.len();
        assert!(mean.len() == n && scale.len() == n && shift.len() == n, "one value per channel");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.0.normalise_f32)(x, mean, scale, shift) }
    }

    /// Half-precision floats, little-endian, to f32. Exact.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn f16_to_f32(self, from: &[u8], to: &mut [f32]) {
        assert!(from.len() == 2 * to.len(), "two bytes for each element");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.0.f16_to_f32)(from, to) }
    }

    /// bfloat16, little-endian, to f32. Exact.
    ///
    /// # Panics
    /// Where the lengths do not fit.
    pub fn bf16_to_f32(self, from: &[u8], to: &mut [f32]) {
        assert!(from.len() == 2 * to.len(), "two bytes for each element");
        // SAFETY: the token proves the CPU's features.
        unsafe { (self.0.bf16_to_f32)(from, to) }
    }

    /// Does `rounds` rounds of f32 multiply-adds on registers alone. Gives back what they add up
    /// to, so that none can be left out, and how many multiply-adds they were: over the time it
    /// took, the most this CPU can do.
    pub fn register_loop_f32(self, rounds: usize) -> (f32, u64) {
        let register_loop = &self.0.register_loop_f32;
        // SAFETY: the token proves the CPU's features.
        let sum = unsafe { (register_loop.run)(rounds) };
        (sum, (rounds as u64).saturating_mul(register_loop.multiply_adds as u64))
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}
