//! A convolution with few output channels: a panel of 16 columns would be all but empty.
//!
//! So its taps become columns, `[taps · n]`: one product with each pixel of the input, as it lies,
//! and each output adds up what its taps made of the pixels under them.

use super::context::Context;
use super::convert::to_form;
use super::gemm::{Epilogue, Packer, Panelled};
use super::matrix::Matrix;
use super::pixels::Pixels;
use super::rows::{Contiguous, Rows};
use crate::arch::{MAX_TAPS, MR_MAX, NO_ROW};
use crate::error::Result;
use crate::exec::{Sequential, even_share, for_each_chunk};
use crate::mem::floats_of_mut;
use crate::tensor::packed::Sizes;
use crate::tensor::{PANEL, Packing, Shape, Tensor};
use crate::weights::Weight;

/// The most output channels: with nine taps, three panels instead of nine.
const FEW: usize = 4;

/// The fewest input channels: of fewer, adding up takes as long as the products.
const MANY: usize = 16;

/// Whether a convolution is made that way.
pub(super) fn fits(matrix: Matrix, epilogue: &Epilogue) -> bool {
    let Sizes { n, channels, taps } = matrix.sizes;
    let Epilogue { residual, per_sample, activation, accumulate, geglu } = epilogue;
    let is_alone = residual.is_none() && per_sample.is_none() && activation.is_none();
    let is_few = n <= FEW && channels >= MANY && 2 * columns(n, taps) <= taps * PANEL;
    // Sums of integers need more than the product: their zero points.
    let is_packed = matches!(matrix.packing, Packing::F32 | Packing::Bf16);
    is_few && is_packed && is_alone && !accumulate && !geglu
}

/// Columns of the product: those of all taps, and as many more as are read with the last.
fn columns(n: usize, taps: usize) -> usize {
    (taps * n + FEW - n).next_multiple_of(PANEL)
}

/// `[n, h, w, in]` to `out` `[n, h', w', few]`.
///
/// # Errors
/// Those of memory and weights.
pub(super) fn conv2d_into(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    pixels: Pixels,
    out: Tensor,
) -> Result<()> {
    let Sizes { n, channels, taps } = matrix.sizes;
    let [_, h, w, _] = x.dims("conv2d")?;
    let ([out_h, out_w], form) = (pixels.out(), matrix.packing.form());
    let sizes = Sizes { n: columns(n, taps), channels, taps: 1 };
    let most = (cx.limits.spread_pixels / out_w.max(1)).min(out_h.div_ceil(cx.executor.workers()));
    let lines = even_share(cx.executor, out_h, most);
    cx.count([out.row_count(), n, taps, channels]);
    cx.working(|cx| {
        let x = if x.form() == form { x } else { to_form(cx, x, form)? };
        let panels = cx.tensor(Shape::new([sizes.panels(), sizes.steps(form) * PANEL]))?;
        let zeros = cx.tensor(Shape::new([x.row_bytes().div_ceil(4)]))?;
        let bias = bias.map(|bias| cx.load_padded(bias, n)).transpose()?;
        let shape = [cx.executor.workers(), pixels.most_under(lines) * w, sizes.n];
        let scratch = cx.tensor(Shape::new(shape))?;
        cx.working(|cx| spread(cx, matrix, panels))?;
        if cx.is_planning() || out.is_empty() {
            return Ok(());
        }
        cx.arena.write(zeros).fill(0.0);
        let (isa, executor, limits) = (cx.isa, cx.executor, cx.limits);
        let bias = bias.and_then(|bias| cx.arena.read(bias).first_chunk().copied());
        let bias = bias.unwrap_or([0.0; FEW]);
        let ([out, scratch], [x, panels, zeros]) =
            cx.arena.split_bytes_two([out, scratch], [x, panels, zeros]);
        let (no_bias, accumulate) = (None, false);
        let product =
            Panelled { isa, limits, form, sizes, x, panels, zeros, bias: no_bias, accumulate };
        let (out, scratch) = (floats_of_mut(out), floats_of_mut(scratch));
        for (image, out) in out.chunks_exact_mut(out_h * out_w * n).enumerate() {
            for_each_chunk(executor, out, lines * out_w * n, scratch, |index, out, products| {
                let start = index * lines;
                let rows = start..start + out.len() / (out_w * n);
                let under = pixels.rows_under(&rows);
                let products = &mut products[..under.len() * w * sizes.n];
                if !products.is_empty() {
                    let first = (image * h + under.start) * w;
                    product.multiply(&Sequential, &Contiguous, first, products);
                }
                add_up(&pixels.band(&rows, under.start), taps, bias, products, sizes.n, out);
            });
        }
        Ok(())
    })
}

/// The weight's panel of `[taps, steps, 16]` words as panels of `[steps, 16]`, whose columns are
/// `[taps, n]`.
///
/// # Errors
/// Those of memory and weights.
fn spread(cx: &mut Context<'_>, matrix: Matrix, panels: Tensor) -> Result<()> {
    let Sizes { n, taps, .. } = matrix.sizes;
    let mut packer = Packer::new(cx, matrix, 1)?;
    if cx.is_planning() {
        return Ok(());
    }
    let source = packer.fill(cx, 0..1)?;
    let packed = source.packed_or(panels.rows(0, 0)?);
    let (to, [packed]) = cx.arena.split_bytes(panels, [packed]);
    let data = source.data(cx.weights, &matrix.weight, packed)?;
    to.fill(0);
    let (to, words) = (to.as_chunks_mut::<4>().0, data.as_chunks::<4>().0);
    let steps = words.len() / (taps * PANEL);
    for (at, words) in words.chunks_exact(PANEL).take(taps * steps).enumerate() {
        let (tap, step) = (at / steps, at % steps);
        for (channel, word) in words[..n].iter().enumerate() {
            let column = tap * n + channel;
            to[(column / PANEL * steps + step) * PANEL + column % PANEL] = *word;
        }
    }
    Ok(())
}

/// Adds up, for each output, what its taps made of the pixels under them, `[.., columns]`.
fn add_up(
    pixels: &Pixels,
    taps: usize,
    bias: [f32; FEW],
    products: &[f32],
    columns: usize,
    out: &mut [f32],
) {
    let n = out.len() / pixels.out().iter().product::<usize>();
    let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
    for (number, out) in out.chunks_mut(MR_MAX * n).enumerate() {
        // Offsets in elements, not bytes.
        pixels.gather(number * MR_MAX, out.len() / n, columns, &mut offsets);
        let mut sums = [bias; MR_MAX];
        for (tap, offsets) in offsets.as_chunks::<MR_MAX>().0.iter().enumerate().take(taps) {
            let made = &products[(tap * n).min(products.len())..];
            for (sums, offset) in sums.iter_mut().zip(offsets) {
                // In the padding there is nothing.
                if let Some(made) = made.get(*offset..).and_then(<[f32]>::first_chunk::<FEW>) {
                    sums.iter_mut().zip(made).for_each(|(sum, made)| *sum += made);
                }
            }
        }
        for (out, sums) in out.chunks_exact_mut(n).zip(sums) {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
        }
    }
}
