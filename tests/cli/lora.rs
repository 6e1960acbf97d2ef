//! LoRA and its kin: added to a model on the way to a picture or into a packed file.

use std::fs;
use std::path::{Path, PathBuf};

use mote_tests::cases::{self, pipeline};
use mote_tests::files::{self, levels_apart, of_tensors, str, tensors};
use mote_tests::shared;
use serde_json::json;
use tempfile::TempDir;

use crate::command::{drawn, fails, mote, reports, says, sentence, text};

const RANK: usize = 2;

/// Values that are small and not alike.
fn values(count: usize, seed: usize) -> Vec<u8> {
    let value = |i: usize| ((i * 7 + seed * 3) % 11) as f32 / 11.0 - 0.4;
    (0..count).flat_map(|i| value(i).to_le_bytes()).collect()
}

/// A LoRA in kohya's names for all queries of the shared model's UNet, and what keeps it.
fn queries(folder: &Path) -> PathBuf {
    let unet = pipeline("shared-sd/unet/diffusion_pytorch_model.safetensors");
    let mut out = Vec::new();
    for (name, tensor, _) in tensors(&fs::read(unet).unwrap()) {
        let Some(layer) = name.strip_suffix(".to_q.weight") else { continue };
        let layer = format!("lora_unet_{}_to_q", layer.replace('.', "_"));
        let side = |at: usize| tensor["shape"][at].as_u64().unwrap() as usize;
        let mut add = |part: &str, shape: Vec<usize>| {
            let bytes = values(shape.iter().product(), part.len());
            let told = json!({ "dtype": "F32", "shape": shape });
            out.push((format!("{layer}.{part}"), told, bytes));
        };
        add("lora_down.weight", vec![RANK, side(1)]);
        add("lora_up.weight", vec![side(0), RANK]);
        add("alpha", vec![]);
    }
    assert!(out.len() > 6, "only {} tensors", out.len());
    let file = folder.join("queries.safetensors");
    fs::write(&file, of_tensors(&out)).unwrap();
    file
}

/// The shared model, a folder, and a LoRA in it.
fn bench() -> (PathBuf, TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let lora = queries(folder.path());
    (pipeline("shared-sd"), folder, lora)
}

const SAID: [&str; 4] = ["-p", "a cat", "--steps=3", "-s=7"];

fn with(more: &[&str]) -> Vec<String> {
    SAID.iter().chain(more).map(ToString::to_string).collect()
}

fn pixels(model: &Path, more: &[&str]) -> Vec<u8> {
    let more = with(more);
    drawn(model, &more.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn what_is_added_changes_the_picture_and_nothing_does_not() {
    let (model, _folder, lora) = bench();
    let scaled = |scale: &str| format!("--lora={}:{scale}", lora.display());
    let plain = pixels(&model, &[]);
    assert!(pixels(&model, &[&scaled("0")]) == plain, "at scale 0");
    assert!(pixels(&model, &[&scaled("3")]) != plain, "at scale 3");
    let both = pixels(&model, &[&scaled("3"), &scaled("-3")]);
    assert!(levels_apart(&both, &plain) <= 1, "what is added and taken away again");
    let out = lora.with_extension("png");
    let line = ["generate", "-m", str(&model), "-p", "x", "--steps=1", "-o", str(&out)];
    let output = mote(&[&line[..], &[scaled("0").as_str()]].concat());
    assert!(text(&output.stderr).contains("has no effect at scale 0"), "{}", text(&output.stderr));
    says(&[&line[..], &[scaled("0.5").as_str()]].concat());
    let told = reports(&["inspect", "--json", str(&out)]).to_string();
    assert!(told.contains("queries:0.5"), "{told}");
}

#[test]
fn a_converted_model_and_a_prompt_that_names_the_file_draw_the_same() {
    let (model, folder, lora) = bench();
    let scaled = format!("--lora={}:1.5", lora.display());
    let expected = pixels(&model, &["--type=f32", &scaled]);
    let packed = folder.path().join("packed.safetensors");
    says(&["convert", "--quiet", "-m", str(&model), "--type=f32", "-o", str(&packed), &scaled]);
    assert!(pixels(&packed, &[]) == expected, "converted before");
    let dir = format!("--lora-dir={}", folder.path().display());
    let named =
        drawn(&model, &["-p", "a cat <lora:queries:1.5>", "--steps=3", "-s=7", "--type=f32", &dir]);
    assert!(named == expected, "named in the prompt");
    let half = folder.path().join("half.safetensors");
    says(&["convert", "--quiet", "-m", str(&model), "--type=f16", "-o", str(&half)]);
    assert!(pixels(&half, &[&scaled]) != pixels(&half, &[]), "added to a file in half precision");
}

#[test]
fn what_cannot_be_added_is_refused_in_one_sentence() {
    let (model, folder, lora) = bench();
    let out = folder.path().join("a.png");
    let line = ["generate", "-m", str(&model), "-p", "x", "-o", str(&out)];
    let whole = fs::read(&lora).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        format!("--lora={}", file.display())
    };
    let renamed = |from: &str, to: &str| {
        let mut all = tensors(&whole);
        all.iter_mut().for_each(|(name, ..)| *name = name.replace(from, to));
        of_tensors(&all)
    };
    let changed = |change: &dyn Fn(&mut files::RawTensor)| {
        let mut all = tensors(&whole);
        all.iter_mut().for_each(change);
        of_tensors(&all)
    };
    let narrow = changed(&|(name, tensor, bytes)| {
        if name.ends_with("lora_down.weight") {
            let rank = tensor["shape"][0].as_u64().unwrap() as usize;
            bytes.truncate(4 * rank);
            tensor["shape"] = json!([rank, 1]);
        }
    });
    let words = changed(&|(name, ..)| *name = name.replace('.', "_"));
    let nan = changed(&|(.., bytes)| bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    for (name, bytes, says) in [
        ("cut.safetensors", &whole[..whole.len() / 2], "cut.safetensors cannot be used"),
        ("empty.safetensors", &[][..], "it is empty"),
        ("other.safetensors", &renamed("lora_unet_", "lora_unet_other_"), "changes no layer"),
        ("word.safetensors", &words, "is no LoRA"),
        ("half.safetensors", &renamed("lora_up", "lora_mid"), "not complete"),
        ("narrow.safetensors", &narrow, "do not fit the weight"),
        ("nan.safetensors", &nan, "no finite number"),
    ] {
        let said = fails(&[&line[..], &[write(name, bytes).as_str()]].concat());
        assert!(said.contains(says), "{name}: {said}");
    }
    let gone = fails(&[&line[..], &["--lora=gone.safetensors"]].concat());
    assert!(gone.contains("gone.safetensors"), "{gone}");
    let packed = folder.path().join("int8.safetensors");
    says(&["convert", "--quiet", "-m", str(&model), "--type=int8", "-o", str(&packed)]);
    let good = format!("--lora={}", lora.display());
    let line = ["generate", "-m", str(&packed), "-p", "x", "-o", str(&out), &good];
    let said = sentence(&mote(&line));
    assert!(said.contains("is packed in int8") && said.contains("--lora"), "{said}");
    let said = fails(&["bench", "-m", str(&model), &good]);
    assert!(said.contains("--lora has no meaning here"), "{said}");
    assert!(!out.exists());
}

/// What diffusers drew with LoRAs of all kinds, beside the repository.
const SHARED: [&str; 8] = [
    "lora-kohya",
    "lora-kohya-locon",
    "lora-locon-mid",
    "lora-loha",
    "lora-lokr",
    "lora-peft",
    "lora-sdxl-kohya",
    "lora-two",
];

#[test]
fn files_of_every_kind_draw_what_diffusers_draws() {
    let Some(parent) = shared("goldens") else { return };
    for name in SHARED {
        let case = parent.join(name);
        let told = mote_tests::json(&case.join("args.json"));
        let mut arguments = cases::arguments(&case, &case.join("model"));
        for lora in told["lora"].as_array().unwrap() {
            let file = case.join(lora["file"].as_str().unwrap());
            arguments.push(format!("--lora={}:{}", file.display(), lora["scale"]));
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.png");
        arguments.extend(["--type=f32".into(), "--quiet".into(), format!("-o={}", out.display())]);
        says(&arguments);
        let expected = files::pixels(&case.join("expected_0.png"));
        assert!(levels_apart(&files::pixels(&out), &expected) <= 1, "{name}");
    }
}
