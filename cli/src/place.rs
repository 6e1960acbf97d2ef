//! Where a model's files come from: a folder as diffusers writes it, or one packed file that holds
//! them all.
//!
//! A [`Place`] is a path with, perhaps, the packed file it leads into: `sd.safetensors` is then
//! like a folder, and `sd.safetensors/unet/config.json` like a file in it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::built_in;
use crate::checkpoint::Mapped;
use crate::error::Result;
use crate::files;
use crate::packed::Packed;

/// A file or a folder, on the disk or in a packed file.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    packed: Option<Arc<Packed>>,
}

impl Place {
    /// The model at `path`: a folder, or a file that `mote convert` wrote, or the one in the
    /// program where its name is given and nothing else has it. Another file, or nothing, is a
    /// place too: whoever reads there says what is wrong.
    ///
    /// # Errors
    /// Where it is a packed file that cannot be used.
    pub fn model(path: &Path) -> Result<Self> {
        let packed = if path.is_file() {
            Packed::open(path)?
        } else if path == Path::new(built_in::NAME) && !path.exists() {
            Some(Packed::of(Mapped::built_in(path, built_in::file())?)?)
        } else {
            None
        };
        Ok(Self { path: path.into(), packed: packed.map(Arc::new) })
    }

    /// The model in a packed file that is open.
    pub fn of(packed: Arc<Packed>) -> Self {
        Self { path: packed.path().into(), packed: Some(packed) }
    }

    /// What is called `name` here.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Self { path: self.path.join(name), packed: self.packed.clone() }
    }

    /// The path, of what lies in a packed file as if that were a folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The packed file that this lies in or is.
    pub fn packed(&self) -> Option<&Arc<Packed>> {
        self.packed.as_ref()
    }

    /// Whether this is the model in the program, and not one that is given.
    pub fn is_built_in(&self) -> bool {
        self.packed.as_ref().is_some_and(|packed| packed.is_built_in())
    }

    /// The packed file, and the path in it with `/` between its parts.
    fn inside(&self) -> Option<(&Packed, String)> {
        let packed = self.packed.as_deref()?;
        let parts = self.path.strip_prefix(packed.path()).ok()?;
        let parts: Vec<_> = parts.iter().map(|part| part.to_string_lossy()).collect();
        Some((packed, parts.join("/")))
    }

    /// Whether there is a file here.
    pub fn is_file(&self) -> bool {
        match self.inside() {
            Some((packed, name)) => packed.file(&name).is_some(),
            None => self.path.is_file(),
        }
    }

    /// Whether anything is here, even if it is a link that leads nowhere.
    pub fn exists(&self) -> bool {
        match self.inside() {
            Some((packed, name)) => packed.file(&name).is_some() || packed.has_folder(&name),
            None => {
                let meta = self.path.symlink_metadata();
                !meta.is_err_and(|error| error.kind() == ErrorKind::NotFound)
            }
        }
    }

    /// Whether a folder is here; a packed file counts as one.
    pub fn is_folder(&self) -> bool {
        match self.inside() {
            Some((packed, name)) => packed.has_folder(&name),
            None => self.path.is_dir(),
        }
    }

    /// Reads the file here, of at most `limit` bytes.
    ///
    /// # Errors
    /// Where there is none, it is longer, or it cannot be read.
    pub fn read(&self, limit: u64) -> Result<Vec<u8>> {
        match self.inside() {
            Some((packed, name)) => packed.read(&name, limit),
            None => files::read(&self.path, limit),
        }
    }

    /// Reads the text file here, of at most `limit` bytes, without its byte order mark.
    ///
    /// # Errors
    /// As [`Place::read`], and where it is no text.
    pub fn text(&self, limit: u64) -> Result<String> {
        files::decode(&self.path, self.read(limit)?)
    }
}

impl From<&Path> for Place {
    /// The path on the disk.
    fn from(path: &Path) -> Self {
        Self { path: path.into(), packed: None }
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self { path, packed: None }
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Self {
        place.clone()
    }
}
