//! Untrusted JSON as Python writes it.

use std::path::Path;

use serde_json::Value;

use crate::error::{Failure, Result};
use crate::files;

/// The longest configuration that is believed. Those with 1000 betas have some 20 KiB; an index of
/// shards may have a few hundred.
pub const MAX_BYTES: u64 = 16 << 20;

/// Reads a JSON file as Python's `json` would: `NaN` and `Infinity` become strings of that name.
///
/// # Errors
/// Where there is no such file, or it is not JSON.
pub fn read(path: &Path) -> Result<Value> {
    of_text(path, &files::text(path, MAX_BYTES)?)
}

/// The value of a text from the file at `path`, as [`read`] gives it.
///
/// # Errors
/// Where it is not JSON.
pub fn of_text(path: &Path, text: &str) -> Result<Value> {
    parse(text).map_err(|error| broken(path, text, &error))
}

/// A JSON text, from the file at `path`, that cannot be read: what is wrong, and where.
pub fn broken(path: &Path, text: &str, error: &serde_json::Error) -> Failure {
    let name = path.display();
    if text.trim().is_empty() {
        return Failure::new(format!("{name} is empty")).remedy("Fetch or write it again");
    }
    if error.is_eof() {
        let what = format!("{name} is not JSON: it ends too early, at line {}", error.line());
        return Failure::new(what).remedy("Fetch it again, or close what is open in it");
    }
    Failure::new(format!("{name} is not JSON: {error}"))
        .remedy("Mend it there, or fetch the file again")
}

/// The value of a JSON text in which Python's `NaN`, `Infinity` and `-Infinity` may stand.
fn parse(text: &str) -> serde_json::Result<Value> {
    if !text.contains("NaN") && !text.contains("Infinity") {
        return serde_json::from_str(text);
    }
    let mut standard = String::with_capacity(text.len() + 16);
    let (mut rest, mut in_string) = (text, false);
    'text: while let Some(first) = rest.chars().next() {
        if !in_string {
            for word in ["-Infinity", "Infinity", "NaN"] {
                if let Some(after) = rest.strip_prefix(word) {
                    standard.extend(["\"", word, "\""]);
                    rest = after;
                    continue 'text;
                }
            }
        }
        let mut taken = first.len_utf8();
        match first {
            '"' => in_string = !in_string,
            '\\' if in_string => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        standard.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    serde_json::from_str(&standard)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn pythons_numbers_that_are_none_are_read_and_strings_are_left_alone() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity], "c\"NaN": "NaN, \\", "d": 1}"#;
        let expected =
            json!({"a": "-Infinity", "b": ["NaN", "Infinity"], "c\"NaN": "NaN, \\", "d": 1});
        assert_eq!(parse(text).unwrap(), expected);
        for broken in ["NaN Infinity", "\"NaN", "\"NaN\\", "NaN\""] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for bytes in [&b""[..], b"{", b"\xff", b"{\"a\":}", &b"[".repeat(100_000)] {
            fs::write(file.path(), bytes).unwrap();
            assert!(read(file.path()).is_err());
        }
    }
}
