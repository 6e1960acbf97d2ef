//! The recipe: all that a pipeline must know of a model beside its weights, as numbers.
//!
//! `mote convert` writes it into a packed file as the tensor [`TENSOR`], so that a program without
//! a reader for JSON can use the file: words of 32 bits, little-endian, in the order of
//! one walk, which both reads and writes them. A recipe is untrusted: what it says is checked like
//! any configuration.

use super::kit::{Everything, Kit, NOT_LINKED};
use crate::diffusion::prediction::{Clipping, Prediction};
use crate::diffusion::sampler::{Chosen, Ddim, Sampler, Stepping};
use crate::diffusion::schedule::{BetaSchedule, ScheduleConfig, SigmaKind, Spacing};
use crate::error::{Error, Result};
use crate::fields::{Fields, Only};
use crate::models::autoencoder::Autoencoder;
use crate::models::autoencoder_kl::AutoencoderKlConfig;
use crate::models::autoencoder_tiny::{AutoencoderTinyConfig, Naming};
use crate::models::clip_text::{Activation, ClipTextConfig};
use crate::models::unet_2d::{self, ClassEmbedding, Resampling, TimeEmbedding, UNet2DConfig};
use crate::models::unet_2d_condition::{self, UNet2DConditionConfig};
use crate::models::{MAX_LEVELS, PerLevel};

/// What the tensor is called in a packed file.
pub const TENSOR: &str = "recipe";

/// The version of the format.
pub const VERSION: u32 = 2;

/// Bytes of a word.
pub const WORD: usize = 4;

/// The networks of a pipeline.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "there is one in a run, and no allocator")]
pub enum Networks {
    /// Noise becomes a picture.
    Unconditional(UNet2DConfig),
    /// A text becomes a picture.
    TextToImage {
        /// The text encoder.
        text_encoder: ClipTextConfig,
        /// The noise predictor.
        unet: UNet2DConditionConfig,
        /// Between latents and pixels, unless the sample itself is the picture.
        vae: Option<Autoencoder>,
    },
}

/// How one sampler walks the model's schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scheduler<S = Sampler<'static>> {
    /// What the network predicts.
    pub prediction: Prediction,
    /// What happens to each denoised picture.
    pub clipping: Clipping,
    /// The schedule.
    pub schedule: ScheduleConfig<'static>,
    /// The sampler.
    pub sampler: S,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            prediction: Prediction::Epsilon,
            clipping: Clipping::None,
            schedule: ScheduleConfig::default(),
            sampler: Sampler::Ddim(Ddim::default()),
        }
    }
}

impl Scheduler {
    /// The same with the sampler that a program is made for.
    fn of<S: Chosen>(self) -> Option<Scheduler<S>> {
        let Self { prediction, clipping, schedule, sampler } = self;
        Some(Scheduler { prediction, clipping, schedule, sampler: S::of(sampler)? })
    }
}

/// All of a model but its weights, for one sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe<S = Sampler<'static>> {
    /// The networks.
    pub networks: Networks,
    /// The number of the sampler that the model's own configuration names (see
    /// [`Named`](crate::diffusion::sampler::Named)).
    pub own_sampler: usize,
    /// How the sampler goes that was asked for. A sampler that cannot go by the model's
    /// configuration, or that the program is not made for, has none.
    pub scheduler: Option<Scheduler<S>>,
}

impl Recipe {
    /// Reads a recipe, and of the samplers the one of this number; `None`: the model's own.
    ///
    /// # Errors
    /// [`Error::Format`] where it ends too early, says what cannot be, or is of another version.
    pub fn read(bytes: &[u8], sampler: Option<usize>) -> Result<Self> {
        Self::read_for::<Everything>(bytes, sampler)
    }
}

impl<S: Chosen> Recipe<S> {
    /// [`Recipe::read`] for a program that is made for what is in the kit.
    ///
    /// # Errors
    /// As [`Recipe::read`], and [`Error::Config`] where the networks are not in the kit.
    pub fn read_for<K: Kit<Sampler = S>>(bytes: &[u8], sampler: Option<usize>) -> Result<Self> {
        let mut words = Words::new(Mode::Read(bytes));
        let mut head = Head::default();
        head.walk::<K>(&mut words)?;
        let Head { networks, own_sampler, samplers } = head;
        let (wanted, mut found) = (sampler.unwrap_or(own_sampler), None);
        for _ in 0..samplers {
            let (mut number, mut scheduler) = (0, Scheduler::default());
            walk_numbered(&mut words, &mut number, &mut scheduler)?;
            if number == wanted && found.is_none() {
                found = Some(scheduler);
            }
        }
        Ok(Self { networks, own_sampler, scheduler: found.and_then(Scheduler::of) })
    }

    /// The settings of the sampler that was asked for.
    ///
    /// # Errors
    /// [`Error::Config`] where there are none.
    pub fn scheduler(&self) -> Result<&Scheduler<S>> {
        let what = "cannot go by the settings of this model, or is not in this program";
        self.scheduler.as_ref().ok_or(Error::Config { key: "the sampler", what })
    }
}

/// Writes the recipe of these networks, with the settings of each sampler that can go by the
/// model's configuration, by its number; tells how many bytes that are. Without `out` they are
/// counted.
///
/// # Errors
/// [`Error::Config`] where a number does not fit a word, and [`Error::Format`] where there is no
/// room.
pub fn write(
    networks: &Networks,
    own_sampler: usize,
    schedulers: &[(usize, Scheduler)],
    out: Option<&mut [u8]>,
) -> Result<usize> {
    let mut words = Words::new(out.map_or(Mode::Count, Mode::Write));
    let (networks, samplers) = (networks.clone(), schedulers.len());
    Head { networks, own_sampler, samplers }.walk::<Everything>(&mut words)?;
    for &(mut number, mut scheduler) in schedulers {
        walk_numbered(&mut words, &mut number, &mut scheduler)?;
    }
    Ok(words.at)
}

/// What comes before the samplers.
struct Head {
    networks: Networks,
    own_sampler: usize,
    /// How many samplers follow.
    samplers: usize,
}

impl Default for Head {
    fn default() -> Self {
        let networks = Networks::Unconditional(UNet2DConfig::default());
        Self { networks, own_sampler: 0, samplers: 0 }
    }
}

impl Head {
    /// Every number, in the order of the file.
    fn walk<K: Kit>(&mut self, words: &mut Words<'_>) -> Result<()> {
        words.expect(VERSION, "this recipe is of another version of mote")?;
        let mut kind = matches!(self.networks, Networks::TextToImage { .. });
        words.flag(&mut kind)?;
        if words.is_reading() && kind && K::TEXT_TO_IMAGE {
            self.networks = Networks::TextToImage {
                text_encoder: ClipTextConfig::default(),
                unet: UNet2DConditionConfig::default(),
                vae: None,
            };
        }
        match &mut self.networks {
            Networks::Unconditional(unet) if K::UNCONDITIONAL && !kind => {
                walk_unet_2d(words, unet)?;
            }
            Networks::TextToImage { text_encoder, unet, vae } if K::TEXT_TO_IMAGE => {
                walk_clip_text(words, text_encoder)?;
                walk_unet_2d_condition(words, unet)?;
                walk_vae(words, vae)?;
            }
            _ => return Err(NOT_LINKED),
        }
        words.size(&mut self.own_sampler)?;
        words.size(&mut self.samplers)
    }
}

/// A sampler's number and settings. It is a function of its own, so that they are in flash once.
#[inline(never)]
fn walk_numbered(
    words: &mut Words<'_>,
    number: &mut usize,
    scheduler: &mut Scheduler,
) -> Result<()> {
    words.size(number)?;
    walk_scheduler(words, scheduler)
}

fn walk_unet_2d(words: &mut Words<'_>, unet: &mut UNet2DConfig) -> Result<()> {
    use unet_2d::BlockType::{self, Attention, Plain, Resnet};
    let block = |words: &mut Words<'_>, block: &mut BlockType| {
        words.choice(block, &[Plain, Attention, Resnet])
    };
    let ways = [Resampling::Conv, Resampling::Resnet];
    words.sides(&mut unet.sample_size)?;
    words.size(&mut unet.in_channels)?;
    words.size(&mut unet.out_channels)?;
    words.flag(&mut unet.center_input_sample)?;
    let embeddings = [TimeEmbedding::Positional, TimeEmbedding::Fourier];
    words.choice(&mut unet.time_embedding_type, &embeddings)?;
    words.size_or_none(&mut unet.time_embedding_dim)?;
    words.f32(&mut unet.freq_shift)?;
    words.flag(&mut unet.flip_sin_to_cos)?;
    words.list(&mut unet.down_block_types, Plain, block)?;
    words.list(&mut unet.up_block_types, Plain, block)?;
    words.flag(&mut unet.mid_block)?;
    words.flag(&mut unet.add_attention)?;
    words.list(&mut unet.block_out_channels, 0, Words::size)?;
    words.size(&mut unet.layers_per_block)?;
    words.f32(&mut unet.mid_block_scale_factor)?;
    words.size(&mut unet.downsample_padding)?;
    words.choice(&mut unet.downsample_type, &ways)?;
    words.choice(&mut unet.upsample_type, &ways)?;
    words.size_or_none(&mut unet.attention_head_dim)?;
    words.size(&mut unet.norm_num_groups)?;
    words.size_or_none(&mut unet.attn_norm_num_groups)?;
    words.f32(&mut unet.norm_eps)?;
    words.scale_shift(&mut unet.resnet_time_scale_shift)?;
    let (mut kind, mut rows) = match unet.class_embedding {
        ClassEmbedding::None => (0, 0),
        ClassEmbedding::Table(rows) => (1, rows),
        ClassEmbedding::Timestep => (2, 0),
        ClassEmbedding::Identity => (3, 0),
    };
    words.size(&mut kind)?;
    words.size(&mut rows)?;
    unet.class_embedding = match kind {
        0 => ClassEmbedding::None,
        1 => ClassEmbedding::Table(rows),
        2 => ClassEmbedding::Timestep,
        3 => ClassEmbedding::Identity,
        _ => return Err(words.fail("a recipe knows classes in a way that there is not")),
    };
    Ok(())
}

fn walk_unet_2d_condition(words: &mut Words<'_>, unet: &mut UNet2DConditionConfig) -> Result<()> {
    use unet_2d_condition::BlockType::{self, CrossAttention, Plain};
    let block = |words: &mut Words<'_>, block: &mut BlockType| {
        words.choice(block, &[Plain, CrossAttention])
    };
    words.sides(&mut unet.sample_size)?;
    words.size(&mut unet.in_channels)?;
    words.size(&mut unet.out_channels)?;
    words.flag(&mut unet.center_input_sample)?;
    words.flag(&mut unet.flip_sin_to_cos)?;
    words.f32(&mut unet.freq_shift)?;
    words.size_or_none(&mut unet.time_embedding_dim)?;
    words.list(&mut unet.down_block_types, Plain, block)?;
    words.list(&mut unet.up_block_types, Plain, block)?;
    words.flag(&mut unet.mid_block)?;
    words.list(&mut unet.only_cross_attention, false, Words::flag)?;
    words.flag(&mut unet.mid_block_only_cross_attention)?;
    words.list(&mut unet.block_out_channels, 0, Words::size)?;
    words.list(&mut unet.layers_per_block, 0, Words::size)?;
    words.list(&mut unet.transformer_layers_per_block, 0, Words::size)?;
    words.size(&mut unet.downsample_padding)?;
    words.f32(&mut unet.mid_block_scale_factor)?;
    words.size(&mut unet.norm_num_groups)?;
    words.f32(&mut unet.norm_eps)?;
    words.size(&mut unet.cross_attention_dim)?;
    words.list(&mut unet.attention_heads, 0, Words::size)?;
    words.flag(&mut unet.use_linear_projection)?;
    words.flag(&mut unet.upcast_attention)?;
    words.scale_shift(&mut unet.resnet_time_scale_shift)?;
    words.flag(&mut unet.prompt_projection)
}

fn walk_clip_text(words: &mut Words<'_>, clip: &mut ClipTextConfig) -> Result<()> {
    words.size(&mut clip.vocab_size)?;
    words.size(&mut clip.hidden_size)?;
    words.size(&mut clip.intermediate_size)?;
    words.size(&mut clip.num_hidden_layers)?;
    words.size(&mut clip.num_attention_heads)?;
    words.size(&mut clip.max_position_embeddings)?;
    words.choice(&mut clip.hidden_act, &[Activation::QuickGelu, Activation::Gelu])?;
    words.f32(&mut clip.layer_norm_eps)
}

fn walk_vae(words: &mut Words<'_>, vae: &mut Option<Autoencoder>) -> Result<()> {
    let (mut is_kl, mut is_tiny) =
        (matches!(vae, Some(Autoencoder::Kl(_))), matches!(vae, Some(Autoencoder::Tiny(_))));
    words.flag(&mut is_kl)?;
    words.flag(&mut is_tiny)?;
    if words.is_reading() {
        *vae = match (is_kl, is_tiny) {
            (false, false) => None,
            (true, _) => Some(Autoencoder::Kl(AutoencoderKlConfig::default())),
            (false, true) => Some(Autoencoder::Tiny(AutoencoderTinyConfig::default())),
        };
    }
    match vae {
        None => Ok(()),
        Some(Autoencoder::Kl(kl)) => {
            words.size(&mut kl.in_channels)?;
            words.size(&mut kl.out_channels)?;
            words.size(&mut kl.latent_channels)?;
            words.list(&mut kl.block_out_channels, 0, Words::size)?;
            words.size(&mut kl.layers_per_block)?;
            words.size(&mut kl.norm_num_groups)?;
            words.flag(&mut kl.mid_block_add_attention)?;
            words.flag(&mut kl.use_quant_conv)?;
            words.flag(&mut kl.use_post_quant_conv)?;
            words.f32(&mut kl.scaling_factor)?;
            words.f32(&mut kl.shift_factor)
        }
        Some(Autoencoder::Tiny(tiny)) => {
            words.size(&mut tiny.in_channels)?;
            words.size(&mut tiny.out_channels)?;
            words.size(&mut tiny.latent_channels)?;
            words.list(&mut tiny.encoder_block_out_channels, 0, Words::size)?;
            words.list(&mut tiny.decoder_block_out_channels, 0, Words::size)?;
            words.list(&mut tiny.num_encoder_blocks, 0, Words::size)?;
            words.list(&mut tiny.num_decoder_blocks, 0, Words::size)?;
            words.f32(&mut tiny.scaling_factor)?;
            words.flag(&mut tiny.pool)?;
            words.choice(&mut tiny.naming, &[Naming::Diffusers, Naming::Original])
        }
    }
}

fn walk_scheduler(words: &mut Words<'_>, scheduler: &mut Scheduler) -> Result<()> {
    let Scheduler { prediction, clipping, schedule, sampler } = scheduler;
    let known = [Prediction::Epsilon, Prediction::VPrediction, Prediction::Sample];
    words.choice(prediction, &known)?;
    let (mut kind, mut range, mut max) = match *clipping {
        Clipping::None => (0, 0.0, 0.0),
        Clipping::Clip { range } => (1, range, 0.0),
        Clipping::DynamicThreshold { ratio, max } => (2, ratio, max),
    };
    words.size(&mut kind)?;
    words.f32(&mut range)?;
    words.f32(&mut max)?;
    *clipping = match kind {
        0 => Clipping::None,
        1 => Clipping::Clip { range },
        2 => Clipping::DynamicThreshold { ratio: range, max },
        _ => return Err(words.fail("a recipe clips in a way that there is not")),
    };
    walk_schedule(words, schedule)?;
    walk_sampler(words, sampler)
}

fn walk_schedule(words: &mut Words<'_>, schedule: &mut ScheduleConfig<'static>) -> Result<()> {
    words.size(&mut schedule.num_train_timesteps)?;
    words.f64(&mut schedule.beta_start)?;
    words.f64(&mut schedule.beta_end)?;
    let curves = [
        BetaSchedule::Linear,
        BetaSchedule::ScaledLinear,
        BetaSchedule::SquaredcosCapV2,
        BetaSchedule::Sigmoid,
    ];
    words.choice(&mut schedule.beta_schedule, &curves)?;
    words.flag(&mut schedule.rescale_betas_zero_snr)?;
    let spacings = [Spacing::Leading, Spacing::Linspace, Spacing::Trailing];
    words.choice(&mut schedule.timestep_spacing, &spacings)?;
    words.size(&mut schedule.steps_offset)?;
    words.flag(&mut schedule.set_alpha_to_one)?;
    let kinds = [SigmaKind::Discrete, SigmaKind::Karras, SigmaKind::Exponential];
    words.choice(&mut schedule.sigmas, &kinds)?;
    for end in [&mut schedule.sigma_min, &mut schedule.sigma_max] {
        let (mut is_given, mut value) = (end.is_some(), end.unwrap_or(0.0));
        words.flag(&mut is_given)?;
        words.f64(&mut value)?;
        *end = is_given.then_some(value);
    }
    words.f64(&mut schedule.lambda_min_clipped)
}

/// A sampler: its kind, and its settings.
fn walk_sampler(words: &mut Words<'_>, sampler: &mut Sampler<'static>) -> Result<()> {
    let mut kind = Sampler::kinds().position(|kind| kind.is_kind_of(sampler)).unwrap_or(0);
    words.size(&mut kind)?;
    if words.is_reading() {
        let unknown = words.fail("a recipe has a sampler that there is not");
        *sampler = Sampler::kinds().nth(kind).ok_or(unknown)?;
    }
    sampler.fields(words)
}

impl Fields for Words<'_> {
    type Error = Error;

    fn size(&mut self, _key: &'static str, value: &mut usize) -> Result<()> {
        self.size(value)
    }

    fn flag(&mut self, _key: &'static str, value: &mut bool) -> Result<()> {
        self.flag(value)
    }

    fn number(&mut self, _key: &'static str, value: &mut f64) -> Result<()> {
        self.f64(value)
    }

    fn word<T: Copy + PartialEq>(
        &mut self,
        _key: &'static str,
        value: &mut T,
        known: &[(&'static str, T)],
    ) -> Result<()> {
        let is_first = |&at: &usize| known[..at].iter().all(|(_, other)| *other != known[at].1);
        let mut places = (0..known.len()).filter(is_first);
        let unknown = self.fail("a recipe names what there is not");
        let mut number = places.clone().position(|at| known[at].1 == *value).ok_or(unknown)?;
        self.size(&mut number)?;
        *value = known[places.nth(number).ok_or(unknown)?].1;
        Ok(())
    }

    /// What is the only value has no place in a packed file.
    fn only(&mut self, _key: &'static str, _supported: Only) -> Result<()> {
        Ok(())
    }
}

/// What a walk does with each word.
enum Mode<'a> {
    /// Takes it from here.
    Read(&'a [u8]),
    /// Puts it here.
    Write(&'a mut [u8]),
    /// Only counts it.
    Count,
}

/// Words, read or written one after the other.
struct Words<'a> {
    mode: Mode<'a>,
    at: usize,
}

impl<'a> Words<'a> {
    fn new(mode: Mode<'a>) -> Self {
        Self { mode, at: 0 }
    }

    fn is_reading(&self) -> bool {
        matches!(self.mode, Mode::Read(_))
    }

    fn fail(&self, what: &'static str) -> Error {
        Error::Format { what, at: self.at }
    }

    /// Writes `word`, or reads another in its place. A walk calls it a hundred times.
    #[inline(never)]
    fn word(&mut self, word: u32) -> Result<u32> {
        let (at, ends) = (self.at, self.fail("a recipe ends too early"));
        self.at += WORD;
        match &mut self.mode {
            Mode::Count => Ok(word),
            Mode::Read(bytes) => {
                let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(ends)?;
                Ok(u32::from_le_bytes(*bytes))
            }
            Mode::Write(bytes) => {
                let place = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut).ok_or(ends)?;
                *place = word.to_le_bytes();
                Ok(word)
            }
        }
    }

    fn expect(&mut self, word: u32, what: &'static str) -> Result<()> {
        match self.word(word)? == word {
            true => Ok(()),
            false => Err(self.fail(what)),
        }
    }

    #[inline(never)]
    fn size(&mut self, size: &mut usize) -> Result<()> {
        let what = "is too large to be written down";
        let word = u32::try_from(*size).map_err(|_| Error::Config { key: "a number", what })?;
        let word = self.word(word)?;
        *size = usize::try_from(word).map_err(|_| self.fail("a number is too large"))?;
        Ok(())
    }

    fn size_or_none(&mut self, size: &mut Option<usize>) -> Result<()> {
        let (mut is_given, mut value) = (size.is_some(), size.unwrap_or(0));
        self.flag(&mut is_given)?;
        self.size(&mut value)?;
        *size = is_given.then_some(value);
        Ok(())
    }

    fn sides(&mut self, sides: &mut Option<[usize; 2]>) -> Result<()> {
        let (mut is_given, [mut height, mut width]) = (sides.is_some(), sides.unwrap_or([0, 0]));
        self.flag(&mut is_given)?;
        self.size(&mut height)?;
        self.size(&mut width)?;
        *sides = is_given.then_some([height, width]);
        Ok(())
    }

    fn flag(&mut self, flag: &mut bool) -> Result<()> {
        *flag = match self.word(u32::from(*flag))? {
            0 => false,
            1 => true,
            _ => return Err(self.fail("a recipe says neither yes nor no")),
        };
        Ok(())
    }

    fn f32(&mut self, value: &mut f32) -> Result<()> {
        *value = f32::from_bits(self.word(value.to_bits())?);
        Ok(())
    }

    fn f64(&mut self, value: &mut f64) -> Result<()> {
        let bits = value.to_bits();
        let low = u64::from(self.word(bits as u32)?);
        let high = u64::from(self.word((bits >> 32) as u32)?);
        *value = f64::from_bits(high << 32 | low);
        Ok(())
    }

    /// One of `all`, told by its place there.
    fn choice<T: Copy + PartialEq>(&mut self, value: &mut T, all: &[T]) -> Result<()> {
        let unknown = self.fail("a recipe names what there is not");
        let mut number = all.iter().position(|one| one == value).ok_or(unknown)?;
        self.size(&mut number)?;
        *value = *all.get(number).ok_or(unknown)?;
        Ok(())
    }

    fn list<T: Copy>(
        &mut self,
        list: &mut PerLevel<T>,
        fill: T,
        each: impl Fn(&mut Self, &mut T) -> Result<()>,
    ) -> Result<()> {
        let mut count = list.len();
        self.size(&mut count)?;
        if count > MAX_LEVELS {
            return Err(self.fail("a recipe has too many levels"));
        }
        if self.is_reading() {
            list.clear();
            list.extend(core::iter::repeat_n(fill, count));
        }
        list.iter_mut().try_for_each(|value| each(self, value))
    }

    fn scale_shift(&mut self, value: &mut unet_2d::TimeScaleShift) -> Result<()> {
        let known = [unet_2d::TimeScaleShift::Default, unet_2d::TimeScaleShift::ScaleShift];
        self.choice(value, &known)
    }
}
