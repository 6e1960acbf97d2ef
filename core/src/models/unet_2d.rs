//! `UNet2DModel`: the unconditional (or class-conditional) noise predictor of DDPM and DDIM.

use super::PerLevel;

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
    /// Gaussian Fourier features of `log t` with frequencies from the checkpoint (Song et al. 2021).
    Fourier,
}

/// How the time embedding enters a resnet (`resnet_time_scale_shift`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeScaleShift {
    /// Added after the first convolution.
    Default,
    /// Scales and shifts the second normalisation.
    ScaleShift,
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
    /// How levels are left going down.
    pub downsample_type: Resampling,
    /// How levels are left going up.
    pub upsample_type: Resampling,
    /// Channels of one attention head; `None`: a single head.
    pub attention_head_dim: Option<usize>,
    /// Groups of each group normalisation.
    pub norm_num_groups: usize,
    /// Groups in the attention's normalisation, where they differ.
    pub attn_norm_num_groups: Option<usize>,
    /// The epsilon of each normalisation.
    pub norm_eps: f32,
    /// How the time embedding enters a resnet.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// How a class label becomes a vector.
    pub class_embedding: ClassEmbedding,
}
