//! What went wrong, as sentences: what, where, and what to do about it.
//!
//! The core's errors carry numbers; here they become text. A failure is printed as
//! `error: what. What to do.` and ends the program with a code that is not zero.

use std::fmt;
use std::io;
use std::path::Path;

/// A `Result` whose error is a [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;

/// Exit code of a failure. (Bad arguments end with 2, as is the custom.)
pub const FAILED: u8 = 1;

/// Exit code of a fault of mote's own: `EX_SOFTWARE` of BSD's sysexits.
pub const FAULT: u8 = 70;

/// Exit code after Ctrl-C: 128 and the number of the signal.
pub const INTERRUPTED: u8 = 130;

/// Something that ends the program: a sentence, perhaps one more about the remedy, and an exit
/// code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    what: String,
    remedy: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure that says `what` went wrong: a sentence without its full stop.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: None, code: FAILED }
    }

    /// The same failure with what to do about it: a sentence without its full stop.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same failure with one more way out of it: a clause without its full stop.
    #[must_use]
    pub fn or(mut self, other: &str) -> Self {
        self.remedy = Some(match self.remedy.take() {
            Some(remedy) => format!("{remedy}, or {other}"),
            None => {
                let (first, rest) = other.split_at(other.len().min(1));
                first.to_uppercase() + rest
            }
        });
        self
    }

    /// The same failure, found in `place`.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// Something could not be done with the file at `path`: `cannot open model.safetensors: …`.
    pub fn file(action: &str, path: &Path, error: &io::Error) -> Self {
        let failure = Self::new(format!("cannot {action} {}: {}", path.display(), plain(error)));
        match error.kind() {
            io::ErrorKind::StorageFull => failure.remedy("Free some space, or take another place"),
            io::ErrorKind::PermissionDenied => {
                failure.remedy("Ask its owner for the right to, or take another place")
            }
            _ => failure,
        }
    }

    /// The host asked to stop, and there is nothing to keep.
    pub fn interrupted() -> Self {
        Self::stopped("stopped; nothing half made was left behind")
    }

    /// The host asked to stop, and `what` says what was kept: a sentence without its full stop.
    pub fn stopped(what: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: None, code: INTERRUPTED }
    }

    /// mote itself is at fault: a panic, which `said` tells in a line.
    pub fn fault(said: &str) -> Self {
        let remedy = "Please report this line with the command line, what `mote --version` says, \
                      the kind of model (`mote inspect`) and the CPU (`lscpu`)";
        Self {
            what: format!("mote itself is at fault, and nothing half made was left behind: {said}"),
            remedy: Some(remedy.into()),
            code: FAULT,
        }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.", self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, " {remedy}."),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// The system's sentence without its number: `no such file or directory`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "an unknown error".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_as_sentences() {
        let failure = Failure::new("needs 1.3 GiB, the limit is 1.0 GiB").remedy("Try --taesd");
        assert_eq!(failure.to_string(), "needs 1.3 GiB, the limit is 1.0 GiB. Try --taesd.");
        assert_eq!(Failure::new("no").within("unet").to_string(), "unet: no.");
        let other = Failure::new("no").or("try this").or("that");
        assert_eq!(other.to_string(), "no. Try this, or that.");
    }

    #[test]
    fn a_file_error_names_the_file_and_not_the_number() {
        let error = io::Error::from_raw_os_error(2);
        let failure = Failure::file("open", Path::new("a/b"), &error);
        assert_eq!(failure.to_string(), "cannot open a/b: no such file or directory.");
    }
}
