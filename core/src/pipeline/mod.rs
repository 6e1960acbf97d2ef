//! The whole story: from a seed, and words, to a picture.
//!
//! A pipeline is a request: configurations, a sampler's table, sizes. It is a list of stages, and
//! one driver plans them, runs them, or takes them step by step.

mod fit;
mod image;
mod kit;
mod latents;
mod needs;
pub mod recipe;
mod sampling;
mod session;
mod stable_diffusion_xl;
mod stages;
mod text_to_image;
mod unconditional;
mod work;

pub use crate::models::autoencoder::Autoencoder;
pub use image::ImageSink;
pub use kit::{AnyModel, Everything, Kit};
pub use latents::InitImage;
pub use needs::Needs;
pub use sampling::Sampling;
pub use session::{Fault, Model, Request, Session};
pub use stable_diffusion_xl::{Side, StableDiffusionXl};
pub use stages::{
    Conditions, History, Kept, MAX_STAGES, Pipeline, Stage, Stages, Step, Teller, Watch,
};
pub use text_to_image::TextToImage;
pub use unconditional::Unconditional;
pub use work::Work;
