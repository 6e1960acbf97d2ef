//! A convolution of one tap whose rows are brought to its weight's form by the task that multiplies
//! them, a few at a time: what lies between stays in a core's nearest cache.

use super::context::Context;
use super::conv2d::conv2d_into;
use super::gemm::{Epilogue, Packer, Panelled};
use super::limits::Limits;
use super::matrix::Matrix;
use super::norm::{self, concat};
use super::observe::Op;
use super::params::Conv2d;
use super::rows::Contiguous;
use crate::error::{Error, Result};
use crate::exec::{Sequential, even_share, for_each_chunk};
use crate::mem::{bytes_of_mut, floats_of, floats_of_mut};
use crate::tensor::packed::Sizes;
use crate::tensor::{Form, Joined, Packing, Shape, Tensor};
use crate::weights::Weight;

/// Whether tasks make their rows ready themselves: where each has all columns, so that it is done
/// once, and all panels are packed together.
fn fits(limits: &Limits, x: Joined, matrix: Matrix) -> bool {
    let (sizes, form) = (matrix.sizes, matrix.packing.form());
    let bytes = sizes.panels().saturating_mul(sizes.panel_bytes(form));
    let is_f32 = x.parts().iter().all(|part| part.of().form() == Form::F32);
    let most = limits.column_bytes.min(limits.packed_bytes);
    is_f32 && matrix.packing == Packing::Bf16 && sizes.taps == 1 && bytes <= most
}

/// `[n, h, w, in]`, or two tensors in f32 side by side, to `out` `[n, h, w, out]`, for a weight
/// `[out, in, 1, 1]`.
///
/// # Errors
/// [`Error::Shape`] where channels or output do not fit, and those of memory and weights.
pub fn pointwise_conv2d_into(
    cx: &mut Context<'_>,
    x: impl Into<Joined>,
    matrix: Matrix,
    bias: Option<Weight>,
    out: Tensor,
) -> Result<()> {
    let (x, form, Sizes { n, channels, .. }) = (x.into(), matrix.packing.form(), matrix.sizes);
    if !fits(cx.limits, x, matrix) || cx.is_recording() {
        return cx.working(|cx| {
            let [a, b] = x.parts().map(|part| part.of());
            let x = if x.only().is_some() { a } else { concat(cx, a, b, form)? };
            conv2d_into(cx, x, matrix, bias, Conv2d::padded(1, 0), Epilogue::NONE, out)
        });
    }
    if x.count() != channels {
        let expected = x.shape().with_last(channels).to_dims();
        return Err(Error::Shape { what: "conv2d", expected, found: x.shape().to_dims() });
    }
    out.expect("conv2d", x.shape().with_last(n))?;
    cx.count([out.row_count(), n, 1, channels]);
    cx.working(|cx| {
        let limits = cx.limits;
        let (row, at_once) = (form.row_bytes(channels) / 4, limits.ready_rows);
        let bias = bias.map(|bias| cx.load_padded(bias, n)).transpose()?;
        let none = cx.tensor(Shape::new([row]))?;
        let words = row + norm::scratch_channels(x);
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), at_once, words]))?;
        let mut packer = Packer::new(cx, matrix, 1)?;
        if cx.is_planning() || out.is_empty() {
            return Ok(());
        }
        let panels = packer.fill(cx, 0..matrix.sizes.panels())?;
        cx.arena.write(none).fill(0.0);
        let (isa, executor) = (cx.isa, cx.executor);
        let ([a, b], no_bias) = (x.parts().map(|part| part.of()), bias.is_none());
        let inputs = [a, b, panels.packed_or(none), bias.unwrap_or(none), none];
        let ([out, scratch], [a, b, packed, bias, zeros]) =
            cx.arena.split_bytes_two([out, scratch], inputs);
        let panels = panels.data(cx.weights, &matrix.weight, packed)?;
        let source = norm::Source { x, data: [a, b].map(floats_of) };
        let bias = (!no_bias).then_some(floats_of(bias));
        let (out, scratch) = (floats_of_mut(out), floats_of_mut(scratch));
        let all = out.len() / n;
        let most = limits.pointwise_rows.min(all / executor.workers());
        let rows = even_share(executor, all, most);
        for_each_chunk(executor, out, rows * n, scratch, |index, out, scratch| {
            let (ready, scratch) = scratch.split_at_mut(at_once * row);
            for (number, out) in out.chunks_mut(at_once * n).enumerate() {
                let (first, count) = (index * rows + number * at_once, out.len() / n);
                let ready = bytes_of_mut(&mut ready[..count * row]);
                source.write(isa, form, [first, count], None, scratch, ready);
                let (sizes, x, accumulate) = (matrix.sizes, &*ready, false);
                let product =
                    Panelled { isa, limits, form, sizes, x, panels, zeros, bias, accumulate };
                product.multiply(&Sequential, &Contiguous, 0, out);
            }
        });
        Ok(())
    })?;
    cx.ended(Op::Conv2d, out);
    Ok(())
}
