//! The networks: each a configuration with a `forward`, written once as a walk over layers with the
//! checkpoint's own names.
//!
//! Configurations come from files and are trusted in nothing: `validate` names the first key that
//! is out of range or contradicts another, and every walk begins with it.

pub mod autoencoder;
pub mod autoencoder_kl;
pub mod autoencoder_tiny;
pub mod clip_text;
pub mod clip_text_projection;
pub mod clip_tokenizer;
mod tiles;
pub mod unet_2d;
pub mod unet_2d_condition;

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The most levels a network may have: Stable Diffusion has four, the largest published UNets six.
pub const MAX_LEVELS: usize = 8;

/// One value per level.
pub type PerLevel<T> = heapless::Vec<T, MAX_LEVELS>;

/// The most channels or features of a layer: 13 times the widest of Stable Diffusion XL, and so
/// small that sums and products of a few of them fit 32 bits.
pub const MAX_WIDTH: usize = 1 << 16;

/// The most layers of a kind in a row: the largest published text encoder has 32.
pub const MAX_LAYERS: usize = 256;

/// What is wrong with a configuration.
fn refuse(key: &'static str, what: &'static str) -> Result<()> {
    Err(Error::Config { key, what })
}

fn check_width(key: &'static str, width: usize) -> Result<()> {
    match width {
        0 => refuse(key, "must not be zero"),
        1..=MAX_WIDTH => Ok(()),
        _ => refuse(key, "is larger than 65536, wider than any layer can be"),
    }
}

fn check_layers(key: &'static str, layers: usize) -> Result<()> {
    match layers {
        0 => refuse(key, "must not be zero"),
        1..=MAX_LAYERS => Ok(()),
        _ => refuse(key, "is larger than 256, more layers than any network has"),
    }
}

fn check_widths(key: &'static str, widths: &[usize]) -> Result<()> {
    if widths.is_empty() {
        return refuse(key, "must name at least one level");
    }
    widths.iter().try_for_each(|&width| check_width(key, width))
}

fn check_levels(key: &'static str, levels: usize, expected: usize) -> Result<()> {
    match levels == expected {
        true => Ok(()),
        false => refuse(key, "must have one value for each level of block_out_channels"),
    }
}

/// The groups of a normalisation divide each of these widths.
fn check_groups(key: &'static str, groups: usize, widths: &[usize]) -> Result<()> {
    if groups == 0 {
        return refuse(key, "must not be zero");
    }
    match widths.iter().all(|width| width.is_multiple_of(groups)) {
        true => Ok(()),
        false => refuse(key, "must divide the channels it normalises (block_out_channels)"),
    }
}

fn check_eps(key: &'static str, eps: f32) -> Result<()> {
    match eps.is_finite() && eps >= 0.0 {
        true => Ok(()),
        false => refuse(key, "must be a number and not negative"),
    }
}

/// A number that something is divided by.
fn check_divisor(key: &'static str, value: f32) -> Result<()> {
    match value.is_normal() {
        true => Ok(()),
        false => refuse(key, "must be a number other than zero"),
    }
}

fn check_sample_size(size: Option<[usize; 2]>) -> Result<()> {
    match size {
        Some([0, _] | [_, 0]) => refuse("sample_size", "must not be zero"),
        _ => Ok(()),
    }
}

/// The sinusoidal embedding divides by the number of frequencies less `freq_shift`.
fn check_freq_shift(freq_shift: f32, width: usize) -> Result<()> {
    let frequencies = (width / 2) as f32;
    match freq_shift.is_finite() && (frequencies == 0.0 || freq_shift < frequencies) {
        true => Ok(()),
        false => refuse("freq_shift", "must be less than half of the first block_out_channels"),
    }
}

/// Pictures or latents `[n, h, w, channels]`, none of them zero.
fn check_input(what: &'static str, x: Tensor, channels: usize) -> Result<[usize; 4]> {
    let [n, h, w, c] = x.dims(what)?;
    if c != channels || x.is_empty() {
        let expected = [n.max(1), h.max(1), w.max(1), channels];
        return Err(Error::Shape { what, expected, found: [n, h, w, c] });
    }
    Ok([n, h, w, c])
}

/// One value for each of `n` samples.
fn check_count(what: &'static str, count: usize, n: usize) -> Result<()> {
    match count == n {
        true => Ok(()),
        false => Err(Error::Shape { what, expected: [n, 0, 0, 0], found: [count, 0, 0, 0] }),
    }
}

/// The values of all levels, where they are known when the program is written.
fn levels<T: Clone>(values: &[T]) -> PerLevel<T> {
    values.iter().take(MAX_LEVELS).cloned().collect()
}
