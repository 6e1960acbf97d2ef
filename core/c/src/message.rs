//! Codes and sentences for C.

use core::fmt::{self, Write};

use mote::Error;
use mote::pipeline::Fault;

/// Bytes of the longest sentence, with its end.
pub const MESSAGE_BYTES: usize = 256;

/// C's `enum mote_status`, in an `int`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "mote.h says it")]
pub enum Status {
    Ok = 0,
    More = 1,
    Memory = 2,
    Argument = 3,
    Format = 4,
    Model = 5,
    Request = 6,
    NotFinite = 7,
    Failed = 8,
}

/// A sentence that ends with a zero.
pub struct Message {
    bytes: [u8; MESSAGE_BYTES],
    len: usize,
}

impl Message {
    /// No sentence.
    pub const EMPTY: Self = Self { bytes: [0; MESSAGE_BYTES], len: 0 };

    /// Where it begins.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    /// Says what is wrong with an argument.
    pub fn argument(&mut self) -> Status {
        let sentence = "an argument is null, too short or not aligned, or the call is out of turn";
        self.write(format_args!("{sentence}"));
        Status::Argument
    }

    /// Says what happened.
    pub fn set(&mut self, fault: &Fault) -> Status {
        self.write(format_args!("{fault}"));
        match fault.error {
            Error::OutOfMemory { .. } | Error::Capacity { .. } | Error::Overflow { .. } => {
                Status::Memory
            }
            Error::Format { .. } => Status::Format,
            Error::MissingWeight
            | Error::WeightShape { .. }
            | Error::WeightDtype { .. }
            | Error::WeightRead => Status::Model,
            Error::NotFinite { .. } => Status::NotFinite,
            Error::Cancelled => Status::Failed,
            _ => Status::Request,
        }
    }

    fn write(&mut self, sentence: fmt::Arguments<'_>) {
        *self = Self::EMPTY;
        // A sentence that is too long is cut off.
        let _ = self.write_fmt(sentence);
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MESSAGE_BYTES - 1 - self.len;
        let count = text.len().min(room);
        self.bytes[self.len..self.len + count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_cut_off_before_its_end() {
        let mut message = Message::EMPTY;
        let long = "x".repeat(1000);
        message.write(format_args!("{long}"));
        assert_eq!(message.len, MESSAGE_BYTES - 1);
        assert_eq!((message.bytes[message.len - 1], message.bytes[message.len]), (b'x', 0));
        let needed = Error::OutOfMemory { needed: 64, limit: 63 };
        assert_eq!(message.set(&needed.into()), Status::Memory);
        let text = core::str::from_utf8(&message.bytes[..message.len]).unwrap();
        assert_eq!(text, "needs 64 bytes of memory, 63 given");
    }
}
