//! Diffusion models in a fixed block of memory: no allocator, no standard library.
#![no_std]
#![deny(missing_docs, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![allow(clippy::too_many_arguments)]

#[forbid(unsafe_code)]
pub mod error;
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
pub mod pipeline;
pub use error::{Error, Result};

#[cfg(test)]
extern crate std;
