//! The schedule: how much noise there is at each training time, and at which of them a sampling
//! stops.
//!
//! It holds `alphas_cumprod` in memory that the caller gives, and answers what the forward process
//! and its posterior are (Ho et al. 2020). The arithmetic follows diffusers bit by bit where a
//! difference would show: betas in f32, their product accumulated in f64 and rounded to f32 at each
//! element.

use crate::error::{Error, Result};

/// The most training times a schedule may have: a step's index fits a `u16`.
pub const MAX_TRAIN_TIMESTEPS: usize = u16::MAX as usize;

/// `alphas_cumprod` of the last time where zero-SNR betas meet a sampler that divides by it: the
/// smallest f16 above zero, which gives sigma 4096, as in diffusers.
const ALPHA_CUMPROD_FLOOR: f32 = 1.0 / 16_777_216.0;

/// The largest ratio of neighbouring `alpha_bar` that the cosine schedule allows to vanish.
const COSINE_MAX_BETA: f64 = 0.999;

/// The exponent of Karras sigmas (Karras et al. 2022, eq. 5).
const KARRAS_RHO: f64 = 7.0;

/// How the variances of the forward process grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BetaSchedule<'a> {
    /// Evenly from `beta_start` to `beta_end` (Ho et al. 2020).
    Linear,
    /// Evenly in the square root (Rombach et al. 2022).
    ScaledLinear,
    /// From `cos²`, each at most 0.999 (Nichol & Dhariwal 2021, eq. 17).
    SquaredcosCapV2,
    /// Along a logistic curve from -6 to 6 (GeoDiff, Xu et al. 2022).
    Sigmoid,
    /// Given one by one (`trained_betas`): as many as there are training times.
    Given(&'a [f32]),
}

/// Which training times a sampling visits (`timestep_spacing`; Lin et al. 2023, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Multiples of a whole ratio, counted from 0, plus `steps_offset`.
    Leading,
    /// Evenly between the first and the last time, both included.
    Linspace,
    /// Multiples of a ratio, counted down from the last time.
    Trailing,
}

/// Where the noise levels of the sigma samplers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigmaKind {
    /// From the training times that the spacing picks.
    Discrete,
    /// Evenly in `sigma^(1/7)` (`use_karras_sigmas`; Karras et al. 2022, eq. 5).
    Karras,
    /// Evenly in `ln sigma` (`use_exponential_sigmas`).
    Exponential,
}

/// The noise level that a sampling ends at (`final_sigmas_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalSigma {
    /// None at all.
    Zero,
    /// That of training time 0.
    SigmaMin,
}

/// What a `scheduler_config.json` says of the schedule, named as there.
///
/// [`Default`] gives the defaults of diffusers' `DDPMScheduler`; those of other classes are at
/// [`Stepping::default_schedule`](super::sampler::Stepping::default_schedule).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleConfig<'a> {
    /// Times the model was trained at.
    pub num_train_timesteps: usize,
    /// Variance of the first step.
    pub beta_start: f64,
    /// Variance of the last step.
    pub beta_end: f64,
    /// The curve between them.
    pub beta_schedule: BetaSchedule<'a>,
    /// Whether the betas are rescaled so that the last time is pure noise (Lin et al. 2023,
    /// algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// Which times a sampling visits.
    pub timestep_spacing: Spacing,
    /// Added to the times of [`Spacing::Leading`].
    pub steps_offset: usize,
    /// Whether `alphas_cumprod` before time 0 is 1; otherwise it is that of time 0.
    pub set_alpha_to_one: bool,
    /// Where the sigmas come from.
    pub sigmas: SigmaKind,
    /// The smallest Karras or exponential sigma; `None`: that of the last visited time.
    pub sigma_min: Option<f64>,
    /// The largest Karras or exponential sigma; `None`: that of the first visited time.
    pub sigma_max: Option<f64>,
    /// DPM-Solver++ leaves out the times whose `ln(alpha/sigma)` is below this.
    pub lambda_min_clipped: f64,
}

impl Default for ScheduleConfig<'_> {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            rescale_betas_zero_snr: false,
            timestep_spacing: Spacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            sigmas: SigmaKind::Discrete,
            sigma_min: None,
            sigma_max: None,
            lambda_min_clipped: f64::NEG_INFINITY,
        }
    }
}

impl ScheduleConfig<'_> {
    fn check(&self, memory: usize) -> Result<()> {
        let refuse = |key, what| Err(Error::Config { key, what });
        let t = self.num_train_timesteps;
        if t == 0 {
            return refuse("num_train_timesteps", "must not be 0");
        }
        if t > MAX_TRAIN_TIMESTEPS {
            return refuse("num_train_timesteps", "must be at most 65535");
        }
        if memory < t {
            return Err(Error::Capacity { what: "alphas_cumprod", needed: t, limit: memory });
        }
        match self.beta_schedule {
            BetaSchedule::Given(betas) if betas.len() != t => {
                return refuse("trained_betas", "must be as many as num_train_timesteps");
            }
            BetaSchedule::Given(_) | BetaSchedule::SquaredcosCapV2 => {}
            _ => {
                if !(0.0..=1.0).contains(&self.beta_start) {
                    return refuse("beta_start", "must lie between 0 and 1");
                }
                if !(0.0..=1.0).contains(&self.beta_end) {
                    return refuse("beta_end", "must lie between 0 and 1");
                }
            }
        }
        if self.steps_offset > t {
            return refuse("steps_offset", "must be at most num_train_timesteps");
        }
        let usable = |sigma: Option<f64>| sigma.is_none_or(|s| s.is_finite() && s > 0.0);
        if !usable(self.sigma_min) {
            return refuse("sigma_min", "must be a number above 0");
        }
        if !usable(self.sigma_max) {
            return refuse("sigma_max", "must be a number above 0");
        }
        if self.lambda_min_clipped.is_nan() {
            return refuse("lambda_min_clipped", "must be a number");
        }
        Ok(())
    }
}

/// The mean and variance of `q(x_s | x_t, x_0)`: a normal distribution with mean `x0*x_0 + xt*x_t`
/// (Ho et al. 2020, eq. 6 and 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// Coefficient of the clean sample in the mean.
    pub x0: f32,
    /// Coefficient of the noisy sample in the mean.
    pub xt: f32,
    /// The variance.
    pub variance: f32,
    /// The variance that the forward process adds between `s` and `t`, per variance kept.
    pub beta: f32,
}

/// A noise schedule: `alphas_cumprod` (one f32 a training time) with the configuration it came
/// from.
///
/// ```
/// use mote::diffusion::schedule::{Schedule, ScheduleConfig};
///
/// let mut memory = [0.0; 1000];
/// let schedule = Schedule::new(ScheduleConfig::default(), &mut memory)?;
/// let [signal, noise] = schedule.forward(999)?;
/// assert!(signal < 0.01 && noise > 0.99);
/// # Ok::<(), mote::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Schedule<'a> {
    config: ScheduleConfig<'a>,
    alphas_cumprod: &'a [f32],
}

impl<'a> Schedule<'a> {
    /// Computes the schedule into the first `num_train_timesteps` values of `memory`.
    ///
    /// # Errors
    /// [`Error::Capacity`] where `memory` is too short, [`Error::Config`] where a setting is out of
    /// range: no training times or more than [`MAX_TRAIN_TIMESTEPS`], a beta outside 0..=1.
    pub fn new(config: ScheduleConfig<'a>, memory: &'a mut [f32]) -> Result<Self> {
        config.check(memory.len())?;
        let memory = &mut memory[..config.num_train_timesteps];
        fill_betas(&config, memory);
        if memory.iter().any(|beta| !(0.0..=1.0).contains(beta)) {
            return Err(Error::Config { key: "betas", what: "must lie between 0 and 1" });
        }
        if config.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(memory)?;
        }
        for beta in memory.iter_mut() {
            *beta = 1.0 - *beta;
        }
        accumulate_product(memory);
        Ok(Self { config, alphas_cumprod: memory })
    }

    /// The configuration it was computed from.
    pub fn config(&self) -> &ScheduleConfig<'a> {
        &self.config
    }

    /// The share of the clean sample's variance at each training time, falling from nearly 1.
    pub fn alphas_cumprod(&self) -> &'a [f32] {
        self.alphas_cumprod
    }

    /// The forward process `q(x_t | x_0)`: `[a, b]` such that `x_t = a*x_0 + b*noise` (Ho et al.
    /// 2020, eq. 4).
    ///
    /// # Errors
    /// [`Error::Index`] where `t` is not a training time.
    pub fn forward(&self, t: usize) -> Result<[f32; 2]> {
        let a = self.alpha_cumprod(t)?;
        Ok([libm::sqrt(a) as f32, libm::sqrt(1.0 - a) as f32])
    }

    /// Carries out [`Schedule::forward`] on slices of one length: `out = a*x0 + b*noise`.
    ///
    /// # Errors
    /// [`Error::Index`] where `t` is not a training time, [`Error::Shape`] where the lengths
    /// differ.
    pub fn add_noise(&self, t: usize, x0: &[f32], noise: &[f32], out: &mut [f32]) -> Result<()> {
        let [a, b] = self.forward(t)?;
        for found in [x0.len(), noise.len()] {
            if found != out.len() {
                let (expected, found) = ([out.len(), 0, 0, 0], [found, 0, 0, 0]);
                return Err(Error::Shape { what: "add_noise", expected, found });
            }
        }
        for ((out, x0), noise) in out.iter_mut().zip(x0).zip(noise) {
            *out = a * x0 + b * noise;
        }
        Ok(())
    }

    /// The posterior `q(x_s | x_t, x_0)` of an earlier time `s`, where `None` stands for before the
    /// first (Ho et al. 2020, eq. 6 and 7, with `beta = 1 - alphas_cumprod[t]/alphas_cumprod[s]`).
    ///
    /// Computed in f32 in diffusers' order: near time 0 beta has lost digits, and a beta with all
    /// of them would be another number.
    ///
    /// # Errors
    /// [`Error::Index`] where a time is not a training time; [`Error::Config`] where `x_t` holds no
    /// noise, so that there is nothing to undo, or `x_s` no signal.
    pub fn posterior(&self, t: usize, s: Option<usize>) -> Result<Posterior> {
        let at = self.alpha_cumprod(t)? as f32;
        let before = s.map_or(Ok(1.0), |s| self.alpha_cumprod(s))? as f32;
        if at >= 1.0 || before <= 0.0 {
            return Err(Error::Config {
                key: "betas",
                what: "leave a time without noise or signal",
            });
        }
        let alpha = at / before;
        let beta = 1.0 - alpha;
        Ok(Posterior {
            x0: libm::sqrtf(before) * beta / (1.0 - at),
            xt: libm::sqrtf(alpha) * (1.0 - before) / (1.0 - at),
            variance: (1.0 - before) / (1.0 - at) * beta,
            beta,
        })
    }

    /// The signal-to-noise ratio `alphas_cumprod/(1 - alphas_cumprod)`: infinite where there is no
    /// noise.
    ///
    /// # Errors
    /// [`Error::Index`] where `t` is not a training time.
    pub fn snr(&self, t: usize) -> Result<f64> {
        let a = self.alpha_cumprod(t)?;
        Ok(a / (1.0 - a))
    }

    /// `alphas_cumprod[t]`, an error where there is none.
    pub(crate) fn alpha_cumprod(&self, t: usize) -> Result<f64> {
        let limit = self.alphas_cumprod.len();
        let a = self.alphas_cumprod.get(t);
        a.map(|&a| f64::from(a)).ok_or(Error::Index { what: "timestep", index: t, limit })
    }

    /// `alphas_cumprod` at a time that may lie before the first.
    pub(crate) fn alpha_cumprod_before(&self, t: i64) -> Result<f64> {
        match usize::try_from(t) {
            Ok(t) => self.alpha_cumprod(t),
            Err(_) if self.config.set_alpha_to_one => Ok(1.0),
            Err(_) => self.alpha_cumprod(0),
        }
    }

    /// The noise level `sqrt((1 - a)/a)` of training time `t`, in f32 as diffusers computes it.
    fn sigma(&self, t: usize) -> f32 {
        let last = self.alphas_cumprod.len() - 1;
        let mut a = self.alphas_cumprod[t.min(last)];
        if self.config.rescale_betas_zero_snr && t >= last {
            a = ALPHA_CUMPROD_FLOOR;
        }
        libm::sqrtf((1.0 - a) / a)
    }

    /// The noise level between training times, linear in `t`; the ends hold beyond them.
    fn sigma_between(&self, t: f64) -> f64 {
        let last = self.alphas_cumprod.len() - 1;
        let low = (t.max(0.0) as usize).min(last);
        if low == last {
            return f64::from(self.sigma(last));
        }
        let (a, b) = (f64::from(self.sigma(low)), f64::from(self.sigma(low + 1)));
        (b - a) * (t.max(0.0) - low as f64) + a
    }

    /// The training time, with its fraction, whose noise level is `sigma`: linear in `ln sigma`.
    fn time_of_sigma(&self, sigma: f64) -> f64 {
        let log = libm::log(sigma.max(1e-10));
        let log_at = |t: usize| f64::from(libm::log(f64::from(self.sigma(t))) as f32);
        let last = self.alphas_cumprod.len() - 1;
        let (mut low, mut high) = (0, last);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if log_at(middle) <= log {
                low = middle;
            } else {
                high = middle;
            }
        }
        if low == last {
            return 0.0;
        }
        let (a, b) = (log_at(low), log_at(low + 1));
        let w = ((a - log) / (a - b)).clamp(0.0, 1.0);
        (1.0 - w) * low as f64 + w * (low + 1) as f64
    }

    /// The `i`-th of `steps` visited times, rounded to whole ones, as the samplers on
    /// `alphas_cumprod` count them. It may exceed the last time where `steps_offset` pushes it
    /// there.
    pub(crate) fn timestep(&self, steps: usize, i: usize) -> i64 {
        let config = &self.config;
        let t = config.num_train_timesteps;
        match config.timestep_spacing {
            Spacing::Linspace => libm::rint(linspace((t - 1) as f64, steps, i)) as i64,
            Spacing::Leading => ((steps - 1 - i) * (t / steps) + config.steps_offset) as i64,
            Spacing::Trailing => trailing(t, t, steps, i),
        }
    }
}

/// What distinguishes the sigma samplers' ways to pick times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    /// `steps` times with fractions: Euler, Heun, LMS.
    Fractional,
    /// The same, Karras times rounded: DPM2.
    FractionalRounded,
    /// `steps + 1` whole times without the last; Karras times rounded unless the betas are a
    /// cosine, everything else cut to whole numbers; the noisiest left out by `lambda_min_clipped`:
    /// DPM-Solver++.
    Whole,
    /// The same, Karras times always rounded, nothing left out: UniPC.
    WholeRounded,
}

/// The times and noise levels of one sampling: `timestep(0..len)` and `sigma(0..=len)`.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    schedule: &'a Schedule<'a>,
    times: Times,
    steps: usize,
    /// Training times that are visited at all.
    span: usize,
    /// How many times there are: `steps`, unless trailing times are left out.
    pub(crate) len: usize,
    sigma_first: f64,
    sigma_last: f64,
    sigma_final: f32,
}

impl<'a> Grid<'a> {
    /// The grid of `steps` steps.
    pub(crate) fn new(
        schedule: &'a Schedule<'a>,
        times: Times,
        steps: usize,
        end: FinalSigma,
    ) -> Result<Self> {
        let config = schedule.config();
        let whole = matches!(times, Times::Whole | Times::WholeRounded);
        let mut span = config.num_train_timesteps;
        if times == Times::Whole {
            span -= schedule.times_below(config.lambda_min_clipped);
        }
        if span == 0 {
            let key = "lambda_min_clipped";
            return Err(Error::Config { key, what: "leaves no time to visit" });
        }
        let mut grid = Grid {
            schedule,
            times,
            steps,
            span,
            len: steps,
            sigma_first: 0.0,
            sigma_last: 0.0,
            sigma_final: match end {
                FinalSigma::Zero => 0.0,
                FinalSigma::SigmaMin => schedule.sigma(0),
            },
        };
        if config.timestep_spacing == Spacing::Trailing && span < config.num_train_timesteps {
            let ratio = config.num_train_timesteps as f64 / steps as f64;
            grid.len = (libm::ceil(span as f64 / ratio) as usize).clamp(1, steps);
        }
        let (first, last) = if whole {
            let last = config.num_train_timesteps - 1;
            (f64::from(schedule.sigma(last)), f64::from(schedule.sigma(0)))
        } else {
            (grid.discrete_sigma(0), grid.discrete_sigma(steps - 1))
        };
        grid.sigma_first = config.sigma_max.unwrap_or(first);
        grid.sigma_last = config.sigma_min.unwrap_or(last);
        if config.sigmas != SigmaKind::Discrete {
            grid.len = steps;
            if times == Times::WholeRounded && end == FinalSigma::SigmaMin {
                grid.sigma_final = grid.level(steps - 1) as f32;
            }
        }
        Ok(grid)
    }

    /// The `i`-th time as the network is told it, as an f32 would hold it.
    pub fn timestep(&self, i: usize) -> f64 {
        let config = self.schedule.config();
        if config.sigmas == SigmaKind::Discrete {
            return self.discrete_timestep(i);
        }
        let t = self.schedule.time_of_sigma(self.level(i));
        let karras = config.sigmas == SigmaKind::Karras;
        let cosine = config.beta_schedule == BetaSchedule::SquaredcosCapV2;
        match self.times {
            Times::FractionalRounded if karras => libm::rint(t),
            Times::Whole if karras && !cosine => libm::rint(t),
            Times::WholeRounded if karras => libm::rint(t),
            Times::Whole | Times::WholeRounded => libm::trunc(t),
            Times::Fractional | Times::FractionalRounded => f64::from(t as f32),
        }
    }

    /// The noise level at the `i`-th time, and beyond the last of them, the final one.
    pub fn sigma(&self, i: usize) -> f64 {
        if i >= self.len {
            return f64::from(self.sigma_final);
        }
        f64::from(self.level(i) as f32)
    }

    /// The time, fraction included, of a noise level between two of the grid's.
    pub fn time_of_sigma(&self, sigma: f64) -> f64 {
        f64::from(self.schedule.time_of_sigma(sigma) as f32)
    }

    /// The standard deviation that the first sample must have, for samplers in sigma.
    pub fn init_noise_sigma(&self) -> f64 {
        let max = (0..=self.len).map(|i| self.sigma(i)).fold(0.0, f64::max);
        match self.schedule.config().timestep_spacing {
            Spacing::Linspace | Spacing::Trailing => max,
            Spacing::Leading => libm::sqrt(max * max + 1.0),
        }
    }

    fn discrete_timestep(&self, i: usize) -> f64 {
        let config = self.schedule.config();
        let (steps, t) = (self.steps, config.num_train_timesteps);
        let offset = config.steps_offset;
        let whole = matches!(self.times, Times::Whole | Times::WholeRounded);
        match config.timestep_spacing {
            Spacing::Linspace if whole => {
                libm::rint(linspace((self.span - 1) as f64, steps + 1, i))
            }
            Spacing::Linspace => f64::from(linspace((t - 1) as f64, steps, i) as f32),
            Spacing::Leading if whole => ((steps - i) * (self.span / (steps + 1)) + offset) as f64,
            Spacing::Leading => ((steps - 1 - i) * (t / steps) + offset) as f64,
            Spacing::Trailing => trailing(t, self.span, steps, i) as f64,
        }
    }

    fn discrete_sigma(&self, i: usize) -> f64 {
        self.schedule.sigma_between(self.discrete_timestep(i))
    }

    /// The noise level before rounding to f32.
    fn level(&self, i: usize) -> f64 {
        let ramp = if self.steps > 1 { i as f64 * (1.0 / (self.steps - 1) as f64) } else { 0.0 };
        let (first, last) = (self.sigma_first, self.sigma_last);
        match self.schedule.config().sigmas {
            SigmaKind::Discrete => self.discrete_sigma(i),
            SigmaKind::Karras => {
                let first = libm::pow(first, 1.0 / KARRAS_RHO);
                let last = libm::pow(last, 1.0 / KARRAS_RHO);
                libm::pow(first + ramp * (last - first), KARRAS_RHO)
            }
            SigmaKind::Exponential => {
                let (first, last) = (libm::log(first), libm::log(last));
                let step = (last - first) / (self.steps.max(2) - 1) as f64;
                let end = self.steps > 1 && i == self.steps - 1;
                libm::exp(if end { last } else { first + i as f64 * step })
            }
        }
    }
}

impl Schedule<'_> {
    /// How many times have `ln(alpha/sigma)` below `lambda`: the noisiest, at the end.
    fn times_below(&self, lambda: f64) -> usize {
        let lambda_at = |t: usize| -libm::log(f64::from(self.sigma(t)));
        (0..self.alphas_cumprod.len()).rev().take_while(|&t| lambda_at(t) < lambda).count()
    }
}

/// The `i`-th of `count` even values from `end` down to 0 (numpy's `linspace(0, end, count)`,
/// reversed).
fn linspace(end: f64, count: usize, i: usize) -> f64 {
    match i {
        _ if count < 2 => 0.0,
        0 => end,
        _ => (count - 1 - i) as f64 * (end / (count - 1) as f64),
    }
}

/// The `i`-th of the times counted down from `span` by `train/steps`, rounded, less one.
///
/// numpy's `arange` takes its increment from the difference of its first two values, which matters
/// where a time falls halfway between whole numbers.
fn trailing(train: usize, span: usize, steps: usize, i: usize) -> i64 {
    let (start, ratio) = (span as f64, train as f64 / steps as f64);
    let increment = (start - ratio) - start;
    libm::rint(start + i as f64 * increment) as i64 - 1
}

/// Even f32 values between two ends, each half counted from its own end, as PyTorch does.
fn linspace_f32(start: f64, end: f64, count: usize) -> impl Fn(usize) -> f32 {
    let (start, end) = (start as f32, end as f32);
    let step = if count > 1 { (end - start) / (count - 1) as f32 } else { 0.0 };
    move |i| {
        if i < count / 2 || count == 1 {
            start + step * i as f32
        } else {
            end - step * (count - 1 - i) as f32
        }
    }
}

/// Writes the betas, one a training time.
fn fill_betas(config: &ScheduleConfig, betas: &mut [f32]) {
    let (count, start, end) = (betas.len(), config.beta_start, config.beta_end);
    match config.beta_schedule {
        BetaSchedule::Linear => {
            let at = linspace_f32(start, end, count);
            betas.iter_mut().enumerate().for_each(|(i, beta)| *beta = at(i));
        }
        BetaSchedule::ScaledLinear => {
            let at = linspace_f32(libm::sqrt(start), libm::sqrt(end), count);
            betas.iter_mut().enumerate().for_each(|(i, beta)| *beta = at(i) * at(i));
        }
        BetaSchedule::SquaredcosCapV2 => {
            let bar = |i: usize| {
                let t = i as f64 / count as f64;
                let cos = libm::cos((t + 0.008) / 1.008 * core::f64::consts::PI / 2.0);
                cos * cos
            };
            for (i, beta) in betas.iter_mut().enumerate() {
                *beta = (1.0 - bar(i + 1) / bar(i)).min(COSINE_MAX_BETA) as f32;
            }
        }
        BetaSchedule::Sigmoid => {
            let at = linspace_f32(-6.0, 6.0, count);
            let range = (end - start) as f32;
            for (i, beta) in betas.iter_mut().enumerate() {
                let sigmoid = 1.0 / (1.0 + libm::exp(-f64::from(at(i))));
                *beta = sigmoid as f32 * range + start as f32;
            }
        }
        BetaSchedule::Given(given) => betas.copy_from_slice(given),
    }
}

/// Replaces each value by the product of all up to it: accumulated in f64, rounded at each element.
fn accumulate_product(values: &mut [f32]) {
    let mut product = 1.0;
    for value in values {
        product *= f64::from(*value);
        *value = product as f32;
    }
}

/// Shifts and scales `sqrt(alphas_cumprod)` so that the first value stays and the last becomes 0
/// (Lin et al. 2023, algorithm 1). In f32 throughout, as in diffusers.
fn rescale_zero_terminal_snr(betas: &mut [f32]) -> Result<()> {
    for beta in betas.iter_mut() {
        *beta = 1.0 - *beta;
    }
    accumulate_product(betas);
    let bars = betas;
    for bar in bars.iter_mut() {
        *bar = libm::sqrtf(*bar);
    }
    let (first, last) = (bars[0], bars[bars.len() - 1]);
    if first <= last {
        let key = "rescale_betas_zero_snr";
        return Err(Error::Config { key, what: "needs betas that add noise after the first" });
    }
    let scale = first / (first - last);
    for bar in bars.iter_mut() {
        *bar = (*bar - last) * scale;
        *bar *= *bar;
    }
    for i in (1..bars.len()).rev() {
        // Where the signal has already gone, there is no ratio: all further betas are 1.
        bars[i] = if bars[i - 1] > 0.0 { 1.0 - bars[i] / bars[i - 1] } else { 1.0 };
    }
    bars[0] = 1.0 - bars[0];
    Ok(())
}
