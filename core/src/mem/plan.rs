//! What a run will need, known before it starts.

/// The needs of one phase of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// What happens in it: `text encoder`, `unet`, `decoder`, …
    pub name: &'static str,
    /// The highest the arena stands during the phase, with what earlier phases left in it.
    pub arena_bytes: usize,
    /// Bytes of the weights it reads, as the checkpoint stores them.
    pub weight_bytes: u64,
    /// How often its network is evaluated. A decoder that works in tiles is evaluated once, and
    /// its multiply-adds are those of all tiles.
    pub evaluations: u64,
    /// Multiply-adds of all its evaluations together, each counted as the longest.
    pub multiply_adds: u64,
}

/// The most phases of a pipeline: text encoder, encoder, UNet, decoder.
pub const MAX_PHASES: usize = 4;

/// What a whole run will need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The phases, in the order they run.
    pub phases: heapless::Vec<Phase, MAX_PHASES>,
    /// The bytes of the arena, exactly.
    pub arena_bytes: usize,
}

impl Plan {
    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.phases.iter().fold(0, |sum, phase| sum.saturating_add(phase.weight_bytes))
    }

    /// Multiply-adds of the whole run.
    pub fn multiply_adds(&self) -> u64 {
        self.phases.iter().fold(0, |sum, phase| sum.saturating_add(phase.multiply_adds))
    }
}
