//! A model that is open, plans with it, and pictures: the way from a folder to pixels.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;

use mote::mem::{Arena, Phase};
use mote::ops::{Context, Event};
use mote::progress::Progress;
use mote::weights::Weights;

use crate::checkpoint::place::Place;
use crate::convert;
use crate::error::Result;
use crate::explain::explain;
use crate::image::parameters::Parameters;
use crate::image::sink::{Adapter, Sink};
use crate::lora::Source;
use crate::machine::Machine;
use crate::machine::memory::Block;
use crate::plan;
use crate::progress::{Reporter, Silent};
use crate::request::{Parts, Request};
use crate::resolve::{self, Resolved};
use crate::stop::Stop;

/// Sees how far a picture is, and may end it.
pub trait Watch {
    /// An evaluation of a network has ended, or a row of the sampler's table.
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()>;

    /// An op has ended.
    fn op_ended(&mut self, _event: &Event<'_>) {}
}

impl<F: FnMut(&Progress<'_>) -> ControlFlow<()>> Watch for F {
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        self(progress)
    }
}

/// A model: a folder or a file, and what of it is taken from elsewhere. Its weights are mapped
/// once, when the first plan asks for them, and serve every plan and picture.
#[derive(Debug)]
pub struct Model {
    place: Place,
    parts: Parts,
    files: OnceLock<Source>,
    /// Set once a packed file was compared with its checksum.
    verified: OnceLock<()>,
    /// The weights in the type that was asked for, where the files have another: those that a
    /// picture from noise takes, and those that one from a picture takes.
    converted: [OnceLock<Source>; 2],
}

impl Model {
    /// The model at `place`; its files are opened when they are needed.
    pub fn new(place: &Place, parts: &Parts) -> Self {
        let (files, verified, converted) = Default::default();
        Self { place: place.clone(), parts: parts.clone(), files, verified, converted }
    }

    /// The model at `path`: a folder in diffusers' layout, a file that `mote convert` wrote, or a
    /// checkpoint in one file with its configurations in [`Parts::config`].
    ///
    /// # Errors
    /// Where it is a packed file that cannot be used.
    pub fn open(path: impl AsRef<Path>, parts: &Parts) -> Result<Self> {
        let place = Place::model_with(path.as_ref(), parts.config.as_deref())?;
        Ok(Self::new(&place, parts))
    }

    /// Compares a packed file with its checksum, once, where that takes but milliseconds. What
    /// draws does so by itself.
    ///
    /// # Errors
    /// Where they differ.
    pub fn verify(&self) -> Result<()> {
        let verify = || self.place.packed().map_or(Ok(()), |packed| packed.verify_if_small());
        kept(&self.verified, verify).copied()
    }

    /// Where it lies.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Plans what is asked for.
    ///
    /// # Errors
    /// Where the model is not what its configurations say, or cannot do what is asked.
    pub fn plan<'a>(&'a self, request: &Request, machine: &'a Machine) -> Result<Plan<'a>> {
        let mut resolved = resolve::resolve(&self.place, &self.parts, request)?;
        let files = kept(&self.files, || {
            let source = Source::open(&resolved.places, &self.parts.loras)?;
            Ok(source.with_words(&resolved.words, &resolved.token_widths()))
        })?;
        resolved.notes.extend_from_slice(files.notes());
        if let Some(own) = files.dtype() {
            // What is added is added on the way into another type, or into the same.
            (resolved.dtype, resolved.converts) = (Some(resolved.dtype.unwrap_or(own)), true);
        }
        let plan = files.with_weights(|weights| plan::plan(&resolved, machine, weights))?;
        let pictures = request.batch_count;
        Ok(Plan { model: self, machine, files, resolved, plan, pictures })
    }
}

/// What is in `cell`, or comes of `make` and is then kept there.
fn kept<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(found) = cell.get() {
        return Ok(found);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}

/// What a picture takes, known before it is drawn; and who draws it.
pub struct Plan<'a> {
    model: &'a Model,
    machine: &'a Machine,
    files: &'a Source,
    resolved: Resolved,
    plan: mote::mem::Plan,
    pictures: u32,
}

impl Plan<'_> {
    /// The bytes of memory that each picture takes, beside the weights, which stay in their files.
    pub fn bytes(&self) -> usize {
        self.plan.arena_bytes
    }

    /// What each network takes, in the order in which a picture meets them.
    pub fn phases(&self) -> &[Phase] {
        &self.plan.phases
    }

    /// The core's plan.
    pub fn core(&self) -> &mote::mem::Plan {
        &self.plan
    }

    /// Everything about the pictures but the weights.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// How many pictures were asked for.
    pub fn pictures(&self) -> u32 {
        self.pictures
    }

    /// What of the request has no effect, or is not all taken: sentences without their full stop.
    pub fn notes(&self) -> &[String] {
        &self.resolved.notes
    }

    /// How picture `index` is made, in the words that web UIs write into a picture.
    pub fn parameters(&self, index: u32) -> Parameters {
        self.resolved.parameters(index)
    }

    /// Refuses a plan that needs more than `limit` bytes, with what would make it fit.
    ///
    /// # Errors
    /// Where it needs more.
    pub fn check_limit(&self, limit: Option<u64>) -> Result<()> {
        plan::check_limit(&self.resolved, &self.plan, limit, self.machine)
    }

    /// Whether the weights have yet to be converted to the type that was asked for.
    pub fn converts(&self) -> bool {
        self.resolved.converts && self.converted().get().is_none()
    }

    /// Converts the weights to the type that was asked for, where they are not. They are kept for
    /// later plans of the model.
    ///
    /// # Errors
    /// Where they cannot be, or there is no room for them.
    pub fn convert(&self, reporter: &mut dyn Reporter, stop: &Stop) -> Result<()> {
        self.weights(reporter, stop).map(drop)
    }

    /// Draws the first picture.
    ///
    /// # Errors
    /// What went wrong, as sentences.
    pub fn draw(&self, sink: &mut dyn Sink) -> Result<()> {
        let mut block = Block::new(self.bytes())?;
        self.draw_in(block.bytes(), 0, sink, &mut |_: &Progress<'_>| ControlFlow::Continue(()))
    }

    /// Draws picture `index` in this memory, of [`Plan::bytes`] at least, as long as `watch` lets
    /// it.
    ///
    /// # Errors
    /// What went wrong, as sentences.
    pub fn draw_in(
        &self,
        memory: &mut [u8],
        index: u32,
        sink: &mut dyn Sink,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        self.model.verify()?;
        let files = self.weights(&mut Silent, &Stop::default())?;
        let watch = RefCell::new(watch);
        let mut adapter =
            Adapter { sink, about: self.parameters(index).to_string(), failure: None };
        let drawn = files.with_weights(|weights| {
            let mut observer = |event: Event<'_>| watch.borrow_mut().op_ended(&event);
            let (isa, pool) = (self.machine.isa(), self.machine.pool());
            let mut cx = Context::new(Arena::new(memory), isa, pool, weights);
            cx.observe(&mut observer);
            let mut progress = |progress: Progress<'_>| watch.borrow_mut().progress(&progress);
            let result = self.resolved.work(index).run(&mut cx, &mut adapter, &mut progress);
            result.map_err(|error| explain(error, cx.weight_name()))
        });
        // What the sink says is more than that it said something.
        drawn.map_err(|failure| adapter.failure.take().unwrap_or(failure))
    }

    fn converted(&self) -> &OnceLock<Source> {
        &self.model.converted[usize::from(self.resolved.starts_from_a_picture())]
    }

    /// The weights, as the picture takes them.
    fn weights(&self, reporter: &mut dyn Reporter, stop: &Stop) -> Result<&Source> {
        let Some(to) = self.resolved.dtype.filter(|_| self.resolved.converts) else {
            return Ok(self.files);
        };
        let machine = self.machine;
        kept(self.converted(), || {
            let plan = |weights: &mut dyn Weights| {
                plan::plan_as_it_is(&self.resolved, machine, weights).map(drop)
            };
            let way = convert::OnTheWay { plan: &plan, to, machine };
            way.convert(self.files, reporter, stop).map(Source::from)
        })
    }
}
