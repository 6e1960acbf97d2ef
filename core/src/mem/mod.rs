//! Where data lies: one block of memory, used as a stack.
//!
//! An island of `unsafe`: it turns byte ranges of the block into typed slices, after checking
//! bounds, alignment and that nothing written overlaps anything read.

mod arena;
mod cast;
mod plan;

pub use arena::{ALIGNMENT, Aligned, Arena};
pub use cast::{bytes_of, bytes_of_mut, floats_of, floats_of_mut};
pub use plan::{MAX_PHASES, Phase, Plan};
