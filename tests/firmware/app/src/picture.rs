//! The model in flash draws a picture: its checksum is compared, the memory planned, and the
//! sampler run, in one static arena; rows of pixels go out as text.

use core::fmt;
use core::ops::ControlFlow;

use mote::arch::Isa;
use mote::diffusion::noise::NoiseKind;
use mote::diffusion::sampler::Row;
use mote::diffusion::schedule::Schedule;
use mote::exec::Sequential;
use mote::mem::{Aligned, Arena};
use mote::ops::Context;
use mote::pipeline::{ImageSink, Sampling, Unconditional};
use mote::weights::{InPlace, Index, Slot, header_bytes};
use mote::{Error, Result};

use crate::model;

/// Training times of the schedule, at most.
const TIMES: usize = 1000;

/// All that is not on the stack.
pub struct Memory {
    slots: [Slot; model::SLOTS],
    alphas_cumprod: [f32; TIMES],
    rows: [Row; model::STEPS],
    arena: Aligned<{ model::ARENA_BYTES }>,
}

impl Memory {
    /// Nothing in it yet.
    pub const NEW: Self = Self {
        slots: [Slot::EMPTY; model::SLOTS],
        alphas_cumprod: [0.0; TIMES],
        rows: [Row::EMPTY; model::STEPS],
        arena: Aligned([0; model::ARENA_BYTES]),
    };
}

/// Writes rows of pixels as text.
pub struct Text<'a>(pub &'a mut dyn fmt::Write);

impl ImageSink for Text<'_> {
    fn begin(&mut self, width: usize, height: usize) -> Result<()> {
        writeln!(self.0, "picture {width} {height}").map_err(|_| Error::Sink)
    }

    fn row(&mut self, rgb: &[u8]) -> Result<()> {
        rgb.iter().try_for_each(|byte| write!(self.0, "{byte:02x}")).map_err(|_| Error::Sink)?;
        self.0.write_char('\n').map_err(|_| Error::Sink)
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The weights of a packed file whose checksum is right.
fn verified<'a>(file: &'a [u8], slots: &'a mut [Slot]) -> Result<InPlace<'a>> {
    let header = &file[header_bytes(file, file.len() as u64)?];
    let weights = InPlace::new(Index::parse(header, file.len() as u64, slots)?, file);
    weights.verify()?;
    Ok(weights)
}

/// Draws the picture of `file` and writes it to `out`.
///
/// # Errors
/// Where the file is damaged, or is not the model that [`model`] describes.
pub fn draw(out: &mut dyn fmt::Write, isa: Isa, memory: &mut Memory, file: &[u8]) -> Result<()> {
    let mut weights = verified(file, &mut memory.slots)?;
    let (unet, sampler) = (model::unet(), model::sampler());
    let schedule = Schedule::new(model::schedule(), &mut memory.alphas_cumprod)?;
    let count = sampler.rows(&schedule, model::PREDICTION, model::STEPS, 0, &mut memory.rows)?;
    let request = Unconditional {
        unet: &unet,
        sampling: Sampling {
            rows: &memory.rows[..count],
            init_noise_sigma: sampler.init_noise_sigma(&schedule, model::STEPS)?,
            clipping: sampler.clipping(model::CLIPPING),
            noise: NoiseKind::Pcg,
            seed: model::SEED,
        },
        size: model::SIZE,
        class_label: None,
    };
    let mut cx = Context::new(Arena::measuring(), isa, &Sequential, &mut weights);
    let plan = request.plan(&mut cx)?;
    let _ = writeln!(out, "arena {}\nplanned {}", model::ARENA_BYTES, plan.arena_bytes);
    let mut cx = Context::new(Arena::new(&mut memory.arena.0), isa, &Sequential, &mut weights);
    request.run(&mut cx, &mut Text(out), &mut |_| ControlFlow::Continue(()))?;
    let _ = writeln!(out, "peak {}", cx.arena().peak());
    Ok(())
}

/// That a model with one flipped bit is refused, whatever the bit: `copy` has room for the model.
///
/// # Errors
/// Where a damaged model is not refused.
pub fn refuse_damage(
    out: &mut dyn fmt::Write,
    memory: &mut Memory,
    file: &[u8],
    copy: &mut [u8],
) -> Result<()> {
    let copy = &mut copy[..file.len()];
    copy.copy_from_slice(file);
    let mut refused = 0;
    for at in [9, file.len() / 3, file.len() / 2, file.len() - 5, file.len() - 1] {
        copy[at] ^= 4;
        match verified(copy, &mut memory.slots) {
            Err(Error::Checksum { .. } | Error::Format { .. }) => refused += 1,
            _ => return Err(Error::Format { what: "a flipped bit was not noticed", at }),
        }
        copy[at] ^= 4;
    }
    let _ = writeln!(out, "{refused} damaged models refused");
    verified(copy, &mut memory.slots).map(drop)
}
