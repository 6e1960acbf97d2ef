//! `mote generate`: makes pictures.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use mote::ops::Event;
use mote::progress::Progress;
use mote_host::draw::Watch;
use mote_host::image::PngFile;
use mote_host::machine::memory::Block;
use mote_host::progress::Reporter;
use mote_host::{Model, Plan, Result, Stop, notes, size};

use crate::course::Course;
use crate::destination::Destination;
use crate::terminal::Terminal;
use crate::{args, interrupt, plan};

/// A conversion on the way in that takes so long is better done once.
const WORTH_KEEPING: Duration = Duration::from_secs(5);

/// Makes the pictures that the arguments ask for.
///
/// # Errors
/// What went wrong, as sentences; no half-written file is left behind.
pub fn run(args: &args::Generate) -> Result<()> {
    interruptible(args, &interrupt::listen()?)
}

/// [`run`] until `stop` is asked for.
///
/// # Errors
/// As [`run`].
pub fn interruptible(args: &args::Generate, stop: &Stop) -> Result<()> {
    let mut request = args.request.read()?;
    let count = request.batch_count;
    let destination = Destination::new(&args.output, count)?;
    let mut reporter = Terminal::new(args.quiet);
    reporter.begin("loading", 0);
    let model = Model::open(&args.model.model, &args.model.parts_for(&mut request)?)?;
    model.verify()?;
    let machine = args.machine.threads.machine()?;
    let plan = model.plan(&request, &machine)?;
    plan.check_limit(args.machine.memory_limit)?;
    reporter.remark(plan.notes());
    if args.verbose {
        reporter.say(plan::to_table(&plan).trim_end());
        let taken = size::show_needed(plan.bytes() as u64);
        reporter.say(&format!("instruction set {}, {taken} of memory", machine.isa().name()));
    }
    convert(args, &plan, &mut reporter, stop)?;
    let mut block = Block::new(plan.bytes())?;
    for index in 0..count {
        let path = destination.path(index);
        let prefix = if count == 1 { String::new() } else { format!("{}/{count} ", index + 1) };
        let course = Course::new(plan.core(), &plan.resolved().table.rows, prefix);
        course.begin(&mut reporter);
        let mut watch = Seen { course, reporter: &mut reporter, stop };
        let mut sink = PngFile::at(path.clone(), stop);
        plan.draw_in(block.bytes(), index, &mut sink, &mut watch)?;
        let Seen { course, .. } = watch;
        course.end(&mut reporter, index + 1 == count);
        if args.verbose {
            reporter.say(&course.times());
        }
        if let Some(path) = path {
            let seed = plan.resolved().seed.wrapping_add(u64::from(index));
            reporter.say(&format!("wrote {} (seed {seed})", path.display()));
        }
    }
    Ok(())
}

/// Converts the weights, where another type than theirs is asked for, and tells how to do so once.
fn convert(
    args: &args::Generate,
    plan: &Plan<'_>,
    reporter: &mut Terminal,
    stop: &Stop,
) -> Result<()> {
    if !plan.converts() {
        return Ok(());
    }
    let begun = Instant::now();
    plan.convert(reporter, stop)?;
    if let Some(to) = args.model.dtype.filter(|_| args.model.lora.is_empty())
        && begun.elapsed() >= WORTH_KEEPING
    {
        reporter.say(&notes::convert_once(&args.model.model, to, begun.elapsed()));
    }
    Ok(())
}

/// Sees how far a picture is, and tells it.
struct Seen<'c, 'r> {
    course: Course<'c>,
    reporter: &'r mut Terminal,
    stop: &'r Stop,
}

impl Watch for Seen<'_, '_> {
    fn progress(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        self.course.progress(progress, self.reporter);
        self.stop.flow()
    }

    fn op_ended(&mut self, event: &Event<'_>) {
        self.course.op_ended(event, self.reporter);
    }
}
