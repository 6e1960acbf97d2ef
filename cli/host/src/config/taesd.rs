//! TAESD under its first names: two files, `taesd_encoder.safetensors` and
//! `taesd_decoder.safetensors`, whose tensors are called after their places in a `Sequential`
//! (`3.conv.0.weight`), without a `config.json`. And the same with diffusers' names in one file.
//!
//! The configuration is read off the tensors: where convolutions, blocks and biases stand says how
//! many levels there are and how many blocks each has. A file with a tensor that has no place in
//! this layout is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mote::models::PerLevel;
use mote::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};

use crate::checkpoint::format::refuse_foreign;
use crate::checkpoint::mapped::{Mapped, plain_name};
use crate::error::{Failure, Result};
use crate::files;

/// What diffusers' names begin with.
const LAYERS: [&str; 2] = ["encoder.layers.", "decoder.layers."];

/// The tensors of a block, after its place.
const BLOCK: [&str; 10] = [
    "conv.0.weight",
    "conv.0.bias",
    "conv.2.weight",
    "conv.2.bias",
    "conv.4.weight",
    "conv.4.bias",
    "pool.0.weight",
    "pool.1.weight",
    "pool.1.bias",
    "pool.3.weight",
];

/// A tiny autoencoder that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Taesd {
    /// What the tensors say.
    pub config: AutoencoderTinyConfig,
    /// The first segments of the core's names, and the file that holds what follows them.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Whether there is an encoder.
    pub has_encoder: bool,
}

/// Finds a tiny autoencoder in a folder, or in a file and the one beside it.
///
/// # Errors
/// Where there is none, or several, or it has another layout.
pub fn find(path: &Path) -> Result<Taesd> {
    if path.is_dir() {
        let names = files::names(path)?;
        let decoder = only(path, &names, "decoder")?;
        let encoder = only(path, &names, "encoder")?;
        return match decoder {
            Some(decoder) => pair(&decoder, encoder.as_deref()),
            None => Err(nothing_in(path, &names)),
        };
    }
    let tensors = read(path)?;
    if tensors.keys().any(|name| name.starts_with(LAYERS[1])) {
        return whole(path, &tensors);
    }
    let beside = path.file_name().and_then(|name| name.to_str());
    let beside = beside.filter(|name| name.contains("decoder"));
    let beside = beside.map(|name| path.with_file_name(name.replace("decoder", "encoder")));
    pair(path, beside.filter(|path| path.is_file()).as_deref())
}

/// The only safetensors file of a folder with `word` in its name.
fn only(folder: &Path, names: &[String], word: &str) -> Result<Option<PathBuf>> {
    let is_one = |name: &&String| name.contains(word) && name.ends_with(".safetensors");
    let found: Vec<_> = names.iter().filter(is_one).map(String::as_str).collect();
    match found.as_slice() {
        [] => Ok(None),
        [name] => Ok(Some(folder.join(name))),
        several => {
            let what = format!("{} holds several {word}s", folder.display());
            Err(Failure::new(format!("{what}: {}", several.join(", ")))
                .remedy("Give the file of the decoder instead of the folder"))
        }
    }
}

fn nothing_in(folder: &Path, names: &[String]) -> Failure {
    for name in names.iter().filter(|name| name.contains("decoder")) {
        if let Err(failure) = refuse_foreign(&folder.join(name)) {
            return failure;
        }
    }
    let what = "has neither a config.json nor a taesd_decoder.safetensors";
    Failure::new(format!("{} {what}", folder.display())).remedy(
        "Give a folder in diffusers' layout, config.json beside its safetensors file, or TAESD's \
         own two files",
    )
}

type Tensors = BTreeMap<String, Vec<usize>>;

fn read(path: &Path) -> Result<Tensors> {
    let file = Mapped::open(path)?;
    let weights = file.weights();
    let tensors = weights.index().iter();
    let plain = |name| plain_name(name).into_owned();
    Ok(tensors.map(|(name, weight)| (plain(name), weight.shape.as_slice().to_vec())).collect())
}

/// One file with diffusers' names.
fn whole(path: &Path, tensors: &Tensors) -> Result<Taesd> {
    let half = |prefix: &str, is_decoder| {
        let names = tensors.iter().filter_map(|(name, shape)| {
            Some((name.strip_prefix(prefix)?.to_string(), shape.clone()))
        });
        Half::read(path, names.collect(), is_decoder, 0)
    };
    let is_known = |name: &String| LAYERS.iter().any(|prefix| name.starts_with(prefix));
    if let Some(name) = tensors.keys().find(|name| !is_known(name)) {
        return Err(unknown(path, name));
    }
    let has_encoder = tensors.keys().any(|name| name.starts_with(LAYERS[0]));
    let encoder = has_encoder.then(|| half(LAYERS[0], false)).transpose()?;
    let config = config(path, &half(LAYERS[1], true)?, encoder.as_ref(), Naming::Diffusers)?;
    Ok(Taesd { config, files: vec![("vae", path.into())], has_encoder })
}

/// Two files, or the decoder's alone.
fn pair(decoder: &Path, encoder: Option<&Path>) -> Result<Taesd> {
    // The clamp at the decoder's start is layer 0.
    let half = Half::read(decoder, read(decoder)?, true, 1)?;
    let mut files = vec![("vae.decoder", decoder.to_path_buf())];
    let read_encoder = |path| Half::read(path, read(path)?, false, 0);
    let other = encoder.map(read_encoder).transpose()?;
    files.extend(encoder.map(|path| ("vae.encoder", path.to_path_buf())));
    let config = config(decoder, &half, other.as_ref(), Naming::Original)?;
    Ok(Taesd { config, files, has_encoder: encoder.is_some() })
}

/// What the tensors of an encoder or a decoder say.
#[derive(Debug)]
struct Half {
    /// Channels that go in.
    from: usize,
    /// Channels inside.
    width: usize,
    /// Channels that come out.
    to: usize,
    /// Blocks of each level.
    blocks: PerLevel<usize>,
    /// Whether the deepest level's blocks have the pooled branch.
    pool: bool,
}

impl Half {
    /// Walks the layers, beginning at place `start`, and takes their tensors away: none must be
    /// left.
    fn read(path: &Path, mut tensors: Tensors, is_decoder: bool, start: usize) -> Result<Self> {
        let Some((from, width, true)) = take_conv(&mut tensors, start) else {
            let half = if is_decoder { "decoder" } else { "encoder" };
            let what = format!("{} is no {half} of a tiny autoencoder (TAESD)", path.display());
            return Err(Failure::new(format!("{what}: its first layer is not there"))
                .remedy("Give --taesd TAESD's decoder, and --vae the folder of any other"));
        };
        // After a decoder's first convolution comes a layer without tensors.
        let mut at = start + if is_decoder { 2 } else { 1 };
        let (mut blocks, mut pooled) = (PerLevel::new(), Vec::new());
        let to = loop {
            let first = at;
            let mut pools = 0;
            while tensors.contains_key(&format!("{at}.conv.0.weight")) {
                pools += usize::from(take_block(&mut tensors, at));
                at += 1;
            }
            pooled.push((pools, at - first));
            let missing = |at| Failure::new(format!("{}: layer {at} is missing", path.display()));
            blocks
                .push(at - first)
                .map_err(|_| Failure::new(format!("{} has too many levels", path.display())))?;
            // A decoder's upsampling is a layer without tensors before its convolution.
            at += usize::from(is_decoder && !tensors.contains_key(&format!("{at}.weight")));
            match take_conv(&mut tensors, at) {
                None => return Err(missing(at).remedy("Is it a tiny autoencoder (TAESD)?")),
                // Only the last convolution has a bias.
                Some((_, to, true)) => break to,
                Some((_, _, false)) => at += 1,
            }
        };
        if let Some(name) = tensors.keys().next() {
            return Err(unknown(path, name));
        }
        let deepest = if is_decoder { 0 } else { pooled.len() - 1 };
        let pool = pooled[deepest].0 > 0;
        let is_as_known = |(level, &(pools, count)): (usize, &(usize, usize))| {
            pools == if pool && level == deepest { count } else { 0 }
        };
        if !pooled.iter().enumerate().all(is_as_known) {
            let what = "has pooled blocks where mote knows none";
            return Err(Failure::new(format!("{} {what}", path.display()))
                .remedy("mote knows them in every block of the deepest level, or nowhere"));
        }
        Ok(Self { from, width, to, blocks, pool })
    }
}

/// Takes the convolution at a place: its channels in and out, and whether it has a bias.
fn take_conv(tensors: &mut Tensors, at: usize) -> Option<(usize, usize, bool)> {
    let &[to, from, 3, 3] = tensors.get(&format!("{at}.weight"))?.as_slice() else { return None };
    tensors.remove(&format!("{at}.weight"));
    Some((from, to, tensors.remove(&format!("{at}.bias")).is_some()))
}

/// Takes the block at a place; whether it has the pooled branch.
fn take_block(tensors: &mut Tensors, at: usize) -> bool {
    let has_pool = tensors.contains_key(&format!("{at}.pool.0.weight"));
    for name in BLOCK {
        tensors.remove(&format!("{at}.{name}"));
    }
    has_pool
}

fn unknown(path: &Path, name: &str) -> Failure {
    let name: String = name.chars().take(60).collect();
    Failure::new(format!("{} holds `{name}`, which no TAESD has", path.display())).remedy(
        "Give --taesd TAESD's decoder, and --vae the folder of any other, with its config.json",
    )
}

fn config(
    path: &Path,
    decoder: &Half,
    encoder: Option<&Half>,
    naming: Naming,
) -> Result<AutoencoderTinyConfig> {
    let mirrored = Half {
        from: decoder.to,
        width: decoder.width,
        to: decoder.from,
        blocks: decoder.blocks.iter().rev().copied().collect(),
        pool: decoder.pool,
    };
    let encoder = encoder.unwrap_or(&mirrored);
    for (what, theirs, ours) in [
        ("latent channels", encoder.to, decoder.from),
        ("levels", encoder.blocks.len(), decoder.blocks.len()),
        ("pooled levels", usize::from(encoder.pool), usize::from(decoder.pool)),
    ] {
        if theirs != ours {
            return Err(Failure::new(format!(
                "{} and the encoder beside it do not belong together: {what} {ours} and {theirs}",
                path.display()
            ))
            .remedy("Keep the two files of one autoencoder together, and no others"));
        }
    }
    let widths = |half: &Half| half.blocks.iter().map(|_| half.width).collect();
    Ok(AutoencoderTinyConfig {
        in_channels: encoder.from,
        out_channels: decoder.to,
        latent_channels: decoder.from,
        encoder_block_out_channels: widths(encoder),
        decoder_block_out_channels: widths(decoder),
        num_encoder_blocks: encoder.blocks.clone(),
        num_decoder_blocks: decoder.blocks.clone(),
        // The original's latents are the UNet's own.
        scaling_factor: 1.0,
        pool: decoder.pool,
        naming,
    })
}
