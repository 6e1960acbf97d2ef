//! Multiply-adds on registers alone, as many as the CPU can do at a time: what it could reach if
//! data came by itself. A host times them and has the peak that kernels are measured by.

#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;
use core::hint::black_box;

/// Sums that do not depend on each other: more than any CPU has multiply-adds under way (two units
/// of four cycles each), and so few that sums and factors fit sixteen registers.
const SUMS: usize = 12;

/// Each sum is multiplied by the one and the other is added: it comes to rest at 1, exactly.
const FACTOR: f32 = 0.5;
const TERM: f32 = 0.5;

/// A loop over registers.
pub(super) struct RegisterLoop {
    /// Multiply-adds of one round.
    pub multiply_adds: usize,
    /// Does so many rounds; the sum of all sums.
    pub run: unsafe fn(usize) -> f32,
}

/// Where the sums begin: each elsewhere and none at rest, or the compiler would leave work out.
fn start(sum: usize) -> f32 {
    2.0 + sum as f32
}

/// Lanes that plain Rust works on at a time: a register on most CPUs.
const PLAIN_LANES: usize = 4;

/// In plain Rust: multiplications and additions, not fused, as in all other scalar kernels.
pub(super) const PLAIN_F32: RegisterLoop =
    RegisterLoop { multiply_adds: SUMS * PLAIN_LANES, run: |rounds| plain_f32(rounds) };

fn plain_f32(rounds: usize) -> f32 {
    // Out of the compiler's sight it does not unpack the lanes, which takes six times as long.
    let mut sums: [[f32; PLAIN_LANES]; SUMS] =
        black_box(core::array::from_fn(|i| [start(i); PLAIN_LANES]));
    for _ in 0..rounds {
        for lane in sums.as_flattened_mut() {
            *lane = *lane * FACTOR + TERM;
        }
    }
    black_box(sums).as_flattened().iter().sum()
}

/// AVX2 with FMA.
#[cfg(target_arch = "x86_64")]
pub(super) const AVX2_F32: RegisterLoop = RegisterLoop { multiply_adds: SUMS * 8, run: avx2_f32 };

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_f32(rounds: usize) -> f32 {
    let [factor, term] = [FACTOR, TERM].map(|x| _mm256_set1_ps(x));
    let mut sums: [__m256; SUMS] = core::array::from_fn(|i| _mm256_set1_ps(start(i)));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    let total = sums.into_iter().fold(_mm256_setzero_ps(), |a, b| _mm256_add_ps(a, b));
    let mut lanes = [0.0; 8];
    // SAFETY: a register holds eight f32.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
    lanes.iter().sum()
}

/// AVX-512 F.
#[cfg(target_arch = "x86_64")]
pub(super) const AVX512_F32: RegisterLoop =
    RegisterLoop { multiply_adds: SUMS * 16, run: avx512_f32 };

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512_f32(rounds: usize) -> f32 {
    let [factor, term] = [FACTOR, TERM].map(|x| _mm512_set1_ps(x));
    let mut sums: [__m512; SUMS] = core::array::from_fn(|i| _mm512_set1_ps(start(i)));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, term);
        }
    }
    let total = sums.into_iter().fold(_mm512_setzero_ps(), |a, b| _mm512_add_ps(a, b));
    _mm512_reduce_add_ps(total)
}
