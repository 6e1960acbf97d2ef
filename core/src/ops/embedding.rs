//! Numbers and tokens as vectors.

use super::context::{Context, to_f32};
use super::observe::Op;
use super::tape::Record;
use crate::error::{Error, Result};
use crate::mem::bytes_of_mut;
use crate::tensor::{Shape, Tensor};
use crate::weights::Weight;

/// The longest period of [`sinusoidal_embedding`] (Vaswani et al. 2017).
const MAX_PERIOD: f32 = 10_000.0;

/// The two ways in which checkpoints differ in [`sinusoidal_embedding`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SinusoidalEmbedding {
    /// Whether cosines come before sines.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the exponent's denominator.
    pub freq_shift: f32,
}

/// `[n, dim]`: sines and cosines of each t at `dim/2` frequencies from 1 down to 1/10000 (Vaswani
/// et al. 2017; Ho et al. 2020, appendix B). An odd last element is 0.
///
/// # Errors
/// Those of memory.
pub fn sinusoidal_embedding(
    cx: &mut Context<'_>,
    t: &[f32],
    dim: usize,
    how: SinusoidalEmbedding,
) -> Result<Tensor> {
    let half = dim / 2;
    let out = cx.tensor(Shape::new([t.len(), dim]))?;
    if cx.is_planning() || dim == 0 {
        return Ok(out);
    }
    for (row, &t) in cx.arena.write(out).chunks_exact_mut(dim).zip(t) {
        row[2 * half..].fill(0.0);
        let (first, rest) = row.split_at_mut(half);
        let (sin, cos) = if how.flip_sin_to_cos { (rest, first) } else { (first, rest) };
        for i in 0..half {
            let exponent = -libm::logf(MAX_PERIOD) * i as f32 / (half as f32 - how.freq_shift);
            let angle = t * libm::expf(exponent);
            (sin[i], cos[i]) = sin_cos(angle);
        }
    }
    cx.ended(Op::Embedding, out);
    Ok(out)
}

/// `[n, 2m]`: sines and cosines of `2π·w·ln t` for the `m` frequencies `w` of a checkpoint (Song et
/// al. 2021, section D). Cosines come first where `flip_sin_to_cos`.
///
/// # Errors
/// Those of memory and weights.
pub fn fourier_embedding(
    cx: &mut Context<'_>,
    t: &[f32],
    weight: Weight,
    flip_sin_to_cos: bool,
) -> Result<Tensor> {
    let m = weight.shape.elements()?;
    let dim = m.checked_mul(2).ok_or(Error::Overflow { what: "an embedding" })?;
    let out = cx.tensor(Shape::new([t.len(), dim]))?;
    cx.working(|cx| {
        let frequencies = cx.load(weight)?;
        if cx.is_planning() || m == 0 {
            return Ok(());
        }
        let (rows, [frequencies]) = cx.arena.split(out, [frequencies]);
        for (row, &t) in rows.chunks_exact_mut(dim).zip(t) {
            let (first, rest) = row.split_at_mut(m);
            let (sin, cos) = if flip_sin_to_cos { (rest, first) } else { (first, rest) };
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = libm::logf(t) * frequency * 2.0 * core::f32::consts::PI;
                (sin[i], cos[i]) = sin_cos(angle);
            }
        }
        Ok(())
    })?;
    cx.ended(Op::Embedding, out);
    Ok(out)
}

/// `[1, ids, c]`: the rows of a table `[rows, c]` that the ids name.
///
/// # Errors
/// [`Error::Index`] where an id has no row, and those of memory and weights.
pub fn embedding(cx: &mut Context<'_>, ids: &[u32], table: Weight) -> Result<Tensor> {
    let [rows, c] = table.shape.dims("embedding")?;
    for &id in ids {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        if index >= rows {
            return Err(Error::Index { what: "token", index, limit: rows });
        }
    }
    let out = cx.tensor(Shape::new([1, ids.len(), c]))?;
    if cx.is_recording() {
        let kept = cx.tensor(Shape::new([ids.len()]))?;
        cx.record(|| Record::Embedding { table, ids: kept, out })?;
        if !cx.is_planning() {
            let kept = cx.arena.write(kept).iter_mut();
            kept.zip(ids).for_each(|(kept, &id)| *kept = f32::from_bits(id));
        }
    }
    let row_bytes = c * table.dtype.bytes();
    cx.working(|cx| {
        let staging = cx.staging(row_bytes)?;
        if cx.is_planning() || c == 0 {
            return Ok(());
        }
        let ([out, staging], []) = cx.arena.split_two([out, staging], []);
        for (out, &id) in out.chunks_exact_mut(c).zip(ids) {
            let start = id as usize * row_bytes;
            let bytes = cx.weights.read(&table, start, row_bytes, bytes_of_mut(staging))?;
            to_f32(cx.isa, table.dtype, bytes, out);
        }
        Ok(())
    })?;
    cx.ended(Op::Embedding, out);
    Ok(out)
}

/// Not `sincosf`: compiled for s390x it squares by MDEBR, which QEMU before 8.1 has wrong.
fn sin_cos(angle: f32) -> (f32, f32) {
    (libm::sinf(angle), libm::cosf(angle))
}
