//! `UNet2DConditionModel`: the noise predictor of Stable Diffusion 1.x and 2.x.

use super::PerLevel;
use super::unet_2d::TimeScaleShift;

/// The block types of [`UNet2DConditionConfig`], on the way down and, mirrored, on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// `DownBlock2D`, `UpBlock2D`: resnets only.
    Plain,
    /// `CrossAttnDownBlock2D`, `CrossAttnUpBlock2D`: a transformer after each resnet.
    CrossAttention,
}

/// The configuration of a `UNet2DConditionModel`; the default is diffusers'.
///
/// Values that `config.json` may give once for all levels are given per level here.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet2DConditionConfig {
    /// Height and width of the latents the model was trained at.
    pub sample_size: Option<[usize; 2]>,
    /// Channels of the input: 4, or 9 for inpainting.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether the input is mapped from 0..1 to -1..1 first.
    pub center_input_sample: bool,
    /// Whether cosines come before sines in the time embedding.
    pub flip_sin_to_cos: bool,
    /// Offset in the frequencies of the time embedding.
    pub freq_shift: f32,
    /// Width of the time embedding; `None`: four times the first level's width.
    pub time_embedding_dim: Option<usize>,
    /// Block type of each level, going down.
    pub down_block_types: PerLevel<BlockType>,
    /// Block type of each level, going up (deepest first).
    pub up_block_types: PerLevel<BlockType>,
    /// Whether there is a middle block (`UNetMidBlock2DCrossAttn`).
    pub mid_block: bool,
    /// Per level, going down: whether the first attention looks at the text too.
    pub only_cross_attention: PerLevel<bool>,
    /// The same for the middle block.
    pub mid_block_only_cross_attention: bool,
    /// Width of each level, going down.
    pub block_out_channels: PerLevel<usize>,
    /// Resnets of each level, going down; one more going up.
    pub layers_per_block: PerLevel<usize>,
    /// Transformer layers a block, per level going down.
    pub transformer_layers_per_block: PerLevel<usize>,
    /// Padding of the downsampling convolution: 1, or 0 for an asymmetric pad at right and bottom.
    pub downsample_padding: usize,
    /// The middle block's outputs are divided by this.
    pub mid_block_scale_factor: f32,
    /// Groups of each group normalisation.
    pub norm_num_groups: usize,
    /// The epsilon of each normalisation.
    pub norm_eps: f32,
    /// Width of `encoder_hidden_states`.
    pub cross_attention_dim: usize,
    /// Number of attention heads per level going down (`config.json` calls it `attention_head_dim`).
    pub attention_heads: PerLevel<usize>,
    /// Whether the transformer's projections are linear layers (2.x) or 1x1 convolutions (1.x).
    pub use_linear_projection: bool,
    /// Whether attention scores are computed in f32 whatever the weights' type: here they always are.
    pub upcast_attention: bool,
    /// How the time embedding enters a resnet.
    pub resnet_time_scale_shift: TimeScaleShift,
}
