//! The weight of a product.

use crate::tensor::Packing;
use crate::tensor::packed::Sizes;
use crate::weights::Weight;

/// The weight of a product, plain or packed, with what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Where it lies.
    pub weight: Weight,
    /// How it is stored.
    pub packing: Packing,
    /// Its sizes.
    pub sizes: Sizes,
    /// Output channels, where it is a convolution packed doubled; `sizes` are then those of the
    /// products.
    pub doubled: Option<usize>,
    /// The columns' scales and sums, where it is quantised.
    pub scales: Option<Weight>,
    /// The groups' multipliers, in int4.
    pub groups: Option<Weight>,
}
