//! How far the work is: a bar on a terminal, a line for each step elsewhere, nothing where quiet is
//! asked for. And Ctrl-C, which ends the work between two steps.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::{Failure, INTERRUPTED, Result};

/// The time between two lines about work that goes on for long.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The bit of signal 1, `SIGHUP`.
const HANGUP: u64 = 1;

/// Shows how far the work is, on standard error.
pub struct Reporter {
    kind: Kind,
    /// What the bar or the lines begin with.
    title: String,
    total: u64,
    started: Instant,
    /// When a line was last written by [`Reporter::note`].
    noted: Option<Instant>,
}

enum Kind {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl Reporter {
    /// A bar where standard error is a terminal, lines where it is not, nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let kind = if quiet {
            Kind::Silent
        } else if io::stderr().is_terminal() {
            Kind::Bar(ProgressBar::hidden())
        } else {
            Kind::Lines
        };
        Self { kind, title: String::new(), total: 0, started: Instant::now(), noted: None }
    }

    /// Begins a piece of work of `total` steps.
    pub fn begin(&mut self, title: &str, total: u64) {
        self.title = title.into();
        self.total = total;
        self.started = Instant::now();
        if let Kind::Bar(bar) = &mut self.kind {
            let target = ProgressDrawTarget::stderr();
            *bar = ProgressBar::with_draw_target(Some(total), target).with_style(style());
            bar.set_prefix(self.title.clone());
        }
    }

    /// Counts the pace from `before` ago: what went before belongs to other work.
    pub fn restart_clock(&mut self, before: Duration) {
        let now = Instant::now();
        self.started = now.checked_sub(before).unwrap_or(now);
    }

    /// `done` steps of the work are done.
    pub fn step(&mut self, done: u64) {
        let pace = pace(done, self.total, self.started.elapsed());
        match &self.kind {
            Kind::Bar(bar) => {
                bar.set_message(pace);
                bar.set_position(done);
            }
            Kind::Lines => eprintln!("{} {done}/{}, {pace}", self.title, self.total),
            Kind::Silent => {}
        }
    }

    /// `done` steps of the work are done, and this is worth telling. Where there is no bar, a line
    /// is written now and then.
    pub fn note(&mut self, done: u64, message: &str) {
        match &self.kind {
            Kind::Bar(bar) => {
                bar.set_message(message.to_string());
                bar.set_position(done);
            }
            Kind::Lines => {
                let is_due = self.noted.is_none_or(|noted| noted.elapsed() >= BETWEEN_LINES);
                if is_due || done == self.total {
                    eprintln!("{} {done}/{}, {message}", self.title, self.total);
                    self.noted = Some(Instant::now());
                }
            }
            Kind::Silent => {}
        }
    }

    /// Says a sentence, above the bar if there is one.
    pub fn say(&self, sentence: &str) {
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(|| eprintln!("{sentence}")),
            Kind::Lines => eprintln!("{sentence}"),
            Kind::Silent => {}
        }
    }

    /// Ends the work; the bar goes away.
    pub fn end(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end();
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix} {wide_bar} {pos}/{len} {msg}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// `1.24 s/step, 21 s left`.
fn pace(done: u64, total: u64, elapsed: Duration) -> String {
    let per_step = elapsed.as_secs_f64() / done.max(1) as f64;
    let left = per_step * total.saturating_sub(done) as f64;
    let per_step = match per_step {
        s if s >= 10.0 => format!("{s:.1}"),
        s if s >= 0.1 => format!("{s:.2}"),
        s => format!("{s:.4}"),
    };
    format!("{per_step} s/step, {} left", clock(left))
}

/// `21 s`, `3 min 5 s`, `2 h 14 min`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// Whether Ctrl-C was pressed, and the file to take away if it is pressed twice.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pressed: AtomicBool,
    unfinished: Mutex<Option<PathBuf>>,
}

impl Interrupt {
    /// Listens for Ctrl-C, and for the system's wish to end the program, from here on. The first
    /// ends the work at the next step; a second ends the program at once.
    ///
    /// A program that is to outlive its terminal (`nohup`) does not listen: to listen would be to
    /// hear the terminal go, and nobody is there to press Ctrl-C.
    ///
    /// # Errors
    /// Where the system will not let a program listen.
    pub fn listen() -> Result<Self> {
        let interrupt = Self::default();
        if outlives_its_terminal() {
            return Ok(interrupt);
        }
        let listener = interrupt.clone();
        ctrlc::set_handler(move || listener.press())
            .map_err(|error| Failure::new(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(interrupt)
    }

    fn press(&self) {
        if !self.0.pressed.swap(true, Ordering::SeqCst) {
            eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
            return;
        }
        if let Some(path) = self.unfinished().take() {
            // The program ends here: there is nobody left to tell.
            let _ = std::fs::remove_file(path);
        }
        std::process::exit(i32::from(INTERRUPTED));
    }

    /// What the core is to do after a step: end where Ctrl-C was pressed.
    pub fn flow(&self) -> ControlFlow<()> {
        match self.pressed() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Whether Ctrl-C was pressed.
    pub fn pressed(&self) -> bool {
        self.0.pressed.load(Ordering::SeqCst)
    }

    /// Remembers a file that must not outlive the program half written, or that there is none.
    pub fn set_unfinished(&self, path: Option<&Path>) {
        *self.unfinished() = path.map(Path::to_path_buf);
    }

    fn unfinished(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the signal that tells of a lost terminal is ignored, as `nohup` arranges it. Linux alone
/// tells.
fn outlives_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & HANGUP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_has_three_digits_and_the_time_left_its_units() {
        assert_eq!(pace(2, 20, Duration::from_millis(2480)), "1.24 s/step, 22 s left");
        assert_eq!(pace(1, 10, Duration::from_secs(25)), "25.0 s/step, 3 min 45 s left");
        assert_eq!(pace(10, 10, Duration::from_millis(20)), "0.0020 s/step, 0 s left");
        assert_eq!(clock(8040.0), "2 h 14 min");
        assert_eq!(pace(0, 5, Duration::ZERO), "0.0000 s/step, 0 s left");
    }

    #[test]
    fn pressing_once_sets_the_flag_and_leaves_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let interrupt = Interrupt::default();
        interrupt.set_unfinished(Some(file.path()));
        assert!(!interrupt.pressed());
        interrupt.press();
        assert!(interrupt.pressed() && file.path().exists());
    }
}
