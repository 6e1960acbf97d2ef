//! `CLIPTextModelWithProjection`: the states of the tokens, and one vector for the whole prompt
//! (Radford et al. 2021, section 2.4), as Stable Diffusion XL's second encoder gives both.

use super::check_width;
use super::clip_text::{ClipTextConfig, prefix};
use crate::error::Result;
use crate::nn::{Linear, linear};
use crate::ops::{self, Context};
use crate::tensor::Tensor;
use crate::weights::Path;

/// The id that published configurations name as the end token, and is not: there the end is the
/// token with the greatest id.
const NOT_THE_END: u32 = 2;

/// The configuration of a `CLIPTextModelWithProjection`; the default is transformers'.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextProjectionConfig {
    /// The transformer.
    pub text: ClipTextConfig,
    /// Width of the prompt's vector.
    pub projection_dim: usize,
    /// The token that ends a prompt, at which its vector is taken; with 2, the first of those with
    /// the greatest id.
    pub eos_token_id: u32,
}

impl Default for ClipTextProjectionConfig {
    fn default() -> Self {
        Self { text: ClipTextConfig::default(), projection_dim: 512, eos_token_id: 49_407 }
    }
}

impl ClipTextProjectionConfig {
    /// Names the first key that is out of range or contradicts another.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config).
    pub fn validate(&self) -> Result<()> {
        self.text.validate()?;
        check_width("projection_dim", self.projection_dim)
    }

    /// The prompt's vector `[1, projection_dim]`: the last state of the end token, normalised and
    /// projected. The states before the last `1 + clip_skip` layers, not normalised, are written to
    /// `states`, `[1, ids, hidden_size]`.
    ///
    /// # Errors
    /// As [`ClipTextConfig::forward`].
    pub fn forward(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        ids: &[u32],
        clip_skip: usize,
        states: Tensor,
    ) -> Result<Tensor> {
        self.validate()?;
        let text = &self.text;
        let (kept, all) = (text.layers_but(clip_skip.saturating_add(1))?, text.num_hidden_layers);
        cx.scope(|cx| {
            let last = cx.scope(|cx| {
                let prefix = prefix(cx, path)?;
                let x = text.embeddings(cx, &prefix.at("embeddings"), ids, 1)?;
                let x = text.layers_replacing(cx, &prefix, x, 0..kept)?;
                ops::copy_into(cx, x, states)?;
                let x = text.layers_replacing(cx, &prefix, x, kept..all)?;
                let end = x.reshape([ids.len(), text.hidden_size])?.rows(self.end(ids), 1)?;
                text.final_norm(cx, &prefix, end)
            })?;
            let layer = Linear::new(self.projection_dim).bias(false);
            linear(cx, &path.at("text_projection"), last, layer)
        })
    }

    /// Where the prompt ends.
    fn end(&self, ids: &[u32]) -> usize {
        let end = match self.eos_token_id {
            NOT_THE_END => ids.iter().max().copied().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|&id| id == end).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_the_first_end_token_or_the_first_of_the_greatest() {
        let config = |eos_token_id| ClipTextProjectionConfig { eos_token_id, ..Default::default() };
        assert_eq!(config(5).end(&[0, 9, 5, 5, 0]), 2);
        assert_eq!(config(2).end(&[0, 2, 9, 9, 0]), 2);
        assert_eq!(config(7).end(&[0, 2, 9]), 0, "as argmax of nothing but zeros");
    }
}
