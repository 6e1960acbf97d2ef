//! The weights of a model as they are with all that is added to them.

use mote::arch::Isa;
use mote::tensor::{DType, Shape};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};

use super::Loras;
use crate::pack::to_f32;

/// The number by which a weight is known as a changed one: no model has so many files.
const CHANGED: u16 = u16::MAX;

/// Weights to some of which something is added. They are f32, and made when they are read, one at a
/// time.
pub struct Merged<'a> {
    weights: &'a mut dyn Weights,
    loras: &'a Loras,
    /// The number and the bytes of the one that was read last.
    last: Option<(u64, Vec<u8>)>,
}

impl<'a> Merged<'a> {
    /// `weights` with what the files add.
    pub fn new(weights: &'a mut dyn Weights, loras: &'a Loras) -> Self {
        Self { weights, loras, last: None }
    }

    /// A weight as it is after its changes, if there are any.
    fn known(&self, name: &str, weight: Option<Weight>) -> Option<Weight> {
        let weight = weight?;
        let Some(number) = self.loras.number(name) else { return Some(weight) };
        let elements = weight.bytes / weight.dtype.bytes().max(1);
        let (dtype, begin) = (DType::F32, number as u64);
        Some(Weight { dtype, part: CHANGED, begin, bytes: elements * dtype.bytes(), ..weight })
    }

    /// The bytes of a changed weight.
    fn changed(&mut self, number: u64) -> Result<&[u8]> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != number) {
            let changed = self.loras.changed.get(number as usize).ok_or(Error::WeightRead)?;
            let found = self.weights.find(&changed.name, changed.shape)?;
            let weight = found.ok_or(Error::WeightRead)?;
            let bytes = self.weights.read(&weight, 0, weight.bytes, &mut [])?;
            let mut values = vec![0.0; weight.shape.elements()?];
            to_f32(Isa::SCALAR, weight.dtype, bytes, &mut values);
            let added = self.loras.change(changed, &mut values);
            added.map_err(|_| Error::WeightRead)?;
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.last = Some((number, bytes));
        }
        self.last.as_ref().map(|(_, bytes)| bytes.as_slice()).ok_or(Error::WeightRead)
    }
}

impl Weights for Merged<'_> {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let found = self.weights.find(name, expected)?;
        Ok(self.known(name, found))
    }

    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let found = self.weights.find_matrix(name, expected)?;
        Ok(self.known(name, found))
    }

    fn contains(&mut self, name: &str) -> bool {
        self.weights.contains(name)
    }

    fn is_quantised(&self) -> bool {
        self.weights.is_quantised()
    }

    fn is_staged(&self) -> bool {
        self.weights.is_staged()
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        if weight.part != CHANGED {
            return self.weights.read(weight, start, len, staging);
        }
        let bytes = self.changed(weight.begin)?;
        bytes.get(start..).and_then(|bytes| bytes.get(..len)).ok_or(Error::WeightRead)
    }
}
