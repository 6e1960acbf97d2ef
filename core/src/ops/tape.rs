//! The tape of a recorded walk: which ops were carried out, on what, in which order.
//!
//! While a walk is recorded nothing it computes is given back, so that every op's operands are
//! still in the arena when the tape is played backwards (`backward`). An entry is a handful of
//! handles; the host gives the memory for them.

use super::matrix::Matrix;
use super::params::{Attention, Conv2d, GroupNorm};
use super::tally::Tally;
use crate::arch::Activation;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::Weight;

/// What a product was given beside its left side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub x: Tensor,
    pub matrix: Matrix,
    pub bias: Option<Weight>,
    pub residual: Option<Tensor>,
    pub per_sample: Option<Tensor>,
    pub out: Tensor,
}

/// One op that was carried out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record {
    Linear(Product),
    Conv2d(Product, Conv2d),
    GroupNorm {
        x: Tensor,
        weight: Weight,
        bias: Weight,
        norm: GroupNorm,
        /// `[n, 3, c]` and `[n, groups]`, as the norm made them.
        affine: Tensor,
        inverses: Tensor,
        out: Tensor,
    },
    LayerNorm {
        x: Tensor,
        weight: Weight,
        bias: Weight,
        eps: f32,
        out: Tensor,
    },
    Attention {
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attention: Attention,
        out: Tensor,
    },
    Activation {
        x: Tensor,
        activation: Activation,
        out: Tensor,
    },
    Geglu {
        x: Tensor,
        out: Tensor,
    },
    /// `x ← x + y`, in place.
    Add {
        x: Tensor,
        y: Tensor,
    },
    /// `x ← x·scale + …`, in place.
    Scale {
        x: Tensor,
        scale: f32,
    },
    Copy {
        x: Tensor,
        out: Tensor,
    },
    Concat {
        a: Tensor,
        b: Tensor,
        out: Tensor,
    },
    UpsampleNearest {
        x: Tensor,
        out: Tensor,
    },
    AvgPool {
        x: Tensor,
        out: Tensor,
    },
    /// Rows `[ids]` of a table; the ids lie in `ids` as bits.
    Embedding {
        table: Weight,
        ids: Tensor,
        out: Tensor,
    },
    /// A part of the walk of which nothing was kept but its result.
    Checkpoint {
        number: usize,
        out: Tensor,
    },
}

/// Room for one entry of a [`Tape`].
#[derive(Clone, Copy, Debug)]
pub struct TapeSlot(Option<Record>);

impl TapeSlot {
    /// A slot that is to be filled.
    pub const EMPTY: Self = Self(None);
}

/// The entries of a recorded walk, in memory that the host gives.
#[derive(Debug)]
pub struct Tape<'m> {
    slots: &'m mut [TapeSlot],
    len: usize,
    most: usize,
}

impl<'m> Tape<'m> {
    /// An empty tape with room for as many ops as there are slots.
    pub fn new(slots: &'m mut [TapeSlot]) -> Self {
        Self { slots, len: 0, most: 0 }
    }

    /// The most entries there have been at a time.
    pub fn most(&self) -> usize {
        self.most
    }

    pub(super) fn push(&mut self, record: Record) -> Result<()> {
        let (needed, limit) = (self.len + 1, self.slots.len());
        let full = Error::Capacity { what: "ops on the tape", needed, limit };
        self.slots.get_mut(self.len).ok_or(full)?.0 = Some(record);
        self.len = needed;
        self.most = self.most.max(needed);
        Ok(())
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The result of a checkpoint.
    pub(super) fn checkpoint(&self, number: usize) -> Option<Tensor> {
        self.slots[..self.len].iter().find_map(|slot| match slot.0 {
            Some(Record::Checkpoint { number: found, out }) if found == number => Some(out),
            _ => None,
        })
    }

    /// Takes the newest entry off, if there are more than `floor`.
    pub(super) fn pop(&mut self, floor: usize) -> Option<Record> {
        if self.len <= floor {
            return None;
        }
        self.len -= 1;
        self.slots[self.len].0
    }
}

/// A walk that is being recorded: its tape, and where the gradients of its weights go.
#[derive(Debug)]
pub struct Recording<'m> {
    pub(super) tape: Tape<'m>,
    /// Added to: one value for each value of the file's data.
    pub(super) gradients: &'m mut [f32],
    /// Where the file's data begin, as weights count.
    pub(super) begin: u64,
    /// The first byte of the arena that belongs to the walk; what lies below needs no gradient.
    pub(super) first: usize,
    /// Whether of the walk's checkpoints only results are kept.
    pub(super) checkpoints: bool,
    pub(super) state: State,
    /// The number of the next checkpoint.
    pub(super) next: usize,
}

/// What happens to the ops of a recorded walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// They are carried out and written down.
    Written,
    /// They are carried out, in a checkpoint of which only the result is kept; what lies below this
    /// byte is not theirs to overwrite.
    Passed { floor: usize },
    /// They only take their places again, on the way to this checkpoint, which is to be written
    /// down above `top`; what the walk had cost by then.
    Skipped { target: usize, top: usize, tally: Tally },
    /// The checkpoint was reached and written down, up to this byte; this is its result.
    Reached { out: Tensor, end: usize },
}

impl<'m> Recording<'m> {
    /// Records on `tape`. `gradients` are added to: one for each f32 of a file whose data begin at
    /// byte `begin` of it; planned, there may be none.
    pub fn new(tape: Tape<'m>, gradients: &'m mut [f32], begin: u64) -> Self {
        let (checkpoints, state) = (false, State::Written);
        Self { tape, gradients, begin, first: 0, checkpoints, state, next: 0 }
    }

    /// Keeps of each checkpoint of the walk ([`Context::checkpoint`](super::Context::checkpoint))
    /// only its result, and walks it again when its turn comes (Chen et al. 2016): a third more
    /// work, in the memory of the results and of the largest checkpoint.
    pub fn with_checkpoints(self, checkpoints: bool) -> Self {
        Self { checkpoints, ..self }
    }

    /// Whether ops compute, or only take their places.
    pub(super) fn is_carried_out(&self) -> bool {
        matches!(self.state, State::Written | State::Passed { .. })
    }

    /// Whether nothing is given back or overwritten.
    pub(super) fn keeps_everything(&self) -> bool {
        !matches!(self.state, State::Passed { .. })
    }

    /// The tape.
    pub fn tape(&self) -> &Tape<'m> {
        &self.tape
    }

    /// Where the gradient of a weight goes.
    ///
    /// # Errors
    /// [`Error::WeightRead`] where it lies outside the file's data.
    pub(super) fn gradient_of(&mut self, weight: &Weight) -> Result<&mut [f32]> {
        let first = weight.begin.checked_sub(self.begin).map(|bytes| bytes / 4);
        let first = first.and_then(|first| usize::try_from(first).ok());
        first
            .and_then(|first| self.gradients.get_mut(first..)?.get_mut(..weight.bytes / 4))
            .ok_or(Error::WeightRead)
    }
}
