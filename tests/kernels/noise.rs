//! The generators of noise, against PyTorch's own values and for what must hold of any.

use mote::diffusion::noise::{Noise, NoiseKind};
use mote_tests::assert_close;

fn draw(kind: NoiseKind, seed: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Noise::new(kind, seed).fill(&mut values);
    values
}

#[test]
fn torch_cpu_gives_the_published_values() {
    let expected = [
        -1.1258398, -1.1523602, -0.2505786, -0.4338788, 0.8487103, 0.6920092, -0.3160128,
        -2.1152194, 0.3222749, -1.2633348, 0.3499832, 0.3081339, 0.1198415, 1.237658, 1.1167772,
        -0.2472782,
    ];
    assert_close("noise", &draw(NoiseKind::TorchCpu, 0, 16), &expected, 3e-7);
    let latents = draw(NoiseKind::TorchCpu, 42, 4 * 64 * 64);
    assert_close("noise", &latents[..4], &[1.9269153, 1.4872841, 0.9007172, -2.1055212], 3e-7);
}

#[test]
fn torch_cuda_gives_the_published_values() {
    let expected = [-0.9247, -0.4253, -2.6438, 0.1452, -0.1209, -0.5797, -0.6229, -0.3284];
    assert_close("noise", &draw(NoiseKind::TorchCuda, 0, 8), &expected, 5e-5);
}

/// The lengths of golden/noise.py, in its order.
fn torch_lengths() -> Vec<usize> {
    (1..=40).chain([100, 4096, 5, 16, 3, 17, 1, 1, 40, 7, 15, 31, 2, 100, 9]).collect()
}

#[test]
fn torch_cpu_follows_pytorch_through_calls_of_every_length() {
    let bytes = include_bytes!("../golden/noise/torch_cpu.f32").as_chunks::<4>().0;
    let mut expected = bytes.iter().map(|b| f32::from_le_bytes(*b));
    let mut noise = Noise::new(NoiseKind::TorchCpu, 7);
    for len in torch_lengths() {
        let mut values = vec![0.0; len];
        noise.fill(&mut values);
        let expected: Vec<f32> = expected.by_ref().take(len).collect();
        // PyTorch's vectorised logarithm and cosine differ from ours in the last places.
        assert_close("noise", &values, &expected, 4e-7);
    }
    assert!(expected.next().is_none());
}

#[test]
fn torch_cpu_ignores_the_high_half_of_the_seed() {
    let high = draw(NoiseKind::TorchCpu, 7 | 9 << 32, 20);
    assert_eq!(high, draw(NoiseKind::TorchCpu, 7, 20));
}

#[test]
fn torch_cuda_gives_the_same_value_at_the_same_place_whatever_the_length() {
    let long = draw(NoiseKind::TorchCuda, 1 << 40, 100);
    assert_eq!(draw(NoiseKind::TorchCuda, 1 << 40, 33), long[..33]);
    assert_ne!(draw(NoiseKind::TorchCuda, 2 << 40, 33), long[..33]);
}

#[test]
fn the_default_stream_never_changes() {
    let bits = draw(NoiseKind::default(), 0, 4).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits, [1048803639, 3213251452, 3194242594, 3215171025]);
}

const KINDS: [NoiseKind; 3] = [NoiseKind::Pcg, NoiseKind::TorchCpu, NoiseKind::TorchCuda];

#[test]
fn one_seed_gives_one_stream_and_calls_differ() {
    for kind in KINDS {
        assert_eq!(draw(kind, 3, 100), draw(kind, 3, 100));
        assert_ne!(draw(kind, 3, 100), draw(kind, 4, 100));
        let mut noise = Noise::new(kind, 3);
        let (mut first, mut second) = ([0.0; 100], [0.0; 100]);
        noise.fill(&mut first);
        noise.fill(&mut second);
        assert_ne!(first, second);
    }
}

#[test]
fn the_values_are_standard_normal() {
    for kind in KINDS {
        let values = draw(kind, 11, 100_000);
        let moment = |k: i32| {
            values.iter().map(|v| f64::from(*v).powi(k)).sum::<f64>() / values.len() as f64
        };
        // Four standard errors of each estimate.
        assert!(moment(1).abs() < 0.013, "{kind:?}");
        assert!((moment(2) - 1.0).abs() < 0.018, "{kind:?}");
        assert!(moment(3).abs() < 0.05, "{kind:?}");
        assert!((moment(4) - 3.0).abs() < 0.13, "{kind:?}");
        let within = values.iter().filter(|v| v.abs() < 1.0).count();
        assert!((within as f64 / 1e5 - 0.6827).abs() < 0.006, "{kind:?}");
    }
}

#[test]
fn no_length_is_too_short() {
    for kind in KINDS {
        for len in 0..40 {
            assert!(draw(kind, 1, len).iter().all(|v| v.is_finite()));
        }
    }
}
