//! How good a model is on a data set, in numbers.
//!
//! Of pictures it was trained on and of pictures kept back, the loss and the bound on the
//! likelihood (`likelihood`). Of samples for the names of the data set, how often the nearest
//! picture is the one that the caption names, and how near they are to what the model was trained
//! on (`samples`).

mod likelihood;
mod samples;

use mote::diffusion::prediction::Clipping;
use mote::diffusion::sampler::Named;
use mote::diffusion::schedule::Schedule;
use mote::mem::Arena;
use mote::progress::Progress;
use mote::weights::Weights;
use mote_host::checkpoint::place::Place;
use mote_host::checkpoint::weight_files::WeightFiles;
use mote_host::error::{Failure, Result};
use mote_host::explain::explain;
use mote_host::image::Picture;
use mote_host::machine::Machine;
use mote_host::machine::memory::Block;
use mote_host::progress::Reporter;
use mote_host::request::{Parts, Request};
use mote_host::resolve::{self, Networks, Resolved};
use mote_host::stop::Stop;
use mote_host::tokenizer::{self, Tokenizer};
use mote_host::types::Seed;
use mote_host::{notes, plan};

use crate::train::data::{DataSet, Example, HoldOut, Source};
use crate::train::draw::{Draw, Purpose};
pub use likelihood::Likelihood;
use likelihood::{Denoiser, Predictor};
use samples::{Gallery, median};

/// How near the named picture must be for the looser of the two counts.
const NEAR: usize = 5;

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pictures.
    pub data: Source,
    /// The seed that drew the names held out: the training's.
    pub hold_out_seed: u64,
    /// For how many of the training's names samples are drawn.
    pub names: u32,
    /// Of how many pictures the loss is measured, at most.
    pub pictures: u32,
    /// At how many times of training it is measured.
    pub times: u32,
    /// In how many steps samples are drawn.
    pub steps: u32,
    /// How strongly captions are followed.
    pub cfg_scale: f32,
    /// The sampler; by default the one the model names.
    pub sampling_method: Option<&'static Named>,
    /// The seed of the first sample and of the noise.
    pub seed: u64,
}

/// For how many names samples are drawn where nothing is said.
pub const NAMES: u32 = 200;

/// The seed that a training has where nothing is said, by which it draws the names it holds out.
pub const HOLD_OUT_SEED: u64 = 1;

/// Measures the model at `place`.
///
/// # Errors
/// Where the model or the data cannot be used.
pub fn run(
    place: &Place,
    parts: &Parts,
    options: &Options,
    machine: &Machine,
    reporter: &mut dyn Reporter,
    stop: &Stop,
) -> Result<Report> {
    let request = request(options, place.part("text_encoder").is_folder());
    let resolved = resolve::resolve(place, parts, &request)?;
    if let Networks::TextToImage(words) = &resolved.networks
        && words.vae.is_some()
    {
        return Err(Failure::new(
            "this model draws latents, and its loss on pictures says nothing",
        )
        .remedy("Give a model without an autoencoder"));
    }
    if resolved.converts || !parts.loras.is_empty() || !parts.embeddings.is_empty() {
        return Err(Failure::new("a model is measured as it is")
            .remedy("Leave out --type, --lora and --embedding, or convert it first"));
    }
    let has_words = matches!(resolved.networks, Networks::TextToImage(_));
    check_meaning(options, has_words)?;
    let data = options.data.read(has_words, resolved.size, options.hold_out_seed)?;
    let tokenizer =
        has_words.then(|| Tokenizer::from_folder(place.part("tokenizer"))).transpose()?;
    let files = WeightFiles::open(&resolved.places)?;
    let data = &data;
    let mut eval = Eval { options, resolved, data, tokenizer, machine, reporter, stop };
    files.with_weights(|weights| eval.measure(weights))
}

/// Refuses what says how samples are drawn, of a model that knows no captions to draw them of, and
/// a seed by which nothing is drawn.
fn check_meaning(options: &Options, has_words: bool) -> Result<()> {
    let silent = "this model knows no text, and samples are drawn of captions";
    let draws = matches!(options.data.hold_out, HoldOut::Count(1..));
    let undrawn = "it draws the names to hold out, and --hold-out gives no number of them";
    for (given, flag, why) in [
        (!has_words && options.cfg_scale != 1.0, "--cfg-scale", silent),
        (!has_words && options.sampling_method.is_some(), "--sampling-method", silent),
        (!has_words && options.steps != Request::default().steps, "--steps", silent),
        (!has_words && options.names != NAMES, "--names", silent),
        (!draws && options.hold_out_seed != HOLD_OUT_SEED, "--hold-out-seed", undrawn),
    ] {
        if given {
            let what = format!("{flag} has no meaning here: {why}");
            return Err(Failure::new(what).remedy("Leave it out"));
        }
    }
    Ok(())
}

/// A request for a picture that stands for all of them. A model that knows no text refuses a
/// prompt, and one that does the want of it.
fn request(options: &Options, knows_text: bool) -> Request {
    Request {
        prompt: knows_text.then(String::new),
        steps: options.steps,
        cfg_scale: None,
        sampling_method: options.sampling_method,
        seed: Seed::Given(options.seed),
        ..Request::default()
    }
}

/// What is measured, and by whom.
struct Eval<'a> {
    options: &'a Options,
    resolved: Resolved,
    data: &'a DataSet,
    tokenizer: Option<Tokenizer>,
    machine: &'a Machine,
    reporter: &'a mut dyn Reporter,
    stop: &'a Stop,
}

/// How well samples show what their captions name.
#[derive(Clone, Debug, Default)]
pub struct Accuracy {
    /// Captions.
    pub names: usize,
    /// How many of the samples are nearest to the picture that is named.
    pub nearest: usize,
    /// How many have it among the nearest few.
    pub near: usize,
    /// The distances to the nearest training picture.
    pub distances: Vec<f64>,
}

impl Eval<'_> {
    fn measure(&mut self, weights: &mut dyn Weights) -> Result<Report> {
        let scheduler = self.resolved.scheduler.clone();
        let schedule_config = scheduler.schedule();
        let mut memory = vec![0.0; schedule_config.num_train_timesteps];
        let wrong = |error| explain(error, "the schedule");
        let schedule = Schedule::new(schedule_config, &mut memory).map_err(wrong)?;
        // As many pictures to compare with as are held out; some where none are.
        let kept: Vec<_> = self.data.held_out.iter().take(self.options.pictures as usize).collect();
        let count = if kept.is_empty() { self.options.pictures as usize } else { kept.len() };
        let trained = self.drawn(&self.data.examples, count);
        let (mut likelihoods, mut accuracies) = (Vec::new(), Vec::new());
        self.say_what_is_cut()?;
        for (title, examples) in [("training", &trained), ("held out", &kept)] {
            self.reporter.say(&format!("loss and bound of {} pictures, {title}", examples.len()));
            let found = self.likelihood(title, &schedule, examples, weights)?;
            likelihoods.push((title, found));
        }
        let everything = self.data.examples.iter().chain(&self.data.held_out);
        let gallery = Gallery::new(everything, self.resolved.size);
        let training = Gallery::new(self.data.examples.iter(), self.resolved.size);
        if self.tokenizer.is_some() {
            let names = self.drawn(&self.data.examples, self.options.names as usize);
            let held_out = self.data.held_out.iter().collect();
            for (title, wanted) in [("training", names), ("held out", held_out)] {
                let found = self.accuracy(title, &wanted, [&gallery, &training], weights)?;
                accuracies.push((title, found));
            }
        }
        let apart = trained.iter().map(|e| training.nearest(&e.rgb, Some(e)));
        let mut apart: Vec<_> = apart.collect();
        Ok(Report {
            sampler: self.resolved.scheduler.named.title,
            steps: self.options.steps,
            cfg_scale: self.options.cfg_scale,
            likelihoods,
            accuracies,
            apart: median(&mut apart),
        })
    }

    /// So many of these pictures, drawn by the seed.
    fn drawn<'e>(&self, examples: &'e [Example], count: usize) -> Vec<&'e Example> {
        let mut all: Vec<_> = examples.iter().collect();
        Draw::new(self.options.seed, Purpose::Order, 0).shuffle(&mut all);
        all.truncate(count);
        all
    }

    /// The ids of a caption.
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let (Some(tokenizer), Networks::TextToImage(words)) =
            (&self.tokenizer, &self.resolved.networks)
        else {
            return Ok(Vec::new());
        };
        tokenizer::encode(&tokenizer.core()?, text, words.prompt.len())
    }

    /// Tells of captions that are longer than what the text encoder takes.
    fn say_what_is_cut(&self) -> Result<()> {
        let (Some(tokenizer), Networks::TextToImage(words)) =
            (&self.tokenizer, &self.resolved.networks)
        else {
            return Ok(());
        };
        let everything = self.data.examples.iter().chain(&self.data.held_out);
        let texts = everything.map(|example| example.caption.prompt());
        let length = words.prompt.len();
        self.reporter.remark(notes::cut_captions(&tokenizer.core()?, texts, length)?.as_slice());
        Ok(())
    }

    fn likelihood(
        &mut self,
        title: &str,
        schedule: &Schedule<'_>,
        examples: &[&Example],
        weights: &mut dyn Weights,
    ) -> Result<Likelihood> {
        let Some(denoiser) = Denoiser::of(&self.resolved.networks) else {
            return Err(Failure::new("this model draws no pictures by itself"));
        };
        let predictor = Predictor {
            denoiser,
            schedule,
            prediction: self.resolved.scheduler.prediction,
            clip: self.resolved.scheduler.clipping != Clipping::None,
            size: self.resolved.size,
            machine: self.machine,
            stop: self.stop,
        };
        let mut with_ids = Vec::with_capacity(examples.len());
        for &example in examples {
            with_ids.push((example, self.ids(&example.caption.prompt())?));
        }
        let count = self.options.times as usize;
        let total = predictor.evaluations(examples.len(), count) as u64;
        let reporter = &mut *self.reporter;
        if total > 0 {
            reporter.begin(&format!("loss, {title}"), total);
        }
        let mut done = 0;
        let mut tell = || {
            done += 1;
            reporter.step(done);
        };
        let found =
            predictor.likelihood(&with_ids, count, self.options.seed, weights, &mut tell)?;
        self.reporter.end();
        Ok(found)
    }

    /// Draws a sample for each picture's caption and looks where it lies.
    fn accuracy(
        &mut self,
        title: &str,
        wanted: &[&Example],
        [gallery, training]: [&Gallery<'_>; 2],
        weights: &mut dyn Weights,
    ) -> Result<Accuracy> {
        let mut found = Accuracy { names: wanted.len(), ..Accuracy::default() };
        if let Networks::TextToImage(words) = &mut self.resolved.networks {
            words.cfg_scale = self.options.cfg_scale;
        }
        let plan = plan::plan_as_it_is(&self.resolved, self.machine, weights)?;
        let mut block = Block::new(plan.arena_bytes)?;
        self.reporter.begin(&format!("sampling, {title}"), wanted.len() as u64);
        for (example, number) in wanted.iter().zip(0..) {
            if self.stop.is_asked() {
                return Err(Failure::interrupted());
            }
            let sample = self.sample(&example.caption.prompt(), number, block.bytes(), weights)?;
            let rank = gallery.rank(&sample, example);
            found.nearest += usize::from(rank == 1);
            found.near += usize::from(rank <= NEAR);
            found.distances.push(training.nearest(&sample.rgb, None));
            let told = format!("{} of {} nearest", found.nearest, number + 1);
            self.reporter.note(u64::from(number) + 1, &told);
        }
        self.reporter.end();
        Ok(found)
    }

    fn sample(
        &mut self,
        prompt: &str,
        number: u32,
        memory: &mut [u8],
        weights: &mut dyn Weights,
    ) -> Result<Picture> {
        let ids = self.ids(prompt)?;
        if let Networks::TextToImage(words) = &mut self.resolved.networks {
            words.prompt = ids;
        }
        let (work, mut picture) = (self.resolved.work(number), Picture::default());
        let mut flow = |_: Progress<'_>| self.stop.flow();
        let arena = Arena::new(memory);
        self.machine.compute(arena, weights, |cx| work.run(cx, &mut picture, &mut flow))?;
        Ok(picture)
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The sampler's title.
    pub sampler: &'static str,
    /// The steps of a sample.
    pub steps: u32,
    /// How strongly captions were followed.
    pub cfg_scale: f32,
    /// Loss and bound, by what they were measured on.
    pub likelihoods: Vec<(&'static str, Likelihood)>,
    /// How well samples show their captions, by whose names these are.
    pub accuracies: Vec<(&'static str, Accuracy)>,
    /// The median distance of a training picture to the nearest other one.
    pub apart: f64,
}

impl Accuracy {
    /// A count as a share of all.
    pub fn share(&self, count: usize) -> f64 {
        count as f64 / self.names.max(1) as f64
    }

    /// The median distance to the nearest training picture.
    pub fn distance(&self) -> f64 {
        median(&mut self.distances.clone())
    }
}
