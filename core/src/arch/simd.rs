//! The vector primitives that an instruction set lends to the product tiles of `tile.rs`.

use super::portable;

/// A vector register's worth of lanes and what products do with them.
///
/// Every step of a product reads four bytes of each row of the left side (one f32, two bf16 or
/// four 8-bit integers) and, for each column of the right side, the four bytes that go with them.
/// Where an instruction set multiplies by a lane of a register, the left side is read `STEPS` = 4
/// steps at a time, and `dot…` takes step `LANE` of them; else both are 1 step, and lane 0.
///
/// Panels of the right side may lie in a file, and are little-endian on every machine; f32 of the
/// left side are the machine's own.
///
/// # Safety
/// All functions need the CPU's features; those that take a pointer read or write as many bytes as
/// the register holds (`left…`: four bytes a step), at any alignment.
pub(super) trait Simd: Copy {
    /// f32 lanes of a register.
    const LANES: usize;
    /// What [`Simd::left_q8`] takes off the unsigned integers of the left side.
    const LEFT_BIAS: i32;
    /// Whether f32 and bf16 are multiplied by a lane of a register.
    const BY_LANE: bool = false;
    /// Whether 8-bit integers are.
    const BY_LANE_Q8: bool = false;
    /// Whether there are no vectors: plain code is as good.
    const IS_PLAIN: bool = false;
    /// Whether [`Simd::mul_add`] rounds once.
    const FUSES: bool = true;
    /// A register of f32.
    type F: Copy;
    /// A register of i32.
    type I: Copy;
    /// Two bf16 of a row, as [`Simd::dot_bf16`] wants them.
    type LeftBf16: Copy;
    /// Two bf16 of each column.
    type RightBf16: Copy;
    /// Four unsigned integers of a row, as [`Simd::dot_q8`] wants them.
    type LeftQ8: Copy;
    /// Four signed integers of each column.
    type RightQ8: Copy;

    /// Fetches what is going to be read, where that can be asked for; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u8) {}

    unsafe fn zero() -> Self::F;
    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, x: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once where the CPU can.
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// `a + b`, by the unit that multiplies where that is another than the one that adds: so both
    /// have their share of a long computation. `one` is 1, of which the compiler must not know.
    #[inline(always)]
    unsafe fn add_elsewhere(a: Self::F, _one: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller's.
        unsafe { Self::add(a, b) }
    }

    /// The larger of both; b where it is no number.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of both; b where it is no number.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// The largest of all lanes, which are numbers.
    unsafe fn largest(x: Self::F) -> f32;
    /// The least of all lanes, which are numbers.
    unsafe fn least(x: Self::F) -> f32;

    /// The largest lane of each of 16 registers, all numbers.
    #[inline(always)]
    unsafe fn largest_of_each(x: &[Self::F; 16]) -> [f32; 16] {
        // SAFETY: the caller's.
        x.map(|x| unsafe { Self::largest(x) })
    }

    /// The least lane of each of 16 registers, all numbers.
    #[inline(always)]
    unsafe fn least_of_each(x: &[Self::F; 16]) -> [f32; 16] {
        // SAFETY: the caller's.
        x.map(|x| unsafe { Self::least(x) })
    }

    /// 16 rows of 16 elements that are `stride` apart, as rows that are `pitch` apart; all of them
    /// lie in the slices.
    #[inline(always)]
    unsafe fn transpose_block(from: &[f32], stride: usize, to: &mut [f32], pitch: usize) {
        portable::transpose_block(from, stride, to, pitch);
    }

    /// The nearest whole number of each lane, ties to even, as a byte: 0 for what is below or no
    /// number, 255 for what is above.
    unsafe fn store_bytes(to: *mut u8, x: Self::F);
    /// x times two to the power that the low bits of `power` hold, by the exponent's bits.
    unsafe fn shift_exponent(x: Self::F, power: Self::F) -> Self::F;
    /// Bytes of the nearest bf16 of a in the lower half of each lane, of b in the upper half.
    unsafe fn store_bf16_pairs(to: *mut u8, a: Self::F, b: Self::F);
    /// Whether any lane of a is above that of b.
    unsafe fn any_above(a: Self::F, b: Self::F) -> bool;

    unsafe fn zero_i32() -> Self::I;
    unsafe fn splat_i32(x: i32) -> Self::I;
    /// Whole numbers as f32.
    unsafe fn to_f32(x: Self::I) -> Self::F;
    /// f32 that are whole numbers, as integers.
    unsafe fn to_i32(x: Self::F) -> Self::I;
    unsafe fn mul_i32(a: Self::I, b: Self::I) -> Self::I;

    #[inline(always)]
    unsafe fn left_f32<const STEPS: usize>(from: *const u8) -> Self::F {
        // SAFETY: the caller's.
        unsafe { Self::splat(from.cast::<f32>().read_unaligned()) }
    }

    /// f32 of a panel.
    #[inline(always)]
    unsafe fn right_f32(from: *const u8) -> Self::F {
        // SAFETY: the caller's.
        unsafe { Self::load(from.cast()) }
    }

    /// f32 into a panel.
    #[inline(always)]
    unsafe fn store_right_f32(to: *mut u8, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { Self::store(to.cast(), x) }
    }

    /// `sums + a·b` in each lane.
    #[inline(always)]
    unsafe fn dot_f32<const LANE: usize>(sums: Self::F, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller's.
        unsafe { Self::mul_add(a, b, sums) }
    }

    /// The same, the product rounded first.
    #[inline(always)]
    unsafe fn dot_f32_unfused<const LANE: usize>(sums: Self::F, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the caller's.
        unsafe { Self::add(sums, Self::mul(a, b)) }
    }

    /// The even or the odd bf16 of each word.
    unsafe fn half_bf16<const ODD: bool>(words: Self::F) -> Self::F;
    unsafe fn left_bf16<const STEPS: usize>(from: *const u8) -> Self::LeftBf16;
    unsafe fn right_bf16(from: *const u8) -> Self::RightBf16;
    /// `(sums + a₁·b₁) + a₀·b₀` in each lane: the order of AVX-512's instruction.
    unsafe fn dot_bf16<const LANE: usize>(
        sums: Self::F,
        a: Self::LeftBf16,
        b: Self::RightBf16,
    ) -> Self::F;

    unsafe fn left_q8<const STEPS: usize>(from: *const u8) -> Self::LeftQ8;
    unsafe fn right_q8(from: *const u8) -> Self::RightQ8;
    /// `sums + Σ (aᵢ − LEFT_BIAS)·bᵢ` in each lane, exactly.
    unsafe fn dot_q8<const LANE: usize>(
        sums: Self::I,
        a: Self::LeftQ8,
        b: Self::RightQ8,
    ) -> Self::I;
}
