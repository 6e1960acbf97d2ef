//! Linear layers: `weight` `[out, in]` or `[out, in, 1, 1]`, and `bias` `[out]`.

use crate::error::Result;
use crate::ops::{self, Activation, Context, Epilogue, Matrix};
use crate::tensor::{Form, Tensor};
use crate::weights::{Path, Weight};

/// What a [`linear`] layer yields.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    features: usize,
    bias: bool,
    pointwise: bool,
    epilogue: Epilogue,
}

impl Linear {
    /// This many features, with a bias.
    pub const fn new(features: usize) -> Self {
        Self { features, bias: true, pointwise: false, epilogue: Epilogue::NONE }
    }

    /// With a bias or without.
    pub const fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// Whether the checkpoint has the weight as that of a 1x1 convolution, `[out, in, 1, 1]`.
    pub const fn pointwise(self, pointwise: bool) -> Self {
        Self { pointwise, ..self }
    }

    /// The residual, of the output's shape, is added.
    pub const fn plus(mut self, residual: Tensor) -> Self {
        self.epilogue.residual = Some(residual);
        self
    }

    /// The activation follows.
    pub const fn then(mut self, activation: Activation) -> Self {
        self.epilogue.activation = Some(activation);
        self
    }

    /// The layer has twice as many features, and the second half is the gate of the first (GEGLU).
    pub const fn geglu(mut self) -> Self {
        self.epilogue.geglu = true;
        self
    }

    /// The layer's weight, under `p`, for an input of `k` channels.
    ///
    /// # Errors
    /// Those of [`Context::matrix`].
    pub fn matrix(self, cx: &mut Context<'_>, p: &Path<'_>, k: usize) -> Result<Matrix> {
        let n = self.rows();
        match self.pointwise {
            false => cx.matrix(&p.at("weight"), [n, k]),
            true => cx.matrix(&p.at("weight"), [n, k, 1, 1]),
        }
    }

    /// The layer's weight and bias, under `p`, for an input of `k` channels.
    fn weights(
        self,
        cx: &mut Context<'_>,
        p: &Path<'_>,
        k: usize,
    ) -> Result<(Matrix, Option<Weight>)> {
        let matrix = self.matrix(cx, p, k)?;
        let bias = self.bias.then(|| cx.weight(&p.at("bias"), [matrix.sizes.n])).transpose()?;
        Ok((matrix, bias))
    }

    /// The form in which the layer wants its input, of `k` channels.
    ///
    /// # Errors
    /// Those of [`Context::form`].
    pub fn form(self, cx: &mut Context<'_>, p: &Path<'_>, k: usize) -> Result<Form> {
        match self.pointwise {
            false => cx.form(&p.at("weight"), [self.rows(), k]),
            true => cx.form(&p.at("weight"), [self.rows(), k, 1, 1]),
        }
    }

    /// Rows of the weight.
    const fn rows(&self) -> usize {
        if self.epilogue.geglu { 2 * self.features } else { self.features }
    }
}

/// `[.., in]`, in any form, to `[.., features]`.
///
/// # Errors
/// Those of [`ops::linear`] and of the weights.
pub fn linear(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, layer: Linear) -> Result<Tensor> {
    let (matrix, bias) = layer.weights(cx, p, x.channels())?;
    ops::linear(cx, x, matrix, bias, layer.epilogue)
}

/// [`linear`] of the same rows in two forms: of those that the layer wants, or of the last.
///
/// # Errors
/// As [`linear`].
pub(super) fn linear_of_either(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    [x, otherwise]: [Tensor; 2],
    layer: Linear,
) -> Result<Tensor> {
    let (matrix, bias) = layer.weights(cx, p, x.channels())?;
    let x = if x.form() == matrix.packing.form() { x } else { otherwise };
    ops::linear(cx, x, matrix, bias, layer.epilogue)
}

/// [`linear`] into a tensor that is there.
///
/// # Errors
/// As [`linear`].
pub fn linear_into(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    layer: Linear,
    out: Tensor,
) -> Result<()> {
    let (matrix, bias) = layer.weights(cx, p, x.channels())?;
    ops::linear_into(cx, x, matrix, bias, layer.epilogue, out)
}

/// `sum` and what [`linear`] yields: in its place, or as a new tensor where `sum` is still needed.
///
/// # Errors
/// As [`linear`].
pub fn linear_added_to(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    mut layer: Linear,
    sum: Tensor,
) -> Result<Tensor> {
    if !cx.may_overwrite(sum) {
        return linear(cx, p, x, layer.plus(sum));
    }
    layer.epilogue.accumulate = true;
    linear_into(cx, p, x, layer, sum)?;
    Ok(sum)
}
