//! The blocks of both UNets: resnets, each followed by attention or not, then a change of size.
//!
//! The way down leaves every result on the arena's stack: they are the skips. The way up takes the
//! newest of them, joins it with x, and puts the result in its place.

use super::attention::{AttentionBlock, attention_block_replacing};
use super::conv::{Conv, conv2d, conv2d_replacing};
use super::copy;
use super::norm::{Norm, group_norm, group_norm_replacing};
use super::resnet::{
    ResnetBlock2d, resnet_block_2d, resnet_block_2d_joining, resnet_block_2d_replacing,
    resnet_downsample_2d, resnet_upsample_2d,
};
use super::transformer::{Transformer2d, transformer_2d_replacing};
use crate::error::{Error, Result};
use crate::ops::{self, Context};
use crate::tensor::{Form, Tensor};
use crate::weights::Path;

/// The most skips a UNet may leave: Stable Diffusion leaves 12, the largest published UNets 24.
pub const MAX_SKIPS: usize = 64;

/// What follows each resnet.
#[derive(Clone, Copy, Debug)]
pub enum Mixer {
    /// Nothing.
    None,
    /// Self-attention.
    Attention(AttentionBlock),
    /// A transformer that looks at the prompt.
    Transformer(Transformer2d),
}

/// How a level is left going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downsampler {
    /// The deepest level is not left.
    None,
    /// By a convolution with this padding: top, bottom, left, right.
    Conv([usize; 4]),
    /// By a resnet that halves inside.
    Resnet,
}

/// How a level is left going up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsampler {
    /// The topmost level is not left.
    None,
    /// Height and width are doubled, then a convolution.
    Conv,
    /// x is resized to the next skip's height and width, then a convolution.
    ConvToSkip,
    /// By a resnet that doubles inside.
    Resnet,
}

/// The resnets of one level, and what follows each.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Resnets.
    pub layers: usize,
    /// Their numbers.
    pub resnet: ResnetBlock2d,
    /// What follows each.
    pub mixer: Mixer,
}

/// The results that the way down leaves for the way up.
#[derive(Clone, Debug)]
pub struct Skips(heapless::Vec<Tensor, MAX_SKIPS>);

impl Skips {
    /// The first skip is the first convolution's result.
    pub fn new(first: Tensor) -> Self {
        let mut skips = heapless::Vec::new();
        skips.extend([first]);
        Self(skips)
    }

    /// The newest skip, which is also x on the way down.
    ///
    /// # Errors
    /// [`Error::Capacity`] where the way up took more skips than there were.
    pub fn newest(&self) -> Result<Tensor> {
        let none = Error::Capacity { what: "skip connections", needed: 1, limit: 0 };
        self.0.last().copied().ok_or(none)
    }

    fn push(&mut self, x: Tensor) -> Result<()> {
        let (needed, limit) = (MAX_SKIPS + 1, MAX_SKIPS);
        self.0.push(x).map_err(|_| Error::Capacity { what: "skip connections", needed, limit })
    }

    fn pop(&mut self) -> Result<Tensor> {
        let newest = self.newest();
        self.0.pop();
        newest
    }
}

/// A UNet's first convolution, `[n, h, w, c]` to `[n, h, w, width]`. `centred`: the input is mapped
/// from 0..1 to -1..1 first (`center_input_sample`).
///
/// # Errors
/// Those of memory and weights.
pub fn conv_in(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    width: usize,
    centred: bool,
) -> Result<Tensor> {
    let conv = Conv::new(width, 3);
    if !centred {
        return conv2d(cx, p, x, conv);
    }
    cx.scope(|cx| {
        let x = copy(cx, x)?;
        ops::scale_shift_in_place(cx, x, 2.0, -1.0)?;
        conv2d(cx, p, x, conv)
    })
}

/// A UNet's last normalisation, SiLU and convolution, to so many channels. The result takes the
/// place of x, the newest tensor.
///
/// # Errors
/// Those of its layers.
pub fn conv_out_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    channels: usize,
    norm: Norm,
) -> Result<Tensor> {
    let (norm_at, conv_at) = (p.at("conv_norm_out"), p.at("conv_out"));
    let (norm, conv) = (norm.then_silu(), Conv::new(channels, 3));
    let form = conv.form(cx, &conv_at, x.channels())?;
    if form == Form::F32 {
        let x = group_norm_replacing(cx, &norm_at, x, norm)?;
        return conv2d_replacing(cx, &conv_at, x, conv);
    }
    cx.replace(x, |cx| {
        let rows = group_norm(cx, &norm_at, x, norm.in_form(form))?;
        conv2d(cx, &conv_at, rows, conv)
    })
}

/// A block on the way down: from the newest skip; each resnet leaves a skip, and so does the
/// downsampler.
///
/// # Errors
/// [`Error::Capacity`] where there are more than [`MAX_SKIPS`], and those of its layers.
pub fn down_block(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    skips: &mut Skips,
    block: Block,
    down: Downsampler,
) -> Result<()> {
    let (resnets, attentions) = (p.at("resnets"), p.at("attentions"));
    for layer in 0..block.layers {
        let x = skips.newest()?;
        skips.push(cx.checkpoint(|cx| {
            let y = resnet_block_2d(cx, &resnets.index(layer), x, block.resnet)?;
            mix_replacing(cx, &attentions.index(layer), y, block.mixer)
        })?)?;
    }
    let (p, x, c) = (p.at("downsamplers.0"), skips.newest()?, block.resnet.channels);
    match down {
        Downsampler::None => Ok(()),
        Downsampler::Conv(padding) => {
            skips.push(conv2d(cx, &p.at("conv"), x, Conv::new(c, 3).halving(padding))?)
        }
        Downsampler::Resnet => skips.push(resnet_downsample_2d(cx, &p, x, block.resnet)?),
    }
}

/// The block between the ways: a resnet, attention or not, a resnet. `block.layers` counts the
/// latter pairs, as in the checkpoints: it is one in every published network.
///
/// # Errors
/// Those of its layers.
pub fn mid_block(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, block: Block) -> Result<Tensor> {
    let (resnets, attentions) = (p.at("resnets"), p.at("attentions"));
    cx.checkpoint(|cx| {
        let mut x = resnet_block_2d(cx, &resnets.index(0), x, block.resnet)?;
        for layer in 0..block.layers {
            x = mix_replacing(cx, &attentions.index(layer), x, block.mixer)?;
            x = resnet_block_2d_replacing(cx, &resnets.index(layer + 1), x, block.resnet)?;
        }
        Ok(x)
    })
}

/// A block on the way up: each resnet takes a skip. `x` is the newest tensor, and lies right above
/// the newest skip or is that skip.
///
/// # Errors
/// [`Error::Shape`] where x has not the skip's height and width, and those of its layers.
pub fn up_block(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    mut x: Tensor,
    skips: &mut Skips,
    block: Block,
    up: Upsampler,
) -> Result<Tensor> {
    let (resnets, attentions) = (p.at("resnets"), p.at("attentions"));
    for layer in 0..block.layers {
        let skip = skips.pop()?;
        x = cx.checkpoint(|cx| {
            let y = resnet_block_2d_joining(cx, &resnets.index(layer), [x, skip], block.resnet)?;
            mix_replacing(cx, &attentions.index(layer), y, block.mixer)
        })?;
    }
    let [_, h, w, c] = x.dims("up_block")?;
    let p = p.at("upsamplers.0");
    let conv = |size| Conv::new(c, 3).upsample_to(size);
    match up {
        Upsampler::None => Ok(x),
        Upsampler::Conv => conv2d_replacing(cx, &p.at("conv"), x, conv([2 * h, 2 * w])),
        Upsampler::ConvToSkip => {
            let [_, h, w, _] = skips.newest()?.dims("up_block")?;
            conv2d_replacing(cx, &p.at("conv"), x, conv([h, w]))
        }
        Upsampler::Resnet => cx.replace(x, |cx| resnet_upsample_2d(cx, &p, x, block.resnet)),
    }
}

fn mix_replacing(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, mixer: Mixer) -> Result<Tensor> {
    match mixer {
        Mixer::None => Ok(x),
        Mixer::Attention(block) => attention_block_replacing(cx, p, x, block),
        Mixer::Transformer(model) => transformer_2d_replacing(cx, p, x, model),
    }
}
