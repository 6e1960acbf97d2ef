//! The gradient of every op that can be recorded, against central differences in f64 of the op's
//! definition as plain loops: for tensors and for weights, at sizes that fill no tile.

use mote::Result;
use mote::arch::{Activation, Isa};
use mote::exec::Executor;
use mote::mem::Arena;
use mote::ops::{
    self, Attention, Context, Conv2d, Epilogue, GroupNorm, Limits, Recording, Tape, TapeSlot,
};
use mote::tensor::{Form, Packing, Shape, Tensor};
use mote::weights::{InPlace, Index, Path, Slot, header_bytes};
use mote_tests::{Choices, Memory, TestWeights, Threads, isas, numbers, small_limits, unpacked};

use crate::plain::{self, wide};

/// Of the largest gradient of a tensor.
const TOLERANCE: f64 = 1e-4;

/// From one point of a central difference to the middle.
const STEP: f64 = 1e-5;

type Run = Box<dyn Fn(&mut Context<'_>, &[Tensor]) -> Result<Tensor>>;
type Plain = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64>>;

/// An op, twice: as it is, and as loops. The loops get the tensors and then the weights.
struct Op {
    name: &'static str,
    inputs: Vec<Vec<usize>>,
    /// Name, dimensions, and whether it is a product's.
    weights: Vec<(&'static str, Vec<usize>, bool)>,
    run: Run,
    plain: Plain,
}

fn count(dims: &[usize]) -> usize {
    dims.iter().product()
}

/// The gradients of `Σ probe·out` of tensors and weights, as the walk backwards has them.
fn gradients(op: &Op, isa: Isa, executor: &dyn Executor, limits: &Limits) -> Vec<Vec<f32>> {
    let mut weights = TestWeights::default();
    weights.push("aligns", &[64], &[0.0; 64]);
    for (number, (name, dims, packed)) in op.weights.iter().enumerate() {
        let values = numbers(100 + number as u32, count(dims));
        match packed {
            true => weights.push_packed(name, Packing::F32, dims, &values),
            false => weights.push(name, dims, &values),
        }
    }
    let file = weights.file();
    let mut memory = Memory::dirty(file.len(), 0);
    memory.bytes().copy_from_slice(&file);
    let header = header_bytes(&file, file.len() as u64).unwrap();
    let json = &file[header.clone()];
    let mut slots = vec![Slot::EMPTY; Index::count(json).unwrap()];
    let index = Index::parse(json, file.len() as u64, &mut slots).unwrap();
    let begin = header.end as u64;
    let mut of_weights = vec![0.0; (file.len() - header.end) / 4];
    let found = {
        let (mut tape, mut arena) = (vec![TapeSlot::EMPTY; 16], Memory::dirty(1 << 20, 0xFF));
        let mut source = InPlace::new(index, memory.bytes());
        let cx = Context::new(Arena::new(arena.bytes()), isa, executor, &mut source);
        let mut cx = cx.with_limits(limits);
        cx.begin_recording(Recording::new(Tape::new(&mut tape), &mut of_weights, begin));
        let tensors: Vec<Tensor> = (op.inputs.iter().enumerate())
            .map(|(number, dims)| {
                let shape = Shape::from_slice(dims).unwrap();
                ops::fill(&mut cx, shape, &numbers(number as u32, count(dims))).unwrap()
            })
            .collect();
        let out = (op.run)(&mut cx, &tensors).unwrap();
        let mirror = cx.mirror().unwrap();
        let dy = mirror.of(out).unwrap().unwrap();
        let probe = numbers(7, out.len());
        cx.arena_mut().write(dy).copy_from_slice(&probe);
        cx.backward(&mirror, &mut |_| panic!("there are no checkpoints")).unwrap();
        let of = |x: &Tensor| cx.arena().read(mirror.of(*x).unwrap().unwrap()).to_vec();
        tensors.iter().map(of).collect::<Vec<_>>()
    };
    let weights = op.weights.iter().map(|(name, dims, packed)| {
        let weight = index.find(name).unwrap();
        let first = (weight.begin - begin) as usize / 4;
        let values = &of_weights[first..first + weight.bytes / 4];
        if *packed { unpacked(dims, values) } else { values.to_vec() }
    });
    found.into_iter().chain(weights).collect()
}

/// The same by central differences of the loops.
fn differences(op: &Op) -> Vec<Vec<f64>> {
    let tensors = op.inputs.iter().enumerate().map(|(i, d)| wide(&numbers(i as u32, count(d))));
    let weights = op.weights.iter().enumerate();
    let weights = weights.map(|(i, (_, d, _))| wide(&numbers(100 + i as u32, count(d))));
    let mut inputs: Vec<Vec<f64>> = tensors.chain(weights).collect();
    let probe = |out: Vec<f64>| -> f64 {
        let probe = numbers(7, out.len());
        out.iter().zip(probe).map(|(y, p)| y * f64::from(p)).sum()
    };
    let mut gradients = Vec::new();
    for input in 0..inputs.len() {
        let mut gradient = Vec::new();
        for i in 0..inputs[input].len() {
            let x = inputs[input][i];
            inputs[input][i] = x + STEP;
            let above = probe((op.plain)(&inputs));
            inputs[input][i] = x - STEP;
            let below = probe((op.plain)(&inputs));
            inputs[input][i] = x;
            gradient.push((above - below) / (2.0 * STEP));
        }
        gradients.push(gradient);
    }
    gradients
}

fn check(op: &Op) {
    let expected = differences(op);
    let mut choices = Choices::new(expected.len() as u64);
    for isa in isas() {
        let mut limits = Limits::DEFAULT;
        for workers in [1, 3, 1, 2, 7] {
            let found = gradients(op, isa, &Threads(workers), &limits);
            assert_eq!(found, gradients(op, isa, &Threads(1), &limits), "{} {isa:?}", op.name);
            limits = Limits {
                gradient_pixels: choices.pick(&[1, 7, 20, 64]),
                summed_rows: choices.pick(&[1, 3, 16]),
                summed_elements: choices.pick(&[1, 20, 100]),
                query_panels: choices.pick(&[1, 2]),
                moment_blocks: choices.pick(&[1, 3, 64]),
                moment_pixels: choices.pick(&[1, 5, 32]),
                ..small_limits(&mut choices)
            };
            assert_eq!(found.len(), expected.len());
            for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.len(), expected.len());
                let largest = expected.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
                for (i, (a, b)) in found.iter().zip(expected).enumerate() {
                    let error = (f64::from(*a) - b).abs() / largest;
                    let name = op.name;
                    assert!(error <= TOLERANCE, "{name} {isa:?} {number}[{i}]: {a}, expected {b}");
                }
            }
        }
    }
}

// ------------------------------------------------------------------------------------- the loops

fn plain_linear(x: &[f64], weight: &[f64], n: usize, bias: Option<&[f64]>) -> Vec<f64> {
    let k = weight.len() / n;
    let row = |x: &[f64], j: usize| -> f64 {
        let sum: f64 = x.iter().zip(&weight[j * k..][..k]).map(|(x, w)| x * w).sum();
        sum + bias.map_or(0.0, |bias| bias[j])
    };
    x.chunks_exact(k).flat_map(|x| (0..n).map(move |j| row(x, j))).collect()
}

fn nearest(at: usize, source: usize, result: usize) -> usize {
    (at as f32 * (source as f32 / result as f32)) as usize
}

fn plain_upsample(x: &[f64], [n, h, w, c]: [usize; 4], [height, width]: [usize; 2]) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..n * height * width * c {
        let (channel, across, down) = (i % c, i / c % width, i / c / width % height);
        let image = i / c / width / height;
        let (y, z) = (nearest(down, h, height), nearest(across, w, width));
        out.push(x[((image * h + y) * w + z) * c + channel]);
    }
    out
}

fn plain_group_norm(
    x: &[f64],
    [n, pixels, c]: [usize; 3],
    groups: usize,
    [weight, bias]: [&[f64]; 2],
    scale_shift: Option<&[f64]>,
    silu: bool,
) -> Vec<f64> {
    let (mut out, size) = (x.to_vec(), c / groups);
    for sample in 0..n {
        for group in 0..groups {
            let member = |i: usize| (sample * pixels + i / size) * c + group * size + i % size;
            let all = || (0..pixels * size).map(|i| x[member(i)]);
            let mean = all().sum::<f64>() / (pixels * size) as f64;
            let variance = all().map(|x| (x - mean).powi(2)).sum::<f64>() / (pixels * size) as f64;
            for i in 0..pixels * size {
                let channel = group * size + i % size;
                let mut y = (x[member(i)] - mean) / (variance + 1e-5).sqrt();
                y = y * weight[channel] + bias[channel];
                if let Some(given) = scale_shift {
                    let given = &given[sample * 2 * c..];
                    y = y * (1.0 + given[channel]) + given[c + channel];
                }
                out[member(i)] = if silu { y / (1.0 + (-y).exp()) } else { y };
            }
        }
    }
    out
}

/// The error function, by its series: exact to 1e-15 for the arguments here.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for i in 1..200 {
        term *= -x * x / f64::from(i);
        sum += term / f64::from(2 * i + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

fn plain_activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::ClampTanh3 => 3.0 * (x / 3.0).tanh(),
    }
}

// --------------------------------------------------------------------------------------- the ops

fn matrix(cx: &mut Context<'_>, dims: &[usize]) -> Result<ops::Matrix> {
    let root = Path::root();
    match *dims {
        [n, k] => cx.matrix(&root.at("weight"), [n, k]),
        [n, k, kh, kw] => cx.matrix(&root.at("weight"), [n, k, kh, kw]),
        _ => unreachable!("two or four dimensions"),
    }
}

#[test]
fn linear_layers() {
    for (rows, k, n, extras) in [(5, 3, 2, true), (37, 18, 33, false), (70, 16, 16, true)] {
        let dims = vec![n, k];
        let of_weight = dims.clone();
        check(&Op {
            name: "linear",
            inputs: vec![vec![2, rows, k], vec![2, rows, n], vec![2, n]],
            weights: vec![("weight", dims, true), ("bias", vec![n], false)],
            run: Box::new(move |cx, x| {
                let weight = matrix(cx, &of_weight)?;
                let bias = cx.weight(&Path::root().at("bias"), [n])?;
                let (residual, per_sample) =
                    if extras { (Some(x[1]), Some(x[2])) } else { (None, None) };
                let epilogue = Epilogue { residual, per_sample, ..Epilogue::NONE };
                ops::linear(cx, x[0], weight, Some(bias), epilogue)
            }),
            plain: Box::new(move |x| {
                let mut out = plain_linear(&x[0], &x[3], n, Some(&x[4]));
                for (i, y) in out.iter_mut().enumerate().filter(|_| extras) {
                    *y += x[1][i] + x[2][i / (rows * n) * n + i % n];
                }
                out
            }),
        });
    }
}

#[test]
fn linear_layers_with_an_end() {
    check(&Op {
        name: "geglu",
        inputs: vec![vec![7, 5]],
        weights: vec![("weight", vec![12, 5], true)],
        run: Box::new(|cx, x| {
            let weight = matrix(cx, &[12, 5])?;
            ops::linear(cx, x[0], weight, None, Epilogue { geglu: true, ..Epilogue::NONE })
        }),
        plain: Box::new(|x| {
            let wide = plain_linear(&x[0], &x[1], 12, None);
            let row = |row: &[f64]| (0..6).map(|i| row[i] * gelu(row[6 + i])).collect::<Vec<_>>();
            wide.chunks_exact(12).flat_map(row).collect()
        }),
    });
    for activation in Activation::ALL {
        check(&Op {
            name: "activation",
            inputs: vec![vec![9, 4]],
            weights: vec![("weight", vec![5, 4], true)],
            run: Box::new(move |cx, x| {
                let weight = matrix(cx, &[5, 4])?;
                let activation = Some(activation);
                ops::linear(cx, x[0], weight, None, Epilogue { activation, ..Epilogue::NONE })
            }),
            plain: Box::new(move |x| {
                let out = plain_linear(&x[0], &x[1], 5, None);
                out.into_iter().map(|x| plain_activation(activation, x)).collect()
            }),
        });
    }
}

#[test]
fn convolutions() {
    let halving = |padding| Conv2d { stride: 2, padding, ..Conv2d::padded(3, 1) };
    let cases = [
        ([2, 5, 4, 3], 2, Conv2d::padded(3, 1)),
        ([1, 17, 19, 2], 17, Conv2d::padded(3, 1)),
        ([2, 4, 5, 18], 3, Conv2d::padded(1, 0)),
        ([2, 6, 7, 3], 4, halving([1; 4])),
        ([1, 7, 6, 2], 3, halving([0, 1, 0, 1])),
        ([1, 3, 4, 2], 3, Conv2d { upsample_to: Some([6, 8]), ..Conv2d::padded(3, 1) }),
        ([1, 3, 2, 2], 3, Conv2d { upsample_to: Some([5, 3]), ..Conv2d::padded(3, 1) }),
        ([2, 3, 3, 1], 2, Conv2d { kernel: [1, 3], padding: [0, 0, 1, 1], ..Conv2d::padded(1, 0) }),
    ];
    for ([n, h, w, c], channels, conv) in cases {
        let dims = vec![channels, c, conv.kernel[0], conv.kernel[1]];
        let of_weight = dims.clone();
        let [height, width] = conv.output_size([h, w]).unwrap();
        check(&Op {
            name: "conv2d",
            inputs: vec![vec![n, h, w, c], vec![n, height, width, channels], vec![n, channels]],
            weights: vec![("weight", dims, true), ("bias", vec![channels], false)],
            run: Box::new(move |cx, x| {
                let weight = matrix(cx, &of_weight)?;
                let bias = cx.weight(&Path::root().at("bias"), [channels])?;
                let (residual, per_sample) = (Some(x[1]), Some(x[2]));
                let epilogue = Epilogue { residual, per_sample, ..Epilogue::NONE };
                ops::conv2d(cx, x[0], weight, Some(bias), conv, epilogue)
            }),
            plain: Box::new(move |x| {
                let mut out = plain::conv2d(&x[0], [n, h, w, c], &x[3], &x[4], conv);
                for (i, y) in out.iter_mut().enumerate() {
                    let (sample, channel) = (i / (height * width * channels), i % channels);
                    *y += x[1][i] + x[2][sample * channels + channel];
                }
                out
            }),
        });
    }
}

#[test]
fn group_norms() {
    for (n, [h, w], c, groups, silu, scaled) in [
        (2, [3, 5], 6, 2, true, false),
        (3, [4, 4], 18, 3, false, true),
        (1, [20, 30], 4, 4, true, true),
    ] {
        let activation = silu.then_some(Activation::Silu);
        check(&Op {
            name: "group_norm",
            inputs: vec![vec![n, h, w, c], vec![n, 2 * c]],
            weights: vec![("weight", vec![c], false), ("bias", vec![c], false)],
            run: Box::new(move |cx, x| {
                let root = Path::root();
                let [weight, bias] =
                    [cx.weight(&root.at("weight"), [c])?, cx.weight(&root.at("bias"), [c])?];
                let scale_shift = scaled.then_some(x[1]);
                let norm =
                    GroupNorm { groups, eps: 1e-5, scale_shift, activation, form: Form::F32 };
                ops::group_norm(cx, x[0], weight, bias, norm)
            }),
            plain: Box::new(move |x| {
                let scale_shift = scaled.then_some(&x[1][..]);
                plain_group_norm(&x[0], [n, h * w, c], groups, [&x[2], &x[3]], scale_shift, silu)
            }),
        });
    }
}

#[test]
fn layer_norms() {
    for (rows, c) in [(3, 5), (41, 33)] {
        check(&Op {
            name: "layer_norm",
            inputs: vec![vec![rows, c]],
            weights: vec![("weight", vec![c], false), ("bias", vec![c], false)],
            run: Box::new(move |cx, x| {
                let root = Path::root();
                let [weight, bias] =
                    [cx.weight(&root.at("weight"), [c])?, cx.weight(&root.at("bias"), [c])?];
                ops::layer_norm(cx, x[0], weight, bias, 1e-5, Form::F32)
            }),
            plain: Box::new(move |x| {
                let row = |row: &[f64]| {
                    let one = [&x[1][..], &x[2][..]];
                    let turned: Vec<f64> = row.to_vec();
                    let mean = turned.iter().sum::<f64>() / c as f64;
                    let variance =
                        turned.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
                    let scale = 1.0 / (variance + 1e-5).sqrt();
                    (0..c)
                        .map(|i| (row[i] - mean) * scale * one[0][i] + one[1][i])
                        .collect::<Vec<_>>()
                };
                x[0].chunks_exact(c).flat_map(row).collect()
            }),
        });
    }
}

#[test]
fn attention() {
    for (n, tq, tk, heads, d, causal) in
        [(2, 3, 5, 2, 3, false), (1, 70, 18, 1, 4, false), (2, 19, 19, 2, 17, true)]
    {
        let c = heads * d;
        check(&Op {
            name: "attention",
            inputs: vec![vec![n, tq, c], vec![n, tk, c], vec![n, tk, c]],
            weights: vec![],
            run: Box::new(move |cx, x| {
                let attention = Attention { heads, causal, form: Form::F32 };
                ops::attention(cx, x[0], x[1], x[2], attention)
            }),
            plain: Box::new(move |x| {
                plain::attention([&x[0], &x[1], &x[2]], [n, tq, tk, c], heads, causal)
            }),
        });
    }
}

#[test]
fn ops_without_weights() {
    let x = || vec![2, 4, 6, 3];
    let pool = |x: &[f64], h: usize, w: usize, c: usize| -> Vec<f64> {
        let (height, width) = (h / 2, w / 2);
        let mut out = Vec::new();
        for i in 0..x.len() / (h * w * c) * height * width * c {
            let (channel, across, row) = (i % c, i / c % width, i / c / width);
            let (image, down) = (row / height, row % height);
            let at = |y: usize, z: usize| {
                x[((image * h + 2 * down + y) * w + 2 * across + z) * c + channel]
            };
            out.push((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0);
        }
        out
    };
    let one = |name, inputs, run: Run, plain: Plain| {
        check(&Op { name, inputs, weights: vec![], run, plain })
    };
    one(
        "concat",
        vec![vec![2, 5, 3], vec![2, 5, 4]],
        Box::new(|cx, x| ops::concat(cx, x[0], x[1], Form::F32)),
        Box::new(|x| {
            let rows = x[0].chunks_exact(3).zip(x[1].chunks_exact(4));
            rows.flat_map(|(a, b)| [a, b].concat()).collect()
        }),
    );
    one(
        "avg_pool_2x2",
        vec![x()],
        Box::new(|cx, x| ops::avg_pool_2x2(cx, x[0])),
        Box::new(move |x| pool(&x[0], 4, 6, 3)),
    );
    one(
        "avg_pool_2x2, odd",
        vec![vec![1, 5, 3, 2]],
        Box::new(|cx, x| ops::avg_pool_2x2(cx, x[0])),
        Box::new(move |x| pool(&x[0], 5, 3, 2)),
    );
    one(
        "upsample_nearest",
        vec![vec![2, 3, 4, 2]],
        Box::new(|cx, x| ops::upsample_nearest(cx, x[0], [7, 8])),
        Box::new(|x| plain_upsample(&x[0], [2, 3, 4, 2], [7, 8])),
    );
    one(
        "add, scale and copy, in place",
        vec![vec![3, 7], vec![3, 7], vec![3, 7]],
        Box::new(|cx, x| {
            ops::add_in_place(cx, x[0], x[1])?;
            ops::scale_shift_in_place(cx, x[0], 0.75, 2.0)?;
            ops::copy_into(cx, x[0], x[2])?;
            ops::activate(cx, x[2], Activation::Silu)
        }),
        Box::new(|x| {
            let sums = x[0].iter().zip(&x[1]).map(|(a, b)| (a + b) * 0.75 + 2.0);
            sums.map(|x| plain_activation(Activation::Silu, x)).collect()
        }),
    );
}

#[test]
fn embeddings() {
    check(&Op {
        name: "embedding",
        inputs: vec![],
        weights: vec![("table", vec![6, 5], false)],
        run: Box::new(|cx, _| {
            let table = cx.weight(&Path::root().at("table"), [6, 5])?;
            ops::embedding(cx, &[3, 0, 3, 5], table)
        }),
        plain: Box::new(|x| {
            [3, 0, 3, 5].iter().flat_map(|id| x[0][id * 5..][..5].to_vec()).collect()
        }),
    });
}
