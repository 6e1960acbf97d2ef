//! A trained autoencoder with real statistics: a picture there and back, against what an
//! independent implementation computes (the data lies beside the repository).

use std::fs;
use std::path::Path as FilePath;

use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::Arena;
use mote::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};
use mote::ops::{self, Context};
use mote::tensor::{Shape, Tensor};
use mote::weights::{Part, Parts, Path};
use mote_tests::files::png;
use mote_tests::{Memory, best_isa, safetensors, shared};

/// A NumPy file of f32, version 1: its values, in C order.
fn npy(path: &FilePath) -> Vec<f32> {
    let file = fs::read(path).expect("a golden can be read");
    assert_eq!(&file[..6], b"\x93NUMPY");
    let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    assert!(String::from_utf8_lossy(&file[10..header]).contains("'<f4', 'fortran_order': False"));
    file[header..].as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn config() -> AutoencoderTinyConfig {
    AutoencoderTinyConfig {
        latent_channels: 32,
        pool: true,
        naming: Naming::Original,
        ..AutoencoderTinyConfig::default()
    }
}

/// The picture's latents and what becomes of them, both NCHW, the picture with values from 0 to 1.
fn there_and_back(folder: &FilePath, [h, w]: [usize; 2], pixels: &[u8]) -> [Vec<f32>; 2] {
    let mut encoder = safetensors(&folder.join("taef2_encoder.safetensors"));
    let mut decoder = safetensors(&folder.join("taef2_decoder.safetensors"));
    let mut parts = [
        Part { prefix: "encoder", weights: &mut encoder },
        Part { prefix: "decoder", weights: &mut decoder },
    ];
    let mut weights = Parts(&mut parts);
    let image: Vec<f32> = pixels.iter().map(|&p| f32::from(p) / 255.0 * 2.0 - 1.0).collect();
    let walk = |cx: &mut Context<'_>| -> mote::Result<[Tensor; 2]> {
        let image = ops::fill(cx, Shape::new([1, h, w, 3]), &image)?;
        let latents = config().encode(cx, &Path::root(), image)?;
        let decoded = config().decode(cx, &Path::root(), latents)?;
        ops::scale_shift_in_place(cx, decoded, 0.5, 0.5)?;
        Ok([ops::nhwc_to_nchw(cx, latents)?, ops::nhwc_to_nchw(cx, decoded)?])
    };
    let isa: Isa = best_isa();
    let mut cx = Context::new(Arena::measuring(), isa, &Sequential, &mut weights);
    walk(&mut cx).expect("the plan succeeds");
    let mut memory = Memory::dirty(cx.arena().peak(), 0xFF);
    let mut cx = Context::new(Arena::new(memory.bytes()), isa, &Sequential, &mut weights);
    let results = walk(&mut cx).expect("the run succeeds");
    results.map(|tensor| cx.arena().read(tensor).to_vec())
}

/// Peak signal-to-noise ratio in decibels, of a picture NCHW in 0..1 against pixels.
fn psnr(picture: &[f32], [h, w]: [usize; 2], pixels: &[u8]) -> f64 {
    let mut squares = 0.0;
    for (i, &pixel) in pixels.iter().enumerate() {
        let (channel, position) = (i % 3, i / 3);
        let value = f64::from(picture[channel * h * w + position].clamp(0.0, 1.0));
        squares += (value - f64::from(pixel) / 255.0).powi(2);
    }
    -10.0 * (squares / pixels.len() as f64).log10()
}

#[test]
fn a_picture_survives_the_trained_autoencoder() {
    let Some(folder) = shared("data/taef2") else { return };
    let (size, pixels) = png(&folder.join("test_256.png"));
    let [latents, decoded] = there_and_back(&folder, size, &pixels);
    let quality = psnr(&decoded, size, &pixels);
    println!("256x256: {quality:.3} dB");
    assert!(quality >= 31.7, "{quality} dB");
    for (found, golden) in [(latents, "latent"), (decoded, "decoded")] {
        let expected = npy(&folder.join(format!("golden_taef2_{golden}_f32.npy")));
        assert_eq!(found.len(), expected.len(), "{golden}");
        let mut worst = 0.0f32;
        for (&a, &b) in found.iter().zip(&expected) {
            worst = worst.max((a - b).abs() / (1.0 + b.abs()));
        }
        println!("{golden}: largest difference {worst:e}");
        assert!(worst <= 1e-4, "{golden} differs by {worst:e}");
    }
    let (size, pixels) = png(&folder.join("test_64.png"));
    let [_, decoded] = there_and_back(&folder, size, &pixels);
    let quality = psnr(&decoded, size, &pixels);
    println!("64x64: {quality:.3} dB");
    assert!(quality >= 24.5, "{quality} dB");
}
