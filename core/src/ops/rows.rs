//! Where the rows of a product's left side lie.

use crate::arch::{MAX_TAPS, MR_MAX};

/// `[taps, MR_MAX]`: where rows begin.
pub(super) type Offsets = [usize; MAX_TAPS * MR_MAX];

/// Where the rows of the left side lie.
pub(super) trait Rows: Sync {
    /// For rows `first..first + rows` of the output, at which byte of the input the row under each
    /// tap begins, where a row has so many `bytes`; [`NO_ROW`](crate::arch::NO_ROW) where it lies
    /// in the padding. Entries of further rows are left: whatever they name, what becomes of it
    /// goes nowhere.
    fn gather(&self, first: usize, rows: usize, bytes: usize, out: &mut Offsets);
}

/// Rows that lie one after the other.
pub(super) struct Contiguous;

impl Rows for Contiguous {
    fn gather(&self, first: usize, rows: usize, bytes: usize, out: &mut Offsets) {
        for (r, row) in out.iter_mut().enumerate().take(rows) {
            *row = (first + r) * bytes;
        }
    }
}
