//! Where weights come from: found by name, read in place (a map, flash) or streamed in pieces.
//!
//! Ops ask [`Weights`] for bytes and never learn where they lay. A checkpoint's header is
//! untrusted: [`Index::parse`] believes nothing it has not checked.

mod assumed;
mod in_place;
mod json;
mod parts;
mod path;
mod safetensors;
mod streamed;

pub use assumed::Assumed;
pub use in_place::InPlace;
pub use parts::{Part, Parts};
pub use path::{MAX_NAME, Name, Path};
pub use safetensors::{Index, MAX_HEADER_BYTES, Slot, header_bytes};
pub use streamed::{ReadAt, Streamed};

use crate::error::Result;
use crate::tensor::{DType, Shape};

/// A weight that was found: its type, its shape in the checkpoint, and where its bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Element type in the checkpoint.
    pub dtype: DType,
    /// Shape in the checkpoint.
    pub shape: Shape,
    /// Which of several files holds it.
    pub part: u16,
    /// Offset of its first byte, as the file counts.
    pub begin: u64,
    /// Number of bytes.
    pub bytes: usize,
}

/// A source of weights.
pub trait Weights {
    /// The weight called `name`. `expected` is the shape the model asks for; a source with a
    /// checkpoint behind it ignores it and tells the truth.
    ///
    /// # Errors
    /// Where the source itself fails; a weight that is not there is `Ok(None)`.
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>>;

    /// Whether there is a weight called `name`: asked where checkpoints know two namings.
    fn contains(&mut self, name: &str) -> bool;

    /// Whether [`Weights::read`] copies into the staging memory; if not, none is set aside.
    fn is_staged(&self) -> bool;

    /// The `len` bytes of `weight` from `start`, in place or copied to the front of `staging`,
    /// which is at least as long where the source is staged.
    ///
    /// # Errors
    /// [`Error::WeightRead`](crate::Error::WeightRead) where they cannot be had.
    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> Result<&'a [u8]>;
}
