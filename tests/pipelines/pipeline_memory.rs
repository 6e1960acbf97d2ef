//! Whole pipelines, with every sampler: planned bytes are the peak of the run, one byte less is an
//! error, neither dirty memory nor the number of threads changes a bit, and what can be refused is
//! refused by the plan.

use std::ops::ControlFlow;
use std::path::PathBuf;

use mote::arch::Isa;
use mote::diffusion::prediction::Clipping;
use mote::diffusion::sampler::{HISTORY, Named, Row, SAMPLERS, Slot};
use mote::exec::{Executor, Sequential};
use mote::mem::{Arena, Plan};
use mote::ops::Context;
use mote::pipeline::ImageSink;
use mote::progress::{Progress, Stage};
use mote::tensor::Shape;
use mote::weights::{Weight, Weights};
use mote::{Error, Result};
use mote_host::checkpoint::weight_files::WeightFiles;
use mote_host::config::scheduler;
use mote_host::executor::Pool;
use mote_host::resolve::{self, Networks, Resolved, Words};
use mote_host::table::table;
use mote_host::types::{Prediction, Seed};
use mote_host::{Parts, Place, Request};
use mote_tests::cases::pipeline;
use mote_tests::{Memory, best_isa, golden};

/// More than any of these pipelines needs.
const PLENTY: usize = 64 << 20;

/// A model, and what of it is taken from elsewhere.
#[derive(Clone)]
struct Model(Place, Parts);

impl Model {
    fn resolve(&self, request: &Request) -> mote_host::Result<Resolved> {
        resolve::resolve(&self.0, &self.1, request)
    }
}

fn model(path: &str) -> Model {
    Model(Place::model(&pipeline(path)).unwrap(), Parts::default())
}

/// The shared model with a tiny autoencoder.
fn with_taesd() -> Model {
    let taesd = Some(golden("networks/tiny-base"));
    Model(model("shared-sd").0, Parts { taesd, ..Parts::default() })
}

fn request() -> Request {
    Request { seed: Seed::Given(3), steps: 4, ..Request::default() }
}

fn words() -> Resolved {
    let request = Request { prompt: Some("a cat".into()), ..request() };
    model("shared-sd").resolve(&request).unwrap()
}

fn init_img() -> Option<PathBuf> {
    Some(pipeline("sd-heun/expected_0.png"))
}

/// The words of a resolved pipeline that knows some.
fn words_of(resolved: &mut Resolved) -> &mut Words {
    match &mut resolved.networks {
        Networks::TextToImage(words) => words,
        Networks::Unconditional { .. } => panic!("this model knows no text"),
    }
}

/// What came out, and what was reported on the way.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    size: [usize; 2],
    rgb: Vec<u8>,
    has_ended: bool,
    samples: Vec<Vec<u32>>,
    stages: Vec<(Stage, usize, usize)>,
}

impl ImageSink for Outcome {
    fn begin(&mut self, width: usize, height: usize) -> Result<()> {
        self.size = [height, width];
        Ok(())
    }

    fn row(&mut self, rgb: &[u8]) -> Result<()> {
        self.rgb.extend_from_slice(rgb);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.has_ended = true;
        Ok(())
    }
}

fn plan(
    resolved: &Resolved,
    isa: Isa,
    executor: &dyn Executor,
    weights: &mut dyn Weights,
) -> Result<Plan> {
    let mut cx = Context::new(Arena::measuring(), isa, executor, weights);
    resolved.work(0).plan(&mut cx)
}

/// Runs a pipeline in so many bytes and tells the peak. The arena is empty afterwards.
fn run(
    resolved: &Resolved,
    [bytes, dirt]: [usize; 2],
    executor: &dyn Executor,
    weights: &mut dyn Weights,
) -> Result<(usize, Outcome)> {
    let mut memory = Memory::dirty(bytes, dirt as u8);
    let mut cx = Context::new(Arena::new(memory.bytes()), best_isa(), executor, weights);
    let (mut samples, mut stages) = (Vec::new(), Vec::new());
    let mut outcome = Outcome::default();
    let mut watch = |progress: Progress<'_>| {
        stages.push((progress.stage, progress.done, progress.total));
        if progress.stage == Stage::Unet {
            samples.push(progress.values.iter().map(|value| value.to_bits()).collect());
        }
        ControlFlow::Continue(())
    };
    let result = resolved.work(0).run(&mut cx, &mut outcome, &mut watch);
    assert_eq!(cx.arena().top(), 0, "a run leaves nothing behind, whether it fails or not");
    result.map(|()| (cx.arena().peak(), Outcome { samples, stages, ..outcome }))
}

/// A pipeline needs exactly what its plan says, and makes the same picture everywhere.
fn check(what: &str, resolved: &Resolved) {
    let model = WeightFiles::open(&resolved.places).unwrap();
    let check = |weights: &mut dyn Weights| {
        let mut first = None;
        for (threads, dirt) in [(1, 0x00), (2, 0xFF), (3, 0x7F), (7, 0xAA)] {
            let executor = Pool::new(threads).unwrap();
            let plan = plan(resolved, best_isa(), &executor, weights)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let planned = plan.arena_bytes;
            let (peak, outcome) = run(resolved, [planned, dirt], &executor, weights)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(peak, planned, "{what}: planned bytes are peak bytes");
            assert!(outcome.has_ended, "{what}");
            assert_eq!(outcome.rgb.len(), 3 * outcome.size[0] * outcome.size[1], "{what}");
            assert_eq!(outcome.samples.len(), resolved.table.rows.len(), "{what}");
            if let Some(first) = &first {
                assert!(*first == outcome, "{what}: {threads} threads, {dirt:#x} change nothing");
                continue;
            }
            let error = run(resolved, [planned - 1, dirt], &executor, weights).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory { .. }), "{what}: {error:?}");
            first = Some(outcome);
        }
    };
    model.with_weights(check);
}

/// Checks a pipeline with every sampler but these.
fn check_samplers(model: &Model, request: &Request, without: &[&str]) {
    let folder = model.0.path().display();
    for named in SAMPLERS.iter().filter(|named| !without.contains(&named.name)) {
        let name = named.name;
        let request = Request { sampling_method: Some(named), ..request.clone() };
        let resolved = model.resolve(&request);
        let resolved = resolved.unwrap_or_else(|error| panic!("{folder}, {name}: {error}"));
        check(&format!("{folder}, {name}"), &resolved);
    }
}

#[test]
fn pictures_from_noise_take_what_is_planned() {
    // PNDM knows no network that predicts the sample, as this one does.
    let request = Request { prediction: Some(Prediction::Eps), ..request() };
    check_samplers(&model("ddim-eta-batch-2/model"), &request, &[]);
}

#[test]
fn pictures_from_words_take_what_is_planned() {
    let request = Request { prompt: Some("a red house".into()), ..request() };
    check_samplers(&model("shared-sd"), &request, &[]);
}

#[test]
fn pictures_from_pictures_take_what_is_planned() {
    let (prompt, init_img) = (Some("a red house".into()), init_img());
    let strength = Some(0.7);
    let request = Request { prompt, init_img, strength, steps: 5, ..request() };
    // PNDM's Runge-Kutta start cannot begin in the middle, and this scheduler wants it.
    check_samplers(&model("shared-sd"), &request, &["pndm"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    std::fs::write(&path, r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": true}"#).unwrap();
    let request = Request { sampling_method: Named::by_name("ddim"), ..request };
    let mut resolved = model("shared-sd").resolve(&request).unwrap();
    resolved.scheduler = scheduler::read(&path, None).unwrap();
    resolved.table = table(&resolved.scheduler, request.steps as usize, strength).unwrap();
    check("PNDM from the middle", &resolved);
}

#[test]
fn a_learned_variance_and_thresholding_are_part_of_the_plan() {
    let model = model("ddpm-v-learned-range/model");
    let mut resolved = model.resolve(&request()).unwrap();
    assert!(resolved.table.rows.iter().any(|row| row.learned_log_variance.is_some()));
    assert!(resolved.scheduler.clipping.needs_scratch());
    check("learned variance, thresholding", &resolved);
    resolved.scheduler.clipping = Clipping::None;
    check("learned variance", &resolved);
    // One row draws noise and uses the variance, a later one draws noise alone.
    resolved.table.rows[1].learned_log_variance = None;
    assert!(resolved.table.rows[0].draws_noise && resolved.table.rows[1].draws_noise);
    check("a variance at the first row", &resolved);
}

#[test]
fn guidance_layers_left_out_and_tiny_autoencoders_are_part_of_the_plan() {
    let tiny = with_taesd();
    for (model, init_img) in [(model("shared-sd"), None), (tiny.clone(), None), (tiny, init_img())]
    {
        for (cfg_scale, clip_skip) in [(Some(1.0), None), (Some(1.0), Some(2)), (None, Some(2))] {
            let prompt = Some("a cat".into());
            let (init_img, size) = (init_img.clone(), [Some(40), Some(24)]);
            let [width, height] = size;
            let request =
                Request { prompt, init_img, cfg_scale, clip_skip, width, height, ..request() };
            let resolved = model.resolve(&request).unwrap();
            check(&format!("scale {cfg_scale:?}, skip {clip_skip:?}"), &resolved);
        }
    }
}

#[test]
fn tiles_are_part_of_the_plan_and_take_less() {
    let tiny = with_taesd();
    // The tiny autoencoder makes 8x8 pixels of a latent, the other one 4x4.
    for (model, tile, [width, height]) in
        [(model("shared-sd"), 4, [40, 24]), (model("shared-sd"), 4, [64, 16]), (tiny, 8, [96, 80])]
    {
        let (prompt, init_img) = (Some("a cat".into()), None);
        let [width, height] = [Some(width), Some(height)];
        let mut request = Request { prompt, init_img, width, height, steps: 1, ..request() };
        let decoder_bytes = |resolved: &Resolved| {
            let model = WeightFiles::open(&resolved.places).unwrap();
            let plan = |weights: &mut dyn Weights| plan(resolved, best_isa(), &Sequential, weights);
            model.with_weights(plan).unwrap().phases.last().unwrap().arena_bytes
        };
        let whole = decoder_bytes(&model.resolve(&request).unwrap());
        request.vae_tiling = true;
        request.vae_tile_size = Some(tile);
        let tiled = model.resolve(&request).unwrap();
        assert!(decoder_bytes(&tiled) < whole, "{width:?} by {height:?}");
        check(&format!("tiles, {width:?} by {height:?}"), &tiled);
    }
}

#[test]
fn what_cannot_be_run_is_refused_by_the_plan_with_the_same_error() {
    let refused = |what: &str, change: &dyn Fn(&mut Resolved)| {
        let mut resolved = words();
        change(&mut resolved);
        let model = WeightFiles::open(&resolved.places).unwrap();
        let errors = |weights: &mut dyn Weights| {
            let planned = plan(&resolved, best_isa(), &Sequential, weights).unwrap_err();
            let found = run(&resolved, [PLENTY, 0], &Sequential, weights).unwrap_err();
            assert_eq!(planned, found, "{what}");
            planned
        };
        model.with_weights(errors)
    };
    let is_config = |what, change: &dyn Fn(&mut Resolved)| {
        let error = refused(what, change);
        assert!(matches!(error, Error::Config { .. }), "{what}: {error:?}");
    };
    is_config("no rows", &|r| r.table.rows.clear());
    is_config("no height", &|r| r.size[0] = 0);
    is_config("an odd width", &|r| r.size[1] += 1);
    is_config("a tile without whole seams", &|r| words_of(r).vae_tile = Some(6));
    is_config("a clip of NaN", &|r| r.scheduler.clipping = Clipping::Clip { range: f32::NAN });
    let update = |r: &mut Resolved, change: &dyn Fn(&mut Row)| change(&mut r.table.rows[1]);
    is_config("noise not drawn", &|r| update(r, &|row| row.updates[0].noise = 1.0));
    is_config("a slot not written", &|r| update(r, &|row| row.updates[0].history[4] = 1.0));
    is_config("a slot that is not there", &|r| {
        update(r, &|row| row.updates[0].into = Slot::History(HISTORY as u8));
    });
    let error = refused("too many layers left out", &|r| words_of(r).clip_skip = 99);
    assert!(matches!(error, Error::Index { what: "clip skip", .. }), "{error:?}");
    let error = refused("a token without a vector", &|r| words_of(r).prompt[3] = 1 << 30);
    assert!(matches!(error, Error::Index { what: "token", .. }), "{error:?}");
    let error = refused("a token too many", &|r| words_of(r).prompt.push(0));
    assert!(matches!(error, Error::Capacity { what: "tokens", .. }), "{error:?}");
    let error = refused("weights of another number", &|r| {
        words_of(r).token_weights = Some([vec![1.0; 9], vec![1.0; 9]]);
    });
    assert!(matches!(error, Error::Shape { what: "the tokens' weights", .. }), "{error:?}");
}

#[test]
fn prompts_of_any_two_lengths_take_what_is_planned() {
    let check_changed = |what: &str, change: &dyn Fn(&mut Words)| {
        let mut resolved = words();
        change(words_of(&mut resolved));
        check(what, &resolved);
    };
    let long = |ids: &[u32]| [ids, ids, ids].concat();
    check_changed("a short prompt", &|words| words.prompt.truncate(9));
    check_changed("a short negative prompt", &|words| words.negative_prompt.truncate(9));
    check_changed("a long prompt", &|words| words.prompt = long(&words.prompt));
    check_changed("a long negative prompt, weighed", &|words| {
        words.negative_prompt = long(&words.negative_prompt);
        let weights = [&words.prompt, &words.negative_prompt].map(|ids| vec![1.5; ids.len()]);
        words.token_weights = Some(weights);
    });
}

#[test]
fn a_run_can_be_cancelled_whenever_it_reports() {
    let resolved = words();
    let model = WeightFiles::open(&resolved.places).unwrap();
    let cancel = |weights: &mut dyn Weights| {
        let (_, outcome) = run(&resolved, [PLENTY, 0], &Sequential, weights).unwrap();
        for at in 0..outcome.stages.len() {
            let mut memory = Memory::dirty(PLENTY, 0);
            let (mut left, mut sink) = (at, Outcome::default());
            let arena = Arena::new(memory.bytes());
            let mut cx = Context::new(arena, best_isa(), &Sequential, weights);
            let mut watch = |_: Progress<'_>| match left {
                0 => ControlFlow::Break(()),
                _ => {
                    left -= 1;
                    ControlFlow::Continue(())
                }
            };
            let error = resolved.work(0).run(&mut cx, &mut sink, &mut watch).unwrap_err();
            assert_eq!((error, cx.arena().top()), (Error::Cancelled, 0));
            assert_eq!(sink, Outcome::default(), "a cancelled run draws nothing");
        }
        outcome.stages
    };
    let rows = resolved.table.rows.len();
    let unet = (1..=rows).map(|done| (Stage::Unet, done, rows));
    let expected = [(Stage::TextEncoder, 1, 2), (Stage::TextEncoder, 2, 2)].into_iter().chain(unet);
    let stages = model.with_weights(cancel);
    assert_eq!(stages, expected.chain([(Stage::Decoder, 1, 1)]).collect::<Vec<_>>());
}

/// Weights of which some are not numbers.
struct Damaged<'a> {
    weights: &'a mut dyn Weights,
    prefix: &'static str,
    found: Option<Weight>,
}

impl Weights for Damaged<'_> {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let weight = self.weights.find(name, expected)?;
        if name.starts_with(self.prefix) && name.ends_with("bias") {
            self.found = weight;
        }
        Ok(weight)
    }

    fn contains(&mut self, name: &str) -> bool {
        self.weights.contains(name)
    }

    fn is_staged(&self) -> bool {
        true
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        if self.found == Some(*weight) {
            staging[..len].fill(0xFF);
            return Ok(&staging[..len]);
        }
        self.weights.read(weight, start, len, staging)
    }
}

#[test]
fn what_is_no_number_is_found_before_it_is_drawn() {
    let resolved = words();
    for (prefix, what) in [
        ("text_encoder", "the text encoder's output"),
        ("unet", "the sample"),
        ("vae", "the picture"),
    ] {
        let model = WeightFiles::open(&resolved.places).unwrap();
        let run = |weights: &mut dyn Weights| {
            let mut damaged = Damaged { weights, prefix, found: None };
            run(&resolved, [PLENTY, 0], &Sequential, &mut damaged)
        };
        let error = model.with_weights(run).unwrap_err();
        assert_eq!(error, Error::NotFinite { what }, "{prefix}");
    }
}
