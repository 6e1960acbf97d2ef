//! The variational bound on the likelihood, term by term, in bits per dimension (Ho et al. 2020,
//! eq. 5; Nichol and Dhariwal 2021, section 2.1).

use crate::diffusion::prediction::Prediction;
use crate::diffusion::schedule::Schedule;
use crate::error::{Error, Result};

/// Half of the distance between neighbouring values of 8-bit pixels, on the scale from -1 to 1.
const HALF_STEP: f64 = 1.0 / 255.0;

/// The least probability that a logarithm is taken of.
const FLOOR: f64 = 1e-12;

/// `L_vlb` of a network with fixed variances: those of the posterior, where that of the first time,
/// which is 0, is replaced by the second's. The bound of a picture is [`Bound::prior`] and the sum
/// of [`Bound::term`] over all training times.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// How noise is added.
    pub schedule: &'a Schedule<'a>,
    /// What the network says.
    pub prediction: Prediction,
    /// Whether what it says of the clean picture is kept between -1 and 1.
    pub clip: bool,
}

impl Bound<'_> {
    /// `L_T`, the divergence of the noised picture at the last time from pure noise, of a picture
    /// with values from -1 to 1: bits per dimension, 0 for a picture without elements.
    ///
    /// # Errors
    /// [`Error::Index`] never: a schedule has a last time.
    pub fn prior(&self, picture: &[f32]) -> Result<f64> {
        let last = self.schedule.alphas_cumprod().len() - 1;
        let a = self.schedule.alpha_cumprod(last)?;
        let nats = mean(picture.iter().map(|&x| {
            let square = a * f64::from(x) * f64::from(x);
            // The variance is 1 - a.
            0.5 * (square - a - libm::log1p(-a))
        }));
        Ok(nats / core::f64::consts::LN_2)
    }

    /// `L_t` of a picture, the noise that was added to it at time `t` and the network's `output`
    /// for the sum: bits per dimension. At the first time it is the likelihood of the picture's
    /// 8-bit values, at all others the divergence of the network's step from the posterior.
    ///
    /// # Errors
    /// [`Error::Index`] where `t` is not a training time, [`Error::Shape`] where the lengths
    /// differ, [`Error::Config`] where `x_t` holds no noise.
    pub fn term(&self, t: u32, picture: &[f32], noise: &[f32], output: &[f32]) -> Result<f64> {
        let n = picture.len();
        for found in [noise.len(), output.len()] {
            if found != n {
                let (expected, found) = ([n, 0, 0, 0], [found, 0, 0, 0]);
                return Err(Error::Shape { what: "a term of the bound", expected, found });
            }
        }
        let t = t as usize;
        let a = self.schedule.alpha_cumprod(t)?;
        let [signal, spread] = self.schedule.forward(t)?.map(f64::from);
        let [own, said] = self.prediction.at_alpha_cumprod(a);
        let pairs = picture.iter().zip(noise).zip(output).map(|((&x, &e), &y)| {
            let x = f64::from(x);
            let denoised = own * (signal * x + spread * f64::from(e)) + said * f64::from(y);
            (x, if self.clip { denoised.clamp(-1.0, 1.0) } else { denoised })
        });
        let second = 1.min(self.schedule.alphas_cumprod().len() - 1);
        let nats = if t == 0 {
            let variance = self.schedule.posterior(second, second.checked_sub(1))?.variance;
            let deviation = libm::sqrt(f64::from(variance));
            mean(pairs.map(|(x, denoised)| -log_likelihood(x, denoised, deviation)))
        } else {
            let posterior = self.schedule.posterior(t, Some(t - 1))?;
            let (share, variance) = (f64::from(posterior.x0), f64::from(posterior.variance));
            let factor = share * share / (2.0 * variance);
            mean(pairs.map(|(x, denoised)| factor * (x - denoised) * (x - denoised)))
        };
        Ok(nats / core::f64::consts::LN_2)
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 { 0.0 } else { values.sum::<f64>() / count as f64 }
}

/// The logarithm of the probability that a normal variable falls into the bin of `x`; the first and
/// the last bin have no end.
fn log_likelihood(x: f64, mean: f64, deviation: f64) -> f64 {
    let below = |x: f64| 0.5 * libm::erfc((mean - x) / (deviation * core::f64::consts::SQRT_2));
    let probability = if x < -0.999 {
        below(x + HALF_STEP)
    } else if x > 0.999 {
        1.0 - below(x - HALF_STEP)
    } else {
        below(x + HALF_STEP) - below(x - HALF_STEP)
    };
    libm::log(probability.max(FLOOR))
}
