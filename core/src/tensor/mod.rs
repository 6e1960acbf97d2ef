//! What data is: shapes, element types, and the handle by which layers speak of a tensor.
//!
//! A [`Tensor`] is a `Copy` note of where its bytes lie in the arena. It owns nothing and borrows
//! nothing; the arena checks every access.

mod dtype;
pub mod packed;
pub mod rounding;
mod shape;

pub use dtype::DType;
pub use packed::{Form, PANEL, Packing};
pub use shape::Shape;

use crate::error::{Error, Result};

/// A tensor in the arena: where it begins, its shape and its element type. Row-major; pictures are
/// NHWC, so `[n, h, w, c]` and `[n, h*w, c]` are the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    offset: usize,
    shape: Shape,
    dtype: DType,
}

impl Tensor {
    /// A tensor at `offset` bytes from the arena's beginning. Only the arena makes them.
    ///
    /// # Errors
    /// [`Error::Overflow`] where its size does not fit `usize`.
    pub(crate) fn new(offset: usize, shape: Shape, dtype: DType) -> Result<Self> {
        let elements = shape.elements()?;
        let tensor = Self { offset, shape, dtype };
        // A row is at most as long as 16 times its elements, or it has none.
        elements
            .checked_mul(if dtype == DType::Q8 { 16 } else { 2 * dtype.bytes() })
            .and_then(|bytes| bytes.checked_add(offset))
            .filter(|&end| end <= isize::MAX as usize)
            .ok_or(Error::Overflow { what: "a tensor" })?;
        Ok(tensor)
    }

    /// Bytes from the arena's beginning.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions, taken apart: `let [n, h, w, c] = x.dims("conv2d")?;`
    ///
    /// # Errors
    /// [`Error::Shape`] where the tensor has another number of dimensions.
    pub fn dims<const N: usize>(&self, what: &'static str) -> Result<[usize; N]> {
        self.shape.dims(what)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // The constructor has shown that the product fits.
        self.shape.as_slice().iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.row_count() * self.row_bytes()
    }

    /// Size of a row of channels in bytes.
    pub fn row_bytes(&self) -> usize {
        let channels = self.channels();
        match self.dtype {
            DType::BF16 => Form::Bf16.row_bytes(channels),
            DType::Q8 => Form::Q8.row_bytes(channels),
            dtype => channels * dtype.bytes(),
        }
    }

    /// How the rows are stored.
    pub fn form(&self) -> Form {
        Form::of(self.dtype)
    }

    /// The last dimension: channels.
    pub fn channels(&self) -> usize {
        self.shape.as_slice().last().copied().unwrap_or(1)
    }

    /// Number of rows when all dimensions but the last are flattened.
    pub fn row_count(&self) -> usize {
        self.shape.as_slice().split_last().map_or(1, |(_, lead)| lead.iter().product())
    }

    /// `[n, .., c]` seen as `[n, pixels, c]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are fewer than two dimensions.
    pub(crate) fn samples(&self, what: &'static str) -> Result<[usize; 3]> {
        match self.shape.as_slice() {
            &[n, ref middle @ .., c] => Ok([n, middle.iter().product(), c]),
            _ => Err(Error::Shape { what, expected: [1, 1, 0, 0], found: self.shape.to_dims() }),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of elements differs.
    pub fn reshape<const N: usize>(&self, dims: [usize; N]) -> Result<Self> {
        self.with_shape(Shape::new(dims))
    }

    /// [`Tensor::reshape`] to a shape of any number of dimensions.
    ///
    /// # Errors
    /// As [`Tensor::reshape`].
    pub fn with_shape(&self, shape: Shape) -> Result<Self> {
        if shape.elements()? != self.len() {
            let (expected, found) = (shape.to_dims(), self.shape.to_dims());
            return Err(Error::Shape { what: "reshape", expected, found });
        }
        Ok(Self { shape, ..*self })
    }

    /// A view on `count` rows from `start`, as `[count, c]`.
    ///
    /// # Errors
    /// [`Error::Index`] where the rows end before `start + count`.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        let limit = self.row_count();
        match start.checked_add(count) {
            Some(end) if end <= limit => Ok(Self {
                offset: self.offset + start * self.row_bytes(),
                shape: Shape::new([count, self.channels()]),
                dtype: self.dtype,
            }),
            _ => Err(Error::Index { what: "row", index: start.saturating_add(count), limit }),
        }
    }

    /// A view on sample `index` of the first dimension, which becomes 1.
    ///
    /// # Errors
    /// [`Error::Index`] where there is no such sample.
    pub fn sample(&self, index: usize) -> Result<Self> {
        let shape = self.shape.as_slice();
        let limit = shape.first().copied().unwrap_or(0);
        if index >= limit {
            return Err(Error::Index { what: "sample", index, limit });
        }
        Ok(Self {
            offset: self.offset + index * (self.bytes() / limit),
            shape: self.shape.with_first(1),
            dtype: self.dtype,
        })
    }

    /// Refuses every shape but one.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shape is not `shape`.
    pub fn expect(&self, what: &'static str, shape: Shape) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        Err(Error::Shape { what, expected: shape.to_dims(), found: self.shape.to_dims() })
    }
}

/// Some channels of a tensor: `count` of each row, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    of: Tensor,
    first: usize,
    count: usize,
}

impl Channels {
    /// All channels of a tensor.
    pub fn all(of: Tensor) -> Self {
        Self { of, first: 0, count: of.channels() }
    }

    /// # Errors
    /// [`Error::Index`] where the tensor's channels end before `first + count`.
    pub fn new(of: Tensor, first: usize, count: usize) -> Result<Self> {
        let limit = of.channels();
        match first.checked_add(count) {
            Some(end) if end <= limit => Ok(Self { of, first, count }),
            end => Err(Error::Index { what: "channel", index: end.unwrap_or(usize::MAX), limit }),
        }
    }

    /// The tensor.
    pub fn of(&self) -> Tensor {
        self.of
    }

    /// The first channel.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Number of channels.
    pub fn count(&self) -> usize {
        self.count
    }

    /// These channels of `count` rows from `start`, as [`Tensor::rows`].
    ///
    /// # Errors
    /// [`Error::Index`] where the rows end before.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        Ok(Self { of: self.of.rows(start, count)?, ..*self })
    }
}

/// Channels of one tensor or of two, side by side as if they were concatenated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined([Channels; 2]);

impl Joined {
    /// The channels of `b` behind those of `a`.
    ///
    /// # Errors
    /// [`Error::Shape`] where they differ in more than their channels.
    pub fn pair(a: Tensor, b: Tensor) -> Result<Self> {
        b.expect("two tensors side by side", a.shape().with_last(b.channels()))?;
        Ok(Self([a, b].map(Channels::all)))
    }

    /// Both parts, of which the second may have no channels.
    pub fn parts(&self) -> [Channels; 2] {
        self.0
    }

    /// The only part, where there are not two.
    pub fn only(&self) -> Option<Channels> {
        let [first, second] = self.0;
        (second.count == 0).then_some(first)
    }

    /// Number of channels.
    pub fn count(&self) -> usize {
        self.0.iter().map(Channels::count).sum()
    }

    /// The shape of a tensor that holds just these channels.
    pub fn shape(&self) -> Shape {
        self.0[0].of.shape().with_last(self.count())
    }

    /// Both parts' `count` rows from `start`, as [`Tensor::rows`].
    ///
    /// # Errors
    /// [`Error::Index`] where the rows end before.
    pub fn rows(&self, start: usize, count: usize) -> Result<Self> {
        let [first, second] = self.0;
        Ok(Self([first.rows(start, count)?, second.rows(start, count)?]))
    }
}

impl From<Channels> for Joined {
    fn from(only: Channels) -> Self {
        Self([only, Channels { count: 0, ..only }])
    }
}

impl From<Tensor> for Joined {
    fn from(only: Tensor) -> Self {
        Channels::all(only).into()
    }
}
