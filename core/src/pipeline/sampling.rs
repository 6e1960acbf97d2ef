//! The loop in the middle: the rows of a sampler's table, carried out on tensors.

use super::image::check_finite;
use super::stages::{History, Kept, Teller};
use crate::diffusion::guidance;
use crate::diffusion::noise::{Noise, NoiseKind};
use crate::diffusion::prediction::Clipping;
use crate::diffusion::sampler::{HISTORY, Row, Slot, Update, history_count};
use crate::error::{Error, Result};
use crate::ops::{self, Context};
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
    /// How far to go from what the negative prompt says towards what the prompt says (Ho and
    /// Salimans 2022); at 1 or less there is no guidance, and half the work.
    pub guidance_scale: f32,
    /// Which generator the noise comes from.
    pub noise: NoiseKind,
    /// Its seed.
    pub seed: u64,
}

/// The network: it is handed x as the row scales it, the time, and which of the conditions it is
/// asked about. It is called through a pointer, so that one copy of a row's work serves them all.
type Predict<'p> = dyn Fn(&mut Context<'_>, Tensor, f32, usize) -> Result<Tensor> + 'p;

/// The tensors that a table's updates speak of.
struct Slots<'a> {
    x: Tensor,
    output: Tensor,
    denoised: Tensor,
    noise: Option<Tensor>,
    history: &'a History,
}

impl Sampling<'_> {
    /// Refuses settings that no picture can be sampled by, and a table that speaks of what is not
    /// there.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(super) fn validate(&self) -> Result<()> {
        self.clipping.check()?;
        let refuse = |what| Err(Error::Config { key: "sampler", what });
        if self.rows.is_empty() {
            return refuse("has no rows");
        }
        let kept = history_count(self.rows);
        if kept > HISTORY {
            return refuse("writes a slot that there is not");
        }
        for row in self.rows {
            let reads = |update: &Update| update.history[kept..].iter().any(|&c| c != 0.0);
            if row.updates().iter().any(reads) {
                return refuse("reads a slot that it never writes");
            }
            if !row.draws_noise && row.updates().iter().any(|update| update.noise != 0.0) {
                return refuse("adds noise that it does not draw");
            }
        }
        Ok(())
    }

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

    /// What a sampling from noise begins with.
    pub(super) fn begin(&self, cx: &mut Context<'_>, kept: &mut Kept, shape: Shape) -> Result<()> {
        let x = Self::draw(cx, &mut kept.noise, shape)?;
        ops::scale_shift_in_place(cx, x, self.init_noise_sigma, 0.0)?;
        self.begin_at(cx, kept, x)
    }

    /// Takes memory for what is kept between evaluations of a sampling that begins at x.
    pub(super) fn begin_at(&self, cx: &mut Context<'_>, kept: &mut Kept, x: Tensor) -> Result<()> {
        kept.x = Some(x);
        kept.history = History::new();
        for _ in 0..history_count(self.rows) {
            kept.history.extend([cx.tensor(x.shape())?]);
        }
        Ok(())
    }

    /// How many conditions the network is asked about: with guidance the negative prompt and the
    /// prompt, without it the prompt alone.
    pub(super) fn conditions(&self) -> usize {
        if self.guidance_scale > 1.0 { 2 } else { 1 }
    }

    /// How often the network is evaluated in all.
    pub(super) fn evaluations(&self) -> u64 {
        (self.rows.len() * self.conditions()) as u64
    }

    /// Carries out a row of the table on x.
    pub(super) fn step(
        &self,
        cx: &mut Context<'_>,
        index: usize,
        kept: &mut Kept,
        teller: &mut Teller<'_, '_>,
        predict: &Predict<'_>,
    ) -> Result<()> {
        let x = kept.x()?;
        let row = match cx.is_planning() {
            false => &self.rows[index],
            // All rows need the same memory but for noise: one that wants most of it tells all.
            true => {
                let wants = |row: &&Row| (row.draws_noise, row.learned_log_variance.is_some());
                self.rows.iter().max_by_key(wants).unwrap_or(&Row::EMPTY)
            }
        };
        cx.scratch(|cx| self.carry_out(cx, row, kept, x, predict))?;
        check_finite(cx, x, "the sample")?;
        teller.tell(cx, x, usize::from(row.step), [index + 1, self.rows.len()])
    }

    /// One evaluation of the network, or two with guidance between them.
    fn evaluate(
        &self,
        cx: &mut Context<'_>,
        x: Tensor,
        t: f32,
        predict: &Predict<'_>,
    ) -> Result<Tensor> {
        if self.conditions() == 1 {
            return predict(cx, x, t, 0);
        }
        // Planned, one evaluation stands for both: that with the other's result beside it.
        let negative = match cx.is_planning() {
            true => cx.tensor(x.shape())?,
            false => predict(cx, x, t, 0)?,
        };
        let output = predict(cx, x, t, 1)?;
        if !cx.is_planning() {
            let (output, [negative]) = cx.arena_mut().split(output, [negative]);
            guidance::classifier_free_guidance(negative, output, self.guidance_scale)?;
        }
        Ok(output)
    }

    /// One row and what follows from it.
    fn carry_out(
        &self,
        cx: &mut Context<'_>,
        row: &Row,
        kept: &mut Kept,
        x: Tensor,
        predict: &Predict<'_>,
    ) -> Result<()> {
        let raw = cx.scope(|cx| {
            let input = cx.tensor(x.shape())?;
            ops::copy_into(cx, x, input)?;
            ops::scale_shift_in_place(cx, input, row.input_scale, 0.0)?;
            self.evaluate(cx, input, row.timestep, predict)
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
            true => Some(Self::draw(cx, &mut kept.noise, x.shape())?),
        };
        if let (Some(noise), Some(range)) = (noise, row.learned_log_variance) {
            let variance = ops::slice_channels(cx, raw, x.channels(), x.channels())?;
            spread(cx, noise, variance, range);
        }
        let slots = Slots { x, output, denoised, noise, history: &kept.history };
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

/// Gives noise its learned standard deviation (Nichol and Dhariwal 2021, equation 15):
/// `exp((v·max + (1 − v)·min) / 2)` with `v = (u + 1) / 2`.
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

impl Slots<'_> {
    /// Carries out one update: what it writes is scaled first, and the others are added.
    fn update(&self, cx: &mut Context<'_>, update: &Update) -> Result<()> {
        let into = match update.into {
            Slot::X => self.x,
            Slot::History(slot) => self.history[usize::from(slot)],
        };
        let (x, output) = ((self.x, update.x), (self.output, update.output));
        let denoised = (self.denoised, update.denoised);
        let noise = self.noise.map(|noise| (noise, update.noise));
        let history = self.history.iter().copied().zip(update.history);
        let mut own = 0.0;
        let mut terms = heapless::Vec::<(Tensor, f32), { HISTORY + 4 }>::new();
        for (tensor, factor) in [x, output, denoised].into_iter().chain(noise).chain(history) {
            if tensor == into {
                own = factor;
            } else if factor != 0.0 {
                terms.extend([(tensor, factor)]);
            }
        }
        ops::scale_add_in_place(cx, into, own, &terms)
    }
}
