//! `mote generate`: makes pictures.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mote::mem::Arena;
use mote::ops::{Context, Event};
use mote::pipeline::ImageSink;
use mote::progress::Progress;
use mote::weights::Weights;

use crate::args;
use crate::convert;
use crate::course::Course;
use crate::error::{Failure, Result};
use crate::executor::Pool;
use crate::memory::Block;
use crate::notes;
use crate::output::{Destination, PngWriter};
use crate::place::Place;
use crate::plan::{self, Model};
use crate::progress::{Interrupt, Reporter};
use crate::resolve::{self, Resolved, explain};
use crate::{isa, size};

/// A conversion on the way in that takes so long is better done once.
const WORTH_KEEPING: Duration = Duration::from_secs(5);

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
    let mut reporter = Reporter::new(args.quiet);
    reporter.begin("loading", 0);
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
    reporter.remark(&resolved.notes);
    if args.verbose {
        reporter.say(plan::to_table(&resolved, &planned, count).trim_end());
        let taken = size::show_needed(planned.arena_bytes as u64);
        reporter.say(&format!("instruction set {}, {taken} of memory", isa.name()));
    }
    if let Some(to) = resolved.dtype.filter(|_| resolved.converts) {
        let plan = |weights: &mut dyn Weights| {
            plan::plan_as_it_is(&resolved, isa, &pool, weights).map(drop)
        };
        let work = convert::OnTheWay { plan: &plan, to, isa, pool: &pool };
        let begun = Instant::now();
        model = work.convert(&mut model, &mut reporter, interrupt)?;
        if begun.elapsed() >= WORTH_KEEPING {
            reporter.say(&notes::convert_once(&args.model.model, to, begun.elapsed()));
        }
    }
    let mut block = Block::new(planned.arena_bytes)?;
    let run = Run { resolved: &resolved, isa, pool: &pool, interrupt };
    for index in 0..count {
        let path = destination.path(index);
        let prefix = if count == 1 { String::new() } else { format!("{}/{count} ", index + 1) };
        let course = Course::new(&planned, &resolved.table.rows, prefix);
        course.begin(&mut reporter);
        let watch = RefCell::new(Watch { course, reporter: &mut reporter });
        model.with_weights(|weights| {
            run.picture(index, path.as_deref(), block.bytes(), weights, &watch)
        })??;
        let Watch { course, .. } = watch.into_inner();
        course.end(&mut reporter, index + 1 == count);
        if args.verbose {
            reporter.say(&course.times());
        }
        if let Some(path) = path {
            let seed = resolved.seed.wrapping_add(u64::from(index));
            reporter.say(&format!("wrote {} (seed {seed})", path.display()));
        }
    }
    Ok(())
}

/// Sees how far a picture is, and tells it.
struct Watch<'c, 'r> {
    course: Course<'c>,
    reporter: &'r mut Reporter,
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
        watch: &RefCell<Watch<'_, '_>>,
    ) -> Result<()> {
        let mut sink = PngSink {
            path: path.map(Path::to_path_buf),
            parameters: self.resolved.parameters(index).to_string(),
            interrupt: self.interrupt.clone(),
            writer: None,
            failure: None,
        };
        let mut observer = |event: Event<'_>| {
            let Watch { course, reporter } = &mut *watch.borrow_mut();
            course.op_ended(&event, reporter);
        };
        let mut cx = Context::new(Arena::new(memory), self.isa, self.pool, weights);
        cx.observe(&mut observer);
        let mut watch = |progress: Progress<'_>| {
            let Watch { course, reporter } = &mut *watch.borrow_mut();
            course.progress(&progress, reporter);
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
