//! Files that are read: nothing but plain files, so that a pipe does not hang the program and a
//! folder is called a folder.

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

#[cfg(test)]
mod tests {
    use super::*;

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
