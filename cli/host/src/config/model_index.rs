//! `model_index.json`: which pipeline a folder holds.

use serde_json::Value;

use super::keys::Keys;
use crate::checkpoint::foreign;
use crate::checkpoint::place::Place;
use crate::error::{Failure, Result};

/// The pipelines that mote runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    /// Noise becomes a picture; `DDPMPipeline`, `DDIMPipeline`.
    Unconditional,
    /// A text becomes a picture, perhaps from another picture; `StableDiffusionPipeline`.
    TextToImage,
    /// The same by two text encoders; `StableDiffusionXLPipeline`.
    StableDiffusionXl,
}

const PIPELINES: [(&str, Pipeline); 8] = [
    ("DDPMPipeline", Pipeline::Unconditional),
    ("DDIMPipeline", Pipeline::Unconditional),
    ("PNDMPipeline", Pipeline::Unconditional),
    ("StableDiffusionPipeline", Pipeline::TextToImage),
    ("StableDiffusionImg2ImgPipeline", Pipeline::TextToImage),
    ("LatentConsistencyModelPipeline", Pipeline::TextToImage),
    ("StableDiffusionXLPipeline", Pipeline::StableDiffusionXl),
    ("StableDiffusionXLImg2ImgPipeline", Pipeline::StableDiffusionXl),
];

/// What each pipeline needs, and the classes mote has for it.
const UNCONDITIONAL: [(&str, &[&str]); 1] = [("unet", &["UNet2DModel"])];
const TEXT_TO_IMAGE: [(&str, &[&str]); 4] = [
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL", "AutoencoderTiny"]),
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
];
const STABLE_DIFFUSION_XL: [(&str, &[&str]); 6] = [
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL", "AutoencoderTiny"]),
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("text_encoder_2", &["CLIPTextModelWithProjection"]),
    ("tokenizer_2", &["CLIPTokenizer", "CLIPTokenizerFast"]),
];

/// Pipelines that make one kind of scheduler of whatever they are given.
const SCHEDULERS: [(&str, &str); 2] =
    [("DDIMPipeline", "DDIMScheduler"), ("PNDMPipeline", "PNDMScheduler")];

/// Parts of a pipeline that mote leaves out, as they do not change a picture made from text: the
/// checker would blacken it, the others serve other inputs.
const HARMLESS: [&str; 5] = [
    "safety_checker",
    "feature_extractor",
    "image_encoder",
    "requires_safety_checker",
    "add_watermarker",
];

/// The pipeline's class as `model_index.json` spells it, and what it is to mote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelIndex {
    /// diffusers' name.
    pub class: String,
    /// What it is to mote.
    pub pipeline: Pipeline,
    /// Whether it has an autoencoder; without one what is sampled is the picture.
    pub has_vae: bool,
    /// Whether zeros stand for the states of a negative prompt that is not given.
    pub zeros_for_empty_prompt: bool,
    /// Whether the noise predictor is told how beautiful the picture is to be, not of which size.
    pub is_told_aesthetics: bool,
    /// The class of the scheduler, where it is said here.
    pub scheduler: Option<String>,
}

impl ModelIndex {
    /// Whether it is Stable Diffusion: a text becomes latents, and these a picture.
    pub fn is_latent_text_to_image(&self) -> bool {
        self.has_vae && self.class.starts_with("StableDiffusion")
    }
}

/// Reads `model_index.json` in `folder`.
///
/// # Errors
/// Where the folder holds no pipeline, or one that mote does not run.
pub fn read(folder: impl Into<Place>) -> Result<ModelIndex> {
    let folder = folder.into();
    let file = folder.join("model_index.json");
    if file.is_file() || folder.packed().is_some() {
        // Where the file does not speak of it, the folder tells.
        return from_keys(Keys::read(&file)?, folder.part("vae").is_folder());
    }
    let folder = folder.path();
    let name = folder.display();
    if folder.is_file() {
        return Err(foreign::no_model(folder));
    }
    if !folder.is_dir() {
        return Err(Failure::new(format!("there is no folder {name}")).remedy(
            "Give -m the folder that diffusers' `save_pretrained` wrote, with its model_index.json",
        ));
    }
    let unet = if folder.join("unet").is_dir() {
        ", though there is a unet folder. Without it nobody knows which pipeline this is"
    } else {
        ""
    };
    let failure = Failure::new(format!("{name} has no model_index.json{unet}"));
    Err(failure.remedy(
        "Save the model with diffusers' `pipeline.save_pretrained(FOLDER)`, which writes one, or \
         write it: {\"_class_name\": \"DDPMPipeline\"} (for text: StableDiffusionPipeline)",
    ))
}

fn from_keys(mut keys: Keys, mut has_vae: bool) -> Result<ModelIndex> {
    let Some(value) = keys.take("_class_name") else {
        let path = keys.path().display();
        return Err(Failure::new(format!("{path} has no `_class_name`: which pipeline is it?")));
    };
    let pipeline = keys.as_word("_class_name", &value, &PIPELINES)?;
    let parts: &[(&str, &[&str])] = match pipeline {
        Pipeline::Unconditional => &UNCONDITIONAL,
        Pipeline::TextToImage => &TEXT_TO_IMAGE,
        Pipeline::StableDiffusionXl => &STABLE_DIFFUSION_XL,
    };
    let is_xl = pipeline == Pipeline::StableDiffusionXl;
    for &(part, classes) in parts {
        // `["diffusers", "UNet2DModel"]`: library and class.
        let Some(value) = keys.take(part) else { continue };
        if part == "vae" {
            has_vae = !is_left_out(&value);
            if !has_vae {
                continue;
            }
        }
        // The refiner has no first encoder.
        if is_xl && ["text_encoder", "tokenizer"].contains(&part) && is_left_out(&value) {
            continue;
        }
        let class = value.as_array().and_then(|pair| pair.get(1)).and_then(Value::as_str);
        if !class.is_some_and(|class| classes.contains(&class)) {
            return Err(keys.fail(part, &value, format!("mote has {}", classes.join(", "))));
        }
    }
    for part in HARMLESS {
        keys.take(part);
    }
    let zeros_for_empty_prompt = is_xl && keys.flag("force_zeros_for_empty_prompt", true)?;
    let is_told_aesthetics = is_xl && keys.flag("requires_aesthetics_score", false)?;
    let own = keys.take("scheduler");
    let own = own.as_ref().and_then(|pair| pair[1].as_str()).map(String::from);
    let made = SCHEDULERS.iter().find(|(class, _)| value == *class);
    let scheduler = made.map(|(_, scheduler)| (*scheduler).to_string()).or(own);
    keys.drop_where(is_left_out);
    keys.finish(&[])?;
    let class = value.as_str().unwrap_or_default().into();
    Ok(ModelIndex {
        class,
        pipeline,
        has_vae,
        zeros_for_empty_prompt,
        is_told_aesthetics,
        scheduler,
    })
}

/// Whether it is `[null, null]`, a part left out.
fn is_left_out(value: &Value) -> bool {
    value.as_array().is_some_and(|pair| pair.iter().all(Value::is_null))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn index(value: Value) -> Result<ModelIndex> {
        from_keys(Keys::new(Path::new("model_index.json"), value)?, false)
    }

    #[test]
    fn pipelines_are_told_apart_by_their_class() {
        let found = index(json!({
            "_class_name": "DDIMPipeline", "_diffusers_version": "0.42.1",
            "scheduler": ["diffusers", "DDIMScheduler"], "unet": ["diffusers", "UNet2DModel"]
        }));
        assert_eq!(found.unwrap().pipeline, Pipeline::Unconditional);
        let found = index(json!({
            "_class_name": "StableDiffusionPipeline", "feature_extractor": [null, null],
            "a_part_of_the_future": [null, null], "requires_safety_checker": true,
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]
        }));
        let found = found.unwrap();
        assert_eq!((found.pipeline, found.has_vae), (Pipeline::TextToImage, true));
    }

    #[test]
    fn stable_diffusion_xl_says_what_it_does_without_a_negative_prompt() {
        let base = index(json!({
            "_class_name": "StableDiffusionXLPipeline", "add_watermarker": null,
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"], "vae": ["diffusers", "AutoencoderKL"]
        }));
        let base = base.unwrap();
        assert_eq!(base.pipeline, Pipeline::StableDiffusionXl);
        assert!(base.zeros_for_empty_prompt && !base.is_told_aesthetics);
        let refiner = index(json!({
            "_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [null, null],
            "tokenizer": [null, null], "force_zeros_for_empty_prompt": false,
            "requires_aesthetics_score": true
        }));
        let refiner = refiner.unwrap();
        assert!(!refiner.zeros_for_empty_prompt && refiner.is_told_aesthetics);
    }

    #[test]
    fn an_autoencoder_may_be_left_out() {
        for value in [
            json!({"_class_name": "StableDiffusionPipeline", "vae": [null, null]}),
            json!({"_class_name": "StableDiffusionPipeline"}),
        ] {
            assert!(!index(value).unwrap().has_vae);
        }
    }

    #[test]
    fn the_pipeline_or_its_entry_says_which_scheduler() {
        for (value, class) in [
            (json!({"_class_name": "DDPMPipeline"}), None),
            (json!({"_class_name": "DDPMPipeline", "scheduler": null}), None),
            (json!({"_class_name": "DDPMPipeline", "scheduler": ["diffusers", null]}), None),
            (json!({"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "X"]}), Some("X")),
            (
                json!({"_class_name": "DDIMPipeline", "scheduler": ["diffusers", "X"]}),
                Some("DDIMScheduler"),
            ),
        ] {
            assert_eq!(index(value).unwrap().scheduler.as_deref(), class);
        }
    }

    #[test]
    fn what_mote_does_not_run_is_refused_by_name() {
        for (value, name) in [
            (json!({"_class_name": "FluxPipeline"}), "FluxPipeline"),
            (json!({"_class_name": 7}), "_class_name"),
            (json!({}), "_class_name"),
            (json!({"_class_name": "DDPMPipeline", "unet": ["x", "UNet1DModel"]}), "UNet1DModel"),
            (json!({"_class_name": "DDPMPipeline", "unet": 1}), "unet"),
            (json!({"_class_name": "DDPMPipeline", "vqvae": ["x", "VQModel"]}), "VQModel"),
        ] {
            let said = index(value).unwrap_err().to_string();
            assert!(said.contains(name), "{said}");
        }
    }

    #[test]
    fn a_folder_that_is_none_is_told_from_one_without_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let said = read(folder.path()).unwrap_err().to_string();
        assert!(said.contains("has no model_index.json. Save"), "{said}");
        std::fs::create_dir(folder.path().join("unet")).unwrap();
        let said = read(folder.path()).unwrap_err().to_string();
        assert!(said.contains("though there is a unet folder"), "{said}");
        let said = read(folder.path().join("gone")).unwrap_err().to_string();
        assert!(said.contains("there is no folder"), "{said}");
        let file = folder.path().join("v1-5.safetensors");
        std::fs::write(&file, b"<html>").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("web page"));
    }
}
