//! From arguments and a model's folder to everything a pipeline needs.
//!
//! What is not given comes from the checkpoint's own scheduler and model configurations; what the
//! checkpoint cannot do is refused here, before any weight is looked at.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use mote::diffusion::noise::NoiseKind;
use mote::diffusion::sampler::{Ddpm, Sampler, Stepping, Variance, Walks};
use mote::diffusion::schedule::SigmaKind;
use mote::models::autoencoder_kl::AutoencoderKlConfig;
use mote::models::unet_2d::{ClassEmbedding, UNet2DConfig};
use mote::models::unet_2d_condition::UNet2DConditionConfig;
pub use mote::pipeline::Work;
use mote::pipeline::{InitImage, Sampling, Side, StableDiffusionXl, TextToImage, Unconditional};

use crate::checkpoint::place::{Place, Places};
use crate::config::autoencoder::Autoencoder;
use crate::config::model_index::{ModelIndex, Pipeline};
use crate::config::scheduler::SchedulerConfig;
use crate::config::{autoencoder, model_index, scheduler, taesd, unet_2d, unet_2d_condition};
use crate::embedding::Word;
use crate::error::{Failure, Result};
use crate::image::Picture;
use crate::image::parameters::Parameters;
use crate::prompts::{Asked, Encoders, told};
use crate::request::{Parts, Request};
use crate::table::{Table, table};
use crate::types::{Choice, PromptSyntax, Seed, Type};
use crate::{image, notes};

/// How much of a picture is made anew, where nothing is said.
const STRENGTH: f32 = 0.75;

/// How strongly the prompt is followed, where nothing is said.
const CFG_SCALE: f32 = 7.0;

/// The same where the sample itself is the picture: what goes beyond black and white is cut off,
/// and small models follow their words without guidance, in half the time.
const CFG_SCALE_OF_PIXELS: f32 = 1.0;

/// The guidance that is none: the prompt alone is followed.
pub const UNGUIDED: f32 = 1.0;

/// Channels of grey and of coloured pictures.
const PICTURE_CHANNELS: [usize; 2] = [1, 3];

/// The networks of a pipeline and what they are told.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Networks {
    /// Noise becomes a picture.
    Unconditional {
        /// The noise predictor.
        unet: UNet2DConfig,
        /// The class to draw.
        class_label: Option<u32>,
    },
    /// A text becomes a picture.
    TextToImage(Words),
}

/// The networks that turn text into pictures, and the text.
#[derive(Clone, Debug)]
pub struct Words {
    /// The text encoder, or the two.
    pub encoders: Encoders,
    /// The noise predictor.
    pub unet: UNet2DConditionConfig,
    /// Between latents and pixels; without one the UNet's sample is the picture.
    pub vae: Option<Autoencoder>,
    /// The side in latents of the tiles that the picture is decoded in, if it is to be.
    pub vae_tile: Option<usize>,
    /// The prompt's token ids.
    pub prompt: Vec<u32>,
    /// The negative prompt's token ids.
    pub negative_prompt: Vec<u32>,
    /// By how much each token's states are multiplied, of the prompt and of the negative one.
    pub token_weights: Option<[Vec<f32>; 2]>,
    /// How strongly the prompt is followed.
    pub cfg_scale: f32,
    /// How many of the text encoder's last layers are left out.
    pub clip_skip: usize,
    /// The picture to start from.
    pub init: Option<Picture>,
    /// Which words of the texts do not fit, as sentences.
    pub cut: Vec<String>,
}

/// Everything about a run but the weights.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Where each network's weights lie: the first segments of their names, and the folder or the
    /// file.
    pub places: Places,
    /// The type of the weights of products, where they are packed or are to be.
    pub dtype: Option<Type>,
    /// Whether the weights at their places have yet to be converted to it.
    pub converts: bool,
    /// The networks.
    pub networks: Networks,
    /// The sampler's table.
    pub table: Table,
    /// The scheduler, as the arguments changed it.
    pub scheduler: SchedulerConfig,
    /// Height and width in pixels.
    pub size: [usize; 2],
    /// Which generator the noise comes from.
    pub noise: NoiseKind,
    /// The first picture's seed.
    pub seed: u64,
    /// Words with vectors of their own.
    pub words: Vec<Word>,
    /// What there is to say about the request: one sentence each, without its full stop.
    pub notes: Vec<String>,
    /// How the pictures are made, but for the seed and the version.
    settings: Parameters,
}

/// Understands the model at `folder`, a folder or a packed file, and what is asked of it.
///
/// # Errors
/// Where it holds nothing mote can run, or is asked for what it cannot do.
pub fn resolve(folder: &Place, parts: &Parts, request: &Request) -> Result<Resolved> {
    request.check()?;
    let index = model_index::read(folder)?;
    let (dtype, converts) = dtype(folder, parts.dtype)?;
    let scheduler = scheduler(folder, request)?;
    let words = parts.embeddings.iter().map(Word::read).collect::<Result<Vec<_>>>()?;
    let (networks, places, size) = match index.pipeline {
        Pipeline::Unconditional => unconditional(folder, parts, request)?,
        Pipeline::TextToImage | Pipeline::StableDiffusionXl => {
            text_to_image(folder, parts, request, &index, &words)?
        }
    };
    let strength = match &networks {
        Networks::TextToImage(words) if words.init.is_some() => {
            Some(request.strength.unwrap_or(STRENGTH))
        }
        _ => None,
    };
    check_variance(&scheduler, &networks)?;
    let table = table(&scheduler, request.steps as usize, strength)?;
    let seed = match request.seed {
        Seed::Given(seed) => seed,
        // Short enough to be read out and typed in again.
        Seed::Random => RandomState::new().hash_one("seed") >> 32,
    };
    let mut resolved = Resolved {
        places,
        dtype,
        converts,
        networks,
        table,
        scheduler,
        size,
        noise: request.rng.into(),
        seed,
        words,
        notes: Vec::new(),
        settings: Parameters::default(),
    };
    resolved.notes = resolved.take_notes(folder, request);
    resolved.settings = resolved.settings(folder.name(), parts, request, strength);
    Ok(resolved)
}

/// The type of the weights, and whether they are to be converted to it.
///
/// # Errors
/// Where they are packed in another already.
pub fn dtype(folder: &Place, wanted: Option<Type>) -> Result<(Option<Type>, bool)> {
    let Some(packed) = folder.packed() else { return Ok((wanted, wanted.is_some())) };
    match wanted {
        Some(wanted) if wanted != packed.dtype() && packed.dtype() == Type::F16 => {
            Ok((Some(wanted), true))
        }
        Some(wanted) if wanted != packed.dtype() => Err(Failure::new(format!(
            "{} is packed in {}, and nothing else can be made of it",
            packed.path().display(),
            packed.dtype().name()
        ))
        .remedy("Leave out --type, or give the folder that it was converted from")),
        _ => Ok((Some(packed.dtype()), false)),
    }
}

/// The scheduler's file, and what the arguments change about it.
fn scheduler(folder: &Place, request: &Request) -> Result<SchedulerConfig> {
    let mut config = scheduler::read_of(folder, request.sampling_method)?;
    let title = config.named.title;
    if let Some(prediction) = request.prediction {
        config.prediction = prediction.into();
    }
    if let Some(sigmas) = request.scheduler {
        config.sigmas = sigmas.into();
        let walks_times = config.sampler().walks() == Walks::Times;
        if walks_times && config.sigmas != SigmaKind::Discrete {
            return Err(Failure::new(format!(
                "{title} visits times of training, and its noise levels cannot be spaced freely"
            ))
            .remedy(
                "Leave out --scheduler, or take a --sampling-method such as euler or dpm++2m",
            ));
        }
    }
    if let Some(eta) = request.eta
        && !config.set_eta(f64::from(eta))
    {
        return Err(Failure::new(format!("--eta is for DDIM, and the sampler is {title}"))
            .remedy("Leave it out, or add --sampling-method ddim"));
    }
    Ok(config)
}

/// Refuses a variance that is to be learned where the network was not made to learn it.
fn check_variance(scheduler: &SchedulerConfig, networks: &Networks) -> Result<()> {
    let (taken, given) = match networks {
        Networks::Unconditional { unet, .. } => (unet.in_channels, unet.out_channels),
        Networks::TextToImage(words) => (words.unet.in_channels, words.unet.out_channels),
    };
    let learned = Sampler::Ddpm(Ddpm { variance: Variance::LearnedRange });
    if scheduler.sampler() != learned || given == 2 * taken {
        return Ok(());
    }
    let what = format!(
        "`variance_type` is learned_range in the scheduler's file, for which a UNet of {taken} \
         channels gives {}, and this one gives {given}",
        2 * taken
    );
    Err(Failure::new(what)
        .remedy("Set it to fixed_small there, or take another sampler: --sampling-method ddim"))
}

type Found = (Networks, Places, [usize; 2]);

/// How far a side must go into halves: a level less than there are. A UNet's way up doubles what
/// its way down halved, and only then meets the skips at their size.
pub fn halved(unet: &UNet2DConfig) -> usize {
    1 << unet.block_out_channels.len().saturating_sub(1)
}

fn unconditional(folder: &Place, parts: &Parts, request: &Request) -> Result<Found> {
    let told = told(request);
    for (given, flag) in [
        (request.prompt.is_some(), "--prompt"),
        (request.negative_prompt.is_some(), "--negative-prompt"),
        (request.init_img.is_some(), "--init-img"),
        (request.cfg_scale.is_some(), "--cfg-scale"),
        (request.clip_skip.is_some(), "--clip-skip"),
        (request.prompt_syntax != PromptSyntax::Plain, "--prompt-syntax"),
        (told.is_some(), told.unwrap_or_default()),
        (!parts.embeddings.is_empty(), "--embedding"),
        (parts.vae.is_some(), "--vae"),
        (parts.taesd.is_some(), "--taesd"),
        (request.vae_tiling, "--vae-tiling"),
    ] {
        if given {
            let what = "this model makes pictures from noise alone, and knows no text";
            return Err(
                Failure::new(format!("{flag} has no meaning here: {what}")).remedy("Leave it out")
            );
        }
    }
    let folder = folder.part("unet");
    let unet = unet_2d::read(folder.join("config.json"))?;
    let size = size([request.height, request.width], unet.sample_size, halved(&unet), "unet")?;
    let class_label = class_label(&unet, request.class_label)?;
    Ok((Networks::Unconditional { unet, class_label }, vec![("unet", folder)], size))
}

/// The class to draw, as a network takes it.
///
/// # Errors
/// Where the network wants one and has none, or the other way around.
pub fn class_label(unet: &UNet2DConfig, label: Option<u32>) -> Result<Option<u32>> {
    match (unet.class_embedding, label) {
        (ClassEmbedding::None, None) => Ok(None),
        (ClassEmbedding::None, Some(_)) => {
            Err(Failure::new("this model knows no classes").remedy("Leave out --class-label"))
        }
        (ClassEmbedding::Identity, _) => {
            Err(Failure::new("this model's class is a vector, which mote cannot be given"))
        }
        (ClassEmbedding::Table(rows), None) => Err(Failure::new(format!(
            "this model was trained on {rows} classes, and needs to know which to draw"
        ))
        .remedy(format!("Add --class-label NUMBER, from 0 to {}", rows.saturating_sub(1)))),
        (ClassEmbedding::Table(rows), Some(label)) if label as usize >= rows => {
            Err(Failure::new(format!("there is no class {label}: the model knows {rows}"))
                .remedy(format!("Give --class-label from 0 to {}", rows.saturating_sub(1))))
        }
        (ClassEmbedding::Timestep, None) => {
            Err(Failure::new("this model needs to know which class to draw")
                .remedy("Add --class-label NUMBER"))
        }
        (_, label) => Ok(label),
    }
}

fn text_to_image(
    folder: &Place,
    parts: &Parts,
    request: &Request,
    index: &ModelIndex,
    words: &[Word],
) -> Result<Found> {
    if request.class_label.is_some() {
        return Err(Failure::new("this model draws what a text says, and knows no classes")
            .remedy("Leave out --class-label"));
    }
    let Some(prompt) = &request.prompt else {
        return Err(Failure::new("this model draws what a text says, and there is none")
            .remedy("Say what the picture is to show: -p \"a lighthouse at dusk\""));
    };
    let unet_folder = folder.part("unet");
    let unet = unet_2d_condition::read(unet_folder.join("config.json"))?;
    let has_vae = index.has_vae || parts.vae.is_some() || parts.taesd.is_some();
    let (vae, vae_places) = match has_vae {
        true => vae(folder, parts, request.init_img.is_some()).map(|(vae, at)| (Some(vae), at))?,
        false => (None, Places::new()),
    };
    check_vae(vae.as_ref(), vae_places.first().map_or(folder, |(_, place)| place), &unet)?;
    if vae.is_none() && index.pipeline == Pipeline::StableDiffusionXl {
        return Err(Failure::new(format!("{} names no autoencoder", folder.path().display()))
            .remedy("Give one with --vae or --taesd"));
    }
    if vae.is_none() && request.vae_tiling {
        return Err(Failure::new("this model has no autoencoder whose work tiles could divide")
            .remedy("Leave out --vae-tiling"));
    }
    let scale = scale(vae.as_ref(), &unet);
    let init = request.init_img.as_deref().map(image::read).transpose()?;
    let trained = unet.sample_size.map(|size| size.map(|side| side * scale));
    let is_sized = request.width.is_some() && request.height.is_some();
    let own = init.as_ref().filter(|_| !is_sized);
    let own = own.map(|init| own_size(init, scale)).transpose()?;
    let size = size([request.height, request.width], own.or(trained), scale, "unet")?;
    let init = init.map(|init| init.resized(size));
    let tile = vae.as_ref().filter(|_| request.vae_tiling).map(Autoencoder::tile);
    let vae_tile = tile.map(|own| request.vae_tile_size.map_or(own, |tile| tile as usize));
    let cfg_scale = if vae.is_some() { CFG_SCALE } else { CFG_SCALE_OF_PIXELS };
    // Below 1 there is no guidance, as at 1.
    let cfg_scale = request.cfg_scale.unwrap_or(cfg_scale).max(UNGUIDED);
    let is_guided = cfg_scale > UNGUIDED && unet.time_cond_proj_dim.is_none();
    let negative_prompt = request.negative_prompt.as_deref().unwrap_or("");
    let asked =
        Asked { folder, request, index, texts: [prompt, negative_prompt], is_guided, size, words };
    let mut places = vec![("unet", unet_folder)];
    let encoded = match index.pipeline {
        Pipeline::StableDiffusionXl => asked.xl(&mut places)?,
        _ => asked.one(&mut places)?,
    };
    check_words(words, &encoded.encoders)?;
    let words = Words {
        prompt: encoded.prompt,
        negative_prompt: encoded.negative_prompt,
        token_weights: encoded.token_weights,
        cfg_scale,
        cut: encoded.cut,
        clip_skip: encoded.clip_skip,
        encoders: encoded.encoders,
        unet,
        vae,
        vae_tile,
        init,
    };
    places.extend(vae_places);
    Ok((Networks::TextToImage(words), places, size))
}

/// Refuses vectors that are for none of the text encoders.
fn check_words(words: &[Word], encoders: &Encoders) -> Result<()> {
    let widths = encoders.widths();
    for word in words {
        let fits = |(network, width): &(&str, usize)| word.values(network, *width).is_some();
        if !widths.iter().any(fits) {
            let own = widths.iter().map(|(_, width)| width.to_string()).collect::<Vec<_>>();
            return Err(Failure::new(format!(
                "the vectors for {:?} are {} wide, and those of this model {}",
                word.token,
                word.widths(),
                own.join(" and ")
            ))
            .remedy("Give a textual inversion that was made for a model of this kind"));
        }
    }
    Ok(())
}

/// Whether a UNet's sample is a picture, as it is or in blocks of pixels.
pub fn draws_pictures(unet: &UNet2DConditionConfig) -> bool {
    PICTURE_CHANNELS.contains(&unet.out_channels) || unet.pixel_block() > 1
}

/// How many pixels a side an element of the sample stands for.
pub fn scale(vae: Option<&Autoencoder>, unet: &UNet2DConditionConfig) -> usize {
    vae.map_or(unet.pixel_block(), Autoencoder::scale)
}

/// Refuses an autoencoder, or the want of one, that does not suit the UNet.
fn check_vae(vae: Option<&Autoencoder>, place: &Place, unet: &UNet2DConditionConfig) -> Result<()> {
    let (place, channels) = (place.path().display(), unet.in_channels);
    let Some(vae) = vae else {
        if draws_pictures(unet) {
            return Ok(());
        }
        return Err(Failure::new(format!(
            "{place} names no autoencoder, and what the UNet draws, in {channels} channels, is no \
             picture"
        ))
        .remedy("Give an autoencoder with --vae or --taesd"));
    };
    // Where the UNet takes more than it gives, the core says what that means.
    if vae.latent_channels() != channels && vae.latent_channels() != unet.out_channels {
        return Err(Failure::new(format!(
            "the autoencoder in {place} has {} latent channels, and the UNet takes {channels}",
            vae.latent_channels(),
        ))
        .remedy("They must come from models of one kind"));
    }
    Ok(())
}

/// The autoencoder of the model, or the one given in its place, and where its weights lie.
///
/// # Errors
/// Where there is none, or mote cannot run it.
pub fn vae(folder: &Place, parts: &Parts, encodes: bool) -> Result<(Autoencoder, Places)> {
    let given = parts.taesd.as_ref().or(parts.vae.as_ref());
    let folder = given.map_or_else(|| folder.part("vae"), Place::from);
    let file = folder.join("config.json");
    if given.is_some() && !file.is_file() {
        let folder = folder.path();
        if !folder.exists() {
            return Err(Failure::new(format!("there is no {}", folder.display()))
                .remedy("Give the folder or the file of an autoencoder"));
        }
        let found = taesd::find(folder)?;
        if encodes && !found.has_encoder {
            return Err(Failure::new(format!(
                "{} has no encoder beside it, and --init-img needs one",
                folder.display()
            ))
            .remedy("Put taesd_encoder.safetensors beside taesd_decoder.safetensors"));
        }
        let files = found.files.into_iter().map(|(name, file)| (name, file.into())).collect();
        return Ok((Autoencoder::Tiny(found.config), files));
    }
    let config = autoencoder::read(file)?;
    if parts.taesd.is_some() && matches!(config, Autoencoder::Kl(_)) {
        return Err(Failure::new(format!("{} holds no tiny autoencoder", folder.path().display()))
            .remedy("Give its folder to --vae instead of --taesd"));
    }
    Ok((config, vec![("vae", folder)]))
}

/// Height and width of a picture, rounded down to multiples of `scale`.
fn own_size(picture: &Picture, scale: usize) -> Result<[usize; 2]> {
    let size = [picture.height, picture.width].map(|side| side / scale * scale);
    if size.contains(&0) {
        return Err(Failure::new(format!(
            "the picture to start from is only {}x{} pixels",
            picture.width, picture.height
        ))
        .remedy("Say with -W and -H to which size to enlarge it"));
    }
    Ok(size)
}

/// Height and width: as given, or as trained. Both must be multiples of `scale`.
///
/// # Errors
/// Where they are not, or neither is known.
pub fn size(
    given: [Option<u32>; 2],
    trained: Option<[usize; 2]>,
    scale: usize,
    place: &str,
) -> Result<[usize; 2]> {
    let side = |given: Option<u32>, own: usize, flag: &str| {
        let own = trained.map(|size| size[own]);
        given.map(|side| side as usize).or(own).ok_or_else(|| {
            Failure::new(format!("{place}/config.json does not say how large pictures are"))
                .remedy(format!("Say it with {flag}"))
        })
    };
    let size = [side(given[0], 0, "-H")?, side(given[1], 1, "-W")?];
    for side in size {
        if side == 0 || side % scale != 0 {
            let (below, above) = (side / scale * scale, side.next_multiple_of(scale));
            let near = if below == 0 { above.to_string() } else { format!("{below} or {above}") };
            return Err(Failure::new(format!(
                "width and height must be multiples of {scale} with this model, and {side} is not"
            ))
            .remedy(format!("Take {near}")));
        }
    }
    Ok(size)
}

impl Words {
    /// Whether the negative prompt is looked at: a network that takes the guidance scale as an
    /// input is asked about the prompt alone.
    pub fn is_guided(&self) -> bool {
        self.cfg_scale > UNGUIDED && self.unet.time_cond_proj_dim.is_none()
    }

    /// The core's request, where the first of the encoders is that of this model.
    fn work<'a>(&'a self, sampling: Sampling<'a>, size: [usize; 2], noising: [f32; 2]) -> Work<'a> {
        let init_image = self.init.as_ref().map(|init| InitImage { rgb: &init.rgb, noising });
        let Self { unet, vae, vae_tile, clip_skip, .. } = self;
        let (vae_tile, clip_skip) = (*vae_tile, *clip_skip);
        match (&self.encoders, vae) {
            (Encoders::Xl(xl), Some(vae)) => Work::StableDiffusionXl(StableDiffusionXl {
                text_encoder: xl.first.as_ref(),
                text_encoder_2: &xl.second,
                unet,
                vae,
                vae_tile,
                sampling,
                prompt: Side { ids: Some([&self.prompt, &xl.prompt]), numbers: &xl.numbers[0] },
                negative_prompt: Side {
                    ids: xl.negative_prompt.as_ref().map(|ids| [&self.negative_prompt[..], ids]),
                    numbers: &xl.numbers[1],
                },
                clip_skip,
                size,
                init_image,
            }),
            (Encoders::One(text_encoder), vae) => Work::TextToImage(TextToImage {
                text_encoder,
                unet,
                vae: vae.as_ref(),
                vae_tile,
                sampling,
                prompt: &self.prompt,
                negative_prompt: &self.negative_prompt,
                clip_skip,
                token_weights: self.token_weights.as_ref().map(|[a, b]| [&a[..], &b[..]]),
                embedded_guidance: unet.time_cond_proj_dim.map(|_| self.cfg_scale),
                size,
                init_image,
            }),
            (Encoders::Xl(_), None) => unreachable!("refused when it was read"),
        }
    }
}

impl Resolved {
    /// Tells what the request asks for in vain.
    fn take_notes(&self, folder: &Place, request: &Request) -> Vec<String> {
        let mut notes = Vec::from_iter(self.type_in_vain());
        let Networks::TextToImage(words) = &self.networks else { return notes };
        notes.extend(words.cut.iter().cloned());
        let prompt = request.prompt.as_deref().unwrap_or_default();
        let negative_prompt = request.negative_prompt.as_deref().unwrap_or_default();
        let is_guided = words.is_guided();
        let seen = [prompt, if is_guided { negative_prompt } else { "" }];
        notes.extend(notes::signs(&seen, request.prompt_syntax));
        if let Some(scale) = request.cfg_scale.filter(|&scale| scale < UNGUIDED) {
            notes.push(format!("--cfg-scale {scale} is taken as 1, which is no guidance"));
        }
        if !is_guided && !negative_prompt.is_empty() {
            notes.push(match words.unet.time_cond_proj_dim {
                None => {
                    "the negative prompt has no effect without guidance; give a --cfg-scale above 1"
                }
                Some(_) => "the negative prompt has no effect: this model takes none",
            }.into());
        }
        let texts = [prompt, negative_prompt].map(str::to_lowercase);
        for word in &self.words {
            if !texts.iter().any(|text| text.contains(&word.token)) {
                notes.push(format!("no text holds {:?}, whose vectors are given", word.token));
            }
        }
        if self.tiles_in_vain() {
            notes.push("--vae-tiling has no effect: one tile holds the whole picture".into());
        }
        if folder.is_built_in() {
            notes.extend(notes::unknown(prompt));
        }
        notes
    }

    /// Tells of a type that makes no picture faster.
    fn type_in_vain(&self) -> Option<String> {
        let dtype = self.dtype.filter(|_| self.converts)?;
        let what = match dtype {
            Type::F32 => "the arithmetic is that of f32 anyway: this packs the weights and no more",
            Type::F16 => "the arithmetic stays that of f32: this rounds the weights and no more",
            _ => return None,
        };
        Some(format!("--type {} is for `mote convert`; {what}, anew each time", dtype.name()))
    }

    /// Whether the picture is to be decoded in tiles, and one holds it.
    fn tiles_in_vain(&self) -> bool {
        let latents = self.size.map(|side| side / self.scale());
        self.vae_tile().is_some_and(|tile| latents.iter().all(|&side| side <= tile))
    }

    /// How picture `index` is made: what its text chunk says.
    pub fn parameters(&self, index: u32) -> Parameters {
        let mut parameters = self.settings.clone();
        let seed = self.seed.wrapping_add(u64::from(index)).to_string();
        for (name, value) in &mut parameters.settings {
            if name == "Seed" {
                value.clone_from(&seed);
            }
        }
        parameters
    }

    fn settings(
        &self,
        name: Option<String>,
        parts: &Parts,
        request: &Request,
        strength: Option<f32>,
    ) -> Parameters {
        let [height, width] = self.size;
        let sigmas = match self.scheduler.sigmas {
            SigmaKind::Discrete => None,
            SigmaKind::Karras => Some("Karras".to_string()),
            SigmaKind::Exponential => Some("Exponential".to_string()),
        };
        let words = match &self.networks {
            Networks::TextToImage(words) => Some(words),
            Networks::Unconditional { .. } => None,
        };
        let skip = words.filter(|words| words.clip_skip > 0).map(|words| words.clip_skip + 1);
        let eta = Some(self.scheduler.eta).filter(|&eta| eta > 0.0);
        let syntax = Some(request.prompt_syntax).filter(|&syntax| syntax != PromptSyntax::Plain);
        let syntax = syntax.map(|syntax| syntax.name().to_string());
        let loras: Vec<String> = parts.loras.iter().map(ToString::to_string).collect();
        let rng = request.rng.name().to_uppercase();
        let tile = self.vae_tile().filter(|_| !self.tiles_in_vain());
        // What has no effect is no part of how the picture was made.
        let is_guided = words.is_some_and(Words::is_guided);
        let negative_prompt = request.negative_prompt.clone().filter(|_| is_guided);
        let settings = [
            ("Steps", Some(request.steps.to_string())),
            ("Sampler", Some(self.scheduler.named.title.to_string())),
            ("Schedule type", sigmas),
            ("CFG scale", words.map(|words| words.cfg_scale.to_string())),
            ("Seed", Some(self.seed.to_string())),
            ("Size", Some(format!("{width}x{height}"))),
            ("Model", name),
            ("LoRA", (!loras.is_empty()).then(|| loras.join(" "))),
            ("Denoising strength", strength.map(|strength| strength.to_string())),
            ("Clip skip", skip.map(|skip| skip.to_string())),
            ("Prompt syntax", syntax),
            ("Original size", request.original_size.map(|size| size.to_string())),
            ("Crop top left", request.crops_coords_top_left.map(|corner| corner.to_string())),
            ("Target size", request.target_size.map(|size| size.to_string())),
            ("Negative original size", request.negative_original_size.map(|size| size.to_string())),
            (
                "Negative crop top left",
                request.negative_crops_coords_top_left.map(|corner| corner.to_string()),
            ),
            ("Negative target size", request.negative_target_size.map(|size| size.to_string())),
            ("Aesthetic score", request.aesthetic_score.map(|score| score.to_string())),
            (
                "Negative aesthetic score",
                request.negative_aesthetic_score.map(|score| score.to_string()),
            ),
            ("Eta", eta.map(|eta| (eta as f32).to_string())),
            ("VAE tile", tile.map(|tile| tile.to_string())),
            ("Class label", request.class_label.map(|label| label.to_string())),
            ("RNG", Some(rng)),
            ("Version", Some(format!("mote {}", env!("CARGO_PKG_VERSION")))),
        ];
        let given = settings.into_iter().filter_map(|(name, v)| Some((name.to_string(), v?)));
        Parameters {
            prompt: request.prompt.clone().unwrap_or_default(),
            negative_prompt: negative_prompt.unwrap_or_default(),
            settings: given.collect(),
        }
    }

    fn sampling(&self, index: u32) -> Sampling<'_> {
        Sampling {
            rows: &self.table.rows,
            init_noise_sigma: self.table.init_noise_sigma,
            clipping: self.scheduler.clipping,
            guidance_scale: match &self.networks {
                Networks::TextToImage(words) if words.is_guided() => words.cfg_scale,
                _ => UNGUIDED,
            },
            noise: self.noise,
            seed: self.seed.wrapping_add(u64::from(index)),
        }
    }

    /// The core's request for picture `index`.
    pub fn work(&self, index: u32) -> Work<'_> {
        match &self.networks {
            Networks::Unconditional { unet, class_label } => Work::Unconditional(Unconditional {
                unet,
                sampling: self.sampling(index),
                size: self.size,
                class_label: class_label.map(|label| label as f32),
            }),
            Networks::TextToImage(words) => {
                words.work(self.sampling(index), self.size, self.table.noising)
            }
        }
    }

    /// The same at another size, for a plan only: a picture to start from is blank.
    #[must_use]
    pub fn at_size(&self, size: [usize; 2]) -> Self {
        let mut other = self.clone();
        other.size = size;
        if let Networks::TextToImage(words) = &mut other.networks
            && words.init.is_some()
        {
            let [height, width] = size;
            words.init = Some(Picture { width, height, rgb: vec![0; 3 * width * height] });
        }
        other
    }

    /// How wide the vectors of each text encoder's tokens are.
    pub fn token_widths(&self) -> Vec<(&'static str, usize)> {
        match &self.networks {
            Networks::TextToImage(words) => words.encoders.widths(),
            Networks::Unconditional { .. } => Vec::new(),
        }
    }

    /// Whether a picture is given to start from.
    pub fn starts_from_a_picture(&self) -> bool {
        matches!(&self.networks, Networks::TextToImage(words) if words.init.is_some())
    }

    /// How many pixels a side of a picture must be a multiple of.
    pub fn scale(&self) -> usize {
        match &self.networks {
            Networks::Unconditional { unet, .. } => halved(unet),
            Networks::TextToImage(words) => scale(words.vae.as_ref(), &words.unet),
        }
    }

    /// The token ids of the prompt and of the negative prompt.
    pub fn prompts(&self) -> Option<[&[u32]; 2]> {
        match &self.networks {
            Networks::TextToImage(words) => Some([&words.prompt, &words.negative_prompt]),
            Networks::Unconditional { .. } => None,
        }
    }

    /// The side in latents of the tiles that the picture is decoded in, if it is.
    pub fn vae_tile(&self) -> Option<usize> {
        match &self.networks {
            Networks::TextToImage(words) => words.vae_tile,
            Networks::Unconditional { .. } => None,
        }
    }

    /// The autoencoder, if it is of the large kind.
    pub fn large_autoencoder(&self) -> Option<&AutoencoderKlConfig> {
        match &self.networks {
            Networks::TextToImage(words) => match &words.vae {
                Some(Autoencoder::Kl(config)) => Some(config),
                _ => None,
            },
            Networks::Unconditional { .. } => None,
        }
    }
}
