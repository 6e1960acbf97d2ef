//! The second-order step of DPM-Solver in sigma: to the geometric mean of two noise levels, and
//! from the beginning again along the slope found there (Lu et al. 2022, "DPM-Solver", algorithm 1;
//! Karras et al. 2022, appendix C, as `KDPM2DiscreteScheduler` has it).

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, Times};
use super::euler::towards;
use super::{Row, Slot, Update};
use crate::error::Result;

/// The midpoint method in `ln sigma`: two evaluations a step, one in the last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dpm2;

/// x at the step's beginning.
const BEGINNING: usize = 0;

impl Dpm2 {
    pub(super) fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::FractionalRounded, steps, FinalSigma::Zero)
    }

    pub(super) fn rows(
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
