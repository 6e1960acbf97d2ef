//! A reader for the little of JSON that a safetensors header holds. It borrows, never copies, and
//! stops at the first byte that is not as it should be.

use crate::error::{Error, Result};

/// Deeper nesting than this is no header.
const MAX_DEPTH: usize = 16;

/// A place in a JSON text.
pub(super) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The index of the next byte.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn fail<T>(&self, what: &'static str) -> Result<T> {
        Err(Error::Format { what, at: self.at })
    }

    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The next byte that is not white space, not taken.
    pub fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.get(self.at).copied()
    }

    /// Takes `byte` if it comes next.
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, byte: u8, what: &'static str) -> Result<()> {
        if self.take(byte) { Ok(()) } else { self.fail(what) }
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Result<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fail("the header goes on after its end"),
        }
    }

    /// A string, without its quotes and with its escapes as they are written.
    pub fn string(&mut self) -> Result<&'a [u8]> {
        self.expect(b'"', "a string was expected")?;
        let start = self.at;
        loop {
            match self.text.get(self.at) {
                None => return self.fail("a string does not end"),
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0..0x20) => return self.fail("a control character stands in a string"),
                Some(_) => self.at += 1,
            }
        }
        let string = &self.text[start..self.at];
        self.at += 1;
        Ok(string)
    }

    fn escape(&mut self) -> Result<()> {
        let digits = match self.text.get(self.at) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 0,
            Some(b'u') => 4,
            _ => return self.fail("a string holds an unknown escape"),
        };
        self.at += 1;
        for _ in 0..digits {
            if !self.text.get(self.at).is_some_and(u8::is_ascii_hexdigit) {
                return self.fail("a string holds a broken escape");
            }
            self.at += 1;
        }
        Ok(())
    }

    /// A whole number that is not negative.
    pub fn integer(&mut self) -> Result<u64> {
        let first = self.peek();
        let start = self.at;
        let mut value = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.text.get(self.at) {
            value = match value.checked_mul(10).and_then(|v| v.checked_add(u64::from(digit - b'0')))
            {
                Some(value) => value,
                None => return self.fail("a number is too large"),
            };
            self.at += 1;
        }
        match self.at - start {
            0 => self.fail("a whole number was expected"),
            1 => Ok(value),
            _ if first == Some(b'0') => self.fail("a number begins with 0"),
            _ => Ok(value),
        }
    }

    /// Passes over one value of any kind.
    pub fn skip_value(&mut self) -> Result<()> {
        self.skip_nested(MAX_DEPTH)
    }

    fn skip_nested(&mut self, depth: usize) -> Result<()> {
        if depth == 0 {
            return self.fail("the header is nested too deeply");
        }
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'{') => self.skip_members(b'}', depth),
            Some(b'[') => self.skip_members(b']', depth),
            Some(b't' | b'f' | b'n' | b'-' | b'0'..=b'9') => self.skip_word(),
            _ => self.fail("a value was expected"),
        }
    }

    fn skip_members(&mut self, close: u8, depth: usize) -> Result<()> {
        self.at += 1;
        if self.take(close) {
            return Ok(());
        }
        loop {
            if close == b'}' {
                self.string()?;
                self.expect(b':', "a colon was expected")?;
            }
            self.skip_nested(depth - 1)?;
            if self.take(close) {
                return Ok(());
            }
            self.expect(b',', "a comma was expected")?;
        }
    }

    fn skip_word(&mut self) -> Result<()> {
        let start = self.at;
        while matches!(
            self.text.get(self.at),
            Some(b'a'..=b'z' | b'E' | b'0'..=b'9' | b'-' | b'+' | b'.')
        ) {
            self.at += 1;
        }
        match &self.text[start..self.at] {
            b"true" | b"false" | b"null" => Ok(()),
            word if word[0] == b'-' || word[0].is_ascii_digit() => Ok(()),
            _ => self.fail("an unknown word"),
        }
    }
}
