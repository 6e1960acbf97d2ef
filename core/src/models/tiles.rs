//! Latents decoded tile by tile, in the memory of one tile: what the autoencoders share. How tiles
//! become one picture is each one's own affair.

use crate::error::{Error, Result};
use crate::ops::{self, Context};
use crate::tensor::{Shape, Tensor};

/// One side of the latents, cut into tiles of `tile`, each beginning `stride` behind the one
/// before. The last ones are shorter where they would reach beyond the end.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub length: usize,
    pub tile: usize,
    pub stride: usize,
}

impl Side {
    /// How many tiles there are.
    pub fn count(self) -> usize {
        self.length.div_ceil(self.stride)
    }

    /// The longest tile.
    pub fn longest(self) -> usize {
        self.tile.min(self.length)
    }

    /// Where a tile begins, and how long it is.
    fn span(self, at: usize) -> [usize; 2] {
        let start = at * self.stride;
        [start, self.tile.min(self.length - start)]
    }

    /// The first tile of each length, and how many there are of it.
    fn lengths(self) -> impl Iterator<Item = (usize, usize)> {
        let whole = match self.length.checked_sub(self.tile) {
            Some(rest) => rest / self.stride + 1,
            None => 0,
        };
        // A tile that is cut off is cut off shorter than the one before.
        let cut_off = (whole..self.count()).map(|at| (at, 1));
        (whole > 0).then_some((0, whole)).into_iter().chain(cut_off)
    }
}

/// Latents cut into tiles, down and across.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub rows: Side,
    pub columns: Side,
}

impl Tiles {
    /// Latents of this height and width in tiles of one size.
    pub fn new([h, w]: [usize; 2], tile: usize, stride: usize) -> Self {
        let side = |length| Side { length, tile, stride };
        Self { rows: side(h), columns: side(w) }
    }

    /// Whether one tile holds all.
    pub fn is_one(&self) -> bool {
        [self.rows, self.columns].iter().all(|side| side.length <= side.tile)
    }

    /// The picture of latents `[n, h, w, c]`, its elements undefined, with `scale` times their
    /// height and width.
    ///
    /// # Errors
    /// Those of memory.
    pub fn picture(
        &self,
        cx: &mut Context<'_>,
        n: usize,
        scale: usize,
        c: usize,
    ) -> Result<Tensor> {
        let side = |side: Side| {
            let pixels = side.length.checked_mul(scale);
            pixels.ok_or(Error::Overflow { what: "a picture" })
        };
        let [h, w] = [side(self.rows)?, side(self.columns)?];
        cx.tensor(Shape::new([n, h, w, c]))
    }

    /// Decodes every tile, sample by sample and row by row, and hands the pixels to `place` with
    /// the number of the sample and of the tile, down and across; `place` takes no memory.
    ///
    /// Planned, one tile of each size is decoded, and counted as often as there are such tiles;
    /// its weights are counted once.
    ///
    /// # Errors
    /// Those of `decode` and `place`.
    pub fn for_each(
        &self,
        cx: &mut Context<'_>,
        latents: Tensor,
        decode: impl Fn(&mut Context<'_>, Tensor) -> Result<Tensor>,
        place: impl Fn(&mut Context<'_>, Tensor, [usize; 3]) -> Result<()>,
    ) -> Result<()> {
        let [n, ..] = latents.dims::<4>("tiles")?;
        let walk = |cx: &mut Context<'_>, number: [usize; 3]| {
            let [sample, row, column] = number;
            let [top, height] = self.rows.span(row);
            let [left, width] = self.columns.span(column);
            cx.scratch(|cx| {
                let tile = ops::crop(cx, latents.sample(sample)?, [top, left], [height, width])?;
                let pixels = decode(cx, tile)?;
                place(cx, pixels, number)
            })
        };
        if !cx.is_planning() {
            let [rows, columns] = [self.rows.count(), self.columns.count()];
            let number = |at: usize| [at / columns / rows, at / columns % rows, at % columns];
            return (0..n * rows * columns).try_for_each(|at| walk(cx, number(at)));
        }
        let mut tally = cx.tally();
        let before = tally.weight_bytes;
        for (row, down) in self.rows.lengths() {
            for (column, across) in self.columns.lengths() {
                cx.reset_tally();
                walk(cx, [0, row, column])?;
                let one = cx.tally();
                let count = [n, down, across];
                let all = count
                    .iter()
                    .fold(one.multiply_adds, |all, &count| all.saturating_mul(count as u64));
                tally.multiply_adds = tally.multiply_adds.saturating_add(all);
                tally.weight_bytes = before.saturating_add(one.weight_bytes);
            }
        }
        cx.set_tally(tally);
        Ok(())
    }
}
