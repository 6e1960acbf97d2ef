//! Pixels as channels and back (Shi et al. 2016): a network at 16x16 that takes blocks of 2x2
//! pixels as 12 channels draws 32x32 pixels for the price of 16x16.

use super::context::Context;
use super::observe::Op;
use crate::error::{Error, Result};
use crate::exec::for_each_chunk;
use crate::tensor::{Shape, Tensor};

/// `[n, h, w, c·f²]` to `[n, h·f, w·f, c]`: channel `c·f² + y·f + x` becomes channel `c` of the
/// pixel at row `y`, column `x` of its block, as PyTorch's `pixel_shuffle` has it.
///
/// # Errors
/// [`Error::Config`] where the channels are no multiple of f², and those of memory.
pub fn pixel_shuffle(cx: &mut Context<'_>, x: Tensor, factor: usize) -> Result<Tensor> {
    let [n, h, w, channels] = x.dims("pixel_shuffle")?;
    let block = factor * factor;
    if block == 0 || !channels.is_multiple_of(block) {
        let what = "must be a multiple of the pixels of a block";
        return Err(Error::Config { key: "channels", what });
    }
    let c = channels / block;
    cx.refuse_recording("pixel_shuffle")?;
    let out = cx.tensor(Shape::new([n, h * factor, w * factor, c]))?;
    if cx.is_planning() || out.is_empty() {
        return Ok(out);
    }
    let (rows, [x]) = cx.arena.split(out, [x]);
    for_each_chunk::<_, f32>(cx.executor, rows, w * factor * c, &mut [], |row, out, _| {
        let (source, y) = (row / factor, row % factor);
        let x = &x[source * w * channels..][..w * channels];
        for (at, pixel) in out.chunks_exact_mut(c).enumerate() {
            let from = &x[at / factor * channels..][..channels];
            let first = y * factor + at % factor;
            pixel.iter_mut().zip(from[first..].iter().step_by(block)).for_each(|(to, &x)| *to = x);
        }
    });
    cx.ended(Op::Copy, out);
    Ok(out)
}

/// The inverse of [`pixel_shuffle`]: `[n, h, w, c]` to `[n, h/f, w/f, c·f²]`.
///
/// # Errors
/// [`Error::Config`] where height or width is no multiple of f, and those of memory.
pub fn pixel_unshuffle(cx: &mut Context<'_>, x: Tensor, factor: usize) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("pixel_unshuffle")?;
    if factor == 0 || !h.is_multiple_of(factor) || !w.is_multiple_of(factor) {
        let what = "must be a multiple of the pixels of a block";
        return Err(Error::Config { key: "height and width", what });
    }
    cx.refuse_recording("pixel_unshuffle")?;
    let out = cx.tensor(Shape::new([n, h / factor, w / factor, c * factor * factor]))?;
    if cx.is_planning() || out.is_empty() {
        return Ok(out);
    }
    let (out_values, [x]) = cx.arena.split(out, [x]);
    for (to, from) in out_values.chunks_exact_mut(h * w * c).zip(x.chunks_exact(h * w * c)) {
        unshuffle(from, [h, w, c], factor, to);
    }
    cx.ended(Op::Copy, out);
    Ok(out)
}

/// [`pixel_unshuffle`] of one picture `[h, w, c]` in memory of the caller's. `out` is as long.
///
/// # Panics
/// Where height or width is no multiple of `factor`, or a slice has another length.
pub fn unshuffle(x: &[f32], [h, w, c]: [usize; 3], factor: usize, out: &mut [f32]) {
    let block = factor * factor;
    assert!(h.is_multiple_of(factor) && w.is_multiple_of(factor), "blocks must be whole");
    assert_eq!([x.len(), out.len()], [h * w * c; 2], "both must hold one picture");
    for (at, pixel) in x.chunks_exact(c).enumerate() {
        let (y, x) = (at / w, at % w);
        let place = (y / factor * (w / factor) + x / factor) * c * block;
        let first = place + y % factor * factor + x % factor;
        out[first..].iter_mut().step_by(block).zip(pixel).for_each(|(to, &from)| *to = from);
    }
}
