//! Linear layers: `weight` `[out, in]` or `[out, in, 1, 1]`, and `bias` `[out]`.

use crate::error::Result;
use crate::ops::{self, Activation, Context, Epilogue, Matrix};
use crate::tensor::{Form, Tensor};
use crate::weights::Path;

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
    let matrix = layer.matrix(cx, p, x.channels())?;
    let bias = match layer.bias {
        false => None,
        true => Some(cx.weight(&p.at("bias"), [matrix.sizes.n])?),
    };
    ops::linear(cx, x, matrix, bias, layer.epilogue)
}

/// [`linear`] into a tensor that is there, to which it is added.
///
/// # Errors
/// As [`linear`].
pub fn linear_added_to(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, out: Tensor) -> Result<()> {
    let layer = Linear::new(out.channels());
    let matrix = layer.matrix(cx, p, x.channels())?;
    let bias = cx.weight(&p.at("bias"), [out.channels()])?;
    let epilogue = Epilogue { accumulate: true, ..Epilogue::NONE };
    ops::linear_into(cx, x, matrix, Some(bias), epilogue, out)
}
