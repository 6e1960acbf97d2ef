//! The whole story: from a seed, and words, to a picture.
//!
//! A pipeline is a request: configurations, a sampler's table, sizes. Planned, it walks all it will
//! do and says what it needs; run, it does it.

mod image;
mod needs;
pub mod recipe;
mod sampling;
mod session;
mod text_to_image;
mod unconditional;

pub use image::ImageSink;
pub use needs::Needs;
pub use sampling::Sampling;
pub use session::{Fault, Model, Request, Session};
pub use text_to_image::{Autoencoder, InitImage, TextToImage};
pub use unconditional::Unconditional;

use core::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::mem::{MAX_PHASES, Phase, Plan};
use crate::ops::Context;
use crate::progress::{Progress, Stage};
use crate::tensor::Tensor;

/// What watches a run and may break it off.
pub type Watch<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// Counts the stages of a plan, or reports those of a run.
pub(crate) struct Story<'a, 'w> {
    plan: Plan,
    watch: &'a mut Watch<'w>,
}

impl<'a, 'w> Story<'a, 'w> {
    fn new(watch: &'a mut Watch<'w>) -> Self {
        Self { plan: Plan::default(), watch }
    }

    /// Carries out a stage. Planned, its needs are those of one evaluation, `evaluations` times
    /// over.
    fn stage(
        &mut self,
        cx: &mut Context<'_>,
        stage: Stage,
        evaluations: u64,
        body: impl FnOnce(&mut Self, &mut Context<'_>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        cx.reset_tally();
        if cx.is_planning() {
            // What happened between two stages counts as well.
            self.plan.arena_bytes = self.plan.arena_bytes.max(cx.arena().peak());
            cx.arena_mut().reset_peak();
        }
        let result = body(self, cx)?;
        if cx.is_planning() {
            let (peak, tally) = (cx.arena().peak(), cx.tally());
            let phase = Phase {
                name: stage.name(),
                arena_bytes: peak,
                weight_bytes: tally.weight_bytes,
                evaluations,
                multiply_adds: tally.multiply_adds.saturating_mul(evaluations),
            };
            self.plan.arena_bytes = self.plan.arena_bytes.max(peak);
            let (needed, limit) = (MAX_PHASES + 1, MAX_PHASES);
            let full = Error::Capacity { what: "phases", needed, limit };
            self.plan.phases.push(phase).map_err(|_| full)?;
        }
        Ok(result)
    }

    /// Tells the host what has been done.
    fn report(
        &mut self,
        cx: &Context<'_>,
        x: Tensor,
        stage: Stage,
        step: usize,
        [done, total]: [usize; 2],
    ) -> Result<()> {
        if cx.is_planning() {
            return Ok(());
        }
        let values = cx.arena().read(x);
        let progress = Progress { stage, done, total, step, values, shape: x.shape().to_dims() };
        match (self.watch)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// Refuses what is no number, before it spreads.
fn check_finite(cx: &Context<'_>, x: Tensor, what: &'static str) -> Result<()> {
    if cx.is_planning() || cx.arena().read(x).iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    Err(Error::NotFinite { what })
}

/// A sink for plans, which never reach it.
struct NoSink;

impl ImageSink for NoSink {
    fn begin(&mut self, _width: usize, _height: usize) -> Result<()> {
        Ok(())
    }

    fn row(&mut self, _rgb: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// # Errors
/// [`Error::Config`] where a side of the picture, in pixels, is no multiple of `of`.
fn check_size(size: [usize; 2], of: usize) -> Result<()> {
    if size.iter().all(|&size| size > 0 && size.is_multiple_of(of)) {
        return Ok(());
    }
    let what = "must be a multiple of the pixels that one latent stands for (8 for Stable \
                Diffusion)";
    Err(Error::Config { key: "the picture's width and height", what })
}

/// Plans a pipeline's walk.
fn plan(
    cx: &mut Context<'_>,
    walk: impl FnOnce(&mut Context<'_>, &mut Story<'_, '_>, &mut dyn ImageSink) -> Result<()>,
) -> Result<Plan> {
    assert!(cx.is_planning(), "a plan is made in an arena that only counts");
    cx.arena_mut().reset_peak();
    let watch: &mut Watch<'_> = &mut |_| ControlFlow::Continue(());
    let mut story = Story::new(watch);
    walk(cx, &mut story, &mut NoSink)?;
    Ok(story.plan)
}
