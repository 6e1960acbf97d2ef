//! Training a model from pictures and what they show, and measuring one.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod eval;
pub mod train;
