//! A trained model in diffusers' layout: configurations, tokenizer, schedule, and the weights in
//! safetensors, in f32 and in a checkpoint's own order. diffusers and transformers load each part,
//! and `mote convert` makes one file of it.

use std::fs;
use std::path::Path;

use mote::mem::bytes_of;
use mote::tensor::Shape;
use serde_json::{Map, Value, json};

use super::recipe::{Networks, Recipe};
use super::store::Store;
use super::vocabulary::Vocabulary;
use mote_host::error::{Failure, Result};
use mote_host::stop::Stop;
use mote_host::write::FileWriter;

/// The version of diffusers whose configurations these are.
const DIFFUSERS: &str = "0.42.1";

/// Writes the model into `folder`, which is made where there is none.
///
/// # Errors
/// Where it cannot be written; each file is whole or what it was.
pub fn write(
    folder: &Path,
    recipe: &Recipe,
    vocabulary: Option<&Vocabulary>,
    parameters: &Store,
    stop: &Stop,
) -> Result<()> {
    let out = Writer { folder, stop };
    let unet = parameters.unpacked("unet")?;
    out.file("unet/diffusion_pytorch_model.safetensors", &safetensors(&unet))?;
    out.json("unet/config.json", with_class(recipe.part("unet"), unet_class(recipe)))?;
    let mut index = Map::new();
    if let (Some(vocabulary), Networks::Text { model_max_length, .. }) =
        (vocabulary, &recipe.networks)
    {
        let encoder = parameters.unpacked("text_encoder")?;
        out.file("text_encoder/model.safetensors", &safetensors(&encoder))?;
        out.json("text_encoder/config.json", text_encoder(recipe, vocabulary))?;
        for (name, bytes) in vocabulary.files(*model_max_length) {
            out.file(&format!("tokenizer/{name}"), &bytes)?;
        }
        for (part, class) in [("text_encoder", "CLIPTextModel"), ("tokenizer", "CLIPTokenizer")] {
            index.insert(part.into(), json!(["transformers", class]));
        }
        index.insert("vae".into(), json!([null, null]));
    }
    let scheduler = recipe.part("scheduler");
    let class = scheduler.get("_class_name").cloned().unwrap_or_default();
    out.json("scheduler/scheduler_config.json", with_class(scheduler, ""))?;
    let pipeline = if vocabulary.is_some() { "StableDiffusionPipeline" } else { "DDPMPipeline" };
    index.insert("scheduler".into(), json!(["diffusers", class]));
    index.insert("unet".into(), json!(["diffusers", unet_class(recipe)]));
    // Last: without it the folder is no model yet.
    out.json("model_index.json", with_class(index, pipeline))
}

/// The vocabulary's ids and the names by which transformers knows a configuration.
fn text_encoder(recipe: &Recipe, vocabulary: &Vocabulary) -> Map<String, Value> {
    let mut config = recipe.part("text_encoder");
    let [begin, end] = vocabulary.special();
    for (key, value) in [
        ("architectures", json!(["CLIPTextModel"])),
        ("model_type", "clip_text_model".into()),
        ("dtype", "float32".into()),
        ("vocab_size", vocabulary.tokens.len().into()),
        ("bos_token_id", begin.into()),
        ("eos_token_id", end.into()),
        ("pad_token_id", end.into()),
    ] {
        config.insert(key.into(), value);
    }
    config
}

fn unet_class(recipe: &Recipe) -> &'static str {
    match recipe.networks {
        Networks::Unconditional(_) => "UNet2DModel",
        Networks::Text { .. } => "UNet2DConditionModel",
    }
}

/// A configuration with its class, where one is given, and the version it is written for.
fn with_class(mut config: Map<String, Value>, class: &str) -> Map<String, Value> {
    if !class.is_empty() {
        config.insert("_class_name".into(), class.into());
    }
    config.insert("_diffusers_version".into(), DIFFUSERS.into());
    config
}

/// A safetensors file. Its metadata say what PyTorch's programs look for.
fn safetensors(tensors: &[(String, Shape, Vec<f32>)]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut begin = 0;
    for (name, shape, values) in tensors {
        let end = begin + size_of_val(values.as_slice());
        let tensor =
            json!({ "dtype": "F32", "shape": shape.as_slice(), "data_offsets": [begin, end] });
        header.insert(name.clone(), tensor);
        begin = end;
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.into_bytes());
    tensors.iter().for_each(|(_, _, values)| file.extend_from_slice(bytes_of(values)));
    file
}

struct Writer<'a> {
    folder: &'a Path,
    stop: &'a Stop,
}

impl Writer<'_> {
    fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        let folder = path.parent().unwrap_or(self.folder);
        fs::create_dir_all(folder).map_err(|error| Failure::file("make", folder, &error))?;
        let mut file = FileWriter::begin(Some(&path), self.stop)?;
        file.write(bytes)?;
        file.end()
    }

    fn json(&self, name: &str, value: Map<String, Value>) -> Result<()> {
        self.file(name, format!("{:#}\n", Value::Object(value)).as_bytes())
    }
}
