//! The simple loss (Ho et al. 2020, eq. 14) and its gradients.

use crate::diffusion::prediction::Prediction;
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};
use crate::models::clip_text::ClipTextConfig;
use crate::models::unet_2d::UNet2DConfig;
use crate::models::unet_2d_condition::UNet2DConditionConfig;
use crate::ops::{Context, Recording};
use crate::tensor::{Shape, Tensor};
use crate::weights::Path;

/// The most samples that are evaluated together.
const MAX_SAMPLES: usize = 256;

/// Partial sums of a loss.
const LANES: usize = 16;

/// What is trained: the weights lie under `unet` and `text_encoder`, as in the pipelines.
#[derive(Clone, Copy, Debug)]
pub enum Denoiser<'a> {
    /// A noise predictor that is told nothing, or a class.
    Unconditional(&'a UNet2DConfig),
    /// A noise predictor that is told words, and the encoder of these words.
    Text {
        /// The text encoder.
        text_encoder: &'a ClipTextConfig,
        /// The noise predictor.
        unet: &'a UNet2DConditionConfig,
    },
}

/// How much the loss counts at each time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting {
    /// As much at each.
    Constant,
    /// The signal-to-noise ratio, but at most γ, in terms of the clean picture (Hang et al. 2023).
    MinSnr(f32),
}

/// What the network is to learn.
#[derive(Clone, Copy, Debug)]
pub struct Objective<'a> {
    /// The network.
    pub denoiser: Denoiser<'a>,
    /// How noise is added.
    pub schedule: &'a Schedule<'a>,
    /// What the network says.
    pub prediction: Prediction,
    /// How much the loss counts at each time.
    pub weighting: Weighting,
}

/// Examples, with the noise that is added to them.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[n, h, w, c]`: of the pictures, or latents.
    pub size: [usize; 4],
    /// `[n, h, w, c]`, from -1 to 1.
    pub pictures: &'a [f32],
    /// `[n, h, w, c]`, of unit variance.
    pub noise: &'a [f32],
    /// `[n]`: training times.
    pub timesteps: &'a [u32],
    /// `[n, t]`: token ids, padded to one length; none where there is no text encoder.
    pub tokens: &'a [u32],
    /// `[n]`: class labels, where the network knows classes.
    pub labels: Option<&'a [f32]>,
}

/// What a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainPlan {
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Entries of the tape.
    pub tape_slots: usize,
    /// Multiply-adds of a step, forwards and backwards.
    pub multiply_adds: u64,
}

impl Objective<'_> {
    /// What [`Objective::gradients`] of such a batch will need, to the byte. `cx` is a context
    /// whose arena only counts; `recording` needs room for the tape, and no gradients.
    ///
    /// # Errors
    /// Every error of the configuration and the weights that a step would meet.
    pub fn plan<'m>(
        &self,
        cx: &mut Context<'m>,
        batch: &Batch<'_>,
        recording: Recording<'m>,
    ) -> Result<TrainPlan> {
        cx.arena_mut().reset_peak();
        cx.reset_tally();
        let tape_slots = self.walk(cx, batch, Some((recording, 1.0)), &mut [])?;
        let (arena_bytes, multiply_adds) = (cx.arena().peak(), cx.tally().multiply_adds);
        Ok(TrainPlan { arena_bytes, tape_slots, multiply_adds })
    }

    /// The weighted loss of each sample into `losses` `[n]`, and the gradient of `share` times
    /// their sum added to `recording`'s: a share of `1 / samples of the step` makes it that of
    /// their mean.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Capacity`] where the batch does not fit, [`Error::NotFinite`]
    /// where a loss is no number, and those of the walk.
    pub fn gradients<'m>(
        &self,
        cx: &mut Context<'m>,
        batch: &Batch<'_>,
        recording: Recording<'m>,
        share: f32,
        losses: &mut [f32],
    ) -> Result<()> {
        self.walk(cx, batch, Some((recording, share)), losses).map(|_| ())
    }

    /// The losses alone, without weights: the mean squared error of each sample.
    ///
    /// # Errors
    /// As [`Objective::gradients`].
    pub fn losses(
        &self,
        cx: &mut Context<'_>,
        batch: &Batch<'_>,
        losses: &mut [f32],
    ) -> Result<()> {
        self.walk(cx, batch, None, losses).map(|_| ())
    }

    /// Runs a batch; gives the entries of the tape back.
    fn walk<'m>(
        &self,
        cx: &mut Context<'m>,
        batch: &Batch<'_>,
        recorded: Option<(Recording<'m>, f32)>,
        losses: &mut [f32],
    ) -> Result<usize> {
        batch.check(self, losses.len(), cx.is_planning())?;
        let mark = cx.arena().top();
        let result = self.walk_within(cx, batch, recorded, losses);
        let recording = cx.end_recording();
        cx.arena_mut().release(mark);
        result?;
        Ok(recording.map_or(0, |recording| recording.tape().most()))
    }

    fn walk_within<'m>(
        &self,
        cx: &mut Context<'m>,
        batch: &Batch<'_>,
        recorded: Option<(Recording<'m>, f32)>,
        losses: &mut [f32],
    ) -> Result<()> {
        let [n, ..] = batch.size;
        let x = cx.tensor(Shape::new(batch.size))?;
        if !cx.is_planning() {
            self.add_noise(batch, cx.arena_mut().write(x))?;
        }
        let share = recorded.as_ref().map(|(_, share)| *share);
        if let Some((recording, _)) = recorded {
            cx.begin_recording(recording);
        }
        let mut timesteps = [0.0; MAX_SAMPLES];
        timesteps.iter_mut().zip(batch.timesteps).for_each(|(to, &t)| *to = t as f32);
        let mut forward = |cx: &mut Context<'m>| self.forward(cx, batch, x, &timesteps[..n]);
        let y = forward(cx)?;
        y.expect("the noise predictor's output", x.shape())?;
        let Some(share) = share else {
            return self.measure(cx, batch, y, None, losses);
        };
        let mirror = cx.mirror()?;
        let dy = mirror.of(y)?.expect("the output lies in the recorded walk");
        self.measure(cx, batch, y, Some((dy, share)), losses)?;
        cx.backward(&mirror, &mut forward)
    }

    fn forward(
        &self,
        cx: &mut Context<'_>,
        batch: &Batch<'_>,
        x: Tensor,
        timesteps: &[f32],
    ) -> Result<Tensor> {
        let root = Path::root();
        let path = root.at("unet");
        match self.denoiser {
            Denoiser::Unconditional(unet) => unet.forward(cx, &path, x, timesteps, batch.labels),
            Denoiser::Text { text_encoder, unet } => {
                let encoder = root.at("text_encoder");
                let (ids, n) = (batch.tokens, batch.size[0]);
                let states = text_encoder.forward_batch(cx, &encoder, ids, n, 0)?;
                unet.forward(cx, &path, x, timesteps, states)
            }
        }
    }

    fn add_noise(&self, batch: &Batch<'_>, x: &mut [f32]) -> Result<()> {
        let sample = batch.sample();
        for (number, x) in x.chunks_exact_mut(sample).enumerate() {
            let range = number * sample..(number + 1) * sample;
            let (picture, noise) = (&batch.pictures[range.clone()], &batch.noise[range]);
            self.schedule.add_noise(batch.timesteps[number] as usize, picture, noise, x)?;
        }
        Ok(())
    }

    /// `[clean, noise]` such that the network is asked for `clean·x0 + noise·ε`, and what the
    /// squared error is multiplied with.
    fn target(&self, t: u32) -> Result<([f32; 2], f32)> {
        let [signal, noise] = self.schedule.forward(t as usize)?;
        let factors = match self.prediction {
            Prediction::Epsilon => [0.0, 1.0],
            Prediction::VPrediction => [-noise, signal],
            Prediction::Sample => [1.0, 0.0],
        };
        let weight = match self.weighting {
            Weighting::Constant => 1.0,
            Weighting::MinSnr(most) => {
                let snr = self.schedule.snr(t as usize)?;
                let clipped = snr.min(f64::from(most));
                let weight = match self.prediction {
                    Prediction::Epsilon if snr > 0.0 => clipped / snr,
                    Prediction::Epsilon => 1.0,
                    Prediction::VPrediction => clipped / (snr + 1.0),
                    Prediction::Sample => clipped,
                };
                weight as f32
            }
        };
        Ok((factors, weight))
    }

    /// The loss of each sample and, where it is asked for, the gradient of the output.
    fn measure(
        &self,
        cx: &mut Context<'_>,
        batch: &Batch<'_>,
        y: Tensor,
        gradient: Option<(Tensor, f32)>,
        losses: &mut [f32],
    ) -> Result<()> {
        if cx.is_planning() {
            return Ok(());
        }
        let sample = batch.sample();
        for (number, loss) in losses.iter_mut().enumerate() {
            let ([clean, noisy], weight) = self.target(batch.timesteps[number])?;
            let range = number * sample..(number + 1) * sample;
            let (pictures, noise) = (&batch.pictures[range.clone()], &batch.noise[range.clone()]);
            let targets = pictures.iter().zip(noise).map(|(x, e)| clean * x + noisy * e);
            let weight = if gradient.is_some() { weight } else { 1.0 };
            let mut lanes = [0.0f32; LANES];
            let mut put = |dy: Option<&mut [f32]>, y: &[f32], factor: f32| {
                let mut dy = dy.map(|dy| dy.iter_mut());
                for (i, (y, target)) in y.iter().zip(targets.clone()).enumerate() {
                    let error = y - target;
                    lanes[i % LANES] += error * error;
                    if let Some(dy) = dy.as_mut().and_then(|dy| dy.next()) {
                        *dy = error * factor;
                    }
                }
            };
            match gradient {
                None => put(None, &cx.arena().read(y)[range], 0.0),
                Some((dy, share)) => {
                    let (dy, [y]) = cx.arena_mut().split(dy, [y]);
                    let factor = 2.0 * weight * share / sample as f32;
                    put(Some(&mut dy[range.clone()]), &y[range], factor);
                }
            }
            *loss = weight * lanes.iter().sum::<f32>() / sample as f32;
            if !loss.is_finite() {
                return Err(Error::NotFinite { what: "a loss" });
            }
        }
        Ok(())
    }
}

impl Batch<'_> {
    /// Elements of a sample.
    fn sample(&self) -> usize {
        self.size[1..].iter().product()
    }

    fn check(&self, objective: &Objective<'_>, losses: usize, planning: bool) -> Result<()> {
        let [n, ..] = self.size;
        let elements = Shape::new(self.size).elements()?;
        if n > MAX_SAMPLES {
            let (what, limit) = ("samples evaluated together", MAX_SAMPLES);
            return Err(Error::Capacity { what, needed: n, limit });
        }
        let check = |what, count: usize, expected: usize| match count == expected {
            true => Ok(()),
            false => {
                Err(Error::Shape { what, expected: [expected, 0, 0, 0], found: [count, 0, 0, 0] })
            }
        };
        check("timesteps", self.timesteps.len(), n)?;
        if let Denoiser::Text { .. } = objective.denoiser {
            let whole = self.tokens.len().next_multiple_of(n.max(1)).max(n);
            check("tokens", self.tokens.len(), whole)?;
        }
        if planning {
            return Ok(());
        }
        check("pictures", self.pictures.len(), elements)?;
        check("noise", self.noise.len(), elements)?;
        check("losses", losses, n)
    }
}
