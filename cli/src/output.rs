//! Files out: PNG row by row, packed models piece by piece, and none is seen half written.
//!
//! What is written lies beside its place and is moved there when it is whole, so neither an
//! error nor Ctrl-C nor a full disk leaves half of one, and what was there before stays until then.
//! A file that cannot be replaced, as it is mounted by itself, is written over at the end instead.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use png::{BitDepth, ColorType, StreamWriter};

use crate::error::{Failure, Result};
use crate::files;
use crate::parameters::KEYWORD;
use crate::progress::Interrupt;

/// The widest index that `%0Nd` may ask for.
const MAX_DIGITS: usize = 20;

/// The longest text that a picture's compressed chunk may hold.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// How many names for a file beside its place are tried.
const MAX_PARTS: u32 = 100;

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

/// A PNG file that is being written, row by row.
pub struct PngWriter {
    // The stream writes its end when it is dropped. It is dropped first, so that this goes to the
    // part and not to the picture.
    stream: Option<StreamWriter<'static, Buffered>>,
    file: FileWriter,
}

/// A file that is being written: beside its place, where it is moved when it is whole.
pub struct FileWriter {
    place: Place,
    buffer: Buffered,
}

/// A buffer that outlives the encoder: what it still holds when the encoder is done must be written
/// where an error is seen. It keeps an error's number: the encoder keeps but the text.
#[derive(Clone)]
struct Buffered(Rc<RefCell<Buffer>>);

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
    Beside { target: PathBuf, part: PathBuf, file: File, interrupt: Interrupt },
    /// Written elsewhere, and copied over what is at its place.
    Over { target: PathBuf, file: File, over: File },
}

impl PngWriter {
    /// Begins a picture of 8-bit RGB with `parameters` in its text chunk, at `path` or, without
    /// one, on standard output.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn begin(
        path: Option<&Path>,
        [width, height]: [u32; 2],
        parameters: &str,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let mut writer = Self { stream: None, file: FileWriter::begin(path, interrupt)? };
        let mut encoder = png::Encoder::new(writer.file.buffer.clone(), width, height);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        let keyword = KEYWORD.to_string();
        // PNG's plain text is Latin-1; what goes beyond it has a chunk of its own kind.
        let is_latin = parameters.chars().all(|c| u32::from(c) < 256);
        let header = (if is_latin {
            encoder.add_text_chunk(keyword, parameters.into())
        } else {
            encoder.add_itxt_chunk(keyword, parameters.into())
        })
        .and_then(|()| encoder.write_header())
        .and_then(png::Writer::into_stream_writer);
        writer.stream = Some(header.map_err(|error| writer.file.failure(error.into()))?);
        Ok(writer)
    }

    /// Writes one row, `3 * width` bytes.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn row(&mut self, rgb: &[u8]) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.write_all(rgb).map_err(|error| self.file.failure(error))
    }

    /// Ends the picture and moves it to its place.
    ///
    /// # Errors
    /// Where that cannot be done; nothing is left behind then.
    pub fn end(mut self) -> Result<()> {
        if let Some(stream) = self.stream.take() {
            stream.finish().map_err(|error| self.file.failure(error.into()))?;
        }
        self.file.end()
    }
}

impl FileWriter {
    /// Begins a file at `path` or, without one, on standard output.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn begin(path: Option<&Path>, interrupt: &Interrupt) -> Result<Self> {
        let (place, buffer) = open(path, interrupt)?;
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

    fn failure(&self, error: io::Error) -> Failure {
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
        if let Place::Beside { part, interrupt, .. } = &self.place {
            // After a success there is no such file any more.
            let _ = fs::remove_file(part);
            interrupt.set_unfinished(None);
        }
    }
}

/// Where the bytes go, and the way there.
fn open(path: Option<&Path>, interrupt: &Interrupt) -> Result<(Place, Buffered)> {
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
    interrupt.set_unfinished(Some(&part));
    let output = file.try_clone().map_err(cannot)?;
    let place = Place::Beside { target, part, file, interrupt: interrupt.clone() };
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
fn check_folder(output: &Path, example: &str) -> Result<()> {
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
fn probe(path: &Path) -> Result<()> {
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

/// The size of a PNG file in pixels, and its texts with their keywords.
pub type Texts = ([u32; 2], Vec<(String, String)>);

/// The size of a PNG file, and its texts with their keywords.
///
/// # Errors
/// Where it cannot be read.
pub fn read_texts(path: &Path) -> Result<Texts> {
    let damaged = |error| damaged(path, &error);
    let decoder = png::Decoder::new(BufReader::new(files::open(path)?));
    let mut reader = decoder.read_info().map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    let info = reader.info();
    let mut texts = Vec::new();
    for chunk in &info.uncompressed_latin1_text {
        texts.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    // Compressed, a thousand bytes can say a million: one text of a size that is believed.
    let is_ours = |keyword: &str| keyword == KEYWORD;
    for chunk in info.compressed_latin1_text.iter().filter(|c| is_ours(&c.keyword)).take(1) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(damaged)?;
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(damaged)?));
    }
    for chunk in info.utf8_text.iter().filter(|c| is_ours(&c.keyword)).take(1) {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(MAX_TEXT_BYTES).map_err(damaged)?;
        texts.push((chunk.keyword.clone(), chunk.get_text().map_err(damaged)?));
    }
    Ok(([info.width, info.height], texts))
}

fn damaged(path: &Path, error: &png::DecodingError) -> Failure {
    Failure::new(format!("{} cannot be read as PNG: {error}", path.display()))
        .remedy("Its download may have been cut off: fetch it again")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_folder_that_is_not_there_is_not_a_file_without_an_ending() {
        let folder = tempfile::tempdir().unwrap();
        for end in ["new/", "new/.", "new//"] {
            let path = folder.path().join(end);
            for count in [1, 2] {
                let said = Destination::new(&path, count).unwrap_err().to_string();
                assert!(said.contains("there is no folder") && said.contains("Make it"), "{said}");
            }
            assert!(check_model(&path).unwrap_err().to_string().contains("there is no folder"));
        }
        assert!(!folder.path().join("new").exists());
        let said = Destination::new(&folder.path().join("."), 1).unwrap_err().to_string();
        assert!(said.contains("is a folder"), "{said}");
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
            let mut file = FileWriter::begin(Some(&path), &Interrupt::default()).unwrap();
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

    use super::*;
    use crate::picture;

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(path: &Path, rows: u32, text: &str) -> Result<()> {
        let mut writer = PngWriter::begin(Some(path), [2, 3], text, &Interrupt::default())?;
        for y in 0..rows {
            writer.row(&[y as u8, 1, 2, 3, 4, 5])?;
        }
        writer.end()
    }

    #[test]
    fn a_picture_and_its_text_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for text in ["plain", "Häuschen", "🏠\nNegative prompt: x", ""] {
            write(&path, 3, text).unwrap();
            let (size, texts) = read_texts(&path).unwrap();
            assert_eq!((size, texts), ([2, 3], vec![(KEYWORD.into(), text.into())]));
        }
        let picture = picture::read(&path).unwrap();
        assert_eq!((picture.width, picture.height), (2, 3));
        assert_eq!(picture.rgb[6..12], [1, 1, 2, 3, 4, 5]);
        assert_eq!(files(folder.path()), ["a.png"]);
    }

    #[test]
    fn half_a_picture_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write(&path, 3, "old").unwrap();
        let interrupt = Interrupt::default();
        let mut writer = PngWriter::begin(Some(&path), [2, 3], "new", &interrupt).unwrap();
        writer.row(&[0; 6]).unwrap();
        assert_eq!(files(folder.path()).len(), 2);
        drop(writer);
        assert_eq!(files(folder.path()), ["a.png"]);
        assert_eq!(read_texts(&path).unwrap().1[0].1, "old");
        assert!(write(&path, 2, "too short").is_err());
        assert_eq!(read_texts(&path).unwrap().1[0].1, "old");
    }

    #[test]
    fn a_part_left_over_by_a_killed_program_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let left = format!(".a.png.{}.0.part", std::process::id());
        fs::write(folder.path().join(&left), "half").unwrap();
        write(&path, 3, "").unwrap();
        assert_eq!(files(folder.path()), [left, "a.png".into()]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_and_a_device_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.png"), folder.path().join("link.png"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, 3, "").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(picture::read(&real).unwrap().width, 2);
        write(Path::new("/dev/null"), 3, "").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_text_that_would_fill_the_memory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let text = "a".repeat(MAX_TEXT_BYTES + 1);
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 1, 1);
        encoder.add_ztxt_chunk(KEYWORD.into(), text).unwrap();
        encoder.write_header().unwrap().write_image_data(&[0]).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < 100_000);
        assert!(read_texts(&path).is_err());
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
