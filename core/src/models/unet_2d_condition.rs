//! `UNet2DConditionModel`: the noise predictor of Stable Diffusion 1.x, 2.x and XL.

use super::{
    PerLevel, check_count, check_divisor, check_eps, check_freq_shift, check_groups, check_input,
    check_layers, check_levels, check_sample_size, check_width, check_widths, levels, refuse,
};
use crate::error::{Error, Result};
use crate::nn::{
    self, Block, Downsampler, Linear, Mixer, Norm, ResnetBlock2d, Skips, Time, TimeScaleShift,
    Transformer2d, Upsampler, conv_in, conv_out_replacing, down_block, mid_block,
    timestep_embedding, up_block,
};
use crate::ops::{self, Activation, Context, SinusoidalEmbedding};
use crate::tensor::{Form, Shape, Tensor};
use crate::weights::Path;

/// The most transformer layers after a resnet: Stable Diffusion XL has ten.
const MAX_TRANSFORMERS: usize = 32;

/// The largest block of pixels that an element of a sample may stand for.
const MAX_PIXEL_BLOCK: usize = 8;

/// What a guidance scale of 1 more is in the sinusoid's time (Meng et al. 2023, as in diffusers).
const GUIDANCE_UNIT: f32 = 1000.0;

/// The block types of [`UNet2DConditionConfig`], on the way down and, mirrored, on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// `DownBlock2D`, `UpBlock2D`: resnets only.
    Plain,
    /// `CrossAttnDownBlock2D`, `CrossAttnUpBlock2D`: a transformer after each resnet.
    CrossAttention,
}

/// The configuration of a `UNet2DConditionModel`; the default is diffusers'.
///
/// Values that `config.json` may give once for all levels are given per level here.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet2DConditionConfig {
    /// Height and width of the latents the model was trained at.
    pub sample_size: Option<[usize; 2]>,
    /// Channels of the input: 4, or 9 for inpainting; 3, or 12 for blocks of 2x2 pixels, where the
    /// sample is the picture.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether the input is mapped from 0..1 to -1..1 first.
    pub center_input_sample: bool,
    /// Whether cosines come before sines in the time embedding.
    pub flip_sin_to_cos: bool,
    /// Offset in the frequencies of the time embedding.
    pub freq_shift: f32,
    /// Width of the time embedding; `None`: four times the first level's width.
    pub time_embedding_dim: Option<usize>,
    /// Block type of each level, going down.
    pub down_block_types: PerLevel<BlockType>,
    /// Block type of each level, going up (deepest first).
    pub up_block_types: PerLevel<BlockType>,
    /// Whether there is a middle block (`UNetMidBlock2DCrossAttn`).
    pub mid_block: bool,
    /// Per level, going down: whether the first attention looks at the text too.
    pub only_cross_attention: PerLevel<bool>,
    /// The same for the middle block, which does not heed it, here as in diffusers.
    pub mid_block_only_cross_attention: bool,
    /// Width of each level, going down.
    pub block_out_channels: PerLevel<usize>,
    /// Resnets of each level, going down; one more going up.
    pub layers_per_block: PerLevel<usize>,
    /// Transformer layers after each resnet, per level going down.
    pub transformer_layers_per_block: PerLevel<usize>,
    /// Padding of the downsampling convolution: 1, or 0 for an asymmetric pad at right and bottom.
    pub downsample_padding: usize,
    /// The middle block's outputs are divided by this.
    pub mid_block_scale_factor: f32,
    /// Groups of each group normalisation.
    pub norm_num_groups: usize,
    /// The epsilon of each normalisation.
    pub norm_eps: f32,
    /// Width of `encoder_hidden_states`.
    pub cross_attention_dim: usize,
    /// Number of attention heads per level going down (`config.json` calls it
    /// `attention_head_dim`). Where it does not divide the level's channels, attention is narrower
    /// inside.
    pub attention_heads: PerLevel<usize>,
    /// Whether the transformer's projections are linear layers (2.x) or 1x1 convolutions (1.x).
    pub use_linear_projection: bool,
    /// Whether attention scores are computed in f32 whatever the weights' type: here they always
    /// are.
    pub upcast_attention: bool,
    /// How the time embedding enters a resnet.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether a projection of the prompt's last token is added to the time embedding, so that
    /// every resnet is told of the prompt: `class_embed_type` `simple_projection`, whose
    /// `class_labels` are `encoder_hidden_states[:, -1]`.
    pub prompt_projection: bool,
    /// What else is added to the time embedding: `addition_embed_type` `text_time`.
    pub text_time: Option<TextTime>,
    /// Width of the embedding of the guidance scale, where the network was distilled to take the
    /// scale as an input (Meng et al. 2023).
    pub time_cond_proj_dim: Option<u32>,
}

/// The embedding that tells Stable Diffusion XL of the whole prompt and of sizes (Podell et al.
/// 2023, section 2.2): the pooled text, and behind it a sinusoid of each of the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTime {
    /// Width of each number's sinusoid (`addition_time_embed_dim`).
    pub time_dim: u32,
    /// Width of the pooled text and all sinusoids (`projection_class_embeddings_input_dim`).
    pub input_dim: u32,
}

/// What an evaluation is told beside x, the time and the prompt's states.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extra {
    /// The pooled text and the sinusoids `[n, input_dim]`, where there is a [`TextTime`]
    /// ([`UNet2DConditionConfig::added`]).
    pub added: Option<Tensor>,
    /// The guidance scale, where there is a [`UNet2DConditionConfig::time_cond_proj_dim`].
    pub guidance_scale: Option<f32>,
}

impl Default for UNet2DConditionConfig {
    fn default() -> Self {
        use BlockType::{CrossAttention, Plain};
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            time_embedding_dim: None,
            down_block_types: levels(&[CrossAttention, CrossAttention, CrossAttention, Plain]),
            up_block_types: levels(&[Plain, CrossAttention, CrossAttention, CrossAttention]),
            mid_block: true,
            only_cross_attention: levels(&[false; 4]),
            mid_block_only_cross_attention: false,
            block_out_channels: levels(&[320, 640, 1280, 1280]),
            layers_per_block: levels(&[2; 4]),
            transformer_layers_per_block: levels(&[1; 4]),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            attention_heads: levels(&[8; 4]),
            use_linear_projection: false,
            upcast_attention: false,
            resnet_time_scale_shift: TimeScaleShift::Default,
            prompt_projection: false,
            text_time: None,
            time_cond_proj_dim: None,
        }
    }
}

/// What every block of one evaluation is told.
#[derive(Clone, Copy)]
struct Told {
    time: Time,
    encoder_hidden_states: Tensor,
}

impl UNet2DConditionConfig {
    /// Names the first key that is out of range or contradicts another.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn validate(&self) -> Result<()> {
        let widths = &self.block_out_channels;
        check_sample_size(self.sample_size)?;
        check_width("in_channels", self.in_channels)?;
        check_width("out_channels", self.out_channels)?;
        check_width("cross_attention_dim", self.cross_attention_dim)?;
        check_widths("block_out_channels", widths)?;
        for (key, count) in [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
            ("only_cross_attention", self.only_cross_attention.len()),
            ("layers_per_block", self.layers_per_block.len()),
            ("transformer_layers_per_block", self.transformer_layers_per_block.len()),
            ("attention_head_dim", self.attention_heads.len()),
        ] {
            check_levels(key, count, widths.len())?;
        }
        check_width("time_embedding_dim", self.time_embedding_dim.unwrap_or(1))?;
        check_width("time_cond_proj_dim", self.time_cond_proj_dim.unwrap_or(1) as usize)?;
        if let Some(text_time) = self.text_time {
            check_width("addition_time_embed_dim", text_time.time_dim as usize)?;
            let input = text_time.input_dim as usize;
            check_width("projection_class_embeddings_input_dim", input)?;
        }
        check_freq_shift(self.freq_shift, widths[0])?;
        let layers = &self.layers_per_block;
        layers.iter().try_for_each(|&layers| check_layers("layers_per_block", layers))?;
        if layers.iter().sum::<usize>() + widths.len() > nn::MAX_SKIPS {
            return refuse("layers_per_block", "makes more than 64 skip connections");
        }
        if self.transformer_layers_per_block.iter().any(|&layers| layers > MAX_TRANSFORMERS) {
            return refuse("transformer_layers_per_block", "must not be larger than 32");
        }
        check_divisor("mid_block_scale_factor", self.mid_block_scale_factor)?;
        if self.downsample_padding > 1 {
            return refuse("downsample_padding", "must be 0 or 1");
        }
        check_groups("norm_num_groups", self.norm_num_groups, widths)?;
        check_eps("norm_eps", self.norm_eps)?;
        self.validate_heads()
    }

    /// The side of the block of pixels that an element of the sample stands for, where no
    /// autoencoder stands between: f where the channels are the 3·f² of
    /// [`pixel_shuffle`](ops::pixel_shuffle), or else 1.
    pub fn pixel_block(&self) -> usize {
        (2..=MAX_PIXEL_BLOCK).find(|f| self.in_channels == 3 * f * f).unwrap_or(1)
    }

    fn validate_heads(&self) -> Result<()> {
        let deepest = self.block_out_channels.len() - 1;
        for (level, (&heads, &width)) in
            self.attention_heads.iter().zip(&self.block_out_channels).enumerate()
        {
            let kinds = [self.down_block_types[level], self.up_block_types[deepest - level]];
            let is_used =
                kinds.contains(&BlockType::CrossAttention) || (self.mid_block && level == deepest);
            if is_used && heads == 0 {
                return refuse("attention_head_dim", "(the number of heads) must not be zero");
            }
            if is_used && heads > width {
                let what = "(the number of heads) is larger than the channels of its level";
                return refuse("attention_head_dim", what);
            }
        }
        Ok(())
    }

    /// What the network says of x `[n, h, w, in_channels]` and the prompt `[n, t,
    /// cross_attention_dim]`: `[n, h, w, out_channels]`. `timesteps` has one for each sample.
    /// Height and width may be odd at any level.
    ///
    /// Stable Diffusion 1 at 512x512 and batch 1 keeps at most 25.3 MiB of skips; the peak is in
    /// the transformers at 64x64, on the way up: two skips of 5 MiB and the transformer's eight
    /// tensors of 5 MiB each.
    ///
    /// # Errors
    /// [`Error::Config`] as [`UNet2DConditionConfig::validate`],
    /// [`Error::Shape`] where x, the timesteps or the prompt do not fit, those
    /// of memory and weights.
    pub fn forward(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        x: Tensor,
        timesteps: &[f32],
        encoder_hidden_states: Tensor,
    ) -> Result<Tensor> {
        self.forward_with(cx, path, x, timesteps, encoder_hidden_states, Extra::default())
    }

    /// [`UNet2DConditionConfig::forward`] of a network that is told more.
    ///
    /// # Errors
    /// As [`UNet2DConditionConfig::forward`], and [`Error::Config`] where it is not told what it
    /// needs, or what it does not know.
    pub fn forward_with(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        x: Tensor,
        timesteps: &[f32],
        encoder_hidden_states: Tensor,
        extra: Extra,
    ) -> Result<Tensor> {
        self.validate()?;
        if self.text_time.is_some() != extra.added.is_some() {
            let what = "the pooled text and the sizes are told to a network that knows them, and \
                        to no other";
            return Err(Error::Config { key: "addition_embed_type", what });
        }
        if self.time_cond_proj_dim.is_some() != extra.guidance_scale.is_some() {
            let what = "the guidance scale is told to a network that takes it, and to no other";
            return Err(Error::Config { key: "time_cond_proj_dim", what });
        }
        let [n, ..] = check_input("UNet2DConditionModel's input", x, self.in_channels)?;
        check_count("timesteps", timesteps.len(), n)?;
        let [_, t, _] = encoder_hidden_states.dims("encoder_hidden_states")?;
        let expected = Shape::new([n, t.max(1), self.cross_attention_dim]);
        encoder_hidden_states.expect("encoder_hidden_states", expected)?;
        cx.scope(|cx| {
            let time = self.time(cx, path, timesteps, encoder_hidden_states, extra)?;
            let told = Told { time, encoder_hidden_states };
            let (width, centred) = (self.block_out_channels[0], self.center_input_sample);
            let mut skips = Skips::new(conv_in(cx, &path.at("conv_in"), x, width, centred)?);
            self.down(cx, path, &mut skips, told)?;
            let x = self.mid(cx, path, skips.newest()?, told)?;
            let x = self.up(cx, path, x, &mut skips, told)?;
            conv_out_replacing(cx, path, x, self.out_channels, self.norm())
        })
    }

    /// What is added to the time embedding of one sample: `[1, input_dim]`, the pooled text `[1,
    /// width]` and behind it the sinusoids of the numbers: of the original size (height, width), of
    /// the crop's place (top, left), of the target size (height, width); or, in place of the last,
    /// of how beautiful the picture is to be.
    ///
    /// # Errors
    /// [`Error::Config`] where the network knows no such numbers, or they and the pooled text do
    /// not fit it; those of memory.
    pub fn added(&self, cx: &mut Context<'_>, pooled: Tensor, numbers: &[f32]) -> Result<Tensor> {
        let [_, width] = pooled.dims("the pooled text")?;
        let (time, input) = match self.text_time {
            Some(TextTime { time_dim, input_dim }) => (time_dim as usize, input_dim as usize),
            None => (0, 0),
        };
        if width + numbers.len() * time != input || numbers.is_empty() {
            let what = "is not the pooled text and the sizes, each addition_time_embed_dim wide";
            return Err(Error::Config { key: "projection_class_embeddings_input_dim", what });
        }
        let how = SinusoidalEmbedding {
            flip_sin_to_cos: self.flip_sin_to_cos,
            freq_shift: self.freq_shift,
        };
        cx.scope(|cx| {
            let sizes = ops::sinusoidal_embedding(cx, numbers, time, how)?;
            ops::concat(cx, pooled, sizes.reshape([1, numbers.len() * time])?, Form::F32)
        })
    }

    fn time(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        timesteps: &[f32],
        states: Tensor,
        extra: Extra,
    ) -> Result<Time> {
        let Self { flip_sin_to_cos, freq_shift, .. } = *self;
        let first = self.block_out_channels[0];
        let width = self.time_embedding_dim.unwrap_or(4 * first);
        let how = SinusoidalEmbedding { flip_sin_to_cos, freq_shift };
        let embedding = cx.scope(|cx| {
            let t = ops::sinusoidal_embedding(cx, timesteps, first, how)?;
            if let (Some(dim), Some(scale)) = (self.time_cond_proj_dim, extra.guidance_scale) {
                cx.scratch(|cx| guidance_into(cx, &path.at("time_embedding"), t, dim, scale))?;
            }
            timestep_embedding(cx, &path.at("time_embedding"), t, width)
        })?;
        if let Some(added) = extra.added {
            cx.scratch(|cx| {
                let added = timestep_embedding(cx, &path.at("add_embedding"), added, width)?;
                ops::add_in_place(cx, embedding, added)
            })?;
        }
        if self.prompt_projection {
            cx.scratch(|cx| {
                let last = last_tokens(cx, states)?;
                let linear = Linear::new(width);
                let prompt = nn::linear(cx, &path.at("class_embedding"), last, linear)?;
                ops::add_in_place(cx, embedding, prompt)
            })?;
        }
        // Every resnet would begin with this SiLU.
        let embedding = ops::activate(cx, embedding, Activation::Silu)?;
        let (first, channels) = (path.at("down_blocks.0.resnets.0"), self.block_out_channels[0]);
        Time::new(cx, &first, channels, embedding, self.resnet_time_scale_shift)
    }

    fn down(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        skips: &mut Skips,
        told: Told,
    ) -> Result<()> {
        let (blocks, deepest) = (path.at("down_blocks"), self.block_out_channels.len() - 1);
        let padding = [self.downsample_padding, 1, self.downsample_padding, 1];
        for (level, kind) in self.down_block_types.iter().enumerate() {
            let sampler = match level == deepest {
                true => Downsampler::None,
                false => Downsampler::Conv(padding),
            };
            let block = self.block(*kind, self.layers_per_block[level], level, told);
            down_block(cx, &blocks.index(level), skips, block, sampler)?;
        }
        Ok(())
    }

    fn mid(&self, cx: &mut Context<'_>, path: &Path<'_>, x: Tensor, told: Told) -> Result<Tensor> {
        if !self.mid_block {
            return Ok(x);
        }
        let deepest = self.block_out_channels.len() - 1;
        let mut block = self.block(BlockType::CrossAttention, 1, deepest, told);
        block.resnet.output_scale_factor = self.mid_block_scale_factor;
        if let Mixer::Transformer(transformer) = &mut block.mixer {
            transformer.only_cross_attention = false;
        }
        mid_block(cx, &path.at("mid_block"), x, block)
    }

    fn up(
        &self,
        cx: &mut Context<'_>,
        path: &Path<'_>,
        mut x: Tensor,
        skips: &mut Skips,
        told: Told,
    ) -> Result<Tensor> {
        let (blocks, deepest) = (path.at("up_blocks"), self.block_out_channels.len() - 1);
        for (at, kind) in self.up_block_types.iter().enumerate() {
            let level = deepest - at;
            let sampler = match level {
                0 => Upsampler::None,
                _ => Upsampler::ConvToSkip,
            };
            let block = self.block(*kind, self.layers_per_block[level] + 1, level, told);
            x = up_block(cx, &blocks.index(at), x, skips, block, sampler)?;
        }
        Ok(x)
    }

    fn norm(&self) -> Norm {
        Norm { groups: self.norm_num_groups, eps: self.norm_eps }
    }

    fn block(&self, kind: BlockType, layers: usize, level: usize, told: Told) -> Block {
        let (channels, norm, time) = (self.block_out_channels[level], self.norm(), Some(told.time));
        let transformer = Transformer2d {
            layers: self.transformer_layers_per_block[level],
            heads: self.attention_heads[level],
            groups: self.norm_num_groups,
            encoder_hidden_states: told.encoder_hidden_states,
            use_linear_projection: self.use_linear_projection,
            only_cross_attention: self.only_cross_attention[level],
        };
        let mixer = match kind {
            BlockType::CrossAttention => Mixer::Transformer(transformer),
            BlockType::Plain => Mixer::None,
        };
        let resnet = ResnetBlock2d { channels, norm, time, output_scale_factor: 1.0 };
        Block { layers, resnet, mixer }
    }
}

/// Adds to the sinusoids of the times `[n, c]` the projection of the guidance scale's own.
fn guidance_into(
    cx: &mut Context<'_>,
    path: &Path<'_>,
    t: Tensor,
    dim: u32,
    scale: f32,
) -> Result<()> {
    let [n, c] = t.dims("the time embedding")?;
    let how = SinusoidalEmbedding { flip_sin_to_cos: false, freq_shift: 1.0 };
    let w = (scale - 1.0) * GUIDANCE_UNIT;
    let w = ops::sinusoidal_embedding(cx, &[w], dim as usize, how)?;
    let projected = nn::linear(cx, &path.at("cond_proj"), w, Linear::new(c).bias(false))?;
    (0..n).try_for_each(|sample| ops::add_in_place(cx, t.rows(sample, 1)?, projected))
}

/// The last token of each sample of `[n, t, c]`: `[n, c]`.
fn last_tokens(cx: &mut Context<'_>, states: Tensor) -> Result<Tensor> {
    let [n, t, c] = states.dims("encoder_hidden_states")?;
    let out = cx.tensor(Shape::new([n, c]))?;
    for sample in 0..n {
        let last = states.reshape([n * t, c])?.rows((sample + 1) * t - 1, 1)?;
        ops::copy_into(cx, last, out.rows(sample, 1)?)?;
    }
    Ok(out)
}
