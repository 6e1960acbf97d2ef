//! The networks: each a configuration with a `forward`, written once as a walk over layers with the
//! checkpoint's own names.

pub mod autoencoder_kl;
pub mod autoencoder_tiny;
pub mod clip_text;
pub mod clip_tokenizer;
pub mod unet_2d;
pub mod unet_2d_condition;

/// The most levels a network may have: Stable Diffusion has four, the largest published UNets six.
pub const MAX_LEVELS: usize = 8;

/// One value per level.
pub type PerLevel<T> = heapless::Vec<T, MAX_LEVELS>;
