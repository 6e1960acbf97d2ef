//! `AutoencoderKL`: between pixels and the latents of Stable Diffusion (Rombach et al. 2022).

use super::tiles::{Side, Tiles};
use super::{
    PerLevel, check_divisor, check_groups, check_input, check_layers, check_width, check_widths,
    levels, refuse,
};
use crate::error::Result;
use crate::nn::{
    AttentionBlock, Block, Conv, Mixer, Norm, ResnetBlock2d, conv2d, conv2d_in_bands_replacing,
    conv2d_replacing, mid_block, resnet_block_2d_in_bands,
};
use crate::ops::{self, Context};
use crate::tensor::{Shape, Tensor};
use crate::weights::Path;

/// The epsilon of each normalisation; no configuration changes it.
const NORM_EPS: f32 = 1e-6;

/// The downsampling convolutions are padded at the bottom and at the right.
const HALVING: [usize; 4] = [0, 1, 0, 1];

/// The side of a tile, in latents, with which Stable Diffusion's decoder makes 512x512 pixels in 57
/// MiB, the picture included. diffusers' default is the size trained at, 64.
pub const TILE: usize = 24;

/// Tiles overlap by their 4th part: diffusers' `tile_overlap_factor`, 0.25.
const OVERLAP_PART: usize = 4;

/// The configuration of an `AutoencoderKL`; the default is diffusers'.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderKlConfig {
    /// Channels of the picture going in.
    pub in_channels: usize,
    /// Channels of the picture coming out.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Width of each level of the encoder (the decoder mirrors it).
    pub block_out_channels: PerLevel<usize>,
    /// Resnets a level in the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of each group normalisation.
    pub norm_num_groups: usize,
    /// Whether the middle blocks have attention.
    pub mid_block_add_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Pipelines multiply latents by this after encoding and divide by it before decoding.
    pub scaling_factor: f32,
    /// Pipelines subtract it from latents before scaling; 0 where `config.json` has none.
    pub shift_factor: f32,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: levels(&[64]),
            layers_per_block: 1,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scaling_factor: 0.18215,
            shift_factor: 0.0,
        }
    }
}

impl AutoencoderKlConfig {
    /// Names the first key that is out of range or contradicts another.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config).
    pub fn validate(&self) -> Result<()> {
        check_width("in_channels", self.in_channels)?;
        check_width("out_channels", self.out_channels)?;
        check_width("latent_channels", self.latent_channels)?;
        check_widths("block_out_channels", &self.block_out_channels)?;
        check_layers("layers_per_block", self.layers_per_block)?;
        check_groups("norm_num_groups", self.norm_num_groups, &self.block_out_channels)?;
        check_divisor("scaling_factor", self.scaling_factor)?;
        match self.shift_factor.is_finite() {
            true => Ok(()),
            false => refuse("shift_factor", "must be a number"),
        }
    }

    /// A picture `[n, h, w, in_channels]` with values from -1 to 1 to the moments of the posterior
    /// `[n, h', w', 2·latent_channels]`: means, then logarithms of variances, which diffusers
    /// clamps to -30..20. Each level but the last halves height and width, rounding down.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) as [`AutoencoderKlConfig::validate`],
    /// [`Error::Shape`](crate::Error::Shape) where the picture does not fit or is too small to be
    /// halved, those of memory and weights.
    pub fn encode(&self, cx: &mut Context<'_>, path: &Path<'_>, image: Tensor) -> Result<Tensor> {
        self.validate()?;
        check_input("AutoencoderKL's picture", image, self.in_channels)?;
        let (p, widths) = (path.at("encoder"), &self.block_out_channels);
        let (blocks, deepest) = (p.at("down_blocks"), widths.len() - 1);
        let moments = 2 * self.latent_channels;
        cx.scope(|cx| {
            let mut x = conv2d(cx, &p.at("conv_in"), image, Conv::new(widths[0], 3))?;
            for (level, &width) in widths.iter().enumerate() {
                let p = blocks.index(level);
                x = self.resnets_replacing(cx, &p, x, self.layers_per_block, width)?;
                if level < deepest {
                    let conv = Conv::new(width, 3).halving(HALVING);
                    x = conv2d_in_bands_replacing(cx, None, &p.at("downsamplers.0.conv"), x, conv)?;
                }
            }
            let x = self.mid_replacing(cx, &p.at("mid_block"), x)?;
            let x = self.out_replacing(cx, &p, x, moments)?;
            match self.use_quant_conv {
                true => conv2d_replacing(cx, &path.at("quant_conv"), x, Conv::new(moments, 1)),
                false => Ok(x),
            }
        })
    }

    /// Latents `[n, h, w, latent_channels]`, as [`AutoencoderKlConfig::encode`] has them, to a
    /// picture `[n, h', w', out_channels]` with values around -1 to 1. Each level but the last
    /// doubles height and width.
    ///
    /// Convolutions go over the picture in bands of rows, in place: Stable Diffusion's decoder
    /// peaks at 512x512 in the first resnet of the last level, with 256 MiB for 256 channels in, or
    /// twice 128, and 17 MiB for the bands.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) as [`AutoencoderKlConfig::validate`],
    /// [`Error::Shape`](crate::Error::Shape) where the latents do not fit, those of memory and
    /// weights.
    pub fn decode(&self, cx: &mut Context<'_>, path: &Path<'_>, latents: Tensor) -> Result<Tensor> {
        self.validate()?;
        check_input("AutoencoderKL's latents", latents, self.latent_channels)?;
        let (p, widths) = (path.at("decoder"), &self.block_out_channels);
        let (blocks, deepest) = (p.at("up_blocks"), widths.len() - 1);
        cx.scope(|cx| {
            let mut x = self.decoder_conv_in(cx, path, latents)?;
            x = self.mid_replacing(cx, &p.at("mid_block"), x)?;
            for (at, &width) in widths.iter().rev().enumerate() {
                let p = blocks.index(at);
                x = self.resnets_replacing(cx, &p, x, self.layers_per_block + 1, width)?;
                if at < deepest {
                    let [_, h, w, _] = x.dims("up_block")?;
                    let conv = Conv::new(width, 3).upsample_to([2 * h, 2 * w]);
                    x = conv2d_in_bands_replacing(cx, None, &p.at("upsamplers.0.conv"), x, conv)?;
                }
            }
            self.out_replacing(cx, &p, x, self.out_channels)
        })
    }

    /// As [`AutoencoderKlConfig::decode`], in tiles of `tile` latents a side wherever the latents
    /// are larger: in the memory of one tile, the picture and the seams. Tiles overlap by a quarter
    /// and fade into each other, as in diffusers' `tiled_decode`; since each is normalised by
    /// itself, the picture is close to that of [`AutoencoderKlConfig::decode`] and not the same.
    ///
    /// # Errors
    /// As [`AutoencoderKlConfig::decode`], and [`Error::Config`](crate::Error::Config) where `tile`
    /// is no multiple of 4.
    pub fn decode_tiled(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        latents: Tensor,
        tile: usize,
    ) -> Result<Tensor> {
        self.validate()?;
        let [n, h, w, _] = check_input("AutoencoderKL's latents", latents, self.latent_channels)?;
        if tile == 0 || !tile.is_multiple_of(OVERLAP_PART) {
            refuse("tile", "must be a multiple of 4 latents with AutoencoderKL")?;
        }
        let tiles = Tiles::new([h, w], tile, tile - tile / OVERLAP_PART);
        if tiles.is_one() {
            return self.decode(cx, path, latents);
        }
        cx.scope(|cx| {
            let scale = 1 << (self.block_out_channels.len() - 1);
            let picture = tiles.picture(cx, n, scale, self.out_channels)?;
            let seams = Seams::new(cx, tiles, scale, self.out_channels)?;
            let decode = |cx: &mut Context<'_>, tile| self.decode(cx, path, tile);
            tiles.for_each(cx, latents, decode, |cx, pixels, [sample, row, column]| {
                seams.place(cx, pixels, [row, column], picture.sample(sample)?)
            })?;
            Ok(picture)
        })
    }

    fn decoder_conv_in(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        latents: Tensor,
    ) -> Result<Tensor> {
        let deepest = self.block_out_channels.len() - 1;
        let conv_in = Conv::new(self.block_out_channels[deepest], 3);
        if !self.use_post_quant_conv {
            return conv2d(cx, &path.at("decoder.conv_in"), latents, conv_in);
        }
        let conv = Conv::new(self.latent_channels, 1);
        let x = conv2d(cx, &path.at("post_quant_conv"), latents, conv)?;
        conv2d_replacing(cx, &path.at("decoder.conv_in"), x, conv_in)
    }

    fn norm(&self) -> Norm {
        Norm { groups: self.norm_num_groups, eps: NORM_EPS }
    }

    fn resnet(&self, channels: usize) -> ResnetBlock2d {
        ResnetBlock2d { channels, norm: self.norm(), time: None, output_scale_factor: 1.0 }
    }

    fn resnets_replacing(
        &self,
        cx: &mut Context<'_>,
        p: &Path<'_>,
        mut x: Tensor,
        layers: usize,
        channels: usize,
    ) -> Result<Tensor> {
        let resnets = p.at("resnets");
        for layer in 0..layers {
            let p = resnets.index(layer);
            x = resnet_block_2d_in_bands(cx, &p, x, channels, self.norm().then_silu())?;
        }
        Ok(x)
    }

    /// The middle block: a resnet, attention with one head, a resnet.
    fn mid_replacing(&self, cx: &mut Context<'_>, p: &Path<'_>, x: Tensor) -> Result<Tensor> {
        let inner = x.channels();
        let norm = Some(self.norm());
        let attention = AttentionBlock { heads: 1, inner, norm, output_scale_factor: 1.0 };
        let mixer = match self.mid_block_add_attention {
            true => Mixer::Attention(attention),
            false => Mixer::None,
        };
        let block = Block { layers: 1, resnet: self.resnet(inner), mixer };
        cx.replace(x, |cx| mid_block(cx, p, x, block))
    }

    /// The last normalisation and convolution.
    fn out_replacing(
        &self,
        cx: &mut Context<'_>,
        p: &Path<'_>,
        x: Tensor,
        channels: usize,
    ) -> Result<Tensor> {
        let norm = (p.at("conv_norm_out"), self.norm().then_silu());
        conv2d_in_bands_replacing(cx, Some(norm), &p.at("conv_out"), x, Conv::new(channels, 3))
    }
}

/// What the tiles to come fade in from. Each tile fades in from the one above, then from the one at
/// its left, both as they have become by then, as in diffusers.
struct Seams {
    /// Below each tile of the row before: the rows it shares with the next.
    above: Tensor,
    /// The columns that the tile before shares with the next.
    left: Tensor,
    /// Columns of `above` for each tile.
    width: usize,
    /// Rows or columns of pixels that two tiles share.
    overlap: usize,
    /// Rows or columns of pixels from one tile to the next.
    stride: usize,
}

impl Seams {
    fn new(cx: &mut Context<'_>, tiles: Tiles, scale: usize, c: usize) -> Result<Self> {
        let Tiles { rows, columns } = tiles;
        // What lies below comes into play with a second row, what lies beside with a second column.
        let shared = |side: Side| match side.count() {
            1 => 0,
            _ => (side.tile - side.stride) * scale,
        };
        let (height, width) = (rows.longest() * scale, columns.longest() * scale);
        let above = Shape::new([1, shared(rows), columns.count() * width, c]);
        let left = Shape::new([1, height, shared(columns), c]);
        Ok(Self {
            above: cx.tensor(above)?,
            left: cx.tensor(left)?,
            width,
            overlap: (rows.tile - rows.stride) * scale,
            stride: rows.stride * scale,
        })
    }

    /// Fades a tile's pixels in, puts them into the picture up to where the next tile begins, and
    /// keeps what lies beyond.
    fn place(
        &self,
        cx: &mut Context<'_>,
        pixels: Tensor,
        [row, column]: [usize; 2],
        picture: Tensor,
    ) -> Result<()> {
        let [_, h, w, _] = pixels.dims("a tile")?;
        let (above, left) = ((self.above, [0, column * self.width]), (self.left, [0, 0]));
        if row > 0 {
            ops::blend_in_place(cx, pixels, above, [h.min(self.overlap), 0])?;
        }
        if column > 0 {
            ops::blend_in_place(cx, pixels, left, [0, w.min(self.overlap)])?;
        }
        let [kept_h, kept_w] = [h, w].map(|side| side.min(self.stride));
        let at = [row * self.stride, column * self.stride];
        ops::copy_window(cx, (pixels, [0, 0]), (picture, at), [kept_h, kept_w])?;
        ops::copy_window(cx, (pixels, [kept_h, 0]), above, [h - kept_h, w])?;
        ops::copy_window(cx, (pixels, [0, kept_w]), left, [h, w - kept_w])
    }
}
