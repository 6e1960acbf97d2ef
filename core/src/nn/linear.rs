//! Linear layers: `weight` `[out, in]` or `[out, in, 1, 1]`, and `bias` `[out]`.

use crate::error::Result;
use crate::ops::{self, Context};
use crate::tensor::Tensor;
use crate::weights::Path;

/// What a [`linear`] layer yields.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    features: usize,
    bias: bool,
    pointwise: bool,
    residual: Option<Tensor>,
}

impl Linear {
    /// This many features, with a bias.
    pub const fn new(features: usize) -> Self {
        Self { features, bias: true, pointwise: false, residual: None }
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
    pub const fn plus(self, residual: Tensor) -> Self {
        Self { residual: Some(residual), ..self }
    }
}

/// `[.., in]` to `[.., features]`.
///
/// # Errors
/// Those of [`ops::linear`] and of the weights.
pub fn linear(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, layer: Linear) -> Result<Tensor> {
    let (n, k) = (layer.features, x.channels());
    let weight = match layer.pointwise {
        false => cx.weight(&p.at("weight"), [n, k])?,
        true => cx.weight(&p.at("weight"), [n, k, 1, 1])?,
    };
    let bias = match layer.bias {
        false => None,
        true => Some(cx.weight(&p.at("bias"), [n])?),
    };
    ops::linear(cx, x, weight, bias, layer.residual)
}
