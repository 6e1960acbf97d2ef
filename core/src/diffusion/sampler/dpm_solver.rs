//! DPM-Solver++: a multistep method for the denoised picture in half the log of the signal-to-noise
//! ratio, deterministic or with noise (Lu et al. 2022, "DPM-Solver++").

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, Times};
use super::{FINAL_SIGMAS, Knows, Row, Slot, Stepping, Update, Walks, alpha_sigma};
use crate::error::{Error, Result};
use crate::fields::{Fields, Only};

/// Which equation is solved (`algorithm_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The probability flow (`dpmsolver++`).
    Ode,
    /// The diffusion with its noise (`sde-dpmsolver++`).
    Sde,
}

/// How a second-order step uses the slope (`solver_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SolverType {
    /// Lu et al. 2022, algorithm 2.
    Midpoint,
    /// The exact integral of the linear model.
    Heun,
}

const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("dpmsolver++", Algorithm::Ode),
    // diffusers takes DEIS to be DPM-Solver++, too.
    ("deis", Algorithm::Ode),
    ("sde-dpmsolver++", Algorithm::Sde),
];

/// In diffusers the kinds of one solver stand for the other's default.
const SOLVER_TYPES: [(&str, SolverType); 5] = [
    ("midpoint", SolverType::Midpoint),
    ("heun", SolverType::Heun),
    ("logrho", SolverType::Midpoint),
    ("bh1", SolverType::Midpoint),
    ("bh2", SolverType::Midpoint),
];

/// The multistep solver (`DPMSolverMultistepScheduler`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpmSolver {
    /// Denoised pictures that a step reads, 1 to 3. 2 is "DPM++ 2M".
    pub solver_order: usize,
    /// Which equation is solved.
    pub algorithm: Algorithm,
    /// How a second-order step uses the slope.
    pub solver_type: SolverType,
    /// Whether the last steps of a sampling of fewer than 15 are of lower order.
    pub lower_order_final: bool,
    /// Whether the last step is of first order.
    pub euler_at_final: bool,
    /// The noise level to end at. At zero, the last step is of first order.
    pub final_sigma: FinalSigma,
}

impl Default for DpmSolver {
    fn default() -> Self {
        DpmSolver {
            solver_order: 2,
            algorithm: Algorithm::Ode,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            final_sigma: FinalSigma::Zero,
        }
    }
}

/// The highest order.
const MAX_ORDER: usize = 3;

/// Below this many steps `lower_order_final` takes effect.
const FEW_STEPS: usize = 15;

impl Stepping for DpmSolver {
    fn knows(&self) -> Knows {
        Knows { threshold: true, sigma_kind: true, lambda_min: true, ..Knows::default() }
    }

    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        super::not_flowing(fields)?;
        fields.only("use_lu_lambdas", Only::Flag(false))?;
        fields.only("variance_type", Only::Null)?;
        fields.size("solver_order", &mut self.solver_order)?;
        fields.word("algorithm_type", &mut self.algorithm, &ALGORITHMS)?;
        fields.word("solver_type", &mut self.solver_type, &SOLVER_TYPES)?;
        fields.flag("lower_order_final", &mut self.lower_order_final)?;
        fields.flag("euler_at_final", &mut self.euler_at_final)?;
        fields.word("final_sigmas_type", &mut self.final_sigma, &FINAL_SIGMAS)
    }

    fn check(&self, _schedule: &Schedule, _steps: usize, _start: usize) -> Result<()> {
        if (1..=MAX_ORDER).contains(&self.solver_order) {
            return Ok(());
        }
        Err(Error::Config { key: "solver_order", what: "must be 1, 2 or 3" })
    }

    fn walks(&self) -> Walks {
        Walks::Mixtures
    }

    fn noise_levels<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Option<Grid<'s>>> {
        self.grid(schedule, steps).map(Some)
    }

    fn fill(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize> {
        let grid = self.grid(schedule, steps)?;
        if start >= grid.len {
            return Err(Error::Config { key: "strength", what: "leaves no step" });
        }
        let kept = self.solver_order - 1;
        for (i, row) in (start..grid.len).zip(rows.iter_mut()) {
            let done = i - start;
            let [alpha, sigma] = alpha_sigma(grid.sigma(i));
            let order = self.order(done, i, grid.len);
            let mut sigmas = [0.0; MAX_ORDER + 1];
            for (k, sigma) in sigmas[..=order].iter_mut().enumerate() {
                *sigma = grid.sigma(i + 1 - k);
            }
            let step = self.step(&sigmas[..=order]);
            let mut update = Update::new(Slot::X).x(step.x).noise(step.noise);
            update = update.denoised(step.denoised[0]);
            for back in 1..order {
                update = update.history((done - back) % kept, step.denoised[back]);
            }
            let denoised = prediction.at_alpha_sigma(alpha, sigma);
            *row = Row::new(grid.timestep(i), done, denoised).then(update);
            row.draws_noise = self.algorithm == Algorithm::Sde;
            if kept > 0 && i + 1 < grid.len {
                let slot = Slot::History((done % kept) as u8);
                *row = row.then(Update::new(slot).denoised(1.0));
            }
        }
        Ok(grid.len - start)
    }
}

impl DpmSolver {
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::Whole, steps, self.final_sigma)
    }

    /// The order of step `i` of `len`, before which `done` steps were taken.
    fn order(&self, done: usize, i: usize, len: usize) -> usize {
        let few = self.lower_order_final && len < FEW_STEPS;
        let zero = self.final_sigma == FinalSigma::Zero;
        let limit = match len - i {
            1 if self.euler_at_final || few || zero => 1,
            2 if few => 2,
            _ => MAX_ORDER,
        };
        self.solver_order.min(done + 1).min(limit)
    }

    /// The step to `sigmas[0]` from `sigmas[1]`, before which the noise levels were `sigmas[2..]`.
    fn step(&self, sigmas: &[f64]) -> Step {
        let order = sigmas.len() - 1;
        let [alpha, sigma] = alpha_sigma(sigmas[0]);
        let [_, sigma_from] = alpha_sigma(sigmas[1]);
        // exp(-h), where h is the growth of lambda = ln(alpha/sigma) = -ln sigmas.
        let decay = sigmas[0] / sigmas[1];
        let h = -libm::log(decay);
        let sde = self.algorithm == Algorithm::Sde;
        // Of the noise that the picture holds, the stochastic solver replaces a part.
        let (keep, noise) =
            if sde { (decay, sigma * libm::sqrt(1.0 - decay * decay)) } else { (1.0, 0.0) };
        let double = if sde { 2.0 * h } else { h };
        // Integrals of exp(-double) against 1, t and t²/2 - as diffusers writes them.
        let phi_1 = 1.0 - keep * decay;
        let slope = match (order, self.solver_type) {
            (2, SolverType::Midpoint) => 0.5 * phi_1,
            (2 | 3, _) => 1.0 - phi_1 / double,
            _ => 0.0,
        };
        let curve = match (order, sde) {
            (3, false) => 0.5 - (h - phi_1) / (h * h),
            (3, true) => (phi_1 - double) / (double * double) - 0.5,
            _ => 0.0,
        };
        Step {
            x: sigma / sigma_from * keep,
            denoised: self.weights(sigmas, h, [phi_1, slope, curve].map(|c| c * alpha)),
            noise,
        }
    }

    /// Spreads the coefficients of the value, the slope and the curvature of the denoised picture
    /// over the pictures it was seen at, the latest first (Lu et al. 2022, eq. B.7 of
    /// "DPM-Solver").
    fn weights(&self, sigmas: &[f64], h: f64, [value, slope, curve]: [f64; 3]) -> [f64; 3] {
        let order = sigmas.len() - 1;
        if order == 1 {
            return [value, 0.0, 0.0];
        }
        let h0 = libm::log(sigmas[2] / sigmas[1]);
        let inverse0 = h / h0;
        if order == 2 {
            return [value + slope * inverse0, -slope * inverse0, 0.0];
        }
        let h1 = libm::log(sigmas[3] / sigmas[2]);
        let (inverse1, r0) = (h / h1, h0 / h);
        // D1_0 = (m0 - m1)/r0 and D1_1 = (m1 - m2)/r1; D1 = D1_0 + r0*s*(D1_0 - D1_1) and
        // D2 = s*(D1_0 - D1_1), where s = 1/(r0 + r1).
        let s = h / (h0 + h1);
        let first = slope + (slope * r0 + curve) * s;
        let second = -(slope * r0 + curve) * s;
        [value + first * inverse0, second * inverse1 - first * inverse0, -second * inverse1]
    }
}

/// The coefficients of one step.
struct Step {
    x: f64,
    /// The latest first.
    denoised: [f64; MAX_ORDER],
    noise: f64,
}
