//! Group and layer normalisation.
//!
//! Means and squared deviations are taken block by block and merged (Chan, Golub and LeVeque 1983),
//! so that a large mean costs no precision; the blocks are the same whatever the number of threads.

use super::context::Context;
use super::observe::Op;
use crate::arch::{Activation, Isa};
use crate::error::{Error, Result};
use crate::exec::{Executor, for_each_chunk};
use crate::tensor::{Shape, Tensor};
use crate::weights::Weight;

/// The most blocks of pixels whose statistics are taken apart, and merged afterwards.
const MAX_BLOCKS: usize = 64;

/// The fewest pixels in a block.
const MIN_BLOCK: usize = 16;

/// What a group normalisation does beside normalising.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of channels; they divide the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// `[n, 2c]`: a scale and a shift for each sample and channel, `y·(1 + scale) + shift`.
    pub scale_shift: Option<Tensor>,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// `[n, .., c]` normalised over each sample's groups of channels (Wu and He 2018), then scaled and
/// shifted by `weight` and `bias` `[c]`.
///
/// # Errors
/// [`Error::Shape`] where x has fewer than two dimensions, the groups do not divide the channels or
/// the scale and shift do not fit, and those of memory and weights.
pub fn group_norm(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Weight,
    norm: GroupNorm,
) -> Result<Tensor> {
    let out = cx.tensor(x.shape())?;
    let channels = x.channels();
    cx.scratch(|cx| {
        let affine = statistics(cx, x, weight, bias, norm)?;
        if cx.is_planning() || x.is_empty() {
            return Ok(());
        }
        let (out, [x, affine]) = cx.arena.split(out, [x, affine]);
        out.copy_from_slice(x);
        affine_rows(cx.isa, cx.executor, out, affine, channels, norm.activation);
        Ok(())
    })?;
    cx.ended(Op::GroupNorm, out);
    Ok(out)
}

/// [`group_norm`], x itself.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_in_place(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Weight,
    norm: GroupNorm,
) -> Result<()> {
    let channels = x.channels();
    cx.scratch(|cx| {
        let affine = statistics(cx, x, weight, bias, norm)?;
        if cx.is_planning() || x.is_empty() {
            return Ok(());
        }
        let (x, [affine]) = cx.arena.split(x, [affine]);
        affine_rows(cx.isa, cx.executor, x, affine, channels, norm.activation);
        Ok(())
    })?;
    cx.ended(Op::GroupNorm, x);
    Ok(())
}

/// Applies `[n, 3, c]` (mean, scale, shift) to the rows of x.
fn affine_rows(
    isa: Isa,
    executor: &dyn Executor,
    x: &mut [f32],
    affine: &[f32],
    c: usize,
    activation: Option<Activation>,
) {
    /// Elements in one task, about.
    const TASK: usize = 16 * 1024;
    let sample = x.len() / (affine.len() / (3 * c));
    let rows = (TASK / c).max(1);
    for (x, affine) in x.chunks_exact_mut(sample).zip(affine.chunks_exact(3 * c)) {
        let (mean, rest) = affine.split_at(c);
        let (scale, shift) = rest.split_at(c);
        for_each_chunk::<_, f32>(executor, x, rows * c, &mut [], |_, rows, _| {
            for row in rows.chunks_exact_mut(c) {
                isa.normalise_f32(row, mean, scale, shift);
            }
            if let Some(activation) = activation {
                isa.activate_f32(activation, rows);
            }
        });
    }
}

/// `[n, 3, c]`: what to subtract from each channel, then multiply it with, then add to it.
fn statistics(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Weight,
    norm: GroupNorm,
) -> Result<Tensor> {
    let [n, pixels, c] = x.samples("group_norm")?;
    if norm.groups == 0 || !c.is_multiple_of(norm.groups) {
        let expected = x.shape().with_last(c.next_multiple_of(norm.groups.max(1))).to_dims();
        return Err(Error::Shape { what: "group_norm", expected, found: x.shape().to_dims() });
    }
    if let Some(scale_shift) = norm.scale_shift {
        scale_shift.expect("group_norm's scale and shift", Shape::new([n, 2 * c]))?;
    }
    let block = pixels.div_ceil(MAX_BLOCKS).max(MIN_BLOCK);
    let blocks = pixels.div_ceil(block);
    let affine = cx.tensor(Shape::new([n, 3, c]))?;
    cx.scratch(|cx| {
        let moments = cx.tensor(Shape::new([n, blocks, 2, c]))?;
        let weight = cx.load_or(Some(weight), c, 1.0)?;
        let bias = cx.load_or(Some(bias), c, 0.0)?;
        if cx.is_planning() || x.is_empty() {
            return Ok(());
        }
        let (out, [pixels_of_x]) = cx.arena.split(moments, [x]);
        for_each_chunk::<_, f32>(cx.executor, out, 2 * c, &mut [], |index, moments, _| {
            let (sample, number) = (index / blocks, index % blocks);
            let first = sample * pixels + number * block;
            let count = block.min(pixels - number * block);
            block_moments(&pixels_of_x[first * c..(first + count) * c], moments);
        });
        let extra = norm.scale_shift.unwrap_or(weight);
        let (affine, [moments, weight, bias, extra]) =
            cx.arena.split(affine, [moments, weight, bias, extra]);
        for (sample, affine) in affine.chunks_exact_mut(3 * c).enumerate() {
            let moments = &moments[sample * blocks * 2 * c..][..blocks * 2 * c];
            let mut groups = Groups { c, size: c / norm.groups, block, pixels, eps: norm.eps };
            groups.affine(moments, weight, bias, affine);
            if norm.scale_shift.is_some() {
                let (scale, shift) = extra[sample * 2 * c..][..2 * c].split_at(c);
                for channel in 0..c {
                    let factor = 1.0 + scale[channel];
                    affine[c + channel] *= factor;
                    affine[2 * c + channel] = affine[2 * c + channel] * factor + shift[channel];
                }
            }
        }
        Ok(())
    })?;
    Ok(affine)
}

/// The mean of each channel over a block of pixels `[pixels, c]`, and the sum of squared deviations
/// from it: `[2, c]`.
fn block_moments(x: &[f32], moments: &mut [f32]) {
    let c = moments.len() / 2;
    let (mean, squares) = moments.split_at_mut(c);
    mean.fill(0.0);
    squares.fill(0.0);
    for row in x.chunks_exact(c) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    let count = (x.len() / c) as f32;
    mean.iter_mut().for_each(|mean| *mean /= count);
    for row in x.chunks_exact(c) {
        for ((square, mean), x) in squares.iter_mut().zip(&*mean).zip(row) {
            *square += (x - mean) * (x - mean);
        }
    }
}

/// How one sample's channels and pixels are grouped.
struct Groups {
    c: usize,
    size: usize,
    block: usize,
    pixels: usize,
    eps: f32,
}

impl Groups {
    /// Merges the blocks' moments `[blocks, 2, c]` group by group.
    fn affine(&mut self, moments: &[f32], weight: &[f32], bias: &[f32], affine: &mut [f32]) {
        let c = self.c;
        for group in (0..c).step_by(self.size) {
            let (mut count, mut mean, mut squares) = (0.0f32, 0.0f32, 0.0f32);
            for (number, moments) in moments.chunks_exact(2 * c).enumerate() {
                let more = self.block.min(self.pixels - number * self.block) as f32;
                for channel in group..group + self.size {
                    let delta = moments[channel] - mean;
                    let total = count + more;
                    mean += delta * (more / total);
                    squares += moments[c + channel] + delta * delta * (count * more / total);
                    count = total;
                }
            }
            let scale = 1.0 / libm::sqrtf(squares / count + self.eps);
            for channel in group..group + self.size {
                affine[channel] = mean;
                affine[c + channel] = scale * weight[channel];
                affine[2 * c + channel] = bias[channel];
            }
        }
    }
}

/// `[.., c]`, each row normalised over its channels (Ba, Kiros and Hinton 2016), then scaled and
/// shifted by `weight` and `bias` `[c]`.
///
/// # Errors
/// [`Error::WeightShape`] where the weights are not of c elements, and those of memory and weights.
pub fn layer_norm(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Weight,
    eps: f32,
) -> Result<Tensor> {
    let c = x.channels();
    let out = cx.tensor(x.shape())?;
    cx.scratch(|cx| {
        let weight = cx.load_or(Some(weight), c, 1.0)?;
        let bias = cx.load_or(Some(bias), c, 0.0)?;
        if cx.is_planning() || x.is_empty() {
            return Ok(());
        }
        let (rows, [x, weight, bias]) = cx.arena.split(out, [x, weight, bias]);
        for_each_chunk::<_, f32>(cx.executor, rows, c, &mut [], |row, out, _| {
            let x = &x[row * c..][..c];
            let mean = x.iter().sum::<f32>() / c as f32;
            let squares = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
            let scale = 1.0 / libm::sqrtf(squares / c as f32 + eps);
            for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = (x - mean) * scale * weight + bias;
            }
        });
        Ok(())
    })?;
    cx.ended(Op::LayerNorm, out);
    Ok(out)
}
