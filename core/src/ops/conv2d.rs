//! Convolution on NHWC: a product whose rows are addresses, so there is no im2col buffer.

use super::context::Context;
use super::gemm::{Gemm, Rows, check_residual, gemm};
use super::observe::Op;
use super::resample::nearest_source;
use crate::arch::{MAX_TAPS, NO_ROW};
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};
use crate::weights::Weight;

/// How a convolution slides over its input. The kernel's size comes from the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Pixels from one output to the next, down and across.
    pub stride: usize,
    /// Rows and columns of zeros around the input: top, bottom, left, right.
    pub padding: [usize; 4],
    /// The input is first resized to this height and width, by its nearest pixels, without a
    /// buffer.
    pub upsample_to: Option<[usize; 2]>,
}

impl Conv2d {
    /// Stride 1 and as much padding on each side.
    pub const fn padded(padding: usize) -> Self {
        Self { stride: 1, padding: [padding; 4], upsample_to: None }
    }
}

/// The input pixel under each tap of each output pixel.
struct Pixels {
    /// Height and width as they lie in memory.
    stored: [usize; 2],
    /// Height and width that the kernel slides over.
    size: [usize; 2],
    out: [usize; 2],
    kernel_width: usize,
    stride: usize,
    top: usize,
    left: usize,
    channels: usize,
}

impl Rows for Pixels {
    fn offset(&self, row: usize, tap: usize) -> usize {
        let [height, width] = self.out;
        let (x, y, image) = (row % width, row / width % height, row / width / height);
        let (dy, dx) = (tap / self.kernel_width, tap % self.kernel_width);
        let y = (y * self.stride + dy).wrapping_sub(self.top);
        let x = (x * self.stride + dx).wrapping_sub(self.left);
        if y >= self.size[0] || x >= self.size[1] {
            return NO_ROW;
        }
        let y = nearest_source(y, self.stored[0], self.size[0]);
        let x = nearest_source(x, self.stored[1], self.size[1]);
        ((image * self.stored[0] + y) * self.stored[1] + x) * self.channels
    }
}

/// `[n, h, w, in]` to `[n, h', w', out]`, for a weight `[out, in, kh, kw]` as checkpoints have it.
///
/// # Errors
/// [`Error::Shape`] where channels, residual or kernel do not fit, [`Error::Capacity`] where the
/// kernel has more than nine taps, and those of memory and weights.
pub fn conv2d(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Option<Weight>,
    conv: Conv2d,
    residual: Option<Tensor>,
) -> Result<Tensor> {
    let [images, height, width, channels] = x.dims("conv2d")?;
    let [n, k, kernel_height, kernel_width] = weight.shape.dims("conv2d's weight")?;
    if k != channels {
        let expected = [images, height, width, k];
        return Err(Error::Shape { what: "conv2d", expected, found: x.shape().to_dims() });
    }
    let taps = kernel_height.saturating_mul(kernel_width);
    if taps == 0 || taps > MAX_TAPS || conv.stride == 0 {
        return Err(Error::Capacity { what: "taps of a kernel", needed: taps, limit: MAX_TAPS });
    }
    let size = conv.upsample_to.unwrap_or([height, width]);
    let [top, bottom, left, right] = conv.padding;
    let steps = |size: usize, kernel: usize, pad: usize| -> Result<usize> {
        let padded = size.checked_add(pad).ok_or(Error::Overflow { what: "a picture" })?;
        let room = padded.checked_sub(kernel).filter(|_| size > 0 && height > 0 && width > 0);
        room.map(|room| room / conv.stride + 1).ok_or(Error::Shape {
            what: "conv2d's kernel is larger than its input",
            expected: [kernel_height, kernel_width, 0, 0],
            found: [height, width, 0, 0],
        })
    };
    let [above, beside] = [top.saturating_add(bottom), left.saturating_add(right)];
    let out = [steps(size[0], kernel_height, above)?, steps(size[1], kernel_width, beside)?];
    let result = cx.tensor(Shape::new([images, out[0], out[1], n]))?;
    check_residual("conv2d", residual, result.shape())?;
    let product = Gemm { x, weight, bias, residual, out: result, taps, channels, n };
    let stride = conv.stride;
    let stored = [height, width];
    gemm(cx, product, &Pixels { stored, size, out, kernel_width, stride, top, left, channels })?;
    cx.ended(Op::Conv2d, result);
    Ok(result)
}
