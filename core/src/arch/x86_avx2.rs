//! x86-64 with AVX2 and FMA, and with AVX-VNNI for 8-bit integers.

use core::arch::x86_64::*;

use super::kernels::kernels;
use super::simd::Simd;

/// AVX2 and FMA, with AVX-VNNI or without.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>;

/// Bytes 0 and 2 of each word, and bytes 1 and 3, as unsigned 16-bit integers.
#[inline(always)]
unsafe fn unsigned_halves(x: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller's.
    unsafe { [_mm256_and_si256(x, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16::<8>(x)] }
}

/// The same, signed.
#[inline(always)]
unsafe fn signed_halves(x: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller's.
    unsafe { [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x)] }
}

// SAFETY (of all that follows): the caller's, as `Simd` says.
#[allow(clippy::undocumented_unsafe_blocks, reason = "each is what the trait asks of its caller")]
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    const LANES: usize = 8;
    const LEFT_BIAS: i32 = 0;
    type F = __m256;
    type I = __m256i;
    type LeftBf16 = [__m256; 2];
    type RightBf16 = [__m256; 2];
    /// Whole with AVX-VNNI (twice the same), in halves without.
    type LeftQ8 = [__m256i; 2];
    type RightQ8 = [__m256i; 2];

    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn largest(x: __m256) -> f32 {
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    unsafe fn least(x: __m256) -> f32 {
        unsafe {
            let x = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_min_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_min_ss(x, _mm_movehdup_ps(x)))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: __m256) {
        unsafe {
            let x = _mm256_max_ps(x, _mm256_setzero_ps());
            let x = _mm256_cvtps_epi32(_mm256_min_ps(x, _mm256_set1_ps(255.0)));
            let bytes = _mm256_shuffle_epi8(x, _mm256_set1_epi32(0x0C08_0400));
            let halves = _mm_unpacklo_epi32(
                _mm256_castsi256_si128(bytes),
                _mm256_extracti128_si256::<1>(bytes),
            );
            _mm_storel_epi64(to.cast(), halves);
        }
    }

    #[inline(always)]
    unsafe fn shift_exponent(x: __m256, power: __m256) -> __m256 {
        unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(power));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), power))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_pairs(to: *mut u8, a: __m256, b: __m256) {
        unsafe {
            let rounded = |x| {
                let bits = _mm256_castps_si256(x);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)))
            };
            let low = _mm256_srli_epi32::<16>(rounded(a));
            let words = _mm256_blend_epi16::<0xAA>(low, rounded(b));
            _mm256_storeu_si256(to.cast(), words);
        }
    }

    #[inline(always)]
    unsafe fn any_above(a: __m256, b: __m256) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) != 0 }
    }

    #[inline(always)]
    unsafe fn zero_i32() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(x) }
    }

    #[inline(always)]
    unsafe fn to_f32(x: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(x) }
    }

    #[inline(always)]
    unsafe fn to_i32(x: __m256) -> __m256i {
        unsafe { _mm256_cvttps_epi32(x) }
    }

    #[inline(always)]
    unsafe fn mul_i32(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn half_bf16<const ODD: bool>(words: __m256) -> __m256 {
        unsafe {
            let words = _mm256_castps_si256(words);
            _mm256_castsi256_ps(if ODD {
                _mm256_and_si256(words, _mm256_set1_epi32(0xFFFF_0000_u32 as i32))
            } else {
                _mm256_slli_epi32::<16>(words)
            })
        }
    }

    #[inline(always)]
    unsafe fn left_bf16<const STEPS: usize>(from: *const u8) -> [__m256; 2] {
        unsafe {
            let words = Self::left_f32::<STEPS>(from);
            [Self::half_bf16::<false>(words), Self::half_bf16::<true>(words)]
        }
    }

    #[inline(always)]
    unsafe fn right_bf16(from: *const u8) -> [__m256; 2] {
        unsafe {
            let words = Self::load(from.cast());
            [Self::half_bf16::<false>(words), Self::half_bf16::<true>(words)]
        }
    }

    #[inline(always)]
    unsafe fn dot_bf16<const LANE: usize>(sums: __m256, a: [__m256; 2], b: [__m256; 2]) -> __m256 {
        unsafe { _mm256_fmadd_ps(a[0], b[0], _mm256_fmadd_ps(a[1], b[1], sums)) }
    }

    #[inline(always)]
    unsafe fn left_q8<const STEPS: usize>(from: *const u8) -> [__m256i; 2] {
        unsafe {
            let word = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            if VNNI { [word; 2] } else { unsigned_halves(word) }
        }
    }

    #[inline(always)]
    unsafe fn right_q8(from: *const u8) -> [__m256i; 2] {
        unsafe {
            let words = _mm256_loadu_si256(from.cast());
            if VNNI { [words; 2] } else { signed_halves(words) }
        }
    }

    #[inline(always)]
    unsafe fn dot_q8<const LANE: usize>(
        sums: __m256i,
        a: [__m256i; 2],
        b: [__m256i; 2],
    ) -> __m256i {
        unsafe {
            if VNNI {
                return _mm256_dpbusd_avx_epi32(sums, a[0], b[0]);
            }
            let pairs =
                _mm256_add_epi32(_mm256_madd_epi16(a[0], b[0]), _mm256_madd_epi16(a[1], b[1]));
            _mm256_add_epi32(sums, pairs)
        }
    }
}

kernels! {
    #[target_feature(enable = "avx2,fma")]
    AVX2 = "avx2", Avx2<false>,
    one panel: 2 registers, [1, 2, 4, 6],
    two panels: 4 registers, [1, 2, 3],
    prefers 1,
    attends 4 keys with 2 registers of queries
}

kernels! {
    #[target_feature(enable = "avx2,fma,avxvnni")]
    AVX_VNNI = "avxvnni", Avx2<true>,
    one panel: 2 registers, [1, 2, 4, 6],
    two panels: 4 registers, [1, 2, 3],
    prefers 1,
    attends 4 keys with 2 registers of queries
}
