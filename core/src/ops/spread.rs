//! A convolution with few output channels: a panel of 16 columns would be all but empty.
//!
//! So its taps become columns, `[taps · n]`: one product with each pixel of the input, as it lies,
//! and each output adds up what its taps made of the pixels under them.

use super::context::{Context, Matrix};
use super::conv2d::Pixels;
use super::convert::to_form;
use super::gemm::{Epilogue, Packer, Rows, Source, multiply_panels};
use super::linear::Contiguous;
use crate::arch::{MAX_TAPS, MR_MAX, NO_ROW};
use crate::error::Result;
use crate::exec::{even_share, for_each_chunk};
use crate::tensor::packed::Sizes;
use crate::tensor::{PANEL, Packing, Shape, Tensor};
use crate::weights::Weight;

/// The most output channels: with nine taps, three panels instead of nine.
const FEW: usize = 4;

/// Pixels of the output that are made at a time, about: so many that the products of their taps
/// stay in a core's cache.
const BAND: usize = 8192;

/// Outputs in one task, at most.
const TASK: usize = 256;

/// Whether a convolution is made that way.
pub(super) fn fits(matrix: Matrix, epilogue: &Epilogue) -> bool {
    let Sizes { n, taps, .. } = matrix.sizes;
    let Epilogue { residual, per_sample, activation, accumulate, geglu } = epilogue;
    let is_alone = residual.is_none() && per_sample.is_none() && activation.is_none();
    let is_few = n <= FEW && 2 * columns(n, taps) <= taps * PANEL;
    // A word holds whole elements of one channel: of four input channels it would hold integers,
    // whose sums need more than a product.
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
    let [images, _, w, _] = x.dims("conv2d")?;
    let ([out_h, out_w], form) = (pixels.out(), matrix.packing.form());
    let sizes = Sizes { n: columns(n, taps), channels, taps: 1 };
    let step = (BAND / out_w.max(1)).clamp(1, out_h.max(1));
    cx.count([out.row_count(), n, taps, channels]);
    cx.working(|cx| {
        let x = if x.form() == form { x } else { to_form(cx, x, form)? };
        let panels = cx.tensor(Shape::new([sizes.panels(), sizes.steps(form) * PANEL]))?;
        let zeros = cx.tensor(Shape::new([x.row_bytes().div_ceil(4)]))?;
        let bias = bias.map(|bias| cx.load_padded(bias, n)).transpose()?;
        let products = cx.tensor(Shape::new([pixels.most_under(step), w, sizes.n]))?;
        cx.working(|cx| spread(cx, matrix, panels))?;
        if cx.is_planning() || out.is_empty() {
            return Ok(());
        }
        cx.arena.write(zeros).fill(0.0);
        for image in 0..images {
            let (x, out) = (x.sample(image)?, out.sample(image)?);
            for start in (0..out_h).step_by(step) {
                let rows = start..out_h.min(start + step);
                let under = pixels.rows_under(&rows);
                let part = x.rows(under.start * w, under.len() * w)?;
                let products = products.rows(0, part.row_count())?;
                if !products.is_empty() {
                    multiply_panels(cx, part, &Contiguous, [panels, zeros], sizes, products, false);
                }
                let out = out.rows(start * out_w, rows.len() * out_w)?;
                add_up(cx, &pixels.band(&rows, under.start), taps, bias, products, out);
            }
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
    let packed = match source {
        Source::InPlace => panels.rows(0, 0)?,
        Source::Packed(packed) => packed,
    };
    let (to, [packed]) = cx.arena.split_bytes(panels, [packed]);
    let data = match source {
        Source::InPlace => cx.weights.read(&matrix.weight, 0, matrix.weight.bytes, &mut [])?,
        Source::Packed(_) => packed,
    };
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

/// Adds up, for each output, what its taps made of the pixels under them.
fn add_up(
    cx: &mut Context<'_>,
    pixels: &Pixels,
    taps: usize,
    bias: Option<Tensor>,
    products: Tensor,
    out: Tensor,
) {
    let (n, columns) = (out.channels(), products.channels());
    let bias = bias.and_then(|bias| cx.arena.read(bias).first_chunk().copied());
    let bias = bias.unwrap_or([0.0; FEW]);
    let (out, [products]) = cx.arena.split(out, [products]);
    let rows = even_share(cx.executor, out.len() / n, TASK);
    for_each_chunk::<_, f32>(cx.executor, out, rows * n, &mut [], |index, out, _| {
        let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        for (number, out) in out.chunks_mut(MR_MAX * n).enumerate() {
            // Offsets in elements, not bytes.
            let row = index * rows + number * MR_MAX;
            pixels.gather(row, out.len() / n, columns, &mut offsets);
            for (r, out) in out.chunks_exact_mut(n).enumerate() {
                let mut sums = bias;
                for (tap, offsets) in offsets.chunks_exact(MR_MAX).take(taps).enumerate() {
                    if offsets[r] != NO_ROW
                        && let Some(made) = products[offsets[r] + tap * n..].first_chunk::<FEW>()
                    {
                        sums.iter_mut().zip(made).for_each(|(sum, made)| *sum += made);
                    }
                }
                out.copy_from_slice(&sums[..n]);
            }
        }
    });
}
