//! A safetensors file, mapped: nothing is read until it is used. An island of `unsafe`, for the map
//! alone.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use mote::weights::{InPlace, Index, Slot, Weight, header_bytes};

use super::format::{Format, refuse_foreign};
use crate::error::{Failure, Result};
use crate::files;

/// Where the bytes of a file are at hand.
#[derive(Debug)]
enum Bytes {
    Map(Mmap),
    BuiltIn(&'static [u8]),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::BuiltIn(bytes) => bytes,
        }
    }
}

/// Any file, mapped.
#[derive(Debug)]
pub struct Raw {
    path: PathBuf,
    map: Mmap,
}

impl Raw {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// Where it cannot be opened, or is empty.
    pub fn open(path: &Path) -> Result<Self> {
        let map = map(path, &files::open(path)?)?;
        Ok(Self { path: path.into(), map })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// Maps an open file.
fn map(path: &Path, file: &File) -> Result<Mmap> {
    let meta = file.metadata().map_err(|error| Failure::file("open", path, &error))?;
    if meta.len() == 0 {
        return Err(damaged(path, "it is empty"));
    }
    // SAFETY: the map is only read. That nobody alters the file meanwhile is the user's part of the
    // bargain, as with every program that maps its data.
    let map = unsafe { Mmap::map(file) };
    map.map_err(|error| Failure::file("map", path, &error))
}

/// One safetensors file, mapped, its header checked.
#[derive(Debug)]
pub struct Mapped {
    path: PathBuf,
    map: Bytes,
    header: std::ops::Range<usize>,
    slots: Vec<Slot>,
}

impl Mapped {
    /// Maps the file at `path` and checks its header.
    ///
    /// # Errors
    /// Where it cannot be opened, is no safetensors file, or is truncated.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_foreign(path)?;
        Self::of(path, &files::open(path)?)
    }

    /// Maps an open file; `path` is what it is called.
    ///
    /// # Errors
    /// As [`Mapped::open`].
    pub fn of(path: &Path, file: &File) -> Result<Self> {
        let map = map(path, file)?;
        if let Some(format) = Format::of(&map) {
            return Err(format.failure(path));
        }
        Self::of_bytes(path, Bytes::Map(map))
    }

    /// A file that is part of the program, called `path`.
    ///
    /// # Errors
    /// As [`Mapped::open`].
    pub fn built_in(path: &Path, bytes: &'static [u8]) -> Result<Self> {
        Self::of_bytes(path, Bytes::BuiltIn(bytes))
    }

    fn of_bytes(path: &Path, map: Bytes) -> Result<Self> {
        let len = map.len() as u64;
        let header = header_bytes(&map, len).map_err(|error| damaged(path, error))?;
        let count = Index::count(&map[header.clone()]).map_err(|error| damaged(path, error))?;
        let mut slots = vec![Slot::EMPTY; count];
        Index::parse(&map[header.clone()], len, &mut slots)
            .map_err(|error| damaged(path, error))?;
        Ok(Self { path: path.into(), map, header, slots })
    }

    /// Whether it is part of the program.
    pub fn is_built_in(&self) -> bool {
        matches!(self.map, Bytes::BuiltIn(_))
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors, by name.
    pub fn weights(&self) -> InPlace<'_> {
        InPlace::new(Index::parsed(self.header(), &self.slots), &self.map)
    }

    /// The header's JSON.
    pub fn header(&self) -> &[u8] {
        &self.map[self.header.clone()]
    }

    /// All bytes of the file.
    pub fn whole(&self) -> &[u8] {
        &self.map
    }

    /// The bytes of one of its tensors.
    ///
    /// # Errors
    /// Where it is another file's.
    pub fn bytes(&self, tensor: &Weight) -> Result<&[u8]> {
        let begin = usize::try_from(tensor.begin).ok();
        begin
            .and_then(|begin| self.map.get(begin..)?.get(..tensor.bytes))
            .ok_or_else(|| damaged(&self.path, mote::Error::WeightRead))
    }
}

/// A tensor's name as the header has it, without JSON's escapes.
pub fn plain_name(name: &str) -> Cow<'_, str> {
    if !name.contains('\\') {
        return Cow::Borrowed(name);
    }
    serde_json::from_str(&format!("\"{name}\"")).map_or(Cow::Borrowed(name), Cow::Owned)
}

/// A file of weights that is not what it should be.
pub fn damaged(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(format!("{} cannot be used: {why}", path.display()))
        .remedy("Fetch or write the file again; its download may have been cut off")
}
