//! Backwards through attention: weights are computed anew, a block of queries at a time (Dao et al.
//! 2022, appendix B, without its tiles of keys).
//!
//! With P = softmax(q·kᵀ/√d) and the gradient dO of the result P·v: `dv = Pᵀ·dO`, `dP = dO·vᵀ`,
//! `dS = P∘(dP − rowsum(P∘dP))/√d`, `dq = dS·k`, `dk = dSᵀ·q`. A task is a head of a sample, so
//! that no sum is split.

use super::Mirror;
use super::product::Left;
use crate::arch::Isa;
use crate::error::Result;
use crate::exec::for_each_chunk;
use crate::ops::context::Context;
use crate::ops::params::Attention;
use crate::tensor::{PANEL, Shape, Tensor};

pub(super) fn attention(
    cx: &mut Context<'_>,
    [q, k, v]: [Tensor; 3],
    attention: Attention,
    out: Tensor,
    mirror: &Mirror,
) -> Result<()> {
    let [n, tq, c] = q.dims("attention's queries")?;
    let [_, tk, _] = k.dims("attention's keys")?;
    let Attention { heads, causal, .. } = attention;
    let queries = cx.limits.query_panels * PANEL;
    let head = Head { d: c / heads, c, tq, tk, causal, queries };
    let results = cx.tensor(Shape::new([n, heads, head.results()]))?;
    let scratch = cx.tensor(Shape::new([cx.executor.workers(), head.scratch()]))?;
    cx.count([n, tq, tk, 5 * c]);
    if cx.is_planning() || q.is_empty() {
        return Ok(());
    }
    let dy = mirror.of_result(out)?;
    let (isa, size) = (cx.isa, head.results());
    let ([to, scratch], [q_in, k_in, v_in, dy]) =
        cx.arena.split_two([results, scratch], [q, k, v, dy]);
    for_each_chunk(cx.executor, to, size, scratch, |index, to, scratch| {
        let (sample, first) = (index / heads, index % heads * head.d);
        let [q, dy] = [q_in, dy].map(|x| &x[sample * tq * c + first..]);
        let [k, v] = [k_in, v_in].map(|x| &x[sample * tk * c + first..]);
        head.backward(isa, [q, k, v, dy], to, scratch);
    });
    let width = head.width();
    let mut start = 0;
    for (x, tokens) in [(q, tq), (k, tk), (v, tk)] {
        if let Some(dx) = mirror.of(x)? {
            let (dx, [results]) = cx.arena.split(dx, [results]);
            for_each_chunk::<_, f32>(cx.executor, dx, c, &mut [], |row, dx, _| {
                let (sample, token) = (row / tokens, row % tokens);
                for (number, dx) in dx.chunks_exact_mut(head.d).enumerate() {
                    let from = (sample * heads + number) * size + start + token * width;
                    dx.iter_mut().zip(&results[from..]).for_each(|(dx, x)| *dx += x);
                }
            });
        }
        start += tokens * width;
    }
    Ok(())
}

/// The sizes of a head.
#[derive(Clone, Copy)]
struct Head {
    d: usize,
    c: usize,
    tq: usize,
    tk: usize,
    causal: bool,
    /// Queries in a block: whole panels.
    queries: usize,
}

impl Head {
    /// Channels in whole panels.
    fn width(&self) -> usize {
        self.d.next_multiple_of(PANEL)
    }

    /// Keys in whole panels.
    fn keys(&self) -> usize {
        self.tk.next_multiple_of(PANEL)
    }

    /// Elements of the gradients of queries, keys and values, in rows of whole panels.
    fn results(&self) -> usize {
        (self.tq + 2 * self.tk) * self.width()
    }

    fn scratch(&self) -> usize {
        // Keys and values across, keys along; a block's queries and gradients; its weights, their
        // gradients, and one of them transposed; sums of whole panels.
        2 * self.d * self.keys()
            + self.tk * self.width()
            + 2 * self.queries * self.width()
            + 3 * self.queries * self.keys()
    }

    fn backward(
        &self,
        isa: Isa,
        [q, k, v, dy]: [&[f32]; 4],
        results: &mut [f32],
        scratch: &mut [f32],
    ) {
        let Self { d, c, tq, tk, queries, .. } = *self;
        let (width, keys) = (self.width(), self.keys());
        let (keys_across, rest) = scratch.split_at_mut(d * keys);
        let (values_across, rest) = rest.split_at_mut(d * keys);
        let (keys_along, rest) = rest.split_at_mut(tk * width);
        let (queries_along, rest) = rest.split_at_mut(queries * width);
        let (dy_along, rest) = rest.split_at_mut(queries * width);
        let (weights, rest) = rest.split_at_mut(queries * keys);
        let (scores, rest) = rest.split_at_mut(queries * keys);
        let turned = &mut rest[..queries * keys];
        self.across(k, keys_across);
        self.across(v, values_across);
        self.along(k, tk, keys_along);
        results.fill(0.0);
        let (dq, rest) = results.split_at_mut(tq * width);
        let (dk, dv) = rest.split_at_mut(tk * width);
        for first in (0..tq).step_by(queries) {
            let count = queries.min(tq - first);
            let rows = |data| Left { data, row: c, first: first * c, steps: d };
            rows(q).multiply(isa, keys_across, weights, count, keys, false);
            rows(dy).multiply(isa, values_across, scores, count, keys, false);
            self.softmax(isa, first, &mut weights[..count * keys]);
            self.along(&q[first * c..], count, queries_along);
            self.along(&dy[first * c..], count, dy_along);
            let turn = |from: &[f32], to: &mut [f32]| {
                for key in (0..keys).step_by(PANEL) {
                    let to = &mut to[key * queries..];
                    isa.transpose_f32(&from[key..], keys, count, to, queries);
                }
            };
            turn(weights, turned);
            let left = Left { data: &*turned, row: queries, first: 0, steps: count };
            left.multiply(isa, self.panels(dy_along, count), dv, tk, width, true);
            self.score_gradients(weights, &mut scores[..count * keys]);
            turn(scores, turned);
            let left = Left { data: &*turned, row: queries, first: 0, steps: count };
            left.multiply(isa, self.panels(queries_along, count), dk, tk, width, true);
            let left = Left { data: &*scores, row: keys, first: 0, steps: tk };
            left.multiply(isa, keys_along, &mut dq[first * width..], count, width, false);
        }
    }

    /// Rows of keys as panels of keys: `[keys/16, d, 16]`.
    fn across(&self, x: &[f32], to: &mut [f32]) {
        to.fill(0.0);
        for token in 0..self.tk {
            let to = &mut to[token / PANEL * self.d * PANEL + token % PANEL..];
            let from = &x[token * self.c..][..self.d];
            to.iter_mut().step_by(PANEL).zip(from).for_each(|(to, x)| *to = *x);
        }
    }

    /// `count` rows as panels of channels: `[width/16, count, 16]`.
    fn along(&self, x: &[f32], count: usize, to: &mut [f32]) {
        to.fill(0.0);
        for (panel, to) in to.chunks_mut(count * PANEL).take(self.width() / PANEL).enumerate() {
            let channels = PANEL.min(self.d - panel * PANEL);
            for (token, to) in to.chunks_exact_mut(PANEL).enumerate() {
                let from = &x[token * self.c + panel * PANEL..][..channels];
                to[..channels].copy_from_slice(from);
            }
        }
    }

    /// The panels that [`Head::along`] has made of `count` rows.
    fn panels<'a>(&self, along: &'a [f32], count: usize) -> &'a [f32] {
        &along[..self.width() * count]
    }

    /// The weights of a block of queries, from their products with the keys; 0 where a key is not
    /// seen.
    fn softmax(&self, isa: Isa, first: usize, rows: &mut [f32]) {
        let scale = 1.0 / libm::sqrtf(self.d as f32);
        for (query, row) in rows.chunks_exact_mut(self.keys()).enumerate() {
            let seen = if self.causal { self.tk.min(first + query + 1) } else { self.tk };
            let (seen, unseen) = row.split_at_mut(seen);
            unseen.fill(0.0);
            seen.iter_mut().for_each(|x| *x *= scale);
            let most = isa.max_f32(seen, f32::NEG_INFINITY);
            let share = 1.0 / isa.exp_sub_sum_f32(seen, most);
            seen.iter_mut().for_each(|x| *x *= share);
        }
    }

    /// The gradients of the scores, from those of the weights.
    fn score_gradients(&self, weights: &[f32], gradients: &mut [f32]) {
        let (keys, scale) = (self.keys(), 1.0 / libm::sqrtf(self.d as f32));
        for (p, dp) in weights.chunks_exact(keys).zip(gradients.chunks_exact_mut(keys)) {
            let mut sums = [0.0; PANEL];
            for (p, dp) in p.as_chunks::<PANEL>().0.iter().zip(dp.as_chunks::<PANEL>().0) {
                sums.iter_mut().zip(p).zip(dp).for_each(|((sum, p), dp)| *sum += p * dp);
            }
            let sum: f32 = sums.iter().sum();
            dp.iter_mut().zip(p).for_each(|(dp, p)| *dp = p * (*dp - sum) * scale);
        }
    }
}
