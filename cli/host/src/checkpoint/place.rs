//! Where a model's files come from: a folder as diffusers writes it, or one packed file that holds
//! them all.
//!
//! A [`Place`] is a path with, perhaps, the packed file it leads into: `sd.safetensors` is then
//! like a folder, and `sd.safetensors/unet/config.json` like a file in it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::built_in;
use super::mapped::Mapped;
use super::packed::Packed;
use super::single::Single;
use crate::error::{Failure, Result};
use crate::{files, json};

/// What the classes of a part of a pipeline begin with.
const CLASSES: [(&str, &str); 3] =
    [("unet", "UNet2D"), ("vae", "Autoencoder"), ("text_encoder", "CLIPText")];

/// The longest name of a snapshot that is believed.
const MAX_REF_BYTES: u64 = 1 << 10;

/// A file or a folder, on the disk or in a packed file.
#[derive(Clone, Debug, Default)]
pub struct Place {
    path: PathBuf,
    packed: Option<Arc<Packed>>,
    /// The file that holds the weights of all networks, where that is not each one's folder.
    single: Option<Arc<Single>>,
    /// What the model is called, where that is not the path's last part.
    name: Option<String>,
}

impl Place {
    /// The model at `path`: a folder, or a file that `mote convert` wrote, or the one in the
    /// program where its name is given and nothing else has it. Of a folder in the hub's cache it
    /// is the snapshot. Another file, or nothing, is a place too: whoever reads there says what is
    /// wrong.
    ///
    /// # Errors
    /// Where it is a packed file that cannot be used, or holds several snapshots.
    pub fn model(path: &Path) -> Result<Self> {
        if let Some(snapshot) = snapshot(path)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            return Ok(Self { name, ..snapshot.into() });
        }
        let packed = if path.is_file() {
            Packed::open(path)?
        } else if path == Path::new(built_in::NAME) && !path.exists() {
            Some(Packed::of(Mapped::built_in(path, built_in::file())?)?)
        } else {
            None
        };
        Ok(Self { path: path.into(), packed: packed.map(Arc::new), ..Self::default() })
    }

    /// The model in a checkpoint in one file, whose configurations lie in `folder`; without one as
    /// [`Place::model`].
    ///
    /// # Errors
    /// Where there is no such file or folder, and as [`Place::model`].
    pub fn model_with(path: &Path, folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else { return Self::model(path) };
        if !folder.is_dir() {
            return Err(Failure::new(format!("there is no folder {}", folder.display())).remedy(
                "Give --config a model's folder in diffusers' layout; its weights are not read",
            ));
        }
        if path.is_dir() {
            return Err(Failure::new(format!(
                "{} is a folder, which has configurations of its own",
                path.display()
            ))
            .remedy("Leave out --config"));
        }
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        let single = Some(Arc::new(Single::open(path)?));
        Ok(Self { path: folder.into(), packed: None, single, name })
    }

    /// The model in a packed file that is open.
    pub fn of(packed: Arc<Packed>) -> Self {
        Self { path: packed.path().into(), packed: Some(packed), ..Self::default() }
    }

    /// The folder of a part of the pipeline here: its own or, where it has none and its files lie
    /// in the root, that. So diffusers reads the first published DDPMs.
    #[must_use]
    pub fn part(&self, name: &str) -> Self {
        let own = self.join(name);
        let lies_here = || match name {
            "scheduler" => self.join("scheduler_config.json").is_file(),
            "tokenizer" => {
                ["tokenizer.json", "vocab.json"].iter().any(|file| self.join(file).is_file())
            }
            _ => {
                let config = self.join("config.json").json().unwrap_or_default();
                let class = config["_class_name"].as_str();
                let class = class.or(config["architectures"][0].as_str()).unwrap_or_default();
                CLASSES.iter().any(|(part, begins)| *part == name && class.starts_with(begins))
            }
        };
        if !own.is_folder() && lies_here() { self.clone() } else { own }
    }

    /// What is called `name` here.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Self { path: self.path.join(name), name: None, ..self.clone() }
    }

    /// The path, of what lies in a packed file as if that were a folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model here is called.
    pub fn name(&self) -> Option<String> {
        let own = || self.path.file_name().map(|name| name.to_string_lossy().into_owned());
        self.name.clone().or_else(own)
    }

    /// The packed file that this lies in or is.
    pub fn packed(&self) -> Option<&Arc<Packed>> {
        self.packed.as_ref()
    }

    /// The one file that holds the weights of all networks, if there is one.
    pub fn single(&self) -> Option<&Arc<Single>> {
        self.single.as_ref()
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

    /// Reads the JSON file here, as [`json::read`] does.
    ///
    /// # Errors
    /// Where there is none, or it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        json::of_text(&self.path, &self.text(json::MAX_BYTES)?)
    }
}

/// The first segments of weights' names, and the folder or file that holds what follows them.
pub type Places = Vec<(&'static str, Place)>;

/// The folder in a folder of the hub's cache, `models--owner--name`, that its `main` refers to, or
/// the only one.
fn snapshot(path: &Path) -> Result<Option<PathBuf>> {
    let snapshots = path.join("snapshots");
    if !snapshots.is_dir() || path.join("model_index.json").exists() {
        return Ok(None);
    }
    let main = files::text(&path.join("refs").join("main"), MAX_REF_BYTES).ok();
    let main = main.map(|name| snapshots.join(name.trim()));
    if let Some(main) = main.filter(|main| main.is_dir() && *main != snapshots) {
        return Ok(Some(main));
    }
    let mut names = files::names(&snapshots)?;
    names.retain(|name| snapshots.join(name).is_dir());
    match names.as_slice() {
        [] => Err(Failure::new(format!("{} is empty", snapshots.display()))
            .remedy("Fetch the model again")),
        [one] => Ok(Some(snapshots.join(one))),
        [first, ..] => {
            let what = format!("{} holds several snapshots, and no refs/main", path.display());
            Err(Failure::new(what)
                .remedy(format!("Give one of them: -m {}", snapshots.join(first).display())))
        }
    }
}

impl From<&Path> for Place {
    /// The path on the disk.
    fn from(path: &Path) -> Self {
        path.to_path_buf().into()
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self { path, ..Self::default() }
    }
}

impl From<&Place> for Place {
    fn from(place: &Place) -> Self {
        place.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_part_lies_in_its_folder_or_in_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = Place::from(folder.path());
        assert_eq!(root.part("unet").path(), folder.path().join("unet"));
        let config = folder.path().join("config.json");
        fs::write(config, r#"{"_class_name": "UNet2DModel"}"#).unwrap();
        fs::write(folder.path().join("scheduler_config.json"), "{}").unwrap();
        assert_eq!(root.part("unet").path(), folder.path());
        assert_eq!(root.part("scheduler").path(), folder.path());
        for name in ["vae", "text_encoder", "tokenizer"] {
            assert_eq!(root.part(name).path(), folder.path().join(name));
        }
        fs::create_dir(folder.path().join("unet")).unwrap();
        assert_eq!(root.part("unet").path(), folder.path().join("unet"));
    }

    #[test]
    fn a_folder_of_the_hubs_cache_is_its_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = folder.path().join("snapshots");
        fs::create_dir_all(snapshots.join("aa")).unwrap();
        let found = |path: &Path| Place::model(path).unwrap().path().to_path_buf();
        assert_eq!(found(folder.path()), snapshots.join("aa"));
        fs::create_dir(snapshots.join("bb")).unwrap();
        let said = Place::model(folder.path()).unwrap_err().to_string();
        assert!(said.contains("several snapshots") && said.contains("aa"), "{said}");
        fs::create_dir(folder.path().join("refs")).unwrap();
        fs::write(folder.path().join("refs/main"), "bb\n").unwrap();
        assert_eq!(found(folder.path()), snapshots.join("bb"));
        assert_eq!(found(&snapshots.join("aa")), snapshots.join("aa"));
    }
}
