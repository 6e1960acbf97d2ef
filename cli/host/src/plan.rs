//! What a picture needs, known before it starts; and the limit on it.

use mote::mem::{Arena, Plan};
use mote::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};
use mote::tensor::DType;
use mote::weights::{Assumed, Weights};

use crate::config::autoencoder::Autoencoder;
use crate::error::{Failure, Result};
use crate::machine::Machine;
use crate::pack::Converted;
use crate::resolve::{Networks, Resolved};
use crate::size;

/// Into how many sizes the advice divides the way from the size asked for to nothing.
pub const SIZES_TRIED: usize = 32;

/// The latent channels of the published TAESD.
const TAESD_CHANNELS: usize = 4;

/// Plans one picture.
///
/// # Errors
/// Where the checkpoint is not what its configuration says, or cannot do what is asked.
pub fn plan(resolved: &Resolved, machine: &Machine, weights: &mut dyn Weights) -> Result<Plan> {
    match resolved.dtype.filter(|_| resolved.converts) {
        Some(to) => plan_as_it_is(resolved, machine, &mut Converted::new(weights, to)),
        None => plan_as_it_is(resolved, machine, weights),
    }
}

/// Plans one picture with weights that are converted already, or need not be.
///
/// # Errors
/// As [`plan`].
pub fn plan_as_it_is(
    resolved: &Resolved,
    machine: &Machine,
    weights: &mut dyn Weights,
) -> Result<Plan> {
    machine.compute(Arena::measuring(), weights, |cx| resolved.work(0).plan(cx))
}

/// Refuses a plan that needs more than the limit, with what would make it fit.
///
/// # Errors
/// Where the plan needs more.
pub fn check_limit(
    resolved: &Resolved,
    plan: &Plan,
    limit: Option<u64>,
    machine: &Machine,
) -> Result<()> {
    let Some(limit) = limit.filter(|&limit| plan.arena_bytes as u64 > limit) else {
        return Ok(());
    };
    let (needed, allowed) = (size::show_needed(plan.arena_bytes as u64), size::show_limit(limit));
    let failure =
        Failure::new(format!("this needs {needed} of memory, and the limit is {allowed}"));
    let fits = |other: &Resolved| {
        let mut plain = Assumed(DType::F32);
        let plan = match other.dtype {
            Some(to) => plan_as_it_is(other, machine, &mut Converted::new(&mut plain, to)),
            None => plan_as_it_is(other, machine, &mut plain),
        };
        plan.is_ok_and(|plan| plan.arena_bytes as u64 <= limit)
    };
    let mut advice = Vec::new();
    if with_tiles(resolved).is_some_and(|other| fits(&other)) {
        advice.push("add --vae-tiling".to_string());
    }
    if with_taesd(resolved).is_some_and(|other| fits(&other)) {
        advice.push("give a tiny autoencoder with --taesd".to_string());
    }
    if let Some([height, width]) = smaller(resolved, &fits) {
        advice.push(format!("take -W {width} -H {height}"));
    }
    Err(failure.remedy(match advice.as_slice() {
        [] => format!("No smaller picture fits either: raise the limit to {needed}"),
        _ => format!("To make it fit, {}", advice.join(", or ")),
    }))
}

/// The same run with the picture decoded in tiles, where there is more than one.
fn with_tiles(resolved: &Resolved) -> Option<Resolved> {
    let mut other = resolved.clone();
    let Networks::TextToImage(words) = &mut other.networks else { return None };
    if words.vae_tile.is_some() {
        return None;
    }
    words.vae_tile = Some(words.vae.as_ref()?.tile());
    Some(other)
}

/// The same run with a tiny autoencoder, where there is one for it.
fn with_taesd(resolved: &Resolved) -> Option<Resolved> {
    resolved.large_autoencoder().filter(|vae| vae.latent_channels == TAESD_CHANNELS)?;
    let mut other = resolved.clone();
    if let Networks::TextToImage(words) = &mut other.networks {
        let tiny = Autoencoder::Tiny(AutoencoderTinyConfig {
            in_channels: 3,
            out_channels: 3,
            latent_channels: TAESD_CHANNELS,
            encoder_block_out_channels: [64; 4].into_iter().collect(),
            decoder_block_out_channels: [64; 4].into_iter().collect(),
            num_encoder_blocks: [1, 3, 3, 3].into_iter().collect(),
            num_decoder_blocks: [3, 3, 3, 1].into_iter().collect(),
            scaling_factor: 1.0,
            pool: false,
            naming: Naming::Diffusers,
        });
        words.vae_tile = words.vae_tile.map(|_| tiny.tile());
        words.vae = Some(tiny);
    }
    Some(other)
}

/// The largest size of the same proportions that fits.
fn smaller(resolved: &Resolved, fits: &dyn Fn(&Resolved) -> bool) -> Option<[usize; 2]> {
    let scale = resolved.scale();
    let mut last = resolved.size;
    for part in (1..SIZES_TRIED).rev() {
        let size = resolved.size.map(|side| side * part / SIZES_TRIED / scale * scale);
        if size.contains(&0) || size == last {
            continue;
        }
        last = size;
        if fits(&resolved.at_size(size)) {
            return Some(size);
        }
    }
    None
}
