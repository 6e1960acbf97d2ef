//! Multiply-adds on registers alone, as many as the CPU can do at a time: what it could reach if
//! data came by itself. A host times them and has the peak that kernels are measured by.

use core::hint::black_box;

use super::kernels::Arithmetic;
use super::simd::Simd;

/// Sums that do not depend on each other, where there are sixteen registers: they and the factors
/// just fit.
const FEW: usize = 12;

/// Sums where there are 32 registers: more than any CPU has multiply-adds under way (two units of
/// six cycles each, or four of four).
const MANY: usize = 24;

/// The most f32 lanes of a register.
const MAX_LANES: usize = 16;

/// 1 as a bf16.
const ONE_BF16: [u8; 2] = 0x3F80_u16.to_le_bytes();

/// Where a sum begins: each elsewhere and none at rest, or the compiler would leave work out.
#[inline(always)]
fn start(sum: usize) -> i32 {
    2 + sum as i32
}

/// Does `rounds` rounds, each a step of every sum; the sum of all lanes, and how many multiply-adds
/// that were.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(super) unsafe fn register_loop<S: Simd>(arithmetic: Arithmetic, rounds: usize) -> (f32, u64) {
    const { assert!(S::LANES <= MAX_LANES) };
    // AVX-512 and NEON have 32 registers.
    // SAFETY: the caller's.
    unsafe {
        match S::LANES == MAX_LANES || cfg!(target_arch = "aarch64") {
            true => with_sums::<S, MANY>(arithmetic, rounds),
            false => with_sums::<S, FEW>(arithmetic, rounds),
        }
    }
}

#[inline(always)]
unsafe fn with_sums<S: Simd, const SUMS: usize>(
    arithmetic: Arithmetic,
    rounds: usize,
) -> (f32, u64) {
    // SAFETY: the caller's.
    let (sum, in_a_lane) = unsafe {
        match arithmetic {
            Arithmetic::F32 | Arithmetic::F32Unfused => (f32::<S, SUMS>(rounds), 1),
            Arithmetic::Bf16 => (bf16::<S, SUMS>(rounds), 2),
            Arithmetic::Q8 => (q8::<S, SUMS>(rounds), 4),
        }
    };
    (sum, (rounds as u64).saturating_mul((SUMS * S::LANES * in_a_lane) as u64))
}

/// `x ← x/2 + 1/2`, which comes to rest at 1, exactly.
#[inline(always)]
unsafe fn f32<S: Simd, const SUMS: usize>(rounds: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [S::zero(); SUMS];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = S::splat(start(i) as f32);
        }
        // Out of the compiler's sight it keeps the lanes of plain Rust together.
        let mut sums = black_box(sums);
        let half = S::splat(0.5);
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::mul_add(*sum, half, half);
            }
        }
        total::<S, SUMS>(&black_box(sums))
    }
}

/// Each step adds 1·1 + 1·1. The left sides are read anew for each sum, from where the compiler
/// cannot know them: it would otherwise compute the products, which are all the same, once.
#[inline(always)]
unsafe fn bf16<S: Simd, const SUMS: usize>(rounds: usize) -> f32 {
    let ones = black_box([ONE_BF16; 2 * MAX_LANES]);
    // SAFETY: the caller's; `ones` is as long as the largest register.
    unsafe {
        let left = [S::left_bf16::<1>(ones.as_ptr().cast()); SUMS];
        let right = S::right_bf16(ones.as_ptr().cast());
        let mut sums = [S::zero(); SUMS];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = S::splat(start(i) as f32);
        }
        for _ in 0..rounds {
            let left = black_box(&left);
            for (sum, left) in sums.iter_mut().zip(left) {
                *sum = S::dot_bf16::<0>(*sum, *left, right);
            }
        }
        total::<S, SUMS>(&sums)
    }
}

/// Each step adds four times 1·1, like [`bf16`].
#[inline(always)]
unsafe fn q8<S: Simd, const SUMS: usize>(rounds: usize) -> f32 {
    let bytes = black_box([1 + S::LEFT_BIAS as u8; 4]);
    let ones = black_box([1u8; 4 * MAX_LANES]);
    // SAFETY: the caller's; `ones` is as long as the largest register.
    unsafe {
        let left = [S::left_q8::<1>(bytes.as_ptr()); SUMS];
        let right = S::right_q8(ones.as_ptr());
        let mut sums = [S::zero_i32(); SUMS];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = S::splat_i32(start(i));
        }
        for _ in 0..rounds {
            let left = black_box(&left);
            for (sum, left) in sums.iter_mut().zip(left) {
                *sum = S::dot_q8::<0>(*sum, *left, right);
            }
        }
        let mut floats = [S::zero(); SUMS];
        for (float, sum) in floats.iter_mut().zip(&sums) {
            *float = S::to_f32(*sum);
        }
        total::<S, SUMS>(&floats)
    }
}

/// The sum of all lanes.
#[inline(always)]
unsafe fn total<S: Simd, const SUMS: usize>(sums: &[S::F; SUMS]) -> f32 {
    let mut lanes = [0.0; MAX_LANES];
    let mut total = 0.0;
    for sum in sums {
        // SAFETY: the caller's; `lanes` is as long as the largest register.
        unsafe { S::store(lanes.as_mut_ptr(), *sum) };
        total += lanes[..S::LANES].iter().sum::<f32>();
    }
    total
}
