//! What is computed: operations on tensors in the arena.
//!
//! An op takes handles, checks their shapes, pushes its result on the arena's stack and leaves its
//! inputs alone, unless its name says `in_place`. Planned (with an arena that only counts) it does
//! all of that but the arithmetic, so a plan meets every error that a run would meet. Ops get their
//! weights as handles and do not know their names.

mod activation;
mod attention;
mod backward;
mod bands;
mod context;
mod conv2d;
mod convert;
mod cpu;
mod doubled;
mod elementwise;
mod embedding;
mod gemm;
mod limits;
mod linear;
mod norm;
mod observe;
mod params;
mod pixels;
mod resample;
mod rows;
mod spread;
mod layout;
mod matrix;
mod pixel_shuffle;
mod pointwise;
mod tally;
mod tape;
mod window;

pub use crate::arch::Activation;
pub use activation::{activate, geglu};
pub use attention::attention;
pub use backward::{Mirror, Walk};
pub use bands::{BandConv2d, conv2d_in_bands};
pub use context::Context;
pub use conv2d::{conv2d, conv2d_into};
pub use convert::to_form;
pub use cpu::Cpu;
pub use elementwise::{
    add_in_place, add_per_channel_in_place, copy_into, fill, scale_add_in_place,
    scale_shift_in_place, slice_channels, slice_channels_in_place,
};
pub use embedding::{SinusoidalEmbedding, embedding, fourier_embedding, sinusoidal_embedding};
pub use gemm::Epilogue;
pub use layout::{nchw_to_nhwc, nhwc_to_nchw};
pub use limits::Limits;
pub use linear::{linear, linear_into};
pub use matrix::Matrix;
pub use norm::{concat, group_norm, group_norm_replacing, layer_norm};
pub use observe::{Event, InputObserver, LeftSide, Observer, Op};
pub use params::{Attention, Conv2d, GroupNorm};
pub use pixel_shuffle::{pixel_shuffle, pixel_unshuffle, unshuffle};
pub use pointwise::pointwise_conv2d_into;
pub use resample::{avg_pool_2x2, upsample_nearest};
pub use tally::Tally;
pub use tape::{Recording, Tape, TapeSlot};
pub use window::{blend_in_place, copy_window, crop};
