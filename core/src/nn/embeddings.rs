//! Embeddings with weights of their own.

use super::linear::{Linear, linear};
use crate::error::Result;
use crate::ops::{Activation, Context};
use crate::tensor::Tensor;
use crate::weights::Path;

/// `TimestepEmbedding`: `[n, in]` to `[n, features]` by two linear layers with SiLU between.
///
/// # Errors
/// Those of the linear layers.
pub fn timestep_embedding(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    features: usize,
) -> Result<Tensor> {
    cx.scope(|cx| {
        let layer = Linear::new(features).then(Activation::Silu);
        let x = linear(cx, &p.at("linear_1"), x, layer)?;
        linear(cx, &p.at("linear_2"), x, Linear::new(features))
    })
}
