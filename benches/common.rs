//! What the benchmarks share: the instruction sets of this machine, and weights that are all alike.

use mote::tensor::packed::Sizes;
use mote::tensor::{DType, Packing, Shape};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};
pub use mote_cli::isa::all as isas;

/// Every weight a layer asks for: products' packed or in f16, all others in f16. Small and never
/// zero.
pub struct Alike {
    bytes: Vec<u8>,
    packing: Packing,
}

impl Alike {
    /// Weights of up to `elements` elements each.
    pub fn new(elements: usize, packing: Packing) -> Self {
        // 0x2000 is 2⁻⁷ in half precision; the low bits vary it. So it is a small bf16 or f32, too.
        let half = |i: usize| (0x2000 + (i * 37 % 1024) as u16).to_le_bytes();
        Self { bytes: (0..2 * elements).flat_map(half).collect(), packing }
    }
}

/// A weight of this type and shape at the beginning of the bytes.
fn weight(dtype: DType, shape: Shape) -> Result<Option<Weight>> {
    let bytes = shape.elements()? * dtype.bytes();
    Ok(Some(Weight { dtype, shape, part: 0, begin: 0, bytes }))
}

impl Weights for Alike {
    /// What belongs to a packed weight has other types than f16, and names of its own.
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let dtype = match name.rsplit('.').next() {
            Some("scale") => DType::F32,
            Some("groups") => DType::U8,
            _ => DType::F16,
        };
        weight(dtype, expected)
    }

    fn find_matrix(&mut self, _name: &str, expected: Shape) -> Result<Option<Weight>> {
        let (n, rest) = expected.as_slice().split_first().unwrap_or((&1, &[]));
        let (channels, taps) = rest.split_first().unwrap_or((&1, &[]));
        let sizes = Sizes { n: *n, channels: *channels, taps: taps.iter().product() };
        match sizes.shape(self.packing) {
            None => weight(DType::F16, expected),
            Some(shape) => weight(self.packing.dtype(), shape),
        }
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
