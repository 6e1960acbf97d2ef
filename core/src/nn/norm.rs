//! Normalisation layers: `weight` and `bias` `[c]`.

use crate::error::Result;
use crate::ops::{self, Activation, Context, GroupNorm};
use crate::tensor::{Form, Joined, Tensor};
use crate::weights::Path;

/// The two numbers of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Groups of channels; they divide the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl Norm {
    /// Nothing follows.
    pub const fn alone(self) -> GroupNorm {
        let Self { groups, eps } = self;
        GroupNorm { groups, eps, scale_shift: None, activation: None, form: Form::F32 }
    }

    /// SiLU follows.
    pub const fn then_silu(self) -> GroupNorm {
        GroupNorm { activation: Some(Activation::Silu), ..self.alone() }
    }

    /// A scale and a shift `[n, 2c]` follow, then SiLU.
    pub const fn then_scale_shift_silu(self, scale_shift: Tensor) -> GroupNorm {
        GroupNorm { scale_shift: Some(scale_shift), ..self.then_silu() }
    }
}

/// `[n, .., c]`, normalised over each sample's groups of channels.
///
/// # Errors
/// Those of [`ops::group_norm`] and of the weights.
pub fn group_norm(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: impl Into<Joined>,
    norm: GroupNorm,
) -> Result<Tensor> {
    let x = x.into();
    let weight = cx.weight(&p.at("weight"), [x.count()])?;
    let bias = cx.weight(&p.at("bias"), [x.count()])?;
    ops::group_norm(cx, x, weight, bias, norm)
}

/// [`group_norm`] in place, or of a new tensor where the walk is recorded.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    norm: GroupNorm,
) -> Result<Tensor> {
    let weight = cx.weight(&p.at("weight"), [x.channels()])?;
    let bias = cx.weight(&p.at("bias"), [x.channels()])?;
    ops::group_norm_replacing(cx, x, weight, bias, norm)
}

/// `[.., c]`, each row normalised; its rows in `form`.
///
/// # Errors
/// Those of [`ops::layer_norm`] and of the weights.
pub fn layer_norm(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    eps: f32,
    form: Form,
) -> Result<Tensor> {
    let weight = cx.weight(&p.at("weight"), [x.channels()])?;
    let bias = cx.weight(&p.at("bias"), [x.channels()])?;
    ops::layer_norm(cx, x, weight, bias, eps, form)
}
