//! A pipeline is a list of stages, and one driver walks it: planned, each stage takes one step and
//! says what it needs; run, all of them; in a session, one step a call.

use core::ops::ControlFlow;

use super::image::{ImageSink, deliver};
use super::kit::{Everything, Kit};
use crate::diffusion::noise::Noise;
use crate::diffusion::sampler::HISTORY;
use crate::error::{Error, Result};
use crate::mem::{MAX_PHASES, Phase, Plan};
use crate::ops::Context;
use crate::progress::{Progress, Stage as Name};
use crate::tensor::Tensor;

/// What watches a run and may break it off.
pub type Watch<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// The most stages of a pipeline.
pub const MAX_STAGES: usize = 6;

/// The stages of a pipeline, in the order they run.
pub type Stages<P> = heapless::Vec<Stage<P>, MAX_STAGES>;

/// The tensors that a sampler keeps between evaluations.
pub type History = heapless::Vec<Tensor, HISTORY>;

/// What the noise predictor is told beside x and the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// `encoder_hidden_states` `[tokens, width]` of all prompts, one behind the other: of the
    /// negative one, where there is guidance, and of the prompt.
    pub hidden_states: Option<Tensor>,
    /// What is added to the time embedding, `[prompts, width]`
    /// ([`Extra::added`](crate::models::unet_2d_condition::Extra::added)).
    pub added: Option<Tensor>,
}

impl Conditions {
    /// The states `[1, tokens, width]` of prompt `number`, where so many tokens are the negative
    /// one's; a plan is made with the longer, which needs most.
    ///
    /// # Errors
    /// [`Error::Cancelled`] before there are any: the steps were not taken in order.
    pub fn states(&self, cx: &Context<'_>, negative: usize, number: usize) -> Result<Tensor> {
        let all = self.hidden_states.ok_or(Error::Cancelled)?;
        let [tokens, width] = all.dims("the prompts' states")?;
        let negative = negative.min(tokens);
        let is_negative = match cx.is_planning() {
            true => negative > tokens - negative,
            false => number == 0 && negative > 0,
        };
        let (begin, count) =
            if is_negative { (0, negative) } else { (negative, tokens - negative) };
        all.rows(begin, count)?.reshape([1, count, width])
    }
}

/// What is kept between two steps of a picture.
#[derive(Debug)]
pub struct Kept {
    /// The arena's top before the first.
    pub base: usize,
    /// What the pictures' noise comes from, in the order of its stream.
    pub noise: Noise,
    /// What the noise predictor is told.
    pub conditions: Conditions,
    /// The picture to start from, the sample, and in the end the picture.
    pub x: Option<Tensor>,
    /// What the sampler keeps.
    pub history: History,
}

impl Kept {
    /// Nothing yet.
    pub fn new(base: usize, noise: Noise) -> Self {
        Self { base, noise, conditions: Conditions::default(), x: None, history: History::new() }
    }

    /// The sample.
    ///
    /// # Errors
    /// [`Error::Cancelled`] before there is one: the steps were not taken in order.
    pub fn x(&self) -> Result<Tensor> {
        self.x.ok_or(Error::Cancelled)
    }

    /// Gives back the memory of everything but the sample, which alone is needed from here on.
    ///
    /// # Errors
    /// As [`Kept::x`].
    pub fn only_x(&mut self, cx: &mut Context<'_>) -> Result<Tensor> {
        let x = cx.slide(self.base, self.x()?)?;
        (self.x, self.conditions, self.history) = (Some(x), Conditions::default(), History::new());
        Ok(x)
    }
}

/// Carries out a step of a stage, from 0.
pub type Step<P> = fn(&P, &mut Context<'_>, usize, &mut Kept, &mut Teller<'_, '_>) -> Result<()>;

/// A stage of a pipeline.
#[derive(Debug)]
pub struct Stage<P> {
    /// What it is called; a stage without a name evaluates no network, and goes with the one before
    /// it.
    pub name: Option<Name>,
    /// How many steps it takes.
    pub steps: usize,
    /// How often its network is evaluated in all of them; planned, the first step stands for all.
    pub evaluations: u64,
    /// What a step does.
    pub step: Step<P>,
}

/// What becomes a picture in stages.
pub trait Pipeline: Sized {
    /// Refuses what cannot be drawn.
    ///
    /// # Errors
    /// [`Error::Config`], before anything else is done.
    fn validate(&self) -> Result<()>;

    /// The stages, made of what is in the kit; after the last, x is the picture with values from 0
    /// to 1.
    fn stages<K: Kit>(&self) -> Stages<Self>;

    /// The generator of noise at the beginning of its stream.
    fn noise(&self) -> Noise;

    /// What [`Pipeline::run`] will need, to the byte. `cx` is a context whose arena only counts.
    ///
    /// # Errors
    /// Every error of the configuration and the checkpoint that a run would meet.
    ///
    /// # Panics
    /// Where the context's arena has memory.
    fn plan(&self, cx: &mut Context<'_>) -> Result<Plan> {
        self.plan_with::<Everything>(cx)
    }

    /// [`Pipeline::plan`] with what is in the kit.
    ///
    /// # Errors
    /// As [`Pipeline::plan`], and [`Error::Config`] where something is not in the kit.
    ///
    /// # Panics
    /// As [`Pipeline::plan`].
    fn plan_with<K: Kit>(&self, cx: &mut Context<'_>) -> Result<Plan> {
        assert!(cx.is_planning(), "a plan is made in an arena that only counts");
        self.validate()?;
        let mut plan = Plan::default();
        cx.arena_mut().reset_peak();
        cx.scratch(|cx| {
            let mut kept = Kept::new(cx.arena().top(), self.noise());
            let watch: &mut Watch<'_> = &mut |_| ControlFlow::Continue(());
            let stages = self.stages::<K>();
            for (index, stage) in stages.iter().enumerate() {
                cx.reset_tally();
                cx.arena_mut().reset_peak();
                (stage.step)(self, cx, 0, &mut kept, &mut Teller { stage: None, watch })?;
                if index + 1 == stages.len() {
                    deliver(cx, kept.x()?, &mut NoSink)?;
                }
                plan.arena_bytes = plan.arena_bytes.max(cx.arena().peak());
                if let Some(phase) = stage.phase(cx) {
                    let (needed, limit) = (MAX_PHASES + 1, MAX_PHASES);
                    let full = Error::Capacity { what: "phases", needed, limit };
                    plan.phases.push(phase).map_err(|_| full)?;
                }
            }
            Ok(())
        })?;
        Ok(plan)
    }

    /// Draws the picture.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where a network yields what is no number, [`Error::Cancelled`] where
    /// `watch` breaks, the sink's, and all that [`Pipeline::plan`] can say.
    fn run(
        &self,
        cx: &mut Context<'_>,
        sink: &mut dyn ImageSink,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        self.validate()?;
        cx.scratch(|cx| {
            let mut kept = Kept::new(cx.arena().top(), self.noise());
            for stage in &self.stages::<Everything>() {
                cx.reset_tally();
                for step in 0..stage.steps {
                    let mut teller = Teller { stage: stage.name, watch };
                    (stage.step)(self, cx, step, &mut kept, &mut teller)?;
                }
            }
            deliver(cx, kept.x()?, sink)
        })
    }
}

impl<P> Stage<P> {
    /// A stage that evaluates a network.
    pub fn new(name: Name, steps: usize, evaluations: u64, step: Step<P>) -> Self {
        Self { name: Some(name), steps, evaluations, step }
    }

    /// A step between two stages, which evaluates no network.
    pub fn between(step: Step<P>) -> Self {
        Self { name: None, steps: 1, evaluations: 0, step }
    }

    /// What the stage that was just planned needs.
    fn phase(&self, cx: &Context<'_>) -> Option<Phase> {
        let tally = cx.tally();
        Some(Phase {
            name: self.name?.name(),
            arena_bytes: cx.arena().peak(),
            weight_bytes: tally.weight_bytes,
            evaluations: self.evaluations,
            multiply_adds: tally.multiply_adds.saturating_mul(self.evaluations),
        })
    }
}

/// Tells the host what has been done.
pub struct Teller<'a, 'w> {
    stage: Option<Name>,
    watch: &'a mut Watch<'w>,
}

impl Teller<'_, '_> {
    /// So many of the stage's evaluations are done, the last of them for the sampler's `step`; `x`
    /// is what has come of it.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where the host breaks off.
    pub fn tell(
        &mut self,
        cx: &Context<'_>,
        x: Tensor,
        step: usize,
        [done, total]: [usize; 2],
    ) -> Result<()> {
        let Some(stage) = self.stage.filter(|_| !cx.is_planning()) else { return Ok(()) };
        let values = cx.arena().read(x);
        let progress = Progress { stage, done, total, step, values, shape: x.shape().to_dims() };
        match (self.watch)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}

/// Where a pipeline that is drawn step by step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    stage: usize,
    step: usize,
}

impl Place {
    /// How many calls of [`Place::advance`] a picture takes.
    pub fn calls<P: Pipeline, K: Kit>(pipeline: &P) -> usize {
        let stages = pipeline.stages::<K>();
        let own = |(index, stage): (usize, &Stage<P>)| match stage.name {
            Some(_) => stage.steps,
            None => usize::from(index == 0),
        };
        stages.iter().enumerate().map(own).sum()
    }

    /// Carries out the next step, and what stands between it and the one after; tells whether more
    /// is left.
    ///
    /// # Errors
    /// The step's.
    pub fn advance<P: Pipeline, K: Kit>(
        &mut self,
        pipeline: &P,
        cx: &mut Context<'_>,
        kept: &mut Kept,
    ) -> Result<bool> {
        let stages = pipeline.stages::<K>();
        let watch: &mut Watch<'_> = &mut |_| ControlFlow::Continue(());
        while let Some(stage) = stages.get(self.stage) {
            (stage.step)(pipeline, cx, self.step, kept, &mut Teller { stage: None, watch })?;
            self.step += 1;
            if self.step >= stage.steps {
                *self = Place { stage: self.stage + 1, step: 0 };
            }
            let next = stages.get(self.stage);
            if next.is_none_or(|next| next.name.is_some()) {
                break;
            }
        }
        Ok(self.stage < stages.len())
    }
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
