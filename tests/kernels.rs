//! Every kernel of every instruction set this machine has, against its scalar twin, on awkward
//! lengths.

use mote::arch::{Activation, Gather, Isa, MAX_TAPS, NO_ROW};
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
    for (isa, len) in isas().into_iter().flat_map(|isa| LENGTHS.map(|len| (isa, len))) {
        let [mean, scale, shift] = [4, 5, 6].map(|seed| numbers(seed, len));
        let (mut expected, mut found) = (values(len), values(len));
        Isa::SCALAR.normalise_f32(&mut expected, &mean, &scale, &shift);
        isa.normalise_f32(&mut found, &mean, &scale, &shift);
        assert_eq!(found, expected);
        for (i, x) in values(len).iter().enumerate() {
            assert_eq!(expected[i], (x - mean[i]) * scale[i] + shift[i]);
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

#[test]
fn a_gemm_tile_is_a_sum_of_products_over_taps_with_padding() {
    for (isa, channels, taps) in isas().into_iter().flat_map(|isa| {
        LENGTHS.iter().flat_map(move |&channels| [1, 2, MAX_TAPS].map(|taps| (isa, channels, taps)))
    }) {
        let [mr, nr] = isa.gemm_f32_tile();
        let data = numbers(7, 40 + channels);
        let offsets: Vec<usize> =
            (0..taps * mr).map(|i| if i % 4 == 3 { NO_ROW } else { i % 41 }).collect();
        let panel = numbers(8, taps * channels * nr);
        let zeros = vec![0.0; channels];
        let gather = Gather { data: &data, zeros: &zeros, offsets: &offsets, taps, channels };
        let mut tile = vec![f32::NAN; mr * nr];
        isa.gemm_f32(&gather, &panel, &mut tile);
        for (row, column) in (0..mr).flat_map(|row| (0..nr).map(move |column| (row, column))) {
            let mut sum = 0.0f64;
            for tap in 0..taps {
                let begin = offsets[tap * mr + row];
                for k in (0..channels).filter(|_| begin != NO_ROW) {
                    let right = panel[(tap * channels + k) * nr + column];
                    sum += f64::from(data[begin + k]) * f64::from(right);
                }
            }
            let found = f64::from(tile[row * nr + column]);
            let limit = 3e-6 * (1.0 + (taps * channels) as f64).sqrt();
            assert!((found - sum).abs() <= limit, "{isa:?} {taps}x{channels}: {found}, not {sum}");
        }
    }
}

#[test]
#[should_panic(expected = "outside its tensor")]
fn a_row_outside_its_tensor_is_caught() {
    let offsets = [usize::MAX - 1; 16];
    let gather =
        Gather { data: &[0.0; 8], zeros: &[0.0; 4], offsets: &offsets, taps: 1, channels: 4 };
    Isa::SCALAR.gemm_f32(&gather, &[0.0; 4 * 8], &mut [0.0; 4 * 8]);
}
