//! What a walk costs.

/// What a walk has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Multiply-adds of matrix products, convolutions and attention.
    pub multiply_adds: u64,
    /// Bytes of the weights asked for, as the checkpoint stores them.
    pub weight_bytes: u64,
}
