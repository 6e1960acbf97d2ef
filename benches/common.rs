//! What the benchmarks share: the instruction sets of this machine, and weights that are all alike.

use mote::tensor::{DType, Shape};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};
pub use mote_cli::isa::all as isas;

/// Every weight a layer asks for, in f16, small and never zero.
pub struct Alike {
    bytes: Vec<u8>,
}

impl Alike {
    /// Weights of up to `elements` elements each.
    pub fn new(elements: usize) -> Self {
        // 0x2000 is 2⁻⁷ in half precision; the low bits vary it.
        let half = |i: usize| (0x2000 + (i * 37 % 1024) as u16).to_le_bytes();
        Self { bytes: (0..elements).flat_map(half).collect() }
    }
}

impl Weights for Alike {
    fn find(&mut self, _name: &str, expected: Shape) -> Result<Option<Weight>> {
        let bytes = expected.elements()? * 2;
        Ok(Some(Weight { dtype: DType::F16, shape: expected, part: 0, begin: 0, bytes }))
    }

    fn contains(&mut self, _name: &str) -> bool {
        false
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        _weight: &Weight,
        start: usize,
        len: usize,
        _staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        self.bytes.get(start..start + len).ok_or(Error::WeightRead)
    }
}
