//! The one error of the core: a small `Copy` enum that carries numbers, never text it made up at
//! run time.
//!
//! The host turns it into a sentence that says what happened, where, and what to do. Where an error
//! concerns a weight, [`Context::weight_name`](crate::ops::Context::weight_name) tells its full
//! name.

use core::fmt;

/// A `Result` whose error is [`Error`], where no other is named.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// A shape as the error carries it: trailing zeros stand for absent dimensions.
pub type Dims = [usize; 4];

/// What can go wrong in the core.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields say what their names say")]
pub enum Error {
    /// The arena is too small: `needed` bytes at this point, `limit` given.
    OutOfMemory { needed: usize, limit: usize },
    /// A size computation left the range of `usize`.
    Overflow { what: &'static str },
    /// A tensor handed to `what` has the wrong shape.
    Shape { what: &'static str, expected: Dims, found: Dims },
    /// The model asks for a weight that the checkpoint lacks.
    MissingWeight,
    /// A weight has another shape than the configuration says.
    WeightShape { expected: Dims, found: Dims },
    /// A weight is of a type that cannot be used in its place.
    WeightDtype { found: &'static str },
    /// The bytes of a weight could not be read.
    WeightRead,
    /// Untrusted bytes are malformed: `what` is wrong at byte `at`.
    Format { what: &'static str, at: usize },
    /// The bytes of a file are not those its checksum was made of.
    Checksum { expected: u32, found: u32 },
    /// A configuration's value is out of range or contradicts another.
    Config { key: &'static str, what: &'static str },
    /// `what` needs room for `needed`, and there is room for `limit`.
    Capacity { what: &'static str, needed: usize, limit: usize },
    /// An index into `what` is not below `limit`.
    Index { what: &'static str, index: usize, limit: usize },
    /// The network's output holds a value that is not a finite number.
    NotFinite { what: &'static str },
    /// The host's sink refused a row of pixels.
    Sink,
    /// The host asked to stop.
    Cancelled,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::OutOfMemory { needed, limit } => {
                write!(f, "needs {needed} bytes of memory, {limit} given")
            }
            Error::Overflow { what } => write!(f, "{what} is too large to count in bytes"),
            Error::Shape { what, expected, found } => {
                write!(f, "{what}: expected shape {}, found {}", Show(expected), Show(found))
            }
            Error::MissingWeight => write!(f, "weight missing"),
            Error::WeightShape { expected, found } => {
                write!(f, "weight of shape {}, expected {}", Show(found), Show(expected))
            }
            Error::WeightDtype { found } => write!(f, "weight of unusable type {found}"),
            Error::WeightRead => write!(f, "weight could not be read"),
            Error::Format { what, at } => write!(f, "{what} at byte {at}"),
            Error::Checksum { expected, found } => {
                write!(f, "the checksum is {found:08x}, the file says {expected:08x}")
            }
            Error::Config { key, what } => write!(f, "{key} {what}"),
            Error::Capacity { what, needed, limit } => {
                write!(f, "{what}: {needed} needed, at most {limit} possible")
            }
            Error::Index { what, index, limit } => {
                write!(f, "{what} {index} is out of range: there are {limit}")
            }
            Error::NotFinite { what } => write!(f, "{what} holds a value that is not a number"),
            Error::Sink => write!(f, "the picture could not be written"),
            Error::Cancelled => write!(f, "cancelled"),
        }
    }
}

impl core::error::Error for Error {}

struct Show(Dims);

impl fmt::Display for Show {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rank = self.0.iter().rposition(|&d| d != 0).map_or(0, |i| i + 1);
        write!(f, "[")?;
        for (i, d) in self.0[..rank].iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        write!(f, "]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn every_error_is_a_sentence_with_its_numbers() {
        let (expected, found) = ([2, 3, 0, 0], [0; 4]);
        let what = "linear";
        for (error, sentence) in [
            (Error::OutOfMemory { needed: 64, limit: 63 }, "needs 64 bytes of memory, 63 given"),
            (Error::Overflow { what }, "linear is too large to count in bytes"),
            (Error::Shape { what, expected, found }, "linear: expected shape [2, 3], found []"),
            (
                Error::Checksum { expected: 0xAB, found: 1 },
                "the checksum is 00000001, the file says 000000ab",
            ),
            (Error::MissingWeight, "weight missing"),
            (Error::WeightShape { expected, found }, "weight of shape [], expected [2, 3]"),
            (Error::WeightDtype { found: "I64" }, "weight of unusable type I64"),
            (Error::WeightRead, "weight could not be read"),
            (Error::Format { what: "no header", at: 8 }, "no header at byte 8"),
            (Error::Config { key: "eta", what: "must be 0" }, "eta must be 0"),
            (
                Error::Capacity { what: "rows", needed: 3, limit: 2 },
                "rows: 3 needed, at most 2 possible",
            ),
            (
                Error::Index { what: "token", index: 9, limit: 9 },
                "token 9 is out of range: there are 9",
            ),
            (Error::NotFinite { what: "x" }, "x holds a value that is not a number"),
            (Error::Sink, "the picture could not be written"),
            (Error::Cancelled, "cancelled"),
        ] {
            assert_eq!(error.to_string(), sentence);
        }
        // A zero inside is a dimension, zeros at the end are none.
        assert_eq!(Show([2, 0, 3, 0]).to_string(), "[2, 0, 3]");
    }
}
