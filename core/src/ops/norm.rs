//! Group and layer normalisation.
//!
//! Means and squared deviations are taken block by block and merged (Chan, Golub and LeVeque 1983),
//! so that a large mean costs no precision; the blocks are the same whatever the number of threads.

use super::context::Context;
use super::convert::{without_channels, write_rows};
use super::observe::Op;
use super::params::GroupNorm;
use super::tape::Record;
use crate::arch::{Activation, Isa};
use crate::error::{Error, Result};
use crate::exec::{even_share, for_each_chunk};
use crate::mem::{floats_of, floats_of_mut};
use crate::tensor::{Channels, Form, Joined, Shape, Tensor};
use crate::weights::Weight;

/// `[n, .., c]` normalised over each sample's groups of channels (Wu and He 2018), then scaled and
/// shifted by `weight` and `bias` `[c]`; its rows in [`GroupNorm::form`].
///
/// # Errors
/// [`Error::Shape`] where x has fewer than two dimensions, the groups do not divide the channels or
/// the scale and shift do not fit, and those of memory and weights.
pub fn group_norm(
    cx: &mut Context<'_>,
    x: impl Into<Joined>,
    weight: Weight,
    bias: Weight,
    norm: GroupNorm,
) -> Result<Tensor> {
    let x = x.into();
    let out = cx.tensor_in(x.shape(), norm.form)?;
    cx.scratch(|cx| {
        let (affine, inverses) = statistics(cx, x, weight, bias, norm)?;
        match x.only().map(|x| x.of()) {
            None => cx.refuse_recording("a normalisation of two tensors")?,
            Some(x) => {
                cx.record(|| Record::GroupNorm { x, weight, bias, norm, affine, inverses, out })?;
            }
        }
        let scratch = row_scratch(cx, x.count(), norm.form)?;
        if cx.is_planning() || out.is_empty() {
            return without_channels(cx, out);
        }
        let samples = affine.row_count() / 3;
        let pixels = out.row_count() / samples;
        for sample in 0..samples {
            let x = x.rows(sample * pixels, pixels)?;
            let out = out.rows(sample * pixels, pixels)?;
            let affine = Some((affine.sample(sample)?, norm.activation));
            prepare_rows(cx, x, affine, out, scratch);
        }
        Ok(())
    })?;
    cx.ended(Op::GroupNorm, out);
    Ok(out)
}

/// Rows of c channels that are normalised at a time: few enough to stay in the nearest cache.
fn rows_at_once(cx: &Context<'_>, c: usize) -> usize {
    (cx.limits.near_elements / c.max(1)).max(1)
}

/// Some rows of channels for each worker, where [`prepare_rows`] needs them.
///
/// # Errors
/// Those of memory.
pub(super) fn row_scratch(cx: &mut Context<'_>, c: usize, form: Form) -> Result<Tensor> {
    let rows = if form == Form::F32 { 0 } else { rows_at_once(cx, c) };
    cx.tensor(Shape::new([cx.executor.workers(), rows, c]))
}

/// Rows of one sample as a product wants them: normalised by `[1, 3, c]` and activated, or as they
/// are, in the form of `out`.
pub(super) fn prepare_rows(
    cx: &mut Context<'_>,
    x: Joined,
    norm: Option<(Tensor, Option<Activation>)>,
    out: Tensor,
    scratch: Tensor,
) {
    let (isa, form, bytes, c) = (cx.isa, out.form(), out.row_bytes(), x.count());
    let [a, b] = x.parts().map(|part| part.of());
    let affine = norm.map_or(a, |(affine, _)| affine);
    let at_once = match scratch.row_count() / cx.executor.workers() {
        0 => rows_at_once(cx, c),
        rows => rows,
    };
    let ([out, scratch], [a, b, affine]) = cx.arena.split_bytes_two([out, scratch], [a, b, affine]);
    let source = Source { x, data: [a, b].map(floats_of) };
    let norm = norm.map(|(_, activation)| (floats_of(affine), activation));
    let scratch = floats_of_mut(scratch);
    let rows = even_share(cx.executor, out.len() / bytes, cx.limits.normalised_elements / c);
    for_each_chunk(cx.executor, out, rows * bytes, scratch, |index, out, scratch| {
        for (number, out) in out.chunks_mut(at_once * bytes).enumerate() {
            let (first, count) = (index * rows + number * at_once, out.len() / bytes);
            source.write(isa, form, [first, count], norm, scratch, out);
        }
    });
}

/// Whether bf16 of each of two parts fill whole words.
fn has_even_parts(x: Joined) -> bool {
    x.parts().iter().all(|part| part.count() > 0 && part.count().is_multiple_of(2))
}

/// Channels for which [`Source::write`] needs room to bring rows to bf16 as they are.
pub(super) fn scratch_channels(x: Joined) -> usize {
    let is_whole = x.only().is_some_and(|part| part.count() == part.of().channels());
    if is_whole || has_even_parts(x) { 0 } else { x.count() }
}

/// Rows of one tensor or two, side by side.
pub(super) struct Source<'a> {
    pub x: Joined,
    /// What each holds; of one, twice the same.
    pub data: [&'a [f32]; 2],
}

impl Source<'_> {
    /// Some rows, as [`prepare_rows`] makes them. `scratch` is room for them, unless the form is
    /// f32.
    pub fn write(
        &self,
        isa: Isa,
        form: Form,
        [first, count]: [usize; 2],
        norm: Option<(&[f32], Option<Activation>)>,
        scratch: &mut [f32],
        out: &mut [u8],
    ) {
        let c = self.x.count();
        match (form, self.whole_rows(first, count)) {
            (Form::F32, _) => self.rows(isa, first, norm, false, floats_of_mut(out)),
            (_, Some(x)) if norm.is_none() => write_rows(isa, form, x, c, out),
            (Form::Bf16, None) if norm.is_none() && has_even_parts(self.x) => {
                let (mut at, bytes) = (0, 2 * c);
                for (part, data) in self.x.parts().iter().zip(self.data) {
                    let (stride, width) = (part.of().channels(), part.count());
                    let rows = &data[first * stride + part.first()..];
                    let rows = &rows[..(count - 1) * stride + width];
                    let end = (count - 1) * bytes + 2 * (at + width);
                    isa.bf16_rows(rows, stride, width, &mut out[2 * at..end], bytes);
                    at += width;
                }
            }
            _ => {
                let x = &mut scratch[..count * c];
                self.rows(isa, first, norm, true, x);
                write_rows(isa, form, x, c, out);
            }
        }
    }

    /// Rows as they lie, where nothing lies between them.
    fn whole_rows(&self, first: usize, count: usize) -> Option<&[f32]> {
        let only = self.x.only().filter(|part| part.count() == part.of().channels())?;
        Some(&self.data[0][first * only.count()..][..count * only.count()])
    }

    /// Rows from number `first` on, `[.., c]`, normalised and activated or as they are; `near`: as
    /// good as what is rounded afterwards needs.
    fn rows(
        &self,
        isa: Isa,
        first: usize,
        norm: Option<(&[f32], Option<Activation>)>,
        near: bool,
        to: &mut [f32],
    ) {
        let (c, mut at) = (self.x.count(), 0);
        let activation = norm.and_then(|(_, activation)| activation);
        let nearly_silu = near && activation == Some(Activation::Silu);
        for (part, data) in self.x.parts().iter().zip(self.data).filter(|(p, _)| p.count() > 0) {
            let (stride, count) = (part.of().channels(), part.count());
            let data = &data[first * stride + part.first()..];
            match norm {
                None => {
                    for (x, to) in data.chunks(stride).zip(to.chunks_exact_mut(c)) {
                        to[at..at + count].copy_from_slice(&x[..count]);
                    }
                }
                Some((affine, _)) => {
                    let affine = [0, c, 2 * c].map(|row| &affine[row + at..][..count]);
                    isa.normalise_f32(data, stride, affine, nearly_silu, &mut to[at..], c);
                }
            }
            at += count;
        }
        if let Some(activation) = activation.filter(|_| !nearly_silu) {
            isa.activate_f32(activation, to);
        }
    }
}

/// `[.., a]` and `[.., b]` to `[.., a + b]`, its rows in `form`: the channels of one behind those
/// of the other.
///
/// # Errors
/// [`Error::Shape`] where they differ in more than their channels, and those of memory.
pub fn concat(cx: &mut Context<'_>, a: Tensor, b: Tensor, form: Form) -> Result<Tensor> {
    let joined = Joined::pair(a, b)?;
    let out = cx.tensor_in(joined.shape(), form)?;
    match form {
        Form::F32 => cx.record(|| Record::Concat { a, b, out })?,
        _ => cx.refuse_recording("a conversion")?,
    }
    cx.working(|cx| {
        let c = joined.count();
        let rows =
            if form == Form::F32 { 0 } else { (cx.limits.joined_elements / c.max(1)).max(1) };
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), rows, c]))?;
        if cx.is_planning() || out.is_empty() {
            return without_channels(cx, out);
        }
        prepare_rows(cx, joined, None, out, scratch);
        Ok(())
    })?;
    cx.ended(if form == Form::F32 { Op::Copy } else { Op::Convert }, out);
    Ok(out)
}

/// [`group_norm`] of f32 in place: the result is x itself or, where the walk is recorded, a new
/// tensor.
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_replacing(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Weight,
    norm: GroupNorm,
) -> Result<Tensor> {
    if cx.is_recording() {
        return group_norm(cx, x, weight, bias, norm);
    }
    let c = x.channels();
    cx.working(|cx| {
        let (affine, _) = statistics(cx, x.into(), weight, bias, norm)?;
        let at_once = (cx.limits.replaced_elements / c.max(1)).min(x.row_count()).max(1) * c;
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), at_once]))?;
        if cx.is_planning() || x.is_empty() {
            return Ok(());
        }
        let isa = cx.isa;
        let ([x, scratch], [affine]) = cx.arena.split_two([x, scratch], [affine]);
        let sample = x.len() / (affine.len() / (3 * c));
        let rows = even_share(cx.executor, sample / c, cx.limits.normalised_elements / c);
        for (x, affine) in x.chunks_exact_mut(sample).zip(affine.chunks_exact(3 * c)) {
            for_each_chunk(cx.executor, x, rows * c, scratch, |_, rows, scratch| {
                for rows in rows.chunks_mut(at_once) {
                    let scratch = &mut scratch[..rows.len()];
                    scratch.copy_from_slice(rows);
                    let affine = [0, c, 2 * c].map(|first| &affine[first..][..c]);
                    isa.normalise_f32(scratch, c, affine, false, rows, c);
                    if let Some(activation) = norm.activation {
                        isa.activate_f32(activation, rows);
                    }
                }
            });
        }
        Ok(())
    })?;
    cx.ended(Op::GroupNorm, x);
    Ok(x)
}

/// `[n, 3, c]`: what to subtract from each channel, then multiply it with, then add to it. And
/// `[n, groups]`: 1 over the standard deviation of each group.
///
/// # Errors
/// As [`group_norm`].
pub(super) fn statistics(
    cx: &mut Context<'_>,
    x: Joined,
    weight: Weight,
    bias: Weight,
    norm: GroupNorm,
) -> Result<(Tensor, Tensor)> {
    let (parts, c) = (x.parts(), x.count());
    let [n, pixels, _] = parts[0].of().samples("group_norm")?;
    // Channels whose moments there are: all of each tensor that has any to be normalised.
    let widths = parts.map(|part| if part.count() == 0 { 0 } else { part.of().channels() });
    let all: usize = widths.iter().sum();
    if norm.groups == 0 || !c.is_multiple_of(norm.groups) {
        let expected = x.shape().with_last(c.next_multiple_of(norm.groups.max(1))).to_dims();
        return Err(Error::Shape { what: "group_norm", expected, found: x.shape().to_dims() });
    }
    if let Some(scale_shift) = norm.scale_shift {
        scale_shift.expect("group_norm's scale and shift", Shape::new([n, 2 * c]))?;
    }
    let block = pixels.div_ceil(cx.limits.moment_blocks).max(cx.limits.moment_pixels);
    let blocks = pixels.div_ceil(block);
    let affine = cx.tensor(Shape::new([n, 3, c]))?;
    let inverses = cx.tensor(Shape::new([n, norm.groups]))?;
    cx.working(|cx| {
        let moments = cx.tensor(Shape::new([n, blocks, 2, all]))?;
        let weight = cx.load_or(Some(weight), c, 1.0)?;
        let bias = cx.load_or(Some(bias), c, 0.0)?;
        if cx.is_planning() || moments.is_empty() {
            return Ok(());
        }
        let isa = cx.isa;
        let (out, data) = cx.arena.split(moments, parts.map(|part| part.of()));
        for_each_chunk::<_, f32>(cx.executor, out, 2 * all, &mut [], |index, moments, _| {
            let (sample, number) = (index / blocks, index % blocks);
            let start = sample * pixels + number * block;
            let count = block.min(pixels - number * block);
            let (first, second) = moments.split_at_mut(2 * widths[0]);
            for ((x, width), moments) in data.iter().zip(widths).zip([first, second]) {
                if width > 0 {
                    isa.moments_f32(&x[start * width..(start + count) * width], moments);
                }
            }
        });
        let extra = norm.scale_shift.unwrap_or(weight);
        let ([affine, inverses], [moments, weight, bias, extra]) =
            cx.arena.split_two([affine, inverses], [moments, weight, bias, extra]);
        let samples = affine.chunks_exact_mut(3 * c).zip(inverses.chunks_exact_mut(norm.groups));
        for (sample, (affine, inverses)) in samples.enumerate() {
            let moments = &moments[sample * blocks * 2 * all..][..blocks * 2 * all];
            let size = c / norm.groups;
            let groups = Groups { parts, widths, c, size, block, pixels, eps: norm.eps };
            groups.affine(moments, weight, bias, affine, inverses);
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
    Ok((affine, inverses))
}

/// How one sample's channels and pixels are grouped.
struct Groups {
    /// The channels that are normalised, and how many each part has moments of.
    parts: [Channels; 2],
    widths: [usize; 2],
    c: usize,
    size: usize,
    block: usize,
    pixels: usize,
    eps: f32,
}

impl Groups {
    /// Merges the blocks' moments, `[2, width]` of each part, channel by channel, and the channels'
    /// group by group.
    fn affine(
        &self,
        moments: &[f32],
        weight: &[f32],
        bias: &[f32],
        affine: &mut [f32],
        inverses: &mut [f32],
    ) {
        let (c, all) = (self.c, self.pixels as f32);
        let (means, rest) = affine.split_at_mut(c);
        let (squares, shifts) = rest.split_at_mut(c);
        let (mut done, mut before) = (0, 0);
        for (part, width) in self.parts.iter().zip(self.widths).filter(|(_, width)| *width > 0) {
            let channels = done..done + part.count();
            let (means, squares) = (&mut means[channels.clone()], &mut squares[channels]);
            self.merge(&moments[before..], part.first(), width, [means, squares]);
            (done, before) = (done + part.count(), before + 2 * width);
        }
        for group in (0..c).step_by(self.size) {
            let channels = group..group + self.size;
            let (means, squares) = (&mut means[channels.clone()], &mut squares[channels.clone()]);
            let first = means[0];
            let mean =
                means.iter().map(|mean| mean - first).sum::<f32>() / self.size as f32 + first;
            let between = means.iter().map(|m| (m - mean) * (m - mean)).sum::<f32>();
            let squared = squares.iter().sum::<f32>() + all * between;
            let scale = 1.0 / libm::sqrtf(squared / (all * self.size as f32) + self.eps);
            inverses[group / self.size] = scale;
            means.fill(mean);
            squares.iter_mut().zip(&weight[channels]).for_each(|(to, weight)| *to = scale * weight);
        }
        shifts.copy_from_slice(bias);
    }

    /// Merges the blocks' moments of some channels of a part, `[2, width]`.
    fn merge(
        &self,
        moments: &[f32],
        first: usize,
        width: usize,
        [means, squares]: [&mut [f32]; 2],
    ) {
        let (all, seen) = (self.pixels as f32, first..first + means.len());
        let blocks = || {
            moments.chunks(2 * self.widths.iter().sum::<usize>()).enumerate().map(
                |(number, moments)| {
                    let count = self.block.min(self.pixels - number * self.block) as f32;
                    let (means, deviations) = moments[..2 * width].split_at(width);
                    (count, (&means[seen.clone()], &deviations[seen.clone()]))
                },
            )
        };
        // Means are summed relative to the first block's, so that a large one costs no precision.
        let first = &moments[seen.clone()];
        means.fill(0.0);
        for (count, (mean, _)) in blocks() {
            for ((sum, mean), first) in means.iter_mut().zip(mean).zip(first) {
                *sum += count * (mean - first);
            }
        }
        means.iter_mut().zip(first).for_each(|(mean, first)| *mean = first + *mean / all);
        squares.fill(0.0);
        for (count, (mean, deviations)) in blocks() {
            let merged = means.iter().zip(mean).zip(deviations);
            for (square, ((all, mean), deviation)) in squares.iter_mut().zip(merged) {
                *square += deviation + count * (mean - all) * (mean - all);
            }
        }
    }
}

/// `[.., c]`, each row normalised over its channels (Ba, Kiros and Hinton 2016), then scaled and
/// shifted by `weight` and `bias` `[c]`; its rows in `form`.
///
/// # Errors
/// [`Error::WeightShape`] where the weights are not of c elements, and those of memory and weights.
pub fn layer_norm(
    cx: &mut Context<'_>,
    x: Tensor,
    weight: Weight,
    bias: Weight,
    eps: f32,
    form: Form,
) -> Result<Tensor> {
    let c = x.channels();
    let out = cx.tensor_in(x.shape(), form)?;
    cx.record(|| Record::LayerNorm { x, weight, bias, eps, out })?;
    cx.working(|cx| {
        let weight = cx.load_or(Some(weight), c, 1.0)?;
        let bias = cx.load_or(Some(bias), c, 0.0)?;
        let row = if form == Form::F32 { 0 } else { c };
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), row]))?;
        if cx.is_planning() || x.is_empty() {
            return without_channels(cx, out);
        }
        let (isa, bytes) = (cx.isa, out.row_bytes());
        let rows = even_share(cx.executor, x.row_count(), cx.limits.normalised_elements / c);
        let ([out, scratch], [x, weight, bias]) =
            cx.arena.split_bytes_two([out, scratch], [x, weight, bias]);
        let [x, weight, bias] = [x, weight, bias].map(floats_of);
        let scratch = floats_of_mut(scratch);
        for_each_chunk(cx.executor, out, rows * bytes, scratch, |index, out, row| {
            let x = x[index * rows * c..].chunks_exact(c);
            for (x, out) in x.zip(out.chunks_exact_mut(bytes)) {
                if form == Form::F32 {
                    isa.layer_norm_f32(x, weight, bias, eps, floats_of_mut(out));
                } else {
                    isa.layer_norm_f32(x, weight, bias, eps, row);
                    write_rows(isa, form, row, c, out);
                }
            }
        });
        Ok(())
    })?;
    cx.ended(Op::LayerNorm, out);
    Ok(out)
}
