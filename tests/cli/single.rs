//! Checkpoints in one file, in the names of Stable Diffusion's first authors.

use std::fs;
use std::path::{Path, PathBuf};

use mote_host::checkpoint::first_layout::{Blocks, of_vae};
use mote_tests::cases::{self, pipeline};
use mote_tests::files::{self, levels_apart, of_tensors, str, tensors};
use mote_tests::shared;
use serde_json::json;

use crate::command::{drawn, fails, says};

/// The shared model in one file, and its folder without weights.
fn single(folder: &Path) -> (PathBuf, PathBuf) {
    let model = pipeline("shared-sd");
    let read = |path: &str| tensors(&fs::read(model.join(path)).unwrap());
    let mut all = Vec::new();
    let unet = read("unet/diffusion_pytorch_model.safetensors");
    let split = |name: &str| {
        let (layer, end) = name.rsplit_once('.').unwrap();
        (layer.to_string(), end.to_string())
    };
    let layers: Vec<String> = unet.iter().map(|(name, ..)| split(name).0).collect();
    let blocks = Blocks::of(layers.iter().map(String::as_str));
    for (name, told, bytes) in unet {
        let (layer, end) = split(&name);
        let first = blocks.first(&layer).unwrap_or_else(|| panic!("{name} has a name"));
        all.push((format!("model.diffusion_model.{first}.{end}"), told, bytes));
    }
    let vae = read("vae/diffusion_pytorch_model.safetensors");
    let levels = vae
        .iter()
        .filter(|(name, ..)| name.contains("up_blocks"))
        .map(|(name, ..)| name.split('.').nth(2).unwrap().parse::<usize>().unwrap() + 1);
    let levels = levels.max().unwrap();
    for (name, mut told, bytes) in vae {
        let first = of_vae(&name, levels).unwrap_or_else(|| panic!("{name} has a name"));
        // Attention over pixels is written down as convolutions.
        if first.contains(".attn_1.") && told["shape"].as_array().unwrap().len() == 2 {
            told["shape"].as_array_mut().unwrap().extend([json!(1), json!(1)]);
        }
        all.push((format!("first_stage_model.{first}"), told, bytes));
    }
    for (name, told, bytes) in read("text_encoder/model.safetensors") {
        let inner = name.strip_prefix("text_model.").unwrap_or(&name);
        all.push((format!("cond_stage_model.transformer.text_model.{inner}"), told, bytes));
    }
    for ballast in ["model_ema.decay", "betas", "alphas_cumprod"] {
        all.push((ballast.into(), json!({ "dtype": "F32", "shape": [1] }), vec![0; 4]));
    }
    let file = folder.join("model.safetensors");
    fs::write(&file, of_tensors(&all)).unwrap();
    let (kept, config) = files::copied(&model);
    let without = folder.join("config");
    fs::rename(config, &without).unwrap();
    drop(kept);
    for part in ["unet", "vae", "text_encoder"] {
        for entry in fs::read_dir(without.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "safetensors") {
                fs::remove_file(path).unwrap();
            }
        }
    }
    (file, without)
}

const SAID: [&str; 4] = ["-p", "a cat", "--steps=3", "-s=7"];

#[test]
fn one_file_draws_what_the_folder_draws_and_is_converted_like_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = single(folder.path());
    let config = format!("--config={}", config.display());
    let expected = drawn(&pipeline("shared-sd"), &SAID);
    let found = drawn(&file, &[&SAID[..], &[config.as_str()]].concat());
    assert!(found == expected, "from one file");
    let packed = |model: &Path, more: &[&str]| {
        let out = folder.path().join("packed.safetensors");
        let line = ["convert", "--quiet", "--type=int8", "-o", str(&out), "-m", str(model)];
        says(&[&line[..], more].concat());
        drawn(&out, &SAID)
    };
    let same = packed(&file, &[&config]) == packed(&pipeline("shared-sd"), &[]);
    assert!(same, "packed from one file");
    let init = format!("--init-img={}", pipeline("sd-lcm/expected_0.png").display());
    let more = [&SAID[..], &[init.as_str()]].concat();
    let expected = drawn(&pipeline("shared-sd"), &more);
    let found = drawn(&file, &[&more[..], &[config.as_str()]].concat());
    assert!(found == expected, "by the encoder, too");
    says(&["bench", "-m", str(&file), &config, "--repeat=1"]);
}

#[test]
fn what_is_no_checkpoint_in_one_file_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = single(folder.path());
    let whole = fs::read(&file).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let cut = write("cut.safetensors", &whole[..whole.len() / 2]);
    let other = write("other.safetensors", &of_tensors(&[]));
    let mut lacks = tensors(&whole);
    lacks.retain(|(name, ..)| !name.starts_with("first_stage_model."));
    let lacks = write("lacks.safetensors", &of_tensors(&lacks));
    let (_kept, narrow) = files::copied(&config);
    files::set(&narrow.join("text_encoder/config.json"), "intermediate_size", json!(9));
    let (gone, here) = (folder.path().join("gone"), pipeline("shared-sd"));
    for (model, config, says) in [
        (&cut, &config, "cut.safetensors cannot be used"),
        (&other, &config, "holds no model in the names"),
        (&lacks, &config, "has no weight `vae."),
        (&file, &narrow, "mlp.fc1.weight"),
        (&file, &gone, "there is no folder"),
        (&here, &config, "Leave out --config"),
        (&gone, &config, "gone"),
    ] {
        let config = format!("--config={}", config.display());
        let said = fails(&["plan", "-m", str(model), "-p", "x", &config]);
        assert!(said.contains(says), "{said}");
    }
    let said = fails(&["plan", "-m", str(&file), "-p", "x"]);
    assert!(said.contains("--config FOLDER"), "{said}");
    let (config, lora) =
        (format!("--config={}", config.display()), format!("--lora={}", file.display()));
    let said = fails(&["plan", "-m", str(&file), "-p", "x", &config, &lora]);
    assert!(said.contains("convert --type f16"), "{said}");
}

#[test]
fn a_pickle_is_read_and_never_run() {
    let folder = tempfile::tempdir().unwrap();
    let (_, config) = single(folder.path());
    let config = format!("--config={}", config.display());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/pickle");
    for (name, says) in [
        ("whole", "holds no model in the names"),
        ("across", "holds no model in the names"),
        ("beyond", "reaches beyond its file"),
        ("wide", "more values than the file holds"),
        ("deflated", "compression method"),
        ("system", "would call \"os system\""),
        ("empty", "cut short"),
    ] {
        let file = folder.path().join(format!("{name}.ckpt"));
        fs::copy(corpus.join(name), &file).unwrap();
        let said = fails(&["plan", "-m", str(&file), "-p", "x", &config]);
        assert!(said.contains(says), "{name}: {said}");
    }
    let file = folder.path().join("cut.ckpt");
    fs::write(&file, &fs::read(corpus.join("whole")).unwrap()[..100]).unwrap();
    let said = fails(&["plan", "-m", str(&file), "-p", "x", &config]);
    assert!(said.contains("no whole zip"), "{said}");
}

#[test]
fn published_layouts_draw_what_diffusers_draws() {
    let Some(parent) = shared("goldens") else { return };
    for name in ["single-sd1", "single-sd2-v", "single-sdxl"] {
        let case = parent.join(name);
        if name == "single-sd1" {
            let [a, b] = ["single.safetensors", "single.ckpt"].map(|file| {
                let config = format!("--config={}", case.join("model").display());
                drawn(&case.join(file), &["-p", "a dog", "--steps=2", &config])
            });
            assert!(a == b, "PyTorch's own file");
        }
        let mut arguments = cases::arguments(&case, &case.join("single.safetensors"));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.png");
        arguments.push(format!("--config={}", case.join("model").display()));
        arguments.extend(["--quiet".into(), format!("-o={}", out.display())]);
        for more in [&[][..], &["--type=f32".to_string()]] {
            says(&[&arguments[..], more].concat());
            let expected = files::pixels(&case.join("expected_0.png"));
            assert!(levels_apart(&files::pixels(&out), &expected) <= 1, "{name} {more:?}");
        }
    }
}
