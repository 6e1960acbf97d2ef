//! Passes over rows of channels, written once over the primitives of an instruction set: what
//! compilers make of the plain code takes two or three times as long where channels are few. The
//! results are those of the plain code, to the bit.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "primitives pass on what `Simd` asks of its callers; the rest says what it checked"
)]

use super::portable::{self, SIDE, Steps};
use super::simd::Simd;
use crate::tensor::Form;

/// The most lanes of a register.
const MAX_LANES: usize = 16;

/// Rows that are quantised at a time.
const ROWS: usize = 16;

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
    // SAFETY: the caller's; `Isa::quantise_rows` has checked that there are as many rows of both.
    unsafe {
        // The sum of all elements is finite only where all of them are.
        let mut sum = S::zero();
        // So many rows at a time that what there is one of in each row fills a register.
        for (x, out) in x.chunks(ROWS * c).zip(out.chunks_mut(ROWS * bytes)) {
            let mut ranges = [[S::zero(); ROWS]; 2];
            for (r, x) in x.chunks_exact(c).enumerate() {
                [ranges[0][r], ranges[1][r]] = range::<S>(x, &mut sum);
            }
            let (least, largest) = (S::least_of_each(&ranges[0]), S::largest_of_each(&ranges[1]));
            let (mut numbers, mut tails) = ([[0.0; 2]; ROWS], [[0; 2]; ROWS]);
            for i in 0..ROWS {
                let steps = Steps::new([least[i], largest[i]], 0.0);
                (numbers[i], tails[i]) = ([steps.inverse, steps.zero], steps.tail());
            }
            for (r, (x, out)) in x.chunks_exact(c).zip(out.chunks_exact_mut(bytes)).enumerate() {
                let (integers, tail) = out.split_at_mut(filled);
                write::<S>(x, numbers[r], integers);
                let zero = tails[r][1] as u8;
                integers[c..].iter_mut().for_each(|integer| *integer = zero);
                Steps::write(tails[r], tail);
            }
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

/// 16 columns of `rows` rows that are `stride` apart, as rows that are `pitch` apart:
/// `to[j·pitch + i] = from[i·stride + j]`.
///
/// # Safety
/// The CPU has the features of `S`.
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd>(
    from: &[f32],
    stride: usize,
    rows: usize,
    to: &mut [f32],
    pitch: usize,
) {
    let whole = rows / SIDE * SIDE;
    for i in (0..whole).step_by(SIDE) {
        let from = &from[i * stride..][..(SIDE - 1) * stride + SIDE];
        let to = &mut to[i..][..(SIDE - 1) * pitch + SIDE];
        // SAFETY: the caller's; all rows of the block lie in both slices, as was just checked.
        unsafe { S::transpose_block(from, stride, to, pitch) };
    }
    for i in whole..rows {
        for (j, x) in from[i * stride..][..SIDE].iter().enumerate() {
            to[j * pitch + i] = *x;
        }
    }
}

/// Some elements, fewer than a register has, with zeros behind them.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; MAX_LANES] {
    let mut padded = [0.0; MAX_LANES];
    rest.iter().zip(&mut padded).for_each(|(x, to)| *to = *x);
    padded
}

/// The least and the largest of a row's elements and 0, lane by lane; all elements are added to
/// `sum`, in any order.
#[inline(always)]
unsafe fn range<S: Simd>(x: &[f32], sum: &mut S::F) -> [S::F; 2] {
    // SAFETY: each load is of a whole register.
    unsafe {
        let (mut least, mut largest, mut all) = (S::zero(), S::zero(), *sum);
        let mut add = |x: S::F| {
            (least, largest, all) = (S::min(x, least), S::max(x, largest), S::add(all, x));
        };
        let whole = x.len() / S::LANES * S::LANES;
        let mut i = 0;
        while i < whole {
            add(S::load(x.as_ptr().add(i)));
            i += S::LANES;
        }
        if whole < x.len() {
            add(S::load(padded(&x[whole..]).as_ptr()));
        }
        *sum = all;
        [least, largest]
    }
}

/// The integers of a row, where `out` has room for them.
#[inline(always)]
unsafe fn write<S: Simd>(x: &[f32], [inverse, zero]: [f32; 2], out: &mut [u8]) {
    // SAFETY: each load is of a whole register, and as many bytes are stored as it has lanes.
    unsafe {
        let (inverse, zero) = (S::splat(inverse), S::splat(zero));
        let quantised = |from: *const f32, to: *mut u8| {
            S::store_bytes(to, S::add(S::mul(S::load(from), inverse), zero));
        };
        let whole = x.len() / S::LANES * S::LANES;
        let mut i = 0;
        while i < whole {
            quantised(x.as_ptr().add(i), out.as_mut_ptr().add(i));
            i += S::LANES;
        }
        if whole < x.len() {
            let mut bytes = [0; MAX_LANES];
            quantised(padded(&x[whole..]).as_ptr(), bytes.as_mut_ptr());
            out[whole..x.len()].iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        }
    }
}
