//! Scaled dot-product attention (Vaswani et al. 2017) in tiles, with the softmax kept up as the
//! keys go by (Milakov and Gimelshein 2018; Dao et al. 2022): there is never a matrix of all
//! scores.

use super::context::Context;
use super::observe::Op;
use crate::arch::{Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, NR_MAX};
use crate::error::{Error, Result};
use crate::exec::{TileMut, for_each_tile};
use crate::tensor::{Shape, Tensor};

/// Queries in one task.
const QUERIES: usize = 48;

/// Keys in one tile; a multiple of every kernel's columns.
const KEYS: usize = 128;

const _: () = assert!(KEYS.is_multiple_of(NR_MAX) && QUERIES.is_multiple_of(12));

/// `softmax(q·kᵀ/√d)·v` for each of `heads` heads of d channels: q `[n, tq, heads·d]`, k and v
/// `[n, tk, heads·d]`, the result like q. `causal`: query i sees keys up to i.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit each other or the heads do not divide the channels,
/// and those of memory.
pub fn attention(
    cx: &mut Context<'_>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    let [n, tq, c] = q.dims("attention's queries")?;
    let [_, tk, _] = k.dims("attention's keys")?;
    if heads == 0 || !c.is_multiple_of(heads) || tk == 0 {
        let expected = [n, tq, c.next_multiple_of(heads.max(1)), 0];
        return Err(Error::Shape { what: "attention", expected, found: [n, tq, c, 0] });
    }
    k.expect("attention's keys", Shape::new([n, tk, c]))?;
    v.expect("attention's values", k.shape())?;
    let d = c / heads;
    let out = cx.tensor(q.shape())?;
    cx.count([n, tq, tk, 2 * c]);
    let sizes = Sizes { d, c, tk, causal, width: d.next_multiple_of(NR_MAX) };
    let scratch = Shape::new([cx.executor.workers(), sizes.scratch()]);
    cx.scratch(|cx| {
        let scratch = cx.tensor(scratch)?;
        if cx.is_planning() || out.is_empty() {
            return Ok(());
        }
        let ([out, scratch], [q, k, v]) = cx.arena.split_two([out, scratch], [q, k, v]);
        let isa = cx.isa;
        for sample in 0..n {
            let out = &mut out[sample * tq * c..][..tq * c];
            let [q, k, v] = [(q, tq), (k, tk), (v, tk)].map(|(x, t)| &x[sample * t * c..][..t * c]);
            for_each_tile(cx.executor, out, c, 0..c, [QUERIES, d], scratch, |tile, scratch| {
                sizes.attend(isa, tile, q, k, v, scratch);
            });
        }
        Ok(())
    })?;
    cx.ended(Op::Attention, out);
    Ok(out)
}

/// The sizes that the tiles have in common.
#[derive(Clone, Copy)]
struct Sizes {
    /// Channels of a head.
    d: usize,
    /// Channels of all heads: from one token to the next.
    c: usize,
    tk: usize,
    causal: bool,
    /// d, rounded up to whole panels.
    width: usize,
}

/// A worker's memory, taken apart.
struct Scratch<'a> {
    /// Keys of a tile, packed in panels `[d, nr]`.
    keys: &'a mut [f32],
    /// Values of a tile, packed in panels `[keys, nr]`.
    values: &'a mut [f32],
    /// `[queries, keys]`.
    scores: &'a mut [f32],
    /// Zeros, for rows that are not there.
    zeros: &'a mut [f32],
    /// Largest score so far, per query.
    max: &'a mut [f32],
    /// Sum of the exponentials so far, per query.
    sum: &'a mut [f32],
}

impl Sizes {
    fn keys(&self) -> usize {
        KEYS.min(self.tk.next_multiple_of(NR_MAX))
    }

    /// f32 elements that one worker needs.
    fn scratch(&self) -> usize {
        let keys = self.keys();
        let tiles = keys.saturating_mul(self.d + self.width + QUERIES);
        tiles.saturating_add(keys.max(self.d) + 2 * QUERIES)
    }

    fn take_apart<'a>(&self, scratch: &'a mut [f32]) -> Scratch<'a> {
        let tile = self.keys();
        let (keys, rest) = scratch.split_at_mut(self.d * tile);
        let (values, rest) = rest.split_at_mut(tile * self.width);
        let (scores, rest) = rest.split_at_mut(QUERIES * tile);
        let (zeros, rest) = rest.split_at_mut(tile.max(self.d));
        let (max, rest) = rest.split_at_mut(QUERIES);
        zeros.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        let sum = &mut rest[..QUERIES];
        sum.fill(0.0);
        Scratch { keys, values, scores, zeros, max, sum }
    }

    /// Some queries of one head against all keys.
    fn attend(
        &self,
        isa: Isa,
        mut tile: TileMut<'_>,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        scratch: &mut [f32],
    ) {
        let place = tile.place();
        let mut s = self.take_apart(scratch);
        for row in 0..place.rows {
            tile.row(row).fill(0.0);
        }
        let seen = if self.causal { self.tk.min(place.row + place.rows) } else { self.tk };
        for first in (0..seen).step_by(self.keys()) {
            let count = self.keys().min(seen - first);
            self.pack_keys(isa, &k[first * self.c + place.column..], count, s.keys);
            self.pack_values(isa, &v[first * self.c + place.column..], count, s.values);
            self.score(isa, &place, q, count, &mut s);
            for row in 0..place.rows {
                let visible = match self.causal {
                    true => count.min((place.row + row + 1).saturating_sub(first)),
                    false => count,
                };
                let scores = &mut s.scores[row * self.keys()..][..count];
                let rescale =
                    online_softmax(isa, scores, visible, &mut s.max[row], &mut s.sum[row]);
                tile.row(row).iter_mut().for_each(|out| *out *= rescale);
            }
            self.add_values(isa, &mut tile, count, &s);
        }
        for row in 0..place.rows {
            let scale = 1.0 / s.sum[row];
            tile.row(row).iter_mut().for_each(|out| *out *= scale);
        }
    }

    /// Keys `[count, d]` to panels `[d, nr]`, scaled by 1/√d.
    fn pack_keys(&self, isa: Isa, k: &[f32], count: usize, packed: &mut [f32]) {
        let [_, nr] = isa.gemm_f32_tile();
        let scale = 1.0 / libm::sqrtf(self.d as f32);
        for (number, panel) in packed.chunks_exact_mut(self.d * nr).enumerate() {
            for j in 0..nr {
                let key = number * nr + j;
                let column = panel[j..].iter_mut().step_by(nr);
                if key < count {
                    let key = &k[key * self.c..][..self.d];
                    column.zip(key).for_each(|(to, from)| *to = from * scale);
                } else {
                    column.for_each(|to| *to = 0.0);
                }
            }
        }
    }

    /// Values `[count, d]` to panels `[count, nr]`.
    fn pack_values(&self, isa: Isa, v: &[f32], count: usize, packed: &mut [f32]) {
        let [_, nr] = isa.gemm_f32_tile();
        let panels = packed.chunks_exact_mut(count * nr).take(self.d.div_ceil(nr));
        for (number, panel) in panels.enumerate() {
            let columns = nr.min(self.d - number * nr);
            for (key, row) in panel.chunks_exact_mut(nr).enumerate() {
                row[..columns].copy_from_slice(&v[key * self.c + number * nr..][..columns]);
                row[columns..].fill(0.0);
            }
        }
    }

    /// The scores of a tile's queries with the packed keys.
    fn score(
        &self,
        isa: Isa,
        place: &crate::exec::TilePlace,
        q: &[f32],
        count: usize,
        s: &mut Scratch<'_>,
    ) {
        let [mr, nr] = isa.gemm_f32_tile();
        let mut sums = [0.0; MR_MAX * NR_MAX];
        for (number, panel) in s.keys.chunks_exact(self.d * nr).enumerate() {
            let columns = nr.min(count.saturating_sub(number * nr));
            for row in (0..place.rows).step_by(mr) {
                let rows = mr.min(place.rows - row);
                let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
                for (r, offset) in offsets.iter_mut().enumerate().take(rows) {
                    *offset = (place.row + row + r) * self.c + place.column;
                }
                let gather = Gather {
                    data: q,
                    zeros: s.zeros,
                    offsets: &offsets,
                    taps: 1,
                    channels: self.d,
                };
                isa.gemm_f32(&gather, panel, &mut sums);
                for r in 0..rows {
                    let scores = &mut s.scores[(row + r) * self.keys() + number * nr..][..columns];
                    scores.copy_from_slice(&sums[r * nr..][..columns]);
                }
            }
        }
    }

    /// Adds the packed values, weighted by the scores, to the tile.
    fn add_values(&self, isa: Isa, tile: &mut TileMut<'_>, count: usize, s: &Scratch<'_>) {
        let [mr, nr] = isa.gemm_f32_tile();
        let rows_of_tile = tile.place().rows;
        let mut sums = [0.0; MR_MAX * NR_MAX];
        let panels = s.values.chunks_exact(count * nr).take(self.d.div_ceil(nr));
        for (number, panel) in panels.enumerate() {
            let columns = nr.min(self.d - number * nr);
            for row in (0..rows_of_tile).step_by(mr) {
                let rows = mr.min(rows_of_tile - row);
                let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
                for (r, offset) in offsets.iter_mut().enumerate().take(rows) {
                    *offset = (row + r) * self.keys();
                }
                let gather = Gather {
                    data: s.scores,
                    zeros: s.zeros,
                    offsets: &offsets,
                    taps: 1,
                    channels: count,
                };
                isa.gemm_f32(&gather, panel, &mut sums);
                for r in 0..rows {
                    let out = &mut tile.row(row + r)[number * nr..][..columns];
                    out.iter_mut().zip(&sums[r * nr..]).for_each(|(out, sum)| *out += sum);
                }
            }
        }
    }
}

/// Turns the first `visible` scores into exponentials relative to the largest score so far, and the
/// rest into zeros; returns by how much what was summed before must shrink.
fn online_softmax(
    isa: Isa,
    scores: &mut [f32],
    visible: usize,
    max: &mut f32,
    sum: &mut f32,
) -> f32 {
    let (seen, hidden) = scores.split_at_mut(visible);
    hidden.fill(0.0);
    if seen.is_empty() {
        return 1.0;
    }
    let largest = seen.iter().fold(*max, |max, &score| if score > max { score } else { max });
    let rescale = if *max == f32::NEG_INFINITY { 0.0 } else { libm::expf(*max - largest) };
    *sum = *sum * rescale + isa.exp_sub_sum_f32(seen, largest);
    *max = largest;
    rescale
}
