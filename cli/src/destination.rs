//! Where `-o` says that pictures go: a file, several with numbers in their names, standard output.

use std::path::{Path, PathBuf};

use mote_host::write::{check_folder, probe};
use mote_host::{Failure, Result};

/// The widest index that `%0Nd` may ask for.
const MAX_DIGITS: usize = 20;

/// Where pictures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output: one picture.
    Stdout,
    /// Files, named after this.
    Files(PathBuf),
}

impl Destination {
    /// Where `-o` says, for `count` pictures.
    ///
    /// # Errors
    /// Where they could not be written there.
    pub fn new(output: &Path, count: u32) -> Result<Self> {
        if output == Path::new("-") {
            if count > 1 {
                return Err(Failure::new(format!(
                    "standard output takes one picture, not {count}"
                ))
                .remedy("Write files: -o picture-%03d.png"));
            }
            return Ok(Self::Stdout);
        }
        let shown = output.display();
        let ending = output.extension().and_then(|ending| ending.to_str());
        if let Some(ending) = ending.filter(|ending| !ending.eq_ignore_ascii_case("png")) {
            // `picture.%03d` is a name whose ending is its number.
            if !ending.contains('%') {
                return Err(Failure::new(format!("{shown} would not be a PNG file: .{ending}"))
                    .remedy("mote writes PNG; name it so, and convert it afterwards"));
            }
        }
        check_folder(output, "output.png")?;
        if count > 1 && output.to_str().is_none() {
            return Err(Failure::new(format!(
                "{shown} is not UTF-8, and {count} pictures need names"
            ))
            .remedy("Take a plain name: -o picture-%03d.png"));
        }
        let destination = Self::Files(output.into());
        destination.path(0).as_deref().map_or(Ok(()), probe)?;
        Ok(destination)
    }

    /// The file of picture `index`; `None` for standard output.
    pub fn path(&self, index: u32) -> Option<PathBuf> {
        let Self::Files(pattern) = self else { return None };
        // A name that is not Unicode holds no pattern that could be told.
        let Some(name) = pattern.file_name().and_then(|name| name.to_str()) else {
            return Some(pattern.clone());
        };
        let (expanded, has_index) = expand(name, index);
        if has_index || index == 0 {
            return Some(pattern.with_file_name(expanded));
        }
        let numbered = match expanded.rsplit_once('.') {
            Some((stem, ending)) => format!("{stem}_{}.{ending}", index + 1),
            None => format!("{expanded}_{}", index + 1),
        };
        Some(pattern.with_file_name(numbered))
    }
}

/// Puts `index` in the place of each `%d`, `%3d` and `%03d`, and `%` in the place of `%%`. Tells
/// whether there was a place.
fn expand(name: &str, index: u32) -> (String, bool) {
    let (mut expanded, mut rest, mut found) = (String::new(), name, false);
    while let Some(at) = rest.find('%') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let width = if digits == 0 { Some(0) } else { after[..digits].parse().ok() };
        let width = width.filter(|&width| width <= MAX_DIGITS);
        if let (Some(width), Some(after)) = (width, after[digits..].strip_prefix('d')) {
            // printf fills with blanks where no 0 is written; in a name zeros serve everybody.
            expanded.push_str(&format!("{index:0width$}"));
            (rest, found) = (after, true);
        } else {
            expanded.push('%');
            rest = after.strip_prefix('%').unwrap_or(after);
        }
    }
    expanded.push_str(rest);
    (expanded, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_not_a_file_without_an_ending() {
        let folder = tempfile::tempdir().unwrap();
        for (end, count) in [("new/", 1), ("new/.", 2), ("new//", 1)] {
            let said = Destination::new(&folder.path().join(end), count).unwrap_err().to_string();
            assert!(said.contains("there is no folder") && said.contains("Make it"), "{said}");
        }
        let said = Destination::new(&folder.path().join("."), 1).unwrap_err().to_string();
        assert!(said.contains("is a folder"), "{said}");
    }

    #[test]
    fn names_take_the_index_as_printf_would() {
        for (name, index, expected) in [
            ("a.png", 0, "a.png"),
            ("a.png", 1, "a_2.png"),
            ("a", 1, "a_2"),
            ("a-%03d.png", 7, "a-007.png"),
            ("%d-%d.png", 12, "12-12.png"),
            ("100%%-%02d.png", 1234, "100%-1234.png"),
            ("50%.png", 0, "50%.png"),
            ("%99999999999999999999d.png", 0, "%99999999999999999999d.png"),
            ("ä%dö.png", 3, "ä3ö.png"),
        ] {
            let path = Destination::Files(name.into()).path(index).unwrap();
            assert_eq!(path, Path::new(expected), "{name}");
        }
    }

    #[test]
    fn places_that_cannot_take_pictures_are_refused_before_any_work() {
        let folder = tempfile::tempdir().unwrap();
        let new = |path: &str, count| {
            let path = if path == "-" { path.into() } else { folder.path().join(path) };
            Destination::new(&path, count).map_err(|failure| failure.to_string())
        };
        assert!(new("a.jpg", 1).unwrap_err().contains("mote writes PNG"));
        assert!(new("none/a.png", 1).unwrap_err().contains("no folder"));
        assert!(new("", 1).unwrap_err().contains("is a folder"));
        assert!(new("-", 2).unwrap_err().contains("one picture"));
        assert_eq!(new("-", 1), Ok(Destination::Stdout));
        for good in ["a.png", "a.PNG", "a", "a.%03d"] {
            assert!(new(good, 3).is_ok(), "{good}");
        }
    }
}
