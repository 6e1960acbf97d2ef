//! DEIS: a multistep method for the predicted noise, whose polynomial in the logarithm of the noise
//! level is integrated exactly (Zhang and Chen 2023, `DEISMultistepScheduler`).

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, Times};
use super::{Knows, Row, Slot, Stepping, Update, Walks, alpha_sigma};
use crate::error::{Error, Result};
use crate::fields::Fields;

/// The multistep method ("logrho").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deis {
    /// Predictions that a step reads, 1 to 3.
    pub solver_order: usize,
    /// Whether the last steps of a sampling of fewer than 15 are of lower order.
    pub lower_order_final: bool,
}

impl Default for Deis {
    fn default() -> Self {
        Deis { solver_order: 2, lower_order_final: true }
    }
}

/// The highest order.
const MAX_ORDER: usize = 3;

/// Below this many steps `lower_order_final` takes effect.
const FEW_STEPS: usize = 15;

impl Stepping for Deis {
    fn knows(&self) -> Knows {
        Knows { rescale_betas: false, threshold: true, sigma_kind: true, ..Knows::default() }
    }

    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        super::not_flowing(fields)?;
        fields.size("solver_order", &mut self.solver_order)?;
        fields.flag("lower_order_final", &mut self.lower_order_final)
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
        Grid::new(schedule, Times::WholeRounded, steps, FinalSigma::SigmaMin).map(Some)
    }

    fn fill(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize> {
        let grid = Grid::new(schedule, Times::WholeRounded, steps, FinalSigma::SigmaMin)?;
        for (i, row) in (start..steps).zip(rows.iter_mut()) {
            let done = i - start;
            let [alpha, sigma] = alpha_sigma(grid.sigma(i));
            let [next_alpha, _] = alpha_sigma(grid.sigma(i + 1));
            let order = self.order(done, steps - i, steps);
            let mut nodes = [0.0; MAX_ORDER];
            for (back, node) in nodes[..order].iter_mut().enumerate() {
                *node = libm::log(grid.sigma(i - back));
            }
            // The noise as the denoised picture has it, clipped where the prediction clips.
            let kept = Update::new(self.slot(done)).x(1.0 / sigma).denoised(-alpha / sigma);
            let mut step = Update::new(Slot::X).x(next_alpha / alpha);
            for back in 0..order {
                let weight = integral(&nodes[..order], back, grid.sigma(i), grid.sigma(i + 1));
                step = step.history((done - back) % self.solver_order, next_alpha * weight);
            }
            let denoised = prediction.at_alpha_sigma(alpha, sigma);
            *row = Row::new(grid.timestep(i), done, denoised).then(kept).then(step);
        }
        Ok(steps - start)
    }
}

impl Deis {
    /// The order of a step before which `done` were taken, and of which `left` are left.
    fn order(&self, done: usize, left: usize, steps: usize) -> usize {
        let is_few = self.lower_order_final && steps < FEW_STEPS;
        let limit = if is_few { left } else { MAX_ORDER };
        self.solver_order.min(done + 1).min(limit)
    }

    /// Where the noise of the `done`-th evaluation lies.
    fn slot(&self, done: usize) -> Slot {
        Slot::History((done % self.solver_order) as u8)
    }
}

/// The integral over the noise level, from `a` to `b`, of the polynomial in its logarithm that is 1
/// at `nodes[k]` and 0 at the others (Zhang and Chen 2023, eq. 15).
fn integral(nodes: &[f64], k: usize, a: f64, b: f64) -> f64 {
    let others = || nodes.iter().enumerate().filter(|&(j, _)| j != k).map(|(_, node)| *node);
    let scale: f64 = others().map(|node| nodes[k] - node).product();
    let (sum, product): (f64, f64) = (others().sum(), others().product());
    // Antiderivatives of 1, ln s - c, and (ln s - c)(ln s - d).
    let whole = |s: f64| {
        let u = libm::log(s);
        match nodes.len() {
            1 => s,
            2 => s * (u - sum - 1.0),
            _ => s * (u * u - (sum + 2.0) * u + product + sum + 2.0),
        }
    };
    (whole(b) - whole(a)) / scale
}
