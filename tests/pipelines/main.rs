//! Whole pipelines and what they are made of: against diffusers, in the planned memory, the same on
//! every machine, and the samplers' tables by themselves.

mod boards;
mod pipeline_memory;
mod pipelines;
mod samplers;
