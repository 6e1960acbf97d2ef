//! Heun's method in sigma: a step, a second look from where it led, and the mean of both slopes
//! (Karras et al. 2022, algorithm 1 without churn).

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, ScheduleConfig, Spacing, Times};
use super::euler::towards;
use super::{Knows, Row, Slot, Stepping, Update, Walks};
use crate::error::Result;

/// Heun's method (`HeunDiscreteScheduler`): two evaluations a step, one in the last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heun;

/// x at the step's beginning, with half of the step along the first slope.
const HALFWAY: usize = 0;

impl Heun {
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::Fractional, steps, FinalSigma::Zero)
    }
}

impl Stepping for Heun {
    fn walks(&self) -> Walks {
        Walks::Sigmas
    }

    fn knows(&self) -> Knows {
        Knows { rescale_betas: false, clip: true, sigma_kind: true, ..Knows::default() }
    }

    fn default_schedule(&self) -> ScheduleConfig<'static> {
        let linspace =
            ScheduleConfig { timestep_spacing: Spacing::Linspace, ..ScheduleConfig::default() };
        ScheduleConfig { beta_start: 0.00085, beta_end: 0.012, ..linspace }
    }

    fn row_count(&self, steps: usize, start: usize) -> usize {
        steps.saturating_sub(start).saturating_mul(2).saturating_sub(1)
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
        let count = rows.len();
        for (i, pair) in (start..steps).zip(rows.chunks_mut(2)) {
            let (sigma, next) = (grid.sigma(i), grid.sigma(i + 1));
            let first = Row::at_sigma(grid.timestep(i), i - start, sigma, prediction);
            let step = towards(Update::new(Slot::X), sigma, next);
            let [first_row, second_row] = pair else {
                pair[0] = first.then(step);
                break;
            };
            let half = (next - sigma) / 2.0;
            let halfway = Update::new(Slot::History(HALFWAY as u8))
                .x(1.0 + half / sigma)
                .denoised(-half / sigma);
            *first_row = first.then(halfway).then(step);
            let rest =
                Update::new(Slot::X).history(HALFWAY, 1.0).x(half / next).denoised(-half / next);
            let second = Row::at_sigma(grid.timestep(i + 1), i - start, next, prediction);
            *second_row = second.then(rest);
        }
        Ok(count)
    }
}
