//! A model from pictures and what they show.
//!
//! A recipe (`recipe`) and a data set (`data`) say everything: the vocabulary is made of the
//! captions (`vocabulary`), the first parameters come from the seed (`store`), and so do the
//! examples of each step (`batch`, `draw`). A step is the core's (`fit`). Where it stands is kept
//! in one file (`state`), and what has been learned is shown on sheets (`sheet`) and written in
//! diffusers' layout (`export`).

pub mod batch;
pub mod data;
pub mod draw;
pub mod export;
pub mod fit;
mod folder;
mod log;
pub mod recipe;
pub(crate) mod recolour;
pub mod sheet;
pub mod state;
pub mod store;
pub mod vocabulary;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mote::diffusion::schedule::Schedule;
use mote::train::TrainPlan;
use mote_host::error::{Failure, INTERRUPTED, Result};
use mote_host::explain::explain;
use mote_host::machine::Machine;
use mote_host::networks::Network;
use mote_host::progress::Reporter;
use mote_host::stop::Stop;
use mote_host::tokenizer::Tokenizer;
use mote_host::write::FileWriter;
use mote_host::{notes, size};
use serde_json::json;

use batch::{Batches, Step, Words};
use data::{DataSet, Source};
use fit::{Done, Fit, Task};
use log::Log;
use recipe::{Changes, Networks, Recipe, Training};
use recolour::Recolouring;
use sheet::Sampler;
use state::Mark;
use store::Store;
use vocabulary::Vocabulary;

/// How much more a name counts than a keyword when the vocabulary is made.
const NAME_WEIGHT: u64 = 4;

/// How much a colour counts that pictures are shown in: it stands in many captions.
const COLOUR_WEIGHT: u64 = 16 * NAME_WEIGHT;

/// The step after which the first sheet of samples is drawn, however seldom the others are: some
/// seconds of a small model's training, and its colours are there.
const FIRST_SHEET: u64 = 100;

/// The folder inside the model's with all that belongs to the training alone.
const FOLDER: &str = "training";

/// What is to be trained, on what, and where it goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The recipe: a JSON file, or the name of one in the program.
    pub config: String,
    /// What is changed about it.
    pub changes: Changes,
    /// The pictures.
    pub data: Source,
    /// The folder that becomes the model; a plan needs none.
    pub output: Option<PathBuf>,
    /// Whether the training in the folder goes on from its last state.
    pub resume: bool,
    /// The most bytes of memory to take.
    pub memory_limit: Option<u64>,
}

/// A recipe and all that the data make of it.
struct Setup {
    recipe: Recipe,
    data: DataSet,
    vocabulary: Option<Vocabulary>,
    tokenizer: Option<Tokenizer>,
    /// Ids of a caption; 0 where there are no words.
    length: usize,
}

impl Setup {
    fn new(mut recipe: Recipe, source: &Source, reporter: &mut dyn Reporter) -> Result<Self> {
        let captioned = matches!(recipe.networks, Networks::Text { .. });
        let data = source.read(captioned, recipe.size(), recipe.training.seed)?;
        data.skipped.iter().for_each(|what| reporter.say(&format!("passed over: {what}")));
        let (vocabulary, length) = vocabulary_of(&mut recipe, &data)?.unzip();
        let length = length.unwrap_or(0);
        let tokenizer = vocabulary.as_ref().map(|vocabulary| vocabulary.tokenizer(length));
        Ok(Self { recipe, data, tokenizer: tokenizer.transpose()?, vocabulary, length })
    }

    fn words(&self) -> Result<Option<Words<'_>>> {
        let core = self.tokenizer.as_ref().map(Tokenizer::core).transpose()?;
        Ok(core.map(|tokenizer| Words { tokenizer, length: self.length }))
    }

    /// Bytes of the pictures.
    fn pictures(&self) -> usize {
        self.data.examples.iter().map(|example| example.rgb.len()).sum()
    }
}

/// Trains a model.
///
/// # Errors
/// What went wrong, as sentences; the last state is whole.
pub fn run(
    options: &Options,
    machine: &Machine,
    reporter: &mut dyn Reporter,
    stop: &Stop,
) -> Result<()> {
    let recipe = recipe::read(&options.config, options.changes)?;
    let output = Output::new(options.output.as_deref(), options.resume)?;
    let setup = Setup::new(recipe, &options.data, reporter)?;
    let (recipe, words, mut memory) = (&setup.recipe, setup.words()?, Vec::new());
    let schedule = schedule_of(recipe, &mut memory)?;
    let task = task(recipe, &schedule, setup.length, machine);
    let parameters = Store::new(&walked(&recipe.networks), recipe.training.seed, machine)?;
    let fitted = fitted(task, setup.pictures(), &parameters, options.memory_limit)?;
    fitted.needs.check(options.memory_limit)?;
    let (training, data) = (&recipe.training, &setup.data);
    let sizes = (recipe.size(), recipe.pixel_block());
    let times = schedule.alphas_cumprod().len();
    let mut run = Run {
        recipe,
        vocabulary: setup.vocabulary.as_ref(),
        batches: Batches::new(data, training, sizes, times, words),
        fit: Fit::new(fitted.task, parameters, &fitted.plan)?,
        sampler: Sampler { recipe, networks: &recipe.networks, words, machine, stop: stop.clone() },
        output,
        mark: Mark { step: 0, recipe: recipe.fingerprint(), data: data.fingerprint() },
        stop,
        reporter,
    };
    if options.resume {
        run.resume()?;
    }
    run.output.prepare(recipe)?;
    run.say_hello(data);
    run.say_what_is_cut(data, words)?;
    run.all()
}

/// What a training would take, with its pictures.
///
/// # Errors
/// Where recipe or pictures are wrong.
pub fn plan(options: &Options, machine: &Machine, reporter: &mut dyn Reporter) -> Result<Needs> {
    let recipe = recipe::read(&options.config, options.changes)?;
    if let Some(folder) = &options.output {
        Output { folder: folder.clone() }.check(options.resume, true)?;
    }
    let setup = Setup::new(recipe, &options.data, reporter)?;
    let pictures = setup.pictures();
    needs(&setup.recipe, setup.length, pictures, machine, options.memory_limit)
}

/// What a recipe would take, pictures aside; its vocabulary is taken to be as large as it may be.
///
/// # Errors
/// Where the recipe is wrong.
pub fn plan_recipe(config: &str, machine: &Machine, limit: Option<u64>) -> Result<Needs> {
    let mut recipe = recipe::read(config, Changes::default())?;
    let mut tokens = 0;
    if let Networks::Text { text_encoder, vocab_size, model_max_length, .. } = &mut recipe.networks
    {
        (text_encoder.vocab_size, tokens) = (*vocab_size, *model_max_length);
    }
    needs(&recipe, tokens, 0, machine, limit)
}

fn needs(
    recipe: &Recipe,
    tokens: usize,
    pictures: usize,
    machine: &Machine,
    limit: Option<u64>,
) -> Result<Needs> {
    let mut memory = Vec::new();
    let schedule = schedule_of(recipe, &mut memory)?;
    let task = task(recipe, &schedule, tokens, machine);
    let parameters = Store::new(&walked(&recipe.networks), recipe.training.seed, machine)?;
    Ok(fitted(task, pictures, &parameters, limit)?.needs)
}

fn task<'a>(
    recipe: &'a Recipe,
    schedule: &'a Schedule<'a>,
    tokens: usize,
    machine: &'a Machine,
) -> Task<'a> {
    Task { recipe, networks: &recipe.networks, schedule, tokens, machine, checkpoints: false }
}

/// The schedule of a recipe; `memory` is to hold it.
fn schedule_of<'m>(recipe: &'m Recipe, memory: &'m mut Vec<f32>) -> Result<Schedule<'m>> {
    let config = recipe.scheduler.schedule();
    memory.resize(config.num_train_timesteps, 0.0);
    Schedule::new(config, memory).map_err(|error| explain(error, "the schedule"))
}

/// A task and what it takes.
struct Fitted<'a> {
    task: Task<'a>,
    needs: Needs,
    plan: TrainPlan,
}

/// The task and what it takes. Where that is above the limit, blocks are walked again on the way
/// back instead of kept.
fn fitted<'a>(
    mut task: Task<'a>,
    pictures: usize,
    parameters: &Store,
    limit: Option<u64>,
) -> Result<Fitted<'a>> {
    let (training, begin) = (&task.recipe.training, parameters.begin());
    loop {
        let plan = task.plan(training.micro_batch, &mut parameters.weights(), begin)?;
        let needs = Needs::new(pictures, parameters, &plan, training);
        let fits = limit.is_none_or(|limit| needs.total() as u64 <= limit);
        if fits || task.checkpoints {
            return Ok(Fitted { task, needs, plan });
        }
        task.checkpoints = true;
    }
}

/// The vocabulary of the captions and the length of a caption; the text encoder's table is made as
/// large.
fn vocabulary_of(recipe: &mut Recipe, data: &DataSet) -> Result<Option<(Vocabulary, usize)>> {
    let recolours = recipe.training.recolours();
    let Networks::Text { text_encoder, vocab_size, model_max_length, .. } = &mut recipe.networks
    else {
        return Ok(None);
    };
    let captions = data.examples.iter().chain(&data.held_out).map(|example| &example.caption);
    let colours = Recolouring::words().filter(|_| recolours).map(|word| (word, COLOUR_WEIGHT));
    let texts = captions.flat_map(|caption| {
        let names = [&caption.name, &caption.style].map(|name| (name.as_str(), NAME_WEIGHT));
        names.into_iter().chain(caption.keywords.iter().map(|word| (word.as_str(), 1)))
    });
    let vocabulary = Vocabulary::train(texts.chain(colours), *vocab_size)?;
    text_encoder.vocab_size = vocabulary.tokens.len();
    Ok(Some((vocabulary, *model_max_length)))
}

/// The networks as `convert` walks them.
fn walked(networks: &Networks) -> Vec<Network> {
    match networks {
        Networks::Unconditional(unet) => vec![Network::UNet2d(unet.clone())],
        Networks::Text { text_encoder, unet, model_max_length, .. } => vec![
            Network::TextEncoder(text_encoder.clone()),
            Network::UNet2dCondition(unet.clone(), *model_max_length),
        ],
    }
}

/// What a training takes.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Bytes of memory, by what they are for.
    pub rows: [(&'static str, usize); 5],
    /// How many parameters there are.
    pub parameters: usize,
    /// How many steps.
    pub steps: u64,
    /// Examples of a step, and how many of them are computed at a time.
    pub batch: [usize; 2],
    /// Multiply-adds of a step.
    pub multiply_adds: u64,
}

impl Needs {
    fn new(pictures: usize, store: &Store, plan: &TrainPlan, training: &Training) -> Self {
        let one = size_of_val(store.values());
        let rows = [
            ("pictures", pictures),
            ("parameters and their average", 2 * one),
            ("gradients", one),
            ("moments", 2 * one),
            ("arena", plan.arena_bytes),
        ];
        let batch = [training.batch_size, training.micro_batch];
        let parts = (batch[0] / batch[1]) as u64;
        let multiply_adds = plan.multiply_adds.saturating_mul(parts);
        Self { rows, parameters: store.count(), steps: training.steps, batch, multiply_adds }
    }

    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.rows.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Refuses what needs more than the limit.
    ///
    /// # Errors
    /// Where it needs more.
    pub fn check(&self, limit: Option<u64>) -> Result<()> {
        let needed = self.total() as u64;
        let Some(limit) = limit.filter(|&limit| needed > limit) else { return Ok(()) };
        let (needed, limit) = (size::show_needed(needed), size::show_limit(limit));
        Err(Failure::new(format!("this needs {needed} of memory, and the limit is {limit}"))
            .remedy("Lower `micro_batch` in the recipe"))
    }
}

/// Where the model and its training are kept.
struct Output {
    folder: PathBuf,
}

impl Output {
    /// The folder that is named.
    fn new(folder: Option<&Path>, resume: bool) -> Result<Self> {
        let Some(folder) = folder else {
            return Err(Failure::new("nothing says where the model is to go")
                .remedy("Name a folder with -o"));
        };
        let output = Self { folder: folder.into() };
        output.check(resume, false)?;
        Ok(output)
    }

    /// Refuses a folder that is none, holds a training that is not to go on, or has none that
    /// could.
    fn check(&self, resume: bool, is_plan: bool) -> Result<()> {
        let shown = self.folder.display();
        if self.folder.exists() && !self.folder.is_dir() {
            return Err(
                Failure::new(format!("{shown} is not a folder")).remedy("Give -o another name")
            );
        }
        match (self.state().exists(), resume) {
            (true, false) if !is_plan => Err(Failure::new(format!("{shown} holds a training"))
                .remedy("Go on with it with --resume, or take another folder")),
            (false, true) => Err(Failure::new(format!("{shown} holds no training to go on with"))
                .remedy("Begin one without --resume")),
            _ => Ok(()),
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.join(FOLDER).join("state.safetensors")
    }

    fn log(&self) -> PathBuf {
        self.folder.join(FOLDER).join("loss.tsv")
    }

    fn sheet(&self, step: u64) -> PathBuf {
        self.folder.join(FOLDER).join(format!("sheet-{step:07}.png"))
    }

    /// Makes the folders, and keeps the recipe beside what it makes.
    fn prepare(&self, recipe: &Recipe) -> Result<()> {
        let folder = self.folder.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|error| Failure::file("make", &folder, &error))?;
        let mut file = FileWriter::begin(Some(&folder.join("recipe.json")), &Stop::default())?;
        file.write(format!("{:#}\n", recipe.json).as_bytes())?;
        file.end()
    }
}

/// A training that runs.
struct Run<'a> {
    recipe: &'a Recipe,
    vocabulary: Option<&'a Vocabulary>,
    batches: Batches<'a>,
    fit: Fit<'a>,
    sampler: Sampler<'a>,
    output: Output,
    /// What the state belongs to, and how many steps are done.
    mark: Mark,
    stop: &'a Stop,
    reporter: &'a mut dyn Reporter,
}

impl Run<'_> {
    /// Takes up the last state.
    fn resume(&mut self) -> Result<()> {
        let [first, second] = &mut self.fit.moments;
        let average = self.fit.average.values_mut();
        let tensors = [self.fit.parameters.values_mut(), first, second, average];
        self.mark.step = state::read(&self.output.state(), self.mark, tensors)?;
        Ok(())
    }

    fn say_hello(&self, data: &DataSet) {
        let count = self.fit.parameters.count();
        let training = &self.recipe.training;
        let (examples, held) = (data.examples.len(), data.held_out.len());
        let mut text = format!("{count} parameters, {examples} pictures");
        if held > 0 {
            text.push_str(&format!(", {held} held out"));
        }
        if let Some(vocabulary) = self.vocabulary {
            text.push_str(&format!(", {} tokens", vocabulary.tokens.len()));
        }
        let epochs = training.steps * training.batch_size as u64 / examples.max(1) as u64;
        text.push_str(&format!("; {} steps, {epochs} epochs", training.steps));
        match self.mark.step {
            0 => {}
            done if done < training.steps => {
                text.push_str(&format!("; going on after step {done}"));
            }
            done => {
                let left = "nothing is trained: to go on, give more --steps";
                text.push_str(&format!("; step {done} is done already, and {left}"));
            }
        }
        self.reporter.say(&text);
    }

    /// Tells of captions that are longer than what the text encoder takes.
    fn say_what_is_cut(&self, data: &DataSet, words: Option<Words<'_>>) -> Result<()> {
        let Some(Words { tokenizer, length }) = words else { return Ok(()) };
        let keywords = self.recipe.training.keywords;
        let texts = data.examples.iter().map(|example| example.caption.longest(keywords));
        self.reporter.remark(notes::cut_captions(&tokenizer, texts, length)?.as_slice());
        Ok(())
    }

    /// All steps that are left.
    fn all(&mut self) -> Result<()> {
        let training = &self.recipe.training;
        let mut log = Log::open(&self.output.log(), self.mark.step, self.stop)?;
        let mut examples = Step::default();
        let mut pace = Pace::new(training.batch_size);
        // Ctrl-C ends a sheet before it is whole, and its step is not done again.
        if self.sheet_is_due() && !self.output.sheet(self.mark.step).exists() {
            self.sheet()?;
        }
        self.reporter.begin("step", training.steps);
        for number in self.mark.step + 1..=training.steps {
            let begun = Instant::now();
            self.batches.fill(number, &mut examples)?;
            let told = self.fit.step(number, &examples)?;
            pace.add(begun.elapsed());
            log.add(number, told)?;
            self.mark.step = number;
            self.reporter.note(number, &pace.told(told, training.steps - number));
            // The sheet comes first: once a state is kept, its step is not done again.
            if self.sheet_is_due() {
                self.sheet()?;
            }
            let is_due = number.is_multiple_of(training.checkpoint_every);
            if number == training.steps || is_due || self.stop.is_asked() {
                self.keep()?;
            }
            if self.stop.is_asked() {
                self.reporter.end();
                let kept = self.output.folder.display();
                let what = format!("stopped after step {number}; {kept} has its state and model");
                return Err(Failure::stopped(what).remedy("Go on from there with --resume"));
            }
        }
        self.reporter.end();
        // A training that was whole already may have been ended before its model was written.
        self.export()?;
        self.reporter.say(&format!("wrote {}", self.output.folder.display()));
        Ok(())
    }

    /// Whether the last step is one after which samples are drawn: every so many, the last of all
    /// and, so that one sees early that it works, one of the first.
    fn sheet_is_due(&self) -> bool {
        let Training { steps, sample_every: every, .. } = self.recipe.training;
        let step = self.mark.step;
        let is_due = step == steps || step == FIRST_SHEET || step.is_multiple_of(every.max(1));
        every > 0 && step > 0 && is_due
    }

    /// Writes the state, then the model.
    fn keep(&mut self) -> Result<()> {
        store::check_finite(self.fit.parameters.values(), self.mark.step)?;
        let [first, second] = &self.fit.moments;
        let tensors = [self.fit.parameters.values(), first, second, self.fit.average.values()];
        state::write(&self.output.state(), self.mark, tensors, self.stop)?;
        self.export()
    }

    fn export(&mut self) -> Result<()> {
        let (folder, average) = (&self.output.folder, &mut self.fit.average);
        export::write(folder, self.recipe, self.vocabulary, average, self.stop)
    }

    /// Draws samples; none where Ctrl-C is pressed meanwhile.
    fn sheet(&mut self) -> Result<()> {
        let sheet = match self.sampler.sheet(&mut self.fit.average.weights()) {
            Err(failure) if failure.code() == INTERRUPTED => return Ok(()),
            sheet => sheet?,
        };
        let samples = &self.recipe.samples;
        let about = json!({
            "step": self.mark.step, "steps": samples.steps, "cfg_scale": samples.cfg_scale,
            "prompts": samples.prompts
        });
        let path = self.output.sheet(self.mark.step);
        sheet::write(&path, &sheet, &about.to_string(), self.stop)
    }
}

/// How fast it goes, over the last steps.
struct Pace {
    batch: usize,
    /// Seconds of a step, on average.
    seconds: f64,
    steps: u32,
}

impl Pace {
    /// Steps that the average reaches back.
    const REACH: u32 = 50;

    fn new(batch: usize) -> Self {
        Self { batch, seconds: 0.0, steps: 0 }
    }

    fn add(&mut self, took: Duration) {
        self.steps = (self.steps + 1).min(Self::REACH);
        self.seconds += (took.as_secs_f64() - self.seconds) / f64::from(self.steps);
    }

    /// `loss 0.0412, 213 images/s, 1 h 2 min left`.
    fn told(&self, done: Done, left: u64) -> String {
        let rate = self.batch as f64 / self.seconds.max(f64::MIN_POSITIVE);
        let left = size::clock(self.seconds * left as f64);
        format!("loss {:.4}, {rate:.0} images/s, {left} left", done.loss)
    }
}
