//! Sums, products and copies, element by element.

use super::context::Context;
use super::observe::Op;
use super::tape::Record;
use crate::error::{Error, Result};
use crate::exec::for_each_chunk;
use crate::tensor::{Channels, Shape, Tensor};

/// `x ← x + y`, for tensors of one shape.
///
/// # Errors
/// [`Error::Shape`] where the shapes differ.
pub fn add_in_place(cx: &mut Context<'_>, x: Tensor, y: Tensor) -> Result<()> {
    y.expect("add", x.shape())?;
    cx.record(|| Record::Add { x, y })?;
    if cx.is_planning() {
        return Ok(());
    }
    let each = cx.limits.elements;
    let (sums, [y]) = cx.arena.split(x, [y]);
    for_each_chunk::<_, f32>(cx.executor, sums, each, &mut [], |chunk, x, _| {
        x.iter_mut().zip(&y[chunk * each..]).for_each(|(x, y)| *x += y);
    });
    cx.ended(Op::Elementwise, x);
    Ok(())
}

/// `x[n, .., c] ← x[n, .., c] + v[n, c]`: one value for each sample and channel.
///
/// # Errors
/// [`Error::Shape`] where x has fewer than two dimensions or v is not `[n, c]`.
pub fn add_per_channel_in_place(cx: &mut Context<'_>, x: Tensor, v: Tensor) -> Result<()> {
    cx.refuse_recording("a sum per channel")?;
    let [n, rows, c] = x.samples("add_per_channel")?;
    v.expect("add_per_channel", Shape::new([n, c]))?;
    if cx.is_planning() || x.is_empty() {
        return Ok(());
    }
    let (sums, [v]) = cx.arena.split(x, [v]);
    for_each_chunk::<_, f32>(cx.executor, sums, c, &mut [], |row, x, _| {
        x.iter_mut().zip(&v[row / rows * c..]).for_each(|(x, v)| *x += v);
    });
    cx.ended(Op::Elementwise, x);
    Ok(())
}

/// `x ← x·scale + shift`.
///
/// # Errors
/// [`Error::Capacity`] where the walk is recorded and its tape is full.
pub fn scale_shift_in_place(cx: &mut Context<'_>, x: Tensor, scale: f32, shift: f32) -> Result<()> {
    cx.record(|| Record::Scale { x, scale })?;
    if cx.is_planning() {
        return Ok(());
    }
    let each = cx.limits.elements;
    let values = cx.arena.write(x);
    for_each_chunk::<_, f32>(cx.executor, values, each, &mut [], |_, x, _| {
        x.iter_mut().for_each(|x| *x = *x * scale + shift);
    });
    cx.ended(Op::Elementwise, x);
    Ok(())
}

/// `x ← own·x + Σ factor·y` over the terms `(y, factor)`, all of x's size. With `own` 0, x may hold
/// anything before.
///
/// # Errors
/// [`Error::Shape`] where a term is of another shape.
pub fn scale_add_in_place(
    cx: &mut Context<'_>,
    x: Tensor,
    own: f32,
    terms: &[(Tensor, f32)],
) -> Result<()> {
    cx.refuse_recording("a sum of several terms")?;
    for (y, _) in terms {
        y.expect("scale_add", x.shape())?;
    }
    if cx.is_planning() {
        return Ok(());
    }
    if own == 0.0 {
        cx.arena.write(x).fill(0.0);
    } else if own != 1.0 {
        scale_shift_in_place(cx, x, own, 0.0)?;
    }
    let each = cx.limits.elements;
    for &(y, factor) in terms {
        let (sums, [y]) = cx.arena.split(x, [y]);
        for_each_chunk::<_, f32>(cx.executor, sums, each, &mut [], |chunk, x, _| {
            x.iter_mut().zip(&y[chunk * each..]).for_each(|(x, y)| *x += factor * y);
        });
    }
    cx.ended(Op::Elementwise, x);
    Ok(())
}

/// Channels `start` to `start + count` of x, as a tensor of their own.
///
/// # Errors
/// [`Error::Index`] where x has fewer channels, and those of memory.
pub fn slice_channels(
    cx: &mut Context<'_>,
    x: Tensor,
    start: usize,
    count: usize,
) -> Result<Tensor> {
    let c = x.channels();
    if start.checked_add(count).is_none_or(|end| end > c) {
        let index = start.saturating_add(count);
        return Err(Error::Index { what: "channel", index, limit: c });
    }
    cx.refuse_recording("a slice of channels")?;
    let out = cx.tensor(x.shape().with_last(count))?;
    if cx.is_planning() || out.is_empty() {
        return Ok(out);
    }
    let (rows, [x]) = cx.arena.split(out, [x]);
    for_each_chunk::<_, f32>(cx.executor, rows, count, &mut [], |row, out, _| {
        out.copy_from_slice(&x[row * c + start..][..count]);
    });
    cx.ended(Op::Copy, out);
    Ok(out)
}

/// Channels `start` to `start + count` of x, moved together: a tensor that begins where x
/// begins, and overwrites it.
///
/// # Errors
/// [`Error::Index`] where x has fewer channels.
pub fn slice_channels_in_place(
    cx: &mut Context<'_>,
    x: Tensor,
    start: usize,
    count: usize,
) -> Result<Tensor> {
    let (c, rows) = (x.channels(), x.row_count());
    cx.refuse_recording("a slice of channels")?;
    Channels::new(x, start, count)?;
    let front = x.reshape([x.len(), 1])?.rows(0, rows * count)?;
    let out = front.with_shape(x.shape().with_last(count))?;
    if cx.is_planning() || out.is_empty() || count == c {
        return Ok(out);
    }
    let chunk = (cx.limits.elements / count).max(1);
    let x = cx.arena.write(x);
    let mut done = 0;
    while done < rows {
        // So many rows that none of them goes where another lies; one may go where it lies itself.
        let end = (done * c / count).clamp(done + 1, rows);
        if end == done + 1 {
            x.copy_within(done * c + start..done * c + start + count, done * count);
        } else {
            let (to, from) = x.split_at_mut(done * c);
            let to = &mut to[done * count..end * count];
            for_each_chunk::<_, f32>(cx.executor, to, chunk * count, &mut [], |index, to, _| {
                let from = from[index * chunk * c..].chunks_exact(c);
                for (to, from) in to.chunks_exact_mut(count).zip(from) {
                    to.copy_from_slice(&from[start..start + count]);
                }
            });
        }
        done = end;
    }
    cx.ended(Op::Copy, out);
    Ok(out)
}

/// `out ← x`, for tensors of one size.
///
/// # Errors
/// [`Error::Shape`] where the sizes differ.
pub fn copy_into(cx: &mut Context<'_>, x: Tensor, out: Tensor) -> Result<()> {
    if x.len() != out.len() {
        let (expected, found) = (out.shape().to_dims(), x.shape().to_dims());
        return Err(Error::Shape { what: "copy", expected, found });
    }
    cx.record(|| Record::Copy { x, out })?;
    if cx.is_planning() {
        return Ok(());
    }
    let (to, [x]) = cx.arena.split(out, [x]);
    to.copy_from_slice(x);
    cx.ended(Op::Copy, out);
    Ok(())
}

/// A new tensor that holds these values.
///
/// # Errors
/// [`Error::Shape`] where their number is not the shape's, and those of memory.
pub fn fill(cx: &mut Context<'_>, shape: Shape, values: &[f32]) -> Result<Tensor> {
    if shape.elements()? != values.len() {
        let (expected, found) = (shape.to_dims(), [values.len(), 0, 0, 0]);
        return Err(Error::Shape { what: "fill", expected, found });
    }
    let out = cx.tensor(shape)?;
    if !cx.is_planning() {
        cx.arena.write(out).copy_from_slice(values);
    }
    cx.ended(Op::Copy, out);
    Ok(out)
}
