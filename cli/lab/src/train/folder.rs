//! What lies in a folder of pictures: its pictures and its folders, without what systems and
//! programs leave there for themselves.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use mote_host::error::{Failure, Result};

/// Endings of pictures, in small letters: those that are read, then those that are refused by name.
/// (What a file holds decides how it is read.)
const ENDINGS: [&str; 27] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "webp", "gif", "bmp", "dib", "tif",
    "tiff", "avif", "heic", "heif", "jxl", "jp2", "jpx", "tga", "ico", "psd", "dng", "cr2", "nef",
    "arw",
];

/// Formats that a file without such an ending is known by. (Others begin with two letters, as a
/// text may.)
const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Tiff,
    ImageFormat::Avif,
];

/// How many bytes tell a format.
const FIRST_BYTES: u64 = 32;

/// Folders of systems and programs that do not begin with a dot.
const SYSTEMS: [&str; 6] = [
    "__MACOSX",
    "__pycache__",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
];

/// What lies in a folder, each sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The names of pictures.
    pub pictures: Vec<OsString>,
    /// The names of folders.
    pub folders: Vec<OsString>,
}

/// Lists a folder.
///
/// # Errors
/// Where it is no folder, or cannot be read.
pub fn list(folder: &Path) -> Result<Listing> {
    let cannot = |error| Failure::file("open", folder, &error);
    let mut found = Listing::default();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let path = folder.join(&name);
        if is_hidden(&name) {
            continue;
        }
        if path.is_dir() {
            found.folders.push(name);
        } else if is_picture(&path) {
            found.pictures.push(name);
        }
    }
    found.pictures.sort_unstable();
    found.folders.sort_unstable();
    Ok(found)
}

/// The folders inside a folder that have pictures; `depth` folders down at most.
pub fn with_pictures(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let inside = list(folder).unwrap_or_default().folders;
    let mut found = Vec::new();
    for path in inside.into_iter().map(|name| folder.join(name)).take_while(|_| depth > 0) {
        if !list(&path).unwrap_or_default().pictures.is_empty() {
            found.push(path.clone());
        }
        found.extend(with_pictures(&path, depth - 1));
    }
    found
}

/// Whether a system or a program keeps something of its own there: `.ipynb_checkpoints`, `._a.png`.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || SYSTEMS.iter().any(|system| name == *system)
}

/// Whether a file is a picture, by its ending or by its first bytes.
fn is_picture(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
        return true;
    }
    // Asked first: to open a pipe is to wait for whoever may write into it.
    let is_plain = fs::metadata(path).is_ok_and(|meta| meta.is_file());
    let mut bytes = Vec::new();
    let read = |file: File| file.take(FIRST_BYTES).read_to_end(&mut bytes);
    is_plain
        && File::open(path).and_then(read).is_ok()
        && image::guess_format(&bytes).is_ok_and(|format| FORMATS.contains(&format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systems_and_programs_leave_is_neither_picture_nor_folder() {
        let kept = tempfile::tempdir().unwrap();
        for name in ["red", ".thumbnails", ".ipynb_checkpoints", "__MACOSX", "@eaDir"] {
            fs::create_dir(kept.path().join(name)).unwrap();
        }
        for name in ["._1.png", ".DS_Store", "Thumbs.db", "desktop.ini", "captions.tsv", "1.txt"] {
            fs::write(kept.path().join(name), "BM P6 text").unwrap();
        }
        for name in ["1.PNG", "2.webp", "3.jfif", "4.gif", "5.heic"] {
            fs::write(kept.path().join(name), "").unwrap();
        }
        fs::write(kept.path().join("6"), b"\x89PNG\r\n\x1a\n").unwrap();
        fs::write(kept.path().join("7.txt"), b"\xff\xd8\xff\xe0").unwrap();
        let found = list(kept.path()).unwrap();
        assert_eq!(found.folders, ["red"]);
        assert_eq!(found.pictures, ["1.PNG", "2.webp", "3.jfif", "4.gif", "5.heic", "6", "7.txt"]);
    }

    #[test]
    fn folders_with_pictures_are_found_below() {
        let kept = tempfile::tempdir().unwrap();
        let root = kept.path();
        for name in ["flat/32/a.png", "flat/64/a.png", "flat/none/a.txt", "flat/.x/a.png"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "").unwrap();
        }
        assert_eq!(
            with_pictures(&root.join("flat"), 1),
            [root.join("flat/32"), root.join("flat/64")]
        );
        assert_eq!(with_pictures(root, 2).len(), 2);
        assert!(with_pictures(root, 1).is_empty());
        assert!(with_pictures(&root.join("gone"), 2).is_empty());
    }
}
