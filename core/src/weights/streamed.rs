//! Weights that are read in pieces, as they are needed: a file that is not mapped, an SPI flash
//! chip.

use super::{Index, Weight, Weights};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// A place to read bytes from.
pub trait ReadAt {
    /// Fills `out` with the bytes from `offset` on; tells whether all of them could be had.
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> bool;
}

/// A safetensors file behind a reader. What an op needs is copied into a staging buffer, which is
/// part of the plan.
#[derive(Debug)]
pub struct Streamed<'a, R> {
    index: Index<'a>,
    reader: R,
}

impl<'a, R: ReadAt> Streamed<'a, R> {
    /// The weights behind `reader`, whose header `index` was parsed from.
    pub fn new(index: Index<'a>, reader: R) -> Self {
        Self { index, reader }
    }
}

impl<R: ReadAt> Weights for Streamed<'_, R> {
    fn find(&mut self, name: &str, _expected: Shape) -> Result<Option<Weight>> {
        Ok(self.index.find(name))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.index.find(name).is_some()
    }

    fn is_quantised(&self) -> bool {
        self.index.is_quantised()
    }

    fn is_staged(&self) -> bool {
        true
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let staging = staging.get_mut(..len).ok_or(Error::WeightRead)?;
        let fits = start.checked_add(len).is_some_and(|end| end <= weight.bytes);
        if fits && self.reader.read_at(weight.begin + start as u64, staging) {
            Ok(staging)
        } else {
            Err(Error::WeightRead)
        }
    }
}
