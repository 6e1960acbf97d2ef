//! Pictures from noise alone: DDPM, DDIM.

use super::image::{check_size, to_unit_range};
use super::kit::Kit;
use super::sampling::Sampling;
use super::stages::{Kept, Pipeline, Stage, Stages, Teller};
use crate::diffusion::noise::Noise;
use crate::error::Result;
use crate::models::unet_2d::UNet2DConfig;
use crate::ops::Context;
use crate::progress::Stage as Name;
use crate::tensor::Shape;
use crate::weights::Path;

/// A request for one picture from a [`UNet2DConfig`], whose weights lie under `unet`.
#[derive(Clone, Copy, Debug)]
pub struct Unconditional<'a> {
    /// The noise predictor.
    pub unet: &'a UNet2DConfig,
    /// How x is sampled.
    pub sampling: Sampling<'a>,
    /// Height and width of the picture, in pixels.
    pub size: [usize; 2],
    /// The class to draw, where the model knows classes.
    pub class_label: Option<f32>,
}

impl Pipeline for Unconditional<'_> {
    fn validate(&self) -> Result<()> {
        self.unet.validate()?;
        self.sampling.validate()?;
        check_size(self.size, 1)
    }

    fn stages<K: Kit>(&self) -> Stages<Self> {
        let rows = self.sampling.rows.len();
        [
            Stage::between(Self::begin),
            Stage::new(Name::Unet, rows, self.sampling.evaluations(), Self::denoise),
            Stage::new(Name::Decoder, 1, 1, Self::show),
        ]
        .into_iter()
        .collect()
    }

    fn noise(&self) -> Noise {
        self.sampling.generator()
    }
}

impl Unconditional<'_> {
    fn begin(
        &self,
        cx: &mut Context<'_>,
        _: usize,
        kept: &mut Kept,
        _: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let [height, width] = self.size;
        self.sampling.begin(cx, kept, Shape::new([1, height, width, self.unet.in_channels]))
    }

    fn denoise(
        &self,
        cx: &mut Context<'_>,
        row: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let label = self.class_label.as_ref().map(core::slice::from_ref);
        self.sampling.step(cx, row, kept, teller, &|cx, x, t, _| {
            self.unet.forward(cx, &Path::root().at("unet"), x, &[t], label)
        })
    }

    fn show(
        &self,
        cx: &mut Context<'_>,
        _: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
    ) -> Result<()> {
        let image = kept.only_x(cx)?;
        to_unit_range(cx, image)?;
        teller.tell(cx, image, 0, [1, 1])
    }
}
