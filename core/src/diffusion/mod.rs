//! The mathematics of noise: schedules, predictions, samplers and generators, on plain numbers only.

pub mod noise;
pub mod prediction;
pub mod sampler;
pub mod schedule;
