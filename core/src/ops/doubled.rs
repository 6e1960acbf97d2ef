//! A 3×3 convolution of a picture doubled by its nearest pixels, by nine products for each pixel as
//! it was instead of 36 (see [`doubled_row`](crate::tensor::packed::doubled_row)).
//!
//! A task takes some rows of the picture and some columns of the output. Block by block of pixels
//! it makes the products' left sides (a pixel's channels, and how they differ from its
//! neighbours'), multiplies them, and adds the products up to four outputs a pixel. Each of these
//! stays in the core's cache until the next reads it.

use core::ops::Range;

use super::context::Context;
use super::convert::{to_form, write_rows};
use super::gemm::{Epilogue, Packer, Source, join_biases};
use super::matrix::Matrix;
use super::params::Conv2d;
use crate::arch::{Finish, Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, Panels};
use crate::error::{Error, Result};
use crate::exec::{TileMut, for_each_chunk, for_each_tile, longest_share};
use crate::mem::{bytes_of_mut, floats_of, floats_of_mut};
use crate::tensor::packed::{DOUBLED, Sizes};
use crate::tensor::{Form, PANEL, Shape, Tensor};
use crate::weights::Weight;

/// The output's height and width for a picture of this size.
///
/// # Errors
/// [`Error::WeightShape`] where the convolution is none that is packed doubled, [`Error::Shape`]
/// where it goes to another size than twice the picture's, or one less.
pub(super) fn output_size(
    matrix: Matrix,
    conv: Conv2d,
    [n, h, w, c]: [usize; 4],
) -> Result<[usize; 2]> {
    let (Sizes { n: columns, channels, .. }, found) = (matrix.sizes, matrix.weight.shape);
    let plain = Conv2d { upsample_to: conv.upsample_to, ..Conv2d::padded(3, 1) };
    let Some(size) = conv.upsample_to.filter(|_| conv == plain) else {
        let expected = [matrix.doubled.unwrap_or(columns), channels, 3, 3];
        return Err(Error::WeightShape { expected, found: found.to_dims() });
    };
    let fits = |side: usize, size: usize| {
        side > 0
            && c > 0
            && side.checked_mul(2).is_some_and(|double| size == double || size == double - 1)
    };
    if c != channels || !fits(h, size[0]) || !fits(w, size[1]) {
        let expected = [n, size[0].div_ceil(2), size[1].div_ceil(2), channels];
        return Err(Error::Shape { what: "conv2d", expected, found: [n, h, w, c] });
    }
    Ok(size)
}

/// `[n, h, w, in]` to `out` `[n, 2h, 2w, channels]`, or one row or column less.
///
/// # Errors
/// [`Error::Config`] where more than a bias is added, and those of memory and weights.
pub(super) fn conv2d_into(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    epilogue: Epilogue,
    out: Tensor,
) -> Result<()> {
    let Epilogue { residual, per_sample, activation, accumulate, geglu } = epilogue;
    if residual.is_some() || activation.is_some() || accumulate || geglu {
        let (key, what) = ("a doubled convolution", "adds nothing but a bias");
        return Err(Error::Config { key, what });
    }
    cx.refuse_recording("a packed convolution")?;
    let [images, h, w, c] = x.dims("conv2d")?;
    let [_, out_h, out_w, channels] = out.dims("conv2d")?;
    cx.count([images * h * w, channels, DOUBLED, c]);
    cx.working(|cx| {
        let x = match x.form() {
            Form::F32 => x,
            _ => to_form(cx, x, Form::F32)?,
        };
        let plan = Plan::new(cx, matrix, [h, w], [out_h, out_w], h);
        let mut work = Work::new(cx, plan, bias)?;
        if cx.is_planning() || out.is_empty() {
            return Ok(());
        }
        for image in 0..images {
            join_biases(cx, work.bias, per_sample, image, work.shared);
            let (x, out) = (x.sample(image)?, out.sample(image)?);
            work.multiply(cx, x, 0, 0..h, out)?;
        }
        Ok(())
    })
}

/// [`conv2d_into`] where `out` begins where x does, and takes its place from the last rows up.
///
/// # Errors
/// As [`conv2d_into`], and [`Error::Shape`] where a row of out is smaller than one of x.
pub(super) fn conv2d_in_place(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    conv: Conv2d,
    out: Tensor,
) -> Result<()> {
    let dims = x.dims("conv2d")?;
    let ([images, h, w, c], [out_h, out_w]) = (dims, output_size(matrix, conv, dims)?);
    let channels = matrix.doubled.unwrap_or(0);
    out.expect("conv2d", Shape::new([images, out_h, out_w, channels]))?;
    if out_w * channels < w * c {
        let expected = [images, out_h, out_w, (w * c).div_ceil(out_w)];
        return Err(Error::Shape { what: "conv2d", expected, found: out.shape().to_dims() });
    }
    cx.count([images * h * w, channels, DOUBLED, c]);
    let step = (cx.limits.band_pixels / (4 * w)).clamp(1, h);
    cx.working(|cx| {
        let plan = Plan::new(cx, matrix, [h, w], [out_h, out_w], step);
        let mut work = Work::new(cx, plan, bias)?;
        let held = cx.tensor(Shape::new([step + 2, w, c]))?;
        if cx.is_planning() || out.is_empty() {
            return Ok(());
        }
        join_biases(cx, work.bias, None, 0, work.shared);
        for image in (0..images).rev() {
            let (x, out) = (x.sample(image)?, out.sample(image)?);
            for start in (0..h).step_by(step).rev() {
                let rows = start..h.min(start + step);
                // Row 2y of out lies behind row y of x, but for the first: so none is overwritten
                // that is not held or done with.
                let around = rows.start.saturating_sub(1)..h.min(rows.end + 1);
                let held = held.rows(0, around.len() * w)?;
                let from = x.rows(around.start * w, around.len() * w)?;
                let (to, [from]) = cx.arena.split(held, [from]);
                for_each_chunk::<_, f32>(cx.executor, to, w * c, &mut [], |row, to, _| {
                    to.copy_from_slice(&from[row * w * c..][..w * c]);
                });
                work.multiply(cx, held, around.start, rows, out)?;
            }
        }
        Ok(())
    })
}

/// The products and their working memory.
struct Work {
    plan: Plan,
    packer: Packer,
    bias: Option<Tensor>,
    /// The bias, with what belongs to one sample.
    shared: Tensor,
    scales: Option<Tensor>,
    scratch: Tensor,
}

impl Work {
    /// # Errors
    /// Those of memory and weights.
    fn new(cx: &mut Context<'_>, plan: Plan, bias: Option<Weight>) -> Result<Self> {
        let (matrix, channels) = (plan.matrix, plan.matrix.doubled.unwrap_or(0));
        let shared = cx.tensor(Shape::new([channels.next_multiple_of(PANEL)]))?;
        let bias = bias.map(|bias| cx.load_padded(bias, channels)).transpose()?;
        let scales = matrix.scales.map(|scales| cx.load(scales)).transpose()?;
        let packer = Packer::new(cx, matrix, DOUBLED)?;
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), plan.scratch()]))?;
        Ok(Self { plan, packer, bias, shared, scales, scratch })
    }

    /// The output of some rows of a picture, of which `x` holds those from number `held` on.
    ///
    /// # Errors
    /// [`Error::WeightRead`].
    fn multiply(
        &mut self,
        cx: &mut Context<'_>,
        x: Tensor,
        held: usize,
        rows: Range<usize>,
        out: Tensor,
    ) -> Result<()> {
        for block in self.packer.blocks() {
            let panels = self.packer.fill(cx, block.clone())?;
            self.multiply_block(cx, [x, out], held, rows.clone(), block, panels)?;
        }
        Ok(())
    }

    /// [`Work::multiply`] for the columns of a block of panels.
    fn multiply_block(
        &self,
        cx: &mut Context<'_>,
        [x, out]: [Tensor; 2],
        held: usize,
        rows: Range<usize>,
        block: Range<usize>,
        panels: Source,
    ) -> Result<()> {
        let Self { plan, shared, scales, scratch, .. } = self;
        let Matrix { sizes, weight, doubled, .. } = plan.matrix;
        let scales = scales.unwrap_or(*shared);
        let (part, first) = match panels {
            Source::InPlace => (sizes.panels() / DOUBLED, 0),
            Source::Packed(_) => (block.len(), block.start),
        };
        let packed = panels.packed_or(scales);
        let ([out, scratch], [x, bias, scales, packed]) =
            cx.arena.split_bytes_two([out, *scratch], [x, *shared, scales, packed]);
        let data = panels.data(cx.weights, &weight, packed)?;
        let ([out_h, out_w], channels) = (plan.out, doubled.unwrap_or(0));
        let (bias, scales, x) = (floats_of(bias), floats_of(scales), floats_of(x));
        let start = rows.start;
        let picture =
            Picture { isa: cx.isa, plan, x, held, start, bias, data, part, first, scales };
        let outputs = 2 * rows.start * out_w * channels..out_h.min(2 * rows.end) * out_w * channels;
        let out = &mut floats_of_mut(out)[outputs];
        let columns = block.start * PANEL..channels.min(block.end * PANEL);
        let step = PANEL * cx.isa.tile_panels();
        let across = columns.len().div_ceil(plan.across).next_multiple_of(step);
        let tile = [2 * plan.rows * out_w, across];
        let scratch = floats_of_mut(scratch);
        for_each_tile(cx.executor, out, channels, columns, tile, scratch, |tile, scratch| {
            picture.compute(tile, scratch);
        });
        Ok(())
    }
}

/// How the work is cut, for a picture of a size.
#[derive(Clone, Copy)]
struct Plan {
    matrix: Matrix,
    /// Height, width.
    size: [usize; 2],
    out: [usize; 2],
    /// Pixels of a block, columns that it is multiplied with at a time, pixels of a run.
    block: usize,
    columns: usize,
    run: usize,
    /// Rows of the picture that a task has, and into how many parts its columns are cut.
    rows: usize,
    across: usize,
}

impl Plan {
    /// `most`: rows of the picture that come at a time.
    fn new(
        cx: &Context<'_>,
        matrix: Matrix,
        size: [usize; 2],
        out: [usize; 2],
        most: usize,
    ) -> Self {
        let (w, workers, limits) = (size[1], cx.executor.workers(), cx.limits);
        let wide = cx.isa.tile_panels();
        let (mr, step) = (cx.isa.tile_rows()[wide - 1], wide * PANEL);
        let mut plan =
            Self { matrix, size, out, block: mr, columns: step, run: w.min(2), rows: 0, across: 0 };
        // As large as the workers find room for in what the output takes.
        let room = out[0] * out[1] * matrix.doubled.unwrap_or(0);
        let larger = |block| {
            let columns = [limits.doubled_panels * PANEL, step].into_iter();
            let run = w.min(limits.doubled_run);
            columns.map(move |columns| Self { block, columns, run, ..plan })
        };
        let blocks = (1..=limits.doubled_pixels.min(most * w) / mr).rev().map(|tiles| tiles * mr);
        let fits = |plan: &Self| plan.scratch().saturating_mul(workers) <= room;
        plan = blocks.flat_map(larger).find(fits).unwrap_or(plan);
        let blocks = (most * w).div_ceil(plan.block).max(1);
        let rows = most.div_ceil(blocks.next_multiple_of(workers)).max(1);
        plan.rows =
            (1..=rows).rev().min_by_key(|&rows| longest_share(most, rows, workers)).unwrap_or(1);
        plan.across = workers.div_ceil(most.div_ceil(plan.rows).max(1));
        plan
    }

    fn form(&self) -> Form {
        self.matrix.packing.form()
    }

    /// Elements of a worker's memory: lines, differences, left sides, products.
    fn parts(&self) -> [usize; 4] {
        let channels = self.matrix.sizes.channels;
        let pixels = DOUBLED * self.block;
        let left = pixels.saturating_mul(self.form().row_bytes(channels) / 4);
        let lines = channels.saturating_mul(3 * (self.run + 2));
        [lines, channels.saturating_mul(self.run), left, pixels * self.columns]
    }

    fn scratch(&self) -> usize {
        self.parts().iter().fold(0, |sum: usize, part| sum.saturating_add(*part))
    }
}

/// What all tasks of a picture have in common.
struct Picture<'a> {
    isa: Isa,
    plan: &'a Plan,
    /// Rows of the picture `[h, w, c]` from number `held` on; the first that is asked for.
    x: &'a [f32],
    held: usize,
    start: usize,
    bias: &'a [f32],
    /// Panels: `part` of them for each product, the first of which is number `first` of all.
    data: &'a [u8],
    part: usize,
    first: usize,
    scales: &'a [f32],
}

impl Picture<'_> {
    /// Some rows of the picture, some columns of the output.
    fn compute(&self, mut tile: TileMut<'_>, scratch: &mut [f32]) {
        let (place, [out_w, w]) = (tile.place(), [self.plan.out[1], self.plan.size[1]]);
        let first = self.start + place.row / (2 * out_w);
        // Those that the tile has: the rows of a band may end before the picture's do. The last row
        // may have only one of the output.
        let rows = place.rows.div_ceil(2 * out_w);
        let [lines, run, left, _] = self.plan.parts();
        let (lines, scratch) = scratch.split_at_mut(lines);
        let (run, scratch) = scratch.split_at_mut(run);
        let (left, products) = scratch.split_at_mut(left);
        let left = bytes_of_mut(left);
        let pixels = first * w..(first + rows) * w;
        for start in pixels.clone().step_by(self.plan.block) {
            let block = start..pixels.end.min(start + self.plan.block);
            self.left_sides(block.clone(), lines, run, left);
            for column in (0..place.columns).step_by(self.plan.columns) {
                let columns = place.column + column
                    ..place.column + place.columns.min(column + self.plan.columns);
                self.multiply(block.len(), columns.clone(), left, products);
                for pixel in block.clone() {
                    let products = &mut products[(pixel - start) * self.plan.columns..];
                    self.add_up(&mut tile, pixel, columns.clone(), products);
                }
            }
        }
    }

    /// The left sides of a block of pixels: `[9, block, row]`.
    fn left_sides(&self, block: Range<usize>, lines: &mut [f32], run: &mut [f32], left: &mut [u8]) {
        let (c, w) = (self.plan.matrix.sizes.channels, self.plan.size[1]);
        let row_bytes = self.plan.form().row_bytes(c);
        let mut pixel = block.start;
        while pixel < block.end {
            let (y, x) = (pixel / w, pixel % w);
            let count = self.plan.run.min(block.end - pixel).min(w - x);
            let line = (self.plan.run + 2) * c;
            for (down, line) in lines.chunks_exact_mut(line).enumerate() {
                self.line(down, [y, x], &mut line[..(count + 2) * c]);
                for across in 0..3 {
                    let own = &line[c..][..count * c];
                    let row = match across {
                        1 => own,
                        _ => {
                            let row = &mut run[..count * c];
                            self.isa.subtract_f32(&line[across * c..][..count * c], own, row);
                            row
                        }
                    };
                    let at =
                        ((3 * down + across) * self.plan.block + pixel - block.start) * row_bytes;
                    let to = &mut left[at..][..count * row_bytes];
                    write_rows(self.isa, self.plan.form(), row, c, to);
                }
            }
            pixel += count;
        }
    }

    /// Pixels of line y from the one before x on: as they are, or how those above (`down` 0) or
    /// below (2) differ from them. Beyond the picture's edges all are zero.
    fn line(&self, down: usize, [y, x]: [usize; 2], line: &mut [f32]) {
        let (c, [h, w]) = (self.plan.matrix.sizes.channels, self.plan.size);
        let count = line.len() / c;
        let inside = usize::from(x == 0)..count.min(w + 1 - x);
        line[..inside.start * c].fill(0.0);
        line[inside.end * c..].fill(0.0);
        let of = |y: usize| {
            let pixel = (y - self.held) * w + x + inside.start - 1;
            &self.x[pixel * c..][..inside.len() * c]
        };
        let (line, own) = (&mut line[inside.start * c..inside.end * c], of(y));
        match (y + down).checked_sub(1) {
            Some(other) if other == y => line.copy_from_slice(own),
            Some(other) if other < h => self.isa.subtract_f32(of(other), own, line),
            _ => {
                line.fill(0.0);
                self.isa.scale_add_f32(line, 1.0, own, -1.0);
            }
        }
    }

    /// The nine products of a block's pixels with some columns: `[9, block, columns]`.
    fn multiply(&self, count: usize, columns: Range<usize>, left: &[u8], products: &mut [f32]) {
        let (isa, form, sizes) = (self.isa, self.plan.form(), self.plan.matrix.sizes);
        let (row_bytes, block) = (form.row_bytes(sizes.channels), self.plan.block);
        let mr = isa.tile_rows()[isa.tile_panels() - 1];
        let (first, width) = (columns.start / PANEL, columns.len().next_multiple_of(PANEL));
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for (product, products) in products.chunks_exact_mut(block * self.plan.columns).enumerate()
        {
            let panel = product * self.part + first - self.first;
            let column = product * (sizes.panels() / DOUBLED) + first;
            let panels = Panels {
                data: &self.data[panel * sizes.panel_bytes(form)..],
                scales: match form {
                    Form::Q8 => &self.scales[column * sizes.scales()..],
                    _ => &[],
                },
                gate: None,
                next: &[],
            };
            let rows = products[..count * self.plan.columns]
                .chunks_mut(mr * self.plan.columns)
                .enumerate();
            for (tile, products) in rows {
                for (r, offset) in offsets[..mr].iter_mut().enumerate() {
                    *offset = (product * block + (tile * mr + r).min(block - 1)) * row_bytes;
                }
                let gather = Gather {
                    data: left,
                    // No row lies in the padding.
                    zeros: left,
                    offsets: &offsets,
                    taps: 1,
                    steps: form.steps(sizes.channels),
                    row_bytes,
                };
                let mut products = products.chunks_exact_mut(self.plan.columns);
                let mut out: [&mut [f32]; MR_MAX] = core::array::from_fn(|_| {
                    products.next().map_or(&mut [][..], |row| &mut row[..width])
                });
                let rows = out.iter().position(|row| row.is_empty()).unwrap_or(MR_MAX);
                let mut finish = Finish {
                    out: &mut out[..rows],
                    bias: None,
                    residual: None,
                    accumulate: false,
                    activation: None,
                };
                isa.product(form.into(), &gather, &panels, &mut finish);
            }
        }
    }

    /// The outputs of one pixel. The last row or column of the picture may lack one: beyond it lies
    /// the padding, from which the other differs on both sides.
    fn add_up(
        &self,
        tile: &mut TileMut<'_>,
        pixel: usize,
        columns: Range<usize>,
        products: &mut [f32],
    ) {
        let ([_, w], [out_h, out_w]) = (self.plan.size, self.plan.out);
        let (place, [y, x]) = (tile.place(), [pixel / w, pixel % w]);
        let bias = &self.bias[columns.clone()];
        let begin =
            |down: usize, across: usize| (3 * down + across) * self.plan.block * self.plan.columns;
        let [is_last_row, is_last_column] = [2 * y + 1 == out_h, 2 * x + 1 == out_w];
        let mut add = |to: usize, from: usize| {
            let (to_part, from_part) = products.split_at_mut(from);
            self.isa.scale_add_f32(&mut to_part[to..][..bias.len()], 1.0, from_part, 1.0);
        };
        if is_last_row {
            (0..3).for_each(|across| add(begin(0, across), begin(2, across)));
        }
        if is_last_column {
            (0..3).for_each(|down| add(begin(down, 0), begin(down, 2)));
        }
        let line = |down| [0, 1, 2].map(|across| &products[begin(down, across)..][..bias.len()]);
        let columns = columns.start - place.column..columns.end - place.column;
        for down in 0..if is_last_row { 1 } else { 2 } {
            let row = (2 * (y - self.start) + down) * out_w + 2 * x - place.row;
            let [one, other] = tile.rows(row, columns.clone());
            let other = if is_last_column { &mut [][..] } else { other };
            self.isa.double_f32([line(1), line(2 * down)], bias, [one, other]);
        }
    }
}
