//! What products of 8-bit integers on small Arm cores have in common.
//!
//! These cores multiply 16-bit integers (DSP extension) or signed bytes of one row and one column
//! (Helium), never unsigned by signed ones. So a tile's rows are rewritten tap by tap into a small
//! buffer on the stack, from which all its columns are multiplied; the totals then get their scales
//! and go where they belong. f32 and bf16 are left to the scalar kernels.

use super::kernels::{Arithmetic, Finish, Gather, MAX_TAPS, MR_MAX, NO_ROW, Panels};
use super::{portable, scalar};
use crate::tensor::PANEL;

/// Totals of a row at a panel's columns.
pub(super) type Totals = [f32; PANEL];

/// Bytes of a panel that one step reads.
pub(super) const STEP: usize = 4 * PANEL;

/// The scale and the zero point behind the integers of a row.
///
/// # Safety
/// `row` is a row of `steps` words and its tail.
#[inline(always)]
pub(super) unsafe fn tail(row: *const u8, steps: usize) -> (f32, i32) {
    // SAFETY: the caller's.
    unsafe {
        let tail = row.add(4 * steps);
        (tail.cast::<f32>().read_unaligned(), tail.add(4).cast::<i32>().read_unaligned())
    }
}

/// What a bias is where there is none.
static NO_BIAS: Totals = [0.0; PANEL];

/// Where the panels of a tile lie: one, two side by side, or a value's and its gate's.
pub(super) struct Places<'a> {
    /// How many there are.
    pub count: usize,
    /// Of each panel.
    pub biases: [&'a Totals; 2],
    /// Each panel's scales, then its column sums at each tap.
    pub scales: [*const f32; 2],
    /// The first panel's first column of the output.
    column: usize,
    /// Each panel's bytes.
    data: [*const u8; 2],
    is_gated: bool,
    /// Whether totals and bias are the output: there is nothing else, and all columns are there.
    is_direct: bool,
}

impl<'a> Places<'a> {
    /// The tile that begins at panel `first` of `count`.
    pub fn new(
        a: &Gather<'_>,
        panels: &Panels<'_>,
        [first, count]: [usize; 2],
        finish: &Finish<'a, '_>,
    ) -> Self {
        let (in_data, in_columns, count) = match panels.gate {
            Some(gate) => (first + gate.data, first + gate.columns, 2),
            None => (first + 1, first + 1, (count - first).min(2)),
        };
        // What lies beyond the last panel is not looked at; all else lies inside, as
        // `Isa::product` has checked.
        let data =
            |panel: usize| panels.data.as_ptr().wrapping_add(panel * a.taps * a.steps * STEP);
        let scales =
            |panel: usize| panels.scales.as_ptr().wrapping_add(panel * (1 + a.taps) * PANEL);
        let bias = |panel: usize| {
            let bias = finish.bias.and_then(|bias| bias.get(panel * PANEL..)?.first_chunk());
            bias.unwrap_or(&NO_BIAS)
        };
        let (columns, is_gated) = (finish.out[0].len(), panels.gate.is_some());
        let is_alone = !is_gated && finish.residual.is_none() && !finish.accumulate;
        Self {
            count,
            biases: [bias(first), bias(in_columns)],
            scales: [scales(first), scales(in_columns)],
            column: first * PANEL,
            data: [data(first), data(in_data)],
            is_gated,
            is_direct: is_alone && columns >= (first + count) * PANEL,
        }
    }

    /// The bytes of panel `which` at a tap.
    #[inline(always)]
    pub fn data(&self, a: &Gather<'_>, which: usize, tap: usize) -> *const u8 {
        // Inside the data, as `Isa::product` has checked.
        self.data[which].wrapping_add(tap * a.steps * STEP)
    }

    /// The tile's columns of row `r` of the output, where totals and bias are all there is to it.
    #[inline(always)]
    pub fn direct<'o>(&self, finish: &'o mut Finish<'_, '_>, r: usize) -> Option<&'o mut [Totals]> {
        let out = finish.out.get_mut(r).filter(|_| self.is_direct)?;
        Some(out[self.column..].as_chunks_mut().0)
    }

    /// Ends row `r`: its totals, bias included, are where [`Places::direct`] says, or else in
    /// `totals`.
    #[inline(always)]
    pub fn end<'t>(
        &self,
        finish: &mut Finish<'_, '_>,
        r: usize,
        totals: impl FnOnce() -> &'t mut [Totals; 2],
    ) {
        if self.is_direct {
            if let Some(activation) = finish.activation {
                let columns = self.column..self.column + self.count * PANEL;
                portable::activate(activation, &mut finish.out[r][columns]);
            }
            return;
        }
        let [first, second] = totals();
        if self.is_gated {
            portable::gelu_times(second, first);
            return end_panel(first, self.column, r, finish);
        }
        end_panel(first, self.column, r, finish);
        if self.count == 2 {
            end_panel(second, self.column + PANEL, r, finish);
        }
    }
}

/// Adds what is to be added to a row's columns from `column` on, and stores.
fn end_panel(totals: &mut Totals, column: usize, r: usize, finish: &mut Finish<'_, '_>) {
    let out = &mut finish.out[r][column..];
    let columns = out.len().min(PANEL);
    let out = &mut out[..columns];
    if let Some(residual) = finish.residual {
        let residual = &residual[r][column..];
        totals.iter_mut().zip(residual).for_each(|(total, residual)| *total += residual);
    }
    if finish.accumulate {
        totals.iter_mut().zip(&*out).for_each(|(total, out)| *total += out);
    }
    match out.first_chunk_mut::<PANEL>() {
        Some(out) => *out = *totals,
        None => out.copy_from_slice(&totals[..columns]),
    }
    if let Some(activation) = finish.activation {
        portable::activate(activation, out);
    }
}

/// Where `MR` rows from row `first` on begin at a tap; `None` where all lie in the padding.
#[inline(always)]
pub(super) fn rows_at<'a, const MR: usize>(
    a: &Gather<'a>,
    first: usize,
    tap: usize,
) -> Option<&'a [usize; MR]> {
    let offsets = a.offsets[tap * MR_MAX + first..].first_chunk::<MR>();
    let offsets = offsets.expect("a tile has no more rows than `MR_MAX`");
    let last = offsets.iter().fold(NO_ROW, |all, offset| all & offset);
    (last != NO_ROW).then_some(offsets)
}

/// Whether weights lie so that all loads of words may read them.
#[inline(always)]
pub(super) fn is_aligned(panels: &Panels<'_>) -> bool {
    panels.data.as_ptr().addr().is_multiple_of(4)
}

/// The scalar product of as many rows at a time as it has.
///
/// # Safety
/// As for [`Product`](super::kernels::Product).
#[cold]
#[inline(never)]
pub(super) unsafe fn scalar_product(
    arithmetic: Arithmetic,
    a: &Gather<'_>,
    panels: &Panels<'_>,
    finish: &mut Finish<'_, '_>,
) {
    let scalar = &scalar::KERNELS;
    let most = scalar.tile_rows[usize::from(panels.gate.is_some())];
    let rows = finish.out.len();
    for first in (0..rows).step_by(most) {
        let count = most.min(rows - first);
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for tap in 0..a.taps {
            let place = tap * MR_MAX;
            offsets[place..][..count].copy_from_slice(&a.offsets[place + first..][..count]);
        }
        let part = &mut Finish {
            out: &mut finish.out[first..first + count],
            residual: finish.residual.map(|rows| &rows[first..]),
            ..*finish
        };
        // SAFETY: the caller's; these are some of the rows that were checked.
        unsafe { (scalar.product)(arithmetic, &Gather { offsets: &offsets, ..*a }, panels, part) };
    }
}
