//! Weights that are read where they lie: a mapped file, a constant in flash.

use super::{Index, Weight, Weights};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// A safetensors file whose bytes are all at hand. Nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct InPlace<'a> {
    index: Index<'a>,
    file: &'a [u8],
    /// The number of the tensor that was found last.
    last: usize,
}

impl<'a> InPlace<'a> {
    /// The weights of `file`, whose header `index` was parsed from.
    pub fn new(index: Index<'a>, file: &'a [u8]) -> Self {
        Self { index, file, last: 0 }
    }

    /// All bytes of the file.
    pub fn file(&self) -> &'a [u8] {
        self.file
    }

    /// The tensors by name.
    pub fn index(&self) -> Index<'a> {
        self.index
    }
}

impl Weights for InPlace<'_> {
    fn find(&mut self, name: &str, _expected: Shape) -> Result<Option<Weight>> {
        Ok(self.index.find_near(name, &mut self.last))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.index.find(name).is_some()
    }

    fn is_quantised(&self) -> bool {
        self.index.is_quantised()
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        _staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        let begin = usize::try_from(weight.begin).ok();
        begin
            .and_then(|begin| self.file.get(begin..)?.get(..weight.bytes)?.get(start..)?.get(..len))
            .ok_or(Error::WeightRead)
    }
}
