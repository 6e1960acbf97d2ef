//! Attention of a block of queries over all keys, written once over the primitives of an
//! instruction set.
//!
//! Everything is transposed: a lane is a query, a row is a key. So the softmax needs no sums across
//! lanes, the scores never leave the registers, and the weights come out as the right side of the
//! second product. Scores are to base 2 (their scale contains log₂ e).
//!
//! Weights are relative to a whole number, the reference, so that another reference only changes
//! exponents: which keys and queries lie in one tile leaves the result as it is.

#![allow(clippy::needless_range_loop, reason = "registers are taken by number, in step")]

use super::kernels::{Arithmetic, Attend, KEYS};
use super::portable::ROUND;
use super::simd::Simd;
use super::tile::{Bf16, F32, Sums, in_memory, one_tap};
use crate::tensor::PANEL;

/// A query's reference is raised only when a score exceeds it by this much: until then weights are
/// at most 2¹⁶, which neither f32 nor bf16 minds.
const HEADROOM: f32 = 16.0;

/// Below this power of two a weight counts for nothing.
const LEAST_POWER: f32 = -120.0;

/// Added to a score that must not count: it is finite, so that the score's fraction stays a number.
const UNSEEN: f32 = -1e6;

/// One, for [`Simd::add_elsewhere`].
static ONE: f32 = 1.0;

/// What is added to the scores of a causal row: lane l of the load at `PANEL·2 + i` is 0 where
/// `i + l ≥ 0`.
static MASK: [f32; 4 * PANEL] = {
    let mut mask = [0.0; 4 * PANEL];
    let mut i = 0;
    while i < 2 * PANEL {
        mask[i] = UNSEEN;
        i += 1;
    }
    mask
};

/// What the two arithmetics do differently with weights.
trait Weigh<S: Simd>: Sums<S, Sum = S::F> {
    /// Keys in one step of the second product.
    const KEYS_A_STEP: usize;
    /// Coefficients of 2^r for |r| ≤ 1/2, the highest power first.
    const POLYNOMIAL: &'static [f32];
    /// `a · b + c`.
    unsafe fn mul_add(a: S::F, b: S::F, c: S::F) -> S::F;
    /// Stores the weights of the keys of one step.
    unsafe fn store(to: *mut u8, weights: [S::F; 2]);
    /// The weights that were stored.
    unsafe fn load(from: *const u8) -> [S::F; 2];
}

impl<S: Simd, const FUSED: bool> Weigh<S> for F32<FUSED> {
    const KEYS_A_STEP: usize = 1;
    /// Taylor's, with a relative error of 1.2e-7.
    const POLYNOMIAL: &'static [f32] =
        &[1.540_35e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0];

    #[inline(always)]
    unsafe fn mul_add(a: S::F, b: S::F, c: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe { if FUSED { S::mul_add(a, b, c) } else { S::add(S::mul(a, b), c) } }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, weights: [S::F; 2]) {
        // SAFETY: the caller's.
        unsafe { S::store_right_f32(to, weights[0]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's.
        unsafe { [S::right_f32(from), S::zero()] }
    }
}

impl<S: Simd> Weigh<S> for Bf16 {
    const KEYS_A_STEP: usize = 2;
    /// Relative error 7.5e-5, a fiftieth of what bf16 rounds.
    const POLYNOMIAL: &'static [f32] = &[5.517_149e-2, 0.242_610_95, 0.693_260_9, 0.999_928_06];

    #[inline(always)]
    unsafe fn mul_add(a: S::F, b: S::F, c: S::F) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::add(S::mul(a, b), c) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, weights: [S::F; 2]) {
        // SAFETY: the caller's.
        unsafe { S::store_bf16_pairs(to, weights[0], weights[1]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [S::F; 2] {
        // SAFETY: the caller's.
        unsafe {
            let words = S::load(from.cast());
            [S::half_bf16::<false>(words), S::half_bf16::<true>(words)]
        }
    }
}

/// One block of queries; `MR` keys at a time, `REGS` registers of queries.
///
/// # Safety
/// The CPU has the features of `S`; `Isa::attend` has checked all lengths.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd, const MR: usize, const REGS: usize>(job: &mut Attend<'_>) {
    // SAFETY: the caller's.
    unsafe {
        match job.arithmetic {
            Arithmetic::F32Unfused if S::FUSES => block::<S, F32<false>, MR, REGS>(job),
            Arithmetic::F32 | Arithmetic::F32Unfused => block::<S, F32<true>, MR, REGS>(job),
            Arithmetic::Bf16 | Arithmetic::Q8 => block::<S, Bf16, MR, REGS>(job),
        }
    }
}

#[inline(always)]
unsafe fn block<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(job: &mut Attend<'_>) {
    let mut state = State { reference: [const { None }; REGS], sum: [const { None }; REGS] };
    let last_query = job.first_query + REGS * S::LANES;
    let seen = if job.causal { job.tk.min(last_query) } else { job.tk };
    // SAFETY: the caller's.
    unsafe {
        job.out.fill(0.0);
        for first in (0..seen).step_by(KEYS) {
            let keys = KEYS.min(job.tk - first);
            for key in (0..keys).step_by(MR) {
                weigh::<S, A, MR, REGS>(job, &mut state, first + key, MR.min(keys - key), key);
            }
            add_values::<S, A, MR, REGS>(job, first / KEYS, keys);
        }
        for (j, sum) in state.sum.iter().enumerate() {
            let sum = sum.unwrap_or(S::splat(1.0));
            S::store(job.sums.as_mut_ptr().add(j * S::LANES), sum);
        }
    }
}

/// What is known of each query so far.
struct State<S: Simd, const REGS: usize> {
    /// What its scores are taken relative to.
    reference: [Option<S::F>; REGS],
    /// The sum of its weights.
    sum: [Option<S::F>; REGS],
}

/// Scores `count` keys from `first` on, and stores their weights from key `at` of the tile on.
#[inline(always)]
unsafe fn weigh<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(
    job: &mut Attend<'_>,
    state: &mut State<S, REGS>,
    first: usize,
    count: usize,
    at: usize,
) {
    // SAFETY: `Isa::attend` has checked all lengths; rows that are not there read the last key's.
    unsafe {
        let mut rows = [job.keys.as_ptr(); MR];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = row.add((first + r.min(count - 1)) * job.key_stride);
        }
        let mut right = [job.queries.as_ptr(); REGS];
        for (j, right) in right.iter_mut().enumerate() {
            let (panel, lane) = (j * S::LANES / PANEL, j * S::LANES % PANEL);
            *right = right.add(4 * (panel * job.steps * PANEL + lane));
        }
        let mut sums = [[S::zero(); REGS]; MR];
        // The next keys lie behind these, as long as they belong together.
        let next = rows[0].wrapping_add(MR * job.key_stride);
        one_tap::<S, A, MR, REGS>(&mut sums, &rows, &right, next, job.steps);
        let mut scores = in_memory::<S, MR, REGS>(&sums);
        if job.causal && first + MR > job.first_query {
            for r in 0..MR {
                for j in 0..REGS {
                    let query = job.first_query + j * S::LANES;
                    let ahead = (query + 2 * PANEL).saturating_sub(first + r).min(3 * PANEL);
                    let mask = S::load(MASK.as_ptr().add(ahead));
                    scores[r][j] = S::add(scores[r][j], mask);
                }
            }
        }
        for j in 0..REGS {
            let mut largest = scores[0][j];
            for row in &scores[1..] {
                largest = S::max(row[j], largest);
            }
            raise_reference::<S, A, MR, REGS>(job, state, j, largest, at);
        }
        let one = S::splat((&raw const ONE).read_volatile());
        for j in 0..REGS {
            let minus = S::mul(state.reference[j].unwrap_or(S::zero()), S::splat(-1.0));
            let mut sum = state.sum[j].unwrap_or(S::zero());
            let weights = weights_of::<S, A>(job, j);
            for r in (0..MR).step_by(A::KEYS_A_STEP) {
                let mut pair = [S::zero(); 2];
                for (i, weight) in pair.iter_mut().enumerate().take(A::KEYS_A_STEP) {
                    if r + i < count {
                        *weight = exp2::<S, A>(scores[r + i][j], minus, one);
                    }
                    sum = S::add_elsewhere(sum, one, *weight);
                }
                let step = (at + r) / A::KEYS_A_STEP;
                A::store(weights.add(4 * step * PANEL), pair);
            }
            state.sum[j] = Some(sum);
        }
    }
}

/// `2^(x + minus)` for a whole number `minus`: x = n + r with |r| ≤ 1/2, a polynomial of r, and
/// n + minus, which is at most some hundred, goes into the exponent. Only that depends on `minus`.
#[inline(always)]
unsafe fn exp2<S: Simd, A: Weigh<S>>(x: S::F, minus: S::F, one: S::F) -> S::F {
    // SAFETY: the caller's.
    unsafe {
        // n is in the low bits, and stays there when another whole number is added.
        let shifted = S::add_elsewhere(x, one, S::splat(ROUND));
        let n = S::add_elsewhere(shifted, one, S::splat(-ROUND));
        let r = S::add(x, S::mul(n, S::splat(-1.0)));
        let mut p = S::splat(A::POLYNOMIAL[0]);
        for &c in &A::POLYNOMIAL[1..] {
            p = A::mul_add(p, r, S::splat(c));
        }
        shift::<S>(p, S::add(shifted, minus))
    }
}

/// The nearest whole number, ties to even; of a number above 2²² one that is near.
#[inline(always)]
unsafe fn round<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller's.
    unsafe { S::add(S::add(x, S::splat(ROUND)), S::splat(-ROUND)) }
}

/// x times two to a power that is a whole number, to which [`ROUND`] was added.
#[inline(always)]
unsafe fn shift<S: Simd>(x: S::F, power: S::F) -> S::F {
    // SAFETY: the caller's. In this order a power that is no number stays none.
    unsafe { S::shift_exponent(x, S::max(S::splat(ROUND + LEAST_POWER), power)) }
}

/// Sees to it that no score of register `j` exceeds its reference by more than [`HEADROOM`]: what
/// was summed before shrinks where the reference is raised. `at` keys of the tile have weights.
#[inline(always)]
unsafe fn raise_reference<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(
    job: &mut Attend<'_>,
    state: &mut State<S, REGS>,
    j: usize,
    largest: S::F,
    at: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let raised = round::<S>(largest);
        let Some(reference) = state.reference[j] else {
            state.reference[j] = Some(raised);
            return;
        };
        let limit = S::add(reference, S::splat(HEADROOM));
        if !S::any_above(largest, limit) {
            return;
        }
        let raised = S::max(raised, reference);
        let minus = S::add(reference, S::mul(raised, S::splat(-1.0)));
        let shrink = shift::<S>(S::splat(1.0), S::add(minus, S::splat(ROUND)));
        state.reference[j] = Some(raised);
        state.sum[j] = state.sum[j].map(|sum| S::mul(sum, shrink));
        for row in job.out.chunks_exact_mut(REGS * S::LANES) {
            let at = row.as_mut_ptr().add(j * S::LANES);
            S::store(at, S::mul(S::load(at), shrink));
        }
        let weights = weights_of::<S, A>(job, j);
        for step in 0..at / A::KEYS_A_STEP {
            let at = weights.add(4 * step * PANEL);
            A::store(at, A::load(at).map(|weights| S::mul(weights, shrink)));
        }
    }
}

/// Where the weights of register `j` begin.
#[inline(always)]
unsafe fn weights_of<S: Simd, A: Weigh<S>>(job: &mut Attend<'_>, j: usize) -> *mut u8 {
    let panel = KEYS / A::KEYS_A_STEP * PANEL;
    let (number, lane) = (j * S::LANES / PANEL, j * S::LANES % PANEL);
    // SAFETY: `Isa::attend` has checked all lengths.
    unsafe { job.weights.as_mut_ptr().add(4 * (number * panel + lane)) }
}

/// Adds the values of the first `keys` keys of a tile, weighted.
#[inline(always)]
unsafe fn add_values<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(
    job: &mut Attend<'_>,
    tile: usize,
    keys: usize,
) {
    let d = job.out.len() / (REGS * S::LANES);
    let row_bytes = 4 * KEYS / A::KEYS_A_STEP;
    // SAFETY: `Isa::attend` has checked all lengths; rows that are not there read the last one's.
    unsafe {
        let values = job.values.as_ptr().add(tile * d * row_bytes);
        let mut right = [job.weights.as_ptr(); REGS];
        for (j, right) in right.iter_mut().enumerate() {
            let (panel, lane) = (j * S::LANES / PANEL, j * S::LANES % PANEL);
            *right = right.add(4 * (panel * KEYS / A::KEYS_A_STEP * PANEL + lane));
        }
        let steps = keys.div_ceil(A::KEYS_A_STEP);
        let mut first = 0;
        while first < d {
            // A few channels that are left over take a smaller tile.
            if d - first <= 2 * FEW {
                add_channels::<S, A, FEW, REGS>(job, values, &right, [first, row_bytes, steps]);
                first += FEW;
            } else {
                add_channels::<S, A, MR, REGS>(job, values, &right, [first, row_bytes, steps]);
                first += MR;
            }
        }
    }
}

/// Channels of a small tile.
const FEW: usize = 4;

/// Adds `MR` channels of the values, weighted, from `first` on.
#[inline(always)]
unsafe fn add_channels<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(
    job: &mut Attend<'_>,
    values: *const u8,
    right: &[*const u8; REGS],
    [first, row_bytes, steps]: [usize; 3],
) {
    let count = MR.min(job.out.len() / (REGS * S::LANES) - first);
    // SAFETY: the caller's; rows that are not there read the last one's.
    unsafe {
        let mut rows = [values; MR];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = row.add((first + r.min(count - 1)) * row_bytes);
        }
        let mut sums = [[S::zero(); REGS]; MR];
        let next = rows[0].wrapping_add(MR * row_bytes);
        one_tap::<S, A, MR, REGS>(&mut sums, &rows, right, next, steps);
        let total = in_memory::<S, MR, REGS>(&sums);
        for (r, row) in total.iter().enumerate().take(count) {
            let to = job.out.as_mut_ptr().add((first + r) * REGS * S::LANES);
            for (j, &sum) in row.iter().enumerate() {
                let to = to.add(j * S::LANES);
                S::store(to, S::add(S::load(to), sum));
            }
        }
    }
}
