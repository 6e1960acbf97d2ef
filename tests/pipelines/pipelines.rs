//! Whole pipelines against diffusers: every value of the picture and of x after every step, for the
//! committed goldens and for the cases that lie beside the repository.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;

use clap::Parser;
use mote::Result;
use mote::mem::Arena;
use mote::ops::Context;
use mote::pipeline::ImageSink;
use mote::progress::{Progress, Stage};
use mote_cli::args::{Cli, Command};
use mote_host::checkpoint::weight_files::WeightFiles;
use mote_host::resolve::{Networks, Resolved, resolve};
use mote_host::{Machine, Place, plan};
use mote_tests::{Memory, TestWeights, best_isa, cases, files, golden, safetensors, shared};

/// Every value of the picture within this, from 0 to 1.
const IMAGE_TOLERANCE: f32 = 2e-4;

/// Every value of x after each step, relative to 1 + its magnitude: random networks let x grow.
const STEP_TOLERANCE: f32 = 1e-3;

/// The rows of a picture; its values before they are rounded come by way of the progress.
struct Rows(Vec<u8>);

impl ImageSink for Rows {
    fn begin(&mut self, _width: usize, _height: usize) -> Result<()> {
        Ok(())
    }

    fn row(&mut self, rgb: &[u8]) -> Result<()> {
        self.0.extend_from_slice(rgb);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a run went through, NHWC: x after each row of the table, then the picture, as values and
/// as pixels.
struct Seen {
    shape: [usize; 4],
    rows: Vec<Vec<f32>>,
    image: Vec<f32>,
    pixels: Vec<u8>,
}

fn run(resolved: &Resolved, index: u32) -> Seen {
    let two = NonZero::new(2).expect("two are not none");
    let machine = Machine::with_isa(best_isa(), two).expect("two threads can be started");
    let model = WeightFiles::open(&resolved.places).expect("the weights are there");
    let (rows, image, pixels) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = Seen { shape: [0; 4], rows, image, pixels };
    model.with_weights(|weights| {
        let plan = plan::plan(resolved, &machine, weights).expect("the plan succeeds");
        let mut memory = Memory::dirty(plan.arena_bytes, 0xFF);
        let (isa, pool) = (machine.isa(), machine.pool());
        let mut cx = Context::new(Arena::new(memory.bytes()), isa, pool, weights);
        let mut watch = |progress: Progress<'_>| {
            match progress.stage {
                Stage::Unet => {
                    seen.shape = progress.shape;
                    seen.rows.push(progress.values.to_vec());
                }
                Stage::Decoder => seen.image = progress.values.to_vec(),
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let mut rows = Rows(Vec::new());
        resolved.work(index).run(&mut cx, &mut rows, &mut watch).expect("the run succeeds");
        assert_eq!(cx.arena().peak(), plan.arena_bytes, "planned bytes are peak bytes");
        seen.pixels = rows.0;
    });
    seen
}

fn resolved(arguments: Vec<String>) -> Resolved {
    let arguments = ["mote".to_string()].into_iter().chain(arguments);
    let Command::Generate(generate) = Cli::try_parse_from(arguments).expect("arguments").command
    else {
        unreachable!("the subcommand is generate")
    };
    let place = Place::model(&generate.model.model).expect("a place");
    let request = generate.request.read().expect("a request");
    resolve(&place, &generate.model.parts(), &request).unwrap_or_else(|failure| panic!("{failure}"))
}

/// `[.., c, h, w]` of one picture to `[h, w, c]`.
fn to_nhwc(values: &[f32], [_, h, w, c]: [usize; 4]) -> Vec<f32> {
    let at = |i: usize| values[i % c * h * w + i / c];
    (0..h * w * c).map(at).collect()
}

fn worst(found: &[f32], expected: &[f32], scaled: bool) -> f32 {
    assert_eq!(found.len(), expected.len(), "as many values");
    let difference =
        |(a, b): (&f32, &f32)| (a - b).abs() / if scaled { 1.0 + b.abs() } else { 1.0 };
    found.iter().zip(expected).map(difference).fold(0.0, |worst: f32, d| {
        // A NaN must not be passed over.
        if d <= worst { worst } else { d }
    })
}

/// Runs a case and compares all that diffusers left behind.
fn check(folder: &Path) {
    let name = folder.file_name().unwrap().to_string_lossy();
    let (_kept, model) = cases::model(folder);
    let expected = safetensors(&folder.join("expected.safetensors"));
    let resolved = resolved(cases::arguments(folder, &model));
    if let (Networks::TextToImage(words), true) = (&resolved.networks, expected.has("input_ids")) {
        let ids: Vec<i64> = words.prompt.iter().map(|&id| i64::from(id)).collect();
        assert_eq!(ids, expected.integers("input_ids"), "{name}: the prompt's tokens");
    }
    let images = expected.f32("image");
    let batch = expected.dims("image")[0];
    for index in 0..batch {
        let seen = run(&resolved, index as u32);
        let image = &images[index * seen.image.len()..][..seen.image.len()];
        let image = worst(&seen.image, image, false);
        let steps = compare_steps(&expected, &seen, index, batch);
        println!("{name}, picture {index}: image {image:.1e}, steps {steps:.1e}");
        assert!(image <= IMAGE_TOLERANCE, "{name}: the picture differs by {image}");
        assert!(steps <= STEP_TOLERANCE, "{name}: a step differs by {steps}");
        let (size, pixels) = files::png(&folder.join(format!("expected_{index}.png")));
        assert_eq!(size, resolved.size, "{name}: the picture's size");
        assert!(files::levels_apart(&seen.pixels, &pixels) <= 1, "{name}: other pixels");
    }
}

/// The largest difference after any row, where the case recorded them.
fn compare_steps(expected: &TestWeights, seen: &Seen, index: usize, batch: usize) -> f32 {
    if !expected.has("latents_per_step") {
        return 0.0;
    }
    let values = expected.f32("latents_per_step");
    assert_eq!(expected.dims("latents_per_step")[0], seen.rows.len(), "as many steps");
    let size = seen.rows[0].len();
    let each = seen.rows.iter().enumerate().map(|(row, found)| {
        let golden = &values[(row * batch + index) * size..][..size];
        worst(found, &to_nhwc(golden, seen.shape), true)
    });
    each.fold(0.0, f32::max)
}

#[test]
fn the_golden_pipelines_agree_with_diffusers_at_every_step() {
    let goldens = cases::cases(&golden("pipelines"));
    assert!(goldens.len() >= 16, "only {} cases", goldens.len());
    goldens.iter().chain(&cases::cases(&golden("conformance"))).for_each(|folder| check(folder));
}

#[test]
fn the_conformance_cases_agree_with_diffusers_at_every_step() {
    let Some(parent) = shared("conformance") else { return };
    let cases = cases::cases(&parent);
    assert!(cases.len() >= 8, "only {} cases", cases.len());
    cases.iter().for_each(|folder| check(folder));
}

/// What diffusers drew with models of other kinds, beside the repository.
const SHARED: [&str; 10] = [
    "bk-sdm-tiny",
    "sd-turbo",
    "sdxl-clip-skip",
    "sdxl-euler",
    "sdxl-img2img",
    "sdxl-refiner",
    "sdxl-turbo",
    "sdxs-09",
    "sdxs-dreamshaper",
    "lcm",
];

#[test]
fn the_shared_cases_agree_with_diffusers_at_every_step() {
    let Some(parent) = shared("goldens") else { return };
    SHARED.iter().for_each(|name| check(&parent.join(name)));
}

#[test]
fn the_trained_model_agrees_with_diffusers() {
    let Some(folder) = shared("models/emoji-faces-32") else { return };
    check(&folder);
}
