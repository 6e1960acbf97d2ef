//! Diffusion models in a fixed block of memory: no allocator, no standard library.
#![no_std]
#![deny(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::too_many_arguments)]

pub mod arch;
#[forbid(unsafe_code)]
pub mod diffusion;
#[forbid(unsafe_code)]
pub mod error;
pub mod exec;
pub mod mem;
#[forbid(unsafe_code)]
pub mod models;
#[forbid(unsafe_code)]
pub mod nn;
#[forbid(unsafe_code)]
pub mod ops;
#[forbid(unsafe_code)]
pub mod progress;
#[forbid(unsafe_code)]
// pub mod pipeline;
#[forbid(unsafe_code)]
pub mod tensor;
#[forbid(unsafe_code)]
pub mod weights;

pub use error::{Error, Result};
