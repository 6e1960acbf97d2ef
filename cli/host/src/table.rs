//! A sampler's table for a schedule and a number of steps: all that sampling depends on.

use mote::diffusion::prediction::Prediction;
use mote::diffusion::sampler::{Row, Sampler, Stepping, start_step};
use mote::diffusion::schedule::Schedule;

use crate::config::scheduler::SchedulerConfig;
use crate::error::{Failure, Result};
use crate::explain::explain;

/// A sampler's table with what goes before it.
#[derive(Clone, Debug)]
pub struct Table {
    /// The rows.
    pub rows: Vec<Row>,
    /// The standard deviation that x begins with.
    pub init_noise_sigma: f32,
    /// The shares of picture and noise that x begins with, where there is a picture.
    pub noising: [f32; 2],
}

/// Computes the sampler's table.
///
/// # Errors
/// Where the sampler cannot walk this schedule in so many steps.
pub fn table(config: &SchedulerConfig, steps: usize, strength: Option<f32>) -> Result<Table> {
    let schedule_config = config.schedule();
    let place = format!("sampler {}", config.named.title);
    let explain = |error| numbered(explain(error, ""), error, config).within(&place);
    let mut memory = vec![0.0; schedule_config.num_train_timesteps];
    let schedule = Schedule::new(schedule_config, &mut memory).map_err(explain)?;
    let start = match strength {
        Some(strength) => start_step(steps, f64::from(strength)).map_err(|_| {
            Failure::new(format!("a strength of {strength} leaves nothing to do of {steps} steps"))
                .remedy("Raise --strength or --steps")
        })?,
        None => 0,
    };
    let sampler: Sampler<'_> = config.sampler();
    let mut rows = vec![Row::EMPTY; sampler.row_count(steps, start)];
    let prediction = config.prediction;
    let count = sampler.rows(&schedule, prediction, steps, start, &mut rows).map_err(|error| {
        no_signal(config, &schedule, error).map_or_else(|| explain(error), |f| f.within(&place))
    })?;
    rows.truncate(count);
    Ok(Table {
        rows,
        init_noise_sigma: sampler.init_noise_sigma(&schedule, steps).map_err(explain)?,
        noising: sampler.start_scales(&schedule, steps, start).map_err(explain)?,
    })
}

/// A failure of the sampler's, with the numbers whose names alone the core's error has.
fn numbered(failure: Failure, error: mote::Error, config: &SchedulerConfig) -> Failure {
    let mote::Error::Config { key, what } = error else { return failure };
    let schedule = config.schedule();
    let (name, number) = match (config.sampler(), what) {
        (Sampler::Lcm(lcm), _) if what.ends_with("original_inference_steps") => {
            ("original_inference_steps", lcm.original_inference_steps)
        }
        _ if what.ends_with("num_train_timesteps") => {
            ("num_train_timesteps", schedule.num_train_timesteps)
        }
        _ => return failure,
    };
    let what = what.replace(name, &format!("{number}, the `{name}` of the scheduler's file"));
    match key {
        "num_inference_steps" => Failure::new(format!("the number of steps {what}"))
            .remedy(format!("Take at most --steps {number}")),
        _ => Failure::new(format!("`{key}` {what}")).remedy("Change one of the two there"),
    }
}

/// Why no table can be made where the picture is gone at the first step: what the noise was cannot
/// say what the picture was. No number of steps helps.
fn no_signal(
    config: &SchedulerConfig,
    schedule: &Schedule<'_>,
    error: mote::Error,
) -> Option<Failure> {
    let has_none = schedule.alphas_cumprod().last().is_some_and(|&alpha| alpha == 0.0);
    let is_it = matches!(error, mote::Error::Config { key: "num_inference_steps", what }
        if what.starts_with("gives steps without end"));
    if !is_it || !has_none || config.prediction != Prediction::Epsilon {
        return None;
    }
    let (why, otherwise) = match config.schedule().rescale_betas_zero_snr {
        true => ("`rescale_betas_zero_snr` is true", "set that to false in the scheduler's file"),
        false => ("the betas end in noise alone", "lower `beta_end` in the scheduler's file"),
    };
    let what = format!(
        "`prediction_type` is epsilon, and {why}: in noise alone a network that predicts the noise \
         says nothing of the picture"
    );
    Some(
        Failure::new(what)
            .remedy(format!("Give --prediction v if the model was trained so, or {otherwise}")),
    )
}
