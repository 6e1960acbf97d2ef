//! Layers with the checkpoint's own names: each is a function that takes a path, asks for the
//! weights under it and calls ops.
//!
//! There are no layer objects: a network is the walk itself. A layer leaves its input where it is
//! and pushes its result on the arena's stack; one called `…_replacing` takes the newest tensor and
//! puts the result in its place. Where a layer has more than one number to be told, they come in a
//! small struct that is named like the layer.

mod attention;
mod bands;
mod conv;
mod embeddings;
mod linear;
mod norm;
mod resnet;
mod transformer;
mod unet_blocks;

pub use attention::{
    Attention, AttentionBlock, AttentionNames, attention, attention_block_replacing,
};
pub use bands::{NormAt, conv2d_in_bands_replacing, resnet_block_2d_in_bands};
pub use conv::{Conv, conv2d, conv2d_replacing};
pub use embeddings::timestep_embedding;
pub use linear::{Linear, linear, linear_added_to};
pub use norm::{Norm, group_norm, group_norm_replacing, layer_norm};
pub use resnet::{
    ResnetBlock2d, Time, TimeScaleShift, resnet_block_2d, resnet_block_2d_replacing,
    resnet_downsample_2d, resnet_upsample_2d,
};
pub use transformer::{Transformer2d, transformer_2d_replacing};
pub use unet_blocks::{
    Block, Downsampler, MAX_SKIPS, Mixer, Skips, Upsampler, conv_in, conv_out_replacing,
    down_block, mid_block, up_block,
};

use crate::error::Result;
use crate::ops::{self, Context};
use crate::tensor::Tensor;

/// A copy of `x` on top of the stack, to be changed in place.
///
/// # Errors
/// Those of memory.
pub fn copy(cx: &mut Context<'_>, x: Tensor) -> Result<Tensor> {
    let y = cx.tensor(x.shape())?;
    ops::copy_into(cx, x, y)?;
    Ok(y)
}
