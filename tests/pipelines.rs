//! Whole pipelines against diffusers: every value of the picture and of x after every step, for the
//! committed goldens and for the cases that lie beside the repository.

use std::fs;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

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
use mote_tests::{Memory, TestWeights, best_isa, golden, json, safetensors, shared};
use serde_json::Value;

/// Every value of the picture within this, from 0 to 1.
const IMAGE_TOLERANCE: f32 = 2e-4;

/// Every value of x after each step, relative to 1 + its magnitude: random networks let x grow.
const STEP_TOLERANCE: f32 = 1e-3;

/// Counts rows and forgets them: the values come by way of the progress.
struct Rows(usize);

impl ImageSink for Rows {
    fn begin(&mut self, _width: usize, _height: usize) -> Result<()> {
        Ok(())
    }

    fn row(&mut self, _rgb: &[u8]) -> Result<()> {
        self.0 += 1;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a run went through, NHWC: x after each row of the table, then the picture.
struct Seen {
    shape: [usize; 4],
    rows: Vec<Vec<f32>>,
    image: Vec<f32>,
}

fn run(resolved: &Resolved, index: u32) -> Seen {
    let two = NonZero::new(2).expect("two are not none");
    let machine = Machine::with_isa(best_isa(), two).expect("two threads can be started");
    let model = WeightFiles::open(&resolved.places).expect("the weights are there");
    let mut seen = Seen { shape: [0; 4], rows: Vec::new(), image: Vec::new() };
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
        let mut rows = Rows(0);
        resolved.work(index).run(&mut cx, &mut rows, &mut watch).expect("the run succeeds");
        assert_eq!(rows.0, resolved.size[0], "one row of pixels for each row");
        assert_eq!(cx.arena().peak(), plan.arena_bytes, "planned bytes are peak bytes");
    });
    seen
}

/// The command line that a case's `args.json` describes.
fn arguments(folder: &Path, case: &Value, model: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = ["mote", "generate", "--rng", "cpu"].map(String::from).into();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    for (key, flag) in [
        ("prompt", "--prompt"),
        ("negative_prompt", "--negative-prompt"),
        ("seed", "--seed"),
        ("steps", "--steps"),
        ("cfg_scale", "--cfg-scale"),
        ("width", "--width"),
        ("height", "--height"),
        ("strength", "--strength"),
        ("clip_skip", "--clip-skip"),
        ("eta", "--eta"),
    ] {
        let ignored = key == "eta" && case[key].as_f64() == Some(0.0);
        if !case[key].is_null() && !ignored {
            arguments.push(format!("{flag}={}", text(&case[key])));
        }
    }
    if let Some(init) = case["init"].as_str() {
        arguments.push(format!("--init-img={}", folder.join(init).display()));
    }
    arguments.push(format!("--model={}", model.display()));
    arguments
}

fn resolved(arguments: &[String]) -> Resolved {
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
fn check(folder: &Path, model: &Path) {
    let name = folder.file_name().unwrap().to_string_lossy();
    let case = json(&folder.join("args.json"));
    let expected = safetensors(&folder.join("expected.safetensors"));
    let resolved = resolved(&arguments(folder, &case, model));
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

/// A copy of the shared model with a case's own scheduler.
fn with_scheduler(model: &Path, scheduler: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &to);
            } else {
                fs::copy(&path, &to).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(model, folder.path());
    fs::copy(scheduler, folder.path().join("scheduler/scheduler_config.json")).unwrap();
    // The pipeline's own word on the class is the one that counts.
    let index = folder.path().join("model_index.json");
    let mut value = json(&index);
    let class = mote_host::json::read(scheduler).unwrap()["_class_name"].clone();
    value["scheduler"] = serde_json::json!(["diffusers", class]);
    fs::write(&index, value.to_string()).unwrap();
    folder
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.join("args.json").is_file()).collect();
    folders.sort();
    folders
}

#[test]
fn the_golden_pipelines_agree_with_diffusers_at_every_step() {
    let cases = folders(&golden("pipelines"));
    assert!(cases.len() >= 14, "only {} cases", cases.len());
    for folder in cases {
        let own = folder.join("model");
        if own.is_dir() {
            check(&folder, &own);
        } else {
            let scheduler = folder.join("scheduler/scheduler_config.json");
            let model = with_scheduler(&golden("pipelines/shared-sd"), &scheduler);
            check(&folder, model.path());
        }
    }
    folders(&golden("conformance")).iter().for_each(|folder| check(folder, &folder.join("model")));
}

#[test]
fn the_conformance_cases_agree_with_diffusers_at_every_step() {
    let Some(parent) = shared("conformance") else { return };
    let cases = folders(&parent);
    assert!(cases.len() >= 8, "only {} cases", cases.len());
    cases.iter().for_each(|folder| check(folder, &folder.join("model")));
}

#[test]
fn the_trained_model_agrees_with_diffusers() {
    let Some(folder) = shared("models/emoji-faces-32") else { return };
    check(&folder, &folder.join("model"));
}
