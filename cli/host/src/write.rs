//! Files that are written: none is seen before it is whole.
//!
//! What is written lies beside its place and is moved there when it is whole, so neither an
//! error nor Ctrl-C nor a full disk leaves half of one, and what was there before stays until then.
//! A file that cannot be replaced, as it is mounted by itself, is written over at the end instead.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::{Failure, Result};
use crate::stop::Stop;

/// How many names for a file beside its place are tried.
const MAX_PARTS: u32 = 100;

/// A file that is being written: beside its place, where it is moved when it is whole.
pub struct FileWriter {
    place: Place,
    buffer: Buffered,
}

/// A buffer that outlives the encoder: what it still holds when the encoder is done must be written
/// where an error is seen. It keeps an error's number: the encoder keeps but the text.
#[derive(Clone)]
pub(crate) struct Buffered(Rc<RefCell<Buffer>>);

struct Buffer {
    output: BufWriter<Box<dyn Write>>,
    os_error: Option<i32>,
}

impl Buffered {
    fn new(output: impl Write + 'static) -> Self {
        let output = BufWriter::new(Box::new(output) as Box<dyn Write>);
        Self(Rc::new(RefCell::new(Buffer { output, os_error: None })))
    }

    fn keep<T>(
        &self,
        act: impl FnOnce(&mut BufWriter<Box<dyn Write>>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut buffer = self.0.borrow_mut();
        let result = act(&mut buffer.output);
        if let Err(error) = &result {
            buffer.os_error = error.raw_os_error();
        }
        result
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.keep(|output| output.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.keep(|output| output.flush())
    }
}

enum Place {
    /// Written straight through: standard output, a device.
    Direct(PathBuf),
    /// Written beside its place and moved there.
    Beside { target: PathBuf, part: PathBuf, file: File, stop: Stop },
    /// Written elsewhere, and copied over what is at its place.
    Over { target: PathBuf, file: File, over: File },
}

impl FileWriter {
    /// Begins a file at `path` or, without one, on standard output.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn begin(path: Option<&Path>, stop: &Stop) -> Result<Self> {
        let (place, buffer) = open(path, stop)?;
        Ok(Self { place, buffer })
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.write_all(bytes).map_err(|error| self.failure(error))
    }

    /// Moves the file to its place.
    ///
    /// # Errors
    /// Where that cannot be done; nothing is left behind then.
    pub fn end(mut self) -> Result<()> {
        self.buffer.flush().map_err(|error| self.failure(error))?;
        let ended = match &mut self.place {
            Place::Direct(_) => Ok(()),
            Place::Beside { target, part, file, .. } => {
                // A full disk may show only here.
                file.sync_all().and_then(|()| fs::rename(part, target))
            }
            Place::Over { file, over, .. } => copy_over(file, over),
        };
        ended.map_err(|error| self.failure(error))
    }

    /// The way to the file for who writes it by himself, as PNG's encoder does.
    pub(crate) fn stream(&self) -> Buffered {
        self.buffer.clone()
    }

    /// What an error in writing to it means.
    pub(crate) fn failure(&self, error: io::Error) -> Failure {
        let error = self.buffer.0.borrow().os_error.map_or(error, io::Error::from_raw_os_error);
        match &self.place {
            Place::Direct(path)
            | Place::Beside { target: path, .. }
            | Place::Over { target: path, .. } => Failure::file("write", path, &error),
        }
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Place::Beside { part, stop, .. } = &self.place {
            // After a success there is no such file any more.
            let _ = fs::remove_file(part);
            stop.set_unfinished(None);
        }
    }
}

/// Where the bytes go, and the way there.
fn open(path: Option<&Path>, stop: &Stop) -> Result<(Place, Buffered)> {
    let Some(path) = path else {
        let place = Place::Direct("standard output".into());
        return Ok((place, Buffered::new(io::stdout())));
    };
    let cannot = |error| Failure::file("write", path, &error);
    // A link is followed, so that what it points to is replaced and not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if fs::metadata(&target).is_ok_and(|meta| !meta.is_file()) {
        let file = OpenOptions::new().write(true).open(&target).map_err(cannot)?;
        return Ok((Place::Direct(target), Buffered::new(file)));
    }
    let (part, file) = match new_part(&target) {
        Ok(made) if !is_mount_point(&target) => made,
        made => {
            let refused = made.map(|(part, _)| fs::remove_file(part)).err();
            let (file, over) = instead(&target, refused).map_err(cannot)?;
            let output = file.try_clone().map_err(cannot)?;
            return Ok((Place::Over { target, file, over }, Buffered::new(output)));
        }
    };
    keep_permissions(&target, &part);
    stop.set_unfinished(Some(&part));
    let output = file.try_clone().map_err(cannot)?;
    let place = Place::Beside { target, part, file, stop: stop.clone() };
    Ok((place, Buffered::new(output)))
}

/// A file without a name to write to, and the one at `target`, which it is to be copied over;
/// `refused` is why there can be none beside it.
fn instead(target: &Path, refused: Option<io::Error>) -> io::Result<(File, File)> {
    let over = OpenOptions::new().write(true).open(target);
    // Where there is no file yet, what kept one from being made beside it is what is wrong.
    let over = over.map_err(|error| refused.unwrap_or(error))?;
    Ok((tempfile::tempfile()?, over))
}

/// Writes all of `file` over what `over` holds.
fn copy_over(file: &mut File, over: &mut File) -> io::Result<()> {
    file.rewind()?;
    over.set_len(0)?;
    io::copy(file, over)?;
    over.sync_all()
}

/// Whether a file is mounted by itself, as containers do it: nothing can be moved to its place.
#[cfg(target_os = "linux")]
fn is_mount_point(target: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(mounts) = fs::read("/proc/self/mountinfo") else { return false };
    // The fifth word is the place, in which a blank is `\040`.
    let mut places = mounts.split(|&b| b == b'\n').filter_map(|l| l.split(|&b| b == b' ').nth(4));
    places.any(|place| without_octals(place) == target.as_os_str().as_bytes())
}

#[cfg(not(target_os = "linux"))]
fn is_mount_point(_target: &Path) -> bool {
    false
}

/// A place of `/proc/self/mountinfo` without its escapes, three octal digits each.
#[cfg(target_os = "linux")]
fn without_octals(place: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::new(), place);
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (plain.push(byte), rest = &after[3..]).1,
            None => (plain.push(first), rest = after).1,
        }
    }
    plain
}

/// Gives the part the permissions of what it will replace: who could not read that, shall not now.
fn keep_permissions(target: &Path, part: &Path) {
    if let Ok(meta) = fs::metadata(target) {
        // Where that cannot be done it is a new file like any other.
        let _ = fs::set_permissions(part, meta.permissions());
    }
}

/// A new file beside `target`. One of the same name may be left over from a program that was
/// killed, or belong to another machine's that shares the folder: then another name is taken.
fn new_part(target: &Path) -> io::Result<(PathBuf, File)> {
    let mut tried = 0;
    loop {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}.{tried}.part", std::process::id()));
        let part = target.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&part) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tried < MAX_PARTS => {
                tried += 1;
            }
            file => return file.map(|file| (part, file)),
        }
    }
}

/// Refuses a place for a file that has no folder, or is one; `example` could be a file in it.
///
/// # Errors
/// Where no file could be there.
pub fn check_folder(output: &Path, example: &str) -> Result<()> {
    let folder = match output.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(Failure::new(format!("there is no folder {}", folder.display()))
            .remedy("Make it first"));
    }
    // A path's end says that a folder is meant, which is then not there: `new/`, `new/.`.
    let name = output.as_os_str().as_encoded_bytes();
    let is_separator = |byte: &u8| std::path::is_separator(char::from(*byte));
    let means_folder = name.last().is_some_and(is_separator)
        || name.strip_suffix(b".").is_some_and(|rest| rest.last().is_some_and(is_separator));
    if means_folder && !output.is_dir() {
        return Err(Failure::new(format!("there is no folder {}", output.display()))
            .remedy("Make it first"));
    }
    if output.is_dir() || output.file_name().is_none() {
        return Err(Failure::new(format!("{} is a folder", output.display()))
            .remedy(format!("Name a file in it: -o {}", output.join(example).display())));
    }
    Ok(())
}

/// Refuses a place where no packed model could be written, before any work.
///
/// # Errors
/// Where it has no folder, is one, has another ending than `.safetensors`, or cannot be written.
pub fn check_model(output: &Path) -> Result<()> {
    check_folder(output, "model.safetensors")?;
    let is_device = fs::metadata(output).is_ok_and(|meta| !meta.is_file());
    let ending = output.extension().and_then(|ending| ending.to_str());
    if !is_device && ending != Some("safetensors") {
        let shown = output.display();
        return Err(Failure::new(format!("{shown} would not be called what it is: safetensors"))
            .remedy(format!("Take -o {}", output.with_extension("safetensors").display())));
    }
    probe(output)
}

/// Whether a file can be written at `path`, asked before the work and not after it: the part is
/// made and taken away again.
///
/// # Errors
/// Where it cannot.
pub fn probe(path: &Path) -> Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if fs::metadata(&target).is_ok_and(|meta| !meta.is_file()) {
        return Ok(());
    }
    let cannot = |error| Failure::file("write", path, &error);
    match new_part(&target) {
        Ok((part, _)) => {
            fs::remove_file(part).map_err(cannot)?;
            if is_mount_point(&target) {
                instead(&target, None).map_err(cannot)?;
            }
            Ok(())
        }
        Err(refused) => instead(&target, Some(refused)).map(drop).map_err(cannot),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_not_a_file_without_an_ending() {
        let folder = tempfile::tempdir().unwrap();
        for end in ["new/", "new/.", "new//"] {
            let said = check_model(&folder.path().join(end)).unwrap_err().to_string();
            assert!(said.contains("there is no folder") && said.contains("Make it"), "{said}");
        }
        assert!(!folder.path().join("new").exists());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_overwritten_keeps_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for mode in [0o640, 0o600, 0o444] {
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let mut file = FileWriter::begin(Some(&path), &Stop::default()).unwrap();
            file.write(b"new").unwrap();
            file.end().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_written_over_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "what was there before").unwrap();
        let (file, over) = instead(&path, None).unwrap();
        let buffer = Buffered::new(file.try_clone().unwrap());
        let mut writer =
            FileWriter { place: Place::Over { target: path.clone(), file, over }, buffer };
        writer.write(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"what was there before");
        writer.end().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let refused = io::Error::from_raw_os_error(13);
        let error = instead(&folder.path().join("b.png"), Some(refused)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(13));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn mount_points_are_known_whatever_their_names() {
        assert!(is_mount_point(Path::new("/proc")) && !is_mount_point(Path::new("/proc/self")));
        assert_eq!(without_octals(br"/a\040b\134c\9"), br"/a b\c\9");
    }
}
