//! Backwards through linear layers and convolutions.
//!
//! The gradient of the input is a product with the transposed weight, whose rows are again
//! addresses. The gradient of the weight is a product of the transposed input with the gradient of
//! the output, summed over pixels: both are laid out on one grid, in which a tap is a distance. The
//! grid has as much padding between its rows and pictures as the kernel reaches over, shared by
//! neighbours, and goes by in bands of rows that stay in a core's cache.

use super::Mirror;
use super::simple::add;
use crate::arch::{Arithmetic, Finish, Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, Panels};
use crate::error::{Error, Result};
use crate::exec::for_each_chunk;
use crate::mem::{bytes_of, floats_of};
use crate::ops::context::Context;
use crate::ops::gemm::multiply_panels;
use crate::ops::matrix::Matrix;
use crate::ops::params::Conv2d;
use crate::ops::rows::{Contiguous, Offsets, Rows};
use crate::ops::tape::{Product, Recording};
use crate::tensor::packed::Sizes;
use crate::tensor::{PANEL, Packing, Shape, Tensor};

pub(super) fn linear(
    cx: &mut Context<'_>,
    product: Product,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
) -> Result<()> {
    let grid = Grid::of_rows(product.x.row_count(), cx.limits.gradient_pixels);
    common(cx, &product, mirror, recording, &grid)?;
    let Some(dx) = mirror.of(product.x)? else { return Ok(()) };
    input_gradient(cx, &product, mirror, dx, &Contiguous)
}

pub(super) fn conv2d(
    cx: &mut Context<'_>,
    product: Product,
    conv: Conv2d,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
) -> Result<()> {
    let [n, h, w, _] = product.x.dims("conv2d")?;
    let [_, height, width, _] = product.out.dims("conv2d")?;
    let points = cx.limits.gradient_pixels;
    let grid = match conv == Conv2d::padded(1, 0) {
        true => Grid::of_rows(product.x.row_count(), points),
        false => Grid::new([n, h, w], [height, width], conv, points),
    };
    common(cx, &product, mirror, recording, &grid)?;
    let Some(dx) = mirror.of(product.x)? else { return Ok(()) };
    input_gradient(cx, &product, mirror, dx, &Under { input: [h, w], out: [height, width], conv })
}

/// The gradients of what was added, and of the weight.
fn common(
    cx: &mut Context<'_>,
    product: &Product,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
    grid: &Grid,
) -> Result<()> {
    if product.matrix.packing != Packing::F32 {
        let what = "must be packed in f32 to be trained";
        return Err(Error::Config { key: "weights", what });
    }
    let dy = mirror.of_result(product.out)?;
    if let Some(residual) = product.residual
        && let Some(to) = mirror.of(residual)?
    {
        add(cx, dy, to);
    }
    cx.working(|cx| added_gradients(cx, product, dy, mirror, recording))?;
    cx.working(|cx| weight_gradient(cx, product, dy, recording, grid))
}

/// The gradients of the bias and of what is added to every row of a sample: sums over rows.
fn added_gradients(
    cx: &mut Context<'_>,
    product: &Product,
    dy: Tensor,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
) -> Result<()> {
    let shift = product.per_sample.map(|shift| mirror.of(shift)).transpose()?.flatten();
    if product.bias.is_none() && shift.is_none() {
        return Ok(());
    }
    let samples = product.per_sample.map_or(1, |shift| shift.row_count());
    let (rows, n) = (dy.row_count() / samples.max(1), dy.channels());
    let summed = cx.limits.summed_rows;
    let blocks = rows.div_ceil(summed);
    let partial = cx.tensor(Shape::new([samples, blocks, n]))?;
    let sums = cx.tensor(Shape::new([samples, n]))?;
    if cx.is_planning() || dy.is_empty() {
        return Ok(());
    }
    let isa = cx.isa;
    let (out, [values]) = cx.arena.split(partial, [dy]);
    for_each_chunk::<_, f32>(cx.executor, out, n, &mut [], |index, sums, _| {
        let (sample, first) = (index / blocks, index % blocks * summed);
        let start = (sample * rows + first) * n;
        sums.fill(0.0);
        isa.sum_rows_f32(&values[start..start + summed.min(rows - first) * n], sums);
    });
    let (out, [partial]) = cx.arena.split(sums, [partial]);
    out.fill(0.0);
    for (sums, partial) in out.chunks_exact_mut(n).zip(partial.chunks_exact(blocks * n)) {
        isa.sum_rows_f32(partial, sums);
    }
    if let Some(bias) = product.bias {
        isa.sum_rows_f32(cx.arena.read(sums), recording.gradient_of(&bias)?);
    }
    if let Some(shift) = shift {
        add(cx, sums, shift);
    }
    Ok(())
}

/// Pictures on one grid, with padding between rows and pictures.
struct Grid {
    /// Pictures, their pixels in all, and their height and width.
    pictures: usize,
    pixels: usize,
    input: [usize; 2],
    out: [usize; 2],
    stride: usize,
    /// Grid points from row to row, and rows from picture to picture.
    pitch: usize,
    lines: usize,
    kernel: [usize; 2],
    /// Rows and columns that the first tap lies before its pixel.
    before: [usize; 2],
    /// Rows of the grid in a band.
    band: usize,
}

impl Grid {
    /// Rows without neighbours, as one picture whose last row may be shorter.
    fn of_rows(count: usize, points: usize) -> Self {
        let size = [count.div_ceil(points), count.min(points)];
        let grid = Self::new([1, size[0], size[1]], size, Conv2d::padded(1, 0), points);
        Self { pixels: count, ..grid }
    }

    /// `points`: those of a band, about.
    fn new([pictures, h, w]: [usize; 3], out: [usize; 2], conv: Conv2d, points: usize) -> Self {
        let Conv2d { kernel, stride, padding: [top, _, left, _], .. } = conv;
        // Points of the grid that an output may lie on, and what taps reach beyond them.
        let span = |size: usize, out: usize| size.max((out.max(1) - 1) * stride + 1);
        let reach = |kernel: usize, before: usize| before.max(kernel - 1 - before.min(kernel - 1));
        let pitch = span(w, out[1]) + reach(kernel[1], left);
        let lines = span(h, out[0]) + reach(kernel[0], top);
        let band = (points / pitch.max(1)).clamp(1, (pictures * lines).max(1));
        Self {
            pictures,
            pixels: pictures * h * w,
            input: [h, w],
            out,
            stride,
            pitch,
            lines,
            kernel,
            before: [top, left],
            band,
        }
    }

    /// Grid points of a band.
    fn points(&self) -> usize {
        self.band * self.pitch
    }

    /// Grid points of a row of the transposed input: a band, what taps reach before and after it,
    /// and a few so that rows do not all begin at the same place of a cache.
    fn reached(&self) -> usize {
        (self.points() + (self.kernel[0] - 1) * self.pitch + self.kernel[1] - 1)
            .next_multiple_of(PANEL)
            + PANEL
    }

    /// The picture and row that a row of the grid shows, of pictures with so many rows.
    fn line(&self, number: usize, rows: usize, stride: usize) -> Option<usize> {
        let (picture, y) = (number / self.lines, number % self.lines);
        let is_there = picture < self.pictures && y % stride == 0 && y / stride < rows;
        is_there.then_some(picture * rows + y / stride)
    }

    /// Rows of the transposed input for 16 channels: `to` is `[16, reached]`; `x` begins with the
    /// first of the channels.
    fn fill_input(&self, isa: Isa, first: usize, x: &[f32], c: usize, to: &mut [f32]) {
        let [top, left] = self.before;
        let (reached, [h, w]) = (self.reached(), self.input);
        to.fill(0.0);
        for row in 0..self.band + self.kernel[0] - 1 {
            let line = (first + row).checked_sub(top).and_then(|y| self.line(y, h, 1));
            if let Some(line) = line {
                let (from, count) = (&x[line * w * c..], w.min(self.pixels - line * w));
                isa.transpose_f32(from, c, count, &mut to[row * self.pitch + left..], reached);
            }
        }
    }

    /// A panel of the output's gradient: `to` is `[points, 16]`.
    fn fill_output(&self, first: usize, dy: &[f32], n: usize, column: usize, to: &mut [f32]) {
        let (count, [height, width]) = (PANEL.min(n - column), self.out);
        to.fill(0.0);
        for (row, to) in to.chunks_exact_mut(self.pitch * PANEL).enumerate() {
            let Some(line) = self.line(first + row, height, self.stride) else { continue };
            let from = dy[line * width * n..].chunks_exact(n).take(width);
            for (to, from) in to.chunks_mut(self.stride * PANEL).zip(from) {
                to[..count].copy_from_slice(&from[column..][..count]);
            }
        }
    }
}

/// `dW += xᵀ·dy`, in the order of the packed weight: panel by panel, tap by tap, a channel of the
/// input a row.
fn weight_gradient(
    cx: &mut Context<'_>,
    product: &Product,
    dy: Tensor,
    recording: &mut Recording<'_>,
    grid: &Grid,
) -> Result<()> {
    let (x, Matrix { weight, sizes, .. }) = (product.x, product.matrix);
    let Sizes { n, channels: k, taps } = sizes;
    let (reached, points) = (grid.reached(), grid.points());
    let input = cx.tensor(Shape::new([k.next_multiple_of(PANEL), reached]))?;
    let output = cx.tensor(Shape::new([sizes.panels(), points, PANEL]))?;
    // The last channels, where they do not fill a panel.
    let rest = cx.tensor(Shape::new([x.row_count(), if k % PANEL == 0 { 0 } else { PANEL }]))?;
    cx.count([dy.row_count(), n, taps, k]);
    if cx.is_planning() || x.is_empty() || dy.is_empty() {
        return Ok(());
    }
    let (isa, executor) = (cx.isa, cx.executor);
    let whole = k / PANEL * PANEL;
    if whole < k {
        let (to, [x]) = cx.arena.split(rest, [x]);
        for_each_chunk::<_, f32>(executor, to, PANEL, &mut [], |row, to, _| {
            to.fill(0.0);
            to[..k - whole].copy_from_slice(&x[row * k + whole..][..k - whole]);
        });
    }
    let gradients = recording.gradient_of(&weight)?;
    let rows = grid.pictures * grid.lines;
    for first in (0..rows).step_by(grid.band) {
        let (to, [x, rest]) = cx.arena.split(input, [x, rest]);
        for_each_chunk::<_, f32>(
            executor,
            to,
            PANEL * reached,
            &mut [],
            |panel, to, _| match panel * PANEL < whole {
                true => grid.fill_input(isa, first, &x[panel * PANEL..], k, to),
                false => grid.fill_input(isa, first, rest, PANEL, to),
            },
        );
        let (to, [dy]) = cx.arena.split(output, [dy]);
        for_each_chunk::<_, f32>(executor, to, points * PANEL, &mut [], |panel, to, _| {
            grid.fill_output(first, dy, n, panel * PANEL, to);
        });
        let (input, output) = (cx.arena.read(input), cx.arena.read(output));
        for_each_chunk::<_, f32>(executor, gradients, k * PANEL, &mut [], |index, to, _| {
            let (panel, tap) = (index / taps, index % taps);
            let distance = tap / grid.kernel[1] * grid.pitch + tap % grid.kernel[1];
            let left = Left { data: input, row: reached, first: distance, steps: points };
            let panel = &output[panel * points * PANEL..][..points * PANEL];
            left.multiply(isa, panel, to, k, PANEL, true);
        });
    }
    Ok(())
}

/// The left side of a small product: rows of f32, so many elements apart.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub data: &'a [f32],
    /// Elements from row to row.
    pub row: usize,
    /// Where the first row begins.
    pub first: usize,
    /// Elements of a row that take part.
    pub steps: usize,
}

impl Left<'_> {
    /// `out ← rows · panels`, or added to it: `rows` rows of `columns` columns, one after the
    /// other; the panels are `[columns/16, steps, 16]`.
    pub fn multiply(
        &self,
        isa: Isa,
        panels: &[f32],
        out: &mut [f32],
        rows: usize,
        columns: usize,
        accumulate: bool,
    ) {
        let mr = isa.tile_rows()[isa.tile_panels() - 1];
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        let panels = Panels { data: bytes_of(panels), scales: &[], gate: None, next: &[] };
        for (number, out) in out[..rows * columns].chunks_mut(mr * columns).enumerate() {
            let count = out.len() / columns;
            for (r, offset) in offsets[..MR_MAX].iter_mut().enumerate() {
                let start = self.first + (number * mr + r) * self.row;
                *offset = if r < count { 4 * start } else { NO_ROW };
            }
            let gather = Gather {
                data: bytes_of(self.data),
                zeros: bytes_of(self.data),
                offsets: &offsets,
                taps: 1,
                steps: self.steps,
                row_bytes: 4 * self.steps,
            };
            let mut lines = out.chunks_exact_mut(columns);
            let mut to: [&mut [f32]; MR_MAX] =
                core::array::from_fn(|_| lines.next().unwrap_or(&mut []));
            let mut finish = Finish {
                out: &mut to[..count],
                bias: None,
                residual: None,
                accumulate,
                activation: None,
            };
            isa.product(Arithmetic::F32, &gather, &panels, &mut finish);
        }
    }
}

/// `dx += dy · W`, where `rows` tells which rows of dy lie under the taps of each row of x.
fn input_gradient(
    cx: &mut Context<'_>,
    product: &Product,
    mirror: &Mirror,
    dx: Tensor,
    rows: &impl Rows,
) -> Result<()> {
    let Matrix { weight, sizes, .. } = product.matrix;
    let Sizes { n, channels: k, taps } = sizes;
    let back = Sizes { n: k, channels: n, taps };
    let dy = mirror.of_result(product.out)?;
    cx.working(|cx| {
        let panels = cx.tensor(Shape::new([back.panels(), taps * n, PANEL]))?;
        let zeros = cx.tensor(Shape::new([n]))?;
        cx.count([dx.row_count(), n, taps, k]);
        if cx.is_planning() || dx.is_empty() || dy.is_empty() {
            return Ok(());
        }
        cx.arena.write(zeros).fill(0.0);
        let from = floats_of(cx.weights.read(&weight, 0, weight.bytes, &mut [])?);
        let to = cx.arena.write(panels);
        for_each_chunk::<_, f32>(cx.executor, to, taps * n * PANEL, &mut [], |panel, to, _| {
            transpose_weight(from, sizes, panel * PANEL, to);
        });
        multiply_panels(cx, dy, rows, [panels, zeros], back, dx, true);
        Ok(())
    })
}

/// 16 input channels of a packed weight from `first` on, as a panel `[taps, n, 16]`.
fn transpose_weight(from: &[f32], sizes: Sizes, first: usize, to: &mut [f32]) {
    let Sizes { n, channels: k, taps } = sizes;
    let count = PANEL.min(k - first);
    to.fill(0.0);
    for (tap, to) in to.chunks_exact_mut(n * PANEL).enumerate() {
        for (panel, to) in to.chunks_mut(PANEL * PANEL).enumerate() {
            let from = &from[((panel * taps + tap) * k + first) * PANEL..][..count * PANEL];
            for (j, to) in to.chunks_exact_mut(PANEL).enumerate() {
                for (i, to) in to.iter_mut().take(count).enumerate() {
                    *to = from[i * PANEL + j];
                }
            }
        }
    }
}

/// The pixels of a convolution's output that each pixel of its input has a part in.
struct Under {
    input: [usize; 2],
    out: [usize; 2],
    conv: Conv2d,
}

impl Under {
    /// The output that tap `tap` carries input `at` to, along one side.
    fn output(&self, at: usize, before: usize, tap: usize, side: usize) -> Option<usize> {
        let at = (at + before).checked_sub(tap)?;
        let stride = self.conv.stride;
        (at % stride == 0 && at / stride < self.out[side]).then_some(at / stride)
    }
}

impl Rows for Under {
    fn gather(&self, first: usize, rows: usize, bytes: usize, out: &mut Offsets) {
        let Conv2d { kernel, padding: [top, _, left, _], .. } = self.conv;
        let ([h, w], [height, width]) = (self.input, self.out);
        out.fill(NO_ROW);
        for r in 0..rows {
            let pixel = first + r;
            let (x, y, image) = (pixel % w, pixel / w % h, pixel / w / h);
            for dy in 0..kernel[0] {
                let Some(line) = self.output(y, top, dy, 0) else { continue };
                for dx in 0..kernel[1] {
                    if let Some(column) = self.output(x, left, dx, 1) {
                        let row = (image * height + line) * width + column;
                        out[(dy * kernel[1] + dx) * MR_MAX + r] = row * bytes;
                    }
                }
            }
        }
    }
}
