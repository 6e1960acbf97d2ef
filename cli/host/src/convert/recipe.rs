//! The recipe that goes into a packed file: its configurations as the core reads them (see
//! [`mote::pipeline::recipe`]), for programs that do not read JSON.

use mote::diffusion::sampler::{SAMPLERS, Sampler};
use mote::diffusion::schedule::BetaSchedule;
use mote::pipeline::recipe::{self, Scheduler};

use crate::checkpoint::place::Place;
use crate::config::scheduler;
use crate::config::scheduler::SchedulerConfig;
use crate::error::{Failure, Result};
use crate::explain::explain;
use crate::networks::Network;

/// The recipe of the pipeline at `model`; empty where programs without a reader for JSON cannot
/// draw with it.
///
/// # Errors
/// Where its scheduler's file cannot be read.
pub fn of(model: &Place, networks: &[Network]) -> Result<Vec<u8>> {
    let own = scheduler::read_of(model, None)?.named.number;
    let mut schedulers = Vec::new();
    for named in SAMPLERS {
        // A sampler that cannot go by this file is refused when it is asked for.
        let config = scheduler::read_of(model, Some(named)).ok();
        schedulers.extend(config.and_then(written).map(|scheduler| (named.number, scheduler)));
    }
    let cannot = |error| explain(error, "");
    let Some(networks) = networks_of(networks)? else { return Ok(Vec::new()) };
    let length = recipe::write(&networks, own, &schedulers, None).map_err(cannot)?;
    let mut bytes = vec![0; length];
    recipe::write(&networks, own, &schedulers, Some(&mut bytes)).map_err(cannot)?;
    Ok(bytes)
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
            _ => config.own(),
        },
    })
}

fn networks_of(networks: &[Network]) -> Result<Option<recipe::Networks>> {
    let (mut clip, mut condition, mut autoencoder) = (None, None, None);
    for network in networks {
        match network {
            Network::UNet2d(unet) => {
                return Ok(Some(recipe::Networks::Unconditional(unet.clone())));
            }
            Network::TextEncoder2(_) => return Ok(None),
            Network::UNet2dCondition(config, _) if config.time_cond_proj_dim.is_some() => {
                return Ok(None);
            }
            Network::TextEncoder(config) => clip = Some(config.clone()),
            Network::UNet2dCondition(config, _) => condition = Some(config.clone()),
            Network::Decoder(config) => autoencoder = Some(config.clone()),
            Network::Encoder(_) => {}
        }
    }
    let (vae, Some(text_encoder), Some(unet)) = (autoencoder, clip, condition) else {
        return Err(Failure::new("the pipeline lacks one of its networks"));
    };
    Ok(Some(recipe::Networks::TextToImage { text_encoder, unet, vae }))
}
