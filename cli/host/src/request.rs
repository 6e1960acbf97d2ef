//! What is wanted of a model: one struct for the command line, a file in JSON, a server.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use mote::diffusion::sampler::Named;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::format::{Format, format_of};
use crate::embedding::Embedding;
use crate::error::{Failure, Result};
use crate::image::parameters::{KEYWORD, Parameters};
use crate::image::png;
use crate::json;
use crate::lora::Lora;
use crate::types::{Choice, Corner, Prediction, PromptSyntax, Rng, Seed, Sigmas, Size, Type};

/// The largest side of a picture in pixels: far beyond what any model was trained for.
pub const MAX_SIDE: u32 = 16_384;

/// The seed that is taken where nothing is said.
const SEED: u64 = 42;

/// The steps that are taken where nothing is said.
const STEPS: u32 = 20;

/// What of a model is taken from elsewhere, and in which type its weights are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// The folder of the configurations of a checkpoint in one file.
    pub config: Option<PathBuf>,
    /// Another autoencoder than the model's own: a folder with its `config.json` and its weights.
    pub vae: Option<PathBuf>,
    /// A tiny autoencoder (TAESD): a folder, or its `taesd_decoder.safetensors`.
    pub taesd: Option<PathBuf>,
    /// What is added to the weights, in this order.
    pub loras: Vec<Lora>,
    /// Words with vectors of their own.
    pub embeddings: Vec<Embedding>,
    /// The type that the weights of products are converted to; `None`: as they are.
    pub dtype: Option<Type>,
}

/// What is to be in the picture, and how it is to be made. What is `None` is as the checkpoint has
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// What the picture is to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What the picture is not to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// How the two are read.
    #[serde(skip_serializing_if = "is_plain")]
    pub prompt_syntax: PromptSyntax,
    /// A picture to start from instead of pure noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_img: Option<PathBuf>,
    /// How much of that picture is made anew, above 0 and up to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f32>,
    /// The width in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    /// The height in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// The class to draw, counted from 0, where the model was trained on classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_label: Option<u32>,
    /// How many pictures to make; picture k (from 0) has the seed plus k.
    pub batch_count: u32,
    /// The number that decides the noise.
    pub seed: Seed,
    /// In how many steps noise becomes a picture.
    pub steps: u32,
    /// How strongly the prompt is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cfg_scale: Option<f32>,
    /// The sampler.
    #[serde(skip_serializing_if = "Option::is_none", with = "named")]
    pub sampling_method: Option<&'static Named>,
    /// How the noise levels are spaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Sigmas>,
    /// What the network predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// How much fresh noise DDIM adds in each step, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<f32>,
    /// Which layer of the text encoder is read, counted from its end: 1 is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<u32>,
    /// The size that the picture was trained at, as Stable Diffusion XL is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_size: Option<Size>,
    /// The corner of that size at which the picture begins, as Stable Diffusion XL is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crops_coords_top_left: Option<Corner>,
    /// The size that the picture is to have, as Stable Diffusion XL is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_size: Option<Size>,
    /// [`Request::original_size`] for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_original_size: Option<Size>,
    /// [`Request::crops_coords_top_left`] for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_crops_coords_top_left: Option<Corner>,
    /// [`Request::target_size`] for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_target_size: Option<Size>,
    /// How beautiful the picture is to be, from 0 to 10, as Stable Diffusion XL's refiner is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f32>,
    /// The same for the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f32>,
    /// Whether the picture is decoded in tiles.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub vae_tiling: bool,
    /// The side of a tile in latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vae_tile_size: Option<u32>,
    /// The generator of the noise.
    pub rng: Rng,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: None,
            negative_prompt: None,
            prompt_syntax: PromptSyntax::Plain,
            init_img: None,
            strength: None,
            width: None,
            height: None,
            class_label: None,
            batch_count: 1,
            seed: Seed::Given(SEED),
            steps: STEPS,
            cfg_scale: None,
            sampling_method: None,
            scheduler: None,
            prediction: None,
            eta: None,
            clip_skip: None,
            original_size: None,
            crops_coords_top_left: None,
            target_size: None,
            negative_original_size: None,
            negative_crops_coords_top_left: None,
            negative_target_size: None,
            aesthetic_score: None,
            negative_aesthetic_score: None,
            vae_tiling: false,
            vae_tile_size: None,
            rng: Rng::Pcg,
        }
    }
}

/// A number of a request is from the first to the last of these.
macro_rules! check {
    ($($key:ident: $value:expr, $least:expr, $most:expr;)*) => {
        $(if let Some(value) = $value && !($least..=$most).contains(&value) {
            let key = stringify!($key);
            return Err(Failure::new(format!(
                "`{key}` is {value}, and is to be from {} to {}", $least, $most
            )).remedy(format!("Give another `{key}`, or leave it out")));
        })*
    };
}

impl Request {
    /// Reads the request in a file: JSON, or a PNG picture that says how it was made.
    ///
    /// # Errors
    /// Where there is none, or it asks for what there is not.
    pub fn read(path: &Path) -> Result<Self> {
        if format_of(path) == Some(Format::Picture) {
            let (_, texts) = png::read_texts(path)?;
            let Some((_, text)) = texts.iter().find(|(keyword, _)| keyword == KEYWORD) else {
                return Err(Failure::new(format!(
                    "{} does not say how it was made",
                    path.display()
                ))
                .remedy("Give a picture that mote or a web UI has written, or a file in JSON"));
            };
            return Self::of_parameters(&Parameters::parse(text))
                .map_err(|failure| failure.within(path.display()));
        }
        Self::of_json(json::read(path)?).map_err(|failure| failure.within(path.display()))
    }

    /// The request in a JSON object; also in the answer of `mote inspect --json` about a picture.
    ///
    /// # Errors
    /// Where it asks for what there is not.
    pub fn of_json(mut json: Value) -> Result<Self> {
        let within = json.get_mut("request").map(Value::take);
        let read = serde_json::from_value(within.unwrap_or(json));
        let request: Self = read.map_err(|error| {
            Failure::new(format!("this is no request: {error}"))
                .remedy("A request is an object such as {\"prompt\": \"red apple\", \"steps\": 20}")
        })?;
        request.check().map(|()| request)
    }

    /// The request as JSON, which [`Request::of_json`] reads.
    pub fn to_json(&self) -> Value {
        // By way of a text: 0.6 in 32 bits is then 0.6, and not 0.6000000238418579.
        let text = serde_json::to_string(self).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The request by which a picture was made, from the words that it says so with. What is not in
    /// them, such as a picture to start from, is not asked for.
    ///
    /// # Errors
    /// Where they name a sampler or a setting that there is not.
    pub fn of_parameters(parameters: &Parameters) -> Result<Self> {
        let given = |name: &str| {
            let found = parameters.settings.iter().find(|(setting, _)| setting == name);
            found.map(|(_, value)| value.as_str())
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
        let size = given("Size").map(|size| size.split_once('x').unwrap_or((size, "")));
        let plain = Self::default();
        // Web UIs used to write both into one: `DPM++ 2M Karras`.
        let title = given("Sampler").map(|title| title.strip_suffix(" Karras").unwrap_or(title));
        let is_karras = title != given("Sampler");
        let sampler = |title| Named::by_name(title).ok_or(title);
        let sampling_method = title.map(sampler).transpose().map_err(|title| {
            Failure::new(format!("there is no sampler {title:?}"))
                .remedy("Name another with --sampling-method, and the rest as flags")
        })?;
        let request = Self {
            prompt: some(&parameters.prompt),
            negative_prompt: some(&parameters.negative_prompt),
            prompt_syntax: given("Prompt syntax")
                .and_then(PromptSyntax::from_name)
                .unwrap_or(plain.prompt_syntax),
            width: number("Size", size.map(|(width, _)| width))?,
            height: number("Size", size.map(|(_, height)| height))?,
            class_label: number("Class label", given("Class label"))?,
            seed: number("Seed", given("Seed"))?.map_or(plain.seed, Seed::Given),
            steps: number("Steps", given("Steps"))?.unwrap_or(plain.steps),
            cfg_scale: number("CFG scale", given("CFG scale"))?,
            sampling_method,
            scheduler: given(if is_karras { "Sampler" } else { "Schedule type" })
                .and_then(|name| Sigmas::from_name(name.rsplit(' ').next().unwrap_or_default())),
            eta: number("Eta", given("Eta"))?,
            clip_skip: number("Clip skip", given("Clip skip"))?,
            original_size: number("Original size", given("Original size"))?,
            crops_coords_top_left: number("Crop top left", given("Crop top left"))?,
            target_size: number("Target size", given("Target size"))?,
            negative_original_size: number(
                "Negative original size",
                given("Negative original size"),
            )?,
            negative_crops_coords_top_left: number(
                "Negative crop top left",
                given("Negative crop top left"),
            )?,
            negative_target_size: number("Negative target size", given("Negative target size"))?,
            aesthetic_score: number("Aesthetic score", given("Aesthetic score"))?,
            negative_aesthetic_score: number(
                "Negative aesthetic score",
                given("Negative aesthetic score"),
            )?,
            vae_tiling: given("VAE tile").is_some(),
            vae_tile_size: number("VAE tile", given("VAE tile"))?,
            rng: given("RNG").and_then(Rng::from_name).unwrap_or(plain.rng),
            ..plain
        };
        request.check().map(|()| request)
    }

    /// Refuses numbers that cannot be meant.
    ///
    /// # Errors
    /// Where there is one, with its name.
    pub fn check(&self) -> Result<()> {
        check! {
            strength: self.strength, f32::MIN_POSITIVE, 1.0;
            width: self.width, 1, MAX_SIDE;
            height: self.height, 1, MAX_SIDE;
            batch_count: Some(self.batch_count), 1, 1_000_000;
            steps: Some(self.steps), 1, 1000;
            cfg_scale: self.cfg_scale, 0.0, 1000.0;
            eta: self.eta, 0.0, 1.0;
            clip_skip: self.clip_skip, 1, 1000;
            aesthetic_score: self.aesthetic_score, 0.0, 10.0;
            negative_aesthetic_score: self.negative_aesthetic_score, 0.0, 10.0;
            vae_tile_size: self.vae_tile_size, 1, MAX_SIDE;
        }
        Ok(())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_plain(syntax: &PromptSyntax) -> bool {
    *syntax == PromptSyntax::Plain
}

/// The number that a setting of a picture is.
fn number<T: FromStr>(name: &str, text: Option<&str>) -> Result<Option<T>> {
    let wrong = |text| Failure::new(format!("`{name}` of the picture is {text:?}, and no number"));
    text.map(|text| text.trim().parse().map_err(|_| wrong(text))).transpose()
}

/// A sampler in JSON: its name.
mod named {
    use mote::diffusion::sampler::Named;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    #[allow(clippy::ref_option, reason = "serde hands it over so")]
    pub fn serialize<S: Serializer>(
        sampler: &Option<&'static Named>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match sampler {
            Some(named) => to.serialize_some(named.name),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<&'static Named>, D::Error> {
        let Some(name) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let found = Named::by_name(&name);
        found.map(Some).ok_or_else(|| D::Error::custom(format!("there is no sampler {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_and_read_again() {
        let plain = Request::default();
        assert_eq!(
            serde_json::to_string(&plain).unwrap(),
            r#"{"batch_count":1,"seed":42,"steps":20,"rng":"pcg"}"#
        );
        let full = Request {
            prompt: Some("a lighthouse".into()),
            init_img: Some("photo.png".into()),
            strength: Some(0.6),
            seed: Seed::Given(u64::MAX),
            sampling_method: Named::by_name("dpm++2m"),
            scheduler: Some(Sigmas::Karras),
            prediction: Some(Prediction::V),
            vae_tiling: true,
            rng: Rng::Cuda,
            ..plain
        };
        assert_eq!(full.to_json()["strength"], 0.6);
        assert_eq!(Request::of_json(full.to_json()).unwrap(), full);
    }

    #[test]
    fn numbers_that_cannot_be_meant_are_refused_by_name() {
        for (json, key) in [
            (r#"{"steps": 0}"#, "steps"),
            (r#"{"width": 99999}"#, "width"),
            (r#"{"strength": 0}"#, "strength"),
            (r#"{"clip_skip": 0}"#, "clip_skip"),
            (r#"{"batch_count": 0}"#, "batch_count"),
        ] {
            let said = Request::of_json(serde_json::from_str(json).unwrap()).unwrap_err();
            assert!(said.to_string().contains(&format!("`{key}` is ")), "{said}");
        }
    }

    #[test]
    fn a_picture_says_how_it_was_made() {
        let text = "a cat\nNegative prompt: dog\nSteps: 7, Sampler: DPM++ 2M, \
                    Schedule type: Karras, CFG scale: 3.5, Seed: 9, Size: 64x32, Clip skip: 2, \
                    RNG: CPU, Version: mote";
        let request = Request::of_parameters(&Parameters::parse(text)).unwrap();
        let expected = Request {
            prompt: Some("a cat".into()),
            negative_prompt: Some("dog".into()),
            steps: 7,
            sampling_method: Named::by_name("dpm++2m"),
            scheduler: Some(Sigmas::Karras),
            cfg_scale: Some(3.5),
            seed: Seed::Given(9),
            width: Some(64),
            height: Some(32),
            clip_skip: Some(2),
            rng: Rng::Cpu,
            ..Request::default()
        };
        assert_eq!(request, expected);
        for (text, says) in [("Steps: many", "many"), ("Steps: 1, Sampler: Magic", "Magic")] {
            let said = Request::of_parameters(&Parameters::parse(text)).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn what_a_request_does_not_know_is_refused_by_name() {
        for (json, says) in [
            (r#"{"propmt": "a"}"#, "propmt"),
            (r#"{"sampling_method": "magic"}"#, "magic"),
            (r#"{"rng": "dice"}"#, "dice"),
            (r#"{"seed": 1.5}"#, "whole number"),
            (r#"{"steps": -1}"#, "-1"),
        ] {
            let said = serde_json::from_str::<Request>(json).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
        assert_eq!(serde_json::from_str::<Request>(r#"{"seed": -7}"#).unwrap().seed, Seed::Random);
    }
}
