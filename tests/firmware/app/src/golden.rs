//! A small UNet, its weights in flash, is planned, run in one static arena, and compared with what
//! diffusers computes.

use core::fmt;

use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::{Aligned, Arena};
use mote::models::unet_2d::{BlockType, UNet2DConfig};
use mote::ops::{self, Context};
use mote::tensor::{Shape, Tensor};
use mote::weights::{InPlace, Index, Path, Slot, header_bytes};
use mote::{Error, Result};

/// The network's weights and one evaluation of it, made by tests/golden/make.py.
static WEIGHTS: &[u8] =
    include_bytes!("../../../golden/networks/unet2d-base/diffusion_pytorch_model.safetensors");
static GOLDEN: &[u8] = include_bytes!("../../../golden/networks/unet2d-base/io.safetensors");

/// What the golden's `case.json` allows.
const TOLERANCE: f32 = 5e-5;

/// More than the plan says; the arena gets only what the plan says.
const ARENA_BYTES: usize = 256 * 1024;

/// The arena's memory.
pub type Memory = Aligned<ARENA_BYTES>;

/// The arena's memory, filled with what is no number.
pub const MEMORY: Memory = Aligned([0xFF; ARENA_BYTES]);

/// Room for the network's tensors.
const SLOTS: usize = 192;

fn config() -> UNet2DConfig {
    let mut config = UNet2DConfig {
        norm_num_groups: 2,
        attention_head_dim: Some(2),
        layers_per_block: 1,
        ..UNet2DConfig::default()
    };
    config.block_out_channels = [4, 6].into_iter().collect();
    config.down_block_types = [BlockType::Plain, BlockType::Attention].into_iter().collect();
    config.up_block_types = [BlockType::Attention, BlockType::Plain].into_iter().collect();
    config
}

fn parsed<'a>(file: &'a [u8], slots: &'a mut [Slot]) -> Result<InPlace<'a>> {
    let header = &file[header_bytes(file, file.len() as u64)?];
    Ok(InPlace::new(Index::parse(header, file.len() as u64, slots)?, file))
}

/// A tensor of the golden, read in place.
fn golden_values(golden: &InPlace<'_>, name: &str) -> Result<impl Iterator<Item = f32> + use<>> {
    let weight = golden.index().find(name).ok_or(Error::MissingWeight)?;
    let begin = weight.begin as usize;
    let bytes = GOLDEN.get(begin..begin + weight.bytes).ok_or(Error::WeightRead)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)))
}

/// The walk that is planned, then run: the golden's input through the network.
fn walk(cx: &mut Context<'_>, golden: &InPlace<'_>) -> Result<Tensor> {
    let root = Path::root();
    let stored = cx.tensor(Shape::new([2, 3, 8, 12]))?;
    if !cx.is_planning() {
        let values = golden_values(golden, "sample")?;
        cx.arena_mut().write(stored).iter_mut().zip(values).for_each(|(to, from)| *to = from);
    }
    let sample = ops::nchw_to_nhwc(cx, stored)?;
    let mut timesteps = [0.0; 2];
    timesteps.iter_mut().zip(golden_values(golden, "timesteps")?).for_each(|(t, v)| *t = v);
    let output = config().forward(cx, &root, sample, &timesteps, None)?;
    ops::nhwc_to_nchw(cx, output)
}

/// Compares the network's output with diffusers'.
///
/// # Errors
/// Those of memory and weights.
///
/// # Panics
/// Where the output is another, or the plan was wrong.
pub fn check(out: &mut dyn fmt::Write, isa: Isa, memory: &mut Memory) -> Result<()> {
    let memory = &mut memory.0[..];
    let (mut slots, mut golden_slots) = ([Slot::EMPTY; SLOTS], [Slot::EMPTY; 4]);
    let mut weights = parsed(WEIGHTS, &mut slots)?;
    let golden = &parsed(GOLDEN, &mut golden_slots)?;

    let mut cx = Context::new(Arena::measuring(), isa, &Sequential, &mut weights);
    walk(&mut cx, golden)?;
    let planned = cx.arena().peak();
    let _ = writeln!(out, "planned: {planned} bytes of arena, {:?}", cx.tally());

    let too_small = Error::OutOfMemory { needed: planned, limit: memory.len() };
    let exact = memory.get_mut(..planned).ok_or(too_small)?;
    let mut cx = Context::new(Arena::new(exact), isa, &Sequential, &mut weights);
    let output = walk(&mut cx, golden)?;
    assert_eq!(cx.arena().peak(), planned, "planned bytes are peak bytes");
    let mut worst = 0.0f32;
    for (found, expected) in cx.arena().read(output).iter().zip(golden_values(golden, "output")?) {
        let difference = (found - expected).abs() / (1.0 + expected.abs());
        worst = if difference > worst || difference.is_nan() { difference } else { worst };
    }
    let _ = writeln!(out, "largest difference from diffusers: {worst:e}");
    assert!(worst <= TOLERANCE, "the network computes something else");

    let less = &mut memory[..planned - 1];
    let mut cx = Context::new(Arena::new(less), isa, &Sequential, &mut weights);
    match walk(&mut cx, golden) {
        Err(error @ Error::OutOfMemory { .. }) => {
            let _ = writeln!(out, "one byte less: {error}");
        }
        other => panic!("one byte less must be an error: {other:?}"),
    }
    Ok(())
}
