//! `mote eval`: how good a model is on a data set, in numbers.
//!
//! Of pictures it was trained on and of pictures kept back, the loss and the bound on the
//! likelihood (`likelihood`). Of samples for the names of the data set, how often the nearest
//! picture is the one that the caption names, and how near they are to what the model was trained
//! on (`samples`).

mod likelihood;
mod samples;

use mote::arch::Isa;
use mote::diffusion::prediction::Clipping;
use mote::diffusion::schedule::Schedule;
use mote::mem::Arena;
use mote::ops::Context;
use mote::weights::Weights;
use serde_json::{Value, json};

use crate::args::{self, Request, Seed};
use crate::error::{Failure, Result};
use crate::executor::Pool;
use crate::memory::Block;
use crate::picture::Picture;
use crate::place::Place;
use crate::plan::{self, Model};
use crate::progress::{Interrupt, Reporter};
use crate::resolve::{self, Networks, Resolved, explain};
use crate::tokenizer::{self, Tokenizer};
use crate::train::data::{self, DataSet, Example, HoldOut, Options};
use crate::train::draw::{Draw, Purpose};
use crate::train::sheet::Keep;
use crate::{isa, notes, print};
use likelihood::{Denoiser, Likelihood, Predictor};
use samples::{Gallery, median};

/// How near the named picture must be for the looser of the two counts.
const NEAR: usize = 5;

/// Measures a model.
///
/// # Errors
/// Where the model or the data cannot be used.
pub fn run(args: &args::Eval) -> Result<()> {
    let place = Place::model(&args.model.model)?;
    let request = request(args, place.part("text_encoder").is_folder());
    let resolved = resolve::resolve_at(&place, &args.model, &request)?;
    if let Networks::TextToImage(words) = &resolved.networks
        && words.vae.is_some()
    {
        return Err(Failure::new(
            "this model draws latents, and its loss on pictures says nothing",
        )
        .remedy("Give a model without an autoencoder"));
    }
    if resolved.converts {
        return Err(Failure::new("a model is measured as it is")
            .remedy("Leave out --type, or convert it first"));
    }
    let has_words = matches!(resolved.networks, Networks::TextToImage(_));
    check_meaning(args, has_words)?;
    let data = read_data(args, &resolved, has_words)?;
    let (pool, isa) = (plan::pool(args.threads)?, isa::choose()?);
    let tokenizer =
        has_words.then(|| Tokenizer::from_folder(place.part("tokenizer"))).transpose()?;
    let mut eval = Eval {
        args,
        resolved,
        data: &data,
        tokenizer,
        isa,
        pool: &pool,
        reporter: Reporter::new(args.quiet),
        interrupt: Interrupt::listen()?,
    };
    let mut model = Model::open(&eval.resolved)?;
    let report = model.with_weights(|weights| eval.measure(weights))??;
    let text = if args.json { format!("{:#}\n", report.json()) } else { report.text() };
    print::bytes(text.as_bytes())
}

/// Refuses what says how samples are drawn, of a model that knows no captions to draw them of, and
/// a seed by which nothing is drawn.
fn check_meaning(args: &args::Eval, has_words: bool) -> Result<()> {
    let silent = "this model knows no text, and samples are drawn of captions";
    let draws = matches!(args.data.hold_out, HoldOut::Count(1..));
    let undrawn = "it draws the names to hold out, and --hold-out gives no number of them";
    for (given, flag, why) in [
        (!has_words && args.cfg_scale != 1.0, "--cfg-scale", silent),
        (!has_words && args.sampling_method.is_some(), "--sampling-method", silent),
        (!has_words && args.steps != Request::default().steps, "--steps", silent),
        (!has_words && args.names != args::EVAL_NAMES, "--names", silent),
        (!draws && args.hold_out_seed != args::HOLD_OUT_SEED, "--hold-out-seed", undrawn),
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
fn request(args: &args::Eval, knows_text: bool) -> Request {
    Request {
        prompt: knows_text.then(String::new),
        steps: args.steps,
        cfg_scale: None,
        sampling_method: args.sampling_method,
        seed: Seed::Given(args.seed),
        ..Request::default()
    }
}

fn read_data(args: &args::Eval, resolved: &Resolved, captioned: bool) -> Result<DataSet> {
    let options = Options {
        captions: args.data.captions.as_deref(),
        captioned,
        size: resolved.size,
        resize: args.data.resize,
        skip_bad: args.data.skip_bad,
        hold_out: &args.data.hold_out,
        seed: args.hold_out_seed,
    };
    data::read(&args.data.data, &options)
}

/// What is measured, and by whom.
struct Eval<'a> {
    args: &'a args::Eval,
    resolved: Resolved,
    data: &'a DataSet,
    tokenizer: Option<Tokenizer>,
    isa: Isa,
    pool: &'a Pool,
    reporter: Reporter,
    interrupt: Interrupt,
}

/// How well samples show what their captions name.
#[derive(Clone, Debug, Default)]
struct Accuracy {
    /// Captions.
    names: usize,
    /// How many of the samples are nearest to the picture that is named.
    nearest: usize,
    /// How many have it among the nearest few.
    near: usize,
    /// The distances to the nearest training picture.
    distances: Vec<f64>,
}

impl Eval<'_> {
    fn measure(&mut self, weights: &mut dyn Weights) -> Result<Report> {
        let scheduler = self.resolved.scheduler.clone();
        let schedule_config = scheduler.schedule();
        let mut memory = vec![0.0; schedule_config.num_train_timesteps];
        let wrong = |error| explain(error, "the schedule");
        let schedule = Schedule::new(schedule_config, &mut memory).map_err(wrong)?;
        // As many pictures to compare with as are held out; some where none are.
        let kept: Vec<_> = self.data.held_out.iter().take(self.args.pictures as usize).collect();
        let count = if kept.is_empty() { self.args.pictures as usize } else { kept.len() };
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
            let names = self.drawn(&self.data.examples, self.args.names as usize);
            let held_out = self.data.held_out.iter().collect();
            for (title, wanted) in [("training", names), ("held out", held_out)] {
                let found = self.accuracy(title, &wanted, [&gallery, &training], weights)?;
                accuracies.push((title, found));
            }
        }
        let apart = trained.iter().map(|e| training.nearest(&e.rgb, Some(e)));
        let mut apart: Vec<_> = apart.collect();
        Ok(Report {
            model: self.args.model.model.display().to_string(),
            sampler: self.resolved.scheduler.named.title,
            steps: self.args.steps,
            cfg_scale: self.args.cfg_scale,
            likelihoods,
            accuracies,
            apart: median(&mut apart),
        })
    }

    /// So many of these pictures, drawn by the seed.
    fn drawn<'e>(&self, examples: &'e [Example], count: usize) -> Vec<&'e Example> {
        let mut all: Vec<_> = examples.iter().collect();
        Draw::new(self.args.seed, Purpose::Order, 0).shuffle(&mut all);
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
        self.reporter.remark(&notes::cut_captions(&tokenizer.core()?, texts, length)?);
        Ok(())
    }

    fn likelihood(
        &mut self,
        title: &str,
        schedule: &Schedule<'_>,
        examples: &[&Example],
        weights: &mut dyn Weights,
    ) -> Result<Likelihood> {
        let predictor = Predictor {
            denoiser: Denoiser::of(&self.resolved.networks),
            schedule,
            prediction: self.resolved.scheduler.prediction,
            clip: self.resolved.scheduler.clipping != Clipping::None,
            size: self.resolved.size,
            isa: self.isa,
            executor: self.pool,
            interrupt: &self.interrupt,
        };
        let mut with_ids = Vec::with_capacity(examples.len());
        for &example in examples {
            with_ids.push((example, self.ids(&example.caption.prompt())?));
        }
        let count = self.args.times as usize;
        let total = predictor.evaluations(examples.len(), count) as u64;
        let reporter = &mut self.reporter;
        if total > 0 {
            reporter.begin(&format!("loss, {title}"), total);
        }
        let mut done = 0;
        let mut tell = || {
            done += 1;
            reporter.step(done);
        };
        let found = predictor.likelihood(&with_ids, count, self.args.seed, weights, &mut tell)?;
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
            words.cfg_scale = self.args.cfg_scale;
        }
        let plan = plan::plan_as_it_is(&self.resolved, self.isa, self.pool, weights)?;
        let mut block = Block::new(plan.arena_bytes)?;
        self.reporter.begin(&format!("sampling, {title}"), wanted.len() as u64);
        for (example, number) in wanted.iter().zip(0..) {
            if self.interrupt.pressed() {
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
        let mut cx = Context::new(Arena::new(memory), self.isa, self.pool, weights);
        let mut keep = Keep::default();
        let work = self.resolved.work(number);
        let drawn = work.run(&mut cx, &mut keep, &mut |_| self.interrupt.flow());
        drawn.map_err(|error| explain(error, cx.weight_name()))?;
        Ok(keep.0)
    }
}

/// What was found.
struct Report {
    model: String,
    sampler: &'static str,
    steps: u32,
    cfg_scale: f32,
    likelihoods: Vec<(&'static str, Likelihood)>,
    accuracies: Vec<(&'static str, Accuracy)>,
    /// The median distance of a training picture to the nearest other one.
    apart: f64,
}

impl Accuracy {
    fn share(&self, count: usize) -> f64 {
        count as f64 / self.names.max(1) as f64
    }

    fn distance(&self) -> f64 {
        median(&mut self.distances.clone())
    }
}

impl Report {
    fn json(&self) -> Value {
        let likelihood = |(title, found): &(&str, Likelihood)| {
            json!({ "pictures": title, "count": found.pictures, "loss": found.loss,
                "bits_per_dimension": found.bound })
        };
        let accuracy = |(title, found): &(&str, Accuracy)| {
            json!({ "names": title, "count": found.names,
                "nearest_is_named": found.share(found.nearest),
                "named_among_nearest_5": found.share(found.near),
                "distance_to_training": found.distance() })
        };
        json!({
            "model": self.model, "sampler": self.sampler, "steps": self.steps,
            "cfg_scale": self.cfg_scale,
            "likelihood": self.likelihoods.iter().map(likelihood).collect::<Value>(),
            "samples": self.accuracies.iter().map(accuracy).collect::<Value>(),
            "distance_between_training_pictures": self.apart,
        })
    }

    fn text(&self) -> String {
        let row = |cells: [&str; 4]| cells.map(str::to_string).to_vec();
        let mut rows = vec![row(["pictures", "count", "loss", "bits per dimension"])];
        for (title, found) in self.likelihoods.iter().filter(|(_, found)| found.pictures > 0) {
            let (count, loss) = (found.pictures.to_string(), format!("{:.5}", found.loss));
            rows.push(row([title, &count, &loss, &format!("{:.3}", found.bound)]));
        }
        let mut text = print::table(&rows);
        let Self { sampler, steps, cfg_scale, .. } = self;
        let mut rows = vec![
            ["samples", "names", "nearest is named", "among 5", "distance"]
                .map(str::to_string)
                .to_vec(),
        ];
        for (title, found) in self.accuracies.iter().filter(|(_, found)| found.names > 0) {
            rows.push(vec![
                title.to_string(),
                found.names.to_string(),
                print::percent(found.share(found.nearest)),
                print::percent(found.share(found.near)),
                format!("{:.3}", found.distance()),
            ]);
        }
        if rows.len() > 1 {
            text.push_str(&format!("\n{sampler}, {steps} steps, guidance {cfg_scale}\n"));
            text.push_str(&print::table(&rows));
        }
        text.push_str(&format!(
            "\nDistances are medians to the nearest training picture, 0 to 1; one training\n\
             picture and the nearest other one are {:.3} apart.\n",
            self.apart
        ));
        text
    }
}
