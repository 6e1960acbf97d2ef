//! What fits 16 KiB of RAM, stack and all: every sampler, its table carried out by hand on a
//! picture of 4×4 pixels, with a toy network of two convolutions whose weights are drawn, not
//! trained.

use core::fmt;

use mote::arch::Isa;
use mote::diffusion::noise::{Noise, NoiseKind};
use mote::diffusion::prediction::Prediction;
use mote::diffusion::sampler::{
    Algorithm, Ddim, Ddpm, Dpm2, DpmSolver, Euler, EulerAncestral, HISTORY, Heun, Lcm, Lms, Pndm,
    Row, Sampler, Slot, Stepping, UniPc,
};
use mote::diffusion::schedule::{Schedule, ScheduleConfig};
use mote::exec::Sequential;
use mote::mem::{Aligned, Arena};
use mote::ops::{self, Activation, Context, Conv2d, Epilogue};
use mote::pipeline::ImageSink;
use mote::tensor::packed::Sizes;
use mote::tensor::{DType, Packing, Shape, Tensor};
use mote::weights::{Path, Weight, Weights};
use mote::{Error, Result};

use crate::picture::Text;

const ARENA_BYTES: usize = 960;
const TIMES: usize = 100;
const STEPS: usize = 4;
const ROWS: usize = 13;
const VALUES: usize = 2048;

/// Height and width of the picture, and its values.
const SIDE: usize = 4;
const COUNT: usize = SIDE * SIDE * 3;

/// Channels between the convolutions.
const CHANNELS: usize = 8;

/// Weights in flash, -0.25 to 0.25.
static TABLE: [[u8; 4]; VALUES] = {
    let (mut table, mut state, mut at) = ([[0; 4]; VALUES], 1u32, 0);
    while at < VALUES {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        table[at] = ((state >> 8) as f32 / (1 << 25) as f32 - 0.25).to_le_bytes();
        at += 1;
    }
    table
};

/// Every weight that is asked for: where it lies depends on its name.
struct FromTable;

impl FromTable {
    fn place(name: &str, dtype: DType, shape: Shape) -> Result<Option<Weight>> {
        let bytes = shape.elements()? * dtype.bytes();
        let room = (4 * VALUES).checked_sub(bytes).ok_or(Error::WeightRead)?;
        let hash = name.bytes().fold(5381u32, |h, b| h.wrapping_mul(33) ^ u32::from(b));
        let begin = u64::from(hash % (room as u32 / 4 + 1) * 4);
        Ok(Some(Weight { dtype, shape, part: 0, begin, bytes }))
    }
}

impl Weights for FromTable {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        Self::place(name, DType::F32, expected)
    }

    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let [n, channels, kernel @ ..] = expected.to_dims();
        let taps = kernel.iter().filter(|&&k| k > 0).product();
        let shape = Sizes { n, channels, taps }.shape(Packing::F32);
        Self::place(name, DType::F32, shape.unwrap_or(expected))
    }

    fn contains(&mut self, _name: &str) -> bool {
        false
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        _staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let begin = weight.begin as usize + start;
        TABLE.as_flattened().get(begin..begin + len).ok_or(Error::WeightRead)
    }
}

/// All that is not on the stack.
pub struct Memory {
    alphas_cumprod: [f32; TIMES],
    rows: [Row; ROWS],
    x: [f32; COUNT],
    output: [f32; COUNT],
    noise: [f32; COUNT],
    history: [[f32; COUNT]; HISTORY],
    arena: Aligned<ARENA_BYTES>,
}

impl Memory {
    /// Nothing in it yet.
    pub const NEW: Self = Self {
        alphas_cumprod: [0.0; TIMES],
        rows: [Row::EMPTY; ROWS],
        x: [0.0; COUNT],
        output: [0.0; COUNT],
        noise: [0.0; COUNT],
        history: [[0.0; COUNT]; HISTORY],
        arena: Aligned([0; ARENA_BYTES]),
    };
}

const NAMES: [&str; 12] = [
    "ddpm",
    "ddim",
    "pndm",
    "euler",
    "euler a",
    "heun",
    "dpm2",
    "lms",
    "dpm++ 2m",
    "dpm++ 2m sde",
    "unipc",
    "lcm",
];

fn sampler(number: usize) -> Sampler<'static> {
    match number {
        0 => Sampler::Ddpm(Ddpm::default()),
        1 => Sampler::Ddim(Ddim::default()),
        2 => Sampler::Pndm(Pndm { skip_prk_steps: false }),
        3 => Sampler::Euler(Euler::default()),
        4 => Sampler::EulerAncestral(EulerAncestral),
        5 => Sampler::Heun(Heun),
        6 => Sampler::Dpm2(Dpm2),
        7 => Sampler::Lms(Lms),
        8 => Sampler::DpmSolver(DpmSolver::default()),
        9 => Sampler::DpmSolver(DpmSolver { algorithm: Algorithm::Sde, ..DpmSolver::default() }),
        10 => Sampler::UniPc(UniPc::default()),
        _ => Sampler::Lcm(Lcm::default()),
    }
}

/// A sampler's rows into `memory`: how many, and the noise it begins with.
#[inline(never)]
fn table(number: usize, memory: &mut Memory) -> Result<(usize, f32)> {
    let sampler = sampler(number);
    let config = ScheduleConfig { num_train_timesteps: TIMES, ..sampler.default_schedule() };
    let schedule = Schedule::new(config, &mut memory.alphas_cumprod)?;
    let count = sampler.rows(&schedule, Prediction::Epsilon, STEPS, 0, &mut memory.rows)?;
    Ok((count, sampler.init_noise_sigma(&schedule, STEPS)?))
}

/// The network's walk: planned, or run on what `x` holds.
fn network(cx: &mut Context<'_>, x: &[f32]) -> Result<Tensor> {
    let root = Path::root();
    let input = cx.tensor(Shape::new([1, SIDE, SIDE, 3]))?;
    if !cx.is_planning() {
        cx.arena_mut().write(input).copy_from_slice(x);
    }
    let conv = Conv2d::padded(3, 1);
    let silu = Epilogue { activation: Some(Activation::Silu), ..Epilogue::NONE };
    let first = cx.matrix(&root.at("first"), [CHANNELS, 3, 3, 3])?;
    let bias = cx.weight(&root.at("bias"), [CHANNELS])?;
    let hidden = ops::conv2d(cx, input, first, Some(bias), conv, silu)?;
    let second = cx.matrix(&root.at("second"), [3, CHANNELS, 3, 3])?;
    ops::conv2d(cx, hidden, second, None, conv, Epilogue::NONE)
}

/// One evaluation, of x as the row scales it, into `memory.output`.
#[inline(never)]
fn evaluate(isa: Isa, memory: &mut Memory, scale: f32) -> Result<usize> {
    let mut weights = FromTable;
    let arena = Arena::new(&mut memory.arena.0);
    let mut cx = Context::new(arena, isa, &Sequential, &mut weights);
    let scaled = memory.x.map(|x| x * scale);
    let output = network(&mut cx, &scaled)?;
    memory.output.copy_from_slice(cx.arena().read(output));
    Ok(cx.arena().peak())
}

/// What a row says to do after its evaluation.
#[inline(never)]
fn carry_out(memory: &mut Memory, row: usize) {
    let Memory { rows, x, output, noise, history, .. } = memory;
    let row = &rows[row];
    let mut denoised = [0.0; COUNT];
    for (at, denoised) in denoised.iter_mut().enumerate() {
        let clean = row.denoised_x * x[at] + row.denoised_output * output[at];
        *denoised = clean.clamp(-1.0, 1.0);
    }
    for update in row.updates() {
        for at in 0..COUNT {
            let mut sum = update.x * x[at] + update.output * output[at];
            sum += update.denoised * denoised[at];
            if row.draws_noise {
                sum += update.noise * noise[at];
            }
            for (kept, factor) in history.iter().zip(update.history) {
                if factor != 0.0 {
                    sum += factor * kept[at];
                }
            }
            match update.into {
                Slot::X => x[at] = sum,
                Slot::History(slot) => history[usize::from(slot)][at] = sum,
            }
        }
    }
}

/// Draws a picture with each sampler and writes them to `out`.
///
/// # Errors
/// Where something does not fit.
pub fn draw(out: &mut dyn fmt::Write, isa: Isa, memory: &mut Memory) -> Result<()> {
    let mut weights = FromTable;
    let mut cx = Context::new(Arena::measuring(), isa, &Sequential, &mut weights);
    network(&mut cx, &[])?;
    let (planned, mut peak) = (cx.arena().peak(), 0);
    for (number, name) in NAMES.into_iter().enumerate() {
        let (count, sigma) = table(number, memory)?;
        let mut noise = Noise::new(NoiseKind::Pcg, 3);
        noise.fill(&mut memory.x);
        memory.x.iter_mut().for_each(|x| *x *= sigma);
        for row in 0..count {
            peak = peak.max(evaluate(isa, memory, memory.rows[row].input_scale)?);
            if memory.rows[row].draws_noise {
                noise.fill(&mut memory.noise);
            }
            carry_out(memory, row);
        }
        let _ = writeln!(out, "sampler {name}");
        let mut text = Text(out);
        text.begin(SIDE, SIDE)?;
        for row in memory.x.chunks_exact(3 * SIDE) {
            let mut bytes = [0; 3 * SIDE];
            for (byte, x) in bytes.iter_mut().zip(row) {
                *byte = ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
            }
            text.row(&bytes)?;
        }
    }
    let _ = writeln!(out, "arena {ARENA_BYTES}\nplanned {planned}\npeak {peak}");
    Ok(())
}

const _: () = assert!(VALUES >= 9 * CHANNELS * 16, "the second convolution's panel fits");
