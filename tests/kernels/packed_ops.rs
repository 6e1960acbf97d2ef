//! Products with packed weights out of a checkpoint, against a loop in f64 over what the packed
//! weights stand for: in place and streamed, whatever the number of threads.

use half::bf16;
use mote::arch::{Activation, Isa};
use mote::exec::Executor;
use mote::mem::Arena;
use mote::ops::{self, Context, Conv2d, Epilogue, GroupNorm, Limits};
use mote::tensor::packed::{DOUBLED, Panel, Sizes, doubled_row, unpack_panel};
use mote::tensor::{DType, Form, Joined, PANEL, Packing, Shape, Tensor};
use mote::weights::{
    InPlace, Index, Part, Parts, Path, ReadAt, Slot, Streamed, Weights, header_bytes,
};
use mote::{Error, Result};
use mote_tests::{
    Choices, TestWeights, Threads, best_isa, isas, numbers, run, run_with, small_limits,
};

/// How far a sum in f32 may be from the true one, for each unit of the sum of all magnitudes.
const ROUNDING: f64 = 4e-7;

/// A checkpoint that lies somewhere in memory.
struct File {
    bytes: Vec<u8>,
    /// Where it begins: also at odd addresses, as nothing in a file is aligned.
    begin: usize,
}

impl File {
    fn new(weights: &TestWeights, begin: usize) -> Self {
        let mut bytes = vec![0; begin];
        bytes.extend(weights.file());
        Self { bytes, begin }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }

    /// Runs `test` with the checkpoint's weights, in place or streamed.
    fn open<T>(&self, streamed: bool, test: impl FnOnce(&mut dyn Weights) -> T) -> T {
        let (file, len) = (self.bytes(), self.bytes().len() as u64);
        let header = &file[header_bytes(file, len).expect("a good header")];
        let mut slots = vec![Slot::EMPTY; Index::count(header).expect("a good header")];
        let index = Index::parse(header, len, &mut slots).expect("a good header");
        match streamed {
            false => test(&mut InPlace::new(index, file)),
            true => test(&mut Streamed::new(index, Reader(file))),
        }
    }
}

/// Bytes that pretend to be far away.
struct Reader<'a>(&'a [u8]);

impl ReadAt for Reader<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> bool {
        let found = self.0.get(offset as usize..offset as usize + out.len());
        found.map(|bytes| out.copy_from_slice(bytes)).is_some()
    }
}

/// What a packed weight `[n, channels, taps]` stands for; it must be near what was packed.
fn stood_for(weights: &TestWeights, packing: Packing, sizes: Sizes, packed: &[f32]) -> Vec<f32> {
    let data = weights.bytes("w");
    let groups = if weights.has("w.groups") { weights.bytes("w.groups") } else { &[] };
    let scales = if weights.has("w.scale") { weights.f32("w.scale") } else { Vec::new() };
    let mut values = vec![0.0; sizes.n * sizes.channels * sizes.taps];
    let (row, count) = (sizes.channels * sizes.taps, sizes.panels());
    for (number, out) in values.chunks_mut(PANEL * row).enumerate() {
        let of = |bytes: &[u8]| bytes.len() / count * number..bytes.len() / count * (number + 1);
        let scales_of = scales.len() / count;
        let panel = Panel {
            data: &data[of(data)],
            scales: &scales[scales_of * number..][..scales_of],
            groups: &groups[of(groups)],
        };
        unpack_panel(packing, sizes, number * PANEL, panel, out);
    }
    for (found, packed) in values.chunks(row).zip(packed.chunks(row)) {
        let largest = packed.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        let limit = match packing {
            Packing::Plain | Packing::F32 => 0.0,
            Packing::Bf16 => largest / 256.0,
            Packing::Q8 => largest * 0.501 / 127.0,
            Packing::Q4 => largest * 1.01 / 7.0,
        };
        assert!(found.iter().zip(packed).all(|(a, b)| (a - b).abs() <= limit), "{packing:?}");
    }
    values
}

/// What rows of `c` channels stand for in a form.
fn in_form(form: Form, x: &[f32], c: usize) -> Vec<f64> {
    match form {
        Form::F32 => x.iter().map(|&x| f64::from(x)).collect(),
        Form::Bf16 => x.iter().map(|&x| bf16::from_f32(x).to_f64()).collect(),
        Form::Q8 => {
            let row_bytes = form.row_bytes(c);
            let mut rows = vec![0; x.len() / c * row_bytes];
            Isa::SCALAR.quantise_rows(x, c, &mut rows);
            let number = |row: &[u8], q: u8| {
                let (scale, zero) = row[row.len() - 8..].split_at(4);
                let scale = f32::from_le_bytes(scale.try_into().unwrap());
                let zero = i32::from_le_bytes(zero.try_into().unwrap());
                f64::from(scale) * f64::from(i32::from(q) - zero)
            };
            let rows = rows.chunks_exact(row_bytes);
            rows.flat_map(|row| row[..c].iter().map(move |&q| number(row, q))).collect()
        }
    }
}

/// A sum and the sum of the magnitudes in it.
#[derive(Clone, Copy, Default)]
struct Sum([f64; 2]);

impl Sum {
    fn add(&mut self, x: f64) {
        self.0 = [self.0[0] + x, self.0[1] + x.abs()];
    }
}

/// A walk with a packed weight `w`, and what must come out.
struct Case<'a> {
    what: String,
    weights: TestWeights,
    walk: &'a dyn Fn(&mut Context<'_>) -> Result<Tensor>,
    expected: Vec<Sum>,
}

impl Case<'_> {
    /// On every instruction set: near what is expected, and the same bits wherever the weights
    /// lie, wherever work is cut and whatever the number of threads.
    fn check(&self) {
        let files = [0, 1].map(|begin| File::new(&self.weights, begin));
        let mut choices = Choices::new(self.expected.len() as u64);
        for isa in isas() {
            let mut first: Option<Vec<f32>> = None;
            for (threads, streamed, file) in [1, 2, 3, 7].into_iter().flat_map(|threads| {
                [(false, 0), (false, 1), (true, 0)]
                    .map(|(streamed, file)| (threads, streamed, file))
            }) {
                let executor: &dyn Executor = &Threads(threads);
                let limits = match first {
                    None => Limits::DEFAULT,
                    Some(_) => small_limits(&mut choices),
                };
                let (_, found) = files[file]
                    .open(streamed, |weights| run_with(&limits, isa, executor, weights, self.walk));
                let place = format!("{} on {isa:?}, {threads} threads", self.what);
                match &first {
                    None => self.compare(&place, &found),
                    Some(first) => {
                        let is_same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                        let same = first.iter().zip(&found).all(is_same);
                        assert!(same, "{place}, streamed: {streamed}, {limits:?}: other bits");
                    }
                }
                first.get_or_insert(found);
            }
        }
    }

    fn compare(&self, place: &str, found: &[f32]) {
        assert_eq!(found.len(), self.expected.len(), "{place}");
        for (i, (&found, Sum([expected, size]))) in found.iter().zip(&self.expected).enumerate() {
            let limit = ROUNDING * size + 1e-12;
            let good = (f64::from(found) - expected).abs() <= limit;
            assert!(good, "{place}, number {i}: {found}, not {expected} ± {limit}");
        }
    }
}

/// Adds `w`, packed, and gives back what it stands for.
fn add_packed(weights: &mut TestWeights, packing: Packing, dims: &[usize], seed: u32) -> Vec<f32> {
    let sizes = Sizes { n: dims[0], channels: dims[1], taps: dims[2..].iter().product() };
    // Output channels of different sizes, and groups of different sizes in them.
    let mut values = numbers(seed, sizes.n * sizes.channels * sizes.taps);
    for (i, value) in values.iter_mut().enumerate() {
        let (row, channel) = (i / (sizes.channels * sizes.taps), i / sizes.taps % sizes.channels);
        *value *= (1 + row % 5) as f32 / (1 + channel / 32 % 3) as f32;
    }
    weights.push_packed("w", packing, dims, &values);
    stood_for(weights, packing, sizes, &values)
}

/// The sums of `left` `[m, k]` with `w` `[n, k]` and a bias.
fn product(left: &[f64], w: &[f32], bias: &[f32], [m, k, n]: [usize; 3]) -> Vec<Sum> {
    let mut sums = vec![Sum::default(); m * n];
    for (i, sum) in sums.iter_mut().enumerate() {
        let (row, column) = (i / n, i % n);
        sum.add(f64::from(bias[column]));
        let pairs = left[row * k..][..k].iter().zip(&w[column * k..][..k]);
        pairs.for_each(|(a, &b)| sum.add(a * f64::from(b)));
    }
    sums
}

#[test]
fn a_linear_layer_multiplies_with_what_its_packed_weight_stands_for() {
    let sizes = [
        (1, 1, 1),
        (3, 5, 7),
        (13, 31, 33),
        (50, 77, 48),
        (5, 70, 300),
        (1, 130, 16),
        (2, 5000, 600),
    ];
    for (packing, (m, k, n)) in Packing::PACKED.into_iter().flat_map(|p| sizes.map(|s| (p, s))) {
        let mut weights = TestWeights::default();
        let w = add_packed(&mut weights, packing, &[n, k], 1);
        let (x, bias, residual) = (numbers(2, m * k), numbers(3, n), numbers(4, m * n));
        weights.push("bias", &[n], &bias);
        let left = in_form(packing.form(), &x, k);
        let mut expected = product(&left, &w, &bias, [m, k, n]);
        expected.iter_mut().zip(&residual).for_each(|(sum, &x)| sum.add(f64::from(x)));
        let walk = |cx: &mut Context<'_>| {
            let x = ops::fill(cx, Shape::new([m, k]), &x)?;
            let residual = Some(ops::fill(cx, Shape::new([m, n]), &residual)?);
            let matrix = cx.matrix(&Path::root().at("w"), [n, k])?;
            let bias = cx.weight(&Path::root().at("bias"), [n])?;
            ops::linear(cx, x, matrix, Some(bias), Epilogue { residual, ..Epilogue::NONE })
        };
        let what = format!("linear {m}x{k}x{n} in {packing:?}");
        Case { what, weights, walk: &walk, expected }.check();
    }
}

#[test]
fn a_shortcut_takes_one_tensor_or_two_as_it_would_take_them_joined() {
    // Channels of both, with even and odd numbers, few rows and many; the last has more columns
    // than fit into a core's cache.
    let sizes = [
        (1, 1, [1, 0], 3),
        (5, 7, [6, 4], 37),
        (9, 30, [5, 8], 16),
        (40, 31, [40, 24], 32),
        (3, 50, [33, 0], 64),
        (2, 3, [700, 0], 320),
        (3, 3, [500, 200], 320),
    ];
    for (packing, (h, w, channels, n)) in
        Packing::PACKED.into_iter().flat_map(|p| sizes.map(|s| (p, s)))
    {
        let (mut weights, m, k) = (TestWeights::default(), h * w, channels[0] + channels[1]);
        let weight = add_packed(&mut weights, packing, &[n, k, 1, 1], 1);
        let (x, bias) = (numbers(2, m * k), numbers(3, n));
        weights.push("bias", &[n], &bias);
        let left = in_form(packing.form(), &x, k);
        let expected = product(&left, &weight, &bias, [m, k, n]);
        let part = |first: usize, count: usize| -> Vec<f32> {
            x.chunks_exact(k).flat_map(|row| row[first..first + count].to_vec()).collect()
        };
        let parts = [part(0, channels[0]), part(channels[0], channels[1])];
        let walk = |cx: &mut Context<'_>| {
            let a = ops::fill(cx, Shape::new([1, h, w, channels[0]]), &parts[0])?;
            let b = ops::fill(cx, Shape::new([1, h, w, channels[1]]), &parts[1])?;
            let matrix = cx.matrix(&Path::root().at("w"), [n, k, 1, 1])?;
            let bias = cx.weight(&Path::root().at("bias"), [n])?;
            let out = cx.tensor(Shape::new([1, h, w, n]))?;
            let joined = if channels[1] > 0 { Joined::pair(a, b)? } else { a.into() };
            ops::pointwise_conv2d_into(cx, joined, matrix, Some(bias), out)?;
            Ok(out)
        };
        let what = format!("shortcut {m}x{channels:?}x{n} in {packing:?}");
        Case { what, weights, walk: &walk, expected }.check();
    }
}

#[test]
fn a_gated_layer_reads_values_and_gates_from_one_packed_weight() {
    let sizes = [(1, 3, 32), (7, 33, 64), (20, 40, 224), (3, 3000, 640)];
    for (packing, (m, k, n)) in Packing::PACKED.into_iter().flat_map(|p| sizes.map(|s| (p, s))) {
        let mut weights = TestWeights::default();
        let w = add_packed(&mut weights, packing, &[n, k], 5);
        let x = numbers(6, m * k).iter().map(|x| x * 0.1).collect::<Vec<f32>>();
        let bias = numbers(7, n);
        weights.push("bias", &[n], &bias);
        let left = in_form(packing.form(), &x, k);
        let sum = |row: usize, column: usize| {
            let mut sum = Sum::default();
            sum.add(f64::from(bias[column]));
            let pairs = left[row * k..][..k].iter().zip(&w[column * k..][..k]);
            pairs.for_each(|(a, &b)| sum.add(a * f64::from(b)));
            sum.0
        };
        let expected = (0..m * n / 2).map(|i| {
            let (row, column) = (i / (n / 2), i % (n / 2));
            let ([value, size], [gate, gate_size]) = (sum(row, column), sum(row, column + n / 2));
            let mut gelu = [gate as f32];
            Isa::SCALAR.activate_f32(ops::Activation::Gelu, &mut gelu);
            let gelu = f64::from(gelu[0]);
            // The gate's own error moves the output by as much as the value is large.
            Sum([value * gelu, size * gelu.abs() + value.abs() * (1.2 * gate_size + 2.0)])
        });
        let expected = expected.collect();
        let walk = |cx: &mut Context<'_>| {
            let x = ops::fill(cx, Shape::new([m, k]), &x)?;
            let matrix = cx.matrix(&Path::root().at("w"), [n, k])?;
            let bias = cx.weight(&Path::root().at("bias"), [n])?;
            ops::linear(cx, x, matrix, Some(bias), Epilogue { geglu: true, ..Epilogue::NONE })
        };
        let what = format!("gated linear {m}x{k}x{n} in {packing:?}");
        Case { what, weights, walk: &walk, expected }.check();
    }
}

/// A convolution's sizes.
#[derive(Clone, Copy, Debug)]
struct Picture {
    n: usize,
    size: [usize; 2],
    channels: [usize; 2],
    conv: Conv2d,
}

impl Picture {
    fn new(n: usize, size: [usize; 2], channels: [usize; 2], kernel: [usize; 2]) -> Self {
        let [top, left] = kernel.map(|k| k / 2);
        let conv = Conv2d { kernel, stride: 1, padding: [top, top, left, left], upsample_to: None };
        Self { n, size, channels, conv }
    }

    fn out(&self) -> [usize; 2] {
        let ([h, w], [kernel_h, kernel_w]) =
            (self.conv.upsample_to.unwrap_or(self.size), self.conv.kernel);
        let [top, bottom, left, right] = self.conv.padding;
        let steps = |size: usize| size / self.conv.stride + 1;
        [steps(h + top + bottom - kernel_h), steps(w + left + right - kernel_w)]
    }

    /// The input pixel under a tap of an output pixel, or `None` in the padding.
    fn pixel(&self, [y, x]: [usize; 2], [dy, dx]: [usize; 2]) -> Option<usize> {
        let ([h, w], [top, _, left, _]) = (self.size, self.conv.padding);
        let size = self.conv.upsample_to.unwrap_or([h, w]);
        let at = (y * self.conv.stride + dy).checked_sub(top).filter(|&y| y < size[0])?;
        let across = (x * self.conv.stride + dx).checked_sub(left).filter(|&x| x < size[1])?;
        Some(at * h / size[0] * w + across * w / size[1])
    }

    /// The convolution of `x` with `w`, with what is added to each sample.
    fn expected(&self, x: &[f64], w: &[f32], per_sample: &[f32], residual: &[f32]) -> Vec<Sum> {
        let ([ci, co], [h, w_out]) = (self.channels, self.out());
        let [kernel_h, kernel_w] = self.conv.kernel;
        let taps = kernel_h * kernel_w;
        let mut sums = Vec::new();
        for (i, &residual) in residual.iter().enumerate() {
            let (channel, column, row, image) =
                (i % co, i / co % w_out, i / co / w_out % h, i / co / w_out / h);
            let mut sum = Sum::default();
            sum.add(f64::from(per_sample[image * co + channel]));
            sum.add(f64::from(residual));
            for tap in 0..taps {
                let under = self.pixel([row, column], [tap / kernel_w, tap % kernel_w]);
                let Some(pixel) = under else { continue };
                let x = &x[(image * self.size[0] * self.size[1] + pixel) * ci..][..ci];
                let w = w[channel * ci * taps + tap..].iter().step_by(taps);
                x.iter().zip(w).for_each(|(a, &b)| sum.add(a * f64::from(b)));
            }
            sums.push(sum);
        }
        sums
    }
}

#[test]
fn a_convolution_slides_what_its_packed_weight_stands_for() {
    let upsampled = Picture::new(1, [3, 5], [6, 9], [3, 3]);
    let conv = Conv2d { upsample_to: Some([7, 10]), ..upsampled.conv };
    let halved = Picture::new(1, [13, 9], [17, 5], [3, 3]);
    let pictures = [
        Picture::new(1, [1, 1], [1, 1], [3, 3]),
        Picture::new(2, [5, 3], [3, 37], [3, 3]),
        Picture::new(2, [5, 4], [40, 64], [1, 1]),
        Picture::new(1, [4, 6], [130, 33], [3, 3]),
        Picture::new(1, [6, 7], [5, 20], [2, 4]),
        Picture::new(1, [9, 2], [7, 18], [9, 1]),
        Picture { conv, ..upsampled },
        Picture { conv: Conv2d { stride: 2, padding: [0, 1, 0, 1], ..halved.conv }, ..halved },
        // Several blocks of panels.
        Picture::new(1, [2, 3], [320, 320], [3, 3]),
    ];
    for (packing, p) in
        Packing::PACKED.into_iter().flat_map(|packing| pictures.map(|picture| (packing, picture)))
    {
        let ([h, w], [ci, co], [out_h, out_w]) = (p.size, p.channels, p.out());
        let mut weights = TestWeights::default();
        let [kernel_h, kernel_w] = p.conv.kernel;
        let dims = [co, ci, kernel_h, kernel_w];
        let weight = add_packed(&mut weights, packing, &dims, 8);
        let (x, per_sample) = (numbers(9, p.n * h * w * ci), numbers(10, p.n * co));
        let residual = numbers(11, p.n * out_h * out_w * co);
        let left = in_form(packing.form(), &x, ci);
        let expected = p.expected(&left, &weight, &per_sample, &residual);
        let walk = |cx: &mut Context<'_>| {
            let x = ops::fill(cx, Shape::new([p.n, h, w, ci]), &x)?;
            let residual = Some(ops::fill(cx, Shape::new([p.n, out_h, out_w, co]), &residual)?);
            let per_sample = Some(ops::fill(cx, Shape::new([p.n, co]), &per_sample)?);
            let matrix = cx.matrix(&Path::root().at("w"), dims)?;
            let epilogue = Epilogue { residual, per_sample, ..Epilogue::NONE };
            ops::conv2d(cx, x, matrix, None, p.conv, epilogue)
        };
        let what = format!("{p:?} in {packing:?}");
        Case { what, weights, walk: &walk, expected }.check();
    }
}

#[test]
fn a_convolution_to_few_channels_is_a_sum_over_its_taps() {
    let upsampled = Picture::new(1, [3, 5], [6, 3], [3, 3]);
    let conv = Conv2d { upsample_to: Some([7, 10]), ..upsampled.conv };
    let halved = Picture::new(1, [13, 9], [17, 4], [3, 3]);
    let pictures = [
        Picture::new(1, [1, 1], [1, 1], [3, 3]),
        Picture::new(2, [5, 3], [7, 3], [3, 3]),
        Picture::new(1, [6, 7], [5, 2], [2, 4]),
        Picture::new(1, [6, 7], [5, 5], [3, 3]),
        Picture { conv, ..upsampled },
        Picture { conv: Conv2d { stride: 2, padding: [0, 1, 0, 1], ..halved.conv }, ..halved },
        // Several bands.
        Picture::new(2, [90, 97], [4, 4], [3, 3]),
    ];
    for (p, is_biased) in pictures.into_iter().flat_map(|p| [(p, false), (p, true)]) {
        let ([h, w], [ci, co], [out_h, out_w]) = (p.size, p.channels, p.out());
        let mut weights = TestWeights::default();
        let dims = [co, ci, p.conv.kernel[0], p.conv.kernel[1]];
        let weight = add_packed(&mut weights, Packing::Bf16, &dims, 15);
        let mut bias = numbers(17, co);
        weights.push("bias", &[co], &bias);
        if !is_biased {
            bias.fill(0.0);
        }
        let x = numbers(16, p.n * h * w * ci);
        let left = in_form(Form::Bf16, &x, ci);
        let no_residual = vec![0.0; p.n * out_h * out_w * co];
        let expected = p.expected(&left, &weight, &bias.repeat(p.n), &no_residual);
        let walk = |cx: &mut Context<'_>| {
            let x = ops::fill(cx, Shape::new([p.n, h, w, ci]), &x)?;
            let matrix = cx.matrix(&Path::root().at("w"), dims)?;
            let bias = cx.weight(&Path::root().at("bias"), [co])?;
            ops::conv2d(cx, x, matrix, is_biased.then_some(bias), p.conv, Epilogue::NONE)
        };
        let what = format!("{p:?}, biased {is_biased}");
        Case { what, weights, walk: &walk, expected }.check();
    }
}

/// A doubled picture's sizes: of the picture as it was, and of the output.
#[derive(Clone, Copy, Debug)]
struct Doubled {
    n: usize,
    size: [usize; 2],
    to: [usize; 2],
    channels: [usize; 2],
}

impl Doubled {
    fn sizes(&self) -> Sizes {
        let [channels, n] = self.channels;
        Sizes { n, channels, taps: DOUBLED }
    }

    fn conv(&self) -> Conv2d {
        Conv2d { upsample_to: Some(self.to), ..Conv2d::padded(3, 1) }
    }

    /// The products' right sides, `[9, n rounded up, channels]`.
    fn right_sides(&self, kernel: &[f32]) -> Vec<f32> {
        let ([ci, co], doubled) = (self.channels, self.sizes().doubled());
        let mut rows = vec![0.0; doubled.n * ci];
        for (i, row) in rows.chunks_exact_mut(ci).enumerate() {
            let (product, channel) = (i / (doubled.n / DOUBLED), i % (doubled.n / DOUBLED));
            if channel < co {
                doubled_row(&kernel[channel * ci * DOUBLED..][..ci * DOUBLED], product, row);
            }
        }
        rows
    }

    /// How a pixel differs from its neighbours, as the products see it: `[n, h, w, 9, channels]`.
    fn left_sides(&self, x: &[f32], form: Form) -> Vec<f64> {
        let ([h, w], ci) = (self.size, self.channels[0]);
        let pixel = |image: usize, y: usize, x_at: usize| match (y, x_at) {
            (1.., 1..) if y <= h && x_at <= w => {
                x[((image * h + y - 1) * w + x_at - 1) * ci..][..ci].to_vec()
            }
            _ => vec![0.0; ci],
        };
        let minus = |a: Vec<f32>, b: Vec<f32>| -> Vec<f32> {
            a.iter().zip(b).map(|(a, b)| a - b).collect()
        };
        let mut rows = Vec::new();
        for (image, y, x) in
            (0..self.n).flat_map(|i| (0..h).flat_map(move |y| (0..w).map(move |x| (i, y, x))))
        {
            for (down, across) in (0..3).flat_map(|down| [0, 1, 2].map(|across| (down, across))) {
                let line = |across: usize| {
                    let own = pixel(image, y + 1, x + across);
                    if down == 1 { own } else { minus(pixel(image, y + down, x + across), own) }
                };
                rows.extend(if across == 1 { line(1) } else { minus(line(across), line(1)) });
            }
        }
        in_form(form, &rows, ci)
    }

    /// The outputs, `[n, 2h or less, 2w or less, co]`, by sums over those products of which each
    /// output's own taps are made.
    fn expected(&self, left: &[f64], right: &[f32], added: &[f32]) -> Vec<Sum> {
        let ([ci, co], [h, w], [out_h, out_w]) = (self.channels, self.size, self.to);
        let each = right.len() / DOUBLED;
        // The pixel itself, and a neighbour; the last line of an odd picture ends on both sides.
        let products = |at: usize, size: usize| match at % 2 {
            0 if at + 1 == size => vec![0, 1, 2],
            side => vec![1, 2 * side],
        };
        (0..self.n * out_h * out_w * co)
            .map(|i| {
                let (channel, x) = (i % co, i / co % out_w);
                let (y, image) = (i / co / out_w % out_h, i / co / out_w / out_h);
                let pixel = (image * h + y / 2) * w + x / 2;
                let mut sum = Sum::default();
                sum.add(f64::from(added[image * co + channel]));
                for (down, across) in products(y, out_h)
                    .into_iter()
                    .flat_map(|down| products(x, out_w).into_iter().map(move |a| (down, a)))
                {
                    let product = 3 * down + across;
                    let left = &left[(pixel * DOUBLED + product) * ci..][..ci];
                    let right = &right[product * each + channel * ci..][..ci];
                    left.iter().zip(right).for_each(|(a, &b)| sum.add(a * f64::from(b)));
                }
                sum
            })
            .collect()
    }
}

#[test]
fn a_doubled_convolution_is_one_of_the_picture_twice_as_large() {
    let new = |n, size: [usize; 2], less: [usize; 2], channels| {
        let to = [2 * size[0] - less[0], 2 * size[1] - less[1]];
        Doubled { n, size, to, channels }
    };
    let pictures = [
        new(1, [1, 1], [0, 0], [1, 1]),
        new(1, [1, 1], [1, 1], [3, 2]),
        new(2, [3, 5], [0, 0], [6, 9]),
        new(2, [3, 4], [1, 0], [7, 33]),
        new(1, [5, 2], [0, 1], [40, 20]),
        new(1, [2, 61], [1, 1], [5, 100]),
        new(1, [9, 8], [0, 0], [130, 48]),
        // Several blocks of panels.
        new(1, [2, 3], [0, 0], [320, 320]),
    ];
    for (packing, p) in
        Packing::PACKED.into_iter().flat_map(|packing| pictures.map(|picture| (packing, picture)))
    {
        let ([h, w], [out_h, out_w], [ci, co]) = (p.size, p.to, p.channels);
        let mut weights = TestWeights::default();
        let kernel = numbers(8, co * ci * DOUBLED);
        let right = p.right_sides(&kernel);
        let doubled = p.sizes().doubled();
        weights.push_packed("w", packing, &[doubled.n, ci], &right);
        weights.push("bias", &[co], &numbers(12, co));
        let right = stood_for(&weights, packing, doubled, &right);
        let (x, per_sample) = (numbers(9, p.n * h * w * ci), numbers(10, p.n * co));
        let bias = numbers(12, co);
        let added: Vec<f32> =
            per_sample.iter().enumerate().map(|(i, shift)| bias[i % co] + shift).collect();
        let expected = p.expected(&p.left_sides(&x, packing.form()), &right, &added);
        if packing == Packing::F32 {
            // The definition: a convolution with the picture's nearest pixels.
            let picture = Picture { n: p.n, size: p.size, channels: p.channels, conv: p.conv() };
            let x: Vec<_> = x.iter().map(|&x| f64::from(x)).collect();
            let plain = picture.expected(&x, &kernel, &added, &vec![0.0; p.n * out_h * out_w * co]);
            for (a, b) in plain.iter().zip(&expected) {
                assert!((a.0[0] - b.0[0]).abs() <= 1e-6 * b.0[1], "{p:?}: {:?}, {:?}", a.0, b.0);
            }
        }
        let walk = |cx: &mut Context<'_>| {
            let x = ops::fill(cx, Shape::new([p.n, h, w, ci]), &x)?;
            let per_sample = Some(ops::fill(cx, Shape::new([p.n, co]), &per_sample)?);
            let matrix = cx.matrix(&Path::root().at("w"), [co, ci, 3, 3])?;
            let bias = cx.weight(&Path::root().at("bias"), [co])?;
            let epilogue = Epilogue { per_sample, ..Epilogue::NONE };
            ops::conv2d(cx, x, matrix, Some(bias), p.conv(), epilogue)
        };
        let what = format!("{p:?} in {packing:?}");
        Case { what, weights, walk: &walk, expected }.check();
    }
}

#[test]
fn a_doubled_weight_goes_with_nothing_but_a_doubled_picture() {
    let p = Doubled { n: 1, size: [4, 4], to: [8, 8], channels: [6, 20] };
    let mut weights = TestWeights::default();
    let right = p.right_sides(&numbers(8, 20 * 6 * DOUBLED));
    weights.push_packed("w", Packing::Q8, &[p.sizes().doubled().n, 6], &right);
    let mut attempt = |conv: Conv2d, channels: usize, epilogue: Epilogue| {
        let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Threads(1), &mut weights);
        let x = cx.tensor(Shape::new([1, 4, 4, channels]))?;
        let matrix = cx.matrix(&Path::root().at("w"), [20, 6, 3, 3])?;
        ops::conv2d(&mut cx, x, matrix, None, conv, epilogue).map(|out| out.shape().to_dims())
    };
    let none = Epilogue::NONE;
    assert_eq!(attempt(p.conv(), 6, none), Ok([1, 8, 8, 20]));
    let found = [18, 2, 16, 4];
    let wrong = Error::WeightShape { expected: [20, 6, 3, 3], found };
    let halving = Conv2d { stride: 2, ..p.conv() };
    for conv in [Conv2d::padded(3, 1), halving, Conv2d { padding: [0; 4], ..p.conv() }] {
        assert_eq!(attempt(conv, 6, none), Err(wrong), "{conv:?}");
    }
    let tripled = Conv2d { upsample_to: Some([12, 12]), ..p.conv() };
    for (conv, channels) in [(tripled, 6), (p.conv(), 5), (p.conv(), 0)] {
        let error = attempt(conv, channels, none);
        assert!(matches!(error, Err(Error::Shape { what: "conv2d", .. })), "{error:?}");
    }
    let activation = Some(ops::Activation::Silu);
    let error = attempt(p.conv(), 6, Epilogue { activation, ..none });
    assert!(matches!(error, Err(Error::Config { .. })), "{error:?}");
    let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Threads(1), &mut weights);
    let not_3x3 = cx.matrix(&Path::root().at("w"), [20, 6, 1, 9]);
    assert!(matches!(not_3x3, Err(Error::WeightShape { .. })), "{not_3x3:?}");
}

#[test]
fn two_tensors_side_by_side_are_as_good_as_one() {
    let packings = Packing::PACKED.into_iter();
    for (packing, [a, b]) in packings.flat_map(|p| [[6, 10], [32, 16], [40, 8]].map(|c| (p, c))) {
        let (samples, pixels, c) = (2, 150, a + b);
        let mut weights = TestWeights::default();
        add_packed(&mut weights, packing, &[9, c], 21);
        weights.push("scale", &[c], &numbers(22, c));
        let (x, y) = (numbers(23, samples * pixels * a), numbers(24, samples * pixels * b));
        // The two tensors, what is made of them, and a product with both.
        let result = |is_joined: bool, is_normalised: bool| {
            let (_, found) = run(best_isa(), &Threads(3), &mut weights.clone(), |cx| {
                let x = ops::fill(cx, Shape::new([samples, pixels, a]), &x)?;
                let y = ops::fill(cx, Shape::new([samples, pixels, b]), &y)?;
                let matrix = cx.matrix(&Path::root().at("w"), [9, c])?;
                let scale = cx.weight(&Path::root().at("scale"), [c])?;
                let form = packing.form();
                let activation = Some(Activation::Silu);
                // Two groups, the first of which may reach into the second tensor.
                let norm = GroupNorm { groups: 2, eps: 1e-5, scale_shift: None, activation, form };
                let rows = match (is_joined, is_normalised) {
                    (true, true) => ops::group_norm(cx, Joined::pair(x, y)?, scale, scale, norm)?,
                    (true, false) => ops::concat(cx, x, y, form)?,
                    (false, _) => {
                        let both = ops::concat(cx, x, y, Form::F32)?;
                        match is_normalised {
                            true => ops::group_norm(cx, both, scale, scale, norm)?,
                            false => both,
                        }
                    }
                };
                ops::linear(cx, rows, matrix, None, Epilogue::NONE)
            });
            found
        };
        for is_normalised in [false, true] {
            let what = format!("{a} + {b} channels in {packing:?}, normalised {is_normalised}");
            assert_eq!(result(true, is_normalised), result(false, is_normalised), "{what}");
        }
    }
}

#[test]
fn activations_in_eight_bits_cost_half_a_step_of_each_row() {
    let (m, k, n) = (20, 64, 40);
    let mut weights = TestWeights::default();
    let w = add_packed(&mut weights, Packing::Q8, &[n, k], 12);
    let x = numbers(13, m * k);
    for isa in isas() {
        let (_, found) = run(isa, &Threads(2), &mut weights, |cx| {
            let x = ops::fill(cx, Shape::new([m, k]), &x)?;
            let matrix = cx.matrix(&Path::root().at("w"), [n, k])?;
            ops::linear(cx, x, matrix, None, Epilogue::NONE)
        });
        for (i, &found) in found.iter().enumerate() {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            let expected: f64 = x.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let size: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
            let [low, high] =
                x.iter().fold([0.0f32; 2], |[low, high], &x| [low.min(x), high.max(x)]);
            let limit = 0.501 * f64::from(high - low) / 255.0 * size;
            assert!((f64::from(found) - expected).abs() <= limit, "{isa:?}: {found}, {expected}");
        }
    }
}

#[test]
fn a_row_that_is_not_finite_does_not_pass_for_one_that_is() {
    for (packing, bad) in Packing::PACKED
        .into_iter()
        .flat_map(|packing| [f32::NAN, f32::INFINITY].map(|bad| (packing, bad)))
    {
        let (m, k, n) = (3, 20, 18);
        let mut weights = TestWeights::default();
        add_packed(&mut weights, packing, &[n, k], 14);
        let mut x = numbers(15, m * k);
        x[k + 7] = bad;
        for isa in isas() {
            let (_, found) = run(isa, &Threads(1), &mut weights, |cx| {
                let x = ops::fill(cx, Shape::new([m, k]), &x)?;
                let matrix = cx.matrix(&Path::root().at("w"), [n, k])?;
                ops::linear(cx, x, matrix, None, Epilogue::NONE)
            });
            for (row, found) in found.chunks_exact(n).enumerate() {
                let good = found.iter().all(|x| x.is_finite() == (row != 1));
                assert!(good, "{bad} in {packing:?} on {isa:?}: row {row}");
            }
        }
    }
}

#[test]
fn one_part_may_be_in_place_and_another_streamed() {
    let (m, c) = (9, 70);
    let x = numbers(16, m * c);
    for (first, second) in Packing::PACKED
        .into_iter()
        .flat_map(|first| [Packing::Bf16, Packing::Q4].map(|second| (first, second)))
    {
        let files = [(first, 17), (second, 18)].map(|(packing, seed)| {
            let mut weights = TestWeights::default();
            add_packed(&mut weights, packing, &[c, c], seed);
            File::new(&weights, 1)
        });
        let walk = |cx: &mut Context<'_>| {
            let mut x = ops::fill(cx, Shape::new([m, c]), &x)?;
            for part in ["first", "second", "first"] {
                let matrix = cx.matrix(&Path::root().at(part).at("w"), [c, c])?;
                x = ops::linear(cx, x, matrix, None, Epilogue::NONE)?;
            }
            Ok(x)
        };
        for isa in isas() {
            let mut all = Vec::new();
            for streamed in [[false, false], [true, false], [false, true], [true, true]] {
                let (_, found) = files[0].open(streamed[0], |first| {
                    files[1].open(streamed[1], |second| {
                        let mut parts = [
                            Part { prefix: "first", weights: first },
                            Part { prefix: "second", weights: second },
                        ];
                        run(isa, &Threads(2), &mut Parts(&mut parts), walk)
                    })
                });
                all.push(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            }
            assert!(all.iter().all(|bits| *bits == all[0]), "{first:?}, {second:?} on {isa:?}");
        }
    }
}

/// The error and the name of the weight it is about, planned.
fn refused(weights: &mut TestWeights, dims: [usize; 2]) -> (Error, String) {
    let executor = Threads(1);
    let mut cx = Context::new(Arena::measuring(), best_isa(), &executor, weights);
    let error = cx.matrix(&Path::root().at("w"), dims).expect_err("this weight is no good");
    (error, cx.weight_name().to_owned())
}

#[test]
fn a_packed_weight_that_does_not_fit_is_refused_by_its_name() {
    let good = |packing| {
        let mut weights = TestWeights::default();
        weights.push_packed("w", packing, &[20, 40], &numbers(19, 800));
        weights
    };
    for packing in Packing::PACKED {
        let (error, name) = refused(&mut good(packing), [50, 40]);
        assert!(matches!(error, Error::WeightShape { .. }), "{packing:?}: {error:?}");
        assert_eq!(name, "w");
    }
    for (packing, part) in
        [(Packing::Q8, "w.scale"), (Packing::Q4, "w.scale"), (Packing::Q4, "w.groups")]
    {
        let mut weights = good(packing);
        weights.remove(part);
        assert_eq!(refused(&mut weights, [20, 40]), (Error::MissingWeight, part.to_owned()));
        weights.push_bytes(part, DType::I16, &[3, 2, 16], vec![0; 192]);
        let (error, name) = refused(&mut weights, [20, 40]);
        assert!(matches!(error, Error::WeightShape { .. }), "{part}: {error:?}");
        assert_eq!(name, part);
        // Two panels; one row of scales and one of sums, or two groups.
        weights.push_bytes(part, DType::I16, &[2, 2, 16], vec![0; 128]);
        let error = Error::WeightDtype { found: "I16" };
        assert_eq!(refused(&mut weights, [20, 40]), (error, part.to_owned()));
    }
}
