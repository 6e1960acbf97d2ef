//! How far a picture is: its plan counts the multiply-adds of each stage, and the core tells of
//! each op that ends what it has cost, so that a bar moves within an evaluation, too.

use std::time::{Duration, Instant};

use mote::diffusion::sampler::Row;
use mote::mem::Plan;
use mote::ops::Event;
use mote::progress::{Progress, Stage};
use mote_host::progress::Reporter;
use mote_host::size::clock;

use crate::terminal::{Terminal, paced};

/// The stages of a plan, and what they are called while they last.
const TITLES: [(Stage, &str); 4] = [
    (Stage::TextEncoder, "reading the prompt"),
    (Stage::Encoder, "encoding the picture"),
    (Stage::Unet, "step"),
    (Stage::Decoder, "decoding"),
];

/// Multiply-adds after which the clock is looked at again, a few milliseconds' worth: asked after
/// each op, it took a twentieth of a small model's time.
const WORTH_A_LOOK: f64 = 1e7;

/// A stage of a picture.
#[derive(Clone, Copy, Debug)]
struct Part {
    stage: Stage,
    title: &'static str,
    multiply_adds: f64,
    /// How often its progress is told.
    reports: f64,
}

/// The way from noise to a picture, and how much of it is done.
#[derive(Clone, Debug)]
pub struct Course<'a> {
    rows: &'a [Row],
    parts: Vec<Part>,
    /// Which of them is underway.
    at: usize,
    /// Multiply-adds of the stages before it.
    before: f64,
    /// What part of it has been reported as done.
    reported: f64,
    /// Multiply-adds that were counted since.
    since: f64,
    /// Of the table's rows, how many are whole.
    rows_done: usize,
    last: Instant,
    /// When the first row began.
    sampling: Instant,
    times: Vec<(Stage, Duration)>,
    /// What titles begin with: which picture it is.
    prefix: String,
}

impl<'a> Course<'a> {
    /// A picture that begins now.
    pub fn new(plan: &Plan, rows: &'a [Row], prefix: String) -> Self {
        let part = |&(stage, title): &(Stage, &'static str)| {
            let phase = plan.phases.iter().find(|phase| phase.name == stage.name())?;
            let reports = match stage {
                Stage::Unet => rows.len(),
                _ => phase.evaluations as usize,
            };
            let multiply_adds = phase.multiply_adds as f64;
            Some(Part { stage, title, multiply_adds, reports: reports.max(1) as f64 })
        };
        let now = Instant::now();
        Self {
            rows,
            parts: TITLES.iter().filter_map(part).collect(),
            at: 0,
            before: 0.0,
            reported: 0.0,
            since: 0.0,
            rows_done: 0,
            last: now,
            sampling: now,
            times: Vec::new(),
            prefix,
        }
    }

    /// Shows where the picture begins.
    pub fn begin(&self, reporter: &mut Terminal) {
        let title = self.parts.first().map_or("", |part| part.title);
        let steps = self.steps_before(self.rows.len());
        reporter.begin(&format!("{}{title}", self.prefix), if title == "step" { steps } else { 0 });
    }

    /// An op has ended.
    pub fn op_ended(&mut self, event: &Event<'_>, reporter: &mut Terminal) {
        let looks = |multiply_adds: f64| (multiply_adds / WORTH_A_LOOK) as u64;
        let before = looks(self.since);
        self.since += event.cost.multiply_adds as f64;
        if looks(self.since) > before {
            self.show(reporter);
        }
    }

    /// An evaluation has ended, or a row of the table with all its evaluations.
    pub fn progress(&mut self, progress: &Progress<'_>, reporter: &mut Terminal) {
        let took = self.last.elapsed();
        self.last = Instant::now();
        match self.times.iter_mut().find(|(stage, _)| *stage == progress.stage) {
            Some((_, time)) => *time += took,
            None => self.times.push((progress.stage, took)),
        }
        // Stages come in the plan's order.
        while self.parts.get(self.at).is_some_and(|part| part.stage != progress.stage) {
            self.next_stage();
        }
        if self.at == self.parts.len() {
            return;
        }
        (self.reported, self.since) = (progress.done as f64 / progress.total.max(1) as f64, 0.0);
        if progress.stage == Stage::Unet {
            self.rows_done = progress.done;
        }
        if progress.done >= progress.total {
            self.next_stage();
        }
        self.show(reporter);
    }

    fn next_stage(&mut self) {
        self.before += self.parts.get(self.at).map_or(0.0, |part| part.multiply_adds);
        (self.at, self.reported, self.since) = (self.at + 1, 0.0, 0.0);
        self.sampling = if self.rows_done == 0 { Instant::now() } else { self.sampling };
    }

    /// Multiply-adds of the stage underway that are done. What was counted since a report is never
    /// more than there is up to the next.
    fn done_of(&self, part: &Part) -> f64 {
        part.multiply_adds * self.reported + self.since.min(part.multiply_adds / part.reports)
    }

    /// Multiply-adds that are done.
    fn done(&self) -> f64 {
        self.before + self.parts.get(self.at).map_or(0.0, |part| self.done_of(part))
    }

    /// The part of the whole that is done, from 0 to 1.
    fn part(&self) -> f64 {
        let all: f64 = self.parts.iter().map(|part| part.multiply_adds).sum();
        if all > 0.0 { (self.done() / all).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn show(&self, reporter: &mut Terminal) {
        let Some(part) = self.parts.get(self.at) else { return };
        reporter.rename(&self.prefix, part.title);
        reporter.part(self.part(), false, &|| self.message(part));
    }

    /// `3/20, 1.24 s/step, 21 s left`; before the first step is whole, `0/20, 12 s so far`; else
    /// what part of the stage is done.
    fn message(&self, part: &Part) -> String {
        let steps = self.steps_before(self.rows.len());
        let elapsed = self.sampling.elapsed().as_secs_f64();
        if part.stage != Stage::Unet {
            let done = self.done_of(part) / part.multiply_adds.max(1.0);
            return format!("{:.0} %", 100.0 * done);
        }
        let whole = self.steps_before(self.rows_done);
        if whole == 0 {
            return format!("0/{steps}, {} so far", clock(elapsed));
        }
        // What comes after the last step is reckoned at the pace of the steps.
        let all: f64 = self.parts.iter().map(|part| part.multiply_adds).sum();
        let per_multiply_add = elapsed / self.done_of(part).max(1.0);
        let per_step = per_multiply_add * part.multiply_adds / steps.max(1) as f64;
        let left = per_multiply_add * (all - self.done());
        format!("{whole}/{steps}, {}", paced(per_step, left))
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

    /// Tells that the picture is done, where this is the last thing to be told.
    pub fn end(&self, reporter: &mut Terminal, is_last: bool) {
        if is_last {
            let steps = self.steps_before(self.rows.len());
            let time = self.times.iter().find(|(stage, _)| *stage == Stage::Unet);
            let time = time.map_or(0.0, |(_, time)| time.as_secs_f64());
            reporter.rename(&self.prefix, "step");
            let message = || format!("{steps}/{steps}, {}", paced(time / steps.max(1) as f64, 0.0));
            reporter.part(1.0, true, &message);
        }
        reporter.end();
    }

    /// Where the time went: `text encoder 0.12 s, unet 9.51 s, decoder 1.00 s`.
    pub fn times(&self) -> String {
        let time = |(stage, time): &(Stage, Duration)| {
            format!("{} {:.2} s", stage.name(), time.as_secs_f64())
        };
        self.times.iter().map(time).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use mote::mem::Phase;
    use mote::ops::{Op, Tally};
    use mote::tensor::Shape;

    use super::*;

    fn plan() -> Plan {
        let phase = |name, evaluations, multiply_adds| Phase {
            name,
            arena_bytes: 0,
            weight_bytes: 0,
            evaluations,
            multiply_adds,
        };
        let mut plan = Plan::default();
        plan.phases.extend([
            phase("text encoder", 2, 200),
            phase("unet", 4, 4000),
            phase("decoder", 1, 800),
        ]);
        plan
    }

    fn event(multiply_adds: u64) -> Event<'static> {
        let cost = Tally { multiply_adds, ..Tally::default() };
        Event { op: Op::Linear, weight: "", shape: Shape::new([1]), cost }
    }

    fn progress(stage: Stage, [done, total]: [usize; 2]) -> Progress<'static> {
        Progress { stage, done, total, step: 0, values: &[], shape: [0; 4] }
    }

    #[test]
    fn the_course_grows_to_the_end_through_ops_and_stages() {
        let rows = [Row { step: 0, ..Row::EMPTY }, Row { step: 1, ..Row::EMPTY }];
        let reporter = &mut Terminal::new(true);
        let mut course = Course::new(&plan(), &rows, String::new());
        let mut parts = vec![course.part()];
        for number in 1..=2 {
            course.op_ended(&event(100), reporter);
            parts.push(course.part());
            course.progress(&progress(Stage::TextEncoder, [number, 2]), reporter);
            parts.push(course.part());
        }
        assert!((course.part() - 0.04).abs() < 1e-9, "{parts:?}");
        for number in 1..=2 {
            // Two evaluations, of which an op counts more than the plan has.
            for counted in [500, 500, 500, 9000] {
                course.op_ended(&event(counted), reporter);
                parts.push(course.part());
            }
            course.progress(&progress(Stage::Unet, [number, 2]), reporter);
            parts.push(course.part());
        }
        assert!((course.part() - 0.84).abs() < 1e-9, "{parts:?}");
        course.op_ended(&event(400), reporter);
        assert!((course.part() - 0.92).abs() < 1e-9);
        assert_eq!(course.message(&course.parts[2]), "50 %");
        course.progress(&progress(Stage::Decoder, [1, 1]), reporter);
        parts.push(course.part());
        assert_eq!(course.part(), 1.0);
        assert!(parts.is_sorted(), "{parts:?}");
    }

    #[test]
    fn two_rows_may_be_one_step_and_the_first_has_no_pace() {
        let rows = [0, 0, 1].map(|step| Row { step, ..Row::EMPTY });
        let reporter = &mut Terminal::new(true);
        let mut course = Course::new(&plan(), &rows, String::new());
        course.progress(&progress(Stage::TextEncoder, [2, 2]), reporter);
        for (done, said) in [(1, "0/2, 0 s so far"), (2, "1/2, 0.0")] {
            course.progress(&progress(Stage::Unet, [done, 3]), reporter);
            let message = course.message(&course.parts[1]);
            assert!(message.starts_with(said), "{message}");
        }
    }

    #[test]
    fn a_plan_without_products_has_a_course_too() {
        let reporter = &mut Terminal::new(true);
        let mut course = Course::new(&Plan::default(), &[], String::new());
        course.begin(reporter);
        course.op_ended(&event(1), reporter);
        course.progress(&progress(Stage::Unet, [1, 1]), reporter);
        assert_eq!(course.part(), 0.0);
    }
}
