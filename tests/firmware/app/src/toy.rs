//! What fits 16 KiB of RAM: every sampler, with a toy network whose weights are drawn, not trained.

use core::fmt;
use core::ops::ControlFlow;

use mote::arch::Isa;
use mote::diffusion::noise::NoiseKind;
use mote::diffusion::prediction::{Clipping, Prediction};
use mote::diffusion::sampler::{
    Algorithm, Ddim, Ddpm, Dpm2, DpmSolver, Euler, EulerAncestral, Heun, Lcm, Lms, Pndm, Row,
    Sampler, UniPc,
};
use mote::diffusion::schedule::Schedule;
use mote::exec::Sequential;
use mote::mem::{Aligned, Arena};
use mote::models::unet_2d::{BlockType, UNet2DConfig};
use mote::ops::Context;
use mote::pipeline::{Sampling, Unconditional};
use mote::tensor::packed::Sizes;
use mote::tensor::{DType, Packing, Shape};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};

use crate::picture::Text;

const ARENA_BYTES: usize = 5 << 10;
const TIMES: usize = 100;
const STEPS: usize = 3;
const ROWS: usize = 12;
const VALUES: usize = 4096;

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
    arena: Aligned<ARENA_BYTES>,
}

impl Memory {
    /// Nothing in it yet.
    pub const NEW: Self = Self {
        alphas_cumprod: [0.0; TIMES],
        rows: [Row::EMPTY; ROWS],
        arena: Aligned([0; ARENA_BYTES]),
    };
}

fn unet() -> UNet2DConfig {
    let mut config = UNet2DConfig {
        norm_num_groups: 2,
        layers_per_block: 1,
        mid_block: false,
        ..UNet2DConfig::default()
    };
    config.block_out_channels = [4].into_iter().collect();
    config.down_block_types = [BlockType::Plain].into_iter().collect();
    config.up_block_types = [BlockType::Plain].into_iter().collect();
    config
}

fn samplers() -> [(&'static str, Sampler<'static>); 12] {
    let sde = DpmSolver { algorithm: Algorithm::Sde, ..DpmSolver::default() };
    [
        ("ddpm", Sampler::Ddpm(Ddpm::default())),
        ("ddim", Sampler::Ddim(Ddim::default())),
        ("pndm", Sampler::Pndm(Pndm { skip_prk_steps: false })),
        ("euler", Sampler::Euler(Euler::default())),
        ("euler a", Sampler::EulerAncestral(EulerAncestral)),
        ("heun", Sampler::Heun(Heun)),
        ("dpm2", Sampler::Dpm2(Dpm2)),
        ("lms", Sampler::Lms(Lms)),
        ("dpm++ 2m", Sampler::DpmSolver(DpmSolver::default())),
        ("dpm++ 2m sde", Sampler::DpmSolver(sde)),
        ("unipc", Sampler::UniPc(UniPc::default())),
        ("lcm", Sampler::Lcm(Lcm::default())),
    ]
}

/// Draws a picture with each sampler and writes them to `out`.
///
/// # Errors
/// Where something does not fit.
pub fn draw(out: &mut dyn fmt::Write, isa: Isa, memory: &mut Memory) -> Result<()> {
    let unet = unet();
    for (name, sampler) in samplers() {
        let config = mote::diffusion::schedule::ScheduleConfig {
            num_train_timesteps: TIMES,
            ..sampler.default_schedule()
        };
        let schedule = Schedule::new(config, &mut memory.alphas_cumprod)?;
        let count = sampler.rows(&schedule, Prediction::Epsilon, STEPS, 0, &mut memory.rows)?;
        let request = Unconditional {
            unet: &unet,
            sampling: Sampling {
                rows: &memory.rows[..count],
                init_noise_sigma: sampler.init_noise_sigma(&schedule, STEPS)?,
                clipping: sampler.clipping(Clipping::Clip { range: 1.0 }),
                noise: NoiseKind::Pcg,
                seed: 3,
            },
            size: [4, 4],
            class_label: None,
        };
        let _ = writeln!(out, "sampler {name}");
        let arena = Arena::new(&mut memory.arena.0);
        let mut weights = FromTable;
        let mut cx = Context::new(arena, isa, &Sequential, &mut weights);
        request.run(&mut cx, &mut Text(out), &mut |_| ControlFlow::Continue(()))?;
    }
    let _ = writeln!(out, "arena {ARENA_BYTES} planned {ARENA_BYTES}");
    Ok(())
}

const _: () =
    assert!(VALUES >= 9 * 8 * 16, "the largest weight is a 3×3 convolution of 8 channels");
