//! Attention against a plain loop in f64: the kernel on every instruction set this machine has, and
//! the op in both of its forms.

use half::bf16;
use mote::arch::{Arithmetic, Attend, Isa, KEYS};
use mote::exec::{Executor, Sequential};
use mote::ops::{self, Attention};
use mote::tensor::{Form, PANEL, Shape};
use mote_tests::{Choices, TestWeights, Threads, isas, run};

/// One head of queries, keys and values.
struct Head {
    tq: usize,
    tk: usize,
    d: usize,
    causal: bool,
    /// What the scores are multiplied with.
    scale: f64,
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
}

/// What a query's output may be: the weighted mean of the values, and the same with magnitudes.
struct Mean {
    value: f64,
    magnitude: f64,
}

impl Head {
    /// The mean of one query and channel, by the definition.
    fn mean(&self, query: usize, channel: usize) -> Mean {
        let seen = if self.causal { self.tk.min(query + 1) } else { self.tk };
        let row = |x: &[f64], i: usize| x[i * self.d..][..self.d].to_vec();
        let q = row(&self.q, query);
        let score = |key: usize| {
            let k = row(&self.k, key);
            q.iter().zip(&k).map(|(a, b)| a * b).sum::<f64>() * self.scale
        };
        let scores: Vec<f64> = (0..seen).map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        let values = (0..seen).map(|key| self.v[key * self.d + channel]);
        let weighted = weights.iter().zip(values).map(|(weight, v)| weight * v / total);
        let (value, magnitude) = (weighted.clone().sum(), weighted.map(f64::abs).sum());
        Mean { value, magnitude }
    }
}

/// Elements as words of f32, the machine's own, or pairs of bf16 with a zero after an odd last one.
fn words(is_bf16: bool, x: &[f64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = match is_bf16 {
        false => x.iter().flat_map(|&x| (x as f32).to_ne_bytes()).collect(),
        true => x.iter().flat_map(|&x| bf16::from_f64(x).to_le_bytes()).collect(),
    };
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Numbers that the form holds exactly.
fn numbers(choices: &mut Choices, is_bf16: bool, len: usize, size: f32) -> Vec<f64> {
    let number = |choices: &mut Choices| match choices.between(-size, size) {
        x if is_bf16 => bf16::from_f32(x).to_f64(),
        x => f64::from(x),
    };
    (0..len).map(|_| number(choices)).collect()
}

/// What the kernel makes of one head, whose queries are the first of a block or follow others:
/// `[queries, d]` divided by the sums.
fn attended(isa: Isa, is_bf16: bool, head: &Head, first_query: usize) -> Vec<f32> {
    let Head { tk, d, .. } = *head;
    let (count, step) = (isa.attend_queries(), if is_bf16 { 2 } else { 1 });
    let steps = d.div_ceil(step);
    let mut queries = vec![0; 4 * count * steps];
    for query in 0..count.min(head.tq - first_query) {
        let row = &head.q[(first_query + query) * d..][..d];
        for (i, word) in words(is_bf16, row).chunks_exact(4).enumerate() {
            let at = (query / PANEL * steps + i) * PANEL + query % PANEL;
            queries[4 * at..][..4].copy_from_slice(word);
            if cfg!(target_endian = "big") && !is_bf16 {
                // Queries are panels, which are little-endian everywhere.
                queries[4 * at..][..4].reverse();
            }
        }
    }
    // Between two keys lies what must not be looked at.
    let key_stride = 4 * steps + 3;
    let mut keys = Vec::new();
    for key in head.k.chunks_exact(d) {
        keys.extend(words(is_bf16, key));
        keys.extend([0xFF; 3]);
    }
    let mut values = Vec::new();
    for first in (0..tk).step_by(KEYS) {
        for channel in 0..d {
            let column = (first..first + KEYS).map(|key| head.v.get(key * d + channel));
            let column: Vec<f64> = column.map(|x| x.copied().unwrap_or(0.0)).collect();
            values.extend(words(is_bf16, &column));
        }
    }
    let mut weights = vec![0xFF; 4 * count * KEYS / step];
    let (mut out, mut sums) = (vec![f32::NAN; d * count], vec![f32::NAN; count]);
    isa.attend(&mut Attend {
        arithmetic: if is_bf16 { Arithmetic::Bf16 } else { Arithmetic::F32 },
        queries: &queries,
        steps,
        keys: &keys,
        key_stride,
        values: &values,
        tk,
        causal: head.causal,
        first_query,
        weights: &mut weights,
        out: &mut out,
        sums: &mut sums,
    });
    let queries = 0..count.min(head.tq - first_query);
    queries
        .flat_map(|q| (0..d).map(move |c| (q, c)))
        .map(|(q, c)| out[c * count + q] / sums[q])
        .collect()
}

/// A head whose scores are to base 2, as the kernel takes them.
fn head(choices: &mut Choices, is_bf16: bool, [tq, tk, d]: [usize; 3], causal: bool) -> Head {
    let size = (60.0 / d as f32).sqrt();
    let [q, k] = [tq, tk].map(|t| numbers(choices, is_bf16, t * d, size));
    let v = numbers(choices, is_bf16, tk * d, 1.0);
    Head { tq, tk, d, causal, scale: core::f64::consts::LN_2, q, k, v }
}

/// How far from the mean a kernel may be, for each unit of magnitude: the weights are rounded to
/// f32, or to the eight bits of bf16.
const fn rounding(is_bf16: bool) -> f64 {
    if is_bf16 { 1.0 / 256.0 } else { 1e-5 }
}

fn check(isa: Isa, is_bf16: bool, head: &Head, first_query: usize) {
    let found = attended(isa, is_bf16, head, first_query);
    for (at, &found) in found.iter().enumerate() {
        let (query, channel) = (first_query + at / head.d, at % head.d);
        let Mean { value, magnitude } = head.mean(query, channel);
        let limit = rounding(is_bf16) * magnitude + 1e-30;
        let Head { tq, tk, d, causal, .. } = *head;
        assert!(
            (f64::from(found) - value).abs() <= limit,
            "{isa:?}, bf16 {is_bf16}, {tq}x{tk}x{d}, causal {causal}: [{query}, {channel}] \
             {found}, not {value} ± {limit}"
        );
    }
}

#[test]
fn a_block_of_queries_sees_all_keys_or_those_before_it() {
    for (isa, is_bf16) in isas().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
        let mut choices = Choices::new(1);
        let count = isa.attend_queries();
        let tks = [1, 2, 3, 11, 12, 13, 16, 17, KEYS - 1, KEYS, KEYS + 1, 2 * KEYS + 5, 333];
        for tk in tks {
            for d in [1, 2, 3, 8, 15, 40, 64, 65] {
                // The kernel takes whole words.
                let d = if is_bf16 { d + d % 2 } else { d };
                for causal in [false, true] {
                    let blocks = if causal { tk.div_ceil(count) } else { 1 };
                    let block = choices.below(blocks);
                    let rows = 1 + choices.below(count);
                    let tq = block * count + rows;
                    let head = head(&mut choices, is_bf16, [tq, tk, d], causal);
                    check(isa, is_bf16, &head, block * count);
                }
            }
        }
    }
}

#[test]
fn scores_may_rise_and_fall_without_end() {
    // Keys whose scores rise by much at each, fall by much, or do both.
    let slopes: [fn(usize) -> f64; 5] = [
        |key| key as f64 * 20.0,
        |key| key as f64 * -20.0,
        |key| if key % 50 == 49 { key as f64 * 8.0 } else { 0.0 },
        |key| key as f64 * 0.5,
        |key| if key == 0 { -1000.0 } else { 1000.0 },
    ];
    for (isa, is_bf16) in isas().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
        for (slope, causal) in slopes.into_iter().flat_map(|slope| [(slope, false), (slope, true)])
        {
            let mut choices = Choices::new(2);
            let (tq, tk, d) = (isa.attend_queries(), 250, 2);
            let mut head = head(&mut choices, is_bf16, [tq, tk, d], causal);
            for (key, k) in head.k.chunks_exact_mut(d).enumerate() {
                k[0] = bf16::from_f64(slope(key)).to_f64();
                k[1] = 0.0;
            }
            head.q.chunks_exact_mut(d).for_each(|q| q[0] = 1.0);
            check(isa, is_bf16, &head, 0);
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for (isa, is_bf16) in isas().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
        for key in 0..30 {
            let mut head = head(&mut Choices::new(3), is_bf16, [20, 30, 4], false);
            head.k[4 * key] = f64::NAN;
            let found = attended(isa, is_bf16, &head, 0);
            assert!(found.iter().all(|x| x.is_nan()), "key {key} on {isa:?}, bf16 {is_bf16}");
        }
        let mut head = head(&mut Choices::new(4), is_bf16, [3, 30, 4], false);
        head.q[5] = f64::NAN;
        let found = attended(isa, is_bf16, &head, 0);
        for (query, row) in found.chunks_exact(4).enumerate() {
            assert!(row.iter().all(|x| x.is_nan() == (query == 1)), "{isa:?}, bf16 {is_bf16}");
        }
    }
}

/// The op's result for some samples and heads, whatever the number of threads.
fn computed(isa: Isa, form: Form, sizes: [usize; 5], causal: bool, qkv: [&[f32]; 3]) -> Vec<f32> {
    let [n, tq, tk, heads, d] = sizes;
    let mut first: Option<Vec<f32>> = None;
    let executors: [&dyn Executor; 4] = [&Sequential, &Threads(2), &Threads(3), &Threads(7)];
    for executor in executors {
        let (shape, found) = run(isa, executor, &mut TestWeights::default(), |cx| {
            let shapes = [tq, tk, tk].map(|t| Shape::new([n, t, heads * d]));
            let [q, k, v] = [0, 1, 2].map(|i| ops::fill(cx, shapes[i], qkv[i]));
            ops::attention(cx, q?, k?, v?, Attention { heads, causal, form })
        });
        assert_eq!(shape, [n, tq, heads * d]);
        let first = first.get_or_insert_with(|| found.clone());
        assert!(first.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
    first.unwrap_or_default()
}

#[test]
fn exact_attention_is_the_same_on_every_instruction_set() {
    let mut choices = Choices::new(6);
    for (form, causal) in [Form::F32, Form::Bf16].map(|form| [(form, false), (form, true)]).concat()
    {
        for (tk, size) in [(1, 1.0), (13, 1.0), (100, 9.0), (333, 3.0), (500, 30.0)] {
            let (heads, d) = (2, 24);
            let mut numbers = |t: usize| -> Vec<f32> {
                (0..t * heads * d).map(|_| choices.between(-size, size)).collect()
            };
            let (q, k, v) = (numbers(tk), numbers(tk), numbers(tk));
            let computed = |isa| computed(isa, form, [1, tk, tk, heads, d], causal, [&q, &k, &v]);
            let expected = computed(Isa::SCALAR);
            assert!(expected.iter().all(|x| x.is_finite()));
            for isa in isas() {
                let found = computed(isa.exact());
                let differ =
                    found.iter().zip(&expected).filter(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(differ.count(), 0, "{isa:?} {form:?} causal {causal}, {tk} keys");
            }
        }
    }
}

#[test]
fn attention_is_a_softmax_over_the_keys_in_either_form() {
    let cases = [
        // n, tq, tk, heads, d
        ([1, 1, 1, 1, 4], false),
        ([2, 7, 77, 2, 5], false),
        ([1, 130, 130, 1, 40], false),
        ([1, 50, 300, 2, 64], false),
        ([2, 33, 129, 3, 8], false),
        ([1, 200, 200, 2, 5], true),
        ([2, 97, 97, 2, 6], true),
        ([1, 77, 77, 3, 64], true),
    ];
    for (sizes, causal) in cases {
        let [n, tq, tk, heads, d] = sizes;
        let c = heads * d;
        let mut choices = Choices::new(5);
        let mut numbers = |len: usize, size: f32| -> Vec<f32> {
            (0..len).map(|_| choices.between(-size, size)).collect()
        };
        let (q, k, v) =
            (numbers(n * tq * c, 3.0), numbers(n * tk * c, 1.0), numbers(n * tk * c, 1.0));
        for (isa, form) in isas().into_iter().flat_map(|isa| [(isa, Form::F32), (isa, Form::Bf16)])
        {
            let found = computed(isa, form, sizes, causal, [&q, &k, &v]);
            for (sample, h) in (0..n).flat_map(|sample| (0..heads).map(move |h| (sample, h))) {
                let part = |x: &[f32], t: usize| -> Vec<f64> {
                    let rows = x[sample * t * c..][..t * c].chunks_exact(c);
                    rows.flat_map(|row| &row[h * d..][..d]).map(|&x| f64::from(x)).collect()
                };
                let (q, k, v) = (part(&q, tq), part(&k, tk), part(&v, tk));
                let head = Head { tq, tk, d, causal, scale: 1.0 / (d as f64).sqrt(), q, k, v };
                for (query, channel) in (0..tq).flat_map(|q| (0..d).map(move |c| (q, c))) {
                    let Mean { value, magnitude } = head.mean(query, channel);
                    let found = f64::from(found[(sample * tq + query) * c + h * d + channel]);
                    // In bf16 queries, keys, weights and values are rounded, each to eight bits.
                    let rounding = if form == Form::F32 { 1e-5 } else { 0.02 };
                    assert!(
                        (found - value).abs() <= rounding * magnitude + 1e-7,
                        "{isa:?} {form:?} {sizes:?}: {found}, not {value} of {magnitude}"
                    );
                }
            }
        }
    }
}
