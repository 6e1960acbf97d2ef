//! Where pixels go: a picture in memory, a PNG file, or whatever else takes rows.

use std::path::PathBuf;

use mote::pipeline::ImageSink;

use super::Picture;
use super::png::PngWriter;
use crate::error::{Failure, Result};
use crate::stop::Stop;

/// Takes a picture, row by row.
pub trait Sink {
    /// A picture of this size, in pixels, begins; `about` tells how it is made, in the words that
    /// web UIs write into a picture.
    ///
    /// # Errors
    /// Where it cannot be taken; so for the other methods.
    fn begin(&mut self, width: usize, height: usize, about: &str) -> Result<()>;

    /// The next row from the top: `3 * width` bytes, red, green, blue.
    ///
    /// # Errors
    /// See [`Sink::begin`].
    fn row(&mut self, rgb: &[u8]) -> Result<()>;

    /// All rows have been given.
    ///
    /// # Errors
    /// See [`Sink::begin`].
    fn end(&mut self) -> Result<()>;
}

impl Picture {
    fn start(&mut self, width: usize, height: usize) {
        *self = Self { width, height, rgb: Vec::with_capacity(3 * width * height) };
    }
}

impl Sink for Picture {
    fn begin(&mut self, width: usize, height: usize, _about: &str) -> Result<()> {
        self.start(width, height);
        Ok(())
    }

    fn row(&mut self, rgb: &[u8]) -> Result<()> {
        self.rgb.extend_from_slice(rgb);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

impl ImageSink for Picture {
    fn begin(&mut self, width: usize, height: usize) -> mote::Result<()> {
        self.start(width, height);
        Ok(())
    }

    fn row(&mut self, rgb: &[u8]) -> mote::Result<()> {
        self.rgb.extend_from_slice(rgb);
        Ok(())
    }

    fn end(&mut self) -> mote::Result<()> {
        Ok(())
    }
}

/// A PNG file, which appears when its picture is whole, with how it was made in its text chunk.
pub struct PngFile {
    path: Option<PathBuf>,
    stop: Stop,
    writer: Option<PngWriter>,
}

impl PngFile {
    /// The file at `path`, which is written over where it is there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::at(Some(path.into()), &Stop::default())
    }

    /// The file at `path` or, without one, standard output. `stop` is to take away what is half
    /// written where the program ends at once.
    pub fn at(path: Option<PathBuf>, stop: &Stop) -> Self {
        Self { path, stop: stop.clone(), writer: None }
    }
}

impl Sink for PngFile {
    fn begin(&mut self, width: usize, height: usize, about: &str) -> Result<()> {
        let too_large = |_| Failure::new(format!("PNG has no room for {width}x{height} pixels"));
        let size =
            [u32::try_from(width).map_err(too_large)?, u32::try_from(height).map_err(too_large)?];
        self.writer = Some(PngWriter::begin(self.path.as_deref(), size, about, &self.stop)?);
        Ok(())
    }

    fn row(&mut self, rgb: &[u8]) -> Result<()> {
        self.writer.as_mut().map_or(Ok(()), |writer| writer.row(rgb))
    }

    fn end(&mut self) -> Result<()> {
        self.writer.take().map_or(Ok(()), PngWriter::end)
    }
}

/// A sink as the core knows it. What went wrong is kept here: the core's error has no room for it.
pub(crate) struct Adapter<'a> {
    pub(crate) sink: &'a mut dyn Sink,
    pub(crate) about: String,
    pub(crate) failure: Option<Failure>,
}

impl Adapter<'_> {
    fn keep(&mut self, result: Result<()>) -> mote::Result<()> {
        result.map_err(|failure| {
            self.failure = Some(failure);
            mote::Error::Sink
        })
    }
}

impl ImageSink for Adapter<'_> {
    fn begin(&mut self, width: usize, height: usize) -> mote::Result<()> {
        let result = self.sink.begin(width, height, &self.about);
        self.keep(result)
    }

    fn row(&mut self, rgb: &[u8]) -> mote::Result<()> {
        let result = self.sink.row(rgb);
        self.keep(result)
    }

    fn end(&mut self) -> mote::Result<()> {
        let result = self.sink.end();
        self.keep(result)
    }
}
