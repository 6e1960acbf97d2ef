//! `AutoencoderTiny` (TAESD): a small stand-in for `AutoencoderKL`.

use super::PerLevel;

/// How the checkpoint names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// diffusers': `encoder.layers.0.weight`, `decoder.layers.0.weight` (the clamp at the decoder's
    /// start is not a layer).
    Diffusers,
    /// The original's: an encoder file and a decoder file, `0.weight`, the clamp counted as layer 0.
    /// Expected at `encoder.0.weight` and `decoder.1.weight` under the model's path.
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
    /// Width of each level of the encoder.
    pub encoder_block_out_channels: PerLevel<usize>,
    /// Width of each level of the decoder, deepest first.
    pub decoder_block_out_channels: PerLevel<usize>,
    /// Blocks of each level of the encoder.
    pub num_encoder_blocks: PerLevel<usize>,
    /// Blocks of each level of the decoder, deepest first.
    pub num_decoder_blocks: PerLevel<usize>,
    /// Latents are multiplied by this after encoding, divided before decoding.
    pub scaling_factor: f32,
    /// Whether the deepest level's blocks have the pooled branch (1x1, group norm, ReLU, 1x1) of the
    /// FLUX.2 autoencoder.
    pub pool: bool,
    /// How the checkpoint names its tensors.
    pub naming: Naming,
}
