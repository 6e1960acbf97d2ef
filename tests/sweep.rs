//! Networks of Stable Diffusion 1.5's size at odd sizes of pictures: no panic, the planned memory
//! and no more, and the same bits whatever the number of threads. Weights are random and made on
//! the way, stored as `mote convert` would store them. It takes half an hour, so it is run by hand:
//!
//!     cargo test --release -p mote-tests --test sweep -- --ignored --nocapture
//!
//! `MOTE_SWEEP=unet,int8` runs the cases alone whose lines hold both words; `small` are the cheap
//! ones.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use half::f16;
use mote::mem::Arena;
use mote::models::PerLevel;
use mote::models::autoencoder_kl::AutoencoderKlConfig;
use mote::models::autoencoder_tiny::AutoencoderTinyConfig;
use mote::models::unet_2d_condition::UNet2DConditionConfig;
use mote::ops::{self, Context};
use mote::tensor::packed::{DOUBLED, PanelMut, Sizes, doubled_row, pack_panel};
use mote::tensor::{DType, PANEL, Packing, Shape, Tensor};
use mote::weights::{Path, Weight, Weights};
use mote::{Error, Result};
use mote_host::executor::Pool;
use mote_host::pack::policy::{self, Storage};
use mote_host::types::{Choice, Type};
use mote_tests::{Memory, best_isa, numbers};

/// Random numbers that weights are made of, again and again.
const TABLE: usize = 65_521;

/// A network of the size of Stable Diffusion 1.5's.
#[derive(Clone, Copy, Debug)]
enum Network {
    Unet,
    Decoder,
    Encoder,
    /// TAESD.
    TinyDecoder,
    TinyEncoder,
}

use Network::{Decoder, Encoder, TinyDecoder, TinyEncoder, Unet};
use Type::{Bf16, F16, F32, Int4, Int8};

/// A network at a size, height and width in pixels, in tiles of so many latents or none (0), with
/// weights of each of these types.
type Case = (Network, [usize; 2], usize, &'static [Type]);

const TYPES: &[Type] = &[Int8, Bf16, F32, F16, Int4];

/// Cheap cases: every network in every type, each number of threads. Pairs of size and tiles are
/// chosen so that both come with each network and each size with several types.
const SMALL: &[Case] = &[
    (Decoder, [8, 8], 0, TYPES),
    (Decoder, [40, 104], 0, &[Int8, F32, Int4]),
    (Decoder, [8, 512], 24, &[Bf16, F16, Int8]),
    (Decoder, [72, 136], 8, TYPES),
    (Decoder, [200, 56], 16, &[F32, Int4]),
    (Encoder, [8, 8], 0, TYPES),
    (Encoder, [40, 104], 0, &[Int8, F32, Bf16]),
    (Encoder, [8, 512], 0, &[Bf16, F16, Int4]),
    (TinyDecoder, [8, 512], 0, TYPES),
    (TinyDecoder, [72, 1000], 32, TYPES),
    (TinyDecoder, [520, 504], 0, &[F32, Int8]),
    (TinyDecoder, [512, 512], 32, &[Bf16, Int4, Int8]),
    (TinyDecoder, [1024, 64], 8, &[F16, F32]),
    (TinyEncoder, [8, 512], 0, TYPES),
    (TinyEncoder, [72, 1000], 0, &[F32, Int8, F16]),
    (TinyEncoder, [520, 504], 0, &[Bf16, Int4]),
    (Unet, [64, 64], 0, TYPES),
    (Unet, [8, 512], 0, &[Int8, F32, Bf16]),
    (Unet, [72, 136], 0, &[Int8, F32, Bf16, Int4]),
    (Unet, [512, 8], 0, &[F16, Int4]),
];

/// Cases that take seconds for each number of threads.
const LARGE: &[Case] = &[
    (Unet, [72, 1000], 0, &[Int8, F32]),
    (Unet, [1024, 64], 0, &[Bf16, Int4]),
    (Unet, [520, 504], 0, &[Int8, Bf16]),
    (Unet, [512, 512], 0, &[Int8, F32]),
    (Decoder, [72, 1000], 0, &[Int8, F32]),
    (Decoder, [512, 512], 24, &[Int8]),
    (Decoder, [520, 504], 24, &[Bf16]),
    (Decoder, [64, 1024], 12, &[F32, F16]),
    (Encoder, [72, 1000], 0, &[Int8, F32]),
    (Decoder, [512, 512], 0, &[Bf16]),
    (Encoder, [520, 504], 0, &[Bf16]),
    (TinyDecoder, [1024, 1024], 32, &[Bf16, Int8]),
    (TinyDecoder, [1024, 1024], 0, &[F32]),
];

const THREADS: [usize; 5] = [2, 1, 3, 5, 7];

#[test]
#[ignore = "half an hour: run by hand"]
fn networks_of_full_size_run_as_planned_at_any_size_with_any_number_of_threads() {
    let wanted = std::env::var("MOTE_SWEEP").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').collect();
    let (began, mut failures, mut count) = (Instant::now(), Vec::new(), 0);
    let groups = [("small", SMALL), ("large", LARGE)];
    for (group, to) in groups.iter().flat_map(|group| TYPES.iter().map(move |to| (group, to))) {
        let mut weights = Random::new(*to);
        for &(network, size, tile, types) in group.1 {
            let ([h, w], network_name, to_name) = (size, name(network), to.name());
            let what = format!("{} {network_name} {to_name} {h}x{w} tile {tile}", group.0);
            let is_wanted = wanted.iter().all(|word| what.contains(word));
            if !is_wanted || !types.contains(to) {
                continue;
            }
            count += 1;
            let run = AssertUnwindSafe(|| check(&what, network, size, tile, &mut weights));
            if catch_unwind(run).is_err() {
                println!("{what}: FAILED");
                failures.push(what);
            }
        }
    }
    println!("{count} cases, {} failures, {} s", failures.len(), began.elapsed().as_secs());
    assert!(failures.is_empty() && count > 0, "{failures:#?}");
}

fn name(network: Network) -> &'static str {
    match network {
        Unet => "unet",
        Decoder => "decoder",
        Encoder => "encoder",
        TinyDecoder => "taesd-decoder",
        TinyEncoder => "taesd-encoder",
    }
}

/// One case with each number of threads.
fn check(what: &str, network: Network, size: [usize; 2], tile: usize, weights: &mut Random) {
    let (isa, mut first) = (best_isa(), None);
    for threads in THREADS {
        let pool = Pool::new(threads).expect("threads can be started");
        let planned = {
            let mut cx = Context::new(Arena::measuring(), isa, &pool, weights);
            evaluate(&mut cx, network, size, tile).expect("it can be planned");
            cx.arena().peak()
        };
        let mut memory = Memory::dirty(planned, 0xFF);
        let began = Instant::now();
        let mut cx = Context::new(Arena::new(memory.bytes()), isa, &pool, weights);
        let out = evaluate(&mut cx, network, size, tile).expect("it runs in the planned memory");
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!(cx.arena().peak(), planned, "planned bytes are peak bytes");
        let values = cx.arena().read(out);
        assert!(values.iter().all(|x| x.is_finite()), "every number is finite");
        let bits = hash(values.iter().map(|x| x.to_bits()));
        println!("{what}: {threads} threads, {planned} bytes, {seconds:.2} s, {bits:016x}");
        assert_eq!(*first.get_or_insert(bits), bits, "{threads} threads change no bit");
    }
}

fn hash(words: impl Iterator<Item = u32>) -> u64 {
    words.fold(0xCBF2_9CE4_8422_2325, |hash: u64, word| {
        (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// One evaluation, on random input.
fn evaluate(
    cx: &mut Context<'_>,
    network: Network,
    size: [usize; 2],
    tile: usize,
) -> Result<Tensor> {
    let [h, w] = size.map(|side| side / 8);
    let random = |cx: &mut Context<'_>, dims: &[usize]| {
        let shape = Shape::from_slice(dims).expect("few dimensions");
        ops::fill(cx, shape, &numbers(dims[1] as u32, dims.iter().product()))
    };
    let widths = PerLevel::from_slice(&[128, 256, 512, 512]).expect("four levels");
    let kl = AutoencoderKlConfig {
        block_out_channels: widths,
        layers_per_block: 2,
        ..AutoencoderKlConfig::default()
    };
    let (tiny, root) = (AutoencoderTinyConfig::default(), Path::root());
    let vae = root.at("vae");
    match network {
        Unet => {
            let unet = UNet2DConditionConfig {
                cross_attention_dim: 768,
                ..UNet2DConditionConfig::default()
            };
            let states = random(cx, &[1, 77, 768])?;
            let x = random(cx, &[1, h, w, 4])?;
            unet.forward(cx, &root.at("unet"), x, &[500.0], states)
        }
        Decoder | TinyDecoder => {
            let x = random(cx, &[1, h, w, 4])?;
            match (network, tile) {
                (Decoder, 0) => kl.decode(cx, &vae, x),
                (Decoder, tile) => kl.decode_tiled(cx, &vae, x, tile),
                (_, 0) => tiny.decode(cx, &vae, x),
                (_, tile) => tiny.decode_tiled(cx, &vae, x, tile),
            }
        }
        Encoder | TinyEncoder => {
            let x = random(cx, &[1, size[0], size[1], 3])?;
            match network {
                Encoder => kl.encode(cx, &vae, x),
                _ => tiny.encode(cx, &vae, x),
            }
        }
    }
}

/// Every weight that is asked for, random, stored as `mote convert` would store it.
struct Random {
    to: Type,
    table: Vec<f32>,
    names: HashMap<String, usize>,
    tensors: Vec<(Weight, Vec<u8>)>,
}

impl Random {
    fn new(to: Type) -> Self {
        let (table, names) = (numbers(1, TABLE), HashMap::new());
        Self { to, table, names, tensors: Vec::new() }
    }

    fn add(&mut self, name: &str, dtype: DType, shape: Shape, bytes: Vec<u8>) -> Weight {
        let begin = self.tensors.len() as u64;
        let weight = Weight { dtype, shape, part: 0, begin, bytes: bytes.len() };
        self.names.insert(name.to_owned(), self.tensors.len());
        self.tensors.push((weight, bytes));
        weight
    }

    /// Numbers around `middle`, up to `most` away from it: others for each name and row.
    fn numbers(&self, name: &str, row: usize, count: usize, middle: f32, most: f32) -> Vec<f32> {
        let seed = hash(name.bytes().map(u32::from)) as usize % TABLE + row * 7919;
        let number = |i: usize| middle + most * self.table[(seed + i) % TABLE];
        (0..count).map(number).collect()
    }

    fn plain(&mut self, name: &str, dtype: DType, shape: Shape, values: &[f32]) -> Weight {
        let bytes = match dtype {
            DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        self.add(name, dtype, shape, bytes)
    }

    /// The weight of a product of so many output channels, of which `channel` gives each, in
    /// panels, with what belongs to it.
    fn packed(
        &mut self,
        name: &str,
        packing: Packing,
        sizes: Sizes,
        channel: impl Fn(&Self, usize) -> Vec<f32>,
    ) -> Result<Weight> {
        let shape = sizes.shape(packing).ok_or(Error::Overflow { what: "a weight" })?;
        let panel_bytes = shape.elements()? * packing.dtype().bytes() / sizes.panels();
        let (scale, group) = match packing {
            Packing::Q8 => (sizes.scales(), 0),
            Packing::Q4 => (sizes.scales(), sizes.groups() * PANEL),
            _ => (0, 0),
        };
        let mut data = vec![0; panel_bytes * sizes.panels()];
        let (mut scales, mut groups) = (Vec::new(), Vec::new());
        for (number, data) in data.chunks_exact_mut(panel_bytes).enumerate() {
            let first = number * PANEL;
            let count = PANEL.min(sizes.n - first);
            let values: Vec<f32> = (first..first + count).flat_map(|n| channel(self, n)).collect();
            let (mut scale, mut group) = (vec![0.0; scale], vec![0; group]);
            let out = &mut PanelMut { data, scales: &mut scale, groups: &mut group };
            pack_panel(packing, Sizes { n: count, ..sizes }, &values, 0, out);
            scales.extend(scale);
            groups.extend(group);
        }
        if matches!(packing, Packing::Q8 | Packing::Q4) {
            self.plain(&format!("{name}.scale"), DType::F32, sizes.scale_shape(), &scales);
        }
        if packing == Packing::Q4 {
            self.add(&format!("{name}.groups"), DType::U8, sizes.groups_shape(), groups);
        }
        Ok(self.add(name, packing.dtype(), shape, data))
    }
}

impl Weights for Random {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        if let Some(&number) = self.names.get(name) {
            return Ok(Some(self.tensors[number].0));
        }
        let is_scale = name.ends_with("weight");
        let middle = if is_scale { 1.0 } else { 0.0 };
        let values = self.numbers(name, 0, expected.elements()?, middle, 0.1);
        let rank = expected.as_slice().len();
        let Storage::Plain(dtype) = policy::of_other(self.to, DType::F16, rank) else {
            return Ok(None);
        };
        Ok(Some(self.plain(name, dtype, expected, &values)))
    }

    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        if let Some(&number) = self.names.get(name) {
            return Ok(Some(self.tensors[number].0));
        }
        let &[n, channels, ref taps @ ..] = expected.as_slice() else {
            return self.find(name, expected);
        };
        let sizes = Sizes { n, channels, taps: taps.iter().product() };
        let row = channels * sizes.taps;
        // Sums of as many products as there are inputs are about as large as one input.
        let most = (3.0 / row as f32).sqrt();
        let channel = |all: &Self, n: usize| all.numbers(name, n, row, 0.0, most);
        let weight = match policy::of_product(self.to, name, sizes) {
            Storage::Plain(dtype) => {
                let values: Vec<f32> = (0..n).flat_map(|n| channel(self, n)).collect();
                self.plain(name, dtype, expected, &values)
            }
            Storage::Packed(packing) => self.packed(name, packing, sizes, channel)?,
            Storage::Doubled(packing) => {
                let doubled = sizes.doubled();
                let each = doubled.n / DOUBLED;
                self.packed(name, packing, doubled, |all, number| {
                    let mut out = vec![0.0; channels];
                    if number % each < n {
                        doubled_row(&channel(all, number % each), number / each, &mut out);
                    }
                    out
                })?
            }
        };
        Ok(Some(weight))
    }

    /// Of two namings, the newer one is there.
    fn contains(&mut self, _name: &str) -> bool {
        false
    }

    fn is_quantised(&self) -> bool {
        matches!(self.to, Int8 | Int4)
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
        let (_, bytes) = &self.tensors[weight.begin as usize];
        bytes.get(start..start + len).ok_or(Error::WeightRead)
    }
}
