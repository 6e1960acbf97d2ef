//! Files that are read: nothing but plain files, so that a pipe does not hang the program and a
//! folder is called a folder. Texts are read whatever program saved them: with a byte order mark or
//! without, in UTF-8 or, as Windows' own tools write, in UTF-16.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::error::{Failure, Result};
use crate::size;

/// Opens a plain file.
///
/// # Errors
/// Where there is none, or it cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    let cannot = |error| Failure::file("open", path, &error);
    // Asked first: to open a pipe is to wait for whoever may write into it.
    let meta = fs::metadata(path).map_err(cannot)?;
    if meta.is_dir() {
        return Err(Failure::new(format!("{} is a folder, not a file", path.display())));
    }
    if !meta.is_file() {
        let what = format!("{} is not a plain file but a pipe or a device", path.display());
        return Err(Failure::new(what).remedy("Save what it gives in a file first"));
    }
    File::open(path).map_err(cannot)
}

/// Reads a plain file of at most `limit` bytes.
///
/// # Errors
/// Where it is longer, or cannot be read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Failure::file("read", path, &error))?;
    if bytes.len() as u64 > limit {
        let what = format!("{} is longer than {}", path.display(), size::show(limit));
        return Err(Failure::new(what).remedy("Is it another file than was meant?"));
    }
    Ok(bytes)
}

/// The first bytes of a plain file, `count` of them or as many as there are.
///
/// # Errors
/// Where it cannot be read.
pub fn begin(path: &Path, count: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(count as u64).read_to_end(&mut bytes);
    read.map_err(|error| Failure::file("read", path, &error))?;
    Ok(bytes)
}

/// Reads a plain text file of at most `limit` bytes, without its byte order mark.
///
/// # Errors
/// Where it is longer, cannot be read, or is neither UTF-8 nor UTF-16 with a byte order mark.
pub fn text(path: &Path, limit: u64) -> Result<String> {
    decode(path, read(path, limit)?)
}

/// The text in the bytes of the file at `path`, as [`text`] gives it.
///
/// # Errors
/// Where they are neither UTF-8 nor UTF-16 with a byte order mark.
pub fn decode(path: &Path, bytes: Vec<u8>) -> Result<String> {
    let wide = match bytes.as_slice() {
        [0xFF, 0xFE, rest @ ..] => Some((rest, u16::from_le_bytes as fn([u8; 2]) -> u16)),
        [0xFE, 0xFF, rest @ ..] => Some((rest, u16::from_be_bytes as fn([u8; 2]) -> u16)),
        _ => None,
    };
    if let Some((rest, unit)) = wide {
        let (pairs, odd) = rest.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|&pair| unit(pair)).collect();
        let text = String::from_utf16(&units).ok().filter(|_| odd.is_empty());
        return text.ok_or_else(|| no_text(path, "after a byte order mark of UTF-16: not UTF-16"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(match text.strip_prefix('\u{FEFF}') {
            Some(rest) => rest.into(),
            None => text,
        }),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
            Err(no_text(path, &format!("line {line}: not UTF-8")))
        }
    }
}

fn no_text(path: &Path, why: &str) -> Failure {
    Failure::new(format!("{}, {why}", path.display()))
        .remedy("Save it as UTF-8, or fetch it again if it is not yours")
}

/// The names of a folder's files, sorted.
///
/// # Errors
/// Where it is no folder, or cannot be read.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::file("open", folder, &error))?;
    let mut names: Vec<_> =
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_same_however_it_was_saved() {
        let utf16 = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            mark.into_iter().chain("a\r\nä".encode_utf16().flat_map(unit)).collect::<Vec<u8>>()
        };
        for bytes in [
            "a\r\nä".as_bytes().to_vec(),
            "\u{FEFF}a\r\nä".as_bytes().to_vec(),
            utf16([0xFF, 0xFE], u16::to_le_bytes),
            utf16([0xFE, 0xFF], u16::to_be_bytes),
        ] {
            assert_eq!(decode(Path::new("x"), bytes).unwrap(), "a\r\nä");
        }
        for (bytes, says) in [
            (&b"a\nb\xFF"[..], "line 2"),
            (&b"\xFF\xFEa"[..], "UTF-16"),
            (&b"\xFF\xFE\x00\xD8"[..], "UTF-16"),
        ] {
            let said = decode(Path::new("x"), bytes.to_vec()).unwrap_err().to_string();
            assert!(said.starts_with("x, ") && said.contains(says), "{said}");
        }
    }

    #[test]
    fn only_plain_files_up_to_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read(&path, 10).unwrap(), [7; 10]);
        assert!(read(&path, 9).unwrap_err().to_string().contains("longer than 9 B"));
        assert!(read(folder.path(), 9).unwrap_err().to_string().contains("is a folder"));
        let none = read(&folder.path().join("b"), 9).unwrap_err().to_string();
        assert!(none.contains("no such file"), "{none}");
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_not_waited_for() {
        let said = read(Path::new("/dev/zero"), 9).unwrap_err().to_string();
        assert!(said.contains("pipe or a device"), "{said}");
    }
}
