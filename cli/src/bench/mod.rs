//! `mote bench`: how long each network of a model takes on this machine, and what the machine could
//! do.
//!
//! A network is planned first, then evaluated once unmeasured, so that caches are warm and memory
//! is touched, and then as often as asked for.

mod layers;
mod peak;
mod process;
mod subject;

use std::cell::Cell;
use std::time::{Duration, Instant};

use mote::exec::Executor;
use mote::mem::Arena;
use mote::ops::{Event, Tally};
use mote::weights::Weights;
use mote_host::checkpoint::weight_files::WeightFiles;
use mote_host::convert::OnTheWay;
use mote_host::lora::Source;
use mote_host::machine::memory::Block;
use mote_host::progress::Reporter;
use mote_host::types::{Choice, Type};
use mote_host::{Failure, Machine, Result, Stop, size};
use serde_json::{Value, json};

use crate::terminal::Terminal;
use crate::{args, interrupt, print};

use layers::Layers;
use subject::{Subject, Subjects};

/// Times the networks that the arguments ask for.
///
/// # Errors
/// Where the model cannot be run as asked.
pub fn run(args: &args::Bench) -> Result<()> {
    let subjects = Subjects::find(args)?;
    let machine = args.threads.machine()?;
    let mut models = Vec::new();
    for subject in &subjects.networks {
        models.push(Source::open(&subject.places, &[])?);
    }
    let peak_gops =
        peak::gops(machine.isa(), peak::arithmetic(subjects.dtype), machine.pool().workers());
    let stop = interrupt::listen()?;
    let bench = Bench { args, machine: &machine, peak_gops, stop: &stop, dtype: subjects.dtype };
    let mut results = Vec::new();
    for (subject, model) in subjects.networks.iter().zip(&mut models) {
        if let Some(to) = subjects.dtype.filter(|_| subjects.converts) {
            *model = bench.converted(subject, model, to)?.into();
        }
        results.push(model.with_weights(|weights| bench.measure(subject, weights))?);
    }
    let text = match args.json {
        true => format!("{:#}\n", bench.to_json(&subjects, &results)),
        false => bench.to_table(&subjects, &results),
    };
    print::bytes(text.as_bytes())
}

/// Billions of operations a second: a multiply-add is two. 0 where no time has passed.
fn gops(multiply_adds: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { 2.0 * multiply_adds / seconds / 1e9 } else { 0.0 }
}

/// The middle of the values; of an even number, the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.as_slice() {
        [] => 0.0,
        _ if sorted.len() % 2 == 1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// What is known of a network after it was timed.
struct Measured<'s> {
    subject: &'s Subject,
    arena_bytes: usize,
    tally: Tally,
    seconds: Vec<f64>,
    peak_anonymous_bytes: Option<u64>,
    layers: Layers,
}

impl Measured<'_> {
    fn median(&self) -> f64 {
        median(&self.seconds)
    }

    fn min(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    /// The median distance from the median: a spread that one slow evaluation does not change.
    fn deviation(&self) -> f64 {
        let middle = self.median();
        median(&self.seconds.iter().map(|s| (s - middle).abs()).collect::<Vec<_>>())
    }

    fn gops(&self) -> f64 {
        gops(self.tally.multiply_adds as f64, self.median())
    }

    /// The seconds that one picture spends in this network.
    fn seconds_per_image(&self) -> f64 {
        self.median() * self.subject.evaluations as f64 / self.subject.batch as f64
    }
}

/// How an op's end is taken in: with the time since the end before.
type OpWatch<'a> = dyn FnMut(&Event<'_>, Duration) + 'a;

/// What all networks are timed with.
struct Bench<'a> {
    args: &'a args::Bench,
    machine: &'a Machine,
    peak_gops: f64,
    stop: &'a Stop,
    dtype: Option<Type>,
}

impl Bench<'_> {
    /// The weights of a network in another type. What that takes is not timed.
    fn converted(&self, subject: &Subject, model: &Source, to: Type) -> Result<WeightFiles> {
        let plan = |weights: &mut dyn Weights| self.plan(subject, weights).map(drop);
        let work = OnTheWay { plan: &plan, to, machine: self.machine };
        work.convert(model, &mut Terminal::new(self.args.json), self.stop)
    }

    /// The exact bytes of the arena, and what an evaluation costs.
    fn plan(&self, subject: &Subject, weights: &mut dyn Weights) -> Result<(usize, Tally)> {
        self.machine.compute(Arena::measuring(), weights, |cx| {
            subject.evaluate(cx, &mut || {})?;
            Ok((cx.arena().peak(), cx.tally()))
        })
    }

    fn measure<'s>(&self, subject: &'s Subject, weights: &mut dyn Weights) -> Result<Measured<'s>> {
        let (arena_bytes, tally) = self.plan(subject, weights)?;
        let mut block = Block::new(arena_bytes)?;
        let mut layers = Layers::default();
        let mut reporter = Terminal::new(self.args.json);
        reporter.begin(&format!("{}, a first time", subject.title()), 0);
        let mut anonymous = process::anonymous_bytes();
        // Pages stay once they are touched: what there is at the ends of ops is the most there was.
        let mut warm_up = |event: &Event<'_>, _: Duration| {
            layers.meet(event);
            anonymous = anonymous.max(process::anonymous_bytes());
        };
        self.evaluate(subject, block.bytes(), weights, Some(&mut warm_up))?;
        let mut seconds = Vec::new();
        reporter.begin(subject.title(), u64::from(self.args.repeat));
        for done in 1..=self.args.repeat {
            layers.rewind();
            let mut time = |event: &Event<'_>, took: Duration| layers.time(event, took);
            let watch: Option<&mut OpWatch<'_>> = match self.args.per_layer {
                true => Some(&mut time),
                false => None,
            };
            seconds.push(self.evaluate(subject, block.bytes(), weights, watch)?.as_secs_f64());
            anonymous = anonymous.max(process::anonymous_bytes());
            reporter.step(u64::from(done));
            if self.stop.is_asked() {
                return Err(Failure::interrupted());
            }
        }
        let peak_anonymous_bytes = anonymous;
        Ok(Measured { subject, arena_bytes, tally, seconds, peak_anonymous_bytes, layers })
    }

    /// One evaluation, and how long it took. Its inputs are drawn before the clock starts.
    fn evaluate(
        &self,
        subject: &Subject,
        memory: &mut [u8],
        weights: &mut dyn Weights,
        watch: Option<&mut OpWatch<'_>>,
    ) -> Result<Duration> {
        let [began, last] = [Instant::now(); 2].map(Cell::new);
        let is_watched = watch.is_some();
        let mut watch = watch;
        let mut observer = |event: Event<'_>| {
            let took = last.get().elapsed();
            if let Some(watch) = &mut watch {
                watch(&event, took);
            }
            // What the watch took is nobody's.
            last.set(Instant::now());
        };
        let mut begins = || {
            began.set(Instant::now());
            last.set(began.get());
        };
        self.machine.compute(Arena::new(memory), weights, |cx| {
            if is_watched {
                cx.observe(&mut observer);
            }
            subject.evaluate(cx, &mut begins)?;
            Ok(began.get().elapsed())
        })
    }

    /// Pictures a minute, where all the networks that a picture takes were timed.
    fn images_per_minute(&self, subjects: &Subjects, results: &[Measured<'_>]) -> Option<f64> {
        let seconds: f64 = results.iter().map(Measured::seconds_per_image).sum();
        (subjects.is_whole && seconds > 0.0).then_some(60.0 / seconds)
    }

    /// The type of the weights; what is not converted is computed in f32.
    fn type_name(&self) -> &'static str {
        self.dtype.unwrap_or(Type::F32).name()
    }

    fn to_json(&self, subjects: &Subjects, results: &[Measured<'_>]) -> Value {
        let [height, width] = subjects.size;
        let components: Vec<_> = results.iter().map(|result| self.component(result)).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": self.args.model.model.display().to_string(),
            "cpu": process::cpu_name(),
            "cpus": std::thread::available_parallelism().ok().map(usize::from),
            "arch": std::env::consts::ARCH,
            "isa": self.machine.isa().name(),
            "threads": self.machine.pool().workers(),
            "type": self.type_name(),
            "peak_gops": self.peak_gops,
            "width": width,
            "height": height,
            "batch": self.args.batch,
            "steps": self.args.steps,
            "repeat": self.args.repeat,
            "images_per_minute": self.images_per_minute(subjects, results),
            "components": components,
        })
    }

    fn component(&self, result: &Measured<'_>) -> Value {
        let mut value = json!({
            "component": result.subject.component,
            "type": self.type_name(),
            "threads": self.machine.pool().workers(),
            "isa": self.machine.isa().name(),
            "batch": result.subject.batch,
            "median_seconds": result.median(),
            "min_seconds": result.min(),
            "max_seconds": result.max(),
            "median_absolute_deviation_seconds": result.deviation(),
            "seconds": result.seconds,
            "evaluations_per_image": result.subject.evaluations,
            "images_per_minute": 60.0 / result.seconds_per_image(),
            "arena_bytes": result.arena_bytes,
            "peak_anonymous_bytes": result.peak_anonymous_bytes,
            "weight_bytes": result.tally.weight_bytes,
            "multiply_adds": result.tally.multiply_adds,
            "gops": result.gops(),
            "peak_gops": self.peak_gops,
            "share_of_peak": result.gops() / self.peak_gops,
        });
        if self.args.per_layer {
            for (name, list) in result.layers.to_json(self.peak_gops) {
                value[name] = list;
            }
        }
        value
    }

    fn to_table(&self, subjects: &Subjects, results: &[Measured<'_>]) -> String {
        let row = |cells: [&str; 9]| cells.map(str::to_string).to_vec();
        let mut rows = vec![row([
            "network", "median", "min", "max", "GOP/s", "of peak", "memory", "process", "weights",
        ])];
        let mut text = String::new();
        for result in results {
            let anonymous = result.peak_anonymous_bytes.map_or("-".into(), size::show);
            rows.push(vec![
                result.subject.title().into(),
                print::seconds(result.median()),
                print::seconds(result.min()),
                print::seconds(result.max()),
                format!("{:.1}", result.gops()),
                print::percent(result.gops() / self.peak_gops),
                size::show_needed(result.arena_bytes as u64),
                anonymous,
                size::show(result.tally.weight_bytes),
            ]);
            if self.args.per_layer {
                let layers = result.layers.to_table(self.peak_gops);
                text.push_str(&format!("{}\n{layers}\n", result.subject.title()));
            }
        }
        let cpu = process::cpu_name().map_or_else(String::new, |name| format!("{name}, "));
        let (isa, threads, dtype) =
            (self.machine.isa().name(), self.machine.pool().workers(), self.type_name());
        let plural = if threads == 1 { "thread" } else { "threads" };
        let [height, width] = subjects.size;
        let [repeat, steps] = [self.args.repeat, self.args.steps];
        text.push_str(&format!(
            "{cpu}{isa}, {threads} {plural}, {dtype}: {:.1} GOP/s at its peak\n\
             {width}x{height}, batch {}, {repeat} evaluations after a first one\n{}",
            self.peak_gops,
            self.args.batch,
            print::table(&rows),
        ));
        if let Some(rate) = self.images_per_minute(subjects, results) {
            text.push_str(&format!("{rate:.3} pictures a minute in {steps} steps\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 100.0, 2.0]), 3.0);
    }

    #[test]
    fn a_multiply_add_is_two_operations() {
        assert_eq!(gops(3e9, 2.0), 3.0);
        assert_eq!(gops(3e9, 0.0), 0.0);
    }
}
