//! `ResnetBlock2D`: norm, SiLU, convolution, twice, with the time step entering between, around a
//! shortcut (He et al. 2016; Ho et al. 2020, appendix B).

use super::conv::{Conv, conv2d, conv2d_into, shortcut_into};
use super::linear::{Linear, linear_of_either};
use super::norm::{Norm, group_norm, group_norm_replacing};
use crate::error::{Error, Result};
use crate::ops::{self, Context, GroupNorm};
use crate::tensor::{Form, Joined, Shape, Tensor};
use crate::weights::Path;

/// How the time embedding enters a resnet (`resnet_time_scale_shift`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeScaleShift {
    /// Added after the first convolution.
    Default,
    /// Scales and shifts the second normalisation (Dhariwal and Nichol 2021, section 3).
    ScaleShift,
}

/// The time step, as resnets are told it.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// `[n, width]`: the time embedding after SiLU, which every resnet would take anew.
    embedding: Tensor,
    /// The same in the form that the first resnet wants it in, and nearly always all.
    rows: Tensor,
    /// How it enters.
    scale_shift: TimeScaleShift,
}

impl Time {
    /// The time embedding after SiLU, for a network whose first resnet lies at `p` and has so many
    /// channels.
    ///
    /// # Errors
    /// Those of memory and weights.
    pub fn new(
        cx: &mut Context<'_>,
        p: &Path<'_>,
        channels: usize,
        embedding: Tensor,
        scale_shift: TimeScaleShift,
    ) -> Result<Self> {
        let width = match scale_shift {
            TimeScaleShift::Default => channels,
            TimeScaleShift::ScaleShift => 2 * channels,
        };
        let form = Linear::new(width).form(cx, &p.at("time_emb_proj"), embedding.channels())?;
        let rows = match form {
            Form::F32 => embedding,
            form => ops::to_form(cx, embedding, form)?,
        };
        Ok(Self { embedding, rows, scale_shift })
    }

    /// What a resnet makes of it, `[n, width]`.
    fn project(self, cx: &mut Context<'_>, p: &Path<'_>, width: usize) -> Result<Tensor> {
        let either = [self.rows, self.embedding];
        linear_of_either(cx, &p.at("time_emb_proj"), either, Linear::new(width))
    }
}

/// The numbers of a [`resnet_block_2d`].
#[derive(Clone, Copy, Debug)]
pub struct ResnetBlock2d {
    /// Channels of the result.
    pub channels: usize,
    /// Both normalisations.
    pub norm: Norm,
    /// The time step, where the network knows one.
    pub time: Option<Time>,
    /// The sum with the shortcut is divided by this.
    pub output_scale_factor: f32,
}

/// `[n, h, w, c]` to `[n, h, w, channels]`.
///
/// # Errors
/// Those of its layers.
pub fn resnet_block_2d(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    let channels = block.channels;
    if let Some(forms) = packed_forms(cx, p, x.channels(), channels)? {
        let [n, h, w, _] = x.dims("resnet_block_2d")?;
        let y = cx.tensor(Shape::new([n, h, w, channels]))?;
        first_half_into(cx, p, x.into(), block, forms, y)?;
        cx.scratch(|cx| {
            let residual = match x.channels() == channels {
                true => x,
                false => shortcut(cx, p, x, channels)?,
            };
            second_half_into(cx, p, y, block, forms, Conv::new(channels, 3).plus(residual), y)
        })?;
        return Ok(y);
    }
    cx.scope(|cx| {
        let form = Conv::new(channels, 3).form(cx, &p.at("conv1"), x.channels())?;
        let y = group_norm(cx, &p.at("norm1"), x, block.norm.then_silu().in_form(form))?;
        let y = cx.replace(y, |cx| first_conv(cx, p, y, block))?;
        let y = time_and_norm_replacing(cx, p, y, block)?;
        let residual = match x.channels() == channels {
            true => x,
            false => shortcut(cx, p, x, channels)?,
        };
        conv_and_residual(cx, p, y, residual, block)
    })
}

/// [`resnet_block_2d`] whose result takes the place of `x`, the newest tensor.
///
/// Where the channels shrink, the shortcut is computed first and x is then normalised in place.
/// After the first convolution x is not needed any more, and the shortcut moves into its memory:
/// x `[n, h, w, a]` to `b` channels takes `a + 2b` floats a pixel in all. Rows in less than f32 are
/// written beside, which takes `a + b` and those rows, and nothing is moved.
///
/// # Errors
/// As [`resnet_block_2d`].
pub fn resnet_block_2d_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("resnet_block_2d")?;
    let channels = block.channels;
    if c >= channels
        && let Some(forms) = packed_forms(cx, p, c, channels)?
    {
        let conv = Conv::new(channels, 3);
        cx.scratch(|cx| {
            if c == channels {
                let y = cx.tensor(x.shape())?;
                first_half_into(cx, p, x.into(), block, forms, y)?;
                return second_half_into(cx, p, y, block, forms, conv.added(), x);
            }
            let shortcut = shortcut(cx, p, x, channels)?;
            let y = front(x, shortcut.shape())?;
            first_half_into(cx, p, x.into(), block, forms, y)?;
            second_half_into(cx, p, y, block, forms, conv.plus(shortcut), y)
        })?;
        return cx.replace(x, |_| front(x, Shape::new([n, h, w, channels])));
    }
    if c <= channels || cx.is_recording() {
        return cx.replace(x, |cx| resnet_block_2d(cx, p, x, block));
    }
    cx.replace(x, |cx| {
        let shortcut = shortcut(cx, p, x, channels)?;
        let x = group_norm_replacing(cx, &p.at("norm1"), x, block.norm.then_silu())?;
        let residual = front(x, shortcut.shape())?;
        let y = cx.replace(shortcut, |cx| {
            let y = first_conv(cx, p, x, block)?;
            ops::copy_into(cx, shortcut, residual)?;
            Ok(y)
        })?;
        let y = time_and_norm_replacing(cx, p, y, block)?;
        conv_and_residual(cx, p, y, residual, block)
    })
}

/// [`resnet_block_2d_replacing`] of x and `skip` side by side; the result takes the place of
/// `skip` and of all above, of which x is the newest.
///
/// Where the rows that the convolutions take lie beside, x and `skip` are never copied together.
///
/// # Errors
/// [`Error::Shape`] where they differ in more than their channels, and those of
/// [`resnet_block_2d`].
pub fn resnet_block_2d_joining(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    [x, skip]: [Tensor; 2],
    block: ResnetBlock2d,
) -> Result<Tensor> {
    let (joined, channels) = (Joined::pair(x, skip)?, block.channels);
    let c = joined.count();
    let forms = match c == channels || !cx.may_overwrite(skip) {
        true => None,
        false => packed_forms(cx, p, c, channels)?,
    };
    let Some(forms) = forms else {
        let joined = ops::concat(cx, x, skip, Form::F32)?;
        let joined = cx.keep_in_place_of(skip, joined)?;
        return resnet_block_2d_replacing(cx, p, joined, block);
    };
    let y = cx.arena_mut().overlay(skip, joined.shape().with_last(channels))?;
    cx.scratch(|cx| {
        let shortcut = cx.tensor(y.shape())?;
        shortcut_into(cx, &p.at("conv_shortcut"), joined, shortcut)?;
        first_half_into(cx, p, joined, block, forms, y)?;
        second_half_into(cx, p, y, block, forms, Conv::new(channels, 3).plus(shortcut), y)
    })?;
    cx.keep_in_place_of(skip, y)
}

/// The shortcut, of so many channels.
fn shortcut(cx: &mut Context<'_>, p: &Path<'_>, x: Tensor, channels: usize) -> Result<Tensor> {
    let out = cx.tensor(x.shape().with_last(channels))?;
    shortcut_into(cx, &p.at("conv_shortcut"), x, out)?;
    Ok(out)
}

/// The first of x's memory, as a tensor of this shape.
fn front(x: Tensor, shape: Shape) -> Result<Tensor> {
    x.reshape([x.len(), 1])?.rows(0, shape.elements()?)?.with_shape(shape)
}

/// The forms in which both convolutions take their rows, where both are less than f32: then the
/// normalised rows lie beside what they were made of, and a convolution's result may take the place
/// of that.
fn packed_forms(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    c: usize,
    channels: usize,
) -> Result<Option<[Form; 2]>> {
    let conv = Conv::new(channels, 3);
    let first = conv.form(cx, &p.at("conv1"), c)?;
    if first == Form::F32 {
        return Ok(None);
    }
    let second = conv.form(cx, &p.at("conv2"), channels)?;
    Ok((second != Form::F32).then_some([first, second]))
}

/// The first norm and convolution, whose result may take the place of x.
fn first_half_into(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Joined,
    block: ResnetBlock2d,
    [form, _]: [Form; 2],
    y: Tensor,
) -> Result<()> {
    let conv = Conv::new(block.channels, 3);
    cx.scratch(|cx| {
        let rows = group_norm(cx, &p.at("norm1"), x, block.norm.then_silu().in_form(form))?;
        let shift = added_time(cx, p, block)?;
        conv2d_into(cx, &p.at("conv1"), rows, conv.plus_per_sample(shift), y)
    })
}

/// The second norm and convolution, whose result may take the place of y.
fn second_half_into(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    y: Tensor,
    block: ResnetBlock2d,
    [_, form]: [Form; 2],
    conv: Conv,
    out: Tensor,
) -> Result<()> {
    cx.scratch(|cx| {
        let rows = cx.scope(|cx| {
            let norm = second_norm(cx, p, y.channels(), block)?;
            group_norm(cx, &p.at("norm2"), y, norm.in_form(form))
        })?;
        conv2d_into(cx, &p.at("conv2"), rows, conv, out)
    })?;
    unscale(cx, out, block)
}

/// `ResnetBlock2D` that halves: `[n, h, w, c]` to `[n, h/2, w/2, c]`, by the mean of 2x2 pixels. An
/// odd last row or column is dropped.
///
/// # Errors
/// [`Error::Shape`] where there is nothing to halve, and those of its layers.
pub fn resnet_downsample_2d(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("resnet_downsample_2d")?;
    if h < 2 || w < 2 {
        let (expected, found) = ([n, h.max(2), w.max(2), c], [n, h, w, c]);
        return Err(Error::Shape { what: "resnet_downsample_2d", expected, found });
    }
    cx.scope(|cx| {
        let y = group_norm(cx, &p.at("norm1"), x, block.norm.then_silu())?;
        let y = cx.replace(y, |cx| {
            let y = ops::avg_pool_2x2(cx, y)?;
            first_conv(cx, p, y, block)
        })?;
        let y = time_and_norm_replacing(cx, p, y, block)?;
        let residual = ops::avg_pool_2x2(cx, x)?;
        conv_and_residual(cx, p, y, residual, block)
    })
}

/// `ResnetBlock2D` that doubles: `[n, h, w, c]` to `[n, 2h, 2w, c]`, by nearest pixels.
///
/// # Errors
/// Those of its layers.
pub fn resnet_upsample_2d(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    let [_, h, w, c] = x.dims("resnet_upsample_2d")?;
    let size = [2 * h, 2 * w];
    cx.scope(|cx| {
        let y = group_norm(cx, &p.at("norm1"), x, block.norm.then_silu())?;
        let conv = Conv::new(c, 3).upsample_to(size);
        let y = cx.replace(y, |cx| conv_with_time(cx, p, y, conv, block))?;
        let y = time_and_norm_replacing(cx, p, y, block)?;
        let residual = ops::upsample_nearest(cx, x, size)?;
        conv_and_residual(cx, p, y, residual, block)
    })
}

/// The first convolution, with the time step where it is added.
fn first_conv(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    conv_with_time(cx, p, x, Conv::new(block.channels, 3), block)
}

fn conv_with_time(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    conv: Conv,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    cx.scope(|cx| {
        let shift = added_time(cx, p, block)?;
        conv2d(cx, &p.at("conv1"), x, conv.plus_per_sample(shift))
    })
}

/// `[n, channels]`: the time step, where it is added after the first convolution.
fn added_time(cx: &mut Context<'_>, p: &Path<'_>, block: ResnetBlock2d) -> Result<Option<Tensor>> {
    match block.time {
        Some(time) if time.scale_shift == TimeScaleShift::Default => {
            time.project(cx, p, block.channels).map(Some)
        }
        _ => Ok(None),
    }
}

/// The second norm, with the time step where it scales and shifts, and SiLU.
fn second_norm(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    c: usize,
    block: ResnetBlock2d,
) -> Result<GroupNorm> {
    match block.time {
        Some(time) if time.scale_shift == TimeScaleShift::ScaleShift => {
            Ok(block.norm.then_scale_shift_silu(time.project(cx, p, 2 * c)?))
        }
        _ => Ok(block.norm.then_silu()),
    }
}

/// The second norm, with the time step where it scales and shifts, and SiLU. The result takes the
/// place of `y`, the newest tensor.
fn time_and_norm_replacing(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    y: Tensor,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    let c = y.channels();
    let form = Conv::new(c, 3).form(cx, &p.at("conv2"), c)?;
    if form == Form::F32 {
        return cx.scratch(|cx| {
            let norm = second_norm(cx, p, c, block)?;
            group_norm_replacing(cx, &p.at("norm2"), y, norm)
        });
    }
    cx.replace(y, |cx| {
        let norm = second_norm(cx, p, c, block)?;
        group_norm(cx, &p.at("norm2"), y, norm.in_form(form))
    })
}

/// The second convolution and the sum with the shortcut.
fn conv_and_residual(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    y: Tensor,
    residual: Tensor,
    block: ResnetBlock2d,
) -> Result<Tensor> {
    let out = conv2d(cx, &p.at("conv2"), y, Conv::new(block.channels, 3).plus(residual))?;
    unscale(cx, out, block)?;
    Ok(out)
}

/// Divides the sum with the shortcut.
fn unscale(cx: &mut Context<'_>, out: Tensor, block: ResnetBlock2d) -> Result<()> {
    if block.output_scale_factor == 1.0 {
        return Ok(());
    }
    ops::scale_shift_in_place(cx, out, 1.0 / block.output_scale_factor, 0.0)
}
