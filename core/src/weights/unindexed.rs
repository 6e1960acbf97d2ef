//! Weights of a file whose header is searched anew for each: for a plan, before there is memory for
//! an index.

use super::{Index, Weight, Weights};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// The tensors of a safetensors file by name, which cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct Unindexed<'a> {
    header: &'a [u8],
    file_bytes: u64,
}

impl<'a> Unindexed<'a> {
    /// The weights of a file of `file_bytes` bytes with this header (the JSON alone).
    pub fn new(header: &'a [u8], file_bytes: u64) -> Self {
        Self { header, file_bytes }
    }
}

impl Weights for Unindexed<'_> {
    fn find(&mut self, name: &str, _expected: Shape) -> Result<Option<Weight>> {
        Index::search(self.header, self.file_bytes, name)
    }

    fn contains(&mut self, name: &str) -> bool {
        Index::search(self.header, self.file_bytes, name).is_ok_and(|found| found.is_some())
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        _weight: &Weight,
        _start: usize,
        _len: usize,
        _staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        Err(Error::WeightRead)
    }
}
