//! Attention layers: four projections around [`ops::attention`].

use super::linear::{Linear, linear, linear_added_to};
use super::norm::{Norm, group_norm};
use crate::error::Result;
use crate::ops::{self, Context};
use crate::tensor::Tensor;
use crate::weights::Path;

/// What a checkpoint calls the four projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionNames {
    query: &'static str,
    key: &'static str,
    value: &'static str,
    out: &'static str,
}

impl AttentionNames {
    /// diffusers' names.
    pub const DIFFUSERS: Self = Self { query: "to_q", key: "to_k", value: "to_v", out: "to_out.0" };

    /// diffusers' names before version 0.18.
    pub const DEPRECATED: Self =
        Self { query: "query", key: "key", value: "value", out: "proj_attn" };

    /// The name of the queries' projection.
    pub const fn query(&self) -> &'static str {
        self.query
    }

    /// transformers' names in CLIP.
    pub const CLIP: Self =
        Self { query: "q_proj", key: "k_proj", value: "v_proj", out: "out_proj" };
}

/// The numbers of an [`attention`] layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads.
    pub heads: usize,
    /// Channels of queries, keys and values, all heads together.
    pub inner: usize,
    /// Whether queries, keys and values have a bias; the last projection always has.
    pub bias: bool,
    /// Whether token i sees tokens up to i only.
    pub causal: bool,
    /// The projections' names.
    pub names: AttentionNames,
}

/// `[n, t, c]`: queries from x look at keys and values from `states` `[n, t', c']`. What they bring
/// back is added to `sum` `[n, t, c]`: in its place, or as a new tensor where it is still needed.
///
/// # Errors
/// Those of [`ops::attention`] and of the projections.
pub fn attention(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    states: Tensor,
    sum: Tensor,
    layer: Attention,
) -> Result<Tensor> {
    let Attention { heads, inner, bias, causal, names } = layer;
    let projection = Linear::new(inner).bias(bias);
    cx.scope(|cx| {
        let q = linear(cx, &p.at(names.query), x, projection)?;
        let k = linear(cx, &p.at(names.key), states, projection)?;
        let v = linear(cx, &p.at(names.value), states, projection)?;
        let form = projection.form(cx, &p.at(names.query), x.channels())?;
        let y = ops::attention(cx, q, k, v, ops::Attention { heads, causal, form })?;
        linear_added_to(cx, &p.at(names.out), y, Linear::new(sum.channels()), sum)
    })
}

/// The numbers of an [`attention_block_replacing`].
#[derive(Clone, Copy, Debug)]
pub struct AttentionBlock {
    /// Heads.
    pub heads: usize,
    /// Channels of queries, keys and values, all heads together.
    pub inner: usize,
    /// The normalisation before, if there is one.
    pub norm: Option<Norm>,
    /// The sum with the input is divided by this.
    pub output_scale_factor: f32,
}

/// Self-attention among the pixels of `[n, h, w, c]`, around a shortcut (`Attention` with
/// `residual_connection`, once `AttentionBlock`). The result takes the place of `x`, the newest
/// tensor. Old and new names are known.
///
/// # Errors
/// Those of its layers.
pub fn attention_block_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    block: AttentionBlock,
) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("attention_block")?;
    let names = match cx.has(&p.at("query.weight"))? {
        false => AttentionNames::DIFFUSERS,
        true => AttentionNames::DEPRECATED,
    };
    let AttentionBlock { heads, inner, .. } = block;
    let layer = Attention { heads, inner, bias: true, causal: false, names };
    cx.replace(x, |cx| {
        let tokens = x.reshape([n, h * w, c])?;
        let y = match block.norm {
            None => tokens,
            Some(norm) => {
                let form = Linear::new(inner).form(cx, &p.at(names.query), c)?;
                group_norm(cx, &p.at("group_norm"), tokens, norm.alone().in_form(form))?
            }
        };
        let out = attention(cx, p, y, y, tokens, layer)?;
        if block.output_scale_factor != 1.0 {
            ops::scale_shift_in_place(cx, out, 1.0 / block.output_scale_factor, 0.0)?;
        }
        out.reshape([n, h, w, c])
    })
}
