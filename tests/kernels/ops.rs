//! Every op against a plain loop in f64, on awkward sizes, every instruction set and several
//! numbers of threads.

use mote::exec::{Executor, Sequential};
use mote::mem::Arena;
use mote::ops::{self, Context, Conv2d, Epilogue};
use mote::tensor::Shape;
use mote::weights::{Path, Weight, Weights};
use mote_tests::{Memory, TestWeights, Threads, assert_close, best_isa, isas, numbers, run};

use crate::plain::{self, narrow, wide};

/// Runs `test` on every instruction set, alone and with threads; all threads must give the same
/// bits.
fn everywhere(mut test: impl FnMut(mote::arch::Isa, &dyn Executor) -> Vec<f32>) {
    for isa in isas() {
        let alone = test(isa, &Sequential);
        for threads in [2, 3, 7] {
            let together = test(isa, &Threads(threads));
            let equal = alone.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(equal && alone.len() == together.len(), "{threads} threads change no bit");
        }
    }
}

#[test]
fn linear_is_a_matrix_product_with_bias_and_residual() {
    for (m, k, n) in
        [(1, 1, 1), (3, 5, 7), (13, 31, 33), (50, 1029, 17), (1, 300, 1100), (65, 64, 512)]
    {
        let (x, w) = (numbers(1, m * k), numbers(2, n * k));
        let (bias, residual) = (numbers(3, n), numbers(4, m * n));
        let expected: Vec<f32> = (0..m * n)
            .map(|i| {
                let (row, column) = (i / n, i % n);
                let dot = |j: usize| f64::from(x[row * k + j]) * f64::from(w[column * k + j]);
                let sum = (0..k).map(dot).sum::<f64>();
                (sum + f64::from(bias[column]) + f64::from(residual[i])) as f32
            })
            .collect();
        let mut weights = TestWeights::default();
        weights.push("weight", &[n, k], &w);
        weights.push("bias", &[n], &bias);
        for staged in [false, true] {
            weights.staged = staged;
            everywhere(|isa, executor| {
                let (shape, found) = run(isa, executor, &mut weights, |cx| {
                    let x = ops::fill(cx, Shape::new([m, k]), &x)?;
                    let residual = ops::fill(cx, Shape::new([m, n]), &residual)?;
                    let matrix = cx.matrix(&Path::root().at("weight"), [n, k])?;
                    let bias = cx.weight(&Path::root().at("bias"), [n])?;
                    let epilogue = Epilogue { residual: Some(residual), ..Epilogue::NONE };
                    ops::linear(cx, x, matrix, Some(bias), epilogue)
                });
                assert_eq!(shape, [m, n]);
                assert_close(&format!("linear {m}x{k}x{n}"), &found, &expected, 2e-5);
                found
            });
        }
    }
}

#[test]
fn blocks_of_pixels_become_channels_in_pytorchs_order_and_come_back() {
    // torch.pixel_unshuffle(torch.arange(32.).reshape(1, 2, 4, 4), 2), channels last.
    let values: Vec<f32> = (0..32).map(|at| (at / 2 + 16 * (at % 2)) as f32).collect();
    let first = [0.0, 1.0, 4.0, 5.0, 16.0, 17.0, 20.0, 21.0];
    let last = [10.0, 11.0, 14.0, 15.0, 26.0, 27.0, 30.0, 31.0];
    let mut alone = [0.0; 32];
    ops::unshuffle(&values, [4, 4, 2], 2, &mut alone);
    everywhere(|isa, executor| {
        let (shape, blocks) = run(isa, executor, &mut TestWeights::default(), |cx| {
            let x = ops::fill(cx, Shape::new([1, 4, 4, 2]), &values)?;
            assert!(ops::pixel_shuffle(cx, x, 2).is_err(), "2 channels are no block");
            assert!(ops::pixel_unshuffle(cx, x, 3).is_err(), "4 pixels are no whole blocks");
            ops::pixel_unshuffle(cx, x, 2)
        });
        assert_eq!(
            (shape.as_slice(), &blocks[..8], &blocks[24..]),
            (&[1, 2, 2, 8][..], &first[..], &last[..])
        );
        assert_eq!(blocks, alone);
        let (shape, back) = run(isa, executor, &mut TestWeights::default(), |cx| {
            let x = ops::fill(cx, Shape::new([1, 2, 2, 8]), &blocks)?;
            ops::pixel_shuffle(cx, x, 2)
        });
        assert_eq!((shape.as_slice(), &back), (&[1, 4, 4, 2][..], &values));
        back
    });
}

#[test]
fn windows_are_cut_out_and_fade_in_where_they_lie() {
    // Rows and columns over which x fades in; as many as x has, or none of that side.
    for (n, [h, w], c, over) in [
        (1, [1, 1], 1, [1, 0]),
        (2, [5, 4], 3, [3, 0]),
        (2, [5, 4], 3, [0, 4]),
        (1, [6, 5], 2, [2, 3]),
        (1, [3, 2], 1, [7, 0]),
    ] {
        let ([from_h, from_w], at) = ([h + 2, w + 3], [2, 1]);
        let (x, from) = (numbers(1, n * h * w * c), numbers(2, n * from_h * from_w * c));
        let part = |at: usize, over: usize| (at as f64 / over.max(1) as f64).min(1.0);
        let m = |y, column| {
            let each = [part(y, over[0]), part(column, over[1])];
            let fades = |side: usize| if over[side] > 0 { each[side] } else { 1.0 };
            fades(0) * fades(1)
        };
        let (mut blended, mut cropped) = (Vec::new(), Vec::new());
        for (i, &own) in x.iter().enumerate() {
            let (channel, column, y) = (i % c, i / c % w, i / c / w % h);
            let row = i / c / w / h * from_h + at[0] + y;
            let below = from[(row * from_w + at[1] + column) * c + channel];
            let m = m(y, column);
            blended.push((f64::from(below) * (1.0 - m) + f64::from(own) * m) as f32);
            cropped.push(below);
        }
        let mut weights = TestWeights::default();
        for crop in [true, false] {
            let (shape, found) = run(best_isa(), &Sequential, &mut weights, |cx| {
                let from = ops::fill(cx, Shape::new([n, from_h, from_w, c]), &from)?;
                if crop {
                    return ops::crop(cx, from, at, [h, w]);
                }
                let x = ops::fill(cx, Shape::new([n, h, w, c]), &x)?;
                ops::blend_in_place(cx, x, (from, at), over)?;
                Ok(x)
            });
            assert_eq!(shape, [n, h, w, c]);
            let expected = if crop { &cropped } else { &blended };
            assert_close(&format!("{h}x{w} over {over:?}"), &found, expected, 1e-6);
        }
    }
}

#[test]
fn conv2d_is_a_sum_over_its_taps() {
    let cases = [
        // n, h, w, in, out, kernel, stride, padding, upsample_to
        (1, 1, 1, 1, 1, 3, 1, [1; 4], None),
        (2, 5, 3, 3, 37, 3, 1, [1; 4], None),
        (1, 13, 9, 17, 5, 3, 2, [1; 4], None),
        (1, 8, 7, 5, 3, 3, 2, [0, 1, 0, 1], None),
        (1, 4, 6, 130, 33, 3, 1, [1; 4], None),
        (2, 5, 4, 40, 64, 1, 1, [0; 4], None),
        (1, 3, 5, 6, 9, 3, 1, [1; 4], Some([6, 10])),
        (1, 5, 7, 6, 9, 3, 1, [1; 4], Some([9, 13])),
    ];
    for (n, h, w, ci, co, kernel, stride, padding, upsample_to) in cases {
        let (x, weight) = (numbers(5, n * h * w * ci), numbers(6, co * ci * kernel * kernel));
        let bias = numbers(7, co);
        let size = upsample_to.unwrap_or([h, w]);
        let [top, bottom, left, right] = padding;
        let out = [
            (size[0] + top + bottom - kernel) / stride + 1,
            (size[1] + left + right - kernel) / stride + 1,
        ];
        let conv = Conv2d { kernel: [kernel; 2], stride, padding, upsample_to };
        let expected = plain::conv2d(&wide(&x), [n, h, w, ci], &wide(&weight), &wide(&bias), conv);
        let expected = narrow(expected);
        let mut weights = TestWeights::default();
        weights.push("weight", &[co, ci, kernel, kernel], &weight);
        weights.push("bias", &[co], &bias);
        everywhere(|isa, executor| {
            let (shape, found) = run(isa, executor, &mut weights, |cx| {
                let x = ops::fill(cx, Shape::new([n, h, w, ci]), &x)?;
                let matrix = cx.matrix(&Path::root().at("weight"), [co, ci, kernel, kernel])?;
                let bias = cx.weight(&Path::root().at("bias"), [co])?;
                ops::conv2d(cx, x, matrix, Some(bias), conv, Epilogue::NONE)
            });
            assert_eq!(shape, [n, out[0], out[1], co]);
            assert_close(&format!("conv2d {h}x{w}x{ci}"), &found, &expected, 2e-5);
            found
        });
    }
}

/// Weights that are streamed, and count the bytes that were asked for.
struct Counted {
    weights: TestWeights,
    bytes: usize,
}

impl Weights for Counted {
    fn find(&mut self, name: &str, expected: Shape) -> mote::Result<Option<Weight>> {
        self.weights.find(name, expected)
    }

    fn contains(&mut self, name: &str) -> bool {
        self.weights.contains(name)
    }

    fn is_staged(&self) -> bool {
        self.weights.is_staged()
    }

    fn read<'a>(
        &'a mut self,
        weight: &Weight,
        start: usize,
        len: usize,
        staging: &'a mut [u8],
    ) -> mote::Result<&'a [u8]> {
        self.bytes += len;
        self.weights.read(weight, start, len, staging)
    }
}

#[test]
fn streamed_weights_are_read_once() {
    // Several blocks of k, and of columns.
    let (k, n) = (2500, 600);
    let mut weights = TestWeights::default();
    weights.staged = true;
    weights.push("weight", &[n, k], &numbers(11, n * k));
    let x = numbers(12, k);
    let mut memory = Memory::dirty(16 << 20, 0xFF);
    let mut counted = Counted { weights, bytes: 0 };
    let arena = Arena::new(memory.bytes());
    let mut cx = Context::new(arena, best_isa(), &Sequential, &mut counted);
    let x = ops::fill(&mut cx, Shape::new([1, k]), &x).unwrap();
    let matrix = cx.matrix(&Path::root().at("weight"), [n, k]).unwrap();
    ops::linear(&mut cx, x, matrix, None, Epilogue::NONE).unwrap();
    assert_eq!(counted.bytes, 4 * n * k);
}
