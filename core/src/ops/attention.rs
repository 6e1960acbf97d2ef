//! Scaled dot-product attention (Vaswani et al. 2017) in tiles, with the softmax kept up as the
//! keys go by (Milakov and Gimelshein 2018; Dao et al. 2022): there is never a matrix of all
//! scores.

use super::context::Context;
use super::convert::{to_form, write_rows};
use super::gemm::in_panel;
use super::observe::Op;
use super::params::Attention;
use super::tape::Record;
use crate::arch::{Attend, Isa, KEYS};
use crate::error::{Error, Result};
use crate::exec::{TileMut, even_share, for_each_chunk, for_each_tile};
use crate::mem::{bytes_of, bytes_of_mut, floats_of, floats_of_mut};
use crate::tensor::{Form, PANEL, Shape, Tensor};

/// Channels of the result that are transposed at a time, at most: with 16 queries, no more than a
/// tile's weights.
const CHANNELS: usize = KEYS / 2;

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
    cx.record(|| Record::Attention { q, k, v, attention, out })?;
    cx.count([n, tq, tk, 2 * c]);
    let (queries, few_key_bytes) = (cx.isa.attend_queries(), cx.limits.few_key_bytes);
    let sizes = Sizes { d, c, tk, causal, form, queries, few_key_bytes };
    cx.working(|cx| {
        let values = cx.tensor(Shape::new([heads, sizes.values_of_a_head()]))?;
        let scratch = cx.tensor(Shape::new([cx.executor.workers(), sizes.scratch()]))?;
        for sample in 0..n {
            let [q, k, v, out] = [q, k, v, out].map(|x| x.sample(sample));
            cx.working(|cx| {
                let k = if form == Form::F32 { k? } else { sizes.keys_of_heads(cx, k?)? };
                if cx.is_planning() || q?.is_empty() {
                    return Ok(());
                }
                sizes.transpose_values(cx, v?, [values, scratch]);
                let (isa, executor) = (cx.isa, cx.executor);
                let ([out, scratch], [q, k, values]) =
                    cx.arena.split_bytes_two([out?, scratch], [q?, k, values]);
                let (out, scratch) = (floats_of_mut(out), floats_of_mut(scratch));
                let sources = Sources { q: floats_of(q), k, values };
                // So many heads at a time that their keys and values stay in a core's cache.
                let step = d * (cx.limits.attended_bytes / sizes.bytes_of_a_head().max(1)).max(1);
                for first in (0..c).step_by(step) {
                    let (tile, heads) = ([sizes.queries, d], first..c.min(first + step));
                    for_each_tile(executor, out, c, heads, tile, scratch, |tile, scratch| {
                        sizes.attend(isa, tile, sources, scratch);
                    });
                }
                Ok(())
            })?;
        }
        Ok(())
    })?;
    cx.ended(Op::Attention, out);
    Ok(out)
}

/// One sample's queries, keys in the products' form, and transposed values.
#[derive(Clone, Copy)]
struct Sources<'a> {
    q: &'a [f32],
    k: &'a [u8],
    values: &'a [u8],
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
    /// Queries in one task.
    queries: usize,
    /// [`Limits::few_key_bytes`](super::Limits::few_key_bytes)
    few_key_bytes: usize,
}

impl Sizes {
    /// Words of one row of a tile of transposed values.
    fn value_row(&self) -> usize {
        KEYS / self.form.per_step()
    }

    fn values_of_a_head(&self) -> usize {
        self.tk.div_ceil(KEYS).saturating_mul(self.d).saturating_mul(self.value_row())
    }

    /// Bytes of a head's keys and values.
    fn bytes_of_a_head(&self) -> usize {
        4 * (self.values_of_a_head() + self.tk * self.form.steps(self.d))
    }

    /// f32 elements that one worker needs: queries, weights, the transposed result, sums.
    fn scratch(&self) -> usize {
        let words = 2usize.saturating_mul(self.d).saturating_add(KEYS + 1);
        words.saturating_mul(self.queries)
    }

    /// Keys in the products' form, `[heads, tk, d]`: what belongs to a head lies together, so that
    /// a core's cache holds nothing else. A few stay rows.
    fn keys_of_heads(&self, cx: &mut Context<'_>, k: Tensor) -> Result<Tensor> {
        let Self { d, c, tk, form, .. } = *self;
        if self.keys_are_rows() {
            return to_form(cx, k, form);
        }
        let out = cx.tensor_in(Shape::new([c / d.max(1), tk, d]), form)?;
        if cx.is_planning() || out.is_empty() {
            return Ok(out);
        }
        let (isa, row) = (cx.isa, form.row_bytes(d));
        let (to, [k]) = cx.arena.split_bytes(out, [k]);
        let k = floats_of(k);
        let rows = even_share(cx.executor, to.len() / row, cx.limits.converted_bytes / row);
        for_each_chunk::<_, f32>(cx.executor, to, rows * row, &mut [], |index, to, _| {
            for (number, to) in (index * rows..).zip(to.chunks_exact_mut(row)) {
                let (head, key) = (number / tk, number % tk);
                write_rows(isa, form, &k[key * c + head * d..][..d], d, to);
            }
        });
        cx.ended(Op::Convert, out);
        Ok(out)
    }

    /// Whether the keys of all heads lie side by side, as they come.
    fn keys_are_rows(&self) -> bool {
        let bytes = self.tk.saturating_mul(self.form.row_bytes(self.c));
        self.form == Form::F32 || bytes <= self.few_key_bytes
    }

    /// Bytes from key to key, and from head to head.
    fn key_strides(&self) -> [usize; 2] {
        let of_a_head = self.form.row_bytes(self.d);
        match self.keys_are_rows() {
            true => [self.form.row_bytes(self.c), of_a_head],
            false => [of_a_head, self.tk * of_a_head],
        }
    }

    /// Values of each head as `[tiles of KEYS, d, KEYS]`, with zeros after the last.
    fn transpose_values(&self, cx: &mut Context<'_>, v: Tensor, [values, scratch]: [Tensor; 2]) {
        let (isa, tiles, Self { c, d, .. }) = (cx.isa, self.tk.div_ceil(KEYS), *self);
        let (tile, row) = (d * self.value_row(), self.value_row());
        let ([out, scratch], [v]) = cx.arena.split_two([values, scratch], [v]);
        for_each_chunk(cx.executor, out, tile, scratch, |index, out, scratch| {
            let (head, first) = (index / tiles, index % tiles * KEYS);
            let count = KEYS.min(self.tk - first);
            let v = &v[first * c + head * d..][..(count - 1) * c + d];
            if count < KEYS {
                out.fill(0.0);
            }
            if self.form == Form::F32 {
                return transpose(isa, v, c, [count, d], out, row);
            }
            // Two keys a word, some channels at a time.
            for (start, width) in blocks(d) {
                let words = &mut scratch[..count.div_ceil(2) * width];
                let v = &v[start..][..(count - 1) * c + width];
                isa.bf16_pairs(v, c, width, bytes_of_mut(words));
                let shape = [words.len() / width, width];
                transpose(isa, words, width, shape, &mut out[start * row..], row);
            }
        });
    }

    /// Some queries of one head against all keys.
    fn attend(&self, isa: Isa, mut tile: TileMut<'_>, from: Sources<'_>, scratch: &mut [f32]) {
        let (place, Self { d, c, queries, .. }) = (tile.place(), *self);
        let (panels, rest) = scratch.split_at_mut(queries * self.form.steps(d));
        let (weights, rest) = rest.split_at_mut(queries * self.value_row());
        let (out, rest) = rest.split_at_mut(queries * d);
        let sums = &mut rest[..queries];
        let q = &from.q[place.row * c + place.column..];
        self.pack_queries(isa, q, place.rows, panels, out);
        let (head, [key_stride, head_stride]) = (place.column / d, self.key_strides());
        isa.attend(&mut Attend {
            arithmetic: self.form.into(),
            queries: bytes_of(panels),
            steps: self.form.steps(d),
            keys: &from.k[head * head_stride..],
            key_stride,
            values: &from.values[4 * head * self.values_of_a_head()..],
            tk: self.tk,
            causal: self.causal,
            first_query: place.row,
            weights: bytes_of_mut(weights),
            out,
            sums,
        });
        // Some channels at a time, in the memory that the weights no longer need.
        for first in (0..place.rows).step_by(PANEL) {
            for channel in (0..d).step_by(CHANNELS) {
                let width = CHANNELS.min(d - channel);
                let rows = &mut weights[..PANEL * width];
                isa.transpose_f32(&out[channel * queries + first..], queries, width, rows, width);
                let rows = (first..place.rows).zip(rows.chunks_exact(width));
                for (row, values) in rows {
                    let share = 1.0 / sums[row];
                    let to = &mut tile.row(row)[channel..channel + width];
                    to.iter_mut().zip(values).for_each(|(to, x)| *to = x * share);
                }
            }
        }
    }

    /// `count` queries of one head, scaled, as panels `[queries/16, d / step, 16, step]`.
    fn pack_queries(
        &self,
        isa: Isa,
        q: &[f32],
        count: usize,
        panels: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (Self { c, d, form, .. }, steps) = (*self, self.form.steps(self.d));
        let scale = core::f32::consts::LOG2_E / libm::sqrtf(d as f32);
        for (number, panel) in panels.chunks_exact_mut(steps * PANEL).enumerate() {
            let first = number * PANEL;
            let rows = PANEL.min(count.saturating_sub(first));
            let scaled = |columns: &mut [f32]| {
                if rows < PANEL {
                    columns.fill(0.0);
                }
                if rows > 0 {
                    let q = &q[first * c..][..(rows - 1) * c + d];
                    transpose(isa, q, c, [rows, d], columns, PANEL);
                }
                columns.iter_mut().for_each(|x| *x *= scale);
            };
            match form {
                Form::F32 => {
                    scaled(panel);
                    panel.iter_mut().for_each(|x| *x = in_panel(*x));
                }
                _ => {
                    let columns = &mut scratch[..d * PANEL];
                    scaled(columns);
                    isa.bf16_pairs(columns, PANEL, PANEL, bytes_of_mut(panel));
                }
            }
        }
    }
}

/// Blocks of 16 of `d` columns, the last of which may overlap the one before; where there are fewer
/// than 16, one of all.
fn blocks(d: usize) -> impl Iterator<Item = (usize, usize)> {
    let width = d.min(PANEL);
    (0..d).step_by(PANEL).map(move |start| (start.min(d - width), width))
}

/// `[rows, columns]` with rows that are `stride` apart, transposed: `columns` rows that are `pitch`
/// apart.
fn transpose(
    isa: Isa,
    from: &[f32],
    stride: usize,
    [rows, columns]: [usize; 2],
    to: &mut [f32],
    pitch: usize,
) {
    for (start, width) in blocks(columns) {
        if width == PANEL {
            isa.transpose_f32(&from[start..], stride, rows, &mut to[start * pitch..], pitch);
            continue;
        }
        for (r, row) in from.chunks(stride).take(rows).enumerate() {
            row[..width].iter().enumerate().for_each(|(column, x)| to[column * pitch + r] = *x);
        }
    }
}
