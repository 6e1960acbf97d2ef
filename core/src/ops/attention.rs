//! Scaled dot-product attention (Vaswani et al. 2017) in tiles, with the softmax kept up as the
//! keys go by (Milakov and Gimelshein 2018; Dao et al. 2022): there is never a matrix of all
//! scores.
//!
//! Keys and values are packed once, head by head, as the right sides of two products: queries with
//! keys, and weights with values.

use super::context::Context;
use super::observe::Op;
use crate::arch::{Arithmetic, Finish, Gather, Isa, MAX_TAPS, MR_MAX, NO_ROW, Panels};
use crate::error::{Error, Result};
use crate::exec::{TileMut, for_each_chunk, for_each_tile};
use crate::mem::{bytes_of, bytes_of_mut, floats_of, floats_of_mut};
use crate::tensor::packed::to_bf16;
use crate::tensor::{Form, PANEL, Shape, Tensor};

/// Queries in one task.
const QUERIES: usize = 48;

/// Keys in one tile: whole panels, and an even number of them.
const KEYS: usize = 128;

const _: () = assert!(KEYS.is_multiple_of(2 * PANEL) && QUERIES.is_multiple_of(12));

/// How queries, keys and values are put to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads; they divide the channels.
    pub heads: usize,
    /// Whether query i sees keys up to i only.
    pub causal: bool,
    /// What both products are computed in: f32, or bf16 for every other form.
    pub form: Form,
}

/// `softmax(q·kᵀ/√d)·v` for each of `heads` heads of d channels: q `[n, tq, heads·d]`, k and v
/// `[n, tk, heads·d]`, the result like q, all f32.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit each other or the heads do not divide the channels,
/// and those of memory.
pub fn attention(
    cx: &mut Context<'_>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: Attention,
) -> Result<Tensor> {
    let Attention { heads, causal, form } = attention;
    let [n, tq, c] = q.dims("attention's queries")?;
    let [_, tk, _] = k.dims("attention's keys")?;
    if heads == 0 || !c.is_multiple_of(heads) || tk == 0 {
        let expected = [n, tq, c.next_multiple_of(heads.max(1)), 0];
        return Err(Error::Shape { what: "attention", expected, found: [n, tq, c, 0] });
    }
    k.expect("attention's keys", Shape::new([n, tk, c]))?;
    v.expect("attention's values", k.shape())?;
    let d = c / heads;
    // A word of two bf16 must not reach into the next head.
    let form = if form == Form::F32 || d % 2 == 1 { Form::F32 } else { Form::Bf16 };
    let out = cx.tensor(q.shape())?;
    cx.count([n, tq, tk, 2 * c]);
    // In bf16 the softmax is taken with powers of two.
    let base = if form == Form::F32 { 1.0 } else { core::f32::consts::LOG2_E };
    let scale = base / libm::sqrtf(d as f32);
    let sizes = Sizes { d, c, tk, causal, form, scale };
    cx.scratch(|cx| {
        let keys = cx.tensor(Shape::new([heads, sizes.keys_of_a_head()]))?;
        let values = cx.tensor(Shape::new([heads, sizes.values_of_a_head()]))?;
        let queries = cx.tensor_in(Shape::new([tq, c]), form)?;
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), sizes.scratch()]))?;
        if cx.is_planning() || out.is_empty() {
            return Ok(());
        }
        for sample in 0..n {
            let [q, k, v, out] = [q, k, v, out].map(|x| x.sample(sample));
            sizes.prepare(cx, [q?, k?, v?], [queries, keys, values]);
            let (isa, executor) = (cx.isa, cx.executor);
            let ([out, scratch], [queries, keys, values]) =
                cx.arena.split_bytes_two([out?, scratch], [queries, keys, values]);
            let (out, scratch) = (floats_of_mut(out), floats_of_mut(scratch));
            // Head by head: one head's keys and values stay in a core's cache.
            for first in (0..c).step_by(d) {
                let tile = [QUERIES, d];
                for_each_tile(
                    executor,
                    out,
                    c,
                    first..first + d,
                    tile,
                    scratch,
                    |tile, scratch| {
                        sizes.attend(isa, tile, queries, keys, values, scratch);
                    },
                );
            }
        }
        Ok(())
    })?;
    cx.ended(Op::Attention, out);
    Ok(out)
}

/// The sizes that all heads have in common.
#[derive(Clone, Copy)]
struct Sizes {
    /// Channels of a head.
    d: usize,
    /// Channels of all heads: from one token to the next.
    c: usize,
    tk: usize,
    causal: bool,
    form: Form,
    /// What scores are multiplied with.
    scale: f32,
}

/// A worker's memory, taken apart.
struct Scratch<'a> {
    /// `[QUERIES, KEYS]`
    scores: &'a mut [f32],
    /// The weights in the products' form, `[QUERIES, KEYS]`.
    weights: &'a mut [f32],
    /// Zeros, for rows that are not there.
    zeros: &'a mut [f32],
    /// Largest score so far, per query.
    max: &'a mut [f32],
    /// Sum of the exponentials so far, per query.
    sum: &'a mut [f32],
}

impl Sizes {
    fn per_step(&self) -> usize {
        self.form.per_step()
    }

    /// Words of a panel of keys.
    fn key_panel(&self) -> usize {
        self.form.steps(self.d) * PANEL
    }

    fn keys_of_a_head(&self) -> usize {
        self.tk.div_ceil(PANEL) * self.key_panel()
    }

    /// Words of the values of one tile of keys.
    fn value_tile(&self) -> usize {
        self.d.div_ceil(PANEL) * self.form.steps(KEYS.min(self.tk)) * PANEL
    }

    fn values_of_a_head(&self) -> usize {
        self.tk.div_ceil(KEYS) * self.value_tile()
    }

    /// f32 elements that one worker needs.
    fn scratch(&self) -> usize {
        2 * QUERIES * KEYS + KEYS.max(self.d) + 2 * QUERIES
    }

    fn take_apart<'a>(&self, scratch: &'a mut [f32]) -> Scratch<'a> {
        let (scores, rest) = scratch.split_at_mut(QUERIES * KEYS);
        let (weights, rest) = rest.split_at_mut(QUERIES * KEYS);
        let (zeros, rest) = rest.split_at_mut(KEYS.max(self.d));
        let (max, rest) = rest.split_at_mut(QUERIES);
        zeros.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        let sum = &mut rest[..QUERIES];
        sum.fill(0.0);
        Scratch { scores, weights, zeros, max, sum }
    }

    /// Packs keys and values, and scales the queries.
    fn prepare(&self, cx: &mut Context<'_>, [q, k, v]: [Tensor; 3], into: [Tensor; 3]) {
        let (isa, executor, c) = (cx.isa, cx.executor, self.c);
        let [queries, keys, values] = into;
        let (out, [q]) = cx.arena.split_bytes(queries, [q]);
        let (q, row) = (floats_of(q), queries.row_bytes());
        for_each_chunk::<_, f32>(executor, out, 64 * row, &mut [], |index, out, _| {
            let q = &q[index * 64 * c..];
            for (q, out) in q.chunks_exact(c).zip(out.chunks_exact_mut(row)) {
                self.scale_query(isa, q, out);
            }
        });
        let (out, [k]) = cx.arena.split(keys, [k]);
        let panels = self.tk.div_ceil(PANEL);
        for_each_chunk::<_, f32>(executor, out, self.key_panel(), &mut [], |index, panel, _| {
            let (head, number) = (index / panels, index % panels);
            let count = PANEL.min(self.tk - number * PANEL);
            let k = &k[number * PANEL * c + head * self.d..];
            self.pack_keys(k, count, panel);
        });
        let (out, [v]) = cx.arena.split(values, [v]);
        let tiles = self.tk.div_ceil(KEYS);
        for_each_chunk::<_, f32>(executor, out, self.value_tile(), &mut [], |index, tile, _| {
            let (head, number) = (index / tiles, index % tiles);
            let count = KEYS.min(self.tk - number * KEYS);
            let v = &v[number * KEYS * c + head * self.d..];
            let panel = self.form.steps(count) * PANEL;
            let panels = tile.chunks_exact_mut(panel).take(self.d.div_ceil(PANEL));
            for (panel, out) in panels.enumerate() {
                let columns = PANEL.min(self.d - panel * PANEL);
                self.pack_values(&v[panel * PANEL..], [count, columns], out);
            }
        });
    }

    /// A query times 1/√d, in the products' form.
    fn scale_query(&self, isa: Isa, q: &[f32], out: &mut [u8]) {
        /// Elements scaled at a time.
        const RUN: usize = 256;
        let mut run = [0.0; RUN];
        let bytes = 4 / self.per_step();
        for (q, out) in q.chunks(RUN).zip(out.chunks_mut(RUN * bytes)) {
            let run = &mut run[..q.len()];
            run.copy_from_slice(q);
            isa.scale_add_f32(run, self.scale, q, 0.0);
            match self.form {
                Form::F32 => out.copy_from_slice(bytes_of(run)),
                _ => isa.f32_to_bf16(run, out),
            }
        }
    }

    /// `count` keys of one head as a panel `[d / step, 16, step]`; those that are not there are 0.
    fn pack_keys(&self, k: &[f32], count: usize, panel: &mut [f32]) {
        if count < PANEL {
            panel.fill(0.0);
        }
        for j in 0..count {
            let key = &k[j * self.c..][..self.d];
            let column = panel[j..].iter_mut().step_by(PANEL);
            match self.form {
                Form::F32 => column.zip(key).for_each(|(to, x)| *to = *x),
                _ => column.zip(key.as_chunks::<2>().0).for_each(|(to, &pair)| *to = word(pair)),
            }
        }
    }

    /// Some `columns` of `count` values of one head as a panel `[count / step, 16, step]`.
    fn pack_values(&self, v: &[f32], [count, columns]: [usize; 2], panel: &mut [f32]) {
        panel.fill(0.0);
        let step = self.per_step();
        for (number, words) in panel.chunks_exact_mut(PANEL).enumerate() {
            let key = number * step;
            if key >= count {
                break;
            }
            let first = &v[key * self.c..][..columns];
            match self.form {
                Form::F32 => words[..columns].copy_from_slice(first),
                _ if key + 1 < count => {
                    let second = &v[(key + 1) * self.c..][..columns];
                    let pairs = first.iter().zip(second);
                    words.iter_mut().zip(pairs).for_each(|(to, (&a, &b))| *to = word([a, b]));
                }
                _ => words.iter_mut().zip(first).for_each(|(to, &a)| *to = word([a, 0.0])),
            }
        }
    }

    /// Some queries of one head against all keys.
    fn attend(
        &self,
        isa: Isa,
        mut tile: TileMut<'_>,
        queries: &[u8],
        keys: &[u8],
        values: &[u8],
        scratch: &mut [f32],
    ) {
        let place = tile.place();
        let head = place.column / self.d;
        let keys = &keys[4 * head * self.keys_of_a_head()..];
        let values = &values[4 * head * self.values_of_a_head()..];
        let mut s = self.take_apart(scratch);
        let seen = if self.causal { self.tk.min(place.row + place.rows) } else { self.tk };
        for first in (0..seen).step_by(KEYS) {
            let count = KEYS.min(self.tk - first);
            let keys = &keys[4 * (first / PANEL) * self.key_panel()..];
            self.score(isa, [place.row, place.rows], [head, count], queries, keys, &mut s);
            for row in 0..place.rows {
                let visible = match self.causal {
                    false => count,
                    true => count.min((place.row + row + 1).saturating_sub(first)),
                };
                let weights = &mut s.weights[row * KEYS..][..KEYS];
                let scores = &mut s.scores[row * KEYS..][..KEYS];
                let (max, sum) = (&mut s.max[row], &mut s.sum[row]);
                let rescale = match self.form {
                    Form::F32 => {
                        let scores = &mut scores[..count];
                        let rescale = online_softmax(isa, scores, visible, max, sum);
                        weights[..count].copy_from_slice(scores);
                        rescale
                    }
                    _ => {
                        let padded = count.next_multiple_of(PANEL);
                        scores[visible..padded].fill(f32::NEG_INFINITY);
                        let weights = &mut bytes_of_mut(weights)[..2 * padded];
                        online_softmax_bf16(isa, &scores[..padded], weights, max, sum)
                    }
                };
                if first > 0 && rescale != 1.0 {
                    tile.row(row).iter_mut().for_each(|out| *out *= rescale);
                }
            }
            let values = &values[4 * (first / KEYS) * self.value_tile()..];
            self.add_values(isa, &mut tile, first > 0, count, values, &s);
        }
        for row in 0..place.rows {
            let share = 1.0 / s.sum[row];
            tile.row(row).iter_mut().for_each(|out| *out *= share);
        }
    }

    /// Bytes of a row of weights.
    const WEIGHTS_ROW: usize = 4 * KEYS;

    fn arithmetic(&self) -> Arithmetic {
        self.form.into()
    }

    /// The scores of a tile's queries with the packed keys.
    fn score(
        &self,
        isa: Isa,
        [first, rows]: [usize; 2],
        [head, count]: [usize; 2],
        queries: &[u8],
        keys: &[u8],
        s: &mut Scratch<'_>,
    ) {
        let mr = isa.tile_rows()[isa.tile_panels() - 1];
        let size = 4 / self.per_step();
        let steps = self.form.steps(self.d);
        let row_bytes = self.form.row_bytes(self.c);
        let mut out = s.scores.chunks_exact_mut(KEYS);
        for row in (0..rows).step_by(mr) {
            let rows = mr.min(rows - row);
            let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
            for (r, offset) in offsets.iter_mut().enumerate().take(rows) {
                *offset = (first + row + r) * row_bytes + head * self.d * size;
            }
            let mut out: [&mut [f32]; MR_MAX] = core::array::from_fn(|r| match r < rows {
                true => out.next().map_or(&mut [][..], |row| &mut row[..count]),
                false => &mut [][..],
            });
            let zeros = bytes_of(s.zeros);
            let gather = Gather {
                data: queries,
                zeros,
                offsets: &offsets,
                taps: 1,
                steps,
                row_bytes: 4 * steps,
            };
            let panels = Panels { data: keys, scales: &[], gate: None };
            isa.product(self.arithmetic(), &gather, &panels, &mut plain(&mut out[..rows], false));
        }
    }

    /// Adds the packed values, weighted, to the tile.
    fn add_values(
        &self,
        isa: Isa,
        tile: &mut TileMut<'_>,
        accumulate: bool,
        count: usize,
        values: &[u8],
        s: &Scratch<'_>,
    ) {
        let mr = isa.tile_rows()[isa.tile_panels() - 1];
        let steps = self.form.steps(count);
        let (rows_of_tile, columns) = (tile.place().rows, tile.place().columns);
        for row in (0..rows_of_tile).step_by(mr) {
            let rows = mr.min(rows_of_tile - row);
            let mut offsets = [NO_ROW; MAX_TAPS * MR_MAX];
            for (r, offset) in offsets.iter_mut().enumerate().take(rows) {
                *offset = (row + r) * Self::WEIGHTS_ROW;
            }
            let (data, zeros) = (bytes_of(s.weights), bytes_of(s.zeros));
            let gather =
                Gather { data, zeros, offsets: &offsets, taps: 1, steps, row_bytes: 4 * steps };
            let panels = Panels { data: values, scales: &[], gate: None };
            let mut out: [&mut [f32]; MR_MAX] = tile.rows(row, 0..columns);
            isa.product(
                self.arithmetic(),
                &gather,
                &panels,
                &mut plain(&mut out[..rows], accumulate),
            );
        }
    }
}

/// Sums that go where they are told, as they are.
fn plain<'a, 'r>(out: &'r mut [&'a mut [f32]], accumulate: bool) -> Finish<'a, 'r> {
    Finish { out, bias: None, residual: None, accumulate, activation: None }
}

/// Two bf16 in the bytes of an f32, the first in the lower half.
fn word([first, second]: [f32; 2]) -> f32 {
    f32::from_bits(u32::from(to_bf16(second)) << 16 | u32::from(to_bf16(first)))
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
    let largest = isa.max_f32(seen, *max);
    let rescale = if *max == f32::NEG_INFINITY { 0.0 } else { libm::expf(*max - largest) };
    *sum = *sum * rescale + isa.exp_sub_sum_f32(seen, largest);
    *max = largest;
    rescale
}

/// The same in bf16: `weights` are the exponentials, and scores of negative infinity have none.
fn online_softmax_bf16(
    isa: Isa,
    scores: &[f32],
    weights: &mut [u8],
    max: &mut f32,
    sum: &mut f32,
) -> f32 {
    let [largest, more] = isa.softmax_bf16(scores, *max, weights);
    let rescale = match *max {
        f32::NEG_INFINITY => 0.0,
        max if max == largest => 1.0,
        max => libm::exp2f(max - largest),
    };
    *sum = *sum * rescale + more;
    *max = largest;
    rescale
}
