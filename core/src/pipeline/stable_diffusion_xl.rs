//! Pictures from words by Stable Diffusion XL and its kin (Podell et al. 2023): two text encoders
//! side by side, and a noise predictor that is told of the whole prompt and of sizes, too.

use super::image::check_finite;
use super::kit::Kit;
use super::latents::{InitImage, Latents};
use super::sampling::Sampling;
use super::stages::{Kept, Pipeline, Stage, Stages, Teller};
use crate::diffusion::noise::Noise;
use crate::error::{Error, Result};
use crate::models::autoencoder::{Autoencoder, Kinds};
use crate::models::clip_text::ClipTextConfig;
use crate::models::clip_text_projection::ClipTextProjectionConfig;
use crate::models::unet_2d_condition::{Extra, UNet2DConditionConfig};
use crate::ops::{self, Context};
use crate::progress::Stage as Name;
use crate::tensor::{Form, Shape, Tensor};
use crate::weights::Path;

/// What one side of the guidance is told.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The token ids for each encoder, with their begin, end and padding; `None`: zeros take the
    /// place of what the encoders would say.
    pub ids: Option<[&'a [u32]; 2]>,
    /// The numbers behind the pooled text, see [`UNet2DConditionConfig::added`].
    pub numbers: &'a [f32],
}

/// A request for one picture. The weights lie under `text_encoder`, `text_encoder_2`, `unet` and
/// `vae`.
#[derive(Clone, Copy, Debug)]
pub struct StableDiffusionXl<'a> {
    /// The first text encoder; the refiner has none.
    pub text_encoder: Option<&'a ClipTextConfig>,
    /// The second text encoder.
    pub text_encoder_2: &'a ClipTextProjectionConfig,
    /// The noise predictor.
    pub unet: &'a UNet2DConditionConfig,
    /// The decoder, and the encoder where a picture is started from.
    pub vae: &'a Autoencoder,
    /// Decodes in tiles of so many latents a side where the latents are larger; `None` decodes them
    /// as a whole.
    pub vae_tile: Option<usize>,
    /// How the latents are sampled.
    pub sampling: Sampling<'a>,
    /// The prompt.
    pub prompt: Side<'a>,
    /// The negative prompt; not looked at where there is no guidance.
    pub negative_prompt: Side<'a>,
    /// How many layers before the last but one the prompt's states are taken. The negative prompt's
    /// are the last but one's, as in diffusers.
    pub clip_skip: usize,
    /// Height and width of the picture, in pixels: multiples of [`Autoencoder::scale`].
    pub size: [usize; 2],
    /// The picture to start from, if not from noise.
    pub init_image: Option<InitImage<'a>>,
}

impl Pipeline for StableDiffusionXl<'_> {
    fn validate(&self) -> Result<()> {
        self.text_encoder.map_or(Ok(()), ClipTextConfig::validate)?;
        self.text_encoder_2.validate()?;
        if self.width() != self.unet.cross_attention_dim {
            let what = "is not the text encoders' hidden_size, one and the other: the networks do \
                        not belong together";
            return Err(Error::Config { key: "cross_attention_dim", what });
        }
        self.latents().validate()
    }

    fn stages<K: Kit>(&self) -> Stages<Self> {
        let (rows, sides) = (self.sampling.rows.len(), self.sides().len() as u64);
        let encodes = K::Autoencoders::ENCODES && self.init_image.is_some();
        let encoder = encodes.then(|| Stage::new(Name::Encoder, 1, 1, Self::encode::<K>));
        [Stage::new(Name::TextEncoder, 1, sides, Self::encode_prompts)]
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

impl<'a> StableDiffusionXl<'a> {
    /// The sides of the guidance: the negative prompt, where there is guidance, and the prompt.
    fn sides(&self) -> heapless::Vec<Side<'a>, 2> {
        let both = [self.negative_prompt, self.prompt].into_iter();
        both.skip(2 - self.sampling.conditions()).collect()
    }

    /// Width of the prompt's states, one encoder's beside the other's.
    fn width(&self) -> usize {
        let first = self.text_encoder.map_or(0, |encoder| encoder.hidden_size);
        first + self.text_encoder_2.text.hidden_size
    }

    /// What the noise predictor is told of each side.
    fn encode_prompts(
        &self,
        cx: &mut Context<'_>,
        _: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let sides = self.sides();
        let count = sides.len();
        let tokens = self.prompt.ids.map_or(0, |[_, ids]| ids.len());
        let input = self.unet.text_time.map_or(0, |told| told.input_dim as usize);
        let states = cx.tensor(Shape::new([count, tokens, self.width()]))?;
        let added = cx.tensor(Shape::new([count, input]))?;
        for (number, side) in sides.iter().enumerate().rev() {
            let skip = if number + 1 == count { self.clip_skip } else { 0 };
            let (own, told) = (states.sample(number)?, added.rows(number, 1)?);
            cx.scratch(|cx| {
                let pooled = self.encode_side(cx, side, skip, own)?;
                check_finite(cx, own, "the text encoders' output")?;
                check_finite(cx, pooled, "the text encoders' output")?;
                let all = self.unet.added(cx, pooled, side.numbers)?;
                ops::copy_into(cx, all, told)
            })?;
            teller.tell(cx, states, 0, [count - number, count])?;
        }
        kept.conditions.hidden_states = Some(states.reshape([count * tokens, self.width()])?);
        kept.conditions.added = Some(added);
        Ok(())
    }

    /// The prompt's vector `[1, projection_dim]`; its states go to `states`.
    fn encode_side(
        &self,
        cx: &mut Context<'_>,
        side: &Side<'_>,
        skip: usize,
        states: Tensor,
    ) -> Result<Tensor> {
        let (root, second) = (Path::root(), self.text_encoder_2);
        let Some([first_ids, ids]) = side.ids else {
            let pooled = cx.tensor(Shape::new([1, second.projection_dim]))?;
            ops::scale_add_in_place(cx, states, 0.0, &[])?;
            ops::scale_add_in_place(cx, pooled, 0.0, &[])?;
            return Ok(pooled);
        };
        cx.reset_tally();
        cx.scope(|cx| {
            let Some(first) = self.text_encoder else {
                return second.forward(cx, &root.at("text_encoder_2"), ids, skip, states);
            };
            let own = first.penultimate(cx, &root.at("text_encoder"), first_ids, skip)?;
            let other = cx.tensor(Shape::new([1, ids.len(), second.text.hidden_size]))?;
            let pooled = second.forward(cx, &root.at("text_encoder_2"), ids, skip, other)?;
            cx.scratch(|cx| {
                let joined = ops::concat(cx, own, other, Form::F32)?;
                ops::copy_into(cx, joined, states)
            })?;
            Ok(pooled)
        })
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
        let tokens = self.prompt.ids.map_or(0, |[_, ids]| ids.len());
        let negative = (self.sampling.conditions() - 1) * tokens;
        let added = conditions.added.ok_or(Error::Cancelled)?;
        self.sampling.step(cx, row, kept, teller, &|cx, x, t, side| {
            let (states, added) =
                (conditions.states(cx, negative, side)?, Some(added.rows(side, 1)?));
            let extra = Extra { added, ..Extra::default() };
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
        Latents { unet, vae: Some(vae), vae_tile, sampling: &self.sampling, size, init_image }
    }
}
