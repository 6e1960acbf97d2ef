//! Algorithms written once, in plain Rust without branches, so that the compiler turns each into
//! the vectors of whatever instruction set its caller is compiled for. All are `inline(always)`: an
//! instruction set's file gives them a body with its features.

use super::kernels::{Activation, Gather};

/// Partial sums of a reduction: one AVX-512 register of f32. The same on every instruction set, so
/// that sums have one order.
const LANES: usize = 16;

/// `exp(x)` within 2 ULP where the result is normal; below that at most 1.2e-38, above 3.4e38.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, exp(r) by a Taylor polynomial of degree 7 (remainder 5e-9),
/// 2ⁿ by the exponent's bits. The rounding to n is done by adding a large number whose low mantissa
/// bits then are n, so there is no conversion to an integer.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_145_75;
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    /// 1.5·2²³ puts the integer into the low bits; 127 is the exponent's bias.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let x = if x > 88.37 { 88.37 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    p * f32::from_bits(shifted.to_bits() << 23)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh(x)` within 1.2e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The error function within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = f32::from_bits(x.to_bits() & 0x7FFF_FFFF);
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let y = 1.0 - p * t * exp(-a * a);
    f32::from_bits(y.to_bits() | (x.to_bits() & 0x8000_0000))
}

#[inline(always)]
fn map(x: &mut [f32], f: impl Fn(f32) -> f32) {
    x.iter_mut().for_each(|x| *x = f(*x));
}

#[inline(always)]
pub fn activate(activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => map(x, |x| x * sigmoid(x)),
        Activation::Gelu => map(x, |x| 0.5 * x * (1.0 + erf(x * core::f32::consts::FRAC_1_SQRT_2))),
        Activation::GeluTanh => map(x, |x| {
            // sqrt(2/pi)
            0.5 * x * (1.0 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x)))
        }),
        Activation::QuickGelu => map(x, |x| x * sigmoid(1.702 * x)),
        Activation::Relu => map(x, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::ClampTanh3 => map(x, |x| 3.0 * tanh(x * (1.0 / 3.0))),
    }
}

#[inline(always)]
pub fn exp_sub_sum(x: &mut [f32], max: f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    for chunk in whole {
        for (x, sum) in chunk.iter_mut().zip(&mut sums) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    for (x, sum) in rest.iter_mut().zip(&mut sums) {
        *x = exp(*x - max);
        *sum += *x;
    }
    sums.iter().sum()
}

#[inline(always)]
pub fn normalise(x: &mut [f32], mean: &[f32], scale: &[f32], shift: &[f32]) {
    for (((x, mean), scale), shift) in x.iter_mut().zip(mean).zip(scale).zip(shift) {
        *x = (*x - mean) * scale + shift;
    }
}

/// The exponent is rebased by a multiplication, which makes subnormals right as well; what was
/// infinite or not a number gets its exponent back afterwards.
#[inline(always)]
pub fn f16_to_f32(from: &[u8], to: &mut [f32]) {
    const REBASE: f32 = f32::from_bits((254 - 15) << 23);
    const INFINITE: f32 = 65536.0;
    for (&bytes, to) in from.as_chunks::<2>().0.iter().zip(to) {
        let half = u32::from(u16::from_le_bytes(bytes));
        let value = f32::from_bits((half & 0x7FFF) << 13) * REBASE;
        let special = if value >= INFINITE { 0xFF << 23 } else { 0 };
        *to = f32::from_bits(value.to_bits() | special | (half & 0x8000) << 16);
    }
}

#[inline(always)]
pub fn bf16_to_f32(from: &[u8], to: &mut [f32]) {
    for (&bytes, to) in from.as_chunks::<2>().0.iter().zip(to) {
        *to = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    }
}

/// One GEMM tile: every element of the right panel's row is multiplied with one element of each
/// left row, and the products stay in registers until k is through.
#[inline(always)]
pub fn gemm<const MR: usize, const NR: usize>(a: &Gather<'_>, b: &[f32], tile: &mut [f32]) {
    let mut sums = [[0.0f32; NR]; MR];
    for tap in 0..a.taps {
        let rows: [&[f32]; MR] = core::array::from_fn(|r| a.row(a.offsets[tap * MR + r]));
        let panel = &b[tap * a.channels * NR..(tap + 1) * a.channels * NR];
        for (k, b) in panel.as_chunks::<NR>().0.iter().enumerate() {
            for (row, sums) in rows.iter().zip(&mut sums) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += row[k] * b;
                }
            }
        }
    }
    tile[..MR * NR].copy_from_slice(sums.as_flattened());
}
