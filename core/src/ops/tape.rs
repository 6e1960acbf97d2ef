//! The tape of a recorded walk: which ops were carried out, on what, in which order.
//!
//! While a walk is recorded nothing it computes is given back, so that every op's operands are
//! still in the arena when the tape is played backwards (`backward`). An entry is a handful of
//! handles; the host gives the memory for them.

use super::attention::Attention;
use super::context::Matrix;
use super::conv2d::Conv2d;
use super::norm::GroupNorm;
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

    /// Takes the newest entry off.
    pub(super) fn pop(&mut self) -> Option<Record> {
        if self.len == 0 {
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
}

impl<'m> Recording<'m> {
    /// Records on `tape`. `gradients` are added to: one for each f32 of a file whose data begin at
    /// byte `begin` of it; planned, there may be none.
    pub fn new(tape: Tape<'m>, gradients: &'m mut [f32], begin: u64) -> Self {
        Self { tape, gradients, begin, first: 0 }
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
