//! `Transformer2DModel`: pixels as tokens that look at each other and at the prompt (Rombach et al.
//! 2022, section 3.3).

use super::attention::{Attention, AttentionNames, attention};
use super::linear::{Linear, linear, linear_added_to, linear_into};
use super::norm::{Norm, group_norm, layer_norm};
use crate::error::Result;
use crate::ops::Context;
use crate::tensor::Tensor;
use crate::weights::Path;

/// The epsilon of the normalisation before the transformer, whatever the network's own.
const NORM_EPS: f32 = 1e-6;

/// The epsilon of each layer normalisation.
const LAYER_NORM_EPS: f32 = 1e-5;

/// The numbers of a [`transformer_2d_replacing`].
#[derive(Clone, Copy, Debug)]
pub struct Transformer2d {
    /// `BasicTransformerBlock`s.
    pub layers: usize,
    /// Heads. The tokens are `heads * (channels / heads)` wide inside.
    pub heads: usize,
    /// Groups of the normalisation.
    pub groups: usize,
    /// `[n, t, c]`: the encoded prompt.
    pub encoder_hidden_states: Tensor,
    /// Whether the projections are linear layers, not 1x1 convolutions.
    pub use_linear_projection: bool,
    /// Whether the first attention looks at the prompt too.
    pub only_cross_attention: bool,
}

/// `[n, h, w, c]` to the same shape; the result takes the place of `x`, the newest tensor.
///
/// Self-attention's peak is seven times x: x, tokens, normalised tokens, queries, keys, values, and
/// what they bring back (35 MiB in Stable Diffusion 1 at 512x512).
///
/// # Errors
/// Those of its layers.
pub fn transformer_2d_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    model: Transformer2d,
) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("transformer_2d")?;
    let inner = c / model.heads.max(1) * model.heads;
    let projection = |features| Linear::new(features).pointwise(!model.use_linear_projection);
    let norm = Norm { groups: model.groups, eps: NORM_EPS };
    let blocks = p.at("transformer_blocks");
    cx.replace(x, |cx| {
        let residual = x.reshape([n, h * w, c])?;
        let form = projection(inner).form(cx, &p.at("proj_in"), c)?;
        let mut y = cx.tensor(residual.shape().with_last(inner))?;
        cx.scratch(|cx| {
            let rows = group_norm(cx, &p.at("norm"), residual, norm.alone().in_form(form))?;
            linear_into(cx, &p.at("proj_in"), rows, projection(inner), y)
        })?;
        for layer in 0..model.layers {
            y = basic_transformer_block_replacing(cx, &blocks.index(layer), y, model)?;
        }
        let out = linear_added_to(cx, &p.at("proj_out"), y, projection(c), residual)?;
        out.reshape([n, h, w, c])
    })
}

/// `BasicTransformerBlock`: `[n, t, inner]` to the same, in its place.
fn basic_transformer_block_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    model: Transformer2d,
) -> Result<Tensor> {
    let (inner, names) = (x.channels(), AttentionNames::DIFFUSERS);
    let layer = Attention { heads: model.heads, inner, bias: false, causal: false, names };
    let states = model.encoder_hidden_states;
    let query = |p: &Path<'_>, cx: &mut Context<'_>| {
        Linear::new(inner).form(cx, &p.at(names.query()), inner)
    };
    let x = cx.replace(x, |cx| {
        let form = query(&p.at("attn1"), cx)?;
        let y = layer_norm(cx, &p.at("norm1"), x, LAYER_NORM_EPS, form)?;
        let states = if model.only_cross_attention { states } else { y };
        attention(cx, &p.at("attn1"), y, states, x, layer)
    })?;
    let x = cx.replace(x, |cx| {
        let form = query(&p.at("attn2"), cx)?;
        let y = layer_norm(cx, &p.at("norm2"), x, LAYER_NORM_EPS, form)?;
        attention(cx, &p.at("attn2"), y, states, x, layer)
    })?;
    feed_forward_replacing(cx, p, x)
}

/// `x + ff(norm3(x))` with GEGLU (Shazeer 2020): in the place of x, one part of the rows after the
/// other, or as a whole where x is still needed.
fn feed_forward_replacing(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor) -> Result<Tensor> {
    let (rows, c) = (x.row_count(), x.channels());
    let limits = cx.limits();
    let part = rows.div_ceil(limits.feed_forward_parts).max(limits.feed_forward_rows);
    let (widen, narrow) = (p.at("ff.net.0.proj"), p.at("ff.net.2"));
    let wide = Linear::new(4 * c).geglu();
    let form = wide.form(cx, &widen, c)?;
    let into = |cx: &mut Context<'_>, x: Tensor| {
        let y = layer_norm(cx, &p.at("norm3"), x, LAYER_NORM_EPS, form)?;
        let y = linear(cx, &widen, y, wide)?;
        linear_added_to(cx, &narrow, y, Linear::new(c), x)
    };
    if !cx.may_overwrite(x) {
        return into(cx, x);
    }
    for start in (0..rows).step_by(part) {
        let x = x.rows(start, part.min(rows - start))?;
        let tally = cx.tally();
        cx.scratch(|cx| into(cx, x))?;
        if start > 0 {
            cx.count_weights_as(tally);
        }
    }
    Ok(x)
}
