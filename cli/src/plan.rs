//! `mote plan`: what `generate` would need, known before it starts; and the limit on it.

use std::path::Path;
use std::sync::Arc;

use mote::arch::Isa;
use mote::exec::Executor;
use mote::mem::{Arena, Plan};
use mote::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};
use mote::ops::Context;
use mote::tensor::DType;
use mote::weights::{Assumed, InPlace, Part, Parts, Slot, Weights};
use serde_json::{Value, json};

use crate::args;
use crate::checkpoint::{Checkpoint, Mapped};
use crate::config::autoencoder::Autoencoder;
use crate::convert::Converted;
use crate::error::{Failure, Result};
use crate::executor::Pool;
use crate::packed::{Packed, Within};
use crate::place::Place;
use crate::progress;
use crate::resolve::{self, Networks, Resolved, explain};
use crate::target::{self, Language};
use crate::{isa, print, size, train};

/// Into how many sizes the advice divides the way from the size asked for to nothing.
pub const SIZES_TRIED: usize = 32;

/// The latent channels of the published TAESD.
const TAESD_CHANNELS: usize = 4;

/// What a run will need, in a table or as JSON.
///
/// # Errors
/// Where the model cannot be run as asked.
pub fn run(args: &args::Plan) -> Result<()> {
    if let Some(recipe) = &args.train {
        return train::plan(recipe, args.machine.threads, args.machine.memory_limit);
    }
    if args.target_flash.is_some() || args.target_ram.is_some() {
        return target::suggest(args, args.target_flash, args.target_ram);
    }
    for (is_wanted, language) in [(args.rust, Language::Rust), (args.c, Language::C)] {
        if is_wanted {
            return target::constant(args, language);
        }
    }
    let resolved = resolve::resolve(&args.model, &args.request)?;
    let pool = pool(args.machine.threads)?;
    let isa = isa::choose()?;
    let mut model = Model::open(&resolved)?;
    let plan = model.with_weights(|weights| plan(&resolved, isa, &pool, weights))??;
    let text = if args.json {
        format!("{:#}\n", to_json(&resolved, &plan, args.request.batch_count))
    } else {
        to_table(&resolved, &plan, args.request.batch_count)
    };
    print::bytes(text.as_bytes())?;
    check_limit(&resolved, &plan, args.machine.memory_limit, isa, &pool)?;
    resolved.notes.iter().for_each(|note| progress::tell(&format!("note: {note}")));
    Ok(())
}

/// As many threads as asked for, or as there are CPUs.
///
/// # Errors
/// Where the system will not start them.
pub fn pool(threads: Option<u32>) -> Result<Pool> {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.map_or_else(available, |threads| threads as usize);
    Pool::new(threads)
        .map_err(|error| Failure::new(format!("cannot start {threads} threads: {error}")))
}

/// The weights of all networks, mapped.
#[derive(Debug)]
pub struct Model {
    /// Those with files of their own.
    networks: Vec<(&'static str, Checkpoint)>,
    /// Those in a packed file.
    packed_networks: Vec<&'static str>,
    /// That file, and room for its index.
    packed: Option<(Arc<Packed>, Vec<Slot>)>,
}

impl Model {
    /// Maps the weights of a model.
    ///
    /// # Errors
    /// Where some are missing or damaged.
    pub fn open(resolved: &Resolved) -> Result<Self> {
        Self::of(&resolved.places)
    }

    /// Maps the weights at these places.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn of(places: &[(&'static str, Place)]) -> Result<Self> {
        let mut model = Self { networks: Vec::new(), packed_networks: Vec::new(), packed: None };
        for (network, place) in places {
            match place.packed() {
                Some(packed) => {
                    model.packed_networks.push(network);
                    model.packed = Some((packed.clone(), Vec::new()));
                }
                None => model.networks.push((network, Checkpoint::open(place.path())?)),
            }
        }
        Ok(model)
    }

    /// How many tensors the packed file has, where there is one.
    pub fn tensors(&mut self) -> Option<usize> {
        let (file, slots) = self.packed.as_mut()?;
        Some(file.weights(slots).ok()?.index().iter().count())
    }

    /// All weights in one packed file, under their whole names.
    pub fn packed(file: Arc<Packed>) -> Self {
        Self { networks: Vec::new(), packed_networks: vec![""], packed: Some((file, Vec::new())) }
    }

    /// The files on the disk that weights are read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = self.networks.iter().flat_map(|(_, checkpoint)| &checkpoint.files);
        let packed = self.packed.iter().map(|(file, _)| file.path());
        files.map(Mapped::path).chain(packed)
    }

    /// Hands all weights to `body` as one.
    ///
    /// # Errors
    /// Where a file was altered since it was opened.
    pub fn with_weights<T>(&mut self, body: impl FnOnce(&mut dyn Weights) -> T) -> Result<T> {
        let mut files: Vec<(&str, InPlace<'_>)> = Vec::new();
        for (network, checkpoint) in &mut self.networks {
            for file in &mut checkpoint.files {
                files.push((network, file.weights()?));
            }
        }
        let mut packed = match &mut self.packed {
            None => None,
            Some((file, slots)) => {
                Some(Within { networks: &self.packed_networks, weights: file.weights(slots)? })
            }
        };
        let each = files.iter_mut().map(|(name, weights)| (*name, weights as &mut dyn Weights));
        let packed = packed.iter_mut().map(|packed| ("", packed as &mut dyn Weights));
        let part = |(prefix, weights)| Part { prefix, weights };
        let mut parts: Vec<Part<'_>> = each.chain(packed).map(part).collect();
        Ok(body(&mut Parts(&mut parts)))
    }
}

/// Plans one picture.
///
/// # Errors
/// Where the checkpoint is not what its configuration says, or cannot do what is asked.
pub fn plan(
    resolved: &Resolved,
    isa: Isa,
    executor: &dyn Executor,
    weights: &mut dyn Weights,
) -> Result<Plan> {
    match resolved.dtype.filter(|_| resolved.converts) {
        Some(to) => plan_as_it_is(resolved, isa, executor, &mut Converted::new(weights, to)),
        None => plan_as_it_is(resolved, isa, executor, weights),
    }
}

/// Plans one picture with weights that are converted already, or need not be.
///
/// # Errors
/// As [`plan`].
pub fn plan_as_it_is(
    resolved: &Resolved,
    isa: Isa,
    executor: &dyn Executor,
    weights: &mut dyn Weights,
) -> Result<Plan> {
    let mut cx = Context::new(Arena::measuring(), isa, executor, weights);
    let planned = resolved.work(0).plan(&mut cx);
    planned.map_err(|error| explain(error, cx.weight_name()))
}

/// Refuses a plan that needs more than the limit, with what would make it fit.
///
/// # Errors
/// Where the plan needs more.
pub fn check_limit(
    resolved: &Resolved,
    plan: &Plan,
    limit: Option<u64>,
    isa: Isa,
    executor: &dyn Executor,
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
            Some(to) => plan_as_it_is(other, isa, executor, &mut Converted::new(&mut plain, to)),
            None => plan_as_it_is(other, isa, executor, &mut plain),
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

fn to_json(resolved: &Resolved, plan: &Plan, pictures: u32) -> Value {
    let phases: Vec<_> = plan
        .phases
        .iter()
        .map(|phase| {
            json!({
                "name": phase.name,
                "arena_bytes": phase.arena_bytes,
                "weight_bytes": phase.weight_bytes,
                "evaluations": phase.evaluations,
                "multiply_adds": phase.multiply_adds,
            })
        })
        .collect();
    json!({
        "width": resolved.size[1],
        "height": resolved.size[0],
        "pictures": pictures,
        "vae_tile": resolved.vae_tile(),
        "phases": phases,
        "arena_bytes": plan.arena_bytes,
        "weight_bytes": plan.weight_bytes(),
        "multiply_adds": plan.multiply_adds(),
        "prompt_ids": resolved.prompts().map(|[prompt, _]| prompt),
        "negative_prompt_ids": resolved.prompts().map(|[_, negative]| negative),
    })
}

/// The plan as a table for people.
pub fn to_table(resolved: &Resolved, plan: &Plan, pictures: u32) -> String {
    let row = |cells: [&str; 5]| cells.map(str::to_string).to_vec();
    let mut rows = vec![row(["phase", "memory", "weights", "evaluations", "multiply-adds"])];
    for phase in &plan.phases {
        rows.push(vec![
            phase.name.into(),
            size::show_needed(phase.arena_bytes as u64),
            size::show(phase.weight_bytes),
            phase.evaluations.to_string(),
            size::show_count(phase.multiply_adds),
        ]);
    }
    rows.push(vec![
        "in all".into(),
        size::show_needed(plan.arena_bytes as u64),
        size::show(plan.weight_bytes()),
        plan.phases.iter().map(|phase| phase.evaluations).sum::<u64>().to_string(),
        size::show_count(plan.multiply_adds()),
    ]);
    let [height, width] = resolved.size;
    let sampler = resolved.scheduler.named.title;
    let tiles = match resolved.vae_tile() {
        Some(tile) => format!(", decoded in tiles of {tile}x{tile} latents"),
        None => String::new(),
    };
    let each = if pictures == 1 { "" } else { "; evaluations are for each" };
    let plural = if pictures == 1 { "picture" } else { "pictures" };
    format!(
        "{pictures} {plural} of {width}x{height} by {sampler}{tiles}{each}\n{}",
        print::table(&rows)
    )
}
