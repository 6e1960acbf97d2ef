//! Convolution on NHWC: a product whose rows are addresses, so there is no im2col buffer.

use core::ops::Range;

use super::activation::activate;
use super::context::{Context, Matrix};
use super::doubled;
use super::gemm::{Epilogue, Gemm, Offsets, Rows, check_epilogue, gemm};
use super::observe::Op;
use super::resample::{nearest_source, upsample_nearest};
use super::spread;
use super::tape::{Product, Record};
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

    /// Height and width of the output for an input of `[height, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the kernel is larger than the padded input, or the input is empty;
    /// [`Error::Capacity`] where the stride is 0.
    pub fn output_size(&self, [height, width]: [usize; 2]) -> Result<[usize; 2]> {
        let ([kernel_height, kernel_width], [top, bottom, left, right]) =
            (self.kernel, self.padding);
        if self.stride == 0 {
            return Err(Error::Capacity { what: "taps of a kernel", needed: 0, limit: MAX_TAPS });
        }
        let size = self.upsample_to.unwrap_or([height, width]);
        let steps = |size: usize, kernel: usize, pad: usize| -> Result<usize> {
            let padded = size.checked_add(pad).ok_or(Error::Overflow { what: "a picture" })?;
            let room = padded.checked_sub(kernel).filter(|_| size > 0 && height > 0 && width > 0);
            room.map(|room| room / self.stride + 1).ok_or(Error::Shape {
                what: "conv2d's kernel is larger than its input",
                expected: [kernel_height, kernel_width, 0, 0],
                found: [height, width, 0, 0],
            })
        };
        let [above, beside] = [top.saturating_add(bottom), left.saturating_add(right)];
        Ok([steps(size[0], kernel_height, above)?, steps(size[1], kernel_width, beside)?])
    }
}

/// The input pixel under each tap of each output pixel.
#[derive(Clone, Copy)]
pub(super) struct Pixels {
    /// Height and width as they lie in memory.
    stored: [usize; 2],
    /// Height and width that the kernel slides over.
    size: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    top: usize,
    left: usize,
    /// Of a band: its first row of the output, and the first row of the input that is there.
    first: [usize; 2],
}

impl Rows for Pixels {
    fn gather(&self, first: usize, rows: usize, bytes: usize, out: &mut Offsets) {
        let ([height, width], [kernel_height, kernel_width]) = (self.out, self.kernel);
        let (mut x, mut y) = (first % width, first / width % height);
        let mut image = first / width / height;
        let mut r = 0;
        while r < rows {
            // Pixels of one line, tap by tap.
            let run = (width - x).min(rows - r);
            let lines = self.lines(image, y);
            for dx in 0..kernel_width {
                let columns = self.columns(x, dx, run, bytes);
                for (dy, &line) in lines.iter().enumerate().take(kernel_height) {
                    let to = &mut out[(dy * kernel_width + dx) * MR_MAX + r..][..run];
                    match line {
                        NO_ROW => to.fill(NO_ROW),
                        line => columns.write(line * bytes, to),
                    }
                }
            }
            (r, x, y) = (r + run, 0, y + 1);
            if y == height {
                (y, image) = (0, image + 1);
            }
        }
    }
}

impl Pixels {
    /// # Errors
    /// As [`conv2d`] for a picture `[n, h, w, c]`, but those of memory and weights.
    pub fn new(dims: [usize; 4], sizes: Sizes, conv: Conv2d) -> Result<Self> {
        let [images, height, width, channels] = dims;
        let Sizes { channels: k, taps, .. } = sizes;
        if k != channels {
            let expected = [images, height, width, k];
            return Err(Error::Shape { what: "conv2d", expected, found: dims });
        }
        let is_kernel = conv.kernel[0].saturating_mul(conv.kernel[1]) == taps;
        if taps == 0 || taps > MAX_TAPS || conv.stride == 0 || !is_kernel {
            let (what, limit) = ("taps of a kernel", MAX_TAPS);
            return Err(Error::Capacity { what, needed: taps, limit });
        }
        let (stored, out) = ([height, width], conv.output_size([height, width])?);
        let size = conv.upsample_to.unwrap_or(stored);
        let Conv2d { kernel, stride, padding: [top, _, left, _], .. } = conv;
        Ok(Self { stored, size, out, kernel, stride, top, left, first: [0, 0] })
    }

    /// Height and width of the output.
    pub fn out(&self) -> [usize; 2] {
        self.out
    }

    /// The rows of the input that lie under these rows of the output, which are not empty.
    pub fn rows_under(&self, rows: &Range<usize>) -> Range<usize> {
        let [stored, size] = [self.stored[0], self.size[0]];
        let above = (rows.start * self.stride).saturating_sub(self.top).min(size);
        let below = ((rows.end - 1) * self.stride + self.kernel[0]).saturating_sub(self.top);
        let source = |y| nearest_source(y, stored, size);
        match below.min(size) {
            below if below > above => source(above)..source(below - 1) + 1,
            _ if above == size => stored..stored,
            _ => 0..0,
        }
    }

    /// The most rows of the input that lie under so many rows of the output.
    pub fn most_under(&self, rows: usize) -> usize {
        let [stored, size] = [self.stored[0], self.size[0]];
        let span =
            (rows.saturating_sub(1).saturating_mul(self.stride)).saturating_add(self.kernel[0]);
        let most = match stored.checked_mul(2) {
            Some(doubled) if doubled == size => span / 2 + 1,
            _ if stored <= size => span,
            // Neighbours may lie any number of rows apart.
            _ => stored,
        };
        most.min(stored)
    }

    /// These rows of one picture's output, where the input's rows begin with number `held`.
    pub fn band(&self, rows: &Range<usize>, held: usize) -> Self {
        Self { out: [rows.len(), self.out[1]], first: [rows.start, held], ..*self }
    }

    /// Where in their line the pixels begin that lie under column `dx` of the kernel, for `run`
    /// pixels of the output from `x` on.
    fn columns(&self, x: usize, dx: usize, run: usize, bytes: usize) -> Columns {
        let ([size, stored], stride) = ([self.size[1], self.stored[1]], self.stride);
        // Counted from the first column of the padding.
        let at = x * stride + dx;
        let inside = |edge: usize| edge.saturating_sub(at).div_ceil(stride).min(run);
        let [first, end] = [inside(self.left), inside(self.left + size)];
        if size == stored {
            let begin = at.wrapping_sub(self.left).wrapping_mul(bytes);
            return Columns::Even { inside: first..end, begin, step: stride * bytes };
        }
        let mut offsets = [NO_ROW; MR_MAX];
        for (i, offset) in offsets.iter_mut().enumerate().take(end).skip(first) {
            *offset = nearest_source(at + i * stride - self.left, stored, size) * bytes;
        }
        Columns::Any(offsets)
    }

    /// The first pixel in memory of the lines under row `y` of an output, or [`NO_ROW`] in the
    /// padding.
    fn lines(&self, image: usize, y: usize) -> [usize; MAX_TAPS] {
        let mut lines = [NO_ROW; MAX_TAPS];
        let top = ((self.first[0] + y) * self.stride).wrapping_sub(self.top);
        for (dy, line) in lines.iter_mut().enumerate().take(self.kernel[0]) {
            let at = top.wrapping_add(dy);
            if at < self.size[0] {
                let at = nearest_source(at, self.stored[0], self.size[0]);
                *line = (image * self.stored[0] + at - self.first[1]) * self.stored[1];
            }
        }
        lines
    }
}

/// At which bytes of a line some pixels begin.
enum Columns {
    /// `step` bytes apart from `begin` on, for those that are `inside` the picture.
    Even { inside: Range<usize>, begin: usize, step: usize },
    /// Wherever, or [`NO_ROW`].
    Any([usize; MR_MAX]),
}

impl Columns {
    /// The pixels' places in a line that begins at byte `line`; [`NO_ROW`] in the padding.
    fn write(&self, line: usize, to: &mut [usize]) {
        match self {
            Self::Even { inside, begin, step } => {
                let mut offset = line.wrapping_add(*begin);
                for to in &mut *to {
                    *to = offset;
                    offset = offset.wrapping_add(*step);
                }
                // Nearly always none or one on each side.
                let mut first = inside.start;
                while first > 0 {
                    first -= 1;
                    to[first] = NO_ROW;
                }
                let mut end = inside.end;
                while let Some(to) = to.get_mut(end) {
                    *to = NO_ROW;
                    end += 1;
                }
            }
            Self::Any(offsets) => {
                for (to, &offset) in to.iter_mut().zip(offsets) {
                    *to = if offset == NO_ROW { offset } else { line + offset };
                }
            }
        }
    }
}

/// `[n, h, w, in]` to `[n, h', w', out]`, for a weight `[out, in, kh, kw]`. x is in any form; that
/// of the weight costs nothing. A weight that is packed doubled goes only with a doubled picture,
/// and then takes a quarter of the products.
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
/// As [`conv2d`], and [`Error::Shape`] where `out` is not of the result's shape.
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
