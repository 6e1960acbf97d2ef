//! Who is told how far a long piece of work is, and what there is to say about it: a terminal, a
//! window, nobody.

/// Hears of the work.
pub trait Reporter {
    /// A piece of work of `total` steps begins; 0 where nobody knows.
    fn begin(&mut self, title: &str, total: u64);

    /// `done` steps of the work are done.
    fn step(&mut self, done: u64);

    /// `done` steps of the work are done, and this is worth telling.
    fn note(&mut self, done: u64, message: &str);

    /// `part` of the work is done, from 0 to 1. `message` is asked for where it is shown: whenever
    /// `is_worth_it`, and else now and then.
    fn part(&mut self, part: f64, is_worth_it: bool, message: &dyn Fn() -> String);

    /// Hears a sentence.
    fn say(&self, sentence: &str);

    /// The work is over.
    fn end(&mut self);

    /// Hears what of a request has no effect, or is not all taken: sentences without full stops.
    fn remark(&self, notes: &[String]) {
        notes.iter().for_each(|note| self.say(&format!("note: {note}")));
    }
}

/// Nobody, who hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn begin(&mut self, _title: &str, _total: u64) {}

    fn step(&mut self, _done: u64) {}

    fn note(&mut self, _done: u64, _message: &str) {}

    fn part(&mut self, _part: f64, _is_worth_it: bool, _message: &dyn Fn() -> String) {}

    fn say(&self, _sentence: &str) {}

    fn end(&mut self) {}
}
