//! A pipeline in one file, its weights packed as the arithmetic reads them.
//!
//! A walk of all networks says which weights there are, and the file is written from one end to the
//! other ([`crate::pack`]). Then each network is evaluated with the old and the new weights on the
//! same noise ([`crate::networks`]), and the report tells what was gained and what was lost.

pub mod calibrate;
mod recipe;
pub mod report;

pub use calibrate::Calibrate;
pub use report::Report;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mote::weights::Weights;

use crate::checkpoint::mapped::Mapped;
use crate::checkpoint::packed::Packed;
use crate::checkpoint::place::Place;
use crate::checkpoint::weight_files::WeightFiles;
use crate::config::scheduler;
use crate::error::{Failure, Result};
use crate::lora::{Lora, Source};
use crate::machine::Machine;
use crate::networks::{self, Network};
use crate::pack::rounding::Calibration;
use crate::pack::write::Output;
use crate::pack::{Converted, Converter, Difference, Layout, Stored};
use crate::progress::Reporter;
use crate::resolve;
use crate::stop::Stop;
use crate::tokenizer::Tokenizer;
use crate::types::{Choice, Type};
use crate::write::{self, FileWriter};

/// Files of a pipeline that are read wherever they are there.
const CONFIGURATIONS: [&str; 6] = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "unet/config.json",
    "vae/config.json",
];

/// Text encoders and their tokenizers.
const TOKENIZERS: [[&str; 2]; 2] =
    [["text_encoder", "tokenizer"], ["text_encoder_2", "tokenizer_2"]];

/// A tokenizer's vocabulary in one file, or else in two.
const VOCABULARY: [&[&str]; 2] = [&["tokenizer.json"], &["vocab.json", "merges.txt"]];

/// What else there may be of a tokenizer.
const TOKENIZER: [&str; 3] =
    ["added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"];

/// The longest file that is packed: the largest tokenizers have a few MiB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Work that is done in this time is not worth a line.
const NOT_WORTH_TELLING: Duration = Duration::from_secs(1);

type Tensors = BTreeMap<String, Stored>;
type Files = BTreeMap<String, Vec<u8>>;

/// What is to be converted, and to what.
#[derive(Clone, Copy, Debug)]
pub struct Conversion<'a> {
    /// The model's folder, or a file in half precision.
    pub model: &'a Path,
    /// The folder of the configurations of a checkpoint in one file.
    pub config: Option<&'a Path>,
    /// The type of the weights of products.
    pub to: Type,
    /// The file that is written.
    pub output: &'a Path,
    /// What is added to the weights first.
    pub loras: &'a [Lora],
    /// The pictures that are drawn first, if any are.
    pub calibrate: Option<Calibrate<'a>>,
}

impl Conversion<'_> {
    /// Converts a model and tells what came of it.
    ///
    /// # Errors
    /// Where the model cannot be converted, or the file not be written; then nothing is left.
    pub fn run(
        &self,
        machine: &Machine,
        reporter: &mut dyn Reporter,
        stop: &Stop,
    ) -> Result<Report> {
        write::check_model(self.output)?;
        let model = Place::model_with(self.model, self.config)?;
        let (networks, places) = networks::of(&model)?;
        self.check(&model)?;
        let files = files(&model)?;
        let old = Source::open(&places, self.loras)?;
        reporter.remark(old.notes());
        refuse_input(self.output, old.files())?;
        let recipe = recipe::of(&model, &networks)?;
        let networks = old.with_weights(|weights| present(&networks, weights));
        let mut work = Work { to: self.to, machine, reporter, calibration: None };
        let tensors = old.with_weights(|weights| work.tensors(&networks, weights))?;
        let layout = Layout::new(self.to, &tensors, &files, &recipe)?;
        let mut file = FileWriter::begin(Some(self.output), stop)?;
        let mut calibration = Calibration::new(tensors.values());
        if let Some(wanted) = self.calibrate {
            let (seen, reporter) = (&mut calibration, &mut *work.reporter);
            old.with_weights(|weights| {
                calibrate::watch(seen, &model, wanted, machine, weights, reporter, stop)
            })?;
            work.calibration = Some(&calibration);
        }
        let out: &mut Output<'_> = &mut |bytes| file.write(bytes);
        let differences = old.with_weights(|weights| work.write(&layout, weights, stop, out))?;
        file.end()?;
        let mut report = Report::new(self.output, self.to, &tensors, &layout, differences);
        if self.output.is_file() {
            let (_, places) = networks::of(&Place::model(self.output)?)?;
            report.outputs = work.compare(&networks, &old, &WeightFiles::open(&places)?)?;
        }
        Ok(report)
    }

    /// Refuses what would come to nothing.
    fn check(&self, model: &Place) -> Result<()> {
        resolve::dtype(model, Some(self.to))?;
        let dtype = self.to.name();
        let is_in_it = model.packed().is_some_and(|packed| packed.dtype() == self.to);
        if is_in_it && self.loras.is_empty() {
            return Err(Failure::new(format!("{} is in {dtype} already", self.model.display()))
                .remedy("Give the folder that it was converted from"));
        }
        if self.calibrate.is_some() && matches!(self.to, Type::F32 | Type::F16) {
            return Err(Failure::new(format!("--calibrate has no meaning with {dtype}"))
                .remedy("Leave it out, or take --type int8, int4 or bf16"));
        }
        Ok(())
    }
}

/// How many bytes the model will have, packed, and how many tensors; of a packed one, has.
///
/// # Errors
/// Where it cannot be packed.
pub fn packed_bytes(model: &Place, to: Type, weights: &WeightFiles) -> Result<[u64; 2]> {
    if let Some(packed) = model.packed() {
        let tensors = weights.tensors().unwrap_or_default();
        return Ok([packed.whole().len() as u64, tensors as u64]);
    }
    let (networks, _) = networks::of(model)?;
    let (recipe, files) = (recipe::of(model, &networks)?, files(model)?);
    let machine = Machine::plain()?;
    weights.with_weights(|weights| {
        let mut converted = Converted::new(weights, to);
        let networks = present(&networks, &mut converted);
        for network in &networks {
            network.plan(&machine, &mut converted)?;
        }
        let tensors = converted.tensors;
        let layout = Layout::new(to, &tensors, &files, &recipe)?;
        Ok([layout.file_bytes(), layout.tensors() as u64])
    })
}

/// The networks that the checkpoint has.
fn present(networks: &[Network], weights: &mut dyn Weights) -> Vec<Network> {
    networks.iter().filter(|network| network.is_in(weights)).cloned().collect()
}

/// Refuses to write over what is read.
fn refuse_input(output: &Path, model: &WeightFiles) -> Result<()> {
    let Ok(target) = fs::canonicalize(output) else { return Ok(()) };
    let mut files = model.paths();
    match files.any(|file| fs::canonicalize(file).is_ok_and(|file| file == target)) {
        false => Ok(()),
        true => Err(Failure::new(format!("{} is what is to be converted", output.display()))
            .remedy("Give -o another name")),
    }
}

/// The files that mote reads of a model, by their names in it.
///
/// # Errors
/// Where one cannot be read, or is not what it should be.
fn files(model: &Place) -> Result<Files> {
    scheduler::read_of(model, None)?;
    let mut names = CONFIGURATIONS.map(String::from).to_vec();
    // In a packed file each part has a folder of its own, whatever the model is like.
    let file_of = |name: &str| match name.split_once('/') {
        Some((part, file)) => model.part(part).join(file),
        None => model.join(name),
    };
    for [encoder, tokenizer] in TOKENIZERS {
        if !file_of(&format!("{encoder}/config.json")).is_file() {
            continue;
        }
        Tokenizer::from_folder(model.part(tokenizer))?;
        let within = |name: &&str| format!("{tokenizer}/{name}");
        let is_there = |names: &&&[&str]| names.iter().all(|name| file_of(&within(name)).exists());
        let vocabulary = VOCABULARY.iter().find(is_there).copied().unwrap_or_default();
        names.extend(vocabulary.iter().chain(&TOKENIZER).map(within));
    }
    let mut files = Files::new();
    for name in names {
        let file = file_of(&name);
        if file.exists() {
            files.insert(name, file.read(MAX_FILE_BYTES)?);
        }
    }
    Ok(files)
}

/// Who converts, and to what.
struct Work<'a> {
    to: Type,
    machine: &'a Machine,
    reporter: &'a mut dyn Reporter,
    calibration: Option<&'a Calibration>,
}

impl Work<'_> {
    /// All tensors of the networks.
    fn tensors(&self, networks: &[Network], weights: &mut dyn Weights) -> Result<Tensors> {
        let mut converted = Converted::new(weights, self.to);
        for network in networks {
            network.plan(self.machine, &mut converted)?;
        }
        Ok(converted.tensors)
    }

    fn write(
        &mut self,
        layout: &Layout<'_>,
        weights: &mut dyn Weights,
        stop: &Stop,
        out: &mut Output<'_>,
    ) -> Result<BTreeMap<String, Difference>> {
        let (reporter, begun) = (&mut *self.reporter, Instant::now());
        reporter.begin("converting", 0);
        let mut watch = |done: u64, all: u64| {
            let part = done as f64 / all.max(1) as f64;
            let is_worth_it = done >= all && begun.elapsed() > NOT_WORTH_TELLING;
            reporter.part(part, is_worth_it, &|| format!("{:.0} %", 100.0 * part));
            if stop.is_asked() { Err(Failure::interrupted()) } else { Ok(()) }
        };
        let (machine, calibration) = (self.machine, self.calibration);
        let written =
            Converter { weights, machine, calibration, watch: &mut watch }.write(layout, out);
        self.reporter.end();
        written
    }

    /// How far each network's output is from what it was, on the same input.
    fn compare(
        &self,
        networks: &[Network],
        old: &Source,
        new: &WeightFiles,
    ) -> Result<Vec<(&'static str, f64)>> {
        let mut outputs = Vec::new();
        for network in networks.iter().filter(|network| !matches!(network, Network::Encoder(_))) {
            self.reporter.say(&format!("comparing the {}s", network.title()));
            let evaluate = |weights: &mut dyn Weights| network.evaluate(self.machine, weights);
            let (exact, near) = (old.with_weights(evaluate)?, new.with_weights(evaluate)?);
            outputs.push((network.title(), Difference::between(&exact, &near).relative()));
        }
        Ok(outputs)
    }
}

/// A conversion before a run, into a file without a name, which is gone when the program ends.
pub struct OnTheWay<'a> {
    /// Plans the run, and so says which weights it asks for.
    pub plan: &'a dyn Fn(&mut dyn Weights) -> Result<()>,
    /// The type to convert to.
    pub to: Type,
    /// Who reads half precision, and packs.
    pub machine: &'a Machine,
}

impl OnTheWay<'_> {
    /// The weights that the run asks for, converted.
    ///
    /// # Errors
    /// Where they cannot be, or there is no room for them.
    pub fn convert(
        &self,
        model: &Source,
        reporter: &mut dyn Reporter,
        stop: &Stop,
    ) -> Result<WeightFiles> {
        let Self { plan, to, machine } = *self;
        let tensors = model.with_weights(|weights| {
            let mut converted = Converted::new(weights, to);
            plan(&mut converted)?;
            Ok(converted.tensors)
        })?;
        let folder = std::env::temp_dir();
        let cannot = |error| Failure::file("write to", &folder, &error);
        let mut file = tempfile::tempfile_in(&folder).map_err(cannot)?;
        let files = Files::new();
        let layout = Layout::new(to, &tensors, &files, &[])?;
        let out: &mut Output<'_> = &mut |bytes| file.write_all(bytes).map_err(cannot);
        let mut work = Work { to, machine, reporter, calibration: None };
        model.with_weights(|weights| work.write(&layout, weights, stop, out))?;
        let file = Mapped::of(&folder.join("the converted weights"), &file)?;
        Ok(WeightFiles::packed(Arc::new(Packed::of(file)?)))
    }
}
