//! Plain Rust: what every CPU can run, and what every other kernel is compared with.

use super::kernels::kernels;
use super::portable;
use super::simd::Simd;
use crate::tensor::packed::to_bf16;

/// Four lanes at a time, which most compilers turn into vectors where there are some.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

const LANES: usize = 4;

#[inline(always)]
fn each<T: Copy>(mut x: [T; LANES], f: impl Fn(usize, T) -> T) -> [T; LANES] {
    for (lane, x) in x.iter_mut().enumerate() {
        *x = f(lane, *x);
    }
    x
}

/// bf16 number `which` of a word.
#[inline(always)]
fn bf16(word: u32, which: u32) -> f32 {
    f32::from_bits(if which == 0 { word << 16 } else { word & 0xFFFF_0000 })
}

impl Simd for Scalar {
    const LANES: usize = LANES;
    const LEFT_BIAS: i32 = 0;
    const IS_PLAIN: bool = true;
    const FUSES: bool = false;
    type F = [f32; LANES];
    type I = [i32; LANES];
    type LeftBf16 = u32;
    type RightBf16 = [u32; LANES];
    type LeftQ8 = [i32; 4];
    type RightQ8 = [[i8; 4]; LANES];

    #[inline(always)]
    unsafe fn zero() -> Self::F {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        // SAFETY: the caller's.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { to.cast::<Self::F>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each(a, |i, a| a + b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each(a, |i, a| a * b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each(c, |i, c| c + a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        each(a, |i, a| if a > b[i] { a } else { b[i] })
    }

    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        each(a, |i, a| if a < b[i] { a } else { b[i] })
    }

    #[inline(always)]
    unsafe fn largest(x: Self::F) -> f32 {
        x.into_iter().fold(x[0], |a, b| if b > a { b } else { a })
    }

    #[inline(always)]
    unsafe fn least(x: Self::F) -> f32 {
        x.into_iter().fold(x[0], |a, b| if b < a { b } else { a })
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[u8; LANES]>().write(x.map(portable::byte)) }
    }

    #[inline(always)]
    unsafe fn shift_exponent(x: Self::F, power: Self::F) -> Self::F {
        each(x, |i, x| f32::from_bits(x.to_bits().wrapping_add(power[i].to_bits() << 23)))
    }

    #[inline(always)]
    unsafe fn store_bf16_pairs(to: *mut u8, a: Self::F, b: Self::F) {
        let mut words = [[0; 4]; LANES];
        for (i, word) in words.iter_mut().enumerate() {
            let [low, high] = [to_bf16(a[i]), to_bf16(b[i])].map(u32::from);
            *word = (high << 16 | low).to_le_bytes();
        }
        // SAFETY: the caller's.
        unsafe { to.cast::<[[u8; 4]; LANES]>().write(words) }
    }

    #[inline(always)]
    unsafe fn any_above(a: Self::F, b: Self::F) -> bool {
        (0..LANES).any(|i| a[i] > b[i])
    }

    #[inline(always)]
    unsafe fn zero_i32() -> Self::I {
        [0; LANES]
    }

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> Self::I {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn to_f32(x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }

    #[inline(always)]
    unsafe fn to_i32(x: Self::F) -> Self::I {
        x.map(|x| x as i32)
    }

    #[inline(always)]
    unsafe fn mul_i32(a: Self::I, b: Self::I) -> Self::I {
        each(a, |i, a| a.wrapping_mul(b[i]))
    }

    #[inline(always)]
    unsafe fn right_f32(from: *const u8) -> Self::F {
        // SAFETY: the caller's.
        unsafe { from.cast::<[u32; LANES]>().read_unaligned() }
            .map(|bits| f32::from_bits(u32::from_le(bits)))
    }

    #[inline(always)]
    unsafe fn store_right_f32(to: *mut u8, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[u32; LANES]>().write_unaligned(x.map(|x| x.to_bits().to_le())) }
    }

    #[inline(always)]
    unsafe fn half_bf16<const ODD: bool>(words: Self::F) -> Self::F {
        words.map(|word| bf16(u32::from_le(word.to_bits()), u32::from(ODD)))
    }

    #[inline(always)]
    unsafe fn left_bf16<const STEPS: usize>(from: *const u8) -> u32 {
        // SAFETY: the caller's.
        u32::from_le(unsafe { from.cast::<u32>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn right_bf16(from: *const u8) -> Self::RightBf16 {
        // SAFETY: the caller's.
        unsafe { from.cast::<Self::RightBf16>().read_unaligned() }.map(u32::from_le)
    }

    #[inline(always)]
    unsafe fn dot_bf16<const LANE: usize>(sums: Self::F, a: u32, b: Self::RightBf16) -> Self::F {
        each(sums, |i, sum| sum + bf16(a, 1) * bf16(b[i], 1) + bf16(a, 0) * bf16(b[i], 0))
    }

    #[inline(always)]
    unsafe fn left_q8<const STEPS: usize>(from: *const u8) -> Self::LeftQ8 {
        // SAFETY: the caller's.
        unsafe { from.cast::<[u8; 4]>().read() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn right_q8(from: *const u8) -> Self::RightQ8 {
        // SAFETY: the caller's.
        unsafe { from.cast::<Self::RightQ8>().read() }
    }

    #[inline(always)]
    unsafe fn dot_q8<const LANE: usize>(
        sums: Self::I,
        a: Self::LeftQ8,
        b: Self::RightQ8,
    ) -> Self::I {
        each(sums, |i, mut sum| {
            for (a, b) in a.iter().zip(b[i]) {
                sum = sum.wrapping_add(a * i32::from(b));
            }
            sum
        })
    }
}

kernels! {
    KERNELS = "scalar", Scalar,
    one panel: 4 registers, [1, 2],
    two panels: 8 registers, [1],
    prefers 1,
    attends 2 keys with 4 registers of queries
}
