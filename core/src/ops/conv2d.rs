//! Convolution on NHWC: a product whose rows are addresses, so there is no im2col buffer.

use super::context::{Context, Matrix};
use super::gemm::{Epilogue, Gemm, Rows, check_epilogue, gemm};
use super::observe::Op;
use super::resample::nearest_source;
use crate::arch::{MAX_TAPS, MR_MAX, NO_ROW};
use crate::error::{Error, Result};
use crate::tensor::packed::Sizes;
use crate::tensor::{Shape, Tensor};
use crate::weights::Weight;

/// How a convolution slides over its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from one output to the next, down and across.
    pub stride: usize,
    /// Rows and columns of zeros around the input: top, bottom, left, right.
    pub padding: [usize; 4],
    /// The input is first resized to this height and width, by its nearest pixels, without a
    /// buffer.
    pub upsample_to: Option<[usize; 2]>,
}

impl Conv2d {
    /// A square kernel, stride 1 and as much padding on each side.
    pub const fn padded(kernel: usize, padding: usize) -> Self {
        Self { kernel: [kernel; 2], stride: 1, padding: [padding; 4], upsample_to: None }
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
    taps: usize,
    stride: usize,
    top: usize,
    left: usize,
}

impl Rows for Pixels {
    fn gather(&self, first: usize, rows: usize, out: &mut [usize; MAX_TAPS * MR_MAX]) {
        let [height, width] = self.out;
        let (mut x, mut y) = (first % width, first / width % height);
        let mut image = first / width / height;
        for r in 0..MR_MAX {
            if r >= rows {
                (0..self.taps).for_each(|tap| out[tap * MR_MAX + r] = NO_ROW);
                continue;
            }
            let top = (y * self.stride).wrapping_sub(self.top);
            let left = (x * self.stride).wrapping_sub(self.left);
            let (mut dy, mut dx) = (0, 0);
            for tap in 0..self.taps {
                let (at_y, at_x) = (top.wrapping_add(dy), left.wrapping_add(dx));
                out[tap * MR_MAX + r] = self.stored_pixel(image, at_y, at_x);
                dx += 1;
                if dx == self.kernel_width {
                    (dy, dx) = (dy + 1, 0);
                }
            }
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
            }
            if y == height {
                (y, image) = (0, image + 1);
            }
        }
    }
}

impl Pixels {
    /// The pixel in memory that stands at this row and column, or [`NO_ROW`] in the padding.
    fn stored_pixel(&self, image: usize, y: usize, x: usize) -> usize {
        if y >= self.size[0] || x >= self.size[1] {
            return NO_ROW;
        }
        let y = nearest_source(y, self.stored[0], self.size[0]);
        let x = nearest_source(x, self.stored[1], self.size[1]);
        (image * self.stored[0] + y) * self.stored[1] + x
    }
}

/// `[n, h, w, in]` to `[n, h', w', out]`, for a weight `[out, in, kh, kw]`. x is in any form; that
/// of the weight costs nothing.
///
/// # Errors
/// [`Error::Shape`] where channels, residual or kernel do not fit, [`Error::Capacity`] where the
/// kernel has more than nine taps, and those of memory and weights.
pub fn conv2d(
    cx: &mut Context<'_>,
    x: Tensor,
    matrix: Matrix,
    bias: Option<Weight>,
    conv: Conv2d,
    epilogue: Epilogue,
) -> Result<Tensor> {
    let [images, height, width, channels] = x.dims("conv2d")?;
    let Sizes { n, channels: k, taps } = matrix.sizes;
    let [kernel_height, kernel_width] = conv.kernel;
    if k != channels {
        let expected = [images, height, width, k];
        return Err(Error::Shape { what: "conv2d", expected, found: x.shape().to_dims() });
    }
    let is_kernel = kernel_height.saturating_mul(kernel_width) == taps;
    if taps == 0 || taps > MAX_TAPS || conv.stride == 0 || !is_kernel {
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
    check_epilogue("conv2d", &epilogue, result.shape(), images)?;
    let samples = if epilogue.per_sample.is_some() { images } else { 1 };
    let product = Gemm { x, matrix, bias, epilogue, out: result, samples };
    let (stride, stored) = (conv.stride, [height, width]);
    gemm(cx, product, &Pixels { stored, size, out, kernel_width, taps, stride, top, left })?;
    cx.ended(Op::Conv2d, result);
    Ok(result)
}
