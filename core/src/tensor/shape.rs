//! Shapes: up to four dimensions, outermost first.

use crate::error::{Dims, Error, Result};

/// The most dimensions: `[n, h, w, c]`, or a convolution's `[out, in, kh, kw]`.
pub const MAX_RANK: usize = 4;

/// The most elements: as many f32 as can have addresses.
const MAX_ELEMENTS: usize = isize::MAX as usize / size_of::<f32>();

/// Up to four dimensions, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape with these dimensions.
    pub const fn new<const N: usize>(dims: [usize; N]) -> Self {
        const { assert!(N <= MAX_RANK, "a shape has at most four dimensions") };
        let mut all = [0; MAX_RANK];
        let mut i = 0;
        while i < N {
            all[i] = dims[i];
            i += 1;
        }
        Self { dims: all, rank: N as u8 }
    }

    /// The shape with the dimensions of a slice, or `None` where it has more than four.
    pub fn from_slice(dims: &[usize]) -> Option<Self> {
        let mut all = [0; MAX_RANK];
        all.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(Self { dims: all, rank: dims.len() as u8 })
    }

    /// The dimensions.
    pub fn as_slice(&self) -> &[usize] {
        &self.dims[..usize::from(self.rank)]
    }

    /// The dimensions as an error carries them.
    pub fn to_dims(&self) -> Dims {
        self.dims
    }

    /// The dimensions, taken apart.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are not exactly `N`; the expected dimensions are shown as ones.
    pub fn dims<const N: usize>(&self, what: &'static str) -> Result<[usize; N]> {
        self.as_slice().try_into().map_err(|_| Error::Shape {
            what,
            expected: core::array::from_fn(|i| usize::from(i < N)),
            found: self.dims,
        })
    }

    /// The product of the dimensions.
    ///
    /// # Errors
    /// [`Error::Overflow`] where so many f32 have no addresses. A 0 counts as a 1 there, so that no
    /// dimension can be absurd behind it.
    pub fn elements(&self) -> Result<usize> {
        let dims = self.as_slice();
        let product = dims.iter().try_fold(1usize, |product, &d| product.checked_mul(d.max(1)));
        match product {
            Some(..=MAX_ELEMENTS) if dims.contains(&0) => Ok(0),
            Some(product @ ..=MAX_ELEMENTS) => Ok(product),
            _ => Err(Error::Overflow { what: "a tensor" }),
        }
    }

    /// The same shape with another outermost dimension; without any, with this one.
    pub(crate) fn with_first(mut self, first: usize) -> Self {
        self.rank = self.rank.max(1);
        self.dims[0] = first;
        self
    }

    /// The same shape with another innermost dimension; without any, with this one.
    pub(crate) fn with_last(mut self, last: usize) -> Self {
        self.rank = self.rank.max(1);
        self.dims[usize::from(self.rank) - 1] = last;
        self
    }
}
