//! Backwards through what has neither weights nor sums, and through a table of embeddings.

use super::Mirror;
use crate::error::Result;
use crate::exec::for_each_chunk;
use crate::ops::context::Context;
use crate::ops::pixels::nearest_source;
use crate::ops::tape::{Record, Recording};
use crate::tensor::Tensor;
use crate::weights::Weight;

/// `to ← to + from`
pub(super) fn add(cx: &mut Context<'_>, from: Tensor, to: Tensor) {
    if cx.is_planning() {
        return;
    }
    let each = cx.limits.activated_elements;
    let (sums, [from]) = cx.arena.split(to, [from]);
    for_each_chunk::<_, f32>(cx.executor, sums, each, &mut [], |chunk, to, _| {
        to.iter_mut().zip(&from[chunk * each..]).for_each(|(to, from)| *to += from);
    });
}

/// Backwards through an op without weights.
pub(super) fn simple(cx: &mut Context<'_>, record: Record, mirror: &Mirror) -> Result<()> {
    match record {
        Record::Activation { x, activation, out } => {
            let (dy, Some(dx)) = (mirror.of_result(out)?, mirror.of(x)?) else { return Ok(()) };
            if cx.is_planning() {
                return Ok(());
            }
            let (isa, each) = (cx.isa, cx.limits.activated_elements);
            let (dx, [x, dy]) = cx.arena.split(dx, [x, dy]);
            for_each_chunk::<_, f32>(cx.executor, dx, each, &mut [], |chunk, dx, _| {
                let range = chunk * each..chunk * each + dx.len();
                isa.activate_backward_f32(activation, &x[range.clone()], &dy[range], dx);
            });
        }
        Record::Geglu { x, out } => {
            let (dy, Some(dx)) = (mirror.of_result(out)?, mirror.of(x)?) else { return Ok(()) };
            let m = out.channels();
            if cx.is_planning() || out.is_empty() {
                return Ok(());
            }
            let isa = cx.isa;
            let (dx, [x, dy]) = cx.arena.split(dx, [x, dy]);
            for_each_chunk::<_, f32>(cx.executor, dx, 2 * m, &mut [], |row, dx, _| {
                isa.geglu_backward_f32(&x[row * 2 * m..][..2 * m], &dy[row * m..][..m], dx);
            });
        }
        Record::Add { x, y } => {
            if let (Some(dx), Some(dy)) = (mirror.of(x)?, mirror.of(y)?) {
                add(cx, dx, dy);
            }
        }
        Record::Scale { x, scale } => {
            let Some(dx) = mirror.of(x)? else { return Ok(()) };
            if !cx.is_planning() {
                let each = cx.limits.activated_elements;
                let values = cx.arena.write(dx);
                for_each_chunk::<_, f32>(cx.executor, values, each, &mut [], |_, dx, _| {
                    dx.iter_mut().for_each(|dx| *dx *= scale);
                });
            }
        }
        Record::Copy { x, out } => {
            if let (Some(dx), Some(dy)) = (mirror.of(x)?, mirror.of(out)?) {
                add(cx, dy.with_shape(x.shape())?, dx);
                // What was there before the copy had no part in what followed.
                if !cx.is_planning() {
                    cx.arena.write(dy).fill(0.0);
                }
            }
        }
        Record::Concat { a, b, out } => {
            let dy = mirror.of_result(out)?;
            concat_part(cx, dy, mirror.of(a)?, 0);
            concat_part(cx, dy, mirror.of(b)?, a.channels());
        }
        Record::UpsampleNearest { x, out } => {
            if let Some(dx) = mirror.of(x)? {
                upsample_nearest(cx, mirror.of_result(out)?, dx)?;
            }
        }
        Record::AvgPool { x, out } => {
            if let Some(dx) = mirror.of(x)? {
                avg_pool(cx, mirror.of_result(out)?, dx)?;
            }
        }
        _ => unreachable!("the other ops have files of their own"),
    }
    Ok(())
}

/// The channels of `dy` from `first` on, added to `to`.
fn concat_part(cx: &mut Context<'_>, dy: Tensor, to: Option<Tensor>, first: usize) {
    let Some(to) = to.filter(|to| !cx.is_planning() && !to.is_empty()) else { return };
    let (all, c) = (dy.channels(), to.channels());
    let rows = (cx.limits.activated_elements / c).max(1);
    let (sums, [dy]) = cx.arena.split(to, [dy]);
    for_each_chunk::<_, f32>(cx.executor, sums, rows * c, &mut [], |chunk, to, _| {
        let dy = dy[chunk * rows * all..].chunks_exact(all);
        for (to, dy) in to.chunks_exact_mut(c).zip(dy) {
            to.iter_mut().zip(&dy[first..]).for_each(|(to, dy)| *to += dy);
        }
    });
}

/// Every pixel of the result gives its gradient to the pixel that it was taken from. Rows of the
/// source are tasks: those of the result that come from one of them are found by going through all.
fn upsample_nearest(cx: &mut Context<'_>, dy: Tensor, dx: Tensor) -> Result<()> {
    let [_, h, w, c] = dx.dims("upsample_nearest")?;
    let [_, height, width, _] = dy.dims("upsample_nearest")?;
    if cx.is_planning() || dx.is_empty() {
        return Ok(());
    }
    let (sums, [dy]) = cx.arena.split(dx, [dy]);
    for_each_chunk::<_, f32>(cx.executor, sums, w * c, &mut [], |row, dx, _| {
        let (image, y) = (row / h, row % h);
        for at in (0..height).filter(|&at| nearest_source(at, h, height) == y) {
            let line = &dy[(image * height + at) * width * c..][..width * c];
            for (x, dy) in line.chunks_exact(c).enumerate() {
                let dx = &mut dx[nearest_source(x, w, width) * c..][..c];
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
            }
        }
    });
    Ok(())
}

/// A quarter of each pixel's gradient for the four that it is the mean of.
fn avg_pool(cx: &mut Context<'_>, dy: Tensor, dx: Tensor) -> Result<()> {
    let [_, h, w, c] = dx.dims("avg_pool_2x2")?;
    let [_, height, width, _] = dy.dims("avg_pool_2x2")?;
    if cx.is_planning() || dx.is_empty() {
        return Ok(());
    }
    let (sums, [dy]) = cx.arena.split(dx, [dy]);
    for_each_chunk::<_, f32>(cx.executor, sums, w * c, &mut [], |row, dx, _| {
        let (image, y) = (row / h, row % h / 2);
        if y == height {
            return;
        }
        let line = &dy[(image * height + y) * width * c..][..width * c];
        for (dx, dy) in dx.chunks_exact_mut(2 * c).zip(line.chunks_exact(c)) {
            let (left, right) = dx.split_at_mut(c);
            for ((left, right), dy) in left.iter_mut().zip(right).zip(dy) {
                *left += 0.25 * dy;
                *right += 0.25 * dy;
            }
        }
    });
    Ok(())
}

/// Each row of the result gives its gradient to the row of the table that its id names.
pub(super) fn embedding(
    cx: &mut Context<'_>,
    table: Weight,
    ids: Tensor,
    out: Tensor,
    mirror: &Mirror,
    recording: &mut Recording<'_>,
) -> Result<()> {
    let (dy, c) = (mirror.of_result(out)?, out.channels());
    if cx.is_planning() || c == 0 {
        return Ok(());
    }
    let gradients = recording.gradient_of(&table)?;
    let rows = cx.arena.read(ids).iter().zip(cx.arena.read(dy).chunks_exact(c));
    for (id, dy) in rows {
        let row = &mut gradients[id.to_bits() as usize * c..][..c];
        row.iter_mut().zip(dy).for_each(|(row, dy)| *row += dy);
    }
    Ok(())
}
