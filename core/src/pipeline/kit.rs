//! What a program can draw with. A program for one model links that model's networks and samplers
//! and no others: whatever its kit lacks, the compiler leaves out.
//!
//! ```
//! use mote::diffusion::sampler::Ddim;
//! use mote::models::autoencoder::Nothing;
//! use mote::pipeline::Kit;
//!
//! /// Emoji from words, by DDIM, without an autoencoder.
//! #[derive(Clone, Copy, Debug)]
//! struct Emoji;
//!
//! impl Kit for Emoji {
//!     type Sampler = Ddim;
//!     type Autoencoders = Nothing;
//!     const UNCONDITIONAL: bool = false;
//!     const TEXT_TO_IMAGE: bool = true;
//! }
//! # fn file() -> &'static [u8] { &[] }
//! # use mote::pipeline::Model;
//! let model = Model::open(file()).map(|model| model.with_kit::<Emoji>());
//! ```

use crate::diffusion::sampler::{Chosen, Sampler};
use crate::error::Error;
use crate::models::autoencoder::{All, Decoding, Kinds};

/// What a program can draw with.
pub trait Kit: Copy + core::fmt::Debug + 'static {
    /// The samplers: one of them, [`Sampler`] for all, or an enum of the program's own.
    type Sampler: Chosen + 'static;
    /// The autoencoders.
    type Autoencoders: Kinds;
    /// Whether it draws from noise alone.
    const UNCONDITIONAL: bool;
    /// Whether it draws from words.
    const TEXT_TO_IMAGE: bool;
    /// Whether it draws from words by Stable Diffusion XL.
    const STABLE_DIFFUSION_XL: bool = false;
}

/// All that there is.
#[derive(Clone, Copy, Debug)]
pub struct Everything;

impl Kit for Everything {
    type Sampler = Sampler<'static>;
    type Autoencoders = All;
    const UNCONDITIONAL: bool = true;
    const TEXT_TO_IMAGE: bool = true;
    const STABLE_DIFFUSION_XL: bool = true;
}

/// All that a [`Session`](super::Session) may need, which starts from noise and not from a picture.
#[derive(Clone, Copy, Debug)]
pub struct AnyModel;

impl Kit for AnyModel {
    type Sampler = Sampler<'static>;
    type Autoencoders = Decoding;
    const UNCONDITIONAL: bool = true;
    const TEXT_TO_IMAGE: bool = true;
}

/// What is said of a model that the program was not made for.
pub(super) const NOT_LINKED: Error =
    Error::Config { key: "the model", what: "is of a kind that this program was not made for" };
