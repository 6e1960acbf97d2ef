//! Which pixels of its input lie under a convolution's kernel: arithmetic on addresses, so that
//! stride, padding and nearest upsampling need no buffer.

use core::ops::Range;

use super::params::Conv2d;
use super::rows::{Offsets, Rows};
use crate::arch::{MAX_TAPS, MR_MAX, NO_ROW};
use crate::error::{Error, Result};
use crate::tensor::packed::Sizes;

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

/// The row (or column) of the source that is nearest to row `at` of the result, as PyTorch's
/// `nearest` computes it, in f32.
pub(super) fn nearest_source(at: usize, source: usize, result: usize) -> usize {
    if source == result {
        return at;
    }
    if source * 2 == result {
        return at / 2;
    }
    ((at as f32 * (source as f32 / result as f32)) as usize).min(source.saturating_sub(1))
}
