//! What is timed: one network of a model, with inputs of the size it would meet.
//!
//! A tokenizer, a scheduler and a `model_index.json` are not needed: a folder with a network's
//! subfolder is enough.

use mote::diffusion::noise::{Noise, NoiseKind};
use mote::models::clip_text::ClipTextConfig;
use mote::models::clip_text_projection::ClipTextProjectionConfig;
use mote::models::unet_2d::{ClassEmbedding, UNet2DConfig};
use mote::models::unet_2d_condition::{Extra, TextTime, UNet2DConditionConfig};
use mote::ops::Context;
use mote::tensor::{Shape, Tensor};
use mote::weights::Path as Names;

use crate::args;
use crate::args::Component;
use mote_host::checkpoint::place::{Place, Places};
use mote_host::config::autoencoder::Autoencoder;
use mote_host::config::{clip_text, clip_text_projection, model_index, unet_2d, unet_2d_condition};
use mote_host::error::{Failure, Result};
use mote_host::request::Request;
use mote_host::resolve;
use mote_host::types::Type;

/// Tokens of a prompt with its begin, end and padding, as CLIP was trained: most that are timed.
const TOKENS: usize = 77;

/// A time in the middle of training: no network's work depends on it.
const TIMESTEP: f32 = 500.0;

/// Evaluations of UNet and text encoder where a prompt is followed: with it and without it (Ho and
/// Salimans 2022).
const GUIDED: u64 = 2;

/// The guidance scale that a network is told which takes one: no work depends on it.
const GUIDANCE_SCALE: f32 = 8.0;

/// Pixels a side of one latent, where the folder holds no autoencoder that says it.
const PIXELS_PER_LATENT: usize = 8;

/// A network and the sizes of its inputs.
#[derive(Clone, Debug)]
enum Network {
    Text { config: ClipTextConfig, ids: Vec<u32> },
    Text2 { config: ClipTextProjectionConfig, ids: Vec<u32> },
    UNet2D { config: UNet2DConfig, images: [usize; 4], class: Option<u32> },
    UNet2DCondition { config: UNet2DConditionConfig, latents: [usize; 4], tokens: usize },
    Vae { config: Autoencoder, latents: [usize; 4] },
}

/// One network of a model.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its name on the command line: `text`, `unet`, `vae`.
    pub component: &'static str,
    /// Where its weights lie: the first segments of their names, and the folder or the file.
    pub places: Places,
    /// Pictures that one evaluation serves.
    pub batch: u64,
    /// Evaluations that a picture (or a batch of them) takes.
    pub evaluations: u64,
    network: Network,
}

/// What is timed of a model, in the order a picture meets it.
#[derive(Clone, Debug)]
pub struct Subjects {
    /// The networks.
    pub networks: Vec<Subject>,
    /// Height and width of the pictures, in pixels.
    pub size: [usize; 2],
    /// Whether these are all the networks that a picture takes.
    pub is_whole: bool,
    /// The type of the weights; without one they are as the checkpoint has them.
    pub dtype: Option<Type>,
    /// Whether they are to be converted to it first.
    pub converts: bool,
}

impl Subjects {
    /// Finds in a model's folder what the arguments ask for.
    ///
    /// # Errors
    /// Where it is not there, or mote cannot run it.
    pub fn find(args: &args::Bench) -> Result<Self> {
        let folder = &Place::model_with(&args.model.model, args.model.config.as_deref())?;
        let (dtype, converts) = resolve::dtype(folder, args.model.dtype)?;
        let has = |name: &str| folder.part(name).join("config.json").is_file();
        let has_vae = has("vae") || args.model.vae.is_some() || args.model.taesd.is_some();
        let present = [
            (Component::Text, has("text_encoder") || has("text_encoder_2")),
            (Component::Unet, has("unet")),
            (Component::Vae, has_vae),
        ];
        let present: Vec<_> = present.iter().filter(|(_, has)| *has).map(|(c, _)| *c).collect();
        check_present(folder, args.component, &present)?;
        check_meaning(args)?;
        let vae = has_vae.then(|| resolve::vae(folder, &args.model.parts(), false)).transpose()?;
        let unet = has("unet").then(|| Unet::read(folder)).transpose()?;
        let scale = match (&vae, &unet) {
            (Some((vae, _)), _) => vae.scale(),
            (None, Some(Unet::Latents(config))) if resolve::draws_pictures(config) => {
                resolve::scale(None, config)
            }
            _ => PIXELS_PER_LATENT,
        };
        if matches!(unet, Some(Unet::Pixels(_))) && has_vae {
            let what = "this model makes pictures without an autoencoder";
            return Err(Failure::new(what).remedy("Leave out --vae, --taesd and the folder vae"));
        }
        let given = [args.size.height, args.size.width];
        let size = match &unet {
            Some(Unet::Pixels(config)) => {
                resolve::size(given, config.sample_size, resolve::halved(config), "unet")?
            }
            Some(Unet::Latents(config)) => {
                let trained = config.sample_size.map(|size| size.map(|side| side * scale));
                resolve::size(given, trained, scale, "unet")?
            }
            None => resolve::size(given, Some([64 * scale; 2]), scale, "vae")?,
        };
        let latents = size.map(|side| side / scale);
        let mut networks = Vec::new();
        for component in present.iter().copied().filter(|c| args.component.holds(*c)) {
            match (component, &unet, &vae) {
                (Component::Unet, Some(unet), _) => {
                    networks.push(unet.subject(folder, args, size, latents)?);
                }
                (Component::Vae, _, Some((vae, places))) => {
                    networks.push(decoder(vae, places, latents));
                }
                _ => networks.extend(text_encoders(folder)?),
            }
        }
        let is_whole = present.iter().all(|component| args.component.holds(*component));
        Ok(Self { networks, size, is_whole, dtype, converts })
    }
}

/// Refuses a component that is not there, and a folder without any.
fn check_present(folder: &Place, asked: Component, present: &[Component]) -> Result<()> {
    if present.is_empty() {
        // Its sentences tell a wrong path from a folder of something else.
        model_index::read(folder)?;
        let what =
            format!("{} holds no network's folder with a config.json", folder.path().display());
        return Err(Failure::new(what).remedy("Save the model anew with `save_pretrained`"));
    }
    if present.iter().any(|component| asked.holds(*component)) {
        return Ok(());
    }
    let names: Vec<_> = present.iter().map(|component| component.name()).collect();
    let (folder, title) = (folder.path().display(), asked.title());
    Err(Failure::new(format!("the model in {folder} has no {title}"))
        .remedy(format!("Take --component {}", names.join(" or "))))
}

/// Refuses what the one network that is asked for does not look at.
fn check_meaning(args: &args::Bench) -> Result<()> {
    let (is_text, is_vae) = (args.component == Component::Text, args.component == Component::Vae);
    let title = args.component.title();
    if !args.model.embedding.is_empty() || args.model.embd_dir.is_some() {
        let what = "--embedding has no meaning here: no words are read";
        return Err(Failure::new(what).remedy("Leave it out"));
    }
    if !args.model.lora.is_empty() || args.model.lora_dir.is_some() {
        let what = "--lora has no meaning here: what is added to weights changes no time";
        return Err(Failure::new(what).remedy("Leave it out"));
    }
    for (given, flag, why) in [
        (is_text && args.size.width.is_some(), "--width", "it sees no picture"),
        (is_text && args.size.height.is_some(), "--height", "it sees no picture"),
        ((is_text || is_vae) && args.batch != 1, "--batch", "it is for the unet"),
        (
            (is_text || is_vae) && args.steps != Request::default().steps,
            "--steps",
            "it is for the unet",
        ),
    ] {
        if given {
            let what = format!("{flag} has no meaning for the {title}: {why}");
            return Err(Failure::new(what).remedy("Leave it out"));
        }
    }
    Ok(())
}

/// A noise predictor of either kind.
enum Unet {
    Pixels(UNet2DConfig),
    Latents(UNet2DConditionConfig),
}

impl Unet {
    fn read(folder: &Place) -> Result<Self> {
        let path = folder.part("unet").join("config.json");
        if path.json()?["_class_name"] == "UNet2DModel" {
            return Ok(Self::Pixels(unet_2d::read(&path)?));
        }
        Ok(Self::Latents(unet_2d_condition::read(&path)?))
    }

    fn subject(
        &self,
        folder: &Place,
        args: &args::Bench,
        pixels: [usize; 2],
        latents: [usize; 2],
    ) -> Result<Subject> {
        let (batch, steps) = (args.batch as usize, u64::from(args.steps));
        let with = |[h, w]: [usize; 2], channels| [batch, h, w, channels];
        let (network, evaluations) = match self {
            Self::Pixels(config) => {
                let class = (config.class_embedding != ClassEmbedding::None).then_some(0);
                let class = resolve::class_label(config, class)?;
                let images = with(pixels, config.in_channels);
                (Network::UNet2D { config: config.clone(), images, class }, steps)
            }
            Self::Latents(config) => {
                let latents = with(latents, config.in_channels);
                let config = config.clone();
                let tokens = tokens(folder)?;
                let guided = if config.time_cond_proj_dim.is_some() { 1 } else { GUIDED };
                (Network::UNet2DCondition { config, latents, tokens }, steps * guided)
            }
        };
        let places = vec![("unet", folder.part("unet"))];
        let batch = u64::from(args.batch);
        Ok(Subject { component: "unet", places, batch, evaluations, network })
    }
}

/// Tokens of a prompt of the text encoder that is there, or else of CLIP's.
fn tokens(folder: &Place) -> Result<usize> {
    let file = folder.part("text_encoder").join("config.json");
    let most = |config: ClipTextConfig| config.max_position_embeddings;
    let most = file.is_file().then(|| clip_text::read(file)).transpose()?.map_or(TOKENS, most);
    Ok(TOKENS.min(most))
}

/// The text encoders that are there.
fn text_encoders(folder: &Place) -> Result<Vec<Subject>> {
    let mut found = Vec::new();
    let subject = |component, at: (&'static str, Place), network| Subject {
        component,
        places: vec![at],
        batch: 1,
        evaluations: GUIDED,
        network,
    };
    let place = folder.part("text_encoder");
    if place.is_folder() {
        let config = clip_text::read(place.join("config.json"))?;
        let network = Network::Text { ids: ids(&config), config };
        found.push(subject("text", ("text_encoder", place), network));
    }
    let place = folder.part("text_encoder_2");
    if place.is_folder() {
        let config = clip_text_projection::read(place.join("config.json"))?;
        let network = Network::Text2 { ids: ids(&config.text), config };
        found.push(subject("text_2", ("text_encoder_2", place), network));
    }
    Ok(found)
}

/// Token ids all over the table, as words are.
fn ids(config: &ClipTextConfig) -> Vec<u32> {
    let count = TOKENS.min(config.max_position_embeddings);
    (0..count).map(|i| (i * 7919 % config.vocab_size.max(1)) as u32).collect()
}

fn decoder(vae: &Autoencoder, places: &Places, [h, w]: [usize; 2]) -> Subject {
    let latents = [1, h, w, vae.latent_channels()];
    let network = Network::Vae { config: vae.clone(), latents };
    Subject { component: "vae", places: places.clone(), batch: 1, evaluations: 1, network }
}

impl Subject {
    /// What it is, in words.
    pub fn title(&self) -> &'static str {
        match self.network {
            Network::Text { .. } => Component::Text.title(),
            Network::Text2 { .. } => "second text encoder",
            Network::UNet2D { .. } | Network::UNet2DCondition { .. } => Component::Unet.title(),
            Network::Vae { .. } => Component::Vae.title(),
        }
    }

    /// Evaluates the network once on drawn noise; `begins` is called when its inputs are there.
    ///
    /// # Errors
    /// The core's.
    pub fn evaluate(&self, cx: &mut Context<'_>, begins: &mut dyn FnMut()) -> mote::Result<()> {
        let root = Names::root();
        cx.scratch(|cx| {
            match &self.network {
                Network::Text { config, ids } => {
                    begins();
                    config.forward(cx, &root.at("text_encoder"), ids, 0)?;
                }
                Network::Text2 { config, ids } => {
                    let shape = Shape::new([1, ids.len(), config.text.hidden_size]);
                    let states = cx.tensor(shape)?;
                    begins();
                    config.forward(cx, &root.at("text_encoder_2"), ids, 0, states)?;
                }
                Network::UNet2D { config, images, class } => {
                    let x = noise(cx, Shape::new(*images))?;
                    let times = vec![TIMESTEP; images[0]];
                    let labels = class.map(|class| vec![class as f32; images[0]]);
                    begins();
                    config.forward(cx, &root.at("unet"), x, &times, labels.as_deref())?;
                }
                Network::UNet2DCondition { config, latents, tokens } => {
                    let n = latents[0];
                    let x = noise(cx, Shape::new(*latents))?;
                    let states = noise(cx, Shape::new([n, *tokens, config.cross_attention_dim]))?;
                    let added = |told: TextTime| Shape::new([n, told.input_dim as usize]);
                    let added = config.text_time.map(|told| noise(cx, added(told))).transpose()?;
                    let guidance_scale = config.time_cond_proj_dim.map(|_| GUIDANCE_SCALE);
                    let times = vec![TIMESTEP; n];
                    begins();
                    let (path, extra) = (root.at("unet"), Extra { added, guidance_scale });
                    config.forward_with(cx, &path, x, &times, states, extra)?;
                }
                Network::Vae { config, latents } => {
                    let x = noise(cx, Shape::new(*latents))?;
                    begins();
                    cx.replace(x, |cx| match config {
                        Autoencoder::Kl(config) => config.decode(cx, &root.at("vae"), x),
                        Autoencoder::Tiny(config) => config.decode(cx, &root.at("vae"), x),
                    })?;
                }
            }
            Ok(())
        })
    }
}

/// A tensor of standard normal noise, the same in every run.
fn noise(cx: &mut Context<'_>, shape: Shape) -> mote::Result<Tensor> {
    let x = cx.tensor(shape)?;
    if !cx.is_planning() {
        Noise::new(NoiseKind::Pcg, 0).fill(cx.arena_mut().write(x));
    }
    Ok(x)
}
