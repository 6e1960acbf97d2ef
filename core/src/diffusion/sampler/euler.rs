//! Euler's method on the probability flow in sigma, with and without fresh noise (Karras et al.
//! 2022, section 3).

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, Times};
use super::{FINAL_SIGMAS, Knows, Row, Slot, Stepping, Update, Walks};
use crate::error::Result;
use crate::fields::{Fields, Only};

/// Euler's method (`EulerDiscreteScheduler`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Euler {
    /// The noise level to end at.
    pub final_sigma: FinalSigma,
}

impl Default for Euler {
    fn default() -> Self {
        Euler { final_sigma: FinalSigma::Zero }
    }
}

impl Euler {
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::Fractional, steps, self.final_sigma)
    }
}

impl Stepping for Euler {
    fn walks(&self) -> Walks {
        Walks::Sigmas
    }

    fn knows(&self) -> Knows {
        Knows { rescale_betas: true, sigma_kind: true, sigma_ends: true, ..Knows::default() }
    }

    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        fields.only("interpolation_type", Only::Word("linear"))?;
        fields.only("timestep_type", Only::Word("discrete"))?;
        fields.word("final_sigmas_type", &mut self.final_sigma, &FINAL_SIGMAS)
    }

    fn noise_levels<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Option<Grid<'s>>> {
        self.grid(schedule, steps).map(Some)
    }

    /// `x + (x - denoised)/sigma * (next - sigma)`: Karras et al. 2022, eq. 4, in sigma.
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
            let (sigma, next) = (grid.sigma(i), grid.sigma(i + 1));
            let update = towards(Update::new(Slot::X), sigma, next);
            *row = Row::at_sigma(grid.timestep(i), i - start, sigma, prediction).then(update);
        }
        Ok(steps - start)
    }
}

/// Euler's method with ancestral noise (`EulerAncestralDiscreteScheduler`): each step goes below
/// the next noise level and comes back up by fresh noise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EulerAncestral;

impl EulerAncestral {
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::Fractional, steps, FinalSigma::Zero)
    }
}

impl Stepping for EulerAncestral {
    fn walks(&self) -> Walks {
        Walks::Sigmas
    }

    fn knows(&self) -> Knows {
        Knows { rescale_betas: true, ..Knows::default() }
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
            let (sigma, next) = (grid.sigma(i), grid.sigma(i + 1));
            // The variance of q(x_next | x, x_0) in sigma: eta = 1 of Song et al. 2021, eq. 16.
            let up = next * next * (sigma * sigma - next * next) / (sigma * sigma);
            let down = libm::sqrt(next * next - up);
            let update = towards(Update::new(Slot::X), sigma, down).noise(libm::sqrt(up));
            *row = Row::at_sigma(grid.timestep(i), i - start, sigma, prediction).then(update);
            row.draws_noise = true;
        }
        Ok(steps - start)
    }
}

/// Fills in a straight step along `(x - denoised)/sigma` from `sigma` to `next`.
pub(super) fn towards(update: Update, sigma: f64, next: f64) -> Update {
    let kept = next / sigma;
    update.x(kept).denoised(1.0 - kept)
}
