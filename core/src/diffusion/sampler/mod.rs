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
mod deis;
mod dpm2;
mod dpm_solver;
mod euler;
mod heun;
mod lcm;
mod lms;
mod pndm;
mod unipc;

use super::prediction::{Clipping, Prediction};
use super::schedule::{FinalSigma, Grid, Schedule, ScheduleConfig, Spacing};
use crate::error::{Error, Result};
use crate::fields::{Fields, Only};

pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use deis::Deis;
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

/// What a sampler's class in diffusers knows of a scheduler's configuration; what it does not know
/// it ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knows {
    /// `rescale_betas_zero_snr`.
    pub rescale_betas: bool,
    /// `clip_sample`.
    pub clip: bool,
    /// `thresholding`.
    pub threshold: bool,
    /// `use_karras_sigmas` and `use_exponential_sigmas`.
    pub sigma_kind: bool,
    /// `sigma_min` and `sigma_max`.
    pub sigma_ends: bool,
    /// `lambda_min_clipped`.
    pub lambda_min: bool,
}

impl Default for Knows {
    fn default() -> Self {
        Self {
            rescale_betas: true,
            clip: false,
            threshold: false,
            sigma_kind: false,
            sigma_ends: false,
            lambda_min: false,
        }
    }
}

/// What a sampler walks along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walks {
    /// Times of the training; x is a mixture of variance 1.
    Times,
    /// Noise levels, which may be spaced freely; x is a mixture of variance 1.
    Mixtures,
    /// Noise levels; x is `x_0 + sigma*noise`.
    Sigmas,
}

/// How to step from one time to the next: what a sampler's file says. [`Sampler`] is any of them.
pub trait Stepping {
    /// Computes the rows of `steps` steps from step `start` on and tells how many they are. `rows`
    /// are [`Stepping::row_count`], and [`Stepping::check`] has passed.
    ///
    /// # Errors
    /// [`Error::Config`] where a time holds no signal and the prediction divides by it.
    fn fill(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize>;

    /// How many rows `steps` steps take when they begin at step `start`: at most, where
    /// `lambda_min_clipped` leaves times out.
    fn row_count(&self, steps: usize, start: usize) -> usize {
        steps.saturating_sub(start)
    }

    /// Refuses settings that contradict each other or the schedule.
    ///
    /// # Errors
    /// [`Error::Config`].
    fn check(&self, _schedule: &Schedule, _steps: usize, _start: usize) -> Result<()> {
        Ok(())
    }

    /// The noise levels, of a sampler that walks along them.
    ///
    /// # Errors
    /// [`Error::Config`] where the schedule has none to visit.
    fn noise_levels<'s>(&self, _: &'s Schedule, _steps: usize) -> Result<Option<Grid<'s>>> {
        Ok(None)
    }

    /// What the sampler walks along.
    fn walks(&self) -> Walks {
        Walks::Times
    }

    /// The time at step `start`, of a sampler that walks along times.
    fn timestep(&self, schedule: &Schedule, steps: usize, start: usize) -> i64 {
        schedule.timestep(steps, start)
    }

    /// What the sampler's class in diffusers knows of a configuration.
    fn knows(&self) -> Knows {
        Knows::default()
    }

    /// The clipping where `scheduler_config.json` says nothing of it.
    fn default_clipping(&self) -> Clipping {
        Clipping::None
    }

    /// The schedule where `scheduler_config.json` says nothing of it.
    fn default_schedule(&self) -> ScheduleConfig<'static> {
        ScheduleConfig { timestep_spacing: Spacing::Linspace, ..ScheduleConfig::default() }
    }

    /// Takes a share of fresh noise, where the sampler has one; `false`: it has none.
    fn set_eta(&mut self, _eta: f64) -> bool {
        false
    }

    /// The settings that are the sampler's own, in the order of a packed file.
    ///
    /// # Errors
    /// Those of the reader.
    fn fields<F: Fields>(&mut self, _fields: &mut F) -> core::result::Result<(), F::Error> {
        Ok(())
    }

    /// Computes the rows of `steps` steps from step `start` on (0: from pure noise) into `rows` and
    /// tells how many they are.
    ///
    /// # Errors
    /// [`Error::Config`] where the settings contradict each other or the schedule: no steps, more
    /// than training times, a start past the end, a time without signal where the prediction
    /// divides by it. [`Error::Capacity`] where `rows` is shorter than [`Stepping::row_count`].
    fn rows(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize> {
        check(self, schedule, steps, start)?;
        let needed = self.row_count(steps, start);
        if rows.len() < needed {
            return Err(Error::Capacity { what: "rows", needed, limit: rows.len() });
        }
        let rows = &mut rows[..needed];
        let count = self.fill(schedule, prediction, steps, start, rows)?;
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
    /// [`Error::Config`] as [`Stepping::rows`].
    fn init_noise_sigma(&self, schedule: &Schedule, steps: usize) -> Result<f32> {
        check(self, schedule, steps, 0)?;
        match self.noise_levels(schedule, steps)? {
            Some(grid) if self.walks() == Walks::Sigmas => finite(grid.init_noise_sigma()),
            _ => Ok(1.0),
        }
    }

    /// `[a, b]` such that a sampling from step `start` on begins with `x = a*latents + b*noise`.
    ///
    /// # Errors
    /// [`Error::Config`] as [`Stepping::rows`].
    fn start_scales(&self, schedule: &Schedule, steps: usize, start: usize) -> Result<[f32; 2]> {
        check(self, schedule, steps, start)?;
        if let Some(grid) = self.noise_levels(schedule, steps)? {
            let sigma = grid.sigma(start);
            if self.walks() == Walks::Sigmas {
                return Ok([1.0, finite(sigma)?]);
            }
            let [alpha, sigma] = alpha_sigma(sigma);
            return Ok([finite(alpha)?, finite(sigma)?]);
        }
        schedule.forward(whole_time(self.timestep(schedule, steps, start))?)
    }

    /// What the sampler's class in diffusers makes of a clipping: some do not know it and ignore
    /// it.
    fn clipping(&self, asked: Clipping) -> Clipping {
        let knows = self.knows();
        match asked {
            Clipping::Clip { .. } if knows.clip => asked,
            Clipping::DynamicThreshold { .. } if knows.threshold => asked,
            _ => Clipping::None,
        }
    }
}

/// What holds of every sampling.
fn check<S: Stepping + ?Sized>(
    sampler: &S,
    schedule: &Schedule,
    steps: usize,
    start: usize,
) -> Result<()> {
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
    sampler.check(schedule, steps, start)
}

/// Refuses the schedules of flow matching.
fn not_flowing<F: Fields>(fields: &mut F) -> core::result::Result<(), F::Error> {
    fields.only("use_flow_sigmas", Only::Flag(false))?;
    fields.only("use_dynamic_shifting", Only::Flag(false))
}

const FINAL_SIGMAS: [(&str, FinalSigma); 2] =
    [("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)];

/// A sampler by name: a row of [`SAMPLERS`].
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its number in packed files and in C, for ever.
    pub number: usize,
    /// The command line's name, which is stable-diffusion.cpp's.
    pub name: &'static str,
    /// The name by which the web UIs know it.
    pub title: &'static str,
    /// The class in diffusers.
    pub class: &'static str,
    /// Where a class is several samplers: the words of `algorithm_type` that stand for this one.
    pub algorithm_types: &'static [&'static str],
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// What it is, in a line.
    pub about: &'static str,
    /// The sampler with diffusers' defaults.
    pub make: fn() -> Sampler<'static>,
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Named {
    /// The sampler with this number.
    pub fn numbered(number: usize) -> Option<&'static Self> {
        SAMPLERS.iter().find(|named| named.number == number)
    }

    /// The sampler that goes by this name, in any case: the command line's, the web UIs', the
    /// class, or another.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        SAMPLERS.iter().find(|named| {
            let own = [named.name, named.title, named.class];
            own.iter().chain(named.aliases).any(|known| is(known))
        })
    }
}

/// A sampler that a program is made for: one of them, or [`Sampler`], which is any. What a program
/// does not name is not linked.
pub trait Chosen: Stepping + Copy + core::fmt::Debug + PartialEq {
    /// The sampler, where it is one of these.
    fn of(sampler: Sampler<'static>) -> Option<Self>;
}

impl Chosen for Sampler<'_> {
    fn of(sampler: Sampler<'static>) -> Option<Self> {
        Some(sampler)
    }
}

/// Makes of one table the enum of all samplers, what it hands on to each, and [`SAMPLERS`].
macro_rules! samplers {
    ($($(#[doc = $doc:literal])* $variant:ident($settings:ty) {
        $($number:literal $name:literal $title:literal $class:literal $types:tt $aliases:tt
            $about:literal => $make:expr;)*
    })*) => {
        /// Any of the samplers.
        ///
        /// ```
        /// use mote::diffusion::prediction::Prediction;
        /// use mote::diffusion::sampler::{Ddim, Row, Sampler, Stepping};
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
            $($(#[doc = $doc])* $variant($settings),)*
        }

        $(impl<'a> Chosen for $settings {
            fn of(sampler: Sampler<'static>) -> Option<Self> {
                match sampler {
                    Sampler::$variant(chosen) => Some(chosen),
                    _ => None,
                }
            }
        })*

        impl Stepping for Sampler<'_> {
            fn fill(
                &self,
                schedule: &Schedule,
                prediction: Prediction,
                steps: usize,
                start: usize,
                rows: &mut [Row],
            ) -> Result<usize> {
                match self {
                    $(Self::$variant(s) => s.fill(schedule, prediction, steps, start, rows),)*
                }
            }

            fn row_count(&self, steps: usize, start: usize) -> usize {
                match self { $(Self::$variant(s) => s.row_count(steps, start),)* }
            }

            fn check(&self, schedule: &Schedule, steps: usize, start: usize) -> Result<()> {
                match self { $(Self::$variant(s) => s.check(schedule, steps, start),)* }
            }

            fn noise_levels<'s>(
                &self,
                schedule: &'s Schedule,
                steps: usize,
            ) -> Result<Option<Grid<'s>>> {
                match self { $(Self::$variant(s) => s.noise_levels(schedule, steps),)* }
            }

            fn walks(&self) -> Walks {
                match self { $(Self::$variant(s) => s.walks(),)* }
            }

            fn timestep(&self, schedule: &Schedule, steps: usize, start: usize) -> i64 {
                match self {
                    $(Self::$variant(s) => Stepping::timestep(s, schedule, steps, start),)*
                }
            }

            fn knows(&self) -> Knows {
                match self { $(Self::$variant(s) => s.knows(),)* }
            }

            fn default_clipping(&self) -> Clipping {
                match self { $(Self::$variant(s) => s.default_clipping(),)* }
            }

            fn default_schedule(&self) -> ScheduleConfig<'static> {
                match self { $(Self::$variant(s) => s.default_schedule(),)* }
            }

            fn set_eta(&mut self, eta: f64) -> bool {
                match self { $(Self::$variant(s) => s.set_eta(eta),)* }
            }

            fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
                match self { $(Self::$variant(s) => s.fields(fields),)* }
            }
        }

        impl Sampler<'_> {
            /// Each kind of sampler with its defaults; a packed file tells a kind by its place
            /// here.
            pub(crate) fn kinds() -> impl Iterator<Item = Sampler<'static>> {
                [$(Sampler::$variant(Default::default())),*].into_iter()
            }

            /// Whether two samplers are of one kind, whatever their settings.
            pub(crate) fn is_kind_of(&self, other: &Sampler<'_>) -> bool {
                core::mem::discriminant::<Sampler<'_>>(self) == core::mem::discriminant(other)
            }
        }

        /// The samplers by name.
        pub const SAMPLERS: &[Named] = &[$($(Named {
            number: $number,
            name: $name,
            title: $title,
            class: $class,
            algorithm_types: &$types,
            aliases: &$aliases,
            about: $about,
            make: || Sampler::$variant($make),
        }),*),*];
    };
}

// A kind of sampler is told by its place in packed files, a name by its number: new ones come last
// and take the next. A row is: number, name, title, class, words of `algorithm_type`, other names,
// what it is, and the settings.
samplers! {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm(Ddpm) {
        0 "ddpm" "DDPM" "DDPMScheduler" [] []
            "The ancestral sampler of Ho et al. 2020" => Ddpm::default();
    }
    /// Song et al. 2021.
    Ddim(Ddim) {
        1 "ddim" "DDIM" "DDIMScheduler" [] []
            "Song et al. 2020; deterministic unless --eta is given" => Ddim::default();
    }
    /// Liu et al. 2022.
    Pndm(Pndm) {
        2 "pndm" "PLMS" "PNDMScheduler" [] []
            "Pseudo numerical methods (Liu et al. 2022), called PLMS elsewhere: `plms` will do"
            => Pndm::default();
    }
    /// Euler's method in sigma (Karras et al. 2022).
    Euler(Euler) {
        3 "euler" "Euler" "EulerDiscreteScheduler" [] ["k_euler"]
            "Euler's method (Karras et al. 2022, Algorithm 2 without churn)" => Euler::default();
    }
    /// Euler's method with fresh noise at each step.
    EulerAncestral(EulerAncestral) {
        4 "euler_a" "Euler a" "EulerAncestralDiscreteScheduler" [] ["k_euler_a", "euler-a"]
            "Euler's method with fresh noise in each step" => EulerAncestral;
    }
    /// Heun's method in sigma (Karras et al. 2022, algorithm 1).
    Heun(Heun) {
        5 "heun" "Heun" "HeunDiscreteScheduler" [] ["k_heun"]
            "Heun's method: two evaluations a step" => Heun;
    }
    /// The second-order step of DPM-Solver (`KDPM2DiscreteScheduler`).
    Dpm2(Dpm2) {
        6 "dpm2" "DPM2" "KDPM2DiscreteScheduler" [] ["k_dpm_2", "dpm_2"]
            "DPM-Solver-2 in Karras' form: two evaluations a step" => Dpm2;
    }
    /// A linear multistep method in sigma.
    Lms(Lms) {
        7 "lms" "LMS" "LMSDiscreteScheduler" [] ["k_lms"]
            "Linear multistep" => Lms;
    }
    /// DPM-Solver++ (Lu et al. 2022).
    DpmSolver(DpmSolver) {
        8 "dpm++2m" "DPM++ 2M" "DPMSolverMultistepScheduler" ["dpmsolver++", "deis"]
            ["dpmpp_2m", "dpmpp2m"]
            "DPM-Solver++ of second order, Lu et al. 2022" => DpmSolver::default();
        9 "dpm++2m_sde" "DPM++ 2M SDE" "DPMSolverMultistepScheduler" ["sde-dpmsolver++"]
            ["dpmpp_2m_sde", "dpmpp2m_sde"]
            "The same as a stochastic equation"
            => DpmSolver { algorithm: Algorithm::Sde, ..DpmSolver::default() };
    }
    /// Zhao et al. 2023.
    UniPc(UniPc<'a>) {
        10 "unipc" "UniPC" "UniPCMultistepScheduler" [] []
            "Unified predictor-corrector, Zhao et al. 2023" => UniPc::default();
    }
    /// Luo et al. 2023.
    Lcm(Lcm) {
        11 "lcm" "LCM" "LCMScheduler" [] []
            "Latent consistency, Luo et al. 2023; for models distilled for it" => Lcm::default();
    }
    /// Zhang and Chen 2023.
    Deis(Deis) {
        12 "deis" "DEIS" "DEISMultistepScheduler" [] []
            "Exponential integrator of second order, Zhang and Chen 2023" => Deis::default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_what_is_walked_along_agree() {
        let mut memory = [0.0; 1000];
        let schedule = Schedule::new(ScheduleConfig::default(), &mut memory).unwrap();
        for (at, named) in SAMPLERS.iter().enumerate() {
            assert_eq!(Named::numbered(named.number).map(|found| found.name), Some(named.name));
            assert_eq!(Named::by_name(named.name), Some(named));
            assert!(SAMPLERS[..at].iter().all(|other| other.number != named.number));
            let sampler = (named.make)();
            let has_levels = sampler.noise_levels(&schedule, 20).unwrap().is_some();
            assert_eq!(has_levels, sampler.walks() != Walks::Times, "{}", named.name);
        }
    }
}
