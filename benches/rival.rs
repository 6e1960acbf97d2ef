//! One evaluation of a UNet of Stable Diffusion's shape in f32, here and in candle, on the same
//! weights and as many threads. What both say is compared before either is timed.
//!
//! ```text
//! RUSTFLAGS="-C target-cpu=native" RAYON_NUM_THREADS=2 \
//!     cargo bench -p mote-benches --features candle --bench rival
//! ```
//!
//! candle takes as many threads as that variable says, and so do we. Its product chooses kernels
//! when it runs, but all else is as it was compiled: hence the flags. Its threads wait busily for
//! each other, so on a machine that does other work believe one thread's figures only.
//! `MOTE_RIVAL=sd15` takes Stable Diffusion 1.5's own sizes at 512×512, and so thrice 3.2 GiB for
//! weights: plain and packed for us, and candle's.

use std::collections::HashMap;
use std::iter::repeat_n;

use candle_core::{self as candle, Device};
use candle_nn::VarBuilder;
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mote::arch::Isa;
use mote::diffusion::noise::{Noise, NoiseKind};
use mote::mem::ALIGNMENT;
use mote::models::unet_2d_condition::{BlockType, UNet2DConditionConfig};
use mote::ops::{self, Context};
use mote::tensor::packed::{PanelMut, pack_panel};
use mote::tensor::{DType, Form, PANEL, Packing, Shape, Tensor};
use mote::weights::{Path, Weight, Weights, crc32};
use mote::{Error, Result};
use mote_benches::{Planned, best_isa, sizes};
use mote_host::executor::Pool;

/// Channels of the latents.
const CHANNELS: usize = 4;
/// Tokens of a prompt.
const TOKENS: usize = 77;
/// Attention heads of each level.
const HEADS: usize = 8;
/// The time that both are told.
const TIMESTEP: f32 = 500.0;
/// How far the two may be apart, relative: candle's GEGLU takes GELU by its tanh formula, which is
/// off by up to 5e-4.
const TOLERANCE: f64 = 1e-3;

/// The sizes of a UNet and of what it is given.
struct Case {
    /// Height and width of the latents.
    side: usize,
    block_out_channels: &'static [usize],
    cross_attention_dim: usize,
}

const SMALL: Case = Case { side: 32, block_out_channels: &[64, 128, 256], cross_attention_dim: 96 };
const SD15: Case =
    Case { side: 64, block_out_channels: &[320, 640, 1280, 1280], cross_attention_dim: 768 };

impl Case {
    /// The one that the environment asks for.
    fn asked() -> Self {
        match std::env::var("MOTE_RIVAL").as_deref() {
            Err(_) => SMALL,
            Ok("sd15") => SD15,
            Ok(other) => panic!("MOTE_RIVAL is {other:?}: sd15 is all that it may ask for"),
        }
    }

    /// Whether there is a transformer after each resnet of a level: in all but the deepest.
    fn has_attention(&self, level: usize) -> bool {
        level + 1 < self.block_out_channels.len()
    }

    fn ours(&self) -> UNet2DConditionConfig {
        let levels = self.block_out_channels.len();
        let kind = |level| match self.has_attention(level) {
            true => BlockType::CrossAttention,
            false => BlockType::Plain,
        };
        UNet2DConditionConfig {
            down_block_types: (0..levels).map(kind).collect(),
            up_block_types: (0..levels).rev().map(kind).collect(),
            only_cross_attention: repeat_n(false, levels).collect(),
            block_out_channels: self.block_out_channels.iter().copied().collect(),
            layers_per_block: repeat_n(2, levels).collect(),
            transformer_layers_per_block: repeat_n(1, levels).collect(),
            cross_attention_dim: self.cross_attention_dim,
            attention_heads: repeat_n(HEADS, levels).collect(),
            ..UNet2DConditionConfig::default()
        }
    }

    /// The same for candle, whose other defaults are ours: diffusers'.
    fn theirs(&self) -> UNet2DConditionModelConfig {
        let block = |(level, &out_channels)| BlockConfig {
            out_channels,
            use_cross_attn: self.has_attention(level).then_some(1),
            attention_head_dim: HEADS,
        };
        UNet2DConditionModelConfig {
            blocks: self.block_out_channels.iter().enumerate().map(block).collect(),
            cross_attention_dim: self.cross_attention_dim,
            ..UNet2DConditionModelConfig::default()
        }
    }

    /// The latents: `[1, side, side, CHANNELS]`.
    fn sample(&self) -> Vec<f32> {
        normal("sample", self.side * self.side * CHANNELS)
    }

    /// The encoded prompt: `[1, TOKENS, cross_attention_dim]`.
    fn encoder_hidden_states(&self) -> Vec<f32> {
        normal("encoder_hidden_states", TOKENS * self.cross_attention_dim)
    }
}

/// Standard normal values, always the same for a name.
fn normal(name: &str, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Noise::new(NoiseKind::Pcg, crc32(name.as_bytes()).into()).fill(&mut values);
    values
}

/// A weight's bytes, from the first one that lies at a multiple of the arena's alignment, as they
/// do in a packed file.
struct Stored {
    shape: Shape,
    memory: Vec<u8>,
}

impl Stored {
    fn new(shape: Shape, write: impl FnOnce(&mut [u8])) -> Result<Self> {
        let bytes = shape.elements()? * DType::F32.bytes();
        let mut stored = Self { shape, memory: vec![0; bytes + ALIGNMENT] };
        let start = stored.memory.as_ptr().align_offset(ALIGNMENT);
        write(&mut stored.memory[start..start + bytes]);
        Ok(stored)
    }

    fn bytes(&self) -> &[u8] {
        let start = self.memory.as_ptr().align_offset(ALIGNMENT);
        &self.memory[start..start + self.memory.len() - ALIGNMENT]
    }
}

/// Weights in f32 that are drawn when they are asked for first, under the names they are asked for:
/// a function of the name and the shape.
struct Drawn {
    packing: Packing,
    weights: Vec<Stored>,
    numbers: HashMap<String, u64>,
}

impl Drawn {
    /// None yet; those of products will be plain or packed in f32.
    fn new(packing: Packing) -> Self {
        Self { packing, weights: Vec::new(), numbers: HashMap::new() }
    }

    /// The weight of this name, made first where it is not there.
    fn get(
        &mut self,
        name: &str,
        make: impl FnOnce(Packing) -> Result<Stored>,
    ) -> Result<Option<Weight>> {
        let begin = match self.numbers.get(name) {
            Some(&number) => number,
            None => {
                self.weights.push(make(self.packing)?);
                let number = self.weights.len() as u64 - 1;
                self.numbers.insert(name.to_owned(), number);
                number
            }
        };
        let stored = &self.weights[begin as usize];
        let (shape, bytes) = (stored.shape, stored.bytes().len());
        Ok(Some(Weight { dtype: DType::F32, shape, part: 0, begin, bytes }))
    }

    /// The same for candle.
    fn tensors(&self) -> candle::Result<HashMap<String, candle::Tensor>> {
        let tensor = |(name, &number): (&String, &u64)| {
            let stored = &self.weights[number as usize];
            let (bytes, dims) = (stored.bytes(), stored.shape.as_slice());
            let dtype = candle::DType::F32;
            let tensor = candle::Tensor::from_raw_buffer(bytes, dtype, dims, &Device::Cpu)?;
            Ok((name.clone(), tensor))
        };
        self.numbers.iter().map(tensor).collect()
    }
}

/// Writes values as a file has them.
fn write_plain(values: &[f32], out: &mut [u8]) {
    for (value, out) in values.iter().zip(out.as_chunks_mut().0) {
        *out = value.to_le_bytes();
    }
}

impl Weights for Drawn {
    /// Biases about 0, the scales of normalisations about 1.
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let centre = if name.ends_with("weight") { 1.0 } else { 0.0 };
        self.get(name, |_| {
            let mut values = normal(name, expected.elements()?);
            values.iter_mut().for_each(|value| *value = centre + 0.1 * *value);
            Stored::new(expected, |out| write_plain(&values, out))
        })
    }

    /// So large that a product's result is about as large as its input.
    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        self.get(name, |packing| {
            let sizes = sizes(expected);
            let scale = 1.0 / ((sizes.channels * sizes.taps) as f32).sqrt();
            let mut values = normal(name, expected.elements()?);
            values.iter_mut().for_each(|value| *value *= scale);
            let Some(shape) = sizes.shape(packing) else {
                return Stored::new(expected, |out| write_plain(&values, out));
            };
            Stored::new(shape, |out| {
                let panels = out.chunks_exact_mut(sizes.panel_bytes(Form::F32));
                for (data, first) in panels.zip((0..).step_by(PANEL)) {
                    let mut panel = PanelMut { data, scales: &mut [], groups: &mut [] };
                    pack_panel(packing, sizes, &values, first, &mut panel);
                }
            })
        })
    }

    fn contains(&mut self, name: &str) -> bool {
        self.numbers.contains_key(name)
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
        let stored = self.weights.get(weight.begin as usize).ok_or(Error::WeightRead)?;
        stored.bytes().get(start..start + len).ok_or(Error::WeightRead)
    }
}

/// Our UNet, ready to be evaluated.
struct Ours<'a> {
    config: UNet2DConditionConfig,
    side: usize,
    sample: Vec<f32>,
    encoder_hidden_states: Vec<f32>,
    isa: Isa,
    pool: &'a Pool,
    weights: Drawn,
    planned: Planned,
}

impl<'a> Ours<'a> {
    fn new(case: &Case, pool: &'a Pool, packing: Packing) -> Result<Self> {
        let (config, side, isa) = (case.ours(), case.side, best_isa());
        let (sample, states) = (case.sample(), case.encoder_hidden_states());
        let mut weights = Drawn::new(packing);
        let planned =
            Planned::new(isa, pool, &mut weights, |cx| walk(cx, &config, side, &sample, &states))?;
        let encoder_hidden_states = states;
        Ok(Self { config, side, sample, encoder_hidden_states, isa, pool, weights, planned })
    }

    /// `[side, side, CHANNELS]`.
    fn evaluate(&mut self) -> Result<Vec<f32>> {
        let arena = self.planned.arena();
        let mut cx = Context::new(arena, self.isa, self.pool, &mut self.weights);
        let states = &self.encoder_hidden_states;
        let out = walk(&mut cx, &self.config, self.side, &self.sample, states)?;
        Ok(cx.arena().read(out).to_vec())
    }
}

fn walk(
    cx: &mut Context<'_>,
    config: &UNet2DConditionConfig,
    side: usize,
    sample: &[f32],
    encoder_hidden_states: &[f32],
) -> Result<Tensor> {
    let sample = ops::fill(cx, Shape::new([1, side, side, CHANNELS]), sample)?;
    let shape = Shape::new([1, TOKENS, config.cross_attention_dim]);
    let states = ops::fill(cx, shape, encoder_hidden_states)?;
    config.forward(cx, &Path::root(), sample, &[TIMESTEP], states)
}

/// candle's UNet, ready to be evaluated.
struct Theirs {
    unet: UNet2DConditionModel,
    sample: candle::Tensor,
    encoder_hidden_states: candle::Tensor,
}

impl Theirs {
    fn new(case: &Case, weights: &Drawn) -> candle::Result<Self> {
        let vs = VarBuilder::from_tensors(weights.tensors()?, candle::DType::F32, &Device::Cpu);
        let unet = UNet2DConditionModel::new(vs, CHANNELS, CHANNELS, false, case.theirs())?;
        let shape = (1, case.side, case.side, CHANNELS);
        let sample = candle::Tensor::from_vec(case.sample(), shape, &Device::Cpu)?;
        let (states, shape) = (case.encoder_hidden_states(), (1, TOKENS, case.cross_attention_dim));
        Ok(Self {
            unet,
            sample: sample.permute((0, 3, 1, 2))?.contiguous()?,
            encoder_hidden_states: candle::Tensor::from_vec(states, shape, &Device::Cpu)?,
        })
    }

    /// `[1, CHANNELS, side, side]`.
    fn evaluate(&self) -> candle::Result<candle::Tensor> {
        self.unet.forward(&self.sample, TIMESTEP.into(), &self.encoder_hidden_states)
    }

    /// `[side, side, CHANNELS]`.
    fn values(&self) -> candle::Result<Vec<f32>> {
        self.evaluate()?.permute((0, 2, 3, 1))?.flatten_all()?.to_vec1()
    }
}

/// The root of the mean squared difference, relative to that of the values.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "as many values");
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let mut differences = found.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b));
    let mut values = expected.iter().copied().map(f64::from);
    (squares(&mut differences) / squares(&mut values)).sqrt()
}

fn rival(c: &mut Criterion) {
    let (case, threads) = (Case::asked(), candle::utils::get_num_threads());
    let pool = Pool::new(threads).expect("threads start");
    let ours = |packing| Ours::new(&case, &pool, packing).expect("the plan succeeds");
    let mut ours = [Packing::Plain, Packing::F32].map(ours);
    let theirs = Theirs::new(&case, &ours[0].weights).expect("candle finds all weights");
    let expected = theirs.values().expect("candle evaluates");
    for unet in &mut ours {
        let error = distance(&unet.evaluate().expect("the walk succeeds"), &expected);
        println!("{:?}: {error:.1e} from candle", unet.weights.packing);
        assert!(error <= TOLERANCE, "the same network says the same");
    }
    let side = case.side;
    let name = format!("UNet2DConditionModel, {side}x{side} latents, {threads} threads");
    let mut group = c.benchmark_group(name);
    group.sample_size(10).throughput(Throughput::Elements(ours[0].planned.multiply_adds));
    for mut unet in ours {
        let name = format!("mote, {:?}, {}", unet.weights.packing, unet.isa.name());
        group.bench_function(name, |b| b.iter(|| unet.evaluate().expect("the walk succeeds")));
    }
    group.bench_function("candle", |b| b.iter(|| theirs.evaluate().expect("candle evaluates")));
}

criterion_group!(benches, rival);
criterion_main!(benches);
