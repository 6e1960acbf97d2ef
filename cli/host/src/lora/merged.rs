//! The weights of a model as they are with all that is added to them.

use mote::arch::Isa;
use mote::tensor::{DType, Shape};
use mote::weights::{Weight, Weights};
use mote::{Error, Result};

use super::Loras;
use crate::pack::to_f32;

/// The number by which a weight is known as a changed one: no model has so many files.
const CHANGED: u16 = u16::MAX;

/// The same of a table of tokens with rows behind its own.
const TABLE: u16 = u16::MAX - 1;

/// What the table of tokens is called in a text encoder.
const TABLES: [&str; 2] =
    ["text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight"];

/// Weights to some of which something is added. They are f32, and made when they are read, one at a
/// time.
pub struct Merged<'a> {
    weights: &'a mut dyn Weights,
    loras: Option<&'a Loras>,
    /// What lies behind the rows of each text encoder's table.
    rows: &'a [(&'static str, Vec<f32>)],
    /// Some values of a table.
    part: Vec<u8>,
    /// The number and the bytes of the one that was read last.
    last: Option<(u64, Vec<u8>)>,
}

impl<'a> Merged<'a> {
    /// `weights` with what the files add, and with rows behind the tables of tokens.
    pub fn new(
        weights: &'a mut dyn Weights,
        loras: Option<&'a Loras>,
        rows: &'a [(&'static str, Vec<f32>)],
    ) -> Self {
        Self { weights, loras, rows, part: Vec::new(), last: None }
    }

    /// The number of the table of tokens called `name`, if rows lie behind it.
    fn table(&self, name: &str) -> Option<usize> {
        let is_it = |(network, _): &(&str, _)| {
            let inner = name.strip_prefix(network).and_then(|rest| rest.strip_prefix('.'));
            inner.is_some_and(|inner| TABLES.contains(&inner))
        };
        self.rows.iter().position(is_it)
    }

    /// A weight as it is after its changes, if there are any.
    fn known(&self, name: &str, weight: Option<Weight>) -> Option<Weight> {
        let weight = weight?;
        if let (Some(number), &[rows, width]) = (self.table(name), weight.shape.as_slice()) {
            let added = self.rows[number].1.len() / width.max(1);
            let shape = Shape::new([rows + added, width]);
            let (dtype, bytes) = (DType::F32, 4 * (rows + added) * width);
            return Some(Weight { dtype, shape, part: TABLE, begin: number as u64, bytes });
        }
        let number = self.loras.and_then(|loras| loras.number(name));
        let Some(number) = number else { return Some(weight) };
        let elements = weight.bytes / weight.dtype.bytes().max(1);
        let (dtype, begin) = (DType::F32, number as u64);
        Some(Weight { dtype, part: CHANGED, begin, bytes: elements * dtype.bytes(), ..weight })
    }

    /// The bytes of a table of tokens from `start` on, `len` of them.
    fn of_table(&mut self, weight: &Weight, start: usize, len: usize) -> Result<&[u8]> {
        let (network, rows) = self.rows.get(weight.begin as usize).ok_or(Error::WeightRead)?;
        let mut own = None;
        for name in TABLES {
            if own.is_none() {
                own = self.weights.find(&format!("{network}.{name}"), weight.shape)?;
            }
        }
        let own = own.ok_or(Error::WeightRead)?;
        let (size, count) = (own.dtype.bytes(), own.shape.elements()?);
        let (from, to) = (start / 4, (start + len).div_ceil(4));
        let mut values = vec![0.0; to.min(count).saturating_sub(from.min(count))];
        let bytes =
            self.weights.read(&own, from.min(count) * size, values.len() * size, &mut [])?;
        to_f32(Isa::SCALAR, own.dtype, bytes, &mut values);
        let behind = from.max(count) - count..to.max(count) - count;
        values.extend(rows.get(behind).ok_or(Error::WeightRead)?);
        self.part.clear();
        self.part.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.part.get(start % 4..).and_then(|part| part.get(..len)).ok_or(Error::WeightRead)
    }

    /// The bytes of a changed weight.
    fn changed(&mut self, number: u64) -> Result<&[u8]> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != number) {
            let loras = self.loras.ok_or(Error::WeightRead)?;
            let changed = loras.changed.get(number as usize).ok_or(Error::WeightRead)?;
            let found = self.weights.find(&changed.name, changed.shape)?;
            let weight = found.ok_or(Error::WeightRead)?;
            let bytes = self.weights.read(&weight, 0, weight.bytes, &mut [])?;
            let mut values = vec![0.0; weight.shape.elements()?];
            to_f32(Isa::SCALAR, weight.dtype, bytes, &mut values);
            let added = loras.change(changed, &mut values);
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
        if weight.part == TABLE {
            return self.of_table(weight, start, len);
        }
        if weight.part != CHANGED {
            return self.weights.read(weight, start, len, staging);
        }
        let bytes = self.changed(weight.begin)?;
        bytes.get(start..).and_then(|bytes| bytes.get(..len)).ok_or(Error::WeightRead)
    }
}
