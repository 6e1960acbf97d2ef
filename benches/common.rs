//! What the benchmarks share: the instruction sets of this machine, memory as a walk needs it, and
//! weights that are all alike.

use mote::arch::Isa;
use mote::exec::Executor;
use mote::mem::{ALIGNMENT, Arena};
use mote::ops::Context;
use mote::tensor::packed::Sizes;
use mote::tensor::{DType, Packing, Shape, Tensor};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};
pub use mote_host::machine::isa::all as isas;

/// The best instruction set that this machine can run.
pub fn best_isa() -> Isa {
    isas().pop().unwrap_or(Isa::SCALAR)
}

/// The memory that a walk was planned to need, and its work.
pub struct Planned {
    memory: Vec<u8>,
    arena_bytes: usize,
    /// Multiply-adds of the walk.
    pub multiply_adds: u64,
}

impl Planned {
    /// Plans a walk with these kernels, threads and weights.
    ///
    /// # Errors
    /// The walk's.
    pub fn new(
        isa: Isa,
        executor: &dyn Executor,
        weights: &mut dyn Weights,
        walk: impl Fn(&mut Context<'_>) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut cx = Context::new(Arena::measuring(), isa, executor, weights);
        walk(&mut cx)?;
        let (arena_bytes, multiply_adds) = (cx.arena().peak(), cx.tally().multiply_adds);
        Ok(Self { memory: vec![0; arena_bytes + ALIGNMENT], arena_bytes, multiply_adds })
    }

    /// The arena, empty.
    pub fn arena(&mut self) -> Arena<'_> {
        let start = self.memory.as_ptr().align_offset(ALIGNMENT);
        Arena::new(&mut self.memory[start..start + self.arena_bytes])
    }
}

/// The sizes of a product's weight of this shape, `[n, channels, taps…]`.
pub fn sizes(shape: Shape) -> Sizes {
    let (n, rest) = shape.as_slice().split_first().unwrap_or((&1, &[]));
    let (channels, taps) = rest.split_first().unwrap_or((&1, &[]));
    Sizes { n: *n, channels: *channels, taps: taps.iter().product() }
}

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
        match sizes(expected).shape(self.packing) {
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
