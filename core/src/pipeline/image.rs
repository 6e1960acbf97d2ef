//! Between tensors and pictures: rows of RGB bytes out, rows of RGB bytes in.

use crate::error::{Error, Result};
use crate::mem::bytes_of_mut;
use crate::ops::Context;
use crate::tensor::{Shape, Tensor};

/// Where a picture goes, row by row.
pub trait ImageSink {
    /// A picture of this size, in pixels, begins.
    ///
    /// # Errors
    /// [`Error::Sink`] where it cannot be taken; so for the other methods.
    fn begin(&mut self, width: usize, height: usize) -> Result<()>;

    /// The next row from the top: `3·width` bytes, red, green, blue.
    ///
    /// # Errors
    /// See [`ImageSink::begin`].
    fn row(&mut self, rgb: &[u8]) -> Result<()>;

    /// All rows have been given.
    ///
    /// # Errors
    /// See [`ImageSink::begin`].
    fn end(&mut self) -> Result<()>;
}

/// Refuses what is no number, before it spreads.
pub(super) fn check_finite(cx: &Context<'_>, x: Tensor, what: &'static str) -> Result<()> {
    if cx.is_planning() || cx.arena().read(x).iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    Err(Error::NotFinite { what })
}

/// # Errors
/// [`Error::Config`] where a side of the picture, in pixels, is no multiple of `of`.
pub(super) fn check_size(size: [usize; 2], of: usize) -> Result<()> {
    if size.iter().all(|&size| size > 0 && size.is_multiple_of(of)) {
        return Ok(());
    }
    let what = "must be a multiple of the pixels that one latent stands for (8 for Stable \
                Diffusion)";
    Err(Error::Config { key: "the picture's width and height", what })
}

/// Takes values from -1..1 to 0..1, cutting off what lies outside, as diffusers does.
///
/// # Errors
/// [`Error::NotFinite`] where a value is not a finite number.
pub(super) fn to_unit_range(cx: &mut Context<'_>, image: Tensor) -> Result<()> {
    check_finite(cx, image, "the picture")?;
    if cx.is_planning() {
        return Ok(());
    }
    cx.arena_mut()
        .write(image)
        .iter_mut()
        .for_each(|value| *value = (*value / 2.0 + 0.5).clamp(0.0, 1.0));
    Ok(())
}

/// Hands a picture `[1, h, w, 3]` or `[1, h, w, 1]`, with values from 0 to 1, to the sink.
///
/// # Errors
/// [`Error::Config`] where it has another number of channels, and the sink's.
pub(super) fn deliver(cx: &mut Context<'_>, image: Tensor, sink: &mut dyn ImageSink) -> Result<()> {
    let [_, height, width, channels] = image.dims("the picture")?;
    if channels != 1 && channels != 3 {
        return Err(Error::Config { key: "out_channels", what: "must be 1 or 3 for a picture" });
    }
    cx.scratch(|cx| {
        let line = cx.tensor(Shape::new([(3 * width).div_ceil(4)]))?;
        if cx.is_planning() {
            return Ok(());
        }
        sink.begin(width, height)?;
        let (line, [image]) = cx.arena_mut().split(line, [image]);
        let line = &mut bytes_of_mut(line)[..3 * width];
        for row in image.chunks_exact(width * channels) {
            for (rgb, pixel) in
                line.as_chunks_mut::<3>().0.iter_mut().zip(row.chunks_exact(channels))
            {
                *rgb = core::array::from_fn(|i| quantised(pixel[i.min(channels - 1)]));
            }
            sink.row(line)?;
        }
        sink.end()
    })
}

/// 0..1 to the nearest of 0..=255, halves to the even one as NumPy rounds.
pub(super) fn quantised(value: f32) -> u8 {
    libm::rintf(value * 255.0) as u8
}

/// A picture `[1, height, width, 3]` with values from -1 to 1, out of rows of RGB bytes.
///
/// # Errors
/// [`Error::Shape`] where there are too few or too many bytes, and those of memory.
pub(super) fn picture(
    cx: &mut Context<'_>,
    rgb: &[u8],
    [height, width]: [usize; 2],
) -> Result<Tensor> {
    let shape = Shape::new([1, height, width, 3]);
    if shape.elements()? != rgb.len() {
        let (expected, found) = (shape.to_dims(), [rgb.len(), 0, 0, 0]);
        return Err(Error::Shape { what: "the picture to start from", expected, found });
    }
    let out = cx.tensor(shape)?;
    if !cx.is_planning() {
        for (out, &byte) in cx.arena_mut().write(out).iter_mut().zip(rgb) {
            *out = f32::from(byte) / 255.0 * 2.0 - 1.0;
        }
    }
    Ok(out)
}
