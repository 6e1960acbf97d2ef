//! How well a network says what noise was added: the loss, and the variational bound on the
//! likelihood in bits per dimension.
//!
//! All times of training would be a thousand evaluations a picture. The first is taken by itself;
//! the others are divided into spans, narrow at little noise, where the bound's terms are large,
//! and wide at much, and one time of each stands for its span. That is right on average.

use mote::diffusion::noise::{Noise, NoiseKind};
use mote::diffusion::prediction::Prediction;
use mote::diffusion::schedule::Schedule;
use mote::mem::Arena;
use mote::models::clip_text::ClipTextConfig;
use mote::models::unet_2d::UNet2DConfig;
use mote::models::unet_2d_condition::UNet2DConditionConfig;
use mote::ops::{Context, unshuffle};
use mote::tensor::{Shape, Tensor};
use mote::train::Bound;
use mote::weights::{Path, Weights};

use crate::train::data;
use crate::train::data::{COLOURS, Example};
use crate::train::draw::{Draw, Purpose};
use mote_host::error::{Failure, Result};
use mote_host::explain::explain;
use mote_host::machine::Machine;
use mote_host::machine::memory::Block;
use mote_host::prompts::Encoders;
use mote_host::resolve::Networks;
use mote_host::stop::Stop;

/// A noise predictor.
#[derive(Clone, Copy)]
pub enum Denoiser<'a> {
    /// One that is told nothing.
    Unconditional(&'a UNet2DConfig),
    /// One that is told words, and the encoder of these.
    Text(&'a ClipTextConfig, &'a UNet2DConditionConfig),
}

impl<'a> Denoiser<'a> {
    /// That of a pipeline that draws pictures itself; Stable Diffusion XL never does.
    pub fn of(networks: &'a Networks) -> Option<Self> {
        match networks {
            Networks::Unconditional { unet, .. } => Some(Self::Unconditional(unet)),
            Networks::TextToImage(words) => match &words.encoders {
                Encoders::One(encoder) => Some(Self::Text(encoder, &words.unet)),
                Encoders::Xl(_) => None,
            },
        }
    }

    /// The side of the blocks of pixels that an element of a sample stands for.
    fn pixel_block(self) -> usize {
        match self {
            Self::Unconditional(_) => 1,
            Self::Text(_, unet) => unet.pixel_block(),
        }
    }

    /// What the network says of `x`, `[1, h, w, c]`, at a time.
    fn forward(self, cx: &mut Context<'_>, x: Tensor, t: u32, ids: &[u32]) -> mote::Result<Tensor> {
        let root = Path::root();
        let (path, times) = (root.at("unet"), [t as f32]);
        match self {
            Self::Unconditional(unet) => unet.forward(cx, &path, x, &times, None),
            Self::Text(encoder, unet) => {
                let states = encoder.forward(cx, &root.at("text_encoder"), ids, 0)?;
                unet.forward(cx, &path, x, &times, states)
            }
        }
    }
}

/// Asks a network about noised pictures.
pub struct Predictor<'a> {
    /// The network.
    pub denoiser: Denoiser<'a>,
    /// How noise is added.
    pub schedule: &'a Schedule<'a>,
    /// What the network says.
    pub prediction: Prediction,
    /// Whether what it says of the clean picture is kept between -1 and 1.
    pub clip: bool,
    /// Height and width of the pictures.
    pub size: [usize; 2],
    /// Who computes.
    pub machine: &'a Machine,
    /// Who may wish for an end, which then comes between two evaluations.
    pub stop: &'a Stop,
}

/// The mean of pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Pictures.
    pub pictures: usize,
    /// The mean squared error of what the network says, over all times.
    pub loss: f64,
    /// The bound on the bits that a value of a pixel takes.
    pub bound: f64,
}

impl Predictor<'_> {
    fn shape(&self) -> Shape {
        let [height, width, channels] = data::sample(self.size, self.denoiser.pixel_block());
        Shape::new([1, height, width, channels])
    }

    /// Bytes of memory that an evaluation takes.
    ///
    /// # Errors
    /// Where the weights are not as the configurations say.
    pub fn plan(&self, ids: &[u32], weights: &mut dyn Weights) -> Result<usize> {
        self.machine.compute(Arena::measuring(), weights, |cx| {
            let x = cx.tensor(self.shape())?;
            self.denoiser.forward(cx, x, 0, ids)?;
            Ok(cx.arena().peak())
        })
    }

    /// What the network says of a picture with noise.
    fn output(
        &self,
        x: &[f32],
        t: u32,
        ids: &[u32],
        memory: &mut [u8],
        weights: &mut dyn Weights,
    ) -> Result<Vec<f32>> {
        self.machine.compute(Arena::new(memory), weights, |cx| {
            let input = cx.tensor(self.shape())?;
            cx.arena_mut().write(input).copy_from_slice(x);
            let out = self.denoiser.forward(cx, input, t, ids)?;
            Ok(cx.arena().read(out).to_vec())
        })
    }

    /// How often the network is evaluated for so many pictures.
    pub fn evaluations(&self, pictures: usize, spans: usize) -> usize {
        pictures * spans_of(self.schedule.alphas_cumprod().len(), spans).len()
    }

    /// Loss and bound of pictures, each with the ids of its caption; `spans` times of each.
    /// `tell` is called after each evaluation.
    ///
    /// # Errors
    /// Where the network cannot be evaluated.
    pub fn likelihood(
        &self,
        examples: &[(&Example, Vec<u32>)],
        spans: usize,
        seed: u64,
        weights: &mut dyn Weights,
        tell: &mut dyn FnMut(),
    ) -> Result<Likelihood> {
        let Some((_, ids)) = examples.first() else { return Ok(Likelihood::default()) };
        let mut block = Block::new(self.plan(ids, weights)?)?;
        let bound = Bound { schedule: self.schedule, prediction: self.prediction, clip: self.clip };
        let times = self.schedule.alphas_cumprod().len();
        let spans = spans_of(times, spans);
        let wrong = |error| explain(error, "the bound");
        let mut sum = Likelihood { pictures: examples.len(), ..Likelihood::default() };
        for ((example, ids), place) in examples.iter().zip(0..) {
            let plain: Vec<f32> = example.values().collect();
            let mut picture = vec![0.0; plain.len()];
            let [height, width] = self.size;
            let shape = [height, width, COLOURS];
            unshuffle(&plain, shape, self.denoiser.pixel_block(), &mut picture);
            let mut draw = Draw::new(seed, Purpose::Noise, place);
            let (mut noise, mut x) = (vec![0.0; picture.len()], vec![0.0; picture.len()]);
            sum.bound += bound.prior(&picture).map_err(wrong)?;
            for &[first, end] in &spans {
                if self.stop.is_asked() {
                    return Err(Failure::interrupted());
                }
                let t = (first + draw.below(end - first)) as u32;
                Noise::new(NoiseKind::Pcg, draw.bits()).fill(&mut noise);
                self.schedule.add_noise(t as usize, &picture, &noise, &mut x).map_err(wrong)?;
                let output = self.output(&x, t, ids, block.bytes(), weights)?;
                let width = (end - first) as f64;
                sum.bound += width * bound.term(t, &picture, &noise, &output).map_err(wrong)?;
                let error = self.error(t, &picture, &noise, &output).map_err(wrong)?;
                sum.loss += width / times as f64 * error;
                tell();
            }
        }
        sum.loss /= examples.len() as f64;
        sum.bound /= examples.len() as f64;
        Ok(sum)
    }

    /// The mean squared error of what the network says.
    fn error(&self, t: u32, picture: &[f32], noise: &[f32], output: &[f32]) -> mote::Result<f64> {
        let [signal, spread] = self.schedule.forward(t as usize)?;
        let [clean, noisy] = match self.prediction {
            Prediction::Epsilon => [0.0, 1.0],
            Prediction::VPrediction => [-spread, signal],
            Prediction::Sample => [1.0, 0.0],
        };
        let squares = picture.iter().zip(noise).zip(output).map(|((x, e), y)| {
            let error = f64::from(y - (clean * x + noisy * e));
            error * error
        });
        Ok(squares.sum::<f64>() / picture.len().max(1) as f64)
    }
}

/// The first time by itself, and the others in about `count` spans whose ends grow by the square.
fn spans_of(times: usize, count: usize) -> Vec<[usize; 2]> {
    let (mut spans, mut first) = (vec![[0, 1]], 1);
    for number in 1..=count.max(1) {
        let share = number as f64 / count.max(1) as f64;
        let end = 1 + ((times - 1) as f64 * share * share).round() as usize;
        let end = end.min(times);
        if end > first {
            spans.push([first, end]);
            first = end;
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_hold_every_time_once_and_are_narrow_at_little_noise() {
        for (times, count) in [(1000, 32), (1000, 1), (10, 32), (2, 5), (1, 3)] {
            let spans = spans_of(times, count);
            let all: Vec<_> = spans.iter().flat_map(|&[first, end]| first..end).collect();
            assert_eq!(all, (0..times).collect::<Vec<_>>(), "{times} {count}");
        }
        let widths: Vec<_> = spans_of(1000, 32).iter().map(|[first, end]| end - first).collect();
        assert!(widths[1] < 3 && widths[32] > 50, "{widths:?}");
    }
}
