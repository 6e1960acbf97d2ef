//! One file with a whole pipeline, as `mote convert` writes it: safetensors, so that other programs
//! can look into it.
//!
//! The tensors of a network are called after it (`unet.conv_in.weight`); the weights of products
//! lie in panels as [`mote::tensor::packed`] has them, under their own names, their scales and
//! groups beside them (`unet.conv_in.weight.scale`). Each configuration and each of the tokenizer's
//! files is a tensor of bytes, `file:unet/config.json`; the tensor `recipe` has the configurations
//! as numbers ([`mote::pipeline::recipe`]), for programs without a reader for JSON. The metadata
//! say `format` (`mote`), `version` and `type`. Metadata come first in the header; the header is
//! filled up with blanks so that the tensors begin at a multiple of [`ALIGNMENT`], and those whose
//! size is one come first. The last tensor, `checksum`, is the CRC-32 of all bytes before it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mote::tensor::Shape;
use mote::weights::{CHECKSUM, CHECKSUM_BYTES, InPlace, Weight, Weights};
use serde_json::{Map, Value};

use super::mapped::{Mapped, damaged};
use crate::error::{Failure, Result};
use crate::types::{Choice, Type};
use crate::{files, size};

/// What `format` says in the metadata.
pub const FORMAT: &str = "mote";

/// The version of the format.
pub const VERSION: &str = "1";

/// What the names of files begin with.
pub const FILE: &str = "file:";

/// What the name of a packed weight's scales and sums, one for each column, ends with.
pub const SCALE: &str = ".scale";

/// The same of the scales of a 4-bit weight's groups.
pub const GROUPS: &str = ".groups";

/// A cache line, which is also the widest register: tensors whose size is a multiple of it begin
/// at one.
pub const ALIGNMENT: u64 = 64;

/// What a header with metadata begins with.
const METADATA: &[u8] = b"{\"__metadata__\":";

/// The longest metadata that are believed; ours have some 50 bytes.
const MAX_METADATA: usize = 64 << 10;

/// The most networks that a pipeline has.
const MAX_NETWORKS: usize = 16;

/// The largest file that is compared with its checksum before a picture: 64 MiB.
const MAX_VERIFIED: usize = 64 << 20;

/// A packed file, mapped.
#[derive(Debug)]
pub struct Packed {
    mapped: Mapped,
    dtype: Type,
    files: BTreeMap<String, Weight>,
    folders: BTreeSet<String>,
    networks: BTreeSet<String>,
}

impl Packed {
    /// Maps the file at `path`; `None` where it is none of ours.
    ///
    /// # Errors
    /// Where it is ours and cannot be used.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        if !claims_to_be_ours(path) {
            return Ok(None);
        }
        Self::of(Mapped::open(path)?).map(Some)
    }

    /// A mapped file of ours.
    ///
    /// # Errors
    /// Where it is not of this version, or not as it should be.
    pub fn of(mapped: Mapped) -> Result<Self> {
        let path = mapped.path().to_path_buf();
        let metadata = metadata(mapped.header())
            .ok_or_else(|| damaged(&path, "its metadata are not as mote writes them"))?;
        let text = |key| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("version") != VERSION {
            let (shown, found) = (path.display(), text("version"));
            let what = format!("{shown} is packed in version {found:?} of mote's format");
            return Err(Failure::new(format!("{what}, and this mote reads version {VERSION}"))
                .remedy("Convert the model again with this mote"));
        }
        let dtype = Type::from_name(text("type")).ok_or_else(|| {
            let why =
                format!("its metadata name the type {:?}, which mote does not know", text("type"));
            damaged(&path, why)
        })?;
        let (mut files, mut folders) = (BTreeMap::new(), BTreeSet::from([String::new()]));
        let mut networks = BTreeSet::new();
        for (name, tensor) in mapped.weights().index().iter() {
            if let Some(name) = name.strip_prefix(FILE) {
                for (at, _) in name.match_indices('/') {
                    folders.insert(name[..at].to_string());
                }
                files.insert(name.to_string(), tensor);
            } else if let Some((network, _)) = name.split_once('.')
                && networks.len() < MAX_NETWORKS
            {
                networks.insert(network.to_string());
            }
        }
        Ok(Self { mapped, dtype, files, folders, networks })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.mapped.path()
    }

    /// Whether it is part of the program.
    pub fn is_built_in(&self) -> bool {
        self.mapped.is_built_in()
    }

    /// The type that it was converted to.
    pub fn dtype(&self) -> Type {
        self.dtype
    }

    /// The networks it has weights of, in the order of their names.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        self.networks.iter().map(String::as_str)
    }

    /// The names of its files, in their order.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The file called `name`.
    pub fn file(&self, name: &str) -> Option<&Weight> {
        self.files.get(name)
    }

    /// Whether files lie in `folder`; the empty name stands for all.
    pub fn has_folder(&self, folder: &str) -> bool {
        self.folders.contains(folder)
    }

    /// All bytes of the packed file.
    pub fn whole(&self) -> &[u8] {
        self.mapped.whole()
    }

    /// Reads the file called `name`, of at most `limit` bytes.
    ///
    /// # Errors
    /// Where there is none, or it is longer.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let path = self.path().display();
        let Some(tensor) = self.file(name) else {
            return Err(Failure::new(format!("{path} holds no {name}"))
                .remedy("Convert the model again: the file is not whole"));
        };
        if tensor.bytes as u64 > limit {
            let limit = size::show(limit);
            return Err(Failure::new(format!("{name} in {path} is longer than {limit}"))
                .remedy("Convert the model again: the file is damaged"));
        }
        self.mapped.bytes(tensor).map(<[u8]>::to_vec)
    }

    /// [`Packed::verify`] where that takes but milliseconds. A large file would be read as a whole
    /// before its first layer runs: `mote inspect` compares it when asked to.
    ///
    /// # Errors
    /// As [`Packed::verify`].
    pub fn verify_if_small(&self) -> Result<()> {
        match self.mapped.whole().len() <= MAX_VERIFIED {
            true => self.verify(),
            false => Ok(()),
        }
    }

    /// Compares the file with its checksum, if it has one: older files do not.
    ///
    /// # Errors
    /// Where they differ.
    pub fn verify(&self) -> Result<()> {
        let weights = self.weights();
        let Some(checksum) = weights.index().find(CHECKSUM) else { return Ok(()) };
        let Some((before, &stored)) = weights.file().split_last_chunk::<CHECKSUM_BYTES>() else {
            return Ok(());
        };
        let (expected, found) = (u32::from_le_bytes(stored), crc32fast::hash(before));
        if checksum.begin == before.len() as u64 && expected == found {
            return Ok(());
        }
        Err(damaged(self.path(), mote::Error::Checksum { expected, found }))
    }

    /// The weights, their names as they are in the file: with the network's first.
    pub fn weights(&self) -> InPlace<'_> {
        self.mapped.weights()
    }
}

/// The metadata of a header, where they come first and are an object.
fn metadata(header: &[u8]) -> Option<Map<String, Value>> {
    let rest = header.strip_prefix(METADATA)?;
    let rest = &rest[..rest.len().min(MAX_METADATA)];
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
    match values.next() {
        Some(Ok(Value::Object(map))) => Some(map),
        _ => None,
    }
}

/// Whether the beginning of a file says that it is ours; what cannot be read does not.
fn claims_to_be_ours(path: &Path) -> bool {
    use std::io::Read;
    let Ok(file) = files::open(path) else { return false };
    let mut beginning = Vec::new();
    let most = (8 + METADATA.len() + MAX_METADATA) as u64;
    if file.take(most).read_to_end(&mut beginning).is_err() {
        return false;
    }
    let metadata = beginning.get(8..).and_then(metadata);
    metadata.is_some_and(|metadata| metadata.get("format").is_some_and(|f| f == FORMAT))
}

/// The weights of some networks of a packed file.
#[derive(Clone, Copy, Debug)]
pub struct OfNetworks<'a> {
    /// What the names in the file begin with, without the dot; the empty one stands for all.
    pub networks: &'a [&'static str],
    /// All weights of the file.
    pub weights: InPlace<'a>,
}

impl OfNetworks<'_> {
    /// Whether the name is one of these networks'.
    fn answers_to(&self, name: &str) -> bool {
        let is_of = |network: &&str| {
            let rest = name.strip_prefix(network);
            network.is_empty() || rest.is_some_and(|rest| rest.starts_with('.'))
        };
        self.networks.iter().any(is_of)
    }
}

impl Weights for OfNetworks<'_> {
    fn find(&mut self, name: &str, expected: Shape) -> mote::Result<Option<Weight>> {
        if self.answers_to(name) { self.weights.find(name, expected) } else { Ok(None) }
    }

    fn contains(&mut self, name: &str) -> bool {
        self.answers_to(name) && self.weights.contains(name)
    }

    fn is_quantised(&self) -> bool {
        self.weights.is_quantised()
    }

    fn is_staged(&self) -> bool {
        self.weights.is_staged()
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> mote::Result<&'a [u8]> {
        self.weights.read(weight, start, len, staging)
    }
}
