//! Linear layers: one product with the rows of the input.

use super::context::Context;
use super::gemm::{Gemm, Rows, check_residual, gemm};
use super::observe::Op;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::Weight;

/// Rows that lie one after the other.
struct Contiguous {
    channels: usize,
}

impl Rows for Contiguous {
    fn offset(&self, row: usize, _tap: usize) -> usize {
        row * self.channels
    }
}

/// `x · weightᵀ + bias + residual`: `[.., k]` to `[.., n]`, for a weight `[n, k]` or `[n, k, 1,
/// 1]`.
///
/// # Errors
/// [`Error::Shape`] where x has not k channels or the residual is not of the output's shape, and
/// those of memory and weights.
pub fn linear(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Option<Weight>,
    residual: Option<Tensor>,
) -> Result<Tensor> {
    let [n, _] = features(weight);
    let out = cx.tensor(x.shape().with_last(n))?;
    linear_into(cx, x, weight, bias, residual, out)?;
    Ok(out)
}

/// [`linear`] into a tensor that is there, or a view on rows of one.
///
/// # Errors
/// As [`linear`], and [`Error::Shape`] where `out` has not x's rows or n channels.
pub fn linear_into(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Option<Weight>,
    residual: Option<Tensor>,
    out: Tensor,
) -> Result<()> {
    let [n, k] = features(weight);
    if x.channels() != k {
        let expected = x.shape().with_last(k).to_dims();
        return Err(Error::Shape { what: "linear", expected, found: x.shape().to_dims() });
    }
    out.expect("linear", x.shape().with_last(n))?;
    check_residual("linear", residual, out.shape())?;
    let product = Gemm { x, weight, bias, residual, out, taps: 1, channels: k, n };
    gemm(cx, product, &Contiguous { channels: k })?;
    cx.ended(Op::Linear, out);
    Ok(())
}

/// n and k: what comes out and what goes in.
fn features(weight: Weight) -> [usize; 2] {
    weight.shape.as_slice().split_first().map_or([1, 1], |(&n, rest)| [n, rest.iter().product()])
}
