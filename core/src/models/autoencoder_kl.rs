//! `AutoencoderKL`: between pixels and the latents of Stable Diffusion.

use super::PerLevel;

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
    /// Latents are multiplied by this after encoding, divided before decoding.
    pub scaling_factor: f32,
    /// Subtracted from latents before scaling; 0 where `config.json` has none.
    pub shift_factor: f32,
}
