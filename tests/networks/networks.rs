//! Every network against diffusers and transformers, on the cases of `../golden/networks`: in
//! exactly the planned memory, with every instruction set, in place and streamed, and with the same
//! bits on any number of threads.

use std::fs;
use std::path::PathBuf;

use mote::Result;
use mote::exec::{Executor, Sequential};
use mote::models::autoencoder_kl::AutoencoderKlConfig;
use mote::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};
use mote::ops::{self, Context};
use mote::tensor::{Shape, Tensor};
use mote::weights::Path;
use mote_host::config::{self, autoencoder::Autoencoder};
use mote_tests::{TestWeights, Threads, add_safetensors, golden, isas, json, run, safetensors};

/// One case: its folder, its weights, its inputs and outputs.
struct Case {
    name: String,
    folder: PathBuf,
    weights: TestWeights,
    io: TestWeights,
    tolerance: f32,
}

impl Case {
    fn read(name: &str) -> Self {
        let folder = golden("networks").join(name);
        let mut weights = TestWeights::default();
        let mut files: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
            let prefix = match stem.as_str() {
                "encoder" | "decoder" => format!("{stem}."),
                _ => String::new(),
            };
            if file.extension().is_some_and(|extension| extension == "safetensors") && stem != "io"
            {
                add_safetensors(&mut weights, &prefix, &file);
            }
        }
        let tolerance = json(&folder.join("case.json"))["tolerance"].as_f64().unwrap() as f32;
        let io = safetensors(&folder.join("io.safetensors"));
        Self { name: name.to_owned(), folder, weights, io, tolerance }
    }

    fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// The picture of this name, stored NCHW.
    fn picture(&self, cx: &mut Context<'_>, name: &str) -> Result<Tensor> {
        let stored = self.tensor(cx, name)?;
        ops::nchw_to_nhwc(cx, stored)
    }

    fn tensor(&self, cx: &mut Context<'_>, name: &str) -> Result<Tensor> {
        let shape = Shape::from_slice(&self.io.dims(name)).unwrap();
        ops::fill(cx, shape, &self.io.f32(name))
    }

    /// Runs the walk in every way, and compares its result with the output of this name, both
    /// taken through `view`.
    fn check(
        &mut self,
        output: &str,
        view: impl Fn(f32) -> f32,
        walk: impl Fn(&Self, &mut Context<'_>) -> Result<Tensor>,
    ) {
        let mut weights = self.weights.clone();
        let dims = self.io.dims(output);
        let expected = self.io.f32(output);
        for isa in isas() {
            let mut run_on = |executor: &dyn Executor, staged: bool| {
                weights.staged = staged;
                run(isa, executor, &mut weights, |cx| walk(self, cx))
            };
            let (shape, found) = run_on(&Sequential, false);
            assert_eq!(shape, dims, "{}: shape of {output}", self.name);
            for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
                let (found, expected) = (view(found), view(expected));
                let (name, limit) = (&self.name, self.tolerance * (1.0 + expected.abs()));
                assert!(
                    (found - expected).abs() <= limit,
                    "{name}: {output}[{i}] is {found}, not {expected} within {limit} ({isa:?})"
                );
            }
            for threads in [1, 2, 3, 7] {
                let same = run_on(&Threads(threads), threads == 3).1;
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&same), bits(&found), "{}: {threads} threads", self.name);
            }
        }
    }
}

/// The cases whose name begins so.
fn cases(prefix: &str) -> Vec<Case> {
    let entries = fs::read_dir(golden("networks")).expect("the goldens are there");
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    assert!(!names.is_empty(), "no case begins with {prefix}");
    names.iter().map(|name| Case::read(name)).collect()
}

/// A picture as the goldens have it.
fn nchw(cx: &mut Context<'_>, x: Tensor) -> Result<Tensor> {
    ops::nhwc_to_nchw(cx, x)
}

fn same(value: f32) -> f32 {
    value
}

#[test]
fn unet_2d_equals_diffusers() {
    for mut case in cases("unet2d-") {
        let config = config::unet_2d::read(case.config()).unwrap();
        case.check("output", same, |case, cx| {
            let labels = case.io.has("class_labels").then(|| match case.name.as_str() {
                "unet2d-class-table" => {
                    case.io.integers("class_labels").iter().map(|&label| label as f32).collect()
                }
                _ => case.io.f32("class_labels"),
            });
            let x = case.picture(cx, "sample")?;
            let t = case.io.f32("timesteps");
            let y = config.forward(cx, &Path::root(), x, &t, labels.as_deref())?;
            nchw(cx, y)
        });
    }
}

#[test]
fn unet_2d_condition_equals_diffusers() {
    for mut case in cases("cond-") {
        let config = config::unet_2d_condition::read(case.config()).unwrap();
        case.check("output", same, |case, cx| {
            let x = case.picture(cx, "sample")?;
            let states = case.tensor(cx, "encoder_hidden_states")?;
            let t = case.io.f32("timesteps");
            let y = config.forward(cx, &Path::root(), x, &t, states)?;
            nchw(cx, y)
        });
    }
}

#[test]
fn clip_text_equals_transformers() {
    for mut case in cases("clip-") {
        let config = config::clip_text::read(case.config()).unwrap();
        for (skip, output) in ["last_hidden_state", "clip_skip_2", "clip_skip_3"].iter().enumerate()
        {
            if !case.io.has(output) {
                continue;
            }
            case.check(output, same, |case, cx| {
                let all = cx.tensor(Shape::from_slice(&case.io.dims(output)).unwrap())?;
                let ids: Vec<u32> =
                    case.io.integers("input_ids").iter().map(|&id| id as u32).collect();
                let tokens = case.io.dims("input_ids")[1];
                for (sample, ids) in ids.chunks(tokens).enumerate() {
                    let states = config.forward(cx, &Path::root(), ids, skip)?;
                    ops::copy_into(cx, states, all.sample(sample)?)?;
                }
                Ok(all)
            });
        }
    }
}

fn kl(case: &Case) -> AutoencoderKlConfig {
    match config::autoencoder::read(case.config()).unwrap() {
        Autoencoder::Kl(config) => config,
        Autoencoder::Tiny(_) => panic!("{} is an AutoencoderKL", case.name),
    }
}

#[test]
fn autoencoder_kl_encodes_as_diffusers_does() {
    for mut case in cases("kl-") {
        let config = kl(&case);
        let c = config.latent_channels;
        for (start, output) in [(0, "mean"), (c, "logvar")] {
            let clamp = |value: f32| if start == 0 { value } else { value.clamp(-30.0, 20.0) };
            case.check(output, clamp, |case, cx| {
                let x = case.picture(cx, "image")?;
                let moments = config.encode(cx, &Path::root(), x)?;
                let part = ops::slice_channels(cx, moments, start, c)?;
                nchw(cx, part)
            });
        }
    }
}

#[test]
fn autoencoder_kl_decodes_as_diffusers_does() {
    for mut case in cases("kl-") {
        let config = kl(&case);
        case.check("decoded", same, |case, cx| {
            let x = case.picture(cx, "latents")?;
            let y = config.decode(cx, &Path::root(), x)?;
            nchw(cx, y)
        });
    }
}

/// The side of the tiles that a case was decoded in, if it was.
fn tile(case: &Case) -> Option<usize> {
    let tile = json(&case.folder.join("case.json"))["tile"].as_u64()?;
    Some(tile as usize)
}

#[test]
fn autoencoder_kl_decodes_tiles_as_diffusers_does() {
    let mut tiled = 0;
    for mut case in cases("kl-") {
        let Some(tile) = tile(&case) else { continue };
        let config = kl(&case);
        case.check("decoded_tiled", same, |case, cx| {
            let x = case.picture(cx, "latents")?;
            let y = config.decode_tiled(cx, &Path::root(), x, tile)?;
            nchw(cx, y)
        });
        tiled += 1;
    }
    assert_eq!(tiled, 3);
}

#[test]
fn autoencoder_tiny_decodes_tiles_as_diffusers_does() {
    let mut case = Case::read("tiny-tiled");
    let (config, tile) = (tiny(&case), tile(&case).expect("this case has tiles"));
    case.check("decoded_tiled", same, |case, cx| {
        let x = case.picture(cx, "latents")?;
        let y = config.decode_tiled(cx, &Path::root(), x, tile)?;
        nchw(cx, y)
    });
}

#[test]
fn latents_that_one_tile_holds_are_decoded_as_a_whole_to_the_bit() {
    for mut case in cases("kl-").into_iter().chain(cases("tiny-")) {
        let config = match case.name.starts_with("tiny") {
            true => Autoencoder::Tiny(tiny(&case)),
            false => Autoencoder::Kl(kl(&case)),
        };
        let dims = case.io.dims("latents");
        let tile = dims[2].max(dims[3]).next_multiple_of(8);
        let mut weights = std::mem::take(&mut case.weights);
        let mut decoded = |tile: Option<usize>| {
            let (_, values) = run(isas()[0], &Sequential, &mut weights, |cx| {
                let (x, root) = (case.picture(cx, "latents")?, Path::root());
                match (&config, tile) {
                    (Autoencoder::Kl(vae), None) => vae.decode(cx, &root, x),
                    (Autoencoder::Kl(vae), Some(tile)) => vae.decode_tiled(cx, &root, x, tile),
                    (Autoencoder::Tiny(vae), None) => vae.decode(cx, &root, x),
                    (Autoencoder::Tiny(vae), Some(tile)) => vae.decode_tiled(cx, &root, x, tile),
                }
            });
            values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(decoded(Some(tile)), decoded(None), "{}", case.name);
    }
}

/// The configuration of a tiny autoencoder: from its file, or for the original's names, which come
/// without one, read off its tensors.
fn tiny(case: &Case) -> AutoencoderTinyConfig {
    if case.config().exists() {
        let Autoencoder::Tiny(config) = config::autoencoder::read(case.config()).unwrap() else {
            panic!("{} is an AutoencoderTiny", case.name);
        };
        return config;
    }
    let [width, latent_channels, ..] = case.weights.dims("decoder.1.weight")[..] else {
        panic!("a convolution's weight has four dimensions")
    };
    original(width, latent_channels, case.weights.has("decoder.3.pool.0.weight"))
}

fn original(width: usize, latent_channels: usize, pool: bool) -> AutoencoderTinyConfig {
    let mut config = AutoencoderTinyConfig {
        latent_channels,
        pool,
        naming: Naming::Original,
        ..AutoencoderTinyConfig::default()
    };
    config.encoder_block_out_channels.fill(width);
    config.decoder_block_out_channels.fill(width);
    config
}

#[test]
fn autoencoder_tiny_encodes_as_its_authors_do() {
    for mut case in cases("tiny-") {
        let config = tiny(&case);
        case.check("encoded", same, |case, cx| {
            let x = match case.io.has("image") {
                true => case.picture(cx, "image")?,
                false => {
                    let x = case.picture(cx, "image_0_1")?;
                    ops::scale_shift_in_place(cx, x, 2.0, -1.0)?;
                    x
                }
            };
            let y = config.encode(cx, &Path::root(), x)?;
            nchw(cx, y)
        });
    }
}

#[test]
fn autoencoder_tiny_decodes_as_its_authors_do() {
    for mut case in cases("tiny-") {
        let config = tiny(&case);
        let is_original = case.io.has("decoded_0_1");
        let output = if is_original { "decoded_0_1" } else { "decoded" };
        case.check(output, same, |case, cx| {
            let x = case.picture(cx, "latents")?;
            let y = config.decode(cx, &Path::root(), x)?;
            if is_original {
                ops::scale_shift_in_place(cx, y, 0.5, 0.5)?;
            }
            nchw(cx, y)
        });
    }
}
