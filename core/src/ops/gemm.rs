//! The matrix product behind linear layers and convolutions: implicit, blocked, with its end fused.
//!
//! The right side is packed, a block of k by a block of columns at a time, from the checkpoint's
//! bytes into panels that the kernel reads in order. The left side is never copied: a row is an
//! address per tap. Goto and van de Geijn 2008 tell why the blocks are as they are. Every output
//! element is one sum in the order of k, cut into the same blocks whatever the number of threads.

use super::context::{Context, to_f32};
use crate::arch::{Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, NR_MAX};
use crate::error::{Error, Result};
use crate::exec::{TileMut, for_each_chunk, for_each_tile};
use crate::mem::{bytes_of, bytes_of_mut};
use crate::tensor::{DType, Shape, Tensor};
use crate::weights::Weight;

/// Elements of k in one block: a panel of 32 columns then takes 128 KiB, half of a small L2 cache.
const K_BLOCK: usize = 1024;

/// Channels of a block of k are a multiple of this: one register of f32.
const K_STEP: usize = 16;

/// Columns in one block: the packed block takes at most 2 MiB.
const N_BLOCK: usize = 512;

/// Rows of the output in one task: a few tiles, so that a panel fetched is used again.
const M_BLOCK: usize = 48;

/// Elements of a weight converted at a time.
const RUN: usize = 28 * MAX_TAPS;

/// Tasks that each worker should find, so that all end at about the same time.
const TASKS_PER_WORKER: usize = 4;

/// Where the rows of the left side lie, and the sizes of the product.
pub(super) trait Rows: Sync {
    /// Where in the input row `row` begins at `tap`, or [`NO_ROW`] where it lies in the padding.
    fn offset(&self, row: usize, tap: usize) -> usize;
}

/// One product `out[m, n] = rows[m, taps·channels] · weightᵀ + bias + residual`.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    /// The input that the rows are taken from.
    pub x: Tensor,
    /// `[n, channels, taps…]`, as checkpoints have it.
    pub weight: Weight,
    /// `[n]`.
    pub bias: Option<Weight>,
    /// Of the output's size.
    pub residual: Option<Tensor>,
    /// Of `m·n` elements.
    pub out: Tensor,
    /// Taps of the kernel; 1 for a linear layer.
    pub taps: usize,
    /// Input channels.
    pub channels: usize,
    /// Output channels.
    pub n: usize,
}

/// A block of k: all taps of some channels.
#[derive(Clone, Copy)]
struct KBlock {
    channel: usize,
    channels: usize,
}

/// The blocks of k, in order; no channels make one block of none, which ends with the bias all the
/// same.
fn k_blocks(taps: usize, channels: usize) -> impl Iterator<Item = KBlock> {
    let step = (K_BLOCK / taps).next_multiple_of(K_STEP);
    (0..channels.max(1))
        .step_by(step)
        .map(move |channel| KBlock { channel, channels: step.min(channels - channel) })
}

/// Carries out a product.
///
/// # Errors
/// [`Error::OutOfMemory`] for its working memory, [`Error::WeightRead`].
pub(super) fn gemm(cx: &mut Context<'_>, p: Gemm, rows: &impl Rows) -> Result<()> {
    let [_, nr] = cx.isa.gemm_f32_tile();
    cx.count([p.out.len(), p.taps, p.channels, 1]);
    cx.scratch(|cx| {
        let bias = cx.load_or(p.bias, p.n, 0.0)?;
        let columns = p.n.next_multiple_of(nr).min(N_BLOCK);
        let depth = k_blocks(p.taps, p.channels).next().map_or(0, |block| block.channels);
        let packed = cx.tensor(Shape::new([columns, p.taps * depth]))?;
        let zeros = cx.tensor(Shape::new([depth]))?;
        let k = p.taps * p.channels;
        let staging = cx.staging(columns.min(p.n) * k * p.weight.dtype.bytes())?;
        if cx.is_planning() {
            return Ok(());
        }
        cx.arena.write(zeros).fill(0.0);
        let work = Work { p, bias, packed, zeros, staging };
        for column in (0..p.n).step_by(columns.max(1)) {
            work.column_block(cx, rows, column, columns.min(p.n - column))?;
        }
        Ok(())
    })
}

/// A product with its working memory.
struct Work {
    p: Gemm,
    bias: Tensor,
    packed: Tensor,
    zeros: Tensor,
    staging: Tensor,
}

impl Work {
    fn column_block(
        &self,
        cx: &mut Context<'_>,
        rows: &impl Rows,
        column: usize,
        columns: usize,
    ) -> Result<()> {
        let Gemm { weight, taps, channels, .. } = self.p;
        let row_bytes = taps * channels * weight.dtype.bytes();
        let (start, len) = (column * row_bytes, columns * row_bytes);
        // What was copied serves all blocks of k; what lies in place costs nothing to ask for.
        let staging = bytes_of_mut(cx.arena.write(self.staging));
        let begin = staging.as_ptr();
        let is_copied = cx.weights.read(&weight, start, len, staging)?.as_ptr() == begin;
        for block in k_blocks(taps, channels) {
            let (packed, [staging]) = cx.arena.split(self.packed, [self.staging]);
            let bytes = match is_copied {
                true => &bytes_of(staging)[..len],
                false => cx.weights.read(&weight, start, len, &mut [])?,
            };
            let source = Source { bytes, dtype: weight.dtype, taps, channels, columns };
            let [_, nr] = cx.isa.gemm_f32_tile();
            let k = taps * block.channels;
            let panels = &mut packed[..columns.next_multiple_of(nr) * k];
            let isa = cx.isa;
            let panel = (nr * k).max(1);
            for_each_chunk::<_, f32>(cx.executor, panels, panel, &mut [], |i, panel, _| {
                source.pack(isa, block, i * nr, nr, panel);
            });
            self.multiply(cx, rows, block, column, columns);
        }
        Ok(())
    }

    fn multiply(
        &self,
        cx: &mut Context<'_>,
        rows: &impl Rows,
        block: KBlock,
        column: usize,
        columns: usize,
    ) {
        let p = &self.p;
        let [mr, nr] = cx.isa.gemm_f32_tile();
        let residual = p.residual.unwrap_or(self.zeros);
        let (out, [x, packed, bias, zeros, residual]) =
            cx.arena.split(p.out, [p.x, self.packed, self.bias, self.zeros, residual]);
        let last = block.channel + block.channels == p.channels;
        let end = End {
            first: block.channel == 0,
            bias: last.then_some(bias),
            residual: p.residual.filter(|_| last).map(|_| residual),
        };
        let m = out.len() / p.n;
        let tile_rows = M_BLOCK.next_multiple_of(mr);
        // Few rows: the columns are cut too, so that every worker finds something to do.
        let wanted =
            (cx.executor.workers() * TASKS_PER_WORKER).div_ceil(m.div_ceil(tile_rows).max(1));
        let tile_columns = columns.div_ceil(wanted).next_multiple_of(nr);
        let tiles = Tiles {
            isa: cx.isa,
            rows,
            gather: Gather { data: x, zeros, offsets: &[], taps: p.taps, channels: block.channels },
            first_channel: block.channel,
            packed,
            first_column: column,
            end,
            n: p.n,
        };
        let tile = [tile_rows, tile_columns];
        let columns = column..column + columns;
        for_each_tile(cx.executor, out, p.n, columns, tile, &mut [], |tile, _| tiles.compute(tile));
    }
}

/// All that the tiles of one block have in common.
struct Tiles<'a, R> {
    isa: Isa,
    rows: &'a R,
    gather: Gather<'a>,
    first_channel: usize,
    packed: &'a [f32],
    first_column: usize,
    end: End<'a>,
    n: usize,
}

impl<R: Rows> Tiles<'_, R> {
    /// One worker's tile: panel by panel, so that a panel is in the cache for all rows.
    fn compute(&self, mut tile: TileMut<'_>) {
        let [mr, nr] = self.isa.gemm_f32_tile();
        let place = tile.place();
        let k = self.gather.taps * self.gather.channels;
        for column in (0..place.columns).step_by(nr) {
            let panel = (place.column - self.first_column + column) / nr;
            let panel = &self.packed[panel * nr * k..][..nr * k];
            for row in (0..place.rows).step_by(mr) {
                let rows = mr.min(place.rows - row);
                let offsets = self.offsets(place.row + row, rows, mr);
                let gather = Gather { offsets: &offsets, ..self.gather };
                let mut sums = [0.0; MR_MAX * NR_MAX];
                self.isa.gemm_f32(&gather, panel, &mut sums);
                let sums = Sums { sums: &sums, nr, row, column };
                self.end.store(&mut tile, self.n, sums, rows);
            }
        }
    }

    /// Where `rows` rows from `first` on lie, tap by tap.
    fn offsets(&self, first: usize, rows: usize, mr: usize) -> [usize; MAX_TAPS * MR_MAX] {
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for (tap, offsets) in offsets.chunks_exact_mut(mr).take(self.gather.taps).enumerate() {
            for (r, offset) in offsets.iter_mut().enumerate().take(rows) {
                let begin = self.rows.offset(first + r, tap);
                *offset = if begin == NO_ROW { begin } else { begin + self.first_channel };
            }
        }
        offsets
    }
}

/// What the kernel computed, and where it belongs in the worker's tile.
struct Sums<'a> {
    sums: &'a [f32],
    nr: usize,
    row: usize,
    column: usize,
}

/// What happens at the end of a block of k: the first stores, the others add, the last adds bias
/// and residual.
struct End<'a> {
    first: bool,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

impl End<'_> {
    fn store(&self, tile: &mut TileMut<'_>, n: usize, sums: Sums<'_>, rows: usize) {
        let place = tile.place();
        let columns = sums.nr.min(place.columns - sums.column);
        let column = place.column + sums.column;
        for r in 0..rows {
            let row = place.row + sums.row + r;
            let out = &mut tile.row(sums.row + r)[sums.column..][..columns];
            let sums = &sums.sums[r * sums.nr..][..columns];
            if self.first {
                out.copy_from_slice(sums);
            } else {
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            }
            if let Some(bias) = self.bias {
                out.iter_mut().zip(&bias[column..]).for_each(|(out, bias)| *out += bias);
            }
            if let Some(residual) = self.residual {
                let residual = &residual[row * n + column..];
                out.iter_mut().zip(residual).for_each(|(out, residual)| *out += residual);
            }
        }
    }
}

/// The checkpoint's bytes of some output channels: `[columns, channels, taps]`.
struct Source<'a> {
    bytes: &'a [u8],
    dtype: DType,
    taps: usize,
    channels: usize,
    columns: usize,
}

impl Source<'_> {
    /// Packs `nr` columns from `column` on into a panel `[taps, channels, nr]`; columns that are
    /// not there are 0.
    fn pack(&self, isa: Isa, block: KBlock, column: usize, nr: usize, panel: &mut [f32]) {
        if column + nr > self.columns {
            panel.fill(0.0);
        }
        let size = self.dtype.bytes();
        let mut run = [0.0; RUN];
        for j in 0..nr.min(self.columns.saturating_sub(column)) {
            let row = ((column + j) * self.channels + block.channel) * self.taps;
            for channel in (0..block.channels).step_by(RUN / MAX_TAPS) {
                let count = (RUN / MAX_TAPS).min(block.channels - channel);
                let run = &mut run[..count * self.taps];
                let first = row + channel * self.taps;
                let bytes = &self.bytes[first * size..(first + run.len()) * size];
                to_f32(isa, self.dtype, bytes, run);
                for tap in 0..self.taps {
                    let column = &mut panel[(tap * block.channels + channel) * nr + j..];
                    let values = run[tap..].iter().step_by(self.taps);
                    column.iter_mut().step_by(nr).zip(values).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
}

/// # Errors
/// [`Error::Shape`] where the residual is not of the output's shape.
pub(super) fn check_residual(
    what: &'static str,
    residual: Option<Tensor>,
    out: Shape,
) -> Result<()> {
    match residual {
        Some(residual) if residual.shape() != out => {
            Err(Error::Shape { what, expected: out.to_dims(), found: residual.shape().to_dims() })
        }
        _ => Ok(()),
    }
}
