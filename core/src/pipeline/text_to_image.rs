//! Pictures from words: Stable Diffusion 1.x and 2.x, from noise or from a picture; and models that
//! need no autoencoder, as their sample is the picture.

use super::image::check_finite;
use super::kit::Kit;
use super::latents::{InitImage, Latents};
use super::sampling::Sampling;
use super::stages::{Kept, Pipeline, Stage, Stages, Teller};
use crate::diffusion::noise::Noise;
use crate::error::{Error, Result};
use crate::models::autoencoder::{Autoencoder, Kinds};
use crate::models::clip_text::ClipTextConfig;
use crate::models::unet_2d_condition::{Extra, UNet2DConditionConfig};
use crate::ops::{self, Context};
use crate::progress::Stage as Name;
use crate::tensor::{Shape, Tensor};
use crate::weights::Path;

/// A request for one picture. The weights lie under `text_encoder`, `unet` and `vae`.
#[derive(Clone, Copy, Debug)]
pub struct TextToImage<'a> {
    /// The text encoder.
    pub text_encoder: &'a ClipTextConfig,
    /// The noise predictor.
    pub unet: &'a UNet2DConditionConfig,
    /// The decoder, and the encoder where a picture is started from. Without one the sample itself,
    /// from -1 to 1, is the picture, in blocks of [`UNet2DConditionConfig::pixel_block`].
    pub vae: Option<&'a Autoencoder>,
    /// Decodes in tiles of so many latents a side where the latents are larger; `None` decodes them
    /// as a whole. A picture to start from is always encoded as a whole.
    pub vae_tile: Option<usize>,
    /// How the latents are sampled.
    pub sampling: Sampling<'a>,
    /// The prompt's token ids, with their begin, end and padding; or several such chunks, one
    /// behind the other, each of [`ClipTextConfig::max_position_embeddings`].
    pub prompt: &'a [u32],
    /// The negative (or empty) prompt's token ids; not looked at where there is no guidance.
    pub negative_prompt: &'a [u32],
    /// By how much each token's states are multiplied, of the prompt and of the negative prompt;
    /// the mean of a chunk's states then is made what it was, as web UIs do.
    pub token_weights: Option<[&'a [f32]; 2]>,
    /// How many of the text encoder's last layers to leave out for the prompt. The negative prompt
    /// takes them all, as in diffusers.
    pub clip_skip: usize,
    /// The guidance scale that a distilled UNet is told as an input
    /// ([`UNet2DConditionConfig::time_cond_proj_dim`]), if it is one.
    pub embedded_guidance: Option<f32>,
    /// Height and width of the picture, in pixels: multiples of [`Autoencoder::scale`] where there
    /// is an autoencoder, or else of the block of pixels.
    pub size: [usize; 2],
    /// The picture to start from, if not from noise.
    pub init_image: Option<InitImage<'a>>,
}

impl Pipeline for TextToImage<'_> {
    fn validate(&self) -> Result<()> {
        self.text_encoder.validate()?;
        if self.text_encoder.hidden_size != self.unet.cross_attention_dim {
            let what = "is not the text encoder's hidden_size: the networks do not belong together";
            return Err(Error::Config { key: "cross_attention_dim", what });
        }
        self.latents().validate()
    }

    fn stages<K: Kit>(&self) -> Stages<Self> {
        let (rows, prompts) = (self.sampling.rows.len(), self.sampling.conditions() as u64);
        let encodes = K::Autoencoders::ENCODES && self.init_image.is_some();
        let encoder = encodes.then(|| Stage::new(Name::Encoder, 1, 1, Self::encode::<K>));
        [Stage::new(Name::TextEncoder, 1, prompts, Self::encode_prompts)]
            .into_iter()
            .chain(encoder)
            .chain([
                Stage::between(Self::begin),
                Stage::new(Name::Unet, rows, self.sampling.evaluations(), Self::denoise),
                Stage::new(Name::Decoder, 1, 1, Self::decode::<K>),
            ])
            .collect()
    }

    fn noise(&self) -> Noise {
        self.sampling.generator()
    }
}

impl TextToImage<'_> {
    /// `encoder_hidden_states` `[1, tokens, width]` of each prompt, one behind the other.
    fn encode_prompts(
        &self,
        cx: &mut Context<'_>,
        _: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let prompts = [self.negative_prompt, self.prompt];
        let weights = self.token_weights.map(|[prompt, negative]| [negative, prompt]);
        let skipped = 2 - self.sampling.conditions();
        let count = prompts.len() - skipped;
        let width = self.text_encoder.hidden_size;
        let tokens = prompts.iter().skip(skipped).map(|ids| ids.len()).sum::<usize>();
        let all = cx.tensor(Shape::new([tokens, width]))?;
        // The negative prompt comes last: it takes every layer, so that the tally of the last
        // evaluation counts each weight once.
        kept.conditions.hidden_states = Some(all);
        let mut end = tokens;
        for (number, ids) in prompts.iter().skip(skipped).enumerate().rev() {
            cx.reset_tally();
            end -= ids.len();
            let own = all.rows(end, ids.len())?.reshape([1, ids.len(), width])?;
            let is_prompt = number + 1 == count;
            let skip = if is_prompt { self.clip_skip } else { 0 };
            let weights = weights.map(|weights| weights[number + skipped]);
            cx.scratch(|cx| self.encode_prompt(cx, ids, weights, skip, own))?;
            check_finite(cx, own, "the text encoder's output")?;
            teller.tell(cx, own, 0, [count - number, count])?;
        }
        Ok(())
    }

    /// The states of one prompt: as a whole or, where it is longer than the encoder takes, in
    /// chunks of as many tokens.
    fn encode_prompt(
        &self,
        cx: &mut Context<'_>,
        ids: &[u32],
        weights: Option<&[f32]>,
        skip: usize,
        out: Tensor,
    ) -> Result<()> {
        let (root, most) = (Path::root(), self.text_encoder.max_position_embeddings);
        let chunks = (ids.len() / most).max(1);
        let path = root.at("text_encoder");
        let states = self.text_encoder.forward_batch(cx, &path, ids, chunks, skip)?;
        if let Some(weights) = weights {
            let (expected, found) = ([ids.len(), 0, 0, 0], [weights.len(), 0, 0, 0]);
            if expected != found {
                return Err(Error::Shape { what: "the tokens' weights", expected, found });
            }
            weigh(cx, states, weights, ids.len() / chunks);
        }
        ops::copy_into(cx, states, out)
    }

    fn encode<K: Kit>(
        &self,
        cx: &mut Context<'_>,
        _: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        self.latents().encode::<K>(cx, kept, teller)
    }

    fn begin(
        &self,
        cx: &mut Context<'_>,
        _: usize,
        kept: &mut Kept,
        _: &mut Teller<'_, '_>,
    ) -> Result<()> {
        self.latents().begin(cx, kept)
    }

    fn denoise(
        &self,
        cx: &mut Context<'_>,
        row: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let conditions = kept.conditions;
        let negative = (self.sampling.conditions() - 1) * self.negative_prompt.len();
        let extra = Extra { guidance_scale: self.embedded_guidance, ..Extra::default() };
        self.sampling.step(cx, row, kept, teller, &|cx, x, t, prompt| {
            let states = conditions.states(cx, negative, prompt)?;
            self.unet.forward_with(cx, &Path::root().at("unet"), x, &[t], states, extra)
        })
    }

    fn decode<K: Kit>(
        &self,
        cx: &mut Context<'_>,
        _: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        self.latents().decode::<K>(cx, kept, teller)
    }

    fn latents(&self) -> Latents<'_> {
        let Self { unet, vae, vae_tile, size, init_image, .. } = *self;
        Latents { unet, vae, vae_tile, sampling: &self.sampling, size, init_image }
    }
}

/// Multiplies the states `[chunks, tokens, width]` by a weight for each token, and makes the mean
/// of each chunk what it was.
fn weigh(cx: &mut Context<'_>, states: Tensor, weights: &[f32], tokens: usize) {
    if cx.is_planning() || weights.is_empty() {
        return;
    }
    let width = states.channels();
    let mean = |values: &[f32]| {
        values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
    };
    let chunks = cx.arena_mut().write(states).chunks_exact_mut(tokens * width);
    for (chunk, weights) in chunks.zip(weights.chunks_exact(tokens)) {
        let before = mean(chunk);
        for (token, &weight) in chunk.chunks_exact_mut(width).zip(weights) {
            token.iter_mut().for_each(|value| *value *= weight);
        }
        let factor = (before / mean(chunk)) as f32;
        chunk.iter_mut().for_each(|value| *value *= factor);
    }
}
