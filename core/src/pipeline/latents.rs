//! Between pixels and what the noise predictor works on, for every pipeline that draws from words:
//! latents of an autoencoder, or the picture itself.

use super::image::{check_finite, check_size, picture, to_unit_range};
use super::kit::{Kit, NOT_LINKED};
use super::sampling::Sampling;
use super::stages::{Kept, Teller};
use crate::error::{Error, Result};
use crate::models::autoencoder::Autoencoder;
use crate::models::unet_2d_condition::UNet2DConditionConfig;
use crate::ops::{self, Context};
use crate::tensor::Shape;
use crate::weights::Path;

/// A picture to start from.
#[derive(Clone, Copy, Debug)]
pub struct InitImage<'a> {
    /// Red, green, blue of each pixel, row by row, of the request's size.
    pub rgb: &'a [u8],
    /// `x = noising[0]·latents + noising[1]·noise` at the first row of the table.
    pub noising: [f32; 2],
}

/// How many pixels a side one element of the sample stands for.
pub(super) fn scale(vae: Option<&Autoencoder>, unet: &UNet2DConditionConfig) -> usize {
    vae.map_or(unet.pixel_block(), Autoencoder::scale)
}

/// What the steps between pixels and latents need of a request.
#[derive(Clone, Copy)]
pub(super) struct Latents<'a> {
    pub unet: &'a UNet2DConditionConfig,
    pub vae: Option<&'a Autoencoder>,
    pub vae_tile: Option<usize>,
    pub sampling: &'a Sampling<'a>,
    pub size: [usize; 2],
    pub init_image: Option<InitImage<'a>>,
}

impl Latents<'_> {
    /// Refuses networks that do not belong together, and sizes that cannot be drawn.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(super) fn validate(&self) -> Result<()> {
        self.unet.validate()?;
        self.vae.map_or(Ok(()), Autoencoder::validate)?;
        if self.unet.in_channels != self.unet.out_channels {
            let what = "differs from out_channels: an inpainting network needs a mask, which this \
                        pipeline does not take";
            return Err(Error::Config { key: "in_channels", what });
        }
        self.sampling.validate()?;
        check_size(self.size, scale(self.vae, self.unet))
    }

    /// The latents of the picture to start from.
    pub(super) fn encode<K: Kit>(
        &self,
        cx: &mut Context<'_>,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let Some(init) = &self.init_image else { return Err(Error::Cancelled) };
        let noise = &mut kept.noise;
        let latents = cx.scope(|cx| {
            let image = picture(cx, init.rgb, self.size)?;
            match self.vae {
                None if self.unet.pixel_block() == 1 => Ok(image),
                None => ops::pixel_unshuffle(cx, image, self.unet.pixel_block()),
                Some(vae) => {
                    let root = Path::root();
                    let path = root.at("vae");
                    vae.encode::<K::Autoencoders>(cx, &path, image, |cx, like| {
                        Sampling::draw(cx, noise, like.shape())
                    })
                }
            }
        })?;
        check_finite(cx, latents, "the encoded picture")?;
        latents.expect("the picture's latents", self.shape())?;
        kept.x = Some(latents);
        teller.tell(cx, latents, 0, [1, 1])
    }

    /// Noise, or the picture's latents with the noise of the table's first row.
    pub(super) fn begin(&self, cx: &mut Context<'_>, kept: &mut Kept) -> Result<()> {
        let Some(init) = &self.init_image else {
            return self.sampling.begin(cx, kept, self.shape());
        };
        // Without an encoder in the kit there are no latents yet.
        let ([own, added], latents) = (init.noising, kept.x.ok_or(NOT_LINKED)?);
        cx.scratch(|cx| {
            let fresh = Sampling::draw(cx, &mut kept.noise, latents.shape())?;
            ops::scale_add_in_place(cx, latents, own, &[(fresh, added)])
        })?;
        self.sampling.begin_at(cx, kept, latents)
    }

    /// Latents to a picture in their place.
    pub(super) fn decode<K: Kit>(
        &self,
        cx: &mut Context<'_>,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let latents = kept.only_x(cx)?;
        let image = match self.vae {
            None => match self.unet.pixel_block() {
                1 => latents,
                block => cx.replace(latents, |cx| ops::pixel_shuffle(cx, latents, block))?,
            },
            Some(vae) => {
                let root = Path::root();
                let path = root.at("vae");
                cx.replace(latents, |cx| {
                    vae.decode::<K::Autoencoders>(cx, &path, latents, self.vae_tile)
                })?
            }
        };
        to_unit_range(cx, image)?;
        kept.x = Some(image);
        teller.tell(cx, image, 0, [1, 1])
    }

    fn shape(&self) -> Shape {
        let scale = scale(self.vae, self.unet);
        let [height, width] = self.size;
        Shape::new([1, height / scale, width / scale, self.unet.in_channels])
    }
}
