//! A linear multistep method in sigma: the slopes of the last four evaluations, joined by a
//! polynomial and integrated exactly (`LMSDiscreteScheduler`; Adams-Bashforth on uneven steps).

use super::super::prediction::Prediction;
use super::super::schedule::{FinalSigma, Grid, Schedule, Times};
use super::{Knows, Row, Slot, Stepping, Update, Walks};
use crate::error::Result;

/// The linear multistep method of order 4, of lower order while it starts up.
///
/// Where a sampling begins in the middle, it takes the order of a step that far on, and leaves out
/// the terms that there is no slope for: as diffusers does, whose figures depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lms;

/// Slopes that a step reads.
const ORDER: usize = 4;

impl Lms {
    fn grid<'s>(&self, schedule: &'s Schedule, steps: usize) -> Result<Grid<'s>> {
        Grid::new(schedule, Times::Fractional, steps, FinalSigma::Zero)
    }
}

impl Stepping for Lms {
    fn walks(&self) -> Walks {
        Walks::Sigmas
    }

    fn knows(&self) -> Knows {
        Knows { rescale_betas: false, sigma_kind: true, ..Knows::default() }
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
            let sigma = grid.sigma(i);
            let done = i - start;
            let order = (i + 1).min(ORDER);
            let slope = Update::new(Slot::History((done % ORDER) as u8))
                .x(1.0 / sigma)
                .denoised(-1.0 / sigma);
            let mut nodes = [0.0; ORDER];
            for (k, node) in nodes[..order].iter_mut().enumerate() {
                *node = grid.sigma(i - k);
            }
            let mut step = Update::new(Slot::X).x(1.0);
            for k in 0..order.min(done + 1) {
                let weight = lagrange_integral(&nodes[..order], k, sigma, grid.sigma(i + 1));
                step = step.history((done - k) % ORDER, weight);
            }
            *row = Row::at_sigma(grid.timestep(i), done, sigma, prediction).then(slope).then(step);
        }
        Ok(steps - start)
    }
}

/// The integral from `a` to `b` of the polynomial that is 1 at `nodes[k]` and 0 at the others: by
/// two Gauss-Legendre points, which are exact for the cubics of four nodes.
fn lagrange_integral(nodes: &[f64], k: usize, a: f64, b: f64) -> f64 {
    let basis = |x: f64| {
        let others = nodes.iter().enumerate().filter(|&(j, _)| j != k);
        others.map(|(_, node)| (x - node) / (nodes[k] - node)).product::<f64>()
    };
    let (middle, half) = (a.midpoint(b), (b - a) / 2.0);
    let offset = half / libm::sqrt(3.0);
    half * (basis(middle - offset) + basis(middle + offset))
}
