//! Gradients of whole small networks against PyTorch's autograd in f64, and 200 steps of training
//! against PyTorch's, on the cases of `../golden/gradients`; in exactly the planned memory, with
//! the same bits on any number of threads.

use std::ops::Range;

use mote::Error;
use mote::arch::Isa;
use mote::diffusion::noise::{Noise, NoiseKind};
use mote::diffusion::prediction::Prediction;
use mote::diffusion::schedule::{BetaSchedule, Schedule, ScheduleConfig};
use mote::exec::{Executor, Sequential};
use mote::mem::Arena;
use mote::models::clip_text::ClipTextConfig;
use mote::models::unet_2d::UNet2DConfig;
use mote::models::unet_2d_condition::UNet2DConditionConfig;
use mote::ops::{Context, Recording, Tape, TapeSlot};
use mote::tensor::Packing;
use mote::train::{AdamW, Batch, Denoiser, Objective, TrainPlan, Weighting, norm};
use mote::weights::{InPlace, Index, Slot, header_bytes};
use mote_host::config;
use mote_tests::{
    Memory, TestWeights, Threads, best_isa, golden, isas, json, safetensors, unpacked,
};

/// Entries that the tapes of these networks have room for.
const SLOTS: usize = 512;

/// Of the largest gradient of a tensor.
const TOLERANCE: f32 = 1e-4;

/// Of the largest gradient of all: what is smaller than this share of it (a key's bias, which
/// softmax takes off again) is zero but for rounding.
const NOTHING: f32 = 1e-3;

enum Unet {
    Pictures(UNet2DConfig),
    Text(UNet2DConditionConfig),
}

/// A network as a packed file, and what is asked of it.
struct Case {
    weights: TestWeights,
    io: TestWeights,
    description: serde_json::Value,
    unet: Unet,
    text_encoder: ClipTextConfig,
    file: Vec<u8>,
}

/// Whether a weight is that of a product, which is packed. Classes have a table of embeddings,
/// prompts a projection.
fn is_matrix(name: &str, dims: &[usize], has_words: bool) -> bool {
    let is_table = name.ends_with("_embedding.weight");
    dims.len() > 1 && (!is_table || has_words && name == "unet.class_embedding.weight")
}

impl Case {
    fn read(name: &str) -> Self {
        let folder = golden("gradients").join(name);
        let description = json(&folder.join("case.json"));
        let weights = safetensors(&folder.join("weights.safetensors"));
        let has_words = folder.join("text_encoder.json").exists();
        let mut packed = TestWeights::default();
        for name in weights.names() {
            let (dims, values) = (weights.dims(name), weights.f32(name));
            match is_matrix(name, &dims, has_words) {
                true => packed.push_packed(name, Packing::F32, &dims, &values),
                false => packed.push(name, &dims, &values),
            }
        }
        let (unet, encoder) = (folder.join("unet.json"), folder.join("text_encoder.json"));
        let text_encoder = match encoder.exists() {
            true => config::clip_text::read(encoder.as_path()).unwrap(),
            false => ClipTextConfig::default(),
        };
        let unet = match encoder.exists() {
            true => Unet::Text(config::unet_2d_condition::read(unet.as_path()).unwrap()),
            false => Unet::Pictures(config::unet_2d::read(unet.as_path()).unwrap()),
        };
        let io = safetensors(&folder.join("io.safetensors"));
        Self { weights, io, description, unet, text_encoder, file: packed.file() }
    }

    fn denoiser(&self) -> Denoiser<'_> {
        match &self.unet {
            Unet::Pictures(unet) => Denoiser::Unconditional(unet),
            Unet::Text(unet) => Denoiser::Text { text_encoder: &self.text_encoder, unet },
        }
    }

    fn objective<'a>(&'a self, schedule: &'a Schedule<'a>) -> Objective<'a> {
        let prediction = match self.description["prediction"].as_str().unwrap() {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::VPrediction,
            _ => Prediction::Sample,
        };
        let weighting = match self.description["min_snr"].as_f64() {
            None => Weighting::Constant,
            Some(most) => Weighting::MinSnr(most as f32),
        };
        Objective { denoiser: self.denoiser(), schedule, prediction, weighting }
    }
}

/// A batch that owns its values.
struct Examples {
    size: [usize; 4],
    pictures: Vec<f32>,
    noise: Vec<f32>,
    timesteps: Vec<u32>,
    tokens: Vec<u32>,
    labels: Option<Vec<f32>>,
}

impl Examples {
    fn of(io: &TestWeights) -> Self {
        let whole =
            |name: &str| -> Vec<u32> { io.integers(name).iter().map(|&x| x as u32).collect() };
        let size = io.dims("pictures").try_into().unwrap();
        let tokens = if io.has("tokens") { whole("tokens") } else { vec![] };
        let labels = io.has("labels").then(|| whole("labels").iter().map(|&x| x as f32).collect());
        let (pictures, noise) = (io.f32("pictures"), io.f32("noise"));
        Self { size, pictures, noise, timesteps: whole("timesteps"), tokens, labels }
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            size: self.size,
            pictures: &self.pictures,
            noise: &self.noise,
            timesteps: &self.timesteps,
            tokens: &self.tokens,
            labels: self.labels.as_deref(),
        }
    }
}

fn schedule(memory: &mut [f32]) -> Schedule<'_> {
    let beta_schedule = BetaSchedule::SquaredcosCapV2;
    Schedule::new(ScheduleConfig { beta_schedule, ..ScheduleConfig::default() }, memory).unwrap()
}

/// Parameters in memory, and the way to them by name.
struct Parameters {
    /// Whether walks are recorded with checkpoints.
    checkpoints: bool,
    memory: Memory,
    header: Vec<u8>,
    data: usize,
}

impl Parameters {
    fn new(file: &[u8]) -> Self {
        let mut memory = Memory::dirty(file.len(), 0);
        memory.bytes().copy_from_slice(file);
        let json = header_bytes(file, file.len() as u64).unwrap();
        let header = file[json.clone()].to_vec();
        Self { checkpoints: false, memory, header, data: json.end }
    }

    fn len(&mut self) -> usize {
        (self.memory.bytes().len() - self.data) / 4
    }

    fn with_index<R>(&mut self, body: impl FnOnce(Index<'_>, &mut [u8]) -> R) -> R {
        let mut slots = vec![Slot::EMPTY; Index::count(&self.header).unwrap()];
        let bytes = self.memory.bytes();
        body(Index::parse(&self.header, bytes.len() as u64, &mut slots).unwrap(), bytes)
    }

    fn plan(&mut self, objective: &Objective<'_>, batch: &Batch<'_>, workers: usize) -> TrainPlan {
        let (begin, checkpoints) = (self.data as u64, self.checkpoints);
        self.with_index(|index, bytes| {
            let (mut slots, mut weights) =
                (vec![TapeSlot::EMPTY; SLOTS], InPlace::new(index, bytes));
            let executor = Threads(workers);
            let isa = best_isa();
            let recording = Recording::new(Tape::new(&mut slots), &mut [], begin);
            let recording = recording.with_checkpoints(checkpoints);
            let mut cx = Context::new(Arena::measuring(), isa, &executor, &mut weights);
            objective.plan(&mut cx, batch, recording).unwrap()
        })
    }

    /// Losses and gradients, in so many bytes of arena.
    fn gradients(
        &mut self,
        objective: &Objective<'_>,
        batch: &Batch<'_>,
        plan: TrainPlan,
        (isa, executor): (Isa, &dyn Executor),
        arena_bytes: usize,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let (begin, count, checkpoints) = (self.data as u64, self.len(), self.checkpoints);
        self.with_index(|index, bytes| {
            let mut slots = vec![TapeSlot::EMPTY; plan.tape_slots];
            let (mut memory, mut weights) =
                (Memory::dirty(arena_bytes, 0xFF), InPlace::new(index, bytes));
            let mut losses = vec![0.0; batch.size[0]];
            let mut gradients = vec![0.0; count];
            let recording = Recording::new(Tape::new(&mut slots), &mut gradients, begin);
            let recording = recording.with_checkpoints(checkpoints);
            let mut cx = Context::new(Arena::new(memory.bytes()), isa, executor, &mut weights);
            let share = 1.0 / batch.size[0] as f32;
            objective.gradients(&mut cx, batch, recording, share, &mut losses)?;
            assert!(arena_bytes > plan.arena_bytes || cx.arena().peak() == plan.arena_bytes);
            Ok((losses, gradients))
        })
    }

    /// Where the values of a tensor lie among all.
    fn range(&mut self, name: &str) -> Range<usize> {
        let data = self.data as u64;
        self.with_index(|index, _| {
            let weight = index.find(name).unwrap();
            let first = (weight.begin - data) as usize / 4;
            first..first + weight.bytes / 4
        })
    }
}

fn check(name: &str) {
    let case = Case::read(name);
    let mut memory = vec![0.0; 1000];
    let schedule = schedule(&mut memory);
    let (objective, examples) = (case.objective(&schedule), Examples::of(&case.io));
    let (batch, mut parameters) = (examples.batch(), Parameters::new(&case.file));
    let expected = case.io.f32("losses");
    for isa in isas() {
        let plan = parameters.plan(&objective, &batch, 1);
        // Tiles are of other sizes there, but their working memory is the same.
        let found =
            parameters.gradients(&objective, &batch, plan, (isa, &Sequential), plan.arena_bytes);
        let (losses, gradients) = found.unwrap();
        mote_tests::assert_close(name, &losses, &expected, 1e-4);
        let mut worst = 0.0f32;
        let most = |x: &[f32]| x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let overall = most(&gradients);
        for tensor in case.weights.names() {
            let dims = case.weights.dims(tensor);
            let found = &gradients[parameters.range(tensor)];
            let has_words = matches!(case.unet, Unet::Text(_));
            let found = match is_matrix(tensor, &dims, has_words) {
                true => unpacked(&dims, found),
                false => found.to_vec(),
            };
            let expected = case.io.f32(&format!("gradient.{tensor}"));
            let largest = most(&expected).max(NOTHING * overall);
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                let error = (a - b).abs() / largest;
                assert!(error <= TOLERANCE, "{name} {isa:?} {tensor}[{i}]: {a}, expected {b}");
                worst = worst.max(error);
            }
        }
        assert!(worst > 0.0, "something was compared");
        println!("{name} {isa:?}: gradients within {worst:.1e} of a tensor's largest");
    }
}

#[test]
fn gradients_are_autograds_with_words() {
    check("text");
}

#[test]
fn gradients_are_autograds_with_classes() {
    check("classes");
}

#[test]
fn gradients_are_autograds_at_odd_sizes() {
    check("odd");
}

#[test]
fn threads_change_no_bit_of_a_gradient_and_one_byte_less_is_an_error() {
    let case = Case::read("text");
    let mut memory = vec![0.0; 1000];
    let schedule = schedule(&mut memory);
    let (objective, examples) = (case.objective(&schedule), Examples::of(&case.io));
    let (batch, mut parameters) = (examples.batch(), Parameters::new(&case.file));
    let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
    for workers in [1, 2, 3, 7] {
        let (threads, isa) = (Threads(workers), best_isa());
        let plan = parameters.plan(&objective, &batch, workers);
        let bytes = plan.arena_bytes;
        let found = parameters.gradients(&objective, &batch, plan, (isa, &threads), bytes).unwrap();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        if let Some(first) = &first {
            assert_eq!(bits(&first.1), bits(&found.1), "{workers} workers");
        }
        let error = parameters.gradients(&objective, &batch, plan, (isa, &threads), bytes - 1);
        assert!(matches!(error, Err(Error::OutOfMemory { .. })), "{error:?}");
        let short = TrainPlan { tape_slots: plan.tape_slots - 1, ..plan };
        let error = parameters.gradients(&objective, &batch, short, (isa, &threads), bytes);
        assert!(matches!(error, Err(Error::Capacity { .. })), "{error:?}");
        first.get_or_insert(found);
    }
}

#[test]
fn checkpoints_save_memory_and_change_no_bit() {
    for name in ["text", "classes", "odd"] {
        let case = Case::read(name);
        let mut memory = vec![0.0; 1000];
        let schedule = schedule(&mut memory);
        let (objective, examples) = (case.objective(&schedule), Examples::of(&case.io));
        let (batch, mut parameters) = (examples.batch(), Parameters::new(&case.file));
        let mut found = Vec::new();
        for checkpoints in [false, true] {
            parameters.checkpoints = checkpoints;
            let plan = parameters.plan(&objective, &batch, 2);
            let on = (best_isa(), &Threads(2) as &dyn Executor);
            let bytes = plan.arena_bytes;
            let result = parameters.gradients(&objective, &batch, plan, on, bytes).unwrap();
            let error = parameters.gradients(&objective, &batch, plan, on, bytes - 1);
            assert!(matches!(error, Err(Error::OutOfMemory { .. })), "{error:?}");
            found.push((plan, result));
        }
        let [(plain, first), (small, second)] = &found[..] else { panic!("two ways") };
        assert_eq!(first, second, "{name}");
        assert!(small.arena_bytes * 10 < plain.arena_bytes * 9, "{name}: {small:?}, {plain:?}");
        assert!(small.multiply_adds > plain.multiply_adds, "{name}: {small:?}, {plain:?}");
        println!("{name}: {} bytes instead of {}", small.arena_bytes, plain.arena_bytes);
    }
}

/// The batch of a step, as `gradients.py` makes it.
fn examples_of(step: u64, (side, c): (usize, usize), text: bool, classes: bool) -> Examples {
    let mut noise = vec![0.0; 4 * c * side * side];
    let mut draw = |seed: u64| {
        Noise::new(NoiseKind::TorchCpu, seed).fill(&mut noise);
        let mut out = vec![0.0; noise.len()];
        for (i, x) in noise.iter().enumerate() {
            let (sample, channel, pixel) =
                (i / (c * side * side), i / (side * side) % c, i % (side * side));
            out[(sample * side * side + pixel) * c + channel] = *x;
        }
        out
    };
    let pictures = draw(step % 8).iter().map(|x| (0.4 * x).clamp(-1.0, 1.0)).collect();
    let noise = draw(1000 + step);
    let timesteps = (0..4).map(|i| ((step * 131 + i * 241) % 1000) as u32).collect();
    let tokens = (0..if text { 24 } else { 0 })
        .map(|i| ((step % 8 + i / 6 * 7 + i % 6 * 3) % 40) as u32)
        .collect();
    let labels = classes.then(|| (0..4).map(|i| ((step + i) % 5) as f32).collect());
    Examples { size: [4, side, side, c], pictures, noise, timesteps, tokens, labels }
}

fn check_training(name: &str) {
    let case = Case::read(name);
    let settings = &case.description["training"];
    let curve: Vec<f64> =
        settings["losses"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    assert_eq!(curve.len(), 200);
    let mut memory = vec![0.0; 1000];
    let schedule = schedule(&mut memory);
    let objective = case.objective(&schedule);
    let mut parameters = Parameters::new(&case.file);
    let (count, isa) = (parameters.len(), best_isa());
    let mut moments = [vec![0.0; count], vec![0.0; count]];
    let text = matches!(case.unet, Unet::Text(_));
    let mut plan = None;
    let mut worst = 0.0f64;
    for step in 1..=200 {
        let examples = examples_of(step, (8, if text { 12 } else { 3 }), text, name == "classes");
        let batch = examples.batch();
        let plan = *plan.get_or_insert_with(|| parameters.plan(&objective, &batch, 1));
        let on = (isa, &Sequential as &dyn Executor);
        let found = parameters.gradients(&objective, &batch, plan, on, plan.arena_bytes);
        let (losses, gradients) = found.unwrap();
        let loss = f64::from(losses.iter().sum::<f32>() / 4.0);
        let expected = curve[step as usize - 1];
        worst = worst.max((loss - expected).abs() / expected);
        assert!((loss - expected).abs() <= 0.01 * expected, "step {step}: {loss}, {expected}");
        let factor = (1.0 / (norm(&gradients) + 1e-6)).min(1.0) as f32;
        let data = parameters.data;
        let values: &mut [f32] = {
            let bytes = &mut parameters.memory.bytes()[data..];
            // SAFETY: any bytes are f32, and align_to cuts off what is not aligned.
            let (before, values, after) = unsafe { bytes.align_to_mut::<f32>() };
            assert!(before.is_empty() && after.is_empty());
            values
        };
        let [first, second] = &mut moments;
        let state = [values, &mut first[..], &mut second[..]];
        AdamW::default().step(isa, &Sequential, step, 1e-3, factor, &gradients, state);
    }
    println!("{name}: 200 losses within {:.5} % of PyTorch's", 100.0 * worst);
}

#[test]
fn two_hundred_steps_are_pytorchs_with_words() {
    check_training("text");
}

#[test]
fn two_hundred_steps_are_pytorchs_with_classes() {
    check_training("classes");
}
