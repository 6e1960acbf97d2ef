//! `mote generate`: makes pictures.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mote::diffusion::sampler::Row;
use mote::mem::Arena;
use mote::ops::Context;
use mote::pipeline::ImageSink;
use mote::progress::{Progress, Stage};
use mote::weights::Weights;

use crate::args;
use crate::convert;
use crate::error::{Failure, Result};
use crate::executor::Pool;
use crate::memory::Block;
use crate::output::{Destination, PngWriter};
use crate::place::Place;
use crate::plan::{self, Model};
use crate::progress::{Interrupt, Reporter};
use crate::resolve::{self, Resolved, explain};
use crate::{isa, size};

/// Makes the pictures that the arguments ask for.
///
/// # Errors
/// What went wrong, as sentences; no half-written file is left behind.
pub fn run(args: &args::Generate) -> Result<()> {
    interruptible(args, &Interrupt::listen()?)
}

/// [`run`] until somebody else's interrupt.
///
/// # Errors
/// As [`run`].
pub fn interruptible(args: &args::Generate, interrupt: &Interrupt) -> Result<()> {
    let count = args.request.batch_count;
    let destination = Destination::new(&args.output, count)?;
    let place = Place::model(&args.model.model)?;
    if let Some(packed) = place.packed() {
        packed.verify_if_small()?;
    }
    let resolved = resolve::resolve_at(&place, &args.model, &args.request)?;
    let pool = plan::pool(args.machine.threads)?;
    let isa = isa::choose()?;
    let mut model = Model::open(&resolved)?;
    let planned = model.with_weights(|weights| plan::plan(&resolved, isa, &pool, weights))??;
    plan::check_limit(&resolved, &planned, args.machine.memory_limit, isa, &pool)?;
    let mut reporter = Reporter::new(args.quiet);
    if args.verbose {
        reporter.say(plan::to_table(&resolved, &planned, count).trim_end());
        let taken = size::show(planned.arena_bytes as u64);
        reporter.say(&format!("instruction set {}, {taken} of memory", isa.name()));
    }
    if let Some(to) = resolved.dtype.filter(|_| resolved.converts) {
        let plan = |weights: &mut dyn Weights| {
            plan::plan_as_it_is(&resolved, isa, &pool, weights).map(drop)
        };
        let work = convert::OnTheWay { plan: &plan, to, isa, pool: &pool };
        model = work.convert(&mut model, &mut reporter, interrupt)?;
    }
    let mut block = Block::new(planned.arena_bytes)?;
    let run = Run { resolved: &resolved, isa, pool: &pool, interrupt };
    for index in 0..count {
        let path = destination.path(index);
        let title = if count == 1 { "step".into() } else { format!("{}/{count} step", index + 1) };
        let mut watch = Watch::new(&mut reporter, &resolved.table.rows, title);
        model.with_weights(|weights| {
            run.picture(index, path.as_deref(), block.bytes(), weights, &mut watch)
        })??;
        let times = watch.times();
        if args.verbose {
            reporter.say(&times);
        }
        if let Some(path) = path {
            let seed = resolved.seed.wrapping_add(u64::from(index));
            reporter.say(&format!("wrote {} (seed {seed})", path.display()));
        }
    }
    Ok(())
}

/// What all pictures share.
struct Run<'a> {
    resolved: &'a Resolved,
    isa: mote::arch::Isa,
    pool: &'a Pool,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    fn picture(
        &self,
        index: u32,
        path: Option<&Path>,
        memory: &mut [u8],
        weights: &mut dyn Weights,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let mut sink = PngSink {
            path: path.map(Path::to_path_buf),
            parameters: self.resolved.parameters(index).to_string(),
            interrupt: self.interrupt.clone(),
            writer: None,
            failure: None,
        };
        let mut cx = Context::new(Arena::new(memory), self.isa, self.pool, weights);
        let mut watch = |progress: Progress<'_>| {
            watch.progress(&progress);
            self.interrupt.flow()
        };
        let result = self.resolved.work(index).run(&mut cx, &mut sink, &mut watch);
        result.map_err(|error| {
            sink.failure.take().unwrap_or_else(|| explain(error, cx.weight_name()))
        })
    }
}

/// The core's sink over a PNG file. What went wrong is kept here: the core's error has no room for
/// it.
struct PngSink {
    path: Option<PathBuf>,
    parameters: String,
    interrupt: Interrupt,
    writer: Option<PngWriter>,
    failure: Option<Failure>,
}

impl PngSink {
    fn keep<T>(&mut self, result: Result<T>) -> mote::Result<T> {
        result.map_err(|failure| {
            self.failure = Some(failure);
            mote::Error::Sink
        })
    }
}

impl ImageSink for PngSink {
    fn begin(&mut self, width: usize, height: usize) -> mote::Result<()> {
        let side = |side: usize| u32::try_from(side).map_err(|_| mote::Error::Sink);
        let size = [side(width)?, side(height)?];
        let path = self.path.as_deref();
        let writer = PngWriter::begin(path, size, &self.parameters, &self.interrupt);
        self.writer = Some(self.keep(writer)?);
        Ok(())
    }

    fn row(&mut self, rgb: &[u8]) -> mote::Result<()> {
        let Some(writer) = &mut self.writer else { return Err(mote::Error::Sink) };
        let written = writer.row(rgb);
        self.keep(written)
    }

    fn end(&mut self) -> mote::Result<()> {
        let Some(writer) = self.writer.take() else { return Err(mote::Error::Sink) };
        self.keep(writer.end())
    }
}

/// Watches a run: shows its steps and adds up the time of its stages.
struct Watch<'a> {
    reporter: &'a mut Reporter,
    rows: &'a [Row],
    title: String,
    last: Instant,
    times: Vec<(Stage, Duration)>,
}

impl<'a> Watch<'a> {
    fn new(reporter: &'a mut Reporter, rows: &'a [Row], title: String) -> Self {
        let watch = Self { reporter, rows, title, last: Instant::now(), times: Vec::new() };
        // The first step's pace counts from here; what comes before it is short.
        let steps = watch.steps_before(rows.len());
        watch.reporter.begin(&watch.title, steps);
        watch
    }

    fn progress(&mut self, progress: &Progress<'_>) {
        let took = self.last.elapsed();
        self.last = Instant::now();
        match self.times.iter_mut().find(|(stage, _)| *stage == progress.stage) {
            Some((_, time)) => *time += took,
            None => {
                if progress.stage == Stage::Unet {
                    self.reporter.restart_clock(took);
                }
                self.times.push((progress.stage, took));
            }
        }
        if progress.stage == Stage::Unet {
            let (before, now) =
                (self.steps_before(progress.done - 1), self.steps_before(progress.done));
            if now > before {
                self.reporter.step(now);
            }
            if progress.done == progress.total {
                self.reporter.end();
            }
        }
    }

    /// How many steps are whole after `done` rows: some samplers take two rows a step.
    fn steps_before(&self, done: usize) -> u64 {
        let Some(first) = self.rows.first() else { return 0 };
        let is_whole = |row: &Row| u64::from(row.step - first.step);
        match self.rows.get(done) {
            Some(next) => is_whole(next),
            None => self.rows.last().map_or(0, |last| is_whole(last) + 1),
        }
    }

    /// Where the time went: `text encoder 0.12 s, unet 9.51 s, decoder 1.00 s`.
    fn times(&self) -> String {
        let time = |(stage, time): &(Stage, Duration)| {
            format!("{} {:.2} s", stage.name(), time.as_secs_f64())
        };
        self.times.iter().map(time).collect::<Vec<_>>().join(", ")
    }
}
