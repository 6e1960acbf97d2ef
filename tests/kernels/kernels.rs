//! Every kernel of every instruction set this machine has, but the product, against its scalar twin
//! and a plain loop, on awkward lengths.

use half::bf16;
use mote::arch::{Activation, Isa};
use mote_tests::{isas, numbers};

const LENGTHS: [usize; 12] = [0, 1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 257];

/// The distance of two floats in units in the last place.
fn ulps(a: f32, b: f32) -> u32 {
    let ordered = |x: f32| {
        let bits = x.to_bits() as i32;
        if bits < 0 { i32::MIN.wrapping_sub(bits) } else { bits }
    };
    if a == b { 0 } else { ordered(a).abs_diff(ordered(b)) }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Values over many magnitudes, zeros and the ends of the range among them.
fn values(len: usize) -> Vec<f32> {
    let special = [0.0, -0.0, 1e-30, -1e-30, 100.0, -100.0, 1e30, -1e30];
    let mut values = numbers(len as u32 + 1, len);
    for (i, value) in values.iter_mut().enumerate() {
        *value = if i % 5 == 4 { special[i / 5 % 8] } else { *value * (i % 13) as f32 };
    }
    values
}

#[test]
fn activations_are_the_same_on_every_instruction_set() {
    for isa in isas() {
        for (activation, len) in
            Activation::ALL.into_iter().flat_map(|a| LENGTHS.map(|len| (a, len)))
        {
            let (mut expected, mut found) = (values(len), values(len));
            Isa::SCALAR.activate_f32(activation, &mut expected);
            isa.activate_f32(activation, &mut found);
            for (a, b) in found.iter().zip(&expected) {
                assert_eq!(a.to_bits(), b.to_bits(), "{activation:?} of {len} on {isa:?}");
            }
        }
    }
}

#[test]
fn exponentials_and_their_sum_are_the_same_on_every_instruction_set() {
    for (isa, len) in isas().into_iter().flat_map(|isa| LENGTHS.map(|len| (isa, len))) {
        let x: Vec<f32> = numbers(3, len).iter().map(|x| x * 20.0).collect();
        let (mut expected, mut found) = (x.clone(), x);
        let sum = Isa::SCALAR.exp_sub_sum_f32(&mut expected, 17.5);
        assert_eq!(isa.exp_sub_sum_f32(&mut found, 17.5).to_bits(), sum.to_bits());
        assert_eq!(found, expected);
    }
}

#[test]
fn the_exponential_is_within_its_stated_error() {
    let mut worst = 0;
    for i in -87_000..=88_000 {
        let x = i as f32 / 1000.0;
        let mut found = [x];
        Isa::SCALAR.exp_sub_sum_f32(&mut found, 0.0);
        worst = worst.max(ulps(found[0], f64::from(x).exp() as f32));
    }
    assert!(worst <= 2, "{worst} ULP");
}

#[test]
fn normalising_is_the_same_on_every_instruction_set() {
    for (isa, c) in isas().into_iter().flat_map(|isa| LENGTHS[1..].iter().map(move |&c| (isa, c))) {
        for (rows, further) in [(0, [0, 0]), (1, [0, 0]), (3, [0, 0]), (3, [5, 0]), (3, [2, 9])] {
            // Rows of which the last is not followed by what lies between them.
            let [stride, pitch] = further.map(|further| c + further);
            let len = |pitch: usize| (rows * pitch).saturating_sub(pitch - c);
            let (x, affine) = (values(len(stride)), numbers(4, 3 * c));
            let affine = [0, 1, 2].map(|of| &affine[of * c..][..c]);
            for silu in [false, true] {
                let [mut expected, mut found] = [(); 2].map(|()| vec![f32::NAN; len(pitch)]);
                Isa::SCALAR.normalise_f32(&x, stride, affine, silu, &mut expected, pitch);
                isa.normalise_f32(&x, stride, affine, silu, &mut found, pitch);
                assert_eq!(bits(&found), bits(&expected), "{rows}x{c} on {isa:?}, silu {silu}");
                for (i, found) in expected.iter().enumerate() {
                    let (row, channel) = (i / pitch, i % pitch);
                    if channel >= c {
                        assert!(found.is_nan(), "what lies between the rows is left alone");
                        continue;
                    }
                    let [mean, scale, shift] = affine.map(|values| values[channel]);
                    let y = (x[row * stride + channel] - mean) * scale + shift;
                    let expected = if silu { y / (1.0 + (-y).exp()) } else { y };
                    let limit = if silu { 2e-5 * expected.abs() + 2e-8 } else { 0.0 };
                    assert!((found - expected).abs() <= limit, "{found}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn layer_normalisation_is_what_its_formula_says() {
    for (isa, len) in isas().into_iter().flat_map(|isa| LENGTHS.map(|len| (isa, len))) {
        // A mean that is large against the deviations.
        let x: Vec<f32> = numbers(5, len).iter().map(|x| 20.0 + x).collect();
        let [weight, bias] = [6, 7].map(|seed| numbers(seed, len));
        let [mut expected, mut found] = [(); 2].map(|()| vec![f32::NAN; len]);
        Isa::SCALAR.layer_norm_f32(&x, &weight, &bias, 1e-5, &mut expected);
        isa.layer_norm_f32(&x, &weight, &bias, 1e-5, &mut found);
        assert_eq!(bits(&found), bits(&expected), "{len} on {isa:?}");
        let [mean, squares] = moments(x.iter().copied());
        for (i, x) in x.iter().enumerate() {
            let share = (f64::from(*x) - mean) / (squares / len as f64 + 1e-5).sqrt();
            let expected = share * f64::from(weight[i]) + f64::from(bias[i]);
            assert!((f64::from(found[i]) - expected).abs() < 2e-5, "{len} on {isa:?}");
        }
    }
}

/// The mean of some numbers and the sum of their squared deviations from it.
fn moments(x: impl Iterator<Item = f32> + Clone) -> [f64; 2] {
    let mean = x.clone().map(f64::from).sum::<f64>() / x.clone().count() as f64;
    [mean, x.map(|x| (f64::from(x) - mean).powi(2)).sum()]
}

#[test]
fn moments_are_those_of_each_channel() {
    for (isa, c) in isas().into_iter().flat_map(|isa| LENGTHS[1..].iter().map(move |&c| (isa, c))) {
        for pixels in [1, 2, 5, 17] {
            let x: Vec<f32> = numbers(8, pixels * c).iter().map(|x| 20.0 + x).collect();
            let [mut expected, mut found] = [(); 2].map(|()| vec![f32::NAN; 2 * c]);
            Isa::SCALAR.moments_f32(&x, &mut expected);
            isa.moments_f32(&x, &mut found);
            assert_eq!(bits(&found), bits(&expected), "{pixels}x{c} on {isa:?}");
            for channel in 0..c {
                let [mean, squares] = moments(x[channel..].iter().copied().step_by(c));
                assert!((f64::from(found[channel]) - mean).abs() < 1e-5);
                assert!((f64::from(found[c + channel]) - squares).abs() < 1e-5 * (1.0 + squares));
            }
        }
    }
}

#[test]
fn the_largest_number_is_found_wherever_it_stands() {
    for (isa, len) in isas().into_iter().flat_map(|isa| LENGTHS.map(|len| (isa, len))) {
        let mut x: Vec<f32> = numbers(9, len).iter().map(|x| x - 2.0).collect();
        assert_eq!(isa.max_f32(&x, 5.0), 5.0);
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(isa.max_f32(&x, f32::NEG_INFINITY), largest);
        for at in 0..len {
            let before = core::mem::replace(&mut x[at], 0.5);
            assert_eq!(isa.max_f32(&x, -0.5), 0.5, "number {at} of {len} on {isa:?}");
            x[at] = before;
        }
    }
}

#[test]
fn sums_and_gates_take_as_many_as_there_are_of_both() {
    for (isa, len) in isas().into_iter().flat_map(|isa| LENGTHS.map(|len| (isa, len))) {
        for (more, other_more) in [(0, 0), (0, 3), (3, 0)] {
            let (before, other) = (values(len + more), values(len + other_more + 1));
            let (other, rest) = (&other[1..], len);
            let mut x = before.clone();
            isa.scale_add_f32(&mut x, 0.75, other, -1.5);
            for i in 0..len {
                let expected = 0.75 * before[i] + -1.5 * other[i];
                assert_eq!(x[i].to_bits(), expected.to_bits(), "{len} on {isa:?}");
            }
            assert_eq!(x[rest..], before[rest..]);
            let mut gate = other.to_vec();
            Isa::SCALAR.activate_f32(Activation::Gelu, &mut gate);
            let mut x = before.clone();
            isa.gelu_times_f32(other, &mut x);
            for i in 0..len {
                assert_eq!(x[i].to_bits(), (before[i] * gate[i]).to_bits(), "{len} on {isa:?}");
            }
            assert_eq!(x[rest..], before[rest..]);
        }
    }
}

#[test]
fn differences_and_doubled_outputs_are_sums_in_one_order() {
    for (isa, len) in isas().into_iter().flat_map(|isa| LENGTHS.map(|len| (isa, len))) {
        let [a, b] = [values(len), numbers(21, len)];
        let mut difference = vec![f32::NAN; len + 1];
        isa.subtract_f32(&a, &b, &mut difference);
        for i in 0..len {
            assert_eq!(difference[i].to_bits(), (a[i] - b[i]).to_bits(), "{len} on {isa:?}");
        }
        assert!(difference[len].is_nan());
        let products = [[22, 23, 24], [25, 26, 27]].map(|line| line.map(|seed| numbers(seed, len)));
        let [own, other] = &products;
        let lines = [[&own[0][..], &own[1], &own[2]], [&other[0], &other[1], &other[2]]];
        for [first, second] in [[len, len], [len, 0], [0, len]] {
            let [mut one, mut two] = [first, second].map(|len| vec![f32::NAN; len]);
            isa.double_f32(lines, &b, [&mut one, &mut two]);
            for (out, side) in [(one, 0), (two, 2)] {
                for (i, out) in out.iter().enumerate() {
                    let neighbour = own[side][i] + other[side][i];
                    let expected = own[1][i] + other[1][i] + neighbour + b[i];
                    assert_eq!(out.to_bits(), expected.to_bits(), "{len} on {isa:?}");
                }
            }
        }
    }
}

#[test]
fn a_silu_that_is_rounded_afterwards_is_near_enough() {
    let mut x: Vec<f32> = (-100_000..=100_000).map(|i| i as f32 / 1000.0).collect();
    x.extend([1e30, -1e30, f32::INFINITY, f32::NAN]);
    for isa in isas() {
        // One channel that is left as it is.
        let mut found = vec![0.0; x.len()];
        isa.normalise_f32(&x, 1, [&[0.0], &[1.0], &[0.0]], true, &mut found, 1);
        for (&x, &found) in x.iter().zip(&found).take(200_001) {
            let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
            let limit = 1e-5 * exact.abs() + 1e-35;
            assert!((f64::from(found) - exact).abs() <= limit, "{x}: {found}, not {exact}");
        }
        let [most, least, infinite, none] = found[200_001..] else { panic!("four more") };
        assert_eq!([most, infinite], [1e30, f32::INFINITY]);
        assert!((-2e-8..=0.0).contains(&least) && none.is_nan(), "{least}, {none}");
    }
}

#[test]
fn activations_are_within_their_stated_errors() {
    type Function = fn(f64) -> f64;
    let functions: [(Activation, Function); 5] = [
        (Activation::Silu, |x| x / (1.0 + (-x).exp())),
        (Activation::GeluTanh, |x| {
            let inner = (2.0 / core::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }),
        (Activation::QuickGelu, |x| x / (1.0 + (-1.702 * x).exp())),
        (Activation::Relu, |x| x.max(0.0)),
        (Activation::ClampTanh3, |x| 3.0 * (x / 3.0).tanh()),
    ];
    for (activation, function) in functions {
        let x: Vec<f32> = (-20_000..=20_000).map(|i| i as f32 / 1000.0).collect();
        let mut found = x.clone();
        Isa::SCALAR.activate_f32(activation, &mut found);
        for (&x, &found) in x.iter().zip(&found) {
            let expected = function(f64::from(x));
            let good = match activation {
                Activation::Silu => ulps(found, expected as f32) <= 4,
                Activation::GeluTanh | Activation::QuickGelu => {
                    (f64::from(found) - expected).abs() <= 3e-7 * f64::from(x).abs().max(1.0)
                }
                Activation::ClampTanh3 => (f64::from(found) - expected).abs() <= 7e-7,
                _ => f64::from(found) == expected,
            };
            assert!(good, "{activation:?} of {x}: {found}, not {expected}");
        }
    }
}

/// A quantised row taken apart: the numbers it stands for, its scale and its zero point.
fn dequantised(row: &[u8], len: usize) -> (Vec<f64>, f32, i32) {
    let (integers, tail) = row.split_at(row.len() - 8);
    let scale = f32::from_le_bytes(tail[..4].try_into().unwrap());
    let zero = i32::from_le_bytes(tail[4..].try_into().unwrap());
    let number = |&q: &u8| f64::from(scale) * f64::from(i32::from(q) - zero);
    (integers[..len].iter().map(number).collect(), scale, zero)
}

#[test]
fn quantised_rows_are_within_half_a_step_and_the_same_on_every_instruction_set() {
    let rows = |len: usize| {
        let x = numbers(10, len);
        let map = |f: fn(f32) -> f32| x.iter().copied().map(f).collect::<Vec<f32>>();
        let mut outlier = map(|x| x);
        if let Some(last) = outlier.last_mut() {
            *last = -1000.0;
        }
        [
            map(|x| x),
            map(|x| x * 1e30),
            map(|x| x * 1e-30),
            map(|x| x.abs() + 3.0),
            map(|x| -x.abs() - 3.0),
            map(|_| 0.0),
            map(|_| -0.0),
            map(|_| 7.0),
            map(|_| -7.0),
            map(|x| if x > 0.0 { 0.0 } else { 2.0 }),
            outlier,
        ]
    };
    for len in LENGTHS[1..].iter().copied().chain([5, 6, 63, 65, 1279, 1280]) {
        let row_bytes = len.next_multiple_of(4) + 8;
        let rows = rows(len);
        let mut all = vec![0xAA; rows.len() * row_bytes];
        Isa::SCALAR.quantise_rows(&rows.concat(), len, &mut all);
        for isa in isas() {
            let mut found = vec![0x55; all.len()];
            isa.quantise_rows(&rows.concat(), len, &mut found);
            assert_eq!(found, all, "{len} on {isa:?}");
        }
        for (x, expected) in rows.iter().zip(all.chunks_exact(row_bytes)) {
            let (found, scale, zero) = dequantised(expected, len);
            assert!((0..=255).contains(&zero));
            let largest = x.iter().copied().fold(0.0, f32::max);
            let range = largest - x.iter().copied().fold(0.0, f32::min);
            assert!((f64::from(scale) * 255.0 - f64::from(range)).abs() <= 1e-6 * f64::from(range));
            for (found, &x) in found.iter().zip(x) {
                let limit = 0.5001 * f64::from(scale);
                assert!((found - f64::from(x)).abs() <= limit, "{x} became {found} in {len}");
                assert!(x != 0.0 || *found == 0.0, "zero stays zero");
            }
            // What is beyond the row stands for 0.
            assert!(expected[len..len.next_multiple_of(4)].iter().all(|&q| i32::from(q) == zero));
        }
    }
}

#[test]
fn a_row_that_is_not_finite_is_quantised_to_what_is_no_number() {
    for (isa, len) in isas().into_iter().flat_map(|isa| [1, 3, 16, 37].map(|len| (isa, len))) {
        for (bad, at) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
            .into_iter()
            .flat_map(|bad| [0, len / 2, len - 1].map(|at| (bad, at)))
        {
            let mut x = numbers(11, len);
            x[at] = bad;
            let mut row = vec![0; len.next_multiple_of(4) + 8];
            isa.quantise_rows(&x, len, &mut row);
            let (_, scale, _) = dequantised(&row, len);
            assert!(scale.is_nan(), "{bad} at {at} of {len} on {isa:?}: {scale}");
        }
    }
}

#[test]
fn rows_of_the_smallest_and_largest_numbers_are_quantised_without_a_panic() {
    for isa in isas() {
        for x in [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45, -1e-40] {
            let mut row = vec![0; 16];
            isa.quantise_rows(&[x, 0.0, -x, x, x / 3.0], 5, &mut row);
            let (found, scale, _) = dequantised(&row, 5);
            // The range of the largest numbers overflows; the smallest ones are lost at worst.
            let lost = found.iter().all(|found| found.abs() < 1e-28);
            assert!(if x.abs() > 1.0 { !scale.is_finite() } else { lost }, "{x} on {isa:?}");
        }
    }
}

#[test]
fn every_number_is_rounded_to_the_nearest_bf16() {
    let low = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF];
    let x: Vec<f32> = (0..=u16::MAX)
        .flat_map(|high| low.map(|low| f32::from_bits(u32::from(high) << 16 | low)))
        .collect();
    let expected: Vec<u8> = x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    for isa in isas() {
        let mut found = vec![0; 2 * x.len()];
        isa.f32_to_bf16(&x, &mut found);
        for (i, (found, expected)) in found.chunks(2).zip(expected.chunks(2)).enumerate() {
            assert_eq!(found, expected, "{:#x} on {isa:?}", x[i].to_bits());
        }
        for len in LENGTHS {
            let mut part = vec![0xFF; 2 * len.next_multiple_of(2)];
            isa.f32_to_bf16(&x[0x1F_0000 / 8..][..len], &mut part);
            assert_eq!(part[..2 * len], expected[0x1F_0000 / 4..][..2 * len]);
            assert!(part[2 * len..].iter().all(|&byte| byte == 0), "{len} on {isa:?}");
        }
    }
}

#[test]
fn rows_that_lie_apart_become_bf16() {
    for (isa, width) in
        isas().into_iter().flat_map(|isa| [1usize, 15, 16, 33, 64].map(|w| (isa, w)))
    {
        let bytes = 2 * width.next_multiple_of(2);
        for (rows, stride, pitch) in [(1, width, bytes), (5, width + 3, bytes + 7), (6, width, 200)]
        {
            let x = values((rows - 1) * stride + width);
            let mut found = vec![0xFF; (rows - 1) * pitch + bytes];
            isa.bf16_rows(&x, stride, width, &mut found, pitch);
            for (at, &found) in found.iter().enumerate() {
                let (row, column) = (at / pitch, at % pitch / 2);
                let expected = match column {
                    column if column < width => {
                        bf16::from_f32(x[row * stride + column]).to_le_bytes()[at % pitch % 2]
                    }
                    column if 2 * column < bytes => 0,
                    // What lies between the rows is left alone.
                    _ => 0xFF,
                };
                assert_eq!(found, expected, "{rows} of {width} on {isa:?}");
            }
        }
    }
}

#[test]
fn pairs_of_rows_become_words_of_bf16() {
    for (isa, width) in isas().into_iter().flat_map(|isa| [1, 15, 16, 33].map(|w| (isa, w))) {
        for (rows, stride) in [(1, width), (2, width), (5, width + 3), (6, width + 40)] {
            let x = values((rows - 1) * stride + width);
            let mut found = vec![0xFF; 4 * width * rows.div_ceil(2)];
            isa.bf16_pairs(&x, stride, width, &mut found);
            for (i, half) in found.chunks_exact(2).enumerate() {
                let (row, column) = (i / (2 * width) * 2 + i % 2, i / 2 % width);
                let x = if row < rows { x[row * stride + column] } else { 0.0 };
                assert_eq!(half, bf16::from_f32(x).to_le_bytes(), "{rows} of {width} on {isa:?}");
            }
        }
    }
}

#[test]
fn columns_become_rows() {
    for (isa, rows) in isas().into_iter().flat_map(|isa| [1, 15, 16, 40].map(|r| (isa, r))) {
        for (stride, pitch) in [(16, rows), (21, rows + 3)] {
            let x = numbers(9, (rows - 1) * stride + 16);
            let mut found = vec![f32::NAN; 15 * pitch + rows];
            isa.transpose_f32(&x, stride, rows, &mut found, pitch);
            for (i, &found) in found.iter().enumerate() {
                let (column, row) = (i / pitch, i % pitch);
                match row < rows {
                    true => assert_eq!(found, x[row * stride + column], "{rows} on {isa:?}"),
                    false => assert!(found.is_nan(), "what lies between the rows is left alone"),
                }
            }
        }
    }
}

#[test]
fn rows_are_quantised_one_by_one() {
    let x = numbers(14, 7 * 21);
    for isa in isas() {
        let mut together = vec![0; 7 * 32];
        isa.quantise_rows(&x, 21, &mut together);
        for (x, found) in x.chunks(21).zip(together.chunks(32)) {
            let mut alone = vec![0; 32];
            isa.quantise_rows(x, 21, &mut alone);
            assert_eq!(found, alone, "{isa:?}");
        }
    }
}

#[test]
fn every_half_precision_number_is_widened_exactly() {
    let from: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for isa in isas() {
        let mut to = vec![0.0; 1 << 16];
        isa.f16_to_f32(&from, &mut to);
        for (bits, &found) in (0..=u16::MAX).zip(&to) {
            let expected = half::f16::from_bits(bits).to_f32();
            let equal =
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(equal, "f16 {bits:#06x} on {isa:?}: {found}, not {expected}");
        }
        isa.bf16_to_f32(&from, &mut to);
        for (bits, &found) in (0..=u16::MAX).zip(&to) {
            assert_eq!(found.to_bits(), u32::from(bits) << 16, "bf16 {bits:#06x} on {isa:?}");
        }
        for len in LENGTHS {
            let mut part = vec![0.0; len];
            isa.bf16_to_f32(&from[..2 * len], &mut part);
            assert_eq!(part, to[..len]);
        }
    }
}
