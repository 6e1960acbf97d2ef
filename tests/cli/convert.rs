//! Packed models: what `mote convert` writes, that it is read in place of the folder, and that no
//! damage to it goes unnoticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::Arena;
use mote::ops::Context;
use mote::tensor::{DType, Shape};
use mote::weights::{Path as Name, Weight, Weights};
use mote_host::config::unet_2d;
use mote_tests::cases::pipeline;
use mote_tests::files::{self, parts, str, whole};
use mote_tests::{golden, shared};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::command::{
    drawn, fails, misused, mote, program_on_a_full_disk, reports, says, sentence, text,
};

const TYPES: [&str; 5] = ["f32", "bf16", "f16", "int8", "int4"];

/// Takes every weight to be there, and remembers its shape.
struct Recorder(BTreeMap<String, Vec<usize>>);

impl Weights for Recorder {
    fn find(&mut self, name: &str, expected: Shape) -> mote::Result<Option<Weight>> {
        let bytes = 4 * expected.elements()?;
        self.0.insert(name.into(), expected.as_slice().to_vec());
        Ok(Some(Weight { dtype: DType::F32, shape: expected, part: 0, begin: 0, bytes }))
    }

    fn contains(&mut self, _name: &str) -> bool {
        false
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        _weight: &Weight,
        _start: usize,
        _len: usize,
        _staging: &'a mut [u8],
    ) -> mote::Result<&'a [u8]> {
        Err(mote::Error::WeightRead)
    }
}

/// Values as a fresh network has them: norms 1, biases 0, weights uniform about 0 so that a sum
/// keeps its size.
fn values(name: &str, shape: &[usize], state: &mut u32) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let bound = (3.0 / (count / shape[0]) as f32).sqrt();
    let mut bytes = Vec::with_capacity(4 * count);
    for _ in 0..count {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let uniform = (*state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let value = match (shape.len(), name.ends_with("weight")) {
            (1, true) => 1.0,
            (1, false) => 0.0,
            _ => bound * uniform,
        };
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

/// A model for pictures of 16x16, wide enough that products are packed as integers, and of widths
/// that are multiples of nothing.
fn model() -> (tempfile::TempDir, PathBuf) {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("model");
    for name in ["unet", "scheduler"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let scheduler = "scheduler/scheduler_config.json";
    fs::copy(pipeline("ddim-eta-batch-2/model").join(scheduler), folder.join(scheduler)).unwrap();
    let index = json!({ "_class_name": "DDIMPipeline", "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"] });
    fs::write(folder.join("model_index.json"), index.to_string()).unwrap();
    let config = json!({ "_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3,
        "out_channels": 3, "layers_per_block": 1, "block_out_channels": [36, 52],
        "norm_num_groups": 4, "attention_head_dim": 4, "act_fn": "silu",
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"] });
    fs::write(folder.join("unet/config.json"), config.to_string()).unwrap();
    let unet = unet_2d::read(folder.join("unet/config.json")).unwrap();
    let mut recorder = Recorder(BTreeMap::new());
    let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut recorder);
    let x = cx.tensor(Shape::new([1, 16, 16, 3])).unwrap();
    unet.forward(&mut cx, &Name::root(), x, &[0.0], None).unwrap();
    let (mut header, mut data, mut state) = (json!({}), Vec::new(), 1);
    for (name, shape) in &recorder.0 {
        let begin = data.len();
        data.extend(values(name, shape, &mut state));
        header[name] =
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
    }
    let file = folder.join("unet/diffusion_pytorch_model.safetensors");
    fs::write(file, whole(&header.to_string(), &data)).unwrap();
    (kept, folder)
}

fn convert(model: &Path, dtype: &str, to: &Path) -> Value {
    reports(&["convert", "-m", str(model), "--type", dtype, "-o", str(to), "--json"])
}

/// Arguments that say what to draw, for a model that wants to know.
fn request(model: &Path) -> &'static [&'static str] {
    let words = ["-p", "a red circle", "-W", "24", "-H", "24"].as_slice();
    if model.ends_with("shared-sd") { words } else { &[] }
}

fn pixels(model: &Path, more: &[&str], like: &Path) -> Vec<u8> {
    drawn(model, &[&["--steps", "3"], more, request(like)].concat())
}

/// Peak signal-to-noise ratio in dB.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>();
    20.0 * 255f64.log10() - 10.0 * (squares / a.len() as f64).log10()
}

fn models() -> (tempfile::TempDir, [PathBuf; 3]) {
    let (kept, wide) = model();
    (kept, [wide, pipeline("shared-sd"), pipeline("ddim-eta-batch-2/model")])
}

#[test]
fn any_program_can_load_the_file_and_its_tensors_are_aligned() {
    let (_kept, models) = models();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    for (model, dtype) in models.iter().flat_map(|model| TYPES.map(|dtype| (model, dtype))) {
        convert(model, dtype, &file);
        let bytes = fs::read(&file).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let told = metadata.metadata().clone().unwrap();
        let told = ["format", "version", "type"].map(|key| told[key].as_str());
        assert_eq!(told, ["mote", "1", dtype]);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut files = 0;
        for (name, tensor) in tensors.tensors() {
            let (data, at) = (tensor.data(), tensor.data().as_ptr().addr() - bytes.as_ptr().addr());
            // The recipe and the checksum end the file, whatever their size.
            let is_whole = data.len().is_multiple_of(64) && name != "recipe";
            assert_eq!(name == "checksum", at + data.len() == bytes.len(), "{name}");
            assert!(!is_whole || at.is_multiple_of(64), "{name} begins at {at}");
            assert!(at.is_multiple_of(tensor.dtype().bitsize() / 8), "{name} begins at {at}");
            if let Some(path) = name.strip_prefix("file:") {
                assert_eq!(
                    (tensor.dtype(), fs::read(model.join(path)).unwrap()),
                    (Dtype::U8, data.into())
                );
                files += 1;
            }
        }
        assert!(files >= 3, "{files} files");
    }
}

#[test]
fn the_bytes_are_the_same_for_every_number_of_threads() {
    let (_kept, model) = model();
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name).with_extension("safetensors"));
    for dtype in TYPES {
        let common = ["convert", "-m", str(&model), "--type", dtype];
        says(&[&common[..], &["-t", "1", "-o", str(&a)]].concat());
        says(&[&common[..], &["-t", "3", "-o", str(&b)]].concat());
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{dtype}");
    }
}

#[test]
fn a_plan_is_the_same_of_the_file_and_of_the_folder_with_its_type() {
    let (_kept, models) = models();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    for (model, dtype) in models.iter().flat_map(|model| TYPES.map(|dtype| (model, dtype))) {
        convert(model, dtype, &file);
        let plan = |more: &[&str]| says(&[&["plan", "--json"], more, request(model)].concat());
        let of_file = plan(&["-m", str(&file)]);
        assert_eq!(of_file, plan(&["-m", str(model), "--type", dtype]), "{dtype}");
        assert_eq!(of_file, plan(&["-m", str(&file), "--type", dtype]), "{dtype}");
    }
}

#[test]
fn pictures_are_the_same_from_the_file_and_converted_on_the_way_in() {
    let (_kept, models) = models();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    for model in &models {
        let plain = pixels(model, &[], model);
        for dtype in TYPES {
            convert(model, dtype, &file);
            let packed = pixels(&file, &[], model);
            assert_eq!(packed, pixels(model, &["--type", dtype], model), "{dtype}");
            let near = psnr(&packed, &plain);
            let least = match dtype {
                "f32" => f64::INFINITY,
                "int4" => 20.0,
                _ => 35.0,
            };
            assert!(near >= least, "{} in {dtype}: {near} dB", model.display());
        }
    }
}

#[test]
fn the_report_tells_sizes_and_errors_in_the_order_of_the_types() {
    let (_kept, model) = model();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    let reports = TYPES.map(|dtype| convert(&model, dtype, &file));
    let number = |report: &Value, key: &str| report["networks"][0][key].as_f64().unwrap();
    let after = reports.each_ref().map(|report| number(report, "after_bytes"));
    assert!(after[0] > after[1] && after[1] > after[3] && after[3] > after[4], "{after:?}");
    let [f32, bf16, f16, int8, int4] =
        reports.each_ref().map(|report| report["outputs"][0]["error"].as_f64().unwrap());
    // Sums in another order, where a convolution is packed doubled.
    assert!(f32 < 2e-6 && f16 > 0.0 && f16 < bf16, "{f16} {bf16}");
    assert!(bf16 < 1e-2 && int8 < 2e-2 && int4 < 0.2 && int4 > int8, "{bf16} {int8} {int4}");
    let layer = |report: &Value, name: &str| {
        let layers = report["layers"].as_array().unwrap().iter();
        layers.filter(|layer| layer["name"] == name).map(|layer| layer["type"].clone()).next()
    };
    for (name, dtype) in [
        ("unet.mid_block.resnets.0.conv1.weight", "int8"),
        ("unet.up_blocks.0.resnets.0.conv_shortcut.weight", "bf16"),
        ("unet.conv_in.weight", "f32"),
    ] {
        assert_eq!(layer(&reports[3], name), Some(dtype.into()), "{name}");
    }
    let common = ["convert", "-m", str(&model), "--type", "int8", "-o", str(&file)];
    let short = says(&common);
    assert!(short.contains("noise predictor") && !short.contains("conv_in.weight"), "{short}");
    assert!(says(&[&common[..], &["-v"]].concat()).contains("conv_in.weight"));
}

#[test]
fn calibrated_outputs_are_nearer_and_their_bytes_the_same_for_every_number_of_threads() {
    let (_kept, wide) = model();
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name).with_extension("safetensors"));
    let report = |model: &Path, dtype: &str, file: &Path, more: &[&str]| -> Value {
        let all = ["convert", "-m", str(model), "--type", dtype, "-o", str(file), "--json"];
        reports(&[&all, more].concat())
    };
    let error =
        |report: &Value, output: usize| report["outputs"][output]["error"].as_f64().unwrap();
    for (dtype, share) in [("int4", 0.85), ("int8", 0.97), ("bf16", 0.97)] {
        let nearest = report(&wide, dtype, &b, &[]);
        let calibrate = ["--calibrate", "40", "-t"];
        let moved = report(&wide, dtype, &a, &[&calibrate[..], &["1"]].concat());
        let [nearest, moved] = [nearest, moved].map(|report| error(&report, 0));
        assert!(moved < share * nearest, "{dtype}: {moved} {nearest}");
        report(&wide, dtype, &b, &[&calibrate[..], &["3"]].concat());
        assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{dtype}");
    }
    // With words, one text after the other, and guidance.
    let words = ["--calibrate", "25", "-p", "a red circle", "-p", "a blue square"];
    let of_words = pipeline("shared-sd");
    let [nearest, moved] = [&[][..], &words].map(|more| report(&of_words, "int4", &a, more));
    assert_ne!(nearest["layers"], moved["layers"]);
    // What of the texts is not looked at is told.
    let long = "red circle ".repeat(80);
    let of_words = str(&of_words);
    let all = ["convert", "-m", of_words, "--type", "int4", "-o", str(&a), "--calibrate", "1"];
    let said = text(&mote(&[&all[..], &["-p", &long, "-p", "a blue square"]].concat()).stderr);
    assert!(said.contains("note: the prompt is longer than"), "{said}");
    assert!(said.contains("note: 1 of 2 prompts serve"), "{said}");
}

#[test]
fn a_calibration_that_cannot_be_is_refused_and_leaves_nothing_behind() {
    let (_kept, wide) = model();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.safetensors");
    let to = |model: &Path, dtype: &str, more: &[&str]| {
        let all = ["convert", "-m", str(model), "--type", dtype, "-o", str(&out)];
        fails(&[&all, more].concat())
    };
    let four = ["--calibrate", "4"];
    assert!(to(&wide, "f32", &four).contains("--calibrate has no meaning with f32"));
    let error = to(&wide, "int8", &["--calibrate", "4", "-p", "a cat"]);
    assert!(error.contains("knows no text") && error.contains("Leave out --prompt"), "{error}");
    misused(&["convert", "-m", str(&wide), "--type", "int8", "-o", str(&out), "-p", "a"]);
    // What is no number is met while pictures are drawn.
    let weights = wide.join("unet/diffusion_pytorch_model.safetensors");
    let mut damaged = fs::read(&weights).unwrap();
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, damaged).unwrap();
    let error = to(&wide, "int8", &four);
    assert!(error.contains("not a number") || error.contains("no number"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The pictures of a trained model come out as they do in f32: what quantised models are for.
#[test]
fn calibrated_pictures_of_the_trained_model_are_near_those_in_f32() {
    const SEEDS: usize = 40;
    let Some(model) = shared("models/emoji-faces-32/model") else { return };
    let folder = tempfile::tempdir().unwrap();
    let pictures = |dtype: &str, more: &[&str]| -> Vec<Vec<u8>> {
        let file = folder.path().join(dtype).with_extension("safetensors");
        let all = ["convert", "-m", str(&model), "--type", dtype, "-o", str(&file)];
        says(&[&all, more].concat());
        let (count, out) = (SEEDS.to_string(), folder.path().join("%d.png"));
        says(&["generate", "--quiet", "-m", str(&file), "-s", "0", "-b", &count, "-o", str(&out)]);
        (0..SEEDS).map(|k| files::pixels(&folder.path().join(format!("{k}.png")))).collect()
    };
    let exact = pictures("f32", &[]);
    for (dtype, least) in [("int8", 30.0), ("bf16", 40.0)] {
        for (seed, near) in pictures(dtype, &["--calibrate", "160"]).iter().enumerate() {
            let near = psnr(near, &exact[seed]);
            assert!(near >= least, "seed {seed} in {dtype}: {near} dB");
        }
    }
}

#[test]
fn inspect_describes_a_packed_file_like_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    let model = pipeline("shared-sd");
    convert(&model, "f32", &file);
    let inspect = |path: &Path| reports(&["inspect", "--json", str(path)]);
    let (packed, plain) = (inspect(&file), inspect(&model));
    assert_eq!((&packed["packed"], &packed["pipeline"]), (&json!("f32"), &plain["pipeline"]));
    assert_eq!(packed["schedule"], plain["schedule"]);
    for (packed, plain) in [0, 1, 2].map(|i| (&packed["networks"][i], &plain["networks"][i])) {
        assert_eq!((&packed["name"], &packed["class"]), (&plain["name"], &plain["class"]));
    }
    let text = says(&["inspect", str(&file)]);
    assert!(text.contains("packed in f32") && text.contains("down_blocks.0"), "{text}");
}

#[test]
fn a_file_in_f16_can_be_converted_on_and_others_cannot() {
    let (_kept, model) = model();
    let folder = tempfile::tempdir().unwrap();
    let [f16, int8] = ["f16", "int8"].map(|dtype| {
        let file = folder.path().join(dtype).with_extension("safetensors");
        convert(&model, dtype, &file);
        file
    });
    let again = folder.path().join("again.safetensors");
    convert(&f16, "int8", &again);
    assert_eq!(pixels(&again, &[], &model), pixels(&f16, &["--type", "int8"], &model));
    let to = |file: &Path, dtype: &str| {
        fails(&["convert", "-m", str(file), "--type", dtype, "-o", str(&again)])
    };
    assert!(to(&int8, "bf16").contains("is packed in int8"));
    assert!(to(&int8, "int8").contains("is in int8 already"));
    let error = fails(&["plan", "-m", str(&int8), "--type", "f32"]);
    assert!(error.contains("is packed in int8") && error.contains("Leave out --type"), "{error}");
    assert!(to(&pipeline("shared-sd").join("unet"), "int8").contains("model_index.json"));
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_what_was_there() {
    let (_kept, model) = model();
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let before = fs::read(&weights).unwrap();
    let to = |path: &str| fails(&["convert", "-m", str(&model), "--type", "int8", "-o", path]);
    assert!(to(str(&weights)).contains("is what is to be converted"));
    assert_eq!(fs::read(&weights).unwrap(), before);
    assert!(to("a.bin").contains("Take -o a.safetensors"));
    assert!(to("no/such/a.safetensors").contains("there is no folder no/such"));
    assert!(to(str(&model)).contains("is a folder"));
    if cfg!(target_os = "linux") {
        let error = to("/dev/full");
        assert!(error.contains("cannot write /dev/full") && error.contains("Free some"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.safetensors");
    fs::write(&out, "the old one").unwrap();
    if cfg!(unix) {
        let mut command = program_on_a_full_disk(8);
        command.args(["convert", "-m", str(&model), "--type", "int8", "-o", str(&out)]);
        let error = sentence(&command.output().unwrap());
        assert!(error.contains("cannot write") && error.contains("a.safetensors"), "{error}");
    }
    // A weight that is no number shows only in the middle of the work.
    let mut damaged = before.clone();
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, damaged).unwrap();
    assert!(to(str(&out)).contains("is not a number"));
    assert_eq!(fs::read(&out).unwrap(), b"the old one");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// What is wrong with a packed file, done to its header, and what is said of it.
type Damage = (&'static str, fn(&mut Value));

const DAMAGES: [Damage; 13] = [
    ("version \"2\"", |header| header["__metadata__"]["version"] = "2".into()),
    ("version \"\"", |header| header["__metadata__"]["version"] = 1.into()),
    ("the type \"int2\"", |header| header["__metadata__"]["type"] = "int2".into()),
    ("no model that mote knows", |header| header["__metadata__"]["format"] = "pt".into()),
    ("no model that mote knows", |header| header["__metadata__"] = json!(["mote"])),
    ("`unet.mid_block.resnets.0.conv1.weight.scale`: is missing", |header| {
        header.as_object_mut().unwrap().remove("unet.mid_block.resnets.0.conv1.weight.scale");
    }),
    ("no weight `unet.conv_in.weight`", |header| {
        header.as_object_mut().unwrap().remove("unet.conv_in.weight");
    }),
    ("`unet.mid_block.resnets.0.conv1.weight`", |header| {
        let shape = &mut header["unet.mid_block.resnets.0.conv1.weight"]["shape"];
        let (panels, steps) = (shape[0].clone(), shape[1].clone());
        (shape[0], shape[1]) = (steps, panels);
    }),
    ("`unet.mid_block.resnets.0.conv1.weight.scale`: weight of shape", |header| {
        let scale = &mut header["unet.mid_block.resnets.0.conv1.weight.scale"]["shape"];
        let (panels, rows) = (scale[0].clone(), scale[1].clone());
        (scale[0], scale[1]) = (rows, panels);
    }),
    ("`unet.mid_block.resnets.0.conv1.weight`: weight of shape", |header| {
        header["unet.mid_block.resnets.0.conv1.weight"]["dtype"] = "U8".into();
    }),
    ("`unet.conv_in.bias` is I8. mote reads", |header| {
        let bias = &mut header["unet.conv_in.bias"];
        let begin = bias["data_offsets"][0].as_u64().unwrap();
        let end = begin + bias["shape"][0].as_u64().unwrap();
        *bias = json!({ "dtype": "I8", "shape": bias["shape"], "data_offsets": [begin, end] });
    }),
    ("holds no unet/config.json", |header| {
        header.as_object_mut().unwrap().remove("file:unet/config.json");
    }),
    ("holds no model_index.json", |header| {
        header.as_object_mut().unwrap().remove("file:model_index.json");
    }),
];

#[test]
fn a_flipped_bit_is_refused_before_anything_runs() {
    let (_kept, model) = model();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    convert(&model, "int8", &file);
    let good = fs::read(&file).unwrap();
    says(&["inspect", str(&file)]);
    let (_, data) = parts(&good);
    let first = good.len() - data.len();
    let picture = folder.path().join("a.png");
    for at in [first, first + data.len() / 2, good.len() - 5, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&file, &bad).unwrap();
        // The core says the same as the command line, which has a checksum of its own.
        let mut slots = vec![mote::weights::Slot::EMPTY; 1000];
        let header = mote::weights::header_bytes(&bad, bad.len() as u64).unwrap();
        let index = mote::weights::Index::parse(&bad[header], bad.len() as u64, &mut slots);
        let refused = mote::weights::InPlace::new(index.unwrap(), &bad).verify().unwrap_err();
        assert!(matches!(refused, mote::Error::Checksum { .. }));
        for arguments in
            [&["inspect", str(&file)][..], &["generate", "-m", str(&file), "-o", str(&picture)]]
        {
            let error = fails(arguments);
            assert!(error.contains(&refused.to_string()), "{error}");
        }
    }
    assert!(!picture.exists());
}

#[test]
fn damage_is_told_in_a_sentence() {
    let (_kept, model) = model();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    convert(&model, "int8", &file);
    let good = fs::read(&file).unwrap();
    let (header, data) = parts(&good);
    // Metadata come first, as they do where `__metadata__` sorts before all other names.
    fs::write(&file, whole(&header.to_string(), data)).unwrap();
    says(&["plan", "-m", str(&file)]);
    for (said, damage) in DAMAGES {
        let mut header = header.clone();
        damage(&mut header);
        fs::write(&file, whole(&header.to_string(), data)).unwrap();
        let error = fails(&["plan", "-m", str(&file)]);
        assert!(error.contains(said), "{said}: {error}");
    }
    let header_bytes = good.len() - data.len();
    for len in [0, 7, 8, 30, 100, header_bytes - 1, header_bytes, good.len() / 2, good.len() - 1] {
        fs::write(&file, &good[..len]).unwrap();
        fails(&["plan", "-m", str(&file)]);
        fails(&["generate", "-m", str(&file), "-o", str(&folder.path().join("a.png"))]);
    }
    let mut absurd = good.clone();
    absurd[..8].fill(0xFF);
    fs::write(&file, absurd).unwrap();
    fails(&["plan", "-m", str(&file)]);
    let brackets = format!("{{\"__metadata__\":{}", "[".repeat(1 << 20));
    fs::write(&file, whole(&brackets, &[])).unwrap();
    fails(&["plan", "-m", str(&file)]);
    assert!(!folder.path().join("a.png").exists());
}

/// The number before `after` in a text.
fn number_before(text: &str, after: &str) -> u64 {
    let before = text.split_once(after).unwrap_or_else(|| panic!("no {after:?} in {text}")).0;
    before.rsplit(' ').next().unwrap().parse().expect("a number")
}

#[test]
fn a_plan_for_a_part_suggests_what_fits_or_says_by_how_much_it_does_not() {
    let (_kept, folder) = model();
    let folder = str(&folder).to_string();
    fn plan<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["plan", "-m", folder], more].concat()
    }
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("a.safetensors");
    for dtype in ["f32", "bf16", "int8", "int4"] {
        convert(Path::new(&folder), dtype, &file);
        let bytes = fs::metadata(&file).unwrap().len();
        let exact = bytes.to_string();
        // With exactly its flash a type fits, and it is the first that does.
        let said = says(&plan(&folder, &["--target-flash", &exact, "--target-ram", "1GiB"]));
        let fits = said.lines().last().unwrap();
        assert!(fits.starts_with(&format!("fits: --type {dtype} --steps 20 -W 16")), "{said}");
        assert_eq!(number_before(fits, " bytes of flash"), bytes);
        let ram = number_before(fits, " of memory");
        // Of the packed file the same is told, and one byte of memory less is a smaller picture.
        let packed = |ram: u64| {
            let ram = ram.to_string();
            says(&["plan", "-m", str(&file), "--target-ram", &ram])
        };
        assert!(packed(ram).lines().last().unwrap().contains("-W 16 -H 16"), "{}", packed(ram));
        let less = packed(ram - 1);
        let less = less.lines().last().unwrap();
        assert!(!less.contains("--steps 20 -W 16"), "{less}");
        if dtype == "int4" {
            let few = (bytes - 1).to_string();
            let error = fails(&plan(&folder, &["--target-flash", &few]));
            assert!(
                error.contains(&format!("at least {bytes} bytes of flash, 1 too many")),
                "{error}"
            );
        }
    }
    let error = fails(&plan(&folder, &["--target-ram", "5000"]));
    assert!(error.contains(" bytes of memory, "), "{error}");
}

#[test]
fn the_constant_is_the_plan_of_the_packed_model() {
    let (_kept, folder) = model();
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("a.safetensors");
    convert(&folder, "int8", &file);
    let bytes = fs::read(&file).unwrap();
    let packed = mote::pipeline::Model::open(&bytes).unwrap();
    let request = mote::pipeline::Request { steps: 9, ..Default::default() };
    let (mut rows, mut scratch) = (vec![Default::default(); 64], vec![0.0; 1000]);
    let (needs, ..) = packed.plan(&request, Isa::SCALAR, &mut rows, &mut scratch).unwrap();
    let rust = says(&["plan", "-m", str(&file), "--steps", "9", "--rust"]);
    for (name, number) in [
        ("model_bytes", needs.model_bytes),
        ("arena_bytes", needs.arena_bytes),
        ("tensors", needs.tensors),
        ("rows", needs.rows),
    ] {
        assert!(rust.contains(&format!("    {name}: {number},\n")), "{rust}");
    }
    let c = says(&["plan", "-m", str(&file), "--steps", "9", "--c"]);
    assert!(c.contains(&format!("#define MODEL_ARENA_BYTES {}\n", needs.arena_bytes)), "{c}");
    let error = fails(&["plan", "-m", str(&folder), "--rust"]);
    assert!(error.contains("mote convert"), "{error}");
}

#[test]
fn the_table_of_the_tokenizer_gives_the_tokens_that_the_plan_tells() {
    let file = golden("../firmware/model/emoji16.safetensors");
    let target = tempfile::tempdir().unwrap();
    let table = target.path().join("table");
    let plan = ["plan", "-m", str(&file), "-p", "red apple", "--steps", "2"];
    says(&[&plan[..], &["--rust", "--tokenizer", str(&table)]].concat());
    let told = reports(&[&plan[..], &["--json"]].concat());
    let bytes = fs::read(&table).unwrap();
    let tokenizer = mote::models::clip_tokenizer::ClipTokenizer::new(&bytes).unwrap();
    let mut ids = vec![0; told["prompt_ids"].as_array().unwrap().len()];
    tokenizer.encode("red apple", &mut ids, &mut [0; 64]).unwrap();
    assert_eq!(told["prompt_ids"], json!(ids));
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let c = says(&[&plan[..], &["--c"]].concat());
    assert!(c.contains(&format!("#define MODEL_PROMPT {{{}}}\n", ids.join(", "))), "{c}");
}
