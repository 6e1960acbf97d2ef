//! A recipe: one JSON file with the networks, the schedule and how they are trained, or one of the
//! presets in the program.
//!
//! `unet`, `text_encoder` and `scheduler` have diffusers' and transformers' keys; what is trained
//! is exported with them. A recipe without `text_encoder` trains a `UNet2DModel`, which is told
//! nothing.

use std::path::Path;

use mote::models::clip_text::ClipTextConfig;
use mote::models::unet_2d::{ClassEmbedding, UNet2DConfig};
use mote::models::unet_2d_condition::UNet2DConditionConfig;
use serde_json::{Map, Value, json};

use super::data::{self, COLOURS};
use super::draw::Fingerprint;
use mote_host::config::keys::Keys;
use mote_host::config::scheduler::SchedulerConfig;
use mote_host::config::{clip_text, scheduler, unet_2d, unet_2d_condition};
use mote_host::error::{Failure, Result};

/// The recipes in the program, by their names.
pub const PRESETS: [(&str, &str); 2] = [
    ("emoji32", include_str!("presets/emoji32.json")),
    ("emoji16", include_str!("presets/emoji16.json")),
];

/// What learns.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Networks {
    /// A noise predictor that is told nothing.
    Unconditional(UNet2DConfig),
    /// A noise predictor, the encoder of the words it is told, and its tokenizer.
    Text {
        /// The text encoder; its `vocab_size` is that of the vocabulary once it is known.
        text_encoder: ClipTextConfig,
        /// The noise predictor.
        unet: UNet2DConditionConfig,
        /// The most tokens of the vocabulary.
        vocab_size: usize,
        /// Tokens of a caption, with its begin and end.
        model_max_length: usize,
    },
}

/// How it learns.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Steps in all.
    pub steps: u64,
    /// Examples in a step.
    pub batch_size: usize,
    /// Examples that are evaluated together: a step adds their gradients up.
    pub micro_batch: usize,
    /// The highest learning rate.
    pub learning_rate: f32,
    /// Steps until it is reached.
    pub warmup_steps: u64,
    /// AdamW's.
    pub betas: [f32; 2],
    /// AdamW's.
    pub eps: f32,
    /// AdamW's.
    pub weight_decay: f32,
    /// The longest that the gradient may be; it is shortened to it.
    pub clip_norm: f32,
    /// How much the average of the parameters keeps at each step.
    pub ema_decay: f32,
    /// The share of examples whose caption is left out.
    pub caption_dropout: f64,
    /// The share of captions with keywords.
    pub keywords: f64,
    /// The share of examples shown in another colour, with its word in the name; of those that have
    /// one main colour.
    pub recolour: f64,
    /// The groups of the table of captions whose pictures keep their colours.
    pub recolour_except: Vec<String>,
    /// Whether half of the pictures are flipped, left to right.
    pub flip: bool,
    /// The largest signal-to-noise ratio that counts; `None` weights no time.
    pub min_snr_gamma: Option<f32>,
    /// The seed of everything.
    pub seed: u64,
    /// Steps between two sheets of samples; 0 makes none.
    pub sample_every: u64,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
}

impl Training {
    /// Whether pictures are shown in other colours.
    pub fn recolours(&self) -> bool {
        self.recolour > 0.0
    }
}

/// What is drawn on a sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// The captions, one a picture; empty ones where the model is told nothing.
    pub prompts: Vec<String>,
    /// Pictures in a row.
    pub columns: usize,
    /// Steps of the sampler.
    pub steps: usize,
    /// How strongly a caption is followed.
    pub cfg_scale: f32,
}

/// A recipe.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// As it was read, with the changes of the command line.
    pub json: Value,
    /// What learns.
    pub networks: Networks,
    /// The schedule, and the sampler that the model is exported with.
    pub scheduler: SchedulerConfig,
    /// How it learns.
    pub training: Training,
    /// What is drawn on a sheet.
    pub samples: Samples,
}

/// What the command line changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// `training.steps`.
    pub steps: Option<u64>,
    /// `training.seed`.
    pub seed: Option<u64>,
    /// `training.learning_rate`.
    pub learning_rate: Option<f64>,
}

/// The text of a preset.
///
/// # Errors
/// Where there is none of that name.
pub fn preset(name: &str) -> Result<&'static str> {
    let preset = PRESETS.iter().find(|(preset, _)| *preset == name);
    preset.map(|(_, text)| *text).ok_or_else(|| unknown(name))
}

/// There is no recipe of that name.
fn unknown(name: &str) -> Failure {
    Failure::new(format!("there is no recipe {name}")).remedy(format!(
        "Give a JSON file, or one of {}; `mote train --print-config {}` prints one to begin with",
        PRESETS.map(|(name, _)| name).join(", "),
        PRESETS[0].0
    ))
}

/// Reads a preset or, where there is none of that name, a file.
///
/// # Errors
/// Where there is neither, or it holds what is not supported.
pub fn read(name: &str, changes: Changes) -> Result<Recipe> {
    let (path, mut json) = match preset(name) {
        Ok(text) => {
            let wrong = |error| Failure::new(format!("the preset {name} is not JSON: {error}"));
            (Path::new(name), serde_json::from_str(text).map_err(wrong)?)
        }
        Err(unknown) if !Path::new(name).exists() => return Err(unknown),
        Err(_) => (Path::new(name), mote_host::json::read(Path::new(name))?),
    };
    let given = [
        ("steps", changes.steps.map(Value::from)),
        ("seed", changes.seed.map(Value::from)),
        ("learning_rate", changes.learning_rate.map(Value::from)),
    ];
    for (key, value) in given {
        if let (Some(value), Some(root)) = (value, json.as_object_mut()) {
            let training = root.entry("training").or_insert_with(|| json!({}));
            if let Some(training) = training.as_object_mut() {
                training.insert(key.into(), value);
            }
        }
    }
    from_json(path, json)
}

/// The keys of an object inside a file.
fn within(keys: &mut Keys, key: &str) -> Result<Option<Keys>> {
    let place = format!("{}: {key}", keys.path().display());
    keys.take_some(key).map(|value| Keys::new(Path::new(&place), value)).transpose()
}

/// A recipe out of its JSON; `path` is what it is called.
///
/// # Errors
/// Where it holds what is not supported.
pub fn from_json(path: &Path, json: Value) -> Result<Recipe> {
    let mut keys = Keys::new(path, json.clone())?;
    let missing = |what: &str| {
        Failure::new(format!("{} has no `{what}`", path.display()))
            .remedy("A recipe needs unet, scheduler and training; for words text_encoder, too")
    };
    let unet = within(&mut keys, "unet")?.ok_or_else(|| missing("unet"))?;
    let encoder = within(&mut keys, "text_encoder")?;
    let networks = match encoder {
        None => Networks::Unconditional(unet_2d::from_keys(unet)?),
        Some(mut encoder) => {
            let tokenizer = within(&mut keys, "tokenizer")?;
            let mut tokenizer = tokenizer.ok_or_else(|| missing("tokenizer"))?;
            encoder.only("vocab_size", Value::Null)?;
            let text_encoder = clip_text::from_keys(encoder)?;
            let most = text_encoder.max_position_embeddings;
            let vocab_size = tokenizer.size("vocab_size", 1024)?;
            let model_max_length = tokenizer.size("model_max_length", most)?;
            tokenizer.finish(&[])?;
            let unet = unet_2d_condition::from_keys(unet)?;
            Networks::Text { text_encoder, unet, vocab_size, model_max_length }
        }
    };
    let scheduler = within(&mut keys, "scheduler")?.ok_or_else(|| missing("scheduler"))?;
    let training = within(&mut keys, "training")?.ok_or_else(|| missing("training"))?;
    let samples = within(&mut keys, "samples")?;
    let recipe = Recipe {
        scheduler: scheduler::from_keys(scheduler, None)?,
        training: training_of(training)?,
        samples: samples_of(samples)?,
        networks,
        json,
    };
    keys.finish(&[])?;
    recipe.check(path)?;
    Ok(recipe)
}

fn training_of(mut keys: Keys) -> Result<Training> {
    let batch_size = keys.size("batch_size", 64)?;
    let betas = match keys.take("betas") {
        None => [0.9, 0.999],
        Some(value) => {
            let list = value.as_array().filter(|list| list.len() == 2);
            let list = list.ok_or_else(|| keys.fail("betas", &value, "it should be two numbers"));
            let list = list?;
            [keys.as_f32("betas", &list[0])?, keys.as_f32("betas", &list[1])?]
        }
    };
    let training = Training {
        steps: keys.size("steps", 10_000)? as u64,
        batch_size,
        micro_batch: keys.size("micro_batch", batch_size)?,
        learning_rate: keys.f32("learning_rate", 1e-4)?,
        warmup_steps: keys.count("warmup_steps", 500)? as u64,
        betas,
        eps: keys.f32("eps", 1e-8)?,
        weight_decay: keys.f32("weight_decay", 1e-2)?,
        clip_norm: keys.f32("clip_norm", 1.0)?,
        ema_decay: keys.f32("ema_decay", 0.999)?,
        caption_dropout: keys.number("caption_dropout", 0.1)?,
        keywords: keys.number("keywords", 0.2)?,
        recolour: keys.number("recolour", 0.0)?,
        recolour_except: keys.texts("recolour_except")?.unwrap_or_default(),
        flip: keys.flag("flip", false)?,
        min_snr_gamma: keys.number_or_null("min_snr_gamma")?.map(|gamma| gamma as f32),
        seed: keys.count("seed", 0)? as u64,
        sample_every: keys.count("sample_every", 1000)? as u64,
        checkpoint_every: keys.size("checkpoint_every", 1000)? as u64,
    };
    if !training.batch_size.is_multiple_of(training.micro_batch) {
        let (value, batch) = (Value::from(training.micro_batch), training.batch_size);
        let what = format!("it should divide `batch_size`, {batch}");
        return Err(keys.fail("micro_batch", &value, what));
    }
    let share = 0.0..=1.0;
    for (key, value, range) in [
        ("learning_rate", f64::from(training.learning_rate), 0.0..=f64::from(f32::MAX)),
        ("eps", f64::from(training.eps), 0.0..=1.0),
        ("weight_decay", f64::from(training.weight_decay), 0.0..=f64::from(f32::MAX)),
        ("clip_norm", f64::from(training.clip_norm), f64::MIN_POSITIVE..=f64::from(f32::MAX)),
        ("ema_decay", f64::from(training.ema_decay), share.clone()),
        ("caption_dropout", training.caption_dropout, share.clone()),
        ("keywords", training.keywords, share.clone()),
        ("recolour", training.recolour, share.clone()),
        ("betas", f64::from(betas[0].min(betas[1])), share.clone()),
        ("betas", f64::from(betas[0].max(betas[1])), 0.0..=(1.0 - 1e-7)),
    ] {
        if !range.contains(&value) {
            return Err(keys.fail(key, &Value::from(value), "it is out of its range"));
        }
    }
    keys.finish(&[])?;
    Ok(training)
}

fn samples_of(keys: Option<Keys>) -> Result<Samples> {
    let mut samples =
        Samples { prompts: vec![String::new(); 16], columns: 8, steps: 20, cfg_scale: 1.0 };
    let Some(mut keys) = keys else { return Ok(samples) };
    if let Some(prompts) = keys.texts("prompts")? {
        samples.prompts = prompts;
    }
    samples.columns = keys.size("columns", samples.columns)?;
    samples.steps = keys.size("steps", samples.steps)?;
    samples.cfg_scale = keys.f32("cfg_scale", samples.cfg_scale)?;
    keys.finish(&[])?;
    Ok(samples)
}

impl Recipe {
    /// Refuses networks that cannot be trained on pictures.
    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |what: &str| {
            Err(Failure::new(format!("{}: {what}", path.display())).remedy("Change the recipe"))
        };
        let (channels, size) = match &self.networks {
            Networks::Unconditional(unet) => {
                if unet.class_embedding != ClassEmbedding::None {
                    return refuse("mote trains classes as captions, and the unet wants a number");
                }
                ([unet.in_channels, unet.out_channels], unet.sample_size)
            }
            Networks::Text { text_encoder, unet, model_max_length, .. } => {
                if *model_max_length > text_encoder.max_position_embeddings || *model_max_length < 3
                {
                    return refuse(
                        "`model_max_length` must be from 3 to `max_position_embeddings`",
                    );
                }
                if text_encoder.hidden_size != unet.cross_attention_dim {
                    return refuse("`cross_attention_dim` is not the text encoder's `hidden_size`");
                }
                ([unet.in_channels, unet.out_channels], unet.sample_size)
            }
        };
        let block = self.pixel_block();
        if channels != [COLOURS * block * block; 2] {
            return refuse(
                "the unet must take and give 3 channels, those of a picture, or 12, those of \
                 blocks of 2x2 pixels",
            );
        }
        if size.is_none() {
            return refuse("the unet has no `sample_size`, which is that of the pictures");
        }
        Ok(())
    }

    /// Height and width of the pictures.
    pub fn size(&self) -> [usize; 2] {
        let size = match &self.networks {
            Networks::Unconditional(unet) => unet.sample_size,
            Networks::Text { unet, .. } => unet.sample_size,
        };
        size.unwrap_or_default().map(|side| side * self.pixel_block())
    }

    /// The side of the block of pixels that an element of the sample stands for.
    pub fn pixel_block(&self) -> usize {
        match &self.networks {
            Networks::Unconditional(_) => 1,
            Networks::Text { unet, .. } => unet.pixel_block(),
        }
    }

    /// Height, width and channels of a sample.
    pub fn sample(&self) -> [usize; 3] {
        data::sample(self.size(), self.pixel_block())
    }

    /// A number that stands for the recipe, but for the number of steps: a training may be told to
    /// go on for longer, or to end sooner.
    pub fn fingerprint(&self) -> u64 {
        let mut json = self.json.clone();
        if let Some(training) = json.get_mut("training").and_then(Value::as_object_mut) {
            training.remove("steps");
        }
        Fingerprint::of(&json.to_string())
    }

    /// The keys of one of its parts, as they were written.
    pub fn part(&self, name: &str) -> Map<String, Value> {
        self.json.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Value {
        json!({
            "unet": {
                "sample_size": 8, "in_channels": 3, "out_channels": 3,
                "block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4,
                "attention_head_dim": 2, "cross_attention_dim": 8,
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]
            },
            "text_encoder": {
                "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "max_position_embeddings": 8
            },
            "tokenizer": { "vocab_size": 100, "model_max_length": 8 },
            "scheduler": { "_class_name": "DDIMScheduler" },
            "training": { "steps": 10, "batch_size": 4 }
        })
    }

    fn said(key: &str, value: Value) -> String {
        let mut json = small();
        *json.pointer_mut(key).unwrap() = value;
        from_json(Path::new("small.json"), json).unwrap_err().to_string()
    }

    #[test]
    fn the_presets_are_recipes() {
        for (name, _) in PRESETS {
            let recipe = read(name, Changes::default()).unwrap_or_else(|error| panic!("{error}"));
            assert!(matches!(recipe.networks, Networks::Text { .. }), "{name}");
        }
    }

    #[test]
    fn what_a_recipe_leaves_out_has_a_default_and_the_command_line_may_change_it() {
        let recipe = from_json(Path::new("small.json"), small()).unwrap();
        assert_eq!((recipe.training.micro_batch, recipe.size()), (4, [8, 8]));
        let changes = Changes { steps: Some(7), seed: Some(3), learning_rate: Some(0.5) };
        let changed = read("emoji32", changes).unwrap();
        assert_eq!((changed.training.steps, changed.training.seed), (7, 3));
        let preset = read("emoji32", Changes::default()).unwrap();
        assert_ne!(changed.fingerprint(), preset.fingerprint());
        let longer = read("emoji32", Changes { steps: Some(7), ..Changes::default() }).unwrap();
        assert_eq!(longer.fingerprint(), preset.fingerprint());
        assert_eq!(
            preset.fingerprint(),
            read("emoji32", Changes::default()).unwrap().fingerprint()
        );
    }

    #[test]
    fn what_cannot_be_trained_is_refused_by_name() {
        for (key, value, name) in [
            ("/unet/in_channels", json!(4), "3 channels"),
            ("/unet/sample_size", json!(null), "sample_size"),
            ("/unet/cross_attention_dim", json!(16), "cross_attention_dim"),
            ("/tokenizer/model_max_length", json!(9), "model_max_length"),
            ("/training/batch_size", json!(0), "batch_size"),
            ("/training/steps", json!("many"), "steps"),
            ("/training", json!({"batch_size": 4, "micro_batch": 3}), "micro_batch"),
            ("/training", json!({"learnin_rate": 1}), "learnin_rate"),
            ("/training", json!({"caption_dropout": 2}), "caption_dropout"),
            ("/training", json!({"betas": [0.9]}), "betas"),
            ("/scheduler", json!(null), "scheduler"),
            ("/text_encoder/hidden_size", json!(9), "hidden_size"),
        ] {
            let said = said(key, value);
            assert!(said.contains(name), "{said}");
        }
        let said = read("gone.json", Changes::default()).unwrap_err().to_string();
        assert!(
            said.contains("there is no recipe gone.json") && said.contains("emoji32"),
            "{said}"
        );
    }
}
