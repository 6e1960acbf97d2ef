//! aarch64: NEON, and more for 8-bit integers (dotprod, i8mm) and bf16.
//!
//! What `core::arch` has no stable function for is one instruction in `asm!`. The left side is
//! taken from a lane of a register, so that 16 bytes of a row take one load.

use core::arch::aarch64::*;
use core::arch::asm;

use super::kernels::kernels;
use super::simd::Simd;

/// How 8-bit integers are multiplied.
const WIDENING: u8 = 0;
const DOTPROD: u8 = 1;
const I8MM: u8 = 2;

/// NEON with one of the ways to multiply 8-bit integers, and with BF16 or without.
#[derive(Clone, Copy)]
pub(super) struct Neon<const INT8: u8, const BF16: bool>;

/// `STEPS` words: 4 in their order, or 1 in every lane.
#[inline(always)]
unsafe fn words<const STEPS: usize>(from: *const u8) -> uint32x4_t {
    // SAFETY: the caller's.
    unsafe {
        if STEPS == 4 {
            vreinterpretq_u32_u8(vld1q_u8(from))
        } else {
            vdupq_n_u32(from.cast::<u32>().read_unaligned())
        }
    }
}

/// `sums ← sums + b · a`, by the instruction that takes lane `LANE` of `a`.
macro_rules! by_lane {
    ($lane:ident, $instruction:literal, $element:literal, $sums:ident, $b:ident, $a:ident) => {
        match $lane {
            0 => by_lane!(@ $instruction, $element, "0", $sums, $b, $a),
            1 => by_lane!(@ $instruction, $element, "1", $sums, $b, $a),
            2 => by_lane!(@ $instruction, $element, "2", $sums, $b, $a),
            _ => by_lane!(@ $instruction, $element, "3", $sums, $b, $a),
        }
    };
    (@ $instruction:literal, $element:literal, $n:literal, $sums:ident, $b:ident, $a:ident) => {
        asm!(
            concat!($instruction, $element, "[", $n, "]"),
            sums = inout(vreg) $sums, b = in(vreg) $b, a = in(vreg) $a,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
}

// SAFETY (of all that follows): the caller's, as `Simd` says.
#[allow(clippy::undocumented_unsafe_blocks, reason = "each is what the trait asks of its caller")]
impl<const INT8: u8, const BF16: bool> Simd for Neon<INT8, BF16> {
    const LANES: usize = 4;
    /// Only i8mm multiplies unsigned by signed.
    const LEFT_BIAS: i32 = if INT8 == I8MM { 0 } else { 128 };
    const BY_LANE: bool = true;
    const BY_LANE_Q8: bool = INT8 != WIDENING;
    type F = float32x4_t;
    type I = int32x4_t;
    /// Whole with BF16 (twice the same), even and odd without.
    type LeftBf16 = [float32x4_t; 2];
    type RightBf16 = [float32x4_t; 2];
    type LeftQ8 = int8x16_t;
    type RightQ8 = int8x16_t;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> float32x4_t {
        unsafe { vreinterpretq_f32_u8(vld1q_u8(from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: float32x4_t) {
        unsafe { vst1q_u8(to.cast(), vreinterpretq_u8_f32(x)) }
    }

    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // Of what is no number, b is taken, as elsewhere.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }

    #[inline(always)]
    unsafe fn largest(x: float32x4_t) -> f32 {
        unsafe { vmaxvq_f32(x) }
    }

    #[inline(always)]
    unsafe fn least(x: float32x4_t) -> f32 {
        unsafe { vminvq_f32(x) }
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: float32x4_t) {
        unsafe {
            let words = vqmovn_u32(vcvtnq_u32_f32(x));
            let bytes = vqmovn_u16(vcombine_u16(words, words));
            let bytes = vget_lane_u32::<0>(vreinterpret_u32_u8(bytes));
            to.cast::<u32>().write_unaligned(bytes);
        }
    }

    #[inline(always)]
    unsafe fn shift_exponent(x: float32x4_t, power: float32x4_t) -> float32x4_t {
        unsafe {
            let power = vshlq_n_u32::<23>(vreinterpretq_u32_f32(power));
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(x), power))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_pairs(to: *mut u8, a: float32x4_t, b: float32x4_t) {
        unsafe {
            let rounded = |x| {
                let bits = vreinterpretq_u32_f32(x);
                let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
                vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)))
            };
            let words = vsriq_n_u32::<16>(rounded(b), rounded(a));
            vst1q_u8(to, vreinterpretq_u8_u32(words));
        }
    }

    #[inline(always)]
    unsafe fn any_above(a: float32x4_t, b: float32x4_t) -> bool {
        unsafe { vmaxvq_u32(vcgtq_f32(a, b)) != 0 }
    }

    #[inline(always)]
    unsafe fn zero_i32() -> int32x4_t {
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(x) }
    }

    #[inline(always)]
    unsafe fn to_f32(x: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(x) }
    }

    #[inline(always)]
    unsafe fn to_i32(x: float32x4_t) -> int32x4_t {
        unsafe { vcvtq_s32_f32(x) }
    }

    #[inline(always)]
    unsafe fn mul_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vmulq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn left_f32<const STEPS: usize>(from: *const u8) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(words::<STEPS>(from)) }
    }

    #[inline(always)]
    unsafe fn dot_f32<const LANE: usize>(
        sums: float32x4_t,
        a: float32x4_t,
        b: float32x4_t,
    ) -> float32x4_t {
        unsafe {
            match LANE {
                0 => vfmaq_laneq_f32::<0>(sums, b, a),
                1 => vfmaq_laneq_f32::<1>(sums, b, a),
                2 => vfmaq_laneq_f32::<2>(sums, b, a),
                _ => vfmaq_laneq_f32::<3>(sums, b, a),
            }
        }
    }

    #[inline(always)]
    unsafe fn dot_f32_unfused<const LANE: usize>(
        sums: float32x4_t,
        a: float32x4_t,
        b: float32x4_t,
    ) -> float32x4_t {
        unsafe {
            let products = match LANE {
                0 => vmulq_laneq_f32::<0>(b, a),
                1 => vmulq_laneq_f32::<1>(b, a),
                2 => vmulq_laneq_f32::<2>(b, a),
                _ => vmulq_laneq_f32::<3>(b, a),
            };
            vaddq_f32(sums, products)
        }
    }

    #[inline(always)]
    unsafe fn half_bf16<const ODD: bool>(words: float32x4_t) -> float32x4_t {
        unsafe {
            let words = vreinterpretq_u32_f32(words);
            vreinterpretq_f32_u32(if ODD {
                vandq_u32(words, vdupq_n_u32(0xFFFF_0000))
            } else {
                vshlq_n_u32::<16>(words)
            })
        }
    }

    #[inline(always)]
    unsafe fn left_bf16<const STEPS: usize>(from: *const u8) -> [float32x4_t; 2] {
        unsafe {
            let words = Self::left_f32::<STEPS>(from);
            if BF16 {
                return [words; 2];
            }
            [Self::half_bf16::<false>(words), Self::half_bf16::<true>(words)]
        }
    }

    #[inline(always)]
    unsafe fn right_bf16(from: *const u8) -> [float32x4_t; 2] {
        unsafe { Self::left_bf16::<4>(from) }
    }

    #[inline(always)]
    unsafe fn dot_bf16<const LANE: usize>(
        mut sums: float32x4_t,
        a: [float32x4_t; 2],
        b: [float32x4_t; 2],
    ) -> float32x4_t {
        unsafe {
            if !BF16 {
                let sums = Self::dot_f32::<LANE>(sums, a[1], b[1]);
                return Self::dot_f32::<LANE>(sums, a[0], b[0]);
            }
            let ([a, _], [b, _]) = (a, b);
            by_lane!(LANE, "bfdot {sums:v}.4s, {b:v}.8h, {a:v}", ".2h", sums, b, a);
            sums
        }
    }

    #[inline(always)]
    unsafe fn left_q8<const STEPS: usize>(from: *const u8) -> int8x16_t {
        unsafe {
            let mut words = words::<STEPS>(from);
            if INT8 != I8MM {
                // As one piece: the constant would take a register from the sums.
                asm!(
                    "movi {bias:v}.16b, #128",
                    "eor {words:v}.16b, {words:v}.16b, {bias:v}.16b",
                    words = inout(vreg) words, bias = out(vreg) _,
                    options(nomem, nostack, preserves_flags)
                );
            }
            vreinterpretq_s8_u32(words)
        }
    }

    #[inline(always)]
    unsafe fn right_q8(from: *const u8) -> int8x16_t {
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_q8<const LANE: usize>(
        mut sums: int32x4_t,
        a: int8x16_t,
        b: int8x16_t,
    ) -> int32x4_t {
        unsafe {
            match INT8 {
                I8MM => by_lane!(LANE, "sudot {sums:v}.4s, {b:v}.16b, {a:v}", ".4b", sums, b, a),
                DOTPROD => by_lane!(LANE, "sdot {sums:v}.4s, {b:v}.16b, {a:v}", ".4b", sums, b, a),
                _ => {
                    // Two products, at most 2·128·127 (see `Q8_MAX`), fit an i16. What is not
                    // `pure` keeps its place: the products of many rows at once would push sums
                    // out of the registers.
                    let low = vmull_s8(vget_low_s8(b), vget_low_s8(a));
                    let pairs = vpaddq_s16(low, vmull_high_s8(b, a));
                    asm!(
                        "sadalp {sums:v}.4s, {pairs:v}.8h",
                        sums = inout(vreg) sums, pairs = in(vreg) pairs,
                        options(nomem, nostack, preserves_flags)
                    );
                }
            }
            sums
        }
    }
}

// Five rows leave registers for widening: bf16 then takes 16 % fewer instructions, and all else 2 %
// more.
kernels! {
    #[target_feature(enable = "neon")]
    NEON = "neon", Neon<WIDENING, false>,
    one panel: 4 registers, [1, 2, 4, 5],
    two panels: 8 registers, [1, 2],
    prefers 1,
    attends 4 keys with 4 registers of queries
}

kernels! {
    #[target_feature(enable = "neon,dotprod")]
    NEON_DOTPROD = "dotprod", Neon<DOTPROD, false>,
    one panel: 4 registers, [1, 2, 4, 5],
    two panels: 8 registers, [1, 2],
    prefers 1,
    attends 4 keys with 4 registers of queries
}

kernels! {
    #[target_feature(enable = "neon,dotprod,i8mm")]
    NEON_I8MM = "i8mm", Neon<I8MM, false>,
    one panel: 4 registers, [1, 2, 4, 5],
    two panels: 8 registers, [1, 2],
    prefers 1,
    attends 4 keys with 4 registers of queries
}

kernels! {
    #[target_feature(enable = "neon,dotprod,i8mm,bf16")]
    NEON_BF16 = "bf16", Neon<I8MM, true>,
    one panel: 4 registers, [1, 2, 4, 6],
    two panels: 8 registers, [1, 2, 3],
    prefers 1,
    attends 6 keys with 4 registers of queries
}
