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

/// Where the panels of a tile lie: one, two side by side, or a value's and its gate's.
pub(super) struct Places {
    /// How many there are.
    pub count: usize,
    /// In [`Panels::data`].
    data: [usize; 2],
    /// In [`Panels::scales`] and [`Finish::bias`].
    columns: [usize; 2],
    is_gated: bool,
}

impl Places {
    /// The tile that begins at panel `first` of `count`.
    #[inline(always)]
    pub fn new(panels: &Panels<'_>, first: usize, count: usize) -> Self {
        match panels.gate {
            Some(gate) => Self {
                count: 2,
                data: [first, first + gate.data],
                columns: [first, first + gate.columns],
                is_gated: true,
            },
            None => {
                let both = [first, first + 1];
                Self { count: (count - first).min(2), data: both, columns: both, is_gated: false }
            }
        }
    }

    /// The bytes of panel `which` at a tap.
    #[inline(always)]
    pub fn data(&self, a: &Gather<'_>, panels: &Panels<'_>, which: usize, tap: usize) -> *const u8 {
        // Inside the data, as `Isa::product` has checked.
        panels.data.as_ptr().wrapping_add((self.data[which] * a.taps + tap) * a.steps * STEP)
    }

    /// The scales of panel `which` (row 0) or its sums at tap `row - 1`.
    #[inline(always)]
    pub fn scales<'a>(
        &self,
        panels: &Panels<'a>,
        taps: usize,
        which: usize,
        row: usize,
    ) -> &'a Totals {
        let begin = (self.columns[which] * (1 + taps) + row) * PANEL;
        panels.scales[begin..].first_chunk().expect("`Isa::product` has checked the scales")
    }

    /// Takes a row's totals, which have their scales, to the output.
    #[inline(always)]
    pub fn end_row(&self, totals: &mut [Totals; 2], r: usize, finish: &mut Finish<'_, '_>) {
        if let Some(bias) = finish.bias {
            for (totals, column) in totals.iter_mut().zip(self.columns).take(self.count) {
                let bias: &Totals =
                    bias[column * PANEL..].first_chunk().expect("`Isa::product` has checked it");
                totals.iter_mut().zip(bias).for_each(|(total, bias)| *total += bias);
            }
        }
        let column = self.columns[0] * PANEL;
        let [first, second] = totals;
        if self.is_gated {
            portable::gelu_times(second, first);
            return end_panel(first, column, r, finish);
        }
        end_panel(first, column, r, finish);
        if self.count == 2 {
            end_panel(second, column + PANEL, r, finish);
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

/// The addresses of `MR` rows from row `first` on at a tap; `None` where all lie in the padding.
#[inline(always)]
pub(super) fn rows_at<const MR: usize>(
    a: &Gather<'_>,
    first: usize,
    tap: usize,
) -> Option<[*const u8; MR]> {
    let offsets = &a.offsets[tap * MR_MAX + first..][..MR];
    if offsets.iter().all(|&offset| offset == NO_ROW) {
        return None;
    }
    Some(core::array::from_fn(|r| a.row(offsets[r])))
}

/// The scalar product of as many rows at a time as it has.
///
/// # Safety
/// As for [`Product`](super::kernels::Product).
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
