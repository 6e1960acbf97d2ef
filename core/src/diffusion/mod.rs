//! The mathematics of noise: schedules, predictions, samplers and generators, on plain numbers
//! only.
//!
//! Three words are never mixed. The *schedule* says how much noise there is at each training time,
//! the *prediction* says what the network's output means, and the *sampler* says how to step from
//! one time to the next. Nothing here knows a tensor: a sampler is a table of numbers that others
//! carry out.

pub mod guidance;
pub mod noise;
pub mod prediction;
pub mod sampler;
pub mod schedule;
