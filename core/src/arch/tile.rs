//! Product tiles, written once over the primitives of an instruction set.
//!
//! A tile keeps `MR × REGS` registers of sums while it goes through all taps and channels: the left
//! side's rows are addresses, the right side comes in panels of 16 columns, in the order in which
//! it is read.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "primitives pass on what `Simd` asks of its callers; the rest says what it checked"
)]
#![allow(clippy::needless_range_loop, reason = "registers are taken by number, in step")]

use core::sync::atomic::{Ordering, compiler_fence};

use super::kernels::{Arithmetic, Finish, Gather, MR_MAX, NR_MAX, PACE, Panels};
use super::portable;
use super::simd::Simd;
use crate::tensor::PANEL;

/// Bytes of a panel that one step reads: four for each column.
const STEP: usize = 4 * PANEL;

/// Steps ahead of which a panel is fetched from the second cache to the first.
const AHEAD: usize = 32;

/// How numbers of one type are multiplied and summed.
pub(super) trait Sums<S: Simd>: Sized {
    type Left: Copy;
    type Right: Copy;
    type Sum: Copy;
    /// Whether four steps are taken at once.
    const BY_LANE: bool;
    /// Whether panels are fetched into the first cache some steps ahead: in 8 bits, where a panel
    /// is short, that costs more than it saves.
    const FETCHES: bool;
    unsafe fn zero() -> Self::Sum;
    unsafe fn left<const STEPS: usize>(from: *const u8) -> Self::Left;
    unsafe fn right(from: *const u8) -> Self::Right;
    unsafe fn step<const LANE: usize>(sum: Self::Sum, a: Self::Left, b: Self::Right) -> Self::Sum;
}

/// f32, fused where the CPU can, or not.
pub(super) struct F32<const FUSED: bool>;
pub(super) struct Bf16;
struct Q8;

impl<S: Simd, const FUSED: bool> Sums<S> for F32<FUSED> {
    type Left = S::F;
    type Right = S::F;
    type Sum = S::F;
    const BY_LANE: bool = S::BY_LANE;
    const FETCHES: bool = true;

    #[inline(always)]
    unsafe fn zero() -> S::F {
        unsafe { S::zero() }
    }

    #[inline(always)]
    unsafe fn left<const STEPS: usize>(from: *const u8) -> S::F {
        unsafe { S::left_f32::<STEPS>(from) }
    }

    #[inline(always)]
    unsafe fn right(from: *const u8) -> S::F {
        unsafe { S::right_f32(from) }
    }

    #[inline(always)]
    unsafe fn step<const LANE: usize>(sum: S::F, a: S::F, b: S::F) -> S::F {
        unsafe {
            if FUSED {
                S::dot_f32::<LANE>(sum, a, b)
            } else {
                S::dot_f32_unfused::<LANE>(sum, a, b)
            }
        }
    }
}

impl<S: Simd> Sums<S> for Bf16 {
    type Left = S::LeftBf16;
    type Right = S::RightBf16;
    type Sum = S::F;
    const BY_LANE: bool = S::BY_LANE;
    const FETCHES: bool = true;

    #[inline(always)]
    unsafe fn zero() -> S::F {
        unsafe { S::zero() }
    }

    #[inline(always)]
    unsafe fn left<const STEPS: usize>(from: *const u8) -> Self::Left {
        unsafe { S::left_bf16::<STEPS>(from) }
    }

    #[inline(always)]
    unsafe fn right(from: *const u8) -> Self::Right {
        unsafe { S::right_bf16(from) }
    }

    #[inline(always)]
    unsafe fn step<const LANE: usize>(sum: S::F, a: Self::Left, b: Self::Right) -> S::F {
        unsafe { S::dot_bf16::<LANE>(sum, a, b) }
    }
}

impl<S: Simd> Sums<S> for Q8 {
    type Left = S::LeftQ8;
    type Right = S::RightQ8;
    type Sum = S::I;
    const BY_LANE: bool = S::BY_LANE_Q8;
    const FETCHES: bool = false;

    #[inline(always)]
    unsafe fn zero() -> S::I {
        unsafe { S::zero_i32() }
    }

    #[inline(always)]
    unsafe fn left<const STEPS: usize>(from: *const u8) -> Self::Left {
        unsafe { S::left_q8::<STEPS>(from) }
    }

    #[inline(always)]
    unsafe fn right(from: *const u8) -> Self::Right {
        unsafe { S::right_q8(from) }
    }

    #[inline(always)]
    unsafe fn step<const LANE: usize>(sum: S::I, a: Self::Left, b: Self::Right) -> S::I {
        unsafe { S::dot_q8::<LANE>(sum, a, b) }
    }
}

/// One step of all registers: the left side is lane `LANE` of what was read.
#[inline(always)]
unsafe fn one_lane<S: Simd, A: Sums<S>, const MR: usize, const REGS: usize, const LANE: usize>(
    sums: &mut [[A::Sum; REGS]; MR],
    left: &[A::Left; MR],
    right: &[*const u8; REGS],
    step: usize,
) {
    for j in 0..REGS {
        // SAFETY: the caller's: each panel holds more than `step` steps.
        unsafe {
            let b = A::right(right[j].add(step * STEP));
            for r in 0..MR {
                sums[r][j] = A::step::<LANE>(sums[r][j], left[r], b);
            }
        }
    }
}

/// Four steps from `step` on, the left side of all in one register a row.
#[inline(always)]
unsafe fn by_lane<S: Simd, A: Sums<S>, const MR: usize, const REGS: usize>(
    sums: &mut [[A::Sum; REGS]; MR],
    rows: &[*const u8; MR],
    right: &[*const u8; REGS],
    step: usize,
) {
    // SAFETY: the caller's: each row holds four words from `step` on, and each panel four steps.
    unsafe {
        let mut left = [A::left::<4>(rows[0].add(4 * step)); MR];
        for r in 1..MR {
            left[r] = A::left::<4>(rows[r].add(4 * step));
        }
        one_lane::<S, A, MR, REGS, 0>(sums, &left, right, step);
        one_lane::<S, A, MR, REGS, 1>(sums, &left, right, step + 1);
        one_lane::<S, A, MR, REGS, 2>(sums, &left, right, step + 2);
        one_lane::<S, A, MR, REGS, 3>(sums, &left, right, step + 3);
    }
}

/// Has what follows begin a cache line of its own. A loop of some hundred bytes else takes up to a
/// tenth longer, or not, with any change of the code before it.
#[inline(always)]
fn on_a_cache_line() {
    // SAFETY: at most some instructions that do nothing.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!(".p2align 6", options(nomem, nostack, preserves_flags));
    }
}

/// Goes through the channels of one tap. `right`: the panels' bytes at this tap; `next`: what is
/// fetched into the cache meanwhile, a [`PACE`]th as much.
#[inline(always)]
pub(super) unsafe fn one_tap<S: Simd, A: Sums<S>, const MR: usize, const REGS: usize>(
    sums: &mut [[A::Sum; REGS]; MR],
    rows: &[*const u8; MR],
    right: &[*const u8; REGS],
    next: *const u8,
    steps: usize,
) {
    let whole = if A::BY_LANE { steps / 4 * 4 } else { 0 };
    for step in (0..whole).step_by(4) {
        // SAFETY: each panel holds `steps` steps for this tap, and each row `steps` words.
        unsafe { by_lane::<S, A, MR, REGS>(sums, rows, right, step) };
    }
    on_a_cache_line();
    for step in whole..steps {
        // SAFETY: each panel holds `steps` steps for this tap, and each row `steps` words.
        unsafe {
            let mut b = [A::right(right[0].add(step * STEP)); REGS];
            for j in 1..REGS {
                b[j] = A::right(right[j].add(step * STEP));
            }
            for right in right.iter().filter(|_| A::FETCHES) {
                S::prefetch(right.wrapping_add((step + AHEAD) * STEP));
            }
            S::prefetch(next.wrapping_add(step * (REGS * S::LANES / PANEL * STEP / PACE)));
            for r in 0..MR {
                let a = A::left::<1>(rows[r].add(4 * step));
                for j in 0..REGS {
                    sums[r][j] = A::step::<0>(sums[r][j], a, b[j]);
                }
                // Loads stay beside their use: fetched early, they would push sums out of the
                // registers.
                compiler_fence(Ordering::SeqCst);
            }
        }
    }
}

/// The panel of register `j` of a tile that begins at panel `first`, counted with `gate` panels
/// between a value and its gate, and the register's first column in it.
#[inline(always)]
fn place<S: Simd>(first: usize, gate: Option<usize>, j: usize) -> [usize; 2] {
    let (second, column) = (j * S::LANES / PANEL, j * S::LANES % PANEL);
    [first + second * gate.unwrap_or(1), column]
}

/// Where the registers of the right side begin at a tap.
#[inline(always)]
unsafe fn registers<S: Simd, const REGS: usize>(
    a: &Gather<'_>,
    panels: &Panels<'_>,
    first: usize,
    tap: usize,
) -> [*const u8; REGS] {
    let mut right = [panels.data.as_ptr(); REGS];
    for (j, right) in right.iter_mut().enumerate() {
        let [panel, column] = place::<S>(first, panels.gate.map(|gate| gate.data), j);
        let offset = (panel * a.taps + tap) * a.steps * STEP + 4 * column;
        // SAFETY: `Isa::product` has checked the panels' lengths.
        *right = unsafe { right.add(offset) };
    }
    right
}

/// Where the part begins of what comes next that is fetched at a tap of a tile of so many `wide`
/// panels; what the tap itself reads where nothing comes next.
#[inline(always)]
fn next(
    a: &Gather<'_>,
    panels: &Panels<'_>,
    [first, wide]: [usize; 2],
    tap: usize,
    right: *const u8,
) -> *const u8 {
    if panels.next.is_empty() {
        return right;
    }
    let steps = (first * a.taps + wide * tap) * a.steps;
    panels.next.as_ptr().wrapping_add(steps * (STEP / PACE))
}

#[inline(always)]
unsafe fn rows_at<const MR: usize>(a: &Gather<'_>, tap: usize) -> [*const u8; MR] {
    let mut rows = [a.zeros.as_ptr(); MR];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = a.row(a.offsets[tap * MR_MAX + r]);
    }
    rows
}

/// A copy of the sums. What takes rows by number finds them in memory; the sums themselves, which
/// must not lie there, stay in registers.
#[inline(always)]
pub(super) unsafe fn in_memory<S: Simd, const MR: usize, const REGS: usize>(
    sums: &[[S::F; REGS]; MR],
) -> [[S::F; REGS]; MR] {
    // SAFETY: the caller's: the CPU has the features of `S`.
    let mut copy = [[unsafe { S::zero() }; REGS]; MR];
    for r in 0..MR {
        for j in 0..REGS {
            copy[r][j] = sums[r][j];
        }
    }
    copy
}

/// One tile of a product in f32 or bf16: all taps add to the same sums.
#[inline(always)]
unsafe fn float<S: Simd, A: Sums<S, Sum = S::F>, const MR: usize, const REGS: usize>(
    a: &Gather<'_>,
    rows_of_tap_0: &[*const u8; MR],
    panels: &Panels<'_>,
    first: usize,
) -> [[S::F; REGS]; MR] {
    let steps = a.steps;
    // SAFETY: `Isa::product` has checked all lengths.
    unsafe {
        let mut sums = [[A::zero(); REGS]; MR];
        for tap in 0..a.taps {
            let rows = if tap == 0 { *rows_of_tap_0 } else { rows_at::<MR>(a, tap) };
            let right = registers::<S, REGS>(a, panels, first, tap);
            let next = next(a, panels, [first, REGS * S::LANES / PANEL], tap, right[0]);
            one_tap::<S, A, MR, REGS>(&mut sums, &rows, &right, next, steps);
        }
        in_memory::<S, MR, REGS>(&sums)
    }
}

/// One tile of a product in 8-bit integers. The sums of a tap are exact; each row then gets its
/// zero point taken off and its scale, tap by tap: `Σ_tap scale·(Σ q·w − zero·Σ w)`, times the
/// column's scale.
#[inline(always)]
unsafe fn integer<S: Simd, const MR: usize, const REGS: usize>(
    a: &Gather<'_>,
    rows_of_tap_0: &[*const u8; MR],
    panels: &Panels<'_>,
    first: usize,
) -> [[S::F; REGS]; MR] {
    let steps = a.steps;
    let gate = panels.gate.map(|gate| gate.columns);
    let scales = |j: usize, row: usize| {
        let [panel, column] = place::<S>(first, gate, j);
        // Inside the scales, as `Isa::product` has checked.
        panels.scales.as_ptr().wrapping_add((panel * (1 + a.taps) + row) * PANEL + column)
    };
    // SAFETY: `Isa::product` has checked all lengths.
    unsafe {
        let mut total = [[S::zero(); REGS]; MR];
        for tap in 0..a.taps {
            let rows = if tap == 0 { *rows_of_tap_0 } else { rows_at::<MR>(a, tap) };
            let right = registers::<S, REGS>(a, panels, first, tap);
            let mut columns = [S::zero_i32(); REGS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = S::to_i32(S::load(scales(j, 1 + tap)));
            }
            // The sums begin with what the zero point takes off, which costs one operation, as
            // beginning with nothing does.
            let mut sums = [[S::zero_i32(); REGS]; MR];
            for r in 0..MR {
                let zero = rows[r].add(4 * steps + 4).cast::<i32>().read_unaligned();
                let off = S::splat_i32(S::LEFT_BIAS - i32::from_le(zero));
                for j in 0..REGS {
                    sums[r][j] = S::mul_i32(off, columns[j]);
                }
            }
            let next = next(a, panels, [first, REGS * S::LANES / PANEL], tap, right[0]);
            one_tap::<S, Q8, MR, REGS>(&mut sums, &rows, &right, next, steps);
            for r in 0..MR {
                let scale = rows[r].add(4 * steps).cast::<u32>().read_unaligned();
                let scale = S::splat(f32::from_bits(u32::from_le(scale)));
                for j in 0..REGS {
                    // Not fused: the same on every instruction set.
                    let scaled = S::mul(S::to_f32(sums[r][j]), scale);
                    total[r][j] = S::add(total[r][j], scaled);
                }
            }
        }
        for j in 0..REGS {
            let scale = S::load(scales(j, 0));
            for row in total.iter_mut() {
                row[j] = S::mul(row[j], scale);
            }
        }
        total
    }
}

/// Adds bias and residual, applies the activation, and stores.
#[inline(always)]
unsafe fn end<S: Simd, const MR: usize, const REGS: usize>(
    sums: &[[S::F; REGS]; MR],
    panels: &Panels<'_>,
    first: usize,
    finish: &mut Finish<'_, '_>,
) {
    let column = first * PANEL;
    let gate = panels.gate.map(|gate| gate.columns);
    let columns = finish.out.first().map_or(0, |row| row.len());
    // SAFETY: the bias holds whole panels, as `Isa::product` has checked; rows are as long as said.
    unsafe {
        let mut bias = [S::zero(); REGS];
        if let Some(values) = finish.bias {
            for (j, bias) in bias.iter_mut().enumerate() {
                let [panel, column] = place::<S>(first, gate, j);
                *bias = S::load(values.as_ptr().add(panel * PANEL + column));
            }
        }
        if gate.is_some() {
            gated_rows::<S, MR, REGS>(sums, &bias, column, finish);
        } else if columns >= column + REGS * S::LANES {
            whole_rows::<S, MR, REGS>(sums, &bias, column, finish);
        } else {
            partial_rows::<S, MR, REGS>(sums, &bias, column, finish);
        }
    }
}

/// The end of a tile that lies inside the output with all its columns.
#[inline(always)]
unsafe fn whole_rows<S: Simd, const MR: usize, const REGS: usize>(
    sums: &[[S::F; REGS]; MR],
    bias: &[S::F; REGS],
    column: usize,
    finish: &mut Finish<'_, '_>,
) {
    let rows = finish.out.len().min(MR);
    // SAFETY: `end` has checked that all columns are there, `Isa::product` that all rows are alike.
    unsafe {
        for (r, sums) in sums.iter().enumerate().take(rows) {
            let to = finish.out.get_unchecked_mut(r).as_mut_ptr().add(column);
            for (j, (&sum, &bias)) in sums.iter().zip(bias).enumerate() {
                let (to, mut x) = (to.add(j * S::LANES), S::add(sum, bias));
                if let Some(residual) = finish.residual {
                    let from = residual.get_unchecked(r).as_ptr().add(column + j * S::LANES);
                    x = S::add(x, S::load(from));
                }
                if finish.accumulate {
                    x = S::add(x, S::load(to));
                }
                S::store(to, x);
            }
        }
    }
    if let Some(activation) = finish.activation {
        for out in finish.out.iter_mut().take(rows) {
            portable::activate(activation, &mut out[column..column + REGS * S::LANES]);
        }
    }
}

/// The end of a tile whose second panel is the gate of the first. All rows go through GELU at once:
/// it is a long chain of operations, which the CPU carries out for several registers in step.
#[inline(always)]
unsafe fn gated_rows<S: Simd, const MR: usize, const REGS: usize>(
    sums: &[[S::F; REGS]; MR],
    bias: &[S::F; REGS],
    column: usize,
    finish: &mut Finish<'_, '_>,
) {
    let (mut values, mut gates) = ([[0.0; PANEL]; MR], [[0.0; PANEL]; MR]);
    for r in 0..MR {
        for j in 0..REGS {
            let at = j * S::LANES;
            let to = if at < PANEL { &mut values[r][at..] } else { &mut gates[r][at - PANEL..] };
            // SAFETY: a register lies inside one panel.
            unsafe { S::store(to.as_mut_ptr(), S::add(sums[r][j], bias[j])) };
        }
    }
    portable::gelu_times(gates.as_flattened(), values.as_flattened_mut());
    for (r, values) in values.iter_mut().enumerate().take(finish.out.len()) {
        end_row(r, values, column, finish);
    }
}

/// The end of a tile at the output's edge.
#[inline(always)]
unsafe fn partial_rows<S: Simd, const MR: usize, const REGS: usize>(
    sums: &[[S::F; REGS]; MR],
    bias: &[S::F; REGS],
    column: usize,
    finish: &mut Finish<'_, '_>,
) {
    for (r, sums) in sums.iter().enumerate().take(finish.out.len()) {
        let mut row = [0.0; NR_MAX];
        for (j, (&sum, &bias)) in sums.iter().zip(bias).enumerate() {
            // SAFETY: a tile has at most `NR_MAX` columns.
            unsafe { S::store(row.as_mut_ptr().add(j * S::LANES), S::add(sum, bias)) };
        }
        end_row(r, &mut row[..REGS * S::LANES], column, finish);
    }
}

/// The end of row `r` from `column` on: as much of `row` as the output has columns.
#[inline(always)]
fn end_row(r: usize, row: &mut [f32], column: usize, finish: &mut Finish<'_, '_>) {
    let out = &mut finish.out[r][column..];
    let columns = out.len().min(row.len());
    let (out, row) = (&mut out[..columns], &mut row[..columns]);
    if let Some(residual) = finish.residual {
        portable::scale_add(row, 1.0, &residual[r][column..], 1.0);
    }
    if finish.accumulate {
        portable::scale_add(row, 1.0, out, 1.0);
    }
    if let Some(activation) = finish.activation {
        portable::activate(activation, row);
    }
    out.copy_from_slice(row);
}

/// Some rows of a product, tile by tile: `TWO` registers wide, `ONE` where only one panel is left.
///
/// # Safety
/// The CPU has the features of `S`; `Isa::product` has checked all lengths.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, const MR: usize, const ONE: usize, const TWO: usize>(
    arithmetic: Arithmetic,
    a: &Gather<'_>,
    panels: &Panels<'_>,
    paired: bool,
    finish: &mut Finish<'_, '_>,
) {
    let columns = finish.out.first().map_or(0, |row| row.len());
    let count = columns.div_ceil(PANEL);
    let gated = panels.gate.is_some();
    // SAFETY: the caller's.
    unsafe {
        let rows = rows_at::<MR>(a, 0);
        let mut panel = 0;
        while panel < count {
            if gated || paired && panel + 1 < count {
                one_tile::<S, MR, TWO>(arithmetic, a, &rows, panels, panel, finish);
                panel += if gated { 1 } else { 2 };
            } else {
                one_tile::<S, MR, ONE>(arithmetic, a, &rows, panels, panel, finish);
                panel += 1;
            }
        }
    }
}

/// One tile of a product.
#[inline(always)]
unsafe fn one_tile<S: Simd, const MR: usize, const REGS: usize>(
    arithmetic: Arithmetic,
    a: &Gather<'_>,
    rows: &[*const u8; MR],
    panels: &Panels<'_>,
    first: usize,
    finish: &mut Finish<'_, '_>,
) {
    // SAFETY: the caller's.
    unsafe {
        let total = match arithmetic {
            Arithmetic::F32Unfused if S::FUSES => {
                float::<S, F32<false>, MR, REGS>(a, rows, panels, first)
            }
            Arithmetic::F32 | Arithmetic::F32Unfused => {
                float::<S, F32<true>, MR, REGS>(a, rows, panels, first)
            }
            Arithmetic::Bf16 => float::<S, Bf16, MR, REGS>(a, rows, panels, first),
            Arithmetic::Q8 => integer::<S, MR, REGS>(a, rows, panels, first),
        };
        end::<S, MR, REGS>(&total, panels, first, finish);
    }
}
