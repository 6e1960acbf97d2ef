//! Latent consistency models: each evaluation jumps to the clean picture, which is noised again for
//! the next (Luo et al. 2023, algorithm 3).

use super::super::prediction::Prediction;
use super::super::schedule::{BetaSchedule, Schedule, ScheduleConfig};
use super::{Knows, Row, Slot, Stepping, Update, whole_time};
use crate::error::{Error, Result};
use crate::fields::Fields;

/// Standard deviation of the data that the boundary scalings assume.
const SIGMA_DATA: f64 = 0.5;

/// Multistep consistency sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lcm {
    /// Steps of the schedule that the model was distilled on, of which a sampling takes some.
    pub original_inference_steps: usize,
    /// Times are multiplied by this in the boundary scalings.
    pub timestep_scaling: f64,
}

impl Default for Lcm {
    fn default() -> Self {
        Lcm { original_inference_steps: 50, timestep_scaling: 10.0 }
    }
}

impl Stepping for Lcm {
    fn knows(&self) -> Knows {
        Knows { clip: true, threshold: true, ..Knows::default() }
    }

    fn default_schedule(&self) -> ScheduleConfig<'static> {
        ScheduleConfig {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            ..ScheduleConfig::default()
        }
    }

    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        fields.size("original_inference_steps", &mut self.original_inference_steps)?;
        fields.number("timestep_scaling", &mut self.timestep_scaling)
    }

    fn check(&self, schedule: &Schedule, steps: usize, _start: usize) -> Result<()> {
        let refuse = |key, what| Err(Error::Config { key, what });
        let original = self.original_inference_steps;
        if original == 0 || original > schedule.config().num_train_timesteps {
            let what = "must be at least 1 and at most num_train_timesteps";
            return refuse("original_inference_steps", what);
        }
        if steps > original {
            return refuse("num_inference_steps", "must be at most original_inference_steps");
        }
        if !self.timestep_scaling.is_finite() {
            return refuse("timestep_scaling", "must be a number");
        }
        Ok(())
    }

    /// The `i`-th time: evenly picked among those of the distillation, the noisiest first.
    fn timestep(&self, schedule: &Schedule, steps: usize, i: usize) -> i64 {
        let original = self.original_inference_steps;
        let skip = schedule.config().num_train_timesteps / original;
        let picked = libm::floor(i as f64 * (original as f64 / steps as f64)) as usize;
        (original.saturating_sub(picked) * skip) as i64 - 1
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
            let t = self.timestep(schedule, steps, i);
            let a = schedule.alpha_cumprod(whole_time(t)?)?;
            // Luo et al. 2023, eq. 9: at time 0 the function is the identity.
            let scaled = t as f64 * self.timestep_scaling;
            let square = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
            let (skip, out) = (SIGMA_DATA * SIGMA_DATA / square, scaled / libm::sqrt(square));
            let last = i + 1 == steps;
            let before = match last {
                true => 1.0,
                false => schedule.alpha_cumprod_before(self.timestep(schedule, steps, i + 1))?,
            };
            let signal = libm::sqrt(before);
            let update = Update::new(Slot::X)
                .x(signal * skip)
                .denoised(signal * out)
                .noise(libm::sqrt(1.0 - before));
            *row = Row::new(t as f64, i - start, prediction.at_alpha_cumprod(a)).then(update);
            row.draws_noise = !last;
        }
        Ok(steps - start)
    }
}
