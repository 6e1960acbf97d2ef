//! A packed model drawn step by step, for hosts that cannot wait for a whole picture in one call:
//! firmware, other languages.
//!
//! [`Model`] is the file, [`Request`] what is wanted, [`Session`] the run: it keeps all it knows
//! between two steps in itself and in the memory it was given, and does what
//! [`TextToImage`] and [`Unconditional`] do, so that a picture is the same to the bit.
#![allow(clippy::result_large_err, reason = "a fault names a weight, and there is no allocator")]

use super::image::quantised;
use super::kit::{AnyModel, Kit};
use super::latents;
use super::needs::Needs;
use super::recipe::{self, Networks, Recipe, Scheduler};
use super::sampling::Sampling;
use super::stages::{Kept, Place};
use super::text_to_image::TextToImage;
use super::unconditional::Unconditional;
use super::work::Work;
use crate::diffusion::noise::NoiseKind;
use crate::diffusion::sampler::{Row, Stepping};
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::mem::{Arena, Plan, floats_of_mut};
use crate::models::unet_2d::ClassEmbedding;
use crate::ops::{Context, Cpu};
use crate::weights::checksum;
use crate::weights::{CHECKSUM, InPlace, Index, Name, Slot, Unindexed, Weights, header_bytes};

use core::fmt;
use core::marker::PhantomData;

/// A packed model: one file, as `mote convert` writes it, whose bytes are all at hand.
///
/// `K` is what the program can draw with.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a, K = AnyModel> {
    file: &'a [u8],
    header: &'a [u8],
    recipe: &'a [u8],
    kit: PhantomData<K>,
}

/// What is to be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The class, where the model knows classes.
    pub class_label: Option<u32>,
    /// The prompt's token ids, with begin, end and padding, where the model takes a text.
    pub prompt: &'a [u32],
    /// The negative (or empty) prompt's token ids, as many; not looked at without guidance.
    pub negative_prompt: &'a [u32],
    /// How strongly the prompt is followed; at 1 or less there is no guidance.
    pub guidance_scale: f32,
    /// How many of the text encoder's last layers are left out.
    pub clip_skip: usize,
    /// Decodes in tiles of so many latents a side.
    pub vae_tile: Option<usize>,
    /// Height and width in pixels; `None`: as the model was trained.
    pub size: Option<[usize; 2]>,
    /// The sampler's number (see [`Named`](crate::diffusion::sampler::Named)); `None`: the model's
    /// own.
    pub sampler: Option<usize>,
    /// Steps of the sampler.
    pub steps: usize,
    /// Which generator the noise comes from.
    pub noise: NoiseKind,
    /// Its seed.
    pub seed: u64,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            class_label: None,
            prompt: &[],
            negative_prompt: &[],
            guidance_scale: 7.0,
            clip_skip: 0,
            vae_tile: None,
            size: None,
            sampler: None,
            steps: 20,
            noise: NoiseKind::Pcg,
            seed: 0,
        }
    }
}

/// An error, and the weight that it concerns, if it concerns one.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What happened.
    pub error: Error,
    /// The weight asked for last.
    pub weight: Name,
}

impl Fault {
    fn new(error: Error, weight: &str) -> Self {
        let concerns = matches!(
            error,
            Error::MissingWeight
                | Error::WeightShape { .. }
                | Error::WeightDtype { .. }
                | Error::WeightRead
        );
        let name = if concerns { weight } else { "" };
        Self { error, weight: Name::try_from(name).unwrap_or_default() }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::new(error, "")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight.is_empty() {
            true => write!(f, "{}", self.error),
            false => write!(f, "{}: {}", self.weight, self.error),
        }
    }
}

impl core::error::Error for Fault {}

impl<'a> Model<'a> {
    /// Opens a packed file and checks its checksum, which takes one pass over its bytes.
    ///
    /// # Errors
    /// [`Error::Format`] where it is no such file, or any of its bytes has changed.
    pub fn open(file: &'a [u8]) -> Result<Self> {
        let json = header_bytes(file, file.len() as u64)?;
        let ends = Error::Format { what: "the file ends inside its header", at: json.start };
        let header = file.get(json).ok_or(ends)?;
        let found = Index::search(header, file.len() as u64, recipe::TENSOR)?;
        let what = "the file holds no recipe: it was not packed by this version of mote";
        let tensor = found.ok_or(Error::Format { what, at: 0 })?;
        let begin = tensor.begin as usize;
        let cut = Error::Format { what: "the file ends inside its recipe", at: begin };
        let recipe = file.get(begin..).and_then(|rest| rest.get(..tensor.bytes)).ok_or(cut)?;
        let found = Index::search(header, file.len() as u64, CHECKSUM)?;
        let none = Error::Format { what: "the file holds no checksum", at: 0 };
        checksum::verify(file, found.ok_or(none)?)?;
        Ok(Self { file, header, recipe, kit: PhantomData })
    }

    /// The same model, to be drawn with what is in another kit, and nothing else.
    pub fn with_kit<K: Kit>(self) -> Model<'a, K> {
        let Self { file, header, recipe, .. } = self;
        Model { file, header, recipe, kit: PhantomData }
    }
}

impl<'a, K: Kit> Model<'a, K> {
    /// The configurations, with the settings of the sampler of this number; `None`: the model's
    /// own.
    ///
    /// # Errors
    /// [`Error::Format`] where they are not as they should be, and [`Error::Config`] where the
    /// networks are not in the kit.
    pub fn recipe(&self, sampler: Option<usize>) -> Result<Recipe<K::Sampler>> {
        Recipe::read_for::<K>(self.recipe, sampler)
    }

    /// How many tensors the file holds: [`Session::begin`] wants as many slots.
    ///
    /// # Errors
    /// [`Error::Format`].
    pub fn tensors(&self) -> Result<usize> {
        Index::count(self.header)
    }

    /// How many rows the sampler's table has at most, and how many training times the schedule.
    ///
    /// # Errors
    /// [`Error::Format`], and [`Error::Config`] where there is no such sampler.
    pub fn table(&self, request: &Request<'_>) -> Result<[usize; 2]> {
        let recipe = self.recipe(request.sampler)?;
        let Scheduler { sampler, schedule, .. } = recipe.scheduler()?;
        Ok([sampler.row_count(request.steps, 0), schedule.num_train_timesteps])
    }

    /// What a run on `cpu` will need, phase by phase too, and the picture's height and width.
    /// `rows` is room for the sampler's table, `scratch` for one number a training time (see
    /// [`Model::table`]).
    ///
    /// # Errors
    /// Every error that a run would meet, but for those of values that are no numbers; and
    /// [`Error::Capacity`] where `rows` or `scratch` is too short, which says how long it must be.
    pub fn plan(
        &self,
        request: &Request<'_>,
        cpu: impl Into<Cpu<'a>>,
        rows: &mut [Row],
        scratch: &mut [f32],
    ) -> Result<(Needs, Plan, [usize; 2]), Fault> {
        let recipe = self.recipe(request.sampler)?;
        let table = Table::<K>::new(&recipe, request, rows, scratch)?;
        let mut weights = Unindexed::new(self.header, self.file.len() as u64);
        let run = Run { networks: &recipe.networks, request, table: &table };
        run.plan(self, cpu.into(), &mut weights)
    }
}

/// A sampler's table and what goes with it.
#[derive(Clone, Copy, Debug)]
struct Table<'a, K: Kit> {
    rows: &'a [Row],
    init_noise_sigma: f32,
    scheduler: Scheduler<K::Sampler>,
}

impl<'a, K: Kit> Table<'a, K> {
    fn new(
        recipe: &Recipe<K::Sampler>,
        request: &Request<'_>,
        rows: &'a mut [Row],
        scratch: &mut [f32],
    ) -> Result<Self> {
        let scheduler = *recipe.scheduler()?;
        let schedule = Schedule::new(scheduler.schedule, scratch)?;
        let Scheduler { sampler, prediction, .. } = scheduler;
        let count = sampler.rows(&schedule, prediction, request.steps, 0, rows)?;
        let init_noise_sigma = sampler.init_noise_sigma(&schedule, request.steps)?;
        Ok(Self { rows: &rows[..count], init_noise_sigma, scheduler })
    }
}

/// A request with the networks that serve it.
struct Run<'a, K: Kit> {
    networks: &'a Networks,
    request: &'a Request<'a>,
    table: &'a Table<'a, K>,
}

impl<'a, K: Kit> Run<'a, K> {
    fn sampling(&self) -> Sampling<'a> {
        Sampling {
            rows: self.table.rows,
            init_noise_sigma: self.table.init_noise_sigma,
            clipping: self.table.scheduler.clipping,
            guidance_scale: match self.networks {
                Networks::Unconditional(_) => 1.0,
                Networks::TextToImage { .. } => self.request.guidance_scale,
            },
            noise: self.request.noise,
            seed: self.request.seed,
        }
    }

    fn work(&self) -> Result<Work<'a>> {
        let (sampling, request) = (self.sampling(), self.request);
        let unsized_model = Error::Config { key: "sample_size", what: "is not known: give a size" };
        match self.networks {
            Networks::Unconditional(unet) => {
                if let (ClassEmbedding::Table(limit), Some(label)) =
                    (unet.class_embedding, request.class_label)
                    && label as usize >= limit
                {
                    return Err(Error::Index { what: "class", index: label as usize, limit });
                }
                let size = request.size.or(unet.sample_size).ok_or(unsized_model)?;
                let class_label = request.class_label.map(|label| label as f32);
                Ok(Work::Unconditional(Unconditional { unet, sampling, size, class_label }))
            }
            Networks::TextToImage { text_encoder, unet, vae } => {
                let scale = latents::scale(vae.as_ref(), unet);
                let scale = |sides: [usize; 2]| sides.map(|side| side.saturating_mul(scale));
                let trained = unet.sample_size.map(scale);
                Ok(Work::TextToImage(TextToImage {
                    text_encoder,
                    unet,
                    vae: vae.as_ref(),
                    vae_tile: request.vae_tile,
                    sampling,
                    prompt: request.prompt,
                    negative_prompt: request.negative_prompt,
                    clip_skip: request.clip_skip,
                    embedded_guidance: None,
                    token_weights: None,
                    size: request.size.or(trained).ok_or(unsized_model)?,
                    init_image: None,
                }))
            }
        }
    }

    fn plan(
        &self,
        model: &Model<'_, K>,
        cpu: Cpu<'_>,
        weights: &mut dyn Weights,
    ) -> Result<(Needs, Plan, [usize; 2]), Fault> {
        let work = self.work()?;
        let mut cx = Context::new(Arena::measuring(), cpu.isa, cpu.executor, weights);
        let planned = work.plan_with::<K>(&mut cx);
        let plan = planned.map_err(|error| Fault::new(error, cx.weight_name()))?;
        // The schedule is computed in the same memory, before anything else is there.
        let schedule = self.table.scheduler.schedule.num_train_timesteps * size_of::<f32>();
        let needs = Needs {
            model_bytes: model.file.len(),
            arena_bytes: plan.arena_bytes.max(schedule),
            tensors: model.tensors()?,
            rows: self.table.scheduler.sampler.row_count(self.request.steps, 0),
        };
        Ok((needs, plan, work.size()))
    }
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before this step of the pipeline, of which so many calls are done.
    Step { place: Place, done: usize },
    /// The picture is there, and this row of pixels is the next.
    Picture(usize),
    /// A step has failed.
    Failed,
}

/// One picture on its way.
///
/// ```no_run
/// # fn send(_row: &[u8]) {}
/// # fn file() -> &'static [u8] { &[] }
/// use mote::arch::Isa;
/// use mote::diffusion::sampler::Row;
/// use mote::mem::Aligned;
/// use mote::pipeline::{Model, Request, Session};
/// use mote::weights::Slot;
///
/// // In firmware these are `static`, of the sizes that `mote plan --rust` writes down.
/// let (mut rows, mut slots) = ([Row::EMPTY; 20], [Slot::EMPTY; 200]);
/// let mut arena = Aligned([0; 65_536]);
///
/// let model = Model::open(file())?;
/// let request = Request { class_label: Some(3), seed: 42, ..Request::default() };
/// let isa = Isa::compiled();
/// let mut session = Session::begin(model, request, isa, &mut rows, &mut slots, &mut arena.0)?;
/// while session.step()? {}
/// let mut row = [0; 3 * 16];
/// while session.row(&mut row)? {
///     send(&row);
/// }
/// # Ok::<(), mote::pipeline::Fault>(())
/// ```
#[derive(Debug)]
pub struct Session<'a, K: Kit = AnyModel> {
    memory: &'a mut [u8],
    weights: InPlace<'a>,
    state: State<'a, K>,
    cpu: Cpu<'a>,
    needs: Needs,
    size: [usize; 2],
}

/// What a session knows beside its memory.
#[derive(Debug)]
struct State<'a, K: Kit> {
    networks: Networks,
    request: Request<'a>,
    table: Table<'a, K>,
    at: At,
    kept: Kept,
    /// How many calls of [`Session::step`] a picture takes.
    calls: usize,
    /// The arena's top between two steps.
    top: usize,
}

impl<'a, K: Kit> Session<'a, K> {
    /// Checks and plans everything; nothing is drawn yet. `cpu` is an instruction set, for one
    /// thread, or both with threads. `rows`, `slots` and `memory` are at least
    /// what the plan says, `memory` aligned to [`ALIGNMENT`](crate::mem::ALIGNMENT).
    ///
    /// # Errors
    /// As [`Model::plan`], and [`Error::OutOfMemory`] where `memory` is too short.
    ///
    /// # Panics
    /// Where `memory` is not so aligned.
    pub fn begin(
        model: Model<'a, K>,
        request: Request<'a>,
        cpu: impl Into<Cpu<'a>>,
        rows: &'a mut [Row],
        slots: &'a mut [Slot],
        memory: &'a mut [u8],
    ) -> Result<Self, Fault> {
        let (cpu, recipe) = (cpu.into(), model.recipe(request.sampler)?);
        let table = {
            let whole = memory.len() / size_of::<f32>() * size_of::<f32>();
            let scratch = match whole {
                0 => &mut [][..],
                _ => floats_of_mut(&mut memory[..whole]),
            };
            Table::<K>::new(&recipe, &request, rows, scratch)?
        };
        let index = Index::parse(model.header, model.file.len() as u64, slots)?;
        let mut weights = InPlace::new(index, model.file);
        let networks = recipe.networks;
        let run = Run { networks: &networks, request: &request, table: &table };
        let (needs, _, size) = run.plan(&model, cpu, &mut weights)?;
        let (needed, limit) = (needs.arena_bytes, memory.len());
        if needed > limit {
            return Err(Error::OutOfMemory { needed, limit }.into());
        }
        let (kept, calls) = {
            let work = run.work()?;
            (work.kept(0), work.calls::<K>())
        };
        let at = At::Step { place: Place::default(), done: 0 };
        let state = State { networks, request, table, at, kept, calls, top: 0 };
        Ok(Self { memory, weights, cpu, state, needs, size })
    }

    /// What the plan said.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Height and width of the picture, in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// How many calls of [`Session::step`] a picture takes: one before the first row of the
    /// sampler's table, one for each row, one for the decoder.
    pub fn steps(&self) -> usize {
        self.state.calls
    }

    /// How many of them are done.
    pub fn done(&self) -> usize {
        match self.state.at {
            At::Failed => 0,
            At::Step { done, .. } => done,
            At::Picture(_) => self.steps(),
        }
    }

    /// Does the next part of the work and tells whether more is left.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where a network yields what is no number, [`Error::Index`] where there
    /// is no such token. After an error, every further call is [`Error::Cancelled`].
    pub fn step(&mut self) -> Result<bool, Fault> {
        let Self { memory, weights, cpu, state, .. } = self;
        if state.at == At::Failed {
            return Err(Error::Cancelled.into());
        }
        let arena = Arena::resume(memory, state.top);
        let mut cx = Context::new(arena, cpu.isa, cpu.executor, weights);
        match state.advance(&mut cx) {
            Ok(()) => {
                state.top = cx.arena().top();
                Ok(!matches!(state.at, At::Picture(_)))
            }
            Err(error) => {
                state.at = At::Failed;
                Err(Fault::new(error, cx.weight_name()))
            }
        }
    }

    /// Writes the next row of pixels from the top, `3·width` bytes of red, green and blue; `false`:
    /// there is none left.
    ///
    /// # Errors
    /// [`Error::Capacity`] where `out` is too short, [`Error::Cancelled`] before the picture is
    /// there.
    pub fn row(&mut self, out: &mut [u8]) -> Result<bool> {
        let (At::Picture(row), Some(image)) = (self.state.at, self.state.kept.x) else {
            return Err(Error::Cancelled);
        };
        let [_, height, width, channels] = image.dims("the picture")?;
        if row == height {
            return Ok(false);
        }
        let (needed, limit) = (3 * width, out.len());
        let short = Error::Capacity { what: "a row's bytes", needed, limit };
        let out = out.get_mut(..needed).ok_or(short)?;
        let arena = Arena::resume(self.memory, self.state.top);
        let pixels = arena.read(image)[row * width * channels..].chunks_exact(channels);
        for (rgb, pixel) in out.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
            *rgb = core::array::from_fn(|i| quantised(pixel[i.min(channels - 1)]));
        }
        self.state.at = At::Picture(row + 1);
        Ok(true)
    }
}

impl<K: Kit> State<'_, K> {
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let (mut place, done) = match self.at {
            At::Step { place, done } => (place, done),
            At::Picture(_) => return Ok(()),
            At::Failed => return Err(Error::Cancelled),
        };
        let run = Run { networks: &self.networks, request: &self.request, table: &self.table };
        let (work, kept) = (run.work()?, &mut self.kept);
        self.at = match work.advance::<K>(cx, &mut place, kept)? {
            true => At::Step { place, done: done + 1 },
            false => At::Picture(0),
        };
        Ok(())
    }
}
