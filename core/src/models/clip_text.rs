//! `CLIPTextModel`: turns token ids into `encoder_hidden_states` (Radford et al. 2021).

use core::ops::Range;

use super::{check_eps, check_layers, check_width, refuse};
use crate::error::{Error, Result};
use crate::nn::{
    Attention, AttentionNames, Linear, attention, layer_norm, linear, linear_added_to,
};
use crate::ops::{self, Context};
use crate::tensor::{Form, Tensor};
use crate::weights::Path;

/// How many position numbers are made at once.
const POSITIONS: usize = 64;

/// The activation of the feed-forward layers (`hidden_act`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// `x · Φ(x)`, by the error function.
    Gelu,
}

/// The configuration of a `CLIPTextModel`; the default is transformers'.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Entries of the token table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// The activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// The epsilon of each layer normalisation.
    pub layer_norm_eps: f32,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// Where the network's weights lie: names with and without the prefix `text_model.` are known.
pub(super) fn prefix<'p>(cx: &mut Context<'_>, path: &'p Path<'_>) -> Result<Path<'p>> {
    Ok(match cx.has(&path.at("text_model.embeddings.token_embedding.weight"))? {
        true => path.at("text_model"),
        false => *path,
    })
}

impl ClipTextConfig {
    /// Names the first key that is out of range or contradicts another.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        if self.vocab_size == 0 {
            return refuse("vocab_size", "must not be zero");
        }
        check_width("hidden_size", self.hidden_size)?;
        check_width("intermediate_size", self.intermediate_size)?;
        check_layers("num_hidden_layers", self.num_hidden_layers)?;
        if self.num_attention_heads == 0 {
            return refuse("num_attention_heads", "must not be zero");
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse("num_attention_heads", "must divide hidden_size");
        }
        check_width("max_position_embeddings", self.max_position_embeddings)?;
        check_eps("layer_norm_eps", self.layer_norm_eps)
    }

    /// The last hidden state of the tokens, `[1, ids, hidden_size]`. With `clip_skip` k, that
    /// before the last k layers, under the final normalisation all the same (diffusers'
    /// `clip_skip`).
    ///
    /// Names with and without the prefix `text_model.` are known.
    ///
    /// # Errors
    /// [`Error::Config`] as [`ClipTextConfig::validate`]; [`Error::Capacity`] where there are more
    /// tokens than positions; [`Error::Shape`] where there are none; [`Error::Index`] where a token
    /// is not in the table or more layers are left out than there are; those of memory and weights.
    pub fn forward(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        ids: &[u32],
        clip_skip: usize,
    ) -> Result<Tensor> {
        self.forward_batch(cx, path, ids, 1, clip_skip)
    }

    /// [`ClipTextConfig::forward`] of several prompts of one length, whose ids come one after the
    /// other: `[samples, ids / samples, hidden_size]`.
    ///
    /// # Errors
    /// As [`ClipTextConfig::forward`], and [`Error::Shape`] where the prompts have not one length.
    pub fn forward_batch(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        ids: &[u32],
        samples: usize,
        clip_skip: usize,
    ) -> Result<Tensor> {
        let count = self.layers_but(clip_skip)?;
        cx.scope(|cx| {
            let prefix = prefix(cx, path)?;
            let mut x = self.embeddings(cx, &prefix.at("embeddings"), ids, samples)?;
            x = self.layers_replacing(cx, &prefix, x, 0..count)?;
            self.final_norm(cx, &prefix, x)
        })
    }

    /// The states `[1, ids, hidden_size]` before the last `1 + clip_skip` layers, not normalised:
    /// as Stable Diffusion XL takes them.
    ///
    /// # Errors
    /// As [`ClipTextConfig::forward`].
    pub fn penultimate(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        ids: &[u32],
        clip_skip: usize,
    ) -> Result<Tensor> {
        let count = self.layers_but(clip_skip.saturating_add(1))?;
        cx.scope(|cx| {
            let prefix = prefix(cx, path)?;
            let x = self.embeddings(cx, &prefix.at("embeddings"), ids, 1)?;
            self.layers_replacing(cx, &prefix, x, 0..count)
        })
    }

    /// How many layers are left without the last `skipped`.
    ///
    /// # Errors
    /// [`Error::Index`] where there are fewer, and as [`ClipTextConfig::validate`].
    pub(super) fn layers_but(&self, skipped: usize) -> Result<usize> {
        self.validate()?;
        let (index, limit) = (skipped, self.num_hidden_layers + 1);
        let left = self.num_hidden_layers.checked_sub(skipped);
        left.ok_or(Error::Index { what: "clip skip", index, limit })
    }

    /// The tokens' embeddings, which the first layer takes: `[samples, ids / samples,
    /// hidden_size]`.
    pub(super) fn embeddings(
        &self,
        cx: &mut Context<'_>,
        p: &Path<'_>,
        ids: &[u32],
        samples: usize,
    ) -> Result<Tensor> {
        let (needed, limit) = (ids.len() / samples.max(1), self.max_position_embeddings);
        if needed == 0 || !ids.len().is_multiple_of(samples) {
            let (expected, found) = ([samples, limit, 0, 0], [samples, needed, 0, 0]);
            return Err(Error::Shape { what: "tokens", expected, found });
        }
        if needed > limit {
            return Err(Error::Capacity { what: "tokens", needed, limit });
        }
        let (vocab, positions) = (self.vocab_size, self.max_position_embeddings);
        let table = cx.weight(&p.at("token_embedding.weight"), [vocab, self.hidden_size])?;
        let places =
            cx.weight(&p.at("position_embedding.weight"), [positions, self.hidden_size])?;
        let x = ops::embedding(cx, ids, table)?;
        let tokens = ids.len() / samples;
        for start in (0..tokens).step_by(POSITIONS) {
            let count = POSITIONS.min(tokens - start);
            let numbers: [u32; POSITIONS] = core::array::from_fn(|i| (start + i) as u32);
            cx.scratch(|cx| {
                let y = ops::embedding(cx, &numbers[..count], places)?;
                for sample in 0..samples {
                    let x = x.rows(sample * tokens + start, count)?;
                    ops::add_in_place(cx, x, y.rows(0, count)?)?;
                }
                Ok(())
            })?;
        }
        x.reshape([samples, tokens, self.hidden_size])
    }

    /// These layers, one after the other, in the place of x.
    pub(super) fn layers_replacing(
        &self,
        cx: &mut Context<'_>,
        prefix: &Path<'_>,
        mut x: Tensor,
        layers: Range<usize>,
    ) -> Result<Tensor> {
        let path = prefix.at("encoder.layers");
        for layer in layers {
            x = self.encoder_layer_replacing(cx, &path.index(layer), x)?;
        }
        Ok(x)
    }

    /// The normalisation behind the last layer.
    pub(super) fn final_norm(
        &self,
        cx: &mut Context<'_>,
        prefix: &Path<'_>,
        x: Tensor,
    ) -> Result<Tensor> {
        layer_norm(cx, &prefix.at("final_layer_norm"), x, self.layer_norm_eps, Form::F32)
    }

    /// `CLIPEncoderLayer`: `[1, t, hidden_size]` to the same, in its place.
    fn encoder_layer_replacing(
        &self,
        cx: &mut Context<'_>,
        p: &Path<'_>,
        x: Tensor,
    ) -> Result<Tensor> {
        let (heads, inner, names) =
            (self.num_attention_heads, self.hidden_size, AttentionNames::CLIP);
        let layer = Attention { heads, inner, bias: true, causal: true, names };
        let activation = match self.hidden_act {
            Activation::QuickGelu => ops::Activation::QuickGelu,
            Activation::Gelu => ops::Activation::Gelu,
        };
        let x = cx.replace(x, |cx| {
            let attn = p.at("self_attn");
            let form = Linear::new(inner).form(cx, &attn.at(names.query()), inner)?;
            let y = layer_norm(cx, &p.at("layer_norm1"), x, self.layer_norm_eps, form)?;
            attention(cx, &attn, y, y, x, layer)
        })?;
        cx.replace(x, |cx| {
            let (fc1, wide) = (p.at("mlp.fc1"), Linear::new(self.intermediate_size));
            let form = wide.form(cx, &fc1, inner)?;
            let y = layer_norm(cx, &p.at("layer_norm2"), x, self.layer_norm_eps, form)?;
            let y = linear(cx, &fc1, y, wide.then(activation))?;
            linear_added_to(cx, &p.at("mlp.fc2"), y, Linear::new(self.hidden_size), x)
        })
    }
}
