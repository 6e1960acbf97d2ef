//! Attention of a block of queries over all keys, written once over the primitives of an
//! instruction set.
//!
//! Everything is transposed: a lane is a query, a row is a key. So the softmax needs no sums across
//! lanes, the scores never leave the registers, and the weights come out as the right side of the
//! second product. Scores are to base 2 (their scale contains log₂ e).

#![allow(clippy::needless_range_loop, reason = "registers are taken by number, in step")]

use core::ops::Range;

use super::kernels::{Attend, KEYS};
use super::simd::Simd;
use super::tile::{Bf16, F32, Sums, in_memory, one_tap};
use crate::tensor::PANEL;

/// A query's reference is raised only when a score exceeds it by this much: until then weights are
/// at most 2¹⁶, which neither f32 nor bf16 minds.
const HEADROOM: f32 = 16.0;

/// Below this power of two a weight counts for nothing.
const LEAST_POWER: f32 = -120.0;

/// Adding it puts the nearest whole number into the low bits.
const ROUND: f32 = 12_582_912.0;

/// What is added to the scores of a causal row: lane l of the load at `PANEL·2 + i` is 0 where
/// `i + l ≥ 0`.
static MASK: [f32; 4 * PANEL] = {
    let mut mask = [0.0; 4 * PANEL];
    let mut i = 0;
    while i < 2 * PANEL {
        mask[i] = f32::NEG_INFINITY;
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
    /// Stores the weights of the keys of one step.
    unsafe fn store(to: *mut u8, weights: [S::F; 2]);
}

impl<S: Simd> Weigh<S> for F32 {
    const KEYS_A_STEP: usize = 1;
    /// Taylor's, with a relative error of 1.2e-7.
    const POLYNOMIAL: &'static [f32] =
        &[1.540_35e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0];

    #[inline(always)]
    unsafe fn store(to: *mut u8, weights: [S::F; 2]) {
        // SAFETY: the caller's.
        unsafe { S::store_right_f32(to, weights[0]) }
    }
}

impl<S: Simd> Weigh<S> for Bf16 {
    const KEYS_A_STEP: usize = 2;
    /// Relative error 4e-6, a thousandth of what bf16 rounds.
    const POLYNOMIAL: &'static [f32] =
        &[9.582_853e-3, 5.590_642_6e-2, 2.402_409_9e-1, 6.931_242e-1, 1.0];

    #[inline(always)]
    unsafe fn store(to: *mut u8, weights: [S::F; 2]) {
        // SAFETY: the caller's.
        unsafe { S::store_bf16_pairs(to, weights[0], weights[1]) }
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
        if job.is_bf16 {
            block::<S, Bf16, MR, REGS>(job);
        } else {
            block::<S, F32, MR, REGS>(job);
        }
    }
}

#[inline(always)]
unsafe fn block<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(job: &mut Attend<'_>) {
    let mut state =
        State { reference: [const { None }; REGS], sum: [const { None }; REGS], added: 0 };
    let last_query = job.first_query + REGS * S::LANES;
    let seen = if job.causal { job.tk.min(last_query) } else { job.tk };
    // SAFETY: the caller's.
    unsafe {
        job.out.fill(0.0);
        for first in (0..seen).step_by(KEYS) {
            let keys = KEYS.min(job.tk - first);
            state.added = 0;
            for key in (0..keys).step_by(MR) {
                weigh::<S, A, MR, REGS>(job, &mut state, first + key, MR.min(keys - key), key);
            }
            let left = state.added..keys.next_multiple_of(MR);
            add_values::<S, A, MR, REGS>(job, first / KEYS, left);
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
    /// Keys of the tile whose values are added already.
    added: usize,
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
        one_tap::<S, A, MR, REGS>(&mut sums, &rows, &right, job.steps);
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
            raise_reference::<S, A, MR, REGS>(job, state, j, largest, [first / KEYS, at]);
        }
        let panel = KEYS / A::KEYS_A_STEP * PANEL;
        for j in 0..REGS {
            let minus = S::mul(state.reference[j].unwrap_or(S::zero()), S::splat(-1.0));
            let mut sum = state.sum[j].unwrap_or(S::zero());
            let (number, lane) = (j * S::LANES / PANEL, j * S::LANES % PANEL);
            let weights = job.weights.as_mut_ptr().add(4 * (number * panel + lane));
            for r in (0..MR).step_by(A::KEYS_A_STEP) {
                let mut pair = [S::zero(); 2];
                for (i, weight) in pair.iter_mut().enumerate().take(A::KEYS_A_STEP) {
                    if r + i < count {
                        *weight = exp2::<S>(S::add(scores[r + i][j], minus), A::POLYNOMIAL);
                    }
                    sum = S::add(sum, *weight);
                }
                let step = (at + r) / A::KEYS_A_STEP;
                A::store(weights.add(4 * step * PANEL), pair);
            }
            state.sum[j] = Some(sum);
        }
    }
}

/// `2^x` for x up to some hundred: x = n + r with |r| ≤ 1/2, a polynomial of r, and n goes into the
/// exponent.
#[inline(always)]
unsafe fn exp2<S: Simd>(x: S::F, polynomial: &[f32]) -> S::F {
    // SAFETY: the caller's.
    unsafe {
        // In this order what is no number stays none.
        let x = S::max(S::splat(LEAST_POWER), x);
        let power = S::add(x, S::splat(ROUND));
        let n = S::add(power, S::splat(-ROUND));
        let r = S::mul_add(n, S::splat(-1.0), x);
        let mut p = S::splat(polynomial[0]);
        for &c in &polynomial[1..] {
            p = S::mul_add(p, r, S::splat(c));
        }
        S::shift_exponent(p, power)
    }
}

/// Sees to it that no score of register `j` exceeds its reference by more than [`HEADROOM`]: what
/// was summed before shrinks where the reference is raised. `at` keys of the tile have weights.
#[inline(always)]
unsafe fn raise_reference<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(
    job: &mut Attend<'_>,
    state: &mut State<S, REGS>,
    j: usize,
    largest: S::F,
    [tile, at]: [usize; 2],
) {
    // SAFETY: the caller's.
    unsafe {
        let Some(reference) = state.reference[j] else {
            state.reference[j] = Some(largest);
            return;
        };
        let limit = S::add(reference, S::splat(HEADROOM));
        if !S::any_above(largest, limit) {
            return;
        }
        // The weights so far are relative to the old reference: they count before it goes.
        add_values::<S, A, MR, REGS>(job, tile, state.added..at);
        state.added = at;
        let raised = S::max(largest, reference);
        let minus = S::mul(raised, S::splat(-1.0));
        let shrink = exp2::<S>(S::add(reference, minus), <F32 as Weigh<S>>::POLYNOMIAL);
        state.reference[j] = Some(raised);
        state.sum[j] = state.sum[j].map(|sum| S::mul(sum, shrink));
        for row in job.out.chunks_exact_mut(REGS * S::LANES) {
            let at = row.as_mut_ptr().add(j * S::LANES);
            S::store(at, S::mul(S::load(at), shrink));
        }
    }
}

/// Adds the values of some keys of a tile, weighted.
#[inline(always)]
unsafe fn add_values<S: Simd, A: Weigh<S>, const MR: usize, const REGS: usize>(
    job: &mut Attend<'_>,
    tile: usize,
    keys: Range<usize>,
) {
    let d = job.out.len() / (REGS * S::LANES);
    let row_bytes = 4 * KEYS / A::KEYS_A_STEP;
    // SAFETY: `Isa::attend` has checked all lengths; rows that are not there read the last one's.
    unsafe {
        let first_step = keys.start / A::KEYS_A_STEP;
        let values = job.values.as_ptr().add(tile * d * row_bytes + 4 * first_step);
        let mut right = [job.weights.as_ptr(); REGS];
        for (j, right) in right.iter_mut().enumerate() {
            let (panel, lane) = (j * S::LANES / PANEL, j * S::LANES % PANEL);
            let panel = panel * (KEYS / A::KEYS_A_STEP) + first_step;
            *right = right.add(4 * (panel * PANEL + lane));
        }
        let steps = keys.len().div_ceil(A::KEYS_A_STEP);
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
        one_tap::<S, A, MR, REGS>(&mut sums, &rows, right, steps);
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
