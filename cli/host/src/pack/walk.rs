//! What a packed file will hold, found by walking: a plan asks for every weight by its name, shape
//! and role, and [`Converted`] answers as the packed file would, and remembers.

use std::collections::BTreeMap;

use mote::tensor::packed::Sizes;
use mote::tensor::{DType, Packing, Shape};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};

use super::policy::{self, Storage};
use crate::checkpoint::packed::{GROUPS, SCALE};
use crate::types::Type;

/// A tensor that is to be stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Where it comes from.
    pub source: Weight,
    /// How it is stored.
    pub storage: Storage,
    /// A product's sizes, as it is packed; of any other tensor `n` is the number of elements.
    pub sizes: Sizes,
}

impl Stored {
    /// The type and shape in the packed file.
    pub fn shape(&self) -> (DType, Shape) {
        match self.storage {
            Storage::Plain(dtype) => (dtype, self.source.shape),
            Storage::Packed(packing) | Storage::Doubled(packing) => {
                (packing.dtype(), self.sizes.shape(packing).unwrap_or(self.source.shape))
            }
        }
    }

    /// The companions: the end of the name, type and shape of each.
    pub fn companions(&self) -> &'static [&'static str] {
        match self.storage.packing() {
            Some(Packing::Q8) => &[SCALE],
            Some(Packing::Q4) => &[SCALE, GROUPS],
            _ => &[],
        }
    }

    /// The type and shape of a companion.
    pub fn companion(&self, name: &str) -> (DType, Shape) {
        match name {
            SCALE => (DType::F32, self.sizes.scale_shape()),
            _ => (DType::U8, self.sizes.groups_shape()),
        }
    }
}

/// The weights of a checkpoint as they would be after a conversion: for plans, as they have no
/// bytes.
pub struct Converted<'a> {
    weights: &'a mut dyn Weights,
    to: Type,
    /// Whether a convolution may be packed doubled.
    doubles: bool,
    /// All tensors that were asked for, by name.
    pub tensors: BTreeMap<String, Stored>,
}

impl<'a> Converted<'a> {
    /// `weights` converted to a type.
    pub fn new(weights: &'a mut dyn Weights, to: Type) -> Self {
        Self { weights, to, doubles: true, tensors: BTreeMap::new() }
    }

    /// `weights` in f32, each value as often as in the checkpoint: what an optimiser can change.
    pub fn to_be_trained(weights: &'a mut dyn Weights) -> Self {
        Self { doubles: false, ..Self::new(weights, Type::F32) }
    }

    /// Remembers a tensor and answers as the packed file would. What has not the shape that is
    /// asked for, or a type that is not read, is answered as it is: the core refuses it.
    fn store(
        &mut self,
        name: &str,
        expected: Shape,
        sizes: Sizes,
        storage: impl FnOnce(DType) -> Storage,
    ) -> Result<Option<Weight>> {
        let Some(source) = self.weights.find(name, expected)? else { return Ok(None) };
        if source.shape != expected || !source.dtype.is_float() {
            return Ok(Some(source));
        }
        let (storage, sizes) = match storage(source.dtype) {
            Storage::Doubled(packing) if self.doubles => {
                (Storage::Doubled(packing), sizes.doubled())
            }
            Storage::Doubled(packing) => (Storage::Packed(packing), sizes),
            storage => (storage, sizes),
        };
        let stored = Stored { source, storage, sizes };
        let stored = self.tensors.entry(name.into()).or_insert(stored);
        weight(stored.shape()).map(Some)
    }
}

fn weight((dtype, shape): (DType, Shape)) -> Result<Weight> {
    let bytes = shape.elements()?.checked_mul(dtype.bytes());
    let bytes = bytes.ok_or(Error::Overflow { what: "a weight" })?;
    Ok(Weight { dtype, shape, part: 0, begin: 0, bytes })
}

impl Weights for Converted<'_> {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        for companion in [SCALE, GROUPS] {
            if let Some(stored) = name.strip_suffix(companion).and_then(|of| self.tensors.get(of))
                && stored.companions().contains(&companion)
            {
                return weight(stored.companion(companion)).map(Some);
            }
        }
        let (to, rank) = (self.to, expected.as_slice().len());
        let sizes = Sizes { n: expected.elements()?, channels: 1, taps: 1 };
        self.store(name, expected, sizes, |stored| policy::of_other(to, stored, rank))
    }

    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        expected.elements()?;
        let &[n, channels, ref taps @ ..] = expected.as_slice() else {
            return self.find(name, expected);
        };
        let (to, sizes) = (self.to, Sizes { n, channels, taps: taps.iter().product() });
        self.store(name, expected, sizes, |_| policy::of_product(to, name, sizes))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.weights.contains(name)
    }

    fn is_staged(&self) -> bool {
        self.weights.is_staged()
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
