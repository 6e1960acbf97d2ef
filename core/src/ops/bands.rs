//! Convolutions that need no more memory than the larger of their input and output.
//!
//! The picture goes by in bands of rows. What a band is made of is brought into a scratch first,
//! normalised and in the form of the weight; then the output may take the place of input rows that
//! are not needed any more. Rows that two bands share stay in the scratch. An output that takes
//! more bytes than the input is made from the last band up, any other from the first band down.

use core::ops::Range;

use super::context::Context;
use super::doubled;
use super::gemm::{Epilogue, Product};
use super::matrix::Matrix;
use super::norm::{prepare_rows, row_scratch, statistics};
use super::observe::Op;
use super::params::{Conv2d, GroupNorm};
use super::pixels::Pixels;
use crate::arch::Activation;
use crate::error::{Error, Result};
use crate::tensor::packed::Sizes;
use crate::tensor::{Channels, Shape, Tensor};
use crate::weights::Weight;

/// One of the convolutions of [`conv2d_in_bands`].
#[derive(Clone, Copy, Debug)]
pub struct BandConv2d {
    /// Weight and bias of the normalisation that goes before, if there is one. Its form does not
    /// count: it is that of `matrix`.
    pub norm: Option<(Weight, Weight, GroupNorm)>,
    /// The weight.
    pub matrix: Matrix,
    /// `[out]`.
    pub bias: Option<Weight>,
    /// How it slides.
    pub conv: Conv2d,
    /// Where the result goes: channels of a picture of the result's size.
    pub out: Channels,
    /// Whether the result is added to what is there.
    pub accumulate: bool,
}

/// Carries out convolutions of one picture, which have outputs of one height and width, side by
/// side and band by band. An output may lie in the memory of x, as long as no band overwrites rows
/// of x that a later one needs: at the same place, with at most as many bytes a row of pixels, or
/// for twice the height and width at most four times as many. A weight that is packed doubled goes
/// alone, from all channels of x to all of an output that begins where x does.
///
/// # Errors
/// [`Error::Shape`] where x is no picture or channels, kernel or output do not fit,
/// [`Error::Capacity`] where a kernel has more than nine taps, and those of memory and weights.
///
/// # Panics
/// Where a band overwrites what a later one needs: that is the caller's mistake.
pub fn conv2d_in_bands<const N: usize>(
    cx: &mut Context<'_>,
    x: Channels,
    convs: [BandConv2d; N],
) -> Result<()> {
    cx.refuse_recording("a convolution in bands")?;
    if let [BandConv2d { matrix, bias, conv, out, norm: None, accumulate: false }] = convs[..]
        && matrix.doubled.is_some()
    {
        doubled::conv2d_in_place(cx, x.of(), matrix, bias, conv, out.of())?;
        cx.ended_with(Op::Conv2d, out.of().shape());
        return Ok(());
    }
    let [n, ..] = x.of().dims::<4>("conv2d_in_bands")?;
    let Some(&BandConv2d { out, .. }) = convs.first() else { return Ok(()) };
    let [_, height, width, _] = out.of().dims("conv2d_in_bands")?;
    let step = (cx.limits.band_pixels / width.max(1)).clamp(1, height.max(1));
    let bands = height.div_ceil(step);
    let up = convs.iter().any(|conv| conv.out.of().bytes() > x.of().bytes());
    cx.working(|cx| {
        let mut stages = heapless::Vec::<Stage, N>::new();
        for conv in convs {
            let shape = out.of().shape().with_last(conv.out.of().channels());
            conv.out.of().expect("conv2d_in_bands", shape)?;
            stages.extend([Stage::new(cx, x, conv, step)?]);
        }
        if cx.is_planning() {
            return Ok(());
        }
        for number in 0..n * bands {
            let number = if up { n * bands - 1 - number } else { number };
            let (sample, band) = (number / bands, number % bands);
            let rows = band * step..height.min((band + 1) * step);
            for stage in &mut stages {
                stage.hold(cx, sample, &rows)?;
            }
            check_unread(x.of(), &stages, sample, &rows, up)?;
            for stage in &mut stages {
                stage.convolve(cx, sample, &rows)?;
            }
        }
        Ok(())
    })?;
    cx.ended_with(Op::Conv2d, out.of().shape().with_last(out.count()));
    Ok(())
}

/// A convolution with its working memory.
struct Stage {
    x: Channels,
    out: Channels,
    pixels: Pixels,
    /// `[n, 3, c]`: how each sample is normalised; and what follows.
    norm: Option<(Tensor, Option<Activation>)>,
    product: Product,
    /// Rows of x, ready to be multiplied; the sample they are of, and which they are.
    band: Tensor,
    sample: usize,
    held: Range<usize>,
    row_scratch: Tensor,
}

impl Stage {
    fn new(cx: &mut Context<'_>, x: Channels, conv: BandConv2d, step: usize) -> Result<Self> {
        let [n, h, w, _] = x.of().dims("conv2d_in_bands")?;
        let Sizes { n: width, channels, taps } = conv.matrix.sizes;
        let pixels = Pixels::new([n, h, w, x.count()], conv.matrix.sizes, conv.conv)?;
        let [out_h, out_w] = pixels.out();
        let all = conv.out.of().channels();
        conv.out.of().expect("conv2d_in_bands", Shape::new([n, out_h, out_w, all]))?;
        if conv.out.count() != width || x.count() == 0 {
            let [expected, found] = [[h, w, width], [h, w, conv.out.count()]];
            let [expected, found] = [expected, found].map(|[h, w, c]| [n, h, w, c]);
            return Err(Error::Shape { what: "conv2d_in_bands", expected, found });
        }
        cx.count([n * out_h * out_w, width, taps, channels]);
        let norm = match conv.norm {
            None => None,
            Some((weight, bias, norm)) => {
                Some((statistics(cx, x.into(), weight, bias, norm)?.0, norm.activation))
            }
        };
        let epilogue = Epilogue { accumulate: conv.accumulate, ..Epilogue::NONE };
        let product = Product::new(cx, conv.matrix, conv.bias, epilogue)?;
        let form = conv.matrix.packing.form();
        let band = cx.tensor_in(Shape::new([pixels.most_under(step), w, channels]), form)?;
        let row_scratch = row_scratch(cx, channels, form)?;
        let (sample, held) = (0, 0..0);
        Ok(Self { x, out: conv.out, pixels, norm, product, band, sample, held, row_scratch })
    }

    /// Brings the rows of x into the scratch that lie under these rows of the output.
    fn hold(&mut self, cx: &mut Context<'_>, sample: usize, rows: &Range<usize>) -> Result<()> {
        let [_, h, w, _] = self.x.of().dims("conv2d_in_bands")?;
        let wanted = self.pixels.rows_under(rows);
        let kept = wanted.start.max(self.held.start)..wanted.end.min(self.held.end);
        let kept = match sample == self.sample && !kept.is_empty() {
            true => kept,
            false => wanted.start..wanted.start,
        };
        if !kept.is_empty() {
            let row = w * self.band.row_bytes();
            let from = (kept.start - self.held.start) * row;
            let (band, []) = cx.arena.split_bytes(self.band, []);
            band.copy_within(from..from + kept.len() * row, (kept.start - wanted.start) * row);
        }
        let norm = match self.norm {
            None => None,
            Some((affine, activation)) => Some((affine.sample(sample)?, activation)),
        };
        for new in [wanted.start..kept.start, kept.end..wanted.end] {
            let from = self.x.rows((sample * h + new.start) * w, new.len() * w)?;
            let to = self.band.rows((new.start - wanted.start) * w, new.len() * w)?;
            prepare_rows(cx, from.into(), norm, to, self.row_scratch);
        }
        (self.sample, self.held) = (sample, wanted);
        Ok(())
    }

    /// Where these rows of the output go.
    fn rows_of_out(&self, sample: usize, rows: &Range<usize>) -> Result<Channels> {
        let [h, w] = self.pixels.out();
        self.out.rows((sample * h + rows.start) * w, rows.len() * w)
    }

    /// Makes these rows of the output.
    fn convolve(&mut self, cx: &mut Context<'_>, sample: usize, rows: &Range<usize>) -> Result<()> {
        let out = self.rows_of_out(sample, rows)?;
        let pixels = self.pixels.band(rows, self.held.start);
        self.product.multiply(cx, self.band, &pixels, out, 1)
    }
}

/// # Panics
/// Where these rows of an output lie over rows of x that some stage has not read so far.
fn check_unread(
    x: Tensor,
    stages: &[Stage],
    sample: usize,
    rows: &Range<usize>,
    up: bool,
) -> Result<()> {
    let [_, h, w, _] = x.dims("conv2d_in_bands")?;
    let unread = match up {
        true => {
            let read = stages.iter().map(|stage| stage.held.start).max().unwrap_or(0);
            x.rows(0, (sample * h + read) * w)?
        }
        false => {
            let read = stages.iter().map(|stage| stage.held.end).min().unwrap_or(h);
            let start = (sample * h + read) * w;
            x.rows(start, x.row_count() - start)?
        }
    };
    let ends_before = |a: Tensor, b: Tensor| a.offset() + a.bytes() <= b.offset();
    for stage in stages {
        let out = stage.rows_of_out(sample, rows)?.of();
        let is_apart = ends_before(out, unread) || ends_before(unread, out);
        assert!(is_apart, "a band would overwrite rows that a later one needs");
    }
    Ok(())
}
