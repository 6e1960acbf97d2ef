//! `mote inspect`: what is in a model's folder or packed file, a file of weights, or a picture's
//! text chunk.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

use mote::diffusion::prediction::Clipping;
use mote::diffusion::schedule::{BetaSchedule, SigmaKind};
use mote::tensor::DType;
use mote::weights::Weight;
use mote_host::checkpoint::built_in;
use mote_host::checkpoint::foreign::Holds;
use mote_host::checkpoint::format::{Format, format_of, refuse_foreign};
use mote_host::checkpoint::mapped::{Mapped, plain_name};
use mote_host::checkpoint::packed::{GROUPS, Packed, SCALE};
use mote_host::checkpoint::place::Place;
use mote_host::checkpoint::shards::Checkpoint;
use mote_host::config::scheduler::{PREDICTIONS, SPACINGS, SchedulerConfig, word_of};
use mote_host::config::taesd::{self, Taesd};
use mote_host::image::parameters::{KEYWORD, Parameters};
use mote_host::image::png::read_texts;
use mote_host::types::Choice;
use mote_host::{Failure, Request, Result, config, files, size};
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::print;

/// The folders of a pipeline that may hold weights.
const NETWORKS: [&str; 4] = ["text_encoder", "text_encoder_2", "unet", "vae"];

/// The longest line of a list of names.
const MAX_LINE: usize = 100;

/// What a PNG file begins with.
const PNG: &[u8] = b"\x89PNG";

/// Describes what lies at the path.
///
/// # Errors
/// Where there is nothing that could be described.
pub fn run(args: &Inspect) -> Result<()> {
    let path = &args.path;
    let report = if path.is_dir() {
        let place = Place::model(path)?;
        let is_pipeline = place.join("model_index.json").exists();
        if is_pipeline { pipeline(&place)? } else { folder(place.path())? }
    } else if let model = Place::model(path)?
        && let Some(packed) = model.packed()
    {
        packed.verify()?;
        pipeline(&model)?
    } else if is_png(path)? {
        picture(path)?
    } else {
        file(path)?
    };
    let text = if args.json { format!("{:#}\n", report.json) } else { harmless(&report.text) };
    print::bytes(text.as_bytes())
}

/// A file of weights, and what they make up, where their names tell.
fn file(path: &Path) -> Result<Report> {
    let network = Network::new(path, None, &mut [weights(path)?])?;
    let (mut text, mut json) = (String::new(), network.json());
    let names = network.tensors.iter().map(|tensor| (&tensor.name[..], tensor.shape.len()));
    if let Some(holds) = Holds::of(names) {
        let _ = writeln!(text, "{} is {}.", path.display(), holds.what());
        json["holds"] = holds.what().into();
        if let Some(why) = holds.unsupported() {
            let _ = writeln!(text, "Not supported: {why}.");
            json["problem"] = why.into();
        }
    }
    text.push_str(&network.text(true));
    Ok(Report { text, json })
}

/// A file of weights; one that neither is nor claims to be one is told so.
fn weights(path: &Path) -> Result<Mapped> {
    refuse_foreign(path)?;
    if let Some(format) = format_of(path).filter(|format| *format != Format::Json) {
        return Err(format.failure(path));
    }
    let claims = path.extension().is_some_and(|ending| ending == "safetensors");
    Mapped::open(path).map_err(|failure| match claims {
        true => failure,
        false => {
            let what = "is neither a file of weights in safetensors nor a PNG picture";
            Failure::new(format!("{} {what}", path.display()))
                .remedy("Give one of these, or the folder of a model")
        }
    })
}

/// A text without what a terminal might take for a command: files may hold anything.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            harmless.extend(c.escape_default());
        } else {
            harmless.push(c);
        }
    }
    harmless
}

/// The same in two forms.
struct Report {
    text: String,
    json: Value,
}

fn is_png(path: &Path) -> Result<bool> {
    let mut beginning = [0; PNG.len()];
    let mut file = files::open(path)?;
    Ok(file.read_exact(&mut beginning).is_ok() && beginning == PNG)
}

fn picture(path: &Path) -> Result<Report> {
    let ([width, height], texts) = read_texts(path)?;
    let mut text = format!("{}: PNG, {width}x{height}\n", path.display());
    let mut json = json!({ "file": path.display().to_string(), "width": width, "height": height });
    match texts.iter().find(|(keyword, _)| keyword == KEYWORD) {
        None => text.push_str("It does not say how it was made.\n"),
        Some((_, written)) => {
            let parameters = Parameters::parse(written);
            let mut rows = vec![vec!["Prompt".to_string(), parameters.prompt.clone()]];
            rows.push(vec!["Negative prompt".into(), parameters.negative_prompt.clone()]);
            rows.extend(parameters.settings.iter().map(|(name, v)| vec![name.clone(), v.clone()]));
            for row in rows.iter().filter(|row| !row[1].is_empty()) {
                let _ = writeln!(text, "{}: {}", row[0], row[1]);
            }
            // What another program says need not be a request that mote can carry out.
            if let Ok(request) = Request::of_parameters(&parameters) {
                json["request"] = request.to_json();
            }
            json["prompt"] = parameters.prompt.into();
            json["negative_prompt"] = parameters.negative_prompt.into();
            let settings = parameters.settings.into_iter().map(|(name, v)| (name, v.into()));
            json["settings"] = Value::Object(settings.collect());
            json["parameters"] = written.as_str().into();
        }
    }
    Ok(Report { text, json })
}

/// One network by itself.
fn folder(path: &Path) -> Result<Report> {
    if !path.join("config.json").exists()
        && let Ok(found) = taesd::find(path)
    {
        return taesd(path, &found);
    }
    let class = class_name(&path.into());
    let network = Network::new(path, class, &mut Checkpoint::open(path)?.files)?;
    Ok(Report { text: network.text(true), json: network.json() })
}

/// The two files of a tiny autoencoder under its first names.
fn taesd(path: &Path, found: &Taesd) -> Result<Report> {
    let (class, channels) = ("AutoencoderTiny", found.config.latent_channels);
    let mut text = format!("{}: {class} (TAESD), {channels} latent channels\n", path.display());
    let mut networks = Vec::new();
    for (name, file) in &found.files {
        let name = name.strip_prefix("vae.").unwrap_or(name);
        let network = Network::new(Path::new(name), None, &mut [Mapped::open(file)?])?;
        text.push('\n');
        text.push_str(&network.text(false));
        networks.push(network.json());
    }
    let json = json!({ "class": class, "latent_channels": channels, "networks": networks });
    Ok(Report { text, json })
}

fn pipeline(model: &Place) -> Result<Report> {
    let index = model.join("model_index.json").json()?;
    let class = index["_class_name"].as_str().unwrap_or("unknown").to_string();
    let problem = config::model_index::read(model).err();
    let packed = model.packed().map(|packed| packed.dtype().name());
    let shown = packed.map(|dtype| format!(", packed in {dtype}")).unwrap_or_default();
    let mut text = format!("{}: {class}{shown}\n", model.path().display());
    if let Some(problem) = &problem {
        let _ = writeln!(text, "Not supported: {problem}");
    }
    let mut networks = Vec::new();
    for name in NETWORKS {
        let folder = model.part(name);
        if !folder.is_folder() {
            continue;
        }
        let class = class_name(&folder);
        let network = match model.packed() {
            Some(packed) => Network::packed(name, class, packed)?,
            None => {
                let mut files = Checkpoint::open(folder.path())?.files;
                Network::new(Path::new(name), class, &mut files)?
            }
        };
        let problem = unsupported(name, &network.class, &folder.join("config.json"));
        text.push('\n');
        text.push_str(&network.text(false));
        let mut json = network.json();
        if let Some(problem) = problem {
            let _ = writeln!(text, "  Not supported: {problem}");
            json["problem"] = problem.to_string().into();
        }
        networks.push(json);
    }
    let (schedule_text, schedule) = schedule(model);
    text.push_str(&schedule_text);
    let mut json = json!({ "pipeline": class, "networks": networks, "schedule": schedule });
    if let Some(dtype) = packed {
        json["packed"] = dtype.into();
    }
    if let Some(problem) = problem {
        json["problem"] = problem.to_string().into();
    }
    if model.is_built_in() {
        text.push_str(&names());
        json["names"] = built_in::names().collect();
    }
    Ok(Report { text, json })
}

/// The names that the model in the program was trained on, in lines.
fn names() -> String {
    let mut text = "\nwords\n  It was trained on the names below, and draws mixtures of them, too \
        (red heart, blue\n  heart); \", 3d\" behind one asks for that style.\n"
        .to_string();
    let mut line = String::new();
    for name in built_in::names() {
        if line.chars().count() + name.chars().count() + 4 > MAX_LINE {
            let _ = writeln!(text, "  {line}");
            line.clear();
        }
        line.push_str(name);
        line.push_str(", ");
    }
    let _ = writeln!(text, "  {}", line.trim_end_matches([',', ' ']));
    text.replace(", \n", ",\n")
}

/// What mote has against a network's configuration.
fn unsupported(name: &str, class: &str, path: &Place) -> Option<Failure> {
    match (name, class) {
        ("text_encoder_2", _) => config::clip_text_projection::read(path).err(),
        ("text_encoder", _) => config::clip_text::read(path).err(),
        ("vae", _) => config::autoencoder::read(path).err(),
        (_, "UNet2DModel") => config::unet_2d::read(path).err(),
        _ => config::unet_2d_condition::read(path).err(),
    }
}

/// The class that a folder's `config.json` names, in diffusers' or transformers' way.
fn class_name(folder: &Place) -> Option<String> {
    let config = folder.join("config.json").json().ok()?;
    let class = config["_class_name"].as_str().or_else(|| config["architectures"][0].as_str());
    class.map(str::to_string)
}

fn schedule(model: &Place) -> (String, Value) {
    match config::scheduler::read_of(model, None) {
        Err(problem) => {
            let text = format!("\nscheduler\n  Not supported: {problem}\n");
            (text, json!({ "problem": problem.to_string() }))
        }
        Ok(config) => {
            let settings = settings(&config);
            let mut text = "\nscheduler\n".to_string();
            for (name, value) in &settings {
                let _ = writeln!(text, "  {name}: {value}");
            }
            let settings = settings.into_iter().map(|(name, v)| (name.to_string(), v.into()));
            (text, Value::Object(settings.collect()))
        }
    }
}

fn settings(config: &SchedulerConfig) -> Vec<(&'static str, String)> {
    let schedule = config.schedule();
    let range = format!("{} to {}", schedule.beta_start, schedule.beta_end);
    let betas = match schedule.beta_schedule {
        BetaSchedule::Linear => format!("linear, {range}"),
        BetaSchedule::ScaledLinear => format!("scaled_linear, {range}"),
        BetaSchedule::SquaredcosCapV2 => "squaredcos_cap_v2".into(),
        BetaSchedule::Sigmoid => format!("sigmoid, {range}"),
        BetaSchedule::Given(list) => format!("{} given", list.len()),
    };
    let sigmas = match config.sigmas {
        SigmaKind::Discrete => "discrete",
        SigmaKind::Karras => "karras",
        SigmaKind::Exponential => "exponential",
    };
    let mut settings = vec![
        ("sampler", config.named.title.to_string()),
        ("training steps", schedule.num_train_timesteps.to_string()),
        ("betas", betas),
        ("prediction", word_of(config.prediction, &PREDICTIONS).into()),
        ("spacing", word_of(schedule.timestep_spacing, &SPACINGS).into()),
        ("sigmas", sigmas.into()),
    ];
    match config.clipping {
        Clipping::None => {}
        Clipping::Clip { range } => settings.push(("clipped to", range.to_string())),
        Clipping::DynamicThreshold { ratio, max } => {
            settings.push(("thresholded at", format!("quantile {ratio}, at most {max}")));
        }
    }
    settings
}

/// A tensor as it is described.
struct Described {
    name: String,
    dtype: DType,
    /// The type as the file calls it, also where mote does not know it.
    type_name: String,
    shape: Vec<usize>,
    bytes: usize,
}

impl Described {
    fn new((name, weight): (&str, Weight)) -> Self {
        Self {
            name: plain_name(name).into_owned(),
            dtype: weight.dtype,
            type_name: weight.dtype.name().into(),
            shape: weight.shape.as_slice().to_vec(),
            bytes: weight.bytes,
        }
    }

    /// The elements; of a packed weight with what fills up its panels, and none of its companions.
    fn parameters(&self) -> u64 {
        if self.name.ends_with(SCALE) || self.name.ends_with(GROUPS) {
            return 0;
        }
        // Two integers of four bits are a byte.
        let packed = if self.dtype == DType::U8 && self.shape.len() == 4 { 2 } else { 1 };
        packed * self.shape.iter().map(|&dim| dim as u64).product::<u64>()
    }
}

/// A network's tensors.
struct Network {
    name: String,
    class: String,
    files: Vec<String>,
    tensors: Vec<Described>,
}

impl Network {
    fn new(name: &Path, class: Option<String>, files: &mut [Mapped]) -> Result<Self> {
        let mut tensors = Vec::new();
        let mut names = Vec::new();
        for file in files {
            let path = file.path().file_name().unwrap_or_default();
            names.push(path.to_string_lossy().into_owned());
            let mut own: Vec<_> = file.weights().index().iter().map(Described::new).collect();
            if own.iter().any(|tensor| tensor.dtype == DType::Unknown) {
                let header: Value = serde_json::from_slice(file.header()).unwrap_or_default();
                for tensor in own.iter_mut().filter(|tensor| tensor.dtype == DType::Unknown) {
                    let called = header[&tensor.name]["dtype"].as_str();
                    tensor.type_name = called.unwrap_or_default().into();
                }
            }
            tensors.extend(own);
        }
        let class = class.unwrap_or_default();
        Ok(Self { name: name.display().to_string(), class, files: names, tensors })
    }

    /// The network called `name` of a packed file.
    fn packed(name: &str, class: Option<String>, packed: &Packed) -> Result<Self> {
        let weights = packed.weights();
        let own = |(full, weight): (&str, Weight)| {
            let rest = full.strip_prefix(name)?.strip_prefix('.')?;
            Some(Described::new((rest, weight)))
        };
        let tensors = weights.index().iter().filter_map(own).collect();
        let file = packed.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name: name.into(), class: class.unwrap_or_default(), files: vec![file], tensors })
    }

    fn parameters(&self) -> u64 {
        self.tensors.iter().map(Described::parameters).sum()
    }

    fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes as u64).sum()
    }

    /// How many tensors there are of each type.
    fn dtypes(&self) -> BTreeMap<&str, usize> {
        let mut dtypes = BTreeMap::new();
        for tensor in &self.tensors {
            *dtypes.entry(tensor.type_name.as_str()).or_default() += 1;
        }
        dtypes
    }

    /// A headline, and below it each tensor or, in short, each layer.
    fn text(&self, each_tensor: bool) -> String {
        let dtypes: Vec<_> = self.dtypes().into_keys().collect();
        let class = if self.class.is_empty() { "weights" } else { &self.class };
        let mut text = format!(
            "{}: {class}, {} parameters in {} tensors of {}, {} in {}\n",
            self.name,
            size::show_count(self.parameters()),
            self.tensors.len(),
            if dtypes.is_empty() { "no type".into() } else { dtypes.join(" and ") },
            size::show(self.bytes()),
            self.files.join(", "),
        );
        let rows = if each_tensor { self.tensor_rows() } else { self.layer_rows() };
        text.push_str(&print::table(&rows));
        text
    }

    fn tensor_rows(&self) -> Vec<Vec<String>> {
        let row = |tensor: &Described| {
            vec![
                format!("  {}", tensor.name),
                tensor.type_name.clone(),
                format!("{:?}", tensor.shape),
                size::show(tensor.bytes as u64),
            ]
        };
        let header = ["  tensor", "type", "shape", "size"].map(str::to_string).to_vec();
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_by_cached_key(|tensor| Natural::new(tensor.name.clone()));
        std::iter::once(header).chain(tensors.into_iter().map(row)).collect()
    }

    /// The tensors summed up by the beginning of their names: `down_blocks.0`, `conv_in`.
    fn layer_rows(&self) -> Vec<Vec<String>> {
        let mut layers = BTreeMap::<Natural, [u64; 2]>::new();
        for tensor in &self.tensors {
            let sums = layers.entry(Natural::new(layer_of(&tensor.name))).or_default();
            sums[0] += tensor.parameters();
            sums[1] += tensor.bytes as u64;
        }
        let row = |(layer, [parameters, bytes]): (Natural, [u64; 2])| {
            vec![format!("  {}", layer.name), size::show_count(parameters), size::show(bytes)]
        };
        let header = ["  layer", "parameters", "size"].map(str::to_string).to_vec();
        std::iter::once(header).chain(layers.into_iter().map(row)).collect()
    }

    fn json(&self) -> Value {
        let tensor = |tensor: &Described| {
            json!({ "name": tensor.name, "dtype": tensor.type_name, "shape": tensor.shape,
                "bytes": tensor.bytes })
        };
        json!({
            "name": self.name,
            "class": self.class,
            "files": self.files,
            "parameters": self.parameters(),
            "bytes": self.bytes(),
            "dtypes": self.dtypes(),
            "tensors": self.tensors.iter().map(tensor).collect::<Vec<_>>(),
        })
    }
}

/// A name that stands where people look for it: `layers.2` before `layers.10`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Natural {
    /// Segments: numbers by their value, before words.
    segments: Vec<(Option<u64>, String)>,
    name: String,
}

impl Natural {
    fn new(name: String) -> Self {
        let segment = |segment: &str| match segment.parse() {
            Ok(number) => (Some(number), String::new()),
            Err(_) => (None, segment.to_string()),
        };
        Self { segments: name.split('.').map(segment).collect(), name }
    }
}

/// The part of a tensor's name that names its layer: through the first number, or two segments.
fn layer_of(name: &str) -> String {
    let segments: Vec<_> = name.split('.').collect();
    let (_, path) = segments.split_last().unwrap_or((&"", &[]));
    let is_number = |segment: &&str| segment.bytes().all(|byte| byte.is_ascii_digit());
    let end = path.iter().position(is_number).map_or(path.len().min(2), |at| at + 1);
    if end == 0 { name.into() } else { path[..end].join(".") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_sorted_by_their_value() {
        let mut names = ["a.10.b", "a.2.c", "a.2.b", "b", "a", "a.02.b", "a.x"].map(String::from);
        names.sort_by_cached_key(|name| Natural::new(name.clone()));
        assert_eq!(names, ["a", "a.x", "a.02.b", "a.2.b", "a.2.c", "a.10.b", "b"]);
    }

    #[test]
    fn tensors_are_summed_up_by_layer() {
        for (name, layer) in [
            ("down_blocks.0.resnets.1.conv1.weight", "down_blocks.0"),
            ("conv_in.weight", "conv_in"),
            ("time_embedding.linear_1.bias", "time_embedding.linear_1"),
            ("text_model.encoder.layers.11.mlp.fc1.weight", "text_model.encoder.layers.11"),
            ("weight", "weight"),
            ("", ""),
        ] {
            assert_eq!(layer_of(name), layer, "{name}");
        }
    }
}
