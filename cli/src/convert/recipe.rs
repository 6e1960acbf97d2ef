//! The recipe that goes into a packed file: its configurations as the core reads them (see
//! [`mote::pipeline::recipe`]), for programs that do not read JSON.

use clap::ValueEnum;
use mote::diffusion::sampler::Sampler;
use mote::diffusion::schedule::BetaSchedule;
use mote::pipeline::recipe::{self, Recipe, SAMPLERS, Scheduler, Vae};

use super::networks::Network;
use crate::args::Method;
use crate::config::autoencoder::Autoencoder;
use crate::config::scheduler::{self, SchedulerConfig};
use crate::error::{Failure, Result};
use crate::place::Place;
use crate::resolve::explain;

/// The recipe of the pipeline at `model`.
///
/// # Errors
/// Where its scheduler's file cannot be read.
pub fn of(model: &Place, networks: &[Network]) -> Result<Vec<u8>> {
    let own = scheduler::read_of(model, None)?;
    let mut recipe = Recipe {
        networks: networks_of(networks)?,
        own_sampler: number(own.method).unwrap_or(SAMPLERS.len()),
        schedulers: Default::default(),
    };
    for &method in Method::value_variants() {
        // A sampler that cannot go by this file is refused when it is asked for.
        let config = scheduler::read_of(model, Some(method)).ok();
        if let (Some(scheduler), Some(number)) = (config.and_then(written), number(method)) {
            let full = || Failure::new("there are more samplers than a recipe has room for");
            recipe.schedulers.push((number, scheduler)).map_err(|_| full())?;
        }
    }
    let cannot = |error| explain(error, "");
    let mut bytes = vec![0; recipe.bytes().map_err(cannot)?];
    recipe.write(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}

/// A sampler's number in a recipe.
pub fn number(method: Method) -> Option<usize> {
    let name = method.to_possible_value()?;
    SAMPLERS.iter().position(|sampler| *sampler == name.get_name())
}

/// The settings, where they are all numbers of their own: betas that are given one by one, and
/// steps that are not corrected, have no place in a recipe.
fn written(config: SchedulerConfig) -> Option<Scheduler> {
    let schedule = config.schedule();
    let beta_schedule = match schedule.beta_schedule {
        BetaSchedule::Given(_) => return None,
        BetaSchedule::Linear => BetaSchedule::Linear,
        BetaSchedule::ScaledLinear => BetaSchedule::ScaledLinear,
        BetaSchedule::SquaredcosCapV2 => BetaSchedule::SquaredcosCapV2,
        BetaSchedule::Sigmoid => BetaSchedule::Sigmoid,
    };
    Some(Scheduler {
        prediction: config.prediction,
        clipping: config.clipping,
        schedule: mote::diffusion::schedule::ScheduleConfig { beta_schedule, ..schedule },
        sampler: match config.sampler() {
            Sampler::UniPc(unipc) if !unipc.disable_corrector.is_empty() => return None,
            Sampler::UniPc(unipc) => {
                Sampler::UniPc(mote::diffusion::sampler::UniPc { disable_corrector: &[], ..unipc })
            }
            Sampler::Ddpm(sampler) => Sampler::Ddpm(sampler),
            Sampler::Ddim(sampler) => Sampler::Ddim(sampler),
            Sampler::Pndm(sampler) => Sampler::Pndm(sampler),
            Sampler::Euler(sampler) => Sampler::Euler(sampler),
            Sampler::EulerAncestral(sampler) => Sampler::EulerAncestral(sampler),
            Sampler::Heun(sampler) => Sampler::Heun(sampler),
            Sampler::Dpm2(sampler) => Sampler::Dpm2(sampler),
            Sampler::Lms(sampler) => Sampler::Lms(sampler),
            Sampler::DpmSolver(sampler) => Sampler::DpmSolver(sampler),
            Sampler::Lcm(sampler) => Sampler::Lcm(sampler),
        },
    })
}

fn networks_of(networks: &[Network]) -> Result<recipe::Networks> {
    let (mut clip, mut condition, mut autoencoder) = (None, None, None);
    for network in networks {
        match network {
            Network::UNet2d(unet) => return Ok(recipe::Networks::Unconditional(unet.clone())),
            Network::TextEncoder(config) => clip = Some(config.clone()),
            Network::UNet2dCondition(config, _) => condition = Some(config.clone()),
            Network::Decoder(Autoencoder::Kl(config)) => {
                autoencoder = Some(Vae::Kl(config.clone()));
            }
            Network::Decoder(Autoencoder::Tiny(config)) => {
                autoencoder = Some(Vae::Tiny(config.clone()));
            }
            Network::Encoder(_) => {}
        }
    }
    let (vae, Some(text_encoder), Some(unet)) = (autoencoder, clip, condition) else {
        return Err(Failure::new("the pipeline lacks one of its networks"));
    };
    Ok(recipe::Networks::TextToImage { text_encoder, unet, vae })
}
