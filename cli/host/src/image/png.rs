//! Pictures out, as PNG files with how they were made in a text chunk; and that text read again.

use std::io::{BufReader, Write};
use std::path::Path;

use png::{BitDepth, ColorType, StreamWriter};

use super::parameters::KEYWORD;
use crate::error::{Failure, Result};
use crate::files;
use crate::stop::Stop;
use crate::write::{Buffered, FileWriter};

/// The longest text that a picture's compressed chunk may hold.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// A PNG file that is being written, row by row.
pub struct PngWriter {
    // The stream writes its end when it is dropped. It is dropped first, so that this goes to the
    // part and not to the picture.
    stream: Option<StreamWriter<'static, Buffered>>,
    file: FileWriter,
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
        stop: &Stop,
    ) -> Result<Self> {
        let mut writer = Self { stream: None, file: FileWriter::begin(path, stop)? };
        let mut encoder = png::Encoder::new(writer.file.stream(), width, height);
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
    use std::fs::{self, File};

    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(path: &Path, rows: u32, text: &str) -> Result<()> {
        let mut writer = PngWriter::begin(Some(path), [2, 3], text, &Stop::default())?;
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
        let picture = crate::image::read(&path).unwrap();
        assert_eq!((picture.width, picture.height), (2, 3));
        assert_eq!(picture.rgb[6..12], [1, 1, 2, 3, 4, 5]);
        assert_eq!(files(folder.path()), ["a.png"]);
    }

    #[test]
    fn half_a_picture_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write(&path, 3, "old").unwrap();
        let stop = Stop::default();
        let mut writer = PngWriter::begin(Some(&path), [2, 3], "new", &stop).unwrap();
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
        assert_eq!(crate::image::read(&real).unwrap().width, 2);
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
}
