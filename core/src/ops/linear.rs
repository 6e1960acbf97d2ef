//! Linear layers: one product with the rows of the input.

use super::activation::{activate, geglu, geglu_into};
use super::context::Context;
use super::gemm::{Epilogue, Gemm, check_epilogue, gemm};
use super::matrix::Matrix;
use super::observe::Op;
use super::rows::Contiguous;
use super::tape::{Product, Record};
use crate::error::{Error, Result};
use crate::tensor::packed::Sizes;
use crate::tensor::{PANEL, Tensor};
use crate::weights::Weight;

/// `x · weightᵀ + bias + …`: `[.., k]` to `[.., n]`, for a weight `[n, k]` or `[n, k, 1, 1]`. x is
/// in any form; that of the weight costs nothing.
///
/// # Errors
/// [`Error::Shape`] where x has not k channels or what is added is not of the output's shape, and
/// those of memory and weights.
pub fn linear(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let halves = if epilogue.geglu { 2 } else { 1 };
    if cx.is_recording() && (epilogue.activation.is_some() || epilogue.geglu) {
        let plain = Epilogue { activation: None, geglu: false, ..epilogue };
        let y = linear(cx, x, matrix, bias, plain)?;
        let y = if epilogue.geglu { geglu(cx, y)? } else { y };
        return epilogue.activation.map_or(Ok(y), |activation| activate(cx, y, activation));
    }
    let out = cx.tensor(x.shape().with_last(matrix.sizes.n / halves))?;
    linear_into(cx, x, matrix, bias, epilogue, out)?;
    Ok(out)
}

/// [`linear`] into a tensor that is there, or a view on rows of one.
///
/// # Errors
/// As [`linear`], and [`Error::Shape`] where `out` has not x's rows or n channels;
/// [`Error::Config`] where the walk is recorded and what `out` holds is needed, or more than a
/// residual belongs to the end.
pub fn linear_into(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    epilogue: Epilogue,
    out: Tensor,
) -> Result<()> {
    let Epilogue { residual, per_sample, activation, accumulate, geglu } = epilogue;
    if activation.is_some() || accumulate || geglu {
        cx.refuse_recording("a product into a tensor that is there")?;
    }
    cx.record(|| Record::Linear(Product { x, matrix, bias, residual, per_sample, out }))?;
    linear_rows(cx, x, matrix, bias, epilogue, out)
}

fn linear_rows(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    epilogue: Epilogue,
    out: Tensor,
) -> Result<()> {
    let Sizes { n, channels, taps } = matrix.sizes;
    if x.channels() != channels || taps != 1 {
        let expected = x.shape().with_last(channels).to_dims();
        return Err(Error::Shape { what: "linear", expected, found: x.shape().to_dims() });
    }
    let halves = if epilogue.geglu { 2 } else { 1 };
    if !n.is_multiple_of(halves) {
        let expected = x.shape().with_last(n.next_multiple_of(halves)).to_dims();
        let found = x.shape().with_last(n).to_dims();
        return Err(Error::Shape { what: "linear's gate", expected, found });
    }
    out.expect("linear", x.shape().with_last(n / halves))?;
    let samples = match epilogue.per_sample {
        None => 1,
        Some(_) => x.samples("linear")?[0],
    };
    check_epilogue("linear", &epilogue, out.shape(), samples)?;
    if epilogue.geglu && !(n / 2).is_multiple_of(PANEL) {
        // Values and gates share a panel.
        return cx.working(|cx| {
            let wide = linear(cx, x, matrix, bias, Epilogue { geglu: false, ..epilogue })?;
            geglu_into(cx, wide, out)
        });
    }
    gemm(cx, Gemm { x, matrix, bias, epilogue, out, samples }, &Contiguous)?;
    cx.ended(Op::Linear, out);
    Ok(())
}
