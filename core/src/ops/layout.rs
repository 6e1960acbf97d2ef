//! Between the order of PyTorch's pictures and ours: what noise generators and goldens need.

use super::context::Context;
use super::observe::Op;
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// `[n, c, h, w]` to `[n, h, w, c]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where x has not four dimensions, and those of memory.
pub fn nchw_to_nhwc(cx: &mut Context<'_>, x: Tensor) -> Result<Tensor> {
    let [n, c, h, w] = x.dims("nchw_to_nhwc")?;
    transposed(cx, x, Shape::new([n, h, w, c]), n, c, h * w)
}

/// `[n, h, w, c]` to `[n, c, h, w]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where x has not four dimensions, and those of memory.
pub fn nhwc_to_nchw(cx: &mut Context<'_>, x: Tensor) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("nhwc_to_nchw")?;
    transposed(cx, x, Shape::new([n, c, h, w]), n, h * w, c)
}

/// Each of `n` matrices of `rows` by `columns`, transposed.
fn transposed(
    cx: &mut Context<'_>,
    x: Tensor,
    shape: Shape,
    n: usize,
    rows: usize,
    columns: usize,
) -> Result<Tensor> {
    let out = cx.tensor(shape)?;
    if cx.is_planning() {
        return Ok(out);
    }
    let (to, [from]) = cx.arena.split(out, [x]);
    for image in 0..n {
        let first = image * rows * columns;
        for row in 0..rows {
            for column in 0..columns {
                to[first + column * rows + row] = from[first + row * columns + column];
            }
        }
    }
    cx.ended(Op::Copy, out);
    Ok(out)
}
