//! How ops are carried out, beside on what: told by layers, and written down on the tape.

use crate::arch::{Activation, MAX_TAPS};
use crate::error::{Error, Result};
use crate::tensor::{Form, Tensor};

/// How queries, keys and values are put to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads; they divide the channels.
    pub heads: usize,
    /// Whether query i sees keys up to i only.
    pub causal: bool,
    /// What both products are computed in: f32, or bf16 for every other form.
    pub form: Form,
}

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

/// What a group normalisation does beside normalising.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of channels; they divide the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// `[n, 2c]`: a scale and a shift for each sample and channel, `y·(1 + scale) + shift`.
    pub scale_shift: Option<Tensor>,
    /// Applied last.
    pub activation: Option<Activation>,
    /// How the result's rows are stored.
    pub form: Form,
}

impl GroupNorm {
    /// The result's rows are stored in this form.
    pub const fn in_form(self, form: Form) -> Self {
        Self { form, ..self }
    }
}
