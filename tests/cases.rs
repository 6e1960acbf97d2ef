//! Pipelines as diffusers ran them: a folder each with `args.json`, what came out, and a model or
//! the scheduler that takes the place of the shared model's.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{files, golden};

/// A file or folder of the committed pipelines.
pub fn pipeline(path: &str) -> PathBuf {
    golden("pipelines").join(path)
}

/// The cases in a folder.
///
/// # Panics
/// Where it cannot be read; so for the others.
pub fn cases(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).expect("the cases are there");
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    let mut folders: Vec<_> = paths.filter(|path| path.join("args.json").is_file()).collect();
    folders.sort();
    folders
}

/// A case's model: its own, or a copy of the shared one with the case's scheduler, and what keeps
/// that.
pub fn model(case: &Path) -> (Option<TempDir>, PathBuf) {
    let own = case.join("model");
    if own.is_dir() {
        return (None, own);
    }
    let scheduler = case.join("scheduler/scheduler_config.json");
    let (kept, model) = files::copied(&pipeline("shared-sd"));
    fs::copy(&scheduler, model.join("scheduler/scheduler_config.json")).expect("it can be copied");
    // The pipeline's own word on the class is the one that counts.
    let class = mote_host::json::read(&scheduler).expect("a good file");
    let class = json!(["diffusers", class["_class_name"]]);
    files::set(&model.join("model_index.json"), "scheduler", class);
    (Some(kept), model)
}

/// The command line that a case's `args.json` describes.
pub fn arguments(case: &Path, model: &Path) -> Vec<String> {
    let told = crate::json(&case.join("args.json"));
    let mut arguments: Vec<String> = ["generate", "--rng", "cpu"].map(String::from).into();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    for (key, flag) in [
        ("prompt", "--prompt"),
        ("negative_prompt", "--negative-prompt"),
        ("seed", "--seed"),
        ("steps", "--steps"),
        ("cfg_scale", "--cfg-scale"),
        ("width", "--width"),
        ("height", "--height"),
        ("batch", "--batch-count"),
        ("strength", "--strength"),
        ("eta", "--eta"),
        ("aesthetic_score", "--aesthetic-score"),
        ("negative_aesthetic_score", "--negative-aesthetic-score"),
    ] {
        let ignored = key == "eta" && told[key].as_f64() == Some(0.0)
            || key == "negative_prompt" && told[key] == "";
        if !told[key].is_null() && !ignored {
            arguments.push(format!("{flag}={}", text(&told[key])));
        }
    }
    // Cases with weights of their own count the skipped layers from 0, as diffusers does.
    if let Some(skip) = told["clip_skip"].as_u64() {
        arguments.push(format!("--clip-skip={}", skip + u64::from(told["weights"].is_string())));
    }
    let pair = |value: &Value| Some([value[0].as_u64()?, value[1].as_u64()?]);
    for name in ["original_size", "target_size", "negative_original_size", "negative_target_size"] {
        if let Some([height, width]) = pair(&told[name]) {
            arguments.push(format!("--{}={width}x{height}", name.replace('_', "-")));
        }
    }
    for name in ["crops_coords_top_left", "negative_crops_coords_top_left"] {
        if let Some([top, left]) = pair(&told[name]) {
            arguments.push(format!("--{}={top},{left}", name.replace('_', "-")));
        }
    }
    if let Some(init) = told["init"].as_str() {
        arguments.push(format!("--init-img={}", case.join(init).display()));
    }
    arguments.push(format!("--model={}", model.display()));
    arguments
}
