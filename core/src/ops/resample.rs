//! Changing a picture's size.

use super::context::Context;
use super::observe::Op;
use super::pixels::nearest_source;
use super::tape::Record;
use crate::error::{Error, Result};
use crate::exec::for_each_chunk;
use crate::tensor::{Shape, Tensor};

/// `[n, h, w, c]` resized by the nearest pixels to `size`, height and width.
///
/// # Errors
/// [`Error::Shape`] where x is no picture or has no pixels to take, and those of memory.
pub fn upsample_nearest(cx: &mut Context<'_>, x: Tensor, size: [usize; 2]) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("upsample_nearest")?;
    let out = cx.tensor(Shape::new([n, size[0], size[1], c]))?;
    if x.is_empty() && !out.is_empty() {
        let (expected, found) = ([n, h.max(1), w.max(1), c], [n, h, w, c]);
        return Err(Error::Shape { what: "upsample_nearest", expected, found });
    }
    cx.record(|| Record::UpsampleNearest { x, out })?;
    if cx.is_planning() || out.is_empty() {
        return Ok(out);
    }
    let (pixels, [x]) = cx.arena.split(out, [x]);
    for_each_chunk::<_, f32>(cx.executor, pixels, size[1] * c, &mut [], |row, pixels, _| {
        let y = row / size[0] * h + nearest_source(row % size[0], h, size[0]);
        let source = &x[y * w * c..][..w * c];
        for (at, pixel) in pixels.chunks_exact_mut(c).enumerate() {
            pixel.copy_from_slice(&source[nearest_source(at, w, size[1]) * c..][..c]);
        }
    });
    cx.ended(Op::Resample, out);
    Ok(out)
}

/// `[n, h, w, c]` to `[n, h/2, w/2, c]`, each pixel the mean of four; an odd last row or column is
/// left out.
///
/// # Errors
/// [`Error::Shape`] where x is no picture, and those of memory.
pub fn avg_pool_2x2(cx: &mut Context<'_>, x: Tensor) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("avg_pool_2x2")?;
    let size = [h / 2, w / 2];
    let out = cx.tensor(Shape::new([n, size[0], size[1], c]))?;
    cx.record(|| Record::AvgPool { x, out })?;
    if cx.is_planning() || out.is_empty() {
        return Ok(out);
    }
    let (pixels, [x]) = cx.arena.split(out, [x]);
    for_each_chunk::<_, f32>(cx.executor, pixels, size[1] * c, &mut [], |row, pixels, _| {
        let y = row / size[0] * h + row % size[0] * 2;
        let [top, bottom] = [0, 1].map(|below| &x[(y + below) * w * c..][..w * c]);
        for (at, pixel) in pixels.chunks_exact_mut(c).enumerate() {
            for (channel, value) in pixel.iter_mut().enumerate() {
                let left = at * 2 * c + channel;
                *value = (top[left] + top[left + c] + bottom[left] + bottom[left + c]) * 0.25;
            }
        }
    });
    cx.ended(Op::Resample, out);
    Ok(out)
}
