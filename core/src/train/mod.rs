//! The walk backwards: training the noise predictor, and the text encoder with it, by adding known
//! noise to pictures and asking for it back (Ho et al. 2020, algorithm 1).
//!
//! The same walk that draws pictures is recorded on a tape in the arena and played backwards
//! ([`Context::begin_recording`], [`Context::backward`]). Parameters are the data of one packed f32
//! file (see [`tensor::packed`](crate::tensor::packed)) that the walk reads in place; their
//! gradients, AdamW's moments and the moving average lie beside them in the same order. Nothing is
//! allocated, and [`Objective::plan`] knows the bytes before a step runs.

mod bound;
mod loss;
mod optimizer;

pub use bound::Bound;
pub use loss::{Batch, Denoiser, Objective, TrainPlan, Weighting};
pub use optimizer::{AdamW, Ema, LearningRate, norm};

#[allow(unused_imports, reason = "named in the documentation")]
use crate::ops::Context;
