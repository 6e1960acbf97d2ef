//! Layers that go over large pictures in bands of rows, in no more memory than the larger of input
//! and output: what an autoencoder is made of.

use super::conv::Conv;
use crate::error::Result;
use crate::ops::{self, BandConv2d, Context, GroupNorm};
use crate::tensor::{Channels, Shape, Tensor};
use crate::weights::Path;

/// A normalisation under a path.
pub type NormAt<'a> = (Path<'a>, GroupNorm);

/// Normalisation, if there is one, and convolution, whose result takes the place of `x`, the newest
/// tensor, band by band: `[n, h, w, in]` to `[n, h', w', channels]`.
///
/// # Errors
/// Those of [`ops::conv2d_in_bands`] and of the weights.
pub fn conv2d_in_bands_replacing(
    cx: &mut Context<'_>,
    norm: Option<NormAt<'_>>,
    p: &Path<'_>,
    x: Tensor,
    layer: Conv,
) -> Result<Tensor> {
    let [n, h, w, _] = x.dims("conv2d_in_bands")?;
    let [out_h, out_w] = layer.slide().output_size([h, w])?;
    cx.replace(x, |cx| {
        let shape = Shape::new([n, out_h, out_w, layer.channels()]);
        let out = cx.arena_mut().overlay(x, shape)?;
        let x = Channels::all(x);
        let conv = band_conv2d(cx, norm, p, x, layer, Channels::all(out))?;
        ops::conv2d_in_bands(cx, x, [conv])?;
        Ok(out)
    })
}

/// `ResnetBlock2D` without a time step, `[n, h, w, c]` to `[n, h, w, channels]`, whose result takes
/// the place of `x`, the newest tensor.
///
/// The shortcut is written over x as soon as x has been read, and so is the result of the first
/// convolution where a pixel has room for both. So it takes `max(c, 2·channels)` floats a pixel,
/// but `c + channels` where c lies between channels and twice as many.
///
/// # Errors
/// Those of [`ops::conv2d_in_bands`] and of the weights.
pub fn resnet_block_2d_in_bands(
    cx: &mut Context<'_>,
    p: &Path<'_>,
    x: Tensor,
    channels: usize,
    norm: GroupNorm,
) -> Result<Tensor> {
    let [n, h, w, c] = x.dims("resnet_block_2d")?;
    let shape = Shape::new([n, h, w, channels]);
    let (norm1, norm2) = ((p.at("norm1"), norm), (p.at("norm2"), norm));
    cx.replace(x, |cx| {
        let sum = match c < channels {
            true => cx.arena_mut().overlay(x, shape)?,
            false => x,
        };
        let out = Channels::new(sum, 0, channels)?;
        let y = match c / 2 >= channels {
            true => Channels::new(x, channels, channels)?,
            false => Channels::all(cx.tensor(shape)?),
        };
        let (x, conv) = (Channels::all(x), Conv::new(channels, 3));
        let conv1 = band_conv2d(cx, Some(norm1), &p.at("conv1"), x, conv, y)?;
        if c == channels {
            ops::conv2d_in_bands(cx, x, [conv1])?;
        } else {
            let p = p.at("conv_shortcut");
            let shortcut = band_conv2d(cx, None, &p, x, Conv::new(channels, 1), out)?;
            ops::conv2d_in_bands(cx, x, [conv1, shortcut])?;
        }
        let conv2 = band_conv2d(cx, Some(norm2), &p.at("conv2"), y, conv, out)?;
        ops::conv2d_in_bands(cx, y, [BandConv2d { accumulate: true, ..conv2 }])?;
        ops::slice_channels_in_place(cx, sum, 0, channels)
    })
}

/// A convolution with the weights under these paths.
fn band_conv2d(
    cx: &mut Context<'_>,
    norm: Option<NormAt<'_>>,
    p: &Path<'_>,
    x: Channels,
    layer: Conv,
    out: Channels,
) -> Result<BandConv2d> {
    let norm = match norm {
        None => None,
        Some((p, norm)) => {
            let weight = cx.weight(&p.at("weight"), [x.count()])?;
            Some((weight, cx.weight(&p.at("bias"), [x.count()])?, norm))
        }
    };
    let (matrix, bias) = layer.weights(cx, p, x.count())?;
    Ok(BandConv2d { norm, matrix, bias, conv: layer.slide(), out, accumulate: false })
}
