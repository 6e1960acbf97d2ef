//! How far the work is: a bar on a terminal, a line now and then elsewhere, nothing where quiet is
//! asked for.
//!
//! The bar is drawn here and not by a crate for bars: those leave the cursor behind the bar, and
//! when a terminal is made narrower the bar becomes two lines of which only the last is taken away.
//! Here the cursor stands at the bar's first column, where every terminal keeps it, and what is
//! behind it is cleared before the next one is drawn.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use console::Term;
use mote_host::progress::Reporter;
use mote_host::size::clock;

/// The time between two lines about work that goes on for long.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// The time between two bars: an eye sees no more.
const BETWEEN_BARS: Duration = Duration::from_millis(50);

/// The columns of a terminal that does not tell.
const COLUMNS: usize = 80;

/// The shortest bar that says anything, and the longest that is worth its room.
const BAR: [usize; 2] = [5, 60];

/// Shows how far the work is, on standard error.
pub struct Terminal {
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

impl Terminal {
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
}

impl Reporter for Terminal {
    fn begin(&mut self, title: &str, total: u64) {
        let message = if total == 0 { String::new() } else { format!("0/{total}") };
        (self.title, self.total, self.part) = (title.into(), total, 0.0);
        self.started = Instant::now();
        self.draw(&message);
        self.told.get_or_insert(self.started);
    }

    fn step(&mut self, done: u64) {
        self.note(done, &pace(done, self.total, self.started.elapsed()));
    }

    fn note(&mut self, done: u64, message: &str) {
        let (total, is_last) = (self.total, done >= self.total);
        let (part, is_first) = (done as f64 / total.max(1) as f64, done == 0);
        self.part(part, is_first || is_last, &|| format!("{done}/{total}, {message}"));
    }

    fn part(&mut self, part: f64, is_worth_it: bool, message: &dyn Fn() -> String) {
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

    fn say(&self, sentence: &str) {
        match &self.kind {
            Kind::Bar(term) => {
                let _ = term.clear_to_end_of_screen();
                tell(sentence);
            }
            Kind::Lines => tell(sentence),
            Kind::Silent => {}
        }
    }

    fn end(&mut self) {
        if let Kind::Bar(term) = &self.kind {
            let _ = term.clear_to_end_of_screen();
        }
    }
}

impl Drop for Terminal {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_pace_has_three_digits_and_the_time_left_its_units() {
        assert_eq!(pace(2, 20, Duration::from_millis(2480)), "1.24 s/step, 22 s left");
        assert_eq!(pace(1, 10, Duration::from_secs(25)), "25.0 s/step, 3 min 45 s left");
        assert_eq!(pace(10, 10, Duration::from_millis(20)), "0.0020 s/step, 0 s left");
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
        let mut reporter = Terminal::new(true);
        reporter.kind = Kind::Lines;
        let told = Cell::new(0);
        let tell = || {
            told.set(told.get() + 1);
            String::new()
        };
        reporter.begin("step", 10);
        for part in [0.1, 0.5, 0.3, 1.0, 0.9] {
            reporter.part(part, false, &tell);
        }
        assert_eq!((reporter.part, told.get()), (1.0, 0), "ten seconds have not passed");
        reporter.told = Instant::now().checked_sub(BETWEEN_LINES);
        for _ in 0..3 {
            reporter.part(1.0, false, &tell);
        }
        assert_eq!(told.get(), 1);
        reporter.part(1.0, true, &tell);
        assert_eq!(told.get(), 2, "the last is told");
    }
}
