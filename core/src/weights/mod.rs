//! Where weights come from: found by name, read in place (a map, flash) or streamed in pieces.
//!
//! Ops ask [`Weights`] for bytes and never learn where they lay. A checkpoint's header is
//! untrusted: [`Index::parse`] believes nothing it has not checked.

mod assumed;
pub(crate) mod checksum;
mod in_place;
mod json;
mod parts;
mod path;
mod safetensors;
mod streamed;
mod unindexed;

pub use assumed::Assumed;
pub use checksum::{CHECKSUM, CHECKSUM_BYTES, crc32};
pub use in_place::InPlace;
pub use parts::{Part, Parts};
pub use path::{MAX_NAME, Name, Path};
pub use safetensors::{Index, MAX_HEADER_BYTES, Slot, header_bytes};
pub use streamed::{ReadAt, Streamed};
pub use unindexed::Unindexed;

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

    /// [`Weights::find`] for the weight of a product, which may be packed (see
    /// [`packed`](crate::tensor::packed)).
    ///
    /// # Errors
    /// As [`Weights::find`].
    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        self.find(name, expected)
    }

    /// Whether there is a weight called `name`: asked where checkpoints know two namings.
    fn contains(&mut self, name: &str) -> bool;

    /// Whether weights of products are quantised, one at least. The walk then is computed so that
    /// the result is the same to the bit on all instruction sets, by
    /// [`Isa::exact`](crate::arch::Isa::exact): a sum in another order would flip integers here
    /// and there, and be seen.
    fn is_quantised(&self) -> bool {
        false
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    /// One f16 tensor `w` of three elements, and a byte after it.
    const HEADER: &[u8] = br#"{"w":{"dtype":"F16","shape":[3],"data_offsets":[0,6]}}"#;

    fn file() -> std::vec::Vec<u8> {
        let mut file = std::vec::Vec::from((HEADER.len() as u64).to_le_bytes());
        file.extend_from_slice(HEADER);
        file.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7]);
        file
    }

    struct Slow<'a>(&'a [u8]);

    impl ReadAt for Slow<'_> {
        fn read_at(&mut self, offset: u64, out: &mut [u8]) -> bool {
            let start = offset as usize;
            let found = self.0.get(start..start + out.len());
            found.map(|bytes| out.copy_from_slice(bytes)).is_some()
        }
    }

    #[test]
    fn bytes_are_the_same_in_place_streamed_and_in_parts() {
        let file = file();
        let mut slots = [Slot::EMPTY; 1];
        let index = Index::parse(HEADER, file.len() as u64, &mut slots).unwrap();
        let mut in_place = InPlace::new(index, &file);
        let mut streamed = Streamed::new(index, Slow(&file));
        let mut parts = [
            Part { prefix: "a", weights: &mut in_place },
            Part { prefix: "b", weights: &mut streamed },
        ];
        let mut parts = Parts(&mut parts);
        assert!(parts.is_staged() && parts.contains("a.w") && !parts.contains("w"));
        assert_eq!(parts.find("c.w", Shape::new([3])), Ok(None));
        for (number, name) in ["a.w", "b.w"].into_iter().enumerate() {
            let weight = parts.find(name, Shape::new([3])).unwrap().unwrap();
            assert_eq!((usize::from(weight.part), weight.bytes), (number, 6));
            let mut staging = [0; 4];
            assert_eq!(parts.read(&weight, 2, 4, &mut staging), Ok(&[3, 4, 5, 6][..]));
            let beyond = parts.read(&weight, 3, 4, &mut staging);
            assert_eq!(beyond, Err(crate::Error::WeightRead), "{name}");
        }
        let mut nobody = parts.find("b.w", Shape::new([3])).unwrap().unwrap();
        nobody.part = 7;
        assert_eq!(parts.read(&nobody, 0, 1, &mut [0]), Err(crate::Error::WeightRead));
    }

    #[test]
    fn a_file_with_eight_bit_panels_or_groups_is_quantised() {
        for (header, expected) in [
            (HEADER, false),
            (br#"{"w":{"dtype":"U8","shape":[6],"data_offsets":[0,6]}}"#, false),
            (br#"{"w":{"dtype":"I8","shape":[6],"data_offsets":[0,6]}}"#, false),
            (
                br#"{"w":{"dtype":"I8","shape":[6],"data_offsets":[0,6]},
                "w.scale":{"dtype":"F32","shape":[1],"data_offsets":[6,10]}}"#,
                true,
            ),
            (
                br#"{"w.scale":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                "w":{"dtype":"U8","shape":[6],"data_offsets":[4,10]}}"#,
                true,
            ),
        ] {
            let mut slots = [Slot::EMPTY; 2];
            let index = Index::parse(header, 1000, &mut slots).unwrap();
            let mut weights = InPlace::new(index, &[]);
            assert_eq!(weights.is_quantised(), expected);
            let parts = &mut [Part { prefix: "a", weights: &mut weights }];
            assert_eq!(Parts(parts).is_quantised(), expected);
        }
    }

    #[test]
    fn assumed_weights_are_as_the_model_asks_and_cannot_be_read() {
        let mut assumed = Assumed(DType::F16);
        let weight = assumed.find("any", Shape::new([2, 5])).unwrap().unwrap();
        assert_eq!((weight.bytes, weight.shape), (20, Shape::new([2, 5])));
        assert_eq!(assumed.read(&weight, 0, 1, &mut []), Err(crate::Error::WeightRead));
    }
}
