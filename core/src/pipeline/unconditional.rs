//! Pictures from noise alone: DDPM, DDIM.

use super::image::{ImageSink, deliver, to_unit_range};
use super::sampling::Sampling;
use super::{Story, Watch};
use crate::diffusion::noise::Noise;
use crate::error::Result;
use crate::mem::Plan;
use crate::models::unet_2d::UNet2DConfig;
use crate::ops::{self, Context};
use crate::progress::Stage;
use crate::tensor::{Shape, Tensor};
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

impl Unconditional<'_> {
    /// What [`Unconditional::run`] will need, to the byte. `cx` is a context whose arena only
    /// counts.
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
    /// [`Error::NotFinite`](crate::Error::NotFinite) where the network yields what is no number,
    /// [`Error::Cancelled`](crate::Error::Cancelled) where `watch` breaks, the sink's, and all that
    /// [`Unconditional::plan`] can say.
    pub fn run(
        &self,
        cx: &mut Context<'_>,
        sink: &mut dyn ImageSink,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        self.walk(cx, &mut Story::new(watch), sink)
    }

    fn walk(
        &self,
        cx: &mut Context<'_>,
        story: &mut Story<'_, '_>,
        sink: &mut dyn ImageSink,
    ) -> Result<()> {
        self.unet.validate()?;
        self.sampling.validate()?;
        super::check_size(self.size, 1)?;
        let evaluations = self.sampling.rows.len() as u64;
        cx.scratch(|cx| {
            let image =
                story.stage(cx, Stage::Unet, evaluations, |story, cx| self.sample(cx, story))?;
            story.stage(cx, Stage::Decoder, 1, |story, cx| {
                to_unit_range(cx, image)?;
                story.report(cx, image, Stage::Decoder, 0, [1, 1])?;
                deliver(cx, image, sink)?;
                Ok(image)
            })?;
            Ok(())
        })
    }

    fn sample(&self, cx: &mut Context<'_>, story: &mut Story<'_, '_>) -> Result<Tensor> {
        let mut noise = self.sampling.generator();
        cx.scope(|cx| {
            let x = self.noise(cx, &mut noise)?;
            self.sampling.denoise(cx, story, &mut noise, x, |cx, x, t| self.predict(cx, x, t))
        })
    }

    /// What a sampling begins with.
    pub(super) fn noise(&self, cx: &mut Context<'_>, noise: &mut Noise) -> Result<Tensor> {
        let [height, width] = self.size;
        let shape = Shape::new([1, height, width, self.unet.in_channels]);
        let x = Sampling::draw(cx, noise, shape)?;
        ops::scale_shift_in_place(cx, x, self.sampling.init_noise_sigma, 0.0)?;
        Ok(x)
    }

    /// One evaluation of the network.
    pub(super) fn predict(&self, cx: &mut Context<'_>, x: Tensor, t: f32) -> Result<Tensor> {
        let label = self.class_label.as_ref().map(core::slice::from_ref);
        self.unet.forward(cx, &Path::root().at("unet"), x, &[t], label)
    }
}
