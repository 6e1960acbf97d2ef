//! Backwards through group and layer normalisation.

use super::Mirror;
use crate::arch::Activation;
use crate::error::{Error, Result};
use crate::exec::{for_each_chunk, for_each_together};
use crate::ops::context::Context;
use crate::ops::tape::{Record, Recording};
use crate::tensor::{Shape, Tensor};

/// With `x̂ = (x − mean)·r` and `y = x̂·w + b` for the scale w and shift b of a channel, and means
/// over a group: `dx = r·(dy·w − mean(dy·w) − x̂·mean(dy·w·x̂))`.
pub(super) fn group_norm(
    cx: &mut Context<'_>,
    record: Record,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
) -> Result<()> {
    let Record::GroupNorm { x, weight, bias, norm, affine, inverses, out } = record else {
        return Ok(());
    };
    let silu = match norm.activation {
        None => false,
        Some(Activation::Silu) => true,
        Some(_) => {
            let what = "after a group normalisation must be SiLU to be trained";
            return Err(Error::Config { key: "activation", what });
        }
    };
    let [samples, pixels, c] = x.samples("group_norm")?;
    let dy = mirror.of_result(out)?;
    let rows = rows_of_a_block(cx.limits.summed_elements, pixels, c);
    let blocks = pixels / rows;
    let partial = cx.tensor(Shape::new([samples, blocks, 2 * c]))?;
    let sums = cx.tensor(Shape::new([samples, 2, c]))?;
    let factors = cx.tensor(Shape::new([samples, 4, c]))?;
    let weights = cx.load_or(Some(weight), c, 1.0)?;
    let biases = cx.load_or(Some(bias), c, 0.0)?;
    if cx.is_planning() || x.is_empty() {
        return Ok(());
    }
    let isa = cx.isa;
    let ([partial_out, dy_values], [x_values, affine_values]) =
        cx.arena.split_two([partial, dy], [x, affine]);
    let cut = [(partial_out, 2 * c), (dy_values, rows * c)];
    for_each_together(cx.executor, cut, |block, [sums, dy]| {
        let affine = &affine_values[block / blocks * 3 * c..][..3 * c];
        let x = &x_values[block * rows * c..][..dy.len()];
        sums.fill(0.0);
        isa.group_norm_sums_f32(silu, x, affine, dy, sums);
    });
    let (out, [partial]) = cx.arena.split(sums, [partial]);
    out.fill(0.0);
    for (sums, partial) in out.chunks_exact_mut(2 * c).zip(partial.chunks_exact(blocks * 2 * c)) {
        isa.sum_rows_f32(partial, sums);
    }
    let numbers = Numbers { c, pixels, groups: norm.groups };
    let (to, [sums_in, affine, inverses]) = cx.arena.split(factors, [sums, affine, inverses]);
    for (sample, to) in to.chunks_exact_mut(4 * c).enumerate() {
        let affine = &affine[sample * 3 * c..][..3 * c];
        let inverses = &inverses[sample * norm.groups..][..norm.groups];
        numbers.factors(&sums_in[sample * 2 * c..][..2 * c], affine, inverses, to);
    }
    affine_gradients(cx, record, mirror, recording, [sums, weights, biases])?;
    let Some(dx) = mirror.of(x)? else { return Ok(()) };
    let (dx, [x, dy, factors]) = cx.arena.split(dx, [x, dy, factors]);
    for_each_chunk::<_, f32>(cx.executor, dx, rows * c, &mut [], |block, dx, _| {
        let factors = &factors[block / blocks * 4 * c..][..4 * c];
        let range = block * rows * c..(block + 1) * rows * c;
        isa.group_norm_backward_f32(&x[range.clone()], factors, &dy[range], dx);
    });
    Ok(())
}

/// Rows of pixels whose sums are taken together: as many as divide a picture, up to some limit.
fn rows_of_a_block(elements: usize, pixels: usize, c: usize) -> usize {
    let most = (elements / c.max(1)).clamp(1, pixels.max(1));
    (1..=most).rev().find(|rows| pixels.is_multiple_of(*rows)).unwrap_or(1)
}

struct Numbers {
    c: usize,
    pixels: usize,
    groups: usize,
}

impl Numbers {
    /// `[mean, a, b, c]` of each channel, for `dx = dy·a + (x − mean)·b + c`.
    fn factors(&self, sums: &[f32], affine: &[f32], inverses: &[f32], to: &mut [f32]) {
        let (c, size) = (self.c, self.c / self.groups);
        let (means, scales) = (&affine[..c], &affine[c..2 * c]);
        let (plain, centred) = sums.split_at(c);
        let count = (self.pixels * size) as f32;
        for (group, inverse) in inverses.iter().enumerate() {
            let channels = group * size..(group + 1) * size;
            // scale = r·w, so these are r·mean(dy·w) and r²·mean(dy·w·x̂).
            let dot = |sums: &[f32]| -> f32 {
                channels.clone().map(|channel| scales[channel] * sums[channel]).sum()
            };
            let (shift, spread) = (dot(plain) / count, dot(centred) / count * inverse * inverse);
            for channel in channels {
                to[channel] = means[channel];
                to[c + channel] = scales[channel];
                to[2 * c + channel] = -spread;
                to[3 * c + channel] = -shift;
            }
        }
    }
}

/// The gradients of weight and bias and, where there are some, of each sample's scale and shift.
fn affine_gradients(
    cx: &mut Context<'_>,
    record: Record,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
    [sums, weights, biases]: [Tensor; 3],
) -> Result<()> {
    let Record::GroupNorm { weight, bias, norm, inverses, .. } = record else { return Ok(()) };
    let [samples, _, c] = sums.dims("group_norm")?;
    let size = c / norm.groups;
    for sample in 0..samples {
        let (inverses, sums) = (cx.arena.read(inverses), cx.arena.read(sums));
        let inverses = &inverses[sample * norm.groups..][..norm.groups];
        let (shifts, scales) = sums[sample * 2 * c..][..2 * c].split_at(c);
        let scale = |channel: usize| scales[channel] * inverses[channel / size];
        let given = norm.scale_shift.map(|given| &cx.arena.read(given)[sample * 2 * c..][..c]);
        let factor = |channel: usize| given.map_or(1.0, |given| 1.0 + given[channel]);
        for (channel, to) in recording.gradient_of(&weight)?.iter_mut().enumerate() {
            *to += scale(channel) * factor(channel);
        }
        for (channel, to) in recording.gradient_of(&bias)?.iter_mut().enumerate() {
            *to += shifts[channel] * factor(channel);
        }
    }
    let Some(given) = norm.scale_shift.map(|given| mirror.of(given)).transpose()?.flatten() else {
        return Ok(());
    };
    let (to, [sums, inverses, weights, biases]) =
        cx.arena.split(given, [sums, inverses, weights, biases]);
    for (sample, to) in to.chunks_exact_mut(2 * c).enumerate() {
        let (shifts, scales) = sums[sample * 2 * c..][..2 * c].split_at(c);
        let (dscale, dshift) = to.split_at_mut(c);
        for channel in 0..c {
            let scale = scales[channel] * inverses[sample * norm.groups + channel / size];
            dscale[channel] += scale * weights[channel] + shifts[channel] * biases[channel];
            dshift[channel] += shifts[channel];
        }
    }
    Ok(())
}

/// Row by row, the sums of weight and bias by blocks of rows.
pub(super) fn layer_norm(
    cx: &mut Context<'_>,
    record: Record,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
) -> Result<()> {
    let Record::LayerNorm { x, weight, bias, eps, out } = record else { return Ok(()) };
    let c = x.channels();
    let dy = mirror.of_result(out)?;
    let rows = (cx.limits.summed_elements / c.max(1)).max(1);
    let blocks = x.row_count().div_ceil(rows);
    let partial = cx.tensor(Shape::new([blocks, 2 * c]))?;
    let sums = cx.tensor(Shape::new([2, c]))?;
    let weights = cx.load_or(Some(weight), c, 1.0)?;
    // Where x needs no gradient, it goes here.
    let dx = match mirror.of(x)? {
        Some(dx) => dx,
        None => cx.tensor(x.shape())?,
    };
    if cx.is_planning() || x.is_empty() {
        return Ok(());
    }
    let isa = cx.isa;
    let ([partial_out, dx], [x, dy, weights]) = cx.arena.split_two([partial, dx], [x, dy, weights]);
    let cut = [(partial_out, 2 * c), (dx, rows * c)];
    for_each_together(cx.executor, cut, |block, [sums, dx]| {
        sums.fill(0.0);
        let start = block * rows * c;
        let from = x[start..].chunks_exact(c).zip(dy[start..].chunks_exact(c));
        for (dx, (x, dy)) in dx.chunks_exact_mut(c).zip(from) {
            isa.layer_norm_backward_f32(x, weights, eps, dy, dx, sums);
        }
    });
    let (to, [partial]) = cx.arena.split(sums, [partial]);
    to.fill(0.0);
    isa.sum_rows_f32(partial, to);
    let (dweight, dbias) = cx.arena.read(sums).split_at(c);
    let add = |to: &mut [f32], from: &[f32]| to.iter_mut().zip(from).for_each(|(to, x)| *to += x);
    add(recording.gradient_of(&weight)?, dweight);
    add(recording.gradient_of(&bias)?, dbias);
    Ok(())
}
