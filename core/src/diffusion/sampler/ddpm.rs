//! DDPM: each step draws from the posterior of the time before (Ho et al. 2020, algorithm 2).

use super::super::prediction::{Clipping, Prediction};
use super::super::schedule::{Schedule, ScheduleConfig};
use super::{Knows, Row, Slot, Stepping, Update, whole_time};
use crate::error::Result;
use crate::fields::Fields;

/// The smallest variance whose logarithm is taken.
const MIN_VARIANCE: f32 = 1e-20;

/// The variance of a step (`variance_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variance {
    /// The posterior's, right for a single clean sample (`fixed_small`, `fixed_small_log`: the two
    /// are the same number).
    FixedSmall,
    /// Beta, right for clean samples of variance 1 (`fixed_large`).
    FixedLarge,
    /// Between the two, as the output's second half says (`learned_range`; Nichol & Dhariwal 2021,
    /// eq. 15).
    LearnedRange,
}

const VARIANCES: [(&str, Variance); 4] = [
    ("fixed_small", Variance::FixedSmall),
    ("fixed_small_log", Variance::FixedSmall),
    ("fixed_large", Variance::FixedLarge),
    ("learned_range", Variance::LearnedRange),
];

/// Ancestral sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ddpm {
    /// The variance of a step.
    pub variance: Variance,
}

impl Default for Ddpm {
    fn default() -> Self {
        Ddpm { variance: Variance::FixedSmall }
    }
}

impl Stepping for Ddpm {
    fn knows(&self) -> Knows {
        Knows { clip: true, threshold: true, ..Knows::default() }
    }

    fn default_clipping(&self) -> Clipping {
        Clipping::Clip { range: 1.0 }
    }

    fn default_schedule(&self) -> ScheduleConfig<'static> {
        ScheduleConfig::default()
    }

    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        fields.word("variance_type", &mut self.variance, &VARIANCES)
    }

    fn fill(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize> {
        for (i, row) in (start..steps).zip(rows.iter_mut()) {
            let t = whole_time(schedule.timestep(steps, i))?;
            let before = match i + 1 < steps {
                true => Some(whole_time(schedule.timestep(steps, i + 1))?),
                false => None,
            };
            let a = schedule.alpha_cumprod(t)?;
            let posterior = schedule.posterior(t, before)?;
            let small = posterior.variance.max(MIN_VARIANCE);
            *row = Row::new(t as f64, i - start, prediction.at_alpha_cumprod(a));
            let mut update =
                Update::new(Slot::X).x(f64::from(posterior.xt)).denoised(f64::from(posterior.x0));
            if t > 0 {
                row.draws_noise = true;
                update = match self.variance {
                    Variance::FixedSmall => update.noise(libm::sqrt(f64::from(small))),
                    Variance::FixedLarge => update.noise(libm::sqrt(f64::from(posterior.beta))),
                    Variance::LearnedRange => {
                        let logs = [libm::logf(small), libm::logf(posterior.beta)];
                        row.learned_log_variance = Some(logs);
                        update.noise(1.0)
                    }
                };
            }
            *row = row.then(update);
        }
        Ok(steps - start)
    }
}
