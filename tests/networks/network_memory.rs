//! What the networks need in memory: Stable Diffusion's sizes within their bounds, plans that
//! follow the picture, inputs left alone, and no size so large that planning never ends.

use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::Arena;
use mote::models::PerLevel;
use mote::models::autoencoder_kl::{self, AutoencoderKlConfig};
use mote::models::autoencoder_tiny::{self, AutoencoderTinyConfig};
use mote::models::clip_text::ClipTextConfig;
use mote::models::unet_2d::{BlockType, ClassEmbedding, UNet2DConfig};
use mote::models::unet_2d_condition::UNet2DConditionConfig;
use mote::ops::Context;
use mote::tensor::packed::Sizes;
use mote::tensor::{DType, Packing, Shape, Tensor};
use mote::weights::{Assumed, Path, Weight, Weights};
use mote::{Error, Result};
use mote_tests::{Threads, best_isa};

const MIB: usize = 1 << 20;

/// The bytes of arena that a walk takes beside its input of this shape, with 16 threads and every
/// weight there.
fn plan<const N: usize>(
    input: [usize; N],
    walk: impl Fn(&mut Context<'_>, Tensor) -> Result<Tensor>,
) -> Result<usize> {
    plan_on(best_isa(), input, walk)
}

fn plan_on<const N: usize>(
    isa: Isa,
    input: [usize; N],
    walk: impl Fn(&mut Context<'_>, Tensor) -> Result<Tensor>,
) -> Result<usize> {
    let (threads, mut weights) = (Threads(16), Assumed(DType::F16));
    let mut cx = Context::new(Arena::measuring(), isa, &threads, &mut weights);
    let x = cx.tensor(Shape::new(input))?;
    let before = cx.arena().top();
    let y = walk(&mut cx, x)?;
    assert_eq!(y.offset(), before, "the result lies right above the input");
    assert_eq!(cx.arena().top(), before + y.bytes().next_multiple_of(64), "nothing else is left");
    Ok(cx.arena().peak() - before)
}

fn sd1() -> UNet2DConditionConfig {
    UNet2DConditionConfig { cross_attention_dim: 768, ..UNet2DConditionConfig::default() }
}

fn sd2() -> UNet2DConditionConfig {
    UNet2DConditionConfig {
        cross_attention_dim: 1024,
        attention_heads: [5, 10, 20, 20].into_iter().collect(),
        use_linear_projection: true,
        ..UNet2DConditionConfig::default()
    }
}

fn sd_vae() -> AutoencoderKlConfig {
    AutoencoderKlConfig {
        block_out_channels: [128, 256, 512, 512].into_iter().collect(),
        layers_per_block: 2,
        ..AutoencoderKlConfig::default()
    }
}

fn plan_unet(config: &UNet2DConditionConfig, n: usize, size: [usize; 2]) -> Result<usize> {
    plan([n, size[0], size[1], config.in_channels], |cx, x| {
        let timesteps = [7.0; 2];
        cx.scope(|cx| {
            let states = cx.tensor(Shape::new([n, 77, config.cross_attention_dim]))?;
            config.forward(cx, &Path::root(), x, &timesteps[..n], states)
        })
    })
}

#[test]
fn the_unets_of_stable_diffusion_take_less_than_96_mib_at_512x512() {
    for config in [sd1(), sd2()] {
        let bytes = plan_unet(&config, 1, [64, 64]).unwrap();
        println!("UNet, 512x512: {:.1} MiB", bytes as f64 / MIB as f64);
        assert!(bytes <= 96 * MIB, "{bytes}");
    }
}

/// [`Assumed`], the weights of products packed.
struct Packed(Packing);

impl Weights for Packed {
    fn find(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        Assumed(DType::F32).find(name, expected)
    }

    fn find_matrix(&mut self, name: &str, expected: Shape) -> Result<Option<Weight>> {
        let dims = expected.as_slice();
        let sizes = Sizes { n: dims[0], channels: dims[1], taps: dims[2..].iter().product() };
        let shape = sizes.shape(self.0).expect("a packing");
        Assumed(self.0.dtype()).find(name, shape)
    }

    fn contains(&mut self, _name: &str) -> bool {
        false
    }

    fn is_staged(&self) -> bool {
        false
    }

    fn read<'a>(
        &'a mut self,
        _weight: &Weight,
        _start: usize,
        _len: usize,
        _staging: &'a mut [u8],
    ) -> Result<&'a [u8]> {
        Err(Error::WeightRead)
    }
}

#[test]
fn the_decoder_of_stable_diffusion_takes_less_than_320_mib_at_512x512_with_any_weights() {
    let decode = |name: &str, weights: &mut dyn Weights| {
        let threads = Threads(16);
        let mut cx = Context::new(Arena::measuring(), best_isa(), &threads, weights);
        let x = cx.tensor(Shape::new([1, 64, 64, 4])).unwrap();
        sd_vae().decode(&mut cx, &Path::root(), x).unwrap();
        let bytes = cx.arena().peak();
        println!("AutoencoderKL's decoder, 512x512, {name}: {:.1} MiB", bytes as f64 / MIB as f64);
        assert!((256 * MIB..=320 * MIB).contains(&bytes), "{name}: {bytes}");
    };
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        decode(dtype.name(), &mut Assumed(dtype));
    }
    for packing in [Packing::F32, Packing::Bf16, Packing::Q8] {
        decode(&format!("{packing:?}"), &mut Packed(packing));
    }
}

#[test]
fn the_encoder_of_stable_diffusion_takes_less_than_320_mib_at_512x512() {
    let config = sd_vae();
    let bytes = plan([1, 512, 512, 3], |cx, x| config.encode(cx, &Path::root(), x)).unwrap();
    println!("AutoencoderKL's encoder, 512x512: {:.1} MiB", bytes as f64 / MIB as f64);
    assert!(bytes <= 320 * MIB, "{bytes}");
}

#[test]
fn the_tiny_decoder_takes_less_than_half_of_the_large_one() {
    let config = AutoencoderTinyConfig::default();
    let bytes = plan([1, 64, 64, 4], |cx, x| config.decode(cx, &Path::root(), x)).unwrap();
    println!("AutoencoderTiny's decoder, 512x512: {:.1} MiB", bytes as f64 / MIB as f64);
    assert!(bytes <= 200 * MIB, "{bytes}");
}

#[test]
fn in_tiles_both_decoders_take_less_than_64_mib_at_512x512_with_any_instruction_set() {
    let (large, tiny) = (sd_vae(), AutoencoderTinyConfig::default());
    for isa in mote_tests::isas() {
        let tile = autoencoder_kl::TILE;
        let bytes =
            plan_on(isa, [1, 64, 64, 4], |cx, x| large.decode_tiled(cx, &Path::root(), x, tile));
        let bytes = bytes.unwrap();
        println!("AutoencoderKL's decoder in tiles: {:.1} MiB", bytes as f64 / MIB as f64);
        assert!(bytes <= 64 * MIB, "{isa:?}: {bytes}");
        let tile = autoencoder_tiny::TILE;
        let bytes =
            plan_on(isa, [1, 64, 64, 4], |cx, x| tiny.decode_tiled(cx, &Path::root(), x, tile));
        let bytes = bytes.unwrap();
        println!("AutoencoderTiny's decoder in tiles: {:.1} MiB", bytes as f64 / MIB as f64);
        assert!(bytes <= 64 * MIB, "{isa:?}: {bytes}");
    }
}

#[test]
fn in_tiles_a_larger_picture_takes_little_more_than_its_own_bytes() {
    let decode = |side: usize| {
        let tile = autoencoder_kl::TILE;
        plan([1, side, side, 4], |cx, x| sd_vae().decode_tiled(cx, &Path::root(), x, tile)).unwrap()
    };
    let picture = |side: usize| (8 * side) * (8 * side) * 3 * 4;
    let more = decode(256) - decode(64);
    assert!(more <= (picture(256) - picture(64)) + 2 * MIB, "{more}");
}

#[test]
fn all_tiles_together_cost_what_each_costs_and_weights_are_counted_once() {
    let vae = sd_vae();
    let tally = |size: [usize; 2], tile: Option<usize>| {
        let (threads, mut weights) = (Threads(2), Assumed(DType::F16));
        let mut cx = Context::new(Arena::measuring(), best_isa(), &threads, &mut weights);
        let x = cx.tensor(Shape::new([1, size[0], size[1], 4])).unwrap();
        match tile {
            None => vae.decode(&mut cx, &Path::root(), x).unwrap(),
            Some(tile) => vae.decode_tiled(&mut cx, &Path::root(), x, tile).unwrap(),
        };
        cx.tally()
    };
    // Tiles of 16 begin at 0, 12 and 24; those down are 16, 16 and 4 long, those across 16 and 8.
    let tiled = tally([28, 20], Some(16));
    let each = [[16, 16], [16, 16], [4, 16], [16, 8], [16, 8], [4, 8]].map(|s| tally(s, None));
    assert_eq!(tiled.multiply_adds, each.iter().map(|tally| tally.multiply_adds).sum::<u64>());
    assert_eq!(tiled.weight_bytes, each[0].weight_bytes);
}

#[test]
fn tiles_that_cannot_overlap_by_whole_latents_are_refused() {
    let (large, tiny) = (sd_vae(), AutoencoderTinyConfig::default());
    for tile in [0, 1, 2, 6, 10, 21, usize::MAX] {
        for size in [[1, 1, 1, 4], [1, 64, 64, 4]] {
            let errors = [
                plan(size, |cx, x| large.decode_tiled(cx, &Path::root(), x, tile)).unwrap_err(),
                plan(size, |cx, x| tiny.decode_tiled(cx, &Path::root(), x, tile)).unwrap_err(),
            ];
            for error in errors {
                assert!(matches!(error, Error::Config { key: "tile", .. }), "{tile}: {error:?}");
            }
        }
    }
    for tile in [4, usize::MAX - 3] {
        let decoded = plan([1, 9, 9, 4], |cx, x| large.decode_tiled(cx, &Path::root(), x, tile));
        assert!(decoded.is_ok(), "{tile}: {decoded:?}");
    }
}

#[test]
fn the_text_encoder_takes_little() {
    let config = ClipTextConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        num_attention_heads: 12,
        ..ClipTextConfig::default()
    };
    let bytes = plan([1], |cx, _| config.forward(cx, &Path::root(), &[49_407; 77], 1)).unwrap();
    println!("CLIPTextModel: {:.1} MiB", bytes as f64 / MIB as f64);
    assert!(bytes <= 8 * MIB, "{bytes}");
}

#[test]
fn every_instruction_set_keeps_to_the_bound() {
    let config = sd1();
    for isa in mote_tests::isas() {
        let bytes = plan_on(isa, [1, 64, 64, 4], |cx, x| {
            cx.scope(|cx| {
                let states = cx.tensor(Shape::new([1, 77, 768]))?;
                config.forward(cx, &Path::root(), x, &[7.0], states)
            })
        });
        assert!(bytes.unwrap() <= 96 * MIB, "{isa:?}");
    }
}

#[test]
fn a_batch_of_two_takes_no_more_than_twice_as_much() {
    let [one, two] = [1, 2].map(|n| plan_unet(&sd1(), n, [32, 32]).unwrap());
    assert!(one < two && two <= 2 * one, "{one} {two}");
}

#[test]
fn latents_of_any_size_can_be_planned_and_a_larger_one_takes_more() {
    let mut last = 0;
    for size in [[1, 1], [3, 5], [17, 9], [33, 31], [64, 96]] {
        let bytes = plan_unet(&sd1(), 1, size).unwrap();
        assert!(bytes > last, "{size:?}: {bytes}");
        last = bytes;
    }
}

#[test]
fn a_picture_that_cannot_be_halved_at_each_level_is_refused_by_unet_2d() {
    let config = UNet2DConfig::default();
    let forward = |size: [usize; 2]| {
        plan([1, size[0], size[1], 3], |cx, x| config.forward(cx, &Path::root(), x, &[7.0], None))
    };
    assert!(forward([64, 32]).is_ok());
    for size in [[64, 33], [4, 64], [1, 1]] {
        let error = forward(size).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{size:?}: {error:?}");
    }
}

#[test]
fn enormous_pictures_are_refused_soon_and_by_name() {
    for side in [1 << 16, 1 << 24, 1 << 29, usize::MAX / 2, usize::MAX] {
        if let Err(error) = plan_unet(&sd1(), 1, [side, side]) {
            let is_size = matches!(error, Error::Overflow { .. } | Error::OutOfMemory { .. });
            assert!(is_size, "{side}: {error:?}");
        }
        let decoded = plan([1, side, side, 4], |cx, x| sd_vae().decode(cx, &Path::root(), x));
        assert!(decoded.is_ok() || side > 1 << 20, "{side}: {decoded:?}");
        let tiled = |size| plan(size, |cx, x| sd_vae().decode_tiled(cx, &Path::root(), x, 20));
        let decoded = tiled([1, side, side, 4]);
        assert!(decoded.is_ok() || side > 1 << 20, "{side}: {decoded:?}");
        // Latents that can be counted, and a picture that cannot.
        let decoded = tiled([1, side / 32, 1, 4]);
        assert!(decoded.is_ok() || side > 1 << 29, "{side}: {decoded:?}");
    }
}

#[test]
fn inputs_of_the_wrong_shape_are_refused() {
    let config = sd1();
    let forward = |input: [usize; 4], timesteps: &[f32], states: [usize; 3]| {
        let (threads, mut weights) = (Sequential, Assumed(DType::F16));
        let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &threads, &mut weights);
        let x = cx.tensor(Shape::new(input)).unwrap();
        let states = cx.tensor(Shape::new(states)).unwrap();
        config.forward(&mut cx, &Path::root(), x, timesteps, states)
    };
    assert!(forward([1, 8, 8, 4], &[1.0], [1, 77, 768]).is_ok());
    for (input, timesteps, states) in [
        ([1, 8, 8, 5], &[1.0][..], [1, 77, 768]),
        ([1, 0, 8, 4], &[1.0], [1, 77, 768]),
        ([0, 8, 8, 4], &[], [0, 77, 768]),
        ([1, 8, 8, 4], &[], [1, 77, 768]),
        ([1, 8, 8, 4], &[1.0, 2.0], [1, 77, 768]),
        ([1, 8, 8, 4], &[1.0], [1, 0, 768]),
        ([1, 8, 8, 4], &[1.0], [2, 77, 768]),
        ([1, 8, 8, 4], &[1.0], [1, 77, 767]),
    ] {
        let error = forward(input, timesteps, states).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{input:?} {states:?}: {error:?}");
    }
}

#[test]
fn skips_pile_up_only_as_far_as_they_must() {
    // One level of one resnet: two skips, and on the way up two joined tensors, each twice as wide.
    let level = |kind| -> PerLevel<BlockType> { [kind].into_iter().collect() };
    let config = UNet2DConfig {
        block_out_channels: [32].into_iter().collect(),
        down_block_types: level(BlockType::Plain),
        up_block_types: level(BlockType::Plain),
        layers_per_block: 1,
        add_attention: false,
        ..UNet2DConfig::default()
    };
    let bytes = plan_on(Isa::SCALAR, [1, 256, 256, 3], |cx, x| {
        config.forward(cx, &Path::root(), x, &[7.0], None)
    });
    // Joining: the skip below, the skip, x and both joined. Then: the skip below, the joined
    // tensor, shortcut and result of a convolution, or one more result in place of the shortcut.
    let unit = 256 * 256 * 32 * 4;
    let bytes = bytes.unwrap();
    assert!((5 * unit..5 * unit + MIB).contains(&bytes), "{:.2}", bytes as f64 / unit as f64);
}

#[test]
fn weights_beyond_all_bounds_are_counted_without_overflow() {
    let class_embedding = ClassEmbedding::Table(1 << 51);
    let config = UNet2DConfig { class_embedding, ..UNet2DConfig::default() };
    let mut weights = Assumed(DType::F16);
    let mut cx = Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut weights);
    for _ in 0..8 {
        let x = cx.tensor(Shape::new([1, 8, 8, 3])).unwrap();
        config.forward(&mut cx, &Path::root(), x, &[0.0], Some(&[0.0])).unwrap();
    }
    assert_eq!(cx.tally().weight_bytes, u64::MAX);
}
