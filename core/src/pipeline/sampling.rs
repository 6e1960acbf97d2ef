//! The loop in the middle: the rows of a sampler's table, carried out on tensors.

use super::{Story, check_finite};
use crate::diffusion::noise::{Noise, NoiseKind};
use crate::diffusion::prediction::Clipping;
use crate::diffusion::sampler::{HISTORY, Row, Slot, Update, history_count};
use crate::error::{Error, Result};
use crate::ops::{self, Context};
use crate::progress::Stage;
use crate::tensor::{Shape, Tensor};

/// How x is sampled.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'a> {
    /// The sampler's table.
    pub rows: &'a [Row],
    /// The standard deviation that the sampler expects x to begin with.
    pub init_noise_sigma: f32,
    /// What happens to each denoised picture.
    pub clipping: Clipping,
    /// Which generator the noise comes from.
    pub noise: NoiseKind,
    /// Its seed.
    pub seed: u64,
}

/// The tensors that a table's updates speak of.
struct Slots {
    x: Tensor,
    output: Tensor,
    denoised: Tensor,
    noise: Option<Tensor>,
    history: [Option<Tensor>; HISTORY],
}

impl Sampling<'_> {
    /// The generator at the beginning of its stream.
    pub(super) fn generator(&self) -> Noise {
        Noise::new(self.noise, self.seed)
    }

    /// Standard normal noise `[n, h, w, c]`, drawn in the order of PyTorch's `[n, c, h, w]`.
    pub(super) fn draw(cx: &mut Context<'_>, noise: &mut Noise, shape: Shape) -> Result<Tensor> {
        let [n, h, w, c] = shape.dims("noise")?;
        cx.scope(|cx| {
            let drawn = cx.tensor(Shape::new([n, c, h, w]))?;
            if !cx.is_planning() {
                noise.fill(cx.arena_mut().write(drawn));
            }
            ops::nchw_to_nhwc(cx, drawn)
        })
    }

    /// Carries out the table on x. `predict` is the network, guidance included: it is handed x as
    /// the row scales it, and the time.
    pub(super) fn denoise(
        &self,
        cx: &mut Context<'_>,
        story: &mut Story<'_, '_>,
        noise: &mut Noise,
        x: Tensor,
        mut predict: impl FnMut(&mut Context<'_>, Tensor, f32) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut history = [None; HISTORY];
        let kept = history_count(self.rows).min(HISTORY);
        for slot in &mut history[..kept] {
            *slot = Some(cx.tensor(x.shape())?);
        }
        // All rows need the same memory but for noise: one row, if possible one that draws some,
        // tells the plan everything.
        let needy = self.rows.iter().rposition(|row| row.draws_noise).unwrap_or(0);
        for (index, row) in self.rows.iter().enumerate() {
            if cx.is_planning() && index != needy {
                continue;
            }
            cx.scratch(|cx| self.carry_out(cx, row, noise, x, history, &mut predict))?;
            if cx.is_planning() {
                continue;
            }
            check_finite(cx, x, "the sample")?;
            let done = [index + 1, self.rows.len()];
            story.report(cx, x, Stage::Unet, usize::from(row.step), done)?;
        }
        Ok(x)
    }

    /// One evaluation and what follows from it.
    fn carry_out(
        &self,
        cx: &mut Context<'_>,
        row: &Row,
        noise: &mut Noise,
        x: Tensor,
        history: [Option<Tensor>; HISTORY],
        predict: &mut impl FnMut(&mut Context<'_>, Tensor, f32) -> Result<Tensor>,
    ) -> Result<()> {
        let raw = cx.scope(|cx| {
            let input = cx.tensor(x.shape())?;
            ops::copy_into(cx, x, input)?;
            ops::scale_shift_in_place(cx, input, row.input_scale, 0.0)?;
            predict(cx, input, row.timestep)
        })?;
        // A learned variance is the output's second half, at the rows that do not use it, too.
        let output = match raw.channels() == 2 * x.channels() {
            false => raw,
            true => ops::slice_channels(cx, raw, 0, x.channels())?,
        };
        output.expect("the network's output", x.shape())?;
        let denoised = cx.tensor(x.shape())?;
        ops::scale_add_in_place(
            cx,
            denoised,
            0.0,
            &[(x, row.denoised_x), (output, row.denoised_output)],
        )?;
        self.clip(cx, denoised)?;
        let noise = match row.draws_noise {
            false => None,
            true => Some(Self::draw(cx, noise, x.shape())?),
        };
        if let (Some(noise), Some(range)) = (noise, row.learned_log_variance) {
            let variance = ops::slice_channels(cx, raw, x.channels(), x.channels())?;
            spread(cx, noise, variance, range);
        }
        let slots = Slots { x, output, denoised, noise, history };
        row.updates().iter().try_for_each(|update| slots.update(cx, update))
    }

    fn clip(&self, cx: &mut Context<'_>, denoised: Tensor) -> Result<()> {
        let shape = match self.clipping.needs_scratch() {
            true => denoised.shape(),
            false => Shape::new([0]),
        };
        cx.scratch(|cx| {
            let scratch = cx.tensor(shape)?;
            if cx.is_planning() {
                return Ok(());
            }
            let ([denoised, scratch], []) = cx.arena_mut().split_two([denoised, scratch], []);
            self.clipping.apply(denoised, scratch)
        })
    }
}

/// Gives noise its learned standard deviation: `exp((v·max + (1 − v)·min) / 2)` with `v = (u + 1) /
/// 2` (Nichol and Dhariwal 2021, equation 15).
fn spread(cx: &mut Context<'_>, noise: Tensor, variance: Tensor, [min, max]: [f32; 2]) {
    if cx.is_planning() {
        return;
    }
    let (noise, [variance]) = cx.arena_mut().split(noise, [variance]);
    for (noise, u) in noise.iter_mut().zip(variance) {
        let v = (u + 1.0) * 0.5;
        *noise *= libm::expf((v * max + (1.0 - v) * min) * 0.5);
    }
}

impl Slots {
    /// Carries out one update: what it writes is scaled first, and the others are added.
    fn update(&self, cx: &mut Context<'_>, update: &Update) -> Result<()> {
        let mut terms = heapless::Vec::<(Tensor, f32), { HISTORY + 4 }>::new();
        let mut own = 0.0;
        let into = match update.into {
            Slot::X => Some(self.x),
            Slot::History(k) => self.history.get(usize::from(k)).copied().flatten(),
        };
        let into =
            into.ok_or(Error::Config { key: "sampler", what: "writes a slot it has not" })?;
        let sources = [
            (Some(self.x), update.x),
            (Some(self.output), update.output),
            (Some(self.denoised), update.denoised),
            (self.noise, update.noise),
        ];
        for (tensor, factor) in
            sources.into_iter().chain(self.history.into_iter().zip(update.history))
        {
            match tensor {
                _ if factor == 0.0 => {}
                Some(tensor) if tensor == into => own = factor,
                Some(tensor) => {
                    let full = Error::Capacity { what: "terms", needed: 9, limit: 8 };
                    terms.push((tensor, factor)).map_err(|_| full)?;
                }
                None => {
                    return Err(Error::Config { key: "sampler", what: "reads a slot it has not" });
                }
            }
        }
        ops::scale_add_in_place(cx, into, own, &terms)
    }
}
