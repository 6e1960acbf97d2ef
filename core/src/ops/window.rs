//! Windows of pictures `[n, h, w, c]`: cut out, put in, and blended where tiles overlap.

use super::context::Context;
use crate::error::{Error, Result};
use crate::tensor::{Shape, Tensor};

/// The `size` rows and columns of x that begin at row and column `at`, as a tensor of their own.
///
/// # Errors
/// [`Error::Shape`] where x is no picture or ends before them, and those of memory.
pub fn crop(cx: &mut Context<'_>, x: Tensor, at: [usize; 2], size: [usize; 2]) -> Result<Tensor> {
    let [n, _, _, c] = x.dims("crop")?;
    let out = cx.tensor(Shape::new([n, size[0], size[1], c]))?;
    copy_window(cx, (x, at), (out, [0, 0]), size)?;
    Ok(out)
}

/// Copies `size` rows and columns between two pictures; with each, the row and the column at which
/// they begin in it.
///
/// # Errors
/// [`Error::Shape`] where either is no picture or ends before them, or where samples or channels
/// are not as many.
pub fn copy_window(
    cx: &mut Context<'_>,
    (x, from): (Tensor, [usize; 2]),
    (out, to): (Tensor, [usize; 2]),
    size: [usize; 2],
) -> Result<()> {
    let [n, h, w, c] = check_window("copy_window", x, from, size)?;
    let [_, out_h, out_w, _] = check_window("copy_window", out, to, size)?;
    check_kind("copy_window", x, out)?;
    if cx.is_planning() {
        return Ok(());
    }
    let (out, [x]) = cx.arena.split(out, [x]);
    for sample in 0..n {
        for row in 0..size[0] {
            let source = ((sample * h + from[0] + row) * w + from[1]) * c;
            let target = ((sample * out_h + to[0] + row) * out_w + to[1]) * c;
            let len = size[1] * c;
            out[target..][..len].copy_from_slice(&x[source..][..len]);
        }
    }
    Ok(())
}

/// `x[y, x'] ← from[y, x']·(1 − m) + x[y, x']·m`: x fades in from another picture, of which row and
/// column `at` lie under x's first.
///
/// `m = min(y / over[0], 1)·min(x' / over[1], 1)`; over no rows, or no columns, nothing fades that
/// way. Where m is 1, `from` is not looked at and may end.
///
/// # Errors
/// [`Error::Shape`] where either is no picture, `from` ends before the fading does, or samples or
/// channels are not as many.
pub fn blend_in_place(
    cx: &mut Context<'_>,
    x: Tensor,
    (from, at): (Tensor, [usize; 2]),
    over: [usize; 2],
) -> Result<()> {
    let [n, h, w, c] = x.dims("blend")?;
    // Fading rows are whole rows, and fading columns whole columns.
    let rows = if over[1] > 0 { h } else { h.min(over[0]) };
    let columns = if over[0] > 0 { w } else { w.min(over[1]) };
    let [_, from_h, from_w, _] = check_window("blend", from, at, [rows, columns])?;
    check_kind("blend", from, x)?;
    if cx.is_planning() {
        return Ok(());
    }
    let (x, [from]) = cx.arena.split(x, [from]);
    for (sample, row) in (0..n).flat_map(|sample| (0..rows).map(move |row| (sample, row))) {
        let down = part(row, over[0]);
        let source = ((sample * from_h + at[0] + row) * from_w + at[1]) * c;
        let source = from[source..][..columns * c].chunks_exact(c.max(1));
        let target = x[(sample * h + row) * w * c..][..columns * c].chunks_exact_mut(c.max(1));
        for (column, (x, from)) in target.zip(source).enumerate() {
            let m = down * part(column, over[1]);
            if m < 1.0 {
                x.iter_mut().zip(from).for_each(|(x, from)| *x = from * (1.0 - m) + *x * m);
            }
        }
    }
    Ok(())
}

/// How far row or column `at` is on its way over so many.
fn part(at: usize, over: usize) -> f32 {
    if at < over { at as f32 / over as f32 } else { 1.0 }
}

/// # Errors
/// [`Error::Shape`] where x is no picture or ends before the window does.
fn check_window(
    what: &'static str,
    x: Tensor,
    at: [usize; 2],
    size: [usize; 2],
) -> Result<[usize; 4]> {
    let [n, h, w, c] = x.dims(what)?;
    let ends = [0, 1].map(|side| at[side].saturating_add(size[side]));
    if ends[0] > h || ends[1] > w {
        let (expected, found) = ([n, ends[0].max(h), ends[1].max(w), c], [n, h, w, c]);
        return Err(Error::Shape { what, expected, found });
    }
    Ok([n, h, w, c])
}

/// # Errors
/// [`Error::Shape`] where two pictures differ in samples or channels.
fn check_kind(what: &'static str, x: Tensor, out: Tensor) -> Result<()> {
    let ([n, _, _, c], [out_n, h, w, out_c]) = (x.dims(what)?, out.dims(what)?);
    if [n, c] != [out_n, out_c] {
        return Err(Error::Shape { what, expected: [n, h, w, c], found: [out_n, h, w, out_c] });
    }
    Ok(())
}
