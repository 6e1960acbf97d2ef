//! A model for a part without operating system: what fits its flash and memory, and the plan of a
//! packed model as a constant for Rust and C.
//!
//! Sizes of memory are those of a part with 32 bits and plain kernels, on one thread: the arena,
//! the tables beside it and C's `struct mote`, which is the larger of the two. The stack is not
//! counted.

use std::fmt::Write;

use mote::arch::Isa;
use mote::diffusion::sampler::{Named, Row, Stepping};
use mote::mem::ALIGNMENT;
use mote::pipeline::{Model, Needs, Request};
use mote_host::checkpoint::weight_files::WeightFiles;
use mote_host::convert;
use mote_host::explain::explain;
use mote_host::plan::{self, SIZES_TRIED};
use mote_host::resolve::{self, Networks, Resolved};
use mote_host::table::table;
use mote_host::tokenizer::Tokenizer;
use mote_host::types::{Choice, Type};
use mote_host::write::FileWriter;
use mote_host::{Failure, Machine, Place, Result, Stop, size};

use crate::{args, print};

/// Bytes of a tensor's slot in the index, on a part with 32 bits.
pub const SLOT_BYTES: u64 = 48;

/// Bytes of C's `struct mote`, on a part with 32 bits.
pub const STATE_BYTES: u64 = 3840;

/// Types from the most exact to the smallest.
const TYPES: [Type; 4] = [Type::F32, Type::Bf16, Type::Int8, Type::Int4];

/// Fewer steps that are tried where the sampler's table is too long.
const STEPS: [u32; 3] = [20, 10, 4];

/// What is looked for.
struct Part {
    flash: u64,
    ram: u64,
}

/// A way to draw with the model.
#[derive(Clone, Copy, Debug)]
struct Way {
    dtype: Type,
    size: [usize; 2],
    steps: u32,
    flash: u64,
    ram: u64,
}

impl Way {
    fn fits(&self, part: &Part) -> bool {
        self.flash <= part.flash && self.ram <= part.ram
    }
}

/// Suggests type, size and steps that fit the part.
///
/// # Errors
/// Where nothing fits, by how much; and where the model cannot be run as asked.
pub fn suggest(args: &args::Plan, flash: Option<u64>, ram: Option<u64>) -> Result<()> {
    let model = Place::model_with(&args.model.model, args.model.config.as_deref())?;
    let wanted = args.request.read()?;
    let resolved = resolve::resolve(&model, &args.model.parts(), &wanted)?;
    let part = Part { flash: flash.unwrap_or(u64::MAX), ram: ram.unwrap_or(u64::MAX) };
    let types: Vec<Type> = match (model.packed(), args.model.dtype) {
        (Some(packed), _) => vec![packed.dtype()],
        (None, Some(dtype)) => vec![dtype],
        (None, None) => TYPES.to_vec(),
    };
    let (weights, machine) = (WeightFiles::open(&resolved.places)?, Machine::plain()?);
    let mut files = Vec::new();
    for &dtype in &types {
        files.push(convert::packed_bytes(&model, dtype, &weights)?);
    }
    let steps = wanted.steps;
    let steps = std::iter::once(steps).chain(STEPS.into_iter().filter(|&few| few < steps));
    let steps: Vec<u32> = steps.collect();
    let mut tried = Vec::new();
    for size in sizes(&resolved) {
        for (&dtype, &[flash, tensors]) in types.iter().zip(&files) {
            for &steps in &steps {
                let ram = ram_bytes(&resolved, &weights, &machine, dtype, size, steps, tensors)?;
                let choice = Way { dtype, size, steps, flash, ram };
                tried.push(choice);
                if choice.fits(&part) {
                    return told(&tried, &part, choice);
                }
            }
        }
    }
    Err(nothing_fits(&tried, &part))
}

/// The size asked for and those below it, of the same proportions.
fn sizes(resolved: &Resolved) -> Vec<[usize; 2]> {
    let scale = resolved.scale();
    let part = |part| resolved.size.map(|side: usize| side * part / SIZES_TRIED / scale * scale);
    let mut sizes: Vec<_> = (1..=SIZES_TRIED).rev().map(part).collect();
    sizes.retain(|size| !size.contains(&0));
    sizes.dedup();
    sizes
}

/// The memory of a picture.
fn ram_bytes(
    resolved: &Resolved,
    weights: &WeightFiles,
    machine: &Machine,
    dtype: Type,
    size: [usize; 2],
    steps: u32,
    tensors: u64,
) -> Result<u64> {
    let mut other = resolved.at_size(size);
    (other.dtype, other.converts) = (Some(dtype), resolved.dtype != Some(dtype));
    other.table = table(&other.scheduler, steps as usize, None)?;
    let plan = weights.with_weights(|weights| plan::plan(&other, machine, weights))?;
    let schedule = other.scheduler.schedule().num_train_timesteps * size_of::<f32>();
    let rows = other.scheduler.sampler().row_count(steps as usize, 0) * size_of::<Row>();
    let aligned = |bytes: u64| bytes.next_multiple_of(ALIGNMENT as u64);
    let tables = aligned(rows as u64) + aligned(tensors * SLOT_BYTES);
    Ok(plan.arena_bytes.max(schedule) as u64 + tables + STATE_BYTES)
}

fn told(tried: &[Way], part: &Part, choice: Way) -> Result<()> {
    let row = |cells: [&str; 5]| cells.map(str::to_string).to_vec();
    let mut rows = vec![row(["type", "picture", "steps", "flash", "memory"])];
    // Of the sizes that do not fit, only the first is worth a line.
    let first = tried.first().map(|choice| choice.size);
    let shown = tried.iter().filter(|one| Some(one.size) == first || one.size == choice.size);
    // Of the steps that were tried, the last say most.
    let mut shown: Vec<&Way> = shown.rev().collect();
    shown.dedup_by_key(|one| (one.dtype, one.size));
    for one in shown.into_iter().rev() {
        let [height, width] = one.size;
        let over = |bytes, limit| if bytes > limit { " (too much)" } else { "" };
        rows.push(vec![
            one.dtype.name().into(),
            format!("{width}x{height}"),
            one.steps.to_string(),
            format!("{}{}", size::show_needed(one.flash), over(one.flash, part.flash)),
            format!("{}{}", size::show_needed(one.ram), over(one.ram, part.ram)),
        ]);
    }
    let Way { dtype, size: [height, width], steps, flash, ram } = choice;
    let mut text = print::table(&rows);
    let left = |limit: u64, bytes: u64| match limit {
        u64::MAX => String::new(),
        _ => format!(" ({} left)", size::show_limit(limit - bytes)),
    };
    writeln!(
        text,
        "fits: --type {} --steps {steps} -W {width} -H {height}, with {flash} bytes of flash{} \
         and {ram} of memory{} beside the stack",
        dtype.name(),
        left(part.flash, flash),
        left(part.ram, ram),
    )
    .map_err(|_| Failure::new("the suggestion cannot be written"))?;
    print::bytes(text.as_bytes())
}

fn nothing_fits(tried: &[Way], part: &Part) -> Failure {
    let least = |of: fn(&Way) -> u64| tried.iter().map(of).min().unwrap_or(0);
    let (flash, ram) = (least(|choice| choice.flash), least(|choice| choice.ram));
    let mut lacks = Vec::new();
    for (what, bytes, limit) in [("flash", flash, part.flash), ("memory", ram, part.ram)] {
        if bytes > limit {
            lacks.push(format!("at least {bytes} bytes of {what}, {} too many", bytes - limit));
        }
    }
    if lacks.is_empty() {
        lacks.push("more of one where it needs less of the other".into());
    }
    Failure::new(format!("the model does not fit: it needs {}", lacks.join(" and ")))
        .remedy("Train a smaller one, or take a larger part")
}

/// A language that a constant is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// A constant [`Needs`].
    Rust,
    /// Macros for `mote.h`.
    C,
}

/// Writes the plan of a packed model as a constant, and its tokenizer's table, if asked for.
///
/// # Errors
/// Where the model is not packed, or cannot be run as asked.
pub fn constant(args: &args::Plan, language: Language) -> Result<()> {
    let place = Place::model(&args.model.model)?;
    let wanted = args.request.read()?;
    let resolved = resolve::resolve(&place, &args.model.parts(), &wanted)?;
    let Some(packed) = place.packed().filter(|_| !resolved.converts) else {
        return Err(Failure::new("a constant is the plan of a packed model, byte for byte")
            .remedy("Pack it with `mote convert`, and give that file"));
    };
    let cannot = |error: mote::pipeline::Fault| explain(error.error, &error.weight);
    let model = Model::open(packed.whole()).map_err(|error| cannot(error.into()))?;
    let request = request(wanted.steps, &resolved);
    let [rows, times] = model.table(&request).map_err(|error| cannot(error.into()))?;
    let (mut rows, mut scratch) = (vec![Row::EMPTY; rows], vec![0.0; times]);
    let (needs, _, size) =
        model.plan(&request, Isa::SCALAR, &mut rows, &mut scratch).map_err(cannot)?;
    if let Some(file) = &args.tokenizer {
        let tokenizer = Tokenizer::from_folder(place.part("tokenizer"))?;
        let mut writer = FileWriter::begin(Some(file), &Stop::default())?;
        writer.write(tokenizer.table())?;
        writer.end()?;
    }
    let name = packed.path().file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    print::bytes(written(language, &name, &request, &needs, size).as_bytes())
}

fn request<'a>(steps: u32, resolved: &'a Resolved) -> Request<'a> {
    let request = Request {
        size: Some(resolved.size),
        sampler: Some(resolved.scheduler.named.number),
        steps: steps as usize,
        noise: resolved.noise,
        ..Request::default()
    };
    match &resolved.networks {
        Networks::Unconditional { class_label, .. } => {
            Request { class_label: *class_label, ..request }
        }
        Networks::TextToImage(words) => Request {
            prompt: &words.prompt,
            negative_prompt: &words.negative_prompt,
            guidance_scale: words.cfg_scale,
            clip_skip: words.clip_skip,
            vae_tile: words.vae_tile,
            ..request
        },
    }
}

fn written(
    language: Language,
    name: &str,
    request: &Request<'_>,
    needs: &Needs,
    [height, width]: [usize; 2],
) -> String {
    let Needs { model_bytes, arena_bytes, tensors, rows } = needs;
    let sampler = request.sampler.and_then(Named::numbered);
    let sampler = sampler.map_or("the model's sampler", |named| named.name);
    let about = format!("{name}: {width}x{height}, {} steps of {sampler}", request.steps);
    match language {
        Language::Rust => format!(
            "/// {about}. Written by `mote plan --rust`.\n\
             pub const PLAN: mote::pipeline::Needs = mote::pipeline::Needs {{\n    \
             model_bytes: {model_bytes},\n    arena_bytes: {arena_bytes},\n    \
             tensors: {tensors},\n    rows: {rows},\n}};\n"
        ),
        Language::C => format!(
            "/* {about}. Written by `mote plan --c`. */\n\
             #define MODEL_BYTES {model_bytes}\n#define MODEL_ARENA_BYTES {arena_bytes}\n\
             #define MODEL_TENSORS {tensors}\n#define MODEL_ROWS {rows}\n\
             #define MODEL_WIDTH {width}\n#define MODEL_HEIGHT {height}\n\
             #define MODEL_MEMORY_BYTES \\\n    \
             MOTE_MEMORY_BYTES(MODEL_ARENA_BYTES, MODEL_TENSORS, MODEL_ROWS)\n{}{}",
            tokens("MODEL_PROMPT", request.prompt),
            tokens("MODEL_NEGATIVE_PROMPT", request.negative_prompt)
        ),
    }
}

/// A macro that is a list of token ids, where there are any.
fn tokens(name: &str, ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    match ids.is_empty() {
        true => String::new(),
        false => format!("#define {name} {{{}}}\n", ids.join(", ")),
    }
}
