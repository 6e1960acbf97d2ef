//! A sampler is a table of numbers: a few [`Row`]s a step, computed from the schedule alone.
//!
//! The pipeline walks the rows. For each it scales x, calls the network, forms the denoised
//! picture, clips it as the prediction says, draws noise if the row wants some, and carries out the
//! row's updates in order. No sampler ever sees a tensor, and no tensor code ever sees a sigma.
//!
//! The tables are computed in f64 and rounded once. What is kept between evaluations lies in fixed
//! history slots: nothing is ever shifted, the coefficients of the next row know where it lies.

mod ddim;
mod ddpm;
mod dpm2;
mod dpm_solver;
mod euler;
mod heun;
mod lcm;
mod lms;
mod pndm;
mod unipc;

use super::prediction::{Clipping, Prediction};
use super::schedule::{BetaSchedule, Grid, Schedule, ScheduleConfig, Spacing};
use crate::error::{Error, Result};

pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use dpm_solver::{Algorithm, DpmSolver, SolverType};
pub use dpm2::Dpm2;
pub use euler::{Euler, EulerAncestral};
pub use heun::Heun;
pub use lcm::Lcm;
pub use lms::Lms;
pub use pndm::Pndm;
pub use unipc::{UniPc, UniPcSolver};

/// Tensors of x's shape that a sampler may keep between evaluations: PNDM's Runge-Kutta start keeps
/// three outputs, their running mean, and x at the step's beginning.
pub const HISTORY: usize = 5;

/// The most updates in one row: UniPC corrects x, keeps it, predicts, and keeps the denoised
/// picture.
pub const UPDATES: usize = 4;

/// What an update reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The sample itself.
    X,
    /// A kept tensor, below [`HISTORY`].
    History(u8),
}

/// `into <- x*X + output*OUT + denoised*D + noise*N + sum(history[k]*H[k])`, reading the values as
/// they are when the update begins (earlier updates of the same row have taken place).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Where the result goes.
    pub into: Slot,
    /// Coefficient of the sample.
    pub x: f32,
    /// Coefficient of the network's output as it came (guidance included).
    pub output: f32,
    /// Coefficient of the denoised picture, clipped where the prediction clips.
    pub denoised: f32,
    /// Coefficient of fresh standard normal noise; the same draw for every update of the row.
    pub noise: f32,
    /// Coefficients of the kept tensors. A slot that was never written has coefficient 0.
    pub history: [f32; HISTORY],
}

impl Update {
    /// An update that writes zeros, to be filled in by the methods below.
    const fn new(into: Slot) -> Self {
        Update { into, x: 0.0, output: 0.0, denoised: 0.0, noise: 0.0, history: [0.0; HISTORY] }
    }

    fn x(mut self, c: f64) -> Self {
        self.x = c as f32;
        self
    }

    fn output(mut self, c: f64) -> Self {
        self.output = c as f32;
        self
    }

    fn denoised(mut self, c: f64) -> Self {
        self.denoised = c as f32;
        self
    }

    fn noise(mut self, c: f64) -> Self {
        self.noise = c as f32;
        self
    }

    fn history(mut self, slot: usize, c: f64) -> Self {
        self.history[slot] = c as f32;
        self
    }

    fn is_finite(&self) -> bool {
        [self.x, self.output, self.denoised, self.noise].iter().all(|c| c.is_finite())
            && self.history.iter().all(|c| c.is_finite())
    }
}

/// One evaluation of the network and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The time the network is told.
    pub timestep: f32,
    /// Which step this evaluation belongs to, from 0 (Heun takes two rows a step).
    pub step: u16,
    /// x is multiplied by this on its way into the network.
    pub input_scale: f32,
    /// `denoised = denoised_x*x + denoised_output*output`, before clipping.
    pub denoised_x: f32,
    /// See [`Row::denoised_x`].
    pub denoised_output: f32,
    /// Whether noise is drawn at this row (the draw happens even where its coefficient is 0, so
    /// that the stream of random numbers stays the one diffusers consumes).
    pub draws_noise: bool,
    /// Where the variance is learned (`learned_range`): the noise's coefficient becomes, at each
    /// element, `exp((v*max + (1 - v)*min)/2)` for these `[min, max]`, with `v = (u + 1)/2`, `u`
    /// the output's second half.
    pub learned_log_variance: Option<[f32; 2]>,
    /// The first `update_count` are carried out, in order.
    pub updates: [Update; UPDATES],
    /// How many updates there are.
    pub update_count: u8,
}

impl Row {
    /// A row that does nothing: what a table is filled with before it is computed.
    pub const EMPTY: Row = Row {
        timestep: 0.0,
        step: 0,
        input_scale: 1.0,
        denoised_x: 0.0,
        denoised_output: 0.0,
        draws_noise: false,
        learned_log_variance: None,
        updates: [Update::new(Slot::X); UPDATES],
        update_count: 0,
    };

    /// The updates to carry out, in order.
    pub fn updates(&self) -> &[Update] {
        &self.updates[..usize::from(self.update_count).min(UPDATES)]
    }

    /// An evaluation at `timestep`, with `denoised` as [`Prediction`] gives it.
    fn new(timestep: f64, step: usize, denoised: [f64; 2]) -> Self {
        Row {
            timestep: timestep as f32,
            step: step as u16,
            denoised_x: denoised[0] as f32,
            denoised_output: denoised[1] as f32,
            ..Row::EMPTY
        }
    }

    /// The same in sigma: x holds `x_0 + sigma*noise`, and the network sees it with variance 1.
    fn at_sigma(timestep: f64, step: usize, sigma: f64, prediction: Prediction) -> Self {
        let mut row = Row::new(timestep, step, prediction.at_sigma(sigma));
        row.input_scale = (1.0 / libm::sqrt(sigma * sigma + 1.0)) as f32;
        row
    }

    fn then(mut self, update: Update) -> Self {
        self.updates[usize::from(self.update_count)] = update;
        self.update_count += 1;
        self
    }

    fn is_finite(&self) -> bool {
        [self.timestep, self.input_scale, self.denoised_x, self.denoised_output]
            .iter()
            .chain(self.learned_log_variance.iter().flatten())
            .all(|c| c.is_finite())
            && self.updates().iter().all(Update::is_finite)
    }
}

impl Default for Row {
    fn default() -> Self {
        Row::EMPTY
    }
}

/// How many history slots the rows use: the tensors of x's shape that a pipeline must keep.
pub fn history_count(rows: &[Row]) -> usize {
    let slot = |update: &Update| match update.into {
        Slot::X => 0,
        Slot::History(slot) => usize::from(slot) + 1,
    };
    rows.iter().flat_map(|row| row.updates().iter().map(slot)).max().unwrap_or(0)
}

/// The step to begin at so that the share `strength` of `steps` remains, as diffusers'
/// `get_timesteps`.
///
/// # Errors
/// [`Error::Config`] where `strength` is outside 0..=1 or no step would remain.
pub fn start_step(steps: usize, strength: f64) -> Result<usize> {
    let key = "strength";
    if !(0.0..=1.0).contains(&strength) {
        return Err(Error::Config { key, what: "must lie between 0 and 1" });
    }
    match (steps as f64 * strength) as usize {
        0 => Err(Error::Config { key, what: "leaves no step" }),
        remaining => Ok(steps.saturating_sub(remaining)),
    }
}

/// How to step from one time to the next.
///
/// ```
/// use mote::diffusion::prediction::Prediction;
/// use mote::diffusion::sampler::{Ddim, Row, Sampler};
/// use mote::diffusion::schedule::{Schedule, ScheduleConfig};
///
/// let mut memory = [0.0; 1000];
/// let schedule = Schedule::new(ScheduleConfig::default(), &mut memory)?;
/// let mut rows = [Row::EMPTY; 20];
/// let sampler = Sampler::Ddim(Ddim::default());
/// let count = sampler.rows(&schedule, Prediction::Epsilon, 20, 0, &mut rows)?;
/// assert_eq!((count, rows[0].timestep), (20, 950.0));
/// # Ok::<(), mote::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler<'a> {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm(Ddpm),
    /// Song et al. 2021.
    Ddim(Ddim),
    /// Liu et al. 2022.
    Pndm(Pndm),
    /// Euler's method in sigma (Karras et al. 2022).
    Euler(Euler),
    /// Euler's method with fresh noise at each step.
    EulerAncestral(EulerAncestral),
    /// Heun's method in sigma (Karras et al. 2022, algorithm 1).
    Heun(Heun),
    /// The second-order step of DPM-Solver (`KDPM2DiscreteScheduler`).
    Dpm2(Dpm2),
    /// A linear multistep method in sigma.
    Lms(Lms),
    /// DPM-Solver++ (Lu et al. 2022).
    DpmSolver(DpmSolver),
    /// Zhao et al. 2023.
    UniPc(UniPc<'a>),
    /// Luo et al. 2023.
    Lcm(Lcm),
}

impl Sampler<'_> {
    /// How many rows `steps` steps take when they begin at step `start`: at most, where
    /// `lambda_min_clipped` leaves times out. PNDM counts its entries where the others count steps.
    pub fn row_count(&self, steps: usize, start: usize) -> usize {
        let left = steps.saturating_sub(start);
        match self {
            Sampler::Pndm(pndm) => pndm.row_count(steps).saturating_sub(start),
            Sampler::Heun(_) | Sampler::Dpm2(_) => left.saturating_mul(2).saturating_sub(1),
            _ => left,
        }
    }

    /// Computes the rows of `steps` steps from step `start` on (0: from pure noise) into `rows` and
    /// tells how many they are.
    ///
    /// # Errors
    /// [`Error::Config`] where the settings contradict each other or the schedule: no steps, more
    /// than training times, a start past the end, a time without signal where the prediction
    /// divides by it. [`Error::Capacity`] where `rows` is shorter than [`Sampler::row_count`].
    pub fn rows(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize> {
        self.check(schedule, steps, start)?;
        let needed = self.row_count(steps, start);
        if rows.len() < needed {
            return Err(Error::Capacity { what: "rows", needed, limit: rows.len() });
        }
        let rows = &mut rows[..needed];
        let count = match self {
            Sampler::Ddpm(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::Ddim(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::Pndm(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::Euler(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::EulerAncestral(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::Heun(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::Dpm2(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::Lms(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::DpmSolver(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::UniPc(s) => s.rows(schedule, prediction, steps, start, rows),
            Sampler::Lcm(s) => s.rows(schedule, prediction, steps, start, rows),
        }?;
        if !rows[..count].iter().all(Row::is_finite) {
            let key = "num_inference_steps";
            let what = "gives steps without end: two times coincide, or one holds no signal";
            return Err(Error::Config { key, what });
        }
        Ok(count)
    }

    /// The standard deviation of the noise that a sampling begins with.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Sampler::rows`].
    pub fn init_noise_sigma(&self, schedule: &Schedule, steps: usize) -> Result<f32> {
        self.check(schedule, steps, 0)?;
        match self.grid(schedule, steps)? {
            Some(grid) if self.is_in_sigma() => finite(grid.init_noise_sigma()),
            _ => Ok(1.0),
        }
    }

    /// `[a, b]` such that a sampling from step `start` on begins with `x = a*latents + b*noise`.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Sampler::rows`].
    pub fn start_scales(
        &self,
        schedule: &Schedule,
        steps: usize,
        start: usize,
    ) -> Result<[f32; 2]> {
        self.check(schedule, steps, start)?;
        if let Some(grid) = self.grid(schedule, steps)? {
            let sigma = grid.sigma(start);
            if self.is_in_sigma() {
                return Ok([1.0, finite(sigma)?]);
            }
            let [alpha, sigma] = alpha_sigma(sigma);
            return Ok([finite(alpha)?, finite(sigma)?]);
        }
        let t = match self {
            Sampler::Lcm(lcm) => lcm.timestep(schedule, steps, start),
            Sampler::Pndm(pndm) => pndm.timestep(schedule, steps, start),
            _ => schedule.timestep(steps, start),
        };
        schedule.forward(whole_time(t)?)
    }

    /// What the sampler's class in diffusers makes of a clipping: some do not know it and ignore
    /// it.
    pub fn clipping(&self, asked: Clipping) -> Clipping {
        let known = match self {
            Sampler::Ddpm(_) | Sampler::Ddim(_) | Sampler::Lcm(_) => true,
            Sampler::Heun(_) => matches!(asked, Clipping::Clip { .. }),
            Sampler::DpmSolver(_) | Sampler::UniPc(_) => {
                matches!(asked, Clipping::DynamicThreshold { .. })
            }
            _ => false,
        };
        if known { asked } else { Clipping::None }
    }

    /// The clipping where `scheduler_config.json` says nothing of it.
    pub fn default_clipping(&self) -> Clipping {
        match self {
            Sampler::Ddpm(_) | Sampler::Ddim(_) => Clipping::Clip { range: 1.0 },
            _ => Clipping::None,
        }
    }

    /// Whether the sampler's class in diffusers knows `rescale_betas_zero_snr`; the others ignore
    /// it.
    pub fn rescales_betas(&self) -> bool {
        !matches!(self, Sampler::Pndm(_) | Sampler::Heun(_) | Sampler::Dpm2(_) | Sampler::Lms(_))
    }

    /// The schedule where `scheduler_config.json` says nothing of it.
    pub fn default_schedule(&self) -> ScheduleConfig<'static> {
        let leading = ScheduleConfig::default();
        let linspace = ScheduleConfig { timestep_spacing: Spacing::Linspace, ..leading };
        match self {
            Sampler::Ddpm(_) | Sampler::Ddim(_) => leading,
            Sampler::Pndm(_) => ScheduleConfig { set_alpha_to_one: false, ..leading },
            Sampler::Heun(_) | Sampler::Dpm2(_) => {
                ScheduleConfig { beta_start: 0.00085, beta_end: 0.012, ..linspace }
            }
            Sampler::Lcm(_) => ScheduleConfig {
                beta_start: 0.00085,
                beta_end: 0.012,
                beta_schedule: BetaSchedule::ScaledLinear,
                ..leading
            },
            _ => linspace,
        }
    }

    /// Whether x holds `x_0 + sigma*noise` rather than a mixture of variance 1.
    fn is_in_sigma(&self) -> bool {
        matches!(
            self,
            Sampler::Euler(_)
                | Sampler::EulerAncestral(_)
                | Sampler::Heun(_)
                | Sampler::Dpm2(_)
                | Sampler::Lms(_)
        )
    }

    /// The grid of the samplers that walk one.
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Option<Grid<'s>>> {
        match self {
            Sampler::Euler(s) => s.grid(schedule, steps).map(Some),
            Sampler::EulerAncestral(s) => s.grid(schedule, steps).map(Some),
            Sampler::Heun(s) => s.grid(schedule, steps).map(Some),
            Sampler::Dpm2(s) => s.grid(schedule, steps).map(Some),
            Sampler::Lms(s) => s.grid(schedule, steps).map(Some),
            Sampler::DpmSolver(s) => s.grid(schedule, steps).map(Some),
            Sampler::UniPc(s) => s.grid(schedule, steps).map(Some),
            Sampler::Ddpm(_) | Sampler::Ddim(_) | Sampler::Pndm(_) | Sampler::Lcm(_) => Ok(None),
        }
    }

    fn check(&self, schedule: &Schedule, steps: usize, start: usize) -> Result<()> {
        let key = "num_inference_steps";
        if steps == 0 {
            return Err(Error::Config { key, what: "must not be 0" });
        }
        if steps > schedule.config().num_train_timesteps {
            return Err(Error::Config { key, what: "must be at most num_train_timesteps" });
        }
        if start >= steps {
            return Err(Error::Config { key: "strength", what: "leaves no step" });
        }
        match self {
            Sampler::Ddim(s) => s.check(),
            Sampler::Pndm(s) => s.check(steps, start),
            Sampler::DpmSolver(s) => s.check(),
            Sampler::UniPc(s) => s.check(),
            Sampler::Lcm(s) => s.check(schedule, steps),
            _ => Ok(()),
        }
    }
}

/// `[alpha, sigma]` of variance 1 whose ratio is `sigma`.
fn alpha_sigma(sigma: f64) -> [f64; 2] {
    let alpha = 1.0 / libm::sqrt(sigma * sigma + 1.0);
    [alpha, sigma * alpha]
}

/// A time as an index; an error where it lies before the first.
fn whole_time(t: i64) -> Result<usize> {
    let what = "leads before the first training time";
    usize::try_from(t).map_err(|_| Error::Config { key: "timestep_spacing", what })
}

fn finite(value: f64) -> Result<f32> {
    let value = value as f32;
    if value.is_finite() {
        return Ok(value);
    }
    Err(Error::Config { key: "betas", what: "leave a time without signal" })
}
