//! The prediction: what the network's output says about the clean picture, and how that is clipped.

use crate::error::{Error, Result};

/// What the network was trained to output (`prediction_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise (Ho et al. 2020).
    Epsilon,
    /// `sqrt(a)*noise - sqrt(1 - a)*x_0` (Salimans & Ho 2022).
    VPrediction,
    /// The clean sample itself.
    Sample,
}

impl Prediction {
    /// `[x, output]` such that `denoised = x*X + output*OUTPUT`, where X is a sample of unit
    /// variance and `a` its `alphas_cumprod`: `x_t = sqrt(a)*x_0 + sqrt(1 - a)*noise`.
    pub fn at_alpha_cumprod(self, a: f64) -> [f64; 2] {
        let (alpha, sigma) = (libm::sqrt(a), libm::sqrt(1.0 - a));
        self.at_alpha_sigma(alpha, sigma)
    }

    /// The same where X is `x_0 + sigma*noise` and the network sees `X/sqrt(sigma² + 1)` (Karras et
    /// al. 2022, table 1, columns VP and iDDPM).
    pub fn at_sigma(self, sigma: f64) -> [f64; 2] {
        let square = sigma * sigma + 1.0;
        match self {
            Prediction::Epsilon => [1.0, -sigma],
            Prediction::VPrediction => [1.0 / square, -sigma / libm::sqrt(square)],
            Prediction::Sample => [0.0, 1.0],
        }
    }

    /// The same where X is `alpha*x_0 + sigma*noise`, with `alpha² + sigma² = 1`.
    pub(crate) fn at_alpha_sigma(self, alpha: f64, sigma: f64) -> [f64; 2] {
        match self {
            Prediction::Epsilon => [1.0 / alpha, -sigma / alpha],
            Prediction::VPrediction => [alpha, -sigma],
            Prediction::Sample => [0.0, 1.0],
        }
    }

    /// `[x, output]` such that the predicted noise is `x*X + output*OUTPUT`, in the terms of
    /// [`Prediction::at_alpha_cumprod`].
    pub(crate) fn noise_at_alpha_cumprod(self, a: f64) -> [f64; 2] {
        let (alpha, sigma) = (libm::sqrt(a), libm::sqrt(1.0 - a));
        match self {
            Prediction::Epsilon => [0.0, 1.0],
            Prediction::VPrediction => [sigma, alpha],
            Prediction::Sample => [1.0 / sigma, -alpha / sigma],
        }
    }
}

/// How the denoised picture is kept in range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clipping {
    /// It is left alone.
    None,
    /// Every value is clamped to `-range..=range` (`clip_sample`, `clip_sample_range`).
    Clip {
        /// The largest magnitude.
        range: f32,
    },
    /// Each sample is clamped to a quantile of its magnitudes and divided by it (`thresholding`;
    /// Saharia et al. 2022, section 2.3).
    DynamicThreshold {
        /// Which quantile, 0..=1 (`dynamic_thresholding_ratio`).
        ratio: f32,
        /// The quantile is taken between 1 and this (`sample_max_value`).
        max: f32,
    },
}

impl Clipping {
    /// Refuses settings that no picture could be clipped by.
    ///
    /// # Errors
    /// [`Error::Config`] with the setting's name.
    pub fn check(&self) -> Result<()> {
        let refuse = |key, what| Err(Error::Config { key, what });
        match *self {
            Clipping::None => Ok(()),
            Clipping::Clip { range } if range >= 0.0 && range.is_finite() => Ok(()),
            Clipping::Clip { .. } => refuse("clip_sample_range", "must be a number, 0 or above"),
            Clipping::DynamicThreshold { ratio, .. } if !(0.0..=1.0).contains(&ratio) => {
                refuse("dynamic_thresholding_ratio", "must lie between 0 and 1")
            }
            Clipping::DynamicThreshold { max, .. } if !(max > 0.0 && max.is_finite()) => {
                refuse("sample_max_value", "must be a number above 0")
            }
            Clipping::DynamicThreshold { .. } => Ok(()),
        }
    }

    /// Whether [`Clipping::apply`] needs scratch as long as a sample.
    pub fn needs_scratch(&self) -> bool {
        matches!(self, Clipping::DynamicThreshold { .. })
    }

    /// Clips one sample (one picture of a batch) in place. `scratch` is as long as `denoised` where
    /// [`Clipping::needs_scratch`], and is not touched otherwise.
    ///
    /// # Errors
    /// [`Error::Config`] from [`Clipping::check`]; [`Error::Capacity`] where `scratch` is too
    /// short.
    pub fn apply(&self, denoised: &mut [f32], scratch: &mut [f32]) -> Result<()> {
        self.check()?;
        match *self {
            Clipping::None => {}
            Clipping::Clip { range } => {
                for value in denoised {
                    *value = value.clamp(-range, range);
                }
            }
            Clipping::DynamicThreshold { ratio, max } => {
                let (needed, limit) = (denoised.len(), scratch.len());
                if limit < needed {
                    let what = "scratch of dynamic thresholding";
                    return Err(Error::Capacity { what, needed, limit });
                }
                let scratch = &mut scratch[..needed];
                for (magnitude, value) in scratch.iter_mut().zip(denoised.iter()) {
                    *magnitude = value.abs();
                }
                let s = quantile(scratch, ratio).max(1.0).min(max);
                for value in denoised {
                    *value = value.clamp(-s, s) / s;
                }
            }
        }
        Ok(())
    }
}

/// The `ratio` quantile, linear between neighbours, as `torch.quantile`; 0 of no values. Reorders
/// them.
fn quantile(values: &mut [f32], ratio: f32) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let last = values.len() - 1;
    let rank = ratio * last as f32;
    let low = (rank as usize).min(last);
    let (_, &mut below, rest) = values.select_nth_unstable_by(low, f32::total_cmp);
    let above = rest.iter().copied().min_by(f32::total_cmp).unwrap_or(below);
    below + (above - below) * (rank - low as f32)
}
