//! WebAssembly with simd128, where the program is compiled for it: there is no detection.

use core::arch::wasm32::*;

use super::kernels::kernels;
use super::portable;
use super::simd::Simd;

/// 128-bit vectors, without a fused multiply-add.
#[derive(Clone, Copy)]
pub(super) struct Simd128;

/// Bytes 0 and 2 of each word, and bytes 1 and 3, as unsigned 16-bit integers.
#[inline(always)]
fn unsigned_halves(x: v128) -> [v128; 2] {
    [v128_and(x, u16x8_splat(0xFF)), u16x8_shr(x, 8)]
}

/// The same, signed.
#[inline(always)]
fn signed_halves(x: v128) -> [v128; 2] {
    [i16x8_shr(i16x8_shl(x, 8), 8), i16x8_shr(x, 8)]
}

// SAFETY (of all that follows): the caller's, as `Simd` says.
#[allow(clippy::undocumented_unsafe_blocks, reason = "each is what the trait asks of its caller")]
impl Simd for Simd128 {
    const LANES: usize = 4;
    const LEFT_BIAS: i32 = 0;
    const FUSES: bool = false;
    type F = v128;
    type I = v128;
    /// Even and odd, as f32.
    type LeftBf16 = [v128; 2];
    type RightBf16 = [v128; 2];
    /// In halves, as 16-bit integers.
    type LeftQ8 = [v128; 2];
    type RightQ8 = [v128; 2];

    #[inline(always)]
    unsafe fn zero() -> v128 {
        f32x4_splat(0.0)
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> v128 {
        f32x4_splat(x)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> v128 {
        unsafe { v128_load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: v128) {
        unsafe { v128_store(to.cast(), x) }
    }

    #[inline(always)]
    unsafe fn add(a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }

    #[inline(always)]
    unsafe fn mul(a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }

    #[inline(always)]
    unsafe fn mul_add(a: v128, b: v128, c: v128) -> v128 {
        f32x4_add(c, f32x4_mul(a, b))
    }

    #[inline(always)]
    unsafe fn max(a: v128, b: v128) -> v128 {
        f32x4_pmax(b, a)
    }

    #[inline(always)]
    unsafe fn min(a: v128, b: v128) -> v128 {
        f32x4_pmin(b, a)
    }

    #[inline(always)]
    unsafe fn largest(x: v128) -> f32 {
        let x = f32x4_pmax(x, i32x4_shuffle::<2, 3, 0, 1>(x, x));
        f32x4_extract_lane::<0>(f32x4_pmax(x, i32x4_shuffle::<1, 0, 3, 2>(x, x)))
    }

    #[inline(always)]
    unsafe fn least(x: v128) -> f32 {
        let x = f32x4_pmin(x, i32x4_shuffle::<2, 3, 0, 1>(x, x));
        f32x4_extract_lane::<0>(f32x4_pmin(x, i32x4_shuffle::<1, 0, 3, 2>(x, x)))
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: v128) {
        // To no number, and to what is below 0, this gives 0.
        let x = f32x4_pmin(f32x4_splat(255.0), f32x4_pmax(f32x4_splat(0.0), x));
        let x = f32x4_add(x, f32x4_splat(portable::ROUND));
        let low = i8x16_shuffle::<0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0>(x, x);
        unsafe { v128_store32_lane::<0>(low, to.cast()) }
    }

    #[inline(always)]
    unsafe fn shift_exponent(x: v128, power: v128) -> v128 {
        i32x4_add(x, i32x4_shl(power, 23))
    }

    #[inline(always)]
    unsafe fn store_bf16_pairs(to: *mut u8, a: v128, b: v128) {
        let rounded = |bits| {
            let odd = v128_and(u32x4_shr(bits, 16), u32x4_splat(1));
            u32x4_add(bits, u32x4_add(odd, u32x4_splat(0x7FFF)))
        };
        let high = v128_and(rounded(b), u32x4_splat(0xFFFF_0000));
        let words = v128_or(high, u32x4_shr(rounded(a), 16));
        unsafe { v128_store(to.cast(), words) }
    }

    #[inline(always)]
    unsafe fn any_above(a: v128, b: v128) -> bool {
        v128_any_true(f32x4_gt(a, b))
    }

    #[inline(always)]
    unsafe fn zero_i32() -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> v128 {
        i32x4_splat(x)
    }

    #[inline(always)]
    unsafe fn to_f32(x: v128) -> v128 {
        f32x4_convert_i32x4(x)
    }

    #[inline(always)]
    unsafe fn to_i32(x: v128) -> v128 {
        i32x4_trunc_sat_f32x4(x)
    }

    #[inline(always)]
    unsafe fn mul_i32(a: v128, b: v128) -> v128 {
        i32x4_mul(a, b)
    }

    #[inline(always)]
    unsafe fn half_bf16<const ODD: bool>(words: v128) -> v128 {
        if ODD { v128_and(words, u32x4_splat(0xFFFF_0000)) } else { u32x4_shl(words, 16) }
    }

    #[inline(always)]
    unsafe fn left_bf16<const STEPS: usize>(from: *const u8) -> [v128; 2] {
        unsafe {
            let words = v128_load32_splat(from.cast());
            [Self::half_bf16::<false>(words), Self::half_bf16::<true>(words)]
        }
    }

    #[inline(always)]
    unsafe fn right_bf16(from: *const u8) -> [v128; 2] {
        unsafe {
            let words = v128_load(from.cast());
            [Self::half_bf16::<false>(words), Self::half_bf16::<true>(words)]
        }
    }

    #[inline(always)]
    unsafe fn dot_bf16<const LANE: usize>(sums: v128, a: [v128; 2], b: [v128; 2]) -> v128 {
        unsafe { Self::mul_add(a[0], b[0], Self::mul_add(a[1], b[1], sums)) }
    }

    #[inline(always)]
    unsafe fn left_q8<const STEPS: usize>(from: *const u8) -> [v128; 2] {
        unsafe { unsigned_halves(v128_load32_splat(from.cast())) }
    }

    #[inline(always)]
    unsafe fn right_q8(from: *const u8) -> [v128; 2] {
        unsafe { signed_halves(v128_load(from.cast())) }
    }

    #[inline(always)]
    unsafe fn dot_q8<const LANE: usize>(sums: v128, a: [v128; 2], b: [v128; 2]) -> v128 {
        let pairs = i32x4_add(i32x4_dot_i16x8(a[0], b[0]), i32x4_dot_i16x8(a[1], b[1]));
        i32x4_add(sums, pairs)
    }
}

kernels! {
    SIMD128 = "simd128", Simd128,
    one panel: 4 registers, [1, 2],
    two panels: 8 registers, [1],
    prefers 1,
    attends 2 keys with 4 registers of queries
}
