//! What a host may learn of a walk while it runs: which op has ended, and what it cost.
//!
//! The core has no clock. The host reads its own whenever it is told of an op's end: what passed
//! since the end before is that op's time. And what products are fed with, for who wants to know
//! which values weights meet before they are rounded.

use super::rows::{Offsets, Rows};
use super::tally::Tally;
use crate::arch::{MAX_TAPS, MR_MAX, NO_ROW};
use crate::tensor::Shape;
use crate::tensor::packed::Sizes;
use crate::weights::Weight;

/// What an op does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// A product's input brought to the form that the product is computed in. It costs nothing of
    /// its own: what the product costs is told at the product's end.
    Convert,
    /// A convolution, with its bias and residual.
    Conv2d,
    /// A linear layer, with its bias, residual, activation or gate.
    Linear,
    /// Scaled dot-product attention, without its projections.
    Attention,
    /// A group normalisation, with its activation.
    GroupNorm,
    /// A layer normalisation.
    LayerNorm,
    /// A function of one element.
    Activation,
    /// The gated activation of a feed-forward layer, where it stands alone.
    Geglu,
    /// Sums and products, element by element.
    Elementwise,
    /// Values put elsewhere as they are: concatenated, cut out, transposed.
    Copy,
    /// A picture's size changed.
    Resample,
    /// Numbers or tokens as vectors.
    Embedding,
}

impl Op {
    /// Its name: `conv2d`, `group_norm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Convert => "convert",
            Self::Conv2d => "conv2d",
            Self::Linear => "linear",
            Self::Attention => "attention",
            Self::GroupNorm => "group_norm",
            Self::LayerNorm => "layer_norm",
            Self::Activation => "activation",
            Self::Geglu => "geglu",
            Self::Elementwise => "elementwise",
            Self::Copy => "copy",
            Self::Resample => "resample",
            Self::Embedding => "embedding",
        }
    }
}

/// The end of an op.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What it did.
    pub op: Op,
    /// The weight asked for last: one of the op's own or, where it has none, of the layer before.
    pub weight: &'a str,
    /// The shape of what it wrote.
    pub shape: Shape,
    /// What was counted since the end of the op before: over a walk, the costs add up to its
    /// [`Tally`]; only a weight that is read again and again counts each time here, and once there.
    pub cost: Tally,
}

/// What is told of each op that ends. Planned ops do not end: they never begin.
pub type Observer<'a> = dyn FnMut(Event<'_>) + 'a;

/// The left side of a product in f32, or of a part of it, that is about to be computed.
pub struct LeftSide<'a> {
    /// The product's weight.
    pub weight: Weight,
    /// That weight's sizes.
    pub sizes: Sizes,
    /// Rows of the product's output.
    pub rows: usize,
    pub(super) x: &'a [f32],
    pub(super) gather: &'a dyn Rows,
}

impl LeftSide<'_> {
    /// What one row of the output is made of, in the order of a weight's row: `[channels, taps]`,
    /// zeros in the padding.
    ///
    /// # Panics
    /// Where there is no such row, or `out` is not of that size.
    pub fn read(&self, row: usize, out: &mut [f32]) {
        let Sizes { channels, taps, .. } = self.sizes;
        assert!(row < self.rows && out.len() == taps * channels, "a row of the product's");
        let mut offsets: Offsets = [NO_ROW; MAX_TAPS * MR_MAX];
        // Offsets in elements, not bytes.
        self.gather.gather(row, 1, channels, &mut offsets);
        for (tap, &[offset, ..]) in offsets.as_chunks::<MR_MAX>().0.iter().enumerate().take(taps) {
            let out = out[tap..].iter_mut().step_by(taps);
            match offset {
                NO_ROW => out.for_each(|out| *out = 0.0),
                offset => out.zip(&self.x[offset..][..channels]).for_each(|(out, x)| *out = *x),
            }
        }
    }
}

/// Is shown the left side of each product.
pub type InputObserver<'a> = dyn FnMut(LeftSide<'_>) + 'a;
