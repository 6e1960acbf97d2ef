//! Rounding by what a weight meets: while pictures are drawn with the weights as they are, the
//! inputs of each product are correlated; then its weights are rounded so that their errors make up
//! for each other (see [`mote::tensor::rounding`]), in blocks of neighbours, which correlate most.

use std::collections::BTreeMap;

use mote::exec::{Executor, for_each_chunk};
use mote::ops::LeftSide;
use mote::tensor::Packing;
use mote::tensor::packed::{DOUBLED, PANEL, PanelMut, Q4_RANGE, Q8_MAX, Sizes};
use mote::tensor::rounding::{self, Grid};
use mote::weights::Weight;

use super::policy::Storage;
use super::walk::Stored;

/// Rows of each product that are looked at in one evaluation, at most.
const ROWS: usize = 256;

/// Input channels of a block: of a convolution, whose taps all belong to it, and of a product of
/// one tap. In int8 half as many and whole layers are as good; in int4 half as many gain 1 dB less,
/// and whole layers 2 dB more for many times the work.
const CHANNELS: [usize; 2] = [32, 256];

/// See [`rounding::factor`].
const DAMPING: f64 = 0.01;

/// What the inputs of one product have in common.
#[derive(Debug)]
struct Moments {
    sizes: Sizes,
    is_doubled: bool,
    evaluations: u32,
    /// `H`, times the rows seen: of each product of a doubled convolution, or of the one there is,
    /// block after block.
    blocks: Vec<Vec<f32>>,
}

/// Which weights of an output channel a block holds: the first, and how many.
fn block(sizes: Sizes, number: usize) -> [usize; 2] {
    let Sizes { channels, taps, .. } = sizes;
    let first = number * block_channels(taps);
    [first * taps, channels.saturating_sub(first).min(block_channels(taps)) * taps]
}

fn block_channels(taps: usize) -> usize {
    CHANNELS[usize::from(taps == 1)]
}

/// Blocks of an output channel.
fn block_count(sizes: Sizes) -> usize {
    sizes.channels.div_ceil(block_channels(sizes.taps))
}

impl Moments {
    /// Of a weight as it will be packed.
    fn new(stored: &Stored) -> Self {
        let (sizes, is_doubled) = (stored.sizes, matches!(stored.storage, Storage::Doubled(_)));
        let products = if is_doubled { DOUBLED } else { 1 };
        let one = (0..block_count(sizes)).map(|number| {
            let [_, count] = block(sizes, number);
            vec![0.0; count * count]
        });
        let one: Vec<_> = one.collect();
        let blocks = (0..products).flat_map(|_| one.clone()).collect();
        Self { sizes, is_doubled, evaluations: 0, blocks }
    }

    /// Looks at some rows of a left side, other ones each time.
    fn add(&mut self, executor: &dyn Executor, left: &LeftSide<'_>) {
        let Sizes { channels, taps, .. } = left.sizes;
        let (row, count) = (channels * taps, left.rows.min(ROWS));
        let shift = (f64::from(self.evaluations) * 0.618_033_988_75).fract();
        self.evaluations += 1;
        let mut inputs = vec![0.0; count.next_multiple_of(rounding::INPUTS) * row];
        let mut kernels = vec![0.0; row];
        for (number, input) in inputs.chunks_exact_mut(row.max(1)).take(count).enumerate() {
            let at = (number as f64 + shift) * left.rows as f64 / count as f64;
            let at = (at as usize).min(left.rows - 1);
            if self.is_doubled {
                left.read(at, &mut kernels);
                differences(&kernels, input);
            } else {
                left.read(at, input);
            }
        }
        let (sizes, of_one) = (self.sizes, block_count(self.sizes).max(1));
        for_each_chunk::<_, ()>(executor, &mut self.blocks, 1, &mut [], |number, block_of, _| {
            let [first, count] = block(sizes, number % of_one);
            let begin = number / of_one * channels + first;
            for squares in block_of {
                for rows in inputs.chunks_exact(rounding::INPUTS * row) {
                    let rows = std::array::from_fn(|r| &rows[r * row + begin..][..count]);
                    rounding::add_products(rows, squares);
                }
            }
        });
    }

    /// [`rounding::factor`] of each block; none where nothing was met.
    fn factors(&self, executor: &dyn Executor) -> Vec<Option<Vec<f32>>> {
        let (sizes, of_one) = (self.sizes, block_count(self.sizes).max(1));
        let mut factors = vec![None; self.blocks.len()];
        for_each_chunk::<_, ()>(executor, &mut factors, 1, &mut [], |number, factors, _| {
            let [_, n] = block(sizes, number % of_one);
            let (mut columns, mut found) = (vec![0.0; n * n], vec![0.0; n * (n - 1) / 2]);
            let squares = &self.blocks[number];
            if rounding::factor(squares, n, DAMPING, &mut columns, &mut found) {
                factors[0] = Some(found);
            }
        });
        factors
    }
}

/// The inputs of the nine products of a doubled convolution, `[9, channels]`, of what lies under
/// its taps in the doubled picture, `[channels, 9]`; see [`mote::tensor::packed::doubled_row`].
fn differences(kernels: &[f32], out: &mut [f32]) {
    let (kernels, channels) = (kernels.as_chunks::<DOUBLED>().0, out.len() / DOUBLED);
    for (channel, kernel) in kernels.iter().enumerate() {
        let mut taps = *kernel;
        // Along each of the two directions: before − x, x, after − x.
        for [before, x, after] in [[0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 1, 2], [3, 4, 5], [6, 7, 8]]
        {
            taps[before] -= taps[x];
            taps[after] -= taps[x];
        }
        let to = out[channel..].iter_mut().step_by(channels);
        to.zip(taps).for_each(|(to, x)| *to = x);
    }
}

/// How the weights of a product are to be rounded.
#[derive(Debug)]
pub struct Rounding {
    sizes: Sizes,
    /// Output channels of each product: all, or those of one of a doubled convolution's.
    each: usize,
    /// Those of [`Moments::factors`].
    factors: Vec<Option<Vec<f32>>>,
}

impl Rounding {
    /// Moves the weights of a panel, `[up to 16, channels, taps]`, to values that are kept as they
    /// are when they are packed with its scales. `first` is the panel's first output channel.
    pub fn round(&self, packing: Packing, panel: &PanelMut<'_>, first: usize, rows: &mut [f32]) {
        let Sizes { channels, taps, .. } = self.sizes;
        let (row, of_one) = ((channels * taps).max(1), block_count(self.sizes));
        let limits = if packing == Packing::Q4 { Q4_RANGE } else { [-Q8_MAX, Q8_MAX] };
        let step = |at: usize, j: usize| match packing {
            Packing::Q4 => {
                let group = self.sizes.group_at(at % taps, at / taps, j);
                panel.scales[j] * f32::from(panel.groups[group])
            }
            _ => panel.scales[j],
        };
        for number in 0..of_one {
            let [begin, count] = block(self.sizes, number);
            let of_product = first / self.each.max(1) * of_one;
            let Some(Some(factors)) = self.factors.get(of_product + number) else { continue };
            let [mut steps, mut weights, mut errors] = [(); 3].map(|()| vec![[0.0; PANEL]; count]);
            let grid = if packing == Packing::Bf16 {
                Grid::Bf16
            } else {
                for (k, steps) in steps.iter_mut().enumerate() {
                    *steps = std::array::from_fn(|j| step(begin + k, j));
                }
                Grid::Steps { steps: &steps, limits }
            };
            for (k, weights) in weights.iter_mut().enumerate() {
                let column = rows.iter().skip(begin + k).step_by(row);
                weights.iter_mut().zip(column).for_each(|(to, weight)| *to = *weight);
            }
            rounding::round(&mut weights, grid, factors, &mut errors);
            for (k, near) in weights.iter().enumerate() {
                let column = rows.iter_mut().skip(begin + k).step_by(row);
                column.zip(near).for_each(|(weight, near)| *weight = *near);
            }
        }
    }
}

/// Where a product's weight lies: which it is.
type Key = (u16, u64);

fn key(weight: &Weight) -> Key {
    (weight.part, weight.begin)
}

/// What the products of a model were fed with.
#[derive(Debug, Default)]
pub struct Calibration(BTreeMap<Key, Moments>);

impl Calibration {
    /// For all weights of these that will be rounded.
    pub fn new<'a>(tensors: impl Iterator<Item = &'a Stored>) -> Self {
        let is_rounded = |stored: &&Stored| {
            matches!(stored.storage.packing(), Some(Packing::Bf16 | Packing::Q8 | Packing::Q4))
        };
        let moments = tensors.filter(is_rounded);
        Self(moments.map(|stored| (key(&stored.source), Moments::new(stored))).collect())
    }

    /// How a weight is to be rounded, where its product was met.
    pub fn rounding(&self, stored: &Stored, executor: &dyn Executor) -> Option<Rounding> {
        let moments = self.0.get(&key(&stored.source)).filter(|moments| moments.evaluations > 0)?;
        let (sizes, products) = (stored.sizes, if moments.is_doubled { DOUBLED } else { 1 });
        let factors = moments.factors(executor);
        Some(Rounding { sizes, each: sizes.n / products, factors })
    }

    /// Looks at what a product is fed with, where it is one of these.
    pub fn add(&mut self, executor: &dyn Executor, left: &LeftSide<'_>) {
        if let Some(moments) = self.0.get_mut(&key(&left.weight)) {
            moments.add(executor, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_convolutions_inputs_are_what_its_products_take() {
        // One channel, the second of two doubled lines and columns: before, x, x is the first's.
        let taps = [1.0, 4.0, 4.0, 2.0, 8.0, 8.0, 2.0, 8.0, 8.0];
        let mut out = [0.0; 9];
        differences(&taps, &mut out);
        // x = 8, one to the left 2, one above 4, and 1 above that: products 3·down + across.
        let (x, left, above, both) = (8.0, 2.0, 4.0, 1.0);
        let corner = both - above - left + x;
        assert_eq!(out, [corner, above - x, 0.0, left - x, x, 0.0, 0.0, 0.0, 0.0]);
    }
}
