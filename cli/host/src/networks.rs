//! The networks of a pipeline one by one: each walked for its weights, or evaluated once on noise
//! of a known seed, so that two versions of its weights can be compared.

use mote::diffusion::noise::{Noise, NoiseKind};
use mote::mem::Arena;
use mote::models::clip_text::ClipTextConfig;
use mote::models::clip_text_projection::ClipTextProjectionConfig;
use mote::models::unet_2d::{ClassEmbedding, UNet2DConfig};
use mote::models::unet_2d_condition::{Extra, UNet2DConditionConfig};
use mote::ops::Context;
use mote::tensor::{Shape, Tensor};
use mote::weights::{Path, Weights};

use crate::checkpoint::place::{Place, Places};
use crate::config::autoencoder::Autoencoder;
use crate::config::model_index::Pipeline;
use crate::config::{
    autoencoder, clip_text, clip_text_projection, model_index, unet_2d, unet_2d_condition,
};
use crate::error::Result;
use crate::machine::Machine;
use crate::machine::memory::Block;

/// Sides of a noise predictor's input where its configuration names none: what all can halve.
const SIDES: [usize; 2] = [64, 64];

/// Sides of the latents that an autoencoder is compared on: its convolutions do the same
/// everywhere.
const VAE_SIDES: [usize; 2] = [16, 16];

/// The middle of the training steps, where noise and picture are about as strong.
const TIMESTEP: f32 = 500.0;

/// The guidance scale that a network is told which takes one.
const GUIDANCE_SCALE: f32 = 8.0;

/// The seed of the noise that networks are compared on.
const SEED: u64 = 42;

/// A network and its configuration.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are five in a pipeline")]
pub enum Network {
    /// `CLIPTextModel`.
    TextEncoder(ClipTextConfig),
    /// `CLIPTextModelWithProjection`, which Stable Diffusion XL has beside the other.
    TextEncoder2(ClipTextProjectionConfig),
    /// `UNet2DModel`.
    UNet2d(UNet2DConfig),
    /// `UNet2DConditionModel`, and the tokens of its prompt.
    UNet2dCondition(UNet2DConditionConfig, usize),
    /// The autoencoder's way to pixels.
    Decoder(Autoencoder),
    /// The autoencoder's way from pixels.
    Encoder(Autoencoder),
}

/// All networks of the pipeline at `model`, and where their weights lie.
///
/// # Errors
/// Where it is none that mote runs.
pub fn of(model: &Place) -> Result<(Vec<Network>, Places)> {
    let index = model_index::read(model)?;
    let config = |name: &str| model.part(name).join("config.json");
    if index.pipeline == Pipeline::Unconditional {
        let unet = unet_2d::read(config("unet"))?;
        return Ok((vec![Network::UNet2d(unet)], vec![("unet", model.part("unet"))]));
    }
    let (mut networks, mut places) = (Vec::new(), Places::new());
    let mut tokens = 0;
    if index.pipeline == Pipeline::TextToImage || model.part("text_encoder").is_folder() {
        let encoder = clip_text::read(config("text_encoder"))?;
        tokens = encoder.max_position_embeddings;
        networks.push(Network::TextEncoder(encoder));
        places.push(("text_encoder", model.part("text_encoder")));
    }
    if index.pipeline == Pipeline::StableDiffusionXl {
        let encoder = clip_text_projection::read(config("text_encoder_2"))?;
        tokens = encoder.text.max_position_embeddings;
        networks.push(Network::TextEncoder2(encoder));
        places.push(("text_encoder_2", model.part("text_encoder_2")));
    }
    networks.push(Network::UNet2dCondition(unet_2d_condition::read(config("unet"))?, tokens));
    places.push(("unet", model.part("unet")));
    if index.has_vae {
        let vae = autoencoder::read(config("vae"))?;
        networks.extend([Network::Decoder(vae.clone()), Network::Encoder(vae)]);
        places.push(("vae", model.part("vae")));
    }
    Ok((networks, places))
}

/// A text of as many tokens as there may be, each another.
fn ids_for(encoder: &ClipTextConfig) -> Vec<u32> {
    let tokens = encoder.max_position_embeddings;
    (0..tokens).map(|i| (i % encoder.vocab_size.max(1)) as u32).collect()
}

impl Network {
    /// What it is called in a report.
    pub fn title(&self) -> &'static str {
        match self {
            Self::TextEncoder(_) => "text encoder",
            Self::TextEncoder2(_) => "second text encoder",
            Self::UNet2d(_) | Self::UNet2dCondition(..) => "noise predictor",
            Self::Decoder(_) => "decoder",
            Self::Encoder(_) => "encoder",
        }
    }

    /// Whether `weights` has it: an autoencoder may come without its encoder.
    pub fn is_in(&self, weights: &mut dyn Weights) -> bool {
        match self {
            Self::Encoder(Autoencoder::Kl(_)) => weights.contains("vae.encoder.conv_in.weight"),
            Self::Encoder(Autoencoder::Tiny(_)) => weights.contains("vae.encoder.layers.0.weight"),
            _ => true,
        }
    }

    /// Its input, `[n, h, w, c]` of a picture, `[1, t, width]` of a prompt; none of the text
    /// encoder, which takes tokens.
    fn inputs(&self) -> Vec<Shape> {
        let image = |[h, w]: [usize; 2], c| Shape::new([1, h, w, c]);
        match self {
            Self::TextEncoder(_) | Self::TextEncoder2(_) => Vec::new(),
            Self::UNet2d(unet) => vec![image(unet.sample_size.unwrap_or(SIDES), unet.in_channels)],
            Self::UNet2dCondition(unet, tokens) => {
                let x = image(unet.sample_size.unwrap_or(SIDES), unet.in_channels);
                let states = Shape::new([1, *tokens, unet.cross_attention_dim]);
                let told = unet.text_time.map(|told| Shape::new([1, told.input_dim as usize]));
                [x, states].into_iter().chain(told).collect()
            }
            Self::Decoder(vae) => vec![image(VAE_SIDES, vae.latent_channels())],
            Self::Encoder(vae) => {
                let scale = vae.scale();
                vec![image(VAE_SIDES.map(|side| side * scale), 3)]
            }
        }
    }

    /// Evaluates the network on `inputs`.
    fn forward(&self, cx: &mut Context<'_>, inputs: &[Tensor]) -> mote::Result<Tensor> {
        let root = Path::root();
        match (self, inputs) {
            (Self::UNet2d(unet), &[x]) => {
                let labels = match unet.class_embedding {
                    ClassEmbedding::None => None,
                    ClassEmbedding::Table(_) | ClassEmbedding::Timestep => Some(vec![0.0]),
                    ClassEmbedding::Identity => {
                        Some(vec![0.0; 4 * unet.block_out_channels.first().copied().unwrap_or(0)])
                    }
                };
                unet.forward(cx, &root.at("unet"), x, &[TIMESTEP], labels.as_deref())
            }
            (Self::UNet2dCondition(unet, _), &[x, states, ref added @ ..]) => {
                let guidance_scale = unet.time_cond_proj_dim.map(|_| GUIDANCE_SCALE);
                let extra = Extra { added: added.first().copied(), guidance_scale };
                unet.forward_with(cx, &root.at("unet"), x, &[TIMESTEP], states, extra)
            }
            (Self::Decoder(Autoencoder::Kl(vae)), &[x]) => vae.decode(cx, &root.at("vae"), x),
            (Self::Decoder(Autoencoder::Tiny(vae)), &[x]) => vae.decode(cx, &root.at("vae"), x),
            (Self::Encoder(Autoencoder::Kl(vae)), &[x]) => vae.encode(cx, &root.at("vae"), x),
            (Self::Encoder(Autoencoder::Tiny(vae)), &[x]) => vae.encode(cx, &root.at("vae"), x),
            (Self::TextEncoder(encoder), _) => {
                encoder.forward(cx, &root.at("text_encoder"), &ids_for(encoder), 0)
            }
            (Self::TextEncoder2(encoder), _) => {
                let ids = ids_for(&encoder.text);
                let states = cx.tensor(Shape::new([1, ids.len(), encoder.text.hidden_size]))?;
                encoder.forward(cx, &root.at("text_encoder_2"), &ids, 0, states)
            }
            _ => unreachable!("each network gets the inputs it names"),
        }
    }

    fn walk(
        &self,
        cx: &mut Context<'_>,
        fill: impl FnOnce(&mut Context<'_>, &[Tensor]),
    ) -> mote::Result<Tensor> {
        let shapes = self.inputs().into_iter();
        let inputs = shapes.map(|shape| cx.tensor(shape)).collect::<mote::Result<Vec<_>>>()?;
        fill(cx, &inputs);
        self.forward(cx, &inputs)
    }

    /// Asks `weights` for every weight of the network; yields the bytes of memory that
    /// [`Network::evaluate`] takes.
    ///
    /// # Errors
    /// Where the weights are not as the configuration says.
    pub fn plan(&self, machine: &Machine, weights: &mut dyn Weights) -> Result<usize> {
        machine.compute(Arena::measuring(), weights, |cx| {
            self.walk(cx, |_, _| {})?;
            Ok(cx.arena().peak())
        })
    }

    /// Evaluates the network on noise; the same whatever the weights.
    ///
    /// # Errors
    /// As [`Network::plan`], and where there is no memory.
    pub fn evaluate(&self, machine: &Machine, weights: &mut dyn Weights) -> Result<Vec<f32>> {
        let mut block = Block::new(self.plan(machine, weights)?)?;
        machine.compute(Arena::new(block.bytes()), weights, |cx| {
            let out = self.walk(cx, |cx, inputs| {
                let mut noise = Noise::new(NoiseKind::Pcg, SEED);
                inputs.iter().for_each(|&input| noise.fill(cx.arena_mut().write(input)));
            })?;
            Ok(cx.arena().read(out).to_vec())
        })
    }
}
