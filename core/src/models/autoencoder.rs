//! What turns pictures into latents and latents into pictures, of whichever kind a model has.

use super::autoencoder_kl::{self, AutoencoderKlConfig};
use super::autoencoder_tiny::{self, AutoencoderTinyConfig};
use crate::error::{Error, Result};
use crate::ops::{self, Context};
use crate::tensor::Tensor;
use crate::weights::Path;

/// Which autoencoders a program is made for, and for which way. What is not among them is not
/// linked.
pub trait Kinds {
    /// `AutoencoderKL`.
    const KL: bool;
    /// `AutoencoderTiny`.
    const TINY: bool;
    /// From pictures to latents, too.
    const ENCODES: bool;
}

/// All of them, both ways.
#[derive(Clone, Copy, Debug)]
pub struct All;

impl Kinds for All {
    const KL: bool = true;
    const TINY: bool = true;
    const ENCODES: bool = true;
}

/// All of them, from latents to pictures alone.
#[derive(Clone, Copy, Debug)]
pub struct Decoding;

impl Kinds for Decoding {
    const KL: bool = true;
    const TINY: bool = true;
    const ENCODES: bool = false;
}

/// None: the sample itself is the picture.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Kinds for Nothing {
    const KL: bool = false;
    const TINY: bool = false;
    const ENCODES: bool = false;
}

/// What is said of an autoencoder that the program was not made for.
const NOT_LINKED: Error =
    Error::Config { key: "vae", what: "is an autoencoder that this program was not made for" };

/// An autoencoder.
#[derive(Clone, Debug, PartialEq)]
pub enum Autoencoder {
    /// `AutoencoderKL`.
    Kl(AutoencoderKlConfig),
    /// `AutoencoderTiny`.
    Tiny(AutoencoderTinyConfig),
}

impl Autoencoder {
    /// Its name in diffusers.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Kl(_) => "AutoencoderKL",
            Self::Tiny(_) => "AutoencoderTiny",
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Tiny(config) => config.latent_channels,
        }
    }

    /// The side in latents of the tiles it is decoded in, where nothing else is said.
    pub fn tile(&self) -> usize {
        match self {
            Self::Kl(_) => autoencoder_kl::TILE,
            Self::Tiny(_) => autoencoder_tiny::TILE,
        }
    }

    /// How many pixels one latent stands for, down and across.
    pub fn scale(&self) -> usize {
        let levels = match self {
            Self::Kl(vae) => vae.block_out_channels.len(),
            Self::Tiny(vae) => vae.decoder_block_out_channels.len(),
        };
        1 << levels.saturating_sub(1)
    }

    /// Refuses a configuration that no network has.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Kl(vae) => vae.validate(),
            Self::Tiny(vae) => vae.validate(),
        }
    }

    /// A picture `[1, h, w, 3]` with values from -1 to 1 to latents `[1, h/s, w/s, c]` as the noise
    /// predictor knows them: `AutoencoderKL`'s are a sample of the posterior (Kingma and Welling
    /// 2014), with the noise that `draw` makes in the given tensor's shape; `AutoencoderTiny`'s
    /// have no spread.
    ///
    /// # Errors
    /// Those of weights and memory, `draw`'s, and [`Error::Config`] where `K` has no such
    /// autoencoder.
    pub fn encode<K: Kinds>(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        image: Tensor,
        draw: impl FnOnce(&mut Context<'_>, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            Self::Tiny(vae) if K::TINY && K::ENCODES => {
                let latents = vae.encode(cx, path, image)?;
                ops::scale_shift_in_place(cx, latents, vae.scaling_factor, 0.0)?;
                Ok(latents)
            }
            Self::Kl(vae) if K::KL && K::ENCODES => {
                let moments = vae.encode(cx, path, image)?;
                let c = vae.latent_channels;
                let mean = ops::slice_channels(cx, moments, 0, c)?;
                let log_variance = ops::slice_channels(cx, moments, c, c)?;
                let drawn = draw(cx, mean)?;
                sample_posterior(cx, mean, log_variance, drawn);
                let scale = vae.scaling_factor;
                ops::scale_shift_in_place(cx, mean, scale, -vae.shift_factor * scale)?;
                Ok(mean)
            }
            _ => Err(NOT_LINKED),
        }
    }

    /// Latents as the noise predictor knows them to a picture with values from -1 to 1, as a whole
    /// or in tiles of `tile` latents a side. The latents are consumed.
    ///
    /// # Errors
    /// Those of weights and memory, and [`Error::Config`] where `K` has no such autoencoder.
    pub fn decode<K: Kinds>(
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
            (Self::Kl(vae), None) if K::KL => vae.decode(cx, path, latents),
            (Self::Kl(vae), Some(tile)) if K::KL => vae.decode_tiled(cx, path, latents, tile),
            (Self::Tiny(vae), None) if K::TINY => vae.decode(cx, path, latents),
            (Self::Tiny(vae), Some(tile)) if K::TINY => vae.decode_tiled(cx, path, latents, tile),
            _ => Err(NOT_LINKED),
        }
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
