//! UniPC: a multistep predictor, and a corrector that uses the next evaluation to mend the step
//! that led to it (Zhao et al. 2023).

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, Times};
use super::{FINAL_SIGMAS, Knows, Row, Slot, Stepping, Update, Walks, alpha_sigma};
use crate::error::{Error, Result};
use crate::fields::{Fields, Only};

/// The function `B(h)` that scales the differences (`solver_type`; Zhao et al. 2023, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UniPcSolver {
    /// `B(h) = h`.
    Bh1,
    /// `B(h) = e^h - 1`.
    Bh2,
}

/// In diffusers the kinds of one solver stand for the other's default.
const SOLVER_TYPES: [(&str, UniPcSolver); 5] = [
    ("bh1", UniPcSolver::Bh1),
    ("bh2", UniPcSolver::Bh2),
    ("midpoint", UniPcSolver::Bh2),
    ("heun", UniPcSolver::Bh2),
    ("logrho", UniPcSolver::Bh2),
];

/// The unified predictor-corrector (`UniPCMultistepScheduler` with `predict_x0`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UniPc<'a> {
    /// Denoised pictures that a prediction reads, 1 to 3.
    pub solver_order: usize,
    /// The function `B(h)`.
    pub solver: UniPcSolver,
    /// Whether the last steps are of lower order.
    pub lower_order_final: bool,
    /// The steps that are not corrected.
    pub disable_corrector: &'a [usize],
    /// The noise level to end at.
    pub final_sigma: FinalSigma,
}

impl Default for UniPc<'_> {
    fn default() -> Self {
        UniPc {
            solver_order: 2,
            solver: UniPcSolver::Bh2,
            lower_order_final: true,
            disable_corrector: &[],
            final_sigma: FinalSigma::Zero,
        }
    }
}

/// The highest order.
const MAX_ORDER: usize = 3;

impl Stepping for UniPc<'_> {
    fn knows(&self) -> Knows {
        Knows { threshold: true, sigma_kind: true, sigma_ends: true, ..Knows::default() }
    }

    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        super::not_flowing(fields)?;
        fields.only("predict_x0", Only::Flag(true))?;
        fields.only("solver_p", Only::Null)?;
        fields.only("shift_terminal", Only::Null)?;
        fields.size("solver_order", &mut self.solver_order)?;
        fields.word("solver_type", &mut self.solver, &SOLVER_TYPES)?;
        fields.flag("lower_order_final", &mut self.lower_order_final)?;
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
        for (i, row) in (start..steps).zip(rows.iter_mut()) {
            let done = i - start;
            let last = i + 1 == steps;
            let [alpha, sigma] = alpha_sigma(grid.sigma(i));
            let denoised = prediction.at_alpha_sigma(alpha, sigma);
            *row = Row::new(grid.timestep(i), done, denoised);
            if done > 0 && !self.disable_corrector.contains(&(i - 1)) {
                *row = row.then(self.correct(&grid, i, done));
            }
            if !last && !self.disable_corrector.contains(&i) {
                *row = row.then(Update::new(Slot::History(self.beginning() as u8)).x(1.0));
            }
            *row = row.then(self.predict(&grid, i, done));
            if !last {
                *row = row.then(Update::new(self.slot(done)).denoised(1.0));
            }
        }
        Ok(steps - start)
    }
}

impl UniPc<'_> {
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::WholeRounded, steps, self.final_sigma)
    }

    /// The order of the prediction at step `i`, before which `done` steps were taken.
    fn order(&self, steps: usize, i: usize, done: usize) -> usize {
        let limit = if self.lower_order_final { steps - i } else { MAX_ORDER };
        self.solver_order.min(limit).min(done + 1)
    }

    /// Where the denoised picture of the `done`-th evaluation lies.
    fn slot(&self, done: usize) -> Slot {
        Slot::History((done % self.solver_order) as u8)
    }

    /// Where x lies as it was before the last prediction: after the denoised pictures.
    fn beginning(&self) -> usize {
        self.solver_order
    }

    /// Zhao et al. 2023, algorithm 3: from `sigma(i)` to `sigma(i + 1)`.
    fn predict(&self, grid: &Grid, i: usize, done: usize) -> Update {
        let order = self.order(grid.len, i, done);
        let step = Step::new(self.solver, grid, i, order);
        let weights = match order {
            1 => [0.0; MAX_ORDER],
            2 => [0.5, 0.0, 0.0],
            _ => step.solve(order - 1),
        };
        let mut update = Update::new(Slot::X).x(step.x);
        let mut latest = step.denoised;
        for k in 1..order {
            let weight = -step.scale * weights[k - 1] / step.ratios[k - 1];
            latest -= weight;
            update = update.history((done - k) % self.solver_order, weight);
        }
        update.denoised(latest)
    }

    /// Zhao et al. 2023, algorithm 1: the step to `sigma(i)` again, now that it is known what the
    /// network says there.
    fn correct(&self, grid: &Grid, i: usize, done: usize) -> Update {
        let order = self.order(grid.len, i - 1, done - 1);
        let step = Step::new(self.solver, grid, i - 1, order);
        let weights = if order == 1 { [0.5, 0.0, 0.0] } else { step.solve(order) };
        let here = -step.scale * weights[order - 1];
        let mut update = Update::new(Slot::X).history(self.beginning(), step.x).denoised(here);
        let mut latest = step.denoised - here;
        for k in 1..order {
            let weight = -step.scale * weights[k - 1] / step.ratios[k - 1];
            latest -= weight;
            update = update.history((done - 1 - k) % self.solver_order, weight);
        }
        update.history((done - 1) % self.solver_order, latest)
    }
}

/// What predictor and corrector share of the step from `sigma(from)` to the next noise level.
struct Step {
    /// Coefficient of x at the step's beginning.
    x: f64,
    /// Coefficient of the denoised picture there, without differences.
    denoised: f64,
    /// `alpha*B(h)`.
    scale: f64,
    /// Where the earlier pictures lie, in steps: negative; the last one in use is 1, the step's
    /// end.
    ratios: [f64; MAX_ORDER],
    /// The right side of the equations for the weights.
    b: [f64; MAX_ORDER],
}

impl Step {
    fn new(solver: UniPcSolver, grid: &Grid, from: usize, order: usize) -> Self {
        let (sigma_from, sigma_to) = (grid.sigma(from), grid.sigma(from + 1));
        let [alpha, sigma] = alpha_sigma(sigma_to);
        let [_, sigma_before] = alpha_sigma(sigma_from);
        // For the denoised picture the equations hold with -h.
        let minus_h = libm::log(sigma_to / sigma_from);
        let phi_1 = sigma_to / sigma_from - 1.0;
        let scale = match solver {
            UniPcSolver::Bh1 => minus_h,
            UniPcSolver::Bh2 => phi_1,
        };
        let mut ratios = [1.0; MAX_ORDER];
        for k in 1..order {
            ratios[k - 1] = libm::log(grid.sigma(from - k) / sigma_from) / minus_h;
        }
        let mut b = [0.0; MAX_ORDER];
        let (mut phi, mut factorial) = (phi_1 / minus_h - 1.0, 1.0);
        for (i, b) in b.iter_mut().enumerate() {
            *b = phi * factorial / scale;
            factorial *= (i + 2) as f64;
            phi = phi / minus_h - 1.0 / factorial;
        }
        // At the end of all noise B(h) = h has no bound, and a first-order step does not need it.
        let scale = if scale.is_finite() { alpha * scale } else { 0.0 };
        Step { x: sigma / sigma_before, denoised: -alpha * phi_1, scale, ratios, b }
    }

    /// Solves `sum over k of ratios[k]^i * w[k] = b[i]` for `count` weights, by elimination: a
    /// Vandermonde matrix of different ratios is never singular.
    fn solve(&self, count: usize) -> [f64; MAX_ORDER] {
        let mut m = [[0.0; MAX_ORDER + 1]; MAX_ORDER];
        let mut powers = [1.0; MAX_ORDER];
        for (i, row) in m.iter_mut().enumerate() {
            row[..MAX_ORDER].copy_from_slice(&powers);
            row[MAX_ORDER] = self.b[i];
            powers.iter_mut().zip(self.ratios).for_each(|(power, ratio)| *power *= ratio);
        }
        for i in 0..count {
            for below in i + 1..count {
                let (pivot, factor) = (m[i], m[below][i] / m[i][i]);
                m[below].iter_mut().zip(pivot).for_each(|(value, p)| *value -= factor * p);
            }
        }
        let mut w = [0.0; MAX_ORDER];
        for i in (0..count).rev() {
            let known: f64 = (i + 1..count).map(|k| m[i][k] * w[k]).sum();
            w[i] = (m[i][MAX_ORDER] - known) / m[i][i];
        }
        w
    }
}
