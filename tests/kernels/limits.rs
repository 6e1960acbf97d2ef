//! Every op whose work is cut, at limits so small that sizes of a few rows and columns meet every
//! cut, remainder and band: the same bits as with the default limits and one thread, which cut
//! nothing at such sizes, and what a plain loop gives. Weights of every packing, 1 to 7 threads, in
//! place and streamed, in exactly the planned memory.
//!
//! Numbers are small integers where sums of them are exact: there the plain loop gives the same
//! bits.

use mote::Result;
use mote::arch::Isa;
use mote::exec::Sequential;
use mote::nn::{
    Conv, Norm, ResnetBlock2d, Transformer2d, conv2d_in_bands_replacing, resnet_block_2d,
    resnet_block_2d_in_bands, resnet_block_2d_replacing, transformer_2d_replacing,
};
use mote::ops::{self, Activation, Attention, Context, Conv2d, Epilogue, GroupNorm, Limits};
use mote::tensor::packed::{DOUBLED, Sizes, doubled_row};
use mote::tensor::{Form, Joined, Packing, Shape, Tensor};
use mote::weights::Path;
use mote_tests::{
    Choices, TestWeights, Threads, assert_close, best_isa, numbers, run_with, small_limits,
};

use crate::bands::push_norm;
use crate::plain::{self, narrow, wide};

/// Ways to cut the work of each case.
const WAYS: usize = 3;

/// How a product's weight is packed; `None`: as in a plain checkpoint.
const PACKINGS: [Option<Packing>; 5] =
    [None, Some(Packing::F32), Some(Packing::Bf16), Some(Packing::Q8), Some(Packing::Q4)];

const FORMS: [Form; 3] = [Form::F32, Form::Bf16, Form::Q8];

const NORM: Norm = Norm { groups: 2, eps: 1e-5 };

/// What a walk should give.
enum Expected {
    /// Just these values.
    Exactly(Vec<f32>),
    /// These, up to so much of each.
    Nearly(Vec<f32>, f32),
    /// Whatever it gives uncut.
    TheSame,
}

/// One case: its choices, weights and what it is.
struct Case {
    choices: Choices,
    weights: TestWeights,
    what: String,
}

impl Case {
    /// A size: often small, seldom one more than a panel or a few tiles.
    fn size(&mut self) -> usize {
        let size = self.choices.pick(&[1, 1, 2, 3, 5, 8, 16, 17, 33, 40]);
        self.what += &format!(" {size}");
        size
    }

    /// Integers from `-most` to `most`.
    fn integers(&mut self, count: usize, most: usize) -> Vec<f32> {
        (0..count).map(|_| self.choices.below(2 * most + 1) as f32 - most as f32).collect()
    }

    /// One of these, and says which.
    fn pick<T: Copy + std::fmt::Debug>(&mut self, from: &[T]) -> T {
        let picked = self.choices.pick(from);
        self.what += &format!(" {picked:?}");
        picked
    }

    /// Adds a product's weight and gives its values.
    fn matrix(&mut self, name: &str, packing: Option<Packing>, dims: &[usize]) -> Vec<f32> {
        let values = self.integers(dims.iter().product(), 3);
        match packing {
            None => self.weights.push(name, dims, &values),
            Some(packing) => self.weights.push_packed(name, packing, dims, &values),
        }
        values
    }

    /// Adds a vector and gives its values.
    fn vector(&mut self, name: &str, len: usize) -> Vec<f32> {
        let values = self.integers(len, 9);
        self.weights.push(name, &[len], &values);
        values
    }

    /// Checks a walk: uncut it gives what is expected, and cut in some ways the same bits.
    fn check(mut self, expected: &Expected, walk: impl Fn(&mut Context<'_>) -> Result<Tensor>) {
        let what = &self.what;
        for isa in [Isa::SCALAR, best_isa()] {
            self.weights.staged = false;
            let weights = &mut self.weights;
            let uncut = run_with(&Limits::DEFAULT, isa, &Sequential, weights, &walk);
            match expected {
                Expected::Exactly(values) => assert!(uncut.1 == *values, "{what} on {isa:?}"),
                Expected::Nearly(values, tolerance) => {
                    assert_close(what, &uncut.1, values, *tolerance);
                }
                Expected::TheSame => {}
            }
            for way in 0..WAYS {
                let threads = [1, 2, 3, 7][(way + self.choices.below(2)) % 4];
                let limits = small_limits(&mut self.choices);
                self.weights.staged = self.choices.flag();
                let weights = &mut self.weights;
                let cut = run_with(&limits, isa, &Threads(threads), weights, &walk);
                assert_eq!(cut.0, uncut.0, "{what}");
                let is_same = cut.1.iter().zip(&uncut.1).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(is_same, "{what} on {isa:?}, {threads} threads, cut at {limits:?}");
            }
        }
    }
}

/// As many cases, of one sequence.
fn cases(seed: u64, count: u64) -> impl Iterator<Item = Case> {
    (0..count).map(move |number| {
        let mut choices = Choices::new(seed << 32 | number);
        choices.below(1);
        let what = format!("case {number}:");
        Case { choices, weights: TestWeights::default(), what }
    })
}

/// What a product of sums `[exact]`, over `k` factors of up to `most` each, should give: in f32 and
/// bf16 sums of integers are exact; of eight and four bits a factor is off by half a step.
fn expected(packing: Option<Packing>, exact: Vec<f32>, k: usize, most: f32) -> Expected {
    let step = match packing {
        None | Some(Packing::Plain | Packing::F32 | Packing::Bf16) => {
            return Expected::Exactly(exact);
        }
        Some(Packing::Q8) => 0.01,
        Some(Packing::Q4) => 0.16,
    };
    Expected::Nearly(exact, step * k as f32 * most)
}

fn matrix<const N: usize>(
    cx: &mut Context<'_>,
    name: &str,
    dims: [usize; N],
) -> Result<ops::Matrix> {
    cx.matrix(&Path::root().at(name), dims)
}

#[test]
fn a_product_is_a_plain_loop_wherever_it_is_cut() {
    for mut case in cases(1, 60) {
        let packing = case.pick(&PACKINGS);
        let [m, k, n] = [case.pick(&[0, 1, 2, 7, 33, 50]), case.size(), case.size()];
        let w = case.matrix("w", packing, &[n, k]);
        let bias = case.vector("bias", n);
        let (x, residual) = (case.integers(2 * m * k, 4), case.integers(2 * m * n, 9));
        let shift = case.integers(2 * n, 9);
        let (adds, relu) = (case.choices.flag(), case.choices.flag());
        let exact = (0..2 * m * n).map(|i| {
            let (row, column) = (i / n, i % n);
            let pairs = x[row * k..][..k].iter().zip(&w[column * k..][..k]);
            let mut sum = bias[column] + pairs.map(|(a, b)| a * b).sum::<f32>();
            sum += residual[i];
            if !adds {
                sum += shift[row / m * n + column];
            }
            if relu && !adds { sum.max(0.0) } else { sum }
        });
        let expected = expected(packing, exact.collect(), k, 12.0);
        case.check(&expected, |cx| {
            let x = ops::fill(cx, Shape::new([2, m, k]), &x)?;
            let residual = ops::fill(cx, Shape::new([2, m, n]), &residual)?;
            let per_sample = Some(ops::fill(cx, Shape::new([2, n]), &shift)?);
            let bias = cx.weight(&Path::root().at("bias"), [n])?;
            let w = matrix(cx, "w", [n, k])?;
            if adds {
                let epilogue = Epilogue { accumulate: true, ..Epilogue::NONE };
                ops::linear_into(cx, x, w, Some(bias), epilogue, residual)?;
                return Ok(residual);
            }
            let activation = relu.then_some(Activation::Relu);
            let residual = Some(residual);
            let epilogue = Epilogue { residual, per_sample, activation, ..Epilogue::NONE };
            ops::linear(cx, x, w, Some(bias), epilogue)
        });
    }
}

#[test]
fn a_gated_product_is_the_same_wherever_it_is_cut() {
    for mut case in cases(2, 30) {
        let packing = case.pick(&PACKINGS);
        let (m, k) = (case.pick(&[1, 2, 7, 33, 50]), case.size());
        let n = case.pick(&[2, 32, 64, 96, 160]);
        case.matrix("w", packing, &[n, k]);
        case.vector("bias", n);
        let x = numbers(3, m * k);
        case.check(&Expected::TheSame, |cx| {
            let x = ops::fill(cx, Shape::new([m, k]), &x)?;
            let bias = cx.weight(&Path::root().at("bias"), [n])?;
            let w = matrix(cx, "w", [n, k])?;
            ops::linear(cx, x, w, Some(bias), Epilogue { geglu: true, ..Epilogue::NONE })
        });
    }
}

/// A convolution as loops.
fn plain_conv(x: &[f32], dims: [usize; 4], weight: &[f32], bias: &[f32], conv: Conv2d) -> Vec<f32> {
    narrow(plain::conv2d(&wide(x), dims, &wide(weight), &wide(bias), conv))
}

/// A convolution that keeps, halves, doubles or otherwise resizes a picture of this size.
fn any_conv(case: &mut Case, [h, w]: [usize; 2]) -> Conv2d {
    let same = Conv2d::padded(3, 1);
    match case.pick(&["same", "same", "one tap", "halved", "doubled", "resized"]) {
        "same" => same,
        "one tap" => Conv2d::padded(1, 0),
        "halved" if h > 1 && w > 1 => Conv2d { stride: 2, padding: [0, 1, 0, 1], ..same },
        "halved" => Conv2d { stride: 2, ..same },
        "doubled" => Conv2d { upsample_to: Some([2 * h, 2 * w]), ..same },
        _ => Conv2d { upsample_to: Some([h + h.div_ceil(2), w + 3]), ..same },
    }
}

#[test]
fn a_convolution_is_a_plain_loop_wherever_it_is_cut() {
    for mut case in cases(3, 70) {
        let packing = case.pick(&PACKINGS);
        let [n, h, w] = [case.pick(&[1, 1, 2]), case.pick(&[1, 2, 5, 13]), case.pick(&[1, 3, 8])];
        // To a few channels from many, taps become columns.
        let (ci, co) = (case.size(), case.pick(&[1, 3, 4, 5, 17, 40]));
        let conv = any_conv(&mut case, [h, w]);
        let [kh, kw] = conv.kernel;
        let weight = case.matrix("w", packing, &[co, ci, kh, kw]);
        let bias = case.vector("bias", co);
        let x = case.integers(n * h * w * ci, 4);
        let exact = plain_conv(&x, [n, h, w, ci], &weight, &bias, conv);
        let expected = expected(packing, exact, kh * kw * ci, 12.0);
        case.check(&expected, |cx| {
            let x = ops::fill(cx, Shape::new([n, h, w, ci]), &x)?;
            let weight = matrix(cx, "w", [co, ci, kh, kw])?;
            let bias = cx.weight(&Path::root().at("bias"), [co])?;
            ops::conv2d(cx, x, weight, Some(bias), conv, Epilogue::NONE)
        });
    }
}

#[test]
fn a_convolution_in_bands_is_a_plain_loop_wherever_it_is_cut() {
    for mut case in cases(4, 70) {
        let packing = case.pick(&PACKINGS);
        let [n, h, w] = [case.pick(&[1, 1, 2]), case.pick(&[2, 5, 13]), case.pick(&[1, 3, 8])];
        let (ci, co) = (2 * case.pick(&[1, 2, 4, 9, 16]), case.pick(&[1, 3, 4, 5, 17, 40]));
        let slide = match any_conv(&mut case, [h, w]) {
            // Resized to another size than twice its own, it may not grow.
            Conv2d { upsample_to: Some(to), .. } if to != [2 * h, 2 * w] => Conv2d::padded(3, 1),
            slide => slide,
        };
        let mut layer = Conv::new(co, slide.kernel[0]);
        if slide.stride == 2 {
            layer = layer.halving(slide.padding);
        }
        if let Some(size) = slide.upsample_to {
            layer = layer.upsample_to(size);
        }
        let (is_normed, k) = (case.pick(&[false, true]), slide.kernel[0]);
        let weight = case.matrix("conv.weight", packing, &[co, ci, k, k]);
        let bias = case.vector("conv.bias", co);
        case.vector("norm.weight", ci);
        case.vector("norm.bias", ci);
        let x = case.integers(n * h * w * ci, 4);
        let exact = plain_conv(&x, [n, h, w, ci], &weight, &bias, slide);
        let expected = match is_normed {
            true => Expected::TheSame,
            false => expected(packing, exact, k * k * ci, 12.0),
        };
        case.check(&expected, |cx| {
            let x = ops::fill(cx, Shape::new([n, h, w, ci]), &x)?;
            let (root, norm) = (Path::root(), NORM.then_silu());
            let (norm, conv) = (is_normed.then(|| (root.at("norm"), norm)), root.at("conv"));
            conv2d_in_bands_replacing(cx, norm, &conv, x, layer)
        });
    }
}

#[test]
fn a_doubled_convolution_is_a_plain_loop_wherever_it_is_cut() {
    for mut case in cases(5, 80) {
        let packing = case.pick(&Packing::PACKED);
        let [n, h, w] = [case.pick(&[1, 1, 2]), case.pick(&[1, 3, 8, 13]), case.pick(&[1, 3, 8])];
        let (ci, co) = (case.pick(&[1, 2, 5, 16, 33]), case.pick(&[1, 3, 5, 17, 40, 70]));
        let size = [2 * h - case.pick(&[0, 1]), 2 * w - case.pick(&[0, 1])];
        let (kernel, bias) = push_doubled(&mut case, packing, [ci, co]);
        let x = case.integers(n * h * w * ci, 4);
        let conv = Conv2d { upsample_to: Some(size), ..Conv2d::padded(3, 1) };
        let exact = plain_conv(&x, [n, h, w, ci], &kernel, &bias, conv);
        // Differences of four pixels and sums of up to nine weights.
        let expected = expected(Some(packing), exact, DOUBLED * ci, 16.0 * 27.0);
        let in_place = size[1] * co >= w * ci && case.pick(&[false, true, true]);
        case.check(&expected, |cx| {
            let x = ops::fill(cx, Shape::new([n, h, w, ci]), &x)?;
            if in_place {
                let layer = Conv::new(co, 3).upsample_to(size);
                return conv2d_in_bands_replacing(cx, None, &Path::root().at("conv"), x, layer);
            }
            let weight = matrix(cx, "conv.weight", [co, ci, 3, 3])?;
            let bias = cx.weight(&Path::root().at("conv.bias"), [co])?;
            ops::conv2d(cx, x, weight, Some(bias), conv, Epilogue::NONE)
        });
    }
}

/// Adds the weight and bias of a convolution, packed doubled, and gives the kernel and the bias.
fn push_doubled(case: &mut Case, packing: Packing, [ci, co]: [usize; 2]) -> (Vec<f32>, Vec<f32>) {
    let kernel = case.integers(co * ci * DOUBLED, 3);
    let sizes = Sizes { n: co, channels: ci, taps: DOUBLED }.doubled();
    let mut rows = vec![0.0; sizes.n * ci];
    for (number, row) in rows.chunks_exact_mut(ci).enumerate() {
        let (product, channel) = (number / (sizes.n / DOUBLED), number % (sizes.n / DOUBLED));
        if let Some(kernel) = kernel.chunks_exact(ci * DOUBLED).nth(channel) {
            doubled_row(kernel, product, row);
        }
    }
    case.weights.push_packed("conv.weight", packing, &[sizes.n, ci], &rows);
    (kernel, case.vector("conv.bias", co))
}

#[test]
fn a_doubled_convolution_in_bands_of_any_number_of_lines_is_a_plain_loop() {
    for (number, packing) in (0..4).flat_map(|number| Packing::PACKED.map(|p| (number, p))) {
        let mut case = cases(13, 4).nth(number).expect("four cases");
        let (h, w, [ci, co]) = (9, 1 + number, [2, [5, 35][number % 2]]);
        let (kernel, bias) = push_doubled(&mut case, packing, [ci, co]);
        let x = case.integers(h * w * ci, 4);
        let conv = Conv2d { upsample_to: Some([2 * h, 2 * w]), ..Conv2d::padded(3, 1) };
        let is_exact = matches!(packing, Packing::F32 | Packing::Bf16);
        let exact = || plain_conv(&x, [1, h, w, ci], &kernel, &bias, conv);
        let mut expected = is_exact.then(exact);
        // The whole picture first.
        for (lines, threads) in (1..=h).rev().flat_map(|lines| [1, 2, 3, 7].map(|t| (lines, t))) {
            let limits = Limits { band_pixels: 4 * w * lines, ..Limits::DEFAULT };
            let (isa, weights) = (best_isa(), &mut case.weights);
            let (_, found) = run_with(&limits, isa, &Threads(threads), weights, |cx| {
                let x = ops::fill(cx, Shape::new([1, h, w, ci]), &x)?;
                let layer = Conv::new(co, 3).upsample_to([2 * h, 2 * w]);
                conv2d_in_bands_replacing(cx, None, &Path::root().at("conv"), x, layer)
            });
            let expected = expected.get_or_insert_with(|| found.clone());
            assert!(found == *expected, "{packing:?}, {w} wide, {lines} lines, {threads} threads");
        }
    }
}

#[test]
fn a_shortcut_of_two_tensors_is_a_plain_loop_wherever_it_is_cut() {
    for mut case in cases(6, 40) {
        let packing = case.pick(&PACKINGS);
        let (h, w, n) = (case.pick(&[1, 3, 9]), case.pick(&[1, 2, 7]), case.size());
        let [a, b] = [case.size(), case.pick(&[0, 1, 2, 16, 17])];
        let (m, k) = (h * w, a + b);
        let weight = case.matrix("w", packing, &[n, k, 1, 1]);
        let bias = case.vector("bias", n);
        let x = case.integers(m * k, 4);
        let exact = plain_conv(&x, [1, h, w, k], &weight, &bias, Conv2d::padded(1, 0));
        let expected = expected(packing, exact, k, 12.0);
        let part = |first: usize, count: usize| -> Vec<f32> {
            x.chunks_exact(k).flat_map(|row| row[first..first + count].to_vec()).collect()
        };
        let parts = [part(0, a), part(a, b)];
        case.check(&expected, |cx| {
            let x = ops::fill(cx, Shape::new([1, h, w, a]), &parts[0])?;
            let y = ops::fill(cx, Shape::new([1, h, w, b]), &parts[1])?;
            let joined = if b > 0 { Joined::pair(x, y)? } else { x.into() };
            let weight = matrix(cx, "w", [n, k, 1, 1])?;
            let bias = cx.weight(&Path::root().at("bias"), [n])?;
            let out = cx.tensor(Shape::new([1, h, w, n]))?;
            ops::pointwise_conv2d_into(cx, joined, weight, Some(bias), out)?;
            Ok(out)
        });
    }
}

#[test]
fn attention_is_a_plain_loop_wherever_it_is_cut() {
    for mut case in cases(7, 30) {
        let (heads, d) = (case.pick(&[1, 2, 3, 5]), case.pick(&[1, 2, 7, 16, 40]));
        let [n, tq, tk] = [case.pick(&[1, 2]), case.size(), case.pick(&[1, 7, 33, 96, 97, 200])];
        let form = case.pick(&[Form::F32, Form::Bf16]);
        let causal = case.pick(&[false, true]);
        let c = heads * d;
        let [q, k, v] = [(1, tq), (2, tk), (3, tk)].map(|(seed, t)| numbers(seed, n * t * c));
        let [wide_q, wide_k, wide_v] = [&q, &k, &v].map(|values| wide(values));
        let sizes = [n, tq, tk, c];
        let plain = narrow(plain::attention([&wide_q, &wide_k, &wide_v], sizes, heads, causal));
        let tolerance = if form == Form::F32 { 1e-5 } else { 2e-2 };
        case.check(&Expected::Nearly(plain, tolerance), |cx| {
            let q = ops::fill(cx, Shape::new([n, tq, c]), &q)?;
            let k = ops::fill(cx, Shape::new([n, tk, c]), &k)?;
            let v = ops::fill(cx, Shape::new([n, tk, c]), &v)?;
            ops::attention(cx, q, k, v, Attention { heads, causal, form })
        });
    }
}

#[test]
fn normalisations_are_the_same_wherever_they_are_cut() {
    let kinds = ["group", "two tensors", "in place", "layer", "concat"];
    for mut case in cases(8, 80) {
        let (kind, form) = (case.pick(&kinds), case.pick(&FORMS));
        let (n, pixels, c) = (case.pick(&[1, 2]), case.size() * 3, 2 * case.size());
        let skip = if kind == "two tensors" || kind == "concat" { case.size() * 2 } else { 0 };
        let all = c + skip;
        let (norm, activation) = (Path::root(), case.pick(&[None, Some(Activation::Silu)]));
        case.weights.push("w", &[all], &numbers(4, all));
        let (x, y) = (numbers(5, n * pixels * c), numbers(6, n * pixels * skip));
        let shift = numbers(7, n * 2 * all);
        case.check(&Expected::TheSame, |cx| {
            let x = ops::fill(cx, Shape::new([n, pixels, c]), &x)?;
            let y = ops::fill(cx, Shape::new([n, pixels, skip]), &y)?;
            let shift = ops::fill(cx, Shape::new([n, 2 * all]), &shift)?;
            let weight = cx.weight(&norm.at("w"), [all])?;
            let scale_shift = Some(shift);
            let norm = GroupNorm { groups: 2, eps: 1e-5, scale_shift, activation, form };
            let out = match kind {
                "group" => ops::group_norm(cx, x, weight, weight, norm)?,
                "two tensors" => ops::group_norm(cx, Joined::pair(x, y)?, weight, weight, norm)?,
                "in place" => ops::group_norm_replacing(cx, x, weight, weight, norm)?,
                "layer" => ops::layer_norm(cx, x, weight, weight, 1e-5, form)?,
                _ => ops::concat(cx, x, y, form)?,
            };
            if out.form() == Form::F32 { Ok(out) } else { ops::to_form(cx, out, Form::F32) }
        });
    }
}

#[test]
fn moments_of_any_blocks_are_those_of_all_pixels() {
    for mut case in cases(9, 40) {
        let (pixels, size) = (case.size() * case.size(), case.pick(&[1, 3, 8]));
        let (groups, c) = (2, 2 * size);
        case.weights.push("w", &[c], &vec![1.0; c]);
        case.weights.push("b", &[c], &vec![0.0; c]);
        // A large mean, which costs no precision.
        let x: Vec<f32> = numbers(8, pixels * c).iter().map(|x| x + 100.0).collect();
        let mut plain = vec![0.0; x.len()];
        for group in 0..groups {
            let member = |i: usize| i / size * c + group * size + i % size;
            let all = || (0..pixels * size).map(|i| f64::from(x[member(i)]));
            let count = (pixels * size) as f64;
            let mean = all().sum::<f64>() / count;
            let variance = all().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            for i in 0..pixels * size {
                let x = f64::from(x[member(i)]);
                plain[member(i)] = ((x - mean) / (variance + 1e-3).sqrt()) as f32;
            }
        }
        for threads in [1, 2, 3, 7] {
            let (moment_blocks, moment_pixels) =
                (case.choices.pick(&[1, 2, 5, 64]), case.choices.pick(&[1, 3, 10, 32]));
            let limits = small_limits(&mut case.choices);
            let limits = Limits { moment_blocks, moment_pixels, ..limits };
            let mut of = |threads| {
                let (isa, weights) = (best_isa(), &mut case.weights);
                run_with(&limits, isa, &Threads(threads), weights, |cx| {
                    let x = ops::fill(cx, Shape::new([1, pixels, c]), &x)?;
                    let weight = cx.weight(&Path::root().at("w"), [c])?;
                    let bias = cx.weight(&Path::root().at("b"), [c])?;
                    let (eps, scale_shift, activation, form) = (1e-3, None, None, Form::F32);
                    let norm = GroupNorm { groups, eps, scale_shift, activation, form };
                    ops::group_norm(cx, x, weight, bias, norm)
                })
            };
            let found = of(threads);
            assert!(found == of(1), "{threads} threads change no bit: {limits:?}");
            assert_close(&format!("{limits:?}"), &found.1, &plain, 1e-3);
        }
    }
}

/// What an op of one element makes of x and y, as a loop; `None` where it is none of those.
fn plain_elements(kind: &str, x: &[f32], y: &[f32], c: usize) -> Option<Vec<f32>> {
    let each = |of: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
        x.iter().zip(y).map(|(x, y)| of(*x, *y)).collect()
    };
    match kind {
        "sum" => Some(each(&|x, y| x + y)),
        "scale" => Some(each(&|x, _| x * 2.0 + 3.0)),
        "terms" => Some(each(&|x, y| 2.0 * x + 3.0 * y + x)),
        "relu" => Some(each(&|x, _| x.max(0.0))),
        "slice" | "slice in place" => {
            Some(x.chunks_exact(c).flat_map(|row| row[c / 2..].to_vec()).collect())
        }
        "slide" => Some(y.to_vec()),
        "bf16 and back" => Some(x.to_vec()),
        _ => None,
    }
}

#[test]
fn ops_of_one_element_are_plain_loops_wherever_they_are_cut() {
    let kinds =
        ["sum", "scale", "terms", "relu", "gelu", "slice", "slice in place", "slide", "geglu"];
    let kinds = [&kinds[..], &["bf16 and back", "eight bits and back"]].concat();
    for mut case in cases(10, 100) {
        let (kind, rows, c) = (case.pick(&kinds), case.size() * case.size(), 2 * case.size());
        let (x, y) = (case.integers(rows * c, 9), case.integers(rows * c, 9));
        let expected = match plain_elements(kind, &x, &y, c) {
            Some(plain) => Expected::Exactly(plain),
            None if kind == "eight bits and back" => Expected::Nearly(x.clone(), 0.05),
            None => Expected::TheSame,
        };
        case.check(&expected, |cx| {
            let x = ops::fill(cx, Shape::new([rows, c]), &x)?;
            let y_of = |cx: &mut Context<'_>| ops::fill(cx, Shape::new([rows, c]), &y);
            match kind {
                "sum" => y_of(cx).and_then(|y| ops::add_in_place(cx, x, y))?,
                "scale" => ops::scale_shift_in_place(cx, x, 2.0, 3.0)?,
                "terms" => {
                    let y = y_of(cx)?;
                    let first = ops::slice_channels(cx, x, 0, c)?;
                    ops::scale_add_in_place(cx, x, 2.0, &[(y, 3.0), (first, 1.0)])?;
                }
                "relu" => return ops::activate(cx, x, Activation::Relu),
                "gelu" => return ops::activate(cx, x, Activation::Gelu),
                "slice" => return ops::slice_channels(cx, x, c / 2, c / 2),
                "slice in place" => return ops::slice_channels_in_place(cx, x, c / 2, c / 2),
                // Over what lies before it, which is shorter than it is.
                "slide" => {
                    return cx.scope(|cx| {
                        cx.tensor(Shape::new([rows.div_ceil(3), c]))?;
                        y_of(cx)
                    });
                }
                "geglu" => return ops::geglu(cx, x),
                "bf16 and back" => {
                    let rows = ops::to_form(cx, x, Form::Bf16)?;
                    return ops::to_form(cx, rows, Form::F32);
                }
                _ => {
                    let rows = ops::to_form(cx, x, Form::Q8)?;
                    return ops::to_form(cx, rows, Form::F32);
                }
            }
            Ok(x)
        });
    }
}

/// Adds the weights of a layer `[n, k]` or `[n, k, kernel, kernel]` and its bias.
fn push_layer(case: &mut Case, name: &str, packing: Option<Packing>, dims: &[usize], bias: bool) {
    let scale = 1.0 / dims[1..].iter().product::<usize>() as f32;
    let values = numbers(name.len() as u32, dims.iter().product());
    let values: Vec<f32> = values.iter().map(|x| x * scale.sqrt()).collect();
    let weight = format!("{name}.weight");
    match packing {
        None => case.weights.push(&weight, dims, &values),
        Some(packing) => case.weights.push_packed(&weight, packing, dims, &values),
    }
    if bias {
        case.weights.push(&format!("{name}.bias"), &[dims[0]], &numbers(7, dims[0]));
    }
}

#[test]
fn a_resnet_is_the_same_wherever_it_is_cut() {
    let kinds = ["whole", "replacing", "in bands"];
    for mut case in cases(11, 40) {
        let (kind, packing) = (case.pick(&kinds), case.pick(&PACKINGS));
        let [n, h, w] = [case.pick(&[1, 2]), case.pick(&[1, 5, 9]), case.pick(&[1, 4, 7])];
        let [c, channels] =
            case.pick(&[[6, 6], [12, 6], [16, 6], [10, 6], [6, 8], [40, 40], [34, 16]]);
        push_norm(&mut case.weights, "norm1", c);
        push_norm(&mut case.weights, "norm2", channels);
        push_layer(&mut case, "conv1", packing, &[channels, c, 3, 3], true);
        push_layer(&mut case, "conv2", packing, &[channels, channels, 3, 3], true);
        push_layer(&mut case, "conv_shortcut", packing, &[channels, c, 1, 1], true);
        let x = numbers(1, n * h * w * c);
        let block = ResnetBlock2d { channels, norm: NORM, time: None, output_scale_factor: 1.0 };
        case.check(&Expected::TheSame, |cx| {
            let x = ops::fill(cx, Shape::new([n, h, w, c]), &x)?;
            let root = Path::root();
            match kind {
                "whole" => resnet_block_2d(cx, &root, x, block),
                "replacing" => resnet_block_2d_replacing(cx, &root, x, block),
                _ => resnet_block_2d_in_bands(cx, &root, x, channels, NORM.then_silu()),
            }
        });
    }
}

#[test]
fn a_transformer_is_the_same_wherever_it_is_cut() {
    for mut case in cases(12, 15) {
        let (packing, heads) = (case.pick(&PACKINGS), case.pick(&[1, 2, 4]));
        let [n, h, w] = [case.pick(&[1, 2]), case.pick(&[1, 5]), case.pick(&[1, 9])];
        let (c, tokens, width) = (case.pick(&[16, 40]), case.pick(&[1, 7]), 12);
        push_norm(&mut case.weights, "norm", c);
        push_layer(&mut case, "proj_in", packing, &[c, c, 1, 1], true);
        push_layer(&mut case, "proj_out", packing, &[c, c, 1, 1], true);
        let block = "transformer_blocks.0";
        for (name, from) in [("attn1", c), ("attn2", width)] {
            for (layer, k) in [("to_q", c), ("to_k", from), ("to_v", from)] {
                let name = format!("{block}.{name}.{layer}");
                push_layer(&mut case, &name, packing, &[c, k], false);
            }
            push_layer(&mut case, &format!("{block}.{name}.to_out.0"), packing, &[c, c], true);
        }
        for name in ["norm1", "norm2", "norm3"] {
            push_norm(&mut case.weights, &format!("{block}.{name}"), c);
        }
        push_layer(&mut case, &format!("{block}.ff.net.0.proj"), packing, &[8 * c, c], true);
        push_layer(&mut case, &format!("{block}.ff.net.2"), packing, &[c, 4 * c], true);
        let (x, states) = (numbers(1, n * h * w * c), numbers(2, n * tokens * width));
        case.check(&Expected::TheSame, |cx| {
            let states = ops::fill(cx, Shape::new([n, tokens, width]), &states)?;
            let x = ops::fill(cx, Shape::new([n, h, w, c]), &x)?;
            let model = Transformer2d {
                layers: 1,
                heads,
                groups: 2,
                encoder_hidden_states: states,
                use_linear_projection: false,
                only_cross_attention: false,
            };
            transformer_2d_replacing(cx, &Path::root(), x, model)
        });
    }
}

#[test]
#[should_panic(expected = "a limit is at least 1")]
fn a_limit_of_nothing_is_a_mistake_that_is_caught() {
    let limits = Limits { doubled_run: 0, ..Limits::DEFAULT };
    let mut weights = TestWeights::default();
    run_with(&limits, Isa::SCALAR, &Sequential, &mut weights, |cx| {
        ops::fill(cx, Shape::new([0]), &[])
    });
}
