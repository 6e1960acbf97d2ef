//! The second-order step of DPM-Solver in sigma: to the geometric mean of two noise levels, and
//! from the beginning again along the slope found there (Lu et al. 2022, "DPM-Solver", algorithm 1;
//! Karras et al. 2022, appendix C, as `KDPM2DiscreteScheduler` has it).

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, ScheduleConfig, Spacing, Times};
use super::euler::towards;
use super::{Knows, Row, Slot, Stepping, Update, Walks};
use crate::error::Result;

/// The midpoint method in `ln sigma`: two evaluations a step, one in the last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dpm2;

/// x at the step's beginning.
const BEGINNING: usize = 0;

impl Dpm2 {
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::FractionalRounded, steps, FinalSigma::Zero)
    }
}

impl Stepping for Dpm2 {
    fn walks(&self) -> Walks {
        Walks::Sigmas
    }

    fn knows(&self) -> Knows {
        Knows { rescale_betas: false, sigma_kind: true, ..Knows::default() }
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
            let middle = f64::from(libm::sqrt(sigma * next) as f32);
            let first = Row::at_sigma(grid.timestep(i), i - start, sigma, prediction);
            let step = towards(Update::new(Slot::X), sigma, middle);
            let [first_row, second_row] = pair else {
                pair[0] = first.then(step);
                break;
            };
            let keep = Update::new(Slot::History(BEGINNING as u8)).x(1.0);
            *first_row = first.then(keep).then(step);
            let slope = (next - sigma) / middle;
            let rest = Update::new(Slot::X).history(BEGINNING, 1.0).x(slope).denoised(-slope);
            let t = grid.time_of_sigma(middle);
            *second_row = Row::at_sigma(t, i - start, middle, prediction).then(rest);
        }
        Ok(count)
    }
}
