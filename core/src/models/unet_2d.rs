//! `UNet2DModel`: the unconditional (or class-conditional) noise predictor of DDPM and DDIM.

use super::{
    PerLevel, check_count, check_divisor, check_eps, check_freq_shift, check_groups, check_input,
    check_layers, check_levels, check_sample_size, check_width, check_widths, levels, refuse,
};
use crate::error::{Error, Result};
pub use crate::nn::TimeScaleShift;
use crate::nn::{
    self, AttentionBlock, Block, Downsampler, Mixer, Norm, ResnetBlock2d, Skips, Time, Upsampler,
    conv_in, conv_out_replacing, down_block, mid_block, timestep_embedding, up_block,
};
use crate::ops::{self, Context, SinusoidalEmbedding};
use crate::tensor::Tensor;
use crate::weights::Path;

/// The block types of [`UNet2DConfig`], on the way down and, mirrored, on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// `DownBlock2D`, `UpBlock2D`: resnets, then a convolution that halves or doubles.
    Plain,
    /// `AttnDownBlock2D`, `AttnUpBlock2D`: self-attention after each resnet.
    Attention,
    /// `ResnetDownsampleBlock2D`, `ResnetUpsampleBlock2D`: the resampling sits inside a resnet.
    Resnet,
}

/// How the time step becomes a vector (`time_embedding_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeEmbedding {
    /// Sines and cosines of `t` (Vaswani et al. 2017).
    Positional,
    /// Gaussian Fourier features of `log t` with frequencies from the checkpoint (Song et al.
    /// 2021).
    Fourier,
}

/// How a class label becomes a vector (`class_embed_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbedding {
    /// The model knows no classes.
    None,
    /// A learned table of `num_class_embeds` rows.
    Table(usize),
    /// The label is embedded like a time step.
    Timestep,
    /// The label is already a vector of the embedding's width.
    Identity,
}

/// How a block downsamples or upsamples between levels (`downsample_type`, `upsample_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resampling {
    /// A convolution.
    Conv,
    /// A resnet with the resampling inside.
    Resnet,
}

/// The configuration of a `UNet2DModel`, named as in its `config.json`; the default is diffusers'.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet2DConfig {
    /// Height and width the model was trained at, in pixels.
    pub sample_size: Option<[usize; 2]>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output: twice `in_channels` where the variance is learned.
    pub out_channels: usize,
    /// Whether the input is mapped from 0..1 to -1..1 first.
    pub center_input_sample: bool,
    /// How the time step becomes a vector.
    pub time_embedding_type: TimeEmbedding,
    /// Width of the time embedding; `None`: four times the first level's width.
    pub time_embedding_dim: Option<usize>,
    /// Offset in the frequencies of the positional embedding.
    pub freq_shift: f32,
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    /// Block type of each level, going down.
    pub down_block_types: PerLevel<BlockType>,
    /// Block type of each level, going up (deepest first).
    pub up_block_types: PerLevel<BlockType>,
    /// Whether there is a middle block (`mid_block_type` is not null).
    pub mid_block: bool,
    /// Whether the middle block has attention.
    pub add_attention: bool,
    /// Width of each level, going down.
    pub block_out_channels: PerLevel<usize>,
    /// Resnets a level, going down; one more going up.
    pub layers_per_block: usize,
    /// The middle block's outputs are divided by this.
    pub mid_block_scale_factor: f32,
    /// Padding of the downsampling convolution: 1, or 0 for an asymmetric pad at right and bottom.
    pub downsample_padding: usize,
    /// How levels with attention are left going down (the others have it in their block type).
    pub downsample_type: Resampling,
    /// How levels with attention are left going up.
    pub upsample_type: Resampling,
    /// Channels of one attention head; `None`: a single head. Where it does not divide a level's
    /// channels, attention is narrower inside.
    pub attention_head_dim: Option<usize>,
    /// Groups of each group normalisation.
    pub norm_num_groups: usize,
    /// Groups in the middle attention's normalisation, where they differ. As in diffusers, `None`
    /// together with [`TimeScaleShift::ScaleShift`] means no normalisation there.
    pub attn_norm_num_groups: Option<usize>,
    /// The epsilon of each normalisation.
    pub norm_eps: f32,
    /// How the time embedding enters a resnet.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// How a class label becomes a vector.
    pub class_embedding: ClassEmbedding,
}

impl Default for UNet2DConfig {
    fn default() -> Self {
        use BlockType::{Attention, Plain};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbedding::Positional,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: levels(&[Plain, Attention, Attention, Attention]),
            up_block_types: levels(&[Attention, Attention, Attention, Plain]),
            mid_block: true,
            add_attention: true,
            block_out_channels: levels(&[224, 448, 672, 896]),
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: Resampling::Conv,
            upsample_type: Resampling::Conv,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            class_embedding: ClassEmbedding::None,
        }
    }
}

impl UNet2DConfig {
    /// Names the first key that is out of range or contradicts another.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        let widths = &self.block_out_channels;
        check_sample_size(self.sample_size)?;
        check_width("in_channels", self.in_channels)?;
        check_width("out_channels", self.out_channels)?;
        check_widths("block_out_channels", widths)?;
        check_levels("down_block_types", self.down_block_types.len(), widths.len())?;
        check_levels("up_block_types", self.up_block_types.len(), widths.len())?;
        check_width("time_embedding_dim", self.time_embedding_dim.unwrap_or(1))?;
        check_freq_shift(self.freq_shift, widths[0])?;
        check_layers("layers_per_block", self.layers_per_block)?;
        if (self.layers_per_block + 1) * widths.len() > nn::MAX_SKIPS {
            return refuse("layers_per_block", "makes more than 64 skip connections");
        }
        check_divisor("mid_block_scale_factor", self.mid_block_scale_factor)?;
        if self.downsample_padding > 1 {
            return refuse("downsample_padding", "must be 0 or 1");
        }
        check_groups("norm_num_groups", self.norm_num_groups, widths)?;
        check_eps("norm_eps", self.norm_eps)?;
        if let ClassEmbedding::Table(0) = self.class_embedding {
            return refuse("num_class_embeds", "must not be zero");
        }
        self.validate_attention()
    }

    fn validate_attention(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        let types = self.down_block_types.iter().chain(self.up_block_types.iter().rev());
        for (at, kind) in types.enumerate() {
            if *kind == BlockType::Attention {
                self.validate_heads(self.block_out_channels[at % levels])?;
            }
        }
        if self.mid_block && self.add_attention {
            let width = self.block_out_channels[levels - 1];
            self.validate_heads(width)?;
            let groups = self.attn_norm_num_groups.unwrap_or(1);
            check_groups("attn_norm_num_groups", groups, &[width])?;
        }
        Ok(())
    }

    fn validate_heads(&self, width: usize) -> Result<()> {
        match self.attention_head_dim {
            Some(0) => refuse("attention_head_dim", "must not be zero"),
            Some(d) if d > width => refuse(
                "attention_head_dim",
                "is larger than the channels of a level with attention",
            ),
            _ => Ok(()),
        }
    }

    /// What the network says of x `[n, h, w, in_channels]`: `[n, h, w, out_channels]`.
    ///
    /// `timesteps` has one for each sample. `class_labels` are for a network that knows classes:
    /// one number a sample, or, with [`ClassEmbedding::Identity`], as many as the time embedding
    /// is wide.
    ///
    /// # Errors
    /// [`Error::Config`] as [`UNet2DConfig::validate`], and where labels are missing or not asked
    /// for; [`Error::Shape`] where x or the timesteps do not fit, or where h or w cannot be halved
    /// at each level; [`Error::Index`] where there is no such class; those of memory and weights.
    pub fn forward(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        x: Tensor,
        timesteps: &[f32],
        class_labels: Option<&[f32]>,
    ) -> Result<Tensor> {
        self.validate()?;
        let [n, ..] = check_input("UNet2DModel's input", x, self.in_channels)?;
        check_count("timesteps", timesteps.len(), n)?;
        cx.scope(|cx| {
            let time = self.time(cx, path, timesteps, class_labels)?;
            let (width, centred) = (self.block_out_channels[0], self.center_input_sample);
            let mut skips = Skips::new(conv_in(cx, &path.at("conv_in"), x, width, centred)?);
            self.down(cx, path, &mut skips, time)?;
            let x = self.mid(cx, path, skips.newest()?, time)?;
            let x = self.up(cx, path, x, &mut skips, time)?;
            let out = conv_out_replacing(cx, path, x, self.out_channels, self.norm())?;
            if self.time_embedding_type == TimeEmbedding::Fourier {
                for (sample, t) in timesteps.iter().enumerate() {
                    ops::scale_shift_in_place(cx, out.sample(sample)?, 1.0 / t, 0.0)?;
                }
            }
            Ok(out)
        })
    }

    fn down(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        skips: &mut Skips,
        time: Time,
    ) -> Result<()> {
        let (blocks, deepest) = (path.at("down_blocks"), self.block_out_channels.len() - 1);
        let padding = [self.downsample_padding, 1, self.downsample_padding, 1];
        for (level, kind) in self.down_block_types.iter().enumerate() {
            let sampler = match (kind, self.downsample_type) {
                _ if level == deepest => Downsampler::None,
                (BlockType::Resnet, _) | (BlockType::Attention, Resampling::Resnet) => {
                    Downsampler::Resnet
                }
                _ => Downsampler::Conv(padding),
            };
            let block = self.block(*kind, self.layers_per_block, level, time);
            down_block(cx, &blocks.index(level), skips, block, sampler)?;
        }
        Ok(())
    }

    fn mid(&self, cx: &mut Context<'_>, path: &Path<'_>, x: Tensor, time: Time) -> Result<Tensor> {
        if !self.mid_block {
            return Ok(x);
        }
        let kind = if self.add_attention { BlockType::Attention } else { BlockType::Plain };
        let mut block = self.block(kind, 1, self.block_out_channels.len() - 1, time);
        block.resnet.output_scale_factor = self.mid_block_scale_factor;
        if let Mixer::Attention(attention) = &mut block.mixer {
            attention.output_scale_factor = self.mid_block_scale_factor;
            attention.norm = match (self.attn_norm_num_groups, self.resnet_time_scale_shift) {
                (Some(groups), _) => Some(Norm { groups, ..self.norm() }),
                (None, TimeScaleShift::Default) => Some(self.norm()),
                // As in diffusers: with scale_shift, the middle attention alone has no norm.
                (None, TimeScaleShift::ScaleShift) => None,
            };
        }
        mid_block(cx, &path.at("mid_block"), x, block)
    }

    fn up(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        mut x: Tensor,
        skips: &mut Skips,
        time: Time,
    ) -> Result<Tensor> {
        let (blocks, deepest) = (path.at("up_blocks"), self.block_out_channels.len() - 1);
        for (at, kind) in self.up_block_types.iter().enumerate() {
            let sampler = match (kind, self.upsample_type) {
                _ if at == deepest => Upsampler::None,
                (BlockType::Resnet, _) | (BlockType::Attention, Resampling::Resnet) => {
                    Upsampler::Resnet
                }
                _ => Upsampler::Conv,
            };
            let block = self.block(*kind, self.layers_per_block + 1, deepest - at, time);
            x = up_block(cx, &blocks.index(at), x, skips, block, sampler)?;
        }
        Ok(x)
    }

    fn norm(&self) -> Norm {
        Norm { groups: self.norm_num_groups, eps: self.norm_eps }
    }

    fn block(&self, kind: BlockType, layers: usize, level: usize, time: Time) -> Block {
        let (channels, norm) = (self.block_out_channels[level], self.norm());
        let d = self.attention_head_dim.unwrap_or(channels);
        let attention = AttentionBlock {
            heads: channels / d.max(1),
            inner: channels / d.max(1) * d,
            norm: Some(norm),
            output_scale_factor: 1.0,
        };
        let mixer = match kind {
            BlockType::Attention => Mixer::Attention(attention),
            BlockType::Plain | BlockType::Resnet => Mixer::None,
        };
        let resnet = ResnetBlock2d { channels, norm, time: Some(time), output_scale_factor: 1.0 };
        Block { layers, resnet, mixer }
    }

    /// The embedding of time step and class, after the SiLU that every resnet would begin with.
    fn time(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        timesteps: &[f32],
        class_labels: Option<&[f32]>,
    ) -> Result<Time> {
        let width = self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0]);
        let embedding = cx.scope(|cx| {
            let t = self.time_proj(cx, path, timesteps)?;
            timestep_embedding(cx, &path.at("time_embedding"), t, width)
        })?;
        cx.scratch(|cx| match self.class_embedding(cx, path, embedding, class_labels)? {
            Some(class) => ops::add_in_place(cx, embedding, class),
            None => Ok(()),
        })?;
        let embedding = ops::activate(cx, embedding, ops::Activation::Silu)?;
        let (first, channels) = (path.at("down_blocks.0.resnets.0"), self.block_out_channels[0]);
        Time::new(cx, &first, channels, embedding, self.resnet_time_scale_shift)
    }

    fn time_proj(&self, cx: &mut Context<'_>, path: &Path<'_>, t: &[f32]) -> Result<Tensor> {
        let width = self.block_out_channels[0];
        let Self { flip_sin_to_cos, freq_shift, .. } = *self;
        match self.time_embedding_type {
            TimeEmbedding::Positional => {
                let how = SinusoidalEmbedding { flip_sin_to_cos, freq_shift };
                ops::sinusoidal_embedding(cx, t, width, how)
            }
            TimeEmbedding::Fourier => {
                // diffusers does not hand flip_sin_to_cos on: sines come first.
                let weight = cx.weight(&path.at("time_proj.weight"), [width])?;
                ops::fourier_embedding(cx, t, weight, false)
            }
        }
    }

    /// `[n, width]`, where the model knows classes.
    fn class_embedding(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        time: Tensor,
        labels: Option<&[f32]>,
    ) -> Result<Option<Tensor>> {
        let [n, width] = time.dims("time_embedding")?;
        let p = path.at("class_embedding");
        let embedding = match (self.class_embedding, labels) {
            (ClassEmbedding::None, None) => return Ok(None),
            (ClassEmbedding::None, Some(_)) => {
                let what = "is not given, and class labels are: the model knows no classes";
                return Err(Error::Config { key: "class_embed_type", what });
            }
            (_, None) => {
                let what = "is given, and no class label is: the model needs one for each image";
                return Err(Error::Config { key: "class_embed_type or num_class_embeds", what });
            }
            (ClassEmbedding::Identity, Some(labels)) => ops::fill(cx, time.shape(), labels)?,
            (ClassEmbedding::Timestep, Some(labels)) => {
                check_count("class_labels", labels.len(), n)?;
                let t = self.time_proj(cx, path, labels)?;
                timestep_embedding(cx, &p, t, width)?
            }
            (ClassEmbedding::Table(classes), Some(labels)) => {
                check_count("class_labels", labels.len(), n)?;
                let table = cx.weight(&p.at("weight"), [classes, width])?;
                let out = cx.tensor(time.shape())?;
                for (sample, &label) in labels.iter().enumerate() {
                    cx.scratch(|cx| {
                        let row = ops::embedding(cx, &[class_index(label, classes)?], table)?;
                        ops::copy_into(cx, row, out.rows(sample, 1)?)
                    })?;
                }
                out
            }
        };
        Ok(Some(embedding))
    }
}

/// A class label as the index of a row.
fn class_index(label: f32, classes: usize) -> Result<u32> {
    let index = label as u32;
    if index as f32 != label || index as usize >= classes {
        let index = index as usize;
        return Err(Error::Index { what: "class label", index, limit: classes });
    }
    Ok(index)
}
