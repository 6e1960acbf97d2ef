//! Convolutions in bands of rows, and the layers made of them: the same as whole pictures, in
//! place, for any number of bands, samples and threads, with weights of every packing.

use mote::exec::{Executor, Sequential};
use mote::mem::Arena;
use mote::nn::{
    Conv, Norm, ResnetBlock2d, conv2d, conv2d_in_bands_replacing, group_norm, resnet_block_2d,
    resnet_block_2d_in_bands,
};
use mote::ops::{self, BandConv2d, Context, Conv2d, Limits};
use mote::tensor::packed::{DOUBLED, Sizes};
use mote::tensor::{Channels, Packing, Shape, Tensor};
use mote::weights::Path;
use mote::{Error, Result};
use mote_tests::{
    Memory, TestWeights, Threads, assert_close, best_isa, isas, numbers, run, run_with,
};

const NORM: Norm = Norm { groups: 2, eps: 1e-5 };

/// Pictures of several bands, the last of them shorter, and one of a single band.
const PICTURES: [[usize; 3]; 3] = [[1, 150, 131], [2, 70, 260], [2, 3, 5]];

/// The weight of a product of this packing, plain where there is none.
fn push_matrix(weights: &mut TestWeights, name: &str, packing: Option<Packing>, dims: [usize; 4]) {
    let values = numbers(name.len() as u32, dims.iter().product());
    match packing {
        None => weights.push(&format!("{name}.weight"), &dims, &values),
        Some(packing) => {
            weights.push_packed(&format!("{name}.weight"), packing, &dims, &values);
        }
    }
    weights.push(&format!("{name}.bias"), &[dims[0]], &numbers(7, dims[0]));
}

/// The weight and bias of a norm.
pub fn push_norm(weights: &mut TestWeights, name: &str, c: usize) {
    weights.push(&format!("{name}.weight"), &[c], &numbers(8, c));
    weights.push(&format!("{name}.bias"), &[c], &numbers(9, c));
}

/// The weights of a resnet.
fn resnet(packing: Option<Packing>, c: usize, channels: usize) -> TestWeights {
    let mut weights = TestWeights::default();
    push_norm(&mut weights, "norm1", c);
    push_norm(&mut weights, "norm2", channels);
    push_matrix(&mut weights, "conv1", packing, [channels, c, 3, 3]);
    push_matrix(&mut weights, "conv2", packing, [channels, channels, 3, 3]);
    push_matrix(&mut weights, "conv_shortcut", packing, [channels, c, 1, 1]);
    weights
}

/// What a walk gives from a picture of these dimensions: the same bits alone and with threads, in
/// place and streamed, in bands of any number of rows.
fn walk_everywhere(
    isa: mote::arch::Isa,
    weights: &mut TestWeights,
    dims: [usize; 4],
    walk: impl Fn(&mut Context<'_>, Tensor) -> Result<Tensor>,
) -> (Vec<usize>, Vec<f32>) {
    let values = numbers(1, dims.iter().product());
    let mut run_on = |limits: &Limits, executor: &dyn Executor, staged: bool| {
        weights.staged = staged;
        run_with(limits, isa, executor, weights, |cx| {
            let x = ops::fill(cx, Shape::new(dims), &values)?;
            let y = walk(cx, x)?;
            assert_eq!(y.offset(), x.offset(), "the result takes the place of x");
            Ok(y)
        })
    };
    let alone = run_on(&Limits::DEFAULT, &Sequential, false);
    for (threads, band_pixels) in [(2, Limits::DEFAULT.band_pixels), (2, 1), (7, 1000)] {
        let limits = Limits { band_pixels, ..Limits::DEFAULT };
        let together = run_on(&limits, &Threads(threads), threads == 7);
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(&alone.1) == bits(&together.1), "{threads} threads change no bit");
    }
    alone
}

#[test]
fn a_convolution_in_bands_equals_that_of_the_whole_picture_to_the_bit() {
    let root = Path::root();
    let layers = |[h, w]: [usize; 2]| {
        [
            // As wide, wider, narrower, halved, doubled, and to a size that is no multiple.
            (8, Conv::new(8, 3)),
            (4, Conv::new(10, 3)),
            (10, Conv::new(3, 3)),
            (6, Conv::new(6, 3).halving([0, 1, 0, 1])),
            (4, Conv::new(4, 3).upsample_to([2 * h, 2 * w])),
            (4, Conv::new(5, 3).upsample_to([h + h / 2, w + 3])),
        ]
    };
    let packings = [None, Some(Packing::Bf16), Some(Packing::Q8), Some(Packing::Q4)];
    for [n, h, w] in PICTURES {
        for (case, (c, layer)) in layers([h, w]).into_iter().enumerate() {
            let packing = packings[case % packings.len()];
            let out = [8, 10, 3, 6, 4, 5][case];
            let mut weights = TestWeights::default();
            push_norm(&mut weights, "norm", c);
            push_matrix(&mut weights, "conv", packing, [out, c, 3, 3]);
            let (norm, conv) = (root.at("norm"), root.at("conv"));
            let whole = |cx: &mut Context<'_>, x: Tensor| {
                cx.replace(x, |cx| {
                    let form = layer.form(cx, &conv, c)?;
                    let y = group_norm(cx, &norm, x, NORM.then_silu().in_form(form))?;
                    conv2d(cx, &conv, y, layer)
                })
            };
            let banded = |cx: &mut Context<'_>, x| {
                let norm = Some((norm, NORM.then_silu()));
                conv2d_in_bands_replacing(cx, norm, &conv, x, layer)
            };
            for isa in isas() {
                let expected = walk_everywhere(isa, &mut weights, [n, h, w, c], whole);
                let found = walk_everywhere(isa, &mut weights, [n, h, w, c], banded);
                assert_eq!(found, expected, "{packing:?}, {n}x{h}x{w}, case {case}, {isa:?}");
            }
        }
    }
}

#[test]
fn a_doubled_convolution_in_place_equals_that_into_another_tensor_to_the_bit() {
    let root = Path::root();
    let pictures =
        PICTURES.into_iter().flat_map(|picture| [[0, 0], [1, 1]].map(|less| (picture, less)));
    for (case, ([n, h, w], less)) in pictures.enumerate() {
        let packing = Packing::PACKED[case % Packing::PACKED.len()];
        // As wide, wider, narrower.
        for [c, channels] in [[6, 6], [5, 20], [7, 4]] {
            let mut weights = TestWeights::default();
            let sizes = Sizes { n: channels, channels: c, taps: DOUBLED }.doubled();
            let rows = numbers(5, sizes.n * c);
            weights.push_packed("conv.weight", packing, &[sizes.n, c], &rows);
            weights.push("conv.bias", &[channels], &numbers(7, channels));
            let layer = Conv::new(channels, 3).upsample_to([2 * h - less[0], 2 * w - less[1]]);
            let conv = root.at("conv");
            for isa in isas() {
                let dims = [n, h, w, c];
                let expected = walk_everywhere(isa, &mut weights, dims, |cx, x| {
                    cx.replace(x, |cx| conv2d(cx, &conv, x, layer))
                });
                let found = walk_everywhere(isa, &mut weights, dims, |cx, x| {
                    conv2d_in_bands_replacing(cx, None, &conv, x, layer)
                });
                assert_eq!(found, expected, "{packing:?}, {dims:?}, {less:?}, {isa:?}");
            }
        }
    }
}

#[test]
fn a_task_of_a_doubled_convolution_ends_with_its_band() {
    // Narrower than a block of pixels, so that a task has two lines; bands of 51 lines.
    let (isa, root) = (best_isa(), Path::root());
    let (conv, layer) = (root.at("conv"), Conv::new(20, 3).upsample_to([144, 80]));
    for packing in Packing::PACKED {
        let mut weights = TestWeights::default();
        let sizes = Sizes { n: 20, channels: 6, taps: DOUBLED }.doubled();
        weights.push_packed("conv.weight", packing, &[sizes.n, 6], &numbers(5, sizes.n * 6));
        weights.push("conv.bias", &[20], &numbers(7, 20));
        let expected = walk_everywhere(isa, &mut weights, [1, 72, 40, 6], |cx, x| {
            cx.replace(x, |cx| conv2d(cx, &conv, x, layer))
        });
        let found = walk_everywhere(isa, &mut weights, [1, 72, 40, 6], |cx, x| {
            conv2d_in_bands_replacing(cx, None, &conv, x, layer)
        });
        assert_eq!(found, expected, "{packing:?}");
    }
}

#[test]
fn a_resnet_in_bands_equals_the_whole_one() {
    // As wide; shrinking to half, to less, to more than half; growing. More than four, to which the
    // whole one is summed in another order.
    for (case, [c, channels]) in [[6, 6], [12, 6], [16, 6], [10, 6], [6, 8]].into_iter().enumerate()
    {
        let packings = [None, Some(Packing::F32), Some(Packing::Bf16), Some(Packing::Q8)];
        for [n, h, w] in PICTURES {
            let packing = packings[(case + n) % packings.len()];
            let mut weights = resnet(packing, c, channels);
            let block =
                ResnetBlock2d { channels, norm: NORM, time: None, output_scale_factor: 1.0 };
            let (isa, root) = (best_isa(), Path::root());
            let dims = [n, h, w, c];
            let (shape, expected) = walk_everywhere(isa, &mut weights, dims, |cx, x| {
                cx.replace(x, |cx| resnet_block_2d(cx, &root, x, block))
            });
            let found = walk_everywhere(isa, &mut weights, dims, |cx, x| {
                resnet_block_2d_in_bands(cx, &root, x, channels, NORM.then_silu())
            });
            assert_eq!(found.0, shape);
            assert_close(&format!("{packing:?}, {dims:?}"), &found.1, &expected, 1e-5);
        }
    }
}

#[test]
fn a_resnet_in_bands_takes_the_memory_it_says() {
    let (h, w) = (512, 512);
    for ([c, channels], floats) in
        [([32, 32], 64), ([64, 32], 64), ([80, 32], 80), ([48, 32], 80), ([32, 64], 128)]
    {
        let mut weights = resnet(None, c, channels);
        let mut cx = Context::new(Arena::measuring(), best_isa(), &Sequential, &mut weights);
        let x = cx.tensor(Shape::new([1, h, w, c])).unwrap();
        resnet_block_2d_in_bands(&mut cx, &Path::root(), x, channels, NORM.then_silu()).unwrap();
        let (peak, unit) = (cx.arena().peak() as f64, (4 * h * w) as f64);
        assert!(peak <= unit * floats as f64 * 1.2, "{c} to {channels}: {}", peak / unit);
    }
}

/// A convolution in bands from x into a picture of its own.
fn apart(
    weights: &mut TestWeights,
    x: [usize; 4],
    out: [usize; 4],
    conv: Conv2d,
) -> Result<Tensor> {
    let mut cx = Context::new(Arena::measuring(), best_isa(), &Sequential, weights);
    let x = cx.tensor(Shape::new(x))?;
    let out = cx.tensor(Shape::new(out))?;
    let matrix = cx.matrix(&Path::root().at("conv.weight"), [4, 6, 3, 3])?;
    let out_channels = Channels::all(out);
    let (norm, accumulate) = (None, false);
    let conv = BandConv2d { norm, matrix, bias: None, conv, out: out_channels, accumulate };
    ops::conv2d_in_bands(&mut cx, Channels::all(x), [conv])?;
    Ok(out)
}

#[test]
fn outputs_that_do_not_fit_are_refused() {
    let mut weights = TestWeights::default();
    push_matrix(&mut weights, "conv", None, [4, 6, 3, 3]);
    let same = Conv2d::padded(3, 1);
    assert!(apart(&mut weights, [1, 9, 9, 6], [1, 9, 9, 4], same).is_ok());
    for (x, out, conv) in [
        ([1, 9, 9, 5], [1, 9, 9, 4], same),
        ([1, 9, 9, 6], [1, 9, 9, 5], same),
        ([1, 9, 9, 6], [1, 9, 8, 4], same),
        ([2, 9, 9, 6], [1, 9, 9, 4], same),
        ([1, 9, 9, 6], [1, 9, 9, 4], Conv2d::padded(3, 0)),
        ([1, 2, 9, 6], [1, 0, 7, 4], Conv2d::padded(3, 0)),
    ] {
        let error = apart(&mut weights, x, out, conv).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{x:?}, {out:?}: {error:?}");
    }
    let kernel = Conv2d { kernel: [2, 3], ..same };
    let error = apart(&mut weights, [1, 9, 9, 6], [1, 9, 9, 4], kernel).unwrap_err();
    assert!(matches!(error, Error::Capacity { .. }), "{error:?}");
}

#[test]
#[should_panic(expected = "a band would overwrite rows")]
fn a_band_over_rows_to_come_is_caught() {
    let mut weights = TestWeights::default();
    push_matrix(&mut weights, "conv", None, [4, 4, 3, 3]);
    let mut memory = Memory::dirty(16 << 20, 0);
    let arena = Arena::new(memory.bytes());
    let mut cx = Context::new(arena, best_isa(), &Sequential, &mut weights);
    let x = cx.tensor(Shape::new([2, 128, 128, 4])).unwrap();
    let matrix = cx.matrix(&Path::root().at("conv.weight"), [4, 4, 3, 3]).unwrap();
    let [first, second] = [0, 1].map(|sample| x.sample(sample).unwrap());
    let conv = |out| {
        let (conv, out) = (Conv2d::padded(3, 1), Channels::all(out));
        BandConv2d { norm: None, matrix, bias: None, conv, out, accumulate: false }
    };
    ops::conv2d_in_bands(&mut cx, Channels::all(first), [conv(second)]).unwrap();
    let shifted = x.rows(16 * 128, 128 * 128).unwrap().reshape([1, 128, 128, 4]).unwrap();
    ops::conv2d_in_bands(&mut cx, Channels::all(first), [conv(shifted)]).unwrap();
}

#[test]
fn channels_move_together_in_place() {
    for (rows, c, start, count) in
        [(1, 1, 0, 1), (7, 3, 1, 1), (1000, 4, 2, 2), (4099, 6, 0, 4), (300, 5, 1, 4), (9, 3, 1, 0)]
    {
        let x = numbers(3, rows * c);
        let expected: Vec<f32> =
            x.chunks(c).flat_map(|row| row[start..start + count].to_vec()).collect();
        for executor in [&Sequential as &dyn Executor, &Threads(3)] {
            let (shape, found) = run(best_isa(), executor, &mut TestWeights::default(), |cx| {
                let x = ops::fill(cx, Shape::new([rows, c]), &x)?;
                ops::slice_channels_in_place(cx, x, start, count)
            });
            assert_eq!((shape, &found), (vec![rows, count], &expected));
        }
    }
    let mut weights = TestWeights::default();
    let mut cx = Context::new(Arena::measuring(), best_isa(), &Sequential, &mut weights);
    let x = cx.tensor(Shape::new([5, 3])).unwrap();
    let error = Error::Index { what: "channel", index: 4, limit: 3 };
    assert_eq!(ops::slice_channels_in_place(&mut cx, x, 2, 2), Err(error));
}
