//! Convolutions: `weight` `[out, in, kernel, kernel]` and `bias` `[out]`.

use crate::error::Result;
use crate::ops::{self, Activation, Context, Epilogue, Matrix};
use crate::tensor::{Form, Joined, Tensor};
use crate::weights::{Path, Weight};

/// What a [`conv2d`] layer yields, and how it slides.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    channels: usize,
    bias: bool,
    slide: ops::Conv2d,
    epilogue: Epilogue,
}

impl Conv {
    /// This many channels by a square kernel of odd size, padded so that the picture keeps its
    /// size, with a bias.
    pub const fn new(channels: usize, kernel: usize) -> Self {
        let slide = ops::Conv2d::padded(kernel, kernel / 2);
        Self { channels, bias: true, slide, epilogue: Epilogue::NONE }
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
    pub const fn plus(mut self, residual: Tensor) -> Self {
        self.epilogue.residual = Some(residual);
        self
    }

    /// The result is added to what the output holds: for a convolution into a tensor that is there.
    pub const fn added(mut self) -> Self {
        self.epilogue.accumulate = true;
        self
    }

    /// `[n, channels]`: added to every pixel of a sample.
    pub const fn plus_per_sample(mut self, shift: Option<Tensor>) -> Self {
        self.epilogue.per_sample = shift;
        self
    }

    /// The activation follows.
    pub const fn then(mut self, activation: Activation) -> Self {
        self.epilogue.activation = Some(activation);
        self
    }

    /// The layer's weight, under `p`, for an input of `k` channels.
    fn matrix(self, cx: &mut Context<'_>, p: &Path<'_>, k: usize) -> Result<Matrix> {
        let [height, width] = self.slide.kernel;
        cx.matrix(&p.at("weight"), [self.channels, k, height, width])
    }

    /// The layer's weight and bias, under `p`, for an input of `k` channels.
    pub(super) fn weights(
        self,
        cx: &mut Context<'_>,
        p: &Path<'_>,
        k: usize,
    ) -> Result<(Matrix, Option<Weight>)> {
        let matrix = self.matrix(cx, p, k)?;
        let bias = self.bias.then(|| cx.weight(&p.at("bias"), [self.channels])).transpose()?;
        Ok((matrix, bias))
    }

    /// Channels of the result.
    pub(super) const fn channels(&self) -> usize {
        self.channels
    }

    /// How the layer slides.
    pub(super) const fn slide(&self) -> ops::Conv2d {
        self.slide
    }

    /// The form in which the layer wants its input, of `k` channels.
    ///
    /// # Errors
    /// Those of [`Context::form`].
    pub fn form(self, cx: &mut Context<'_>, p: &Path<'_>, k: usize) -> Result<Form> {
        let [height, width] = self.slide.kernel;
        cx.form(&p.at("weight"), [self.channels, k, height, width])
    }
}

/// `[n, h, w, in]`, in any form, to `[n, h', w', channels]`.
///
/// # Errors
/// Those of [`ops::conv2d`] and of the weights.
pub fn conv2d(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, layer: Conv) -> Result<Tensor> {
    let (matrix, bias) = layer.weights(cx, p, x.channels())?;
    ops::conv2d(cx, x, matrix, bias, layer.slide, layer.epilogue)
}

/// [`conv2d`] into a tensor that is there.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_into(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    layer: Conv,
    out: Tensor,
) -> Result<()> {
    let (matrix, bias) = layer.weights(cx, p, x.channels())?;
    ops::conv2d_into(cx, x, matrix, bias, layer.slide, layer.epilogue, out)
}

/// [`conv2d_into`] by a kernel of one tap of x, or of two tensors side by side, in f32.
///
/// # Errors
/// As [`conv2d`].
pub(super) fn shortcut_into(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: impl Into<Joined>,
    out: Tensor,
) -> Result<()> {
    let x = x.into();
    let (matrix, bias) = Conv::new(out.channels(), 1).weights(cx, p, x.count())?;
    ops::pointwise_conv2d_into(cx, x, matrix, bias, out)
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
