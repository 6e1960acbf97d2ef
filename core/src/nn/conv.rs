//! Convolutions: `weight` `[out, in, kernel, kernel]` and `bias` `[out]`.

use crate::error::Result;
use crate::ops::{self, Context};
use crate::tensor::Tensor;
use crate::weights::Path;

/// What a [`conv2d`] layer yields, and how it slides.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    channels: usize,
    kernel: usize,
    bias: bool,
    slide: ops::Conv2d,
    residual: Option<Tensor>,
}

impl Conv {
    /// This many channels by a square kernel of odd size, padded so that the picture keeps its
    /// size, with a bias.
    pub const fn new(channels: usize, kernel: usize) -> Self {
        Self {
            channels,
            kernel,
            bias: true,
            slide: ops::Conv2d::padded(kernel / 2),
            residual: None,
        }
    }

    /// Every second pixel, down and across, with this padding: top, bottom, left, right.
    pub const fn halving(mut self, padding: [usize; 4]) -> Self {
        (self.slide.stride, self.slide.padding) = (2, padding);
        self
    }

    /// The input is first resized to this height and width, by its nearest pixels.
    pub const fn upsample_to(mut self, size: [usize; 2]) -> Self {
        self.slide.upsample_to = Some(size);
        self
    }

    /// Without a bias.
    pub const fn without_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// The residual, of the output's shape, is added.
    pub const fn plus(self, residual: Tensor) -> Self {
        Self { residual: Some(residual), ..self }
    }
}

/// `[n, h, w, in]` to `[n, h', w', channels]`.
///
/// # Errors
/// Those of [`ops::conv2d`] and of the weights.
pub fn conv2d(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, layer: Conv) -> Result<Tensor> {
    let Conv { channels, kernel, bias, slide, residual } = layer;
    let weight = cx.weight(&p.at("weight"), [channels, x.channels(), kernel, kernel])?;
    let bias = match bias {
        false => None,
        true => Some(cx.weight(&p.at("bias"), [channels])?),
    };
    ops::conv2d(cx, x, weight, bias, slide, residual)
}

/// [`conv2d`] whose result takes the place of `x`, the newest tensor.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    layer: Conv,
) -> Result<Tensor> {
    cx.replace(x, |cx| conv2d(cx, p, x, layer))
}
