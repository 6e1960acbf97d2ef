//! x86-64 with AVX-512: F, BW, DQ and VL, and more: VNNI for 8-bit integers, BF16.

use core::arch::x86_64::*;

use super::kernels::kernels;
use super::simd::Simd;

/// AVX-512, with VNNI or without, with BF16 or without.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const VNNI: bool, const BF16: bool>;

/// The lanes of each half in turn.
const IN_TURN: [u16; 32] = {
    let mut lanes = [0; 32];
    let mut i = 0;
    while i < 32 {
        lanes[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    lanes
};

/// A register of bf16 pairs, seen as the type that its dot product takes.
#[inline(always)]
fn as_bf16(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and any bytes are such a register.
    unsafe { core::mem::transmute(x) }
}

/// All lanes of each of 16 registers as one, by halves: two registers become one of half the lanes
/// of each, until there is one register with a lane of each.
#[inline(always)]
fn of_each(x: &[__m512; 16], f: impl Fn(__m512, __m512) -> __m512) -> [f32; 16] {
    /// Which lanes a half of each group is, of two registers in groups of `2·width`.
    const fn half_of_each(width: usize, half: usize) -> [i32; 16] {
        let mut lanes = [0; 16];
        let mut i = 0;
        while i < 16 {
            lanes[i] = (2 * (i - i % width) + half * width + i % width) as i32;
            i += 1;
        }
        lanes
    }
    const LANES: [[[i32; 16]; 2]; 4] = {
        let mut lanes = [[[0; 16]; 2]; 4];
        let mut i = 0;
        while i < 4 {
            lanes[i] = [half_of_each(8 >> i, 0), half_of_each(8 >> i, 1)];
            i += 1;
        }
        lanes
    };
    let mut x = *x;
    let mut all = [0.0; 16];
    // SAFETY: the caller's: the CPU has AVX-512; a register is 16 numbers.
    unsafe {
        for (stage, lanes) in LANES.iter().enumerate() {
            let [low, high] = lanes.each_ref().map(|x| _mm512_loadu_si512(x.as_ptr().cast()));
            for i in 0..8 >> stage {
                let (a, b) = (x[2 * i], x[2 * i + 1]);
                let low = _mm512_permutex2var_ps(a, low, b);
                x[i] = f(low, _mm512_permutex2var_ps(a, high, b));
            }
        }
        _mm512_storeu_ps(all.as_mut_ptr(), x[0]);
    }
    all
}

// SAFETY (of all that follows): the caller's, as `Simd` says.
#[allow(clippy::undocumented_unsafe_blocks, reason = "each is what the trait asks of its caller")]
impl<const VNNI: bool, const BF16: bool> Simd for Avx512<VNNI, BF16> {
    const LANES: usize = 16;
    const LEFT_BIAS: i32 = 0;
    type F = __m512;
    type I = __m512i;
    type LeftBf16 = __m512i;
    type RightBf16 = __m512i;
    type LeftQ8 = __m512i;
    type RightQ8 = __m512i;

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add_elsewhere(a: __m512, one: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, one, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn largest(x: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(x) }
    }

    #[inline(always)]
    unsafe fn least(x: __m512) -> f32 {
        unsafe { _mm512_reduce_min_ps(x) }
    }

    #[inline(always)]
    unsafe fn largest_of_each(x: &[__m512; 16]) -> [f32; 16] {
        of_each(x, |a, b| unsafe { _mm512_max_ps(a, b) })
    }

    #[inline(always)]
    unsafe fn least_of_each(x: &[__m512; 16]) -> [f32; 16] {
        of_each(x, |a, b| unsafe { _mm512_min_ps(a, b) })
    }

    #[inline(always)]
    unsafe fn transpose_block(from: &[f32], stride: usize, to: &mut [f32], pitch: usize) {
        const EVEN: i32 = 0b10_00_10_00;
        const ODD: i32 = 0b11_01_11_01;
        unsafe {
            let mut x = [_mm512_setzero_ps(); 16];
            for (r, x) in x.iter_mut().enumerate() {
                *x = _mm512_loadu_ps(from.as_ptr().add(r * stride));
            }
            // Squares of four in each quarter of a register: quarter q of number 4·i + j is column
            // 4·q + j of the rows from 4·i on.
            for rows in x.as_chunks_mut::<4>().0 {
                let [a, b, c, d] = *rows;
                let pairs = [
                    [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)],
                    [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)],
                ];
                for (half, [ab, cd]) in
                    pairs.map(|pair| pair.map(|x| _mm512_castps_pd(x))).iter().enumerate()
                {
                    rows[2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(*ab, *cd));
                    rows[2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(*ab, *cd));
                }
            }
            for j in 0..4 {
                let even = [
                    _mm512_shuffle_f32x4::<EVEN>(x[j], x[4 + j]),
                    _mm512_shuffle_f32x4::<EVEN>(x[8 + j], x[12 + j]),
                ];
                let odd = [
                    _mm512_shuffle_f32x4::<ODD>(x[j], x[4 + j]),
                    _mm512_shuffle_f32x4::<ODD>(x[8 + j], x[12 + j]),
                ];
                let columns = [
                    _mm512_shuffle_f32x4::<EVEN>(even[0], even[1]),
                    _mm512_shuffle_f32x4::<EVEN>(odd[0], odd[1]),
                    _mm512_shuffle_f32x4::<ODD>(even[0], even[1]),
                    _mm512_shuffle_f32x4::<ODD>(odd[0], odd[1]),
                ];
                for (quarter, column) in columns.iter().enumerate() {
                    _mm512_storeu_ps(to.as_mut_ptr().add((4 * quarter + j) * pitch), *column);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: __m512) {
        unsafe {
            let x = _mm512_cvtps_epi32(_mm512_max_ps(x, _mm512_setzero_ps()));
            _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(x));
        }
    }

    #[inline(always)]
    unsafe fn shift_exponent(x: __m512, power: __m512) -> __m512 {
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(power));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), power))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_pairs(to: *mut u8, a: __m512, b: __m512) {
        unsafe {
            if BF16 {
                // All of a, then all of b.
                let words: __m512i = core::mem::transmute(_mm512_cvtne2ps_pbh(b, a));
                let in_turn = _mm512_loadu_si512(IN_TURN.as_ptr().cast());
                return _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(in_turn, words));
            }
            let rounded = |x| {
                let bits = _mm512_castps_si512(x);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)))
            };
            let low = _mm512_srli_epi32::<16>(rounded(a));
            let words = _mm512_mask_blend_epi16(0xAAAA_AAAA, low, rounded(b));
            _mm512_storeu_si512(to.cast(), words);
        }
    }

    #[inline(always)]
    unsafe fn any_above(a: __m512, b: __m512) -> bool {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0 }
    }

    #[inline(always)]
    unsafe fn zero_i32() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn to_f32(x: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    unsafe fn to_i32(x: __m512) -> __m512i {
        unsafe { _mm512_cvttps_epi32(x) }
    }

    #[inline(always)]
    unsafe fn mul_i32(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn half_bf16<const ODD: bool>(words: __m512) -> __m512 {
        unsafe {
            let words = _mm512_castps_si512(words);
            _mm512_castsi512_ps(if ODD {
                _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000_u32 as i32))
            } else {
                _mm512_slli_epi32::<16>(words)
            })
        }
    }

    #[inline(always)]
    unsafe fn left_bf16<const STEPS: usize>(from: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn right_bf16(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_bf16<const LANE: usize>(sums: __m512, a: __m512i, b: __m512i) -> __m512 {
        unsafe {
            if BF16 {
                return _mm512_dpbf16_ps(sums, as_bf16(a), as_bf16(b));
            }
            let [a, b] = [_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)];
            let [a_even, b_even] = [Self::half_bf16::<false>(a), Self::half_bf16::<false>(b)];
            let [a_odd, b_odd] = [Self::half_bf16::<true>(a), Self::half_bf16::<true>(b)];
            _mm512_fmadd_ps(a_even, b_even, _mm512_fmadd_ps(a_odd, b_odd, sums))
        }
    }

    #[inline(always)]
    unsafe fn left_q8<const STEPS: usize>(from: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn right_q8(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn dot_q8<const LANE: usize>(sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        unsafe {
            if VNNI {
                return _mm512_dpbusd_epi32(sums, a, b);
            }
            // Bytes 0 and 2, then 1 and 3, as 16-bit integers: no product overflows.
            let a_even = _mm512_and_si512(a, _mm512_set1_epi16(0xFF));
            let a_odd = _mm512_srli_epi16::<8>(a);
            let b_even = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b));
            let b_odd = _mm512_srai_epi16::<8>(b);
            let even = _mm512_madd_epi16(a_even, b_even);
            _mm512_add_epi32(sums, _mm512_add_epi32(even, _mm512_madd_epi16(a_odd, b_odd)))
        }
    }
}

kernels! {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    AVX512 = "avx512", Avx512<false, false>,
    one panel: 1 registers, [1, 4, 8, 12],
    two panels: 2 registers, [1, 4, 6, 8, 12],
    prefers 2,
    attends 8 keys with 2 registers of queries
}

kernels! {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    AVX512_VNNI = "avx512vnni", Avx512<true, false>,
    one panel: 1 registers, [1, 4, 8, 12],
    two panels: 2 registers, [1, 4, 6, 8, 12],
    prefers 2,
    attends 8 keys with 2 registers of queries
}

kernels! {
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    #[target_feature(enable = "avx512bf16")]
    AVX512_BF16 = "avx512bf16", Avx512<true, true>,
    one panel: 1 registers, [1, 4, 8, 12],
    two panels: 2 registers, [1, 4, 6, 8, 12],
    prefers 2,
    attends 8 keys with 2 registers of queries
}
