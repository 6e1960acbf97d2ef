//! PNDM: a linear multistep method on the predicted noise, started by four-stage Runge-Kutta steps
//! or, as Stable Diffusion does, by one step taken twice (Liu et al. 2022).

use super::super::prediction::Prediction;
use super::super::schedule::{Schedule, ScheduleConfig};
use super::{Knows, Row, Slot, Stepping, Update, whole_time};
use crate::error::{Error, Result};
use crate::fields::Fields;

/// Pseudo numerical methods.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pndm {
    /// Whether the multistep method starts without Runge-Kutta steps.
    pub skip_prk_steps: bool,
}

/// Runge-Kutta steps, of four evaluations each, that give the multistep method its history.
const PRK_STEPS: usize = 3;
const PRK_ROWS: usize = 4 * PRK_STEPS;

/// Outputs are kept in slots 0, 1 and 2, in turn.
const OUTPUTS: usize = 3;
/// x at the beginning of a step that is taken more than once.
const BEGINNING: usize = 3;
/// The weighted sum of a Runge-Kutta step's outputs.
const SUM: usize = 4;

impl Stepping for Pndm {
    fn knows(&self) -> Knows {
        Knows { rescale_betas: false, ..Knows::default() }
    }

    fn default_schedule(&self) -> ScheduleConfig<'static> {
        ScheduleConfig { set_alpha_to_one: false, ..ScheduleConfig::default() }
    }

    fn fields<F: Fields>(&mut self, fields: &mut F) -> core::result::Result<(), F::Error> {
        fields.flag("skip_prk_steps", &mut self.skip_prk_steps)
    }

    fn check(&self, _schedule: &Schedule, steps: usize, start: usize) -> Result<()> {
        if self.skip_prk_steps {
            return Ok(());
        }
        if steps <= PRK_STEPS {
            let what = "must be at least 4 for PNDM's Runge-Kutta start";
            return Err(Error::Config { key: "num_inference_steps", what });
        }
        if start > 0 {
            let what = "must be true for a PNDM sampling that starts in the middle";
            return Err(Error::Config { key: "skip_prk_steps", what });
        }
        Ok(())
    }

    /// PNDM counts its entries where the others count steps.
    fn row_count(&self, steps: usize, start: usize) -> usize {
        let whole = match self.skip_prk_steps {
            true if steps < 2 => steps,
            true => steps.saturating_add(1),
            false => steps.saturating_add(PRK_ROWS - PRK_STEPS),
        };
        whole.saturating_sub(start)
    }

    /// The `i`-th time that the network is told: the second time comes twice where the Runge-Kutta
    /// steps are skipped; those visit each time's middle twice and its end twice.
    fn timestep(&self, schedule: &Schedule, steps: usize, i: usize) -> i64 {
        if self.skip_prk_steps {
            return schedule.timestep(steps, if i < 2 { i } else { i - 1 });
        }
        if i >= PRK_ROWS {
            return schedule.timestep(steps, i - (PRK_ROWS - PRK_STEPS));
        }
        let half = (schedule.config().num_train_timesteps / steps / 2) as i64;
        match i % 4 {
            0 => schedule.timestep(steps, i / 4),
            1 | 2 => schedule.timestep(steps, i / 4 + 1) + half,
            _ => schedule.timestep(steps, i / 4 + 1),
        }
    }

    fn fill(
        &self,
        schedule: &Schedule,
        prediction: Prediction,
        steps: usize,
        start: usize,
        rows: &mut [Row],
    ) -> Result<usize> {
        if prediction == Prediction::Sample {
            let what = "must be epsilon or v_prediction for PNDM";
            return Err(Error::Config { key: "prediction_type", what });
        }
        let count = rows.len();
        let ratio = (schedule.config().num_train_timesteps / steps) as i64;
        for (done, row) in rows.iter_mut().enumerate() {
            let t = self.timestep(schedule, steps, start + done);
            let a = schedule.alpha_cumprod(whole_time(t)?)?;
            let denoised = prediction.at_alpha_cumprod(a);
            let transfer = |from, to| Transfer::new(schedule, prediction, from, to);
            *row = if self.skip_prk_steps {
                let step = done.saturating_sub(1);
                let row = Row::new(t as f64, step, denoised);
                match done {
                    0 => first_half(row, transfer(t, t - ratio)?, count == 1),
                    1 => second_half(row, transfer(t + ratio, t)?),
                    _ => multistep(row, transfer(t, t - ratio)?, done - 1, done + 1 == count),
                }
            } else if done < PRK_ROWS {
                let from = self.timestep(schedule, steps, done / 4 * 4);
                let half = if done % 2 == 0 { ratio / 2 } else { 0 };
                let row = Row::new(t as f64, done / 4, denoised);
                runge_kutta(row, transfer(from, t - half)?, done)
            } else {
                let step = done - (PRK_ROWS - PRK_STEPS);
                let row = Row::new(t as f64, step, denoised);
                multistep(row, transfer(t, t - ratio)?, step, done + 1 == count)
            };
        }
        Ok(count)
    }
}

/// The transfer part of a step: `x*X + output*E` for x at the step's beginning and a mean output E
/// (Liu et al. 2022, eq. 11).
#[derive(Clone, Copy)]
struct Transfer {
    x: f64,
    output: f64,
}

impl Transfer {
    fn new(schedule: &Schedule, prediction: Prediction, from: i64, to: i64) -> Result<Self> {
        let a = schedule.alpha_cumprod(whole_time(from)?)?;
        let b = schedule.alpha_cumprod_before(to)?;
        let divisor = a * libm::sqrt(1.0 - b) + libm::sqrt(a * (1.0 - a) * b);
        // Where nothing is to be done there may be nothing to divide by.
        let noise = if a == b { 0.0 } else { -(b - a) / divisor };
        let [noise_x, noise_output] = prediction.noise_at_alpha_cumprod(a);
        Ok(Transfer { x: libm::sqrt(b / a) + noise * noise_x, output: noise * noise_output })
    }

    /// The update of x where the step begins at x as it is.
    fn begin_at_x(self) -> Update {
        Update::new(Slot::X).x(self.x)
    }

    /// The update of x where the step begins at the x that was kept.
    fn begin_at_kept(self) -> Update {
        Update::new(Slot::X).history(BEGINNING, self.x)
    }
}

/// Stores x and the first output, and takes the first step plainly.
fn first_half(row: Row, transfer: Transfer, only: bool) -> Row {
    let step = transfer.begin_at_x().output(transfer.output);
    if only {
        return row.then(step);
    }
    row.then(Update::new(Slot::History(BEGINNING as u8)).x(1.0))
        .then(Update::new(Slot::History(0)).output(1.0))
        .then(step)
}

/// Takes the first step again with the mean of the slopes at its two ends.
fn second_half(row: Row, transfer: Transfer) -> Row {
    let half = transfer.output / 2.0;
    row.then(transfer.begin_at_kept().output(half).history(0, half))
}

/// One of the four evaluations of a Runge-Kutta step (Liu et al. 2022, eq. 13).
fn runge_kutta(row: Row, transfer: Transfer, done: usize) -> Row {
    let output = Update::new(Slot::History((done / 4) as u8)).output(1.0);
    let beginning = Update::new(Slot::History(BEGINNING as u8)).x(1.0);
    let sum = Update::new(Slot::History(SUM as u8));
    let step = transfer.begin_at_kept();
    let plain = step.output(transfer.output);
    match done % 4 {
        0 => row.then(output).then(beginning).then(sum.output(1.0 / 6.0)).then(plain),
        1 | 2 => row.then(sum.history(SUM, 1.0).output(1.0 / 3.0)).then(plain),
        _ => row.then(step.history(SUM, transfer.output).output(transfer.output / 6.0)),
    }
}

/// A step along up to four outputs (Liu et al. 2022, eq. 12), of which `kept` came before.
fn multistep(row: Row, transfer: Transfer, kept: usize, last: bool) -> Row {
    let weights: [f64; 4] = match kept {
        0 => [1.0, 0.0, 0.0, 0.0],
        1 => [3.0 / 2.0, -1.0 / 2.0, 0.0, 0.0],
        2 => [23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0],
        _ => [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    };
    let mut step = transfer.begin_at_x().output(transfer.output * weights[0]);
    for (back, weight) in (1..=kept.min(OUTPUTS)).zip(&weights[1..]) {
        step = step.history((kept - back) % OUTPUTS, transfer.output * weight);
    }
    if last {
        return row.then(step);
    }
    row.then(step).then(Update::new(Slot::History((kept % OUTPUTS) as u8)).output(1.0))
}
