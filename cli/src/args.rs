//! The command line, parsed and nothing done yet.
//!
//! Flags have the spelling that stable-diffusion.cpp's users know; diffusers' words are aliases.
//! What is not given stays `None` here: `resolve` fills it in from the checkpoint.

use std::ffi::OsStr;
use std::num::NonZero;
use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use mote::arch::Level;
use mote::diffusion::sampler::{Named, SAMPLERS};
use mote_host::checkpoint::built_in;
use mote_host::embedding::{self, Embedding};
use mote_host::error::{FAILED, FAULT, INTERRUPTED};
use mote_host::lora::{self, Lora};
use mote_host::machine::{self, isa};
use mote_host::types::{self, Choice, Corner, Prediction, PromptSyntax, Rng, Seed, Sigmas, Type};
use mote_host::{Parts, request, size};
use mote_lab::eval;
use mote_lab::train::data::{Folder, HoldOut, Source};
use mote_lab::train::recipe::PRESETS;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The most threads that may be asked for.
const MAX_THREADS: usize = 1024;

/// The largest picture, in pixels a side: far beyond what any model was trained for.
const MAX_SIDE: i64 = 16_384;

/// What help says about the environment.
fn environment() -> String {
    let names: Vec<_> = Level::ALL.iter().map(|level| level.name()).collect();
    format!(
        "Environment:\n  {}=NAME  Takes this instruction set instead of the best that the CPU has: \
         {}.\n\n`mote --version` tells which one is in use.\n\nExit codes:\n  \
         0 all is done; {FAILED} it failed, and standard error says why; 2 the arguments are \
         wrong; {FAULT} mote itself is at fault: please report it; {INTERRUPTED} stopped by \
         Ctrl-C.",
        isa::VARIABLE,
        names.join(", ")
    )
}

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "mote",
    version = isa::short_version(),
    long_version = isa::long_version(),
    about = "Samples diffusion models on the CPU, in memory known before it starts.",
    long_about = "Samples diffusion models on the CPU, in memory known before it starts.\n\n\
        A model is a folder as diffusers' `save_pretrained` writes it, its weights in \
        safetensors:\n\n  \
        mote inspect [FOLDER]                  tells what is in it, or in the program\n  \
        mote plan -m FOLDER -p \"a lighthouse\"  tells the memory a picture takes\n  \
        mote generate -m FOLDER -p \"a lighthouse\" -o lighthouse.png\n  \
        mote convert -m FOLDER --type int8 -o FILE  packs it into one file, smaller and faster",
    after_help = environment(),
    styles = STYLES,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Makes pictures and writes them as PNG files.
    #[command(after_help = "Examples:\n  \
        mote generate -m ddpm-cat-256 --steps 50 -b 4 -o cat-%03d.png\n  \
        mote generate -m stable-diffusion-v1-5 -p \"a lighthouse\" -s 7 -o lighthouse.png\n  \
        mote generate -m stable-diffusion-v1-5 -p \"in oil\" -i photo.png --strength 0.6")]
    Generate(Box<Generate>),
    /// Says what `generate` would need, without making anything.
    ///
    /// Takes the same options, and tells the bytes of memory in each phase, the bytes of the
    /// weights, how often each network is evaluated, and the multiply-adds of it all. Apart from
    /// the weights, which are mapped from their files, `generate` takes exactly the memory told
    /// here.
    Plan(Box<Plan>),
    /// Times the networks of a model on this machine.
    ///
    /// Each is evaluated once on drawn noise to warm up, and then --repeat times. Told are median,
    /// least and most seconds of an evaluation, the operations a second (two for each
    /// multiply-add) and which share that is of what this CPU can do on registers alone, measured
    /// in the same run; the exact bytes of the arena, the anonymous memory of the process, the
    /// bytes of the weights, and how many pictures a minute that makes. Neither a prompt nor a
    /// tokenizer is needed.
    #[command(after_help = "Examples:\n  \
        mote bench -m stable-diffusion-v1-5 -t 2\n  \
        mote bench -m stable-diffusion-v1-5 --component unet --per-layer\n  \
        mote bench -m ddpm-cat-256 --repeat 20 --json")]
    Bench(Box<Bench>),
    /// Describes a model, a file of weights, or how a picture was made.
    ///
    /// Of a model's folder it tells the networks with their sizes and the noise schedule; of a
    /// safetensors file every tensor's name, type and shape; of a PNG file the prompt, seed and
    /// settings that are written in it.
    Inspect(Inspect),
    /// Packs a model's folder into one file, from which pictures are made faster.
    ///
    /// The file holds the weights of all networks as the arithmetic reads them, the configurations,
    /// the tokenizer and the schedule; `generate`, `plan` and `inspect` take it in place of the
    /// folder. Afterwards it is told how large each network was and is, and how far each layer's
    /// weights and each network's output are from those of the folder.
    #[command(after_help = "Examples:\n  \
        mote convert -m stable-diffusion-v1-5 --type int8 -o sd15-int8.safetensors\n  \
        mote convert -m ddpm-cat-256 --type int4 --calibrate 160 -o cat-int4.safetensors\n  \
        mote generate -m sd15-int8.safetensors -p \"a lighthouse\" -o lighthouse.png")]
    Convert(Convert),
    /// Trains a model on pictures and what they show.
    ///
    /// The folder that -o names becomes a model in diffusers' layout, from which `generate` draws
    /// at once and which `convert` packs into one file. Beside it, in `training/`, lie the state
    /// (written every so many steps, always whole), the curve of the loss, sheets of samples and
    /// the recipe. A training that was ended, however, goes on with --resume, to the same bits:
    /// Ctrl-C ends it after the step, and leaves state and model.
    #[command(after_help = "Examples:\n  \
        mote train --data pictures --config emoji32 -o model       pictures/NAME/*.png\n  \
        mote train --print-config emoji32 > mine.json              a recipe to begin with\n  \
        mote train --data pictures --resize --config mine.json -o model\n  \
        mote train --data flat --data 3d:3d --captions captions.tsv --config emoji32 -o model\n  \
        mote train --data flat --data 3d:3d --captions captions.tsv --config emoji32 -o model \
        --resume")]
    Train(Box<Train>),
    /// Measures a model on a data set.
    ///
    /// Told are the loss and the variational bound in bits per dimension, of pictures the model was
    /// trained on and of pictures held out; how often a sample's nearest picture is the one that
    /// its caption names (nearest in RGB at 16x16, among pictures of its style), and how far
    /// samples are from the nearest training picture.
    #[command(after_help = "Example:\n  \
        mote eval -m model --data flat --data 3d:3d --captions captions.tsv \
        --hold-out held-out.txt")]
    Eval(Box<Eval>),
    /// Writes a script that completes mote's commands and options in a shell.
    ///
    /// For bash: `mote completions bash > ~/.local/share/bash-completion/completions/mote`.
    Completions(Completions),
}

/// `mote generate`.
#[derive(Clone, Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub model: Model,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub request: Request,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub machine: Machine,
    /// Where the picture goes. Of several, picture k (from 0) takes the place of `%d` or `%03d`;
    /// without either, the second is called `NAME_2.png`. `-` is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "./output.png", help_heading = OUTPUT)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Shows nothing but errors.
    #[arg(long, help_heading = OUTPUT)]
    pub quiet: bool,
    /// Says more: the plan, the instruction set, and where the time went.
    #[arg(short, long, help_heading = OUTPUT, conflicts_with = "quiet")]
    pub verbose: bool,
}

/// `mote plan`.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub model: Model,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub request: Request,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub machine: Machine,
    /// Writes the plan as JSON.
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Writes the plan of a packed model as a constant for a program in Rust that has no allocator.
    #[arg(long, help_heading = OUTPUT, conflicts_with_all = ["json", "c"])]
    #[arg(conflicts_with_all = NOT_IN_A_CONSTANT)]
    pub rust: bool,
    /// The same for a program in C, beside mote.h, and the token ids of a prompt.
    #[arg(long, help_heading = OUTPUT, conflicts_with = "json")]
    #[arg(conflicts_with_all = NOT_IN_A_CONSTANT)]
    pub c: bool,
    /// With --rust, also writes the tokenizer's table into a file, which the core reads in place:
    /// for a program that is given words, not token ids.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT, requires = "rust")]
    #[arg(value_hint = ValueHint::FilePath)]
    pub tokenizer: Option<PathBuf>,
    /// Suggests a type, a size and steps for a part with so much flash for the model, such as
    /// 256KiB, or says by how much none fits.
    #[arg(long, value_name = "SIZE", help_heading = MACHINE, value_parser = size::parse)]
    #[arg(conflicts_with_all = ["json", "rust", "c"], conflicts_with_all = NOT_ON_A_PART)]
    pub target_flash: Option<u64>,
    /// The same for a part with so much memory, beside the stack.
    #[arg(long, value_name = "SIZE", help_heading = MACHINE, value_parser = size::parse)]
    #[arg(conflicts_with_all = ["json", "rust", "c"], conflicts_with_all = NOT_ON_A_PART)]
    pub target_ram: Option<u64>,
    /// What `mote train` would need for a recipe, without its pictures: a JSON file, emoji32 or
    /// emoji16.
    #[arg(long, value_name = "FILE|NAME", help_heading = MACHINE)]
    #[arg(value_parser = RecipeName, hide_possible_values = true)]
    #[arg(conflicts_with_all = ["json", "rust", "c", "target_flash", "target_ram"])]
    #[arg(conflicts_with_all = NOT_IN_TRAINING)]
    pub train: Option<String>,
}

/// `mote bench`.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub model: Model,
    /// Which network to time: one, or all that the model has.
    #[arg(long, value_name = "NAME", help_heading = MEASUREMENT, default_value = "all")]
    #[arg(ignore_case = true)]
    pub component: Component,
    /// How often each network is evaluated, after a first time that does not count.
    #[arg(long, value_name = "COUNT", help_heading = MEASUREMENT, default_value_t = 5)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=9999))]
    pub repeat: u32,
    /// Pictures that one evaluation of the UNet works on.
    #[arg(long, value_name = "COUNT", help_heading = MEASUREMENT, default_value_t = 1)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// The steps that a picture is counted with. Where a text is followed, a step takes two
    /// evaluations of the UNet: with the prompt and without it.
    #[arg(long, visible_alias = "num-inference-steps", value_name = "COUNT")]
    #[arg(help_heading = MEASUREMENT, default_value_t = 20)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub size: Size,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub threads: Threads,
    /// Tells of every layer, in the order they are met, and of every kind of layer, how long it
    /// takes.
    #[arg(long, help_heading = OUTPUT)]
    pub per_layer: bool,
    /// Writes the figures as JSON.
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

/// `mote inspect`.
#[derive(Clone, Debug, Args)]
pub struct Inspect {
    /// A model's folder, a safetensors file, or a PNG file that mote or a web UI has written.
    /// Without it the model in the program is described, with the names it was trained on.
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    #[arg(default_value = built_in::NAME, hide_default_value = true)]
    pub path: PathBuf,
    /// Writes what is found as JSON, with every tensor.
    #[arg(long)]
    pub json: bool,
}

/// `mote convert`.
#[derive(Clone, Debug, Args)]
pub struct Convert {
    /// The model's folder.
    #[arg(short, long, value_name = "FOLDER", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// The configurations of a checkpoint in one file, in the names of Stable Diffusion's first
    /// authors: a model's folder in diffusers' layout, whose weights are not read.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub config: Option<PathBuf>,
    /// The type of the weights of large products. Small layers and those where it would show stay
    /// more exact.
    #[arg(long = "type", value_name = "TYPE", value_parser = choice::<Type>())]
    pub dtype: Type,
    /// Adds what a LoRA, a LyCORIS or a file of their kind says to the weights first, as much of it
    /// as SCALE says; may be given again.
    #[arg(long, value_name = "FILE[:SCALE]", value_hint = ValueHint::FilePath)]
    pub lora: Vec<Lora>,
    /// Where the file goes.
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: PathBuf,
    /// Draws pictures with the model first, so many steps in all, 20 to a picture, and rounds the
    /// weights by what they met, so that their errors make up for each other: nearer pictures of
    /// the same size at the same speed. For int8, int4 and bf16; a small model wants some 160
    /// steps, a large one 40.
    #[arg(long, value_name = "STEPS", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub calibrate: Option<u32>,
    /// What the pictures of --calibrate show, one text after the other where it is given again.
    #[arg(short, long, value_name = "TEXT", requires = "calibrate", allow_hyphen_values = true)]
    pub prompt: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub threads: Threads,
    /// Writes the report as JSON, with every layer.
    #[arg(long)]
    pub json: bool,
    /// Shows nothing but errors, and the report where it is asked for with --json.
    #[arg(long)]
    pub quiet: bool,
    /// Says more: every layer's error, and not the worst ones' alone. As JSON it is told anyway.
    #[arg(short, long, conflicts_with_all = ["quiet", "json"])]
    pub verbose: bool,
}

/// `mote train`.
#[derive(Clone, Debug, Args)]
pub struct Train {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub data: Data,
    /// The recipe: a JSON file with networks, schedule and training, or one of those in the
    /// program: emoji32 (32x32, 2.4 MB in int8) and emoji16 (16x16, for microcontrollers).
    #[arg(long, value_name = "FILE|NAME", help_heading = TRAINING, required = true)]
    #[arg(value_parser = RecipeName, hide_possible_values = true)]
    pub config: Option<String>,
    /// Prints a recipe of the program, to be changed and given to --config: emoji32 or emoji16.
    #[arg(long, value_name = "NAME", help_heading = TRAINING, exclusive = true)]
    #[arg(value_parser = PRESETS.map(|(name, _)| name), hide_possible_values = true)]
    pub print_config: Option<String>,
    /// How many steps, instead of the recipe's.
    #[arg(long, value_name = "COUNT", help_heading = TRAINING, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// The seed of first values, order and noise, instead of the recipe's.
    #[arg(short, long, value_name = "NUMBER", help_heading = TRAINING)]
    pub seed: Option<u64>,
    /// The highest learning rate, instead of the recipe's.
    #[arg(long, value_name = "NUMBER", help_heading = TRAINING)]
    pub learning_rate: Option<f64>,
    /// Goes on with the training in the folder, from its last state.
    #[arg(long, help_heading = TRAINING)]
    pub resume: bool,
    /// Tells the memory it takes, and trains nothing.
    #[arg(long, help_heading = MACHINE)]
    pub plan: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub threads: Threads,
    /// The most memory to take, such as 300MiB or 1.5GB. What would need more is refused before it
    /// starts.
    #[arg(long, value_name = "SIZE", help_heading = MACHINE, value_parser = size::parse)]
    pub memory_limit: Option<u64>,
    /// The folder that becomes the model; its folder `training` keeps what belongs to the training.
    #[arg(short, long, value_name = "FOLDER", help_heading = OUTPUT)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,
    /// Shows nothing but errors.
    #[arg(long, help_heading = OUTPUT)]
    pub quiet: bool,
}

/// `mote eval`.
#[derive(Clone, Debug, Args)]
pub struct Eval {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub model: Model,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub data: Data,
    /// The seed that drew the names held out, where --hold-out is a number: the training's.
    #[arg(long, value_name = "NUMBER", help_heading = DATA)]
    #[arg(default_value_t = eval::HOLD_OUT_SEED)]
    pub hold_out_seed: u64,
    /// For how many of the training's names samples are drawn; for those held out always.
    #[arg(long, value_name = "COUNT", help_heading = MEASUREMENT)]
    #[arg(default_value_t = eval::NAMES)]
    pub names: u32,
    /// Of how many pictures the loss is measured, at most.
    #[arg(long, value_name = "COUNT", help_heading = MEASUREMENT, default_value_t = 64)]
    pub pictures: u32,
    /// At how many times of training it is measured, for each picture.
    #[arg(long, value_name = "COUNT", help_heading = MEASUREMENT, default_value_t = 32)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub times: u32,
    /// In how many steps samples are drawn.
    #[arg(long, visible_alias = "num-inference-steps", value_name = "COUNT")]
    #[arg(help_heading = MEASUREMENT, default_value_t = 20)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// How strongly captions are followed.
    #[arg(long, visible_alias = "guidance-scale", value_name = "SCALE", help_heading = MEASUREMENT)]
    #[arg(value_parser = scale, allow_negative_numbers = true, default_value_t = 1.0)]
    pub cfg_scale: f32,
    /// The sampler; by default the one the model names.
    #[arg(long, value_name = "NAME", help_heading = MEASUREMENT, ignore_case = true)]
    #[arg(value_parser = sampler())]
    pub sampling_method: Option<&'static Named>,
    /// The seed of the first sample and of the noise; it is none that training used.
    #[arg(short, long, value_name = "NUMBER", help_heading = MEASUREMENT, default_value_t = 1000)]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub threads: Threads,
    /// Writes the figures as JSON.
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// Shows no progress.
    #[arg(long, help_heading = OUTPUT)]
    pub quiet: bool,
}

/// Pictures, and what they show.
#[derive(Clone, Debug, Args)]
pub struct Data {
    /// A folder of PNG, JPEG or WebP pictures, and perhaps a word for their style, which goes
    /// behind their captions (`red apple, 3d`). May be given several times.
    #[arg(long, value_name = "FOLDER[:STYLE]", help_heading = DATA, required = true)]
    pub data: Vec<Folder>,
    /// A table of what the pictures show: a first line with the columns' names, tabs between the
    /// columns `filename`, `name` and `keywords` (with commas between them). It serves all folders.
    /// Without it pictures lie in folders called after what they show.
    #[arg(long, value_name = "FILE", help_heading = DATA, value_hint = ValueHint::FilePath)]
    pub captions: Option<PathBuf>,
    /// Cuts pictures of another size to the proportions of the model's, and resizes them. Without
    /// it they are refused.
    #[arg(long, help_heading = DATA)]
    pub resize: bool,
    /// Passes over pictures that cannot be used and captions without a picture, and names them.
    /// Without it they are refused.
    #[arg(long, help_heading = DATA)]
    pub skip_bad: bool,
    /// Names that are kept back from training: how many, to be drawn by the seed, or a file with
    /// one a line.
    #[arg(long, value_name = "COUNT|FILE", help_heading = DATA, default_value = "0")]
    pub hold_out: HoldOut,
}

impl Data {
    /// The pictures that are meant.
    pub fn source(&self) -> Source {
        let Self { data, captions, resize, skip_bad, hold_out } = self.clone();
        Source { folders: data, captions, resize, skip_bad, hold_out }
    }
}

/// `mote completions`.
#[derive(Clone, Debug, Args)]
pub struct Completions {
    /// The shell to write the script for.
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// What a plan as a constant does not depend on, or a program without operating system not do.
const NOT_IN_A_CONSTANT: [&str; 26] = [
    "prompt_syntax",
    "threads",
    "memory_limit",
    "batch_count",
    "seed",
    "init_img",
    "strength",
    "eta",
    "prediction",
    "scheduler",
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
    "aesthetic_score",
    "negative_aesthetic_score",
    "vae",
    "taesd",
    "config",
    "lora",
    "lora_dir",
    "embedding",
    "embd_dir",
    "dtype",
];

/// What a suggestion for a part does not depend on.
const NOT_ON_A_PART: [&str; 10] = [
    "lora",
    "lora_dir",
    "embedding",
    "embd_dir",
    "threads",
    "memory_limit",
    "batch_count",
    "seed",
    "init_img",
    "strength",
];

/// What says how pictures are drawn, and nothing about a training.
const NOT_IN_TRAINING: [&str; 38] = [
    "request",
    "model",
    "config",
    "vae",
    "taesd",
    "lora",
    "lora_dir",
    "embedding",
    "embd_dir",
    "dtype",
    "prompt",
    "negative_prompt",
    "prompt_syntax",
    "init_img",
    "strength",
    "width",
    "height",
    "class_label",
    "batch_count",
    "seed",
    "steps",
    "cfg_scale",
    "sampling_method",
    "scheduler",
    "prediction",
    "eta",
    "clip_skip",
    "original_size",
    "crops_coords_top_left",
    "target_size",
    "negative_original_size",
    "negative_crops_coords_top_left",
    "negative_target_size",
    "aesthetic_score",
    "negative_aesthetic_score",
    "vae_tiling",
    "vae_tile_size",
    "rng",
];

const MODEL: &str = "Model";
const DATA: &str = "Data";
const TRAINING: &str = "Training";
const PICTURE: &str = "Picture";
const SAMPLING: &str = "Sampling";
const MEASUREMENT: &str = "Measurement";
const MACHINE: &str = "Machine";
const OUTPUT: &str = "Output";

/// Which weights.
#[derive(Clone, Debug, Args)]
pub struct Model {
    /// The model's folder: `model_index.json`, `unet/`, `scheduler/` and, for text to image,
    /// `vae/`, `text_encoder/` and `tokenizer/`. Or the file that `mote convert` made of it.
    /// Without it the model is taken that the program has in itself: emoji from words.
    #[arg(short, long, value_name = "FOLDER|FILE", help_heading = MODEL)]
    #[arg(default_value = built_in::NAME, hide_default_value = true)]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// The configurations of a checkpoint in one file, in the names of Stable Diffusion's first
    /// authors: a model's folder in diffusers' layout, whose weights are not read.
    #[arg(long, value_name = "FOLDER", help_heading = MODEL, value_hint = ValueHint::DirPath)]
    pub config: Option<PathBuf>,
    /// Another autoencoder than the model's own: a folder with its config.json and its weights.
    #[arg(long, value_name = "PATH", help_heading = MODEL, value_hint = ValueHint::AnyPath)]
    pub vae: Option<PathBuf>,
    /// A tiny autoencoder (TAESD), which decodes faster and in less memory: a folder as diffusers
    /// writes it, a folder with TAESD's own two files, or its taesd_decoder.safetensors.
    #[arg(long, value_name = "PATH", help_heading = MODEL, value_hint = ValueHint::AnyPath)]
    #[arg(conflicts_with = "vae")]
    pub taesd: Option<PathBuf>,
    /// Adds what a LoRA, a LyCORIS or a file of their kind says to the weights, as much of it as
    /// SCALE says [default: 1]; may be given again. To add it once and for all, see `mote convert`.
    #[arg(long, value_name = "FILE[:SCALE]", help_heading = MODEL)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub lora: Vec<Lora>,
    /// Where the files lie that a prompt names in the web UIs' way, <lora:NAME:0.8>. Without it
    /// such a name is read as plain words.
    #[arg(long, value_name = "FOLDER", help_heading = MODEL, value_hint = ValueHint::DirPath)]
    pub lora_dir: Option<PathBuf>,
    /// A textual inversion: vectors for a word that the model does not know. The word is the one
    /// that the file names, or the file's own name, where none is given; may be given again.
    #[arg(long, value_name = "FILE[:WORD]", help_heading = MODEL)]
    #[arg(value_hint = ValueHint::FilePath)]
    pub embedding: Vec<Embedding>,
    /// A folder of textual inversions: each stands for its file's name where a text has it.
    #[arg(long, value_name = "FOLDER", help_heading = MODEL, value_hint = ValueHint::DirPath)]
    pub embd_dir: Option<PathBuf>,
    /// The type of the large products. The model's weights are converted to it on the way in; to
    /// convert them once and start at once ever after, see `mote convert`. By default the weights
    /// are taken as they are, and the arithmetic is that of f32 where they are not packed.
    #[arg(long = "type", value_name = "TYPE", help_heading = MODEL)]
    #[arg(value_parser = choice::<Type>())]
    pub dtype: Option<Type>,
}

impl Model {
    /// What of the model is taken from elsewhere.
    pub fn parts(&self) -> Parts {
        let Self { config, vae, taesd, lora: loras, embedding: embeddings, dtype, .. } =
            self.clone();
        Parts { config, vae, taesd, loras, embeddings, dtype }
    }

    /// The same with the files that the texts name; LoRAs' names are taken out of the prompt.
    ///
    /// # Errors
    /// Where one is not there.
    pub fn parts_for(&self, request: &mut request::Request) -> mote_host::Result<Parts> {
        let mut parts = self.parts();
        if let (Some(folder), Some(prompt)) = (&self.lora_dir, &mut request.prompt) {
            parts.loras.extend(lora::take_from(prompt, folder)?);
        }
        if let Some(folder) = &self.embd_dir {
            let texts = [&request.prompt, &request.negative_prompt];
            let texts = texts.map(|text| text.as_deref().unwrap_or_default());
            parts.embeddings.extend(embedding::in_folder(folder, &texts)?);
        }
        Ok(parts)
    }
}

/// What is to be in the picture, and how it is to be made.
#[derive(Clone, Debug, Args)]
pub struct Request {
    /// A request in a file: JSON, or a picture that says how it was made. What other flags say
    /// counts instead of what it says.
    #[arg(long, value_name = "FILE", help_heading = PICTURE, value_hint = ValueHint::FilePath)]
    pub request: Option<PathBuf>,
    /// What the picture is to show.
    #[arg(short, long, value_name = "TEXT", help_heading = PICTURE, allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// What the picture is not to show.
    #[arg(short, long, value_name = "TEXT", help_heading = PICTURE, allow_hyphen_values = true)]
    pub negative_prompt: Option<String>,
    /// How the two are read: as they are, or as web UIs read them, with weights such as (red:1.3),
    /// BREAK, and of any length [default: plain].
    #[arg(long, value_name = "NAME", help_heading = PICTURE, ignore_case = true)]
    #[arg(value_parser = choice::<PromptSyntax>())]
    pub prompt_syntax: Option<PromptSyntax>,
    /// A picture to start from instead of pure noise: PNG, JPEG or WebP. It is resized to -W and
    /// -H; without them its own size is taken, rounded down to what the model can draw.
    #[arg(short, long = "init-img", visible_alias = "init-image", value_name = "FILE")]
    #[arg(help_heading = PICTURE, value_hint = ValueHint::FilePath)]
    pub init_img: Option<PathBuf>,
    /// How much of the picture given by --init-img is made anew, from above 0 (hardly
    /// anything) to 1 (all) [default: 0.75].
    #[arg(long, value_name = "PART", help_heading = PICTURE, value_parser = strength)]
    #[arg(requires = "init_img", allow_negative_numbers = true)]
    pub strength: Option<f32>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub size: Size,
    /// The class to draw, counted from 0, where the model was trained on classes.
    #[arg(long, value_name = "NUMBER", help_heading = PICTURE, allow_negative_numbers = true)]
    pub class_label: Option<u32>,
    /// How many pictures to make. Picture k (from 0) has the seed plus k [default: 1].
    #[arg(short, long, visible_alias = "num-images-per-prompt", value_name = "COUNT")]
    #[arg(help_heading = PICTURE)]
    #[arg(allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch_count: Option<u32>,
    /// The number that decides the noise; the same seed makes the same picture. A negative one is
    /// replaced by a random one [default: 42].
    #[arg(short, long, value_name = "NUMBER", help_heading = PICTURE)]
    #[arg(allow_negative_numbers = true, value_parser = str::parse::<Seed>)]
    pub seed: Option<Seed>,
    /// In how many steps noise becomes a picture [default: 20].
    #[arg(long, visible_alias = "num-inference-steps", value_name = "COUNT")]
    #[arg(help_heading = SAMPLING)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: Option<u32>,
    /// How strongly the prompt is followed; 1 follows it without guidance and takes half the time
    /// [default: 7.0, or 1.0 where the model works on pixels].
    #[arg(long, visible_alias = "guidance-scale", value_name = "SCALE", help_heading = SAMPLING)]
    #[arg(value_parser = scale, allow_negative_numbers = true)]
    pub cfg_scale: Option<f32>,
    /// The sampler; by default the one the checkpoint names. diffusers' class names are understood,
    /// too.
    #[arg(long, value_name = "NAME", help_heading = SAMPLING, ignore_case = true)]
    #[arg(value_parser = sampler())]
    pub sampling_method: Option<&'static Named>,
    /// How the noise levels are spaced; by default as the checkpoint says.
    #[arg(long, value_name = "NAME", help_heading = SAMPLING, ignore_case = true)]
    #[arg(value_parser = choice::<Sigmas>())]
    pub scheduler: Option<Sigmas>,
    /// What the network predicts, where the checkpoint says it wrongly or not at all.
    #[arg(long, value_name = "NAME", help_heading = SAMPLING, ignore_case = true)]
    #[arg(value_parser = choice::<Prediction>())]
    pub prediction: Option<Prediction>,
    /// How much fresh noise DDIM adds in each step, from 0 (none) to 1 (as much as DDPM) [default:
    /// 0].
    #[arg(long, value_name = "PART", help_heading = SAMPLING, value_parser = part)]
    #[arg(allow_negative_numbers = true)]
    pub eta: Option<f32>,
    /// Which layer of the text encoder is read, counted from its end: 1 is the last, 2 the one
    /// before (diffusers counts from 0: its 1 is 2 here) [default: 1].
    #[arg(long, value_name = "LAYER", help_heading = SAMPLING)]
    #[arg(allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub clip_skip: Option<u32>,
    /// The size of the training pictures that the new one is to be like, as Stable Diffusion XL is
    /// told: a small one for the look of a small picture [default: the picture's].
    #[arg(long, value_name = "WxH", help_heading = SAMPLING)]
    #[arg(allow_hyphen_values = true)]
    pub original_size: Option<types::Size>,
    /// The corner of that size at which the picture begins, as Stable Diffusion XL is told: how far
    /// it is cut off at the top and at the left [default: 0,0].
    #[arg(long, value_name = "TOP,LEFT", help_heading = SAMPLING)]
    #[arg(allow_hyphen_values = true)]
    pub crops_coords_top_left: Option<Corner>,
    /// The size that Stable Diffusion XL is told the picture has [default: the picture's].
    #[arg(long, value_name = "WxH", help_heading = SAMPLING)]
    #[arg(allow_hyphen_values = true)]
    pub target_size: Option<types::Size>,
    /// --original-size as it is told with the negative prompt; with it goes
    /// --negative-target-size. Without both, it is told the same numbers as with the prompt.
    #[arg(long, value_name = "WxH", help_heading = SAMPLING)]
    #[arg(allow_hyphen_values = true)]
    pub negative_original_size: Option<types::Size>,
    /// --crops-coords-top-left as it is told with the negative prompt.
    #[arg(long, value_name = "TOP,LEFT", help_heading = SAMPLING)]
    #[arg(allow_hyphen_values = true)]
    pub negative_crops_coords_top_left: Option<Corner>,
    /// --target-size as it is told with the negative prompt.
    #[arg(long, value_name = "WxH", help_heading = SAMPLING)]
    #[arg(allow_hyphen_values = true)]
    pub negative_target_size: Option<types::Size>,
    /// How beautiful the picture is to be, from 0 to 10, as Stable Diffusion XL's refiner is told
    /// [default: 6].
    #[arg(long, value_name = "SCORE", help_heading = SAMPLING)]
    #[arg(allow_negative_numbers = true, value_parser = score)]
    pub aesthetic_score: Option<f32>,
    /// The same as it is told with the negative prompt [default: 2.5].
    #[arg(long, value_name = "SCORE", help_heading = SAMPLING)]
    #[arg(allow_negative_numbers = true, value_parser = score)]
    pub negative_aesthetic_score: Option<f32>,
    /// Decodes the picture in tiles that overlap and fade into each other: much less memory for a
    /// large picture, up to twice the work, and colours that may differ a little from tile to
    /// tile. --init-img is encoded as a whole.
    #[arg(long, visible_alias = "enable-tiling", help_heading = MACHINE)]
    pub vae_tiling: bool,
    /// The side of a tile in latents, each of which stands for 8x8 pixels in Stable Diffusion: a
    /// multiple of 4, or of 8 with --taesd [default: 20, or 32 with --taesd].
    #[arg(long, value_name = "LATENTS", help_heading = MACHINE, requires = "vae_tiling")]
    #[arg(allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_SIDE))]
    pub vae_tile_size: Option<u32>,
    /// The generator of the noise: mote's own, PyTorch's on the CPU (as diffusers' examples use
    /// it), or CUDA's (as the web UIs use it) [default: pcg].
    #[arg(long, value_name = "NAME", help_heading = SAMPLING, ignore_case = true)]
    #[arg(value_parser = choice::<Rng>())]
    pub rng: Option<Rng>,
}

impl Request {
    /// What is asked for: what the flags say and, for the rest, what `base` says.
    pub fn over(&self, base: request::Request) -> request::Request {
        let given = self.clone();
        request::Request {
            prompt: given.prompt.or(base.prompt),
            negative_prompt: given.negative_prompt.or(base.negative_prompt),
            prompt_syntax: given.prompt_syntax.unwrap_or(base.prompt_syntax),
            init_img: given.init_img.or(base.init_img),
            strength: given.strength.or(base.strength),
            width: given.size.width.or(base.width),
            height: given.size.height.or(base.height),
            class_label: given.class_label.or(base.class_label),
            batch_count: given.batch_count.unwrap_or(base.batch_count),
            seed: given.seed.unwrap_or(base.seed),
            steps: given.steps.unwrap_or(base.steps),
            cfg_scale: given.cfg_scale.or(base.cfg_scale),
            sampling_method: given.sampling_method.or(base.sampling_method),
            scheduler: given.scheduler.or(base.scheduler),
            prediction: given.prediction.or(base.prediction),
            eta: given.eta.or(base.eta),
            clip_skip: given.clip_skip.or(base.clip_skip),
            original_size: given.original_size.or(base.original_size),
            crops_coords_top_left: given.crops_coords_top_left.or(base.crops_coords_top_left),
            target_size: given.target_size.or(base.target_size),
            negative_original_size: given.negative_original_size.or(base.negative_original_size),
            negative_crops_coords_top_left: given
                .negative_crops_coords_top_left
                .or(base.negative_crops_coords_top_left),
            negative_target_size: given.negative_target_size.or(base.negative_target_size),
            aesthetic_score: given.aesthetic_score.or(base.aesthetic_score),
            negative_aesthetic_score: given
                .negative_aesthetic_score
                .or(base.negative_aesthetic_score),
            vae_tiling: given.vae_tiling || base.vae_tiling,
            vae_tile_size: given.vae_tile_size.or(base.vae_tile_size),
            rng: given.rng.unwrap_or(base.rng),
        }
    }

    /// What is asked for by the flags and by the file that they name.
    ///
    /// # Errors
    /// Where there is no such file, or it asks for nothing.
    pub fn read(&self) -> mote_host::Result<request::Request> {
        let base = self.request.as_deref().map(request::Request::read).transpose()?;
        Ok(self.over(base.unwrap_or_default()))
    }
}

/// How many threads.
#[derive(Clone, Copy, Debug, Args)]
pub struct Threads {
    /// The number of threads; by default as many as there are CPUs. It changes no bit of what is
    /// made.
    #[arg(short, long, value_name = "COUNT", help_heading = MACHINE)]
    #[arg(allow_negative_numbers = true, value_parser = threads)]
    pub threads: Option<NonZero<usize>>,
}

impl Threads {
    /// The machine with so many threads.
    ///
    /// # Errors
    /// Where the system starts no threads, or the CPU lacks what is asked for.
    pub fn machine(self) -> mote_host::Result<mote_host::Machine> {
        mote_host::Machine::new(&machine::Options { threads: self.threads })
    }
}

/// Height and width.
#[derive(Clone, Copy, Debug, Args)]
pub struct Size {
    /// The width in pixels; by default that of a picture to start from, or what the model was
    /// trained at.
    #[arg(short = 'W', long, value_name = "PIXELS", help_heading = PICTURE)]
    #[arg(allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_SIDE))]
    pub width: Option<u32>,
    /// The height in pixels; by default that of a picture to start from, or what the model was
    /// trained at.
    #[arg(short = 'H', long, value_name = "PIXELS", help_heading = PICTURE)]
    #[arg(allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_SIDE))]
    pub height: Option<u32>,
}

/// What the machine may give.
#[derive(Clone, Copy, Debug, Args)]
pub struct Machine {
    #[command(flatten)]
    #[allow(missing_docs, reason = "its type says it")]
    pub threads: Threads,
    /// The most memory to take, such as 300MiB or 1.5GB, not counting the weights, which are mapped
    /// from their files. What would need more is refused before it starts.
    #[arg(long, value_name = "SIZE", help_heading = MACHINE, value_parser = size::parse)]
    pub memory_limit: Option<u64>,
}

/// The name of a recipe in the program, which completion offers, or any file.
#[derive(Clone, Copy, Debug)]
struct RecipeName;

impl TypedValueParser for RecipeName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(PRESETS.iter().map(|(name, _)| PossibleValue::new(name))))
    }
}

/// A network of a model, or all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// The noise predictor: one evaluation.
    Unet,
    /// The text encoder: one prompt of 77 tokens.
    #[value(alias = "text_encoder")]
    Text,
    /// The autoencoder: one picture decoded.
    Vae,
    /// Each that the model has.
    All,
}

impl Component {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Text => "text",
            Self::Vae => "vae",
            Self::All => "all",
        }
    }

    /// What it is, in words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::Text => "text encoder",
            Self::Vae => "decoder",
            Self::All => "network",
        }
    }

    /// Whether who asks for this asks for `other`.
    pub fn holds(self, other: Self) -> bool {
        self == Self::All || self == other
    }
}

/// The values that may be chosen among, by their names.
fn choice<T: Choice + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let values = T::all().iter().map(|value| {
        let about = value.about();
        let about = about.strip_suffix('.').unwrap_or(about);
        PossibleValue::new(value.name()).help(about).aliases(value.aliases())
    });
    PossibleValuesParser::new(values).try_map(|name| {
        T::from_name(&name).ok_or_else(|| format!("there is no {} {name}", T::WHAT))
    })
}

fn threads(text: &str) -> Result<NonZero<usize>, String> {
    let count = text.parse().ok().filter(|count: &NonZero<usize>| count.get() <= MAX_THREADS);
    count.ok_or_else(|| format!("the number of threads is from 1 to {MAX_THREADS}"))
}

/// The samplers, by stable-diffusion.cpp's names and by diffusers' classes.
fn sampler() -> impl TypedValueParser<Value = &'static Named> {
    let is_first = |named: &Named| SAMPLERS.iter().find(|row| row.class == named.class);
    let values = SAMPLERS.iter().map(move |named| {
        let class = is_first(named).filter(|first| *first == named).map(|first| first.class);
        let aliases = named.aliases.iter().copied().chain(class);
        let title = (!named.title.eq_ignore_ascii_case(named.name)).then_some(named.title);
        PossibleValue::new(named.name).help(named.about).aliases(aliases.chain(title))
    });
    PossibleValuesParser::new(values)
        .try_map(|name| Named::by_name(&name).ok_or_else(|| format!("there is no sampler {name}")))
}

fn part(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("this must be a number from 0 to 1".into()),
    }
}

fn score(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=10.0).contains(&value) => Ok(value),
        _ => Err("a score is a number from 0 to 10".into()),
    }
}

fn strength(text: &str) -> Result<f32, String> {
    match part(text) {
        Ok(0.0) => Err("at 0 nothing would be made anew: give more than that, up to 1".into()),
        other => other,
    }
}

fn scale(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1000.0).contains(&value) => Ok(value),
        _ => Err("this must be a number from 0 to 1000".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn generate(arguments: &[&str]) -> Result<Box<Generate>, clap::Error> {
        let all = ["mote", "generate", "-m", "folder"].iter().chain(arguments);
        match Cli::try_parse_from(all)?.command {
            Command::Generate(generate) => Ok(generate),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_not_given_has_the_defaults_users_know() {
        let args = generate(&[]).unwrap();
        assert_eq!(args.output, PathBuf::from("./output.png"));
        assert_eq!(args.request.read().unwrap(), request::Request::default());
        let help = Cli::command().find_subcommand_mut("generate").unwrap().render_long_help();
        let plain = request::Request::default();
        for default in
            [plain.steps.to_string(), plain.batch_count.to_string(), plain.rng.name().into()]
        {
            assert!(help.to_string().contains(&format!("[default: {default}]")), "{default}");
        }
    }

    #[test]
    fn both_spellings_are_understood() {
        let known = "-p a -n b -i c.png -W 64 -H 32 -s 7 --steps 5 --cfg-scale 3 -b 2 -t 3 -v";
        let known = generate(&known.split(' ').collect::<Vec<_>>()).unwrap();
        let other = "--prompt a --negative-prompt b --init-image c.png --width 64 --height 32 \
            --seed 7 --num-inference-steps 5 --guidance-scale 3 -b 2 --threads 3 --verbose";
        let other =
            generate(&other.split(' ').filter(|a| !a.is_empty()).collect::<Vec<_>>()).unwrap();
        assert_eq!(format!("{known:?}"), format!("{other:?}"));
    }

    #[test]
    fn samplers_go_by_either_name() {
        for (name, own) in [
            ("euler_a", "euler_a"),
            ("EulerAncestralDiscreteScheduler", "euler_a"),
            ("plms", "pndm"),
            ("dpm++2m", "dpm++2m"),
            ("DPMSolverMultistepScheduler", "dpm++2m"),
            ("dpm++2m_sde", "dpm++2m_sde"),
            ("UNIPC", "unipc"),
        ] {
            let args = generate(&["--sampling-method", name]).unwrap();
            assert_eq!(args.request.sampling_method.map(|named| named.name), Some(own), "{name}");
        }
    }

    #[test]
    fn what_a_plan_would_pass_over_is_refused() {
        for (what, wrong) in [
            ("--rust", "-t 2"),
            ("--c", "-s 7"),
            ("--rust", "--eta 0.5"),
            ("--c", "--scheduler karras"),
            ("--target-flash 1MiB", "--memory-limit 1MiB"),
            ("--target-ram 1MiB", "-b 2"),
            ("--train emoji32", "-W 64"),
            ("--train emoji32", "-m model"),
            ("--train emoji32", "--steps 10"),
            ("--train emoji32", "--rng cpu"),
        ] {
            let all = format!("mote plan {what} {wrong}");
            assert!(Cli::try_parse_from(all.split(' ')).is_err(), "{all}");
        }
        for good in ["--rust --steps 9 -W 8", "--train emoji32 -t 2 --memory-limit 1GiB"] {
            let all = format!("mote plan {good}");
            assert!(Cli::try_parse_from(all.split(' ')).is_ok(), "{all}");
        }
        assert!(
            Cli::try_parse_from("mote convert -m a --type int8 -o b --json -v".split(' ')).is_err()
        );
    }

    #[test]
    fn negative_seeds_are_random_and_prompts_may_begin_with_a_dash() {
        assert_eq!(generate(&["-s", "-1"]).unwrap().request.seed, Some(Seed::Random));
        let least = format!("-{}", "9".repeat(99));
        assert_eq!(generate(&["-s", &least]).unwrap().request.seed, Some(Seed::Random));
        let largest = u64::MAX.to_string();
        assert_eq!(generate(&["-s", &largest]).unwrap().request.seed, Some(Seed::Given(u64::MAX)));
        assert_eq!(generate(&["-p", "-- a cat"]).unwrap().request.prompt.unwrap(), "-- a cat");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for wrong in [
            "-W 0",
            "-H 99999999",
            "--steps 0",
            "--steps -3",
            "--cfg-scale nan",
            "--cfg-scale inf",
            "--strength 0.5",
            "-i a.png --strength 1.5",
            "-i a.png --strength 0",
            "--eta -1",
            "-t 0",
            "-b 0",
            "-s x",
            "-s 18446744073709551616",
            "--memory-limit 3parsecs",
            "--sampling-method magic",
            "--type q8_0",
            "--vae a --taesd b",
            "--quiet -v",
        ] {
            assert!(generate(&wrong.split(' ').collect::<Vec<_>>()).is_err(), "{wrong}");
        }
    }
}
