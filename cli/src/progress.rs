//! How far the work is: a bar on a terminal, a line now and then elsewhere, nothing where quiet is
//! asked for. And Ctrl-C, which ends the work between two steps.
//!
//! The bar is drawn here and not by a crate for bars: those leave the cursor behind the bar, and
//! when a terminal is made narrower the bar becomes two lines of which only the last is taken away.
//! Here the cursor stands at the bar's first column, where every terminal keeps it, and what is
//! behind it is cleared before the next one is drawn.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::Term;

use crate::error::{Failure, INTERRUPTED, Result};

/// The time between two lines about work that goes on for long.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The time between two bars: an eye sees no more.
const BETWEEN_BARS: Duration = Duration::from_millis(50);

/// The columns of a terminal that does not tell.
const COLUMNS: usize = 80;

/// The shortest bar that says anything, and the longest that is worth its room.
const BAR: [usize; 2] = [5, 60];

/// The bit of signal 1, `SIGHUP`.
const HANGUP: u64 = 1;

/// Shows how far the work is, on standard error.
pub struct Reporter {
    kind: Kind,
    /// What the bar or the lines begin with.
    title: String,
    total: u64,
    started: Instant,
    /// What part of the work is done. It only grows.
    part: f64,
    /// When a bar was last drawn, or a line written; at first, when the work began.
    told: Option<Instant>,
}

enum Kind {
    Bar(Term),
    Lines,
    Silent,
}

impl Reporter {
    /// A bar where standard error is a terminal, lines where it is not, nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let term = Term::stderr();
        let kind = match (quiet, term.is_term()) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::Bar(term),
            (false, false) => Kind::Lines,
        };
        let (title, now) = (String::new(), Instant::now());
        Self { kind, title, total: 0, started: now, part: 0.0, told: None }
    }

    /// Begins a piece of work of `total` steps. A bar is there at once; the first line comes when
    /// there has been time for it.
    pub fn begin(&mut self, title: &str, total: u64) {
        let message = if total == 0 { String::new() } else { format!("0/{total}") };
        (self.title, self.total, self.part) = (title.into(), total, 0.0);
        self.started = Instant::now();
        self.draw(&message);
        self.told.get_or_insert(self.started);
    }

    /// `done` steps of the work are done.
    pub fn step(&mut self, done: u64) {
        self.note(done, &pace(done, self.total, self.started.elapsed()));
    }

    /// `done` steps of the work are done, and this is worth telling.
    pub fn note(&mut self, done: u64, message: &str) {
        let (total, is_last) = (self.total, done >= self.total);
        let (part, is_first) = (done as f64 / total.max(1) as f64, done == 0);
        self.part(part, is_first || is_last, || format!("{done}/{total}, {message}"));
    }

    /// `part` of the work is done, from 0 to 1. `message` is asked for where it is shown: whenever
    /// `is_worth_it`, and else now and then.
    pub fn part(&mut self, part: f64, is_worth_it: bool, message: impl FnOnce() -> String) {
        self.part = self.part.max(part.min(1.0));
        let since = self.told.map(|told| told.elapsed());
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(_) => {
                if is_worth_it || since.is_none_or(|since| since >= BETWEEN_BARS) {
                    self.draw(&message());
                }
            }
            Kind::Lines => {
                if since.is_none_or(|since| since >= BETWEEN_LINES)
                    || (is_worth_it && self.part >= 1.0)
                {
                    tell(&format!("{} {}", self.title, message()));
                    self.told = Some(Instant::now());
                }
            }
        }
    }

    /// The same work goes on under another title, of two parts, which a bar shows next.
    pub fn rename(&mut self, prefix: &str, title: &str) {
        if self.title.strip_prefix(prefix) != Some(title) {
            self.title = format!("{prefix}{title}");
            if matches!(self.kind, Kind::Bar(_)) {
                self.told = None;
            }
        }
    }

    fn draw(&mut self, message: &str) {
        let Kind::Bar(term) = &self.kind else { return };
        let columns = term.size_checked().map_or(COLUMNS, |(_, columns)| usize::from(columns));
        let bar = bar(columns, &self.title, self.part, message);
        // Who cannot see the bar misses nothing else.
        let _ = term.clear_to_end_of_screen().and_then(|()| term.write_str(&format!("{bar}\r")));
        self.told = Some(Instant::now());
    }

    /// Says a sentence, above the bar if there is one.
    pub fn say(&self, sentence: &str) {
        match &self.kind {
            Kind::Bar(term) => {
                let _ = term.clear_to_end_of_screen();
                tell(sentence);
            }
            Kind::Lines => tell(sentence),
            Kind::Silent => {}
        }
    }

    /// Says what of a request has no effect, or is not all taken.
    pub fn remark<'n>(&self, notes: impl IntoIterator<Item = &'n String>) {
        notes.into_iter().for_each(|note| self.say(&format!("note: {note}")));
    }

    /// Ends the work; the bar goes away.
    pub fn end(&mut self) {
        if let Kind::Bar(term) = &self.kind {
            let _ = term.clear_to_end_of_screen();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes a line on standard error. Who has closed it wants to hear nothing, and the work goes on.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A bar for a terminal of so many columns: `step ██████░░░░ 12/20, 1.24 s/step, 10 s left`. Where
/// it is narrow the message loses its end, and then the bar goes. The last column stays free: a
/// terminal may begin a new line behind it.
fn bar(columns: usize, title: &str, part: f64, message: &str) -> String {
    let room = columns.saturating_sub(1);
    let mut message = message;
    loop {
        let used = title.chars().count() + message.chars().count() + 2;
        let [least, most] = BAR;
        if used + least <= room {
            let cells = (room - used).min(most);
            let full = (part * cells as f64) as usize;
            let (full, empty) = ("█".repeat(full), "░".repeat(cells - full.min(cells)));
            return format!("{title} {full}{empty} {message}").trim_end().into();
        }
        let Some((shorter, _)) = message.rsplit_once(", ") else { break };
        message = shorter;
    }
    format!("{title} {message}").trim_end().chars().take(room).collect()
}

/// `1.24 s/step, 21 s left`.
fn pace(done: u64, total: u64, elapsed: Duration) -> String {
    let per_step = elapsed.as_secs_f64() / done.max(1) as f64;
    let left = per_step * total.saturating_sub(done) as f64;
    paced(per_step, left)
}

/// `1.24 s/step, 21 s left`, of seconds.
pub fn paced(per_step: f64, left: f64) -> String {
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
            tell("\nstopping after this step; press Ctrl-C again to stop at once");
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
    fn a_bar_fits_its_terminal_whatever_its_width() {
        let message = "12/20, 1.24 s/step, 10 s left";
        for columns in 0..200 {
            let bar = bar(columns, "step", 0.6, message);
            assert!(bar.chars().count() < columns.max(1), "{columns}: {bar}");
            assert!(columns < 80 || bar.ends_with(message), "{columns}: {bar}");
            assert!(columns < 20 || bar.starts_with("step ") && bar.contains("12/20"), "{bar}");
        }
        assert_eq!(bar(20, "step", 0.5, "1/2"), "step █████░░░░░ 1/2");
        assert_eq!(bar(20, "step", 0.5, "1/2, 9 min 1 s left"), "step █████░░░░░ 1/2");
        assert_eq!(bar(14, "step", 0.0, "1/2"), "step 1/2");
        assert_eq!(bar(16, "loading", 1.0, ""), "loading ██████");
    }

    #[test]
    fn parts_only_grow_and_their_lines_are_rare() {
        let mut reporter = Reporter::new(true);
        reporter.kind = Kind::Lines;
        let mut told = 0;
        reporter.begin("step", 10);
        for part in [0.1, 0.5, 0.3, 1.0, 0.9] {
            reporter.part(part, false, || {
                told += 1;
                String::new()
            });
        }
        assert_eq!((reporter.part, told), (1.0, 0), "ten seconds have not passed");
        reporter.told = Instant::now().checked_sub(BETWEEN_LINES);
        for _ in 0..3 {
            reporter.part(1.0, false, || {
                told += 1;
                String::new()
            });
        }
        assert_eq!(told, 1);
        reporter.part(1.0, true, || {
            told += 1;
            String::new()
        });
        assert_eq!(told, 2, "the last is told");
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
