//! `AutoencoderTiny` (TAESD, by Ollin Boer Bohan): a small stand-in for `AutoencoderKL`.

use super::tiles::Tiles;
use super::{
    MAX_LAYERS, PerLevel, check_divisor, check_input, check_width, check_widths, levels, refuse,
};
use crate::error::Result;
use crate::nn::{Conv, conv2d, conv2d_replacing, copy, group_norm_replacing};
use crate::ops::{self, Activation, Context, GroupNorm};
use crate::tensor::{Form, Tensor};
use crate::weights::Path;

/// The side of a tile, in latents, with which TAESD's decoder makes 512x512 pixels within 64 MiB,
/// the picture included. diffusers' default is 64.
pub const TILE: usize = 32;

/// Tiles overlap by their 8th part: diffusers' `tile_overlap_factor`, 0.125.
const OVERLAP_PART: usize = 8;

/// The pooled branch is this much wider than its block.
const POOL_WIDTH: usize = 4;

/// The normalisation in the pooled branch.
const POOL_NORM: GroupNorm = GroupNorm {
    groups: 4,
    eps: 1e-5,
    scale_shift: None,
    activation: Some(Activation::Relu),
    form: Form::F32,
};

/// How the checkpoint names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// diffusers': `encoder.layers.0.weight`, `decoder.layers.0.weight` (the clamp at the decoder's
    /// start is not a layer).
    Diffusers,
    /// The original's: an encoder file and a decoder file, `0.weight`, the clamp counted as layer
    /// 0. Expected at `encoder.0.weight` and `decoder.1.weight` under the model's path.
    Original,
}

/// The configuration of an `AutoencoderTiny`; the default is diffusers'.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderTinyConfig {
    /// Channels of the picture going in.
    pub in_channels: usize,
    /// Channels of the picture coming out.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Width of each level of the encoder; diffusers' layers fit only if all are the same.
    pub encoder_block_out_channels: PerLevel<usize>,
    /// Width of each level of the decoder, deepest first; all are the same.
    pub decoder_block_out_channels: PerLevel<usize>,
    /// Blocks of each level of the encoder.
    pub num_encoder_blocks: PerLevel<usize>,
    /// Blocks of each level of the decoder, deepest first.
    pub num_decoder_blocks: PerLevel<usize>,
    /// Pipelines multiply latents by this after encoding and divide by it before decoding.
    pub scaling_factor: f32,
    /// Whether the deepest level's blocks have the pooled branch (1x1, group norm, ReLU, 1x1) of
    /// the FLUX.2 autoencoder.
    pub pool: bool,
    /// How the checkpoint names its tensors.
    pub naming: Naming,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            encoder_block_out_channels: levels(&[64; 4]),
            decoder_block_out_channels: levels(&[64; 4]),
            num_encoder_blocks: levels(&[1, 3, 3, 3]),
            num_decoder_blocks: levels(&[3, 3, 3, 1]),
            scaling_factor: 1.0,
            pool: false,
            naming: Naming::Diffusers,
        }
    }
}

impl AutoencoderTinyConfig {
    /// Names the first key that is out of range or contradicts another.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config).
    pub fn validate(&self) -> Result<()> {
        check_width("in_channels", self.in_channels)?;
        check_width("out_channels", self.out_channels)?;
        check_width("latent_channels", self.latent_channels)?;
        let encoder = (&self.encoder_block_out_channels, &self.num_encoder_blocks);
        let decoder = (&self.decoder_block_out_channels, &self.num_decoder_blocks);
        for (key, widths, blocks_key, blocks) in [
            ("encoder_block_out_channels", encoder.0, "num_encoder_blocks", encoder.1),
            ("decoder_block_out_channels", decoder.0, "num_decoder_blocks", decoder.1),
        ] {
            check_widths(key, widths)?;
            if widths.iter().any(|&width| width != widths[0]) {
                return refuse(key, "must be the same at every level: the layers fit no other way");
            }
            if blocks.len() != widths.len() {
                return refuse(blocks_key, "must have one value for each level");
            }
            if blocks.iter().any(|&blocks| blocks > MAX_LAYERS) {
                return refuse(blocks_key, "is larger than 256, more blocks than any network has");
            }
        }
        check_divisor("scaling_factor", self.scaling_factor)
    }

    /// A picture `[n, h, w, in_channels]` with values from -1 to 1 to latents `[n, h', w',
    /// latent_channels]`. Each level but the first halves height and width, rounding up.
    ///
    /// The original knows colours from 0 to 1; under either naming, this takes diffusers'.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) as [`AutoencoderTinyConfig::validate`],
    /// [`Error::Shape`](crate::Error::Shape) where the picture does not fit, those of memory and
    /// weights.
    pub fn encode(&self, cx: &mut Context<'_>, path: &Path<'_>, image: Tensor) -> Result<Tensor> {
        self.validate()?;
        check_input("AutoencoderTiny's picture", image, self.in_channels)?;
        let (layers, mut at) = match self.naming {
            Naming::Diffusers => (path.at("encoder.layers"), 0),
            Naming::Original => (path.at("encoder"), 0),
        };
        let deepest = self.num_encoder_blocks.len() - 1;
        let width = self.encoder_block_out_channels[0];
        cx.scope(|cx| {
            let mut x = copy(cx, image)?;
            ops::scale_shift_in_place(cx, x, 0.5, 0.5)?;
            for (level, &blocks) in self.num_encoder_blocks.iter().enumerate() {
                let conv = match level {
                    0 => Conv::new(width, 3),
                    _ => Conv::new(width, 3).without_bias().halving([1; 4]),
                };
                x = conv2d_replacing(cx, &layers.index(at), x, conv)?;
                let pool = self.pool && level == deepest;
                x = blocks_replacing(cx, &layers, at + 1, x, blocks, pool)?;
                at += 1 + blocks;
            }
            conv2d_replacing(cx, &layers.index(at), x, Conv::new(self.latent_channels, 3))
        })
    }

    /// Latents `[n, h, w, latent_channels]` to a picture `[n, h', w', out_channels]` with values
    /// around -1 to 1, not clamped. Each level but the last doubles height and width.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) as [`AutoencoderTinyConfig::validate`],
    /// [`Error::Shape`](crate::Error::Shape) where the latents do not fit, those of memory and
    /// weights.
    pub fn decode(&self, cx: &mut Context<'_>, path: &Path<'_>, latents: Tensor) -> Result<Tensor> {
        self.validate()?;
        check_input("AutoencoderTiny's latents", latents, self.latent_channels)?;
        let (layers, mut at) = match self.naming {
            Naming::Diffusers => (path.at("decoder.layers"), 0),
            // The clamp is a layer of its own there.
            Naming::Original => (path.at("decoder"), 1),
        };
        let last = self.num_decoder_blocks.len() - 1;
        let width = self.decoder_block_out_channels[0];
        cx.scope(|cx| {
            let x = copy(cx, latents)?;
            let x = ops::activate(cx, x, Activation::ClampTanh3)?;
            let conv = Conv::new(width, 3).then(Activation::Relu);
            let mut x = conv2d_replacing(cx, &layers.index(at), x, conv)?;
            at += 2;
            for (level, &blocks) in self.num_decoder_blocks.iter().enumerate() {
                x = blocks_replacing(cx, &layers, at, x, blocks, self.pool && level == 0)?;
                at += blocks;
                let conv = match level == last {
                    true => Conv::new(self.out_channels, 3),
                    false => {
                        // The upsampling is a layer of its own in the count.
                        at += 1;
                        let [_, h, w, _] = x.dims("AutoencoderTiny")?;
                        Conv::new(width, 3).without_bias().upsample_to([2 * h, 2 * w])
                    }
                };
                x = conv2d_replacing(cx, &layers.index(at), x, conv)?;
                at += 1;
            }
            ops::scale_shift_in_place(cx, x, 2.0, -1.0)?;
            Ok(x)
        })
    }

    /// As [`AutoencoderTinyConfig::decode`], in tiles of `tile` latents a side wherever the latents
    /// are larger: in the memory of one tile and the picture. Tiles overlap by an eighth and fade
    /// in over the picture so far, as in diffusers' `_tiled_decode`, so the picture is close to
    /// that of [`AutoencoderTinyConfig::decode`] and not the same.
    ///
    /// # Errors
    /// As [`AutoencoderTinyConfig::decode`], and [`Error::Config`](crate::Error::Config) where
    /// `tile` is no multiple of 8.
    pub fn decode_tiled(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        latents: Tensor,
        tile: usize,
    ) -> Result<Tensor> {
        self.validate()?;
        let [n, h, w, _] = check_input("AutoencoderTiny's latents", latents, self.latent_channels)?;
        if tile == 0 || !tile.is_multiple_of(OVERLAP_PART) {
            refuse("tile", "must be a multiple of 8 latents with AutoencoderTiny")?;
        }
        let stride = tile - tile / OVERLAP_PART;
        let tiles = Tiles::new([h, w], tile, stride);
        if tiles.is_one() {
            return self.decode(cx, path, latents);
        }
        cx.scope(|cx| {
            let scale = 1 << (self.num_decoder_blocks.len() - 1);
            let picture = tiles.picture(cx, n, scale, self.out_channels)?;
            let decode = |cx: &mut Context<'_>, tile| self.decode(cx, path, tile);
            tiles.for_each(cx, latents, decode, |cx, pixels, [sample, row, column]| {
                let picture = picture.sample(sample)?;
                let [_, h, w, _] = pixels.dims("a tile")?;
                let at = [row, column].map(|number| number * stride * scale);
                // The last of the shared rows and columns is the first that is the tile's alone.
                let fading = (tile - stride) * scale - 1;
                let over = [row, column].map(|number| if number > 0 { fading } else { 0 });
                ops::blend_in_place(cx, pixels, (picture, at), over)?;
                ops::copy_window(cx, (pixels, [0, 0]), (picture, at), [h, w])
            })?;
            Ok(picture)
        })
    }
}

/// `count` blocks, the first being layer `start`.
fn blocks_replacing(
    cx: &mut Context<'_>,
    layers: &Path<'_>,
    start: usize,
    mut x: Tensor,
    count: usize,
    pool: bool,
) -> Result<Tensor> {
    for at in start..start + count {
        let p = layers.index(at);
        if pool {
            add_pool_in_place(cx, &p.at("pool"), x)?;
        }
        x = cx.replace(x, |cx| block(cx, &p.at("conv"), x))?;
    }
    Ok(x)
}

/// Three convolutions with ReLU around a shortcut.
fn block(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor) -> Result<Tensor> {
    let conv = Conv::new(x.channels(), 3).then(Activation::Relu);
    let y = conv2d(cx, &p.at("0"), x, conv)?;
    let y = conv2d_replacing(cx, &p.at("2"), y, conv)?;
    conv2d_replacing(cx, &p.at("4"), y, conv.plus(x))
}

/// `x ← x + pool(x)`: 1x1, group norm, ReLU, 1x1.
fn add_pool_in_place(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor) -> Result<()> {
    let c = x.channels();
    cx.refuse_recording("a pool of AutoencoderTiny")?;
    cx.scratch(|cx| {
        let y = conv2d(cx, &p.at("0"), x, Conv::new(POOL_WIDTH * c, 1).without_bias())?;
        let y = group_norm_replacing(cx, &p.at("1"), y, POOL_NORM)?;
        let y = conv2d(cx, &p.at("3"), y, Conv::new(c, 1).without_bias())?;
        ops::add_in_place(cx, x, y)
    })
}
