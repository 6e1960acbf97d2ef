//! DDIM: steps that keep the marginals of DDPM with any amount of fresh noise (Song et al. 2021).

use super::super::prediction::{Clipping, Prediction};
use super::super::schedule::{Schedule, ScheduleConfig};
use super::{Knows, Row, Slot, Stepping, Update, whole_time};
use crate::error::{Error, Result};
use crate::fields::Fields;

/// Implicit sampling.
///
/// The direction towards x_t is taken from the predicted noise as the network gave it, beside the
/// denoised picture as it was clipped (diffusers with `use_clipped_model_output` off).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ddim {
    /// The share of DDPM's noise: 0 is deterministic, 1 is DDPM (Song et al. 2021, eq. 16).
    pub eta: f64,
}

impl Stepping for Ddim {
    fn knows(&self) -> Knows {
        Knows { clip: true, threshold: true, ..Knows::default() }
    }

    fn default_clipping(&self) -> Clipping {
        Clipping::Clip { range: 1.0 }
    }

    fn default_schedule(&self) -> ScheduleConfig<'static> {
        ScheduleConfig::default()
    }

    fn set_eta(&mut self, eta: f64) -> bool {
        self.eta = eta;
        true
    }

    /// `eta` is told beside the configuration: no file of diffusers holds it.
    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        fields.number("eta", &mut self.eta)
    }

    fn check(&self, _schedule: &Schedule, _steps: usize, _start: usize) -> Result<()> {
        if self.eta >= 0.0 && self.eta.is_finite() {
            return Ok(());
        }
        Err(Error::Config { key: "eta", what: "must be a number, 0 or above" })
    }

    /// Song et al. 2021, eq. 12.
    fn fill(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize> {
        let ratio = (schedule.config().num_train_timesteps / steps) as i64;
        for (i, row) in (start..steps).zip(rows.iter_mut()) {
            let t = schedule.timestep(steps, i);
            let a = schedule.alpha_cumprod(whole_time(t)?)?;
            let before = schedule.alpha_cumprod_before(t - ratio)?;
            let deviation = self.eta * deviation(a as f32, before as f32);
            let direction = direction(1.0 - before - deviation * deviation)?;
            let [x, output] = prediction.noise_at_alpha_cumprod(a);
            let update = Update::new(Slot::X)
                .denoised(libm::sqrt(before))
                .x(direction * x)
                .output(direction * output)
                .noise(deviation);
            *row = Row::new(t as f64, i - start, prediction.at_alpha_cumprod(a)).then(update);
            row.draws_noise = self.eta > 0.0;
        }
        Ok(steps - start)
    }
}

/// The standard deviation of DDPM's noise between two `alphas_cumprod`: in f32 in diffusers' order,
/// as [`Schedule::posterior`] has it.
fn deviation(a: f32, before: f32) -> f64 {
    let variance = (1.0 - before) / (1.0 - a) * (1.0 - a / before);
    libm::sqrt(f64::from(variance))
}

/// The root of what the fresh noise leaves of the variance; rounding may have taken it below 0.
fn direction(square: f64) -> Result<f64> {
    if square < -1e-6 {
        return Err(Error::Config { key: "eta", what: "asks for more noise than there is" });
    }
    Ok(libm::sqrt(square.max(0.0)))
}
