//! Pictures from words: Stable Diffusion 1.x and 2.x, from noise or from a picture; and models that
//! need no autoencoder, as their sample is the picture.

use super::image::{ImageSink, deliver, picture, to_unit_range};
use super::sampling::Sampling;
use super::{Story, Watch, check_finite};
use crate::diffusion::guidance;
use crate::diffusion::noise::Noise;
use crate::error::{Error, Result};
use crate::mem::Plan;
use crate::models::autoencoder_kl::AutoencoderKlConfig;
use crate::models::autoencoder_tiny::AutoencoderTinyConfig;
use crate::models::clip_text::ClipTextConfig;
use crate::models::unet_2d_condition::UNet2DConditionConfig;
use crate::ops::{self, Context};
use crate::progress::Stage;
use crate::tensor::{Shape, Tensor};
use crate::weights::Path;

/// What turns latents into pixels, and pixels into latents.
#[derive(Clone, Copy, Debug)]
pub enum Autoencoder<'a> {
    /// `AutoencoderKL`.
    Kl(&'a AutoencoderKlConfig),
    /// `AutoencoderTiny`.
    Tiny(&'a AutoencoderTinyConfig),
}

/// A picture to start from.
#[derive(Clone, Copy, Debug)]
pub struct InitImage<'a> {
    /// Red, green, blue of each pixel, row by row, of the request's size.
    pub rgb: &'a [u8],
    /// `x = noising[0]·latents + noising[1]·noise` at the first row of the table.
    pub noising: [f32; 2],
}

/// A request for one picture. The weights lie under `text_encoder`, `unet` and `vae`.
#[derive(Clone, Copy, Debug)]
pub struct TextToImage<'a> {
    /// The text encoder.
    pub text_encoder: &'a ClipTextConfig,
    /// The noise predictor.
    pub unet: &'a UNet2DConditionConfig,
    /// The decoder, and the encoder where a picture is started from. Without one the sample itself,
    /// from -1 to 1, is the picture, in blocks of [`UNet2DConditionConfig::pixel_block`].
    pub vae: Option<Autoencoder<'a>>,
    /// Decodes in tiles of so many latents a side where the latents are larger; `None` decodes them
    /// as a whole. A picture to start from is always encoded as a whole.
    pub vae_tile: Option<usize>,
    /// How the latents are sampled.
    pub sampling: Sampling<'a>,
    /// The prompt's token ids, with their begin, end and padding.
    pub prompt: &'a [u32],
    /// The negative (or empty) prompt's token ids; not looked at where there is no guidance.
    pub negative_prompt: &'a [u32],
    /// How far to go from what the negative prompt says towards what the prompt says (Ho and
    /// Salimans 2022); at 1 or less there is no guidance, and half the work.
    pub guidance_scale: f32,
    /// How many of the text encoder's last layers to leave out for the prompt. The negative prompt
    /// takes them all, as in diffusers.
    pub clip_skip: usize,
    /// Height and width of the picture, in pixels: multiples of [`Autoencoder::scale`] where there
    /// is an autoencoder, or else of the block of pixels.
    pub size: [usize; 2],
    /// The picture to start from, if not from noise.
    pub init_image: Option<InitImage<'a>>,
}

/// How many pixels a side one element of the sample stands for.
pub(super) fn scale(vae: Option<&Autoencoder<'_>>, unet: &UNet2DConditionConfig) -> usize {
    vae.map_or(unet.pixel_block(), Autoencoder::scale)
}

impl Autoencoder<'_> {
    /// How many pixels one latent stands for, down and across.
    pub fn scale(&self) -> usize {
        let levels = match self {
            Self::Kl(vae) => vae.block_out_channels.len(),
            Self::Tiny(vae) => vae.decoder_block_out_channels.len(),
        };
        1 << levels.saturating_sub(1)
    }

    fn validate(&self) -> Result<()> {
        match self {
            Self::Kl(vae) => vae.validate(),
            Self::Tiny(vae) => vae.validate(),
        }
    }

    /// A picture with values from -1 to 1 to latents as the UNet knows them: `AutoencoderKL`'s are
    /// a sample of the posterior (Kingma and Welling 2014), `AutoencoderTiny`'s have no spread.
    fn encode(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        image: Tensor,
        noise: &mut Noise,
    ) -> Result<Tensor> {
        match self {
            Self::Tiny(vae) => {
                let latents = vae.encode(cx, path, image)?;
                ops::scale_shift_in_place(cx, latents, vae.scaling_factor, 0.0)?;
                Ok(latents)
            }
            Self::Kl(vae) => {
                let moments = vae.encode(cx, path, image)?;
                let c = vae.latent_channels;
                let mean = ops::slice_channels(cx, moments, 0, c)?;
                let log_variance = ops::slice_channels(cx, moments, c, c)?;
                let drawn = Sampling::draw(cx, noise, mean.shape())?;
                sample_posterior(cx, mean, log_variance, drawn);
                let scale = vae.scaling_factor;
                ops::scale_shift_in_place(cx, mean, scale, -vae.shift_factor * scale)?;
                Ok(mean)
            }
        }
    }

    /// Latents as the UNet knows them to a picture with values from -1 to 1. Latents are consumed.
    fn decode(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        latents: Tensor,
        tile: Option<usize>,
    ) -> Result<Tensor> {
        let (scale, shift) = match self {
            Self::Kl(vae) => (vae.scaling_factor, vae.shift_factor),
            Self::Tiny(vae) => (vae.scaling_factor, 0.0),
        };
        ops::scale_shift_in_place(cx, latents, 1.0 / scale, shift)?;
        match (self, tile) {
            (Self::Kl(vae), None) => vae.decode(cx, path, latents),
            (Self::Kl(vae), Some(tile)) => vae.decode_tiled(cx, path, latents, tile),
            (Self::Tiny(vae), None) => vae.decode(cx, path, latents),
            (Self::Tiny(vae), Some(tile)) => vae.decode_tiled(cx, path, latents, tile),
        }
    }
}

impl TextToImage<'_> {
    /// What [`TextToImage::run`] will need, to the byte. `cx` is a context whose arena only counts.
    ///
    /// # Errors
    /// Every error of the configuration and the checkpoint that a run would meet.
    ///
    /// # Panics
    /// Where the context's arena has memory.
    pub fn plan(&self, cx: &mut Context<'_>) -> Result<Plan> {
        super::plan(cx, |cx, story, sink| self.walk(cx, story, sink))
    }

    /// Draws the picture.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where a network yields what is no number, [`Error::Cancelled`] where
    /// `watch` breaks, the sink's, and all that [`TextToImage::plan`] can say.
    pub fn run(
        &self,
        cx: &mut Context<'_>,
        sink: &mut dyn ImageSink,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        self.walk(cx, &mut Story::new(watch), sink)
    }

    fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    fn validate(&self) -> Result<()> {
        self.text_encoder.validate()?;
        self.unet.validate()?;
        self.vae.as_ref().map_or(Ok(()), Autoencoder::validate)?;
        if self.text_encoder.hidden_size != self.unet.cross_attention_dim {
            let what = "is not the text encoder's hidden_size: the networks do not belong together";
            return Err(Error::Config { key: "cross_attention_dim", what });
        }
        if self.unet.in_channels != self.unet.out_channels {
            let what = "differs from out_channels: an inpainting network needs a mask, which this \
                        pipeline does not take";
            return Err(Error::Config { key: "in_channels", what });
        }
        self.sampling.validate()?;
        super::check_size(self.size, self.scale())
    }

    fn walk(
        &self,
        cx: &mut Context<'_>,
        story: &mut Story<'_, '_>,
        sink: &mut dyn ImageSink,
    ) -> Result<()> {
        self.validate()?;
        let root = Path::root();
        cx.scratch(|cx| {
            let latents = cx.scope(|cx| {
                let states = self.encode_prompts(cx, story, &root)?;
                self.sample(cx, story, &root, states)
            })?;
            story.stage(cx, Stage::Decoder, 1, |story, cx| {
                let image = self.decode(cx, latents)?;
                to_unit_range(cx, image)?;
                story.report(cx, image, Stage::Decoder, 0, [1, 1])?;
                deliver(cx, image, sink)?;
                Ok(image)
            })?;
            Ok(())
        })
    }

    /// `encoder_hidden_states` `[prompts, tokens, width]`: of the negative prompt, where there is
    /// guidance, and of the prompt.
    pub(super) fn encode_prompts(
        &self,
        cx: &mut Context<'_>,
        story: &mut Story<'_, '_>,
        root: &Path<'_>,
    ) -> Result<Tensor> {
        let prompts = [self.negative_prompt, self.prompt];
        let prompts = if self.is_guided() { &prompts[..] } else { &prompts[1..] };
        let shape = [prompts.len(), self.prompt.len(), self.text_encoder.hidden_size];
        let path = root.at("text_encoder");
        let count = prompts.len();
        story.stage(cx, Stage::TextEncoder, count as u64, |story, cx| {
            let all = cx.tensor(Shape::new(shape))?;
            // The negative prompt comes last: it takes every layer, so that the tally of the last
            // evaluation counts each weight once.
            for (number, ids) in prompts.iter().enumerate().rev() {
                cx.reset_tally();
                let is_prompt = number + 1 == count;
                let skip = if is_prompt { self.clip_skip } else { 0 };
                cx.scratch(|cx| {
                    let states = self.text_encoder.forward(cx, &path, ids, skip)?;
                    ops::copy_into(cx, states, all.sample(number)?)?;
                    check_finite(cx, states, "the text encoder's output")
                })?;
                story.report(cx, all, Stage::TextEncoder, 0, [count - number, count])?;
            }
            Ok(all)
        })
    }

    /// The latents after the last step.
    fn sample(
        &self,
        cx: &mut Context<'_>,
        story: &mut Story<'_, '_>,
        root: &Path<'_>,
        states: Tensor,
    ) -> Result<Tensor> {
        let mut noise = self.sampling.generator();
        let x = match &self.init_image {
            Some(init) => self.noised_picture(cx, story, root, &mut noise, init)?,
            None => self.noise(cx, &mut noise)?,
        };
        let [prompts, ..] = states.dims::<3>("encoder_hidden_states")?;
        let evaluations = (self.sampling.rows.len() * prompts) as u64;
        story.stage(cx, Stage::Unet, evaluations, |story, cx| {
            let predict = |cx: &mut Context<'_>, x: Tensor, t: f32| self.predict(cx, x, t, states);
            self.sampling.denoise(cx, story, &mut noise, x, predict)
        })
    }

    /// What a sampling from noise begins with.
    pub(super) fn noise(&self, cx: &mut Context<'_>, noise: &mut Noise) -> Result<Tensor> {
        let x = Sampling::draw(cx, noise, self.latents_shape())?;
        ops::scale_shift_in_place(cx, x, self.sampling.init_noise_sigma, 0.0)?;
        Ok(x)
    }

    /// One evaluation of the noise predictor, or two with guidance between them.
    pub(super) fn predict(
        &self,
        cx: &mut Context<'_>,
        x: Tensor,
        t: f32,
        states: Tensor,
    ) -> Result<Tensor> {
        let root = Path::root();
        let unet = root.at("unet");
        let [prompts, ..] = states.dims::<3>("encoder_hidden_states")?;
        if prompts == 1 {
            return self.unet.forward(cx, &unet, x, &[t], states);
        }
        // Planned, one evaluation stands for both: that with the other's result beside it.
        let negative = match cx.is_planning() {
            true => cx.tensor(x.shape())?,
            false => self.unet.forward(cx, &unet, x, &[t], states.sample(0)?)?,
        };
        let output = self.unet.forward(cx, &unet, x, &[t], states.sample(1)?)?;
        if !cx.is_planning() {
            let (output, [negative]) = cx.arena_mut().split(output, [negative]);
            guidance::classifier_free_guidance(negative, output, self.guidance_scale)?;
        }
        Ok(output)
    }

    /// Latents, the newest tensor, to a picture in their place.
    pub(super) fn decode(&self, cx: &mut Context<'_>, latents: Tensor) -> Result<Tensor> {
        let root = Path::root();
        let Some(vae) = &self.vae else {
            return match self.unet.pixel_block() {
                1 => Ok(latents),
                block => cx.replace(latents, |cx| ops::pixel_shuffle(cx, latents, block)),
            };
        };
        cx.replace(latents, |cx| vae.decode(cx, &root.at("vae"), latents, self.vae_tile))
    }

    /// How many pixels a side one element of the sample stands for.
    fn scale(&self) -> usize {
        scale(self.vae.as_ref(), self.unet)
    }

    fn latents_shape(&self) -> Shape {
        let scale = self.scale();
        let [height, width] = self.size;
        Shape::new([1, height / scale, width / scale, self.unet.in_channels])
    }

    /// The picture's latents with the noise of the table's first row.
    fn noised_picture(
        &self,
        cx: &mut Context<'_>,
        story: &mut Story<'_, '_>,
        root: &Path<'_>,
        noise: &mut Noise,
        init: &InitImage<'_>,
    ) -> Result<Tensor> {
        let [own, added] = init.noising;
        cx.scope(|cx| {
            let latents = story.stage(cx, Stage::Encoder, 1, |story, cx| {
                let latents = cx.scope(|cx| {
                    let image = picture(cx, init.rgb, self.size)?;
                    match &self.vae {
                        None if self.unet.pixel_block() == 1 => Ok(image),
                        None => ops::pixel_unshuffle(cx, image, self.unet.pixel_block()),
                        Some(vae) => vae.encode(cx, &root.at("vae"), image, noise),
                    }
                })?;
                check_finite(cx, latents, "the encoded picture")?;
                story.report(cx, latents, Stage::Encoder, 0, [1, 1])?;
                Ok(latents)
            })?;
            latents.expect("the picture's latents", self.latents_shape())?;
            let fresh = Sampling::draw(cx, noise, latents.shape())?;
            ops::scale_add_in_place(cx, latents, own, &[(fresh, added)])?;
            Ok(latents)
        })
    }
}

/// `mean ← mean + exp(log_variance / 2)·noise`, the logarithm kept between -30 and 20 as diffusers
/// does.
fn sample_posterior(cx: &mut Context<'_>, mean: Tensor, log_variance: Tensor, noise: Tensor) {
    if cx.is_planning() {
        return;
    }
    let (mean, [log_variance, noise]) = cx.arena_mut().split(mean, [log_variance, noise]);
    for ((mean, log_variance), noise) in mean.iter_mut().zip(log_variance).zip(noise) {
        *mean += libm::expf(log_variance.clamp(-30.0, 20.0) * 0.5) * noise;
    }
}
