//! Convolution on NHWC: a product whose rows are addresses, so there is no im2col buffer.

use super::activation::activate;
use super::context::Context;
use super::doubled;
use super::gemm::{Epilogue, Gemm, check_epilogue, gemm};
use super::matrix::Matrix;
use super::observe::Op;
use super::params::Conv2d;
use super::pixels::Pixels;
use super::resample::upsample_nearest;
use super::spread;
use super::tape::{Product, Record};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};
use crate::weights::Weight;

/// `[n, h, w, in]` to `[n, h', w', out]`, for a weight `[out, in, kh, kw]`. x is in any form; that
/// of the weight costs nothing. A weight that is packed doubled goes only with a doubled picture,
/// and then takes a quarter of the products.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where channels, residual or kernel do not fit,
/// [`Error::Capacity`](crate::Error::Capacity) where the kernel has more than nine taps, and those
/// of memory and weights.
pub fn conv2d(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    conv: Conv2d,
    epilogue: Epilogue,
) -> Result<Tensor> {
    if cx.is_recording() {
        if let Some(size) = conv.upsample_to {
            let x = upsample_nearest(cx, x, size)?;
            return conv2d(cx, x, matrix, bias, Conv2d { upsample_to: None, ..conv }, epilogue);
        }
        if let Some(activation) = epilogue.activation {
            let plain = Epilogue { activation: None, ..epilogue };
            let y = conv2d(cx, x, matrix, bias, conv, plain)?;
            return activate(cx, y, activation);
        }
    }
    let out = cx.tensor(out_shape(x, matrix, conv)?)?;
    conv2d_into(cx, x, matrix, bias, conv, epilogue, out)?;
    Ok(out)
}

/// The shape of the result.
fn out_shape(x: Tensor, matrix: Matrix, conv: Conv2d) -> Result<Shape> {
    let dims = x.dims("conv2d")?;
    let [height, width] = match matrix.doubled {
        Some(_) => doubled::output_size(matrix, conv, dims)?,
        None => Pixels::new(dims, matrix.sizes, conv)?.out(),
    };
    Ok(Shape::new([dims[0], height, width, matrix.doubled.unwrap_or(matrix.sizes.n)]))
}

/// [`conv2d`] into a tensor that is there.
///
/// # Errors
/// As [`conv2d`], and [`Error::Shape`](crate::Error::Shape) where `out` is not of the result's
/// shape.
pub fn conv2d_into(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    conv: Conv2d,
    epilogue: Epilogue,
    out: Tensor,
) -> Result<()> {
    let dims = x.dims("conv2d")?;
    let images = dims[0];
    out.expect("conv2d", out_shape(x, matrix, conv)?)?;
    check_epilogue("conv2d", &epilogue, out.shape(), images)?;
    if matrix.doubled.is_some() {
        doubled::conv2d_into(cx, x, matrix, bias, epilogue, out)?;
        cx.ended(Op::Conv2d, out);
        return Ok(());
    }
    let pixels = Pixels::new(dims, matrix.sizes, conv)?;
    if !cx.is_recording() && spread::fits(matrix, &epilogue) {
        spread::conv2d_into(cx, x, matrix, bias, pixels, out)?;
        cx.ended(Op::Conv2d, out);
        return Ok(());
    }
    let Epilogue { residual, per_sample, .. } = epilogue;
    let product = Product { x, matrix, bias, residual, per_sample, out };
    cx.record(|| Record::Conv2d(product, conv))?;
    let samples = if epilogue.per_sample.is_some() { images } else { 1 };
    gemm(cx, Gemm { x, matrix, bias, epilogue, out, samples }, &pixels)?;
    cx.ended(Op::Conv2d, out);
    Ok(())
}
