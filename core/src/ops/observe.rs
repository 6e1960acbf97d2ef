//! What a host may learn of a walk while it runs: which op has ended, and what it cost.
//!
//! The core has no clock. The host reads its own whenever it is told of an op's end: what passed
//! since the end before is that op's time.

use super::context::Tally;
use crate::tensor::Shape;

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
