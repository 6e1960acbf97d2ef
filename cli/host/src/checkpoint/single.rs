//! A whole Stable Diffusion in one file, in the layout of its first authors: weights that answer to
//! diffusers' names.

use std::path::Path;

use mote::tensor::Shape;
use mote::weights::{Weight, Weights};

use super::first_layout::{self, Blocks};
use super::mapped::Mapped;
use super::pickle::{self, Pickled};
use crate::error::{Failure, Result};
use crate::files;

/// What the names of a UNet begin with.
const UNET: &str = "model.diffusion_model.";

/// What the names of an autoencoder begin with.
const VAE: &str = "first_stage_model.";

/// What the names of text encoders begin with, as transformers saves them: the network, and where
/// it lies.
const TRANSFORMERS: [(&str, &str); 2] = [
    ("text_encoder", "cond_stage_model.transformer."),
    ("text_encoder", "conditioner.embedders.0.transformer."),
];

/// The same as OpenCLIP saves them: Stable Diffusion 2, XL, and XL's refiner.
const OPEN_CLIP: [(&str, &str); 3] = [
    ("text_encoder", "cond_stage_model.model."),
    ("text_encoder_2", "conditioner.embedders.1.model."),
    ("text_encoder_2", "conditioner.embedders.0.model."),
];

/// Where a projection of OpenCLIP's begins, which lies across and is turned when the file is
/// opened: no file is so long.
const TURNED: u64 = u64::MAX;

/// The tensors of a file, however it holds them.
#[derive(Debug)]
enum Tensors {
    Safetensors(Mapped),
    Pickled(Pickled),
}

impl Tensors {
    fn open(path: &Path) -> Result<Self> {
        let begins = files::begin(path, pickle::ZIP.len())?;
        match begins == pickle::ZIP {
            true => Pickled::open(path).map(Self::Pickled),
            false => Mapped::open(path).map(Self::Safetensors),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Safetensors(mapped) => mapped.path(),
            Self::Pickled(pickled) => pickled.path(),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Safetensors(mapped) => {
                mapped.weights().index().iter().map(|(name, _)| name.to_string()).collect()
            }
            Self::Pickled(pickled) => pickled.names().map(str::to_string).collect(),
        }
    }

    fn find(&self, name: &str) -> Option<Weight> {
        match self {
            Self::Safetensors(mapped) => mapped.weights().index().find(name),
            Self::Pickled(pickled) => pickled.find(name),
        }
    }

    fn read(&self, weight: &Weight, start: usize, len: usize) -> Option<&[u8]> {
        match self {
            Self::Safetensors(mapped) => mapped.bytes(weight).ok()?.get(start..)?.get(..len),
            Self::Pickled(pickled) => pickled.read(weight, start, len),
        }
    }
}

/// A file, mapped, and what its names are counted by.
#[derive(Debug)]
pub struct Single {
    tensors: Tensors,
    blocks: Blocks,
    vae_levels: usize,
    turned: Option<(String, Vec<u8>)>,
}

impl Single {
    /// The file at `path`.
    ///
    /// # Errors
    /// Where it cannot be read, or holds no UNet in this layout.
    pub fn open(path: &Path) -> Result<Self> {
        let tensors = Tensors::open(path)?;
        let all = tensors.names();
        let names = || all.iter().map(String::as_str);
        if !names().any(|name| name.starts_with(UNET)) {
            return Err(Failure::new(format!(
                "{} holds no model in the names of Stable Diffusion's first authors",
                path.display()
            ))
            .remedy("Leave out --config, or give -m a checkpoint in one file"));
        }
        let blocks = Blocks::of_first(names().filter_map(|name| name.strip_prefix(UNET)));
        let level = |name: &str| {
            let rest = name.strip_prefix(VAE)?.strip_prefix("decoder.up.")?;
            rest.split_once('.')?.0.parse::<usize>().ok()
        };
        let vae_levels = names().filter_map(level).max().map_or(0, |last| last.saturating_add(1));
        let turned = turned(&tensors);
        Ok(Self { tensors, blocks, vae_levels, turned })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.tensors.path()
    }

    /// Its weights of these networks, under diffusers' names.
    pub fn weights<'a>(&'a self, networks: &'a [&'static str]) -> OfSingle<'a> {
        OfSingle { single: self, networks }
    }
}

/// The projection of OpenCLIP's text encoder with its sides exchanged.
fn turned(tensors: &Tensors) -> Option<(String, Vec<u8>)> {
    OPEN_CLIP.iter().find_map(|(_, prefix)| {
        let name = format!("{prefix}text_projection");
        let tensor = tensors.find(&name)?;
        let (bytes, size) = (tensors.read(&tensor, 0, tensor.bytes)?, tensor.dtype.bytes());
        let &[rows, columns] = tensor.shape.as_slice() else { return None };
        let at = |row: usize, column: usize| &bytes[(row * columns + column) * size..][..size];
        let all = (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c)));
        Some((name, all.flat_map(|(r, c)| at(r, c)).copied().collect()))
    })
}

/// Where a tensor lies in a file.
struct Found {
    weight: Weight,
    third: Option<usize>,
}

/// The weights of some networks of one file.
#[derive(Clone, Copy, Debug)]
pub struct OfSingle<'a> {
    single: &'a Single,
    networks: &'a [&'static str],
}

impl OfSingle<'_> {
    fn look_up(&self, name: &str) -> Option<Found> {
        let (network, inner) = name.split_once('.')?;
        if !self.networks.contains(&network) {
            return None;
        }
        let find = |name: &str| self.single.tensors.find(name);
        let whole = |name: &str| Some(Found { weight: find(name)?, third: None });
        match network {
            "unet" => {
                let (layer, end) = inner.rsplit_once('.')?;
                whole(&format!("{UNET}{}.{end}", self.single.blocks.first(layer)?))
            }
            "vae" => {
                let first = first_layout::of_vae(inner, self.single.vae_levels)?;
                whole(&format!("{VAE}{first}"))
            }
            _ => {
                let of_network = |known: &&(&str, &str)| known.0 == network;
                let mut prefixes = TRANSFORMERS.iter().filter(of_network);
                if let Some(found) =
                    prefixes.find_map(|(_, prefix)| whole(&format!("{prefix}{inner}")))
                {
                    return Some(found);
                }
                let (first, third) = first_layout::of_open_clip(inner)?;
                OPEN_CLIP.iter().filter(of_network).find_map(|(_, prefix)| {
                    let (name, turned) = (format!("{prefix}{first}"), &self.single.turned);
                    let mut weight = find(&name)?;
                    if let Some((_, bytes)) = turned.as_ref().filter(|(turned, _)| *turned == name)
                    {
                        let &[rows, columns] = weight.shape.as_slice() else { return None };
                        weight.shape = Shape::new([columns, rows]);
                        (weight.begin, weight.bytes) = (TURNED, bytes.len());
                    }
                    Some(Found { weight, third })
                })
            }
        }
    }
}

impl Weights for OfSingle<'_> {
    fn find(&mut self, name: &str, expected: Shape) -> mote::Result<Option<Weight>> {
        let Some(Found { mut weight, third }) = self.look_up(name) else { return Ok(None) };
        if let Some(third) = third {
            let &[all, ref rest @ ..] = weight.shape.as_slice() else { return Ok(None) };
            weight.shape = match *rest {
                [] => Shape::new([all / 3]),
                [columns] => Shape::new([all / 3, columns]),
                _ => return Ok(Some(weight)),
            };
            weight.bytes /= 3;
            weight.begin += (third * weight.bytes) as u64;
        }
        // The autoencoder's attention is written down as convolutions over single pixels.
        if let (&[out, inputs, 1, 1], &[a, b]) = (weight.shape.as_slice(), expected.as_slice())
            && (out, inputs) == (a, b)
        {
            weight.shape = expected;
        }
        Ok(Some(weight))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.look_up(name).is_some()
    }

    fn is_quantised(&self) -> bool {
        false
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        _staging: &'a mut [u8],
    ) -> mote::Result<&'a [u8]> {
        if weight.begin != TURNED {
            let bytes = self.single.tensors.read(weight, start, len);
            return bytes.ok_or(mote::Error::WeightRead);
        }
        let bytes =
            self.single.turned.as_ref().and_then(|(_, bytes)| bytes.get(start..)?.get(..len));
        bytes.ok_or(mote::Error::WeightRead)
    }
}
