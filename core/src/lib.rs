//! Diffusion models (DDPM, Stable Diffusion and their kin) in a fixed block of memory whose size is
//! known, to the byte, before anything runs: no allocator, no standard library.
//!
//! A prompt's tokens go through a *text encoder* and become vectors. A *noise predictor* turns
//! noise and those vectors into latents, step by step, as a *sampler*'s table of numbers says. A
//! *decoder* turns latents into pixels. The modules below stand in the order of the data's way:
//! memory and weights first, then ops, layers and networks, the mathematics of noise, and the
//! pipelines that tell the whole story.
//!
//! The host gives everything: memory ([`mem::Arena`]), an instruction set ([`arch::Isa`]), threads
//! ([`exec::Executor`]), weights ([`weights::Weights`]) and a place for pixels
//! ([`pipeline::ImageSink`]). The same walk over a network, in an arena that only counts, is its
//! plan:
//!
//! ```
//! use mote::arch::Isa;
//! use mote::exec::Sequential;
//! use mote::mem::Arena;
//! use mote::models::unet_2d::UNet2DConfig;
//! use mote::ops::Context;
//! use mote::tensor::{DType, Shape};
//! use mote::weights::{Assumed, Path};
//!
//! // What would diffusers' default UNet need for one 32x32 picture?
//! let (unet, mut weights) = (UNet2DConfig::default(), Assumed(DType::F16));
//! let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut weights);
//! let x = cx.tensor(Shape::new([1, 32, 32, 3]))?;
//! unet.forward(&mut cx, &Path::root(), x, &[999.0], None)?;
//! assert!(cx.arena().peak() < 20 << 20, "{} bytes of arena", cx.arena().peak());
//! assert!(cx.tally().weight_bytes > 0 && cx.tally().multiply_adds > 0);
//! # Ok::<(), mote::Error>(())
//! ```
#![no_std]
#![deny(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::too_many_arguments)]

#[forbid(unsafe_code)]
pub mod error;
#[forbid(unsafe_code)]
pub mod fields;
#[forbid(unsafe_code)]
pub mod progress;
#[forbid(unsafe_code)]
pub mod tensor;
pub mod mem;
pub mod exec;
#[forbid(unsafe_code)]
pub mod weights;
pub mod arch;
#[forbid(unsafe_code)]
pub mod ops;
#[forbid(unsafe_code)]
pub mod nn;
#[forbid(unsafe_code)]
pub mod models;
#[forbid(unsafe_code)]
pub mod diffusion;
#[forbid(unsafe_code)]
pub mod train;
#[forbid(unsafe_code)]
pub mod pipeline;
pub use error::{Error, Result};

#[cfg(test)]
extern crate std;
