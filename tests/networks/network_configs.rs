//! Configurations come from files: each mistake is named, and nothing that passes makes planning
//! panic.

use mote::Error;
use mote::arch::Isa;
use mote::exec::Sequential;
use mote::mem::Arena;
use mote::models::autoencoder_kl::AutoencoderKlConfig;
use mote::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};
use mote::models::clip_text::ClipTextConfig;
use mote::models::unet_2d::{
    BlockType, ClassEmbedding, Resampling, TimeEmbedding, TimeScaleShift, UNet2DConfig,
};
use mote::models::unet_2d_condition::{BlockType as ConditionBlock, Extra, UNet2DConditionConfig};
use mote::models::{MAX_WIDTH, PerLevel};
use mote::ops::Context;
use mote::tensor::{DType, Shape};
use mote::weights::{Assumed, Path};
use mote_tests::numbers;

fn levels<T: Clone>(values: &[T]) -> PerLevel<T> {
    values.iter().cloned().collect()
}

/// A key and how to spoil its value.
type Mistake<C> = (&'static str, fn(&mut C));

/// After each mistake, its key is refused.
fn refused<C: Default>(changes: &[Mistake<C>], validate: impl Fn(&C) -> mote::Result<()>) {
    assert_eq!(validate(&C::default()), Ok(()), "the default is valid");
    for (expected, change) in changes {
        let mut config = C::default();
        change(&mut config);
        match validate(&config) {
            Err(Error::Config { key, .. }) => assert_eq!(key, *expected),
            other => panic!("{expected} is refused, not {other:?}"),
        }
    }
}

#[test]
fn mistakes_in_a_unet_2d_are_named() {
    refused::<UNet2DConfig>(
        &[
            ("sample_size", |c| c.sample_size = Some([0, 4])),
            ("in_channels", |c| c.in_channels = 0),
            ("in_channels", |c| c.in_channels = MAX_WIDTH + 1),
            ("out_channels", |c| c.out_channels = usize::MAX),
            ("block_out_channels", |c| c.block_out_channels.clear()),
            ("block_out_channels", |c| c.block_out_channels[2] = 0),
            ("block_out_channels", |c| c.block_out_channels[2] = usize::MAX),
            ("down_block_types", |c| c.block_out_channels = levels(&[32])),
            ("down_block_types", |c| c.down_block_types.clear()),
            ("up_block_types", |c| c.up_block_types.truncate(3)),
            ("time_embedding_dim", |c| c.time_embedding_dim = Some(0)),
            ("time_embedding_dim", |c| c.time_embedding_dim = Some(usize::MAX)),
            ("freq_shift", |c| c.freq_shift = f32::NAN),
            ("freq_shift", |c| c.freq_shift = 112.0),
            ("layers_per_block", |c| c.layers_per_block = 0),
            ("layers_per_block", |c| c.layers_per_block = 16),
            ("layers_per_block", |c| c.layers_per_block = usize::MAX),
            ("mid_block_scale_factor", |c| c.mid_block_scale_factor = 0.0),
            ("mid_block_scale_factor", |c| c.mid_block_scale_factor = f32::INFINITY),
            ("downsample_padding", |c| c.downsample_padding = 2),
            ("norm_num_groups", |c| c.norm_num_groups = 0),
            ("norm_num_groups", |c| c.norm_num_groups = 33),
            ("norm_eps", |c| c.norm_eps = f32::NAN),
            ("norm_eps", |c| c.norm_eps = -1e-5),
            ("num_class_embeds", |c| c.class_embedding = ClassEmbedding::Table(0)),
            ("attention_head_dim", |c| c.attention_head_dim = Some(0)),
            ("attention_head_dim", |c| c.attention_head_dim = Some(449)),
            ("attn_norm_num_groups", |c| c.attn_norm_num_groups = Some(0)),
            ("attn_norm_num_groups", |c| c.attn_norm_num_groups = Some(5)),
        ],
        UNet2DConfig::validate,
    );
}

#[test]
fn mistakes_in_a_unet_2d_condition_are_named() {
    refused::<UNet2DConditionConfig>(
        &[
            ("sample_size", |c| c.sample_size = Some([4, 0])),
            ("in_channels", |c| c.in_channels = 0),
            ("out_channels", |c| c.out_channels = 0),
            ("cross_attention_dim", |c| c.cross_attention_dim = 0),
            ("block_out_channels", |c| c.block_out_channels.clear()),
            ("down_block_types", |c| c.block_out_channels = levels(&[32; 8])),
            ("down_block_types", |c| c.down_block_types.truncate(3)),
            ("up_block_types", |c| c.up_block_types.truncate(3)),
            ("only_cross_attention", |c| c.only_cross_attention.truncate(3)),
            ("layers_per_block", |c| c.layers_per_block.truncate(3)),
            ("transformer_layers_per_block", |c| c.transformer_layers_per_block.clear()),
            ("transformer_layers_per_block", |c| c.transformer_layers_per_block[0] = usize::MAX),
            ("attention_head_dim", |c| c.attention_heads.truncate(3)),
            ("attention_head_dim", |c| c.attention_heads[1] = 0),
            ("attention_head_dim", |c| c.attention_heads[3] = 0),
            ("attention_head_dim", |c| c.attention_heads[0] = 321),
            ("time_embedding_dim", |c| c.time_embedding_dim = Some(0)),
            ("freq_shift", |c| c.freq_shift = 160.0),
            ("layers_per_block", |c| c.layers_per_block[0] = 0),
            ("layers_per_block", |c| c.layers_per_block = levels(&[16; 4])),
            ("layers_per_block", |c| c.layers_per_block = levels(&[usize::MAX; 4])),
            ("mid_block_scale_factor", |c| c.mid_block_scale_factor = f32::NAN),
            ("downsample_padding", |c| c.downsample_padding = usize::MAX),
            ("norm_num_groups", |c| c.norm_num_groups = 7),
            ("norm_eps", |c| c.norm_eps = f32::INFINITY),
        ],
        UNet2DConditionConfig::validate,
    );
}

#[test]
fn heads_that_no_level_uses_are_not_looked_at() {
    let mut config = UNet2DConditionConfig { mid_block: false, ..Default::default() };
    config.attention_heads[3] = 0;
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn mistakes_in_a_text_encoder_are_named() {
    refused::<ClipTextConfig>(
        &[
            ("vocab_size", |c| c.vocab_size = 0),
            ("hidden_size", |c| c.hidden_size = 0),
            ("intermediate_size", |c| c.intermediate_size = usize::MAX),
            ("num_hidden_layers", |c| c.num_hidden_layers = 0),
            ("num_hidden_layers", |c| c.num_hidden_layers = 257),
            ("num_attention_heads", |c| c.num_attention_heads = 0),
            ("num_attention_heads", |c| c.num_attention_heads = 7),
            ("max_position_embeddings", |c| c.max_position_embeddings = 0),
            ("layer_norm_eps", |c| c.layer_norm_eps = f32::NAN),
        ],
        ClipTextConfig::validate,
    );
}

#[test]
fn mistakes_in_an_autoencoder_kl_are_named() {
    refused::<AutoencoderKlConfig>(
        &[
            ("in_channels", |c| c.in_channels = 0),
            ("out_channels", |c| c.out_channels = 0),
            ("latent_channels", |c| c.latent_channels = usize::MAX),
            ("block_out_channels", |c| c.block_out_channels.clear()),
            ("layers_per_block", |c| c.layers_per_block = 0),
            ("norm_num_groups", |c| c.norm_num_groups = 48),
            ("scaling_factor", |c| c.scaling_factor = 0.0),
            ("shift_factor", |c| c.shift_factor = f32::NAN),
        ],
        AutoencoderKlConfig::validate,
    );
}

#[test]
fn mistakes_in_an_autoencoder_tiny_are_named() {
    refused::<AutoencoderTinyConfig>(
        &[
            ("in_channels", |c| c.in_channels = 0),
            ("out_channels", |c| c.out_channels = 0),
            ("latent_channels", |c| c.latent_channels = 0),
            ("num_encoder_blocks", |c| c.num_encoder_blocks.truncate(3)),
            ("decoder_block_out_channels", |c| c.decoder_block_out_channels.clear()),
            ("num_decoder_blocks", |c| c.num_decoder_blocks.clear()),
            ("encoder_block_out_channels", |c| c.encoder_block_out_channels[1] = 32),
            ("decoder_block_out_channels", |c| c.decoder_block_out_channels.fill(0)),
            ("num_decoder_blocks", |c| c.num_decoder_blocks[0] = usize::MAX),
            ("scaling_factor", |c| c.scaling_factor = f32::NAN),
        ],
        AutoencoderTinyConfig::validate,
    );
}

fn planning<R>(walk: impl FnOnce(&mut Context<'_>) -> R) -> R {
    let mut weights = Assumed(DType::F32);
    walk(&mut Context::new(Arena::measuring(), Isa::SCALAR, &Sequential, &mut weights))
}

#[test]
fn a_text_encoder_refuses_tokens_and_skips_it_has_no_place_for() {
    let config = ClipTextConfig::default();
    let forward =
        |ids: &[u32], skip| planning(|cx| config.forward(cx, &Path::root(), ids, skip).map(|_| ()));
    assert_eq!(forward(&[0; 77], 12), Ok(()));
    assert!(matches!(forward(&[0; 77], 13), Err(Error::Index { index: 13, limit: 13, .. })));
    assert!(matches!(forward(&[0; 78], 0), Err(Error::Capacity { needed: 78, limit: 77, .. })));
    assert!(matches!(forward(&[], 0), Err(Error::Shape { .. })));
    assert!(matches!(forward(&[49_408], 0), Err(Error::Index { index: 49_408, .. })));
}

#[test]
fn class_labels_are_asked_for_where_needed_and_refused_where_not() {
    let forward = |class_embedding, labels: Option<&[f32]>| {
        let config = UNet2DConfig { class_embedding, ..UNet2DConfig::default() };
        planning(|cx| {
            let x = cx.tensor(Shape::new([1, 8, 8, 3]))?;
            config.forward(cx, &Path::root(), x, &[1.0], labels).map(|_| ())
        })
    };
    assert_eq!(forward(ClassEmbedding::None, None), Ok(()));
    assert_eq!(forward(ClassEmbedding::Table(3), Some(&[2.0])), Ok(()));
    assert_eq!(forward(ClassEmbedding::Timestep, Some(&[2.5])), Ok(()));
    assert_eq!(forward(ClassEmbedding::Identity, Some(&[0.5; 896])), Ok(()));
    for (kind, labels) in [
        (ClassEmbedding::None, Some(&[1.0][..])),
        (ClassEmbedding::Table(3), None),
        (ClassEmbedding::Identity, None),
    ] {
        let error = forward(kind, labels).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{kind:?}: {error:?}");
    }
    for label in [3.0, -1.0, 0.5, f32::NAN, f32::INFINITY] {
        let error = forward(ClassEmbedding::Table(3), Some(&[label])).unwrap_err();
        assert!(matches!(error, Error::Index { limit: 3, .. }), "{label}: {error:?}");
    }
    let error = forward(ClassEmbedding::Identity, Some(&[0.5; 895])).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error:?}");
}

/// Choices that are the same on every run.
struct Dice {
    values: Vec<f32>,
    at: usize,
}

impl Dice {
    fn new(seed: u32) -> Self {
        Self { values: numbers(seed, 256), at: 0 }
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let value = self.values[self.at] * 0.5 + 0.5;
        self.at = (self.at + 1) % self.values.len();
        choices[((value * choices.len() as f32) as usize).min(choices.len() - 1)]
    }

    fn levels<T: Copy>(&mut self, count: usize, choices: &[T]) -> PerLevel<T> {
        (0..count).map(|_| self.pick(choices)).collect()
    }
}

const WIDTHS: [usize; 8] = [1, 2, 4, 6, 8, 12, 65_536, 0];
const SIDES: [usize; 6] = [1, 2, 3, 8, 13, 1 << 40];

fn any_unet_2d(dice: &mut Dice) -> UNet2DConfig {
    let kinds = [BlockType::Plain, BlockType::Attention, BlockType::Resnet];
    let sampling = [Resampling::Conv, Resampling::Resnet];
    let count = dice.pick(&[1, 2, 3, 8]);
    UNet2DConfig {
        in_channels: dice.pick(&WIDTHS),
        center_input_sample: dice.pick(&[true, false]),
        time_embedding_type: dice.pick(&[TimeEmbedding::Positional, TimeEmbedding::Fourier]),
        freq_shift: dice.pick(&[0.0, 0.0, 1.0]),
        down_block_types: dice.levels(count, &kinds),
        up_block_types: dice.levels(count, &kinds),
        mid_block: dice.pick(&[true, false]),
        add_attention: dice.pick(&[true, false]),
        block_out_channels: dice.levels(count, &WIDTHS[..7]),
        layers_per_block: dice.pick(&[1, 2, 7]),
        downsample_padding: dice.pick(&[0, 1]),
        downsample_type: dice.pick(&sampling),
        upsample_type: dice.pick(&sampling),
        attention_head_dim: dice.pick(&[None, Some(1), Some(3), Some(8)]),
        norm_num_groups: dice.pick(&[1, 1, 2, 3]),
        attn_norm_num_groups: dice.pick(&[None, Some(1), Some(2)]),
        resnet_time_scale_shift: dice.pick(&[TimeScaleShift::Default, TimeScaleShift::ScaleShift]),
        ..UNet2DConfig::default()
    }
}

fn any_unet_2d_condition(dice: &mut Dice) -> UNet2DConditionConfig {
    let kinds = [ConditionBlock::Plain, ConditionBlock::CrossAttention];
    let count = dice.pick(&[1, 2, 3, 8]);
    UNet2DConditionConfig {
        in_channels: dice.pick(&WIDTHS),
        down_block_types: dice.levels(count, &kinds),
        up_block_types: dice.levels(count, &kinds),
        mid_block: dice.pick(&[true, false]),
        only_cross_attention: dice.levels(count, &[true, false]),
        block_out_channels: dice.levels(count, &WIDTHS[..7]),
        layers_per_block: dice.levels(count, &[1, 2, 7]),
        transformer_layers_per_block: dice.levels(count, &[0, 1, 2]),
        downsample_padding: dice.pick(&[0, 1]),
        norm_num_groups: dice.pick(&[1, 1, 2, 3]),
        cross_attention_dim: dice.pick(&WIDTHS),
        attention_heads: dice.levels(count, &[1, 1, 2, 3]),
        use_linear_projection: dice.pick(&[true, false]),
        time_cond_proj_dim: dice.pick(&[None, None, None, Some(1), Some(7), Some(u32::MAX)]),
        ..UNet2DConditionConfig::default()
    }
}

#[test]
fn no_configuration_makes_planning_panic() {
    let [mut planned, mut refused] = [0, 0];
    let mut count = |result: mote::Result<_>| match result {
        Ok(_) => planned += 1,
        Err(_) => refused += 1,
    };
    for seed in 1..2000 {
        let dice = &mut Dice::new(seed);
        let (h, w) = (dice.pick(&SIDES), dice.pick(&SIDES));
        let unet = any_unet_2d(dice);
        count(planning(|cx| {
            let x = cx.tensor(Shape::new([1, h, w, unet.in_channels]))?;
            unet.forward(cx, &Path::root(), x, &[1.0], None)
        }));
        let unet = any_unet_2d_condition(dice);
        count(planning(|cx| {
            let x = cx.tensor(Shape::new([1, h, w, unet.in_channels]))?;
            let states = cx.tensor(Shape::new([1, 7, unet.cross_attention_dim]))?;
            let guidance_scale = unet.time_cond_proj_dim.map(|_| 1.0);
            let extra = Extra { guidance_scale, ..Extra::default() };
            unet.forward_with(cx, &Path::root(), x, &[1.0], states, extra)
        }));
        let levels = dice.pick(&[1, 2, 8]);
        let kl = AutoencoderKlConfig {
            block_out_channels: dice.levels(levels, &WIDTHS),
            norm_num_groups: dice.pick(&[1, 2, 3]),
            layers_per_block: dice.pick(&[1, 5]),
            latent_channels: dice.pick(&WIDTHS),
            ..AutoencoderKlConfig::default()
        };
        let tiny = AutoencoderTinyConfig {
            encoder_block_out_channels: dice.levels(levels, &[8]),
            num_encoder_blocks: dice.levels(levels, &[0, 1, 3]),
            naming: dice.pick(&[Naming::Diffusers, Naming::Original]),
            pool: dice.pick(&[true, false]),
            ..AutoencoderTinyConfig::default()
        };
        count(planning(|cx| {
            let x = cx.tensor(Shape::new([1, h, w, 3]))?;
            tiny.encode(cx, &Path::root(), x)?;
            kl.encode(cx, &Path::root(), x)
        }));
        count(planning(|cx| {
            let x = cx.tensor(Shape::new([1, h, w, kl.latent_channels]))?;
            kl.decode(cx, &Path::root(), x)
        }));
    }
    assert!(planned > 500 && refused > 500, "{planned} planned, {refused} refused");
}
