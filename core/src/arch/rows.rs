//! Passes over rows of channels, written once over the primitives of an instruction set: what
//! compilers make of the plain code takes two or three times as long where channels are few. The
//! results are those of the plain code, to the bit.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "primitives pass on what `Simd` asks of its callers; the rest says what it checked"
)]

use super::portable::{self, ROUND, Steps};
use super::simd::Simd;
use crate::tensor::Form;

/// The most lanes of a register.
const MAX_LANES: usize = 16;

/// Quantises each row of `c` channels: [`portable::quantise_rows`].
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(super) unsafe fn quantise<S: Simd>(x: &[f32], c: usize, out: &mut [u8]) {
    if S::IS_PLAIN {
        return portable::quantise_rows(x, c, out);
    }
    let (filled, bytes) = (c.next_multiple_of(4), Form::Q8.row_bytes(c));
    // SAFETY: the caller's.
    unsafe {
        // The sum of all elements is finite only where all of them are.
        let mut sum = S::zero();
        for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(bytes)) {
            let (integers, tail) = out.split_at_mut(filled);
            let range = range::<S>(x, &mut sum);
            let steps = Steps::new(range, 0.0);
            write::<S>(x, steps, integers);
            integers[c..].iter_mut().for_each(|integer| *integer = steps.zero as u8);
            steps.write(tail);
        }
        let mut lanes = [0.0; MAX_LANES];
        S::store(lanes.as_mut_ptr(), sum);
        if !lanes.iter().sum::<f32>().is_finite() {
            portable::quantise_rows(x, c, out);
        }
    }
}

/// The mean of each channel and its squared deviations: [`portable::moments`].
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(super) unsafe fn moments<S: Simd>(x: &[f32], moments: &mut [f32]) {
    let c = moments.len() / 2;
    if S::IS_PLAIN || !c.is_multiple_of(S::LANES) {
        return portable::moments(x, moments);
    }
    let mut first = 0;
    while first < c {
        // SAFETY: the caller's; so many channels are left.
        first += unsafe {
            match (c - first) / S::LANES {
                1 => moments_of::<S, 1>(x, first, moments),
                2 | 3 => moments_of::<S, 2>(x, first, moments),
                _ => moments_of::<S, 4>(x, first, moments),
            }
        };
    }
}

/// The moments of `REGS` registers of channels from `first` on, of which there are as many; how
/// many channels that were.
#[inline(always)]
unsafe fn moments_of<S: Simd, const REGS: usize>(
    x: &[f32],
    first: usize,
    moments: &mut [f32],
) -> usize {
    let c = moments.len() / 2;
    let share = 1.0 / (x.len() / c) as f32;
    // SAFETY: each row has `c` channels, and so have both halves of the moments.
    unsafe {
        let mut sums = [S::zero(); REGS];
        for row in x.chunks_exact(c) {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = S::add(*sum, S::load(row.as_ptr().add(first + j * S::LANES)));
            }
        }
        let means = sums.map(|sum| S::mul(sum, S::splat(share)));
        let minus = means.map(|mean| S::mul(mean, S::splat(-1.0)));
        let mut squares = [S::zero(); REGS];
        for row in x.chunks_exact(c) {
            for (j, square) in squares.iter_mut().enumerate() {
                let x = S::load(row.as_ptr().add(first + j * S::LANES));
                let deviation = S::add(x, minus[j]);
                *square = S::add(*square, S::mul(deviation, deviation));
            }
        }
        for j in 0..REGS {
            let to = moments.as_mut_ptr().add(first + j * S::LANES);
            S::store(to, means[j]);
            S::store(to.add(c), squares[j]);
        }
    }
    REGS * S::LANES
}

/// Some elements, fewer than a register has, with zeros behind them.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; MAX_LANES] {
    let mut padded = [0.0; MAX_LANES];
    rest.iter().zip(&mut padded).for_each(|(x, to)| *to = *x);
    padded
}

/// The least and the largest of a row's elements and 0; all are added to `sum`, in any order.
#[inline(always)]
unsafe fn range<S: Simd>(x: &[f32], sum: &mut S::F) -> [f32; 2] {
    // SAFETY: each load is of a whole register.
    unsafe {
        let (mut least, mut largest, mut all) = (S::zero(), S::zero(), *sum);
        let whole = x.chunks_exact(S::LANES);
        let rest = whole.remainder();
        for x in whole {
            let x = S::load(x.as_ptr());
            (least, largest, all) = (S::min(x, least), S::max(x, largest), S::add(all, x));
        }
        if !rest.is_empty() {
            let x = S::load(padded(rest).as_ptr());
            (least, largest, all) = (S::min(x, least), S::max(x, largest), S::add(all, x));
        }
        *sum = all;
        [S::least(least), S::largest(largest)]
    }
}

/// The integers of a row.
#[inline(always)]
unsafe fn write<S: Simd>(x: &[f32], steps: Steps, out: &mut [u8]) {
    // SAFETY: each load is of a whole register, and as many bytes are stored as it has lanes.
    unsafe {
        let [inverse, zero] = [steps.inverse, steps.zero].map(|x| S::splat(x));
        let (most, round) = (S::splat(255.0), S::splat(ROUND));
        let quantised = |from: *const f32, to: *mut u8| {
            let y = S::add(S::mul(S::load(from), inverse), zero);
            let y = S::min(S::max(y, S::zero()), most);
            S::store_low_bytes(to, S::add(y, round));
        };
        let whole = x.chunks_exact(S::LANES);
        let rest = whole.remainder();
        for (x, out) in whole.zip(out.chunks_exact_mut(S::LANES)) {
            quantised(x.as_ptr(), out.as_mut_ptr());
        }
        if !rest.is_empty() {
            let mut bytes = [0; MAX_LANES];
            quantised(padded(rest).as_ptr(), bytes.as_mut_ptr());
            let out = &mut out[x.len() - rest.len()..x.len()];
            out.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        }
    }
}
